"""Files of other programs that hold a table: Parquet, Feather, JSON lines, Stata, SPSS and Excel.

Each reader takes a path and a `Reading` and gives a frame; a library that is not there is named with the extra that
brings it. Add a file format to `READERS`.
"""

from __future__ import annotations

import datetime
import io
import json
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from ...errors import DataError, UsageError
from ..messages import file_error, first_line, listed, meant
from .deciding import Reading, decide
from .delimited import read_existing
from .shape import footer_lines, merged_names, refuse_footer

if TYPE_CHECKING:
    import pyarrow

__all__ = ["READERS", "plain_arrow"]

# a sheet is XML, of which a zip archive makes a twentieth; what unpacks to far more is no table
_MOST_TIMES, _SMALL = 200, 100_000_000


@contextmanager
def _reading(path: Path, what: str, library: str, extra: str) -> Iterator[None]:
    """Errors of a library as one that names the file; without the library, the extra that brings it."""
    try:
        yield
    except (DataError, UsageError):
        raise
    except ImportError:
        raise file_error(path, f": {what} files need {library}: pip install 'innerloop[{extra}]'") from None
    except Exception as error:  # a damaged file makes these libraries fail in any way
        raise file_error(path, f" cannot be read as {what} ({first_line(error)}): write it again") from None


def _read_parquet(path: Path, _: Reading) -> pd.DataFrame:
    """A Parquet file; an index with a name is a column."""
    with _reading(path, "Parquet", "pyarrow", "parquet"):
        import pyarrow
        import pyarrow.parquet

        data = pyarrow.BufferReader(read_existing(path))
        return _without_index(plain_arrow(pyarrow.parquet.read_table(data)))


def _read_feather(path: Path, _: Reading) -> pd.DataFrame:
    """A Feather file, which is an Arrow file."""
    with _reading(path, "Feather", "pyarrow", "parquet"):
        import pyarrow
        import pyarrow.feather

        return _without_index(
            plain_arrow(pyarrow.feather.read_table(pyarrow.BufferReader(read_existing(path))))
        )


def _without_index(frame: pd.DataFrame) -> pd.DataFrame:
    named = frame.index.name is not None or frame.index.nlevels > 1
    return frame.reset_index(drop=not named)


def plain_arrow(table: pyarrow.Table) -> pd.DataFrame:
    """A pyarrow table as a frame; what is stored by number is made plain first, as a number can stand for a gap."""
    import pyarrow

    stored = {field.name for field in table.schema if pyarrow.types.is_dictionary(field.type)}
    for number, field in enumerate(table.schema):
        if field.name in stored:
            plain = table.column(number).cast(field.type.value_type)
            table = table.set_column(number, pyarrow.field(field.name, plain.type), plain)
    frame: pd.DataFrame = table.to_pandas()
    return frame.astype({name: "category" for name in stored if name in frame})


