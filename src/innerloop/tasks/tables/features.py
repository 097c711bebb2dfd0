"""Which columns of a table are features, and which task each row belongs to."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from ...encoders import Encoder
from ...errors import DataError, UsageError
from ..messages import absent_columns, listed
from .cells import is_number, task_ids

__all__ = ["encoder_of", "feature_names", "task_numbers"]


def feature_names(
    frame: pd.DataFrame,
    *,
    task: str | None,
    target: Sequence[str],
    features: Sequence[str] | None,
    ignore: Sequence[str],
    categorical: Sequence[str],
) -> list[str]:
    """Names of the feature columns."""
    special = [*target] if task is None else [task, *target]
    if task in target:
        raise UsageError(f"{task!r} is named as task and as target: they are two columns")
    if len(set(target)) < len(target):
        twice = next(name for number, name in enumerate(target) if name in target[:number])
        raise UsageError(f"target {twice!r} is named twice: name it once")
    named = [*special, *(features or ()), *ignore, *categorical]
    absent = [name for name in dict.fromkeys(named) if name not in frame]
    if absent:
        raise DataError(absent_columns(absent, frame))
    clash = [name for name in features or () if name in special]
    if clash:
        raise UsageError(
            f"{clash[0]!r} is the {'target' if clash[0] in target else 'task'}, so it is no feature"
        )
    offered = frame.columns if features is None else features
    used = [name for name in offered if name not in {*special, *ignore}]
    if not used:
        raise DataError(f"no feature column is left beside {', '.join(map(repr, special))}: add one")
    return list(dict.fromkeys(used))


def encoder_of(text: Sequence[str], encoder: Encoder | None) -> Encoder | None:
    """The encoder of the columns of texts, if there are any."""
    if text and encoder is None:
        raise UsageError(
            f"{listed(text)} holds texts: name the encoder that makes features of them (--encoder wordllama)"
        )
    if encoder is not None and not text:
        raise UsageError(f"the encoder {encoder.name} needs texts: name their column (--text COLUMN)")
    return encoder


def task_numbers(frame: pd.DataFrame, task: str) -> np.ndarray:
    """A number for each row's task; numbers stay numbers, for text takes memory for millions of tasks."""
    whole = task in frame and is_number(frame[task]) and not frame[task].isna().any()
    return pd.factorize(frame[task] if whole else task_ids(frame, task))[0]
