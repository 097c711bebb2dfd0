"""The prior of a Gaussian head that is most likely, and which of many columns have a random effect at all."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from ...models.network import Params
from ...tasks.episodes import Batch
from .base import counted_rows, row_weights
from .evidence import Evidence, Moments, basis_of

__all__ = ["FIXED", "most_likely", "telling"]

# on the diagonal of a raw root: the coefficient is the same in every task
FIXED = -30.0
# logarithms of standard deviations per noise between which they are looked for; e^-9 is no variation at all
_LEAST, _MOST = -9.0, 6.0
# slopes with a random effect that are looked for at most
_SLOPES = 20


def most_likely(
    evidence: Evidence, form: str, *, restricted: bool = False, start: Tensor | None = None
) -> tuple[float, Params]:
    """The lowest negative log likelihood of a prior of one form, and where it is.

    Mean and noise are in closed form given the root of the prior, so that the search is over the root alone.

    Arguments:
        evidence: the rows.
        form: of the covariance: `full`, `diagonal` or `shared`.
        restricted: take the restricted likelihood (REML).
        start: a raw root to begin at, `(q, q)`.

    Returns:
        The value, and the meta-parameters of the head in float64.
    """
    from scipy.optimize import minimize

    size, basis = evidence.sizes[2], basis_of(evidence.gram)
    # SciPy's search is the CPU's
    rows, columns = (torch.arange(size, device="cpu"),) * 2
    if form == "full":
        rows, columns = torch.tril_indices(size, size, device="cpu")

    def raw(flat: Tensor) -> Tensor:
        """The entries of the root that are looked for."""
        return torch.cat([flat[:1].expand(size - 1), flat[-1:]]) if form == "shared" else flat

    def objective(flat: np.ndarray) -> tuple[float, np.ndarray]:
        leaf = torch.from_numpy(flat).requires_grad_()
        with torch.enable_grad():
            entries = raw(leaf)
            if form == "full":
                entries = torch.where(rows == columns, entries.exp(), entries)
                root = entries.new_zeros(size, size).index_put((rows, columns), entries)
            else:
                root = entries.exp()
            value, _, _ = evidence.profile(root).best(basis, restricted=restricted)
            (grad,) = torch.autograd.grad(value, leaf)
        return value.item(), grad.numpy()

    begin = (
        torch.full((size, size), -1.0, dtype=torch.float64, device="cpu").diagonal().diag()
        if start is None
        else start
    )
    flat = begin[rows, columns] if form != "shared" else begin.diagonal()[[0, -1]] if size > 1 else begin[0]
    free = [(_LEAST, _MOST)] * len(flat)
    if form == "full":
        free = [
            (_LEAST, _MOST) if row == column else (-400.0, 400.0)
            for row, column in zip(rows, columns, strict=True)
        ]
    options = {"maxiter": evidence.steps, "maxcor": 20, "ftol": 1e-13, "gtol": 1e-7}
    best = minimize(objective, flat.numpy(), jac=True, method="L-BFGS-B", bounds=free, options=options)
    root = torch.zeros(size, size, dtype=torch.float64, device="cpu")
    root[rows, columns] = raw(torch.from_numpy(best.x))
    whole = torch.tril(root, -1) + root.diagonal().exp().diag()
    value, mean, noise = evidence.profile(whole).best(basis, restricted=restricted)
    return value.item(), {"head/mean": mean, "head/root": root, "head/log_noise": noise.log() / 2}


def telling(design: Tensor, rows: Batch) -> list[int]:
    r"""Columns whose coefficients are seen to differ among tasks, the constant last.

    Forward selection: the column is added whose variance has the greatest score
    $z_j = \tfrac12\sum_t [(x_{tj}^\top V_t^{-1} r_t)^2 - x_{tj}^\top V_t^{-1} x_{tj}] /
    \sqrt{\tfrac12 \sum_t (x_{tj}^\top V_t^{-1} x_{tj})^2}$ under the model so far, while
    $z_j^2 > \log T + 2 \log F$: the score test of a variance (Lin, 1997, *Variance Component Testing in Generalised
    Linear Models with Random Effects*) at the price of the extended information criterion (Chen & Chen, 2008).

    Arguments:
        design: `(T, n, D)`, the constant last.
        rows: their targets `(T, n, C)` and weights.

    Returns:
        Their positions; at most 20, and one for five tasks.
    """
    tasks, _, size = design.shape
    weight = row_weights(rows, design)
    design, target = counted_rows(design, weight), counted_rows(rows.y.double(), weight)
    chosen, start, price = [size - 1], None, math.log(tasks) + 2 * math.log(size - 1)
    for _ in range(min(_SLOPES, tasks // 5)):
        evidence = Moments.of(design, rows, torch.tensor(chosen, device=design.device))
        # many columns take many rows, and a noise that does not count them is too small
        _, params = most_likely(evidence, "diagonal", restricted=True, start=start)
        score = _scores(design, target - design @ params["head/mean"], chosen, params)
        score[chosen] = -math.inf
        best = int(score.argmax())
        if not score[best] > math.sqrt(price):
            break
        logs = params["head/root"].diagonal()
        chosen, start = [best, *chosen], torch.cat([logs.new_full((1,), -1.0), logs]).diag()
    return [*sorted(chosen[:-1]), size - 1]


def _scores(design: Tensor, residual: Tensor, chosen: list[int], params: Params) -> Tensor:
    """The standardised score of the variance of each column, `(D,)`, summed over outputs."""
    half = design[..., chosen] * params["head/root"].diagonal().exp()
    factor = torch.linalg.cholesky(
        torch.eye(len(chosen), dtype=half.dtype, device=half.device) + half.mT @ half
    )
    known = torch.linalg.solve_triangular(factor, half.mT @ design, upper=False)
    seen = torch.linalg.solve_triangular(factor, half.mT @ residual, upper=False)
    size = design.square().sum(1) - known.square().sum(1)
    pull = design.mT @ residual - known.mT @ seen
    noise = (2 * params["head/log_noise"]).exp()
    gain = 0.5 * (pull.square() / noise - size.unsqueeze(-1)).sum((0, 2))
    spread = (0.5 * len(noise) * size.square().sum(0)).clamp(min=1e-30).sqrt()
    score: Tensor = gain / spread
    return score
