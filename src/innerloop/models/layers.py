"""Layers that cannot be pure functions of their input, in a form that can.

BatchNorm's statistics become explicit values, dropout's masks come from a counter, so that a stack of tasks and a
loop over them draw the same ones, and the weight norm is the plain formula: the fused one has a wrong second
derivative (torch 2.13).
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils import parametrizations
from torch.nn.utils.parametrizations import _WeightNorm

from ..errors import UsageError
from .randomness import dropped, fold

# iterations of the power method at each call; the ratio of the two largest singular values decides how many are needed
_POWER = 20

__all__ = [
    "Context",
    "draws",
    "refuse_hooks",
    "refuse_lazy",
    "replace_layers",
    "statistics_names",
    "trained_statistics",
]


class Context:
    """What the replaced layers read during one forward pass of one task."""

    # all else is set at the start of every pass: see `engine.guards`
    watched = ("observes", "frozen")

    def __init__(self) -> None:
        self.weight: Tensor | None = None
        self.key: Tensor | None = None
        self.given = False
        self.observes = False
        self.frozen = False
        self.statistics: dict[str, Tensor] = {}
        # the layer that is watched in this pass, what it is called with, and what it gets in its place: see `entry`
        self.entry = ""
        self.reached: list[Tensor | None] = []
        self.inside: Tensor | None = None


class _Normalize(nn.Module):
    """BatchNorm whose statistics are values: computed from the rows at hand, given, or those of the trained layer."""

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, layer: _BatchNorm, name: str, context: Context) -> None:
        super().__init__()
        self.weight, self.bias, self.eps = layer.weight, layer.bias, layer.eps
        mean, var = torch.zeros(layer.num_features), torch.ones(layer.num_features)
        if context.frozen:
            if layer.running_mean is None or layer.running_var is None:
                raise UsageError(
                    f"batchnorm='frozen', but {name!r} keeps no running statistics (track_running_stats=False): "
                    "choose 'support', 'transductive' or 'per_step'"
                )
            mean, var = layer.running_mean.detach().clone(), layer.running_var.detach().clone()
        self.register_buffer("running_mean", mean)
        self.register_buffer("running_var", var)
        self.name, self.context = name, context

    def forward(self, x: Tensor) -> Tensor:
        shape = (1, -1, *(1 for _ in x.shape[2:]))
        if self.weight is not None:  # products may be in fewer bits; sums over a batch want all of them
            x = x.to(torch.promote_types(x.dtype, self.weight.dtype))
        mean, var = self.running_mean, self.running_var
        if not self.context.frozen and (not self.context.given or self.context.observes):
            seen = _moments(x, self.context.weight)
            self.context.statistics |= dict(zip(statistics_names(self.name), seen, strict=True))
            mean, var = (mean, var) if self.context.given else seen
        x = (x - mean.reshape(shape)) * torch.rsqrt(var + self.eps).reshape(shape)
        if self.weight is None:
            return x
        return x * self.weight.reshape(shape) + self.bias.reshape(shape)


def trained_statistics(module: nn.Module) -> bool:
    """Whether some BatchNorm layer holds running statistics of a training: they are no longer 0 and 1."""
    layers = (layer for layer in module.modules() if isinstance(layer, _BatchNorm))
    return any(
        layer.running_mean is not None
        and layer.running_var is not None
        and bool(layer.running_mean.any() or (layer.running_var != 1).any())
        for layer in layers
    )


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
        return dropped(x, self.p, fold(key, self.layer), whole_channels=self.whole_channels)


class _Hardsigmoid(nn.Module):
    """The hard sigmoid by its formula: torch's own operator has no second derivative."""

    def forward(self, x: Tensor) -> Tensor:
        return (x / 6 + 0.5).clamp(0, 1)


class _SpectralNorm(nn.Module):
    r"""Spectral normalisation (Miyato et al., 2018) as a function of the weight: $W / (u^\top W v)$.

    torch keeps the singular vectors $u$ and $v$ in buffers and improves them by an iteration or two at each call in
    training. Here each call starts at the vectors of the module as it was given and takes `_POWER` iterations more;
    as in torch, the vectors count as constants in the derivative.

    Arguments:
        start: the left singular vector to start at.
        dim: the axis of the outputs.
        eps: smallest norm to divide by.
    """

    start: Tensor

    def __init__(self, start: Tensor, dim: int, eps: float) -> None:
        super().__init__()
        self.register_buffer("start", start.detach().clone(), persistent=False)
        self.dim, self.eps = dim, eps

    def forward(self, weight: Tensor) -> Tensor:
        matrix = weight.movedim(self.dim, 0).flatten(1)
        with torch.no_grad():
            u = self.start.to(matrix)
            for _ in range(_POWER):
                v = F.normalize(u @ matrix, dim=0, eps=self.eps)
                u = F.normalize(matrix @ v, dim=0, eps=self.eps)
        return weight / (u @ matrix @ v)


