"""How many tasks are worked on at once: as many as fit in a limit of memory, by the bytes that one task needs."""

from __future__ import annotations

import re
import weakref
from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from ..engine.modes import frugal, while_tracing
from ..errors import UsageError
from ..inner.learner import Learner, Step
from ..models.network import Params
from ..tasks.episodes import Episode, map_tensors, select, tensors

__all__ = ["bytes_of", "in_words", "needed_bytes", "ran_out", "tasks_at_once"]

_UNITS = {"": 1, "B": 1, "KB": 2**10, "MB": 2**20, "GB": 2**30, "TB": 2**40}
# inner steps from which on each adds the same
_FEW = 2
# bytes of a task, parameters included, from which on nothing is computed to count them: it takes longer for small ones
_LARGE = 2**20
# an update after every change in the course of training
_LATE = 10**9


def bytes_of(text: str) -> int:
    """A size in words as a number of bytes.

    Raises:
        UsageError: it cannot be read.

    Example:
        >>> bytes_of("512MB"), bytes_of("2 GB")
        (536870912, 2147483648)
    """
    parts = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?B?)\s*", text.upper())
    number, unit = parts.groups() if parts else ("0", "")
    size = int(float(number) * _UNITS.get(unit, _UNITS.get(f"{unit}B", 0)))
    if size <= 0:
        raise UsageError(f"memory={text!r} is not a size: write 512MB or 2GB")
    return size


def in_words(size: float) -> str:
    """A number of bytes in words, two digits of it.

    Example:
        >>> in_words(3_500_000)
        '3.3 MB'
    """
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 1000 or unit == "GB":
            break
        size /= 1024
    return f"{size:.2g} {unit}" if size < 99 else f"{size:.0f} {unit}"


def ran_out(error: BaseException) -> bool:
    """Whether an error says that memory ran out: Python, torch on a GPU and torch on a CPU say it in their own ways.

    Example:
        >>> ran_out(MemoryError()), ran_out(RuntimeError("shapes differ"))
        (True, False)
    """
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    )


def tasks_at_once(learner: Learner, meta: Params, episode: Episode, limit: int) -> int | None:
    """How many tasks of a meta-batch may be worked on together.

    Arguments:
        learner: the algorithm.
        meta: the meta-parameters.
        episode: a stacked meta-batch.
        limit: bytes that they may have alive at once.

    Returns:
        A number of tasks, or `None` for all of them.
    """
    total = episode.n_tasks
    if total < 2:
        return None
    needed = needed_bytes(learner, meta, select(episode, slice(0, 1)))
    if needed * total <= limit:
        return None
    return max(1, min(total, limit // needed))


def needed_bytes(learner: Learner, meta: Params, episode: Episode) -> int:
    """Most bytes alive at once in the meta-gradient of an episode, its arguments not counted.

    It is counted while the gradient is taken; of large tasks from shapes alone. From the second inner step on each step
    adds the same, so longer loops are counted from two short ones.

    Example:
        >>> import innerloop as il
        >>> learner = il.maml(il.models.mlp(1, [8], 1), loss="mse", inner_steps=1)
        >>> rows = il.Batch(torch.ones(1, 5, 1), torch.ones(1, 5, 1))
        >>> needed_bytes(learner, learner.init(), Episode(rows, rows)) > 0
        True
    """
    learner, episode = learner.unwrap(episode)
    steps = learner.inner_steps

    def peak(learner: Learner) -> int:
        return max(_peak(learner, meta, episode, phase) for phase in _phases(learner))

    if steps <= _FEW + 1 or not learner.adapts_by_gradient:
        return peak(learner)
    few, more = (peak(learner.with_inner_steps(count)) for count in (_FEW, _FEW + 1))
    return more + (steps - _FEW - 1) * (more - few)


def _phases(learner: Learner) -> Iterator[int]:
    """First updates of the ways in which the meta-gradient is computed in the course of training, last first."""
    phase = learner.metagrad.phase(_LATE)
    yield phase
    while phase > 0:
        phase = learner.metagrad.phase(phase - 1)
        yield phase


def _peak(learner: Learner, meta: Params, episode: Episode, phase: int) -> int:
    if sum(tensor.nbytes for tensor in (*meta.values(), *tensors(episode))) > _LARGE:
        # what is going to be limited need not be allocated: shapes tell. What the network caches at its first call
        # must be made of numbers
        with torch.no_grad(), frugal():
            learner.predict(meta, learner.adapt(meta, episode.support), episode.query.x)
        try:
            with FakeTensorMode(allow_non_fake_inputs=True) as fake, while_tracing():
                shapes: Params = {name: fake.from_tensor(value) for name, value in meta.items()}
                return _counted(learner, shapes, map_tensors(fake.from_tensor, episode), phase)
        except Exception:  # a network that decides by values
            pass
    return _counted(learner, meta, episode, phase)


def _counted(learner: Learner, meta: Params, episode: Episode, phase: int) -> int:
    key = torch.zeros(episode.n_tasks, dtype=torch.int64, device=episode.query.target.device)
    # not the first of its phase: checks that come with that are no part of the others
    with _Alive([*meta.values(), *tensors(episode), key]) as alive:
        learner.metagrad(learner, meta, episode, Step(phase + 1, phase), key)
    most: int = alive.most
    return most


class _Alive(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes that are alive, apart from those that were there before."""

    def __init__(self, before: Iterable[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.most = 0
        self.known = {tensor.untyped_storage()._cdata for tensor in before}

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Otherwise torch's compiler is imported, which takes seconds, to be told to leave this alone."""
        return False

    def __torch_dispatch__(
        self,
        func: Callable[..., object],
        types: object,
        args: tuple[object, ...] = (),
        kwargs: dict[str, object] | None = None,
    ) -> object:
        """Run an operator and note what it returns."""
        result = func(*args, **(kwargs or {}))
        for leaf in pytree.tree_leaves(result):
            if isinstance(leaf, Tensor) and leaf.layout is torch.strided:
                self._note(leaf.untyped_storage())
        self.most = max(self.most, self.now)
        return result

    def _note(self, storage: torch.UntypedStorage) -> None:
        address, size = storage._cdata, storage.nbytes()
        if address not in self.known:
            self.known.add(address)
            self.now += size
            weakref.finalize(storage, self._freed, address, size)

    def _freed(self, address: int, size: int) -> None:
        self.known.discard(address)
        self.now -= size
