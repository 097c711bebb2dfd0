"""Read a table from a file, a folder of files, or a frame of polars or pyarrow.

The index of a frame that was read from a file is the line (of text) or the row (of other formats).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Protocol

import numpy as np
import pandas as pd

from ...errors import DataError, Guard, UsageError
from ...files import explained
from ..messages import file_error, listed
from .deciding import Reading, decide, with_gaps
from .delimited import SEPARATORS, Piece, parse_pieces, read_piece, refuse_name
from .numbers import require_decimal, with_decimal
from .other_files import READERS, plain_arrow
from .shape import PLAIN

__all__ = ["TABLES", "TableLike", "as_frame", "entries", "read_table", "table_name"]


class _ForeignFrame(Protocol):
    """A frame of another library, such as polars or pyarrow."""

    def to_pandas(self) -> pd.DataFrame: ...


TableLike = str | Path | pd.DataFrame | _ForeignFrame


# text is read by `delimited`
TABLES = (".csv", ".tsv", ".txt", *READERS)


def table_name(table: object) -> str:
    """The name of the file without its ending, or `table`."""
    return Path(table).stem if isinstance(table, str | Path) else "table"


def read_table(
    path: str | Path, *, task: str | None = None, reading: Reading | None = None, guard: Guard = nullcontext
) -> pd.DataFrame:
    r"""Read a file, or a folder of them; the index of the frame is the line in the file, or the row.

    In a folder each file is a task and the name of the file its id, unless the files have the task column.

    Arguments:
        path: the file or folder. Text has one header line, values separated by commas (or by semicolons or
            tabs, which is recognised and noted), and is UTF-8 unless it starts with a mark or `reading` says.
        task: the task column; it is read as text, so that ids such as `007` and `NA` stay what they are.
        reading: what columns are for, and how numbers and gaps are written; without it, `task` is the only
            column of ids.
        guard: what goes around each file of a folder; `check` gives one that collects the errors.

    Returns:
        The frame; `frame.attrs["notes"]` lists what was decided while reading, and
        `frame.attrs["separator"]` is that of a single file of text.

    Raises:
        DataError: the file cannot be read as a table; the message names the file, the line and the fix.
        UsageError: it is an archive, a pickle or an address.

    Example:
        >>> import pathlib, tempfile
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "visits.csv"
        >>> _ = path.write_text("patient,dose\n007,1.5\n008,2.5\n")
        >>> read_table(path, task="patient").patient.tolist()
        ['007', '008']
    """
    path, reading = Path(path), _reading(task, reading)
    require_decimal(reading.decimal)
    refuse_name(path)
    with explained(path, DataError):
        folder = path.is_dir()
    if folder:
        return _read_folder(path, task, reading, guard)
    suffix = path.suffix.lower()
    if reading.sheet is not None and suffix != ".xlsx":
        raise UsageError(f"{path} has no sheets: leave --sheet out")
    if reader := READERS.get(suffix):
        if reading.shape != PLAIN and suffix != ".xlsx":
            raise UsageError(
                f"{path} has no header lines: leave --skip-rows, --header-rows and --skip-footer out"
            )
        return _as_read(reader(path, reading), reading)
    piece = read_piece(path, reading.encoding, reading.shape)
    frame = parse_pieces([piece])
    noted = [f"{path.name} is separated by {SEPARATORS[piece.separator]}"] * (piece.separator != ",")
    frame.attrs["notes"] = (*noted, *piece.notes, *frame.attrs.get("notes", ()), *_emptied([piece]))
    frame.attrs["separator"] = piece.separator
    return decide(frame, reading)


def _reading(task: str | None, reading: Reading | None) -> Reading:
    """The reading that was given, or that of a task column."""
    return Reading(ids=() if task is None else (task,)) if reading is None else reading


def _as_read(frame: pd.DataFrame, reading: Reading) -> pd.DataFrame:
    """A frame whose cells have types of their own: gaps that were declared, and decimal commas in its texts."""
    names = (*reading.ids, *reading.names)
    return with_decimal(with_gaps(frame, reading), reading.decimal, reading.task, names=names)


def _emptied(pieces: Sequence[Piece]) -> list[str]:
    count = sum(piece.empty for piece in pieces)
    return [f"{count} lines that hold nothing but separators were left out"] if count else []


def entries(folder: Path) -> list[Path]:
    """What is in a folder, by name; hidden files and what systems leave behind are no data.

    Raises:
        DataError: it cannot be listed.
    """
    with explained(folder, DataError):
        names = sorted(entry.name for entry in folder.iterdir())
    left = ("__MACOSX", "Thumbs.db", "desktop.ini")
    return [folder / name for name in names if not name.startswith(".") and name not in left]


def _read_folder(folder: Path, task: str | None, reading: Reading, guard: Guard) -> pd.DataFrame:
    files = [path for path in entries(folder) if path.suffix.lower() in TABLES]
    if not files:
        raise file_error(folder, f" holds no table: a file a task is needed, {', '.join(TABLES)}")
    stem, count = Counter(path.stem for path in files).most_common(1)[0]
    if count > 1:
        raise file_error(folder, f": two files are called {stem!r}, which would be one task: rename one")
    pieces: list[Piece] = []
    texts: list[pd.DataFrame] = []
    typed: list[pd.DataFrame] = []
    for number, path in enumerate(files):
        with guard():
            refuse_name(path)
            if reader := READERS.get(path.suffix.lower()):
                part = _as_read(as_frame(reader(path, reading)), reading)
                typed.append(_origin(part, [number] * len(part), files, list(range(len(part))), "row"))
            else:
                pieces.append(read_piece(path, reading.encoding, reading.shape))
    number_of = {path: number for number, path in enumerate(files)}
    for group in _alike(pieces):
        part = parse_pieces(group)
        owner = np.repeat([number_of[piece.path] for piece in group], [len(piece.lines) for piece in group])
        lines = np.concatenate([piece.lines for piece in group])
        texts.append(_origin(part, owner.tolist(), files, lines.tolist(), "line"))
    if not (texts or typed):
        raise file_error(folder, ": no file in it can be read as a table")
    columns = _common_columns([*texts, *typed], files, task, guard)
    parts = [
        [part[[*columns, _FILE]] for part in some if set(columns) <= set(part.columns)]
        for some in (texts, typed)
    ]
    notes = [note for piece in pieces for note in piece.notes] + _emptied(pieces)
    if parts[0]:
        # all files of text are decided on as one, so that a column has one type
        text = pd.concat(parts[0])
        decided = decide(text[columns], reading)
        notes += decided.attrs["notes"]
        parts[0] = [decided.assign(**{_FILE: text[_FILE]})]
    frame = pd.concat([part for some in parts for part in some])
    frame = frame.iloc[np.argsort(frame[_FILE].to_numpy(), kind="stable")]
    stems = np.array([path.stem for path in files], dtype=object)[frame.pop(_FILE).to_numpy()]
    name = task or "task"
    if name not in frame:
        frame.insert(0, name, stems)
        notes.append(f"each of the {len(files)} files in {folder.name} is a task, named after the file")
    else:
        notes.append(
            f"the {len(files)} files in {folder.name} are one table, as they have the column {name!r}"
        )
    others = len(entries(folder)) - len(files)
    if others:
        notes.append(f"{others} files or folders in {folder.name} are no tables and were left out")
    frame.attrs |= {"notes": tuple(dict.fromkeys(notes)), "decimal": reading.decimal}
    return frame


_FILE = "\0file"  # no column of a file can have this name


def _origin(
    frame: pd.DataFrame, owner: Sequence[int], files: Sequence[Path], lines: Sequence[int], word: str
) -> pd.DataFrame:
    """The frame with the number of each row's file, and an index that people can follow."""
    index = [f"{line} of {files[file].name}" for file, line in zip(owner, lines, strict=True)]
    return frame.assign(**{_FILE: np.array(owner)}).set_axis(pd.Index(index, name=word), axis=0)


