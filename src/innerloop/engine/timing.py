"""A benchmark of the gears: what each takes on a function and arguments of one's own."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import NamedTuple

from .gears import fast

__all__ = ["Timing", "benchmark"]


class Timing(NamedTuple):
    """Time of a function in one gear.

    Arguments:
        gear: that was asked for.
        milliseconds: a call, the median.
        seconds: spent once, before the second call.
        report: the gear that was taken, and why it is another one.
    """

    gear: str
    milliseconds: float
    seconds: float
    report: str


def benchmark(function: Callable[..., object], *args: object, seconds: float = 1.0) -> list[Timing]:
    r"""Time a pure function in every gear, in turns.

    Arguments:
        function: see `fast`.
        args: its arguments.
        seconds: to spend on each gear, besides making it.

    Returns:
        One row a gear; `print(*rows, sep="\n")` shows them.

    Example:
        >>> import torch
        >>> rows = benchmark(lambda x: (x @ x).sum(), torch.ones(4, 4), seconds=0.01)
        >>> [row.gear for row in rows]
        ['eager', 'traced', 'compiled']
    """
    functions = {gear: fast(function, gear=gear) for gear in ("eager", "traced", "compiled")}
    times: dict[str, list[float]] = {gear: [] for gear in functions}
    for quick in functions.values():
        quick(*args)
    spent = dict.fromkeys(functions, 0.0)
    while min(spent.values()) < seconds:
        for gear, quick in functions.items():
            if spent[gear] < seconds:
                began = time.perf_counter()
                quick(*args)
                times[gear].append(time.perf_counter() - began)
                spent[gear] += times[gear][-1]
    return [
        Timing(gear, 1000 * statistics.median(times[gear]), quick.report.seconds, str(quick.report))
        for gear, quick in functions.items()
    ]
