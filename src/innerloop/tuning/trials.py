"""`tune`: trials of settings on meta-validation tasks, the best of them trained and scored once on meta-test."""

from __future__ import annotations

import inspect
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from ..algorithms import ALGORITHMS
from ..algorithms.assemble import learner_for, sound_settings
from ..combining.answers import answers
from ..errors import DivergedError, UsageError
from ..evaluation.intervals import Estimate, mean_interval
from ..evaluation.scores import Evaluation, evaluate
from ..inner.learner import Learner
from ..inner.model import Model
from ..outer.interrupts import Interrupts
from ..outer.logs import Entry
from ..outer.state import TrainingState
from ..outer.training import Callback, Every, Run, meta_train
from ..storage.fingerprints import fingerprint
from ..tasks.sources import RowSource, Source
from ..tasks.splits import Tasks
from .space import OUTER, Knob, Settings, in_words, knobs, named_algorithms, settings_of
from .study import clearly_worse, finished, importances, next_trial, opened, require_optuna

if TYPE_CHECKING:
    from optuna import Study, Trial
    from optuna.trial import FrozenTrial

__all__ = ["Tuning", "tune"]

# points of a training at which a trial is held against the best one, in quarters of its meta-updates
_RUNGS = 4
# support sets of each task there
_DRAWS = 3
# where a trial is given up, see `clearly_worse`
_P = 0.1
# proposals of settings that were tried before, after which there is taken to be nothing new
_ATTEMPTS = 30
# what a trial is told of: what is done now, and how many trials are finished
Tell = Callable[[str, int], None]


@dataclass(frozen=True, eq=False)
class Tuning:
    """What a tuning found.

    Arguments:
        settings: the best ones: `algorithm`, and arguments of `learner_for` and `meta_train`.
        metric: what was minimised, `error_over_variance` or `loss` (log loss).
        losses: of the best trial on the meta-validation tasks, `(T,)`.
        sound: the losses of the best trial of untuned settings, `(T,)`.
        trials: one row a finished trial, in order: `trial`, `state` (`complete`, `given up` or `diverged`), `error`,
            `seconds`, `best` (the lowest error so far) and the value of each knob.
        importances: of each knob that was tried, by share; empty for a few trials.
        run: the training of the best settings; `None` where the tuning was interrupted.
        scores: its scores on the meta-test tasks; `None` where the tuning was interrupted.
        interrupted: Ctrl-C ended it.

    Example:
        >>> import innerloop as il
        >>> tasks = il.tasks.sinusoid(n_support=5, episodes=10)
        >>> tuning = il.tune(tasks, algorithm="ridge", trials=1, steps=4, device="cpu")
        >>> tuning.algorithm, tuning.metric, tuning.gain.mean
        ('ridge', 'error_over_variance', 0.0)
    """

    settings: Settings
    metric: str
    losses: np.ndarray
    sound: np.ndarray
    trials: pd.DataFrame
    importances: Mapping[str, float]
    run: Run | None = None
    scores: Evaluation | None = None
    interrupted: bool = False

    @property
    def algorithm(self) -> str:
        """Its name."""
        return str(self.settings["algorithm"])

    @property
    def error(self) -> Estimate:
        """Mean error of the best trial on the meta-validation tasks, with its 95 % interval over them.

        It is the lowest of many trials, and lower than what new tasks are going to show.
        """
        return mean_interval(self.losses, errors=True)

    @property
    def untuned(self) -> Estimate:
        """The same of the best untuned settings."""
        return mean_interval(self.sound, errors=True)

    @property
    def gain(self) -> Estimate:
        """How much lower the error of the best trial is than that of untuned settings, paired by task."""
        return mean_interval(self.sound - self.losses)


