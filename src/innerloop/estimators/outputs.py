"""What estimators return: arrays, from the columns that `predict_frame` adds to a table."""

from __future__ import annotations

import csv
from typing import TypeAlias

import numpy as np
import pandas as pd

__all__ = ["Labels", "Values", "labels", "shares", "values"]

# with intervals, their lower and upper ends; or prediction sets
Values: TypeAlias = np.ndarray | tuple[np.ndarray, np.ndarray, np.ndarray]
Labels: TypeAlias = np.ndarray | tuple[np.ndarray, np.ndarray]


def values(predicted: pd.DataFrame, targets: tuple[str, ...], interval: float | None) -> Values:
    """Predicted values `(n,)`, or `(n, C)` of several targets; with an interval also its lower and upper ends."""
    found = _of_targets(predicted, "prediction", targets)
    if interval is None:
        return found
    return found, _of_targets(predicted, "lower", targets), _of_targets(predicted, "upper", targets)


def labels(predicted: pd.DataFrame, classes: np.ndarray, interval: float | None) -> Labels:
    """The likeliest class of each row `(n,)`; with an interval also which classes it may have, `(n, classes)`.

    Where there is no prediction set, it may have any.

    Example:
        >>> frame = pd.DataFrame({"probability_a": [0.3], "probability_b": [0.7], "prediction_set": ["b; a"]})
        >>> labels(frame, np.array(["a", "b"]), 0.9)
        (array(['b'], dtype='<U1'), array([[ True,  True]]))
    """
    found = classes[shares(predicted, classes).argmax(axis=1)]
    if interval is None:
        return np.asarray(found)
    names = [str(label) for label in classes]
    written = [
        names if text is None or pd.isna(text) else _members(text) for text in predicted["prediction_set"]
    ]
    return np.asarray(found), np.array([[name in members for name in names] for members in written])


def shares(predicted: pd.DataFrame, classes: np.ndarray) -> np.ndarray:
    """The predicted probability of each class, `(n, classes)`."""
    return predicted[[f"probability_{label}" for label in classes]].to_numpy(np.float64, copy=True)


def _members(text: str) -> list[str]:
    """The names in a prediction set as it is written."""
    return next(csv.reader([text], delimiter=";", skipinitialspace=True), [])


def _of_targets(predicted: pd.DataFrame, column: str, targets: tuple[str, ...]) -> np.ndarray:
    """A column of each target."""
    names = [column] if len(targets) == 1 else [f"{column}_{target}" for target in targets]
    found = predicted[names].to_numpy(np.float64, copy=True)
    return found[:, 0] if len(targets) == 1 else found
