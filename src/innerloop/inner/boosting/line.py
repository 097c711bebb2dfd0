"""A pooled line: one ridge regression on the rows of all tasks, with squares where there are few features."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ...models.builtin import MOST_SQUARED
from ...models.network import Params
from ..heads.base import with_constant

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["fit_line", "line_size", "line_values"]

_NAME = "line"


def _columns(x: Tensor) -> Tensor:
    """Features, their squares where there are few, and a 1."""
    return with_constant(torch.cat([x, x.square()], -1) if x.shape[-1] <= MOST_SQUARED else x)


def line_size(n_features: int) -> int:
    """How many coefficients the line has for a column of targets.

    Example:
        >>> line_size(2)
        5
    """
    return 2 * n_features + 1 if n_features <= MOST_SQUARED else n_features + 1


def line_values(params: Params, x: Tensor) -> Tensor:
    """The line at rows `(T, n, F)`: `(T, n, C)`."""
    return _columns(x) @ params[_NAME]


def fit_line(x: Tensor, y: Tensor, weight: Tensor) -> Params:
    """The coefficients with a ridge penalty that generalised cross-validation chooses, tasks counting equally.

    Golub, Heath & Wahba, 1979, *Generalized Cross-Validation as a Method for Choosing a Good Ridge Parameter*.

    Arguments:
        x: features `(T, n, F)`.
        y: targets `(T, n, C)`.
        weight: `(T, n)`, 0 for padding.

    Example:
        >>> x = torch.linspace(-1, 1, 20).reshape(1, 20, 1)
        >>> line_values(fit_line(x, 3 * x + 1, torch.ones(1, 20)), torch.ones(1, 1, 1)).round(
        ...     decimals=2
        ... ).item()
        4.0
    """
    inside = weight > 0
    shares = (weight / weight.sum(1, keepdim=True).clamp(min=1))[inside]
    rows = _columns(x)[inside].double().cpu().numpy()
    target = y[inside].double().cpu().numpy()
    share = np.sqrt((shares / shares.mean()).double().cpu().numpy())[:, None]
    weights = _ridge(rows * share, target * share)
    return {_NAME: torch.from_numpy(weights).to(x)}


def _ridge(design: NDArray[np.float64], target: NDArray[np.float64]) -> NDArray[np.float64]:
    """Ridge regression of all columns, its penalty by generalised cross-validation."""
    left, values, right = np.linalg.svd(design, full_matrices=False)
    turned = left.T @ target
    count, outside = len(design), (target**2).sum() - (turned**2).sum()

    def score(penalty: float) -> float:
        kept = values**2 / (values**2 + penalty)
        error = outside + (((1 - kept)[:, None] * turned) ** 2).sum()
        return float(error / max(1 - kept.sum() / count, 1e-3) ** 2)

    penalty = min(np.logspace(-3, 4, 15), key=score)
    weights: NDArray[np.float64] = right.T @ ((values / (values**2 + penalty))[:, None] * turned)
    return weights
