"""Calls that do not depend on one another, one after the other or in processes of their own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch

from ..errors import UsageError

__all__ = ["HERE", "Workers", "available_cores"]

T = TypeVar("T")
# a process holds torch and a copy of the tasks
_MOST = 8


@dataclass(frozen=True)
class Workers:
    """How many calls run at once.

    Arguments:
        jobs: processes; 1 runs every call in this one.

    Raises:
        UsageError: there is no process to run anything.

    Example:
        >>> from functools import partial
        >>> sorted(Workers(1).run([partial(pow, 2, 3), partial(pow, 2, 4)]))
        [(0, 8), (1, 16)]
    """

    jobs: int = 1

    def __post_init__(self) -> None:
        """Refuse what has no meaning."""
        if type(self.jobs) is not int or self.jobs < 1:
            raise UsageError(f"jobs={self.jobs!r}: give a whole number of processes, 1 or more")

    def apart(self, calls: Sequence[object]) -> bool:
        """Whether these calls run in processes of their own."""
        return min(self.jobs, len(calls)) > 1

    def run(self, calls: Sequence[Callable[[], T]]) -> Iterator[tuple[int, T]]:
        """The number of each call and its result, as they end."""
        if not self.apart(calls):
            yield from ((number, call()) for number, call in enumerate(calls))
            return
        from joblib import Parallel, delayed

        # one thread each: processes that share cores would wait for each other's threads
        pool = Parallel(n_jobs=min(self.jobs, len(calls)), return_as="generator_unordered")
        yield from pool(delayed(_numbered)(number, call) for number, call in enumerate(calls))


def _numbered(number: int, call: Callable[[], T]) -> tuple[int, T]:
    torch.set_num_threads(1)
    return number, call()


# one call after the other, in this process
HERE = Workers()


def available_cores() -> int:
    """Cores that this process may use, at most 8; 1 where there is a GPU, which processes would share.

    joblib counts them: a container's share and `LOKY_MAX_CPU_COUNT` are heeded.
    """
    from joblib import cpu_count

    return 1 if torch.accelerator.is_available() else min(cpu_count(), _MOST)
