"""Tasks that are computed: from a function that draws them, and Finn's sinusoids."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable

import torch

from ..errors import DataError, UsageError
from .episodes import Batch, Episode, stack
from .sources import FunctionSource, observed_variance
from .splits import Tasks
from .support import SupportSize, Targets, stream

__all__ = ["from_any_function", "function", "sinusoid"]

# the variance of the sinusoid's targets is measured on this many tasks, the same ones always
_VARIANCE_TASKS = 100_000
# tasks of a function that are looked at to find out what it returns
_LOOKED_AT = 100


def sinusoid(*, n_support: int | str = 10, n_query: int = 10, episodes: int = 600) -> Tasks:
    """Finn's sinusoids without noise: amplitude 0.1 to 5, phase 0 to pi, `x` from -5 to 5.

    Finn, Abbeel & Levine, 2017, *Model-Agnostic Meta-Learning for Fast Adaptation of Deep Networks*, 5.1.
    All three splits draw from this one distribution; a task is never met twice.

    Arguments:
        n_support: support rows a task, a number, or a range drawn anew for each stack of episodes.
        n_query: query rows a task.
        episodes: episodes of an evaluation.

    Returns:
        The tasks; `x` and `y` are `(n, 1)`.

    Raises:
        UsageError: an argument has no meaning.

    Example:
        >>> sinusoid(n_support=5).train.sample(2, torch.Generator()).support.x.shape
        torch.Size([2, 5, 1])
    """
    support = SupportSize.parse(n_support, None)
    if n_query < 1:
        raise UsageError(f"n_query={n_query}: give 1 or more")

    def draw(count: int, generator: torch.Generator) -> Episode:
        rows = int(torch.randint(support.low, support.high + 1, (1,), generator=generator))
        return _sinusoids(count, rows, n_query, generator)

    variance = observed_variance(_sinusoids(_VARIANCE_TASKS, 0, 1, stream(0)))
    targets = Targets("regression", 1, (1.0,), variance)
    tasks = function(draw, targets=targets, support=support, feature_shape=(1,), episodes=episodes)
    return tasks.renamed("sinusoid")


def _sinusoids(count: int, n_support: int, n_query: int, generator: torch.Generator) -> Episode:
    amplitude = 0.1 + 4.9 * torch.rand(count, 1, 1, generator=generator)
    phase = math.pi * torch.rand(count, 1, 1, generator=generator)
    x = 10 * torch.rand(count, n_support + n_query, 1, generator=generator) - 5
    y = amplitude * torch.sin(x - phase)
    return Episode(Batch(x[:, :n_support], y[:, :n_support]), Batch(x[:, n_support:], y[:, n_support:]))


def function(
    draw: Callable[[int, torch.Generator], Episode],
    *,
    targets: Targets,
    support: SupportSize | int | str,
    feature_shape: tuple[int, ...],
    episodes: int = 600,
) -> Tasks:
    """Tasks from a function that draws them; all three splits draw from it, so that no task is met twice.

    Arguments:
        draw: `(count, generator) -> Episode`, stacked: `x` `(count, n, *feature)`. All its randomness comes
            from the generator.
        targets: what the targets are.
        support: support rows a task.
        feature_shape: shape of one row of `x`.
        episodes: episodes of an evaluation.

    Returns:
        The tasks.

    Raises:
        DataError: what the function returns is no stack of episodes.

    Example:
        >>> def lines(count, generator):
        ...     slope = torch.randn(count, 1, 1, generator=generator)
        ...     x = torch.rand(count, 8, 1, generator=generator)
        ...     return Episode(Batch(x[:, :3], slope * x[:, :3]), Batch(x[:, 3:], slope * x[:, 3:]))
        >>> function(lines, targets=Targets("regression", 1), support=3, feature_shape=(1,))
        Tasks(function: tasks without end, 1 feature, regression, n_support=3)
    """
    size = support if isinstance(support, SupportSize) else SupportSize.parse(support, None)
    episode = draw(2, stream(0))
    _require_episode(episode, "draw")
    lengths = {int(batch.target.shape[0]) for batch in episode}
    if lengths != {2}:
        raise DataError(
            f"draw(2, generator) returned {sorted(lengths)} tasks: return `count` of them, stacked along the "
            "first axis"
        )
    source = FunctionSource(draw, targets, size, episodes)
    notes = ("all three splits draw from the same function; a task is never met twice",)
    return Tasks(source, source, source, targets, tuple(feature_shape), notes=notes, name="function")


def from_any_function(data: Callable[..., Episode]) -> Tasks:
    """Tasks from a function, looked at to find out what it returns; see `function` to say it yourself.

    The function is `(count, generator) -> Episode` of `count` stacked tasks, or `(generator) -> Episode` of one.
    Floating targets are regression, whole numbers classes.

    Raises:
        DataError: what the function returns is no episode.

    Example:
        >>> def line(generator):
        ...     x = torch.rand(8, 1, generator=generator)
        ...     y = x * torch.randn(1, generator=generator)
        ...     return Episode(Batch(x[:3], y[:3]), Batch(x[3:], y[3:]))
        >>> from_any_function(line)
        Tasks(function: tasks without end, 1 feature, regression, n_support=3)
    """
    draw = data if _takes(data) > 1 else _stacked(data)
    seen = draw(_LOOKED_AT, stream(0))
    _require_episode(seen, "the function")
    y = seen.query.y
    if not isinstance(y, torch.Tensor):
        targets = Targets("structured", 0, (), ())
    elif y.is_floating_point():
        width = int(y[0, 0].numel())
        targets = Targets("regression", width, (1.0,) * width, observed_variance(seen))
    else:
        targets = Targets("classification", int(max(seen.support.y.max(), y.max())) + 1)
    shape = tuple(seen.support.x.shape[2:]) if isinstance(seen.support.x, torch.Tensor) else ()
    support = max(int(seen.support.target.shape[1]), 1)
    return function(draw, targets=targets, support=support, feature_shape=shape)


def _require_episode(value: object, what: str) -> None:
    if not isinstance(value, Episode):
        raise DataError(f"{what} returned {type(value).__name__}: return an Episode(support, query)")


def _takes(draw: Callable[..., object]) -> int:
    """Arguments that the function has to be given by position."""
    try:
        parameters = inspect.signature(draw).parameters.values()
    except (TypeError, ValueError):
        return 2
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    count = sum(each.kind in kinds and each.default is inspect.Parameter.empty for each in parameters)
    if count not in (1, 2):
        raise DataError(
            f"the function takes {count} arguments: write it as (generator) or (count, generator)"
        )
    return count


def _stacked(draw: Callable[[torch.Generator], Episode]) -> Callable[[int, torch.Generator], Episode]:
    def drawn(count: int, generator: torch.Generator) -> Episode:
        episodes = [draw(generator) for _ in range(count)]
        for episode in episodes:
            _require_episode(episode, "the function")
        return stack(episodes)

    return drawn
