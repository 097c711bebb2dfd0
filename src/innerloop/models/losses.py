"""Losses row by row, and their mean over the rows of each task."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import vmap

from ..errors import DataError, UsageError
from ..tasks.episodes import Batch

__all__ = ["LOSSES", "Loss", "mean_rows", "require_loss", "task_losses"]

Loss = str | Callable[[Any, Tensor], Tensor]


def _mse(prediction: Tensor, target: Tensor) -> Tensor:
    if prediction.shape != target.shape:
        raise DataError(
            f"mse: predictions have shape {tuple(prediction.shape)} but targets {tuple(target.shape)} "
            "(tasks, rows, ...): give targets the shape of the model's output, one column a target"
        )
    return (prediction - target).square().flatten(2).mean(-1)


def _cross_entropy(prediction: Tensor, target: Tensor) -> Tensor:
    if target.is_floating_point():
        raise DataError("cross_entropy: targets must be class numbers (int64), not floating-point ones")
    rows = F.cross_entropy(prediction.flatten(0, 1), target.flatten(), reduction="none")
    return rows.reshape(target.shape)


LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"mse": _mse, "cross_entropy": _cross_entropy}


def require_loss(loss: Loss) -> None:
    """Refuse an unknown name.

    Raises:
        UsageError: it is one.
    """
    if isinstance(loss, str) and loss not in LOSSES:
        raise UsageError(f"loss={loss!r} is unknown: choose one of {', '.join(LOSSES)} or pass a function")
    if not isinstance(loss, str) and not callable(loss):
        raise UsageError(f"loss={loss!r} is neither a name ({', '.join(LOSSES)}) nor a function")


def task_losses(loss: Loss, prediction: Any, batch: Batch) -> Tensor:
    """Mean loss of each task of a stack, rows of weight 0 left out.

    Arguments:
        loss: `mse` (targets `(T, n, outputs)`), `cross_entropy` (targets `(T, n)`, class numbers), or a
            function of one task's prediction and target that returns one value a row, or their mean.
        prediction: `(T, n, *out)`, or what the model returns.
        batch: stacked rows.

    Returns:
        `(T,)`; 0 for a task without rows.

    Raises:
        UsageError: the loss is unknown, or returns a mean although rows are padded.
        DataError: shapes of prediction and target do not fit.

    Example:
        >>> task_losses("mse", torch.zeros(2, 3, 1), Batch(torch.zeros(2, 3, 1), torch.ones(2, 3, 1)))
        tensor([1., 1.])
    """
    require_loss(loss)
    rows = LOSSES[loss](prediction, batch.y) if isinstance(loss, str) else vmap(loss)(prediction, batch.y)
    if rows.dim() == 1:
        if batch.weight is not None:
            raise UsageError(
                "the loss returns one mean a task, but these tasks have different sizes and are padded: "
                "let it return one value a row (reduction='none')"
            )
        return rows
    rows = rows.flatten(2).mean(-1) if rows.dim() > 2 else rows
    return mean_rows(rows, batch.weight)


def mean_rows(rows: Tensor, weight: Tensor | None) -> Tensor:
    """Mean over the rows of each task, `(T, n)` -> `(T,)`; 0 where there are none."""
    if weight is None:
        return rows.sum(-1) / max(rows.shape[-1], 1)
    # where, not a product: a padded row may hold inf or NaN, and 0 * inf is NaN
    counted = torch.where(weight > 0, rows * weight, torch.zeros_like(rows))
    return counted.sum(-1) / weight.sum(-1).clamp(min=1)
