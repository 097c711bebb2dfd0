"""Figures of scores: ranking of methods, dots of tasks, gains by adaptation."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from ...compare.result import Comparison
from .style import (
    COLOURS,
    INK,
    KINDS,
    MUTED,
    axes_for,
    legend,
    metric_label,
    name_rows,
    row_axes,
    rows,
    short,
    styled,
    wrapped,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["dots", "dots_numbers", "gains", "ranking", "ranking_numbers"]

MOST_TASKS = 120  # tasks whose dots are drawn


def ranking_numbers(comparison: Comparison, metric: str | None = None) -> pd.DataFrame:
    """Every method's score, the best first.

    Arguments:
        comparison: a comparison.
        metric: one of the methods' metrics; the headline unless given.

    Returns:
        One row a method: `method`, `label`, `kind` (a key of `style.KINDS`), `metric`, `mean`, `low`, `high`.
    """
    name = metric or comparison.metric
    listed = [
        (method.name, method.label, kind_of(method.kind, method.family), name, *method.metrics[name])
        for method in comparison.methods
        if name in method.metrics
    ]
    columns = ["method", "label", "kind", "metric", "mean", "low", "high"]
    return pd.DataFrame(listed, columns=columns)


def kind_of(kind: str, family: str) -> str:
    """The kind a method is drawn as."""
    return {"meta": "meta", "incontext": "incontext"}.get(family, kind)


@styled
def ranking(numbers: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Methods from best to worst with 95 % intervals over tasks.

    Arguments:
        numbers: what `ranking_numbers` returns.
        ax: where to draw; Axes of a new figure unless given.

    Returns:
        The Axes.
    """
    legend_rows = (numbers["kind"].nunique() + 1) // 2
    ax = row_axes(ax, len(numbers), base=0.8 + 0.2 * legend_rows, each=0.32)
    for position, row in enumerate(rows(numbers)):
        mark = KINDS[str(row.kind)][1]
        ends = [row.low, row.high]
        ax.plot(ends, [position, position], color=mark.colour, linewidth=2, solid_capstyle="round")
        ax.plot(row.mean, position, mark.marker, color=mark.colour, markersize=7)
    name_rows(ax, [wrapped(label, 20) for label in numbers["label"]])
    if len(numbers):
        ax.set_xlabel(metric_label(numbers["metric"][0]))
        best = numbers["mean"][0]
        ax.axvline(best, color=MUTED, linewidth=0.8, linestyle=(0, (2, 3)), zorder=0)
        _legend_of_kinds(ax, numbers["kind"])
    return ax


def _legend_of_kinds(ax: Axes, kinds: pd.Series) -> None:
    from matplotlib.lines import Line2D

    present = [kind for kind in KINDS if kind in set(kinds)]
    marks = [KINDS[kind][1] for kind in present]
    handles = [Line2D([], [], color=mark.colour, marker=mark.marker, linestyle="none") for mark in marks]
    legend(ax, handles, [KINDS[kind][0] for kind in present])


def dots_numbers(comparison: Comparison, *, most: int = MOST_TASKS) -> pd.DataFrame:
    """The headline metric of every method on every task, means over seeds.

    Arguments:
        comparison: a comparison.
        most: of more tasks than this, equally spaced ones are taken in the order of the best method's score.

    Returns:
        One row a method and task: `method`, `label`, `kind`, `task`, `metric`, `score`; best method first.
    """
    columns = ["method", "label", "kind", "task", "metric", "score"]
    scores = {method.name: np.asarray(method.scores, dtype=float) for method in comparison.methods}
    means = {name: value.mean(1) for name, value in scores.items() if value.size}
    if not means:
        return pd.DataFrame(columns=columns)
    order = np.argsort(next(iter(means.values())), kind="stable")
    if len(order) > most:
        order = order[np.linspace(0, len(order) - 1, most).round().astype(int)]
    chosen = np.sort(order)
    listed = []
    for method in comparison.methods:
        name, kind = method.name, kind_of(method.kind, method.family)
        for task in chosen if name in means else ():
            score = float(means[name][task])
            listed.append((name, method.label, kind, comparison.tasks[task], comparison.metric, score))
    return pd.DataFrame(listed, columns=columns)


