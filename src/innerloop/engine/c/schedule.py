"""The order in which kernels run and where their buffers are.

Kernels whose tasks do not touch each other's numbers are run task by task: all of them for the first task, then all of
them for the second. What only they use is then as large as one task and stays in the cache, however many tasks there
are. Buffers live in an arena and are reused as soon as they are dead.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

_LINE = 64
# number of a band, and of a call in it
Time = tuple[int, int]


@dataclass(frozen=True)
class Call:
    """A call of a kernel.

    Arguments:
        kernel: its name.
        pointers: buffer, offset and step from task to task in bytes; the first is written.
        split: whether the kernel does one task, and is called for each.
        aligned: buffers of which a task touches its own part alone; the others belong to all tasks.
    """

    kernel: str
    pointers: tuple[tuple[int, int, int], ...]
    split: bool
    aligned: frozenset[int]

    @property
    def target(self) -> int:
        """The buffer that is written."""
        return self.pointers[0][0]


@dataclass
class Band:
    """Calls that run together: all for one task after the other where it is split, else one after the other."""

    split: bool
    calls: list[Call] = field(default_factory=list)


def banded(calls: Sequence[Call]) -> list[Band]:
    """The calls in bands, as few as their dependences allow; one call after another where nothing is split."""
    if not any(call.split for call in calls):
        return [Band(False, list(calls))]
    needed, alone = _dependences(calls), _for_all(calls)
    left, done = list(range(len(calls))), set[int]()
    bands: list[Band] = []
    split = False
    while left:
        band, taken = Band(split), set[int]()
        for place in left:
            kind = calls[place].split and calls[place].target not in alone
            if kind == split and needed[place] <= done | taken and _fits(calls, place, needed, taken):
                band.calls.append(calls[place])
                taken.add(place)
        if taken:
            bands.append(band)
        done |= taken
        left = [place for place in left if place not in taken]
        split = not split
    return bands


def _for_all(calls: Sequence[Call]) -> set[int]:
    """Buffers that are written in parts and read as a whole by each task: weights that all tasks share."""
    written = {call.target for call in calls if call.split and call.target in call.aligned}
    read = {
        buffer
        for call in calls
        if call.split
        for buffer, _, _ in call.pointers[1:]
        if buffer not in call.aligned
    }
    return written & read


def _dependences(calls: Sequence[Call]) -> list[set[int]]:
    """For each call the earlier ones that write what it touches."""
    writers: dict[int, list[int]] = {}
    needed = []
    for place, call in enumerate(calls):
        needed.append({writer for buffer, _, _ in call.pointers for writer in writers.get(buffer, ())})
        writers.setdefault(call.target, []).append(place)
    return needed


def _fits(calls: Sequence[Call], place: int, needed: Sequence[set[int]], taken: set[int]) -> bool:
    """Whether a call and those of the band that it depends on meet in one task alone."""
    call = calls[place]
    writers = [calls[writer] for writer in needed[place] & taken]
    return not call.split or all(w.target in call.aligned and w.target in w.aligned for w in writers)


@dataclass
class Layout:
    """Where buffers are.

    Arguments:
        places: C of the place of every buffer.
        private_buffers: those of which each task has its own.
        shared: bytes of the arena of all tasks.
        private: bytes of that of one task.
        sums: where the buffers begin to which tasks add, and the bytes of all.
    """

    places: dict[int, str]
    private_buffers: set[int]
    shared: int
    private: int
    sums: tuple[dict[int, int], int]


def laid_out(
    bands: Sequence[Band], sizes: Sequence[int], fixed: Mapping[int, str], sums: Sequence[int], tasks: int
) -> Layout:
    """Find a place for every buffer that has none: in the arena, or in that of a task.

    Arguments:
        bands: what runs, in order.
        sizes: bytes of every buffer.
        fixed: places of the buffers that are given or returned.
        sums: buffers to which tasks add; they keep their places, so that each thread can have its own.
        tasks: number of tasks.
    """
    added, every = _packed({b: ((0, 0), (len(bands), 0)) for b in sums}, sizes, 1)
    fixed = {**fixed, **{b: f"sums + {start}" for b, start in added.items()}}
    inside = _private(bands, fixed)
    spans: dict[int, tuple[Time, Time]] = {}
    for number, band in enumerate(bands):
        for order, call in enumerate(band.calls):
            for buffer, _, _ in call.pointers:
                # what a split band shares is in use until its last task
                whole = band.split and buffer not in inside
                first, last = (number, 0 if whole else order), (number, len(band.calls) if whole else order)
                born, dead = spans.get(buffer, (first, last))
                spans[buffer] = (min(born, first), max(dead, last))
    common = {b: span for b, span in spans.items() if b not in inside and b not in fixed}
    starts, shared = _packed(common, sizes, 1)
    own, private = _packed({b: spans[b] for b in inside}, sizes, tasks)
    places = {**fixed, **{b: f"shared + {start}" for b, start in starts.items()}}
    places |= {b: f"own + {start}" for b, start in own.items()}
    return Layout(places, inside, shared, private, (added, every))


def _private(bands: Sequence[Band], fixed: Mapping[int, str]) -> set[int]:
    """Buffers that one split band alone uses, every task its own part."""
    used: dict[int, set[int]] = {}
    private: set[int] = set()
    crossing: set[int] = set()
    for time, band in enumerate(bands):
        for call in band.calls:
            for buffer, _, _ in call.pointers:
                used.setdefault(buffer, set()).add(time)
                (private if band.split and buffer in call.aligned else crossing).add(buffer)
    return {b for b in private - crossing - fixed.keys() if len(used[b]) == 1}


def _packed(
    spans: Mapping[int, tuple[Time, Time]], sizes: Sequence[int], parts: int
) -> tuple[dict[int, int], int]:
    """Offsets of buffers so that those alive together do not overlap, and the bytes of all."""
    live: list[tuple[int, int, Time]] = []  # start, end, time of death; sorted by start
    places: dict[int, int] = {}
    top = 0
    for buffer in sorted(spans, key=lambda b: spans[b][0]):
        born, dead = spans[buffer]
        live = sorted(block for block in live if block[2] >= born)
        lines = math.ceil(math.ceil(sizes[buffer] / parts) / _LINE)
        size = lines * _LINE
        start = _first_gap(live, size)
        live.append((start, start + size, dead))
        places[buffer] = start
        top = max(top, start + size)
    return places, top


def _first_gap(live: Sequence[tuple[int, int, Time]], size: int) -> int:
    start = 0
    for begin, end, _ in live:
        if begin - start >= size:
            break
        start = max(start, end)
    return start
