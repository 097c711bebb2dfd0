"""Low-rank additions to the layers of a network (LoRA), as what adapts in the inner loop."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from ..errors import UsageError

__all__ = ["lora", "with_adapters"]


def lora(rank: int) -> str:
    """Adapt low-rank additions to every linear and convolution layer, and nothing else: a value of `adapt`.

    Each layer's output gains $B A x$ with $A$ of `rank` rows and $B$ zero at first; the layer itself is
    meta-trained and shared. Hu et al., 2022, *LoRA: Low-Rank Adaptation of Large Language Models*.

    Arguments:
        rank: rank of the addition, at least 1.

    Returns:
        What to pass as `adapt`.

    Raises:
        UsageError: `rank` is not a positive whole number.

    Example:
        >>> lora(4)
        'lora(4)'
    """
    if rank < 1:
        raise UsageError(f"rank={rank!r}: give a positive whole number")
    return f"lora({rank})"


class _LowRank(nn.Module):
    """A linear or convolution layer and a low-rank addition to it."""

    def __init__(self, layer: nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d, rank: int) -> None:
        super().__init__()
        self.layer = layer
        if isinstance(layer, nn.Linear):
            self.lora_a: Any = nn.Linear(layer.in_features, rank, bias=False)
            self.lora_b: Any = nn.Linear(rank, layer.out_features, bias=False)
        else:
            if layer.groups != 1 or layer.padding_mode != "zeros":
                raise UsageError("lora: grouped convolutions and padding modes have no low-rank addition")
            kind: Any = type(layer)
            size = (layer.kernel_size, layer.stride, layer.padding, layer.dilation)
            self.lora_a = kind(layer.in_channels, rank, *size, bias=False)
            self.lora_b = kind(rank, layer.out_channels, 1, bias=False)
        nn.init.zeros_(self.lora_b.weight)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layer(x) + self.lora_b(self.lora_a(x))
        return out


def with_adapters(module: nn.Module, adapt: str) -> tuple[nn.Module, Callable[[str], bool]]:
    """A copy of the module with low-rank additions, and what adapts in it.

    Arguments:
        module: any module; it is not changed.
        adapt: what `lora` returned.

    Raises:
        UsageError: `adapt` cannot be read, or there is no linear or convolution layer.

    Example:
        >>> module, adapts = with_adapters(nn.Sequential(nn.Linear(2, 3)), lora(1))
        >>> [name for name, _ in module.named_parameters() if adapts(name)]
        ['0.lora_a.weight', '0.lora_b.weight']
    """
    try:
        rank = int(adapt.removeprefix("lora(").removesuffix(")"))
    except ValueError:
        raise UsageError(f"adapt={adapt!r}: write lora(4) for additions of rank 4") from None
    lora(rank)
    module = copy.deepcopy(module)
    kinds = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
    layers = [(name, layer) for name, layer in module.named_modules() if type(layer) in kinds]
    if not layers or not layers[0][0]:
        raise UsageError(f"adapt={adapt!r}: the model has no linear or convolution layer inside a module")
    for name, layer in layers:
        parent, _, leaf = name.rpartition(".")
        setattr(module.get_submodule(parent), leaf, _LowRank(layer, rank))
    return module, lambda name: ".lora_a." in name or ".lora_b." in name
