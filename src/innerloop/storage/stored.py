"""What a model directory holds, as an object: it predicts and adapts to tables, and writes itself."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ..errors import DivergedError, ModelFileError, UsageError
from ..inner.model import Adapted, Model
from ..models.network import Params
from ..tasks.sources import SupportSize, Targets
from .calibrations import calibration_of, fit_tensors, to_tensors
from .card import model_card, require_licence
from .classes import OfClasses, refuse_for_classes
from .manifest import CARD, write_sealed
from .membership import Members
from .plain_json import JsonObject, parse_json, to_json, without_nan
from .reading import read
from .task_values import MASK, TASKS, packed, same_length
from .tensors import differences, equal, outline
from .validation import Config, mixed_of, outputs_of, require_config, support_of, targets_of
from .versions import versions

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    import pandas as pd
    from torch import nn

    from ..evaluation.conformal import Calibration
    from ..evaluation.mixed_model import MixedSummary
    from ..evaluation.none_of_these import FitCalibration
    from ..tasks.inputs import InputSchema
    from ..tasks.tables.reading import TableLike
    from ..tasks.tables.schema import Schema
    from .enrolled import Enrolled
    from .tables import Frame
from ..notebook import as_html

__all__ = ["Stored"]

_PERCENTILES = "support_loss_percentile"  # of the tasks in `tasks`, a setting


@dataclass(frozen=True, eq=False)
class Stored(OfClasses):
    """What a model directory holds; `load` reads it, `adapt_frame` makes one of adapted tasks.

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
        return dict(self.config["settings"].get(_PERCENTILES) or {})

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

    def read_frame(self, path: Path) -> pd.DataFrame:
        """Read a table with the columns of training; `attrs["notes"]` of the frame says what was understood.

        Raises:
            UsageError: the model was not trained on a table with a task column.
            DataError: the table cannot be used.
        """
        from ..tasks.tables.reading import read_table

        schema = self.table_schema()
        frame = read_table(path, task=schema.task, reading=schema.reading)
        notes = [*frame.attrs.get("notes", ())]
        if len(frame) and all(column.name in frame for column in schema.columns):
            notes += [
                f"{count} missing values of {name!r} were filled with its mean in training"
                for name, count in schema.gaps(frame).items()
            ]
            some = (
                0
                if schema.partial
                else int((schema.known(frame).any(axis=1) & schema.unlabelled(frame)).sum())
            )
            if some:
                notes.append(
                    f"{some} rows know some of the targets: the model was trained where rows know all or none, so they "
                    "are predicted, and what they know is not used (train on a table with such rows)"
                )
            merged = {column.name for column in schema.columns if column.merged}
            notes += [
                f"{count} rows have a value of {name!r} that {'few tasks' if name in merged else 'no row'} of training "
                f"{'or none have' if name in merged else 'has'}: it counts as none of its values"
                for name, count in schema.unseen(frame).items()
            ]
        frame.attrs["notes"] = tuple(notes)
        return frame

    def _with(self, **changes: Any) -> Stored:
        return replace(self, **changes)

    def labelled(self, frame: pd.DataFrame) -> np.ndarray:
        """Which rows of such a table have a target, `(n,)` bool."""
        return self.table_schema().labelled(frame)

    def unlabelled(self, frame: pd.DataFrame) -> np.ndarray:
        """Which rows of such a table lack a target, `(n,)` bool: those that a run predicts."""
        return self.table_schema().unlabelled(frame)

    def predict_frame(
        self,
        frame: Frame,
        *,
        inner_steps: int | None = None,
        interval: float | None = None,
        none_of_these: float | None = None,
    ) -> Frame:
        """Predict the rows of a table that have no target; what `innerloop predict` does.

        Rows of a task that have a target are its support; where training knew rows with some of several targets, a row
        is support for those that it has and is predicted for the others. A task without any that the run knows
        (`knowing`) is predicted as it was adapted then. An adapted or refined model needs none, and predicts every row.

        Arguments:
            frame: a frame of pandas, polars or pyarrow with the columns of training; it is not changed.
            inner_steps: inner steps; as in training unless given.
            interval: share of the rows of new tasks that an interval, or a set of classes, shall hold, such as 0.9;
                none is given unless asked for.
            none_of_these: of a table of classes without a task column, see `predict_files`.

        Returns:
            The same kind of frame: its rows, their order, its index and its columns, and further columns.
            `prediction` (`prediction_<target>` for each of several) is missing where a row was support for it;
            `probability_<class>` for classes; `n_support` is the number of support rows of the task, 0 for the
            base prediction. With `interval` there are `lower` and `upper` (`lower_<target>`, `upper_<target>` for
            each of several), or for classes `prediction_set`, their names with `; ` between them, the most likely
            one first; and `support_loss_percentile`, how many percent of the calibration tasks have a smaller loss
            on their support rows: near 100, the task is unlike them, and what its interval holds is not known.

        Raises:
            DataError: a column is missing, or one of the new ones is there already, or a value is not what its
                column holds.
            UsageError: the model was not trained on such a table, or takes no inner steps; or no intervals are
                stored with it, or they come from too few tasks for this share, or from other inner steps.

        Example:
            >>> import pandas as pd, tempfile, innerloop as il
            >>> from innerloop.tasks.tables.schema import Schema
            >>> frame = pd.DataFrame(
            ...     {"site": list("aabb"), "dose": [1, 2, 3, 4], "risk": [0.1, 0.2, 0.4, 0.9]}
            ... )
            >>> schema = Schema.fit(frame, task="site", target="risk")
            >>> learner = il.mixed(schema.n_features)
            >>> path = Path(tempfile.mkdtemp()) / "sites"
            >>> stored = il.load(il.save(path, il.Model(learner, learner.init()), schema=schema))
            >>> new = pd.DataFrame({"site": ["c", "c"], "dose": [1, 2], "risk": [0.3, None]}, index=[7, 3])
            >>> stored.predict_frame(new)[["prediction", "n_support"]].notna()
               prediction  n_support
            7       False       True
            3        True       True
        """
        from ..tasks.tables.reading import as_frame
        from .interval_columns import intervals_of
        from .tables import (
            TableTasks,
            predict_by_support,
            predict_by_tasks,
            refuse_taken,
            require_inner_steps,
            with_columns,
        )

        if self.has_classes:
            refuse_for_classes(inner_steps=inner_steps, interval=interval)
            return self._predict_class_frame(frame, none_of_these)
        if none_of_these is not None:
            raise UsageError("none_of_these is for classes without a task column: leave it out")
        schema = self.table_schema()
        table = as_frame(frame, reading=schema.reading)
        intervals = None
        if interval is not None:
            intervals = intervals_of(self.calibration, interval, where=self.path, inner_steps=inner_steps)
        refuse_taken(schema, table, intervals=intervals)
        if self.kind == "run":
            require_inner_steps(self.model, inner_steps)
            known = TableTasks(self.tasks, self.n_support, {}, self._percentiles)
            new = predict_by_support(
                self.model, schema, table, steps=inner_steps, known=known, intervals=intervals
            )
        elif inner_steps is not None:
            raise UsageError(f"inner_steps={inner_steps}: this model is {self.kind} already: leave it out")
        else:
            labels = self.config["settings"].get("labels") if self.kind == "adapted" else None
            if labels is None:
                labels = schema.own_labels(table) if schema.n_way else {}
            tasks = TableTasks(self.tasks, self.n_support, labels, self._percentiles)
            new = predict_by_tasks(tasks, self.model.base(), schema, table, intervals=intervals)
        return with_columns(frame, new)

    def adapt_frame(self, frame: TableLike, *, inner_steps: int | None = None) -> Stored:
        """Adapt to each task of a table by its labelled rows; what `innerloop adapt` does.

        Arguments:
            frame: a frame of pandas, polars or pyarrow with the columns of training; it is not changed.
            inner_steps: inner steps; as in training unless given.

        Returns:
            A model of kind `adapted`: `predict_frame` predicts every row of a table by it, `save` writes it.

        Raises:
            DataError: no row has a target, or a column is missing, or a value is not what its column holds.
            UsageError: the model is adapted already, or was not trained on such a table, or takes no inner
                steps.

        Example:
            >>> import pandas as pd, tempfile, innerloop as il
            >>> from innerloop.tasks.tables.schema import Schema
            >>> frame = pd.DataFrame(
            ...     {"site": list("aabb"), "dose": [1, 2, 3, 4], "risk": [0.1, 0.2, 0.4, 0.9]}
            ... )
            >>> schema = Schema.fit(frame, task="site", target="risk")
            >>> learner, folder = il.mixed(schema.n_features), Path(tempfile.mkdtemp())
            >>> stored = il.load(il.save(folder / "run", il.Model(learner, learner.init()), schema=schema))
            >>> adapted = il.load(stored.adapt_frame(frame).save(folder / "adapted"))
            >>> adapted.predict_frame(frame[["site", "dose"]]).n_support.tolist()
            [2, 2, 2, 2]
        """
        from ..tasks.tables.reading import as_frame
        from .tables import adapt_rows, require_inner_steps

        if self.has_classes:
            refuse_for_classes(inner_steps=inner_steps)
            return self.adapt_files(frame)
        if self.kind == "adapted":
            raise UsageError(f"{self.path} is adapted already: give the run it was adapted from")
        schema = self.table_schema()
        require_inner_steps(self.model, inner_steps)
        table = as_frame(frame, reading=schema.reading)
        # intervals hold for the number of inner steps that they were calibrated with
        calibration = self.calibration if inner_steps is None else None
        adapted, n_support, labels, percentile = adapt_rows(
            self.model, schema, table, steps=inner_steps, calibration=calibration
        )
        settings: JsonObject = {"inner_steps": inner_steps}
        if percentile:
            settings[_PERCENTILES] = percentile
        if schema.n_way:
            # the numbers of classes mean nothing without the task they belong to
            settings["labels"] = {task: list(names) for task, names in labels.items()}
        run = replace(self, calibration=calibration)
        return run.with_tasks(adapted, n_support=n_support, settings=settings)

    def knowing(self, frame: TableLike) -> Stored:
        """The run with the tasks of a table adapted to: `predict_frame` knows them without their rows from now on.

        A task that was known before is adapted anew, to the rows that it has here.

        Arguments and errors are those of `adapt_frame`.

        Returns:
            A model of kind `run`, which still adapts to any task that comes with support rows.

        Example:
            >>> import pandas as pd, innerloop as il
            >>> from innerloop.storage.save import unsaved
            >>> from innerloop.tasks.tables.schema import Schema
            >>> frame = pd.DataFrame(
            ...     {"site": list("aabb"), "dose": [1, 2, 3, 4], "risk": [0.1, 0.2, 0.4, 0.9]}
            ... )
            >>> schema = Schema.fit(frame, task="site", target="risk")
            >>> learner = il.mixed(schema.n_features)
            >>> run = unsaved(il.Model(learner, learner.init()), schema=schema).knowing(frame)
            >>> run.predict_frame(pd.DataFrame({"site": ["a", "new"], "dose": [1, 1]})).n_support.tolist()
            [2, 0]
        """
        if self.kind != "run":
            raise UsageError(f"{self.path} is {self.kind}: only a run adapts to further tasks")
        if self.table_schema().n_way:
            raise UsageError(
                "tasks with classes of their own are explained by their rows only: give these each time"
            )
        adapted = self.adapt_frame(frame)
        before = [entry for entry in self.config["tasks"] or [] if entry["id"] not in adapted.tasks]
        entries = [*before, *(adapted.config["tasks"] or [])]
        every = {**self.tasks, **adapted.tasks}
        # in the order of the entries, which is that of their values in the file
        tasks = {entry["id"]: every[entry["id"]] for entry in entries}
        shares = {**self._percentiles, **adapted._percentiles}
        settings = {**self.config["settings"], **({_PERCENTILES: shares} if shares else {})}
        config: Config = {**self.config, "tasks": entries, "settings": settings}
        return replace(self, config=config, sha256="", tasks=tasks)

    def forgetting(self) -> Stored:
        """The run without the tasks that it knows, and without the names of those it was trained on."""
        settings = {name: value for name, value in self.config["settings"].items() if name != _PERCENTILES}
        config: Config = {**self.config, "tasks": None, "splits": None, "settings": settings}
        return replace(self, config=config, sha256="", tasks={})

    def export(self, path: str | Path, *, to: str | None = None, interval: float | None = None) -> Path:
        """Write the model as one file that adapts and predicts without this package.

        Encoding and scaling of the columns, the inner loop with its gradients, the head and the intervals are inside.
        It takes the raw columns of a task's support rows and of the rows to predict, any number of each, and gives the
        columns of `predict_frame`, in double precision. See docs/howto/export.md.

        Arguments:
            path: the file.
            to: `onnx`, which onnxruntime and others run, or `torch`, which `torch.export.load` reads; by the ending of
                the path (.onnx, .pt2) unless given.
            interval: share of the rows of new tasks that intervals, or sets of classes, shall hold; none unless given.

        Returns:
            The path.

        Raises:
            UsageError: the model was not trained on a table with a task column or is adapted already, has no graph,
                or no form in ONNX; there are no intervals of this share; the ending of the path says nothing.
            ResourceError: the file cannot be written.

        Example:
            >>> import pandas as pd, tempfile, innerloop as il
            >>> from innerloop.storage.save import unsaved
            >>> from innerloop.tasks.tables.schema import Schema
            >>> frame = pd.DataFrame(
            ...     {"site": list("aabb"), "dose": [1, 2, 3, 4], "risk": [0.1, 0.2, 0.4, 0.9]}
            ... )
            >>> schema = Schema.fit(frame, task="site", target="risk")
            >>> learner = il.mixed(schema.n_features)
            >>> run = unsaved(il.Model(learner, learner.init()), schema=schema)
            >>> path = run.export(Path(tempfile.mkdtemp()) / "risk.pt2")
            >>> program = torch.export.load(path).module()
            >>> known = {"dose": torch.tensor([1.0]).double(), "risk": torch.tensor([0.3]).double()}
            >>> program(known, {"dose": torch.tensor([1.0, 2.0]).double()})["prediction"].shape
            torch.Size([2])
        """
        from .export import export_table
        from .interval_columns import intervals_of

        schema, intervals = self.table_schema(), None
        if self.kind == "adapted":
            raise UsageError(f"{self.path} is adapted already: export the run that it was adapted from")
        if interval is not None:
            intervals = intervals_of(self.calibration, interval, where=self.path, inner_steps=None)
        export_table(Path(path), self.model, schema=schema, to=to, intervals=intervals, sha256=self.sha256)
        return Path(path)

    def with_tasks(
        self,
        adapted: Mapping[str, Adapted],
        *,
        n_support: Mapping[str, int] | None = None,
        settings: Mapping[str, object] | None = None,
        data: Mapping[str, object] | None = None,
    ) -> Stored:
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
            >>> import tempfile, innerloop as il
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

    def save(
        self, directory: str | Path, *, settings: Mapping[str, object] | None = None, replace: bool = False
    ) -> Path:
        """Write a model directory with all of this; a crash leaves the old one or the new one.

        Arguments:
            directory: where; it must be missing or empty, or a model directory if `replace` is given.
            settings: what to add to the settings in `config.json`.
            replace: replace a model directory that is there.

        Returns:
            The directory.

        Raises:
            UsageError: it cannot be stored, or the directory holds something else.
            DivergedError: a parameter is not finite.
            ResourceError: the directory cannot be written.

        Example:
            >>> import tempfile, innerloop as il
            >>> learner, folder = il.mixed(2), Path(tempfile.mkdtemp())
            >>> stored = il.load(il.save(folder / "one", il.Model(learner, learner.init())))
            >>> il.load(stored.save(folder / "other")).sha256 == stored.sha256
            True
        """
        import safetensors.torch

        tensors = {**self.model.meta, **{f"{MASK}{name}": value for name, value in self.mask.items()}}
        tensors |= to_tensors(self.calibration) | fit_tensors(self.fit)
        tensors |= self.enrolled.tensors() if self.enrolled else {}
        _require_finite(tensors)
        config: Config = {**self.config, "settings": {**(settings or {}), **self.config["settings"]}}
        text = to_json(config, indent=1)
        try:
            require_config(parse_json(text, "config"))
            calibration_of(tensors, outputs_of(self.config, self.schema))
        except (ModelFileError, ValueError) as error:
            raise UsageError(f"this cannot be stored: {error}") from None
        # a clone, because tensors that share memory are refused
        tensors = {
            name: value.detach().cpu().contiguous().clone()
            for name, value in (tensors | _stacks(self.model, self.tasks)).items()
        }
        content = {
            "config.json": text,
            "log.jsonl": b"".join(to_json(without_nan(entry)) for entry in self.log),
            "model.safetensors": safetensors.torch.save(tensors),
        }
        card = model_card(self, config)
        write_sealed(Path(directory), {**content, CARD: card, **self.extra}, replace=replace)
        return Path(directory)

    def save_pretrained(
        self, directory: str | Path, *, license: str | None = None, replace: bool = False
    ) -> Path:
        """`save` by the name that it has in other libraries; `license` fills the field of the model card.

        Arguments:
            directory: where; it must be missing or empty, or a model directory if `replace` is given.
            license: of the weights, such as `cc-by-4.0`; as it was unless given.
            replace: replace a model directory that is there.

        Returns:
            The directory.

        Raises:
            UsageError: the licence is no line of text, or as `save`.

        Example:
            >>> import tempfile, innerloop as il
            >>> learner, folder = il.mixed(2), Path(tempfile.mkdtemp())
            >>> stored = il.load(il.save(folder / "one", il.Model(learner, learner.init())))
            >>> path = stored.save_pretrained(folder / "two", license="cc-by-4.0")
            >>> (path / "README.md").read_text().splitlines()[2]
            'license: "cc-by-4.0"'
        """
        if license is None:
            return self.save(directory, replace=replace)
        settings = {**self.config["settings"], "license": require_licence(license)}
        config: Config = {**self.config, "settings": settings}
        return dataclasses.replace(self, config=config, sha256="").save(directory, replace=replace)

    @classmethod
    def from_pretrained(
        cls, directory: str | Path, *, module: nn.Module | None = None, device: torch.device | str = "cpu"
    ) -> Stored:
        """`load` by the name that it has in other libraries.

        Arguments:
            directory: what `innerloop train --out`, `save` or `save_pretrained` wrote.
            module: the module, where the model was trained with one of your own.
            device: where the model goes.

        Raises:
            ModelFileError: it is no model directory, or a damaged one.
            UsageError: `module` is needed, or does not fit.
        """
        return cls(*read(directory, module=module, device=device))


def _stacks(model: Model, tasks: Mapping[str, Adapted]) -> Params:
    """The values that tasks own, in the order of the tasks that own something.

    Raises:
        DivergedError: a value is not finite.
    """
    own = {task: one.own for task, one in tasks.items() if one.own}
    for task, values in own.items():
        _require_finite(values, f"task {task!r}")
    return {f"{TASKS}{name}": value for name, value in packed(model, list(own.values())).items()}


def _require_finite(values: Params, who: str = "the model") -> None:
    for name, value in values.items():
        if not torch.isfinite(value).all():
            raise DivergedError(
                f"{who} diverged: {name!r} holds NaN or infinity: lower the learning rates, train again"
            )
