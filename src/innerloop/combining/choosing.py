"""The best one can do with a table: candidates that are trained, and the average of those that are good at it."""

from __future__ import annotations

import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch

from ..algorithms.combination import combination
from ..errors import UsageError
from ..evaluation.intervals import Estimate, mean_interval
from ..inner.model import Model
from ..models.network import reference
from ..outer.training import Gear, Run
from ..tasks.sources import RowSource, Source
from ..tasks.splits import Tasks
from .answers import Answers, answers, at_size, sizes_of
from .candidates import Entry, Settings, Tell, Trainer, entries
from .refitting import joined
from .weights import Array, class_weights, shrunken, simplex_weights, task_draws

__all__ = ["Candidate", "Choice", "choose"]

# a member whose weight is below this at every support size is left out
_LEAST = 0.05
_FOLDS = 5
# tasks from which their error tells whether adapting gains at all
_ENOUGH = 8


@dataclass(frozen=True)
class Candidate:
    """What one algorithm did on the meta-validation tasks.

    Arguments:
        label: for people.
        algorithm: its name.
        settings: that it was trained with, beside those given.
        score: error over variance, or log loss, with the support size of training; NaN where it diverged.
        weights: what it counts in the average, by number of support rows; all 0 where it is left out.
        seconds: time taken.
    """

    label: str
    algorithm: str
    settings: Mapping[str, object]
    score: Estimate
    weights: tuple[float, ...]
    seconds: float


@dataclass(frozen=True, eq=False)
class Choice:
    """What was chosen for a table, and why.

    Arguments:
        run: the model, with the log of the net in it if there is one.
        before: the same model before its members were fitted with the meta-validation tasks: for whatever looks at
            these tasks once more, as an interval does that is calibrated on them.
        candidates: all that were trained, the heaviest first.
        sizes: numbers of support rows at which weights were found.
        metric: what decided, `error_over_variance` or `loss`.
        score: of the choice on meta-validation tasks whose answers did not decide on their own weights.
    """

    run: Run
    before: Model
    candidates: tuple[Candidate, ...]
    sizes: tuple[float, ...]
    metric: str
    score: Estimate

    @property
    def model(self) -> Model:
        """The model that was chosen."""
        return self.run.model

    def rows(self) -> list[dict[str, object]]:
        """The candidates as plain data."""
        return [
            {
                "label": each.label,
                "algorithm": each.algorithm,
                "metric": self.metric,
                "mean": each.score.mean if np.isfinite(each.score.mean) else None,
                "ci95": [end if np.isfinite(end) else None for end in each.score[1:]],
                "weights": {
                    f"{size:g}": round(w, 4) for size, w in zip(self.sizes, each.weights, strict=True)
                },
                "seconds": each.seconds,
            }
            for each in self.candidates
        ]


def _quiet(what: str) -> None:
    return


