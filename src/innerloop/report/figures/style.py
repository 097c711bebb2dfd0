"""Style of the figures: colours, markers, sizes, legends, and rows of intervals (forest plots).

Colours are told apart with any kind of colour blindness and in grey; where several mean something, a marker or
a dash says it too. Sizes suit a phone: a figure is as wide as its screen, text about as large as that around it.
"""

from __future__ import annotations

import functools
import unicodedata
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, ParamSpec, TypeAlias, TypeVar

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes

__all__ = [
    "COLOURS",
    "HEIGHT",
    "INK",
    "KINDS",
    "MARKS",
    "METRICS",
    "MUTED",
    "OTHERS",
    "STYLE",
    "WIDTH",
    "Mark",
    "axes_for",
    "intervals",
    "legend",
    "mark_of",
    "metric_label",
    "name_rows",
    "printable",
    "row_axes",
    "rows",
    "short",
    "styled",
    "width_of",
    "wrapped",
]

P = ParamSpec("P")
T = TypeVar("T")
Dash: TypeAlias = Any  # a name or a pattern of matplotlib

# name of a colour -> on white paper, on a dark screen
COLOURS = {
    "ink": ("#1c2127", "#e4e8ec"),
    "muted": ("#5b646e", "#a3adb8"),
    "grid": ("#dde2e8", "#333b44"),
    "paper": ("#fefefe", "#14181d"),
    "blue": ("#1453a3", "#4f95f5"),
    "orange": ("#c86400", "#f0a04b"),
    "green": ("#2aa673", "#8ff5cb"),
    "purple": ("#63196f", "#b26fc4"),
    "red": ("#a01414", "#e8605a"),
}
INK, MUTED, GRID, PAPER = (COLOURS[name][0] for name in ("ink", "muted", "grid", "paper"))
SERIES = ("blue", "orange", "green", "purple", "red", "ink")


class Mark(NamedTuple):
    """How one of several things is drawn: by colour, and without colour by marker and dash."""

    colour: str
    marker: str
    dash: Dash = "-"


_DASHES: tuple[Dash, ...] = (
    "-", (0, (5, 2)), (0, (1, 1.2)), (0, (6, 2, 1, 2)), (0, (3, 1)), (0, (8, 3)),
)  # fmt: skip
MARKS = tuple(
    Mark(COLOURS[name][0], marker, dash) for name, marker, dash in zip(SERIES, "osD^vX", _DASHES, strict=True)
)
OTHERS = Mark(MUTED, ".", "-")
# what kind of method it is
KINDS = {
    "none": ("not adapted", Mark(MUTED, "D")),
    "alone": ("each task alone", Mark(COLOURS["orange"][0], "s")),
    "shared": ("shared, then adapted", Mark(COLOURS["green"][0], "^")),
    "meta": ("meta-learned", Mark(COLOURS["blue"][0], "o")),
    "incontext": ("in-context model", Mark(COLOURS["purple"][0], "v")),
}

WIDTH = 4.6  # inches
HEIGHT = 2.9

STYLE: Any = {
    "figure.figsize": (WIDTH, HEIGHT),
    "figure.facecolor": PAPER,
    "figure.constrained_layout.use": True,
    "axes.facecolor": PAPER,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.major.size": 3,
    "ytick.major.size": 0,
    "text.color": INK,
    "font.family": ["DejaVu Sans"],
    "font.size": 10.5,
    "axes.labelsize": 10.5,
    "xtick.labelsize": 9.8,
    "ytick.labelsize": 9.8,
    "legend.fontsize": 9.8,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "lines.markersize": 5.5,
    # names come from data: a dollar sign in them is no formula
    "text.parse_math": False,
    "svg.fonttype": "none",
}

METRICS = {
    "error_over_variance": "error / variance",
    "squared_error": "squared error",
    "accuracy": "accuracy",
    "rmse": "root mean squared error",
    "r2": "R2",
    "auc": "area under the ROC curve",
    "calibration_error": "calibration error",
    "loss": "loss",
    "log_likelihood": "log likelihood",
    "coverage_90": "share in 90 % interval",
    "coverage_95": "share in 95 % interval",
    "interval_coverage_90": "share in 90 % conformal interval",
    "interval_width_90": "width of the conformal interval",
    "set_coverage_90": "share in 90 % prediction set",
    "set_size_90": "classes in the prediction set",
}


def metric_label(name: str) -> str:
    """What people call a metric."""
    return METRICS.get(name, name)


def mark_of(number: int) -> Mark:
    """How the thing of a number is drawn among several; after the first six, all alike."""
    return MARKS[number] if number < len(MARKS) else OTHERS


