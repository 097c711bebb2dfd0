"""From text to values: which columns of a file hold numbers, which hold names, and what counts as a gap.

A file is read as text. What a column means is decided here, where it is known what the column is for: ids, names and
classes stay as they are written, and `NA` is a gap only in a column of numbers, dates or truth values.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from ..messages import quoted
from ..support import SupportChoice
from . import dates
from .cells import as_names, cell_error, parse, truth
from .numbers import holds_numbers, kinds_of, with_points
from .shape import PLAIN, Shape

__all__ = ["GAPS", "Reading", "decide", "with_gaps"]

# spellings of "no value" in a column of numbers, dates or truth values
GAPS = ("NA", "N/A", "n/a", "NaN", "nan", "-nan", "NULL", "null", "None", "none", "<NA>", "#N/A")


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How the cells of a table are read.

    Arguments:
        ids: columns of ids, of which only an empty cell is a gap.
        all_ids: every column holds ids, as in the file of a split.
        names: columns whose values are names, never numbers.
        values: columns that are known to hold numbers, dates or truth values.
        target: a column that holds classes if it has two values, and numbers if it has more numbers.
        classes: of a target whose classes are known: what spells a gap and is none of them is one.
        date_format: formats of dates, as `strptime` has them.
        decimal: what numbers are written with, `.` or `,`.
        missing: what stands for a gap in every column that holds no ids.
        encoding: of text that is not UTF-8.
        sheet: of a spreadsheet.
        shape: lines above the names of columns, of these names, and below the rows.
    """

    ids: tuple[str, ...] = ()
    all_ids: bool = False
    names: tuple[str, ...] = ()
    values: tuple[str, ...] = ()
    target: str | None = None
    classes: tuple[str, ...] = ()
    date_format: tuple[str, ...] = ()
    decimal: str = "."
    missing: tuple[str, ...] = ()
    encoding: str | None = None
    sheet: str | None = None
    shape: Shape = PLAIN

    @staticmethod
    def of(options: Mapping[str, Any]) -> Reading:
        """The reading that the options of `tasks.open` ask for.

        Example:
            >>> Reading.of({"task": "site", "target": "grade", "kind": "classification"}).names
            ('grade',)
        """
        targets, task, split_by = (
            as_names(options.get("target")),
            options.get("task"),
            options.get("split_by"),
        )
        choice = SupportChoice.parse(options.get("support") or "random")
        block = [choice.column] if choice.how == "block" and choice.column else []
        of_classes = options.get("n_way") is not None and task is None
        labels = targets if options.get("kind") == "classification" and not of_classes else []
        return Reading(
            ids=(*as_names(task), *as_names(split_by), *(targets if of_classes else [])),
            names=(*as_names(options.get("categorical")), *as_names(options.get("text")), *block, *labels),
            target=targets[0] if len(targets) == 1 and options.get("kind") is None else None,
            date_format=tuple(as_names(options.get("date_format"))),
            decimal=options.get("decimal") or ".",
            missing=tuple(as_names(options.get("missing"))),
            encoding=options.get("encoding"),
            sheet=options.get("sheet"),
            shape=Shape(
                options.get("skip_rows") or 0,
                1 if options.get("header_rows") is None else options["header_rows"],
                options.get("skip_footer"),
            ),
        )

    @property
    def task(self) -> str | None:
        """The first column of ids, by which messages name a row."""
        return self.ids[0] if self.ids else None


@dataclass
class _Told:
    """What was decided, for notes: how many cells of which text, by column."""

    gaps: dict[str, Counter[str]] = field(default_factory=dict)
    names: dict[str, Counter[str]] = field(default_factory=dict)
    zeros: dict[str, list[str]] = field(default_factory=dict)

    def notes(self) -> list[str]:
        notes = []
        if self.gaps:
            notes.append(f"taken for gaps: {_counted(self.gaps)}")
        for name, counts in self.names.items():
            notes.append(
                f"names as others of their column: {_counted({name: counts})}; if they stand for gaps, say so "
                f"(--missing {quoted(*sorted(counts))})"
            )
        for name, texts in self.zeros.items():
            notes.append(
                f"{texts[0]!r} in {name!r} was read as a number, as in {len(texts)} such cells; if they are names, say "
                f"so (--categorical {quoted(name)}; of a target, --kind classification)"
            )
        return notes


def _counted(counts: Mapping[str, Counter[str]], most: int = 8) -> str:
    parts = [
        f"{n} {text!r} in {name!r}" for name, texts in counts.items() for text, n in sorted(texts.items())
    ]
    return ", ".join(parts[:most]) + (f" and {len(parts) - most} more" if len(parts) > most else "")