def _read_json_lines(path: Path, _: Reading) -> pd.DataFrame:
    """An object a line."""
    rows, lines = [], []
    for number, line in enumerate(read_existing(path).removeprefix(b"\xef\xbb\xbf").split(b"\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise file_error(path, f", line {number}: is no JSON ({error}): correct it") from None
        if not isinstance(row, dict):
            raise file_error(path, f', line {number}: is no object: write a row as {{"name": value, ...}}')
        rows.append(row)
        lines.append(number)
    if not rows:
        raise file_error(path, " is empty: it needs an object a line")
    return pd.DataFrame(rows, index=pd.Index(lines, name="line"))


def _read_stata(path: Path, _: Reading) -> pd.DataFrame:
    data = read_existing(path)
    with _reading(path, "Stata", "pandas", "readers"):
        numbers = pd.read_stata(io.BytesIO(data), convert_categoricals=False)
        try:
            labelled = pd.read_stata(io.BytesIO(data))
        except ValueError:  # two values of a column have one label
            labelled = numbers
        return _with_labels(numbers, labelled)


def _read_spss(path: Path, _: Reading) -> pd.DataFrame:
    read_existing(path)
    with _reading(path, "SPSS", "pyreadstat", "readers"):
        return _with_labels(pd.read_spss(path, convert_categoricals=False), pd.read_spss(path))


def _with_labels(numbers: pd.DataFrame, labelled: pd.DataFrame) -> pd.DataFrame:
    """Labels in the place of the numbers they stand for, in columns in which each number that occurs has one."""
    frame = pd.DataFrame(index=numbers.index)
    for name in numbers.columns:
        column = labelled[name]
        names = isinstance(column.dtype, pd.CategoricalDtype) and all(
            isinstance(value, str) for value in column.dropna().unique()
        )
        twice = names and column.nunique() < numbers[name].nunique()
        frame[name] = column if names and not twice else numbers[name]
    return frame


def _read_excel(path: Path, reading: Reading) -> pd.DataFrame:
    """One sheet, its first row being the names of the columns; cells are read as those of a text file."""
    data = read_existing(path)
    with _reading(path, "Excel", "openpyxl", "readers"):
        if not zipfile.is_zipfile(io.BytesIO(data)):
            raise file_error(
                path, " is no Excel file that can be read: save it again as .xlsx, or export the sheet as CSV"
            )
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            size = sum(entry.file_size for entry in archive.infolist())
        if size > _SMALL + _MOST_TIMES * len(data):
            raise file_error(
                path, f" has {len(data):,} bytes and unpacks to {size:,}: export the sheet as CSV"
            )
        with pd.ExcelFile(io.BytesIO(data), engine="openpyxl") as book:
            sheet = _sheet(path, [str(name) for name in book.sheet_names], reading.sheet)
            cells = pd.read_excel(
                book, sheet_name=sheet, header=None, dtype=object, keep_default_na=False, na_filter=False
            )
    texts = cells.map(lambda cell: _as_text(cell, reading.decimal))
    texts = texts.set_axis(pd.Index(range(1, len(texts) + 1), name="row"), axis=0)
    shape = reading.shape
    shape.require_sense()
    texts = texts.iloc[shape.skip_rows :]
    filled = texts[(texts != "").any(axis=1)]
    filled = filled.iloc[: len(filled) - (shape.skip_footer or 0)]
    if len(filled) <= shape.header_rows:
        raise file_error(path, f": sheet {sheet!r} has no row below the names of columns: add rows")
    names = merged_names(filled.iloc[: shape.header_rows].to_numpy().tolist())
    for number, name in enumerate(names, 1):
        if not name or name in names[: number - 1]:
            raise file_error(
                path,
                f": sheet {sheet!r}, column {number} "
                + (f"is called {name!r} as another one is" if name else "has no name")
                + f": the first row (row {filled.index[0]}) names the columns; say where names stand (--skip-rows 1 "
                "below a title, --header-rows 2 below merged cells)",
            )
    rows = filled.iloc[shape.header_rows :].to_numpy().tolist()
    if count := footer_lines(rows) if shape.skip_footer is None else 0:
        refuse_footer(path, f"row {filled.index[-count]}", [row[0] for row in rows[-count:]])
    frame = filled.iloc[shape.header_rows :].set_axis(names, axis=1).astype("str")
    return decide(frame, reading)


def _sheet(path: Path, sheets: list[str], wanted: str | None) -> str:
    """The name of the sheet to read."""
    if wanted is None and len(sheets) > 1:
        raise UsageError(f"{path} has the sheets {listed(sheets)}: say which (--sheet {sheets[0]!r})")
    if wanted is not None and wanted not in sheets:
        raise UsageError(f"{path} has no sheet {wanted!r}{meant(wanted, sheets)}: it has {listed(sheets)}")
    return sheets[0] if wanted is None else wanted


def _as_text(cell: object, decimal: str) -> str:
    """A cell of a sheet as a text file has it."""
    if isinstance(cell, bool | str) or cell is None:
        return "" if cell is None else str(cell)
    if isinstance(cell, float):
        text = repr(int(cell)) if cell.is_integer() and abs(cell) < 2**53 else repr(cell)
        return text.replace(".", decimal)
    if isinstance(cell, datetime.datetime) and cell.time() == datetime.time():
        return cell.date().isoformat()
    return cell.isoformat() if isinstance(cell, datetime.date | datetime.time) else str(cell)


READERS: dict[str, Callable[[Path, Reading], pd.DataFrame]] = {
    ".parquet": _read_parquet,
    ".pq": _read_parquet,
    ".feather": _read_feather,
    ".jsonl": _read_json_lines,
    ".ndjson": _read_json_lines,
    ".dta": _read_stata,
    ".sav": _read_spss,
    ".xlsx": _read_excel,
}
