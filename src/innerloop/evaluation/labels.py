"""Scores by number of labelled rows: what a task gains from each further label, from none on."""

from __future__ import annotations

from dataclasses import replace

from ..inner.model import Model
from ..tasks.sources import RowSource, Source
from .scores import Evaluation, evaluate

__all__ = ["by_labels", "label_counts"]

# support sets of each task
_DRAWS = 3


def label_counts(source: Source) -> tuple[int, ...]:
    """Numbers of labelled rows, of a task or a class, from 0 to those of training; none for tasks without rows.

    Example:
        >>> import innerloop as il
        >>> label_counts(il.tasks.sinusoid(n_support=10).test)
        ()
    """
    if not isinstance(source, RowSource) or source.own_classes:
        return ()
    most = source.support.high
    return tuple(sorted({0, most, *(size for size in (1, 2, 4, 8, 16, 32, 64, 128) if size < most)}))


def by_labels(model: Model, source: Source) -> dict[int, Evaluation]:
    """The scores with each of `label_counts`, on the same tasks; none where tasks never repeat.

    Arguments:
        model: what to score.
        source: held-out tasks.

    Returns:
        Number of labelled rows (a class, where support is counted so) to its evaluation after adaptation.

    Example:
        >>> import numpy as np, innerloop as il
        >>> x = np.linspace(0, 1, 60)
        >>> tasks = il.tasks.arrays(x[:, None], np.sin(9 * x), np.arange(60) // 6, n_support=2)
        >>> learner = il.mixed(1)
        >>> list(by_labels(il.Model(learner, learner.init()), tasks.test))
        [0, 1, 2]
    """
    found = {}
    for count in label_counts(source):
        assert isinstance(source, RowSource)
        size = source.support._replace(low=count, high=count)
        here = replace(source, support=size, draws=min(source.draws, _DRAWS))
        scores = evaluate(model, here, path=False, start=False)
        found[count] = scores.at(len(scores.steps) - 1)
    return found
