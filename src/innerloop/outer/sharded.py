"""The meta-update shard by shard: each rank takes the gradient of its own, and every rank takes the same step."""

from __future__ import annotations

import functools
import operator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from ..engine import Fast, fast
from ..inner.learner import Learner, Metrics
from ..models.network import Params
from ..tasks.episodes import Episode, select
from .optimizers import Optimizer
from .ranks import Shards
from .update import Gradient, Outer, mean_gradient, meta_gradient, stepped

__all__ = ["ShardedUpdate", "sharded_update"]


class _Found(NamedTuple):
    """What the tasks of a shard give: two kinds of sums, weighted by their share, and a value of each task.

    Arguments:
        grads: the meta-gradient.
        watched: meta-parameters that are followed and not learned, such as running statistics.
        of_tasks: metrics `(T, ...)`.
    """

    grads: Params
    watched: Params
    of_tasks: Params


class ShardedUpdate:
    r"""The meta-update of tasks that several ranks share.

    $g = \sum_s w_s g_s$ in the order of the shards $s$, where $g_s$ is the mean meta-gradient of the tasks of a shard
    and $w_s$ their share of the meta-batch; then clipping and the optimizer, on every rank alike.

    Arguments:
        learner: the algorithm.
        clip: see `meta_update`.
        optimizer: see `meta_update`.
        chunk: most tasks of a shard at once; all unless given.
        shards: how the tasks of a meta-batch are shared.
        gradient: `meta_gradient` of the learner, in a gear of its own.
    """

    def __init__(
        self,
        learner: Learner,
        *,
        clip: float | None,
        optimizer: Optimizer,
        chunk: int | None,
        shards: Shards,
        gradient: Gradient | None = None,
    ) -> None:
        """See the class."""
        self.plain = meta_gradient(learner)
        self.gradient = gradient or self.plain
        self.clip, self.optimizer, self.chunk, self.shards = clip, optimizer, chunk, shards
        self._last: _Found | None = None

    def __call__(
        self,
        outer: Outer,
        numbers: Tensor,
        episode: Episode,
        key: Tensor,
        phase: int,
        kept: Tensor | None = None,
    ) -> tuple[Outer, Metrics]:
        """One update; see `meta_update`.

        Arguments:
            outer: the state.
            numbers: those of `numbers_of`.
            episode: the tasks of this rank's shards, in their order.
            key: dropout streams `(T,)` of the whole meta-batch.
            phase: of the meta-gradient.
            kept: `(T,)` whether a task of the whole meta-batch counts; all unless given.

        Returns:
            The next state and the metrics of all tasks that count.
        """
        parts, total = self.shards.parts(len(key)), len(key)
        # shards of other sizes may never come again: no graph is made for them
        gradient = self.gradient if kept is None else self.plain
        kept = torch.ones(total, dtype=torch.bool, device="cpu") if kept is None else kept.cpu()
        counts = [int(kept[part].sum()) for part in parts]
        found, begin = [], 0
        for part in (parts[number] for number in self.shards.numbers):
            tasks = begin + torch.arange(part.stop - part.start, device="cpu")[kept[part]]
            begin += part.stop - part.start
            if len(tasks):
                chosen, own = select(episode, tasks.to(key.device)), key[part][kept[part].to(key.device)]
                share = len(tasks) / sum(counts)
                grads, metrics = mean_gradient(
                    gradient, outer.meta, chosen, own, numbers[0], phase, self.chunk
                )
                self._last = _sums(grads, metrics, share, max(counts))
                found.append(self._last)
            else:
                found.append(self._nothing(max(counts)))
        grads, metrics = self._added(found, counts)
        return stepped(outer, grads, metrics, numbers, clip=self.clip, optimizer=self.optimizer)

    def _nothing(self, most: int) -> _Found:
        """What a shard gives of which no task counts: zeros of the shapes that one gave before."""
        assert self._last is not None
        grads, watched, of_tasks = self._last
        zeros = {name: value.new_zeros(most, *value.shape[1:]) for name, value in of_tasks.items()}
        return _Found(
            {name: torch.zeros_like(value) for name, value in grads.items()},
            {name: torch.zeros_like(value) for name, value in watched.items()},
            zeros,
        )

    def _added(self, own: list[_Found], counts: list[int]) -> tuple[Params, Metrics]:
        """The sums over the shards of all ranks, and the values of all tasks, in the order of the shards."""
        leaves, structure = pytree.tree_flatten(own[0])
        # as bytes, because one message carries several types
        every = self.shards.gathered([_bytes(pytree.tree_leaves(one)) for one in own])
        sizes = [leaf.numel() * leaf.element_size() for leaf in leaves]
        stacked = [
            part.clone().view(leaf.dtype).reshape(self.shards.count, *leaf.shape)
            for part, leaf in zip(torch.split(every, sizes, dim=1), leaves, strict=True)
        ]
        found: _Found = pytree.tree_unflatten(stacked, structure)
        sums = {
            name: functools.reduce(operator.add, value.unbind())
            for name, value in (found.grads | found.watched).items()
        }
        metrics: dict[str, Any] = {name: sums[name] for name in found.watched}
        for name, value in found.of_tasks.items():
            metrics[name] = torch.cat([row[:count] for row, count in zip(value, counts, strict=True)])
        return {name: sums[name] for name in found.grads}, metrics


def sharded_update(
    learner: Learner,
    shards: Shards,
    *,
    clip: float | None,
    optimizer: Optimizer,
    chunk: int | None,
    gear: str,
    planned: int,
) -> Fast[tuple[Outer, Metrics]]:
    """The sharded update, the gradient of a shard in a gear; see `geared_update` for the arguments.

    Example:
        >>> import innerloop as il
        >>> learner = il.maml(il.models.mlp(1, [4], 1), loss="mse")
        >>> how = {"clip": None, "optimizer": il.optimizers.adam(), "chunk": None, "planned": 1}
        >>> sharded_update(learner, Shards(2), gear="eager", **how).report.gear
        'eager'
    """
    gradient = fast(meta_gradient(learner), gear=gear, planned=planned)
    update = ShardedUpdate(
        learner, clip=clip, optimizer=optimizer, chunk=chunk, shards=shards, gradient=gradient
    )
    return Fast(update, "eager", planned, gradient.report)


def _sums(grads: Params, metrics: Metrics, share: float, most: int) -> _Found:
    """What a shard gives, its tasks padded to those of the largest one."""
    watched = {name: share * value.detach() for name, value in metrics.items() if name in grads}
    of_tasks = {
        name: torch.cat([value.detach(), value.new_zeros(most - len(value), *value.shape[1:])])
        for name, value in metrics.items()
        if name not in grads
    }
    return _Found({name: share * grad.detach() for name, grad in grads.items()}, watched, of_tasks)


def _bytes(values: list[Tensor]) -> Tensor:
    return torch.cat([value.contiguous().reshape(-1).view(torch.uint8) for value in values])
