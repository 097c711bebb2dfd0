"""Which device runs a step: the one that is named, or by its work, the CPU or a GPU, whichever is estimated faster.

An estimate is made of counts (operators, floating-point operations, bytes) and of the constants in this file, never of
the clock: the same work goes to the same device on the same machine, however busy it is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from ..errors import UsageError

__all__ = [
    "AUTO",
    "NO_GPU",
    "Choice",
    "Speed",
    "Work",
    "choose",
    "counted",
    "free_bytes",
    "gpu",
    "processor",
    "resolve_device",
]

AUTO = "auto"
NO_GPU = "there is no GPU"
CPU = torch.device("cpu")

# The constants of all estimates. Seconds that an operator takes however little it does: in a compiled graph on the CPU,
# and one launch after the other on a GPU. Operations and bytes a second of one thread of the CPU, and of one
# multiprocessor of a GPU: what meta-updates reach, a tenth of what is printed on the box.
_CPU_LAUNCH, _CPU_FLOPS, _CPU_BYTES = 0.5e-6, 5e10, 2.5e10
_GPU_LAUNCH, _GPU_FLOPS, _GPU_BYTES = 18e-6, 3e10, 1.2e10
# a GPU has to be so many times as fast before it is taken: copies to it and the start of its runtime are not counted
_ADVANTAGE = 1.5
# of the memory that is free on a device, what tasks that are worked on at once may take; without that number, bytes
_SHARE, _CPU_MEMORY = 0.6, 512 * 2**20


class Work(NamedTuple):
    """What a step takes.

    Arguments:
        operators: operators that run, one after the other.
        flops: floating-point operations of products of matrices and convolutions.
        bytes: read and written by all operators.
    """

    operators: float
    flops: float
    bytes: float

    def times(self, tasks: int) -> Work:
        """The same operators on so many tasks at once."""
        return Work(self.operators, self.flops * tasks, self.bytes * tasks)


class Speed(NamedTuple):
    """How fast a device is: seconds an operator, floating-point operations a second, bytes a second."""

    launch: float
    flops: float
    bytes: float

    def seconds(self, work: Work) -> float:
        r"""Estimated time of a step: $n \cdot launch + \max(flops / F, bytes / B)$.

        Example:
            >>> Speed(1e-5, 1e12, 1e11).seconds(Work(100, 1e9, 1e6))
            0.002
        """
        return work.operators * self.launch + max(work.flops / self.flops, work.bytes / self.bytes)


@dataclass(frozen=True)
class Choice:
    """A device and why it was taken.

    Arguments:
        device: where to work.
        reason: in one line; empty where the device was named.
    """

    device: torch.device
    reason: str = ""

    @property
    def decided(self) -> bool:
        """Whether there was anything to choose."""
        return self.reason not in ("", NO_GPU)

    def __str__(self) -> str:
        """In words, for people."""
        return f"{self.device}{f' ({self.reason})' if self.reason else ''}"


def processor(threads: int | None = None) -> Speed:
    """The CPU with so many threads, torch's unless given."""
    count = threads or torch.get_num_threads()
    return Speed(_CPU_LAUNCH, _CPU_FLOPS * count, _CPU_BYTES * count)


def gpu() -> Speed | None:
    """The GPU, by the number of its multiprocessors; `None` where there is none."""
    if not torch.cuda.is_available():
        return None
    count = torch.cuda.get_device_properties(torch.device("cuda")).multi_processor_count
    return Speed(_GPU_LAUNCH, _GPU_FLOPS * count, _GPU_BYTES * count)


