"""Frames: reading them from files and other libraries, and looking at their cells value by value.

A message about a cell names its task and its row; rows that were read from a file are named by their line.
"""

from __future__ import annotations

import contextlib
import csv
import difflib
import io
import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from .errors import DataError, UsageError
from .files import explained, read_bytes

# spellings of "no value" in a file; of the task column only the empty cell, because NA is also Namibia
_GAPS = ["", "NA", "N/A", "n/a", "NaN", "nan", "-nan", "NULL", "null", "None", "none", "<NA>", "#N/A"]
_SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs"}
# what a line without values may hold
_BLANK = " \t\r"
_TRUTH = {"true": 1.0, "false": 0.0}


def read_table(path: str | Path, *, task: str | None = None) -> pd.DataFrame:
    r"""Read a CSV file; the index of the frame is the line in the file.

    Arguments:
        path: the file: UTF-8, one header line, values separated by commas (or by semicolons or tabs, which is
            recognised and noted).
        task: the task column; it is read as text, so that ids such as `007` and `NA` stay what they are.

    Returns:
        The frame; `frame.attrs["notes"]` lists what was decided while reading.

    Raises:
        DataError: the file cannot be read as a table; the message names the file, the line and the fix.

    Example:
        >>> import pathlib, tempfile
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "visits.csv"
        >>> _ = path.write_text("patient,dose\n007,1.5\n008,2.5\n")
        >>> read_table(path, task="patient").patient.tolist()
        ['007', '008']
    """
    path = Path(path)
    data = _read_bytes(path)
    separator = _separator(data)
    header, lines = _records(path, data, separator)
    try:
        frame = pd.read_csv(
            io.BytesIO(data),
            sep=separator,
            dtype={task: str} if task in header else None,
            keep_default_na=False,
            na_values={name: [""] if name == task else _GAPS for name in header},
            dtype_backend="numpy_nullable",
            index_col=False,
            low_memory=False,
        )
    except (pd.errors.ParserError, ValueError, OverflowError) as error:
        raise DataError(f"{path}: not a table that can be read ({error})") from None
    frame = pd.DataFrame({name: _plain(frame[name]) for name in header})
    for name in header:
        if pd.api.types.is_bool_dtype(frame[name].dtype):
            frame[name] = _written_flags(data, separator, name, frame[name])
    frame.index = pd.Index(lines if len(lines) == len(frame) else np.arange(2, len(frame) + 2), name="line")
    noted = () if separator == "," else (f"{path.name} is separated by {_SEPARATORS[separator]}",)
    frame.attrs["notes"] = noted
    return frame


def _read_bytes(path: Path) -> bytes:
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", str(path)):
        raise UsageError(f"{path}: give a file on this machine; nothing is downloaded")
    with explained(path, DataError):
        if path.is_dir():
            raise DataError(f"{path} is a directory: give one CSV file")
        if not path.exists():
            near = close_names(path.name, _names(path.parent))
            raise DataError(f"{path}: there is no such file{meant(near)}")
    data = read_bytes(path, error=DataError)
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise DataError(f"{path} is not UTF-8 (it looks like UTF-16): save it as CSV UTF-8")
    data = data.removeprefix(b"\xef\xbb\xbf")
    try:
        data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{path}, line {line}: byte 0x{data[error.start]:02x} is not UTF-8 (Latin-1 perhaps): "
            "save it as CSV UTF-8"
        ) from None
    if b"\0" in data:
        line = data.count(b"\n", 0, data.index(b"\0")) + 1
        raise DataError(f"{path}, line {line}: holds a NUL byte, so it is no text file: save it as CSV UTF-8")
    if not data.strip(f"{_BLANK}\n".encode()):
        raise DataError(f"{path} is empty: it needs a header line and rows")
    # inside quotation marks a line break is part of a value
    return data if b'"' in data else data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")


