"""A Gaussian process of many rows by a few of them: rows chosen by pivoted Cholesky, all targets projected on them."""

from __future__ import annotations

import torch
from torch import Tensor

from ...models.network import Params
from .base import factored
from .kernels import Kernel

__all__ = ["pivots", "projected"]

# rows among which the few are chosen, and rows whose covariance with the few is held at once
_CANDIDATES, _AT_ONCE = 8192, 8192
# a row that the others predict up to this share of the largest variance adds nothing but rounding
_NOTHING = 1e-10


def projected(
    kernel: Kernel, meta: Params, rows: Tensor, rest: Tensor, noise: Tensor, counted: Tensor, *, most: int
) -> tuple[Tensor, Tensor, Tensor]:
    r"""The posterior of tasks with many rows, as if all their values followed from those at `most` rows.

    With the values $u$ at those rows, $A = K_{uu} + K_{uf} S^{-1} K_{fu}$: the weights of the rows are
    $A^{-1} K_{uf} S^{-1} r$ and the explained variance is $k_u^\top (K_{uu}^{-1} - A^{-1}) k_u$. Seeger, Williams &
    Lawrence, 2003, *Fast Forward Selection to Speed Up Sparse Gaussian Process Regression*. It is the exact
    posterior where the kernel has no more than `most` directions on the rows.

    Arguments:
        kernel: the kernel.
        meta: its meta-parameters.
        rows: `(T, n, F)`.
        rest: what the mean leaves of the targets, `(T, n, C)`.
        noise: relative noise variances `(T, n)`.
        counted: which rows are no padding, `(T, n)`.
        most: rows that stand for all.

    Returns:
        The rows `(T, most, F)`, their weights `(T, most, C)` and a root of what they explain `(T, most, most)`; 0
        where fewer rows suffice.
    """
    tasks = [
        _one(kernel, meta, x[inside], y[inside], s[inside], most)
        for x, y, s, inside in zip(rows, rest, noise, counted, strict=True)
    ]
    return tuple(torch.stack(part) for part in zip(*tasks, strict=True))  # type: ignore[return-value]


def _one(
    kernel: Kernel, meta: Params, rows: Tensor, rest: Tensor, noise: Tensor, most: int
) -> tuple[Tensor, Tensor, Tensor]:
    """The same for one task without padding."""
    spaced = rows[:: -(-len(rows) // _CANDIDATES)] if len(rows) else rows
    with torch.no_grad():
        few = spaced[pivots(kernel, meta, spaced, most)]
    factor = factored(kernel(meta, few[None], few[None])[0] + _jitter(kernel, meta, few))
    eye = torch.eye(len(few), dtype=rows.dtype, device=rows.device)
    gram, cross = torch.zeros_like(eye), rest.new_zeros(len(few), rest.shape[1])
    for start in range(0, len(rows), _AT_ONCE):
        part = slice(start, start + _AT_ONCE)
        covariance = kernel(meta, few[None], rows[None, part])[0]
        half = torch.linalg.solve_triangular(factor, covariance, upper=False)
        gram = gram + (half / noise[part]) @ half.mT
        cross = cross + (half / noise[part]) @ rest[part]
    own = torch.cholesky_solve(cross, factored(eye + gram))
    weights = torch.linalg.solve_triangular(factor.mT, own, upper=True)
    # I - (I + G)^-1 = Q diag(g / (1 + g)) Q'
    found, turned = torch.linalg.eigh(gram)
    share = (found.clamp(min=0) / (1 + found.clamp(min=0))).sqrt()
    inverse = torch.linalg.solve_triangular(factor, eye, upper=False)
    root = share.unsqueeze(-1) * (turned.mT @ inverse)
    blank = (0, 0, 0, most - len(few))
    pad = torch.nn.functional.pad
    return pad(few, blank), pad(weights, blank), pad(root, (0, most - len(few), 0, most - len(few)))


def _jitter(kernel: Kernel, meta: Params, few: Tensor) -> Tensor:
    """What keeps the factor of rows that were chosen to be far apart regular."""
    return torch.diag_embed(_NOTHING * kernel.diagonal(meta, few[None])[0])


def pivots(kernel: Kernel, meta: Params, rows: Tensor, most: int, *, counted: Tensor | None = None) -> Tensor:
    """Positions of at most `most` rows, each the one that those before it leave the largest variance of.

    Partial pivoted Cholesky factorisation: Harbrecht, Peters & Schneider, 2012, *On the Low-rank Approximation by
    the Pivoted Cholesky Decomposition*.

    Arguments:
        kernel: the kernel.
        meta: its meta-parameters.
        rows: `(n, F)`.
        most: how many.
        counted: which rows are no padding, `(n,)`; all unless given.

    Example:
        >>> kernel = Kernel.named("squared_exponential", 1)
        >>> pivots(kernel, kernel.init(), torch.tensor([[0.0], [0.0], [3.0]]), 3).tolist()
        [0, 2]
    """
    left = kernel.diagonal(meta, rows[None])[0]
    if counted is not None:
        left = torch.where(counted, left, 0.0)
    least = _NOTHING * left.max() if len(left) else 0
    columns = left.new_zeros(min(most, len(rows)), len(rows))
    chosen: list[int] = []
    for number in range(len(columns)):
        row = int(left.argmax())
        if left[row] <= least:
            break
        covariance = kernel(meta, rows[None, row : row + 1], rows[None])[0, 0]
        column = covariance - columns[:number, row] @ columns[:number]
        columns[number] = column / left[row].sqrt()
        left = (left - columns[number].square()).clamp(min=0)
        left[row] = 0
        chosen.append(row)
    return torch.tensor(chosen, dtype=torch.int64, device=rows.device)
