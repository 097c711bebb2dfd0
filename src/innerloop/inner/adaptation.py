"""Adaptation and prediction of one task as a pure function of its rows, for files that run without this package."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..engine.open_graph import padded_rows
from ..errors import UsageError
from ..models.network import Params
from ..tasks.episodes import Batch
from .model import Model

__all__ = ["adaptation", "require_row_by_row"]


def adaptation(model: Model) -> Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor | None]]:
    """What a model makes of support features, support targets and query features: predictions and their variance.

    Rows of weight 0 are added, which change nothing, so that a graph of the function holds for any number of rows.
    Without a support row it is the base prediction.

    Arguments:
        model: the model.

    Returns:
        A function of `(n, F)`, `(n, *target)` and `(m, F)` to predictions `(m, C)` and variances `(m, C)`, `None` where
        the algorithm says nothing of them.

    Example:
        >>> from innerloop.algorithms import mixed
        >>> learner = mixed(1)
        >>> model = Model(learner, learner.init())
        >>> x, y, query = torch.rand(5, 1), torch.rand(5, 1), torch.rand(3, 1)
        >>> torch.allclose(adaptation(model)(x, y, query)[0], model.adapt(x, y)(query))
        True
    """
    learner, meta = model.learner, model.meta

    def adapted(x: Tensor, y: Tensor, query: Tensor) -> tuple[Tensor, Tensor | None]:
        weight = torch.cat([x.new_ones(x.shape[0]), padded_rows(x.new_zeros(0))])
        rows = Batch(padded_rows(x).unsqueeze(0), padded_rows(y).unsqueeze(0), weight.unsqueeze(0))
        base = next(iter(learner.path(meta, rows, steps=0)))
        own = _chosen(learner.adapt(meta, rows), base, weight.sum() > 0)
        stacked, count = padded_rows(query).unsqueeze(0), query.shape[0]
        prediction, variance = learner.predict(meta, own, stacked), learner.variance(meta, own, stacked)
        return prediction[0, :count], None if variance is None else variance[0, :count]

    return adapted


def require_row_by_row(model: Model, x: Tensor) -> None:
    """Refuse a model whose prediction of a row depends on the rows that are predicted with it.

    Arguments:
        model: the model.
        x: some rows of features, `(n, *feature)`.

    Raises:
        UsageError: it does, so that rows of padding would change it.
    """
    if model.learner.network.sees_other_rows(x.unsqueeze(0)):
        raise UsageError(
            "this model predicts a row from the rows that are asked with it (attention over rows, or "
            "batchnorm='transductive'), and a file serves any number of them: train with another model or batchnorm"
        )


def _chosen(own: Params, base: Params, begun: Tensor) -> Params:
    """What a task owns with rows, and what it owns without; heads that keep the rows themselves need no choice."""
    same = own.keys() == base.keys() and all(own[name].shape == base[name].shape for name in own)
    if not same:
        return own
    return {name: torch.where(begun, own[name], base[name].to(own[name])) for name in own}