def choose(
    tasks: Tasks,
    *,
    steps: int = 400,
    seed: int = 0,
    single: bool = False,
    training: Source | None = None,
    given: Settings | None = None,
    model: Settings | None = None,
    options: Settings | None = None,
    tell: Tell = _quiet,
) -> Choice:
    """Train what applies to the tasks, and combine what is good at them.

    What is fitted directly is fitted; nets are trained together by successive halving. Weights of an average, by the
    number of support rows from 0 to that of training, are those with the lowest error on the meta-validation tasks
    (`combining.weights`). Where no average gains over a model that does not adapt, on eight tasks or more, that
    model stays. What is fitted directly is at last fitted with the meta-validation tasks too.

    Arguments:
        tasks: what to learn; the meta-test tasks are not looked at.
        steps: meta-updates of a whole training.
        seed: of parameters and episodes.
        single: keep the best candidate alone.
        training: where training episodes come from; `tasks.train` unless given.
        given: settings of the algorithm that were asked for; only what takes them is trained.
        model: options of the network.
        options: further arguments of `meta_train`; `checkpoints` keeps each training in a part of its own.
        tell: called with what is being done.

    Returns:
        The choice; its model is an ordinary one.

        Ctrl-C ends the trainings, with a warning; what was trained until then is combined.

    Raises:
        UsageError: nothing takes the settings, or nothing came to its end.
        KeyboardInterrupt: Ctrl-C came before anything was trained, or once more.

    Example:
        >>> import innerloop as il
        >>> tasks = il.tasks.sinusoid(n_support=5, episodes=20)
        >>> choice = choose(tasks, steps=8, given={"inner_steps": 2})
        >>> choice.candidates[0].algorithm, sum(choice.candidates[0].weights)
        ('maml', 1.0)
    """
    began = time.perf_counter()
    further = dict(options or {})
    gear, checkpoints = further.pop("gear", "auto"), further.pop("checkpoints", None)
    trainer = Trainer(
        tasks, steps, seed, training or tasks.train, dict(given or {}), dict(model or {}), further, tell,
        gear if isinstance(gear, Gear) else Gear(gear), checkpoints=checkpoints,
    )  # fmt: skip
    found = _trained(trainer, entries(tasks, trainer.given, network=bool(trainer.model)))
    names = list(found.runs)
    models = [found.runs[name].model for name in names]
    known = [answers(models, at_size(tasks.valid, size)) for size in sizes_of(tasks.valid)]
    known = [each for each, later in zip(known, [*known[1:], None], strict=True) if _grows(each, later)]
    pooled = [names.index(each.label) for each in found.entries if each.pooled and each.label in names]
    weights, score = _weights(known, pooled, single=single)
    kept = [number for number in range(len(names)) if weights[:, number].max() >= _LEAST]
    weights = weights * np.isin(np.arange(len(names)), kept)
    weights = weights / weights.sum(1, keepdims=True)
    chosen = {names[number]: found.runs[names[number]] for number in kept}
    before = _run(list(chosen.values()), known, weights[:, kept], kept, tasks)
    again = dict(chosen) if found.interrupted else _refitted(trainer, found, chosen)
    run = _run(list(again.values()), known, weights[:, kept], kept, tasks)
    run = found.told(replace(run, seconds=time.perf_counter() - began))
    regression = tasks.targets.kind == "regression"
    return Choice(
        run, before.model, _candidates(found, known, weights, errors=regression),
        tuple(each.rows for each in known), "error_over_variance" if regression else "loss",
        mean_interval(score, errors=regression),
    )  # fmt: skip


def _candidates(
    found: _Found, known: Sequence[Answers], weights: Array, *, errors: bool
) -> tuple[Candidate, ...]:
    """What each one did, the heaviest first."""
    names, every = list(found.runs), []
    for entry in found.begun:
        number = names.index(entry.label) if entry.label in names else None
        if number is None:
            score, own = Estimate(found.dropped.get(entry.label, np.nan), np.nan, np.nan), (0.0,) * len(known)
        else:
            score = mean_interval(known[-1].losses[:, number], errors=errors)
            own = tuple(weights[:, number].tolist())
        seconds = found.seconds.get(entry.label, 0.0)
        every.append(Candidate(entry.label, entry.algorithm, entry.settings, score, own, seconds))
    return tuple(sorted(every, key=lambda each: (-each.weights[-1], -sum(each.weights), each.score.mean)))


@dataclass(eq=False)
class _Found:
    """What was trained: runs by label, last errors of nets that were given up, and seconds."""

    entries: Sequence[Entry]
    runs: dict[str, Run] = field(default_factory=dict)
    dropped: dict[str, float] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    interrupted: bool = False

    @property
    def begun(self) -> list[Entry]:
        """Those that were trained; with what diverged, where all were."""
        known = {*self.runs, *self.dropped}
        return [entry for entry in self.entries if not self.interrupted or entry.label in known]

    def told(self, run: Run) -> Run:
        """The run that came of it, which says where Ctrl-C cut it short."""
        if not self.interrupted:
            return run
        known = {entry.label for entry in self.begun}
        missing = [entry.label for entry in self.entries if entry.label not in known]
        left = f", without {', '.join(missing)}" if missing else ""
        said = f"interrupted: what was trained until then is combined{left}"
        warnings.warn(said, stacklevel=4)
        return replace(run, interrupted=True, remarks=(*run.remarks, said))


def _trained(trainer: Trainer, every: Sequence[Entry]) -> _Found:
    """Train everything; what diverged is left out, and what Ctrl-C leaves undone.

    Raises:
        KeyboardInterrupt: it came before anything was trained.
        UsageError: everything diverged.
    """
    found = _Found(every)
    try:
        for entry in (entry for entry in every if entry.direct):
            trainer.tell(entry.label)
            run = trainer.train(entry)
            if run is not None:
                found.runs[entry.label] = run
                if run.interrupted:
                    raise KeyboardInterrupt
        nets, dropped = trainer.halved([entry for entry in every if not entry.direct])
        found.runs.update(nets)
        found.dropped.update(dropped)
    except KeyboardInterrupt:
        found.interrupted = True
    found.interrupted |= any(run.interrupted for run in found.runs.values())
    found.seconds.update({label: round(run.seconds, 3) for label, run in found.runs.items()})
    for label in [label for label, run in found.runs.items() if not np.isfinite(trainer.error(run.model))]:
        del found.runs[label]
    if not found.runs and found.interrupted:
        raise KeyboardInterrupt
    if not found.runs:
        raise UsageError("every algorithm diverged: name one with --algorithm and lower --inner-lr")
    return found


