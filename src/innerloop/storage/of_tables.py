"""What a stored model does with a table: read one, predict its rows, adapt to its tasks, know them from then on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Self

from ..errors import UsageError
from .classes import OfClasses, refuse_for_classes
from .facts import PERCENTILES
from .plain_json import JsonObject
from .validation import Config

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    from ..tasks.tables.reading import TableLike
    from .tables import Frame

__all__ = ["OfTables"]


class OfTables(OfClasses):
    """The part of `Stored` for models that were trained on a table."""

    def read_frame(self, path: Path, *, skip_footer: int | None = None) -> pd.DataFrame:
        """Read a table with the columns of training; `attrs["notes"]` of the frame says what was understood.

        Arguments:
            path: the file.
            skip_footer: lines below its rows; as many as the file of training had unless given.

        Raises:
            UsageError: the model was not trained on a table with a task column.
            DataError: the table cannot be used.
        """
        from ..tasks.tables.reading import read_table

        schema = self.table_schema()
        reading = schema.reading
        if skip_footer is not None:
            reading = replace(reading, shape=reading.shape._replace(skip_footer=skip_footer))
        frame = read_table(path, task=schema.task, reading=reading)
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

    def adapt_frame(self, frame: TableLike, *, inner_steps: int | None = None) -> Self:
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
            settings[PERCENTILES] = percentile
        if schema.n_way:
            # the numbers of classes mean nothing without the task they belong to
            settings["labels"] = {task: list(names) for task, names in labels.items()}
        return self._with(calibration=calibration).with_tasks(adapted, n_support=n_support, settings=settings)

    def knowing(self, frame: TableLike) -> Self:
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
        settings = {**self.config["settings"], **({PERCENTILES: shares} if shares else {})}
        config: Config = {**self.config, "tasks": entries, "settings": settings}
        return self._with(config=config, sha256="", tasks=tasks)
