"""What every head offers, and what several of them need."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from ...errors import DataError, UsageError
from ...models.losses import mean_rows, task_losses
from ...models.network import Params
from ...tasks.episodes import Batch

__all__ = [
    "COVARIANCES",
    "KINDS",
    "ClassHead",
    "Head",
    "Predictive",
    "ValueHead",
    "check_random",
    "check_sizes",
    "class_means",
    "counted_rows",
    "factored",
    "of_any_class",
    "one_hot",
    "prior_root",
    "row_weights",
    "target_columns",
    "with_constant",
]

KINDS = ("regression", "classification")
COVARIANCES = ("full", "diagonal", "shared", "auto")


class Head(ABC):
    """A closed form on features `(T, n, F)` of stacked tasks.

    Attributes:
        fits_directly: whether `fit` finds the meta-parameters.
        fits_classes: whether `fit` asks for every row of the meta-train classes once, each class numbered.
        keeps_means: whether a row that is the mean of a class, with the number of its rows as weight, says all of it.
    """

    fits_directly = False
    fits_classes = False
    keeps_means = False

    @abstractmethod
    def init(self) -> Params:
        """The head's meta-parameters."""

    @abstractmethod
    def base(self, meta: Params, count: int) -> Params:
        """What `count` tasks predict with before they have seen a target."""

    @abstractmethod
    def solve(self, meta: Params, features: Tensor, support: Batch) -> Params:
        """What each task predicts with after its support set; shapes as in `base`."""

    @abstractmethod
    def predict(self, meta: Params, adapted: Params, features: Tensor) -> Tensor:
        """Predictions `(T, n, *out)`."""

    @abstractmethod
    def loss(self, meta: Params, adapted: Params, features: Tensor, batch: Batch) -> Tensor:
        """Mean loss of each task, `(T,)`."""

    def fit(self, meta: Params, features: Tensor, rows: Batch) -> Params | None:
        """Meta-parameters by direct optimisation on all rows of the tasks; `None`: gradients find them."""
        return None

    def fit_again(self, meta: Params, features: Tensor, rows: Batch) -> Params | None:
        """A `fit` to other rows whose predictions are in the units of the fit in `meta`."""
        return self.fit(meta, features, rows)

    def for_classes(self, meta: Params, count: int) -> tuple[Head, Params] | None:
        """The same head for `count` classes, and its meta-parameters; `None` where it is made for its own number.

        For classes that are numbered anew in each task, so that no number means more than another.
        """
        return None

    def remarks(self, meta: Params, rows: Batch) -> tuple[str, ...]:
        """What people should know of the `fit` that found `meta` from these rows, a sentence each."""
        return ()

    def variance(self, meta: Params, adapted: Params, features: Tensor) -> Tensor | None:
        """Predictive variance of each value `(T, n, C)`, noise included; `None` where nothing is said of it."""
        return None


def of_any_class(values: Tensor, count: int) -> Tensor:
    """The mean of values `(..., C)` of classes whose numbers mean nothing, for `count` classes, `(..., count)`."""
    mean = values.mean(-1, keepdim=True)
    return mean.expand(*mean.shape[:-1], count).clone()


class Predictive(Head):
    """A head that says how sure it is."""

    @abstractmethod
    def uncertainty(self, meta: Params, adapted: Params, features: Tensor) -> Tensor:
        """Predictive variance of each output `(T, n, C)`; of a class with probability p it is p (1 - p)."""

    @abstractmethod
    def log_density(self, meta: Params, adapted: Params, features: Tensor, batch: Batch) -> Tensor:
        """Log predictive density, or probability, of each row's target, `(T, n)`."""


class ClassHead(Predictive):
    """A head whose predictions are the logits of classes."""

    def loss(self, meta: Params, adapted: Params, features: Tensor, batch: Batch) -> Tensor:
        """Mean cross-entropy of each task, `(T,)`."""
        return task_losses("cross_entropy", self.predict(meta, adapted, features), batch)

    def uncertainty(self, meta: Params, adapted: Params, features: Tensor) -> Tensor:
        """Variance of the class indicators, p (1 - p)."""
        chance = self.predict(meta, adapted, features).softmax(-1)
        return chance * (1 - chance)

    def log_density(self, meta: Params, adapted: Params, features: Tensor, batch: Batch) -> Tensor:
        """Log probability of each row's class, `(T, n)`."""
        logits = self.predict(meta, adapted, features)
        return logits.log_softmax(-1).gather(-1, batch.y.unsqueeze(-1)).squeeze(-1)


class ValueHead(Predictive):
    """A head whose predictions are values `(T, n, C)` with a Gaussian around each."""

    n_outputs: int

    @abstractmethod
    def variance(self, meta: Params, adapted: Params, features: Tensor) -> Tensor:
        """Predictive variance of each value `(T, n, C)`, noise included."""

    def uncertainty(self, meta: Params, adapted: Params, features: Tensor) -> Tensor:
        """The predictive variance."""
        return self.variance(meta, adapted, features)

    def log_density(self, meta: Params, adapted: Params, features: Tensor, batch: Batch) -> Tensor:
        """Log density of each row's targets, `(T, n)`."""
        variance = self.variance(meta, adapted, features)
        error = (target_columns(batch, self.n_outputs) - self.predict(meta, adapted, features)).square()
        return -0.5 * (error / variance + variance.log() + math.log(2 * math.pi)).sum(-1)

    def loss(self, meta: Params, adapted: Params, features: Tensor, batch: Batch) -> Tensor:
        """Mean negative log density of each row's target, `(T,)`."""
        return mean_rows(-self.log_density(meta, adapted, features, batch), batch.weight)


