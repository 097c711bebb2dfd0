"""Gradients by automatic differentiation, as dicts of tensors by name."""

from __future__ import annotations

import torch
from torch import Tensor

from ..models.network import Params

__all__ = ["as_leaves", "gradient"]


def gradient(value: Tensor, params: Params, *, create_graph: bool = False) -> Params:
    """The derivative of a number in each tensor, zeros where it does not depend on one.

    Example:
        >>> w = torch.tensor(3.0, requires_grad=True)
        >>> gradient(w.square(), {"w": w})["w"]
        tensor(6.)
    """
    grads = torch.autograd.grad(
        value, list(params.values()), create_graph=create_graph, materialize_grads=True, allow_unused=True
    )
    return dict(zip(params, grads, strict=True))


def as_leaves(values: Params) -> Params:
    """What a gradient is taken at: part of the graph where gradients are on and it has one, else cut from it.

    Example:
        >>> as_leaves({"w": torch.zeros(1)})["w"].requires_grad
        True
    """
    connected = torch.is_grad_enabled()
    return {
        name: value if connected and value.requires_grad else value.detach().requires_grad_()
        for name, value in values.items()
    }
