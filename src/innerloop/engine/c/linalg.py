"""Cholesky factors and triangular systems in C, of many small matrices: what heads with a closed form consist of."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import fx

from .builder import Lowering
from .expressions import Read, Unsupported, Value, expand
from .loops import FLOATS, Pointers, Writer, function
from .pointwise import C_TYPES

_aten = torch.ops.aten

# two rows of one matrix, which the compiler cannot know to be different ones
_APART = "#pragma omp simd"

# of the size of the matrices `A`, and of the rows and columns of the result `O`
Body = Callable[[int, int, int], Sequence[str]]


def _factored(
    low: Lowering, node: fx.Node, x: Value, *, upper: bool = False, check_errors: bool = False
) -> tuple[Read, Read]:
    """The lower factor, and the number of the first pivot that is not positive, 0 if there is none."""
    if upper or check_errors:
        raise Unsupported("an upper Cholesky factor, or one that raises")
    matrix = _in_order(low, x)
    factor, failed = low.new(matrix.shape, matrix.dtype), low.new(matrix.shape[:-2], torch.int32)
    _emit(low, _each(_factor), factor, matrix)
    _emit(low, _first_failure, failed, factor)
    return factor, failed


def _cholesky_solved(low: Lowering, node: fx.Node, b: Value, factor: Value, upper: bool = False) -> Read:
    if upper:
        raise Unsupported("a system with an upper Cholesky factor")
    shape = tuple(node.meta["val"].shape)
    matrix, given = _in_order(low, _spread(factor, shape)), _in_order(low, expand(b, shape))
    target = low.new(shape, given.dtype)
    _emit(low, _each(_both_ways), target, matrix, given)
    return target


def _triangular(
    low: Lowering,
    node: fx.Node,
    a: Value,
    b: Value,
    *,
    upper: bool,
    left: bool = True,
    unitriangular: bool = False,
) -> Read:
    shape = tuple(node.meta["val"].shape)
    matrix, given = _in_order(low, _spread(a, shape)), _in_order(low, expand(b, shape))
    target = low.new(shape, given.dtype)

    def body(n: int, rows: int, columns: int) -> list[str]:
        if left:
            return _from_left(n, columns, upper=upper, unit=unitriangular)
        return _from_right(n, rows, upper=upper, unit=unitriangular)

    _emit(low, _each(body), target, matrix, given)
    return target


def _spread(matrix: Value, shape: Sequence[int]) -> Value:
    return expand(matrix, (*shape[:-2], *matrix.shape[-2:]))


def _in_order(low: Lowering, value: Value) -> Read:
    if value.dtype not in FLOATS:
        raise Unsupported(f"a linear system of {value.dtype}")
    return low.stored(value)


def _emit(low: Lowering, write: Writer, target: Read, *values: Read) -> None:
    if math.prod(values[0].shape) and math.prod(target.shape):
        low.emit(write, target, *values, split=len(values[0].shape) > 2)


def _each(body: Body) -> Writer:
    """A kernel that does the same for every matrix `A` `(n, n)`; `O` is the other operand, if any, before."""

    def write(pointers: Pointers, target: Read, matrix: Read, *given: Read) -> str:
        n, typed = matrix.shape[-1], C_TYPES[matrix.dtype]
        rows, columns = target.shape[-2:]
        lines = [
            f"for (int64_t t = 0; t < {math.prod(target.shape[:-2])}; ++t) {{",
            f"const {typed} *A = {pointers.name(matrix)} + t * {n * n};",
            f"{typed} *O = o + t * {rows * columns};",
        ]
        for read in given:
            lines += [
                f"for (int64_t i = 0; i < {rows * columns}; ++i) "
                f"O[i] = {pointers.name(read)}[t * {rows * columns} + i];"
            ]
        text = "\n".join([*lines, *body(n, rows, columns), "}"])
        return function(pointers, text)

    return write


def _factor(n: int, rows: int, columns: int) -> list[str]:
    """Row by row; a pivot that is not positive becomes NaN, and so does what follows from it."""
    return [
        f"for (int64_t i = 0; i < {n}; ++i) {{",
        "for (int64_t j = 0; j <= i; ++j) {",
        "__typeof__(*O) s = 0;",
        "#pragma omp simd reduction(+:s)",
        f"for (int64_t k = 0; k < j; ++k) s += O[i * {n} + k] * O[j * {n} + k];",
        f"s = A[i * {n} + j] - s;",
        f"O[i * {n} + j] = i > j ? s / O[j * {n} + j] : s > 0 ? sqrt(s) : NAN;",
        "}",
        f"for (int64_t j = i + 1; j < {n}; ++j) O[i * {n} + j] = 0;",
        "}",
    ]


def _first_failure(pointers: Pointers, target: Read, factor: Read) -> str:
    n, name = factor.shape[-1], pointers.name(factor)
    return function(
        pointers,
        f"for (int64_t t = 0; t < {math.prod(target.shape)}; ++t) {{\no[t] = 0;\n"
        f"for (int64_t j = {n} - 1; j >= 0; --j) if (!({name}[(t * {n} + j) * {n} + j] > 0)) o[t] = j + 1;\n}}",
    )


def _from_left(n: int, columns: int, *, upper: bool, unit: bool) -> list[str]:
    """The triangular `A` in `A X = O`: each row of `O` less the rows that are solved, in their proportions."""
    others = "k = i + 1; k < {n}" if upper else "k = 0; k < i"
    lines = [
        _counting("i", n, down=upper),
        f"for (int64_t {others.format(n=n)}; ++k)",
        _APART,
        f"for (int64_t m = 0; m < {columns}; ++m) O[i * {columns} + m] -= A[i * {n} + k] * O[k * {columns} + m];",
    ]
    if not unit:
        lines.append(f"for (int64_t m = 0; m < {columns}; ++m) O[i * {columns} + m] /= A[i * {n} + i];")
    return [*lines, "}"]


def _from_right(n: int, rows: int, *, upper: bool, unit: bool) -> list[str]:
    """The triangular `A` in `X A = O`: what is solved is taken from the rest of its row."""
    rest = "j = k + 1; j < {n}" if upper else "j = 0; j < k"
    lines = [f"for (int64_t r = 0; r < {rows}; ++r) {{", _counting("k", n, down=not upper)]
    if not unit:
        lines.append(f"O[r * {n} + k] /= A[k * {n} + k];")
    lines.append(f"const __typeof__(*O) x = O[r * {n} + k];")
    lines.append(_APART)
    lines.append(f"for (int64_t {rest.format(n=n)}; ++j) O[r * {n} + j] -= x * A[k * {n} + j];")
    return [*lines, "}", "}"]


def _both_ways(n: int, rows: int, columns: int) -> list[str]:
    """The factor `A` in `A A' X = O`: the rows forwards, then, read by columns, backwards."""
    return [
        *_from_left(n, columns, upper=False, unit=False),
        _counting("i", n, down=True),
        f"for (int64_t m = 0; m < {columns}; ++m) O[i * {columns} + m] /= A[i * {n} + i];",
        "for (int64_t k = 0; k < i; ++k)",
        _APART,
        f"for (int64_t m = 0; m < {columns}; ++m) O[k * {columns} + m] -= A[i * {n} + k] * O[i * {columns} + m];",
        "}",
    ]


def _counting(index: str, n: int, *, down: bool) -> str:
    if down:
        return f"for (int64_t {index} = {n} - 1; {index} >= 0; --{index}) {{"
    return f"for (int64_t {index} = 0; {index} < {n}; ++{index}) {{"


SOLVING: dict[Any, Callable[..., Any]] = {
    _aten.linalg_cholesky_ex.default: _factored,
    _aten.cholesky_solve.default: _cholesky_solved,
    _aten.linalg_solve_triangular.default: _triangular,
}