def with_constant(features: Tensor) -> Tensor:
    """The features and a 1, `(T, n, F + 1)`."""
    return torch.cat([features, torch.ones_like(features[..., :1])], -1)


def row_weights(support: Batch, like: Tensor) -> Tensor:
    """`(T, n)`: 1 for a row that counts, 0 for padding, in the precision of `like`."""
    shape = support.y.shape[:2]
    return like.new_ones(shape) if support.weight is None else support.weight.to(like.dtype)


def counted_rows(values: Tensor, weight: Tensor) -> Tensor:
    """Rows of weight 0 set to 0, whatever they hold."""
    return torch.where(weight.unsqueeze(-1) > 0, values, torch.zeros_like(values))


def one_hot(support: Batch, classes: int, like: Tensor) -> Tensor:
    """Class indicators times row weights, `(T, n, C)`; padded rows are 0.

    Raises:
        DataError: a target is no class number below `classes`.
    """
    labels = support.y
    if labels.is_floating_point() and labels.numel():
        raise DataError("this head classifies: targets must be class numbers (int64), found floating ones")
    weight = row_weights(support, like).unsqueeze(-1)
    blank = like.new_zeros(*labels.shape[:2], classes)
    try:
        # `scatter` itself refuses an index out of range: without a look at the values this can be traced
        return blank.scatter(-1, labels.long().unsqueeze(-1), weight)
    except (RuntimeError, IndexError) as error:
        if "index" not in str(error):
            raise
        raise DataError(
            f"a support target is outside 0 ... {classes - 1}: this learner was made for {classes} classes "
            f"(n_outputs={classes})"
        ) from None


def class_means(support: Batch, classes: int, features: Tensor) -> tuple[Tensor, Tensor]:
    """Mean features `(T, C, F)` of the support rows of each class, 0 for one without, and their number `(T, C)`."""
    member = one_hot(support, classes, features)
    rows = member.sum(1)
    total = member.mT @ counted_rows(features, row_weights(support, features))
    return total / rows.clamp(min=1).unsqueeze(-1), rows


def target_columns(support: Batch, outputs: int) -> Tensor:
    """The targets `(T, n, C)` of a head that predicts values.

    Raises:
        DataError: they have another shape, of which broadcasting would make something else.
    """
    target = support.target
    shape = (*target.shape[:2], outputs)
    if not isinstance(support.y, Tensor) or target.shape != shape:
        raise DataError(
            f"this head predicts values of shape {shape} but targets have {tuple(target.shape)} (tasks, rows, "
            "...): give targets one column a target, as in y[:, None]"
        )
    return target


def factored(matrix: Tensor) -> Tensor:
    """The Cholesky factor; NaN where there is none, so that one task that diverged does not stop the others.

    Give it double precision: a wide prior makes these matrices too ill-conditioned for less.
    """
    factor, info = torch.linalg.cholesky_ex(matrix)
    return torch.where((info > 0)[..., None, None], torch.full_like(factor, torch.nan), factor)


def prior_root(raw: Tensor, covariance: str, *, random: Sequence[int] | None = None, size: int = 0) -> Tensor:
    """The root L `(D, q)` of the prior covariance L L' of all `D = size` columns, the constant last.

    Arguments:
        raw: `(q, q)`: the lower triangle, with logarithms on its diagonal.
        covariance: `full`, `diagonal`, or `shared`: one variance for all slopes and one for the constant.
        random: columns whose coefficient differs among tasks, beside the constant; all unless given.
        size: columns `D`, where `random` is given.

    Example:
        >>> prior_root(torch.zeros(2, 2), "full", random=[1], size=3)
        tensor([[0., 0.],
                [1., 0.],
                [0., 1.]])
    """
    logs = raw.diagonal()
    if covariance == "shared":
        logs = torch.cat([logs[:-1].mean().expand(len(logs) - 1), logs[-1:]])
    lower = torch.tril(raw, -1) if covariance == "full" else torch.zeros_like(raw)
    root = lower + torch.diag_embed(logs.exp())
    if random is None:
        return root
    eye = torch.eye(size, dtype=raw.dtype, device=raw.device)
    return torch.stack([eye[:, column] for column in (*random, size - 1)], -1) @ root


def check_random(head: str, random: Sequence[int] | None, n_features: int) -> None:
    """Refuse random effects of columns that are not there.

    Raises:
        UsageError: a column stands twice, or is none of `0 ... n_features - 1`.
    """
    if random is None:
        return
    if odd := [column for column in random if type(column) is not int or not 0 <= column < n_features]:
        raise UsageError(f"{head}: random={odd[0]!r} is no column: there are 0 ... {n_features - 1}")
    if len(set(random)) < len(random):
        raise UsageError(f"{head}: random={list(random)} names a column twice: name it once")


def check_sizes(head: str, *, n_features: int, n_outputs: int, least: int = 1) -> None:
    """Refuse sizes that mean nothing.

    Raises:
        UsageError: a size is no whole number, or too small.
    """
    for name, value, low in (("n_features", n_features, 1), ("n_outputs", n_outputs, least)):
        if type(value) is not int or value < low:
            raise UsageError(f"{head}: {name}={value!r}: give a whole number of {low} or more")
