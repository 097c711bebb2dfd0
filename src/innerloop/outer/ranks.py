"""Ranks: processes that share the work of one training, as `torchrun` starts them, and the shards they share it by.

A meta-batch is cut into shards, whose number does not depend on the ranks. Each rank works on every `ranks`-th shard;
what they found is gathered and added in the order of the shards, and then every rank takes the same step. So 1, 2 and 8
ranks make the same updates, to the bit.
"""

from __future__ import annotations

import atexit
import itertools
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from ..errors import ResourceError, UsageError

__all__ = ["SHARDS", "Ranks", "Shards", "launched", "rank_of", "says_it", "shared", "the_ranks"]

# of a meta-batch, where several processes may share it
SHARDS = 8

# one that waits for so long waits for a process that hangs; compiling takes minutes
_PATIENCE = timedelta(minutes=15)
# seconds for which the first rank waits for the others to come to the same error
_ASKED = 3.0
_LAUNCHED = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
T = TypeVar("T")


def launched() -> bool:
    """Whether this process is one of a group, started by `torchrun` or by a script of the user.

    Example:
        >>> launched()
        False
    """
    return all(name in os.environ for name in _LAUNCHED) or (dist.is_available() and dist.is_initialized())


def rank_of() -> int:
    """The number of this process in its group, 0 where there is none.

    Example:
        >>> rank_of()
        0
    """
    if not launched():
        return 0
    return dist.get_rank() if dist.is_initialized() else int(os.environ["RANK"])


@dataclass(frozen=True)
class Ranks:
    """The processes of a group, and which of them this is.

    Arguments:
        rank: number of this process, from 0.
        count: of processes; 1 where there is no group.

    Example:
        >>> Ranks().every("alone")
        ['alone']
    """

    rank: int = 0
    count: int = 1

    def gathered(self, rows: Tensor) -> Tensor:
        """The tensors of all ranks `(count, *shape)`; every rank gives one of the same shape and type.

        Raises:
            ResourceError: another rank is gone.
        """
        if self.count == 1:
            return rows[None]
        every = [torch.empty_like(rows, memory_format=torch.contiguous_format) for _ in range(self.count)]
        _together(lambda: dist.all_gather(every, rows.contiguous()))
        return torch.stack(every)

    def any(self, flag: bool) -> bool:
        """Whether one of the ranks says yes; every rank gets the same answer.

        Raises:
            ResourceError: another rank is gone.
        """
        return bool(self.gathered(torch.tensor([flag], dtype=torch.uint8, device="cpu")).any())

    def every(self, value: T) -> list[T]:
        """What each rank has, by rank: plain data.

        Raises:
            ResourceError: another rank is gone.
        """
        if self.count == 1:
            return [value]
        box: list[T] = [value] * self.count
        _together(lambda: dist.all_gather_object(box, value))
        return box