def decide(frame: pd.DataFrame, reading: Reading) -> pd.DataFrame:
    """A frame of text, gaps being empty, as numbers, truth values and names; its notes say what was decided.

    Raises:
        DataError: a number is not written as `reading.decimal` says.

    Example:
        >>> text = pd.DataFrame({"land": ["NA", "DE"], "dose": ["1.5", "NA"]})
        >>> decide(text, Reading(ids=("land",))).to_dict("list")
        {'land': ['NA', 'DE'], 'dose': [1.5, nan]}
    """
    told = _Told()
    columns: dict[str, pd.Series] = {}
    for name in frame.columns:
        column = frame[name]
        if reading.all_ids or name in reading.ids:
            columns[name] = column.mask(column == "")
        elif name in reading.names:
            columns[name] = _names(column, reading, told)
        else:
            columns[name] = _plain_numbers(column, reading, told)
            if columns[name] is column:
                columns[name] = _value_by_value(frame, column, reading, told)
    out = pd.DataFrame(columns, index=frame.index)
    out.attrs = {**frame.attrs, "decimal": reading.decimal}
    out.attrs["notes"] = (*frame.attrs.get("notes", ()), *told.notes())
    return out


def with_gaps(frame: pd.DataFrame, reading: Reading) -> pd.DataFrame:
    """A frame of any library's types with what `reading.missing` declares as gaps, in columns that hold text."""
    if not reading.missing:
        return frame
    told, changed = _Told(), dict[str, pd.Series]()
    for name in frame.columns:
        column = frame[name]
        if name in reading.ids or not (
            column.dtype == object or isinstance(column.dtype, pd.StringDtype | pd.CategoricalDtype)
        ):
            continue
        gaps = column.isin(reading.missing)
        if gaps.any():
            told.gaps[str(name)] = Counter(map(str, column[gaps]))
            changed[str(name)] = column.mask(gaps)
    if not changed:
        return frame
    attributes = frame.attrs
    frame = frame.assign(**changed)
    frame.attrs = {**attributes, "notes": (*attributes.get("notes", ()), *told.notes())}
    return frame


def _names(column: pd.Series, reading: Reading, told: _Told) -> pd.Series:
    """A column of names: its gaps are empty cells and what was declared."""
    marks = [*reading.missing]
    if reading.classes and column.name == reading.target:
        marks += [mark for mark in GAPS if mark not in reading.classes]
    gaps = column.isin(marks)
    if gaps.any():
        told.gaps[str(column.name)] = Counter(column[gaps].tolist())
    return column.mask(gaps | (column == ""))


def _plain_numbers(column: pd.Series, reading: Reading, told: _Told) -> pd.Series:
    """The column as numbers, where each cell is a plain number or a gap; otherwise the column itself."""
    name = str(column.name)
    gaps = column.isin(["", *GAPS, *reading.missing]).to_numpy(dtype=bool)
    texts = column[~gaps] if gaps.any() else column
    values = _arrow_numbers(texts) if reading.decimal == "." else None
    if values is None:
        values = _python_numbers(texts.to_numpy(dtype=object), reading.decimal)
    if values is None:
        return column
    _tell(told.gaps, name, column[gaps])
    if name == reading.target and len(np.unique(values)) == 2 == texts.nunique():
        return column.mask(gaps)  # two values are classes, and these stay as they are written
    if values.dtype == np.int64 and (zeros := texts[texts.str.match(r"\s*[+-]?0\d")].tolist()):
        told.zeros[name] = zeros
    return _stored(values, gaps, column.index)


def _arrow_numbers(texts: pd.Series) -> np.ndarray | None:
    """Plain numbers as int64 if all are whole, else as float64; `None` if one is none, or pyarrow is not there."""
    if not isinstance(texts.dtype, pd.StringDtype) or texts.dtype.storage != "pyarrow" or not len(texts):
        return None
    import pyarrow

    for kind in (pyarrow.int64(), pyarrow.float64()):
        with contextlib.suppress(pyarrow.ArrowInvalid):
            values: np.ndarray = pyarrow.array(texts).cast(kind).to_numpy()
            return None if np.isnan(values).any() else values
    return None


def _python_numbers(texts: np.ndarray, decimal: str) -> np.ndarray | None:
    """The same with Python's numbers, and with decimal commas."""
    joined = "\n".join(texts)
    if "_" in joined or not joined.isascii() or (decimal == "," and "." in joined):
        return None
    numbers = joined.replace(",", ".").split("\n") if decimal == "," and len(texts) else texts.tolist()
    if len(numbers) != len(texts):
        return None
    try:
        values = np.asarray(numbers, dtype=object).astype(np.float64)
    except ValueError:
        return None
    return None if np.isnan(values).any() else _whole(values, numbers)