def _names(folder: Path) -> list[str]:
    try:
        return [entry.name for entry in folder.iterdir()]
    except OSError:
        return []


def _separator(data: bytes) -> str:
    """Comma, unless the first lines only make a table with another one."""
    text = data[:100_000].decode("utf-8", "ignore")
    for separator in _SEPARATORS:
        widths = {len(record) for record in islice(_filled(text, separator), 20)}
        if len(widths) == 1 and widths != {1}:
            return separator
    first = next(_filled(text, "\n"), [""])[0]
    return max(_SEPARATORS, key=first.count)


def _filled(text: str, separator: str) -> Iterator[list[str]]:
    """Records that are no blank lines, up to the first that cannot be read."""
    with contextlib.suppress(csv.Error):
        for record in csv.reader(io.StringIO(text, newline=""), delimiter=separator):
            if len(record) > 1 or (record and record[0].strip(_BLANK)):
                yield record


def _records(path: Path, data: bytes, separator: str) -> tuple[list[str], np.ndarray]:
    """Names in the header, and the line in which each row starts; refuses what is no rectangle."""
    if b'"' in data:
        lines, widths = _quoted_records(path, data, separator)
    else:
        lines, widths = _plain_records(data, separator)
    header = next(_filled(data.decode("utf-8"), separator))
    if len(header) == 1:
        raise DataError(
            f"{path} has one column, {header[0]!r}: values are separated by commas, semicolons or tabs, "
            "and a table needs a target and a feature at least"
        )
    for number, name in enumerate(header):
        if not name.strip():
            raise DataError(
                f"{path}: column {number + 1} has no name: name it in the header line, or leave it out "
                "(pandas: to_csv(index=False))"
            )
        if name in header[:number]:
            raise DataError(f"{path}: two columns are called {name!r}: rename one")
    wrong = np.flatnonzero(widths != len(header))
    if len(wrong):
        raise DataError(
            f"{path}, line {lines[wrong[0]]}: has {widths[wrong[0]]} values, but the header has "
            f"{len(header)} columns: add or remove the difference, or quote values that hold a separator"
        )
    if len(lines) == 1:
        raise DataError(f"{path} has a header and no row: add rows")
    return header, lines[1:]


def _plain_records(data: bytes, separator: str) -> tuple[np.ndarray, np.ndarray]:
    text = np.frombuffer(data, np.uint8)
    ends = np.flatnonzero(text == ord("\n"))
    if text[-1] != ord("\n"):
        ends = np.append(ends, len(text))
    starts = np.concatenate([[0], ends[:-1] + 1])
    separators = np.flatnonzero(text == ord(separator))
    widths = np.searchsorted(separators, ends) - np.searchsorted(separators, starts) + 1
    # only a line without separators can be blank
    maybe = np.flatnonzero(widths == 1)
    blank = np.array([not data[starts[i] : ends[i]].strip(_BLANK.encode()) for i in maybe], dtype=bool)
    kept = np.ones(len(ends), dtype=bool)
    kept[maybe[blank]] = False
    return np.flatnonzero(kept) + 1, widths[kept]


def _quoted_records(path: Path, data: bytes, separator: str) -> tuple[np.ndarray, np.ndarray]:
    lines, widths = [], []
    reader = csv.reader(io.StringIO(data.decode("utf-8"), newline=""), delimiter=separator, strict=True)
    start = 1
    try:
        for record in reader:
            if len(record) > 1 or (record and record[0].strip(_BLANK)):
                lines.append(start)
                widths.append(len(record))
            start = reader.line_num + 1
    except csv.Error as error:
        raise DataError(
            f"{path}, line {start}: {error}: look for a quotation mark that is not closed"
        ) from None
    return np.array(lines), np.array(widths)