class _SpectralHook:
    """What `nn.utils.spectral_norm` does in a hook, as a function of the weight: see `_SpectralNorm`."""

    def __init__(self, hook: Any, module: nn.Module) -> None:
        self.name = hook.name
        self.norm = _SpectralNorm(getattr(module, f"{hook.name}_u"), hook.dim, hook.eps)

    def __call__(self, module: nn.Module, inputs: Any) -> None:
        setattr(module, self.name, self.norm(getattr(module, f"{self.name}_orig")))


def draws(module: nn.Module) -> bool:
    """Whether a module whose layers were replaced has dropout."""
    return any(isinstance(layer, _Dropout) and layer.p > 0 for layer in module.modules())


def refuse_hooks(module: nn.Module) -> None:
    """Refuse what computes weights in a hook, where nothing sees it."""
    for name, child in module.named_modules():
        if any(type(hook).__name__ == "WeightNorm" for hook in child._forward_pre_hooks.values()):
            raise UsageError(
                f"{name!r} uses the old nn.utils.weight_norm, which keeps its weight in a hook: "
                "use nn.utils.parametrizations.weight_norm"
            )


def refuse_lazy(module: nn.Module) -> None:
    """Refuse layers whose sizes are not known yet."""
    for name, parameter in module.named_parameters():
        if nn.parameter.is_lazy(parameter):
            raise UsageError(
                f"{name!r} has no size before its first input: run the model once, model(x), before it is given"
            )


def replace_layers(module: nn.Module, context: Context) -> list[str]:
    """Swap layers for their functional forms, and hooks; return the names of the BatchNorm layers."""
    normalizers: list[str] = []
    for number, (name, child) in enumerate(list(module.named_modules())):
        for key, hook in child._forward_pre_hooks.items():
            if type(hook).__name__ == "SpectralNorm":
                child._forward_pre_hooks[key] = _SpectralHook(hook, child)
        replacement = _functional(child, name, number, context)
        if replacement is None:
            continue
        if not name:
            raise UsageError(f"a bare {type(child).__name__} is not a model: put it in nn.Sequential")
        if isinstance(replacement, _Normalize):
            normalizers.append(name)
        parent, _, leaf = name.rpartition(".")
        setattr(module.get_submodule(parent), leaf, replacement)
    return normalizers


def _functional(child: nn.Module, name: str, number: int, context: Context) -> nn.Module | None:
    """A layer as a function of its input; `None` where it is one already."""
    if isinstance(child, nn.SyncBatchNorm):
        raise UsageError(f"{name!r} is a SyncBatchNorm, which mixes tasks: use BatchNorm or GroupNorm")
    if isinstance(child, _BatchNorm):
        return _Normalize(child, name, context)
    if isinstance(child, (nn.AlphaDropout, nn.FeatureAlphaDropout)):
        raise UsageError(f"{name!r} is {type(child).__name__}, which is not supported: use nn.Dropout")
    if isinstance(child, nn.modules.dropout._DropoutNd):
        channels = isinstance(child, (nn.Dropout1d, nn.Dropout2d, nn.Dropout3d))
        return _Dropout(child.p, number, context, whole_channels=channels)
    if isinstance(child, nn.Hardsigmoid):
        return _Hardsigmoid()
    if isinstance(child, _WeightNorm):
        return _PlainWeightNorm(child.dim)
    if isinstance(child, parametrizations._SpectralNorm) and hasattr(child, "_u"):
        return _SpectralNorm(child._u, child.dim, child.eps)
    if getattr(child, "dropout", 0) and isinstance(child, (nn.RNNBase, nn.MultiheadAttention)):
        raise UsageError(
            f"{name!r} has dropout={child.dropout} inside a fused layer, where tasks cannot have streams "
            "of their own: set it to 0 and put nn.Dropout around the layer"
        )
    return None
