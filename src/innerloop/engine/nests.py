"""Nests of tensors taken apart and put together again: what every call of a function with gears does first and last.

The order of the leaves is that of `torch.utils._pytree`, which knows more kinds of nests; on the common ones it takes
a large part of the time of a small compiled step.
"""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from torch import Tensor, nn
from torch.utils import _pytree as pytree


def flattened(tree: Any) -> tuple[list[Any], Any]:
    """The leaves of a nest, and a key: equal for nests that one graph serves.

    Arguments:
        tree: dicts, lists, tuples and named tuples, and whatever else torch can flatten; what cannot be is a leaf.

    Returns:
        The leaves, and how they nest with shape, type and device of every tensor and the value of everything else.

    Example:
        >>> import torch
        >>> flattened({"a": [torch.zeros(2), 1], "b": ()})[0]
        [tensor([0., 0.]), 1]
        >>> flattened(torch.zeros(2))[1] == flattened(torch.ones(2))[1]
        True
    """
    leaves: list[Any] = []
    return leaves, _key(tree, leaves)


def _key(tree: Any, leaves: list[Any]) -> Any:
    kind = type(tree)
    if kind is Tensor or kind is nn.Parameter:
        leaves.append(tree)
        return (tree.shape, tree.dtype, tree.device, tree.requires_grad)
    if kind is dict:
        return (kind, *tree, *[_key(value, leaves) for value in tree.values()])
    if kind is tuple or kind is list or (isinstance(tree, tuple) and hasattr(tree, "_fields")):
        return (kind, *[_key(value, leaves) for value in tree])
    found, structure = pytree.tree_flatten(tree)
    if len(found) != 1 or found[0] is not tree:
        return (structure, *[_key(leaf, leaves) for leaf in found])
    leaves.append(tree)
    if isinstance(tree, Tensor):
        return (kind, tree.shape, tree.dtype, tree.device, tree.requires_grad)
    # 1, 1.0 and True are equal, and -0.0 is 0.0, but not for a graph
    return (kind.__name__, repr(tree) if isinstance(tree, (bool, int, float)) else tree)


def builder(structure: Any, others: Sequence[Any]) -> Callable[[Sequence[Tensor]], Any]:
    """A function that puts tensors into a nest.

    Arguments:
        structure: of the nest, as `torch.utils._pytree` writes it.
        others: the leaves that are no tensors, and `None` where a tensor belongs.

    Returns:
        From the tensors, in order, to the nest.

    Example:
        >>> import torch
        >>> structure = pytree.tree_structure({"a": [0, 0], "b": (0,)})
        >>> builder(structure, [None, "name", None])([torch.ones(1), torch.zeros(1)])
        {'a': [tensor([1.]), 'name'], 'b': (tensor([0.]),)}
    """
    build = _builder(structure, iter(others))
    return lambda tensors: build(iter(tensors))


def _builder(structure: Any, others: Iterator[Any]) -> Callable[[Iterator[Tensor]], Any]:
    kind = structure.type
    if kind is None:
        other = next(others)
        return next if other is None else lambda _: other
    if kind not in (dict, tuple, list, namedtuple):
        rest = [next(others) for _ in range(structure.num_leaves)]
        return lambda tensors: pytree.tree_unflatten(
            [next(tensors) if other is None else other for other in rest], structure
        )
    parts = [_builder(child, others) for child in structure.children()]
    if kind is dict:
        named = list(zip(structure.context, parts, strict=True))
        return lambda tensors: {name: part(tensors) for name, part in named}
    make = structure.context._make if kind is namedtuple else kind
    return lambda tensors: make([part(tensors) for part in parts])
