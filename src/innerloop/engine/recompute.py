"""Activation checkpointing (rematerialisation): keep arguments only, and compute again in the backward pass.

What a step of the inner loop needs for its derivative (activations, and the graph of its gradient) is many times the
size of what goes in and comes out (fast weights). Kept for one step at a time, it no longer grows with the steps.

`torch.utils.checkpoint` saves tensors through hooks, which neither a function that takes gradients inside nor a traced
graph has; here a function is one autograd operator, whose backward rule runs the function again under autograd.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx
from torch.utils import _pytree as pytree

from .modes import tracing

__all__ = ["recomputed"]


def recomputed(function: Callable[..., Any], *arguments: object) -> Any:
    """The function's result; its derivative computes it again, from arguments that are kept.

    The function must be pure. It may take gradients inside, of any order; the result can be differentiated once.

    Arguments:
        function: of pytrees (dicts, lists, tuples) of tensors, to such a pytree. A tensor that it uses without its
            being an argument gets no gradient.
        arguments: its arguments; what is no tensor is a constant.

    Returns:
        What the function returns.

    Example:
        >>> x = torch.ones(3, requires_grad=True)
        >>> y = recomputed(lambda values: values["x"].exp().log() * 2, {"x": x})
        >>> torch.autograd.grad(y.sum(), x)[0].tolist()
        [2.0, 2.0, 2.0]
    """
    if not torch.is_grad_enabled():
        return function(*arguments)
    leaves, structure = pytree.tree_flatten(arguments)
    call = _Call(function, leaves, structure)
    tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
    results = iter(_Recomputed.apply(call, *tensors))  # type: ignore[no-untyped-call]
    return pytree.tree_unflatten(_filled(call.result_leaves, results), call.result_structure)


# stands where a tensor belongs, among the leaves of a pytree
_TENSOR = object()


def _filled(leaves: Sequence[object], tensors: Iterator[Tensor]) -> list[object]:
    """The leaves with a tensor wherever one belongs."""
    return [next(tensors) if leaf is _TENSOR else leaf for leaf in leaves]


def _holes(leaves: Sequence[object]) -> list[object]:
    """The leaves without their tensors."""
    return [_TENSOR if isinstance(leaf, Tensor) else leaf for leaf in leaves]


class _Call:
    """A function from flat tensors to flat tensors; the constants around them are remembered."""

    def __init__(
        self, function: Callable[..., object], leaves: Sequence[object], structure: pytree.TreeSpec
    ) -> None:
        self.function, self.structure = function, structure
        self.leaves = _holes(leaves)
        self.result_leaves: list[object] = []
        self.result_structure: pytree.TreeSpec = structure  # until it has run

    def __call__(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        leaves = _filled(self.leaves, iter(tensors))
        results, self.result_structure = pytree.tree_flatten(
            self.function(*pytree.tree_unflatten(leaves, self.structure))
        )
        self.result_leaves = _holes(results)
        return [leaf for leaf in results if isinstance(leaf, Tensor)]


class _Context(FunctionCtx):
    """The context of `_Recomputed`: the call, and whether the backward pass works on copies."""

    call: _Call
    copies: bool
    needs_input_grad: tuple[bool, ...]
    saved_tensors: tuple[Tensor, ...]


class _Recomputed(torch.autograd.Function):
    """Keep the arguments; compute the function again for its vector-Jacobian product."""

    @staticmethod
    def forward(ctx: _Context, call: _Call, *tensors: Tensor) -> tuple[Tensor, ...]:
        results = call(tensors)
        # asked here: gradients may be computed in another thread
        ctx.call, ctx.copies = call, tracing()
        ctx.save_for_backward(*tensors)
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(*(t for t in results if not t.is_floating_point()))
        return tuple(results)

    @staticmethod
    def backward(ctx: _Context, *slopes: Tensor | None) -> tuple[Tensor | None, ...]:
        # CSE merges equal operators of a graph: those of a copy stay apart from those of the forward pass, and so the
        # graph keeps no activations for the backward pass
        fresh = (t.detach().clone() if ctx.copies else t.detach() for t in ctx.saved_tensors)
        inputs = [t.requires_grad_(needed) for t, needed in zip(fresh, ctx.needs_input_grad[1:], strict=True)]
        with torch.enable_grad():
            results = ctx.call(inputs)
        pairs = [(r, s) for r, s in zip(results, slopes, strict=True) if s is not None and r.requires_grad]
        wanted = [tensor for tensor in inputs if tensor.requires_grad]
        if not pairs or not wanted:
            return (None,) * (len(inputs) + 1)
        outputs, along = zip(*pairs, strict=True)
        grads = iter(torch.autograd.grad(outputs, wanted, along, allow_unused=True))
        every = [next(grads) if tensor.requires_grad else None for tensor in inputs]
        if torch.is_grad_enabled():  # they are going to be differentiated, and have lost what they depend on
            every = [grad if grad is None else _Once.apply(grad, *ctx.saved_tensors) for grad in every]  # type: ignore[no-untyped-call]
        return None, *every


class _Once(torch.autograd.Function):
    """A gradient that refuses to be differentiated by what it was computed from."""

    @staticmethod
    def forward(ctx: FunctionCtx, grad: Tensor, *origins: Tensor) -> Tensor:
        return grad.view_as(grad)

    @staticmethod
    def backward(ctx: FunctionCtx, *slopes: Tensor) -> tuple[Tensor, ...]:
        raise RuntimeError(
            "what is computed again (checkpointed) has a first derivative only: use metagrad='unrolled' where "
            "meta-gradients are differentiated"
        )
