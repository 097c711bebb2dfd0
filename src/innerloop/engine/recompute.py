"""Gradients through a function of which only the arguments are kept: it is computed again where they are asked for.

What a step of the inner loop needs for its derivative (activations, and the graph of its gradient) is many times the
size of what goes in and comes out (fast weights). Kept for one step at a time, it no longer grows with the steps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from .modes import tracing

Runner = Callable[..., Any]


def directly(function: Callable[..., Any], *arguments: Any) -> Any:
    """The function's result, everything that its derivative needs kept.

    Example:
        >>> directly(max, 1, 2)
        2
    """
    return function(*arguments)


def recomputed(function: Callable[..., Any], *arguments: Any) -> Any:
    """The function's result; its derivative computes it again, from arguments that are kept.

    The function must be pure. It may take gradients inside, of any order; the result can be differentiated once.

    Arguments:
        function: of nests (dicts, lists, tuples) of tensors, to such a nest. A tensor that it uses without its being
            an argument gets no gradient.
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
    given = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
    found = iter(_Recomputed.apply(call, *given))  # type: ignore[no-untyped-call]
    filled = [next(found) if constant is _TENSOR else constant for constant in call.results]
    return pytree.tree_unflatten(filled, call.nest)


_TENSOR = object()


class _Call:
    """A function from flat tensors to flat tensors; the constants around them are remembered."""

    def __init__(self, function: Callable[..., Any], leaves: Sequence[Any], structure: Any) -> None:
        self.function, self.structure = function, structure
        self.constants = [_TENSOR if isinstance(leaf, Tensor) else leaf for leaf in leaves]
        self.results: list[Any] = []
        self.nest: Any = None

    def __call__(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        left = iter(tensors)
        leaves = [next(left) if constant is _TENSOR else constant for constant in self.constants]
        found, self.nest = pytree.tree_flatten(self.function(*pytree.tree_unflatten(leaves, self.structure)))
        self.results = [_TENSOR if isinstance(leaf, Tensor) else leaf for leaf in found]
        return [leaf for leaf in found if isinstance(leaf, Tensor)]


class _Recomputed(torch.autograd.Function):
    """Keep the arguments; compute the function again for its vector-Jacobian product."""

    @staticmethod
    def forward(ctx: Any, call: _Call, *tensors: Tensor) -> tuple[Tensor, ...]:
        found = call(tensors)
        # asked here: gradients may be computed in another thread
        ctx.call, ctx.copies = call, tracing()
        ctx.save_for_backward(*tensors)
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(*(t for t in found if not t.is_floating_point()))
        return tuple(found)

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor | None) -> tuple[Tensor | None, ...]:
        # in a graph of operators equal ones are merged: those of a copy stay apart from those of the first time
        fresh = (t.detach().clone() if ctx.copies else t.detach() for t in ctx.saved_tensors)
        given = [t.requires_grad_(needed) for t, needed in zip(fresh, ctx.needs_input_grad[1:], strict=True)]
        with torch.enable_grad():
            found = ctx.call(given)
        pairs = [(f, s) for f, s in zip(found, slopes, strict=True) if s is not None and f.requires_grad]
        wanted = [tensor for tensor in given if tensor.requires_grad]
        if not pairs or not wanted:
            return (None,) * (len(given) + 1)
        outputs, along = zip(*pairs, strict=True)
        grads = iter(torch.autograd.grad(outputs, wanted, along, allow_unused=True))
        every = [next(grads) if tensor.requires_grad else None for tensor in given]
        if torch.is_grad_enabled():  # they are going to be differentiated, and have lost what they depend on
            every = [grad if grad is None else _Once.apply(grad, *ctx.saved_tensors) for grad in every]  # type: ignore[no-untyped-call]
        return None, *every


class _Once(torch.autograd.Function):
    """A gradient that refuses to be differentiated by what it was computed from."""

    @staticmethod
    def forward(ctx: Any, grad: Tensor, *origins: Tensor) -> Tensor:
        return grad.view_as(grad)

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> Any:
        raise RuntimeError(
            "what is computed again (checkpointed) has a first derivative only: use metagrad='unrolled' where "
            "meta-gradients are differentiated"
        )
