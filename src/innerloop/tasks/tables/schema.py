"""What the columns of a table mean: how a frame becomes arrays, and predictions become columns again.

Everything fitted here (means, scales, levels, classes) comes from meta-train rows and is plain data: a model
directory holds it as JSON and applies it unchanged to rows nobody has seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import softmax
from torch import Tensor

from ...encoders import Encoder
from ...errors import DataError, Guard, ModelFileError
from ..messages import absent_columns, listed
from ..support import Targets
from .cells import as_names, cell_error, is_missing, match_values, sorted_labels
from .columns import (
    Column,
    as_float32,
    constant_in_tasks,
    encode_column,
    fit_column,
    numbers,
    text_column,
    without_rare,
)
from .deciding import GAPS, Reading
from .features import encoder_of, feature_names, task_numbers
from .own_classes import numbers_in_tasks, own_labels
from .shape import PLAIN, Shape
from .targets import fit_target, labelled_rows, some_known, target_kind, target_names

__all__ = ["Schema"]

# kinds of columns that are read as they are written
_NAMED = ("category", "text")


@dataclass(frozen=True)
class Schema:
    """What the columns of a table mean, fitted on meta-train rows.

    Arguments:
        task: the task column; `None` for a table of classes.
        target: the target column.
        kind: `regression` or `classification`.
        columns: the features.
        classes: labels as text; class number `i` is `classes[i]`.
        target_mean: of meta-train (regression).
        target_scale: standard deviation of the meta-train targets (regression).
        more_targets: further target columns (regression), each with its mean and scale.
        decimal: what numbers are written with in files.
        n_way: where each task has classes of its own, the most that one has; `classes` is empty then.
        missing: what stands for a gap in files.
        encoding: of files that are not UTF-8.
        as_written: names and classes are as files have them; before, those of digits were read as numbers.
        skip_rows, header_rows, skip_footer: see `shape.Shape`.
        partial: rows may know some of several targets only; those that they do not know are NaN when encoded.

    Example:
        >>> frame = pd.DataFrame({"site": list("aabb"), "dose": [1, 2, 3, 4], "risk": [0.1, 0.2, 0.4, 0.9]})
        >>> schema = Schema.fit(frame, task="site", target="risk")
        >>> schema.kind, schema.n_features, schema.encode(frame).shape
        ('regression', 1, (4, 1))
        >>> schema.decode(schema.encode_target(frame))["prediction"].round(6).tolist()
        [0.1, 0.2, 0.4, 0.9]
    """

    task: str | None
    target: str
    kind: str
    columns: tuple[Column, ...]
    classes: tuple[str, ...] = ()
    target_mean: float = 0.0
    target_scale: float = 1.0
    more_targets: tuple[Column, ...] = ()
    decimal: str = "."
    n_way: int = 0
    missing: tuple[str, ...] = ()
    encoding: str = ""
    as_written: bool = False
    partial: bool = False
    skip_rows: int = 0
    header_rows: int = 1
    skip_footer: int | None = None

    @staticmethod
    def fit(
        frame: pd.DataFrame,
        *,
        task: str | None,
        target: str | Sequence[str],
        whole: pd.DataFrame | None = None,
        features: Sequence[str] | None = None,
        ignore: Sequence[str] = (),
        kind: str | None = None,
        categorical: Sequence[str] = (),
        classes: Sequence[str] | None = None,
        text: Sequence[str] = (),
        encoder: Encoder | None = None,
        date_format: Sequence[str] = (),
        decimal: str = ".",
        missing: Sequence[str] = (),
        encoding: str | None = None,
        shape: Shape = PLAIN,
        rare: int = 0,
        guard: Guard = nullcontext,
    ) -> Schema:
        """Find out what the columns mean.

        Arguments, besides those that `table` explains:
            frame: meta-train rows; rows without a target count for the features only.
            whole: the table that these rows are from, which says what kind of values a column holds.
            classes: labels, where more are known than these rows hold.
            guard: what goes around each column; `check` gives one that collects the errors.

        Raises:
            DataError: a column is missing or holds what it cannot hold.
            UsageError: an argument has no meaning.
        """
        names, categorical, text = target_names(target), as_names(categorical), as_names(text)
        encoder = encoder_of(text, encoder)
        used = feature_names(
            frame, task=task, target=names, features=None if features is None else [*as_names(features), *text],
            ignore=as_names(ignore), categorical=[*categorical, *text],
        )  # fmt: skip
        codes = None if task is None else task_numbers(frame, task)
        columns: list[Column] = []
        for name in used:
            if encoder is not None and name in text:
                with guard():
                    columns.append(text_column(frame, name, encoder))
                continue
            with guard():
                column = fit_column(
                    frame, name, whole=whole, task=task, categorical=name in categorical,
                    date_format=as_names(date_format),
                )  # fmt: skip
                same = codes is not None and constant_in_tasks(frame, name, codes)
                if codes is not None:
                    # of few tasks, a level that all of them have is not rare
                    column = without_rare(column, frame, codes, min(rare, int(codes.max(initial=-1)) + 1))
                columns.append(replace(column, constant_in_task=same))
        kind = target_kind(frame, target, kind, task=task)
        written: dict[str, Any] = {
            "decimal": decimal, "missing": tuple(as_names(missing)), "encoding": encoding or "", "as_written": True,
            **shape._asdict(),
        }  # fmt: skip
        if kind == "classification":
            known = tuple(classes if classes is not None else sorted_labels(frame[names[0]]))
            if len(known) < 2:
                only = repr(known[0]) if known else "none"
                raise DataError(
                    f"target {names[0]!r} has one class or none ({only}): two or more are needed",
                    column=names[0],
                )
            return Schema(task, names[0], kind, tuple(columns), known, **written)
        first, *more = (fit_target(frame, name, task) for name in names)
        return Schema(
            task, first.name, kind, tuple(columns), (), first.mean, first.scale, tuple(more),
            partial=some_known(frame if whole is None else whole, names), **written,
        )  # fmt: skip

    @property
    def reading(self) -> Reading:
        """How the cells of another table are read for this schema."""
        of_classes = self.task is None and not self.classes
        ids = (self.target,) if of_classes else (self.task,) if self.task is not None else ()
        if not self.as_written:  # a model directory from before: digits were numbers, and NA always a gap
            return Reading(ids=ids, decimal=self.decimal, missing=GAPS)
        names = [column.name for column in self.columns if column.kind in _NAMED]
        values = [column.name for column in self.columns if column.kind not in _NAMED]
        labels = self.kind == "classification"
        return Reading(
            ids=ids,
            names=(*names, *((self.target,) if labels else ())),
            values=(*values, *(() if labels else (column.name for column in self.target_columns))),
            target=self.target,
            classes=self.classes,
            decimal=self.decimal,
            missing=self.missing,
            encoding=self.encoding or None,
            shape=Shape(self.skip_rows, self.header_rows, self.skip_footer),
        )

    @property
    def n_features(self) -> int:
        """Features `F` that the columns become."""
        return sum(column.width for column in self.columns)

    @property
    def feature_names(self) -> tuple[str, ...]:
        """A name for each of the features `F`: that of its column, with the level of a category."""
        return tuple(name for column in self.columns for name in column.feature_names)

    @property
    def n_outputs(self) -> int:
        """Outputs a model needs."""
        if self.kind == "regression":
            return len(self.target_columns)
        return self.n_way or len(self.classes)

    @property
    def target_columns(self) -> tuple[Column, ...]:
        """Every target with its mean and scale; one for classification."""
        return (Column(self.target, "number", self.target_mean, self.target_scale), *self.more_targets)

    @property
    def targets(self) -> Targets:
        """What the encoded targets are."""
        if self.kind == "classification":
            return Targets(self.kind, self.n_outputs)
        scales = tuple(column.scale for column in self.target_columns)
        return Targets(self.kind, len(scales), scales, (1.0,) * len(scales), self.partial)

    @property
    def task_columns(self) -> tuple[str, ...]:
        """Names of the columns that are constant within every task."""
        return tuple(column.name for column in self.columns if column.constant_in_task)

    def labelled(self, frame: pd.DataFrame) -> np.ndarray:
        """Rows with every target, or, where rows may be `partial`, with any, `(n,)` bool.

        Without such a column no row has that target.
        """
        names = [column.name for column in self.target_columns]
        if self.partial:
            return np.asarray(self.known(frame).any(axis=1))
        if any(name not in frame for name in names):
            return np.zeros(len(frame), dtype=bool)
        return labelled_rows(frame, names)

    def unlabelled(self, frame: pd.DataFrame) -> np.ndarray:
        """Rows that lack a target, `(n,)` bool: all but the labelled ones, and those that are labelled in part."""
        return np.asarray(~self.known(frame).all(axis=1))

    def known(self, frame: pd.DataFrame) -> np.ndarray:
        """Which targets each row has, `(n, C)` bool."""
        nothing = np.zeros(len(frame), dtype=bool)
        names = [column.name for column in self.target_columns]
        return np.stack([~is_missing(frame[n]) if n in frame else nothing for n in names], axis=1)

    def gaps(self, frame: pd.DataFrame) -> dict[str, int]:
        """Columns that are complete in meta-train but not here, and how many gaps `encode` fills.

        A gap among names is none of them, and is not filled.
        """
        filled = [c.name for c in self.columns if not c.missing and c.kind not in _NAMED]
        counts = {name: int(is_missing(frame[name]).sum()) for name in filled}
        return {name: count for name, count in counts.items() if count}

    def unseen(self, frame: pd.DataFrame) -> dict[str, int]:
        """Columns with categories that meta-train does not have, and in how many rows."""
        counts = {}
        for column in self.columns:
            if column.kind == "category":
                level, _, codes = match_values(frame[column.name], column.levels)
                counts[column.name] = int(((level < 0) & (codes >= 0)).sum())
        return {name: count for name, count in counts.items() if count}

    def encode(self, frame: pd.DataFrame) -> np.ndarray:
        """Features `(n, F)` as finite float32 numbers; columns are found by name, others are left alone.

        Raises:
            DataError: a column is missing, or a value is not what its column holds.
        """
        absent = [column.name for column in self.columns if column.name not in frame]
        if absent:
            raise DataError(absent_columns(absent, frame))
        out = np.empty((len(frame), self.n_features), dtype=np.float32)
        features = (values for column in self.columns for values in encode_column(frame, column, self.task))
        for number, values in enumerate(features):
            out[:, number] = values
        return out

    def encode_target(self, frame: pd.DataFrame) -> np.ndarray:
        """Targets of labelled rows: `(n, C)` standardised float32 for regression, `(n,)` int64 class numbers.

        Where rows may be `partial`, NaN stands for a target that a row does not know.

        Raises:
            DataError: a target is missing, not a number, a class that meta-train does not have, or one more
                than tasks with classes of their own may have.
        """
        if self.partial:
            return np.stack([self._known_values(frame, column) for column in self.target_columns], axis=1)
        for column in self.target_columns:
            if column.name not in frame:
                raise DataError(absent_columns([column.name], frame))
            gaps = np.flatnonzero(is_missing(frame[column.name]))
            if len(gaps):
                message = f"no value in target {column.name!r}"
                raise cell_error(frame, gaps[0], message, column=column.name, task=self.task)
        if self.kind == "regression":
            return np.stack([self._standardised(frame, column) for column in self.target_columns], axis=1)
        if self.n_way:
            return self._numbered_in_tasks(frame)
        classes, texts, codes = match_values(frame[self.target], self.classes)
        bad = np.flatnonzero(classes < 0)
        if len(bad):
            raise cell_error(
                frame, bad[0],
                f"class {texts[codes[bad[0]]]!r} of target {self.target!r} is none of {listed(self.classes)}: "
                "correct it, or train on tasks with it",
                column=self.target, task=self.task,
            )  # fmt: skip
        return classes

    def own_labels(self, frame: pd.DataFrame) -> dict[str, tuple[str, ...]]:
        """The classes of each task by its labelled rows, where tasks have classes of their own.

        Class number `i` of a task is the `i`-th of them, as `encode_target` numbers the same rows.
        """
        return own_labels(frame[self.labelled(frame)], str(self.task), self.target)

    def _numbered_in_tasks(self, frame: pd.DataFrame) -> np.ndarray:
        """The number of each row's class among those of its task, in the order of `sorted_labels`."""
        number = numbers_in_tasks(frame, str(self.task), self.target)
        bad = np.flatnonzero(number >= self.n_way)
        if len(bad):
            raise cell_error(
                frame, bad[0],
                f"its task has more than {self.n_way} classes of {self.target!r}, the most that a task had in "
                "training: leave some out, or train on tasks with as many",
                column=self.target, task=self.task,
            )  # fmt: skip
        return number

    def _known_values(self, frame: pd.DataFrame, column: Column) -> np.ndarray:
        out = np.full(len(frame), np.nan, dtype=np.float32)
        if column.name in frame:
            known = np.flatnonzero(~is_missing(frame[column.name]))
            out[known] = self._standardised(frame.iloc[known], column)
        return out

    def _standardised(self, frame: pd.DataFrame, column: Column) -> np.ndarray:
        values = (numbers(frame, column.name, self.task) - column.mean) / column.scale
        return as_float32(values, frame, column.name, self.task)

    def decode(
        self, prediction: Tensor | np.ndarray, labels: Sequence[Sequence[str]] = ()
    ) -> dict[str, np.ndarray]:
        """Predictions as columns of a table.

        Arguments:
            prediction: `(n, C)` standardised values, or `(n, C)` logits.
            labels: the classes of each row's task, where tasks have classes of their own; a row of a task
                without any has no prediction.

        Returns:
            `prediction` in natural units, or `prediction_<target>` for each of several; or `prediction`
            as label text, and `probability_<class>` for each, or its `probability` where tasks have their own.
        """
        values = prediction.detach().cpu().numpy() if isinstance(prediction, Tensor) else prediction
        values = np.asarray(values, dtype=np.float64)
        if values.ndim != 2 or values.shape[1] != self.n_outputs:
            raise DataError(f"predictions have shape {values.shape}, expected (rows, {self.n_outputs})")
        if self.kind == "regression":
            named = {
                f"prediction_{column.name}" if self.more_targets else "prediction": column
                for column in self.target_columns
            }
            return {
                name: own * column.scale + column.mean
                for (name, column), own in zip(named.items(), values.T, strict=True)
            }
        shares = softmax(values, axis=1)
        if self.n_way:
            pairs = zip(labels, values.argmax(axis=1), strict=True)
            chosen = [own[number] if number < len(own) else None for own, number in pairs]
            sure = np.where([name is None for name in chosen], np.nan, shares.max(axis=1))
            return {"prediction": np.array(chosen, dtype=object), "probability": sure}
        names = np.array(self.classes, dtype=object)
        columns = {f"probability_{name}": shares[:, i] for i, name in enumerate(self.classes)}
        return {"prediction": names[values.argmax(axis=1)], **columns}

    def to_config(self) -> dict[str, Any]:
        """Plain data that JSON holds exactly."""
        return asdict(self)

    @staticmethod
    def from_config(config: dict[str, Any]) -> Schema:
        """The schema again.

        Raises:
            ModelFileError: the data is not a schema.
        """
        try:
            lists = {
                "columns": tuple(_column(entry) for entry in config["columns"]),
                "classes": tuple(config["classes"]),
                "more_targets": tuple(_column(entry) for entry in config.get("more_targets", ())),
                "missing": tuple(config.get("missing", ())),
            }
            return Schema(**{**config, **lists})
        except (KeyError, TypeError) as error:
            raise ModelFileError(f"the stored schema is damaged: {error}") from None


def _column(config: dict[str, Any]) -> Column:
    return Column(
        **{**config, "levels": tuple(config["levels"]), "formats": tuple(config.get("formats", ()))}
    )
