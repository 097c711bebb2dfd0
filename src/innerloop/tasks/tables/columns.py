"""What one column of features means: fitted on meta-train, stored as data, applied unchanged later."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from ...encoders import Encoder, encode_texts, encoder, require_features
from ...errors import DataError
from ..messages import listed, quoted
from . import dates
from .cells import (
    cell_error,
    factorize,
    is_missing,
    is_number,
    match_values,
    parse,
    refuse_unsupported,
    sorted_labels,
    truth,
)
from .numbers import refuse_stray_text

__all__ = [
    "Column",
    "as_float32",
    "constant_in_tasks",
    "encode_column",
    "fit_column",
    "kind_of",
    "moments",
    "numbers",
    "text_column",
    "without_rare",
]

_MAX_LEVELS = 100


@dataclass(frozen=True)
class Column:
    """What one column of features means.

    Arguments:
        name: its name.
        kind: `number` (standardised), `date` (days, standardised), `flag` (0 or 1), `category` (one-hot, 0
            in all columns for a level that meta-train does not have) or `text` (features of an encoder, as they
            come).
        mean: mean over meta-train, by which a missing value is imputed.
        scale: standard deviation over meta-train, 1 for a constant column.
        levels: of a category.
        missing: meta-train has missing values, so an indicator column follows.
        formats: of a date written as text, `ISO` or as `strptime` has them.
        merged: levels of a category that too few tasks have: they count as none of its levels.
        constant_in_task: every task of meta-train has one value, such as the age of a patient.
    """

    name: str
    kind: str
    mean: float = 0.0
    scale: float = 1.0
    levels: tuple[str, ...] = ()
    missing: bool = False
    formats: tuple[str, ...] = ()
    constant_in_task: bool = False
    merged: int = 0
    encoder: str = ""
    weights: str = ""
    features: int = 0

    @property
    def width(self) -> int:
        """Features it becomes."""
        if self.kind == "text":
            return self.features
        return len(self.levels) if self.kind == "category" else 1 + self.missing

    @property
    def feature_names(self) -> tuple[str, ...]:
        """A name for each of them."""
        if self.kind == "category":
            return tuple(f"{self.name}={level}" for level in self.levels)
        if self.kind == "text":
            return tuple(f"{self.name}, {self.encoder} {number}" for number in range(self.features))
        return (self.name, *((f"{self.name} is missing",) if self.missing else ()))


def fit_column(
    frame: pd.DataFrame,
    name: str,
    *,
    task: str | None,
    whole: pd.DataFrame | None = None,
    categorical: bool = False,
    date_format: Sequence[str] = (),
) -> Column:
    """Find out what a column means: its kind from the `whole` table, its numbers from meta-train rows.

    `categorical` says that its values are names; formats of dates are tried before those that are recognised.

    Raises:
        DataError: a value is not what the column holds, or dates are ambiguous.

    Example:
        >>> fit_column(pd.DataFrame({"dose": [1.0, 3.0]}), "dose", task=None)
        Column(name='dose', kind='number', mean=2.0, scale=1.0, levels=(), missing=False, formats=(), ...)
    """
    column, whole = frame[name], frame if whole is None else whole
    named = categorical or isinstance(column.dtype, pd.CategoricalDtype)
    kind, formats = ("category", ()) if named else kind_of(whole, name, task, date_format)
    if kind == "category":
        levels, every = sorted_labels(column), sorted_labels(whole[name])
        if len(every) > _MAX_LEVELS and not categorical:
            raise DataError(
                f"column {name!r} is text with {len(every)} different values ({listed(every, 3)}): leave "
                f"it out (--ignore {quoted(name)}), or say that each value really is a name "
                f"(--categorical {quoted(name)})",
                column=name,
            )
        return Column(name, kind, levels=levels)
    values = numbers(frame, name, task, kind=kind, formats=formats)
    gaps = np.isnan(values)
    present = values[~gaps]
    if not len(present):
        return Column(name, kind, missing=True, formats=formats)
    mean, scale = moments(present)
    return Column(
        name, kind, mean, 1.0 if kind == "flag" else scale or 1.0, missing=bool(gaps.any()), formats=formats
    )


def text_column(frame: pd.DataFrame, name: str, encoder: Encoder) -> Column:
    """A column of texts, for the features that an encoder makes of them.

    Example:
        >>> lengths = Encoder("lengths", "texts", lambda texts: [[len(text)] for text in texts])
        >>> text_column(pd.DataFrame({"note": ["one"]}), "note", lengths).width
        1
    """
    features = encode_texts(_texts(frame.iloc[:1], name, None), encoder)
    return Column(name, "text", encoder=encoder.name, weights=encoder.weights, features=features.shape[1])


def _texts(frame: pd.DataFrame, name: str, task: str | None) -> list[str]:
    """The texts of a column; a gap is none."""
    gaps = np.flatnonzero(is_missing(frame[name]))
    if len(gaps):
        message = f"no text in column {name!r}: fill it in, or leave the row out"
        raise cell_error(frame, gaps[0], message, column=name, task=task)
    return [str(value) for value in frame[name]]


def _encoded(frame: pd.DataFrame, column: Column, task: str | None) -> np.ndarray:
    """The features `(n, F)` of a column of texts."""
    if not len(frame):
        return np.zeros((0, column.features), np.float32)
    known = encoder(column.encoder, weights=column.weights)
    rows = encode_texts(_texts(frame, column.name, task), known)
    require_features(known, rows, column.features)
    return rows


def constant_in_tasks(frame: pd.DataFrame, name: str, tasks: np.ndarray) -> bool:
    """Each task has one value in this column, and tasks differ; `tasks` `(n,)` numbers each row's task.

    Example:
        >>> frame = pd.DataFrame({"age": [50, 50, 61, 61], "dose": [1, 2, 1, 2]})
        >>> [constant_in_tasks(frame, name, np.array([0, 0, 1, 1])) for name in frame]
        [True, False]
    """
    column = frame[name]
    if is_number(column):
        # as they are: numbering millions of different values takes several times their memory
        codes = np.nan_to_num(column.to_numpy(np.float64, na_value=np.nan), nan=-np.inf)
    else:
        codes, _ = factorize(column)
    first = np.zeros(int(tasks.max(initial=0)) + 1, dtype=codes.dtype)
    first[tasks[::-1]] = codes[::-1]
    return bool((codes == first[tasks]).all() and (codes != codes[:1]).any())


def without_rare(column: Column, frame: pd.DataFrame, tasks: np.ndarray, least: int) -> Column:
    """The column without the levels that fewer than `least` tasks have; `tasks` `(n,)` numbers each row's task.

    Example:
        >>> frame = pd.DataFrame({"drug": list("aaba")})
        >>> column = fit_column(frame, "drug", task=None)
        >>> without_rare(column, frame, np.array([0, 1, 1, 2]), 2).levels
        ('a',)
    """
    if column.kind != "category":
        return column
    level, _, _ = match_values(frame[column.name], column.levels)
    pairs = np.unique(np.stack([level, tasks]), axis=1)[0]
    count = np.bincount(pairs[pairs >= 0], minlength=len(column.levels))
    kept = tuple(name for name, number in zip(column.levels, count.tolist(), strict=True) if number >= least)
    return replace(column, levels=kept, merged=len(column.levels) - len(kept))


def encode_column(frame: pd.DataFrame, column: Column, task: str | None) -> Iterator[np.ndarray]:
    """The features `(n,)` that a column becomes.

    Raises:
        DataError: a value is not what the column holds.
    """
    if column.kind == "category":
        level, _, _ = match_values(frame[column.name], column.levels)
        for number in range(len(column.levels)):
            yield level == number
        return
    if column.kind == "text":
        yield from _encoded(frame, column, task).T
        return
    values = numbers(frame, column.name, task, kind=column.kind, formats=column.formats)
    gaps = np.isnan(values)
    values = np.where(gaps, column.mean, values)
    if column.kind != "flag":
        values = values / column.scale - column.mean / column.scale
    yield as_float32(values, frame, column.name, task)
    if column.missing:
        yield gaps


def numbers(
    frame: pd.DataFrame, name: str, task: str | None, *, kind: str = "number", formats: Sequence[str] = ()
) -> np.ndarray:
    """A column as float64, NaN where a value is missing; refuses what is no finite number, date or flag."""
    column = frame[name]
    if kind != "date" and (is_number(column) or pd.api.types.is_bool_dtype(column.dtype)):
        out = column.to_numpy(np.float64, na_value=np.nan)
    else:
        codes, values = factorize(column)
        if kind == "date":
            parsed = [dates.days(value, formats) for value in values]
        else:
            refuse_unsupported(column, values)
            parsed = [truth(value) if kind == "flag" else parse(value) for value in values]
        out = np.array([*(np.inf if value is None else value for value in parsed), np.nan])[codes]
    allowed = np.isnan(out) | ((out == 0) | (out == 1) if kind == "flag" else np.isfinite(out))
    if not allowed.all():
        bad = np.flatnonzero(~allowed)
        wanted = {"flag": "True or False", "date": f"a date ({' or '.join(map(dates.in_words, formats))})"}
        more = f" ({len(bad)} such cells)" if len(bad) > 1 else ""
        raise cell_error(
            frame, bad[0],
            f"{str(column.iloc[bad[0]])!r} in column {name!r} is not {wanted.get(kind, 'a finite number')}{more}: "
            "correct it, or leave it empty if it is unknown",
            column=name, task=task,
        )  # fmt: skip
    return out


def moments(values: np.ndarray) -> tuple[float, float]:
    """Mean and standard deviation, 0 where rounding is all there is; no overflow at 1e300."""
    largest = float(np.abs(values).max())
    if values.min() == values.max():
        return float(values[0]), 0.0
    unit = values / largest
    mean, scale = float(unit.mean()), float(unit.std())
    return mean * largest, scale * largest if scale > 1e-15 else 0.0


def as_float32(values: np.ndarray, frame: pd.DataFrame, name: str, task: str | None) -> np.ndarray:
    """The same in single precision; refuses what it cannot hold."""
    bad = np.flatnonzero(~(np.abs(values) < np.finfo(np.float32).max))
    if len(bad):
        raise cell_error(
            frame, bad[0],
            f"{frame[name].iloc[bad[0]]!r} in column {name!r} is too far from the meta-train values to be "
            "represented: correct it, or transform the column (logarithm)",
            column=name, task=task,
        )  # fmt: skip
    return values.astype(np.float32)


def kind_of(
    frame: pd.DataFrame, name: str, task: str | None, date_format: Sequence[str]
) -> tuple[str, tuple[str, ...]]:
    """Kind and date formats; refuses a column of numbers or dates with some text in it, and unclear dates."""
    column = frame[name]
    if is_number(column):
        return "number", ()
    _, values = factorize(column)
    given = tuple(dates.ISO if form == "%Y-%m-%d" else form for form in date_format)
    read = sum(dates.days(value, given) is not None for value in values) if given else 0
    formats = given if 2 * read > len(values) else dates.formats_of(values)
    if formats:
        _refuse_unclear_dates(frame, name, task, formats, given)
        return "date", formats
    refuse_unsupported(column, values)
    if values and all(truth(value) in (0, 1) for value in values):
        # 0 and 1 alone are numbers, beside a truth value they are what it is
        return ("number" if all(parse(value) is not None for value in values) else "flag"), ()
    if all(parse(value) is not None for value in values):
        return "number", ()
    refuse_stray_text(frame, name, task)
    return "category", ()


def _refuse_unclear_dates(
    frame: pd.DataFrame, name: str, task: str | None, formats: Sequence[str], given: Sequence[str]
) -> None:
    """Refuse dates that are two days by two formats, and two ways of writing that nobody has named."""
    if formats == given:
        return
    codes, values = factorize(frame[name])

    def refuse(number: int, message: str) -> None:
        text = f"{values[number]!r} in column {name!r} {message}"
        raise cell_error(frame, np.argmax(codes == number), text, column=name, task=task)

    for number, value in enumerate(values):
        if both := [dates.in_words(form) for form in dates.ambiguous(value, formats)]:
            ways = " or ".join(f"--date-format {form}" for form in dates.ambiguous(value, formats)[:2])
            refuse(number, f"is {both[0]} or {both[1]}: say which ({ways})")
    for number, value in enumerate(values):
        if isinstance(value, str) and dates.days(value, formats[:1]) is None and dates.days(value, formats):
            named = ",".join(map(dates.option, formats))
            refuse(
                number,
                f"is not {dates.in_words(formats[0])} as most dates there are: write all dates one way, or name "
                f"both (--date-format {named})",
            )
