"""The Gaussian head: Bayesian linear regression with a learned prior (the linear mixed model, ALPaCA)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ...errors import check_known
from ...models.network import Params
from ...tasks.episodes import Batch, to
from .base import (
    COVARIANCES,
    ValueHead,
    check_random,
    check_sizes,
    factored,
    prior_root,
    row_weights,
    target_columns,
    with_constant,
)
from .evidence import MANY, Evidence, Moments, Rows, pooled, shrunken
from .random_effects import FIXED, most_likely, telling

__all__ = ["LIKELIHOODS", "GaussianHead", "pooled_least_squares"]

LIKELIHOODS = ("ml", "reml")


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
        covariance: `full`, `diagonal`, `shared` (one variance for all slopes, one for the constant), or `auto`: the
            better of full and diagonal by the Bayesian information criterion (only `fit` can choose; trained by
            gradients it is full).
        random: columns whose coefficient differs among tasks, beside the constant; all unless given.
        likelihood: `ml`, or `reml`: restricted maximum likelihood, whose variances do not miss the numbers that
            the mean took (Patterson & Thompson, 1971, *Recovery of Inter-Block Information*).

    Raises:
        UsageError: an argument has no meaning.

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
    random: Sequence[int] | None = field(default=None, kw_only=True)
    likelihood: str = field(default="ml", kw_only=True)

    def __post_init__(self) -> None:
        """Refuse what has no meaning."""
        check_known("covariance", self.covariance, COVARIANCES)
        check_known("likelihood", self.likelihood, LIKELIHOODS)
        check_sizes("the Gaussian head", n_features=self.n_features, n_outputs=self.n_outputs)
        check_random("the Gaussian head", self.random, self.n_features)

    def init(self) -> Params:
        """Prior mean 0 (fixed effects), covariance 1 (of the random effects), noise 1."""
        effects = (self.n_features if self.random is None else len(self.random)) + 1
        return {
            "head/mean": torch.zeros(self.n_features + 1, self.n_outputs),
            "head/root": torch.zeros(effects, effects),
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
        weighted = (design * row_weights(support, design).unsqueeze(-1)).mT
        weights, spread = self.posterior(meta, weighted @ design, weighted @ target)
        return {"head/weights": weights.to(features.dtype), "head/spread": spread.to(features.dtype)}

    def posterior(self, meta: Params, gram: Tensor, product: Tensor) -> tuple[Tensor, Tensor]:
        r"""The posterior mean and a root of $V_n$; of $\Phi^\top\Phi$ `(T, D, D)` and $\Phi^\top Y$ `(T, D, C)`."""
        root, mean = self._root(meta).to(gram), meta["head/mean"].to(gram)
        # V_n = L (I + L' G L)^-1 L' with V = L L': no inverse of V
        middle = torch.eye(root.shape[-1], dtype=root.dtype, device=root.device) + root.mT @ gram @ root
        told = root.mT.expand(len(middle), *root.mT.shape)
        spread = torch.linalg.solve_triangular(factored(middle), told, upper=False).mT
        return mean + spread @ (spread.mT @ (product - gram @ mean)), spread

    def predict(self, meta: Params, adapted: Params, features: Tensor) -> Tensor:
        """Posterior mean `(T, n, C)`."""
        return with_constant(features) @ adapted["head/weights"]

    def variance(self, meta: Params, adapted: Params, features: Tensor) -> Tensor:
        r"""Predictive variance $\sigma^2 (1 + \phi^\top V_n \phi)$ of a new row, `(T, n, C)`."""
        leverage = (with_constant(features) @ adapted["head/spread"]).square().sum(-1, keepdim=True)
        return meta["head/log_noise"].mul(2).exp() * (1 + leverage)

    @property
    def effects(self) -> list[int]:
        """Columns with a random effect, the constant last."""
        slopes = range(self.n_features) if self.random is None else self.random
        return [*slopes, self.n_features]

    def fit(self, meta: Params, features: Tensor, rows: Batch) -> Params:
        """Maximum (restricted) marginal likelihood of all rows, by L-BFGS in float64; mean and noise in closed form.

        With more than 64 columns `auto` looks for those whose coefficients differ among tasks
        (`random_effects.telling`), and takes all slopes to vary alike where that is likelier. Where all tasks
        together have fewer than two rows a column, the likelihood would follow every row: then the mean is drawn
        from a Gaussian too, and all slopes vary alike (`evidence.shrunken`).
        """
        # torch's solver of the shortest solution and SciPy's search are the CPU's
        design, rows = with_constant(features).double().cpu(), to(rows, "cpu")
        if self.draws_mean(int(row_weights(rows, design).sum())):
            params = shrunken(design, rows)
            effects = torch.tensor(self.effects, device="cpu")
            params["head/root"] = params["head/root"][effects[:, None], effects]
        elif self.n_features > MANY and self.covariance == "auto" and self.random is None:
            params = self._chosen(design, rows)
        else:
            params = self._best(design, rows, self.effects)[1]
        return {name: params[name].to(meta[name]) for name in params}

    def draws_mean(self, rows: int) -> bool:
        """Whether `fit` draws the mean too, as so many rows cannot tell so many columns apart."""
        return self.n_features > MANY and rows < 2 * (self.n_features + 1)

    def random_effects(self, meta: Params) -> tuple[list[int], Tensor]:
        """Columns with a random effect, the constant last, and the root `(q, q)` of their prior covariance."""
        raw = meta["head/root"]
        varying = (raw.diagonal() > FIXED).tolist()
        positions = [column for column, varies in zip(self.effects, varying, strict=True) if varies]
        root = prior_root(raw, self._form, random=None, size=len(raw))
        chosen = torch.tensor([number for number, varies in enumerate(varying) if varies], device=root.device)
        return positions, root[chosen[:, None], chosen]

    def remarks(self, meta: Params, rows: Batch) -> tuple[str, ...]:
        """Which of many columns have a random effect, where `fit` has chosen them."""
        logs = meta["head/root"].diagonal()[:-1]
        if self.n_features <= MANY or self.covariance != "auto" or self.random is not None:
            return ()
        count = int((logs > FIXED).sum())
        if count == self.n_features:
            return (f"random effects: all {count} slopes vary among tasks, with one variance",)
        if count == 0:
            return (
                f"random effects: the constant; none of {self.n_features} slopes is seen to vary among tasks",
            )
        return (
            f"random effects: the constant and {count} of {self.n_features} slopes, chosen by the likelihood",
        )

    def _chosen(self, design: Tensor, rows: Batch) -> Params:
        """The prior of many columns: a few that differ among tasks, or all alike, by the information criterion."""
        few = telling(design, rows)
        value, params = self._best(design, rows, few)
        alike, together = most_likely(
            self.evidence(design, rows, self.effects), "shared", restricted=self.likelihood == "reml"
        )
        tasks, count = len(design), len(few) - 1
        # which columns they are is chosen too: the extended criterion of Chen & Chen, 2008
        ways = (
            math.lgamma(self.n_features + 1)
            - math.lgamma(count + 1)
            - math.lgamma(self.n_features - count + 1)
        )
        if alike + 0.5 * math.log(tasks) < value + 0.5 * math.log(tasks) * count + ways:
            return together
        root = torch.zeros(len(self.effects), len(self.effects), dtype=torch.float64, device="cpu")
        root.fill_diagonal_(FIXED)
        chosen = torch.tensor(few, device="cpu")
        root[chosen[:, None], chosen] = params["head/root"]
        return {**params, "head/root": root}

    def _best(self, design: Tensor, rows: Batch, effects: list[int]) -> tuple[float, Params]:
        """The maximum, with the covariance that was asked for or that the information criterion prefers."""
        evidence, restricted = self.evidence(design, rows, effects), self.likelihood == "reml"
        asked = self.covariance
        value, params = most_likely(
            evidence, "diagonal" if asked in ("auto", "full") else asked, restricted=restricted
        )
        extra, tasks = len(effects) * (len(effects) - 1) / 2, len(design)
        if extra and (asked == "full" or (asked == "auto" and extra < tasks)):
            # numbers beyond the diagonal must earn log(tasks)/2 each; more of them than tasks never do
            price = 0.0 if asked == "full" else 0.5 * math.log(tasks) * extra
            full, candidate = most_likely(evidence, "full", restricted=restricted, start=params["head/root"])
            if full + price < value:
                return full + price, candidate
        return value, params

    def evidence(self, design: Tensor, rows: Batch, effects: list[int]) -> Evidence:
        """The rows, in the cheaper form."""
        few_rows = design.shape[1] < len(effects) and self.n_features > MANY
        return (Rows if few_rows else Moments).of(design, rows, torch.tensor(effects, device=design.device))

    @property
    def _form(self) -> str:
        return "full" if self.covariance == "auto" else self.covariance

    def _root(self, meta: Params) -> Tensor:
        """The root of V, `(D, q)`."""
        return prior_root(meta["head/root"], self._form, random=self.random, size=self.n_features + 1)


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
    return pooled(with_constant(features).double().cpu(), to(rows, "cpu"))
