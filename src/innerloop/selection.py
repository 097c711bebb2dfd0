"""What adapts in the inner loop, as a value: parts of a network by name, or low-rank additions to it."""

from __future__ import annotations

import copy
import fnmatch
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from .errors import UsageError
from .functional import Network


def select_names(network: Network, adapt: str | Callable[[str], bool]) -> tuple[str, ...]:
    """The trainable parameters that adapt in the inner loop.

    Arguments:
        network: the network.
        adapt: `all`; `head` (the last layer that has parameters) or `body` (all but that one); a name pattern
            such as `layer4.*`, several separated by commas; or a predicate on the name.

    Returns:
        Names in the network's order.

    Raises:
        UsageError: nothing matches.

    Example:
        >>> net = Network(nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1)))
        >>> select_names(net, "head")
        ('2.weight', '2.bias')
    """
    names = tuple(network.params())
    if callable(adapt):
        chosen = tuple(name for name in names if adapt(name))
    elif adapt == "all":
        chosen = names
    elif adapt in ("head", "body"):
        head = names[-1].rpartition(".")[0] if names else ""
        if not head:
            raise UsageError(
                f"adapt={adapt!r} needs layers, and the model's last parameter {names[-1:]} stands in none: "
                "give a name pattern, such as adapt='w2,b2'"
            )
        chosen = tuple(n for n in names if (n.rpartition(".")[0] == head) == (adapt == "head"))
    else:
        patterns = [pattern.strip() for pattern in adapt.split(",")]
        chosen = tuple(n for n in names if any(fnmatch.fnmatchcase(n, pattern) for pattern in patterns))
    if not chosen:
        raise UsageError(
            f"adapt={adapt!r} matches no trainable parameter; there are {', '.join(names) or 'none'}"
        )
    return chosen


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
