"""Random numbers inside a module's forward pass, drawn from a counter instead of torch's global generator.

Modules draw with `F.dropout(x, p, self.training)`, `torch.randn_like`, `x.new_empty(shape).bernoulli_()` and the like.
While `CounterRandom` is active, each such call becomes a pure function of a key, the number of the call and the
position in the tensor (Salmon et al., 2011, *Parallel Random Numbers: As Easy as 1, 2, 3*). So tasks have streams of
their own, a stack of tasks and a loop over them draw the same numbers, and the forward pass has a graph.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from ..errors import UsageError

__all__ = ["CounterRandom", "dropped", "fold", "uniform_from"]

# streams of the calls, away from those of replaced dropout layers, which are numbered from 0
_FIRST_CALL = 1 << 40


def fold(key: Tensor, number: int) -> Tensor:
    """A new stream key from a key (any shape, int64) and a number: equal inputs, equal stream."""
    offset = ((2 * number + 1) * 1442695040888963407 + 2**63) % 2**64 - 2**63
    return _mix(key * 6364136223846793005 + offset)


def uniform_from(key: Tensor, position: Tensor) -> Tensor:
    """Uniform numbers in [0, 1) for integer positions of a stream, by counter instead of by state."""
    bits = _mix(key + position * 7046029254386353131)
    return ((bits >> 39) & 0xFFFFFF).to(torch.float32) / 0x1000000


def dropped(x: Tensor, p: float, key: Tensor, *, whole_channels: bool = False) -> Tensor:
    """Dropout: each number, or each channel, is 0 with probability `p`, the others are divided by `1 - p`."""
    shape = (*x.shape[:2], *(1 for _ in x.shape[2:])) if whole_channels else tuple(x.shape)
    kept = _uniform(key, shape, x.device, torch.float32) >= p
    return torch.where(kept, x / (1 - p), torch.zeros_like(x)) if p < 1 else torch.zeros_like(x)


class CounterRandom(TorchFunctionMode):
    """Calls of torch that draw random numbers draw them from a counter.

    Arguments:
        key: `()` int64, the stream of a task and an inner step.

    Example:
        >>> with CounterRandom(torch.tensor(7)):
        ...     a = torch.randn(2)
        >>> with CounterRandom(torch.tensor(7)):
        ...     b = torch.randn(2)
        >>> torch.equal(a, b)
        True
    """

    def __init__(self, key: Tensor) -> None:
        super().__init__()
        self.key, self.calls = key, 0

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        """See `torch.overrides.TorchFunctionMode`."""
        rule = _RULES.get(func)
        if rule is None:
            return func(*args, **(kwargs or {}))
        self.calls += 1
        return rule(fold(self.key, _FIRST_CALL + self.calls), *args, **(kwargs or {}))


def _mix(z: Tensor) -> Tensor:
    """The finaliser of splitmix64 on int64: multiplication wraps, shifts are made logical by a mask."""
    z = (z ^ ((z >> 30) & 0x3FFFFFFFF)) * -4658895280553007687
    z = (z ^ ((z >> 27) & 0x1FFFFFFFFF)) * -7723592293110705685
    return z ^ ((z >> 31) & 0x1FFFFFFFF)


Draw = Callable[[Tensor, Sequence[int], torch.device, torch.dtype], Tensor]


def _uniform(key: Tensor, shape: Sequence[int], device: torch.device, dtype: torch.dtype) -> Tensor:
    position = torch.arange(math.prod(shape), device=device)
    return uniform_from(key, position).reshape(tuple(shape)).to(dtype)


def _normal(key: Tensor, shape: Sequence[int], device: torch.device, dtype: torch.dtype) -> Tensor:
    """Standard normal numbers (Box and Muller, 1958, *A Note on the Generation of Random Normal Deviates*)."""
    radius = (-2 * torch.log1p(-_uniform(fold(key, 0), shape, device, dtype))).sqrt()
    return radius * (2 * math.pi * _uniform(fold(key, 1), shape, device, dtype)).cos()


def _drawn_like(draw: Draw, key: Tensor, x: Tensor) -> Tensor:
    """Numbers in the shape and precision of a tensor; of whole numbers in single precision."""
    return draw(key, x.shape, x.device, x.dtype if x.is_floating_point() else torch.float32)


def _factory(draw: Draw) -> Callable[..., Tensor]:
    """`torch.rand(*size)` and its like."""

    def rule(key: Tensor, *size: Any, dtype: Any = None, device: Any = None, **_: Any) -> Tensor:
        shape = size[0] if len(size) == 1 and not isinstance(size[0], int) else size
        place = torch.device(device) if device is not None else key.device
        return draw(key, shape, place, dtype or torch.get_default_dtype())

    return rule


def _like(draw: Draw) -> Callable[..., Tensor]:
    """`torch.rand_like(x)` and its like."""

    def rule(key: Tensor, x: Tensor, *, dtype: Any = None, device: Any = None, **_: Any) -> Tensor:
        return draw(key, x.shape, torch.device(device) if device is not None else x.device, dtype or x.dtype)

    return rule


def _in_place(values: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """`x.normal_()` and its like: the tensor is filled with values, and returned."""

    def rule(key: Tensor, x: Tensor, *args: Any, generator: Any = None, **kwargs: Any) -> Tensor:
        return x.copy_(values(key, x, *args, **kwargs).to(x.dtype))

    return rule


def _bernoulli(key: Tensor, x: Tensor, *, generator: object = None, **_: object) -> Tensor:
    return (_drawn_like(_uniform, key, x) < x).to(x.dtype)


def _empty(make: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Memory to be filled: a value for each task, so that each task's numbers can be written into it."""

    def rule(key: Tensor, *args: object, **kwargs: object) -> Tensor:
        memory = make(*args, **kwargs)
        return memory.zero_() + (key * 0).to(memory.dtype)

    return rule


