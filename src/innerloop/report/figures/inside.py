"""Figures of what was learned: layer movement, representation similarity (CKA), step sizes, masks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from .style import (
    COLOURS,
    INK,
    MARKS,
    MUTED,
    Mark,
    axes_for,
    intervals,
    legend,
    mark_of,
    name_rows,
    row_axes,
    short,
    styled,
    wrapped,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["masks", "moved", "rates", "similarity"]


@styled
def moved(numbers: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """How far adaptation moves each layer, relative to where it starts.

    Arguments:
        numbers: what `inspection.movement` returns.
        ax: where to draw; Axes of a new figure unless given.

    Returns:
        The Axes.
    """
    ax = row_axes(ax, len(numbers), base=0.6, each=0.32)
    known = numbers["relative"].notna().to_numpy()
    row = np.arange(len(numbers))
    colour = COLOURS["blue"][0]
    ax.barh(row[known], numbers["relative"][known], height=0.62, color=colour, alpha=0.8)
    ax.hlines(row[known], numbers["low"][known], numbers["high"][known], color=INK, linewidth=1.4)
    for number in row[~known]:
        ax.text(0, number, "  starts at 0", va="center", color=MUTED)
    for number in row[known & (numbers["relative"] == 0).to_numpy()]:
        ax.text(0, number, "  shared by all tasks", va="center", color=MUTED)
    _layers(ax, numbers)
    ax.set_xlim(left=0)
    ax.set_xlabel("movement relative to the start")
    return ax


def _layers(ax: Axes, numbers: pd.DataFrame) -> None:
    names = [f"{layer}: {kind}" for layer, kind in zip(numbers["layer"], numbers["kind"], strict=True)]
    name_rows(ax, [short(name, 24) for name in names])


@styled
def similarity(numbers: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Linear CKA of each layer's output before and after adaptation; 1 is the same representation.

    Arguments:
        numbers: what `inspection.similarity` returns.
        ax: where to draw; Axes of a new figure unless given.

    Returns:
        The Axes.
    """
    ax = row_axes(ax, len(numbers), base=0.6, each=0.32)
    intervals(ax, numbers, "cka", mark=MARKS[2], size=6)
    _layers(ax, numbers)
    ax.set_xlim(min(0.0, *numbers["low"].fillna(0)) if len(numbers) else 0, 1.02)
    ax.set_xlabel("similarity before and after (linear CKA)")
    return ax


def rates(numbers: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Learned step sizes: by parameter, or along the inner steps where each has its own.

    Arguments:
        numbers: what `inspection.rates` returns.
        ax: where to draw; Axes of a new figure unless given.

    Returns:
        The Axes.
    """
    if (numbers["step"] == "every").all():
        return _rates_by_parameter(numbers, ax)
    return _rates_by_step(numbers, ax)


@styled
def _rates_by_parameter(numbers: pd.DataFrame, ax: Axes | None) -> Axes:
    ax = row_axes(ax, len(numbers), base=0.6, each=0.27)
    mark = Mark(COLOURS["purple"][0], "D")
    intervals(ax, numbers, "mean", mark=mark, size=5.5, ends=("lowest", "highest"))
    name_rows(ax, [wrapped(name, 22, 1) for name in numbers["parameter"]])
    ax.set_xlim(left=min(0.0, *numbers["lowest"]) if len(numbers) else 0)
    ax.axvline(0, color=MUTED, linewidth=1)
    ax.set_xlabel("learned step size (mean, lowest to highest)")
    return ax


@styled
def _rates_by_step(numbers: pd.DataFrame, ax: Axes | None) -> Axes:
    names = list(dict.fromkeys(numbers["parameter"]))
    ax = axes_for(ax, height=2.7 + 0.2 * ((min(len(names), 7) + 1) // 2))
    handles, labels = [], []
    for number, name in enumerate(names):
        part = numbers[numbers["parameter"] == name]
        mark = mark_of(number)
        line = ax.plot(
            part["step"].astype(int), part["mean"], color=mark.colour, marker=mark.marker, linestyle=mark.dash,
            linewidth=1.8 if number < len(MARKS) else 0.8,
        )[0]  # fmt: skip
        if number <= len(MARKS):
            handles.append(line)
            labels.append(name if number < len(MARKS) else "other parameters")
    ax.axhline(0, color=MUTED, linewidth=1)
    ax.set_xticks(sorted({int(step) for step in numbers["step"]}))
    ax.set_xlabel("inner step")
    ax.set_ylabel("learned step size")
    legend(ax, handles, labels)
    return ax


@styled
def masks(numbers: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """The share of weights that may move, by parameter.

    Arguments:
        numbers: what `inspection.masks` returns.
        ax: where to draw; Axes of a new figure unless given.

    Returns:
        The Axes.
    """
    ax = row_axes(ax, len(numbers), base=0.6, each=0.27)
    ax.barh(range(len(numbers)), 100 * numbers["adapting"], height=0.62, color=COLOURS["green"][0], alpha=0.8)
    name_rows(ax, [wrapped(name, 22, 1) for name in numbers["parameter"]])
    ax.set_xlim(0, 100)
    ax.set_xlabel("weights that may move, in per cent")
    return ax