def styled(draw: Callable[P, T]) -> Callable[P, T]:
    """A function that draws in this style, whatever the settings of matplotlib are, and leaves those alone."""

    @functools.wraps(draw)
    def drawn(*args: P.args, **kwargs: P.kwargs) -> T:
        import matplotlib as mpl

        with mpl.rc_context(STYLE):
            return draw(*args, **kwargs)

    return drawn


def axes_for(ax: Axes | None, *, height: float = HEIGHT) -> Axes:
    """Axes to draw on: those given, or new ones of a pyplot figure of this height in inches, which notebooks show."""
    if ax is None:
        import matplotlib.pyplot as plt

        return plt.subplots(figsize=(WIDTH, height))[1]
    figure = ax.get_figure(root=True)
    if figure is not None and len(figure.axes) == 1:
        figure.set_size_inches(figure.get_figwidth(), height)
    return ax


def row_axes(ax: Axes | None, count: int, *, base: float, each: float) -> Axes:
    """Axes to draw `count` rows on, by the height in inches of a row and of what is around them."""
    return axes_for(ax, height=base + each * max(count, 2))


def intervals(
    ax: Axes,
    numbers: pd.DataFrame,
    middle: str,
    *,
    mark: Mark,
    size: float,
    ends: tuple[str, str] = ("low", "high"),
) -> None:
    """A row for each interval of a frame, its middle marked: a forest plot."""
    row = range(len(numbers))
    ax.hlines(row, numbers[ends[0]], numbers[ends[1]], color=mark.colour, linewidth=2)
    ax.plot(numbers[middle], row, mark.marker, color=mark.colour, markersize=size)


def width_of(ax: Axes | None) -> float:
    """Width in inches of the figure that `axes_for` will draw on."""
    figure = None if ax is None else ax.get_figure(root=True)
    return WIDTH if figure is None else float(figure.get_figwidth())


def legend(ax: Axes, handles: Sequence[Artist], labels: Sequence[str], *, columns: int = 2) -> None:
    """A legend above the Axes; labels are shown as they are, whatever they begin with."""
    from matplotlib.transforms import blended_transform_factory

    drawn = ax.legend(
        handles,
        [str(number) for number in range(len(labels))],
        # from the left edge of the figure, where there is more space than above the Axes
        bbox_transform=blended_transform_factory(ax.figure.transFigure, ax.transAxes),
        bbox_to_anchor=(0.015, 1.03),
        loc="lower left",
        ncols=columns,
        borderaxespad=0,
        handlelength=2.2,
        columnspacing=1.2,
    )
    for text, label in zip(drawn.get_texts(), labels, strict=True):
        text.set_text(short(label, int(60 * width_of(ax) / WIDTH) // columns - 7))


def name_rows(ax: Axes, labels: Sequence[str]) -> None:
    """One row a label, the first on top."""
    ax.set_yticks(range(len(labels)), labels)
    ax.set_ylim(max(len(labels), 1) - 0.5, -0.5)
    ax.grid(axis="y", visible=False)


def rows(numbers: pd.DataFrame) -> list[Any]:
    """The rows of a frame, cells by the name of their column."""
    return list(numbers.itertuples(index=False))


def printable(text: str) -> str:
    r"""Text without control characters and halves of surrogate pairs, which no document may hold.

    Example:
        >>> printable("a\x00b")
        'a\ufffdb'
    """
    bad = ("Cc", "Cs")
    return "".join("\ufffd" if unicodedata.category(c) in bad and c not in "\n\t" else c for c in text)


def short(text: str, most: int = 30) -> str:
    """Text of at most `most` characters: whole words from the start, or both ends of one long word.

    Example:
        >>> short("a very long name of a task", 14), short("patient_000123", 10)
        ('a very long …', 'patien…123')
    """
    import textwrap

    text = printable(" ".join(str(text).split()))
    if len(text) <= most:
        return text
    words = textwrap.shorten(text, most, placeholder=" …")
    if len(words) > most // 2:
        return words
    tail = (most - 1) * 2 // 5
    return f"{text[: most - 1 - tail]}…{text[len(text) - tail :]}"


def wrapped(text: str, width: int = 20, lines: int = 2) -> str:
    r"""Text on at most `lines` lines of `width` characters.

    Example:
        >>> wrapped("ridge shrunk to the pooled line", 20)
        'ridge shrunk to the\npooled line'
    """
    import textwrap

    parts = textwrap.wrap(short(text, width * lines), width)
    if len(parts) > lines:
        parts[lines - 1 :] = [short(" ".join(parts[lines - 1 :]), width)]
    return "\n".join(parts)
