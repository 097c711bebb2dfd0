"""The marginal likelihood of a Gaussian process over all tasks, with the mean and the noise solved for."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...models.network import Params
from .base import factored
from .process_prior import ProcessPrior

__all__ = ["ProcessEvidence", "TaskRows"]


class TaskRows(NamedTuple):
    """Rows of stacked tasks in double precision, 0 where a row is padding."""

    x: Tensor  # (T, n, F)
    columns: Tensor  # (T, n, D), of the mean function
    y: Tensor  # (T, n, C)
    weight: Tensor  # (T, n)

    def of(self, tasks: slice | Tensor) -> TaskRows:
        """Some of the tasks."""
        return TaskRows(*(part[tasks] for part in self))


@dataclass(frozen=True)
class ProcessEvidence:
    r"""What the rows of all tasks say of a kernel, with the mean's coefficients and the noise solved for.

    Given the kernel, $y_t \sim N(Z_t b, \sigma^2 C_t)$ with $C_t = K_t + S_t$. The coefficients of the mean are
    $b \sim N(0, \sigma^2 \tau^2 I)$, with one $\tau$ for each power of the features, and the constant is flat. With
    $A = \sum_t Z_t^\top C_t^{-1} Z_t + P$, where $P$ is $\tau^{-2}$ but 0 for the constant, and
    $g = \sum_t Z_t^\top C_t^{-1} y_t$:

    $\hat b = A^{-1} g,\quad \hat\sigma^2 = (\sum_t y_t^\top C_t^{-1} y_t - g^\top \hat b) / (N - 1)$,
    $-2 \log p = (N - 1)(\log 2\pi\hat\sigma^2 + 1) + \sum_t \log|C_t| + \log|A| + \sum \log \tau^2$.

    For $\tau \to \infty$ it is the restricted likelihood (REML) of Patterson & Thompson, 1971, *Recovery of Inter-block
    Information when Block Sizes are Unequal*; a smaller $\tau$, found by the same likelihood, shrinks a mean that has
    more coefficients than the rows can tell.
    """

    logdet: Tensor  # ()
    moments: Tensor  # (D + C, D + C), of columns and targets in the metric of C
    count: Tensor  # (), rows

    @staticmethod
    def of(prior: ProcessPrior, meta: Params, rows: TaskRows) -> ProcessEvidence:
        """The sums over tasks for one kernel."""
        counted = rows.weight > 0
        inside = counted.to(rows.x.dtype)
        noise = prior.relative_noise(meta, rows.x) / torch.where(counted, rows.weight, 1)
        kernel = inside.unsqueeze(-1) * prior.kernel(meta, rows.x, rows.x) * inside.unsqueeze(-2)
        covariance = kernel + torch.diag_embed(torch.where(counted, noise, 1))
        # torch declares no types for `apply`
        logdet, moments = _InMetric.apply(  # type: ignore[no-untyped-call]
            covariance, torch.cat([rows.columns, rows.y], -1)
        )
        return ProcessEvidence(logdet, moments, inside.sum())

    def mean(self, log_taus: Tensor, outputs: int) -> tuple[Tensor, Tensor, Tensor]:
        """The mean's coefficients `(D, C)`, the noise variance `(C,)` and the negative log likelihood `()`."""
        columns = len(self.moments) - outputs
        spread = log_taus.repeat_interleave((columns - 1) // max(len(log_taus), 1))
        shrink = torch.cat([(-2 * spread).exp(), spread.new_zeros(1)])
        factor = factored(self.moments[:columns, :columns] + torch.diag_embed(shrink))
        cross, square = self.moments[:columns, columns:], self.moments[columns:, columns:].diagonal()
        mean = torch.cholesky_solve(cross, factor)
        freedom = self.count - 1
        noise = ((square - (cross * mean).sum(0)) / freedom).clamp(min=1e-12)
        fit = freedom * (math.log(2 * math.pi) + 1 + noise.log())
        logdet = self.logdet + 2 * factor.diagonal().log().sum() + 2 * spread.sum()
        return mean, noise, 0.5 * (fit + logdet).sum()


class _InMetric(torch.autograd.Function):
    r"""$\sum_t \log|C_t|$ and $\sum_t B_t^\top C_t^{-1} B_t$ with the derivative in closed form.

    It is $g\, C^{-1} - W G W^\top$ with $W = C^{-1} B$, a third of the work of one through the factor.
    """

    @staticmethod
    def forward(ctx: Any, covariance: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
        factor = factored(covariance)
        solved = torch.cholesky_solve(known, factor)
        ctx.save_for_backward(factor, solved)
        logdet = 2 * factor.diagonal(dim1=-2, dim2=-1).log().sum()
        return logdet, torch.einsum("tnd,tne->de", known, solved)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        factor, solved = ctx.saved_tensors
        return grads[0] * torch.cholesky_inverse(factor) - solved @ grads[1].mT @ solved.mT, None
