"""Conformal intervals and prediction sets as columns of a table."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from ..errors import UsageError
from ..evaluation.calibrating import in_set
from ..evaluation.conformal import Array, Calibration, needed_tasks, require_level
from ..inner.batched import deviations
from ..inner.model import Adapted
from ..tasks.tables.schema import Schema

__all__ = ["PERCENTILE", "Intervals", "interval_columns", "interval_names", "intervals_of", "margins"]

PERCENTILE = "support_loss_percentile"
_SET = "prediction_set"


class Intervals(NamedTuple):
    """Intervals of a level that a calibration can give."""

    calibration: Calibration
    level: float


def intervals_of(
    calibration: Calibration | None, level: float, *, where: Path, inner_steps: int | None
) -> Intervals:
    """Intervals of a level, where the calibration can give them.

    Arguments:
        calibration: what is stored, if anything.
        level: share of the rows of new tasks that an interval shall hold.
        where: the model directory, for messages.
        inner_steps: inner steps that were asked for.

    Raises:
        UsageError: the level is no share; or nothing is stored, or from too few tasks, or from other inner steps.

    Example:
        >>> few = Calibration({0: np.ones((199, 1))}, {0: np.ones(5)})
        >>> intervals_of(few, 0.9, where=Path("runs/schools"), inner_steps=None)
        Traceback (most recent call last):
        innerloop.errors.UsageError: interval=0.9 needs 9 calibration tasks or more, and runs/schools has 5: ...
    """
    level = require_level(level)
    if calibration is None:
        raise UsageError(
            f"interval={level:g}: {where} holds no calibration: train again with meta-validation tasks, or give "
            "calibration=il.calibrate(model, tasks.valid) to il.save"
        )
    if inner_steps is not None:
        raise UsageError(
            f"inner_steps={inner_steps}: the intervals hold for the inner steps of training: leave one of the two out"
        )
    if (count := calibration.n_tasks) < needed_tasks(level):
        most = math.floor(100 * count / (count + 1)) / 100
        raise UsageError(
            f"interval={level:g} needs {needed_tasks(level)} calibration tasks or more, and {where} has {count}: ask "
            f"for {most} or less, or give more tasks to meta-validation when you train (--split)"
        )
    return Intervals(calibration, level)


def interval_names(schema: Schema) -> list[str]:
    """The new columns.

    Example:
        >>> interval_names(Schema("site", "risk", "regression", ()))
        ['lower', 'upper', 'support_loss_percentile']
    """
    if schema.kind == "classification":
        return [_SET, PERCENTILE]
    return [*(f"{end}{target}" for end in ("lower", "upper") for target in _suffixes(schema)), PERCENTILE]


def margins(
    intervals: Intervals, tasks: Sequence[Adapted], queries: Sequence[torch.Tensor], counts: Sequence[int]
) -> list[Array]:
    """How far each value of each row may be off, `(n, C)` standardised; for classes the largest score `(n, 1)`.

    NaN where there are too few calibration tasks with so many support rows or fewer.

    Arguments:
        intervals: of which level.
        tasks: what each task predicts with.
        queries: query features of each task.
        counts: support rows of each task.
    """
    spread, found = deviations(tasks, queries), []
    for number, (x, count) in enumerate(zip(queries, counts, strict=True)):
        limit = intervals.calibration.threshold(count, intervals.level)
        own = np.full(1, np.nan) if limit is None else limit
        scale = np.ones((len(x), 1)) if spread is None else spread[number].double().cpu().numpy()
        found.append(scale * own)
    return found


def interval_columns(
    schema: Schema, values: Array, margin: Array, labels: Sequence[Sequence[str]]
) -> dict[str, np.ndarray]:
    """Ends of the intervals, or prediction sets, by the name of their column; missing where a margin is NaN.

    Arguments:
        schema: what the columns mean.
        values: predictions `(n, C)`, standardised, or logits.
        margin: see `margins`.
        labels: the classes of each row's task, where tasks have classes of their own.
    """
    if schema.kind == "classification":
        chance = torch.from_numpy(values).softmax(-1)
        member = in_set(chance, torch.from_numpy(margin)).numpy()
        names = labels if schema.n_way else [schema.classes] * len(values)
        sets = [
            None if np.isnan(limit) else _written(own, inside, order)
            for own, inside, order, limit in zip(
                names, member, np.argsort(-values, axis=1, kind="stable"), margin[:, 0], strict=True
            )
        ]
        return {_SET: np.array(sets, dtype=object)}
    ends = (("lower", values - margin), ("upper", values + margin))
    return {
        f"{end}{target}": own
        for end, bound in ends
        for target, own in zip(_suffixes(schema), schema.decode(bound).values(), strict=True)
    }


def _suffixes(schema: Schema) -> list[str]:
    return [f"_{column.name}" for column in schema.target_columns] if schema.more_targets else [""]


def _written(names: Sequence[str], member: np.ndarray, order: np.ndarray) -> str:
    """The classes of a set, the most likely first; one that holds the separator stands in quotation marks.

    Example:
        >>> _written(["a", "b;c", "d"], np.array([True, True, False]), np.array([1, 0, 2]))
        '"b;c"; a'
    """
    return "; ".join(_quoted(names[place]) for place in order if member[place] and place < len(names))


def _quoted(name: str) -> str:
    if ";" not in name and '"' not in name:
        return name
    text = io.StringIO()
    csv.writer(text, quoting=csv.QUOTE_ALL, lineterminator="").writerow([name])
    return text.getvalue()
