"""Pages of the verbs: drawn where the extra is installed, and never at the price of the result."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from ..errors import ResourceError
from .common import Notes
from .options import OUTPUT, option_name, require_place

if TYPE_CHECKING:
    from ..report import Page

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


def require_report(place: str | None) -> None:
    """Refuse a place for the page that nothing can be written to, before the work."""
    if place not in (None, NONE):
        require_place(Path(str(place)))


def leave(place: str | None, default: Path, make: Callable[[], Page], notes: Notes) -> Path | None:
    """Draw a page and write it where it was asked for.

    Arguments:
        place: a file, `none`, or `None` for the default.
        default: the file unless one is given; if it cannot be written, there is a note and no error.
        make: builds the page.
        notes: for people.

    Returns:
        The file, if it was written.
    """
    from ..files import make_folder, write_bytes

    if place == NONE:
        return None
    content = draw(make, notes)
    if content is None:
        return None
    path = default if place is None else Path(place)
    try:
        make_folder(path.parent)
        write_bytes(path, content)
    except ResourceError as error:
        if place is not None:
            raise
        notes(f"note: the page was not written: {error}; --report FILE puts it elsewhere")
        return None
    return path


def command_line(verb: str, settings: Mapping[str, Any], *places: str) -> str:
    """The command that asks for these settings; those that are not set are left out.

    Example:
        >>> command_line("train", {"n_support": "3", "task": "the site", "skip_bad": False}, "a.csv")
        "innerloop train a.csv --n-support 3 --task 'the site'"
    """
    words = ["innerloop", verb, *places]
    for key, value in settings.items():
        if value is True:
            words.append(option_name(key))
        elif value is not None and value is not False:
            words += [option_name(key), str(value)]
    return shlex.join(words)
