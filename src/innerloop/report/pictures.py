"""Pictures of a report page: a figure with its numbers and a sentence on what can be seen in it, or nothing."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import pandas as pd

from ..compare.result import Comparison, LogEntry
from ..evaluation.examples import Shown
from ..evaluation.inspection import Learned
from . import figures
from .figures.episodes import is_classification, is_image, is_regression
from .figures.style import metric_label, rows, short
from .page import Draw, Picture

__all__ = [
    "curve",
    "dots",
    "episodes",
    "estimate",
    "factorial",
    "gain_words",
    "gains",
    "inside",
    "learning",
    "ranking",
    "steps",
]

Pictures: TypeAlias = tuple[Picture, ...]


def estimate(mean: float, low: float, high: float) -> str:
    """A value with its interval.

    Example:
        >>> estimate(0.5, 0.4, 0.6), estimate(0.5, float("nan"), float("nan"))
        ('0.5 [0.4, 0.6]', '0.5')
    """
    return f"{mean:.3g} [{low:.3g}, {high:.3g}]" if math.isfinite(high - low) else f"{mean:.3g}"


def _estimate(row: pd.Series[Any]) -> str:
    """The interval of a row of a frame."""
    return estimate(row["mean"], row["low"], row["high"])


def _of(key: str, title: str, text: str, numbers: pd.DataFrame, draw: Callable[..., object]) -> Pictures:
    """One picture, or none where there are no numbers."""
    if numbers.empty:
        return ()
    return (Picture(key, title, text, numbers, lambda ax: draw(numbers, ax=ax)),)


def ranking(comparison: Comparison) -> Pictures:
    """Who is best."""
    numbers = figures.ranking_numbers(comparison)
    if numbers.empty:
        return ()
    best, worst = numbers.iloc[0], numbers.iloc[-1]
    text = (
        f"{metric_label(comparison.metric)}, {'less' if comparison.lower_is_better else 'more'} is better, "
        f"with 95 % intervals over tasks. Best: {best['label']}, {_estimate(best)}; "
        f"last: {worst['label']}, {_estimate(worst)}. "
        "Whether two methods differ is said by their paired difference, not by whether intervals overlap."
    )
    return _of("ranking", "Ranking", text, numbers, figures.ranking)


def dots(comparison: Comparison) -> Pictures:
    """How much tasks differ."""
    numbers = figures.dots_numbers(comparison)
    count = numbers["task"].nunique()
    total = len(comparison.tasks)
    which = "Every dot is a task" if count == total else f"{count} of {total} tasks, a dot each"
    return _of("tasks", "Scores of tasks", f"{which}; the bar is the median.", numbers, figures.dots)


_AXES = {
    "support": ("Error against support size", "How many labelled rows of a task it takes."),
    "train_tasks": ("Error against meta-training tasks", "How many tasks it takes to learn from."),
    "inner_steps": ("Error against inner steps", "What adapting longer brings; 0 is before adaptation."),
}


def curve(comparison: Comparison, axis: str) -> Pictures:
    """A curve along an axis, with the point from which on another method is as good."""
    numbers, crossing = figures.curve_numbers(comparison, axis), figures.crossing_numbers(comparison, axis)
    title, text = _AXES[axis]
    if not comparison.lower_is_better:
        title = title.replace("Error", metric_label(comparison.metric).capitalize())
    words = " ".join([text, "Bands are 95 % intervals over tasks.", *crossing["sentence"]])
    return _of(f"curve-{axis}", title, words, numbers, functools.partial(figures.curve, crossing=crossing))


def steps(numbers: pd.DataFrame) -> Pictures:
    """Scores by inner step."""
    if len(numbers) < 2:
        return ()
    first, last = numbers.iloc[0], numbers.iloc[-1]
    text = (
        f"Before adaptation {_estimate(first)}, after {last['written']} inner "
        f"step{'s' * (last['written'] != '1')} {_estimate(last)}. "
        "The band is the 95 % interval over tasks."
    )
    return _of("inner-steps", "Scores by inner step", text, numbers, figures.curve)


def factorial(comparison: Comparison) -> Pictures:
    """Meta-learning against augmentation and dropout, and their effects."""
    effects = figures.effects_numbers(comparison)
    clear = [row for row in rows(effects) if row.p_holm < 0.05]
    said = [f"{row.effect} changes it by {estimate(row.change, row.low, row.high)}" for row in clear]
    corrected = f"After correction for their number: {'; '.join(said)}."
    text = "Changes of the headline metric; filled where the interval leaves out 0. "
    text += corrected if said else "None is clear after correction."
    return (
        *_of(
            "factorial", "Learning x augmentation x dropout",
            "Every combination on the same tasks, with 95 % intervals over tasks.",
            figures.factorial_numbers(comparison), figures.factorial,
        ),
        *_of("effects", "Effects and interactions", text, effects, figures.effects),
    )  # fmt: skip


def learning(logs: Mapping[str, Sequence[LogEntry]], best_step: int | None = None) -> Pictures:
    """Learning curves."""
    numbers = figures.learning_numbers(logs)
    text = "Thin lines are losses of meta-train episodes, marks those of meta-validation tasks."
    if best_step:
        text += f" The parameters of step {best_step}, the best on meta-validation, were kept."
    draw = functools.partial(figures.learning, best_step=best_step)
    return _of("learning", "Learning curves", text, numbers, draw)


def inside(learned: Learned) -> Pictures:
    """How far layers move, whether representations change, step sizes and masks."""
    moved, alike, rates = learned.moved, learned.similarity, learned.rates
    most = moved.sort_values("relative", ascending=False).iloc[0] if moved["relative"].notna().any() else None
    least = alike.sort_values("cka").iloc[0] if alike["cka"].notna().any() else None
    return (
        *_of(
            "moved", "How far each layer moves",
            "Norm of the change in adaptation over the norm at the start, mean and 95 % interval over tasks."
            + ("" if most is None else f" Most: layer {most['layer']} ({most['kind']}), {most['relative']:.3g}."),
            moved, figures.moved,
        ),
        *_of(
            "similarity", "Whether representations change",
            "Linear CKA of each layer's output on the same rows before and after adaptation; 1 means that the layer's "
            "output is reused as it is."
            + ("" if least is None else f" Least alike: layer {least['layer']}, {least['cka']:.3g}."),
            alike, figures.similarity,
        ),
        *_of(
            "rates", "Learned step sizes",
            f"From {rates['lowest'].min():.3g} to {rates['highest'].max():.3g}. Negative ones climb the support loss.",
            rates, figures.rates,
        ),
        *_of(
            "masks", "Which weights may move", "The learned share of weights that adapt.", learned.masks, figures.masks,
        ),
    )  # fmt: skip


def gains(numbers: pd.DataFrame) -> Pictures:
    """Which tasks gain and which lose."""
    if numbers.empty:
        return ()
    text = f"{gain_words(numbers)} Green dots gain, red triangles lose."
    return _of("gains", "Which tasks gain and which lose", text, _thinned(numbers, 300), figures.gains)


def gain_words(numbers: pd.DataFrame) -> str:
    """How many tasks gain, and by how much."""
    count = len(numbers)
    better, worse = int((numbers["gain"] > 0).sum()), int((numbers["gain"] < 0).sum())
    helped = f"all {count}" if better == count else f"{better} of {count}"
    hurt = f" and hurts on {worse}" if worse else ""
    return f"Adapting helps on {helped}{hurt}; the median gain is {numbers['gain'].median():.3g}."


def _thinned(numbers: pd.DataFrame, most: int) -> pd.DataFrame:
    """At most so many rows, from all over the frame, the first and last among them."""
    if len(numbers) <= most:
        return numbers
    chosen = [round(k * (len(numbers) - 1) / (most - 1)) for k in range(most)]
    return numbers.iloc[chosen].reset_index(drop=True)


def episodes(shown: Sequence[Shown]) -> Pictures:
    """Episodes as pictures: images, or scatter plots of rows."""
    for fits, drawn in ((is_image, _images), (is_regression, _values), (is_classification, _classes)):
        if shown and all(fits(one) for one in shown):
            text, numbers, draw = drawn(shown)
            return (Picture("episodes", "Held-out tasks", text, numbers, tuple(draw)),)
    return ()


# what can be seen, the numbers, and a drawing a task with its caption
_Drawn: TypeAlias = tuple[str, pd.DataFrame, list[tuple[str, Draw]]]


def _images(shown: Sequence[Shown]) -> _Drawn:
    shown = shown[:4]
    text = "Above, the labelled images that the model adapts to; below, what it says of others."
    numbers = pd.concat([figures.image_numbers(one) for one in shown], ignore_index=True)
    draw = [(short(one.task, 40), _drawing(figures.images, one)) for one in shown]
    return text, numbers, draw


def _values(shown: Sequence[Shown]) -> _Drawn:
    numbers = figures.scatter_numbers(shown)
    text = (
        "Filled: the labelled rows that the model adapts to. Hollow: query rows, which it has not seen. Crosses: "
        f"what it predicts for them. Drawn along {numbers['feature'].iloc[0]}, the feature that says most."
    )
    draw = []
    for position, task in enumerate(dict.fromkeys(numbers["task"])):
        part = numbers[numbers["task"] == task]
        named = position == 0 and part["method"].nunique() > 2
        draw.append((short(task, 40), _drawing(figures.scatter, part, named=named)))
    return text, numbers, draw


def _classes(shown: Sequence[Shown]) -> _Drawn:
    numbers = figures.classes_numbers(shown)
    first = numbers.iloc[0]
    along = f"{first['feature']} and {first['second']}, which tell the classes apart best"
    method = next(iter(shown[0].predictions), "the model")
    text = (
        "Filled: the labelled rows that the model adapts to. Hollow: query rows, which it has not seen, with the mark "
        f"of the class that {method} predicts; a cross says that it is another one. "
        f"Drawn along {along if first['second'] else first['feature']}."
    )
    draw = []
    for position, task in enumerate(dict.fromkeys(numbers["task"])):
        said = numbers[(numbers["task"] == task) & (numbers["method"] == method)]
        caption = f"{short(task, 30)}: {(said['right'] == 'yes').sum()} of {len(said)} right"
        draw.append((caption, _drawing(figures.classes, numbers, task, named=position == 0)))
    return text, numbers, draw


def _drawing(draw: Callable[..., object], *numbers: object, **options: object) -> Draw:
    """A figure that waits for its Axes."""
    return lambda ax: draw(*numbers, ax=ax, **options)
