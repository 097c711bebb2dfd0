"""Prototypes: a class is where its support features are on average."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ...models.network import Params
from ...tasks.episodes import Batch
from .base import ClassHead, check_sizes, class_means

__all__ = ["ABSENT", "PrototypeHead", "among_present"]

# a class without a support row cannot be told from the others; it gets this share of what the others have
ABSENT = 1e-3


@dataclass(frozen=True)
class PrototypeHead(ClassHead):
    r"""Classes by the squared Euclidean distance to the mean of their support features.

    $c_k = \frac{1}{|S_k|}\sum_{i \in S_k} \phi_i,\quad \text{logit}_k(x) = -\lVert \phi(x) - c_k \rVert^2$.
    A class without a support row has a thousandth of the probability of all present ones together: its
    logit is their log-sum-exp plus log 0.001. So tasks may have fewer classes than `n_outputs`, the gradient
    is that of the present classes alone, and the loss stays finite. Without any support all logits are 0.

    Arguments:
        n_features: features `F`.
        n_outputs: the most classes `W` a task has.

    Raises:
        UsageError: a size has no meaning.

    Example:
        >>> head = PrototypeHead(1, 2)
        >>> support = Batch(torch.tensor([[[0.0], [2.0], [5.0]]]), torch.tensor([[0, 0, 1]]))
        >>> own = head.solve({}, support.x, support)
        >>> head.predict({}, own, torch.tensor([[[2.0]]])).tolist()  # prototypes at 1 and 5
        [[[-1.0, -9.0]]]
    """

    n_features: int
    n_outputs: int
    keeps_means = True

    def __post_init__(self) -> None:
        """Refuse what has no meaning."""
        check_sizes("prototypes", n_features=self.n_features, n_outputs=self.n_outputs, least=2)

    def init(self) -> Params:
        """Nothing but the features is learned."""
        return {}

    def base(self, meta: Params, count: int) -> Params:
        """No class is present."""
        like = next(iter(meta.values()), torch.zeros(0, device="cpu"))
        return {
            "head/prototypes": like.new_zeros(count, self.n_outputs, self.n_features),
            "head/rows": like.new_zeros(count, self.n_outputs),
        }

    def solve(self, meta: Params, features: Tensor, support: Batch) -> Params:
        """Mean features `(T, W, F)` of each class and its number of rows `(T, W)`."""
        means, rows = class_means(support, self.n_outputs, features)
        return {"head/prototypes": means, "head/rows": rows}

    def predict(self, meta: Params, adapted: Params, features: Tensor) -> Tensor:
        """Logits `(T, n, W)`."""
        prototypes, present = adapted["head/prototypes"], (adapted["head/rows"] > 0).unsqueeze(1)
        # |a - b|^2 in three sums: no tensor with all pairs and features
        distance = (
            features.square().sum(-1, keepdim=True)
            - 2 * features @ prototypes.mT
            + prototypes.square().sum(-1).unsqueeze(1)
        )
        return among_present(-distance, present)

    def for_classes(self, meta: Params, count: int) -> tuple[PrototypeHead, Params]:
        """Nothing that is learned belongs to a class."""
        return PrototypeHead(self.n_features, count), meta


def among_present(logits: Tensor, present: Tensor) -> Tensor:
    """Logits where classes without a support row, by `present` `(T, 1, W)`, have a thousandth of the probability.

    That is of all present ones together; without any class all logits are 0.
    """
    # finite, not -inf: the gradient of a log-sum-exp over nothing but -inf is NaN
    nowhere = torch.finfo(logits.dtype).min / 4
    together = logits.masked_fill(~present, nowhere).logsumexp(-1, keepdim=True)
    found = torch.where(present, logits, together + math.log(ABSENT))
    return torch.where(present.any(-1, keepdim=True), found, torch.zeros_like(found))
