"""The path of the inner loop of one task: losses, norms and predictions after every step."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import pandas as pd
import torch
from torch.utils import _pytree as pytree

from ..inner.derivatives import as_leaves, gradient
from ..inner.gradient import GradientLearner
from ..inner.model import Model, require_model
from ..models.network import Params
from ..tasks.episodes import Batch, unsqueeze

__all__ = ["InnerPath", "inner_path"]


class InnerPath(NamedTuple):
    """See `inner_path`.

    Arguments:
        numbers: one row a step, from 0 (before adaptation): `step`; `support_loss` and `query_loss` (NaN without query
            rows); `gradient`, the norm of the gradient that the next step takes (NaN where no gradient is followed);
            `update`, the length of the step that led here; `moved`, the distance from the start.
        predictions: of the query rows, or of the support rows without these, after each step: `(S + 1, n, *out)`.
    """

    numbers: pd.DataFrame
    predictions: Any


def inner_path(
    model: Model, support: Batch, query: Batch | None = None, *, steps: int | None = None
) -> InnerPath:
    """How one task adapts, step by step.

    Arguments:
        model: the model.
        support: support rows, scaled as those of training were.
        query: query rows with targets; losses and predictions are theirs too.
        steps: inner steps; as in training unless given. More of them show whether the loop has come to rest.

    Returns:
        Losses and norms a step, and predictions; `figures.inner_path` draws the former.

    Raises:
        UsageError: `model` is none.

    Example:
        >>> import innerloop as il
        >>> learner = il.maml(il.models.mlp(1, [8], 1), loss="mse", inner_lr=0.1, inner_steps=3)
        >>> rows = il.Batch(torch.rand(5, 1), torch.ones(5, 1))
        >>> path = inner_path(il.Model(learner, learner.init()), rows)
        >>> path.numbers["step"].tolist(), path.predictions.shape
        ([0, 1, 2, 3], torch.Size([4, 5, 1]))
        >>> bool(path.numbers["support_loss"].is_monotonic_decreasing)
        True
    """
    require_model(model)
    learner, meta = model.learner, model.meta
    shown = support if query is None else query
    support, seen = model._like(unsqueeze(support)), model._like(unsqueeze(shown))
    own = set(learner.own_like(meta)) - set(learner.network.statistics_like(next(iter(meta.values()))))
    rows: list[dict[str, float]] = []
    predictions: list[Any] = []
    first = before = None
    with torch.no_grad():
        for step, adapted in enumerate(learner.path(meta, support, steps=steps)):
            values = {name: value for name, value in adapted.items() if name in own}
            first, before = first or values, before or values
            rows.append(
                {
                    "step": step,
                    "support_loss": float(learner.loss(meta, adapted, support)),
                    "query_loss": math.nan if query is None else float(learner.loss(meta, adapted, seen)),
                    "gradient": _gradient_norm(learner, meta, values, support),
                    "update": _distance(values, before),
                    "moved": _distance(values, first),
                }
            )
            before = values
            predictions.append(learner.predict(meta, adapted, seen.x))
    together = pytree.tree_map(lambda *steps: torch.cat(steps), *predictions)
    return InnerPath(pd.DataFrame(rows), together)


def _gradient_norm(learner: object, meta: Params, fast: Params, support: Batch) -> float:
    """Norm of the gradient of what the inner loop descends."""
    if not isinstance(learner, GradientLearner) or not fast:
        return math.nan
    leaves = as_leaves(fast)
    with torch.enable_grad():
        slopes = gradient(learner.support_losses(meta, leaves, support).sum(), leaves)
    return _norm(slopes)


def _distance(one: Params, other: Params) -> float:
    return _norm({name: one[name] - other[name] for name in one})


def _norm(values: Params) -> float:
    return math.sqrt(sum(float(value.abs().square().sum()) for value in values.values()))
