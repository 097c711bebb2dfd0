"""Rules of Cholesky factors and triangular systems, of many small matrices: what heads with a closed form consist of.

Every kernel is a loop over matrices around a plain in-place algorithm for contiguous rows; the innermost loop, along a
row, is vector code. LAPACK pays for a call and for blocking, which matrices of this size do not.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import fx

from .expressions import Read, Unsupported, Value, expand
from .loops import FLOATS, Pointers, Template, c_function
from .lowering import Lowering, Rule
from .pointwise import C_TYPES, Operator

__all__ = ["LINALG"]

_aten = torch.ops.aten
# asserts that rows of one matrix do not overlap, which the compiler cannot know
_NO_ALIAS = "#pragma omp simd"
# lines of C for one matrix, of the size of `A` and the rows and columns of the result `O`
Body = Callable[[int, int, int], Sequence[str]]


def _cholesky(
    low: Lowering, node: fx.Node, x: Value, *, upper: bool = False, check_errors: bool = False
) -> tuple[Read, Read]:
    """`linalg.cholesky_ex`: the lower factor, and the number of the first pivot that is not positive, 0 if none."""
    if upper or check_errors:
        raise Unsupported("an upper Cholesky factor, or one that raises")
    matrix = _contiguous_floats(low, x)
    factor, failed = low.new(matrix.shape, matrix.dtype), low.new(matrix.shape[:-2], torch.int32)
    _emit(low, _for_each_matrix(_cholesky_body), factor, matrix)
    _emit(low, _first_failure, failed, factor)
    return factor, failed


def _cholesky_solve(low: Lowering, node: fx.Node, b: Value, factor: Value, upper: bool = False) -> Read:
    """`cholesky_solve`: a system, given the lower factor."""
    if upper:
        raise Unsupported("a system with an upper Cholesky factor")
    return _solved(low, node, factor, b, _forward_and_backward)


def _solve_triangular(
    low: Lowering,
    node: fx.Node,
    a: Value,
    b: Value,
    *,
    upper: bool,
    left: bool = True,
    unitriangular: bool = False,
) -> Read:
    """`linalg.solve_triangular`, with the triangular matrix on either side."""

    def body(n: int, rows: int, columns: int) -> list[str]:
        if left:
            return _from_left(n, columns, upper=upper, unit=unitriangular)
        return _from_right(n, rows, upper=upper, unit=unitriangular)

    return _solved(low, node, a, b, body)


def _solved(low: Lowering, node: fx.Node, a: Value, b: Value, body: Body) -> Read:
    """A system for every matrix, `a` and `b` broadcast against each other; it is solved in a copy of `b`."""
    shape = tuple(node.meta["val"].shape)
    matrix = _contiguous_floats(low, expand(a, (*shape[:-2], *a.shape[-2:])))
    right = _contiguous_floats(low, expand(b, shape))
    target = low.new(shape, right.dtype)
    _emit(low, _for_each_matrix(body), target, matrix, right)
    return target


def _contiguous_floats(low: Lowering, value: Value) -> Read:
    if value.dtype not in FLOATS:
        raise Unsupported(f"a linear system of {value.dtype}")
    return low.contiguous(value)


def _emit(low: Lowering, template: Template, target: Read, *values: Read) -> None:
    """Add a call, unless there is nothing to compute."""
    if math.prod(values[0].shape) and math.prod(target.shape):
        low.emit(template, target, *values, split=len(values[0].shape) > 2)


def _for_each_matrix(body: Body) -> Template:
    """Template of a loop over matrices `A`, `(n, n)`; `O` is the result, and holds the other operand, if any, before.

    Arguments:
        body: what is done for one matrix.
    """

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
        return c_function(pointers, text)

    return write


def _cholesky_body(n: int, rows: int, columns: int) -> list[str]:
    """The lower factor row by row (Cholesky-Banachiewicz); a pivot that is not positive becomes NaN."""
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
    """Template of `info`: the number of the first pivot of each factor that is not positive, 0 if none."""
    n, name = factor.shape[-1], pointers.name(factor)
    return c_function(
        pointers,
        f"for (int64_t t = 0; t < {math.prod(target.shape)}; ++t) {{\no[t] = 0;\n"
        f"for (int64_t j = {n} - 1; j >= 0; --j) if (!({name}[(t * {n} + j) * {n} + j] > 0)) o[t] = j + 1;\n}}",
    )


def _from_left(n: int, columns: int, *, upper: bool, unit: bool) -> list[str]:
    """`A X = O` with triangular `A`: each row of `O` less the rows that are solved, times the elements of `A`."""
    others = "k = i + 1; k < {n}" if upper else "k = 0; k < i"
    lines = [
        _for("i", n, down=upper),
        f"for (int64_t {others.format(n=n)}; ++k)",
        _NO_ALIAS,
        f"for (int64_t m = 0; m < {columns}; ++m) O[i * {columns} + m] -= A[i * {n} + k] * O[k * {columns} + m];",
    ]
    if not unit:
        lines.append(f"for (int64_t m = 0; m < {columns}; ++m) O[i * {columns} + m] /= A[i * {n} + i];")
    return [*lines, "}"]


def _from_right(n: int, rows: int, *, upper: bool, unit: bool) -> list[str]:
    """`X A = O` with triangular `A`: what is solved is subtracted from the rest of its row."""
    rest = "j = k + 1; j < {n}" if upper else "j = 0; j < k"
    lines = [f"for (int64_t r = 0; r < {rows}; ++r) {{", _for("k", n, down=not upper)]
    if not unit:
        lines.append(f"O[r * {n} + k] /= A[k * {n} + k];")
    lines.append(f"const __typeof__(*O) x = O[r * {n} + k];")
    lines.append(_NO_ALIAS)
    lines.append(f"for (int64_t {rest.format(n=n)}; ++j) O[r * {n} + j] -= x * A[k * {n} + j];")
    return [*lines, "}", "}"]


def _forward_and_backward(n: int, rows: int, columns: int) -> list[str]:
    """`A A' X = O` with a lower factor `A`: forward substitution, then backward, with `A` read by columns."""
    return [
        *_from_left(n, columns, upper=False, unit=False),
        _for("i", n, down=True),
        f"for (int64_t m = 0; m < {columns}; ++m) O[i * {columns} + m] /= A[i * {n} + i];",
        "for (int64_t k = 0; k < i; ++k)",
        _NO_ALIAS,
        f"for (int64_t m = 0; m < {columns}; ++m) O[k * {columns} + m] -= A[i * {n} + k] * O[i * {columns} + m];",
        "}",
    ]


def _for(index: str, n: int, *, down: bool) -> str:
    """The head of a loop over rows, forwards or backwards."""
    if down:
        return f"for (int64_t {index} = {n} - 1; {index} >= 0; --{index}) {{"
    return f"for (int64_t {index} = 0; {index} < {n}; ++{index}) {{"


LINALG: dict[Operator, Rule] = {
    _aten.linalg_cholesky_ex.default: _cholesky,
    _aten.cholesky_solve.default: _cholesky_solve,
    _aten.linalg_solve_triangular.default: _solve_triangular,
}
