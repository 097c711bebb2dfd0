"""What a function is being run for: its values, to be traced (only shapes are known), or to check a graph.

Code that is run inside a meta-step asks `tracing`, `compiling` and `checking`, and leaves out what looks at values, or
saves memory. The answers are context variables: they belong to the thread and to the call.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar

__all__ = ["any_rows", "checking", "compiling", "frugal", "tracing", "while_checking", "while_tracing"]

_TRACING: ContextVar[bool] = ContextVar("tracing", default=False)
_COMPILING: ContextVar[bool] = ContextVar("compiling", default=False)
_ANY_ROWS: ContextVar[bool] = ContextVar("any_rows", default=False)
_CHECKING: ContextVar[bool] = ContextVar("checking", default=False)


@contextmanager
def while_tracing(*, compiling: bool = False, any_rows: bool = False) -> Iterator[None]:
    """Inside, checks that look at values are left out; they run beforehand.

    Arguments:
        compiling: whether the graph is going to be compiled, and need not be written with an eye to memory.
        any_rows: whether it is going to be one graph for one task of any number of rows.
    """
    tokens = _TRACING.set(True), _COMPILING.set(compiling), _ANY_ROWS.set(any_rows)
    try:
        yield
    finally:
        _TRACING.reset(tokens[0])
        _COMPILING.reset(tokens[1])
        _ANY_ROWS.reset(tokens[2])


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


def any_rows() -> bool:
    """Whether a graph for one task of any number of rows is being traced.

    Example:
        >>> with while_tracing(any_rows=True):
        ...     any_rows()
        True
    """
    return _ANY_ROWS.get()


@contextmanager
def while_checking() -> Iterator[None]:
    """Inside, a function runs once to be compared with its graph: memory matters, and speed does not."""
    token = _CHECKING.set(True)
    try:
        yield
    finally:
        _CHECKING.reset(token)


@contextmanager
def frugal() -> Iterator[None]:
    """At the end, memory that operators have freed inside goes back to the system (`malloc_trim`).

    The allocator would keep it for the next operator that happens to fit into it, and a process that runs a function
    once, to check a graph, would keep that of all its activations.
    """
    try:
        yield
    finally:
        with suppress(AttributeError, OSError, TypeError):  # the allocator of glibc alone keeps so much
            ctypes.CDLL(None).malloc_trim(0)


def checking() -> bool:
    """Whether a function runs only to be compared with its graph.

    Example:
        >>> with while_checking():
        ...     checking()
        True
    """
    return _CHECKING.get()
