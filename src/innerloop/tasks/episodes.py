"""Episodes: a support set and a query set, and stacks of them with a leading task axis.

Everything downstream works on stacks: `x` has shape `(T, n, *feature)`, `y` has shape `(T, n, *target)`.
Tasks of different sizes are padded with rows of weight 0, and no weighted result depends on padding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, TypeAlias, TypeVar

import numpy as np
import torch
from torch import Tensor

from ..errors import DataError

__all__ = [
    "Batch",
    "Episode",
    "PyTree",
    "Width",
    "all_draws",
    "as_tensors",
    "at_step",
    "bucketed",
    "equal_sizes",
    "join_rows",
    "map_tensors",
    "rebuilt",
    "select",
    "stack",
    "tensors",
    "to",
    "unsqueeze",
]

# a tensor, or dicts, lists, tuples and named tuples of them, however deep
PyTree: TypeAlias = Any
Tree = TypeVar("Tree")

# batches narrower than by this are made as wide as the widest one: rows cost less than a further graph
_NARROWER = 1.5


class Width(NamedTuple):
    """Rows of the batches of a source, without padding.

    Arguments:
        least: of any task, at least.
        most: of any task, at most.
    """

    least: int
    most: int


class Batch(NamedTuple):
    """Rows of one task, or of `T` tasks stacked.

    Arguments:
        x: features `(n, *feature)`, or a dict, list or tuple of such tensors; stacked `(T, n, *feature)`.
        y: targets `(n, *target)`, or a dict, list or tuple of such tensors, which a loss of one's own takes; stacked
            `(T, n, *target)`.
        weight: `(n,)` or `(T, n)`, 0 marks padding; `None` where every row counts. Of a support set also
            `(T, n, draws)`: inner steps use the draws in turn, see `at_step`.

    Example:
        >>> Batch(torch.zeros(3, 2), torch.zeros(3, 1)).rows
        3
    """

    x: PyTree
    y: PyTree
    weight: Tensor | None = None

    @property
    def rows(self) -> int:
        """Rows of an unstacked batch, padding included."""
        return int(self.target.shape[0])

    @property
    def target(self) -> Tensor:
        """The targets, or the first tensor of them, which tells how many tasks and rows there are."""
        first: Tensor = next(tensors(self.y))
        return first


class Episode(NamedTuple):
    """One draw from a task: the support set a learner adapts on, the query set it is scored on.

    Stacked episodes get one leading task axis `T` in every tensor.

    Example:
        >>> rows = Batch(torch.zeros(2, 5, 3), torch.zeros(2, 5, 1))
        >>> Episode(support=rows, query=rows).n_tasks
        2
    """

    support: Batch
    query: Batch

    @property
    def n_tasks(self) -> int:
        """Number of tasks of a stacked episode."""
        return int(self.query.target.shape[0])


def map_tensors(function: Callable[[Tensor], Tensor], tree: PyTree) -> PyTree:
    """Apply `function` to every tensor of a pytree; `None` stays."""

    def change(leaf: object) -> Tensor | None:
        if leaf is None:
            return None
        if not isinstance(leaf, Tensor):
            raise DataError(f"an episode holds tensors in dicts, lists and tuples, not {type(leaf).__name__}")
        return function(leaf)

    return _map_leaves(change, tree)


def as_tensors(tree: PyTree) -> PyTree:
    """The same pytree with its numpy arrays as tensors.

    Example:
        >>> as_tensors({"a": np.zeros(2)})["a"].shape
        torch.Size([2])
    """
    return _map_leaves(
        # memory that may not be written to, as that of pandas, is copied
        lambda leaf: (
            torch.from_numpy(np.require(leaf, requirements=["C", "W"]))
            if isinstance(leaf, np.ndarray)
            else leaf
        ),
        tree,
    )


def _map_leaves(function: Callable[[object], object], tree: PyTree) -> PyTree:
    """Apply `function` to everything in a pytree that is no dict, list or tuple."""
    if isinstance(tree, Tensor):
        return function(tree)
    if isinstance(tree, dict):
        return {key: _map_leaves(function, value) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        values = [_map_leaves(function, value) for value in tree]
        return type(tree)(*values) if hasattr(tree, "_fields") else type(tree)(values)
    return function(tree)


def tensors(tree: PyTree) -> Iterator[Tensor]:
    """Every tensor of a pytree, in order."""
    if isinstance(tree, Tensor):
        yield tree
    elif isinstance(tree, dict):
        for value in tree.values():
            yield from tensors(value)
    elif isinstance(tree, (list, tuple)):
        for value in tree:
            yield from tensors(value)


def rebuilt(tree: PyTree, values: Sequence[Tensor]) -> PyTree:
    """The pytree with other tensors, given in the order of `tensors`."""
    left = iter(values)
    return map_tensors(lambda _: next(left), tree)


def unsqueeze(batch: Batch) -> Batch:
    """One task as a stack of one."""
    stacked: Batch = map_tensors(lambda t: t.unsqueeze(0), batch)
    return stacked


def select(episode: Episode, index: Tensor | slice) -> Episode:
    """Some tasks of a stacked episode."""
    chosen: Episode = map_tensors(lambda t: t[index], episode)
    return chosen


def to(tree: Tree, device: torch.device | str, dtype: torch.dtype | None = None) -> Tree:
    """The same episode, or any pytree, on another device; floating tensors in another precision."""

    def move(t: Tensor) -> Tensor:
        return t.to(device, dtype) if dtype is not None and t.is_floating_point() else t.to(device)

    moved: Tree = map_tensors(move, tree)
    return moved


def stack(episodes: Sequence[Episode]) -> Episode:
    """Stack episodes along a new task axis, padding the shorter ones with rows of weight 0.

    Arguments:
        episodes: one or more unstacked episodes with equal feature and target shapes.

    Returns:
        One episode with a leading task axis; `weight` is `None` where all sizes agree.

    Raises:
        DataError: there is no episode, or feature shapes differ.

    Example:
        >>> one = Episode(Batch(torch.ones(2, 1), torch.ones(2)), Batch(torch.ones(4, 1), torch.ones(4)))
        >>> two = Episode(Batch(torch.ones(3, 1), torch.ones(3)), Batch(torch.ones(4, 1), torch.ones(4)))
        >>> stack([one, two]).support.weight.tolist()
        [[1.0, 1.0, 0.0], [1.0, 1.0, 1.0]]
    """
    if not episodes:
        raise DataError("there is no episode to stack: ask for at least one task")
    return Episode(
        _stack_batches([episode.support for episode in episodes]),
        _stack_batches([episode.query for episode in episodes]),
    )


def at_step(support: Batch, step: int) -> Batch:
    """The support rows that one inner step uses.

    Example:
        >>> support = Batch(
        ...     torch.zeros(1, 2, 1), torch.zeros(1, 2, 1), torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])
        ... )
        >>> [at_step(support, step).weight.tolist() for step in range(3)]
        [[[1.0, 0.0]], [[0.0, 1.0]], [[1.0, 0.0]]]
    """
    if support.weight is None or support.weight.dim() < 3:
        return support
    return support._replace(weight=support.weight[..., step % support.weight.shape[2]])


def all_draws(support: Batch) -> Batch:
    """The support rows that any inner step may use."""
    if support.weight is None or support.weight.dim() < 3:
        return support
    return support._replace(weight=support.weight.amax(2))


def bucketed(episode: Episode, widths: Sequence[Width | None] = (None, None)) -> Episode:
    """The same episode, with the rows of padded batches rounded up, so that few different shapes occur.

    Arguments:
        episode: stacked tasks.
        widths: of the support and of the query rows of its source, where they are known: a batch that is not much
            narrower than the widest one of all is made as wide.

    Example:
        >>> rows = Batch(torch.ones(1, 5, 2), torch.ones(1, 5), torch.ones(1, 5))
        >>> bucketed(Episode(rows, rows)).query.weight.tolist()
        [[1.0, 1.0, 1.0, 1.0, 1.0, 0.0]]
        >>> bucketed(Episode(rows, rows), (Width(1, 8), Width(1, 20))).support.x.shape[1]
        8
    """
    return Episode(*(_rounded(batch, width) for batch, width in zip(episode, widths, strict=True)))


def _rounded(batch: Batch, width: Width | None) -> Batch:
    if width is not None and width.least < width.most:
        # all may be alike by chance
        batch = batch._replace(weight=_weights(batch))
    if batch.weight is None:
        return batch
    rows = batch.target.shape[1]
    wanted = _octave(rows)
    if width is not None and _octave(width.most) <= _NARROWER * wanted:
        wanted = max(wanted, _octave(width.most))
    if wanted == rows:
        return batch
    padded: Batch = map_tensors(
        lambda t: torch.cat([t, t.new_zeros(t.shape[0], wanted - rows, *t.shape[2:])], 1), batch
    )
    return padded


def _octave(rows: int) -> int:
    """The next number of which two bits count: 4, 6, 8, 12, 16, 24, ..."""
    octave = 1 << max(rows.bit_length() - 2, 0)
    return -(-rows // octave) * octave


def equal_sizes(episode: Episode) -> list[tuple[list[int], Episode]]:
    """The tasks of a padded stack in groups that need no padding.

    Returns:
        For each pair of sizes the indices of its tasks in the stack, and these tasks, rows of weight 0 left out.

    Example:
        >>> rows = Batch(torch.arange(6.0).reshape(2, 3, 1), torch.zeros(2, 3))
        >>> short = rows._replace(weight=torch.tensor([[1.0, 1.0, 1.0], [1.0, 1.0, 0.0]]))
        >>> [(tasks, part.support.x.shape[1]) for tasks, part in equal_sizes(Episode(short, rows))]
        [([0], 3), ([1], 2)]
    """
    masks = [_weights(all_draws(batch)) > 0 for batch in episode]
    groups: dict[tuple[int, ...], list[int]] = {}
    for task in range(episode.n_tasks):
        groups.setdefault(tuple(int(mask[task].sum()) for mask in masks), []).append(task)

    def rows(batch: Batch, mask: Tensor, tasks: list[int]) -> Batch:
        # weights that count are 1
        bare = batch._replace(weight=None)
        cut: Batch = map_tensors(lambda t: torch.stack([t[task][mask[task]] for task in tasks]), bare)
        return cut

    pairs = list(zip(episode, masks, strict=True))
    return [(tasks, Episode(*(rows(*pair, tasks) for pair in pairs))) for tasks in groups.values()]


def join_rows(one: Batch, other: Batch) -> Batch:
    """The rows of two stacked batches of the same tasks together.

    Example:
        >>> half = Batch(torch.zeros(2, 3, 1), torch.zeros(2, 3, 1))
        >>> join_rows(half, half).y.shape
        torch.Size([2, 6, 1])
    """
    weight = None
    if one.weight is not None or other.weight is not None:
        weight = torch.cat([_weights(one), _weights(other)], 1)

    def joined(first: PyTree, second: PyTree) -> PyTree:
        pairs = zip(tensors(first), tensors(second), strict=True)
        return rebuilt(first, [torch.cat(pair, 1) for pair in pairs])

    return Batch(joined(one.x, other.x), joined(one.y, other.y), weight)


def _weights(batch: Batch, axes: int = 2) -> Tensor:
    """The weights of a batch with `axes` axes before those of features, written out."""
    if batch.weight is not None:
        return batch.weight
    floats = next((t.dtype for t in tensors(batch.x) if t.is_floating_point()), torch.get_default_dtype())
    return torch.ones(batch.target.shape[:axes], dtype=floats, device=batch.target.device)


def _stack_batches(batches: Sequence[Batch]) -> Batch:
    sizes = [batch.rows for batch in batches]
    longest = max(sizes)

    def padded(parts: Sequence[Tensor]) -> Tensor:
        return torch.stack([_pad(part, longest) for part in parts])

    equal = min(sizes) == longest and all(batch.weight is None for batch in batches)
    join = torch.stack if equal else padded
    weight = None if equal else padded([_weights(batch, 1) for batch in batches])
    return Batch(_merge([b.x for b in batches], join), _merge([b.y for b in batches], join), weight)


def _pad(part: Tensor, length: int) -> Tensor:
    return torch.cat([part, part.new_zeros(length - part.shape[0], *part.shape[1:])])


def _merge(trees: Sequence[PyTree], join: Callable[[list[Tensor]], Tensor]) -> PyTree:
    """Join the matching tensors of equal pytrees."""
    columns = zip(*(tuple(tensors(tree)) for tree in trees), strict=True)
    joined = []
    for column in columns:
        if len({part.shape[1:] for part in column}) > 1:
            shapes = sorted({tuple(part.shape[1:]) for part in column})
            raise DataError(f"episodes with different feature or target shapes cannot be stacked: {shapes}")
        joined.append(join(list(column)))
    return rebuilt(trees[0], joined)
