"""Ridge regression on learned features, its strength learned with them."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ...errors import check_known
from ...models.losses import task_losses
from ...models.network import Params
from ...tasks.episodes import Batch
from .base import (
    KINDS,
    Head,
    check_sizes,
    counted_rows,
    factored,
    of_any_class,
    one_hot,
    row_weights,
    target_columns,
    with_constant,
)

__all__ = ["FORMS", "LearnedRidgeHead"]

FORMS = ("auto", "primal", "dual")


@dataclass(frozen=True)
class LearnedRidgeHead(Head):
    r"""Ridge regression on the support set, $W = (\Phi^\top\Phi + \Lambda)^{-1}\Phi^\top Y$.

    A constant 1 is appended to the features. $\Lambda$ holds two learned numbers: one for all features, one
    for the constant (which the paper regularises like a feature; learned, it can go to 0, as in statistics).
    With fewer rows than features the same $W$ comes from a system of the size of the rows,
    $\Lambda^{-1}\Phi^\top(\Phi\Lambda^{-1}\Phi^\top + I)^{-1}Y$. Classes are fitted as 0/1 targets, and
    $\text{logit} = s\,\Phi W + b$ with a learned scale and a learned bias for each class (the one bias of the
    paper cancels in the softmax).

    Arguments:
        n_features: features `F`, the constant not counted.
        n_outputs: targets or classes `C`.
        kind: `regression` or `classification`.
        form: `auto` (by the sizes), `primal` or `dual`: the same result.

    Raises:
        UsageError: an argument has no meaning.

    Example:
        >>> head = LearnedRidgeHead(1, 1)
        >>> support = Batch(torch.zeros(1, 3, 1), torch.ones(1, 3, 1))
        >>> own = head.solve(head.init(), support.x, support)
        >>> round(head.predict(head.init(), own, torch.zeros(1, 1, 1)).item(), 2)  # 3 rows of 1, strength 1
        0.75
    """

    n_features: int
    n_outputs: int = 1
    kind: str = "regression"
    form: str = "auto"

    def __post_init__(self) -> None:
        """Refuse what has no meaning."""
        check_known("kind", self.kind, KINDS)
        check_known("form", self.form, FORMS)
        least = 2 if self.kind == "classification" else 1
        check_sizes("ridge", n_features=self.n_features, n_outputs=self.n_outputs, least=least)

    def init(self) -> Params:
        """Strength 1; logits ten times the fitted 0/1 targets, without which a softmax can hardly be sure."""
        meta = {"head/log_lambda": torch.zeros(2)}
        if self.kind == "classification":
            meta |= {"head/log_scale": torch.tensor(math.log(10.0)), "head/bias": torch.zeros(self.n_outputs)}
        return meta

    def base(self, meta: Params, count: int) -> Params:
        """Weights 0."""
        like = meta["head/log_lambda"]
        return {"head/weights": like.new_zeros(count, self.n_features + 1, self.n_outputs)}

    def solve(self, meta: Params, features: Tensor, support: Batch) -> Params:
        """The ridge solution `(T, F + 1, C)`."""
        weight = row_weights(support, features)
        # the root of a weight on both sides of the least squares, so that it counts once
        root = weight.sqrt().unsqueeze(-1)
        design = (with_constant(counted_rows(features, weight)) * root).double()
        if self.kind == "classification":
            target = one_hot(support._replace(weight=None), self.n_outputs, features) * root
        else:
            target = counted_rows(target_columns(support, self.n_outputs), weight) * root
        strength, target = self._strength(meta).double(), target.double()
        dual = design.shape[1] < design.shape[2] if self.form == "auto" else self.form == "dual"
        weights = _dual(design, target, strength) if dual else _primal(design, target, strength)
        return {"head/weights": weights.to(features.dtype)}

    def predict(self, meta: Params, adapted: Params, features: Tensor) -> Tensor:
        """Values or logits `(T, n, C)`."""
        values = with_constant(features) @ adapted["head/weights"]
        if self.kind == "regression":
            return values
        return values * meta["head/log_scale"].exp() + meta["head/bias"]

    def loss(self, meta: Params, adapted: Params, features: Tensor, batch: Batch) -> Tensor:
        """Mean squared error or cross-entropy of each task, `(T,)`."""
        name = "mse" if self.kind == "regression" else "cross_entropy"
        return task_losses(name, self.predict(meta, adapted, features), batch)

    def for_classes(self, meta: Params, count: int) -> tuple[LearnedRidgeHead, Params] | None:
        """The same strength, scale and mean bias."""
        if self.kind != "classification":
            return None
        bias = of_any_class(meta["head/bias"], count)
        return replace(self, n_outputs=count), {**meta, "head/bias": bias}

    def _strength(self, meta: Params) -> Tensor:
        """The diagonal of the regulariser, `(F + 1,)`."""
        both = meta["head/log_lambda"].exp()
        return torch.cat([both[:1].expand(self.n_features), both[1:]])


def _primal(design: Tensor, target: Tensor, strength: Tensor) -> Tensor:
    gram = design.mT @ design + torch.diag(strength)
    return torch.cholesky_solve(design.mT @ target, factored(gram))


def _dual(design: Tensor, target: Tensor, strength: Tensor) -> Tensor:
    scaled = design / strength
    kernel = scaled @ design.mT + torch.eye(design.shape[1], dtype=design.dtype, device=design.device)
    return scaled.mT @ torch.cholesky_solve(target, factored(kernel))
