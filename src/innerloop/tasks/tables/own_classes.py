"""Classes that each task has of its own: which they are, and the number that each gets within its task."""

from __future__ import annotations

import numpy as np
import pandas as pd

from .cells import factorize, sorted_labels, task_ids

__all__ = ["numbers_in_tasks", "own_labels"]


def own_labels(rows: pd.DataFrame, task: str, target: str) -> dict[str, tuple[str, ...]]:
    """The classes of each task by its labelled rows, in the order in which `numbers_in_tasks` numbers them.

    Example:
        >>> rows = pd.DataFrame({"shop": [1, 1, 2], "fruit": ["pear", "fig", "nut"]})
        >>> own_labels(rows, "shop", "fruit")
        {'1': ('fig', 'pear'), '2': ('nut',)}
    """
    codes, values = factorize(rows[target])
    pairs = {*zip(task_ids(rows, task).tolist(), codes.tolist(), strict=True)}
    own: dict[str, set[str]] = {}
    for name, code in sorted(pairs):
        own.setdefault(str(name), set()).add(str(values[code]))
    order = {label: rank for rank, label in enumerate(sorted_labels(rows[target]))}
    return {name: tuple(sorted(labels, key=order.__getitem__)) for name, labels in own.items()}


def numbers_in_tasks(rows: pd.DataFrame, task: str, target: str) -> np.ndarray:
    """The number of each labelled row's class among those of its task, in the order of `sorted_labels`, `(n,)`.

    Example:
        >>> rows = pd.DataFrame({"shop": [1, 1, 2], "fruit": ["pear", "fig", "nut"]})
        >>> numbers_in_tasks(rows, "shop", "fruit").tolist()
        [1, 0, 0]
    """
    order = {label: rank for rank, label in enumerate(sorted_labels(rows[target]))}
    codes, values = factorize(rows[target])
    rank = pd.Series(np.array([order[str(value)] for value in values], dtype=np.int64)[codes])
    number: np.ndarray = rank.groupby(task_ids(rows, task)).rank("dense").to_numpy(np.int64) - 1
    return number
