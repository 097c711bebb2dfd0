"""Losses row by row, their mean over the rows of each task, and the check that predictions fit their targets."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import vmap

from ..errors import DataError, UsageError
from ..tasks.episodes import Batch, tensors

__all__ = [
    "KNOWN",
    "LOSSES",
    "Loss",
    "known_targets",
    "mean_known",
    "mean_rows",
    "require_fit",
    "require_loss",
    "task_losses",
]

Loss = str | Callable[[Any, Tensor], Tensor]


def _mse(prediction: Tensor, target: Tensor) -> Tensor:
    require_fit(prediction, target, "mse")
    return (prediction - target).square().flatten(2).mean(-1)


def _known_mse(prediction: Tensor, target: Tensor) -> Tensor:
    """Squared errors `(T, n, C)`, 0 where the target is NaN: not known."""
    require_fit(prediction, target, KNOWN)
    target, known = known_targets(target)
    return torch.where(known, prediction - target, 0).square()


def _cross_entropy(prediction: Tensor, target: Any) -> Tensor:
    if isinstance(target, Tensor) and target.is_floating_point():
        raise DataError("cross_entropy: targets must be class numbers (int64), not floating-point ones")
    require_fit(prediction, target, "cross_entropy")
    try:
        # it looks for numbers out of range itself: without a look at the values this can be traced
        rows = F.cross_entropy(prediction.flatten(0, 1), target.flatten(0, 1), reduction="none")
    except (RuntimeError, IndexError) as error:
        if "out of bounds" not in str(error):
            raise
        raise DataError(
            f"cross_entropy: the model has {prediction.shape[2]} outputs, and the targets are class numbers up to "
            f"{int(target.max())}: give it one output a class ({int(target.max()) + 1} or more; tasks.n_outputs)"
        ) from None
    rows = rows.reshape(target.shape)
    # -1 for the places of a mask has no meaning where a task has no row
    return rows if target.dim() == 2 else rows.flatten(2).mean(-1)


# the loss of rows that know some of several targets
KNOWN = "known_mse"
LOSSES: dict[str, Callable[[Tensor, Any], Tensor]] = {
    "mse": _mse,
    "cross_entropy": _cross_entropy,
    KNOWN: _known_mse,
}


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
        loss: `mse` (targets `(T, n, outputs)`), `known_mse` (the same, NaN where a row does not know a target; every
            value that is known counts equally), `cross_entropy` (class numbers `(T, n)`, or masks `(T, n, H, W)` beside
            logits `(T, n, C, H, W)`), or a function of one task's prediction and target that returns one value a row,
            or their mean; it alone takes targets that are dicts or tuples of tensors.
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
    rows = LOSSES[loss](prediction, batch.y) if isinstance(loss, str) else _own_loss(loss, prediction, batch)
    if loss == KNOWN:
        return mean_known(rows, known_targets(batch.y)[1], batch.weight)
    if rows.dim() == 1:
        if batch.weight is not None:
            raise UsageError(
                "the loss returns one mean a task, but these tasks have different sizes and are padded: "
                "let it return one value a row (reduction='none')"
            )
        return rows
    rows = rows.flatten(2).mean(-1) if rows.dim() > 2 else rows
    return mean_rows(rows, batch.weight)


def _own_loss(loss: Callable[[Any, Tensor], Tensor], prediction: Any, batch: Batch) -> Tensor:
    """What a function returns for each task; refused where it would compare every row with every other."""
    target, count = batch.y, batch.target.shape[1]
    # (n,) beside (n, 1) makes (n, n): the loss may take the mean of that itself, and nobody would notice
    if (
        isinstance(prediction, Tensor)
        and isinstance(target, Tensor)
        and target.is_floating_point()
        and prediction.shape != target.shape
        and prediction.numel() == target.numel()
    ):
        raise DataError(_misfit("the loss", prediction, target))
    rows = vmap(loss)(prediction, target)
    known = {1, *(t.shape[2] for t in tensors((prediction, target)) if t.dim() > 2)}
    crossed = rows.shape[1:] == (count, count) and count not in known
    if crossed or (batch.weight is not None and rows.dim() > 1 and rows.shape[1] != count):
        raise DataError(
            f"the loss returns values of shape {tuple(rows.shape[1:])} for a task of {count} rows, where predictions "
            f"have {_shape_of(prediction)} and targets {_shape_of(target)} (tasks, rows, ...): let it return one "
            "value a row, or their mean"
        )
    return rows


def require_fit(prediction: object, target: object, what: str = "the scores") -> None:
    """Refuse predictions that do not stand beside their targets, of which broadcasting would make something else.

    Arguments:
        prediction: `(T, n, C)` values beside targets of the same shape, or logits beside `(T, n)` class numbers; logits
            `(T, n, C, *places)` beside masks `(T, n, *places)`.
        target: floating values, or class numbers.
        what: for the message, what needs them.

    Raises:
        DataError: it is no tensor, or the shapes do not fit.

    Example:
        >>> require_fit(torch.zeros(2, 3, 1), torch.zeros(2, 3, 1))
        >>> require_fit(torch.zeros(2, 3, 5), torch.zeros(2, 3, dtype=torch.int64))
    """
    if not isinstance(target, Tensor):
        raise DataError(
            f"{what} need targets that are one tensor, not {_shape_of(target)}: give a loss of your own, which "
            "takes them"
        )
    if not isinstance(prediction, Tensor):
        raise DataError(
            f"{what} need one tensor of predictions, and the model returns {_shape_of(prediction)}: give a model "
            "whose output is the prediction alone, or score it with a loss of your own"
        )
    if target.is_floating_point():
        if prediction.shape != target.shape:
            raise DataError(_misfit(what, prediction, target))
    elif (
        prediction.dim() != target.dim() + 1
        or prediction.shape[:2] != target.shape[:2]
        or prediction.shape[3:] != target.shape[2:]
    ):
        raise DataError(
            f"{what}: logits have shape {tuple(prediction.shape)} but class numbers {tuple(target.shape)} "
            "(tasks, rows, ...): give the model one output a class, and each row one class number"
        )


def _misfit(what: str, prediction: Tensor, target: Tensor) -> str:
    return (
        f"{what}: predictions have shape {tuple(prediction.shape)} but targets {tuple(target.shape)} "
        "(tasks, rows, ...): give targets the shape of the model's output, one column a target"
    )


def _shape_of(prediction: object) -> str:
    """What a model returned, in words."""
    if isinstance(prediction, Tensor):
        return str(tuple(prediction.shape))
    if isinstance(prediction, dict):
        return f"a dict of {', '.join(map(repr, prediction))}"
    return f"a {type(prediction).__name__}"


def known_targets(target: Tensor) -> tuple[Tensor, Tensor]:
    """The targets with 0 in place of NaN, and which of them are known.

    Example:
        >>> known_targets(torch.tensor([2.0, torch.nan]))
        (tensor([2., 0.]), tensor([ True, False]))
    """
    known = ~target.isnan()
    return torch.where(known, target, torch.zeros_like(target)), known


def mean_known(values: Tensor, known: Tensor, weight: Tensor | None) -> Tensor:
    r"""Mean over the known values of each task, `(T, n, ...)` -> `(T,)`; 0 where there are none.

    $\sum_{n,c} w_n k_{nc} v_{nc} / \sum_{n,c} w_n k_{nc}$: every value that is known counts equally.

    Arguments:
        values: one for each row and target.
        known: which of them count, bool, of the same shape.
        weight: of rows, `(T, n)`; 1 unless given.

    Example:
        >>> values, known = (
        ...     torch.tensor([[[1.0, 9.0], [3.0, 5.0]]]),
        ...     torch.tensor([[[True, False], [True, True]]]),
        ... )
        >>> mean_known(values, known, None).item()
        3.0
    """
    count = known.to(values.dtype)
    if weight is not None:
        count = count * weight.reshape(*weight.shape, *(1 for _ in values.shape[2:]))
    # where, not a product: what is not known may be NaN, and 0 * NaN is NaN
    counted = torch.where(count > 0, values * count, torch.zeros_like(values))
    return counted.flatten(1).sum(-1) / count.flatten(1).sum(-1).clamp(min=1)


def mean_rows(rows: Tensor, weight: Tensor | None) -> Tensor:
    """Mean over the rows of each task, `(T, n)` -> `(T,)`; 0 where there are none."""
    if weight is None:
        return rows.sum(-1) / max(rows.shape[-1], 1)
    # where, not a product: a padded row may hold inf or NaN, and 0 * inf is NaN
    counted = torch.where(weight > 0, rows * weight, torch.zeros_like(rows))
    return counted.sum(-1) / weight.sum(-1).clamp(min=1)
