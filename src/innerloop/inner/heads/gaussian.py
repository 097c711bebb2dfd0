"""The Gaussian head: Bayesian linear regression with a learned prior (the linear mixed model, ALPaCA)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ...errors import check_known
from ...models.network import Params
from ...tasks.episodes import Batch, to
from .base import (
    COVARIANCES,
    ValueHead,
    check_sizes,
    factored,
    prior_root,
    row_weights,
    target_columns,
    with_constant,
)
from .evidence import MANY, Evidence, Moments, Rows, shrunken

__all__ = ["GaussianHead", "pooled_least_squares"]


@dataclass(frozen=True)
class GaussianHead(ValueHead):
    r"""Bayesian linear regression with a learned Gaussian prior, shared by all tasks.

    $y = w^\top \phi + \epsilon,\; w \sim N(m, \sigma^2 V),\; \epsilon \sim N(0, \sigma^2)$, with a constant 1
    appended to the features. The posterior given the support set is
    $V_n = (V^{-1} + \Phi^\top\Phi)^{-1},\; m_n = m + V_n \Phi^\top (y - \Phi m)$.
    With identity features this is the linear mixed model, and $m_n$ the BLUP of a task's coefficients (Laird & Ware,
    1982, *Random-Effects Models for Longitudinal Data*); predictions are those of Kriging with the kernel
    $\phi^\top V \phi'$. With learned features it is ALPaCA (Harrison, Sharma & Pavone, 2018, *Meta-Learning Priors
    for Efficient Online Bayesian Regression*).

    Arguments:
        n_features: features `F`, the constant not counted.
        n_outputs: targets `C`; they share `V` and have a mean and a noise of their own.
        covariance: `full`, `diagonal`, or `auto`: the better of the two by the Bayesian information criterion
            (only `fit` can choose; trained by gradients it is full).

    Raises:
        UsageError: `covariance` is unknown, or a size is no positive number.

    Example:
        >>> head = GaussianHead(2, 1)
        >>> meta = head.init()
        >>> support = Batch(torch.zeros(1, 3, 2), torch.ones(1, 3, 1))
        >>> own = head.solve(meta, support.x, support)
        >>> round(head.predict(meta, own, torch.zeros(1, 1, 2)).item(), 2)  # 3 rows of 1 against a prior at 0
        0.75
    """

    fits_directly = True

    n_features: int
    n_outputs: int = 1
    covariance: str = "auto"

    def __post_init__(self) -> None:
        """Refuse what has no meaning."""
        check_known("covariance", self.covariance, COVARIANCES)
        check_sizes("the Gaussian head", n_features=self.n_features, n_outputs=self.n_outputs)

    def init(self) -> Params:
        """Prior mean 0 (fixed effects), covariance 1 (of the random effects), noise 1."""
        size = self.n_features + 1
        return {
            "head/mean": torch.zeros(size, self.n_outputs),
            "head/root": torch.zeros(size, size),
            "head/log_noise": torch.zeros(self.n_outputs),
        }

    def base(self, meta: Params, count: int) -> Params:
        """The prior."""
        mean, root = meta["head/mean"], self._root(meta)
        return {
            "head/weights": mean.expand(count, *mean.shape),
            "head/spread": root.expand(count, *root.shape),
        }

    def solve(self, meta: Params, features: Tensor, support: Batch) -> Params:
        r"""The posterior, as its mean and a root of $V_n$; finite for a singular prior and for no rows."""
        design = with_constant(features).double()
        target = target_columns(support, self.n_outputs).double()
        weighted = design * row_weights(support, design).unsqueeze(-1)
        root, mean = self._root(meta).double(), meta["head/mean"].double()
        gram = weighted.mT @ design
        # V_n = L (I + L' G L)^-1 L' with V = L L': no inverse of V
        middle = torch.eye(root.shape[-1], dtype=root.dtype, device=root.device) + root.mT @ gram @ root
        spread = torch.linalg.solve_triangular(factored(middle), root.mT.expand_as(middle), upper=False).mT
        weights = mean + spread @ (spread.mT @ (weighted.mT @ (target - design @ mean)))
        return {"head/weights": weights.to(features.dtype), "head/spread": spread.to(features.dtype)}

    def predict(self, meta: Params, adapted: Params, features: Tensor) -> Tensor:
        """Posterior mean `(T, n, C)`."""
        return with_constant(features) @ adapted["head/weights"]

    def variance(self, meta: Params, adapted: Params, features: Tensor) -> Tensor:
        r"""Predictive variance $\sigma^2 (1 + \phi^\top V_n \phi)$ of a new row, `(T, n, C)`."""
        leverage = (with_constant(features) @ adapted["head/spread"]).square().sum(-1, keepdim=True)
        return meta["head/log_noise"].mul(2).exp() * (1 + leverage)

    def fit(self, meta: Params, features: Tensor, rows: Batch) -> Params:
        """Maximum marginal likelihood of all rows (ML), by L-BFGS in float64 from pooled least squares.

        With more than 64 columns the likelihood is computed from the rows of a task where it has fewer of them than
        columns, which is the same. Where all tasks together have fewer than two rows a column, ML would follow
        every row: then the mean is drawn from a Gaussian too, and all slopes vary alike (`evidence.shrunken`).
        """
        # torch's solver of the shortest solution and SciPy's search are the CPU's
        design, rows = with_constant(features).double().cpu(), to(rows, "cpu")
        wide = self.n_features > MANY
        if wide and row_weights(rows, design).sum() < 2 * design.shape[-1]:
            params = shrunken(design, rows)
            return {name: params[name].to(meta[name]) for name in params}
        of = Rows.of if wide and design.shape[1] < design.shape[2] else Moments.of
        return self._best(meta, of(design, rows))

    def _best(self, meta: Params, evidence: Evidence) -> Params:
        """The maximum, with the covariance that was asked for or that the information criterion prefers."""
        diagonal = self.covariance == "diagonal"
        value, params = self._maximise(evidence, diagonal=diagonal or self.covariance == "auto")
        extra = self.n_features * (self.n_features + 1) / 2
        tasks, _ = evidence.sizes
        if self.covariance == "full" or (self.covariance == "auto" and extra < tasks):
            # numbers beyond the diagonal must earn log(tasks)/2 each; more of them than tasks never do
            price = 0.0 if self.covariance == "full" else 0.5 * math.log(tasks) * extra
            full, candidate = self._maximise(evidence, diagonal=False, start=params)
            params = candidate if full + price < value else params
        return {name: params[name].to(meta[name]) for name in params}

    def _root(self, meta: Params) -> Tensor:
        """Lower triangular L with a positive diagonal, V = L L'."""
        return prior_root(meta["head/root"], diagonal=self.covariance == "diagonal")

    def _maximise(
        self, evidence: Evidence, *, diagonal: bool, start: Params | None = None
    ) -> tuple[float, Params]:
        """The lowest negative log evidence and where it is."""
        from scipy.optimize import minimize

        start = start or evidence.start()
        size = self.n_features + 1
        entries = torch.eye(size, device="cpu") if diagonal else torch.ones(size, size, device="cpu").tril()
        rows, columns = entries.nonzero().T
        shapes = {"head/mean": start["head/mean"].shape, "head/log_noise": start["head/log_noise"].shape}

        def unpack(flat: Tensor) -> Params:
            mean, noise, free = torch.split(flat, [*(shape.numel() for shape in shapes.values()), len(rows)])
            root = flat.new_zeros(size, size).index_put((rows, columns), free)
            return {
                "head/mean": mean.reshape(shapes["head/mean"]),
                "head/root": root,
                "head/log_noise": noise.reshape(shapes["head/log_noise"]),
            }

        def objective(flat: np.ndarray) -> tuple[float, np.ndarray]:
            leaf = torch.from_numpy(flat).requires_grad_()
            with torch.enable_grad():
                params = unpack(leaf)
                sparse = diagonal and evidence.wide
                root = params["head/root"].diagonal().exp() if sparse else self._root(params)
                value = evidence.negative_log_evidence(params["head/mean"], root, params["head/log_noise"])
                (grad,) = torch.autograd.grad(value, leaf)
            return value.item(), grad.numpy()

        parts = (start["head/mean"], start["head/log_noise"], start["head/root"][rows, columns])
        flat = torch.cat([part.double().flatten() for part in parts]).numpy()
        # a bounded root keeps every trial of the line search positive definite; e^-9 is no variation at all
        free = [
            (-9.0, 6.0) if row == column else (-400.0, 400.0)
            for row, column in zip(rows, columns, strict=True)
        ]
        bounds = [(None, None)] * (len(flat) - len(free)) + free
        options = {"maxiter": evidence.steps, "maxcor": 20}
        best = minimize(objective, flat, jac=True, method="L-BFGS-B", bounds=bounds, options=options)
        return float(best.fun), unpack(torch.from_numpy(best.x))


def pooled_least_squares(features: Tensor, rows: Batch) -> tuple[Tensor, Tensor]:
    """Least squares on the rows of all tasks together.

    Arguments:
        features: `(T, n, F)`.
        rows: their targets and weights.

    Returns:
        Weights `(F + 1, C)`, the constant's last, and the noise variance `(C,)`, in float64 on the CPU.

    Example:
        >>> rows = Batch(torch.zeros(1, 2, 1), torch.ones(1, 2, 1))
        >>> pooled_least_squares(rows.x, rows)[0].flatten().tolist()
        [0.0, 1.0]
    """
    return Moments.of(with_constant(features).double().cpu(), to(rows, "cpu")).pooled()
