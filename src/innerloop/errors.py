"""The few exceptions a user can meet, each with the exit code of the command.

A message names what was found (task, column, row, file or argument, and the value) and the way out. What it
quotes may come from anyone, so it is short, and holds nothing that a terminal would obey.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager, contextmanager

_MOST = 2000  # characters of a message
_END = 600  # of them those of its end, where the fix stands
# controls of terminals (but for tab and line end), other line ends, marks that turn the direction, half characters
_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def visible(text: str) -> str:
    r"""Text in which characters that steer a terminal are written out, so that it only shows them.

    Example:
        >>> print(visible("a\x1b[31m b"))
        a\x1b[31m b
    """
    return _CONTROLS.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def message_of(text: str) -> str:
    """Text as part of a message: `visible`, and without its middle where it is very long.

    Example:
        >>> message_of("no column " + "x" * 10_000 + ": name another")[1395:]
        'xxxxx [8024 characters left out] xxx...xxx: name another'
    """
    text = visible(text)
    if len(text) <= _MOST:
        return text
    return f"{text[: _MOST - _END]} [{len(text) - _MOST} characters left out] {text[-_END:]}"


class InnerloopError(Exception):
    """Anything the user can mend; the command prints its message in one line and leaves with `exit_code`."""

    exit_code = 1

    def __init__(self, *message: object, **place: str) -> None:
        """`place` says where the trouble is: `task`, `row`, `column` or `file`, as far as it is known."""
        super().__init__(*(message_of(part) if isinstance(part, str) else part for part in message))
        self.place = place


class Collector:
    """Collects errors where others raise the first: what checks many columns or files takes one as `guard`.

    Example:
        >>> guard = Collector()
        >>> for name in ("a.csv", "b.csv"):
        ...     with guard():
        ...         raise DataError(f"{name} is empty", file=name)
        >>> [error.place["file"] for error in guard.found]
        ['a.csv', 'b.csv']
    """

    def __init__(self) -> None:
        self.found: list[InnerloopError] = []

    @contextmanager
    def __call__(self) -> Iterator[None]:
        """Keep an error that is raised inside."""
        try:
            yield
        except InnerloopError as error:
            self.found.append(error)


Guard = Callable[[], AbstractContextManager[None]]


class UsageError(InnerloopError, ValueError):
    """An unknown name, or an argument or a combination of parts that has no meaning."""

    exit_code = 2


class DataError(InnerloopError, ValueError):
    """A table, image or array that cannot be used as it is."""

    exit_code = 3


class ModelFileError(InnerloopError):
    """Not a model directory, a damaged one, or one made by a newer version."""

    exit_code = 4


class ResourceError(InnerloopError):
    """Memory, disk or a folder that cannot be had."""

    exit_code = 5


class DivergedError(InnerloopError, ArithmeticError):
    """Training whose loss or gradient stayed non-finite."""

    exit_code = 6


def check_known(argument: str, value: object, allowed: Collection[str]) -> None:
    """Refuse a value that is none of the allowed names.

    Raises:
        UsageError: it is unknown.

    Example:
        >>> check_known("pool", "max", ("stride", "max"))
    """
    if value not in allowed:
        raise UsageError(f"{argument}={value!r} is unknown: choose one of {', '.join(allowed)}")
