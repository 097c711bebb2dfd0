"""Edges of the bins of a column: few, and none of them a value of the column."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

__all__ = ["bin_edges", "codes"]

_MOST = 254  # edges: scikit-learn takes at most 255 bins
_DECIMALS = 9


def bin_edges(column: np.ndarray) -> np.ndarray:
    """Edges between values of a column, in ascending order, each as short a decimal as lies between its neighbours.

    A trained tree holds edges, so none may tell a value of the table. Of many values, edges lie at quantiles.

    Arguments:
        column: `(n,)`, in float32, which trees compare in.

    Returns:
        At most 254 edges, in float32.

    Example:
        >>> bin_edges(np.float32([0.12345, 0.9, 0.12345, 2.0])).tolist()
        [0.5, 1.0]
    """
    rows = np.sort(column[np.isfinite(column)])
    if len(rows) < 2:
        return np.empty(0, np.float32)
    values, first = np.unique(rows, return_index=True)
    below = np.arange(len(values) - 1)
    if len(below) > _MOST:
        # the value at each quantile, and the next one
        at = np.linspace(0, len(rows), _MOST + 2)[1:-1].astype(int)
        below = np.unique(np.searchsorted(first, at, side="right") - 1)
        below = below[below < len(values) - 1]
    low, high = values[below], values[below + 1]
    edge = _between(low, high)
    inside = (low < edge) & (edge < high)
    return edge[inside]


def _between(low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """The shortest decimal between each pair of numbers; the lower one where none of nine digits is."""
    middle = (low.astype(np.float64) + high) / 2
    found = low.copy()
    for decimals in range(_DECIMALS, -1, -1):
        edge = np.round(middle, decimals).astype(np.float32)
        found = np.where((low < edge) & (edge < high), edge, found)
    return found


def codes(x: np.ndarray, edges: Sequence[np.ndarray]) -> np.ndarray:
    """The number of the bin of each value, `(n, F)`: how many edges are below it.

    Example:
        >>> codes(np.float32([[0.2], [0.5], [0.7]]), [np.float32([0.5])]).ravel().tolist()
        [0.0, 0.0, 1.0]
    """
    columns = [np.searchsorted(edge, column, side="left") for column, edge in zip(x.T, edges, strict=True)]
    return np.stack(columns, axis=1).astype(np.float32)
