"""Inner losses: what the inner loop descends, where that is another function than the loss of the outer loop.

A learned loss, an auxiliary one without labels, a regulariser, weights of rows: all are one function of a task's
prediction, its support set and its parameters, with meta-parameters of its own where it learns.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.func import functional_call, vmap

from ..errors import UsageError
from ..models.losses import LOSSES, Loss, mean_rows, task_losses
from ..models.network import Params
from ..tasks.episodes import Batch

__all__ = ["InnerLoss", "InnerLossLike", "inner_loss", "learned_loss", "on_support"]

_PREFIX = "inner/loss/"


class InnerLoss(NamedTuple):
    """What the inner loop descends.

    Arguments:
        losses: (prediction, support, meta, fast) of `T` stacked tasks -> the loss of each, `(T,)`; `fast` are the
            weights that adapt as they are now, with a leading task axis.
        meta: meta-parameters that it learns, by names that begin with `inner/loss/`.
    """

    losses: Callable[[Any, Batch, Params, Params], Tensor]
    meta: Params


InnerLossLike = InnerLoss | Loss | nn.Module


def inner_loss(given: InnerLossLike) -> InnerLoss:
    """An inner loss out of what an algorithm takes as `inner_loss=`.

    Arguments:
        given: an `InnerLoss`, `mse` or `cross_entropy`, a function of one task's prediction and target that returns one
            value a row or their mean, or a module of the same, whose parameters are learned (see `learned_loss`).

    Raises:
        UsageError: it is none of these.

    Example:
        >>> import torch
        >>> absolute = inner_loss(lambda prediction, target: (prediction - target).abs())
        >>> absolute.losses(torch.zeros(1, 2, 1), Batch(torch.zeros(1, 2, 1), torch.ones(1, 2, 1)), {}, {})
        tensor([1.])
    """
    if isinstance(given, InnerLoss):
        return given
    if isinstance(given, nn.Module):
        return learned_loss(given)
    if isinstance(given, str) and given not in LOSSES:
        raise UsageError(
            f"inner_loss={given!r} is unknown: choose one of {', '.join(LOSSES)}, or pass a function"
        )
    if not isinstance(given, str) and not callable(given):
        raise UsageError(
            f"inner_loss={given!r} is no loss: give a name, a function, a module or an InnerLoss"
        )
    return InnerLoss(lambda prediction, support, meta, fast: task_losses(given, prediction, support), {})


def learned_loss(module: nn.Module) -> InnerLoss:
    """An inner loss that is learned: a module of one task's prediction and target.

    Its parameters are meta-parameters: the outer loop shapes the loss so that descending it lowers the query loss.
    Bechtle, Molchanov, Chebotar, Grefenstette, Righetti, Sukhatme & Meier, 2021, *Meta-Learning via Learned Loss*.

    Arguments:
        module: called with a prediction `(n, *out)` and a target `(n, *target)`; it returns one value a row, or one.

    Raises:
        UsageError: it has no parameters.

    Example:
        >>> import torch, innerloop as il
        >>> class Weighted(nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.log_weight = nn.Parameter(torch.zeros(1))
        ...
        ...     def forward(self, prediction, target):
        ...         return self.log_weight.exp() * (prediction - target).square().mean(-1)
        >>> learner = il.maml(il.models.mlp(1, [4], 1), loss="mse", inner_loss=Weighted())
        >>> [name for name in learner.init() if name.startswith("inner/loss")]
        ['inner/loss/log_weight']
    """
    module = copy.deepcopy(module)
    if not any(True for _ in module.parameters()):
        raise UsageError("a learned inner loss is a module with parameters: give a plain function otherwise")

    def losses(prediction: Any, support: Batch, meta: Params, fast: Params) -> Tensor:
        own = {name.removeprefix(_PREFIX): value for name, value in meta.items() if name.startswith(_PREFIX)}

        def loss(prediction: Any, target: Tensor) -> Tensor:
            value: Tensor = functional_call(module, own, (prediction, target))
            return value

        return task_losses(loss, prediction, support)

    meta = {f"{_PREFIX}{name}": value.detach().clone() for name, value in module.named_parameters()}
    return InnerLoss(losses, meta)


def on_support(function: Callable[[Any, Batch, Params], Tensor], *, meta: Params | None = None) -> InnerLoss:
    """An inner loss of a task's prediction, its whole support set and its parameters.

    Arguments:
        function: called with one task: prediction `(n, *out)`, support rows `x` and `y`, and all parameters by name
            (of the module, those that adapt as they are now; what inner rules and this loss learn by `inner/...`). It
            returns one value a row, or one for the task.
        meta: meta-parameters of its own, by name; the function finds them under `inner/loss/` and this name.

    Example:
        >>> import torch, innerloop as il
        >>> def near(prediction, support, params):
        ...     return (prediction - support.y).square().mean(-1) + 0.1 * params["0.weight"].square().sum()
        >>> learner = il.maml(
        ...     torch.nn.Sequential(torch.nn.Linear(1, 1)), loss="mse", inner_loss=on_support(near)
        ... )
        >>> support = Batch(torch.zeros(1, 3, 1), torch.zeros(1, 3, 1))
        >>> learner.adapt(learner.init(), support)["0.weight"].shape
        torch.Size([1, 1, 1])
    """

    def losses(prediction: Any, support: Batch, meta: Params, fast: Params) -> Tensor:
        def one(prediction: Any, x: Any, y: Any, fast: Params) -> Tensor:
            return function(prediction, Batch(x, y), {**meta, **fast})

        rows = vmap(one)(prediction, support.x, support.y, fast)
        if rows.dim() == 1:
            if support.weight is not None:
                raise UsageError(
                    "the inner loss returns one value a task, but these tasks have different sizes and are padded: "
                    "let it return one value a row"
                )
            return rows
        return mean_rows(rows.flatten(2).mean(-1) if rows.dim() > 2 else rows, support.weight)

    return InnerLoss(
        losses, {f"{_PREFIX}{name}": value.detach().clone() for name, value in (meta or {}).items()}
    )
