"""The Gaussian head for classes: Bayesian logistic regression with a learned prior, by Laplace."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ...errors import check_known
from ...models.network import Params
from ...tasks.episodes import Batch
from .base import (
    COVARIANCES,
    ClassHead,
    check_random,
    check_sizes,
    counted_rows,
    of_any_class,
    one_hot,
    prior_root,
    row_weights,
    with_constant,
)
from .softmax_posterior import SoftmaxPosterior, mode, told

__all__ = ["LaplaceHead"]


@dataclass(frozen=True)
class LaplaceHead(ClassHead):
    r"""Bayesian multinomial logistic regression with a learned Gaussian prior, shared by all tasks.

    $y \sim \text{softmax}(W^\top\phi),\; w_k \sim N(m_k, V)$ for each class, a constant 1 appended to the
    features. The posterior is taken for a Gaussian at its mode with the curvature there (Laplace). The mode
    comes from damped Newton steps in the space of the support rows (Rasmussen & Williams, 2006, *Gaussian
    Processes for Machine Learning*, algorithm 3.3: time `C n^3`); the last step is differentiated, and
    because a Newton step at the mode does not depend on where it starts, that is the derivative of the mode.

    The predictive probability is the probit approximation of MacKay (1992, *The Evidence Framework Applied to
    Classification Networks*) with a mean field over the classes:
    $p_k \propto \exp\bigl(\mu_k / \sqrt{1 + \tfrac{\pi}{8} v_k}\bigr)$, where $\mu$ are the logits centred at
    their mean over the classes and $v_k$ is the mean variance of the differences between logit `k` and the
    others. For two classes it is MacKay's formula.

    Arguments:
        n_features: features `F`, the constant not counted.
        n_outputs: classes `C`, 2 or more.
        covariance: of the prior: `full`, `diagonal`, or `shared` (one variance for all slopes, one for the
            constant); `auto` is diagonal.
        random: columns whose coefficients differ among tasks, beside the constant; all unless given.
        newton: Newton steps to the mode.

    Raises:
        UsageError: an argument has no meaning.

    Example:
        >>> head = LaplaceHead(1, 2)
        >>> support = Batch(torch.tensor([[[-1.0], [1.0]]]), torch.tensor([[0, 1]]))
        >>> own = head.solve(head.init(), support.x, support)
        >>> logits = head.predict(head.init(), own, torch.tensor([[[-2.0], [0.0], [2.0]]]))
        >>> [round(p, 2) for p in logits.softmax(-1)[0, :, 1].tolist()]
        [0.29, 0.5, 0.71]
    """

    n_features: int
    n_outputs: int
    covariance: str = "full"
    newton: int = 10
    random: Sequence[int] | None = None

    def __post_init__(self) -> None:
        """Refuse what has no meaning."""
        check_known("covariance", self.covariance, COVARIANCES)
        check_sizes("the Laplace head", n_features=self.n_features, n_outputs=self.n_outputs, least=2)
        check_random("the Laplace head", self.random, self.n_features)

    def init(self) -> Params:
        """Prior mean 0, and a covariance that gives logits of variance 1 for features of variance 1."""
        effects = self.n_features + 1 if self.random is None else len(self.random) + 1
        return {
            "head/mean": torch.zeros(self.n_features + 1, self.n_outputs),
            "head/root": torch.zeros(effects, effects),
        }

    def base(self, meta: Params, count: int) -> Params:
        """The prior."""
        mean = meta["head/mean"]
        eye = torch.eye(len(meta["head/root"]), dtype=mean.dtype, device=mean.device)
        spread = (1 - 1 / self.n_outputs) * eye
        return {
            "head/weights": mean.expand(count, *mean.shape),
            "head/spread": spread.expand(count, self.n_outputs, *spread.shape),
        }

    def solve(self, meta: Params, features: Tensor, support: Batch) -> Params:
        """The mode `(T, D, C)` and, in units of the prior, the covariance of each class's centred weights.

        The latter is `(T, C, D, D)`; with the root of the prior on both sides it is that of the weights.
        """
        mean, root = meta["head/mean"].double(), self._root(meta).double()
        weight = row_weights(support, root)
        design = counted_rows(with_constant(features).double(), weight)
        whitened = design @ root
        target = one_hot(support._replace(weight=None), self.n_outputs, root)
        problem = SoftmaxPosterior(whitened @ whitened.mT, design @ mean, target, weight.unsqueeze(-1))
        rows = mode(problem, self.newton)
        # the posterior of the whitened weights is that of the prior less what the rows have told
        learned = whitened.mT.unsqueeze(1) @ told(problem, rows) @ whitened.unsqueeze(1)
        eye = torch.eye(root.shape[-1], dtype=root.dtype, device=root.device)
        spread = (1 - 1 / self.n_outputs) * eye - learned
        weights = mean + root @ (whitened.mT @ rows)
        return {"head/weights": weights.to(features.dtype), "head/spread": spread.to(features.dtype)}

    def predict(self, meta: Params, adapted: Params, features: Tensor) -> Tensor:
        """Logits `(T, n, C)` of the predictive probabilities."""
        design = with_constant(features)
        mean = design @ adapted["head/weights"]
        whitened = (design @ self._root(meta)).unsqueeze(1)
        spread = (whitened @ adapted["head/spread"] * whitened).sum(-1).mT.clamp(min=0)
        # sum over j of var(f_k - f_j) = C var(f_k) + sum of var(f_j), as centred logits sum to 0
        total = self.n_outputs * spread + spread.sum(-1, keepdim=True)
        shrink = torch.rsqrt(1 + math.pi / 8 * total / (self.n_outputs - 1))
        return (mean - mean.mean(-1, keepdim=True)) * shrink

    def for_classes(self, meta: Params, count: int) -> tuple[LaplaceHead, Params]:
        """The same covariance, and the mean of the prior means."""
        mean = of_any_class(meta["head/mean"], count)
        return replace(self, n_outputs=count), {**meta, "head/mean": mean}

    def _root(self, meta: Params) -> Tensor:
        """The root of V; zeros stand for the identity divided by the number of features."""
        form = "diagonal" if self.covariance == "auto" else self.covariance
        root = prior_root(meta["head/root"], form, random=self.random, size=self.n_features + 1)
        return root / math.sqrt(self.n_features + 1)
