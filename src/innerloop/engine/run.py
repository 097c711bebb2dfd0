"""Ways to run a graph: operator by operator, as machine code, and through inductor, torch's own compiler.

Each is a function from the flat list of tensors that a graph takes to the flat list that it returns.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, fx

from .c import Program
from .modes import checking

__all__ = ["Executable", "Run", "inductor", "interpreted"]

Run = Callable[[Sequence[Tensor]], list[Tensor]]


def interpreted(graph: fx.GraphModule) -> Run:
    """Run a graph operator by operator, without the bookkeeping of autograd."""

    def run(tensors: Sequence[Tensor]) -> list[Tensor]:
        with torch.no_grad():
            return graph(*(tensor.contiguous() for tensor in tensors))  # type: ignore[no-any-return]

    return run


def inductor(graph: fx.GraphModule) -> Run:
    """Compile a graph with torch's own compiler.

    Without CUDA graphs: they would write the results of one call over those of the call before.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own, about torch
        compiled = torch.compile(graph, dynamic=False)

    def run(tensors: Sequence[Tensor]) -> list[Tensor]:
        with torch.no_grad():
            # the graph was recorded for contiguous tensors: its views need them
            return list(compiled(*(tensor.contiguous() for tensor in tensors)))

    return run


def _empty(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """Memory for a program, which runs on the CPU."""
    return torch.empty(tuple(shape), dtype=dtype, device="cpu")


def _spoil(tensors: Sequence[Tensor]) -> None:
    """Fill memory that a program is going to write, so that what it leaves unwritten shows.

    It is NaN in every floating type, and a number that nobody computes in all others; bytes are scratch memory of any
    type.
    """
    for tensor in tensors:
        floating = tensor.dtype.is_floating_point or tensor.dtype == torch.uint8
        tensor.view(-1).view(torch.uint8).fill_(0xFF if floating else 0xA5)


class Executable:
    """A program as machine code, called once or many times in a row.

    The C function takes a table of addresses, one row a call: inputs, constants of the graph, outputs, the arena, and
    the number of threads. The arena is kept between calls; a call that only checks the graph gets one full of NaN, and
    gives it back.

    Arguments:
        program: what it is.
        function: `run` of its source, see `c.compiler.compile_c`.
    """

    def __init__(self, program: Program, function: Callable[[int, int, int], int]) -> None:
        self.program, self.function = program, function
        self.max_threads = torch.get_num_threads()
        self.arena_bytes = program.arena + self.max_threads * program.worker + 64
        self.arena: Tensor | None = None
        self.lock = threading.Lock()  # one arena for all callers

    def __call__(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """The results of one call."""
        inputs = [tensor.contiguous() for tensor in tensors]
        outputs = [_empty(shape, dtype) for shape, dtype in self.program.outputs]
        if checking():
            _spoil(outputs)
        constants = [tensor.contiguous() for tensor in self.program.constants]
        addresses = [tensor.data_ptr() for tensor in (*inputs, *constants, *outputs)]
        self._run(np.array([[*addresses, 0, 0]], dtype=np.int64))
        return outputs

    def scan(
        self, carry: Sequence[Tensor], rows: Sequence[Tensor], constants: Sequence[Tensor]
    ) -> list[Tensor]:
        """Calls in a row, each with the first results of the one before it.

        The carry has two buffers: a call reads what the one before it wrote, and writes the other one. Rows and
        stacked outputs are not copied: the table holds the address of each call's part.

        Arguments:
            carry: the first arguments of the first call; the next one is given as many results in their stead.
            rows: the next arguments, with a leading axis of calls.
            constants: the last arguments, the same at every call.

        Returns:
            The first results as the last call left them, the others with a leading axis of calls.
        """
        parts = (carry, rows, (*constants, *self.program.constants))
        first, along_calls, same = ([t.contiguous() for t in part] for part in parts)
        calls, carried, shapes = len(rows[0]), len(carry), self.program.outputs
        even, odd = ([_empty(shape, dtype) for shape, dtype in shapes[:carried]] for _ in range(2))
        stacked = [_empty((calls, *shape), dtype) for shape, dtype in shapes[carried:]]
        number = np.arange(calls)[:, None]

        def addresses(tensors: Sequence[Tensor]) -> np.ndarray:
            return np.array([[tensor.data_ptr() for tensor in tensors]], dtype=np.int64)

        def along(tensors: Sequence[Tensor]) -> np.ndarray:
            return addresses(tensors) + number * np.array([t[0].nbytes for t in tensors], dtype=np.int64)

        state = np.where(number % 2, addresses(odd), addresses(even))
        columns = [
            np.concatenate([addresses(first), state[:-1]]),
            along(along_calls),
            np.repeat(addresses(same), calls, axis=0),
            state,
            along(stacked),
            np.zeros((calls, 2), dtype=np.int64),
        ]
        self._run(np.concatenate(columns, axis=1))
        return [*(even if calls % 2 else odd), *stacked]

    def _run(self, table: np.ndarray) -> None:
        """One call for each row of addresses, whose last two columns (arena, threads) are filled in here."""
        tensors = self.program.inputs + len(self.program.constants) + len(self.program.outputs)
        if table.shape[1] != tensors + 2:
            raise ValueError(
                f"{table.shape[1] - 2} tensors for a program of {tensors}: C would read other memory"
            )
        threads = min(self.max_threads, torch.get_num_threads())
        with self.lock:
            arena = self.arena
            if arena is None or checking():
                arena = _empty((self.arena_bytes,), torch.uint8)
            if (
                checking()
            ):  # it is given back: the function that the graph is compared with needs the memory more
                _spoil([arena])
            else:
                self.arena = arena
            table[:, -2:] = -(-arena.data_ptr() // 64) * 64, threads
            out_of_range = self.function(table.ctypes.data, table.shape[1], len(table))
        if out_of_range:
            raise IndexError("an index is out of range: gear='eager' says where")
