"""A head whose tasks without a labelled row are predicted by one line for the rows of all tasks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ...models.network import Params
from ...tasks.episodes import Batch, to
from .base import ValueHead, counted_rows, row_weights, target_columns
from .process import GaussianProcessHead
from .process_evidence import ProcessEvidence
from .process_prior import ProcessPrior

__all__ = ["PooledBase", "pooled_line"]

# rows whose sums are made at once
_ROWS_AT_ONCE = 2**16


@dataclass(frozen=True)
class PooledBase(ValueHead):
    r"""A Gaussian process head, and for tasks that have no row yet the pooled line in place of its mean.

    The mean of a process says how a task's values change with its features, which is what its own rows are seen
    against. Where the tasks' levels go along with the features (rich countries are healthier, and a country that
    becomes richer does not become as much healthier), a row of an unknown task is better predicted by least squares
    on the rows of all tasks, which has both: Mundlak, 1978, *On the Pooling of Time Series and Cross Section Data*.

    Arguments:
        head: what a task with rows is predicted by.

    Example:
        >>> head = PooledBase(GaussianProcessHead(1))
        >>> x, y = (
        ...     torch.tensor([[[0.0], [1.0]], [[2.0], [3.0]]]),
        ...     torch.tensor([[[1.0], [1.0]], [[3.0], [3.0]]]),
        ... )
        >>> meta = head.init() | {
        ...     n: v.float() for n, v in pooled_line(head.head.prior, x, Batch(x, y)).items()
        ... }
        >>> head.predict(meta, head.base(meta, 1), torch.tensor([[[4.0]]])).item() > 3.5
        True
    """

    fits_directly = True

    head: GaussianProcessHead

    @property
    def n_outputs(self) -> int:  # type: ignore[override]
        """Targets `C`."""
        return self.head.n_outputs

    def init(self) -> Params:
        """Those of the head, and a pooled line of 0 with variance 1."""
        params = self.head.init()
        return {
            **params,
            "head/pooled_mean": torch.zeros_like(params["head/mean"]),
            "head/pooled_log_deviation": torch.zeros(self.n_outputs),
        }

    def base(self, meta: Params, count: int) -> Params:
        """No rows, and a mark that says so."""
        own = self.head.base(meta, count)
        return {**own, "head/begun": own["head/rows"].new_zeros(count, 1, 1)}

    def solve(self, meta: Params, features: Tensor, support: Batch) -> Params:
        """What the head keeps, and whether there was a row."""
        own = self.head.solve(meta, features, support)
        counted = row_weights(support, own["head/rows"]) > 0
        begun = counted.to(torch.float64).sum(1).clamp(max=1)
        return {**own, "head/begun": begun.reshape(-1, 1, 1)}

    def predict(self, meta: Params, adapted: Params, features: Tensor) -> Tensor:
        """Posterior mean `(T, n, C)`, or the pooled line."""
        line = self.head.prior.columns(features.double()) @ meta["head/pooled_mean"].double()
        value = self.head.predict(meta, adapted, features)
        return torch.where(adapted["head/begun"] > 0, value, line.to(features.dtype))

    def variance(self, meta: Params, adapted: Params, features: Tensor) -> Tensor:
        """Predictive variance of a new row, or that of all rows around the pooled line, `(T, n, C)`."""
        value = self.head.variance(meta, adapted, features)
        around = (2 * meta["head/pooled_log_deviation"]).exp().to(value.dtype).expand_as(value)
        return torch.where(adapted["head/begun"] > 0, value, around)

    def fit(self, meta: Params, features: Tensor, rows: Batch) -> Params:
        """The head's own fit, and the pooled line."""
        line = pooled_line(self.head.prior, features, rows)
        return {**self.head.fit(meta, features, rows), **{name: line[name].to(meta[name]) for name in line}}

    def remarks(self, meta: Params, rows: Batch) -> tuple[str, ...]:
        """Those of the head."""
        return self.head.remarks(meta, rows)


def pooled_line(prior: ProcessPrior, features: Tensor, rows: Batch) -> Params:
    r"""Ridge regression on the rows of all tasks, as strong as their marginal likelihood finds.

    $b \sim N(0, \sigma^2 \tau^2 I)$, a flat constant, and independent rows: `ProcessEvidence` without curves.

    Arguments:
        prior: its mean has the columns.
        features: `(T, n, F)`.
        rows: their targets and weights.

    Returns:
        `head/pooled_mean` `(D, C)` and `head/pooled_log_deviation` `(C,)` in float64 on the CPU.
    """
    from scipy.optimize import minimize

    evidence = _independent(prior, features.cpu(), to(rows, "cpu"))

    def objective(free: np.ndarray) -> tuple[float, np.ndarray]:
        leaf = torch.from_numpy(free).requires_grad_()
        with torch.enable_grad():
            value = evidence.mean(leaf, prior.n_outputs)[2]
            (grad,) = torch.autograd.grad(value, leaf)
        return value.item(), grad.numpy()

    taus = np.zeros(prior.powers)
    if prior.powers:
        taus = minimize(objective, taus, jac=True, method="L-BFGS-B", bounds=[(-9.0, 7.0)] * len(taus)).x
    with torch.no_grad():
        mean, variance, _ = evidence.mean(torch.from_numpy(taus), prior.n_outputs)
    return {"head/pooled_mean": mean, "head/pooled_log_deviation": variance.log() / 2}


def _independent(prior: ProcessPrior, features: Tensor, rows: Batch) -> ProcessEvidence:
    """The sums over all rows, some tasks at a time."""
    weight, targets = row_weights(rows, features).double(), target_columns(rows, prior.n_outputs)
    size, moments = max(1, _ROWS_AT_ONCE // max(weight.shape[1], 1)), []
    for start in range(0, len(weight), size):
        part, own = slice(start, start + size), weight[start : start + size]
        x, y = (counted_rows(values[part].double(), own) for values in (features, targets))
        known = torch.cat([counted_rows(prior.columns(x), own), y], -1)
        moments.append(torch.einsum("tnd,tn,tne->de", known, own, known))
    counted = weight[weight > 0]
    return ProcessEvidence(-counted.log().sum(), torch.stack(moments).sum(0), weight.new_tensor(len(counted)))
