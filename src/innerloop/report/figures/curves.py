"""Figures of curves: scores along an axis (learning curves), and losses along training."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from ...compare.result import Comparison, Curve, LogEntry
from ...evaluation.scores import Evaluation
from .style import INK, MARKS, MUTED, OTHERS, Mark, axes_for, legend, mark_of, metric_label, styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.lines import Line2D

__all__ = ["crossing_numbers", "curve", "curve_numbers", "learning", "learning_numbers", "steps_numbers"]

AXES = {
    "support": "support size",
    "train_tasks": "meta-training tasks",
    "inner_steps": "inner steps",
}
_COLUMNS = ["method", "label", "axis", "at", "written", "metric", "mean", "low", "high"]


def curve_numbers(comparison: Comparison, axis: str) -> pd.DataFrame:
    """The headline metric of methods along an axis.

    Arguments:
        comparison: a comparison.
        axis: `support`, `train_tasks` or `inner_steps`.

    Returns:
        One row a method and point: `method`, `label`, `axis`, `at`, `written` (the point as text), `metric`,
        `mean`, `low`, `high`; methods in the order of the ranking.
    """
    order = {method.name: rank for rank, method in enumerate(comparison.methods)}
    curves = [curve for curve in comparison.curves if curve.axis == axis]
    curves.sort(key=lambda curve: order.get(curve.method, len(order)))
    rows = [
        row for curve in curves for row in _points(curve, comparison.label(curve.method), comparison.metric)
    ]
    return pd.DataFrame(rows, columns=_COLUMNS)


def _points(curve: Curve, label: str, metric: str) -> list[tuple[object, ...]]:
    points = zip(curve.at, curve.labels, curve.estimates, strict=True)
    return [(curve.method, label, curve.axis, at, written, metric, *value) for at, written, value in points]


def steps_numbers(evaluation: Evaluation, method: str) -> pd.DataFrame:
    """The headline metric of a model by number of inner steps, in the form of `curve_numbers`.

    Arguments:
        evaluation: an evaluation.
        method: what to call the model.

    Returns:
        The numbers.

    Example:
        >>> import innerloop as il
        >>> learner = il.mixed(1)
        >>> evaluation = il.evaluate(il.Model(learner, learner.init()), il.tasks.sinusoid(episodes=5).test)
        >>> steps_numbers(evaluation, "mixed")["at"].tolist()
        [0.0, 1.0]
    """
    metric = evaluation.metrics[0]
    values = tuple(evaluation.metric(metric, position) for position in range(len(evaluation.steps)))
    steps = Curve(
        method, "inner_steps", tuple(map(float, evaluation.steps)), tuple(map(str, evaluation.steps)), values
    )
    return pd.DataFrame(_points(steps, method, metric), columns=_COLUMNS)


def crossing_numbers(comparison: Comparison, axis: str) -> pd.DataFrame:
    """Where curves meet.

    Arguments:
        comparison: a comparison.
        axis: as for `curve_numbers`.

    Returns:
        One row a crossing: `ours`, `theirs`, `at`, `low`, `high` (NaN: outside the curve), `sentence`.
    """
    rows = [
        (one.ours, one.theirs, one.at, one.low, one.high, one.sentence)
        for one in comparison.crossings
        if one.axis == axis
    ]
    numbers = pd.DataFrame(rows, columns=["ours", "theirs", "at", "low", "high", "sentence"])
    return numbers.astype({"at": float, "low": float, "high": float}) if rows else numbers


@styled
def curve(numbers: pd.DataFrame, *, crossing: pd.DataFrame | None = None, ax: Axes | None = None) -> Axes:
    """Methods along an axis with 95 % intervals, and the point from which on another one is as good.

    The first six methods have a colour, marker and dash each, further ones are thin and grey.

    Arguments:
        numbers: what `curve_numbers` or `steps_numbers` returns.
        crossing: what `crossing_numbers` returns: the first point that was found is marked.
        ax: where to draw; Axes of a new figure unless given.

    Returns:
        The Axes.
    """
    methods = list(dict.fromkeys(numbers["method"]))
    named = len(methods) > 1
    ax = axes_for(ax, height=2.7 + (0.2 * ((min(len(methods), 7) + 1) // 2) if named else 0))
    handles, labels = [], []
    for number, name in enumerate(methods):
        part = numbers[numbers["method"] == name]
        line = _line(ax, part, mark_of(number))
        if number < len(MARKS) + 1:
            handles.append(line)
            labels.append(part["label"].iloc[0] if number < len(MARKS) else "other methods")
    if len(numbers):
        _scale(ax, numbers)
        ax.set_ylabel(metric_label(numbers["metric"].iloc[0]))
    if crossing is not None:
        _mark_crossing(ax, crossing)
    if named:
        legend(ax, handles, labels)
    return ax


def _line(ax: Axes, part: pd.DataFrame, mark: Mark) -> Line2D:
    at, main = part["at"].to_numpy(), mark is not OTHERS
    if main:
        ax.fill_between(at, part["low"], part["high"], color=mark.colour, alpha=0.14, linewidth=0)
    return ax.plot(
        at, part["mean"], color=mark.colour, marker=mark.marker if len(at) < 30 else "",
        linestyle=mark.dash, linewidth=1.8 if main else 0.8, alpha=1 if main else 0.7,
    )[0]  # fmt: skip


def _scale(ax: Axes, numbers: pd.DataFrame) -> None:
    """Ticks where there are values; sizes that grow by factors stand at equal distances."""
    points = numbers.drop_duplicates("at").sort_values("at")
    at, written = points["at"].to_numpy(), points["written"].tolist()
    axis = str(numbers["axis"].iloc[0])
    ax.set_xlabel(AXES.get(axis, axis))
    if len(at) > 1 and at.min() > 0 and at.max() / at.min() > 8:
        ax.set_xscale("log")
        ax.minorticks_off()
    if len(at) <= 12:
        shown = _apart(np.log(at) if ax.get_xscale() == "log" else at)
        ax.set_xticks(at[shown], [written[number] for number in shown])


def _apart(positions: np.ndarray, least: float = 0.06) -> list[int]:
    """Those of ascending positions, from the last one, that keep a distance: a share of the whole."""
    chosen: list[int] = []
    for number in range(len(positions) - 1, -1, -1):
        if not chosen or positions[chosen[-1]] - positions[number] >= least * (positions[-1] - positions[0]):
            chosen.append(number)
    return chosen[::-1]


def _mark_crossing(ax: Axes, crossing: pd.DataFrame) -> None:
    there = crossing[crossing["at"].notna()]
    if there.empty:
        return
    row = there.iloc[0]
    left, right = ax.get_xlim()
    low = row["low"] if np.isfinite(row["low"]) else left
    high = row["high"] if np.isfinite(row["high"]) else right
    ax.axvspan(low, high, color=MUTED, alpha=0.12, linewidth=0, zorder=0)
    ax.axvline(row["at"], color=INK, linewidth=1.2, linestyle=(0, (2, 2)))
    # the words stand on the side with more space
    before = ax.transAxes.inverted().transform(ax.transData.transform((row["at"], 0)))[0] > 0.55
    ax.annotate(
        f"as good from {row['at']:.3g} on", (row["at"], 1), (-5 if before else 5, -2),
        xycoords=("data", "axes fraction"), textcoords="offset points",
        ha="right" if before else "left", va="top",
    )  # fmt: skip
    ax.set_xlim(left, right)


def learning_numbers(logs: Mapping[str, Sequence[LogEntry]], *, most: int = 120) -> pd.DataFrame:
    """Training and validation loss along training.

    Arguments:
        logs: log entries by the name of the method: `step`, `loss`, and `valid_loss` where it was measured.
        most: points of a curve; of longer logs, means over equally many steps are taken.

    Returns:
        One row a method and point: `method`, `step` (the last one of those averaged), `loss`, `valid_loss` (NaN
        where it was not measured).

    Example:
        >>> log = [{"step": 1, "loss": 3.0}, {"step": 2, "loss": 1.0, "valid_loss": 2.0}]
        >>> learning_numbers({"maml": log}, most=1).values.tolist()
        [['maml', 2, 2.0, 2.0]]
    """
    rows = []
    for method, log in logs.items():
        if not log:
            continue
        frame = pd.DataFrame(list(log), columns=["step", "loss", "valid_loss"]).astype(float)
        size = max(1, math.ceil(len(frame) / most))
        grouped = frame.groupby(np.arange(len(frame)) // size)
        # the validation belongs to the last step of its group
        for step, loss, valid in zip(
            grouped["step"].max(), grouped["loss"].mean(), grouped["valid_loss"].last(), strict=True
        ):
            rows.append((method, int(step), loss, valid))
    return pd.DataFrame(rows, columns=["method", "step", "loss", "valid_loss"])


@styled
def learning(numbers: pd.DataFrame, *, best_step: int | None = None, ax: Axes | None = None) -> Axes:
    """Loss along training: of meta-train episodes (thin) and of meta-validation tasks (points).

    Arguments:
        numbers: what `learning_numbers` returns.
        best_step: the step whose parameters were kept.
        ax: where to draw; Axes of a new figure unless given.

    Returns:
        The Axes.
    """
    from matplotlib.lines import Line2D
    from matplotlib.ticker import MaxNLocator

    methods = list(dict.fromkeys(numbers["method"]))
    ax = axes_for(ax, height=2.7 + 0.2 * ((len(methods) + 1) // 2))
    for number, name in enumerate(methods):
        part = numbers[numbers["method"] == name]
        mark = mark_of(number)
        ax.plot(part["step"], part["loss"], color=mark.colour, linewidth=1, alpha=0.6)
        measured = part[part["valid_loss"].notna()]
        ax.plot(
            measured["step"], measured["valid_loss"], color=mark.colour, marker=mark.marker, linestyle=mark.dash,
            markersize=4.5,
        )  # fmt: skip
    _limit_losses(ax, numbers)
    if best_step:
        ax.axvline(best_step, color=INK, linewidth=1, linestyle=(0, (2, 2)))
    ax.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    ax.set_xlabel("meta-updates")
    ax.set_ylabel("loss")
    if len(methods) > 1:
        marks = map(mark_of, range(len(methods)))
        handles = [Line2D([], [], color=m.colour, marker=m.marker, linestyle=m.dash) for m in marks]
        legend(ax, handles, methods)
    else:
        thin = Line2D([], [], color=MARKS[0].colour, linewidth=1, alpha=0.6)
        thick = Line2D([], [], color=MARKS[0].colour, marker=MARKS[0].marker)
        legend(ax, [thin, thick], ["meta-train episodes", "meta-validation"])
    return ax


@styled
def inner_path(numbers: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Losses of one task along its inner steps, on support and query rows.

    Arguments:
        numbers: those of `evaluation.inner_path`.
        ax: where to draw; Axes of a new figure unless given.

    Returns:
        The Axes.
    """
    from matplotlib.ticker import MaxNLocator

    ax = axes_for(ax, height=2.7)
    kinds = {"support_loss": "support rows", "query_loss": "query rows"}
    drawn = [name for name in kinds if numbers[name].notna().any()]
    lines = []
    for number, name in enumerate(drawn):
        mark = mark_of(number)
        lines += ax.plot(
            numbers["step"],
            numbers[name],
            color=mark.colour,
            marker=mark.marker,
            linestyle=mark.dash,
            markersize=4.5,
        )
    ax.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    ax.set_xlabel("inner steps")
    ax.set_ylabel("loss")
    legend(ax, lines, [kinds[name] for name in drawn])
    return ax


def _limit_losses(ax: Axes, numbers: pd.DataFrame) -> None:
    """The first steps, or one that jumps, do not flatten the rest."""
    values = numbers[["loss", "valid_loss"]].to_numpy(dtype=float).ravel()
    values = values[np.isfinite(values)]
    if len(values) < 10:
        return
    low, high = values.min(), np.quantile(values, 0.98)
    margin = 0.06 * max(high - low, 1e-12)
    ax.set_ylim(low - margin, min(values.max(), high + 6 * margin) + margin)