def tune(
    tasks: Tasks,
    *,
    trials: int = 30,
    algorithm: str = "auto",
    folder: str | Path | None = None,
    steps: int | None = None,
    minutes: float | None = None,
    seed: int = 0,
    training: Source | None = None,
    given: Mapping[str, Any] | None = None,
    model: Mapping[str, Any] | None = None,
    tell: Tell | None = None,
    **options: Any,
) -> Tuning:
    """Find settings of an algorithm that suit the tasks, by trials that are scored on the meta-validation tasks.

    Each algorithm's untuned settings are tried first, then what Optuna's TPE sampler proposes. At a quarter, half and
    three quarters of its meta-updates a trial is given up when it is worse than the best one was there, by Wilcoxon's
    signed-rank test over tasks. The meta-test tasks are looked at once, with the model of the best settings.

    Arguments:
        tasks: what to learn.
        trials: how many, those of an earlier call in the same folder included.
        algorithm: names such as `maml,ridge`, or `auto`: the candidates of `innerloop train`.
        folder: where trials are kept, so that the same call goes on from them; in memory unless given.
        steps: meta-updates of a trial; sound ones unless given.
        minutes: no trial is begun after so many.
        seed: of the initial parameters, the episodes and the proposals.
        training: of training episodes; `tasks.train` unless given.
        given: settings of the algorithm that are fixed, and not tuned.
        model: settings of the network that are fixed.
        tell: called with what is being done, and the number of trials that are finished.
        options: further arguments of `meta_train`, which are fixed: `meta_lr`, `meta_batch_size`, `device`, ...

    Returns:
        What was found. Ctrl-C ends it with the best so far, unless no trial is finished.

    Raises:
        UsageError: Optuna is not installed, or an argument has no meaning.
        DivergedError: no trial was finite.

    Example:
        >>> import innerloop as il
        >>> tasks = il.tasks.sinusoid(n_support=5, episodes=10)
        >>> tuning = tune(tasks, algorithm="ridge", trials=2, steps=4, device="cpu")
        >>> len(tuning.trials), len(tuning.scores.ids), sorted(tuning.settings)
        (2, 10, ['algorithm', 'hidden', 'meta_batch_size', 'meta_lr'])
    """
    require_optuna()
    for name, number in {"trials": trials, "minutes": minutes, "steps": steps}.items():
        if number is not None and not number > 0:
            raise UsageError(f"{name}={number}: give a positive number")
    if getattr(tasks.valid, "n_tasks", None) == 0:
        raise UsageError(
            "tuning needs meta-validation tasks, and there is none: give them a share of the split"
        )
    fixed, network = dict(given or {}), dict(model or {})
    names = named_algorithms(tasks, algorithm, fixed, network=bool(network))
    spaces = {
        name: knobs(tasks, name, given=[*fixed, *network, *options], **fixed, **_network(name, network))
        for name in names
    }
    source = tasks.train if training is None else training
    trainer = _Trainer(tasks, source, steps, seed, fixed, network, options)
    where = None if folder is None else Path(folder)
    with opened(where, trainer.about(spaces)) as study, Interrupts() as interrupts:
        search = _Search(study, trainer, spaces, tell or _silent, interrupts)
        search.run(trials, minutes)
        return search.result()


def _silent(what: str, done: int) -> None:
    """Nobody is told."""


def _network(algorithm: str, network: Mapping[str, Any]) -> Mapping[str, Any]:
    """The settings of the network, for an algorithm that has one."""
    return network if "module" in inspect.signature(ALGORITHMS[algorithm]).parameters else {}


@dataclass(frozen=True, eq=False)
class _Trainer:
    """Trains settings as `innerloop train` does."""

    tasks: Tasks
    source: Source
    steps: int | None
    seed: int
    given: Settings
    network: Settings
    options: Settings

    def about(self, spaces: Mapping[str, Mapping[str, Knob]]) -> dict[str, Any]:
        """What is tuned, as plain data."""
        ranges = {
            name: {knob: list(map(str, of)) for knob, of in space.items()} for name, space in spaces.items()
        }
        machine = ("device", "gear", "memory")
        options = {name: str(value) for name, value in self.options.items() if name not in machine}
        return {
            "train_tasks": fingerprint(self.source), "valid_tasks": fingerprint(self.tasks.valid), "knobs": ranges,
            "steps": self.steps, "seed": self.seed, "fixed": {**self.given, **self.network, **options},
        }  # fmt: skip

    def updates(self, algorithm: str) -> int:
        """Meta-updates of a training."""
        return self.steps or sound_settings(self.tasks, algorithm).steps

    def learner(self, settings: Settings) -> Learner:
        """The learner of settings."""
        algorithm = str(settings["algorithm"])
        own = {name: value for name, value in settings.items() if name not in OUTER}
        return learner_for(
            self.tasks, seed=self.seed, **{**self.given, **_network(algorithm, self.network), **own}
        )

    def train(self, settings: Settings, callbacks: Sequence[Callback] = ()) -> Run:
        """Train settings.

        Raises:
            DivergedError: nothing was finite.
        """
        outer = {name: settings[name] for name in OUTER if name in settings}
        sound = sound_settings(self.tasks, str(settings["algorithm"]))
        options = {
            "meta_lr": sound.meta_lr,
            "meta_batch_size": sound.meta_batch_size,
            **self.options,
            **outer,
        }
        return meta_train(
            self.learner(settings), self.source, valid=self.tasks.valid,
            steps=self.updates(str(settings["algorithm"])), seed=self.seed, callbacks=callbacks, **options,
        )  # fmt: skip

    def losses(self, model: Model, *, draws: int | None = None) -> np.ndarray:
        """Error over variance, or log loss, of each meta-validation task `(T,)`."""
        valid = self.tasks.valid
        if draws is not None and isinstance(valid, RowSource):
            valid = replace(valid, draws=draws)
        return answers([model], valid).losses[:, 0]


