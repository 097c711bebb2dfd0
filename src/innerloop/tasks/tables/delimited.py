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
from .encodings import as_utf8
from .shape import PLAIN, Shape, footer_lines, is_footer, refuse_footer, row_names, shaped

__all__ = ["SEPARATORS", "Piece", "parse_pieces", "read_existing", "read_piece", "refuse_name"]

SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "vertical bars"}
# lines of a footer at most
_FOOTER_LINES = 10
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
        (".xls", ".ods", ".xlsm", ".xlsb", ".numbers"),
        (b"\xd0\xcf\x11\xe0",),
        "is a spreadsheet program's file: save it as .xlsx, or export the sheet as CSV UTF-8, and give that",
    ),
    (
        (".sas7bdat", ".sas7bcat", ".xpt"),
        (b"\0" * 12 + b"\xc2\xea\x81\x60", b"HEADER RECORD*******LIBRARY"),
        "is a file of SAS: export it as CSV (PROC EXPORT) and give that",
    ),
    (
        (".por", ".zsav"),
        (),
        "is a file of SPSS in a form that is not read: save it as .sav or as CSV, and give that",
    ),
    (
        (".db", ".sqlite", ".sqlite3", ".mdb", ".accdb"),
        (b"SQLite format 3", b"\0\1\0\0Standard"),
        "is a database: export the table as CSV and give that",
    ),
)
# what has a reader of its own, by its first bytes
_OTHERS = {
    b"PAR1": ("a Parquet file", ".parquet"),
    b"ARROW1": ("a Feather file", ".feather"),
    b"$FL2": ("a file of SPSS", ".sav"),
    b"<stata_dta>": ("a file of Stata", ".dta"),
}


class Piece(NamedTuple):
    """One file of text: its bytes, the line in which each row starts, and how many lines held no value."""

    path: Path
    data: bytes
    separator: str
    header: tuple[str, ...]
    lines: np.ndarray
    empty: int = 0
    notes: tuple[str, ...] = ()


def read_piece(path: Path, encoding: str | None = None, shape: Shape = PLAIN) -> Piece:
    """Read a file as text that is a rectangle of values.

    Raises:
        DataError: it is none; the message names the line.
        UsageError: it is an archive, a pickle or a spreadsheet under another name, or the encoding is unknown.
    """
    shape.require_sense()
    data, notes = _read_text(path, encoding)
    separator = _separator(_below(data, shape.skip_rows))
    if shape[:2] != (0, 1) or shape.skip_footer:
        data, more = shaped(path, data, separator, shape)
        notes += tuple(more)
    first = _first_line(data)
    blanks = with_tabs(data) if separator not in first and " " in first.strip() else None
    if blanks is not None:
        data, separator = blanks, "\t"
        notes += (f"{path.name} is separated by blanks",)
    header, lines = _records(path, data, separator)
    if shape.skip_footer is None:
        _refuse_footer(path, data, separator, lines)
    data, empty = _without_bare(data, (separator * (len(header) - 1)).encode(), lines)
    if empty.all():
        raise file_error(path, " has a header and no row: add rows")
    return Piece(path, data, separator, tuple(header), lines[~empty], int(empty.sum()), notes)


def _without_bare(data: bytes, bare: bytes, lines: np.ndarray) -> tuple[bytes, np.ndarray]:
    """Without the rows that are separators only, as spreadsheet programs leave them; and which rows these are."""
    empty = np.zeros(len(lines), dtype=bool)
    if any(b"\n" + bare + end in data for end in (b"\n", b"\r")) or data.endswith(b"\n" + bare):
        text = list(io.StringIO(data.decode("utf-8"), newline=""))
        empty = np.array([text[line - 1].strip("\r\n").encode() == bare for line in lines], dtype=bool)
        left_out = set((lines[empty] - 1).tolist())
        data = "".join(line for number, line in enumerate(text) if number not in left_out).encode()
    return data, empty


def parse_pieces(pieces: Sequence[Piece]) -> pd.DataFrame:
    """The rows of files with one header, as text; a gap is an empty text."""
    first = pieces[0]
    header, separator = first.header, first.separator
    data = first.data if len(pieces) == 1 else _joined(pieces)
    lines = np.concatenate([piece.lines for piece in pieces])
    frame = None if b'"' in data else _arrow_text(data, header, separator)
    if frame is None or len(frame) != len(lines):
        frame = _pandas_text(first.path, data, header, separator)
    frame.index = pd.Index(lines if len(lines) == len(frame) else np.arange(2, len(frame) + 2), name="line")
    return _without_row_names(frame, first.path)