def _alike(pieces: Sequence[Piece]) -> list[list[Piece]]:
    """Groups of files that can be parsed as one: the same header, and no quotation marks."""
    groups: dict[object, list[Piece]] = {}
    for piece in pieces:
        key: object = piece.path if b'"' in piece.data else (piece.header, piece.separator)
        groups.setdefault(key, []).append(piece)
    return list(groups.values())


def _common_columns(
    parts: Sequence[pd.DataFrame], files: Sequence[Path], task: str | None, guard: Guard
) -> list[str]:
    """The columns that most files have; each file that differs is an error."""
    counts = Counter[frozenset[str]]()
    for part in parts:
        counts[frozenset(part.columns) - {_FILE}] += int(part[_FILE].nunique())
    common = max(counts, key=lambda names: counts[names])
    for part in parts:
        columns = set(part.columns) - {_FILE}
        if columns != common:
            with guard():
                lacks, has = sorted(common - columns), sorted(columns - common)
                words = [f"lacks {listed(lacks)}"] * bool(lacks)
                words += [f"has {listed(has)}, which most files lack"] * bool(has)
                file = files[int(part[_FILE].iloc[0])]
                raise file_error(
                    file, f" {' and '.join(words)}: make the columns equal, or move the file away"
                )
    first = next(part for part in parts if set(part.columns) == {*common, _FILE})
    return [name for name in first.columns if name != _FILE]


