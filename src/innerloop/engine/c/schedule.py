"""The schedule: the order in which kernels run, in bands, and memory planning: where their buffers are.

A band is kernel calls that share one loop. Kernels whose tasks do not touch each other's elements run task by task: all
of them for the first task, then all of them for the second. This is loop fusion along the task axis, a cache blocking:
what only they use is then as large as one task and stays in the cache, however many tasks there are. Buffers live in
an arena, and their memory is reused as soon as they are dead.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

__all__ = ["Band", "Call", "MemoryPlan", "into_bands", "plan_memory"]

# bytes of a cache line, to which buffers are aligned
_LINE = 64
# number of a band, and of a call in it
Time = tuple[int, int]


@dataclass(frozen=True)
class Call:
    """A call of a kernel.

    Arguments:
        kernel: its name.
        pointers: buffer, offset and stride from task to task in bytes; the first is written.
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


def into_bands(calls: Sequence[Call]) -> list[Band]:
    """The calls in bands, as few as their dependences allow (a greedy list scheduling).

    Split and whole bands alternate; each takes all calls of its kind whose dependences are done, or in the same band
    and met within one task. Where no kernel is split there is one band, in the order of the calls.
    """
    if not any(call.split for call in calls):
        return [Band(False, list(calls))]
    writers, shared = _dependences(calls), _shared_sums(calls)
    pending, done = list(range(len(calls))), set[int]()
    bands: list[Band] = []
    split = False
    while pending:
        band, members = Band(split), set[int]()
        for index in pending:
            splits = calls[index].split and calls[index].target not in shared
            ready = writers[index] <= done | members
            if splits == split and ready and _stays_in_task(calls, index, writers[index] & members):
                band.calls.append(calls[index])
                members.add(index)
        if members:
            bands.append(band)
        done |= members
        pending = [index for index in pending if index not in members]
        split = not split
    return bands


def _shared_sums(calls: Sequence[Call]) -> set[int]:
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
    dependences = []
    for index, call in enumerate(calls):
        dependences.append({writer for buffer, _, _ in call.pointers for writer in writers.get(buffer, ())})
        writers.setdefault(call.target, []).append(index)
    return dependences


def _stays_in_task(calls: Sequence[Call], index: int, writers: set[int]) -> bool:
    """Whether what a call reads of others in its band was written by the same task."""
    call = calls[index]
    targets = (calls[writer] for writer in writers)
    return not call.split or all(w.target in call.aligned and w.target in w.aligned for w in targets)


class MemoryPlan(NamedTuple):
    """Where buffers are.

    Arguments:
        pointers: C of the address of every buffer.
        private_buffers: those of which each task has its own.
        shared: bytes of the arena of all tasks.
        private: bytes of that of one task.
        sums: offsets of the accumulators, to which tasks add, and the bytes of all.
    """

    pointers: dict[int, str]
    private_buffers: set[int]
    shared: int
    private: int
    sums: tuple[dict[int, int], int]


def plan_memory(
    bands: Sequence[Band], sizes: Sequence[int], fixed: Mapping[int, str], sums: Sequence[int], tasks: int
) -> MemoryPlan:
    """An address for every buffer: in the arena of all tasks, or in that of a task.

    From the live range of each buffer, in bands and calls, offsets are given so that memory is reused (`_pack`).

    Arguments:
        bands: what runs, in order.
        sizes: bytes of every buffer.
        fixed: C of the addresses of buffers that are given or returned.
        sums: accumulators; they keep their memory throughout, so that each thread can have its own.
        tasks: number of tasks.
    """
    accumulators, sums_bytes = _pack({b: ((0, 0), (len(bands), 0)) for b in sums}, sizes, 1)
    fixed = {**fixed, **{b: f"sums + {start}" for b, start in accumulators.items()}}
    private_buffers = _private_buffers(bands, fixed)
    live: dict[int, tuple[Time, Time]] = {}
    for number, band in enumerate(bands):
        for order, call in enumerate(band.calls):
            for buffer, _, _ in call.pointers:
                # what a split band shares is live until its last task
                whole = band.split and buffer not in private_buffers
                first, last = (number, 0 if whole else order), (number, len(band.calls) if whole else order)
                born, dead = live.get(buffer, (first, last))
                live[buffer] = (min(born, first), max(dead, last))
    common = {b: span for b, span in live.items() if b not in private_buffers and b not in fixed}
    shared_offsets, shared = _pack(common, sizes, 1)
    own_offsets, private = _pack({b: live[b] for b in private_buffers}, sizes, tasks)
    pointers = {**fixed, **{b: f"shared + {start}" for b, start in shared_offsets.items()}}
    pointers |= {b: f"own + {start}" for b, start in own_offsets.items()}
    return MemoryPlan(pointers, private_buffers, shared, private, (accumulators, sums_bytes))


def _private_buffers(bands: Sequence[Band], fixed: Mapping[int, str]) -> set[int]:
    """Buffers that one split band alone uses, every task its own part."""
    users: dict[int, set[int]] = {}
    private: set[int] = set()
    crossing: set[int] = set()
    for time, band in enumerate(bands):
        for call in band.calls:
            for buffer, _, _ in call.pointers:
                users.setdefault(buffer, set()).add(time)
                (private if band.split and buffer in call.aligned else crossing).add(buffer)
    return {b for b in private - crossing - fixed.keys() if len(users[b]) == 1}


def _pack(
    live: Mapping[int, tuple[Time, Time]], sizes: Sequence[int], parts: int
) -> tuple[dict[int, int], int]:
    """Offsets of buffers so that those alive together do not overlap (first fit), and the bytes of all.

    Arguments:
        live: first and last use of each buffer.
        sizes: bytes of every buffer.
        parts: into how many parts, one a task, each buffer is divided.
    """
    blocks: list[tuple[int, int, Time]] = []  # start, end, last use; sorted by start
    offsets: dict[int, int] = {}
    top = 0
    for buffer in sorted(live, key=lambda b: live[b][0]):
        born, dead = live[buffer]
        blocks = sorted(block for block in blocks if block[2] >= born)
        lines = math.ceil(math.ceil(sizes[buffer] / parts) / _LINE)
        size = lines * _LINE
        start = _first_gap(blocks, size)
        blocks.append((start, start + size, dead))
        offsets[buffer] = start
        top = max(top, start + size)
    return offsets, top


def _first_gap(blocks: Sequence[tuple[int, int, Time]], size: int) -> int:
    """The least offset with so many free bytes."""
    start = 0
    for begin, end, _ in blocks:
        if begin - start >= size:
            break
        start = max(start, end)
    return start
