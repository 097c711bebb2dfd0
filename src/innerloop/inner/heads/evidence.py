"""The likelihood of a Gaussian head given the rows of all tasks, in the form that is cheap for their shapes."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ...models.network import Params
from ...tasks.episodes import Batch
from .base import counted_rows, row_weights

__all__ = ["MANY", "Evidence", "Moments", "Profile", "Rows", "basis_of", "pooled", "shrunken"]

# columns from which the cost of a fit is looked at
MANY = 64
# multiplications of a search for the maximum
_WORK = 1e11
# rows that decide the spread of a mean that is drawn too
_ROWS = 2000
# share of the largest eigenvalue from which columns count as different
_DIFFERENT = 1e-11


class Profile(NamedTuple):
    r"""What all rows say of the mean, given the root of the prior: sums in the metric of $I + Z V Z^\top$.

    Arguments:
        information: $X^\top (I + ZVZ^\top)^{-1} X$, `(D, D)`.
        cross: the same with targets, `(D, C)`.
        square: of the targets, `(C,)`.
        logdet: log determinant of $I + ZVZ^\top$, `()`.
        rows: their number, `()`.
    """

    information: Tensor
    cross: Tensor
    square: Tensor
    logdet: Tensor
    rows: Tensor

    def negative_log_density(self, mean: Tensor, noise: Tensor) -> Tensor:
        """Negative log density of every target given mean `(D, C)` and noise variance `(C,)`."""
        error = self.square - 2 * (mean * self.cross).sum(0) + (mean * (self.information @ mean)).sum(0)
        constant = self.rows * (noise.log() + math.log(2 * math.pi))
        total: Tensor = 0.5 * (error / noise + self.logdet + constant).sum()
        return total

    def best(self, basis: Tensor, *, restricted: bool) -> tuple[Tensor, Tensor, Tensor]:
        r"""Where the likelihood is greatest for this prior.

        Of the restricted likelihood (REML), the density of the targets is integrated over the mean: rows count
        less the `p` columns of the basis, and $\tfrac12 \log|X^\top (I + ZVZ^\top)^{-1} X|$ is added.

        Arguments:
            basis: of the columns that differ, `(D, p)`.
            restricted: take the restricted likelihood.

        Returns:
            The negative log likelihood, the mean `(D, C)` and the noise variance `(C,)`.
        """
        factor = torch.linalg.cholesky(basis.mT @ self.information @ basis)
        half = torch.linalg.solve_triangular(factor, basis.mT @ self.cross, upper=False)
        mean = basis @ torch.linalg.solve_triangular(factor.mT, half, upper=True)
        counted = self.rows - basis.shape[1] if restricted else self.rows
        noise = ((self.square - half.square().sum(0)) / counted).clamp(min=1e-10)
        value = counted * (noise.log() + math.log(2 * math.pi) + 1) + self.logdet
        if restricted:
            value = value + 2 * factor.diagonal().log().sum()
        return 0.5 * value.sum(), mean, noise


def basis_of(gram: Tensor) -> Tensor:
    """An orthonormal basis `(D, p)` of the columns that differ: one-hot sets and the constant, say, do not.

    Example:
        >>> columns = torch.tensor([[1.0, 0.0, 1.0], [0.0, 1.0, 1.0], [1.0, 0.0, 1.0]]).double()
        >>> basis_of(columns.T @ columns).shape
        torch.Size([3, 2])
    """
    values, vectors = torch.linalg.eigh(gram)
    basis: Tensor = vectors[:, values > _DIFFERENT * values[-1]]
    return basis


class Evidence(ABC):
    """All that the likelihood of a Gaussian head needs of the rows of `T` tasks."""

    @property
    @abstractmethod
    def sizes(self) -> tuple[int, int, int]:
        """Tasks `T`, columns `D`, the constant among them, and random effects `q`."""

    @property
    @abstractmethod
    def cost(self) -> float:
        """Multiplications for one value of the likelihood with its gradient, roughly."""

    @property
    @abstractmethod
    def gram(self) -> Tensor:
        """Products of the columns over all rows, `(D, D)`."""

    @abstractmethod
    def profile(self, root: Tensor) -> Profile:
        """What the rows say of the mean, given the root of the random effects' prior: `(q, q)`, or its diagonal."""

    @property
    def steps(self) -> int:
        """Steps that a search for the maximum may take: 300, of many columns what a bounded work allows."""
        return max(20, min(300, int(_WORK / self.cost))) if self.sizes[1] > MANY + 1 else 300


