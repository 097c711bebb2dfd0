"""Read CSV files: encoding, separator, header and lines are checked, then pandas makes a frame of them."""

from __future__ import annotations

import contextlib
import csv
import io
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from ...errors import DataError, UsageError
from ...files import explained, read_bytes
from ..messages import file_error, meant

__all__ = ["SEPARATORS", "Piece", "parse_pieces", "read_existing", "read_piece", "refuse_name"]

# spellings of "no value" in a file; of the task column only the empty cell, because NA is also Namibia
_GAPS = ["", "NA", "N/A", "n/a", "NaN", "nan", "-nan", "NULL", "null", "None", "none", "<NA>", "#N/A"]
SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs"}
# what a line without values may hold
_BLANK = " \t\r"
# what is no data, by the end of the name and by the first bytes, and the way out
_REFUSED = (
    (
        (".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".7z", ".rar", ".zst"),
        (b"PK\3\4", b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"7z\xbc\xaf", b"Rar!", b"\x28\xb5\x2f\xfd"),
        "is an archive: unpack it yourself and give what was in it",
    ),
    (
        (".pkl", ".pickle", ".joblib", ".pt", ".pth", ".rds"),
        (b"\x80\2", b"\x80\3", b"\x80\4", b"\x80\5"),
        "can run code when it is read: save the data as CSV, Parquet or npz and give that",
    ),
    (
        (".hdf5", ".h5", ".hdf", ".mat", ".nc"),
        (b"\x89HDF",),
        "is an HDF5 file, which is not read: save tables as CSV or Parquet, arrays x, y and task as npz, or images "
        "as files in a folder a class",
    ),
    (
        (".xlsx", ".xls", ".ods", ".xlsm"),
        (b"\xd0\xcf\x11\xe0",),
        "is a spreadsheet program's file: export the sheet as CSV UTF-8 and give that",
    ),
)


class Piece(NamedTuple):
    """One file of text: its bytes, the line in which each row starts, and how many lines held no value."""

    path: Path
    data: bytes
    separator: str
    header: tuple[str, ...]
    lines: np.ndarray
    empty: int = 0


def read_piece(path: Path) -> Piece:
    """Read a file as text that is a rectangle of values.

    Raises:
        DataError: it is none; the message names the line.
        UsageError: it is an archive, a pickle or a spreadsheet under another name.
    """
    data = _read_text(path)
    separator = _separator(data)
    header, lines = _records(path, data, separator)
    data, empty = _without_bare(data, (separator * (len(header) - 1)).encode(), lines)
    if empty.all():
        raise file_error(path, " has a header and no row: add rows")
    return Piece(path, data, separator, tuple(header), lines[~empty], int(empty.sum()))


def _without_bare(data: bytes, bare: bytes, lines: np.ndarray) -> tuple[bytes, np.ndarray]:
    """Without the rows that are separators only, as spreadsheet programs leave them; and which rows these are."""
    empty = np.zeros(len(lines), dtype=bool)
    if any(b"\n" + bare + end in data for end in (b"\n", b"\r")) or data.endswith(b"\n" + bare):
        text = list(io.StringIO(data.decode("utf-8"), newline=""))
        empty = np.array([text[line - 1].strip("\r\n").encode() == bare for line in lines], dtype=bool)
        left_out = set((lines[empty] - 1).tolist())
        data = "".join(line for number, line in enumerate(text) if number not in left_out).encode()
    return data, empty


def parse_pieces(pieces: Sequence[Piece], task: str | None, decimal: str = ".") -> pd.DataFrame:
    """The rows of files with one header, which are read as one, so that a column has one type."""
    first = pieces[0]
    header, separator = first.header, first.separator
    data = first.data if len(pieces) == 1 else _joined(pieces)
    lines = np.concatenate([piece.lines for piece in pieces])
    try:
        frame = pd.read_csv(
            io.BytesIO(data),
            sep=separator,
            decimal=decimal,
            names=list(header),
            header=0,
            dtype={task: str} if task in header else None,
            keep_default_na=False,
            na_values={name: [""] if name == task else _GAPS for name in header},
            dtype_backend="numpy_nullable",
            index_col=False,
            low_memory=False,
        )
    except (pd.errors.ParserError, ValueError, OverflowError) as error:
        raise file_error(
            first.path, f": not a table that can be read ({error}): save it again as CSV UTF-8"
        ) from None
    frame = pd.DataFrame({name: _plain(frame[name]) for name in header})
    for name in header:
        if pd.api.types.is_bool_dtype(frame[name].dtype):
            frame[name] = _written_flags(data, separator, header, name, frame[name])
    frame.index = pd.Index(lines if len(lines) == len(frame) else np.arange(2, len(frame) + 2), name="line")
    return frame


def _joined(pieces: Sequence[Piece]) -> bytes:
    """One header and the rows of all files, which have no quotation marks."""
    bodies = []
    for piece in pieces:
        rows = [row for row in piece.data.split(b"\n") if row.strip(_BLANK.encode())]
        bodies += rows[1:]
    head = piece.separator.join(piece.header).encode()
    return b"\n".join([head, *bodies, b""])


def refuse_name(path: Path) -> None:
    """Refuse addresses, and files whose name says that they are no data.

    Raises:
        UsageError: always for those.
    """
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", str(path)):
        raise UsageError(f"{path}: give a file on this machine; nothing is downloaded", file=str(path))
    for suffixes, _, way_out in _REFUSED:
        if path.suffix.lower() in suffixes:
            raise UsageError(f"{path} {way_out}", file=str(path))


def _refuse_bytes(path: Path, data: bytes) -> None:
    """Refuse files whose first bytes say that they are no table, under any name."""
    for _, starts, way_out in _REFUSED:
        if data.startswith(starts):
            raise UsageError(f"{path} {way_out}", file=str(path))
    if data.startswith(b"PAR1"):
        raise file_error(path, " is a Parquet file: give it a name that ends with .parquet")
    if data.startswith((b"\x89PNG", b"\xff\xd8\xff")):
        raise file_error(path, " is an image: give the folder that holds a folder of images a class")


def read_existing(path: Path) -> bytes:
    """Read a file; a name that is not there brings the one that may be meant.

    Raises:
        DataError: there is none, or it is no regular file.
    """
    with explained(path, DataError):
        if not path.exists():
            near = meant(path.name, _names(path.parent))
            raise file_error(path, f": there is no such file{near}")
    return read_bytes(path, error=DataError)


def _names(folder: Path) -> list[str]:
    try:
        return [entry.name for entry in folder.iterdir()]
    except OSError:
        return []


def _read_text(path: Path) -> bytes:
    """The bytes of a UTF-8 file without byte order mark, its lines ended by newlines."""
    data = read_existing(path)
    _refuse_bytes(path, data[:16])
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise file_error(
            path, " is not UTF-8 (it looks like UTF-16): save it as CSV UTF-8 (iconv -f UTF-16 -t UTF-8)"
        )
    data = data.removeprefix(b"\xef\xbb\xbf")
    try:
        data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        byte = data[error.start : error.start + 1]
        raise file_error(
            path,
            f", line {line}: byte 0x{byte.hex()} is not UTF-8 ({byte.decode('latin-1')!r} in Latin-1): save "
            "the file as CSV UTF-8 (iconv -f CP1252 -t UTF-8)",
        ) from None
    if b"\0" in data:
        line = data.count(b"\n", 0, data.index(b"\0")) + 1
        raise file_error(
            path, f", line {line}: holds a NUL byte, so it is no text file: save it as CSV UTF-8"
        )
    if not data.strip(f"{_BLANK}\n".encode()):
        raise file_error(path, " is empty: it needs a header line and rows")
    # inside quotation marks a line break is part of a value
    return data if b'"' in data else data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")


def _separator(data: bytes) -> str:
    """Comma, unless the first lines only make a table with another one."""
    text = data[:100_000].decode("utf-8", "ignore")
    for separator in SEPARATORS:
        widths = {len(record) for record in islice(_filled(text, separator), 20)}
        if len(widths) == 1 and widths != {1}:
            return separator
    text = text.lstrip(f"{_BLANK}\n")
    return max(SEPARATORS, key=lambda separator: len(next(_filled(text, separator), [])))


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
    header = [name.strip() for name in next(_filled(data.decode("utf-8"), separator))]
    if len(header) == 1:
        raise file_error(
            path,
            f" has one column, {header[0]!r}: values are separated by commas, semicolons or tabs, "
            "and a table needs a target and a feature at least",
        )
    _require_names(path, header)
    wrong = np.flatnonzero(widths != len(header))
    if len(wrong):
        raise file_error(
            path,
            f", line {lines[wrong[0]]}: has {widths[wrong[0]]} values, but the header has "
            f"{len(header)} columns: add or remove the difference, or quote values that hold a separator",
        )
    if len(lines) == 1:
        raise file_error(path, " has a header and no row: add rows")
    return header, lines[1:]


def _require_names(path: Path, header: Sequence[str]) -> None:
    """Refuse a header in which a column has no name, or two have the same."""
    if len(header) > 2 and header[0] and not any(header[1:]):
        raise file_error(
            path,
            f": its first line is a title, {header[0]!r}, and names no columns: remove the lines above "
            "the names of the columns",
        )
    faults = [f"column {number} has no name" for number, name in enumerate(header, 1) if not name]
    faults += [
        f"two columns are called {name!r}" for name, count in Counter(header).items() if name and count > 1
    ]
    if faults:
        raise file_error(
            path,
            f": {' and '.join(faults[:5])}: name or rename it in the header line, or leave it out (an "
            "index that pandas wrote: to_csv(index=False))",
        )


def _plain_records(data: bytes, separator: str) -> tuple[np.ndarray, np.ndarray]:
    """Line and number of values of each record of a text without quotation marks."""
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
    filled = np.delete(np.arange(len(ends)), maybe[blank])
    return filled + 1, widths[filled]


def _quoted_records(path: Path, data: bytes, separator: str) -> tuple[np.ndarray, np.ndarray]:
    """The same for a text with quotation marks."""
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
        raise file_error(
            path, f", line {start}: {error}: look for a quotation mark that is not closed"
        ) from None
    return np.array(lines), np.array(widths)


def _plain(column: pd.Series) -> pd.Series:
    """A nullable column as an ordinary one, where it has no gap that an ordinary one could not hold."""
    if pd.api.types.is_float_dtype(column.dtype):
        return pd.Series(column.to_numpy(np.float64, na_value=np.nan))
    if pd.api.types.is_string_dtype(column.dtype) or column.hasnans:
        return column
    return pd.Series(column.to_numpy(column.dtype.numpy_dtype))  # type: ignore[union-attr]


def _written_flags(
    data: bytes, separator: str, header: Sequence[str], name: str, flags: pd.Series
) -> pd.Series:
    """The column as text unless truth is written `True` and `False`, so that labels come back as written."""
    written = pd.read_csv(
        io.BytesIO(data), sep=separator, names=list(header), header=0, usecols=[name], dtype=str,
        keep_default_na=False, na_values=_GAPS,
    )[name]  # fmt: skip
    return flags if set(written.dropna().unique()) <= {"True", "False"} else written
