"""Whether a prediction depends on the other rows that are predicted with it: the leak test."""

from __future__ import annotations

from operator import itemgetter

import torch

from ..inner.model import Model, require_model
from ..models.network import reference
from ..tasks.episodes import equal_sizes, map_tensors, select, tensors, to
from ..tasks.sources import EVALUATION_SEED, Source, require_source

__all__ = ["query_dependence"]


def query_dependence(model: Model, source: Source, *, seed: int = EVALUATION_SEED) -> float:
    """Whether a prediction changes with the other queries: the leak test.

    Query rows of the first evaluation episode are predicted together and one at a time. What depends on the others
    knows more than a row on its own will, and scores better than it will serve: a model that normalises with the
    rows at hand, for one.

    Arguments:
        model: what to test.
        source: tasks.
        seed: of the episode.

    Returns:
        The largest change of a prediction, over the largest prediction: rounding (under 1e-4 in single precision)
        for independent ones.

    Example:
        >>> import innerloop as il
        >>> tasks = il.tasks.sinusoid(n_support=5, episodes=10)
        >>> learner = il.maml(il.models.mlp(1, [8], 1), loss="mse", inner_steps=2)
        >>> query_dependence(il.Model(learner, learner.init()), tasks.test) < 1e-4
        True
    """
    require_model(model)
    require_source(source, "test")
    like = reference(model.meta)
    _, raw = next(iter(source.fixed(seed)))
    episode = select(to(raw, like.device, like.dtype), slice(0, 1))
    (_, task), *_ = equal_sizes(episode)
    few = min(task.query.target.shape[1], 16)
    with torch.no_grad():
        adapted = model.learner.adapt(model.meta, task.support)
        together = model.learner.predict(model.meta, adapted, task.query.x)
        rows = (map_tensors(itemgetter((slice(None), slice(n, n + 1))), task.query.x) for n in range(few))
        singly = [model.learner.predict(model.meta, adapted, row) for row in rows]
    worst = 0.0
    for whole, *parts in zip(tensors(together), *(tensors(one) for one in singly), strict=True):
        change = (whole[:, :few] - torch.cat(parts, 1)).abs().max() / whole.abs().max().clamp(min=1e-30)
        worst = max(worst, float(change))
    return worst
