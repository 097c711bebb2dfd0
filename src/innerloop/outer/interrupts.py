"""Ctrl-C and SIGTERM during training: the update under way is finished first; a second signal stops at once."""

from __future__ import annotations

import signal
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ["Interrupts", "interruption_unsaid"]

_SAID = "interrupted"


@contextmanager
def interruption_unsaid() -> Iterator[None]:
    """While entered, nothing warns where Ctrl-C ends a training: for callers that look at `Run.interrupted`.

    Example:
        >>> with interruption_unsaid():
        ...     warnings.warn("interrupted after update 3 of 9")
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", _SAID)
        yield


class Interrupts:
    """While entered, the first SIGINT or SIGTERM is noted, and the second does what it did before.

    Signals that the program handles in its own way, or ignores, are left to it, as is everything in threads other than
    the main one, which receive none.

    Arguments:
        terminated: whether SIGTERM is noted too: only where something can be saved before the process ends.

    Example:
        >>> with Interrupts() as interrupts:
        ...     signal.raise_signal(signal.SIGINT)
        ...     interrupts.noted == signal.SIGINT
        True
    """

    def __init__(self, *, terminated: bool = False) -> None:
        self.noted: int | None = None
        self._before: dict[int, object] = {}
        self._watched = [signal.SIGINT, *([signal.SIGTERM] if terminated else [])]

    def __enter__(self) -> Interrupts:
        """Listen."""
        if threading.current_thread() is threading.main_thread():
            for number in self._watched:
                before = signal.getsignal(number)
                # set outside of Python, ignored (nohup), or Ctrl-C that the program has a use for
                own = number == signal.SIGINT and before is not signal.default_int_handler
                if before is not None and before is not signal.SIG_IGN and not own:
                    self._before[number] = before
                    signal.signal(number, self._note)
        return self

    def __exit__(self, *error: object) -> None:
        """Everything as it was before."""
        for number, before in self._before.items():
            signal.signal(number, before)  # type: ignore[arg-type]
        self._before = {}

    def pass_on(self) -> None:
        """Let SIGTERM do what it did before; Ctrl-C has had its effect."""
        if self.noted == signal.SIGTERM:
            signal.raise_signal(signal.SIGTERM)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.noted is None:
            self.noted = number
            return
        self.__exit__()
        signal.raise_signal(signal.Signals(number))
