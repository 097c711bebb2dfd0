"""What a support set says of a query row, as numbers: the columns that boosting sees beside the features."""

from __future__ import annotations

import torch
from torch import Tensor

from ...models.network import Params
from ...tasks.episodes import Batch
from ..heads.base import counted_rows, row_weights, with_constant

__all__ = ["no_support", "summary_columns", "summary_size", "support_values"]

# squared distance, a feature, at which a support row counts for exp(-1) in the smooth mean
_NEAR = 0.5
# of a distance where there is no support row
_NONE = -1.0


def summary_size(n_columns: int) -> int:
    """How many numbers there are for `n_columns` columns of targets.

    Example:
        >>> summary_size(1)
        8
    """
    return 2 + 6 * n_columns


def no_support(count: int, n_features: int, n_columns: int, like: Tensor) -> Params:
    """What `count` tasks own that have seen no row."""
    shapes = {
        "rows": (0, n_features),
        "rest": (0, n_columns),
        "weight": (0, 1),
        "line": (n_features + 1, n_columns),
    }
    return {f"support/{name}": like.new_zeros(count, *shape) for name, shape in shapes.items()}


def support_values(rest: Tensor, support: Batch) -> Params:
    r"""What a task owns: its support rows, what the pooled line leaves of their targets, and a line through that.

    The line is ridge regression, $(Z^\top Z + I)^{-1} Z^\top r$ on the features and a constant. Padding is 0.

    Arguments:
        rest: what the pooled line leaves of the targets, `(T, n, C)`.
        support: features `(T, n, F)` and weights.

    Returns:
        `support/rows` `(T, n, F)`, `support/rest` `(T, n, C)`, `support/weight` `(T, n, 1)` and `support/line`
        `(T, F + 1, C)`.
    """
    weight = row_weights(support, rest)
    rows, rest = counted_rows(support.x, weight), counted_rows(rest, weight)
    design = counted_rows(with_constant(rows), weight).double()
    if design.shape[1] < design.shape[2]:
        eye = torch.eye(design.shape[1], dtype=design.dtype, device=design.device)
        line = design.mT @ torch.linalg.solve(design @ design.mT + eye, rest.double())
    else:
        eye = torch.eye(design.shape[2], dtype=design.dtype, device=design.device)
        line = torch.linalg.solve(design.mT @ design + eye, design.mT @ rest.double())
    values = (rows, rest, weight.unsqueeze(-1), line.to(rest.dtype))
    return dict(zip(("support/rows", "support/rest", "support/weight", "support/line"), values, strict=True))


def summary_columns(own: Params, x: Tensor, base: Tensor) -> Tensor:
    """The numbers for query rows.

    The pooled prediction; how many support rows there are and how far the nearest is; and of what the pooled line
    leaves of their targets: mean, deviation, the mean of near rows, that of the nearest, and the task's own line.

    Arguments:
        own: what `support_values` returned.
        x: query features `(T, q, F)`.
        base: the pooled prediction for them, `(T, q, C)`.

    Returns:
        `(T, q, summary_size(C))`.

    Example:
        >>> own = no_support(1, 2, 1, torch.zeros(()))
        >>> summary_columns(own, torch.zeros(1, 3, 2), torch.ones(1, 3, 1))[0, 0].tolist()
        [1.0, 0.0, -1.0, 0.0, 0.0, 0.0, 0.0, 0.0]
    """
    rows, rest, weight = (own[f"support/{name}"] for name in ("rows", "rest", "weight"))
    every = base.shape
    count = weight.sum(1, keepdim=True)
    mean = rest.sum(1, keepdim=True) / count.clamp(min=1)
    spread = (weight * (rest - mean)).square().sum(1, keepdim=True) / count.clamp(min=1)
    distance = torch.cdist(x, rows, compute_mode="donot_use_mm_for_euclid_dist")
    square = distance.square() / x.shape[-1] + (1 - weight.mT) * 1e30
    near = (-square / _NEAR).exp() * weight.mT
    # no row at all is as far as can be
    least = torch.cat([square, torch.full_like(base[..., :1], 1e30)], -1).amin(-1, keepdim=True)
    nearest = (square <= least * (1 + 1e-6) + 1e-12).to(rest.dtype) * weight.mT
    far = torch.where(count > 0, least.sqrt(), torch.full_like(least, _NONE))
    return torch.cat(
        [
            base,
            count.expand(*every[:2], 1),
            far,
            mean.expand(every),
            (spread + 1e-20).sqrt().expand(every) * (count > 0),
            _weighted(near, rest),
            _weighted(nearest, rest),
            with_constant(x) @ own["support/line"],
        ],
        -1,
    )


def _weighted(weight: Tensor, values: Tensor) -> Tensor:
    """The mean `(T, q, C)` of values `(T, n, C)` with weights `(T, q, n)`; towards 0 where all are small."""
    return (weight @ values) / (weight.sum(-1, keepdim=True) + 1e-6)
