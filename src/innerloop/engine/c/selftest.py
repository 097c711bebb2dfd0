"""A test of the C compiler: loops with known results, compiled with the flags in use and compared exactly.

A compiler can translate a correct loop wrongly. gcc 12.2 does when it vectorises unrolled statements: of a loop that
rounds doubles to float and back, the last four numbers are never written for some lengths. Each loop here converts
between number types, one length a loop, because vectorisation depends on both. `compiler` runs it once a process,
before the first program is loaded, and takes safer flags, or no compiled gear, if it fails.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from itertools import product

import torch
from torch import Tensor

__all__ = ["passes", "source"]

_F, _D, _I, _L, _B = torch.float32, torch.float64, torch.int32, torch.int64, torch.bool
_TYPES = {_F: "float", _D: "double", _I: "int32_t", _L: "int64_t", _B: "_Bool"}
_LENGTHS = (1, 3, 5, 8, 12, 20, 31, 36, 44, 63, 100)
# types of what is read, of what it is converted to, and of what that is stored as
_CONVERSIONS = (
    *((_D, _F, _D), (_F, _D, _F), (_D, _D, _F), (_F, _F, _D), (_D, _I, _D), (_F, _I, _F)),
    *((_D, _L, _F), (_L, _D, _F), (_L, _F, _D), (_I, _F, _L), (_B, _F, _D), (_D, _B, _F)),
)
_LOOPS = tuple(product(_CONVERSIONS, _LENGTHS))
_LOOP = """static __attribute__((noinline)) void loop{number}({to} *restrict o, const {source} *restrict a) {{
#pragma omp simd
for (int64_t i = 0; i < {length}; ++i) o[i] = ({to})({through})a[i];
}}
"""


def source() -> str:
    """C that defines `int run(char **p, int64_t width, int64_t calls)`; `p` holds input and output of each loop."""
    loops, calls = "", ""
    for number, ((given, through, to), length) in enumerate(_LOOPS):
        names = {"source": _TYPES[given], "through": _TYPES[through], "to": _TYPES[to]}
        loops += _LOOP.format(number=number, length=length, **names)
        calls += f"loop{number}((void *)p[{2 * number + 1}], (void *)p[{2 * number}]);\n"
    run = f"int run(char **p, int64_t width, int64_t calls) {{\n{calls}return 0;\n}}\n"
    return f"#include <stdint.h>\n{loops}{run}"


def passes(run: Callable[[int, int, int], int]) -> bool:
    """Whether the compiled `source` gives the results of torch, bit by bit.

    Arguments:
        run: the function `run` of the compiled source.
    """
    inputs, outputs, expected = [], [], []
    for (given, through, to), length in _LOOPS:
        x = _input(given, length)
        inputs.append(x)
        expected.append(x.to(through).to(to))
        # what is never written stays NaN, or a number that no result is
        unwritten = float("nan") if to.is_floating_point else -7
        outputs.append(torch.full((length,), unwritten, dtype=to, device="cpu"))
    pairs = (tensor.data_ptr() for pair in zip(inputs, outputs, strict=True) for tensor in pair)
    pointers = (ctypes.c_void_p * (2 * len(_LOOPS)))(*pairs)
    run(ctypes.addressof(pointers), 0, 1)
    return all(torch.equal(a, b) for a, b in zip(outputs, expected, strict=True))


def _input(dtype: torch.dtype, length: int) -> Tensor:
    """Numbers with more digits than a float holds, of both signs; conversions of them are defined in C."""
    x = 1000 / (torch.arange(length, dtype=torch.float64, device="cpu") + 3)
    x[1::2] *= -1
    if dtype == torch.bool:
        return x > 0
    return (x * 2**20).to(dtype) if not dtype.is_floating_point else x.to(dtype)
