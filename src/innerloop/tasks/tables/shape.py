"""What stands around the rows of a file: lines above the header, names in several lines, footers below."""

from __future__ import annotations

import csv
import io
import itertools
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, NoReturn

from ...errors import UsageError
from ..messages import file_error, listed

__all__ = [
    "PLAIN",
    "Shape",
    "footer_lines",
    "is_footer",
    "merged_names",
    "refuse_footer",
    "row_names",
    "shaped",
]

# what people write in the first cell below the rows of a table
_FOOTER = re.compile(
    r"(grand\s+)?(totals?|sums?|mean|average|gesamt|insgesamt|summe|mittelwert|total\s+général)\s*:?\s*"
    r"|(sources?|quellen?|notes?|footnotes?|anmerkung(en)?)\b.*",
    re.IGNORECASE | re.DOTALL,
)


class Shape(NamedTuple):
    """What stands around the rows of a file.

    Arguments:
        skip_rows: lines above the names of the columns.
        header_rows: lines that these names take.
        skip_footer: lines below the rows; `None` where it was not said, so that what looks like one is refused.
    """

    skip_rows: int = 0
    header_rows: int = 1
    skip_footer: int | None = None

    def require_sense(self) -> None:
        """Refuse numbers of lines without a meaning.

        Raises:
            UsageError: a number is too small.
        """
        for name, value, least in (
            ("skip_rows", self.skip_rows, 0),
            ("header_rows", self.header_rows, 1),
            ("skip_footer", self.skip_footer or 0, 0),
        ):
            if value < least:
                raise UsageError(f"{name}={value}: give {least} or more")


# one line of names, and what is not said below the rows
PLAIN = Shape()


def shaped(path: Path, data: bytes, separator: str, shape: Shape) -> tuple[bytes, list[str]]:
    r"""The text with one header line and no line around its rows.

    Lines that are left out become empty, so that the others keep their numbers.

    Raises:
        DataError: there are too few lines, or those of the header have different numbers of names.

    Example:
        >>> text = b"Ward 7\nwho,blood,\n,na,k\n1,140,4\nTotal,,\n"
        >>> data, notes = shaped(Path("a.csv"), text, ",", Shape(1, 2, 1))
        >>> data.decode().splitlines()
        ['', '', 'who,blood na,blood k', '1,140,4', '']
        >>> notes[0]
        "1 line above the names of columns was left out: 'Ward 7'"
    """
    lines = data.decode("utf-8").split("\n")
    filled = [number for number, line in enumerate(lines) if number >= shape.skip_rows and line.strip()]
    below = shape.skip_footer or 0
    if len(filled) <= shape.header_rows + below:
        raise file_error(
            path,
            f" has {len(filled)} lines below the first {shape.skip_rows}: too few for a header and a row",
        )
    notes = _told("above the names of columns", lines[: shape.skip_rows])
    notes += _told("below the rows", [lines[number] for number in filled[len(filled) - below :]])
    head = filled[: shape.header_rows]
    if len(head) > 1:
        rows = [next(csv.reader([lines[number]], delimiter=separator), []) for number in head]
        if len({len(row) for row in rows}) > 1:
            raise file_error(
                path,
                f", line {head[0] + 1}: the {len(head)} lines of the header have {listed([len(row) for row in rows])} "
                "names: fill up the shorter ones with separators",
            )
        names = merged_names(rows)
        notes.append(f"the header has {len(head)} lines; columns are called {listed(names, 6)}")
        text = io.StringIO()
        csv.writer(text, delimiter=separator, lineterminator="").writerow(names)
        lines[head[-1]] = text.getvalue()
    for number in (*range(shape.skip_rows), *head[:-1], *filled[len(filled) - below :]):
        lines[number] = ""
    return "\n".join(lines).encode(), notes


def _told(where: str, lines: Sequence[str]) -> list[str]:
    """A note on lines that were left out, with the first that holds anything."""
    if not lines:
        return []
    first = next((line.strip() for line in lines if line.strip()), "")
    words = "line was" if len(lines) == 1 else "lines were"
    return [f"{len(lines)} {words.split(maxsplit=1)[0]} {where} {words.split()[1]} left out: {first[:60]!r}"]


def merged_names(rows: Sequence[Sequence[str]]) -> list[str]:
    """Names of columns that stand in several rows; a name above counts up to the next one, as merged cells do.

    Example:
        >>> merged_names([["", "blood", "", "age"], ["who", "na", "k", ""]])
        ['who', 'blood na', 'blood k', 'age']
    """
    parts: list[list[str]] = [[] for _ in rows[0]]
    for number, row in enumerate(rows):
        name = ""
        for column, cell in enumerate(row):
            last = number == len(rows) - 1
            name = cell.strip() if cell.strip() or last else name
            if name:
                parts[column].append(name)
    return [" ".join(own) for own in parts]


def is_footer(row: Sequence[str]) -> bool:
    """Whether a row looks like totals or a source by its first cell, or holds some words there and nothing else.

    Example:
        >>> is_footer(["Total", "3.5", "2"]), is_footer(["as of May", "", ""]), is_footer(["ann", "", ""])
        (True, True, False)
    """
    first = row[0].strip()
    words = len(row) > 2 and " " in first and not any(cell.strip() for cell in row[1:])
    return words or _FOOTER.fullmatch(first) is not None


def footer_lines(rows: Sequence[Sequence[str]]) -> int:
    """How many of the last rows look like a footer, as no row above them does.

    Example:
        >>> (
        ...     footer_lines([["a", "1"], ["Total", "1"], ["Source: WHO", ""]]),
        ...     footer_lines([["Total"], ["mean"]]),
        ... )
        (2, 0)
    """
    alike = [is_footer(row) for row in rows]
    count = len(list(itertools.takewhile(bool, reversed(alike))))
    return 0 if count == len(rows) or any(alike[: len(rows) - count]) else count


def refuse_footer(path: Path, place: str, first_cells: Sequence[str]) -> NoReturn:
    """Refuse last rows that look like a footer, with both ways out.

    Arguments:
        path: the file.
        place: of the first of them, for the message.
        first_cells: of these rows.

    Raises:
        DataError: always.
    """
    raise file_error(
        path,
        f", {place}: {first_cells[0].strip()[:60]!r} looks like a footer and no row: leave it out (--skip-footer "
        f"{len(first_cells)}), or say that it is a row (--skip-footer 0)",
    )


def row_names(rows: Sequence[str]) -> bool:
    """Whether lines begin with names of rows, as R writes them below a header that has no name for these.

    They are quoted in every line, or the numbers from 1 on: nothing else that makes a line longer looks so.

    Example:
        >>> row_names(['"ann",1', '"bob",2']), row_names(["1,a", "2,b"]), row_names(["1,5,2", "3,5,4"])
        (True, True, False)
    """
    if all(row.startswith('"') for row in rows):
        return True
    return all(re.match(rf"{number}\D", row) for number, row in enumerate(rows, 1))