def _whole(values: np.ndarray, texts: Sequence[str]) -> np.ndarray:
    """Numbers as int64 where all are written as whole numbers that fit."""
    if not len(texts) or any(mark in text for text in texts for mark in ".,eEfF"):
        return values
    exact = [int(text) for text in texts]
    return np.array(exact, dtype=np.int64) if all(-(2**63) <= n < 2**63 for n in exact) else values


def _tell(told: dict[str, Counter[str]], name: str, cells: pd.Series) -> None:
    """Count cells that hold something and were taken for a gap."""
    counts = Counter(text for text in cells.tolist() if text.strip())
    if counts:
        told[name] = counts


def _stored(values: np.ndarray, gaps: np.ndarray, index: pd.Index) -> pd.Series:
    """Numbers `(m,)` of the rows without a gap as a column."""
    if not gaps.any():
        return pd.Series(values, index=index)
    out = np.full(len(gaps), 0 if values.dtype == np.int64 else np.nan, dtype=values.dtype)
    out[~gaps] = values
    return pd.Series(pd.arrays.IntegerArray(out, gaps) if values.dtype == np.int64 else out, index=index)


def _value_by_value(frame: pd.DataFrame, column: pd.Series, reading: Reading, told: _Told) -> pd.Series:
    """A column that is more than plain numbers: what it holds is decided by its different values."""
    name = str(column.name)
    codes, uniques = pd.factorize(column)
    texts = [str(text) for text in uniques]
    plain = [text.strip() for text in texts]
    empty = np.array([not text or text in reading.missing for text in plain], dtype=bool)
    marks = np.array([text in GAPS for text in plain], dtype=bool) & ~empty
    held = np.flatnonzero(~empty & ~marks)
    numeral = [plain[number] for number in held]
    if reading.decimal == ",":
        numeral, bad = with_points(numeral)
        if bad is not None:
            raise cell_error(
                frame, np.argmax(codes == held[bad]),
                f"{texts[held[bad]]!r} in column {name!r} has a point, but numbers have decimal commas here "
                "(--decimal ,): write all numbers one way",
                column=name, task=reading.task,
            )  # fmt: skip
    parsed = [parse(text) for text in numeral]
    rows = np.bincount(codes, minlength=len(texts))
    plain_numbers = [number for number in parsed if number is not None]
    if len(plain_numbers) == len(parsed):
        return _numbers_by_value(column, codes, held, numeral, plain_numbers, told)
    of_values = name in reading.values or _holds_values(numeral, parsed, rows[held], reading.date_format)
    gaps = empty | marks if of_values else empty
    words: list[object] = list(texts)
    if of_values:
        for number, text in zip(held, numeral, strict=True):
            words[number] = text if parse(text) is not None else texts[number]
        if {words[number] for number in held} <= {"True", "False"}:
            words = [word == "True" for word in words]
    elif marks.any():
        told.names[name] = Counter({texts[n]: int(rows[n]) for n in np.flatnonzero(marks)})
    _tell(told.gaps, name, column[gaps[codes]])
    return _from_words(words, gaps, codes, column)


def _from_words(words: Sequence[object], gaps: np.ndarray, codes: np.ndarray, column: pd.Series) -> pd.Series:
    """A column like `column` whose value in row `i` is `words[codes[i]]`, or a gap."""
    if all(isinstance(word, bool) for word in words):
        flags, missing = np.array(words, dtype=bool)[codes], gaps[codes]
        values = pd.arrays.BooleanArray(flags, missing) if missing.any() else flags
        return pd.Series(values, index=column.index)
    each = [None if gap else word for word, gap in zip(words, gaps, strict=True)]
    return pd.Series(each, dtype=object).astype(column.dtype).take(codes).set_axis(column.index)


def _numbers_by_value(
    column: pd.Series,
    codes: np.ndarray,
    held: np.ndarray,
    numeral: Sequence[str],
    parsed: Sequence[float],
    told: _Told,
) -> pd.Series:
    """The same where every value is a number or a gap."""
    values = np.zeros(codes.max(initial=0) + 1)
    full = np.zeros(len(values), dtype=bool)
    values[held], full[held] = parsed, True
    whole = _whole(values[held], numeral)
    values = values.astype(whole.dtype)
    values[held] = whole
    gaps = ~full[codes]
    _tell(told.gaps, str(column.name), column[gaps])
    return _stored(values[codes[~gaps]], gaps, column.index)


def _holds_values(
    texts: Sequence[str], parsed: Sequence[float | None], rows: np.ndarray, date_format: Sequence[str]
) -> bool:
    """Whether different texts are truth values, dates, or numbers with something else among them."""
    if all(truth(text) in (0, 1) for text in texts) or dates.formats_of(texts):
        return True
    read = sum(dates.days(text, date_format) is not None for text in texts) if date_format else 0
    return 2 * read > len(texts) or holds_numbers(np.array(kinds_of(texts, parsed)), rows)
