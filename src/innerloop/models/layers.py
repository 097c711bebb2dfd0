"""Layers that cannot be pure functions of their input, in a form that can.

BatchNorm's statistics become explicit values, dropout's masks come from a counter, so that a stack of tasks and a
loop over them draw the same ones, and the weight norm is the plain formula: the fused one has a wrong second
derivative (torch 2.13).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.parametrizations import _WeightNorm

from ..errors import UsageError

__all__ = ["Context", "fold", "refuse_hooks", "replace_layers", "statistics_names"]


class Context:
    """What the replaced layers read during one forward pass of one task."""

    def __init__(self) -> None:
        self.weight: Tensor | None = None
        self.key: Tensor | None = None
        self.given = False
        self.observes = False
        self.statistics: dict[str, Tensor] = {}


class _Normalize(nn.Module):
    """BatchNorm whose statistics are values: computed from the rows at hand, or given."""

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, layer: _BatchNorm, name: str, context: Context) -> None:
        super().__init__()
        self.weight, self.bias, self.eps = layer.weight, layer.bias, layer.eps
        self.register_buffer("running_mean", torch.zeros(layer.num_features))
        self.register_buffer("running_var", torch.ones(layer.num_features))
        self.name, self.context = name, context

    def forward(self, x: Tensor) -> Tensor:
        shape = (1, -1, *(1 for _ in x.shape[2:]))
        if self.weight is not None:  # products may be in fewer bits; sums over a batch want all of them
            x = x.to(torch.promote_types(x.dtype, self.weight.dtype))
        mean, var = self.running_mean, self.running_var
        if not self.context.given or self.context.observes:
            seen = _moments(x, self.context.weight)
            self.context.statistics |= dict(zip(statistics_names(self.name), seen, strict=True))
            mean, var = (mean, var) if self.context.given else seen
        x = (x - mean.reshape(shape)) * torch.rsqrt(var + self.eps).reshape(shape)
        if self.weight is None:
            return x
        return x * self.weight.reshape(shape) + self.bias.reshape(shape)


def statistics_names(layer: str) -> tuple[str, str]:
    """Names of the mean and the variance of a BatchNorm layer."""
    return f"{layer}.running_mean", f"{layer}.running_var"


def _moments(x: Tensor, weight: Tensor | None) -> tuple[Tensor, Tensor]:
    """Mean and biased variance of each channel, rows of weight 0 left out."""
    dims = (0, *range(2, x.dim()))
    if weight is None:
        mean = x.mean(dims, keepdim=True)
        return mean.flatten(), (x - mean).square().mean(dims)
    share = (weight / weight.sum().clamp(min=1)).reshape(-1, *(1 for _ in x.shape[1:]))
    share = share / max(x[0, 0].numel(), 1)
    mean = (x * share).sum(dims, keepdim=True)
    return mean.flatten(), ((x - mean).square() * share).sum(dims)


class _PlainWeightNorm(nn.Module):
    """Weight normalisation by its formula: the second derivative of torch's own kernel is wrong (2.13)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, weight_g: Tensor, weight_v: Tensor) -> Tensor:
        dims = tuple(d for d in range(weight_v.dim()) if d != self.dim % weight_v.dim() or self.dim == -1)
        length: Tensor = torch.linalg.vector_norm(weight_v, dim=dims, keepdim=True)
        return weight_v * (weight_g / length)


class _Dropout(nn.Module):
    """Dropout whose mask is a function of (task key, layer, position); without a key it does nothing."""

    def __init__(self, p: float, layer: int, context: Context, *, whole_channels: bool) -> None:
        super().__init__()
        self.p, self.layer, self.context, self.whole_channels = p, layer, context, whole_channels

    def forward(self, x: Tensor) -> Tensor:
        key = self.context.key
        if key is None or self.p == 0:
            return x
        shape = (*x.shape[:2], *(1 for _ in x.shape[2:])) if self.whole_channels else x.shape
        count = 1
        for size in shape:
            count *= size
        position = torch.arange(count, device=x.device)
        uniform = uniform_from(fold(key, self.layer), position).reshape(shape)
        return torch.where(uniform >= self.p, x / (1 - self.p), torch.zeros_like(x))


def fold(key: Tensor, number: int) -> Tensor:
    """A new stream key from a key (any shape, int64) and a number: equal inputs, equal stream."""
    offset = ((2 * number + 1) * 1442695040888963407 + 2**63) % 2**64 - 2**63
    return _mix(key * 6364136223846793005 + offset)


def uniform_from(key: Tensor, position: Tensor) -> Tensor:
    """Uniform numbers in [0, 1) for integer positions of a stream, by counter instead of by state."""
    bits = _mix(key + position * 7046029254386353131)
    return ((bits >> 39) & 0xFFFFFF).to(torch.float32) / 0x1000000


def _mix(z: Tensor) -> Tensor:
    """The finaliser of splitmix64 on int64: multiplication wraps, shifts are made logical by a mask."""
    z = (z ^ ((z >> 30) & 0x3FFFFFFFF)) * -4658895280553007687
    z = (z ^ ((z >> 27) & 0x1FFFFFFFFF)) * -7723592293110705685
    return z ^ ((z >> 31) & 0x1FFFFFFFF)


def refuse_hooks(module: nn.Module) -> None:
    """Refuse what computes weights in a hook, where nothing sees it."""
    for name, child in module.named_modules():
        if any(type(hook).__name__ == "WeightNorm" for hook in child._forward_pre_hooks.values()):
            raise UsageError(
                f"{name!r} uses the old nn.utils.weight_norm, which keeps its weight in a hook: "
                "use nn.utils.parametrizations.weight_norm"
            )


def replace_layers(module: nn.Module, context: Context) -> list[str]:
    """Swap BatchNorm and dropout for their functional forms; return the names of the BatchNorm layers."""
    normalizers: list[str] = []
    for layer, (name, child) in enumerate(list(module.named_modules())):
        replacement: nn.Module | None = None
        if isinstance(child, _BatchNorm):
            if isinstance(child, nn.SyncBatchNorm):
                raise UsageError(
                    f"{name!r} is a SyncBatchNorm, which mixes tasks: use BatchNorm or GroupNorm"
                )
            replacement = _Normalize(child, name, context)
            normalizers.append(name)
        elif isinstance(child, nn.modules.dropout._DropoutNd):
            if isinstance(child, (nn.AlphaDropout, nn.FeatureAlphaDropout)):
                raise UsageError(
                    f"{name!r} is {type(child).__name__}, which is not supported: use nn.Dropout"
                )
            channels = isinstance(child, (nn.Dropout1d, nn.Dropout2d, nn.Dropout3d))
            replacement = _Dropout(child.p, layer, context, whole_channels=channels)
        elif isinstance(child, _WeightNorm):
            replacement = _PlainWeightNorm(child.dim)
        elif getattr(child, "dropout", 0) and isinstance(child, (nn.RNNBase, nn.MultiheadAttention)):
            raise UsageError(
                f"{name!r} has dropout={child.dropout} inside a fused layer, where tasks cannot have streams "
                "of their own: set it to 0 and put nn.Dropout around the layer"
            )
        if replacement is not None:
            if not name:
                raise UsageError(f"a bare {type(child).__name__} is not a model: put it in nn.Sequential")
            parent, _, leaf = name.rpartition(".")
            setattr(module.get_submodule(parent), leaf, replacement)
    return normalizers