def _arrow_text(data: bytes, header: Sequence[str], separator: str) -> pd.DataFrame | None:
    """The cells of a text without quotation marks, read by pyarrow, which is faster; `None` where it is not there."""
    try:
        import pyarrow
        from pyarrow import csv as arrow
    except ImportError:
        return None
    names = [str(number) for number in range(len(header))]
    try:
        table = arrow.read_csv(
            pyarrow.BufferReader(data),
            arrow.ReadOptions(
                column_names=names, skip_rows=data[: len(data) - len(data.lstrip(b"\n"))].count(b"\n") + 1
            ),
            arrow.ParseOptions(delimiter=separator, quote_char=False),
            arrow.ConvertOptions(
                column_types=dict.fromkeys(names, pyarrow.large_string()), strings_can_be_null=False
            ),
        )
    except pyarrow.ArrowInvalid:
        return None
    frame: pd.DataFrame = table.to_pandas()
    return frame.set_axis(list(header), axis=1)


def _pandas_text(path: Path, data: bytes, header: Sequence[str], separator: str) -> pd.DataFrame:
    """The cells of any text, read by pandas."""
    try:
        return pd.read_csv(
            io.BytesIO(data), sep=separator, names=list(header), header=0, dtype="str", keep_default_na=False,
            na_filter=False, index_col=False,
        )  # fmt: skip
    except (pd.errors.ParserError, ValueError, OverflowError) as error:
        raise file_error(
            path, f": not a table that can be read ({error}): save it again as CSV UTF-8"
        ) from None


def _without_row_names(frame: pd.DataFrame, path: Path) -> pd.DataFrame:
    """Without a first column that has no name and another value in each row: R and pandas number rows so."""
    if frame.columns[0] != "":
        return frame
    names = frame[""]
    if names.duplicated().any() or (names.str.strip() == "").any():
        raise file_error(
            path,
            ": column 1 has no name: name it in the header line, or leave it out (an index that pandas wrote: "
            "to_csv(index=False); row names of R: write.csv(row.names = FALSE))",
        )
    frame = frame.drop(columns="")
    frame.attrs["notes"] = (
        f"column 1 has no name and another value in each row, {names.iloc[0]!r} in the first: these are names of "
        "rows and were left out",
    )
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
    for start, (what, suffix) in _OTHERS.items():
        if data.startswith(start):
            raise file_error(path, f" is {what}: give it a name that ends with {suffix}")
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


def _read_text(path: Path, encoding: str | None) -> tuple[bytes, tuple[str, ...]]:
    """The bytes of a text as UTF-8 without byte order mark, its lines ended by newlines; notes on what it was."""
    data = read_existing(path)
    _refuse_bytes(path, data[:32])
    data, notes = as_utf8(path, data, encoding)
    if b"\0" in data:
        line = data.count(b"\n", 0, data.index(b"\0")) + 1
        raise file_error(
            path, f", line {line}: holds a NUL byte, so it is no text file: save it as CSV UTF-8"
        )
    if not data.strip(f"{_BLANK}\n".encode()):
        raise file_error(path, " is empty: it needs a header line and rows")
    # inside quotation marks a line break is part of a value
    return data if b'"' in data else data.replace(b"\r\n", b"\n").replace(b"\r", b"\n"), notes


def _separator(data: bytes) -> str:
    """Comma, unless the first lines only make a table, or nearly one, with another one."""
    text = data[:100_000].decode("utf-8", "ignore")
    alike = {}
    for separator in SEPARATORS:
        widths = Counter(len(record) for record in islice(_filled(text, separator), 20))
        if len(widths) == 1 and 1 not in widths:
            return separator
        alike[separator] = max((count for width, count in widths.items() if width > 1), default=0)
    first = next(iter(text.lstrip(f"{_BLANK}\n").split("\n")))
    return max(SEPARATORS, key=lambda separator: (alike[separator], separator in first))


def _below(data: bytes, skipped: int) -> bytes:
    """The text below so many lines."""
    return data.split(b"\n", skipped)[-1] if skipped else data


def _first_line(data: bytes) -> str:
    """The first line that holds anything."""
    return next((line for line in io.StringIO(data[:100_000].decode("utf-8", "ignore")) if line.strip()), "")


