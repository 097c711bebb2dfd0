"""Figures of the factorial experiment (ablation): scores of its cells, and effect sizes as a forest plot."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from ...compare.result import Comparison
from .style import (
    COLOURS,
    INK,
    MARKS,
    MUTED,
    legend,
    metric_label,
    name_rows,
    row_axes,
    rows,
    styled,
    wrapped,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["effects", "effects_numbers", "factorial", "factorial_numbers"]

LEARNING = {"conventional": "conventional", "meta": "meta-learning"}


def factorial_numbers(comparison: Comparison) -> pd.DataFrame:
    """The headline metric in every cell of the factorial.

    Arguments:
        comparison: a comparison.

    Returns:
        One row a cell: `learning`, `augmentation`, `dropout`, `metric`, `mean`, `low`, `high`.
    """
    listed = [
        (cell.learning, cell.augmentation, cell.dropout, comparison.metric, *cell.score)
        for cell in comparison.cells
    ]
    columns = ["learning", "augmentation", "dropout", "metric", "mean", "low", "high"]
    return pd.DataFrame(listed, columns=columns)


@styled
def factorial(numbers: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """One row a pair of augmentation and dropout, one mark for each way of learning.

    Arguments:
        numbers: what `factorial_numbers` returns.
        ax: where to draw; Axes of a new figure unless given.

    Returns:
        The Axes.
    """
    pairs = list(dict.fromkeys(zip(numbers["augmentation"], numbers["dropout"], strict=True)))
    ax = row_axes(ax, len(pairs), base=0.95, each=0.235)
    handles, labels = [], []
    ways = list(dict.fromkeys(numbers["learning"]))
    for number, way in enumerate(ways):
        part = numbers[numbers["learning"] == way]
        mark = MARKS[(1, 0)[number] if number < 2 else number]
        offset = 0.17 * (2 * number - (len(ways) - 1))
        cells = zip(part["augmentation"], part["dropout"], strict=True)
        row = [pairs.index(pair) + offset for pair in cells]
        ax.hlines(row, part["low"], part["high"], color=mark.colour, linewidth=1.6)
        handles.append(ax.plot(part["mean"], row, mark.marker, color=mark.colour, markersize=5)[0])
        labels.append(LEARNING.get(way, way))
    name_rows(ax, [f"{name}, dropout {100 * share:.0f} %" for name, share in pairs])
    for border in range(1, len(pairs)):
        if pairs[border][0] != pairs[border - 1][0]:
            ax.axhline(border - 0.5, color=MUTED, linewidth=0.6)
    if len(numbers):
        ax.set_xlabel(metric_label(numbers["metric"].iloc[0]))
        legend(ax, handles, labels)
    return ax


def effects_numbers(comparison: Comparison) -> pd.DataFrame:
    """Main effects and interactions of the factorial.

    Arguments:
        comparison: a comparison.

    Returns:
        One row an effect: `effect` (its levels), `metric`, `change`, `low`, `high`, `p_holm`.
    """
    listed = [
        (" x ".join(one.factors), comparison.metric, *one.effect, one.p_holm) for one in comparison.effects
    ]
    return pd.DataFrame(listed, columns=["effect", "metric", "change", "low", "high", "p_holm"])


@styled
def effects(numbers: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Effects with 95 % intervals; those whose interval leaves out 0 are filled.

    Arguments:
        numbers: what `effects_numbers` returns.
        ax: where to draw; Axes of a new figure unless given.

    Returns:
        The Axes.
    """
    ax = row_axes(ax, len(numbers), base=0.75, each=0.3)
    for position, row in enumerate(rows(numbers)):
        clear = row.low > 0 or row.high < 0
        colour = COLOURS["blue"][0] if clear else MUTED
        ax.plot([row.low, row.high], [position, position], color=colour, linewidth=1.8)
        face = colour if clear else "none"
        ax.plot(row.change, position, "o", color=colour, markersize=6, markerfacecolor=face)
    ax.axvline(0, color=INK, linewidth=1)
    name_rows(ax, [wrapped(name, 24) for name in numbers["effect"]])
    if len(numbers):
        ax.set_xlabel(f"change of {metric_label(numbers['metric'].iloc[0])}")
    return ax
