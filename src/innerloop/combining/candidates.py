"""What can be trained when no algorithm is named, and the training of several nets by successive halving."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import numpy as np

from ..algorithms import ALGORITHMS
from ..algorithms.assemble import learner_for, sound_settings
from ..errors import DivergedError, UsageError
from ..inner.learner import Learner
from ..inner.model import Model
from ..models.builtin import MOST_SQUARED
from ..outer.interrupts import interruption_unsaid
from ..outer.logs import Entry as LogEntry
from ..outer.state import Checkpointer, TrainingState
from ..outer.training import Every, Gear, Run, meta_train
from ..tasks.sources import RowSource, Source
from ..tasks.splits import Tasks
from .answers import answers

__all__ = ["Entry", "Settings", "Tell", "Trainer", "entries", "from_none", "numbered_anew"]

Settings: TypeAlias = Mapping[str, Any]
Tell: TypeAlias = Callable[[str], None]

# of the meta-updates, where half of the nets are given up
_RUNGS = (0.125, 0.5)
# validations without a new best, each after a twentieth of a training, after which it ends
_PATIENCE = 5
_PAUSE = "to be compared"
# tasks of a meta-update: several nets are trained, and each for every number of support rows
_BATCH = 16
# support sets of each meta-validation task by which nets are compared
_DRAWS = 3


@dataclass(frozen=True)
class Entry:
    """An algorithm that may be trained.

    Arguments:
        label: for people.
        algorithm: its name.
        settings: its own settings.
        direct: it is fitted without meta-updates.
        pooled: without a label it predicts as one model of the rows of all tasks does, or is trained for that.
    """

    label: str
    algorithm: str
    settings: Settings = field(default_factory=dict)
    direct: bool = False
    pooled: bool = False


POOLED = Entry("boosting, no adaptation", "boosting", {"support": False}, direct=True, pooled=True)
DIRECT = (
    Entry("linear mixed model", "mixed", direct=True),
    Entry("mixed model with squares", "mixed", {"squares": True}, direct=True),
    Entry("Gaussian process", "gp", direct=True, pooled=True),
    Entry("Gaussian process on boosting", "boosted_gp", direct=True),
    Entry("mixed model on boosting", "boosted_mixed", direct=True),
    Entry("boosting with the support set", "boosting", direct=True),
)
NETS = {
    "regression": (Entry("ridge on learned features", "ridge"), Entry("MAML", "maml")),
    "classification": (
        Entry("Gaussian head on learned features", "gaussian"),
        Entry("ridge on learned features", "ridge"),
        Entry("MAML", "maml"),
    ),
}
# on vectors of classes that are numbered anew
CLASSES = (
    Entry("class means by cosine", "class_means", direct=True),
    Entry("two-covariance model", "two_covariance", direct=True),
    Entry("linear mixed model", "mixed", direct=True),
)
PROTOTYPES = Entry("prototypical network", "protonet")
# coefficients of a task up to which a mixed logistic regression is quick enough
_LOGISTIC = 64


def numbered_anew(tasks: Tasks) -> bool:
    """Whether each episode numbers its classes anew, so that a class number means nothing across tasks."""
    return tasks.targets.kind == "classification" and tasks.train.n_tasks is None


def entries(tasks: Tasks, given: Settings, *, network: bool = False) -> list[Entry]:
    """What applies to the tasks and takes the settings given, one without adaptation first.

    Features of a frozen encoder come from a network already: no other is trained on them unless one is asked for.

    Arguments:
        tasks: what to learn.
        given: settings of the algorithm that were asked for.
        network: a network was asked for: it is not to be passed over by what has none.

    Raises:
        UsageError: nothing takes the settings.

    Example:
        >>> from innerloop.tasks import sinusoid
        >>> [entry.algorithm for entry in entries(sinusoid(), {"inner_steps": 2})]
        ['maml']
    """
    kind = tasks.targets.kind
    own = bool(tasks.schema and tasks.schema.n_way) or numbered_anew(tasks)
    vectors = len(tasks.feature_shape) == 1
    every: list[Entry] = []
    if vectors and not own and not network:
        every += [POOLED, *DIRECT]
    if vectors and numbered_anew(tasks) and not network:
        every += CLASSES
    nets = [*([PROTOTYPES] if own and kind == "classification" else []), *NETS[kind]]
    fitting = [entry for entry in every if _takes(entry, given, tasks)]
    if network or not (fitting and tasks.encoded):
        fitting += [entry for entry in nets if _takes(entry, given, tasks)]
    if not fitting:
        raise UsageError(f"no algorithm takes {', '.join(sorted(given))} together: name one with --algorithm")
    return fitting


def _takes(entry: Entry, given: Settings, tasks: Tasks) -> bool:
    """Whether an entry takes the settings, and pays for these tasks."""
    accepted = inspect.signature(ALGORITHMS[entry.algorithm]).parameters
    classes = tasks.targets.kind == "classification"
    if entry.settings.get("squares") and (classes or tasks.n_features > MOST_SQUARED):
        return False
    if classes and entry.direct and "kind" not in accepted:
        return False
    if (
        classes
        and entry.algorithm in ("mixed", "gp")
        and (tasks.n_features + 1) * tasks.n_outputs > _LOGISTIC
    ):
        return False
    return set(given) <= set(accepted)


@dataclass(frozen=True, eq=False)
class Trainer:
    """Trains learners on the meta-train tasks of one split.

    Arguments:
        tasks: the tasks; their meta-test tasks are not looked at.
        steps: meta-updates of a whole training.
        seed: of parameters and episodes.
        source: of training episodes.
        given: settings of the algorithm that were asked for.
        model: options of the network.
        options: further arguments of `meta_train`.
        tell: called with what is being done.
        gear: shared by the trainings.
        patience: validations in a row without a new best, after which a training ends.
        checkpoints: keeps states of the trainings; what is finished is not trained again.
    """

    tasks: Tasks
    steps: int
    seed: int
    source: Source
    given: Settings
    model: Settings
    options: Settings
    tell: Tell
    gear: Gear = field(default_factory=Gear)
    patience: int | None = _PATIENCE
    checkpoints: Checkpointer | None = None

    def learner(self, entry: Entry) -> Learner:
        """The learner of an entry."""
        network = {} if entry.direct else dict(self.model)
        settings = {**network, **self.given, **entry.settings}
        return learner_for(self.tasks, algorithm=entry.algorithm, seed=self.seed, **settings)

    def train(self, entry: Entry, *, until: int | None = None, resume: Run | None = None) -> Run | None:
        """Train an entry, or go on with it; `None` where it diverged; the best so far where Ctrl-C ends it.

        Arguments:
            entry: what to train.
            until: end after this update, in the middle of the schedule.
            resume: what was ended so; what ended by itself is not gone on with.
        """
        if resume is not None and _ended(resume):
            return resume
        part = entry.label if until is None else f"{entry.label} {until}"
        sound = sound_settings(self.tasks, entry.algorithm)
        batch = min(sound.meta_batch_size, _BATCH)
        options = {"meta_lr": sound.meta_lr, "meta_batch_size": batch, **self.options}
        # a training that is looked at in the middle is validated there too
        every = options.pop("validate_every", None) or max(1, self.steps // (5 if self.endless else 20))
        callbacks = [*options.pop("callbacks", ()), *([] if until is None else [Every(until, _pause)])]
        try:
            with interruption_unsaid():
                run = meta_train(
                    resume.model.learner if resume else self.learner(entry),
                    self.source if entry.direct else from_none(self.source),
                    valid=_fewer(from_none(self.tasks.valid)),
                    steps=min(self.steps, sound.steps) if entry.direct else self.steps,
                    seed=self.seed,
                    gear=self.gear,
                    validate_every=every,
                    patience=None if self.endless else self.patience,
                    state=_updates(resume),
                    checkpoints=None if self.checkpoints is None else self.checkpoints.part(part),
                    callbacks=callbacks,
                    **options,
                )
        except DivergedError:
            return None
        return run if resume is None else _better(resume, run)

    @property
    def endless(self) -> bool:
        """Whether meta-validation tasks never repeat."""
        return self.tasks.valid.n_tasks is None

    def halved(self, nets: Sequence[Entry]) -> tuple[dict[str, Run], dict[str, float]]:
        """Train nets together, give up the worse half at each rung, and train the last one to its end.

        Jamieson & Talwalkar, 2016, *Non-stochastic Best Arm Identification and Hyperparameter Optimization*. Each
        goes on from where it was.

        Returns:
            The run that came to its end, by label, and of those given up the last error. Where Ctrl-C ends it, the best
            run so far.
        """
        runs: dict[str, Run] = {}
        left, dropped = list(nets), dict[str, float]()
        # two nets are compared late, when it shows which one is better
        needed = max(len(left) - 1, 0).bit_length()
        for rung in (*_RUNGS[len(_RUNGS) - min(needed, len(_RUNGS)) :], 1.0):
            for entry in left:
                self.tell(entry.label)
                until = None if rung == 1 else max(1, round(rung * self.steps))
                run = self.train(entry, until=until, resume=runs.get(entry.label))
                runs.pop(entry.label, None)
                if run is not None:
                    runs[entry.label] = run
                    if run.interrupted:
                        return self._best(runs, dropped)
            left = [entry for entry in left if entry.label in runs]
            if rung == 1 or not left:
                break
            error = {entry.label: self.error(runs[entry.label].model) for entry in left}
            left.sort(key=lambda entry: error[entry.label])
            for entry in left[(len(left) + 1) // 2 :]:
                dropped[entry.label] = error[entry.label]
                runs.pop(entry.label)
            left = left[: (len(left) + 1) // 2]
        return runs, dropped

    def _best(
        self, runs: dict[str, Run], dropped: dict[str, float]
    ) -> tuple[dict[str, Run], dict[str, float]]:
        """The best of trainings that were interrupted, and the errors of the others."""
        error = {label: self.error(run.model) for label, run in runs.items()}
        best = min(error, key=lambda label: error[label])
        given_up = {label: value for label, value in error.items() if label != best}
        return {best: replace(runs[best], interrupted=True)}, dropped | given_up

    def error(self, model: Model) -> float:
        """Mean loss on the meta-validation tasks."""
        source = _fewer(from_none(self.tasks.valid))
        mean = float(answers([model], source).losses.mean())
        return mean if np.isfinite(mean) else np.inf


def from_none(source: Source) -> Source:
    """The same tasks with support sets of all sizes from 0 to that asked for; other sources as they are.

    Example:
        >>> from innerloop.tasks import arrays
        >>> tasks = arrays(np.zeros((40, 1)), np.arange(40.0), np.arange(40) // 4, n_support=2)
        >>> str(from_none(tasks.train).support)
        '0-2'
    """
    if not isinstance(source, RowSource) or source.own_classes:
        # what a class number means is known from the support alone
        return source
    return replace(source, support=source.support._replace(low=0))


def _fewer(source: Source) -> Source:
    """The same tasks with few support sets of each."""
    return replace(source, draws=_DRAWS) if isinstance(source, RowSource) else source


def _pause(state: TrainingState, entry: LogEntry) -> None:
    raise StopIteration(_PAUSE)


def _updates(run: Run | None) -> TrainingState | None:
    """What a training goes on from; what it found on the way is joined by `_better`."""
    if run is None or run.state is None or run.state.step == 0:
        return None
    return TrainingState(run.state.step, run.state.outer)


def _ended(run: Run) -> bool:
    """Whether a training ended by itself, for want of progress."""
    return bool(run.remarks) and not run.remarks[-1].endswith(_PAUSE)


def _better(first: Run, second: Run) -> Run:
    """Two pieces of one training as one: the log of both, and the better meta-parameters."""
    best = min((first, second), key=lambda run: min(_validated(run), default=math.inf))
    return replace(
        second,
        model=best.model,
        best_step=best.best_step,
        log=[*first.log, *second.log],
        skipped=first.skipped + second.skipped,
        seconds=first.seconds + second.seconds,
        remarks=tuple(remark for remark in (*first.remarks, *second.remarks) if not remark.endswith(_PAUSE)),
    )


def _validated(run: Run) -> list[float]:
    return [entry["valid_loss"] for entry in run.log if math.isfinite(entry.get("valid_loss", math.nan))]
