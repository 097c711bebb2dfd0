"""Parts of error messages: lists of names, the name that was probably meant, the first line of an exception."""

from __future__ import annotations

import difflib
import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path

import pandas as pd

from ..errors import DataError

__all__ = ["absent_columns", "file_error", "first_line", "listed", "meant", "quoted"]


def absent_columns(names: Sequence[str], frame: pd.DataFrame) -> str:
    """The message about columns that are not there, with those that may be meant."""
    columns = [str(name) for name in frame.columns]
    return (
        f"no column {', '.join(map(repr, names))} in the table{meant(names, columns)}; "
        f"it has {listed(columns, 12)}"
    )


def meant(names: str | Sequence[str], known: Iterable[str]) -> str:
    """` (did you mean 'a'?)` with the known names that look most like unknown ones, or nothing.

    Example:
        >>> meant("shcool", ["school", "exam"])
        " (did you mean 'school'?)"
    """
    lower = {name.strip().lower(): name for name in known}
    near = []
    for name in [names] if isinstance(names, str) else names:
        same = lower.get(name.strip().lower())
        near += [same] if same else difflib.get_close_matches(name, list(lower.values()), 1)
    return f" (did you mean {', '.join(map(repr, near))}?)" if near else ""


def quoted(*names: str) -> str:
    """Column names, or what stands for a gap, as an option of the command takes them.

    Example:
        >>> print(quoted("dose"), quoted("Promo %"), quoted("age, years"), quoted("NA", "n/a"))
        dose 'Promo %' '"age, years"' NA,n/a
    """
    return shlex.quote(",".join(f'"{name}"' if "," in name else name for name in names))


def listed(names: Sequence[object], most: int = 8) -> str:
    """`'a', 'b' and 3 more`."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(map(repr, names[:most])) + more


def first_line(error: Exception) -> str:
    """What an exception of another library says, in one line."""
    return (str(error) or type(error).__name__).splitlines()[0]


def file_error(path: str | Path, message: str) -> DataError:
    """An error about a file, which is named before the message and as data."""
    return DataError(f"{path}{message}", file=str(path))
