"""The Gaussian process head: regression with a kernel over the rows of a task, shared by all tasks."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ...models.network import Params
from ...tasks.episodes import Batch
from .base import ValueHead, check_sizes, counted_rows, factored, row_weights, target_columns
from .inducing import projected
from .kernels import Kernel
from .process_fit import Search, fitted
from .process_prior import ProcessPrior

__all__ = ["MOST_ROWS", "GaussianProcessHead"]

# rows of a task up to which the posterior is exact; of more, so many stand for all
MOST_ROWS = 512


@dataclass(frozen=True)
class GaussianProcessHead(ValueHead):
    r"""A Gaussian process over the rows of a task, whose mean, kernel and noise are shared by all tasks.

    $y = m(x) + f_t(x) + \epsilon,\; f_t \sim GP(0, \sigma^2 k),\; \epsilon \sim N(0, \sigma^2 s(x))$. The posterior
    given the support set is $f_t(x) = k(x, X) \alpha,\; \alpha = (K + S)^{-1} (y - m(X))$, its variance
    $\sigma^2 (k(x, x) - k(x, X) (K + S)^{-1} k(X, x))$. Rasmussen & Williams, 2006, *Gaussian Processes for Machine
    Learning*, algorithm 2.1. With the kernel `linear` alone it is the linear mixed model (`GaussianHead`).

    A task with more than 512 support rows is represented by 512 of them, chosen by a pivoted Cholesky
    factorisation; all its targets count (the projected process, chapter 8.3.4 there). What is kept of a task, and
    the time of a prediction, is thus bounded; the rest is linear in its rows.

    Arguments:
        n_features: features `F`.
        n_outputs: targets `C`; they share the kernel and have a mean and a noise of their own.
        kernel: a sum of parts, see `Kernel`.
        mean: `constant`, `line`, or `squares`: a line in the features and their squares.
        noise: `constant`, or `log_linear`: its logarithm is a line in the features, bounded so that no row is
            certain.
        search: how `fit` looks for the meta-parameters; as `process_fit.Search` has it unless given.

    Raises:
        UsageError: an argument has no meaning.

    Example:
        >>> head = GaussianProcessHead(1, kernel="squared_exponential", mean="constant")
        >>> support = Batch(torch.zeros(1, 3, 1), torch.ones(1, 3, 1))
        >>> own = head.solve(head.init(), support.x, support)
        >>> round(
        ...     head.predict(head.init(), own, torch.zeros(1, 1, 1)).item(), 2
        ... )  # 3 rows of 1 against a mean of 0
        0.75
    """

    fits_directly = True

    n_features: int
    n_outputs: int = 1
    kernel: str = "linear+matern32"
    mean: str = "line"
    noise: str = "constant"
    search: Search | None = None

    def __post_init__(self) -> None:
        """Refuse what has no meaning."""
        check_sizes("the Gaussian process", n_features=self.n_features, n_outputs=self.n_outputs)
        self.prior  # noqa: B018  unknown names are refused here

    @property
    def prior(self) -> ProcessPrior:
        """Mean, kernel and noise."""
        kernel = Kernel.named(self.kernel, self.n_features)
        return ProcessPrior(kernel, self.n_outputs, self.mean, self.noise)

    def init(self) -> Params:
        """Mean 0, every part of the kernel and the noise of variance 1."""
        return {**self.prior.init(), "head/log_noise": torch.zeros(self.n_outputs)}

    def base(self, meta: Params, count: int) -> Params:
        """No rows: the prior."""
        like = meta["head/mean"].double()
        shapes = {"rows": (0, self.n_features), "weights": (0, self.n_outputs), "root": (0, 0)}
        return {f"head/{name}": like.new_zeros(count, *shape) for name, shape in shapes.items()}

    def solve(self, meta: Params, features: Tensor, support: Batch) -> Params:
        r"""Rows, their weights $\alpha$, and a root R of the inverse, $R^\top R = (K + S)^{-1}$, in double precision.

        Where a row is padding, all three are 0, so that it changes nothing.
        """
        weight = row_weights(support, features).double()
        rows = counted_rows(features.double(), weight)
        rest = counted_rows(
            target_columns(support, self.n_outputs).double() - self.prior.mean_of(meta, rows), weight
        )
        noise = self.prior.relative_noise(meta, rows) / torch.where(weight > 0, weight, 1)
        if rows.shape[1] > MOST_ROWS:
            kept = projected(self.prior.kernel, meta, rows, rest, noise, weight > 0, most=MOST_ROWS)
        else:
            kept = (rows, *_exact(self.prior.kernel(meta, rows, rows), rest, noise, weight > 0))
        return dict(zip(("head/rows", "head/weights", "head/root"), kept, strict=True))

    def predict(self, meta: Params, adapted: Params, features: Tensor) -> Tensor:
        """Posterior mean `(T, n, C)`."""
        rows = features.double()
        cross = self.prior.kernel(meta, rows, adapted["head/rows"])
        return (self.prior.mean_of(meta, rows) + cross @ adapted["head/weights"]).to(features.dtype)

    def variance(self, meta: Params, adapted: Params, features: Tensor) -> Tensor:
        """Predictive variance of a new row, noise included, `(T, n, C)`."""
        rows = features.double()
        cross = self.prior.kernel(meta, rows, adapted["head/rows"])
        known = (cross @ adapted["head/root"].mT).square().sum(-1)
        left = (self.prior.kernel.diagonal(meta, rows) - known).clamp(min=0)
        total = (left + self.prior.relative_noise(meta, rows)).unsqueeze(-1)
        return ((2 * meta["head/log_noise"].double()).exp() * total).to(features.dtype)

    def fit(self, meta: Params, features: Tensor, rows: Batch) -> Params:
        """The maximum of the marginal likelihood of all tasks, see `process_fit.fitted`."""
        params = fitted(self.prior, features, rows, self.search or Search())
        return {name: params[name].to(meta[name]) for name in params}

    def remarks(self, meta: Params, rows: Batch) -> tuple[str, ...]:
        """What of the rows the search for the kernel has not looked at."""
        tasks, most = rows.y.shape[:2]
        return (self.search or Search()).left_out(tasks, most, len(meta["head/mean"]))


def _exact(kernel: Tensor, rest: Tensor, noise: Tensor, counted: Tensor) -> tuple[Tensor, Tensor]:
    """The weights of the rows and the root of the inverse."""
    inside = counted.to(kernel.dtype)
    total = inside.unsqueeze(-1) * kernel * inside.unsqueeze(-2) + torch.diag_embed(
        torch.where(counted, noise, 1)
    )
    root = torch.linalg.solve_triangular(factored(total), torch.diag_embed(inside), upper=False)
    return root.mT @ (root @ rest), root
