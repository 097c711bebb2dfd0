"""The Gaussian process head for classes: logits with a kernel over the rows of a task, by Laplace."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ...models.network import Params
from ...tasks.episodes import Batch
from .base import ClassHead, check_sizes, counted_rows, of_any_class, one_hot, row_weights
from .inducing import pivots
from .kernels import Kernel
from .process import MOST_ROWS
from .process_prior import ProcessPrior
from .softmax_posterior import SoftmaxPosterior, mode, told

__all__ = ["GaussianProcessClassHead"]


@dataclass(frozen=True)
class GaussianProcessClassHead(ClassHead):
    r"""A Gaussian process for the logit of each class, with a mean and a kernel that all tasks share.

    $y \sim \text{softmax}(f_t(x)),\; f_{t,k} \sim GP(m_k, k)$ for each class. The posterior is Laplace's and the
    predictive probability MacKay's, as in `LaplaceHead`, with which it agrees for the kernel `linear` alone.
    Rasmussen & Williams, 2006, *Gaussian Processes for Machine Learning*, algorithm 3.3.

    Of more than 512 support rows of a task, 512 are used: those that a pivoted Cholesky factorisation of the
    kernel chooses, each the one that is known least from those before it.

    Arguments:
        n_features: features `F`.
        n_outputs: classes `C`, 2 or more.
        kernel: a sum of parts, see `Kernel`.
        mean: `constant`, `line` or `squares`.
        newton: Newton steps to the mode.

    Raises:
        UsageError: an argument has no meaning.

    Example:
        >>> head = GaussianProcessClassHead(1, 2, kernel="squared_exponential")
        >>> support = Batch(torch.tensor([[[-1.0], [1.0]]]), torch.tensor([[0, 1]]))
        >>> own = head.solve(head.init(), support.x, support)
        >>> logits = head.predict(head.init(), own, torch.tensor([[[-1.0], [0.0], [1.0]]]))
        >>> [round(p, 2) for p in logits.softmax(-1)[0, :, 1].tolist()]
        [0.38, 0.5, 0.62]
    """

    n_features: int
    n_outputs: int
    kernel: str = "linear+matern32"
    mean: str = "line"
    newton: int = 10

    def __post_init__(self) -> None:
        """Refuse what has no meaning."""
        check_sizes("the Gaussian process", n_features=self.n_features, n_outputs=self.n_outputs, least=2)
        self.prior  # noqa: B018  unknown names are refused here

    @property
    def prior(self) -> ProcessPrior:
        """Mean and kernel."""
        return ProcessPrior(Kernel.named(self.kernel, self.n_features), self.n_outputs, self.mean)

    def init(self) -> Params:
        """Mean 0, every part of the kernel of variance 1."""
        return self.prior.init()

    def base(self, meta: Params, count: int) -> Params:
        """No rows: the prior."""
        like, classes = meta["head/mean"].double(), self.n_outputs
        shapes = {"rows": (0, self.n_features), "weights": (0, classes), "told": (classes, 0, 0)}
        return {f"head/{name}": like.new_zeros(count, *shape) for name, shape in shapes.items()}

    def solve(self, meta: Params, features: Tensor, support: Batch) -> Params:
        """Rows, their weights at the mode, and for each class what they tell of its logit, in double precision.

        Where a row is padding, all three are 0, so that it changes nothing.
        """
        support = support._replace(x=features)
        if features.shape[1] > MOST_ROWS:
            support = self._few(meta, support)
        weight = row_weights(support, meta["head/mean"].double())
        rows = counted_rows(support.x.double(), weight)
        target = one_hot(support._replace(weight=None), self.n_outputs, rows)
        kernel = self.prior.kernel(meta, rows, rows)
        problem = SoftmaxPosterior(kernel, self.prior.mean_of(meta, rows), target, weight.unsqueeze(-1))
        found = mode(problem, self.newton)
        return {"head/rows": rows, "head/weights": found, "head/told": told(problem, found)}

    def predict(self, meta: Params, adapted: Params, features: Tensor) -> Tensor:
        """Logits `(T, n, C)` of the predictive probabilities."""
        rows, classes = features.double(), self.n_outputs
        cross = self.prior.kernel(meta, rows, adapted["head/rows"])
        mean = self.prior.mean_of(meta, rows) + cross @ adapted["head/weights"]
        known = ((cross.unsqueeze(1) @ adapted["head/told"]) * cross.unsqueeze(1)).sum(-1).mT
        prior = (1 - 1 / classes) * self.prior.kernel.diagonal(meta, rows).unsqueeze(-1)
        spread = (prior - known).clamp(min=0)
        # sum over j of var(f_k - f_j) = C var(f_k) + sum of var(f_j), as centred logits sum to 0
        total = classes * spread + spread.sum(-1, keepdim=True)
        shrink = torch.rsqrt(1 + math.pi / 8 * total / (classes - 1))
        return ((mean - mean.mean(-1, keepdim=True)) * shrink).to(features.dtype)

    def for_classes(self, meta: Params, count: int) -> tuple[GaussianProcessClassHead, Params]:
        """The same kernel, and the mean of the mean functions."""
        mean = of_any_class(meta["head/mean"], count)
        return replace(self, n_outputs=count), {**meta, "head/mean": mean}

    def _few(self, meta: Params, support: Batch) -> Batch:
        """The rows that stand for all of each task."""
        weight = row_weights(support, support.x)
        found = [
            pivots(self.prior.kernel, meta, rows, MOST_ROWS, counted=own > 0)
            for rows, own in zip(support.x, weight, strict=True)
        ]
        index = torch.nn.utils.rnn.pad_sequence(found, batch_first=True)
        counts = torch.tensor([len(each) for each in found], device=index.device).unsqueeze(-1)
        inside = torch.arange(index.shape[1], device=index.device) < counts
        rows = support.x.gather(1, index.unsqueeze(-1).expand(*index.shape, support.x.shape[-1]))
        return Batch(rows, support.y.gather(1, index), weight.gather(1, index) * inside)
