"""Pages of the verbs: drawn where the extra is installed, and never at the price of the result."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from ..errors import ResourceError
from .common import Notes
from .options import OUTPUT, option_words
from .refusals import require_place

if TYPE_CHECKING:
    from ..report import Page

__all__ = ["Report", "command_line", "draw", "leave", "require_report"]

NONE = "none"

Report = Annotated[
    str | None,
    Parameter(group=OUTPUT, help="Where the page goes, one HTML file; none draws no page."),
]


def draw(make: Callable[[], Page], notes: Notes) -> bytes | None:
    """The page as a file; `None`, and a note, where it cannot be drawn."""
    from ..report import available, render

    if not available():
        notes("note: no page was drawn; it needs: pip install 'innerloop[report]'")
        return None
    try:
        return render(make())
    except Exception as error:  # the result of hours is not lost for a picture of it
        notes(f"note: no page was drawn, which is a bug in innerloop: {type(error).__name__}: {error}")
        return None


def require_report(report: str | None) -> None:
    """Refuse a file for the page that cannot be written, before the work."""
    if report is not None and report != NONE:
        require_place(Path(report))


def leave(report: str | None, default: Path, make: Callable[[], Page], notes: Notes) -> Path | None:
    """Draw a page and write it where it was asked for.

    Arguments:
        report: a file, `none`, or `None` for the default.
        default: the file unless one is given; if it cannot be written, there is a note and no error.
        make: builds the page.
        notes: for people.

    Returns:
        The file, if it was written.
    """
    from ..files import make_folder, write_bytes

    if report == NONE:
        return None
    content = draw(make, notes)
    if content is None:
        return None
    path = default if report is None else Path(report)
    try:
        make_folder(path.parent)
        write_bytes(path, content)
    except ResourceError as error:
        if report is not None:
            raise
        notes(f"note: the page was not written: {error}; --report FILE puts it elsewhere")
        return None
    return path


def command_line(verb: str, settings: Mapping[str, object], *places: str) -> str:
    """The command that asks for these settings; those that are not set are left out.

    Example:
        >>> command_line("train", {"n_support": "3", "task": "the site", "skip_bad": False}, "a.csv")
        "innerloop train a.csv --n-support 3 --task 'the site'"
    """
    return shlex.join(["innerloop", verb, *places, *option_words(settings)])
