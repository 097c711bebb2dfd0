"""Pytrees of tensors flattened and put together again: what every call of a function with gears does first and last.

A pytree is a tensor, or a dict, list or tuple of pytrees. The order of the leaves is that of `torch.utils._pytree`,
which knows more kinds; on the common ones it takes a large part of the time of a small compiled step, hence this file.
"""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Any

from torch import Tensor, nn
from torch.utils import _pytree as pytree

__all__ = ["flatten", "unflattener"]


def flatten(tree: object) -> tuple[list[object], Hashable]:
    """The leaves of a pytree, and its static key: equal for pytrees that one graph serves.

    Arguments:
        tree: dicts, lists, tuples and named tuples, and whatever else torch can flatten; what cannot be is a leaf.

    Returns:
        The leaves, and the key: the structure, with shape, type and device of every tensor (not its values) and the
        value of everything else. A graph made for a key is used for every later call with an equal one. The key is
        hashable if all leaves that are no tensors are.

    Example:
        >>> import torch
        >>> flatten({"a": [torch.zeros(2), 1], "b": ()})[0]
        [tensor([0., 0.]), 1]
        >>> flatten(torch.zeros(2))[1] == flatten(torch.ones(2))[1]
        True
    """
    leaves: list[object] = []
    return leaves, _key(tree, leaves)


def _key(tree: Any, leaves: list[Any]) -> Hashable:
    """The key of a pytree; its leaves are appended on the way. The commonest kinds come first."""
    kind = type(tree)
    if kind is Tensor or kind is nn.Parameter:
        leaves.append(tree)
        return (tree.shape, tree.dtype, tree.device, tree.requires_grad)
    if kind is dict:
        return (kind, *tree, *[_key(value, leaves) for value in tree.values()])
    if kind is tuple or kind is list or (isinstance(tree, tuple) and hasattr(tree, "_fields")):
        return (kind, *[_key(value, leaves) for value in tree])
    children, structure = pytree.tree_flatten(tree)
    if len(children) != 1 or children[0] is not tree:
        return (structure, *[_key(child, leaves) for child in children])
    leaves.append(tree)
    if isinstance(tree, Tensor):
        return (kind, tree.shape, tree.dtype, tree.device, tree.requires_grad)
    # 1, 1.0 and True are equal, and -0.0 is 0.0, but not for a graph
    return (kind.__name__, repr(tree) if isinstance(tree, (bool, int, float)) else tree)


def unflattener(structure: pytree.TreeSpec, constants: Sequence[object]) -> Callable[[Sequence[Tensor]], Any]:
    """A function that puts tensors into a pytree of known structure.

    The structure is walked once, here, so that a call of the result does nothing but build.

    Arguments:
        structure: of the pytree, as `torch.utils._pytree` writes it.
        constants: the leaves that are no tensors, and `None` where a tensor belongs.

    Returns:
        From the tensors, in order, to the pytree.

    Example:
        >>> import torch
        >>> structure = pytree.tree_structure({"a": [0, 0], "b": (0,)})
        >>> unflattener(structure, [None, "name", None])([torch.ones(1), torch.zeros(1)])
        {'a': [tensor([1.]), 'name'], 'b': (tensor([0.]),)}
    """
    build = _unflattener(structure, iter(constants))
    return lambda tensors: build(iter(tensors))


def _unflattener(
    structure: pytree.TreeSpec, constants: Iterator[object]
) -> Callable[[Iterator[Tensor]], object]:
    """As `unflattener`, of tensors that are taken from an iterator one by one."""
    kind = structure.type
    if kind is None:
        constant = next(constants)
        return next if constant is None else lambda _: constant
    if kind not in (dict, tuple, list, namedtuple):
        leaves = [next(constants) for _ in range(structure.num_leaves)]
        return lambda tensors: pytree.tree_unflatten(
            [next(tensors) if leaf is None else leaf for leaf in leaves], structure
        )
    # torch 2.9 has no method for it yet, and later versions warn about this attribute
    children = structure.children() if hasattr(structure, "children") else structure.children_specs
    parts = [_unflattener(child, constants) for child in children]
    if kind is dict:
        named = list(zip(structure.context, parts, strict=True))
        return lambda tensors: {name: part(tensors) for name, part in named}
    make = structure.context._make if kind is namedtuple else kind
    return lambda tensors: make([part(tensors) for part in parts])