@dataclass(frozen=True)
class Shards:
    """How the tasks of a stack are shared: consecutive parts, every `ranks.count`-th of which is this rank's.

    Arguments:
        count: of parts.
        ranks: who shares them.

    Example:
        >>> Shards(3, Ranks(1, 2)).parts(8)
        [slice(0, 3, None), slice(3, 6, None), slice(6, 8, None)]
        >>> Shards(3, Ranks(1, 2)).own(8).tolist()
        [3, 4, 5]
    """

    count: int = SHARDS
    ranks: Ranks = Ranks()

    def parts(self, total: int) -> list[slice]:
        """The tasks of each shard, as even as can be; some are empty where there are fewer tasks."""
        ends = [-(-total * number // self.count) for number in range(self.count + 1)]
        return [slice(*pair) for pair in itertools.pairwise(ends)]

    @property
    def numbers(self) -> range:
        """Of this rank's shards."""
        return range(self.ranks.rank, self.count, self.ranks.count)

    def own(self, total: int) -> Tensor:
        """Positions of the tasks that this rank works on, ascending."""
        parts = self.parts(total)
        return torch.cat([torch.arange(parts[n].start, parts[n].stop, device="cpu") for n in self.numbers])

    def gathered(self, rows: Sequence[Tensor]) -> Tensor:
        """A row of each shard `(count, *shape)`, in their order; every rank gives those of its own."""
        most = -(-self.count // self.ranks.count)
        padded = torch.stack([*rows, *(torch.zeros_like(rows[0]) for _ in range(most - len(rows)))])
        every = self.ranks.gathered(padded)
        return every.transpose(0, 1).reshape(-1, *rows[0].shape)[: self.count]

    def require_work(self, total: int) -> None:
        """Refuse ranks that would have nothing to do.

        Raises:
            UsageError: there are more ranks than shards, or than tasks of a meta-batch.
        """
        if self.ranks.count > self.count:
            raise UsageError(
                f"{self.ranks.count} ranks share {self.count} shards of a meta-batch, so some have nothing to do: "
                f"start {self.count} or fewer, or give shards={self.ranks.count} (--shards {self.ranks.count})"
            )
        if total < self.count:
            raise UsageError(
                f"a meta-batch of {total} tasks has no {self.count} shards: give meta_batch_size={self.count} or more, "
                f"or shards={total} or fewer (--shards {total})"
            )


def shared(shards: int | None, total: int) -> Shards | None:
    """How the tasks of a meta-batch are shared; `None` where this process works on all of them at once.

    Arguments:
        shards: that were asked for; 0 for none. Unless given, 8 where there are several processes, or one that
            `torchrun` started, and none otherwise.
        total: tasks of a meta-batch.

    Raises:
        UsageError: it cannot be shared like this.
        ResourceError: the other processes cannot be reached.

    Example:
        >>> shared(None, 32), shared(4, 32).parts(32)[1]
        (None, slice(8, 16, None))
    """
    if shards == 0 or (shards is None and not launched()):
        return None
    if shards is not None and shards < 0:
        raise UsageError(f"shards={shards}: give 0 or more")
    found = Shards(min(SHARDS, total) if shards is None else shards, the_ranks())
    found.require_work(total)
    return found


def the_ranks() -> Ranks:
    """The group that this process belongs to, which is joined if it was not before.

    With `torchrun` each process has its own part of the machine: the GPU with its local number, where there is one.

    Raises:
        ResourceError: the others cannot be reached.
    """
    if not launched():
        return Ranks()
    if not dist.is_initialized():
        backend = "gloo"
        if torch.cuda.is_available():
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
            backend = "cpu:gloo,cuda:nccl"
        _together(lambda: dist.init_process_group(backend, timeout=_PATIENCE))
        atexit.register(_leave)
    return Ranks(dist.get_rank(), dist.get_world_size())


def says_it(message: str) -> bool:
    """Whether this rank is the first with a message, which only one of them needs to say.

    Example:
        >>> says_it("no such file")
        True
    """
    if not (launched() and dist.is_initialized()):
        return rank_of() == 0
    try:
        store, key = dist.distributed_c10d._get_default_store(), f"innerloop/said/{message}"
        first = int(store.add(key, 1)) == 1
        # the first rank may hold the store, and is about to end: the others ask it before that
        until = time.monotonic() + _ASKED
        while dist.get_rank() == 0 and store.add(key, 0) < dist.get_world_size() and time.monotonic() < until:
            time.sleep(0.02)
        return first
    except Exception:  # its host is gone
        return True


def _together(act: Callable[[], object]) -> None:
    """A collective operation; torch has many ways to say that a rank is gone."""
    try:
        act()
    except (RuntimeError, ValueError, ConnectionError) as error:
        if os.environ.get("TORCH_DISTRIBUTED_DEBUG") or isinstance(error, torch.OutOfMemoryError):
            raise
        raise ResourceError(
            "another process of this training has ended or cannot be reached: what it said, or the log of the "
            "scheduler, tells why; start all of them again"
        ) from error


def _leave() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()
