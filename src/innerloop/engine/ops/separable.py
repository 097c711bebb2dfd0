"""Average pooling, interpolation and the sums of local response normalisation as products with constant matrices.

Each works along one axis at a time and is linear, so that along an axis it is a product with a matrix that depends on
sizes alone. The derivative of a product is a product again: no operator is needed that is not there already.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import ParamSpec, cast

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils._python_dispatch import _disable_current_modes

__all__ = [
    "MODES",
    "along_axes",
    "average_matrix",
    "band_matrix",
    "block_means",
    "interpolation_matrix",
    "repeated",
]

# modes of `interpolate` that work along one axis at a time, as they are called for one axis
MODES = {
    **dict.fromkeys(("linear", "bilinear", "trilinear"), "linear"),
    **{mode: mode for mode in ("nearest", "nearest-exact", "area", "bicubic")},
}


P = ParamSpec("P")


def _constant(make: Callable[P, Tensor]) -> Callable[P, Tensor]:
    """A function whose results are made once, and are real tensors also while a graph is traced."""

    @functools.wraps(make)
    def made(*args: P.args, **kwargs: P.kwargs) -> Tensor:
        with _disable_current_modes(), torch.no_grad():
            return make(*args, **kwargs)

    return cast("Callable[P, Tensor]", functools.cache(made))


def along_axes(x: Tensor, matrices: Sequence[Tensor]) -> Tensor:
    """The last axes of a tensor multiplied by a matrix each.

    Arguments:
        x: `(..., n_1, ..., n_k)`.
        matrices: `(n_i, m_i)`.

    Returns:
        `(..., m_1, ..., m_k)`.

    Example:
        >>> along_axes(torch.ones(1, 2, 3), [torch.ones(2, 1), torch.ones(3, 4)]).tolist()
        [[[6.0, 6.0, 6.0, 6.0]]]
    """
    for back, matrix in enumerate(reversed(matrices), 1):
        moved = x.movedim(-back, -1) if back > 1 else x
        product = moved @ matrix.to(x.device, x.dtype)
        x = product.movedim(-1, -back) if back > 1 else product
    return x


def block_means(x: Tensor, kernel: Sequence[int]) -> Tensor:
    """Means of blocks that do not overlap; a rest at the end of an axis is left out.

    Example:
        >>> block_means(torch.arange(5.0), [2]).tolist()
        [0.5, 2.5]
    """
    ndim = len(kernel)
    counts = [size // k for size, k in zip(x.shape[-ndim:], kernel, strict=True)]
    for axis, (count, k) in enumerate(zip(counts, kernel, strict=True), x.dim() - ndim):
        x = x.narrow(axis, 0, count * k)
    shape = [size for pair in zip(counts, kernel, strict=True) for size in pair]
    blocks = x.reshape(*x.shape[:-ndim], *shape)
    return blocks.mean([blocks.dim() - 1 - 2 * axis for axis in range(ndim)])


def repeated(x: Tensor, times: Sequence[int]) -> Tensor:
    """Every element of the last axes so many times: interpolation by the nearest neighbour with whole factors.

    Example:
        >>> repeated(torch.arange(2.0), [2]).tolist()
        [0.0, 0.0, 1.0, 1.0]
    """
    ndim = len(times)
    spatial = x.shape[x.dim() - ndim :]
    apart = x.reshape(*x.shape[: x.dim() - ndim], *(size for n in spatial for size in (n, 1)))
    shape = [size for n, k in zip(spatial, times, strict=True) for size in (n, k)]
    spread = apart.expand(*x.shape[: x.dim() - ndim], *shape)
    return spread.reshape(*x.shape[: x.dim() - ndim], *(n * k for n, k in zip(spatial, times, strict=True)))


@_constant
def average_matrix(size: int, kernel: int, stride: int, padding: int, *, ceil: bool, whole: bool) -> Tensor:
    """The matrix `(size, windows)` of an average over windows of one axis.

    Arguments:
        size: of the axis.
        kernel: length of a window.
        stride: from window to window.
        padding: zeros before and after.
        ceil: whether a window may reach beyond the end.
        whole: whether zeros of the padding count in the mean.
    """
    rounding = math.ceil if ceil else math.floor
    windows = rounding((size + 2 * padding - kernel) / stride) + 1
    if ceil and (windows - 1) * stride >= size + padding:
        windows -= 1
    matrix = torch.zeros(size, windows, dtype=torch.float64, device="cpu")
    for window in range(windows):
        start = window * stride - padding
        end = min(start + kernel, size + padding)
        inside = range(max(start, 0), min(end, size))
        matrix[list(inside), window] = 1 / (end - start if whole else max(len(inside), 1))
    return matrix


@_constant
def interpolation_matrix(
    size: int, out: int | None, scale: float | None, mode: str, align_corners: bool | None
) -> Tensor:
    """The matrix `(size, out)` of an interpolation along one axis: that of each unit vector.

    Arguments:
        size: of the axis.
        out: its new size.
        scale: or the factor that it is multiplied by.
        mode: one of `MODES`.
        align_corners: see `torch.nn.functional.interpolate`.
    """
    unit = torch.eye(size, dtype=torch.float64, device="cpu")[None]
    if mode != "bicubic":
        rows: Tensor = functional.interpolate(unit, out, scale, MODES[mode], align_corners)
        return rows[0]
    shape = None if out is None else (1, out)
    factors = None if scale is None else (1.0, scale)
    images: Tensor = functional.interpolate(unit[:, :, None], shape, factors, mode, align_corners)
    return images[0, :, 0]


@_constant
def band_matrix(channels: int, size: int) -> Tensor:
    """The matrix of means over `size` neighbouring channels, zeros beyond the first and the last."""
    matrix = torch.zeros(channels, channels, dtype=torch.float64, device="cpu")
    for channel in range(channels):
        matrix[max(channel - size // 2, 0) : channel + (size - 1) // 2 + 1, channel] = 1 / size
    return matrix