@styled
def dots(numbers: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """One dot a task, one row a method, the median marked: how much tasks differ.

    Arguments:
        numbers: what `dots_numbers` returns.
        ax: where to draw; Axes of a new figure unless given.

    Returns:
        The Axes.
    """
    methods = list(dict.fromkeys(numbers["method"]))
    ax = row_axes(ax, len(methods), base=0.75, each=0.34)
    labels = []
    for position, name in enumerate(methods):
        part = numbers[numbers["method"] == name]
        mark = KINDS[part["kind"].iloc[0]][1]
        # a fixed zigzag keeps dots apart, and the same numbers give the same picture
        offset = 0.12 * (np.arange(len(part)) % 5 - 2)
        ax.plot(
            part["score"],
            position + offset,
            "o",
            color=mark.colour,
            markersize=3.6,
            alpha=0.55,
            markeredgewidth=0,
        )
        middle = part["score"].median()
        ax.plot([middle, middle], [position - 0.36, position + 0.36], color=INK, linewidth=1.6)
        labels.append(wrapped(part["label"].iloc[0], 20))
    name_rows(ax, labels)
    if len(numbers):
        ax.set_xlabel(metric_label(numbers["metric"].iloc[0]))
        _limit_outliers(ax, numbers["score"].to_numpy())
    return ax


def _limit_outliers(ax: Axes, values: np.ndarray) -> None:
    """A scale that a few extreme tasks do not flatten: beyond three times the spread they lie outside."""
    values = values[np.isfinite(values)]
    if not len(values):
        return
    low, high = np.quantile(values, [0.02, 0.98])
    span = max(high - low, 1e-12)
    left, right = max(values.min(), low - span), min(values.max(), high + span)
    outside = int(((values < left) | (values > right)).sum())
    if outside:
        ax.set_xlim(left - 0.04 * span, right + 0.04 * span)
        ax.set_xlabel(f"{ax.get_xlabel()} ({outside} dots lie outside the picture)")


@styled
def gains(numbers: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """What each task gains by adaptation, the greatest gain first; tasks that lose are red and hang down.

    Arguments:
        numbers: what `inspection.gains` returns.
        ax: where to draw; Axes of a new figure unless given.

    Returns:
        The Axes.
    """
    from matplotlib.ticker import MaxNLocator

    ax = axes_for(ax)
    gain = numbers["gain"].to_numpy(dtype=float)
    rank = np.arange(1, len(gain) + 1)
    for chosen, colour, marker in ((gain >= 0, "green", "o"), (gain < 0, "red", "v")):
        if not chosen.any():
            continue
        ax.vlines(rank[chosen], 0, gain[chosen], color=COLOURS[colour][0], linewidth=1.2, alpha=0.75)
        size = 4.5 if len(gain) <= 60 else 2.5
        ax.plot(rank[chosen], gain[chosen], marker, color=COLOURS[colour][0], markersize=size)
    ax.axhline(0, color=MUTED, linewidth=1)
    ax.grid(axis="x", visible=False)
    ax.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    ax.set_xlabel("tasks, the greatest gain first")
    ax.set_ylabel("gain by adapting")
    if len(gain):
        _name_ends(ax, numbers)
    return ax


def _name_ends(ax: Axes, numbers: pd.DataFrame) -> None:
    """The first and the last task by name, where the falling line leaves space."""
    first, last = numbers.iloc[0], numbers.iloc[-1]
    lines = [f"greatest: {short(first['task'], 26)} ({first['gain']:+.3g})"]
    if len(numbers) > 1:
        lines.append(f"smallest: {short(last['task'], 26)} ({last['gain']:+.3g})")
    low, high = ax.get_ylim()
    ax.set_ylim(low, high + 0.22 * (high - low))
    ax.text(0.99, 0.99, "\n".join(lines), transform=ax.transAxes, ha="right", va="top")
