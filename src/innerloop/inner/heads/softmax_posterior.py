"""The posterior of logits under a Gaussian prior and a softmax, taken for a Gaussian at its mode (Laplace)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .base import factored

__all__ = ["SoftmaxPosterior", "mode", "told"]

# lengths of a Newton step to choose among: the whole step but where the posterior is far from a parabola
_LENGTHS = (1.0, 0.5, 0.25, 0.1, 0.02)


class SoftmaxPosterior(NamedTuple):
    """The posterior of logits with a Gaussian prior, in the space of the rows: logits are offset + kernel @ weights."""

    kernel: Tensor  # (T, n, n)
    offset: Tensor  # (T, n, C), the logits of the prior mean
    target: Tensor  # (T, n, C), 0/1
    weight: Tensor  # (T, n, 1)


def mode(problem: SoftmaxPosterior, steps: int) -> Tensor:
    """The weights `(T, n, C)` of the rows at the mode, by damped Newton steps of which the last is differentiated.

    Because a Newton step at the mode does not depend on where it starts, that is the derivative of the mode.
    """
    with torch.no_grad():
        rows = torch.zeros_like(problem.offset)
        for _ in range(steps):
            rows = _damped(problem, rows, _step(problem, rows))
    return _step(problem, rows)


def _negative_log_posterior(problem: SoftmaxPosterior, rows: Tensor) -> Tensor:
    """Of each task, but for a constant; leading axes of `rows` before `(T, n, C)` are kept."""
    shift = problem.kernel @ rows
    logits = problem.offset + shift
    fit = logits.logsumexp(-1, keepdim=True) - (logits * problem.target).sum(-1, keepdim=True)
    penalty = 0.5 * (rows * shift).sum((-1, -2))
    return penalty + (problem.weight * fit).sum((-1, -2))


def _damped(problem: SoftmaxPosterior, before: Tensor, after: Tensor) -> Tensor:
    """The best of several lengths of a step, for each task."""
    lengths = after.new_tensor(_LENGTHS).reshape(-1, 1, 1, 1)
    trials = before + lengths * (after - before)
    best = _negative_log_posterior(problem, trials).argmin(0)
    return before + lengths[best].reshape(-1, 1, 1) * (after - before)


def _curvature(problem: SoftmaxPosterior, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    r"""Probabilities `(T, n, C)`, $E_k = (K + D_k^{-1})^{-1}$ `(T, C, n, n)` and the factor of their sum."""
    chance = (problem.offset + problem.kernel @ rows).softmax(-1)
    # the clamp keeps the derivative of the root finite where a probability underflows
    root = (chance.clamp(min=torch.finfo(chance.dtype).tiny ** 0.5) * problem.weight).mT.unsqueeze(-1)
    root = torch.where(root > 0, root, torch.ones_like(root)).sqrt() * (root > 0)
    eye = torch.eye(rows.shape[1], dtype=rows.dtype, device=rows.device)
    factor = factored(eye + root * problem.kernel.unsqueeze(1) * root.mT)
    half = torch.linalg.solve_triangular(factor, root * eye, upper=False)
    blocks = half.mT @ half
    # a padded row has no part in any block; a 1 in its place keeps the sum regular
    absent = torch.diag_embed((problem.weight.squeeze(-1) == 0).to(rows.dtype))
    return chance, blocks, factored(blocks.sum(1) + absent)


def _step(problem: SoftmaxPosterior, rows: Tensor) -> Tensor:
    """Where Newton's method goes from `rows`: $(I + W K)^{-1} (W K rows + y - p)$."""
    chance, blocks, factor = _curvature(problem, rows)
    shift = chance * (problem.kernel @ rows)
    aim = problem.weight * (shift - chance * shift.sum(-1, keepdim=True) + problem.target - chance)
    seen = (blocks @ (problem.kernel @ aim).mT.unsqueeze(-1)).squeeze(-1)
    common = torch.cholesky_solve(seen.sum(1).unsqueeze(-1), factor)
    back = (blocks @ common.unsqueeze(1)).squeeze(-1)
    return aim - (seen - back).mT


def told(problem: SoftmaxPosterior, rows: Tensor) -> Tensor:
    """The diagonal blocks of $(K + W^{-1})^{-1}$, `(T, C, n, n)`."""
    _, blocks, factor = _curvature(problem, rows)
    half: Tensor = torch.linalg.solve_triangular(factor.unsqueeze(1), blocks, upper=False)
    return blocks - half.mT @ half
