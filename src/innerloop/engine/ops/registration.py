"""What custom operators share when they register derivatives and rules for `vmap` with torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor

__all__ = ["Context", "Grads", "VmapInfo", "batch_axis_first"]

# one gradient for each argument of an operator, `None` where there is none
Grads = tuple[Tensor | None, ...]


class Context(Protocol):
    """The `ctx` that torch hands from the forward to the backward rule of an operator.

    Arguments:
        geometry: stride, padding, dilation or kernel, as the operator was given them; set by its `setup_context`.
        spatial: sizes of the spatial axes of the input; set where the backward rule needs them.
        needs_input_grad: for each argument, whether its gradient is asked for.
        saved_tensors: what `save_for_backward` was given.
    """

    geometry: Sequence[Sequence[int]]
    spatial: Sequence[int]
    needs_input_grad: tuple[bool, ...]
    saved_tensors: tuple[Tensor, ...]

    def save_for_backward(self, *tensors: Tensor) -> None:
        """Keep tensors for the backward rule."""


class VmapInfo(Protocol):
    """What torch tells a rule of `vmap`: the size of the mapped axis."""

    batch_size: int


def batch_axis_first(
    info: VmapInfo, in_dims: Sequence[int | None], tensors: Sequence[Tensor]
) -> list[Tensor]:
    """The operands with the axis that `vmap` maps over in front; one that is not mapped is broadcast along it."""
    return [
        tensor.movedim(dim, 0) if dim is not None else tensor.expand(info.batch_size, *tensor.shape)
        for tensor, dim in zip(tensors, in_dims, strict=False)
    ]
