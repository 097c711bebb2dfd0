"""Built-in models: modules that know how they were built, so that a model directory can name them."""

from __future__ import annotations

import functools
import inspect
import itertools
from collections.abc import Callable, Sequence
from typing import Any, ParamSpec

import torch
from torch import Tensor, nn

from ..errors import UsageError

__all__ = [
    "ACTIVATIONS",
    "MODELS",
    "MOST_SQUARED",
    "BodyHead",
    "Contextual",
    "Polynomial",
    "Sine",
    "build",
    "conv4",
    "mlp",
    "recipe_of",
]

P = ParamSpec("P")
# features up to which their squares are taken too, wherever nobody says
MOST_SQUARED = 12


class Sine(nn.Module):
    """The sine of each number, for what repeats.

    Sitzmann et al., 2020, *Implicit Neural Representations with Periodic Activation Functions*.

    Example:
        >>> Sine()(torch.tensor([0.0, torch.pi / 2])).tolist()
        [0.0, 1.0]
    """

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        return x.sin()


MODELS: dict[str, Callable[..., nn.Module]] = {}
ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "tanh": nn.Tanh,
    "relu": nn.ReLU,
    "silu": nn.SiLU,
    "gelu": nn.GELU,
    "sigmoid": nn.Sigmoid,
    "sine": Sine,
}


def _registered(build: Callable[P, nn.Module]) -> Callable[P, nn.Module]:
    """Make `build` known by name and let its modules carry `recipe`: name and settings."""

    @functools.wraps(build)
    def recorded(*args: P.args, **kwargs: P.kwargs) -> nn.Module:
        module = build(*args, **kwargs)
        bound = inspect.signature(build).bind(*args, **kwargs)
        bound.apply_defaults()
        settings = {k: list(v) if isinstance(v, tuple) else v for k, v in bound.arguments.items()}
        module.recipe = {"name": build.__name__, "settings": settings}  # type: ignore[assignment]
        return module

    MODELS[build.__name__] = recorded
    return recorded


def recipe_of(module: nn.Module) -> dict[str, Any] | None:
    """Name and settings of a built-in model; `None` for any other module."""
    return getattr(module, "recipe", None)


def build(name: str, **settings: object) -> nn.Module:
    """Build a model by name.

    Arguments:
        name: one of `MODELS`.
        settings: arguments of that model.

    Raises:
        UsageError: the name or a setting is unknown.

    Example:
        >>> build("mlp", n_in=2, hidden=[3], n_out=1)[0]
        Linear(in_features=2, out_features=3, bias=True)
    """
    if name not in MODELS:
        raise UsageError(f"model {name!r} is unknown: choose one of {', '.join(MODELS)}")
    try:
        inspect.signature(MODELS[name]).bind(**settings)
    except TypeError as error:
        raise UsageError(f"model {name!r}: {error}") from None
    return MODELS[name](**settings)


@_registered
def mlp(
    n_in: int,
    hidden: Sequence[int] = (40, 40),
    n_out: int | None = 1,
    *,
    activation: str = "tanh",
    output: str | None = None,
    dropout: float = 0.0,
) -> nn.Module:
    """Multi-layer perceptron on feature vectors; what is not a vector is flattened by `nn.Flatten` first.

    Arguments:
        n_in: features `F`.
        hidden: width of each hidden layer; empty for a linear model.
        n_out: outputs; `None` ends with the last hidden layer: features for a head.
        activation: `tanh` (smooth, so inner steps behave), `relu`, `silu`, `gelu`, `sigmoid`, `sine` (for what
            repeats).
        output: an activation on the output, `None` for plain values or logits.
        dropout: share of hidden units set to 0 in training.

    Returns:
        Module `(n, F) -> (n, n_out)`, or `(n, hidden[-1])`.

    Raises:
        UsageError: a width is not positive, an activation is unknown, or there is no layer to end with.

    Example:
        >>> mlp(10, [16], 2)(torch.zeros(4, 10)).shape
        torch.Size([4, 2])
    """
    widths = [n_in, *hidden, *([] if n_out is None else [n_out])]
    if n_out is None and (output is not None or not hidden):
        raise UsageError("mlp: n_out=None ends with the last hidden layer: give hidden widths and no output")
    if any(type(width) is not int or width < 1 for width in widths):
        raise UsageError(f"mlp: widths {widths} must be positive whole numbers")
    layers: list[nn.Module] = []
    for left, right in itertools.pairwise([n_in, *hidden]):
        layers += [nn.Linear(left, right), _activation(activation)]
        if dropout:
            layers.append(nn.Dropout(dropout))
    if n_out is not None:
        layers.append(nn.Linear(widths[-2], n_out))
    if output is not None:
        layers.append(_activation(output))
    return nn.Sequential(*layers)


