"""Mean query loss on meta-validation tasks, for choosing among parameters."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..inner.learner import Model, without_padding
from ..models.network import reference
from ..tasks.episodes import to
from ..tasks.sources import EVALUATION_SEED, Source

__all__ = ["mean_loss"]


def mean_loss(model: Model, source: Source, *, seed: int = EVALUATION_SEED, episodes: int = 300) -> float:
    """Mean query loss after adaptation on the first fixed episodes, for choosing among parameters.

    Arguments:
        model: what to score.
        source: meta-validation tasks.
        seed: of the episodes.
        episodes: stop after this many; tasks that come again are drawn equally often.

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
    losses: list[Tensor] = []
    with torch.no_grad():
        for _, raw in source.fixed(seed):
            episode = to(raw, like.device, like.dtype)
            for _, part in without_padding(model.learner, episode):
                adapted = model.learner.adapt(model.meta, part.support)
                losses.append(model.learner.loss(model.meta, adapted, part.query))
            if sum(len(part) for part in losses) >= wanted:
                break
    return torch.cat(losses).mean().item()