def _plain(column: pd.Series[Any]) -> pd.Series[Any]:
    """A nullable column as an ordinary one, where it has no gap that an ordinary one could not hold."""
    if pd.api.types.is_float_dtype(column.dtype):
        return pd.Series(column.to_numpy(np.float64, na_value=np.nan))
    if pd.api.types.is_string_dtype(column.dtype) or column.hasnans:
        return column
    return pd.Series(column.to_numpy(column.dtype.numpy_dtype))  # type: ignore[union-attr]


def _written_flags(data: bytes, separator: str, name: str, flags: pd.Series[Any]) -> pd.Series[Any]:
    """The column as text unless truth is written `True` and `False`, so that labels come back as written."""
    written = pd.read_csv(
        io.BytesIO(data), sep=separator, usecols=[name], dtype=str, keep_default_na=False, na_values=_GAPS
    )[name]
    return flags if set(written.dropna().unique()) <= {"True", "False"} else written


def as_frame(table: Any, *, task: str | None = None) -> pd.DataFrame:
    """A pandas frame from a path, a pandas frame, or any frame with `to_pandas` (polars, pyarrow).

    Arguments:
        table: the path or frame; it is not changed.
        task: the task column, see `read_table`.

    Returns:
        A frame whose column names are distinct text.

    Raises:
        DataError: this is no table, or it has no row.

    Example:
        >>> as_frame(pd.DataFrame({"a": [1]})).columns.tolist()
        ['a']
    """
    if isinstance(table, str | Path):
        return read_table(table, task=task)
    frame = table if isinstance(table, pd.DataFrame) else _foreign(table)
    names = [str(name) for name in frame.columns]
    for number, name in enumerate(names):
        if name in names[:number]:
            raise DataError(f"two columns are called {name!r}: rename one")
    if not len(frame):
        raise DataError("the table has no row: add rows")
    if not all(isinstance(name, str) for name in frame.columns):
        frame = frame.set_axis(names, axis=1)
    return frame


def _foreign(table: Any) -> pd.DataFrame:
    try:
        frame = table.to_pandas()
    except AttributeError:
        frame = None
    except ImportError as error:
        raise DataError(
            f"a {type(table).__module__.partition('.')[0]} frame cannot be read: {error}"
        ) from None
    if not isinstance(frame, pd.DataFrame):
        raise DataError(
            "a table is a path to a CSV file or a pandas, polars or pyarrow frame, not "
            f"{type(table).__name__}"
        )
    return frame


def task_ids(frame: pd.DataFrame, task: str) -> np.ndarray:
    """The task of each row as text, `(n,)`; whole numbers stored as floats lose their `.0`.

    Raises:
        DataError: there is no such column, or a row has no task.

    Example:
        >>> task_ids(pd.DataFrame({"school": [1.0, 2.0]}), "school").tolist()
        ['1', '2']
    """
    if task not in frame:
        raise DataError(absent_columns([task], frame))
    codes, values = distinct(frame[task])
    gaps = np.flatnonzero(codes < 0)
    if len(gaps):
        row = where(frame, gaps[0], None)
        raise DataError(
            f"{row}: no task id in column {task!r} ({len(gaps)} such rows): fill it in or remove the row"
        )
    whole = [isinstance(value, float) and float(value).is_integer() for value in values]
    texts = [str(int(v)) if is_whole else str(v) for v, is_whole in zip(values, whole, strict=True)]
    found: np.ndarray = np.array(texts, dtype=object)[codes]
    return found


def is_number(column: pd.Series[Any]) -> bool:
    """The column is stored as real numbers."""
    kind = column.dtype
    return pd.api.types.is_numeric_dtype(kind) and not pd.api.types.is_bool_dtype(kind) and kind.kind != "c"


def is_missing(column: pd.Series[Any]) -> np.ndarray:
    """Gaps, blank text among them."""
    if is_number(column):
        return column.isna().to_numpy(dtype=bool)
    return distinct(column)[0] < 0


