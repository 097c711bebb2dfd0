"""What several models answer on the same episodes, and how far off they are."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from ..engine.threads import threads_for
from ..inner.learner import without_padding
from ..inner.model import Model
from ..models.network import reference
from ..tasks.episodes import Episode, to
from ..tasks.sources import VALIDATION_SEED, RowSource, Source
from .weights import Array

__all__ = ["Answers", "answers", "at_size", "sizes_of"]

# support sets of each task, and episodes where tasks never repeat
_DRAWS, _EPISODES = 6, 200


def sizes_of(source: Source) -> tuple[int, ...]:
    """Support sizes from 0 to the trained one at which a model is looked at; rows a class where they are so counted.

    Example:
        >>> from innerloop.tasks import sinusoid
        >>> sizes_of(sinusoid(n_support=10).valid)
        (10,)
    """
    most = source.support.high
    if not isinstance(source, RowSource) or source.own_classes:
        # what a class number means is known from the support alone
        return (most,)
    return tuple(sorted({0, most, *(size for size in (1, 2, 4, 8, 16, 32, 64) if size < most)}))


def at_size(source: Source, size: int, *, draws: int = _DRAWS) -> Source:
    """The same tasks with support sets of one size; other sources as they are."""
    if not isinstance(source, RowSource):
        return source
    return replace(source, support=source.support._replace(low=size, high=max(size, 0)), draws=draws)


@dataclass(frozen=True, eq=False)
class Answers:
    """The answers of `M` models for `T` tasks.

    Arguments:
        tasks: names.
        rows: mean support rows of a task.
        errors: mean products of the models' errors in units of the targets' variance `(T, M, M)`; of classes none.
        chances: of each task the probabilities that the models gave to what came `(n_t, M)`; of values none.
        spread: mean squared error in units of the variance that a model expects, of each task `(T, M, C)`; NaN for a
            target that no row of the task knows.
    """

    tasks: tuple[str, ...]
    rows: float
    errors: Array
    chances: tuple[Array, ...]
    spread: Array

    @property
    def losses(self) -> Array:
        """Error over variance, or log loss, of each task and model `(T, M)`."""
        if self.chances:
            means = [-np.log(np.maximum(own, 1e-12)).mean(0) for own in self.chances]
            return np.stack(means)
        diagonal: Array = np.diagonal(self.errors, axis1=1, axis2=2)
        return diagonal

    def of(self, weights: Array) -> Array:
        """The loss of the average with such weights, of each task `(T,)`."""
        if self.chances:
            return np.array([-np.log(np.maximum(own @ weights, 1e-12)).mean() for own in self.chances])
        reached: Array = np.einsum("i,tij,j->t", weights, self.errors, weights)
        return reached

    def among(self, models: Sequence[int]) -> Answers:
        """Those of some of the models, by position."""
        chosen = list(models)
        errors = self.errors[:, chosen][:, :, chosen] if len(self.errors) else self.errors
        chances = tuple(own[:, chosen] for own in self.chances)
        return Answers(self.tasks, self.rows, errors, chances, self.spread[:, chosen])

    def some(self, tasks: np.ndarray) -> Answers:
        """Those for some of the tasks, by position."""
        chosen = [int(task) for task in tasks]
        chances = tuple(self.chances[task] for task in chosen) if self.chances else ()
        errors = self.errors[chosen] if len(self.errors) else self.errors
        return Answers(
            tuple(self.tasks[task] for task in chosen), self.rows, errors, chances, self.spread[chosen]
        )


def answers(models: Sequence[Model], source: Source, *, seed: int = VALIDATION_SEED) -> Answers:
    """Adapt every model to the same support sets and compare what they say of the query rows.

    Arguments:
        models: the models.
        source: tasks.
        seed: of the episodes.

    Example:
        >>> import innerloop as il
        >>> tasks, learner = il.tasks.sinusoid(episodes=5), il.mixed(1)
        >>> answers([il.Model(learner, learner.init())], tasks.valid).losses.shape
        (5, 1)
    """
    found: defaultdict[str, list[tuple[Array, Array]]] = defaultdict(list)
    rows = [0.0, 0]
    for names, raw in source.fixed(seed):
        said = [_said(model, raw) for model in models]
        weight = raw.query.weight
        inside = np.ones(raw.query.y.shape[:2], bool) if weight is None else weight.numpy() > 0
        support = raw.support.weight
        rows[0] += (
            float(support.sum()) if support is not None else raw.support.y.shape[0] * raw.support.y.shape[1]
        )
        rows[1] += len(names)
        for task, name in enumerate(names):
            own = inside[task]
            mean, variance = (np.stack([each[part][task][own] for each in said], -1) for part in (0, 1))
            found[name].append(_measured(mean, variance, raw.query.y[task].numpy()[own], source))
        if source.n_tasks is None and rows[1] >= _EPISODES:
            break
    first = [[one for one, _ in parts] for parts in found.values()]
    spread = np.stack([_mean_of_known([other for _, other in parts]) for parts in found.values()])
    classes = source.targets.kind == "classification"
    errors = np.empty((0, 0, 0)) if classes else np.stack([np.mean(parts, 0) for parts in first])
    chances = tuple(np.concatenate(parts) for parts in first) if classes else ()
    return Answers(tuple(found), rows[0] / rows[1], errors, chances, spread)


def _mean_of_known(parts: Sequence[Array]) -> Array:
    """The mean over the first axis of what is not NaN; NaN where nothing else is."""
    known = np.stack([~np.isnan(part) for part in parts]).sum(0)
    with np.errstate(invalid="ignore"):
        mean: Array = np.nansum(parts, 0) / known
    return mean


def _said(model: Model, raw: Episode) -> tuple[Array, Array]:
    """Predictions, or probabilities, of a stack `(T, n, C)`, and the variances that the model expects."""
    like = reference(model.meta)
    whole = to(raw, like.device, like.dtype)
    mean = variance = None
    with torch.no_grad(), threads_for(model.meta):
        for positions, part in without_padding(model.learner, whole, predicting=True):
            adapted = model.learner.adapt(model.meta, part.support)
            said = model.learner.predict(model.meta, adapted, part.query.x)
            expected = model.learner.variance(model.meta, adapted, part.query.x)
            if mean is None or variance is None:
                mean = np.zeros((*raw.query.y.shape[:2], said.shape[-1]))
                variance = np.ones_like(mean)
            if raw.query.y.dim() == 2:
                said = said.softmax(-1)
            rows = said.shape[1]
            mean[positions, :rows] = said.double().cpu().numpy()
            if expected is not None:
                variance[positions, :rows] = expected.double().cpu().numpy()
    assert mean is not None
    assert variance is not None
    return mean, variance


def _measured(mean: Array, variance: Array, y: Array, source: Source) -> tuple[Array, Array]:
    """Of one task: products of errors `(M, M)`, or probabilities of what came `(n, M)`; and the spread `(M, C)`."""
    if source.targets.kind == "classification":
        return mean[np.arange(len(y)), y.astype(int)], np.ones((mean.shape[-1], 1))
    known = ~np.isnan(y)
    error = np.where(known[..., None], mean - np.nan_to_num(y)[..., None], 0.0)
    scaled = error / np.sqrt(np.array(source.targets.variance))[:, None]
    products = np.einsum("ncm,nck->mk", scaled, scaled) / max(1, int(known.sum()))
    spread = (error**2 / np.maximum(variance, 1e-12)).sum(0)
    with np.errstate(invalid="ignore"):  # of a target that no row knows, NaN
        return products, (spread / known.sum(0)[:, None]).T