@dataclass(frozen=True)
class Moments(Evidence):
    """Sums over the rows of each task: all that the likelihood of a Gaussian head needs."""

    whole: Tensor  # (D, D), over all tasks
    cross: Tensor  # (D, C)
    square: Tensor  # (C,)
    inside: Tensor  # (T, q, D), of each task
    random: Tensor  # (q,), the columns with a random effect
    inside_cross: Tensor  # (T, q, C)
    rows: Tensor  # ()

    @staticmethod
    def of(design: Tensor, rows: Batch, random: Tensor) -> Moments:
        weight = row_weights(rows, design)
        design, target = counted_rows(design, weight), counted_rows(rows.y.double(), weight)
        flat, effects = design.flatten(0, 1), design[..., random].mT
        return Moments(
            flat.mT @ flat,
            flat.mT @ target.flatten(0, 1),
            target.square().sum((0, 1)),
            effects @ design,
            random,
            effects @ target,
            weight.sum(),
        )

    @property
    def sizes(self) -> tuple[int, int, int]:
        tasks, effects, columns = self.inside.shape
        return tasks, columns, effects

    @property
    def cost(self) -> float:
        tasks, columns, effects = self.sizes
        return 4.0 * tasks * effects * columns * (columns + effects)

    @property
    def gram(self) -> Tensor:
        return self.whole

    def profile(self, root: Tensor) -> Profile:
        if root.dim() == 1:
            turned, crossed = root.unsqueeze(-1) * self.inside, root.unsqueeze(-1) * self.inside_cross
            middle = turned[..., self.random] * root
        else:
            turned, crossed = root.mT @ self.inside, root.mT @ self.inside_cross
            middle = turned[..., self.random] @ root
        eye = torch.eye(root.shape[-1], dtype=root.dtype, device=root.device)
        factor = torch.linalg.cholesky(eye + middle)
        both = torch.linalg.solve_triangular(factor, torch.cat([turned, crossed], -1), upper=False)
        known, targets = both.flatten(0, 1).split([turned.shape[-1], crossed.shape[-1]], -1)
        return Profile(
            self.whole - known.mT @ known,
            self.cross - known.mT @ targets,
            self.square - targets.square().sum(0),
            _logdet(factor),
            self.rows,
        )


@dataclass(frozen=True)
class Rows(Evidence):
    r"""The rows themselves, for tasks with fewer rows than random effects.

    A task's targets have the covariance $\sigma^2 (I + Z V Z^\top)$, which is as large as it has rows.
    """

    design: Tensor  # (T, n, D), 0 where a row is padding
    random: Tensor  # (q,), the columns with a random effect
    target: Tensor  # (T, n, C)
    rows: Tensor  # ()

    @staticmethod
    def of(design: Tensor, rows: Batch, random: Tensor) -> Rows:
        weight = row_weights(rows, design)
        target = counted_rows(rows.y.double(), weight)
        return Rows(counted_rows(design, weight), random, target, weight.sum())

    @property
    def sizes(self) -> tuple[int, int, int]:
        return self.design.shape[0], self.design.shape[-1], len(self.random)

    @property
    def cost(self) -> float:
        tasks, rows, columns = self.design.shape
        return 4.0 * tasks * rows * (rows * (columns + rows) + columns**2)

    @property
    def gram(self) -> Tensor:
        flat = self.design.flatten(0, 1)
        return flat.mT @ flat

    def profile(self, root: Tensor) -> Profile:
        effects = self.design[..., self.random]
        half = effects * root if root.dim() == 1 else effects @ root
        eye = torch.eye(half.shape[1], dtype=half.dtype, device=half.device)
        factor = torch.linalg.cholesky(eye + half @ half.mT)
        both = torch.linalg.solve_triangular(factor, torch.cat([self.design, self.target], -1), upper=False)
        known, targets = both.flatten(0, 1).split([self.design.shape[-1], self.target.shape[-1]], -1)
        square = targets.square().sum(0)
        return Profile(known.mT @ known, known.mT @ targets, square, _logdet(factor), self.rows)