def as_frame(table: TableLike, *, task: str | None = None, reading: Reading | None = None) -> pd.DataFrame:
    """A pandas frame from a path, a pandas frame, or any frame with `to_pandas` (polars, pyarrow).

    Arguments:
        table: the path or frame; it is not changed.
        task: the task column, see `read_table`.
        reading: see `read_table`; for frames it concerns the columns of text.

    Returns:
        A frame whose column names are distinct text. Columns of ids that are in its index are columns too.

    Raises:
        DataError: this is no table, or it has no row.

    Example:
        >>> as_frame(pd.DataFrame({"a": [1]})).columns.tolist()
        ['a']
    """
    if isinstance(table, str | Path):
        return read_table(table, task=task, reading=reading)
    reading = _reading(task, reading)
    frame = table if isinstance(table, pd.DataFrame) else _foreign(table)
    names = [str(name) for name in frame.columns]
    if len(set(names)) < len(names):
        twice = next(name for number, name in enumerate(names) if name in names[:number])
        raise DataError(f"two columns are called {twice!r}: rename one")
    if not len(frame):
        raise DataError("the table has no row: add rows")
    if names != list(frame.columns):
        frame = frame.set_axis(names, axis=1)
    frame = _with_index(_plain_columns(frame), reading)
    require_decimal(reading.decimal)
    return _as_read(frame, reading)


def _with_index(frame: pd.DataFrame, reading: Reading) -> pd.DataFrame:
    """The frame with the columns of ids and the target that stand in its index, after `set_index` or `groupby`."""
    wanted = [*reading.ids, *reading.names, *([reading.target] if reading.target else [])]
    absent = [name for name in wanted if name not in frame and name in frame.index.names]
    if not absent:
        return frame
    return frame.assign(**{name: frame.index.get_level_values(name).to_numpy() for name in absent})


def _plain_columns(frame: pd.DataFrame) -> pd.DataFrame:
    """Arrow's dictionaries and the byte order of other machines as plain columns; nested columns are refused."""
    changed = dict[str, np.ndarray | pd.Series]()
    for name, kind in frame.dtypes.items():
        if isinstance(kind, np.dtype) and not kind.isnative:
            # pandas computes with the byte order of the machine only
            changed[str(name)] = frame[name].to_numpy().astype(kind.newbyteorder("="))
        elif isinstance(kind, pd.ArrowDtype):
            import pyarrow

            if pyarrow.types.is_nested(kind.pyarrow_dtype):
                raise DataError(
                    f"column {str(name)!r} holds lists or dicts ({kind.pyarrow_dtype}): one plain value a cell is "
                    "needed",
                    column=str(name),
                )
            if pyarrow.types.is_dictionary(kind.pyarrow_dtype):
                plain = frame[name].astype(pd.ArrowDtype(kind.pyarrow_dtype.value_type))
                changed[str(name)] = plain.astype("category")
    return frame.assign(**changed) if changed else frame


def _foreign(table: _ForeignFrame) -> pd.DataFrame:
    try:
        arrow = type(table).__module__.partition(".")[0] == "pyarrow"
        frame = plain_arrow(table) if arrow and hasattr(table, "schema") else table.to_pandas()
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
