"""How many tasks are worked on at once: as many as keep within a limit, by the graph of a step and not by trying."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from .engine.trace import Untraceable, graph_of
from .episodes import Episode, select, tensors
from .errors import UsageError
from .functional import Params
from .learner import Learner

_UNITS = {"": 1, "B": 1, "KB": 2**10, "MB": 2**20, "GB": 2**30, "TB": 2**40}
# values that one row may keep for each of its numbers and each output of a layer, generously
_VALUES = 40


def bytes_of(text: str) -> int:
    """A size in words as a number of bytes.

    Raises:
        UsageError: it cannot be read.

    Example:
        >>> bytes_of("512MB"), bytes_of("2 GB")
        (536870912, 2147483648)
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?B?)\s*", text.upper())
    unit = found.group(2) if found else ""
    size = int(float(found.group(1)) * _UNITS.get(unit, _UNITS.get(f"{unit}B", 0))) if found else 0
    if size <= 0:
        raise UsageError(f"memory={text!r} is not a size: write 512MB or 2GB")
    return size


def tasks_at_once(learner: Learner, meta: Params, episode: Episode, limit: int) -> int | None:
    """How many tasks of a meta-batch may be worked on together.

    Arguments:
        learner: the algorithm.
        meta: the meta-parameters.
        episode: a stacked meta-batch.
        limit: bytes that they may keep.

    Returns:
        A number of tasks, or `None` for all of them.
    """
    total = episode.n_tasks
    if total < 2 or _bound(meta, episode) <= limit:
        return None
    needed = needed_bytes(learner, meta, select(episode, slice(0, 1)))
    if needed is None or needed * total <= limit:
        return None
    return max(1, min(total, limit // needed))


def needed_bytes(learner: Learner, meta: Params, episode: Episode) -> int | None:
    """Bytes alive at once in the meta-gradient of an episode; `None` where it has no graph.

    Example:
        >>> import innerloop as il
        >>> learner = il.maml(il.models.mlp(1, [8], 1), loss="mse", inner_steps=1)
        >>> rows = il.Batch(torch.ones(1, 5, 1), torch.ones(1, 5, 1))
        >>> needed_bytes(learner, learner.init(), Episode(rows, rows)) > 0
        True
    """
    key = torch.zeros(episode.n_tasks, dtype=torch.int64, device=episode.query.y.device)

    def gradient(meta: Params, episode: Episode, key: Tensor) -> Any:
        return learner.metagrad(learner, meta, episode, learner.metagrad.phase(10**9), key)

    leaves, structure = pytree.tree_flatten((meta, episode, key))
    try:
        graph, _ = graph_of(gradient, leaves, structure)
    except Untraceable:
        return None
    return peak(graph)


def peak(graph: fx.GraphModule) -> int:
    """Most bytes alive at once while a graph runs in order; views cost nothing."""
    nodes = list(graph.graph.nodes)
    owner: dict[fx.Node, fx.Node] = {}
    last: dict[fx.Node, int] = {}
    for time, node in enumerate(nodes):
        owner[node] = _owner(node, owner)
        for used in node.all_input_nodes:
            last[owner[used]] = time
    dying: dict[int, list[fx.Node]] = {}
    for node, time in last.items():
        dying.setdefault(time, []).append(node)
    alive = most = 0
    for time, node in enumerate(nodes):
        if owner[node] is node:
            alive += _size(node)
        most = max(most, alive)
        alive -= sum(_size(dead) for dead in dying.get(time, ()))
    return most


def _owner(node: fx.Node, owner: dict[fx.Node, fx.Node]) -> fx.Node:
    """The node whose memory a node shows."""
    schema = getattr(node.target, "_schema", None)
    if node.op != "call_function" or schema is None or not node.all_input_nodes:
        return node
    shows = any(argument.alias_info is not None for argument in schema.arguments)
    return owner[node.all_input_nodes[0]] if shows else node


def _size(node: fx.Node) -> int:
    value = node.meta.get("val")
    found = [value] if isinstance(value, Tensor) else list(_fake_tensors(value))
    return sum(one.numel() * one.element_size() for one in found)


def _fake_tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, (list, tuple)):
        yield from (one for one in value if isinstance(one, Tensor))


def _bound(meta: Params, episode: Episode) -> int:
    """More bytes than the tasks can keep; a small number spares the exact count."""
    rows = episode.support.y.shape[1] + episode.query.y.shape[1]
    places = max(math.prod(t.shape[3:]) for t in tensors(episode.support.x))
    features = max(math.prod(t.shape[2:]) for t in tensors(episode.support.x))
    widths = sum(value.shape[0] for value in meta.values() if value.dim() > 1)
    weights = sum(value.numel() for value in meta.values())
    return episode.n_tasks * _VALUES * 4 * (rows * (features + widths * places) + weights)