def with_tabs(data: bytes) -> bytes | None:
    r"""A text whose values stand apart by blanks, with tabs between them; `None` where lines have different numbers.

    Example:
        >>> with_tabs(b'who   dose\n"a b"  1.5\n')
        b'who\tdose\na b\t1.5\n'
        >>> with_tabs(b"New York\nRome\n") is None
        True
    """
    lines = data.decode("utf-8").split("\n")
    try:
        rows = [
            next(csv.reader([line.strip()], delimiter=" ", skipinitialspace=True, strict=True), [])
            for line in lines
        ]
    except csv.Error:
        return None
    widths = [len(row) for row in rows if row]
    quoted = [line.lstrip() for line in lines if line.strip()][1:]
    longer = set(widths[1:]) == {widths[0] + 1} and widths[0] > 1 and row_names(quoted)
    if (
        widths[0] < 2
        or len(widths) < 2
        or not (len({*widths}) == 1 or longer)
        or any("\t" in line for line in lines)
    ):
        return None
    if longer:
        first = next(number for number, row in enumerate(rows) if row)
        rows[first] = ["", *rows[first]]
    text = io.StringIO()
    writer = csv.writer(text, delimiter="\t", lineterminator="\n")
    for row in rows:
        if row:
            writer.writerow(row)
        else:
            text.write("\n")
    return text.getvalue()[:-1].encode()


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
    first = next(_filled(data.decode("utf-8"), separator), None)
    if first is None:
        raise file_error(
            path,
            f", line 1: its header cannot be read, or has a name of more than {csv.field_size_limit():,} characters: "
            "correct the names of the columns",
        )
    header = [name.strip() for name in first]
    if len(widths) > 1 and widths[0] == 1 < widths[-1]:
        what = "a comment" if header[0].startswith("#") else "a title"
        above = int(lines[np.argmax(widths == widths[-1])]) - 1
        raise file_error(
            path,
            f": its first line is {what}, {header[0]!r}: remove the lines above the header, or leave them out "
            f"(--skip-rows {above})",
        )
    if len(header) == 1:
        raise file_error(
            path,
            f" has one column, {header[0]!r}: values are separated by commas, semicolons, tabs, blanks or |, "
            "and a table needs a target and a feature at least",
        )
    _require_names(path, header)
    wrong = np.flatnonzero(widths != len(header))
    if len(wrong) and _has_row_names(data, lines, widths):
        return ["", *header], lines[1:]
    if len(wrong):
        _refuse_footer_below(path, data, lines, wrong)
        raise file_error(
            path,
            f", line {lines[wrong[0]]}: has {widths[wrong[0]]} values, but the header has "
            f"{len(header)} columns: add or remove the difference, or quote values that hold a separator",
        )
    if len(lines) == 1:
        raise file_error(path, " has a header and no row: add rows")
    return header, lines[1:]


def _has_row_names(data: bytes, lines: np.ndarray, widths: np.ndarray) -> bool:
    """Whether every row has one value more than the header, and begins with its name: so R's write.table writes."""
    if widths[0] < 2 or not (widths[1:] == widths[0] + 1).all():
        return False
    text = data.decode("utf-8").split("\n")
    return row_names([text[line - 1] for line in lines[1:]])


def _refuse_footer(path: Path, data: bytes, separator: str, lines: np.ndarray) -> None:
    """Refuse last lines that look like totals or a source, and would be read as rows."""
    # a look at the end alone, which is seldom a footer
    last = data.rstrip(b"\r\n").rsplit(b"\n", 1)[-1].decode("utf-8")
    if not is_footer(_cells(last, separator)):
        return
    text = data.decode("utf-8").split("\n")
    rows = [_cells(text[line - 1], separator) for line in lines.tolist() if line <= len(text)]
    if count := footer_lines(rows):
        refuse_footer(path, f"line {lines[len(lines) - count]}", [row[0] for row in rows[-count:]])


def _cells(line: str, separator: str) -> list[str]:
    """The cells of a line, as far as a footer is told by them."""
    return [cell.strip('" \r') for cell in line.split(separator)]


def _refuse_footer_below(path: Path, data: bytes, lines: np.ndarray, wrong: np.ndarray) -> None:
    """Refuse last lines of one value, a sentence, below rows that fit their header."""
    text = data.decode("utf-8").split("\n")
    below = len(lines) - int(wrong[0])
    if wrong[0] < 2 or below != len(wrong) or below > _FOOTER_LINES:
        return
    footer = [text[lines[number] - 1].strip('" \r') for number in wrong]
    if any(len(line.split()) > 1 or is_footer([line]) for line in footer):
        refuse_footer(path, f"line {lines[wrong[0]]}", footer)


def _require_names(path: Path, header: Sequence[str]) -> None:
    """Refuse a header in which a column has no name, or two have the same."""
    if len(header) > 2 and header[0] and not any(header[1:]):
        raise file_error(
            path,
            f": its first line is a title, {header[0]!r}, and names no columns: remove the lines above "
            "the names of the columns, or say how many there are (--skip-rows 1)",
        )
    # the first one alone can hold the names of rows
    nameless = [number for number, name in enumerate(header, 1) if not name]
    faults = [f"column {number} has no name" for number in nameless if nameless != [1]]
    faults += [
        f"two columns are called {name!r}" for name, count in Counter(header).items() if name and count > 1
    ]
    if faults:
        raise file_error(
            path,
            f": {' and '.join(faults[:5])}: name or rename it in the header line, or leave it out (an "
            "index that pandas wrote: to_csv(index=False); names in two lines: --header-rows 2)",
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
