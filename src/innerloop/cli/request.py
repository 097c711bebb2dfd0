"""A training as it was asked for: its tasks, learner and meta-training follow from the options of `train`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UsageError
from .common import Notes
from .opening import read_tasks
from .options import (
    AlgorithmOptions,
    DataOptions,
    FoldedDataOptions,
    NetworkOptions,
    Options,
    TrainingOptions,
)
from .refusals import require_least

if TYPE_CHECKING:
    from ..inner.learner import Learner
    from ..models.network import Params
    from ..outer.state import Checkpointer
    from ..outer.training import Callback, Run
    from ..tasks.sources import Source
    from ..tasks.splits import Tasks

__all__ = ["Request", "log_callbacks"]


@dataclass(frozen=True, kw_only=True)
class Request(Options):
    """The options of a training; `candidates` is what `auto` trained, and what each counts."""

    tasks: str
    data: DataOptions
    algorithm: AlgorithmOptions
    training: TrainingOptions
    candidates: list[dict[str, object]] | None = None

    @classmethod
    def stored(cls, settings: Mapping[str, Any]) -> Request:
        """The request whose `settings` were stored."""
        known = {
            name: None if value is None else Path(value) for name, value in settings.items() if name == "init"
        }
        options = AlgorithmOptions.of({**settings, **known})
        return cls(
            tasks=settings["tasks"],
            data=FoldedDataOptions.of(settings),
            algorithm=replace(options, network=NetworkOptions.of(settings)),
            training=TrainingOptions.of(settings),
        )

    @property
    def method(self) -> str:
        """The name of the algorithm."""
        return self.algorithm.algorithm

    def fold(self, number: int) -> Request:
        """The same training on another division of the tasks; itself without folds."""
        folds = self.data.folds
        return self if folds is None else replace(self, data=replace(self.data, split=f"{number}/{folds}"))

    def read(self) -> Tasks:
        """The tasks."""
        return read_tasks(self.tasks, self.data, self.training.seed)

    def complete(self, tasks: Tasks) -> Request:
        """The request with what follows from the data, where it was not given."""
        from ..algorithms.assemble import sound_settings
        from ..outer.ranks import SHARDS, launched
        from ..tasks.tables.table import RARE

        sound, support = sound_settings(tasks, self.method), tasks.train.support
        missing = {
            key: getattr(sound, key)
            for key in ("steps", "meta_lr", "meta_batch_size")
            if getattr(self.training, key) is None
        }
        if launched() and self.training.shards is None:
            missing["shards"] = min(
                SHARDS, missing.get("meta_batch_size") or self.training.meta_batch_size or SHARDS
            )
        shots, rows = (str(support), None) if support.per_class else (None, str(support))
        data = replace(self.data, n_shot=shots, n_support=rows)
        of_tasks = tasks.schema is not None and tasks.schema.task is not None
        if data.rare is None and of_tasks and Path(self.tasks).exists():
            data = replace(data, rare=RARE)
        return replace(self, data=data, training=replace(self.training, **missing))

    def learner(self, tasks: Tasks) -> Learner:
        """The algorithm with its network for these tasks."""
        from ..algorithms.assemble import learner_for

        options = self.algorithm.network_arguments() | self.algorithm.arguments()
        learner: Learner = learner_for(tasks, algorithm=self.method, seed=self.training.seed, **options)
        if self.data.train_way is not None:
            learner, _ = learner.for_classes(learner.init(), self.data.train_way)
        return learner

    def source(self, tasks: Tasks) -> Source:
        """Where training episodes come from: composed and augmented as asked for."""
        from ..tasks.augment import augmented, named
        from ..tasks.compose import composed

        how = self.training
        training = composed(tasks.train, how.composition or "fresh", seed=how.seed)
        return augmented(training, *named(how.augment or ""))

    def train(
        self,
        tasks: Tasks,
        notes: Notes,
        *,
        what: str = "",
        callbacks: Sequence[Callback] = (),
        checkpoints: Checkpointer | None = None,
    ) -> Run:
        """Meta-train on the tasks, with progress on stderr."""
        from ..inner.model import Model
        from ..outer.interrupts import interruption_unsaid
        from ..outer.training import meta_train

        learner, total = self.learner(tasks), self.training.steps or 0
        if total and not learner.fits_directly:
            notes(self.memory(learner, tasks))
        with (
            notes.progress(f"{self.method} on {tasks.name}{what}", total) as progress,
            interruption_unsaid(),  # the remarks of the run say it
        ):
            run = meta_train(
                learner,
                self.source(tasks),
                valid=tasks.valid,
                callbacks=[progress, *callbacks],
                meta=_start(learner, self.algorithm.init, notes),
                checkpoints=checkpoints,
                **self.training.arguments(),
            )
        if self.data.train_way is not None:
            # trained among many classes, scored and kept for as many as a test episode has
            run = replace(run, model=Model(*run.model.learner.for_classes(run.model.meta, tasks.n_outputs)))
        together = "" if run.at_once is None else f"; at most {run.at_once} tasks at once, by --memory"
        notes(f"gear: {run.gear}{together}")
        if run.placed.decided:
            notes(f"device: {run.placed}")
        for remark in run.remarks:
            notes(f"note: {remark}")
        return run

    def memory(self, learner: Learner, tasks: Tasks) -> str:
        """What a meta-update is going to need, in words."""
        from ..engine.devices import resolve_device
        from ..outer.memory import in_words, needed_bytes
        from ..tasks.episodes import select
        from ..tasks.support import stream

        asked = self.training
        resolve_device(asked.device)  # what there is not is refused
        count = asked.meta_batch_size or 1
        episode = select(self.source(tasks).sample(count, stream(asked.seed, 0, 0)), slice(0, 1))
        needed = needed_bytes(learner, learner.init(), episode)
        together = in_words(needed * count)
        return f"memory: about {in_words(needed)} a task, {together} for all {count} of a meta-update at once"

    def require_sense(self) -> None:
        """Refuse what can be refused before any data is read."""
        from ..algorithms.baselines import BASELINES

        data = self.data
        if self.algorithm.single and self.method != "auto":
            raise UsageError(
                f"--single keeps one of several, and --algorithm {self.method} is one: leave it out"
            )
        if data.train_way is not None and self.method == "auto":
            raise UsageError("--train-way is for one algorithm: give --algorithm protonet, ridge or gaussian")
        if data.folds is not None and data.split is not None:
            raise UsageError("--folds divides the tasks itself: leave --split out")
        least = {
            "folds": 3,
            "seed": 0,
            "steps": 0,
            "meta_batch_size": 1,
            "validate_every": 1,
            "n_query": 1,
            "train_way": 2,
        }
        require_least(self.settings(), least)
        if data.task is not None and data.task == data.target:
            raise UsageError(f"{data.task!r} is named as task and as target: they are two columns")
        if self.method in BASELINES:
            raise UsageError(
                f"{self.method} is a baseline to compare with, which leaves no model: use it from "
                "Python (innerloop.algorithms.baselines), or choose one of: innerloop list algorithms"
            )


def _start(learner: Learner, init: Path | None, notes: Notes) -> Params | None:
    """Meta-parameters that begin with the weights of a file or model directory."""
    if init is None:
        return None
    from ..storage.state_dicts import begun

    meta, left = begun(learner.init(), init)
    notes(f"note: training starts from the weights of {init}")
    if left:
        notes(f"note: {', '.join(left)} have another shape there and start anew")
    return meta


@contextmanager
def log_callbacks(directory: Path, tensorboard: Path | None, notes: Notes) -> Iterator[Sequence[Callback]]:
    """Log while training runs: lines beside the directory until it is written, and TensorBoard if asked for."""
    from ..files import remove_file
    from ..outer.logs import JsonLines, TensorBoard, logging

    board = [] if tensorboard is None else [TensorBoard(tensorboard)]
    named = directory if directory.name else directory.resolve()
    live = named.with_name(f"{named.name}.live.jsonl")
    with logging(JsonLines(live), *board, warn=notes) as loggers:
        yield loggers
    remove_file(live)  # the directory is going to have all of it
