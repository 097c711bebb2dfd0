"""Mean query loss on meta-validation tasks, for choosing among parameters."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from ..inner.learner import without_padding
from ..inner.model import Model
from ..models.network import reference
from ..tasks.episodes import Episode, select, to
from ..tasks.sources import EVALUATION_SEED, RowSource, Source
from .ranks import Shards

__all__ = ["mean_loss"]


def mean_loss(
    model: Model,
    source: Source,
    *,
    seed: int = EVALUATION_SEED,
    episodes: int = 300,
    shards: Shards | None = None,
) -> float:
    """Mean query loss after adaptation on the first fixed episodes, for choosing among parameters.

    Arguments:
        model: what to score.
        source: meta-validation tasks.
        seed: of the episodes.
        episodes: stop after this many; tasks that come again are drawn equally often.
        shards: how the tasks of each stack are shared among ranks, which all call this; not shared unless given.

    Example:
        >>> import innerloop as il
        >>> tasks = il.tasks.sinusoid(n_support=5, episodes=10)
        >>> learner = il.maml(il.models.mlp(1, [8], 1), loss="mse")
        >>> mean_loss(il.Model(learner, learner.init()), tasks.valid) > 0
        True
    """
    like = reference(model.meta)
    passes = 1 if source.n_tasks is None else math.ceil(episodes / source.n_tasks)
    wanted = episodes if source.n_tasks is None else passes * source.n_tasks
    if isinstance(source, RowSource):
        source = replace(source, draws=min(source.draws, passes))
    losses: list[Tensor] = []
    with torch.no_grad():
        for _, raw in source.fixed(seed):
            episode = to(raw, like.device, like.dtype)
            losses.append(_losses(model, episode) if shards is None else _own_losses(model, episode, shards))
            if sum(len(part) for part in losses) >= wanted:
                break
    every = torch.cat(losses)
    # each loss is that of one rank, and 0 elsewhere
    return (every if shards is None else shards.ranks.gathered(every).sum(0)).mean().item()


def _losses(model: Model, episode: Episode) -> Tensor:
    """Query loss after adaptation of the tasks of a stack, `(T,)`, those of equal size together."""
    losses = []
    for _, part in without_padding(model.learner, episode):
        adapted = model.learner.adapt(model.meta, part.support)
        losses.append(model.learner.loss(model.meta, adapted, part.query))
    return torch.cat(losses)


def _own_losses(model: Model, episode: Episode, shards: Shards) -> Tensor:
    """Those of the tasks of this rank, 0 for the others."""
    losses = torch.zeros(
        episode.n_tasks, dtype=reference(model.meta).dtype, device=reference(model.meta).device
    )
    parts = shards.parts(episode.n_tasks)
    for part in (parts[number] for number in shards.numbers):
        if part.stop > part.start:
            losses[part] = _losses(model, select(episode, part)).to(losses.dtype)
    return losses
