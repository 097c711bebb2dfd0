"""Figures of a tuning: what mattered, the lowest error so far, and errors by the value of each setting."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from ...tuning import Tuning
from .style import (
    COLOURS,
    INK,
    MUTED,
    axes_for,
    legend,
    mark_of,
    metric_label,
    name_rows,
    row_axes,
    short,
    styled,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["importances", "importances_numbers", "trials", "trials_numbers", "tried", "tried_numbers"]

# a setting whose values are so many times apart is drawn on a logarithmic scale
_LOG = 20
# settings that are drawn
_MOST = 10


def importances_numbers(tuning: Tuning) -> pd.DataFrame:
    """How much each setting mattered, the most first.

    Returns:
        One row a setting: `setting` and `share`; none for a few trials.
    """
    several = tuning.trials["algorithm"].nunique() > 1
    listed = []
    for name, share in sorted(tuning.importances.items(), key=lambda pair: -pair[1]):
        algorithm, _, setting = name.rpartition(".")
        words = setting.replace("_", " ")
        listed.append((f"{words} of {algorithm}" if several and algorithm else words, share))
    return pd.DataFrame(listed, columns=["setting", "share"])


@styled
def importances(numbers: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Settings by what they mattered, the most first.

    Arguments:
        numbers: what `importances_numbers` returns.
        ax: where to draw; Axes of a new figure unless given.

    Returns:
        The Axes; the ten that mattered most are drawn.
    """
    numbers = numbers.head(_MOST)
    ax = row_axes(ax, len(numbers), base=0.6, each=0.3)
    ax.barh(np.arange(len(numbers)), 100 * numbers["share"], height=0.62, color=COLOURS["blue"][0], alpha=0.8)
    name_rows(ax, [short(name, 28) for name in numbers["setting"]])
    ax.set_xlim(left=0)
    ax.set_xlabel("share of what mattered, in per cent")
    return ax


def trials_numbers(tuning: Tuning) -> pd.DataFrame:
    """The error of each trial, and the lowest so far.

    Returns:
        One row a trial: `trial`, `state`, `metric`, `error` (NaN where it was given up), `best`.
    """
    numbers = tuning.trials[["trial", "state", "error", "best"]].copy()
    numbers.insert(2, "metric", tuning.metric)
    return numbers


@styled
def trials(numbers: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Errors in the order of the trials: a dot each, a line for the lowest so far, a tick for those given up.

    Arguments:
        numbers: what `trials_numbers` returns.
        ax: where to draw; Axes of a new figure unless given.

    Returns:
        The Axes.
    """
    from matplotlib.lines import Line2D
    from matplotlib.ticker import MaxNLocator

    ax = axes_for(ax)
    mark, early = mark_of(0), numbers[numbers["error"].isna()]
    ax.plot(numbers["trial"], numbers["error"], mark.marker, color=mark.colour, alpha=0.7)
    ax.step(numbers["trial"], numbers["best"], where="post", color=INK, linewidth=1.4)
    _ticks(ax, early["trial"])
    _limit(ax, numbers["error"])
    ax.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    ax.set_xlabel("trial")
    ax.set_ylabel(metric_label(numbers["metric"].iloc[0]) if len(numbers) else "")
    handles = [
        Line2D([], [], color=mark.colour, marker=mark.marker, linestyle="none"), Line2D([], [], color=INK),
        Line2D([], [], color=MUTED, marker="|", linestyle="none"),
    ]  # fmt: skip
    legend(ax, handles, ["a trial", "lowest so far", "given up early"])
    return ax


def tried_numbers(tuning: Tuning) -> pd.DataFrame:
    """Each setting that is a number, by trial.

    Returns:
        One row a setting and trial that has it: `setting`, `trial`, `algorithm`, `value`, `error` (NaN where it was
        given up), `metric`. Settings that were the same in all trials are left out.
    """
    frame, parts = tuning.trials, []
    known = ("trial", "state", "error", "seconds", "best", "algorithm")
    for name in (name for name in frame.columns if name not in known):
        if not pd.api.types.is_numeric_dtype(frame[name]) or frame[name].nunique() < 2:
            continue
        part = frame.loc[frame[name].notna(), ["trial", "algorithm", name, "error"]]
        part.columns = pd.Index(["trial", "algorithm", "value", "error"])
        part = part.astype({"value": float})
        part.insert(0, "setting", name.replace("_", " "))
        parts.append(part.assign(metric=tuning.metric))
    columns = ["setting", "trial", "algorithm", "value", "error", "metric"]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=columns)


@styled
def tried(numbers: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Errors by the value of one setting: a mark for each algorithm, ticks for trials that were given up.

    Arguments:
        numbers: the rows of one setting of what `tried_numbers` returns.
        ax: where to draw; Axes of a new figure unless given.

    Returns:
        The Axes.
    """
    from matplotlib.lines import Line2D
    from matplotlib.ticker import LogLocator, NullFormatter

    ax = axes_for(ax)
    names = list(dict.fromkeys(numbers["algorithm"]))
    for number, name in enumerate(names):
        part, mark = numbers[numbers["algorithm"] == name], mark_of(number)
        ax.plot(part["value"], part["error"], mark.marker, color=mark.colour, alpha=0.8)
    least, most = numbers["value"].min(), numbers["value"].max()
    if least > 0 and most / least > _LOG:
        ax.set_xscale("log")
        ax.xaxis.set_major_locator(LogLocator(numticks=5))
        ax.xaxis.set_major_formatter(lambda value, place: f"{value:g}")
        ax.xaxis.set_minor_formatter(NullFormatter())
    _ticks(ax, numbers["value"][numbers["error"].isna()])
    _limit(ax, numbers["error"])
    ax.set_xlabel(str(numbers["setting"].iloc[0]))
    ax.set_ylabel(metric_label(str(numbers["metric"].iloc[0])))
    if len(names) > 1:
        marks = map(mark_of, range(len(names)))
        legend(ax, [Line2D([], [], color=m.colour, marker=m.marker, linestyle="none") for m in marks], names)
    return ax


def _ticks(ax: Axes, places: pd.Series) -> None:
    """Ticks along the lower edge."""
    edge = ax.get_xaxis_transform()
    ax.plot(places, np.full(len(places), 0.03), "|", color=MUTED, markersize=8, transform=edge)


def _limit(ax: Axes, errors: pd.Series) -> None:
    """A scale that trials far off do not flatten: beyond four times the spread of the better half they lie outside."""
    known = np.sort(errors.dropna().to_numpy(dtype=float))
    if len(known) < 4:
        return
    span = max(float(np.median(known) - known[0]), 1e-12)
    if known[-1] > known[0] + 5 * span:
        ax.set_ylim(known[0] - 0.6 * span, known[0] + 5 * span)