@dataclass(eq=False)
class _Search:
    """The trials of one call; the best training of this call is kept."""

    study: Study
    trainer: _Trainer
    spaces: Mapping[str, Mapping[str, Knob]]
    tell: Tell
    interrupts: Interrupts
    best: tuple[float, Run | None] = field(default=(math.inf, None))

    @property
    def interrupted(self) -> bool:
        """Whether Ctrl-C came."""
        return self.interrupts.noted is not None

    def run(self, trials: int, minutes: float | None) -> None:
        """Make trials until there are so many, or nothing new is proposed, or it is interrupted."""
        began, attempts = time.monotonic(), 0
        while (done := len(finished(self.study))) < trials and attempts < _ATTEMPTS:
            late = minutes is not None and time.monotonic() - began > 60 * minutes
            if self.interrupted or (late and done):
                return
            trial, values = next_trial(self.study, self.spaces, seed=self.trainer.seed, attempt=attempts)
            try:
                again = not self._try(trial, settings_of(values))
            except BaseException:
                self._ended(trial, "FAIL")
                raise
            attempts = attempts + 1 if again else 0

    def _try(self, trial: Trial, settings: Settings) -> bool:
        """Train settings, and tell the study what comes of it; false where they were tried before."""
        done = finished(self.study)
        if any(one.user_attrs["settings"] == settings for one in done):
            self._ended(trial, "FAIL")  # which the sampler forgets
            return False
        self.tell(in_words(settings), len(done))
        trial.set_user_attr("settings", settings)
        began = time.perf_counter()
        rungs = _Rungs(self, trial, self.trainer.updates(str(settings["algorithm"])))
        try:
            run = self.trainer.train(settings, rungs.callbacks)
            losses = self.trainer.losses(run.model)
        except DivergedError:
            run, losses = None, np.array([math.nan])
        trial.set_user_attr("seconds", round(time.perf_counter() - began, 3))
        if self.interrupted:
            self._ended(trial, "FAIL")
            return True
        if rungs.given_up or not np.isfinite(losses).all():
            trial.set_user_attr("diverged", not rungs.given_up or rungs.diverged)
            self._ended(trial, "PRUNED")
            return True
        rungs.report(_RUNGS, losses)
        value = float(losses.mean())
        if value < self.best[0]:
            self.best = (value, run)
        self.study.tell(trial, value)
        return True

    def stop(self, entry: Entry) -> None:
        """Called after each update.

        Raises:
            StopIteration: Ctrl-C came.
        """
        if self.interrupted:
            raise StopIteration

    def _ended(self, trial: Trial, state: str) -> None:
        from optuna.trial import TrialState

        self.study.tell(trial, state=TrialState[state], skip_if_finished=True)

    def _best(self, *, sound: bool = False) -> FrozenTrial | None:
        """The finished trial with the lowest error; with `sound`, of those of untuned settings."""
        done = finished(self.study)[: len(self.spaces) if sound else None]
        return min(
            (one for one in done if one.state.name == "COMPLETE"),
            key=lambda one: one.value or 0.0,
            default=None,
        )

    def rival(self, rung: int) -> np.ndarray | None:
        """The losses of the best trial at a rung; `None` where there is none."""
        known = [one for one in finished(self.study) if _error(one) is not None and len(_at(one, rung))]
        return _at(min(known, key=lambda one: one.value or 0.0), rung) if known else None

    def result(self) -> Tuning:
        """The best settings, trained and scored on meta-test unless it was interrupted.

        Raises:
            KeyboardInterrupt: it was interrupted, and there is no trial.
            DivergedError: no trial was finite.
        """
        best = self._best()
        if best is None and self.interrupted:
            raise KeyboardInterrupt
        if best is None:
            raise DivergedError(
                f"none of {len(finished(self.study))} trials gave finite losses on the meta-validation tasks: look at "
                "the columns, or lower --meta-lr"
            )
        settings = dict(best.user_attrs["settings"])
        sound = self._best(sound=True)
        tasks = self.trainer.tasks
        run, scores = None, None
        if not self.interrupted:
            self.tell(f"the best, {in_words(settings)}", len(finished(self.study)))
            run = self.best[1] if self.best[0] == best.value else None
            run = run or self.trainer.train(settings, (self.stop,))
        if not self.interrupted and run is not None:
            scores = evaluate(run.model, tasks.test)
        losses = _at(best, _RUNGS)
        return Tuning(
            settings,
            "error_over_variance" if tasks.targets.kind == "regression" else "loss",
            losses,
            losses * math.nan if sound is None else _at(sound, _RUNGS),
            _frame(finished(self.study)),
            importances(self.study),
            None if self.interrupted else run,
            scores,
            self.interrupted,
        )