def choose(work: Work, *, cpu: Speed, gpu: Speed | None, what: str = "an update") -> Choice:
    """The device on which a step is estimated to be faster, and why.

    Arguments:
        work: what the step takes.
        cpu: the CPU.
        gpu: the GPU; `None` where there is none.
        what: the step, in words.

    Example:
        >>> h200 = Speed(18e-6, 4e12, 1.6e12)
        >>> small, large = Work(700, 1e7, 1e7), Work(1500, 7.6e10, 2e10)
        >>> print(choose(small, cpu=Speed(5e-7, 5e10, 1e10), gpu=h200))
        cpu (an update is estimated at 1.35 ms here, at 12.6 ms on the GPU: 700 operators, 0.01 GFLOP, 0.01 GB)
        >>> choose(large, cpu=Speed(5e-7, 5e10, 1e10), gpu=h200).device
        device(type='cuda')
    """
    if gpu is None:
        return Choice(CPU, NO_GPU)
    here, there = cpu.seconds(work), gpu.seconds(work)
    counts = f"{work.operators:,.0f} operators, {work.flops / 1e9:,.2g} GFLOP, {work.bytes / 1e9:,.2g} GB"
    if there * _ADVANTAGE < here:
        text = f"{what} is estimated at {_ms(there)} here, at {_ms(here)} on the CPU: {counts}"
        return Choice(torch.device("cuda"), text)
    return Choice(CPU, f"{what} is estimated at {_ms(here)} here, at {_ms(there)} on the GPU: {counts}")


def resolve_device(device: str, work: Callable[[], Work] | None = None, *, what: str = "an update") -> Choice:
    """The device of a name; for `auto` the faster one for some work, the CPU for none.

    Arguments:
        device: `auto`, `cpu`, `cuda`, ...
        work: counts the work; called only where there is something to choose.
        what: see `choose`.

    Raises:
        UsageError: there is no such device.

    Example:
        >>> resolve_device("cpu").device
        device(type='cpu')
    """
    if device == AUTO:
        there = gpu()
        if there is None or work is None:
            return Choice(CPU, NO_GPU if there is None else "small work")
        return choose(work(), cpu=processor(), gpu=there, what=what)
    try:
        resolved = torch.device(device)
        torch.empty(0, device=resolved)
    except (RuntimeError, AssertionError) as error:
        # torch answers an unknown name with a list of everything it was ever built for
        reason = str(error).splitlines()[0].partition(". ")[0]
        why = "torch knows no such device" if reason.startswith("Expected one of") else reason
        raise UsageError(f"device={device!r} cannot be used ({why}): choose auto, cpu, cuda, ...") from None
    return Choice(resolved)


def _ms(seconds: float) -> str:
    return f"{1e3 * seconds:.3g} ms"


def free_bytes(device: torch.device) -> int:
    """What tasks that are worked on at once may take: a share of what a GPU has free, 512 MB elsewhere.

    Example:
        >>> free_bytes(torch.device("cpu"))
        536870912
    """
    if device.type != "cuda":
        return _CPU_MEMORY
    free, _ = torch.cuda.mem_get_info(device)
    # what torch holds in reserve is free too
    reserve = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return int(_SHARE * (free + reserve))


def counted(function: Callable[[], object]) -> Work:
    """The work of a call, counted while it runs.

    Example:
        >>> x = torch.ones(4, 8)
        >>> counted(lambda: x @ x.T)
        Work(operators=1, flops=256, bytes=320)
    """
    with _Counting() as counting:
        function()
    work: Work = counting.work
    return work


class _Counting(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts operators, their floating-point operations and the bytes that go in and out."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.work = Work(0, 0, 0)

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Otherwise torch's compiler is imported, which takes seconds, to be told to leave this alone."""
        return False

    def __torch_dispatch__(
        self,
        func: Any,
        types: object,
        args: tuple[object, ...] = (),
        kwargs: dict[str, object] | None = None,
    ) -> object:
        """Run an operator and count it; a view costs nothing."""
        result = func(*args, **(kwargs or {}))
        if func.is_view:
            return result
        moved = sum(tensor.numel() * tensor.element_size() for tensor in _tensors((args, kwargs, result)))
        flops = _flops(func, args, kwargs or {}, result)
        work = self.work
        self.work = Work(work.operators + 1, work.flops + flops, work.bytes + moved)
        return result


def _flops(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], result: object) -> float:
    """Operations of a product of matrices or a convolution, two for each multiplication; 0 of anything else."""
    known = flop_registry.get(func.overloadpacket)
    return 0 if known is None else known(*args, **kwargs, out_val=result)


def _tensors(tree: object) -> Sequence[Tensor]:
    return [leaf for leaf in pytree.tree_leaves(tree) if isinstance(leaf, Tensor)]