def _refitted(trainer: Trainer, found: _Found, chosen: Mapping[str, Run]) -> dict[str, Run]:
    """What is fitted directly, fitted with the meta-validation tasks too; nets stop by these tasks and stay.

    Where Ctrl-C ends it, the others stay as they are.
    """
    train, valid = trainer.source, trainer.tasks.valid
    if not (isinstance(train, RowSource) and isinstance(valid, RowSource)):
        return dict(chosen)
    own = None if trainer.checkpoints is None else trainer.checkpoints.part("with meta-validation tasks")
    whole = replace(trainer, source=joined(train, valid), checkpoints=own)
    entry = {each.label: each for each in found.entries}
    runs = dict(chosen)
    try:
        for label, run in chosen.items():
            if run.model.learner.fits_directly:
                trainer.tell(f"{label}, with the meta-validation tasks")
                runs[label] = whole.train(entry[label]) or run
    except KeyboardInterrupt:
        found.interrupted = True
    return runs


def _grows(each: Answers, later: Answers | None) -> bool:
    """Whether tasks have rows for the next size: where they have not, it is the same one."""
    return later is None or each.rows < later.rows


def _weights(known: Sequence[Answers], pooled: Sequence[int], *, single: bool) -> tuple[Array, Array]:
    """The weights at each support size `(S, M)`, and the loss of each task at the last one, cross-validated.

    Without a label only those count that are made for it; the first of them is what stays where nothing gains.
    """
    count = known[-1].losses.shape[1]
    if single:
        best = int(known[-1].losses.mean(0).argmin())
        return np.tile(np.eye(count)[best], (len(known), 1)), known[-1].losses[:, best]
    weights, losses = [], np.empty(0)
    for each in known:
        among = list(pooled) if pooled and each.rows == 0 else list(range(count))
        part = each.among(among)
        own, losses = np.zeros(count), _cross_validated(part)
        own[among] = _fitted(part)
        if pooled and len(losses) >= _ENOUGH and losses.mean() >= each.losses[:, pooled[0]].mean():
            own, losses = np.eye(count)[pooled[0]], each.losses[:, pooled[0]]
        weights.append(own)
    return np.stack(weights), losses


def _fitted(each: Answers) -> Array:
    draws = task_draws(len(each.tasks))
    if each.chances:
        return class_weights(each.chances, draws)
    return shrunken(simplex_weights(each.errors, draws), each.losses)


def _cross_validated(each: Answers) -> Array:
    """The loss of each task with weights that the tasks of other folds have decided, `(T,)`."""
    tasks = np.arange(len(each.tasks))
    losses = np.zeros(len(tasks))
    for fold in range(min(_FOLDS, len(tasks))):
        away = tasks % _FOLDS == fold
        others = tasks[~away] if not away.all() else tasks
        losses[away] = each.some(tasks[away]).of(_fitted(each.some(others)))
    return losses


def _run(
    runs: Sequence[Run], known: Sequence[Answers], weights: Array, kept: Sequence[int], tasks: Tasks
) -> Run:
    """The combination of trained models as a run of its own; of a single one, that."""
    if len(runs) == 1:
        return runs[0]
    # the last one is the net, if there is any: its log and gear are what there is to tell
    last = runs[-1]
    device = last.model.device
    learner = combination(
        [run.model.learner for run in runs],
        sizes=[each.rows for each in known],
        kind=tasks.targets.kind,
        n_outputs=tasks.n_outputs,
    )
    meta = {
        f"{number}/{name}": value.to(device)
        for number, run in enumerate(runs)
        for name, value in run.model.meta.items()
    }
    like = reference(meta)
    meta["weights"] = torch.from_numpy(weights).to(like)
    if tasks.targets.kind == "regression":
        noise = np.stack([np.nanmean(each.spread[:, list(kept)], 0) for each in known])
        meta["noise"] = torch.from_numpy(np.maximum(noise, 1e-6)).to(like)
    remarks = tuple(dict.fromkeys(remark for run in runs for remark in run.remarks))
    return replace(last, model=Model(learner, meta, last.model.standardised), state=None, remarks=remarks)
