r"""Which rows belong to none of the classes that a model was adapted to, at a rate of false alarms that is asked for.

How well a row fits is its largest logit; a row of no class fits badly. How badly rows of classes that are there may
fit is found on classes that the model has not seen, as `conformal` does it with a class as one unit: among so many
classes, each given by so many rows, the other rows of a class are scored. So the chance that a row of a new class is
called none of these is what was asked for, whatever the model and the features; among more classes than were calibrated
on it is smaller. The largest logit as a score: Hendrycks et al., 2022, *Scaling Out-of-Distribution Detection for
Real-World Settings*.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch

from ..engine.threads import threads_for
from ..errors import UsageError
from ..inner.model import Model
from ..models.network import Params, reference
from ..tasks.episodes import Batch
from ..tasks.sources import ClassSource, DerivedSource, Source
from .conformal import LEVELS, Array, conformal_thresholds, needed_tasks

__all__ = ["NONE_OF_THESE", "FitCalibration", "calibrate_fit", "require_rate"]

# what a row is called that belongs to no class
NONE_OF_THESE = "none of these"

# numbers of classes, and of rows that each is given by
_CLASSES, _SUPPORT = (2, 5, 10, 20, 50), (1, 2, 5, 10)
# rows of a class that are scored in a draw, draws of a model without a network and of one, and parts of a cross-fit
_QUERY, _DRAWS, _FEW_DRAWS, _FOLDS = 8, 6, 2, 4
# rows of a stack of groups
_ROWS_AT_ONCE = 2000


@dataclass(frozen=True, eq=False)
class FitCalibration:
    """How badly rows of known classes fit, by the number of classes and of rows that each is given by.

    Arguments:
        thresholds: `(199,)` for each pair: the misfit (the negative of the largest logit) that a row of a new class
            stays below with chances of 0.005, 0.01, ..., 0.995.
        counts: classes that each was found on.

    Example:
        >>> misfit = conformal_thresholds([np.array([float(each)]) for each in range(1, 40)])
        >>> calibration = FitCalibration({(5, 1): misfit}, {(5, 1): 39})
        >>> calibration.shares(7, np.array([1, 2]), np.array([0.5, 38.5])).round(3).tolist()
        [1.0, 0.05]
    """

    thresholds: Mapping[tuple[int, int], Array]
    counts: Mapping[tuple[int, int], int]

    @property
    def n_classes(self) -> int:
        """Classes that it was found on, at the pair that has most."""
        return max(self.counts.values(), default=0)

    @property
    def least_rate(self) -> float:
        """The lowest rate of false alarms that so many classes can tell."""
        return 1 / (self.n_classes + 1)

    def shares(self, n_classes: int, n_support: np.ndarray, misfit: Array) -> Array:
        """The share of the rows of known classes that fit worse, `(n,)`, in steps of half a percent.

        Arguments:
            n_classes: classes that the model was adapted to.
            n_support: rows that the best class of each row was given by, `(n,)`.
            misfit: of each row, `(n,)`.

        Returns:
            Shares. Misfits of numbers in between lie on lines in the logarithm of the number of classes, and in one
            over the number of rows, by which the variance of a class mean goes.
        """
        found = np.ones(len(misfit))
        for count in np.unique(n_support):
            chosen = n_support == count
            below = np.searchsorted(self._at(n_classes, int(count)), misfit[chosen], side="left")
            found[chosen] = np.where(below > 0, 1 - LEVELS[np.maximum(below, 1) - 1], 1.0)
        return found

    def _at(self, n_classes: int, n_support: int) -> Array:
        """The thresholds on lines between those of the nearest numbers; beyond the last one, its own."""
        of_classes = {
            known: _between(
                {-1 / pair[1]: values for pair, values in self.thresholds.items() if pair[0] == known},
                -1 / n_support,
            )
            for known, _ in self.thresholds
        }
        return _between(
            {math.log(known): values for known, values in of_classes.items()}, math.log(n_classes)
        )


def _between(known: Mapping[float, Array], at: float) -> Array:
    """Values on the line between the two known ones that lie around a place, or those at the end."""
    places = sorted(known)
    above = min(int(np.searchsorted(places, at)), len(places) - 1)
    below = max(above - 1, 0)
    low, high = places[below], places[above]
    share = 1.0 if low == high else min(max((at - low) / (high - low), 0.0), 1.0)
    return (1 - share) * known[low] + share * known[high]


def require_rate(rate: float, calibration: FitCalibration | None, where: object) -> FitCalibration:
    """Refuse a rate of false alarms that cannot be held.

    Raises:
        UsageError: it is no share, nothing was calibrated, or on too few classes.
    """
    if not 0 < rate < 1:
        raise UsageError(
            f"none_of_these={rate!r}: give a share of false alarms between 0 and 1, such as 0.05"
        )
    if calibration is None:
        raise UsageError(
            f"{where} does not hold how badly rows of known classes fit: train again with this version, on classes"
        )
    if needed_tasks(1 - rate) > calibration.n_classes:
        raise UsageError(
            f"none_of_these={rate:g} needs {needed_tasks(1 - rate)} classes to calibrate on, and {where} had "
            f"{calibration.n_classes}: ask for {math.ceil(1000 * calibration.least_rate) / 1000:g} or more, or train "
            "on more classes"
        )
    return calibration


def calibrate_fit(model: Model, train: Source, valid: Source) -> FitCalibration | None:
    """How badly rows of classes fit that a model has not seen.

    Where the model is a direct fit, all classes of both sources are used, each part of them scored by a fit to the
    others; else those of `valid`.

    Arguments:
        model: a trained model.
        train: meta-train classes.
        valid: meta-validation classes.

    Returns:
        The calibration; `None` for sources of other things than classes, and for learners with one number of classes.

    Example:
        >>> import innerloop as il
        >>> x = torch.randn(120, 2, generator=torch.Generator().manual_seed(0)).repeat_interleave(2, 0)
        >>> tasks = il.tasks.classes(x + 0.1 * torch.randn(240, 2), np.arange(240) // 2, n_way=2, n_query=1)
        >>> run = il.meta_train(il.two_covariance(2, 2), tasks.train, device="cpu")
        >>> calibrate_fit(run.model, tasks.train, tasks.valid).n_classes
        102
    """
    sources = [_plain(source) for source in (train, valid)]
    known = [source for source in sources if isinstance(source, ClassSource) and source.query_index is None]
    if len(known) < 2:
        return None
    try:
        model.learner.for_classes(model.meta, 2)
    except UsageError:
        return None
    scores: dict[tuple[int, int], list[Array]] = {}
    with torch.no_grad(), threads_for(model.meta):
        for judge, source in _judged(model, *known):
            for pair in _pairs(source):
                scores.setdefault(pair, []).extend(_scores(judge, source, *pair))
    kept = {pair: own for pair, own in scores.items() if own}
    if not kept:
        return None
    return FitCalibration(
        {pair: conformal_thresholds(own) for pair, own in kept.items()},
        {pair: len(own) for pair, own in kept.items()},
    )


def _plain(source: Source) -> Source:
    while isinstance(source, DerivedSource):
        source = source.source
    return source


def _judged(model: Model, train: ClassSource, valid: ClassSource) -> Iterator[tuple[Model, ClassSource]]:
    """Models, and classes that each has not seen."""
    learner = model.learner
    if not (learner.fits_directly and learner.fits_classes) or train.x is not valid.x:
        yield model, valid
        return
    most = max(train.index.shape[1], valid.index.shape[1])
    index = np.concatenate([_filled(source.index, most) for source in (train, valid)])
    fold = np.random.default_rng(0).permutation(len(index)) % _FOLDS
    for number in range(_FOLDS):
        part, others = fold == number, fold != number
        if part.sum() < 2 or others.sum() < 2:
            continue
        like = reference(model.meta)
        rows = replace(train, index=index[others], n_way=2).whole()
        fitted = learner.fit_again(model.meta, Batch(rows.x.to(like), rows.y.to(like.device)))
        if fitted is not None:
            yield Model(learner, fitted), replace(train, index=index[part], n_way=2)


def _filled(index: np.ndarray, most: int) -> np.ndarray:
    return np.pad(index, ((0, 0), (0, most - index.shape[1])), constant_values=-1)


def _pairs(source: ClassSource) -> list[tuple[int, int]]:
    """Numbers of classes and of support rows that these classes allow."""
    rows = (source.index >= 0).sum(1)
    return [
        (n_classes, n_support)
        for n_support in _SUPPORT
        for n_classes in _CLASSES
        if (rows > n_support).sum() >= max(n_classes, 2)
    ]


def _scores(model: Model, source: ClassSource, n_classes: int, n_support: int) -> list[Array]:
    """The misfit of other rows of each class, among so many classes that are given by so many rows."""
    usable = [own[own >= 0] for own in source.index if (own >= 0).sum() > n_support]
    found: list[list[Array]] = [[] for _ in usable]
    sized = Model(*model.learner.for_classes(model.meta, n_classes))
    draws = _FEW_DRAWS if model.learner.network.params() else _DRAWS
    for draw in range(draws):
        rng = np.random.default_rng([draw, n_classes, n_support])
        order = rng.permutation(len(usable))
        # the last group is filled up with classes that are scored in another one
        groups = np.concatenate([order, order[: -len(order) % n_classes]]).reshape(-1, n_classes)
        rows = np.array([[_drawn(rng, usable[each], n_support) for each in group] for group in groups])
        misfit = _misfit(sized, source, rows, n_support).reshape(-1, _QUERY)
        for place, each in enumerate(order):
            found[each].append(misfit[place])
    return [np.concatenate(own) for own in found]


def _drawn(rng: np.random.Generator, rows: np.ndarray, n_support: int) -> np.ndarray:
    """Support rows of a class and others behind them, over again where they are few."""
    mixed = rng.permutation(rows)
    return np.concatenate([mixed[:n_support], np.resize(mixed[n_support:], _QUERY)])


def _misfit(model: Model, source: ClassSource, rows: np.ndarray, n_support: int) -> Array:
    """The misfit of the rows behind the support rows, `(groups, classes, 8)`, of rows `(groups, classes, n + 8)`."""
    like, found = reference(model.meta), []
    n_classes = rows.shape[1]
    y = torch.arange(n_classes, device=like.device).repeat_interleave(n_support)
    at_once = max(1, _ROWS_AT_ONCE // rows[0].size)
    for part in np.split(rows, range(at_once, len(rows), at_once)):
        support, query = (
            source.features(torch.from_numpy(own.reshape(len(part), -1))).to(like)
            for own in (part[:, :, :n_support], part[:, :, n_support:])
        )
        adapted: Params = model.learner.adapt(model.meta, Batch(support, y.expand(len(part), -1)))
        logits = model.learner.predict(model.meta, adapted, query).double()
        found.append(-logits.max(-1).values.cpu().numpy().reshape(len(part), n_classes, _QUERY))
    return np.concatenate(found)
