"""Random streams of a task for dropout: one for each inner step, and one for its query rows."""

from __future__ import annotations

from torch import Tensor

from ..models.randomness import fold

__all__ = ["for_query", "for_step"]

# far from the numbers of inner steps
_QUERY = 1 << 20


def for_step(key: Tensor | None, step: int) -> Tensor | None:
    """The keys `(T,)` of the tasks for an inner step; none without keys."""
    return None if key is None else fold(key, step)


def for_query(key: Tensor | None) -> Tensor | None:
    """The keys `(T,)` of the tasks for their query rows; none without keys."""
    return for_step(key, _QUERY)
