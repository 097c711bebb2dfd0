"""The two-covariance head: classes by the linear mixed model for vectors, from two covariances."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ...errors import DataError
from ...models.network import Params
from ...tasks.episodes import Batch
from ...tasks.support import stream
from .base import ClassHead, check_sizes, class_means
from .class_covariances import ClassSums, Covariances, covariances, sums_of
from .prototypes import among_present
from .temperature import class_episodes, log_temperature

__all__ = ["TwoCovarianceHead"]

# parts that the classes are divided into for the temperature, and episodes drawn of them
_FOLDS, _EPISODES = 4, 240


@dataclass(frozen=True)
class TwoCovarianceHead(ClassHead):
    r"""Classes whose means are drawn from one Gaussian and whose rows are drawn from another around them.

    $m_k \sim N(\mu, B),\; x \sim N(m_k, W)$. In axes where $W$ is the identity and $B$ diagonal, a class with `n`
    rows of mean $\bar z$ has $\hat m = \frac{n b}{1 + n b} \bar z$ and $v = \frac{b}{1 + n b}$, and

    $$ \text{logit}_k(z) = \frac1\tau \bigl[\log N(z; \hat m_k, 1 + v_k) - \log N(z; 0, 1 + b)\bigr], $$

    the log ratio of how likely the row is in this class and in one that nobody has seen, over one temperature. It is
    also called probabilistic linear discriminant analysis: Ioffe, 2006, *Probabilistic Linear Discriminant Analysis*;
    Brümmer & de Villiers, 2010, *The Speaker Partitioning Problem*. A class without a support row has a thousandth of
    the probability of the others, as in `PrototypeHead`.

    What a task owns of a class is its mean and its number of rows, and nothing of one depends on another.

    Arguments:
        n_features: features `F`.
        n_outputs: the most classes `W` a task has.

    Raises:
        UsageError: a size has no meaning.

    Example:
        >>> head = TwoCovarianceHead(1, 2)
        >>> support = Batch(torch.tensor([[[0.0], [2.0], [5.0]]]), torch.tensor([[0, 0, 1]]))
        >>> own = head.solve(head.init(), support.x, support)
        >>> logits = head.predict(head.init(), own, torch.tensor([[[2.0], [5.0]]]))
        >>> logits.softmax(-1)[0, :, 0].round(decimals=2)
        tensor([0.3700, 0.0100])
    """

    n_features: int
    n_outputs: int
    fits_directly = True
    fits_classes = True
    keeps_means = True

    def __post_init__(self) -> None:
        """Refuse what has no meaning."""
        check_sizes("two covariances", n_features=self.n_features, n_outputs=self.n_outputs, least=2)

    def init(self) -> Params:
        """Features as they are, means that vary as much as rows do around them, temperature 1."""
        return {
            "head/center": torch.zeros(self.n_features),
            "head/projection": torch.eye(self.n_features),
            "head/log_between": torch.zeros(self.n_features),
            "head/log_temperature": torch.zeros(()),
        }

    def base(self, meta: Params, count: int) -> Params:
        """No class is present."""
        like = meta["head/center"]
        return {
            "head/means": like.new_zeros(count, self.n_outputs, self.n_features),
            "head/rows": like.new_zeros(count, self.n_outputs),
        }

    def solve(self, meta: Params, features: Tensor, support: Batch) -> Params:
        """Mean features `(T, W, F)` of each class and its number of rows `(T, W)`."""
        means, rows = class_means(support, self.n_outputs, features)
        return {"head/means": means, "head/rows": rows}

    def predict(self, meta: Params, adapted: Params, features: Tensor) -> Tensor:
        """Logits `(T, n, W)`."""
        present = (adapted["head/rows"] > 0).unsqueeze(1)
        rows = adapted["head/rows"].double()
        ratio = log_ratios(
            self._along(meta, features),
            self._along(meta, adapted["head/means"]),
            rows,
            meta["head/log_between"].double().exp(),
        )
        logits = ratio * (-meta["head/log_temperature"].double()).exp()
        return among_present(logits, present).to(features.dtype)

    def for_classes(self, meta: Params, count: int) -> tuple[TwoCovarianceHead, Params]:
        """Nothing that is learned belongs to a class."""
        return TwoCovarianceHead(self.n_features, count), meta

    def fit(self, meta: Params, features: Tensor, rows: Batch) -> Params:
        """Both covariances of all classes, and the temperature of classes that were left out.

        Raises:
            DataError: there are no two classes, or no class has two rows.
        """
        sums = sums_of(features.detach(), rows)
        temperature = _log_temperature(sums, self.n_outputs).to(meta["head/log_temperature"])
        return {**meta, **_values(covariances(sums), meta), "head/log_temperature": temperature}

    def fit_again(self, meta: Params, features: Tensor, rows: Batch) -> Params:
        """Both covariances; the temperature stays what it is."""
        return {**meta, **_values(covariances(sums_of(features.detach(), rows)), meta)}

    def remarks(self, meta: Params, rows: Batch) -> tuple[str, ...]:
        """How many classes tell how classes differ, where they are few."""
        sums = sums_of(rows.x.new_zeros(*rows.y.shape, 1), rows)
        count = len(sums.means)
        if count >= 2 * _FOLDS:
            return ()
        return (
            f"{count} classes tell little of how classes differ, and their probabilities are not scaled: "
            f"{2 * _FOLDS} or more are needed for that",
        )

    def _along(self, meta: Params, features: Tensor) -> Tensor:
        """Features in the axes where both covariances are diagonal, in double precision."""
        return (features.double() - meta["head/center"].double()) @ meta["head/projection"].double()


def _values(found: Covariances, meta: Params) -> Params:
    """Covariances as meta-parameters."""
    values = {
        "head/center": found.center,
        "head/projection": found.projection,
        "head/log_between": found.between.log(),
    }
    return {name: value.to(meta[name]) for name, value in values.items()}


def log_ratios(z: Tensor, means: Tensor, rows: Tensor, between: Tensor) -> Tensor:
    r"""$\log N(z; \hat m_k, 1 + v_k) - \log N(z; 0, 1 + b)$ of rows and classes.

    Arguments:
        z: rows `(T, n, F)`.
        means: of the rows of each class `(T, W, F)`.
        rows: their number `(T, W)`.
        between: variance of class means `b` `(F,)`.

    Returns:
        `(T, n, W)`.
    """
    counts = rows.unsqueeze(-1)
    share = counts * between / (1 + counts * between)
    center, precision = share * means, 1 / (1 + between / (1 + counts * between))
    # (z - m)^2 p in three sums: no tensor with all pairs and features
    distance = (
        z.square() @ precision.mT
        - 2 * z @ (center * precision).mT
        + (center.square() * precision).sum(-1).unsqueeze(1)
    )
    unseen = (z.square() / (1 + between)).sum(-1, keepdim=True)
    volume = (precision.log() + (1 + between).log()).sum(-1).unsqueeze(1)
    return 0.5 * (unseen - distance + volume)


def _log_temperature(sums: ClassSums, n_outputs: int) -> Tensor:
    r"""The temperature with the least cross-entropy on episodes of classes that the covariances have not seen.

    The classes are divided into four parts, and each is predicted by the covariances of the others; 1 of few classes.
    """
    counted = int((sums.counts >= 2).sum())
    if counted < 2 * _FOLDS:
        return sums.means.new_zeros(())
    fold = torch.empty(len(sums.means), dtype=torch.int64, device=sums.means.device)
    order = torch.randperm(len(fold), generator=stream(0, 1)).to(fold.device)
    fold[order] = torch.arange(len(fold), device=fold.device) % _FOLDS
    found: list[tuple[Tensor, Tensor]] = []
    for number in range(_FOLDS):
        try:
            others = covariances(sums.some(fold != number))
        except DataError:  # the rows of the others are single ones
            continue
        found += _episodes(sums.some(fold == number), others, n_outputs, number)
    return log_temperature(found) if found else sums.means.new_zeros(())


def _episodes(
    sums: ClassSums, known: Covariances, n_outputs: int, number: int
) -> list[tuple[Tensor, Tensor]]:
    """Log ratios `(n, W)` and classes `(n,)` of episodes that are drawn of these classes."""
    along = (sums.means[sums.of_row] + sums.residuals - known.center) @ known.projection
    found: list[tuple[Tensor, Tensor]] = []
    drawn = class_episodes(sums.of_row, n_outputs, count=_EPISODES // _FOLDS, generator=stream(0, 2, number))
    for support, query, labels in drawn:
        means = torch.stack([along[rows].mean(0) for rows in support]).unsqueeze(0)
        counts = means.new_tensor([[len(rows) for rows in support]])
        ratios = log_ratios(along[query].unsqueeze(0), means, counts, known.between)
        found.append((ratios[0], labels))
    return found