def _dropout(*, whole_channels: bool) -> Callable[..., Tensor]:
    def rule(
        key: Tensor, input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False
    ) -> Tensor:
        return dropped(input, p, key, whole_channels=whole_channels) if training and p > 0 else input

    return rule


def _rrelu(
    key: Tensor,
    input: Tensor,
    lower: float = 1 / 8,
    upper: float = 1 / 3,
    training: bool = False,
    inplace: bool = False,
) -> Tensor:
    drawn = _drawn_like(_uniform, key, input)
    slope = lower + (upper - lower) * drawn if training else torch.full_like(input, (lower + upper) / 2)
    return torch.where(input >= 0, input, slope * input)


def _gumbel_softmax(
    key: Tensor, logits: Tensor, tau: float = 1, hard: bool = False, eps: float = 1e-10, dim: int = -1
) -> Tensor:
    noise = -torch.log((-torch.log1p(-_drawn_like(_uniform, key, logits))).clamp(min=2**-25))
    soft = ((logits + noise) / tau).softmax(dim)
    if not hard:
        return soft
    chosen = torch.zeros_like(soft).scatter(dim, soft.argmax(dim, keepdim=True), 1.0)
    return chosen - soft.detach() + soft


def _attention(
    key: Tensor, query: Tensor, keys: Tensor, values: Tensor, attn_mask: Any = None, dropout_p: float = 0.0,
    *rest: Any, **more: Any,
) -> Tensor:  # fmt: skip
    if dropout_p:
        raise UsageError(
            f"scaled_dot_product_attention(dropout_p={dropout_p}) drops out inside a fused function, where tasks "
            "cannot have streams of their own: set it to 0 and use nn.Dropout"
        )
    return F.scaled_dot_product_attention(query, keys, values, attn_mask, 0.0, *rest, **more)


def _normal_values(key: Tensor, x: Tensor, mean: float = 0, std: float = 1) -> Tensor:
    return mean + std * _drawn_like(_normal, key, x)


def _uniform_values(key: Tensor, x: Tensor, low: float = 0, high: float = 1) -> Tensor:
    return low + (high - low) * _drawn_like(_uniform, key, x)


def _bernoulli_values(key: Tensor, x: Tensor, p: float | Tensor = 0.5) -> Tensor:
    return _drawn_like(_uniform, key, x) < p


def _exponential_values(key: Tensor, x: Tensor, rate: float = 1) -> Tensor:
    return -torch.log1p(-_drawn_like(_uniform, key, x)) / rate


_each, _channels = _dropout(whole_channels=False), _dropout(whole_channels=True)
_RULES: dict[Callable[..., Any], Callable[..., Any]] = {
    torch.rand: _factory(_uniform),
    torch.randn: _factory(_normal),
    torch.rand_like: _like(_uniform),
    torch.randn_like: _like(_normal),
    torch.bernoulli: _bernoulli,
    Tensor.bernoulli: _bernoulli,
    Tensor.bernoulli_: _in_place(_bernoulli_values),
    Tensor.normal_: _in_place(_normal_values),
    Tensor.uniform_: _in_place(_uniform_values),
    Tensor.exponential_: _in_place(_exponential_values),
    torch.empty: _empty(torch.empty),
    torch.empty_like: _empty(torch.empty_like),
    Tensor.new_empty: _empty(Tensor.new_empty),
    torch.dropout: _each,
    torch.rrelu: _rrelu,
    F.dropout: _each,
    F.dropout1d: _channels,
    F.dropout2d: _channels,
    F.dropout3d: _channels,
    F.rrelu: _rrelu,
    F.gumbel_softmax: _gumbel_softmax,
    F.scaled_dot_product_attention: _attention,
}
