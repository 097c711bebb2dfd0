"""Figures of single episodes: support rows or images, query rows, and what a model predicts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from ...evaluation.examples import Cells, Shown
from .style import COLOURS, INK, MARKS, MUTED, OTHERS, Mark, axes_for, legend, short, styled, width_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.lines import Line2D

__all__ = [
    "classes",
    "classes_numbers",
    "image_numbers",
    "images",
    "is_classification",
    "is_image",
    "is_regression",
    "scatter",
    "scatter_numbers",
    "side_by_side",
]

# values of a feature up to which rows that share one are drawn side by side
FEW_VALUES = 5
_ROLES = ["task", "role", "method", "feature", "x", "y"]


def is_image(episode: Shown) -> bool:
    """Whether the rows of an episode are images."""
    rows = episode.query_x
    return bool(rows) and isinstance(rows[0], tuple) and bool(rows[0]) and isinstance(rows[0][0], tuple)


def is_regression(episode: Shown) -> bool:
    """Whether the targets of an episode are numbers."""
    return bool(episode.query_y) and not isinstance(episode.query_y[0], str) and not is_image(episode)


def is_classification(episode: Shown) -> bool:
    """Whether an episode is one of classes of feature vectors."""
    return bool(episode.query_y) and isinstance(episode.query_y[0], str) and not is_image(episode)


def scatter_numbers(episodes: Sequence[Shown]) -> pd.DataFrame:
    """Rows of regression episodes along the one feature that says most about the target.

    Of several features it is the one with the largest mean rank correlation with the target within tasks; of
    several targets, the first is shown.

    Arguments:
        episodes: regression episodes of equal features.

    Returns:
        One row a point: `task`, `role` (`support`, `query` or `prediction`), `method` (of a prediction),
        `feature` (its name), `x`, `y`.
    """
    if not episodes:
        return pd.DataFrame(columns=_ROLES)
    chosen = _telling_feature(episodes)
    names = episodes[0].features
    feature = names[chosen] if chosen < len(names) else "x"
    rows: list[tuple[object, ...]] = []
    for one in episodes:
        parts = [("support", "", one.support_x, one.support_y), ("query", "", one.query_x, one.query_y)]
        parts += [("prediction", name, one.query_x, values) for name, values in one.predictions.items()]
        for role, method, x, y in parts:
            rows += [
                (one.task, role, method, feature, _feature(row, chosen), _feature(value, 0))
                for row, value in zip(x, y, strict=True)
            ]
    return pd.DataFrame(rows, columns=_ROLES)


def _feature(row: Cells | float, chosen: int) -> float:
    return float(row[chosen] if isinstance(row, tuple) else row)


def _features(episode: Shown) -> list[Cells]:
    """Features of all rows, support first."""
    return [row if isinstance(row, tuple) else (row,) for row in (*episode.support_x, *episode.query_x)]


def _telling_feature(episodes: Sequence[Shown]) -> int:
    """The feature with the largest mean rank correlation with the target within tasks, without a sign."""
    by_episode: list[np.ndarray] = []
    for one in episodes:
        x = pd.DataFrame(_features(one))
        y = pd.Series([_feature(value, 0) for value in (*one.support_y, *one.query_y)])
        varies = x.nunique() > 1
        ranks = x.loc[:, varies].rank()
        strength = np.zeros(x.shape[1])
        if len(ranks.columns) and y.nunique() > 1:
            strength[varies.to_numpy()] = ranks.corrwith(y.rank()).abs().fillna(0).to_numpy()
        by_episode.append(strength)
    return int(np.mean(by_episode, axis=0).argmax())


@styled
def scatter(numbers: pd.DataFrame, *, named: bool = True, ax: Axes | None = None) -> Axes:
    """One regression episode: support rows filled, query rows hollow, predictions as crosses.

    Arguments:
        numbers: the rows of one task of what `scatter_numbers` returns.
        named: with a legend.
        ax: where to draw; Axes of a new figure unless given.

    Returns:
        The Axes.
    """
    ax = axes_for(ax, height=2.9 if named else 2.3)
    methods = [name for name in dict.fromkeys(numbers["method"]) if name]
    handles, labels = [], []
    values, numbers = sorted(set(numbers["x"])), side_by_side(numbers)
    for role, colour, filled in (("query", MUTED, False), ("support", INK, True)):
        part = numbers[numbers["role"] == role]
        handles.append(_points(ax, part, Mark(colour, "o"), size=7 if filled else 5.5, filled=filled))
        labels.append(role)
    for number, method in enumerate(methods[: len(MARKS)]):
        part = numbers[numbers["method"] == method].sort_values("x")
        colour, marker = MARKS[number].colour, ("x", "+", "1", "2", "3", "4")[number]
        handles += ax.plot(
            part["x"], part["y"], marker, color=colour, markersize=6.5, markeredgewidth=1.6, zorder=4
        )
        labels.append(method)
    ax.grid(visible=True)
    ax.margins(0.08)
    if len(numbers):
        ax.set_xlabel(short(numbers["feature"].iloc[0], 30))
    if len(values) <= FEW_VALUES:
        ax.set_xticks(values)
    if named:
        legend(ax, handles, labels)
    return ax


def side_by_side(numbers: pd.DataFrame) -> pd.DataFrame:
    """Rows that share one of few values of the feature beside one another, those with low targets left.

    A query row and what is predicted of it stand at the same place.

    Arguments:
        numbers: the rows of one task of what `scatter_numbers` returns.

    Returns:
        The same rows; with more than `FEW_VALUES` values of the feature, unchanged.

    Example:
        >>> rows = pd.DataFrame({"role": "query", "method": "", "x": [0.0, 0.0, 1.0], "y": [2.0, 1.0, 5.0]})
        >>> side_by_side(rows)["x"].round(2).tolist()
        [0.3, -0.3, 1.0]
    """
    values = np.sort(numbers["x"].unique())
    if not len(values) or len(values) > FEW_VALUES:
        return numbers
    width = 0.6 * (np.diff(values).min() if len(values) > 1 else 1.0)
    targets = numbers.loc[numbers["role"] == "query", "y"].to_numpy()
    parts = []
    for (role, _), part in numbers.groupby(["role", "method"], sort=False):
        own = part.assign(target=part["y"] if role == "support" else targets)
        groups = own.groupby("x")["target"]
        place = (groups.rank("first") - 1) / (groups.transform("size") - 1).clip(lower=1)
        alone = groups.transform("size") == 1
        parts.append(part.assign(x=part["x"] + width * (place - 0.5).where(~alone, 0.0)))
    return pd.concat(parts)


def _points(ax: Axes, part: pd.DataFrame, mark: Mark, *, size: float, filled: bool) -> Line2D:
    """Rows as marks: those of the support filled, in front of the hollow ones of the query."""
    return ax.plot(
        part["x"], part["y"], mark.marker, color=mark.colour, markersize=size, linestyle="none",
        markerfacecolor=mark.colour if filled else "none", zorder=3 if filled else 2,
    )[0]  # fmt: skip


_CLASSES = ["task", "role", "number", "class", "method", "predicted", "right", "feature", "x", "second", "y"]


def classes_numbers(episodes: Sequence[Shown]) -> pd.DataFrame:
    """Rows of classification episodes along the two features that tell the classes apart best.

    The first is the one whose ranks differ most between classes within tasks (share of variance), the second
    the one that adds most to it.

    Arguments:
        episodes: classification episodes of equal features.

    Returns:
        One row a support row, and one a query row and method: `task`, `role`, `number`, `class`, `method`,
        `predicted`, `right` (`yes`, `no`), and the names and values of the features: `feature`, `x`, `second`, `y`;
        `second` is empty and `y` the number of the row where there is but one.
    """
    if not episodes:
        return pd.DataFrame(columns=_CLASSES)
    across, up = _telling_pair(episodes)
    names = episodes[0].features

    def position(row: Cells | float, number: int) -> tuple[object, ...]:
        second = ("", float(number)) if up is None else (_named(names, up), _feature(row, up))
        return (_named(names, across), _feature(row, across), *second)

    rows: list[tuple[object, ...]] = []
    for one in episodes:
        for number, (row, label) in enumerate(zip(one.support_x, one.support_y, strict=True), 1):
            rows.append((one.task, "support", number, str(label), "", "", "", *position(row, number)))
        for method, predicted in one.predictions.items():
            asked = zip(one.query_x, one.query_y, predicted, strict=True)
            for number, (row, label, answer) in enumerate(asked, 1):
                said = (method, str(answer), "yes" if answer == label else "no")
                rows.append((one.task, "query", number, str(label), *said, *position(row, number)))
    return pd.DataFrame(rows, columns=_CLASSES)


def _named(names: Sequence[str], chosen: int) -> str:
    return names[chosen] if chosen < len(names) else f"feature {chosen + 1}"


def _telling_pair(episodes: Sequence[Shown]) -> tuple[int, int | None]:
    """The feature that tells classes apart best, and the one that adds most to it, if there are two."""
    told, shared = [], []
    for one in episodes:
        ranks = pd.DataFrame(_features(one)).rank()
        spread = ranks.var(ddof=0).replace(0, np.nan)
        between = ranks.groupby([*one.support_y, *one.query_y]).transform("mean").var(ddof=0)
        told.append((between / spread).fillna(0).to_numpy())
        shared.append(ranks.corr().pow(2).fillna(0).to_numpy())
    strength, alike = np.mean(told, axis=0), np.mean(shared, axis=0)
    first = int(strength.argmax())
    if len(strength) < 2:
        return first, None
    adds = strength * (1 - alike[first])
    adds[first] = -1
    return first, int(adds.argmax())


@styled
def classes(
    numbers: pd.DataFrame,
    task: str | None = None,
    method: str | None = None,
    *,
    named: bool = True,
    ax: Axes | None = None,
) -> Axes:
    """One classification episode: support rows filled, query rows hollow with the mark of the class predicted.

    What is wrong has a red cross on it.

    Arguments:
        numbers: what `classes_numbers` returns; a class has the same mark in all of its tasks.
        task: which to draw; the first unless given.
        method: whose predictions; the first unless given.
        named: with a legend.
        ax: where to draw; Axes of a new figure unless given.

    Returns:
        The Axes.
    """
    ax = axes_for(ax, height=2.9 if named else 2.3)
    known = [name for name in dict.fromkeys([*numbers["class"], *numbers["predicted"]]) if name]
    marks = dict(zip(known, MARKS[:5] if len(known) > len(MARKS) else MARKS, strict=False))
    drawn = numbers[numbers["task"] == (task or next(iter(numbers["task"]), None))]
    support, asked = (drawn[drawn["role"] == role] for role in ("support", "query"))
    if len(asked):
        asked = asked[asked["method"] == (method or asked["method"].iloc[0])]
    for part, column, filled in ((asked, "predicted", False), (support, "class", True)):
        for name in dict.fromkeys(part[column]):
            mark, size = marks.get(name, OTHERS), 7 if filled else 6
            _points(ax, part[part[column] == name], mark, size=size, filled=filled)
    wrong = asked[asked["right"] == "no"]
    crosses = ax.plot(wrong["x"], wrong["y"], "x", color=COLOURS["red"][0], markersize=9, zorder=4)
    ax.grid(visible=True)
    ax.margins(0.08)
    if len(drawn):
        ax.set_xlabel(short(drawn["feature"].iloc[0], 30))
        ax.set_ylabel(short(drawn["second"].iloc[0] or "row", 24))
    if named:
        others = [OTHERS] * (len(known) > len(marks))
        made = [_sample(ax, mark) for mark in (*marks.values(), *others)]
        legend(ax, [*made, *crosses], [*marks, *["other classes"] * len(others), "wrong"])
    return ax


def _sample(ax: Axes, mark: Mark) -> Line2D:
    """A mark of its own for the legend."""
    return ax.plot([], [], mark.marker, color=mark.colour, markersize=7, linestyle="none")[0]


def image_numbers(episode: Shown) -> pd.DataFrame:
    """What was asked and answered in an episode of images.

    Arguments:
        episode: an episode of images.

    Returns:
        One row an image and method: `task`, `role`, `number`, `class`, and of query images `method`,
        `predicted`, `right`.
    """
    rows: list[tuple[object, ...]] = [
        (episode.task, "support", number, str(name), "", "", "")
        for number, name in enumerate(episode.support_y, 1)
    ]
    for method, predicted in episode.predictions.items():
        for number, (name, answer) in enumerate(zip(episode.query_y, predicted, strict=True), 1):
            right = "yes" if answer == name else "no"
            rows.append((episode.task, "query", number, str(name), method, str(answer), right))
    return pd.DataFrame(rows, columns=["task", "role", "number", "class", "method", "predicted", "right"])


_ACROSS = 5  # images in a row
_COLUMN, _ROW = 1.15, 1.48  # from one image, of side 1, to the next; two lines of words stand below


@styled
def images(episode: Shown, method: str | None = None, *, ax: Axes | None = None) -> Axes:
    """An episode of images: support images with their class, query images with the predicted one.

    What is right has a tick and is green, what is wrong has a cross, is red and says what it was.

    Arguments:
        episode: an episode of images.
        method: whose predictions; the first unless given.
        ax: where to draw; Axes of a new figure unless given.

    Returns:
        The Axes.
    """
    name = method or next(iter(episode.predictions), "")
    predicted = episode.predictions.get(name, ())
    support = list(zip(episode.support_x, episode.support_y, strict=True))[: 2 * _ACROSS]
    query = list(zip(episode.query_x, episode.query_y, predicted, strict=True))[: 2 * _ACROSS]
    middle = -_ROW * -(-len(support) // _ACROSS) - 0.4
    bottom = middle - _ROW * -(-len(query) // _ACROSS)
    across, high = _ACROSS * _COLUMN, 0.45 - bottom
    ax = axes_for(ax, height=width_of(ax) * high / across)
    ax.set_axis_off()
    ax.text(0, 0.12, "support", color=MUTED, va="bottom")
    for number, (x, label) in enumerate(support):
        _tile(ax, x, number, 0.0, [(short(label, 12), INK)])
    ax.text(0, middle + 0.12, f"query, and what {short(name, 24)} predicts", color=MUTED, va="bottom")
    for number, (x, label, answer) in enumerate(query):
        right = answer == label
        words = [(f"{'✓' if right else '✗'} {short(answer, 10)}", COLOURS["green" if right else "red"][0])]
        if not right:
            words.append((f"is {short(label, 9)}", MUTED))
        _tile(ax, x, number, middle, words)
    ax.set_xlim(0, across - 0.15)
    ax.set_ylim(bottom, 0.45)
    ax.set_aspect("equal")
    return ax


def _tile(ax: Axes, x: Cells, number: int, top: float, words: list[tuple[str, str]]) -> None:
    """One image with words below it."""
    left, upper = _COLUMN * (number % _ACROSS), top - _ROW * (number // _ACROSS)
    pixels = np.asarray(x, dtype=float)
    shown = pixels[0] if len(pixels) == 1 else np.moveaxis(pixels[:3], 0, -1)
    ax.imshow(
        np.clip(shown, 0, 1), cmap="gray", vmin=0, vmax=1, extent=(left, left + 1, upper - 1, upper),
        interpolation="none", aspect="auto",
    )  # fmt: skip
    for line, (text, colour) in enumerate(words):
        ax.text(
            left + 0.5, upper - 1.05 - 0.19 * line, text, ha="center", va="top", color=colour, fontsize=8.5
        )