def distinct(column: pd.Series[Any]) -> tuple[np.ndarray, list[Any]]:
    """Number of each row's value in a list of different values, -1 for gaps and blank text."""
    try:
        codes, found = pd.factorize(column)
    except TypeError:
        raise DataError(
            f"column {column.name!r} holds lists or dicts: one plain value a cell is needed"
        ) from None
    values = list(found)
    full = np.array([not isinstance(value, str) or bool(value.strip()) for value in values], dtype=bool)
    if full.all():
        return codes, values
    # one place more than there are values, so that the code -1 of a gap stays -1
    renumber = np.append(np.where(full, np.cumsum(full) - 1, -1), -1)
    return renumber[codes], [value for value, keep in zip(values, full, strict=True) if keep]


def refuse_odd(column: pd.Series[Any], values: list[Any]) -> None:
    """Values are text, numbers or truth values; dates and nested values have no meaning here."""
    for value in values:
        if hasattr(value, "isoformat") or isinstance(value, np.datetime64 | np.timedelta64 | pd.Period):
            raise DataError(
                f"column {column.name!r} holds dates or times ({value}): turn them into a number first, such "
                "as days since a start, or leave the column out (ignore)"
            )
        if isinstance(value, complex | tuple | frozenset | bytes):
            raise DataError(
                f"column {column.name!r} holds {type(value).__name__} values ({value!r}): one number or text "
                "a cell is needed"
            )


def match_values(column: pd.Series[Any], known: Sequence[str]) -> tuple[np.ndarray, list[str], np.ndarray]:
    """Find values among known texts.

    Returns:
        Position of each row's value in `known`, -1 where it is not there; the different values of the column
        as text; which of them each row holds.
    """
    codes, values = distinct(column)
    texts = [str(value) for value in values]
    exact = {text: number for number, text in enumerate(known)}
    # a column of whole numbers turns to floats as soon as it has gaps: 1.0 then stands for 1
    loose = {parse(text): number for number, text in enumerate(known) if parse(text) is not None}
    found = [exact.get(text, loose.get(parse(text), -1)) for text in texts]
    return np.array([*found, -1], dtype=np.int64)[codes], texts, codes


def parse(value: Any) -> float | None:
    """The number that a value is or spells; `None` if it is none."""
    if isinstance(value, bool | np.bool_) or (isinstance(value, str) and "_" in value):
        return None
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return None if isinstance(value, str) and np.isnan(number) else number


def truth(value: Any) -> float | None:
    """1 and 0 for truth values, however they are written; `None` for what is none."""
    return _TRUTH.get(str(value).strip().lower(), parse(value))


def where(frame: pd.DataFrame, row: int | np.integer[Any], task: str | None) -> str:
    """The task and the row, the way the user can find them."""
    place = f"{'line' if frame.index.name == 'line' else 'row'} {frame.index[int(row)]}"
    if task is None or task not in frame:
        return place
    return f"task {str(frame[task].iloc[int(row)])!r}, {place}"


def absent_columns(names: Sequence[str], frame: pd.DataFrame) -> str:
    """The message about columns that are not there, with those that may be meant."""
    columns = [str(name) for name in frame.columns]
    lower = {name.strip().lower(): name for name in columns}
    near = [lower.get(name.strip().lower()) or next(iter(close_names(name, columns)), None) for name in names]
    what = ", ".join(map(repr, names))
    return (
        f"no column {what} in the table{meant([name for name in near if name])}; it has {listed(columns, 12)}"
    )


def close_names(name: str, known: Iterable[str]) -> list[str]:
    """The known name that looks most like `name`, if one does.

    Example:
        >>> close_names("shcool", ["school", "exam"])
        ['school']
    """
    return difflib.get_close_matches(name, list(known), 1)


def meant(near: Sequence[str]) -> str:
    """` (did you mean 'a'?)`, or nothing."""
    return f" (did you mean {', '.join(map(repr, near))}?)" if near else ""


def listed(names: Sequence[str], most: int = 8) -> str:
    """`'a', 'b' and 3 more`."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(map(repr, names[:most])) + more
