"""How rows vary within classes and class means vary between them, estimated from labelled rows with shrinkage."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ...errors import DataError
from ...tasks.episodes import Batch

__all__ = ["ClassSums", "Covariances", "covariances", "shrunken", "sums_of"]

# of what class means were seen to vary along an axis, so much is between classes at least
_LEAST_BETWEEN = 0.01


class ClassSums(NamedTuple):
    """Labelled rows by class.

    Arguments:
        means: of each of `K` classes, `(K, F)`.
        counts: rows of each, `(K,)`.
        residuals: rows less the mean of their class, `(N, F)`.
        of_row: the class of each row, `(N,)`.
    """

    means: Tensor
    counts: Tensor
    residuals: Tensor
    of_row: Tensor

    def some(self, chosen: Tensor) -> ClassSums:
        """These classes alone, `chosen` `(K,)` bool."""
        rows = chosen[self.of_row]
        numbers = chosen.cumsum(0) - 1
        return ClassSums(
            self.means[chosen], self.counts[chosen], self.residuals[rows], numbers[self.of_row[rows]]
        )


class Covariances(NamedTuple):
    r"""Axes along which both covariances are diagonal: $V^\top W V = I,\; V^\top B V = \text{diag}(b)$.

    Arguments:
        center: mean of the class means, `(F,)`.
        projection: $V$, `(F, F)`.
        between: $b$, `(F,)`.
    """

    center: Tensor
    projection: Tensor
    between: Tensor


def sums_of(features: Tensor, rows: Batch) -> ClassSums:
    """Rows by class in double precision; a class is a label within a task, and rows of weight 0 are none.

    Arguments:
        features: `(T, n, F)`.
        rows: their labels `(T, n)`, and weights.
    """
    counted = torch.ones_like(rows.y, dtype=torch.bool) if rows.weight is None else rows.weight > 0
    task = torch.arange(len(rows.y), device=rows.y.device).unsqueeze(1).expand(rows.y.shape)
    keys = torch.stack([task[counted], rows.y[counted]])
    classes, of_row = torch.unique(keys, dim=1, return_inverse=True)
    values = features[counted].double()
    counts = torch.bincount(of_row, minlength=classes.shape[1]).double()
    total = values.new_zeros(classes.shape[1], values.shape[1]).index_add(0, of_row, values)
    means = total / counts.unsqueeze(1)
    return ClassSums(means, counts, values - means[of_row], of_row)


def covariances(sums: ClassSums) -> Covariances:
    r"""Both covariances of the linear mixed model for classes, in closed form.

    $W$ is the pooled covariance of rows about their class means. The means of classes with $n_k$ rows have the
    covariance $B + W \overline{1/n_k}$, of which the second part is taken off; along an axis where nothing would be
    left, a hundredth is. Both are shrunk before: $W$ towards equal variances, $B$ towards a multiple of $W$.

    Raises:
        DataError: there is one class, or no class has two rows that differ.
    """
    n_classes, n_rows = len(sums.means), len(sums.residuals)
    if n_classes < 2 or n_rows <= n_classes:
        raise DataError(
            f"{n_rows} rows of {n_classes} classes do not tell how rows of one class vary: give two classes or more, "
            "some with two rows or more"
        )
    if not sums.residuals.any():
        raise DataError("the rows of each class are all equal, so nothing tells how rows of one class vary")
    center = sums.means.mean(0)
    within = shrunken(sums.residuals, n_rows - n_classes)
    root = torch.linalg.cholesky(within)
    # few classes span few axes: along the others their means are taken to vary as rows do, not alike in all features
    whitened = torch.linalg.solve_triangular(root, (sums.means - center).mT, upper=False).mT
    seen, vectors = torch.linalg.eigh(shrunken(whitened, n_classes - 1))
    between = torch.maximum(seen - (1 / sums.counts).mean(), _LEAST_BETWEEN * seen)
    projection = torch.linalg.solve_triangular(root.mT, vectors, upper=True)
    return Covariances(center, projection, between)


def shrunken(centred: Tensor, freedom: int) -> Tensor:
    r"""A covariance `(F, F)`, shrunk towards one of equal variances and no correlation.

    $(1 - \lambda) S + \lambda \overline{s}\, I$ with the $\lambda$ whose expected squared error is least. Ledoit &
    Wolf, 2004, *A Well-Conditioned Estimator for Large-Dimensional Covariance Matrices*.

    Arguments:
        centred: rows less their mean, `(N, F)`.
        freedom: rows less the means that were taken off.

    Example:
        >>> shrunken(torch.tensor([[1.0, 1.0], [-1.0, -1.0]]).double(), 1)[0, 1] < 2
        tensor(True)
    """
    size = centred.shape[1]
    sample = centred.mT @ centred / freedom
    level = sample.diagonal().mean()
    target = level * torch.eye(size, dtype=centred.dtype, device=centred.device)
    spread = (sample - target).square().sum()
    error = centred.square().sum(1).square().sum() / freedom**2 - sample.square().sum() / freedom
    share = (error / spread).clamp(0, 1) if spread > 0 else torch.ones_like(spread)
    # a feature that never varies is no axis without it
    share = share.clamp(min=size * torch.finfo(centred.dtype).eps)
    return (1 - share) * sample + share * target
