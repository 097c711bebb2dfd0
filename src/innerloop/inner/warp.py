"""Warp layers: meta-trained linear maps after the layers of a network, which shape the gradient of what adapts."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import UsageError

__all__ = ["with_warps"]

_KINDS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


class _Warped(nn.Module):
    """A linear or convolution layer and a linear map of its outputs, the identity at first."""

    def __init__(self, layer: nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d) -> None:
        super().__init__()
        self.layer = layer
        size, like = len(layer.weight), {"dtype": layer.weight.dtype, "device": layer.weight.device}
        if isinstance(layer, nn.Linear):
            self.warp: Any = nn.Linear(size, size, bias=False, **like)
        else:
            kind: Any = type(layer)
            self.warp = kind(size, size, 1, bias=False, **like)
        with torch.no_grad():
            self.warp.weight.copy_(torch.eye(size).reshape(self.warp.weight.shape))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.warp(self.layer(x))
        return out


def with_warps(module: nn.Module) -> tuple[nn.Module, Callable[[str], bool]]:
    """A copy of the module with a warp after every linear and convolution layer, and what adapts in it: all else.

    Arguments:
        module: any module; it is not changed.

    Raises:
        UsageError: there is no linear or convolution layer inside the module.

    Example:
        >>> module, adapts = with_warps(nn.Sequential(nn.Linear(2, 3)))
        >>> [name for name, _ in module.named_parameters() if not adapts(name)]
        ['0.warp.weight']
        >>> module[0].warp.weight.trace().item()
        3.0
    """
    module = copy.deepcopy(module)
    layers = [(name, layer) for name, layer in module.named_modules() if type(layer) in _KINDS]
    if not layers or not layers[0][0]:
        raise UsageError(
            "warps stand after linear and convolution layers, and the model has none: put it in nn.Sequential"
        )
    for name, layer in layers:
        parent, _, leaf = name.rpartition(".")
        setattr(module.get_submodule(parent), leaf, _Warped(layer))
    return module, lambda name: ".warp." not in name