def _error(trial: FrozenTrial) -> float | None:
    """The error of a trial that was trained to its end; Optuna gives those that were given up a value too."""
    return trial.value if trial.state.name == "COMPLETE" else None


def _at(trial: FrozenTrial, rung: int) -> np.ndarray:
    """The losses of a trial at a rung, `(T,)`; empty where it did not come there or takes no meta-updates."""
    size = trial.user_attrs.get("tasks", 0)
    first = rung * (size + 1)
    return np.array(
        [v for step, v in sorted(trial.intermediate_values.items()) if first <= step < first + size]
    )


class _Rungs:
    """Looks at a trial at every quarter of its training, and ends it where it is clearly worse than the best one."""

    def __init__(self, search: _Search, trial: Trial, steps: int) -> None:
        self.search, self.trial = search, trial
        self.given_up = self.diverged = False
        self.quarter = max(1, steps // _RUNGS)
        self.steps = steps
        self.callbacks = (search.stop, Every(self.quarter, self.look))

    def look(self, state: TrainingState, entry: Entry) -> None:
        """Score the meta-parameters so far.

        Raises:
            StopIteration: the trial is given up.
        """
        rung = state.step // self.quarter
        if rung >= _RUNGS or state.step >= self.steps:
            return
        trainer, settings = self.search.trainer, self.trial.user_attrs["settings"]
        meta = state.meta if state.best is None else state.best.meta
        losses = trainer.losses(Model(trainer.learner(settings), meta), draws=_DRAWS)
        if not np.isfinite(losses).all():
            self.given_up = self.diverged = True
            raise StopIteration("its losses are not finite")
        self.report(rung, losses)
        rival = self.search.rival(rung)
        if rival is not None and clearly_worse(losses, rival, p=_P):
            self.given_up = True
            raise StopIteration("it is clearly worse than the best trial")

    def report(self, rung: int, losses: np.ndarray) -> None:
        """Keep the losses of a rung, each a step of the study, and their mean, which the sampler goes by."""
        self.trial.set_user_attr("tasks", len(losses))
        for place, loss in enumerate([*losses.tolist(), float(losses.mean())]):
            self.trial.report(loss, rung * (len(losses) + 1) + place)


def _frame(done: list[FrozenTrial]) -> pd.DataFrame:
    """The finished trials, one row each."""
    lowest, listed = math.inf, []
    for number, one in enumerate(done, 1):
        error = _error(one)
        lowest = lowest if error is None else min(lowest, error)
        early = "diverged" if one.user_attrs.get("diverged") else "given up"
        settings = one.user_attrs["settings"]
        listed.append(
            {
                "trial": number,
                "state": early if error is None else "complete",
                "error": math.nan if error is None else error,
                "seconds": one.user_attrs.get("seconds", math.nan),
                "best": lowest if math.isfinite(lowest) else math.nan,
                **{name: _plain(value) for name, value in settings.items()},
            }
        )
    return pd.DataFrame(listed)


def _plain(value: object) -> object:
    """A setting as a cell of a table."""
    if isinstance(value, list):
        return ",".join(map(str, value))
    return "none" if value is None else value
