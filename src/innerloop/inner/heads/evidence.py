"""The likelihood of a Gaussian head given the rows of all tasks, in the form that is cheap for their shapes."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ...models.network import Params
from ...tasks.episodes import Batch
from .base import counted_rows, row_weights

__all__ = ["MANY", "Evidence", "Moments", "Rows", "shrunken"]

# columns from which the cost of a fit is looked at
MANY = 64
# multiplications of a search for the maximum
_WORK = 1e11
# rows that decide the spread of a mean that is drawn too
_ROWS = 2000


class Evidence(ABC):
    """All that the likelihood of a Gaussian head needs of the rows of `T` tasks."""

    @property
    @abstractmethod
    def sizes(self) -> tuple[int, int]:
        """Tasks `T` and columns `D`, the constant among them."""

    @property
    @abstractmethod
    def cost(self) -> float:
        """Multiplications for one value of the likelihood with its gradient, roughly."""

    @abstractmethod
    def pooled(self) -> tuple[Tensor, Tensor]:
        """Least squares on all rows together, `(D, C)`, and its noise variance `(C,)`."""

    @abstractmethod
    def negative_log_evidence(self, mean: Tensor, root: Tensor, log_noise: Tensor) -> Tensor:
        """Negative log density of every target given mean `(D, C)`, prior root and noise `(C,)`.

        The root is `(D, D)`, or the diagonal of it, `(D,)`.
        """

    @property
    def wide(self) -> bool:
        """Whether there are so many columns that the cost is looked at."""
        return self.sizes[1] > MANY + 1

    @property
    def steps(self) -> int:
        """Steps that a search for the maximum may take: 300, of many columns what a bounded work allows."""
        return max(20, min(300, int(_WORK / self.cost))) if self.wide else 300

    def start(self) -> Params:
        """Where the search for the prior begins: pooled weights and noise, tasks that differ a little."""
        mean, noise = self.pooled()
        root = torch.diag(torch.full_like(mean[:, 0], -1.0))
        return {"head/mean": mean, "head/root": root, "head/log_noise": noise.log() / 2}


@dataclass(frozen=True)
class Moments(Evidence):
    """Sums over the rows of each task: all that the likelihood of a Gaussian head needs."""

    gram: Tensor  # (T, D, D)
    cross: Tensor  # (T, D, C)
    square: Tensor  # (T, C)
    rows: Tensor  # (T,)

    @staticmethod
    def of(design: Tensor, rows: Batch) -> Moments:
        target = rows.y.double()
        weight = row_weights(rows, design)
        weighted = design * weight.unsqueeze(-1)
        square = (target.square() * weight.unsqueeze(-1)).sum(1)
        return Moments(weighted.mT @ design, weighted.mT @ target, square, weight.sum(1))

    @property
    def sizes(self) -> tuple[int, int]:
        return self.gram.shape[0], self.gram.shape[-1]

    @property
    def cost(self) -> float:
        tasks, columns = self.sizes
        return 4.0 * tasks * columns**3

    def pooled(self) -> tuple[Tensor, Tensor]:
        gram, cross, rows = self.gram.sum(0), self.cross.sum(0), self.rows.sum()
        # collinear columns (one-hot sets, say) get the shortest solution
        mean = torch.linalg.lstsq(gram, cross, driver="gelsd").solution
        error = self.square.sum(0) - 2 * (mean * cross).sum(0) + (mean * (gram @ mean)).sum(0)
        return mean, (error / rows).clamp(min=1e-10)

    def negative_log_evidence(self, mean: Tensor, root: Tensor, log_noise: Tensor) -> Tensor:
        noise = (2 * log_noise).exp()
        residual = self.cross - self.gram @ mean
        error = self.square - 2 * (mean * self.cross).sum(1) + (mean * (self.gram @ mean)).sum(1)
        if root.dim() == 1:
            inside, turned = root.unsqueeze(-1) * self.gram * root, root.unsqueeze(-1) * residual
        else:
            inside, turned = root.mT @ self.gram @ root, root.mT @ residual
        factor = torch.linalg.cholesky(
            torch.eye(root.shape[-1], dtype=root.dtype, device=root.device) + inside
        )
        explained = torch.linalg.solve_triangular(factor, turned, upper=False).square().sum(1)
        return _total(error - explained, factor, self.rows, noise)


@dataclass(frozen=True)
class Rows(Evidence):
    r"""The rows themselves, for tasks with fewer rows than columns.

    A task's targets have the covariance $\sigma^2 (I + \Phi V \Phi^\top)$, which is as large as it has rows.
    """

    design: Tensor  # (T, n, D), 0 where a row is padding
    target: Tensor  # (T, n, C)
    rows: Tensor  # (T,)

    @staticmethod
    def of(design: Tensor, rows: Batch) -> Rows:
        weight = row_weights(rows, design)
        return Rows(counted_rows(design, weight), counted_rows(rows.y.double(), weight), weight.sum(1))

    @property
    def sizes(self) -> tuple[int, int]:
        return self.design.shape[0], self.design.shape[-1]

    @property
    def cost(self) -> float:
        tasks, rows, columns = self.design.shape
        return 4.0 * tasks * rows**2 * (columns + rows)

    def pooled(self) -> tuple[Tensor, Tensor]:
        design, target = self.design.flatten(0, 1), self.target.flatten(0, 1)
        mean = torch.linalg.lstsq(design, target, driver="gelsd").solution
        error = (target - design @ mean).square().sum(0)
        return mean, (error / self.rows.sum()).clamp(min=1e-10)

    def negative_log_evidence(self, mean: Tensor, root: Tensor, log_noise: Tensor) -> Tensor:
        noise = (2 * log_noise).exp()
        half = self.design * root if root.dim() == 1 else self.design @ root
        factor = torch.linalg.cholesky(
            torch.eye(half.shape[1], dtype=half.dtype, device=half.device) + half @ half.mT
        )
        residual = self.target - self.design @ mean
        error = torch.linalg.solve_triangular(factor, residual, upper=False).square().sum(1)
        return _total(error, factor, self.rows, noise)


def _total(error: Tensor, factor: Tensor, rows: Tensor, noise: Tensor) -> Tensor:
    """Negative log density of all tasks, of their errors `(T, C)` in the metric of the covariance and its factor."""
    logdet = 2 * factor.diagonal(dim1=-2, dim2=-1).log().sum(-1, keepdim=True)
    constant = rows.unsqueeze(-1) * (noise.log() + math.log(2 * math.pi))
    total: Tensor = 0.5 * (error / noise + logdet + constant).sum()
    return total


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