@_registered
def conv4(
    channels: int = 1,
    n_out: int | None = 5,
    *,
    size: int = 28,
    width: int = 64,
    pool: str = "stride",
    dropout: float = 0.0,
) -> nn.Module:
    """Four blocks of 3x3 convolution, BatchNorm and ReLU, then a linear layer: the few-shot standard.

    Vinyals et al., 2016, *Matching Networks for One Shot Learning*; with strided convolutions as Finn et al.,
    2017, use it on Omniglot, with max-pooling as they use it on mini-ImageNet.

    Arguments:
        channels: image channels.
        n_out: outputs; `None` leaves the linear layer out: features for a head.
        size: height and width of the images in pixels.
        width: channels of each block.
        pool: `stride` or `max`.
        dropout: share of channels set to 0 in training, after each block.

    Returns:
        Module `(n, channels, size, size) -> (n, n_out)`, or `(n, F)`.

    Raises:
        UsageError: `pool` is unknown or the images are too small.

    Example:
        >>> conv4(1, 5)(torch.zeros(2, 1, 28, 28)).shape
        torch.Size([2, 5])
    """
    if pool not in ("stride", "max"):
        raise UsageError(f"pool={pool!r} is unknown: choose stride or max")
    side = size
    for _ in range(4):
        side = (side + 1) // 2 if pool == "stride" else side // 2
    if side < 1:
        raise UsageError(f"size={size}: four blocks with pool='max' need images of at least 16 pixels")
    layers: list[nn.Module] = []
    for block in range(4):
        layers += [
            nn.Conv2d(width if block else channels, width, 3, stride=2 if pool == "stride" else 1, padding=1),
            nn.BatchNorm2d(width, track_running_stats=False),
            nn.ReLU(),
        ]
        if pool == "max":
            layers.append(nn.MaxPool2d(2))
        if dropout:
            layers.append(nn.Dropout2d(dropout))
    layers.append(nn.Flatten())
    if n_out is not None:
        layers.append(nn.Linear(width * side * side, n_out))
    return nn.Sequential(*layers)


class Polynomial(nn.Module):
    """The features and products of two of them; nothing to train.

    Arguments:
        products: positions of the two; the same twice is a square.

    Example:
        >>> Polynomial([(0, 0), (0, 1)])(torch.tensor([[2.0, 5.0]])).tolist()
        [[2.0, 5.0, 4.0, 10.0]]
    """

    def __init__(self, products: Sequence[tuple[int, int]] = ()) -> None:
        super().__init__()
        self.products = tuple(products)

    def forward(self, x: Tensor) -> Tensor:
        """`(n, F) -> (n, F + products)`."""
        if not self.products:
            return x
        left, right = (x[..., [pair[side] for pair in self.products]] for side in (0, 1))
        return torch.cat([x, left * right], -1)


def _activation(name: str) -> nn.Module:
    if name not in ACTIVATIONS:
        raise UsageError(f"activation {name!r} is unknown: choose one of {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[name]()


class Contextual(nn.Module):
    """A module whose input is widened by a context vector: more features, or more image channels."""

    def __init__(self, module: nn.Module, n_context: int) -> None:
        super().__init__()
        self.module = module
        self.context = nn.Parameter(torch.zeros(n_context))

    def forward(self, x: Tensor) -> Tensor:
        """`(n, F, ...) -> module(n, F + n_context, ...)`."""
        shape = (x.shape[0], len(self.context), *x.shape[2:])
        context = self.context.reshape(1, -1, *(1 for _ in x.shape[2:])).expand(shape)
        out: Tensor = self.module(torch.cat([x, context], 1))
        return out


class BodyHead(nn.Module):
    """A feature extractor `body` and a linear `head` on its features."""

    def __init__(self, body: nn.Module, n_features: int, n_out: int) -> None:
        super().__init__()
        self.body = body
        self.head = nn.Linear(n_features, n_out)

    def forward(self, x: Tensor) -> Tensor:
        """`(n, *feature) -> (n, n_out)`."""
        out: Tensor = self.head(self.body(x))
        return out
