"""What a stored model does with classes by their names: adapt to them, predict rows of them, forget some."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Self

import numpy as np
import pandas as pd

from ..errors import DataError, UsageError
from ..evaluation.none_of_these import NONE_OF_THESE, require_rate
from ..tasks.class_rows import ClassRows, Data, class_rows, rows_of_frame
from .enrolled import Enrolled
from .facts import Facts
from .validation import Config
from .versions import versions

if TYPE_CHECKING:
    from ..tasks.inputs import InputSchema
    from ..tasks.tables.schema import Schema
    from .tables import Frame

__all__ = ["OfClasses", "refuse_for_classes"]

_ROUNDING = 1e-9


def refuse_for_classes(**settings: object) -> None:
    """Refuse what has no meaning where classes have no task column."""
    for name, value in settings.items():
        if value is not None:
            raise UsageError(f"{name} has no meaning for classes without a task column: leave it out")


class OfClasses(Facts):
    """The part of `Stored` for models whose tasks are draws of classes, which have no task column.

    Those were trained on pictures, on arrays with labels, or on a table with `n_way`.
    """

    def class_schema(self) -> InputSchema | Schema:
        """How rows become features, of a model whose tasks are draws of classes.

        Raises:
            UsageError: it is no such model, or its directory is from before this was stored.
        """
        if self.inputs is not None:
            return self.inputs
        if self.schema is not None and self.has_classes:
            return self.schema
        if self.schema is not None:
            raise UsageError(
                f"{self.path} was trained on a table whose tasks are no classes: use predict_frame and adapt_frame"
            )
        raise UsageError(
            f"{self.path} does not say what its rows are: use innerloop.load(...).model.adapt(x, y) from Python"
        )

    def adapt_files(self, data: Data, *, add: bool = False, skip_bad: bool = False) -> Self:
        """Adapt to classes by their names: pictures in a folder for each, or arrays with labels.

        Arguments:
            data: of pictures a folder with a folder for each class, which holds one picture or more. Of arrays an
                `.npz` file or a dict with `x` and `label`. Of a table of classes its path or a frame.
            add: to an adapted model, add these classes, and rows to those of the same name.
            skip_bad: leave files out that cannot be used.

        Returns:
            A model of kind `adapted`; `predict_files` predicts by it, `save` writes it. Of each class it holds a mean
            and the number of rows, where the learner needs no more, else the rows.

        Raises:
            DataError: there are fewer than two classes, or a file cannot be used.
            UsageError: the model was not trained on classes, is adapted already, or has outputs for fewer classes.

        Example:
            >>> import innerloop as il
            >>> from innerloop.storage.save import unsaved
            >>> tasks = il.tasks.open({"x": np.eye(24, 4) + 1.0, "label": np.repeat(np.arange(12), 2)})
            >>> learner = il.two_covariance(4, 2)
            >>> run = unsaved(il.Model(learner, learner.init()), inputs=tasks.inputs, targets=tasks.targets)
            >>> adapted = run.adapt_files({"x": np.eye(4)[:3], "label": ["cup", "plate", "fork"]})
            >>> adapted.predict_files({"x": np.eye(4)[:3]}).prediction.tolist()
            ['cup', 'plate', 'fork']
            >>> adapted.forgetting_classes(["plate"]).enrolled.classes
            ('cup', 'fork')
        """
        return self.adapt_rows(class_rows(data, self.class_schema(), skip_bad=skip_bad), add=add)

    def adapt_rows(self, rows: ClassRows, *, add: bool = False) -> Self:
        """What `adapt_files` does, with rows that were read."""
        if add and self.enrolled is None:
            raise UsageError(f"{self.path} has no classes to add to: adapt it without add first")
        if not add and self.kind != "run":
            raise UsageError(
                f"{self.path} is {self.kind} already: add to its classes, or give the run it is from"
            )
        if not rows.labelled.any():
            raise DataError(
                "no row has the name of its class: give a folder for each class, or the label of rows in a table or "
                "array"
            )
        return self._with_enrolled(self._enrol(rows, beside=self.enrolled if add else None))

    def predict_files(
        self, data: Data, *, none_of_these: float | None = None, skip_bad: bool = False
    ) -> pd.DataFrame:
        """The class of pictures or rows of arrays, by name; what `innerloop predict` does with them.

        Arguments:
            data: as of `adapt_files`; pictures may also lie loose in a folder, or be named one by one. A model that
                is not adapted takes those with a class for support and predicts the others.
            none_of_these: share of the rows of known classes that may be called `none of these` by mistake, such as
                0.05; none is called so unless asked for.
            skip_bad: leave files out that cannot be used.

        Returns:
            A row for each that was predicted: `file` (of arrays `row`, from 1), `prediction` and
            `probability_<class>` for each class. `fit_percentile` says how many percent of the rows of known classes
            fit worse, where that was calibrated: near 0, a row is of none of these classes.

        Raises:
            DataError: nothing is there to predict, or a file cannot be used.
            UsageError: the model was not trained on classes, or has outputs for fewer; or it was calibrated on too few
                classes for this share.
        """
        rows = class_rows(data, self.class_schema(), skip_bad=skip_bad)
        return self.predict_rows(rows, none_of_these=none_of_these)[0]

    def predict_rows(
        self, rows: ClassRows, *, none_of_these: float | None = None
    ) -> tuple[pd.DataFrame, Enrolled]:
        """What `predict_files` does, with rows that were read; and the classes."""
        new, enrolled = self._predict_classes(rows, none_of_these)
        name = "file" if self.inputs is not None and self.inputs.source == "images" else "row"
        named = pd.DataFrame({name: rows.names, **new})
        return named[new["prediction"].notna()].reset_index(drop=True), enrolled

    def forgetting_classes(self, names: Collection[str]) -> Self:
        """The model without some of the classes it was adapted to, as if they had never been enrolled.

        Raises:
            UsageError: there is no such class, or fewer than two would be left.
        """
        if self.enrolled is None:
            raise UsageError(f"{self.path} has no classes to forget: it is {self.kind}")
        return self._with_enrolled(self.enrolled.forgetting(names))

    def _predict_class_frame(self, frame: Frame, none_of_these: float | None) -> Frame:
        """What `Stored.predict_frame` gives for a table of classes that has no task column."""
        from ..tasks.tables.reading import as_frame
        from .tables import with_columns

        if self.inputs is not None or self.schema is None:
            raise UsageError(f"{self.path} was trained on pictures or arrays: use predict_files")
        table = as_frame(frame, reading=self.schema.reading)
        new, enrolled = self._predict_classes(rows_of_frame(table, self.schema), none_of_these)
        new["n_support"] = sum(enrolled.counts)
        if taken := [name for name in new if name in table]:
            raise DataError(f"the table has a column {taken[0]!r} already: rename it or leave it out")
        return with_columns(frame, new.set_axis(table.index))

    def _predict_classes(self, rows: ClassRows, none_of_these: float | None) -> tuple[pd.DataFrame, Enrolled]:
        """Columns of all rows, missing where a row was support, and the classes."""
        if none_of_these is not None:
            require_rate(none_of_these, self.fit, self.path)
        enrolled = self.enrolled
        wanted = np.ones(len(rows.labels), dtype=bool)
        if enrolled is None:
            wanted = ~rows.labelled
            if wanted.all():
                raise DataError(
                    f"{self.path} knows no classes yet and none of these rows has one: adapt it to rows with their "
                    "classes first, or give some among these"
                )
            enrolled = self._enrol(rows)
        blank = np.full((len(wanted), len(enrolled.classes) + 1), np.nan)
        chance, share = blank[:, :-1], blank[:, -1]
        names = np.full(len(wanted), None, dtype=object)
        if wanted.any():
            logits = enrolled.logits(rows.some(wanted).x)
            best = logits.argmax(-1).numpy()
            chance[wanted] = logits.softmax(-1).numpy()
            names[wanted] = np.array(enrolled.classes, dtype=object)[best]
            if self.fit is not None:
                misfit = -logits.max(-1).values.numpy()
                share[wanted] = self.fit.shares(
                    len(enrolled.classes), np.array(enrolled.counts)[best], misfit
                )
        if none_of_these is not None:
            names[share <= none_of_these + _ROUNDING] = NONE_OF_THESE
        columns = {f"probability_{name}": chance[:, place] for place, name in enumerate(enrolled.classes)}
        if self.fit is not None:
            columns["fit_percentile"] = (100 * share).round(1)
        return pd.DataFrame({"prediction": names, **columns}), enrolled

    def _enrol(self, rows: ClassRows, beside: Enrolled | None = None) -> Enrolled:
        outputs = 0 if self.targets is None else self.targets.n_outputs
        return Enrolled.of(self.model, rows, outputs, beside=beside)

    def _with_enrolled(self, enrolled: Enrolled) -> Self:
        config: Config = {
            **self.config,
            "kind": "adapted",
            "settings": {},
            "data": None,
            "scores": None,
            "parent": self.config["parent"] if self.kind == "adapted" else self.sha256,
            "tasks": [],
            "enrolled": enrolled.entries(),
            "versions": versions(),
        }
        return self._with(config=config, sha256="", tasks={}, mask={}, extra={}, log=[], enrolled=enrolled)
