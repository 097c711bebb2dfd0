"""From a table of rows to a trained model that knows its groups: what `fit` of every estimator does."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd
from torch import nn

from ..algorithms.assemble import learner_for, sound_settings
from ..combining import choose
from ..evaluation import calibrate
from ..evaluation.conformal import needed_tasks
from ..inner.model import Model
from ..outer.training import Run, meta_train
from ..storage.save import unsaved
from ..storage.stored import Stored
from ..storage.tables import refuse_taken
from ..tasks.from_arrays import default_support
from ..tasks.splits import NoTest, Tasks
from ..tasks.tables.cells import task_codes
from ..tasks.tables.table import table
from .grouped_rows import Columns

__all__ = ["AUTO", "Training"]

AUTO = "auto"
# options of the network, which a candidate may have none of
_OF_NETWORKS = ("hidden", "activation", "dropout", "scaling")
# fewer validation tasks give no 80 % interval, and calibrating takes time in every fit
_ENOUGH = needed_tasks(0.8)


@dataclass(frozen=True, kw_only=True)
class Training:
    """A training as an estimator asks for it; `None` is what fits the data.

    Arguments:
        kind: `regression` or `classification`; found out where it is `None`.
        algorithm: a name, or `auto`.
        options: arguments of `learner_for`.
        module: a network of the user's.
        n_support: support rows a task.
        support: which rows, see `tasks.table`.
        categorical: columns whose values are names.
        validation_fraction: share of the tasks that validate.
        steps: meta-updates.
        meta_lr: outer step size.
        meta_batch_size: episodes a meta-update.
        seed: of everything random.
        device: see `meta_train`.
        verbose: print the loss ten times.
    """

    kind: str | None
    algorithm: str
    options: Mapping[str, object]
    module: nn.Module | None
    n_support: int | str | None
    support: str
    categorical: tuple[str, ...]
    validation_fraction: float
    steps: int | None
    meta_lr: float | None
    meta_batch_size: int | None
    seed: int
    device: str
    verbose: int

    def fitted(self, frame: pd.DataFrame, columns: Columns) -> tuple[Stored, Tasks]:
        """The model trained on a table, adapted to each of its tasks, and the tasks it was trained on."""
        tasks = self.tasks(frame, columns)
        assert tasks.schema is not None
        refuse_taken(tasks.schema, frame)  # before training, not at the first prediction
        run, before = self.run(tasks)
        model, calibrated = (_in_double_precision(each, self.device) for each in (run.model, before))
        stored = unsaved(
            model,
            calibration=calibrate(calibrated, tasks.valid) if len(tasks.splits["valid"]) >= _ENOUGH else None,
            schema=tasks.schema,
            splits=tasks.splits,
            support=tasks.train.support,
            targets=tasks.targets,
            settings={"seed": self.seed},
            best_step=run.best_step,
            log=run.log,
        )
        return stored.knowing(frame), tasks

    def tasks(self, frame: pd.DataFrame, columns: Columns) -> Tasks:
        """The table as tasks: all that have two rows train, but for those that validate."""
        target: str | list[str] = columns.targets[0] if len(columns.targets) == 1 else list(columns.targets)
        size: Mapping[str, Any] = {"n_support": self.n_support}
        if self.n_support is None:
            size = default_support(frame, target, self.kind, columns.task)
        tasks = table(
            frame, task=columns.task, target=target, kind=self.kind, categorical=self.categorical,
            split=NoTest(self.validation_fraction), support=self.support, seed=self.seed, **size,
        )  # fmt: skip
        every, _ = task_codes(frame, columns.task)
        if small := len(every) - sum(map(len, tasks.splits.values())):
            warnings.warn(
                f"{small} of {len(every)} groups are too small to train on, for support and query need a row each: "
                "they are adapted to afterwards, as all others",
                stacklevel=5,
            )
        return tasks

    def run(self, tasks: Tasks) -> tuple[Run, Model]:
        """The algorithm that was asked for, or what `auto` combines; and the model that knows no validation task."""
        options = {name: value for name, value in self.options.items() if value is not None}
        if self.module is not None:
            # a copy: whatever becomes of the user's, this learner can be made again
            options["module"] = copy.deepcopy(self.module)
        name = self.algorithm
        if name == AUTO and self.module is not None:
            name = "maml"
        elif name == AUTO and not tasks.splits["valid"]:
            name = "mixed"
        if name != AUTO:
            run = self.trained(tasks, name, options)
            return run, run.model
        model = {name: value for name, value in options.items() if name in _OF_NETWORKS}
        given = {name: value for name, value in options.items() if name not in _OF_NETWORKS}
        steps = sound_settings(tasks).steps if self.steps is None else self.steps
        choice = choose(
            tasks, steps=steps, seed=self.seed, given=given, model=model, options={"device": self.device},
            tell=print if self.verbose else lambda what: None,
        )  # fmt: skip
        return choice.run, choice.before

    def trained(self, tasks: Tasks, algorithm: str, options: Mapping[str, Any]) -> Run:
        """Meta-train one algorithm."""
        sound = sound_settings(tasks, algorithm)
        learner = learner_for(tasks, algorithm=algorithm, seed=self.seed, **options)
        steps = sound.steps if self.steps is None else self.steps
        every = max(1, steps // 10)

        def tell(entry: Mapping[str, Any]) -> None:
            if entry["step"] % every == 0:
                print(f"{algorithm}: step {entry['step']}/{steps}  loss {entry['loss']:.4f}")

        return meta_train(
            learner,
            tasks.train,
            valid=tasks.valid if tasks.splits["valid"] else None,
            steps=steps,
            meta_lr=sound.meta_lr if self.meta_lr is None else self.meta_lr,
            meta_batch_size=sound.meta_batch_size if self.meta_batch_size is None else self.meta_batch_size,
            seed=self.seed,
            device=self.device,
            callbacks=[tell] if self.verbose else [],
        )


def _in_double_precision(model: Model, device: str) -> Model:
    """The model as it predicts: in double precision, so that no prediction depends on the rows beside it.

    In single precision, a product of matrices rounds by how many rows it has. Small models predict on the CPU unless
    another device was named.
    """
    model = model if device not in ("auto", "mps") else model.to("cpu")
    meta = {
        name: value.double() if value.is_floating_point() else value for name, value in model.meta.items()
    }
    return replace(model, meta=meta)
