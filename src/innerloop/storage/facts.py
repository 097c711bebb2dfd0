"""What a stored model holds and says of itself: its kind, its columns, its tasks and those adapted from it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from ..errors import UsageError
from ..inner.model import Adapted, Model
from ..models.network import Params
from ..notebook import as_html
from ..tasks.sources import SupportSize, Targets
from .membership import Members
from .plain_json import JsonObject
from .task_values import same_length
from .tensors import differences, equal, outline
from .validation import Config, mixed_of, support_of, targets_of
from .versions import versions

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..evaluation.conformal import Calibration
    from ..evaluation.mixed_model import MixedSummary
    from ..evaluation.none_of_these import FitCalibration
    from ..tasks.inputs import InputSchema
    from ..tasks.tables.schema import Schema
    from .enrolled import Enrolled

__all__ = ["PERCENTILES", "Facts"]

PERCENTILES = "support_loss_percentile"  # of the tasks in `tasks`, a setting


@dataclass(frozen=True, eq=False)
class Facts:
    """The part of `Stored` that holds its fields and says what they mean.

    Arguments:
        model: the learner with its meta-parameters.
        config: everything in `config.json`.
        path: the directory; that of the run where adapted tasks are not saved yet.
        sha256: names the directory's content; empty where it is not saved yet.
        log: one dict a logged step.
        schema: what the columns of the table mean; `None` where there was no table.
        tasks: of an adapted directory, what each task predicts with; of a run, tasks that it knows already.
        mask: of a refined directory, true where a parameter was changed, by name.
        extra: files for people, by name, that `save` writes.
        calibration: what conformal intervals need; `None` where none are stored.
        inputs: what a row is, of a model that was trained on pictures or arrays.
        enrolled: of a directory adapted to classes by their names, these.
        fit: how badly rows of known classes fit, by which rows of no class are told.
    """

    model: Model
    config: Config = field(repr=False)
    path: Path
    sha256: str
    log: list[JsonObject] = field(repr=False)
    schema: Schema | None = field(repr=False)
    tasks: dict[str, Adapted] = field(repr=False, default_factory=dict)
    mask: Params = field(repr=False, default_factory=dict)
    extra: Mapping[str, bytes] = field(repr=False, default_factory=dict)
    calibration: Calibration | None = field(repr=False, default=None)
    inputs: InputSchema | None = field(repr=False, default=None)
    enrolled: Enrolled | None = field(repr=False, default=None)
    fit: FitCalibration | None = field(repr=False, default=None)

    def _with(self, **changes: Any) -> Self:
        """The same with other fields."""
        return replace(self, **changes)

    @property
    def has_classes(self) -> bool:
        """Whether the tasks are draws of classes."""
        if self.inputs is not None:
            return True
        schema = self.schema
        of_classes = schema is not None and schema.task is None and schema.kind == "classification"
        return of_classes and self.kind != "refined"

    def _repr_html_(self) -> str:
        """What notebooks show: what was trained, on what, and the headline score."""
        config, schema = self.config, self.schema
        facts = {
            "kind": self.kind,
            "data": (config["data"] or {}).get("name"),
            "task": None if schema is None else schema.task,
            "target": None if schema is None else [column.name for column in schema.target_columns],
            "features": None if schema is None else [column.name for column in schema.columns],
            "support": None if self.support is None else self.support,
            "adapted tasks": len(self.tasks) or None,
            "sha256": self.sha256[:12],
        }
        rows = [row for row in config["scores"] or [] if row.get("headline") and row["mean"] is not None]
        table = [[row["metric"], row["mean"], *row["ci95"]] for row in rows]
        head = ["metric", "mean", "95 % from", "to"]
        return as_html(
            f"{self.path.name}: {self.model.learner.called}", facts, [head, *table] if table else ()
        )

    @property
    def kind(self) -> str:
        """`run`, `adapted` or `refined`."""
        return self.config["kind"]

    @property
    def support(self) -> SupportSize | None:
        """How many rows formed a support set in training."""
        return support_of(self.config)

    @property
    def targets(self) -> Targets | None:
        """What the targets are."""
        return targets_of(self.config)

    @property
    def n_support(self) -> dict[str, int]:
        """The support rows of each of `tasks`; 0 where that is not known."""
        return {entry["id"]: entry["n_support"] or 0 for entry in self.config["tasks"] or []}

    def split_of(self, task: str) -> str | None:
        """The split that a task was in: `train`, `valid` or `test`; `None` for one that the run has not met.

        The directory need not hold the ids for that: it compares their salted hashes.

        Example:
            >>> import tempfile, innerloop as il
            >>> learner, splits = il.mixed(1), {"train": ["north"], "test": ["south"]}
            >>> path = il.save(
            ...     Path(tempfile.mkdtemp()) / "run", il.Model(learner, learner.init()), splits=splits
            ... )
            >>> stored = il.load(path)
            >>> stored.split_of("north"), stored.split_of("south"), stored.split_of("east")
            ('train', 'test', None)
        """
        return self._members.split_of(task)

    def resembles_trained(self, task: str) -> bool:
        """Whether a task is called like one that training has seen, but for space, case, zeros or Unicode form."""
        return self._members.resembles_trained(task)

    @cached_property
    def _members(self) -> Members:
        config = self.config
        return Members(config["splits"] or {}, config["salt"], config["alike"])

    def mixed_summary(self) -> MixedSummary:
        """The statistician's numbers of a linear mixed model: fixed effects, random effects, likelihood.

        Raises:
            UsageError: the directory holds no such numbers.
        """
        summary = mixed_of(self.config)
        if summary is None:
            raise UsageError(
                f"{self.path} holds no numbers of a linear mixed model: train one (--algorithm mixed) on numbers"
            )
        return summary

    @property
    def _percentiles(self) -> dict[str, float]:
        """How many percent of the calibration tasks have a smaller support loss, for each of `tasks`."""
        return dict(self.config["settings"].get(PERCENTILES) or {})

    def table_schema(self) -> Schema:
        """The schema, of a model that can adapt to a table and predict one.

        Raises:
            UsageError: the model was not trained on a table with a task column.
        """
        if self.schema is None or (
            self.schema.task is None and self.kind != "refined" and not self.has_classes
        ):
            raise UsageError(
                f"{self.path} was not trained on a table with a task column: "
                "use innerloop.load(...).model.adapt(x, y) from Python"
            )
        return self.schema

    def with_tasks(
        self,
        adapted: Mapping[str, Adapted],
        *,
        n_support: Mapping[str, int] | None = None,
        settings: Mapping[str, object] | None = None,
        data: Mapping[str, object] | None = None,
    ) -> Self:
        """The model with tasks that were adapted from it; `save` writes a directory that can be used alone.

        Arguments:
            adapted: what each task predicts with, by its id.
            n_support: support rows of each task.
            settings: how they were adapted.
            data: where the support rows came from.

        Returns:
            A model of kind `adapted`.

        Raises:
            UsageError: there is no task, or one was adapted from another model.

        Example:
            >>> import tempfile, torch, innerloop as il
            >>> learner, folder = il.mixed(1), Path(tempfile.mkdtemp())
            >>> run = il.load(il.save(folder / "run", il.Model(learner, learner.init())))
            >>> site = run.model.adapt(torch.zeros(3, 1), torch.ones(3, 1))
            >>> list(il.load(run.with_tasks({"north": site}).save(folder / "sites")).tasks)
            ['north']
        """
        self._require_own(adapted)
        counts = n_support or {}
        config: Config = {
            **self.config,
            "kind": "adapted",
            "settings": dict(settings or {}),
            "data": None if data is None else dict(data),
            "parent": self.config["parent"] if self.kind == "adapted" else self.sha256,
            "tasks": [
                {"id": task, "n_support": counts.get(task), "base": not one.own}
                for task, one in adapted.items()
            ],
            "versions": versions(),
        }
        return replace(self, config=config, sha256="", tasks=dict(adapted), mask={}, extra={})

    def _require_own(self, adapted: Mapping[str, Adapted]) -> None:
        """Refuse tasks that were not adapted from this model."""
        if not adapted:
            raise UsageError("there is no adapted task to store: give at least one")
        meta = self.model.meta
        like = self.model.learner.own_like(meta)
        for task, one in adapted.items():
            if not isinstance(task, str):
                raise UsageError(f"task {task!r} is no text: give ids as text")
            if one.model is not self.model and not equal(one.model.meta, meta):
                raise UsageError(
                    f"task {task!r} was adapted from another model than {self.path}: give its own"
                )
            if one.own and (wrong := differences(outline(one.own), same_length(one.own, like))):
                raise UsageError(f"task {task!r} does not fit its model: {wrong}")
