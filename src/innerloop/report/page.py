"""Render a report: sections of pictures with their numbers as one self-contained HTML file."""

from __future__ import annotations

import base64
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING, TypeAlias

import pandas as pd

from ..errors import UsageError
from .figures.style import COLOURS, WIDTH, printable
from .svg import drawn

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = [
    "Answer",
    "Draw",
    "Page",
    "Picture",
    "Section",
    "Table",
    "available",
    "cell",
    "download",
    "pairs",
    "render",
]

Answer: TypeAlias = tuple[str, str, str]  # question, `yes`, `no` or `open`, and what it rests on
Draw: TypeAlias = "Callable[[Axes], object]"

MOST_ROWS = 200  # of a table in the page; the file behind it has all of them

_SMALL = 3.4  # inches, of one of several pictures
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


@dataclass(frozen=True)
class Table:
    """A table of the page.

    Arguments:
        title: its caption.
        rows: what is in it; the first column names the rows.
    """

    title: str
    rows: pd.DataFrame


@dataclass(frozen=True)
class Picture:
    """A picture and the numbers behind it.

    Arguments:
        key: unique in the page; also the name of the file with the numbers.
        title: what it is.
        text: what can be seen in it, in sentences; also what a screen reader says.
        numbers: all that is drawn.
        draw: draws it, or several of them with a caption each.
    """

    key: str
    title: str
    text: str
    numbers: pd.DataFrame
    draw: Draw | tuple[tuple[str, Draw], ...]


@dataclass(frozen=True)
class Section:
    """A part of the page; one without content is left out.

    Arguments:
        title: heading.
        text: paragraphs before the pictures.
        pictures: drawn beside each other where there is space.
        tables: below them.
    """

    title: str
    text: tuple[str, ...] = ()
    pictures: tuple[Picture, ...] = ()
    tables: tuple[Table, ...] = ()


@dataclass(frozen=True)
class Page:
    """All that a report says.

    Arguments:
        title: heading.
        about: the data, in one line.
        verdict: the answer, in sentences.
        answers: to questions; see `Answer`.
        sections: in this order.
        settings: groups of names and values.
        command: makes the page again.
        next: the command to go on with.
        notes: remarks.
    """

    title: str
    about: str
    verdict: str
    answers: tuple[Answer, ...] = ()
    sections: tuple[Section, ...] = ()
    settings: tuple[Table, ...] = ()
    command: str = ""
    next: str = ""
    notes: tuple[str, ...] = ()


def available() -> bool:
    """Whether pages can be drawn: the extra `report` is installed."""
    from importlib.util import find_spec

    return all(find_spec(name) is not None for name in ("matplotlib", "jinja2"))


def render(page: Page) -> bytes:
    """The page as one HTML file.

    Text of data is escaped wherever it stands; there is no script in the page, and a policy that allows none.

    Arguments:
        page: what to say.

    Returns:
        The file.

    Raises:
        UsageError: the extra `report` is not installed.

    Example:
        >>> html = render(Page("a < b", "12 tasks", "It helps.")).decode()
        >>> "<h1>a &lt; b</h1>" in html, "<script" in html
        (True, False)
    """
    if not available():
        raise UsageError("drawing a page needs matplotlib and jinja2: pip install 'innerloop[report]'")
    import jinja2
    from markupsafe import Markup

    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True,
        finalize=lambda value: value if isinstance(value, Markup) else printable(str(value)),
    )  # fmt: skip
    environment.filters |= {
        "cell": cell,
        "download": download,
        # a number and its per cent sign stay on one line
        "sentence": lambda text: str(text).replace(" %", "\u00a0%"),
        "drawings": lambda picture: [(name, Markup(svg)) for name, svg in drawings(picture)],
    }
    here = resources.files(__package__)
    template = environment.from_string((here / "page.html.j2").read_text(encoding="utf-8"))
    sections = [part for part in page.sections if part.text or part.pictures or part.tables]
    style = Markup(_variables() + (here / "page.css").read_text(encoding="utf-8"))
    text = template.render(page=page, sections=sections, style=style, most=MOST_ROWS)
    return text.encode("utf-8", "replace")


def _variables() -> str:
    """The colours of the figures, for light and dark, as variables of the style sheet."""
    light, dark = ("".join(f"--{name}:{both[mode]};" for name, both in COLOURS.items()) for mode in (0, 1))
    return (
        f":root{{color-scheme:light dark;{light}}}\n"
        f"@media screen and (prefers-color-scheme:dark){{:root{{{dark}}}}}\n"
    )


def drawings(picture: Picture) -> list[tuple[str, str]]:
    """Captions and `<svg>` elements of a picture."""
    several = isinstance(picture.draw, tuple)
    parts = picture.draw if isinstance(picture.draw, tuple) else (("", picture.draw),)
    elements = []
    for number, (caption, draw) in enumerate(parts):
        title = printable(f"{picture.title}: {caption}" if caption else picture.title)
        key, width, text = f"{picture.key}-{number}", _SMALL if several else WIDTH, printable(picture.text)
        elements.append((caption, drawn(draw, key=key, title=title, text=text, width=width)))
    return elements


def cell(value: object) -> str:
    """A value as people read it.

    Example:
        >>> [cell(value) for value in (0.123456, 12345.678, 3, float("nan"), None, "x", True, (40, 40))]
        ['0.1235', '12346', '3', '', '', 'x', 'yes', '40, 40']
    """
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.0f}" if 1e3 <= abs(value) < 1e15 else f"{value:.4g}"
    if isinstance(value, list | tuple):
        return ", ".join(map(cell, value))
    if isinstance(value, dict):
        return ", ".join(f"{key} {cell(entry)}" for key, entry in value.items())
    return str(value)


def download(numbers: pd.DataFrame) -> str:
    r"""A frame as the address of a CSV file that is inside the page.

    Text that a spreadsheet would take for a formula gets an apostrophe in front.

    Example:
        >>> base64.b64decode(download(pd.DataFrame({"task": ["=1+1"], "score": [-0.5]})).partition(",")[2])
        b"task,score\n'=1+1,-0.5\n"
    """

    def safe(value: object) -> object:
        return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value

    text = numbers.map(safe).to_csv(index=False, lineterminator="\n")
    return f"data:text/csv;charset=utf-8;base64,{base64.b64encode(text.encode('utf-8', 'replace')).decode()}"


def pairs(title: str, values: Iterable[tuple[str, object]]) -> Table:
    """A table of names and values; those without a value are left out."""
    rows = [(name.replace("_", " "), cell(value)) for name, value in values if cell(value) != ""]
    return Table(title, pd.DataFrame(rows, columns=["name", "value"]))