def _logdet(factor: Tensor) -> Tensor:
    return 2 * factor.diagonal(dim1=-2, dim2=-1).log().sum()


def pooled(design: Tensor, rows: Batch) -> tuple[Tensor, Tensor]:
    """Least squares on all rows together, `(D, C)`, and its noise variance `(C,)`."""
    weight = row_weights(rows, design)
    flat, target = (
        counted_rows(design, weight).flatten(0, 1),
        counted_rows(rows.y.double(), weight).flatten(0, 1),
    )
    gram, cross = flat.mT @ flat, flat.mT @ target
    # collinear columns (one-hot sets, say) get the shortest solution
    mean = torch.linalg.lstsq(gram, cross, driver="gelsd").solution
    error = target.square().sum(0) - 2 * (mean * cross).sum(0) + (mean * (gram @ mean)).sum(0)
    return mean, (error / weight.sum()).clamp(min=1e-10)


def shrunken(design: Tensor, rows: Batch) -> Params:
    r"""A prior for more columns than the rows can tell apart: its mean has a Gaussian of its own.

    $m \sim N(0, \sigma^2 \tau^2 I)$, and the covariance is $s^2$ for every slope and $c^2$ for the constant.
    The three numbers maximise the likelihood of all rows, whose covariance is
    $\sigma^2 (I + \tau^2 \Phi\Phi^\top + B)$, where $B = \Phi V \Phi^\top$ within tasks and 0 between them;
    $\sigma^2$ has its maximum in closed form, and the mean is that of $m$ given the rows. Of many rows, the first
    tasks decide the three numbers.

    Arguments:
        design: `(T, n, D)`, the constant last.
        rows: their targets `(T, n, C)` and weights.

    Returns:
        The meta-parameters of the head, in float64.
    """
    from scipy.optimize import minimize

    inside = row_weights(rows, design) > 0
    x, y = design[inside], rows.y.double()[inside]
    task = torch.arange(len(inside), device=inside.device).unsqueeze(1).expand_as(inside)[inside]
    few = slice(0, _ROWS)
    kernels = _kernels(x[few], task[few])

    def objective(flat: np.ndarray) -> tuple[float, np.ndarray]:
        leaf = torch.from_numpy(flat).requires_grad_()
        with torch.enable_grad():
            factor = torch.linalg.cholesky(_covariance(kernels, leaf))
            error = torch.linalg.solve_triangular(factor, y[few], upper=False).square().mean(0)
            value = y.shape[1] * factor.diagonal().log().sum() + 0.5 * len(factor) * error.log().sum()
            (grad,) = torch.autograd.grad(value, leaf)
        return value.item(), grad.numpy()

    size = -0.5 * math.log(x.shape[1])  # predictions and targets of about the same size
    best = minimize(
        objective, [size, size - 1, -1.0], jac=True, method="L-BFGS-B", bounds=[(-9.0, 6.0)] * 3,
        options={"maxiter": 50},
    )  # fmt: skip
    logs = torch.from_numpy(best.x)
    factor = torch.linalg.cholesky(_covariance(_kernels(x, task), logs))
    solved = torch.cholesky_solve(y, factor)
    noise = (y * solved).mean(0).clamp(min=1e-10)
    root = torch.diag(torch.cat([logs[1].expand(x.shape[1] - 1), logs[2:]]))
    return {
        "head/mean": (2 * logs[0]).exp() * (x.mT @ solved),
        "head/root": root,
        "head/log_noise": noise.log() / 2,
    }


def _kernels(x: Tensor, task: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Products of rows: of all columns, and within tasks of the slopes and of the constant."""
    together = (task.unsqueeze(0) == task.unsqueeze(1)).to(x.dtype)
    every = x @ x.mT
    return every, together * (every - 1), together


def _covariance(kernels: tuple[Tensor, Tensor, Tensor], logs: Tensor) -> Tensor:
    """The covariance of all rows in units of the noise, for logarithms of tau, s and c."""
    total = torch.eye(len(kernels[0]), dtype=kernels[0].dtype, device=kernels[0].device)
    for kernel, log in zip(kernels, logs, strict=True):
        total = total + (2 * log).exp() * kernel
    return total
