"""Whether values can be looked at: while a function is written down as a graph, there are only shapes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_TRACING: ContextVar[bool] = ContextVar("tracing", default=False)
_CHECKING: ContextVar[bool] = ContextVar("checking", default=False)


@contextmanager
def while_tracing() -> Iterator[None]:
    """Inside, checks that look at values are left out; they run beforehand."""
    token = _TRACING.set(True)
    try:
        yield
    finally:
        _TRACING.reset(token)


def tracing() -> bool:
    """Whether a function is being traced.

    Example:
        >>> with while_tracing():
        ...     tracing()
        True
    """
    return _TRACING.get()


@contextmanager
def while_checking() -> Iterator[None]:
    """Inside, a function runs once to be compared with its graph: memory matters, and speed does not."""
    token = _CHECKING.set(True)
    try:
        yield
    finally:
        _CHECKING.reset(token)


def checking() -> bool:
    """Whether a function runs only to be compared with its graph.

    Example:
        >>> with while_checking():
        ...     checking()
        True
    """
    return _CHECKING.get()
