"""Example episodes with predictions, to look at: features and targets in natural units, classes by name, pixels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from ..inner.batched import predict_tasks
from ..inner.model import Model
from ..tasks.episodes import Batch
from ..tasks.sources import EVALUATION_SEED, Source
from .inspection import first_episodes

if TYPE_CHECKING:
    from ..tasks.tables.schema import Schema

__all__ = ["Cells", "Shown", "show"]

Cells: TypeAlias = tuple[Any, ...]  # numbers, names of classes, or tuples of these
_QUERY_ROWS, _QUERY_IMAGES = 40, 10


def show(
    models: Mapping[str, Model],
    source: Source,
    *,
    schema: Schema | None = None,
    count: int = 6,
    seed: int = EVALUATION_SEED,
) -> tuple[Shown, ...]:
    """A few meta-test episodes with what models predict for their query rows.

    Arguments:
        models: by the name to show.
        source: tasks.
        schema: what the columns mean; without it, features have no names and targets no other unit.
        count: episodes.
        seed: of the episodes.

    Returns:
        The episodes; none where features are no plain tensor, or there is nothing to see in them.

    Example:
        >>> import innerloop as il
        >>> tasks = il.tasks.sinusoid(n_support=5, episodes=4)
        >>> learner = il.mixed(1)
        >>> (one,) = show({"mixed": il.Model(learner, learner.init())}, tasks.test, count=1)
        >>> len(one.support_x), len(one.query_y) == len(one.predictions["mixed"])
        (5, True)
    """
    ids, episode = first_episodes(source, count, seed=seed)
    if not isinstance(episode.query.x, Tensor):
        return ()
    episodes = []
    for number, task in enumerate(ids):
        support, query = (_real_rows(part, number) for part in episode)
        query = _some(query, _QUERY_IMAGES if query.x.dim() == 4 else _QUERY_ROWS)
        predictions = {
            name: _targets(predict_tasks(model, [support], [query.x])[0], schema, predicted=True)
            for name, model in models.items()
        }
        names, columns = _features(support.x, schema)
        episodes.append(
            Shown(
                task=task,
                features=names,
                support_x=columns,
                support_y=_targets(support.y, schema),
                query_x=_features(query.x, schema)[1],
                query_y=_targets(query.y, schema),
                predictions=predictions,
            )
        )
    return tuple(episodes)


def _real_rows(batch: Batch, task: int) -> Batch:
    """The rows of one task of a stack, without padding."""
    real = slice(None) if batch.weight is None else batch.weight[task] > 0
    return Batch(batch.x[task][real], batch.y[task][real])


def _some(batch: Batch, most: int) -> Batch:
    """At most so many rows, from all over the batch: classes stand one after the other."""
    if batch.rows <= most:
        return batch
    chosen = torch.linspace(0, batch.rows - 1, most, device="cpu").round().long().to(batch.y.device)
    return Batch(batch.x[chosen], batch.y[chosen])


def _features(x: Tensor, schema: Schema | None) -> tuple[tuple[str, ...], Cells]:
    """Names of the features, and rows of them in natural units; pixels as they are."""
    values = x.detach().double().cpu().numpy()
    names: list[str] = []
    if schema is not None and values.ndim == 2 and values.shape[1] == schema.n_features:
        for column in schema.columns:
            at = len(names)
            if column.kind in ("category", "text"):
                names += column.feature_names
                continue
            if column.kind != "flag":
                values[:, at] = values[:, at] * column.scale + column.mean
            names += [column.name, f"{column.name} is missing"][: column.width]
    return tuple(names), _nested(values)


def _targets(y: Tensor, schema: Schema | None, *, predicted: bool = False) -> Cells:
    """Class names, or values in natural units."""
    if predicted and (schema is None or schema.kind == "classification") and y.dim() == 2 and y.shape[1] > 1:
        y = y.argmax(-1)
    if not y.is_floating_point():
        classes = schema.classes if schema is not None else ()
        return tuple(classes[k] if k < len(classes) else str(k + 1) for k in y.tolist())
    values = y.detach().double().cpu().numpy()
    if schema is not None and schema.kind == "regression":
        scale = np.array([column.scale for column in schema.target_columns])
        values = values * scale + np.array([column.mean for column in schema.target_columns])
    return _nested(values[:, 0] if values.ndim == 2 and values.shape[1] == 1 else values)


def _nested(values: np.ndarray) -> Cells:
    return tuple(value.item() if value.ndim == 0 else _nested(value) for value in values)


@dataclass(frozen=True)
class Shown:
    """One meta-test episode to show.

    Arguments:
        task: its name.
        features: names of the feature columns, where they have names.
        support_x: rows of features, or images as rows of pixels (`(channels, height, width)` nested) in [0, 1].
        support_y: targets in natural units, or class names.
        query_x: as `support_x`.
        query_y: as `support_y`.
        predictions: query predictions by method name, as `query_y`.
    """

    task: str
    features: tuple[str, ...]
    support_x: Cells
    support_y: Cells
    query_x: Cells
    query_y: Cells
    predictions: dict[str, Cells]
