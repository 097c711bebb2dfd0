"""What a function is run for: its values, its graph, in which there are only shapes, or to check the graph."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_TRACING: ContextVar[bool] = ContextVar("tracing", default=False)
_COMPILING: ContextVar[bool] = ContextVar("compiling", default=False)
_CHECKING: ContextVar[bool] = ContextVar("checking", default=False)


@contextmanager
def while_tracing(*, compiling: bool = False) -> Iterator[None]:
    """Inside, checks that look at values are left out; they run beforehand.

    Arguments:
        compiling: whether the graph is going to be compiled, and need not be written with an eye to memory.
    """
    tokens = _TRACING.set(True), _COMPILING.set(compiling)
    try:
        yield
    finally:
        _TRACING.reset(tokens[0])
        _COMPILING.reset(tokens[1])


def tracing() -> bool:
    """Whether a function is being traced.

    Example:
        >>> with while_tracing():
        ...     tracing()
        True
    """
    return _TRACING.get()


def compiling() -> bool:
    """Whether a function is being traced in order to be compiled.

    Example:
        >>> with while_tracing(compiling=True):
        ...     compiling()
        True
    """
    return _COMPILING.get()


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
