"""Rules of linear systems by Cholesky and LU factors, of many small matrices: what heads with a closed form consist of.

Every kernel is a loop over matrices around a plain in-place algorithm for contiguous rows; the innermost loop, along a
row, is vector code. LAPACK pays for a call and for blocking, which matrices of this size do not.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor, fx

from .expressions import Apply, Read, Unsupported, Value, expand
from .loops import FLOATS, Pointers, Template, c_function
from .lowering import Lowering, Rule
from .pointwise import C_TYPES, Operator, Pointwise

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


def _solve(
    low: Lowering, node: fx.Node, a: Value, b: Value, *, left: bool = True, check_errors: bool = False
) -> tuple[Value, Value, Value, Value]:
    """`linalg.solve`: solution, LU factors with partial pivoting, pivots from 1, and 0; NaN if singular."""
    if not left:
        raise Unsupported("a system X A = B")
    matrix = _contiguous_floats(low, a)
    n, lead = matrix.shape[-1], matrix.shape[:-2]
    packed = low.new((*lead, n * n + n), matrix.dtype)  # the factors, and behind them the pivots as numbers
    _emit(low, _lu_loop, packed, matrix)
    factors = replace(packed, shape=matrix.shape, strides=(*packed.strides[:-1], n, 1))
    behind = replace(packed, shape=(*lead, n), offset=packed.offset + n * n)
    pivots = Apply(Pointwise("{0}"), (behind,), (*lead, n), torch.int32)
    solution = _substituted(low, node.meta["val"][0], factors, pivots, b, adjoint=False)
    return solution, factors, pivots, expand(low.constant(0, torch.int32), lead)


def _lu_solve(
    low: Lowering,
    node: fx.Node,
    factors: Value,
    pivots: Value,
    b: Value,
    *,
    left: bool = True,
    adjoint: bool = False,
) -> Read:
    """`linalg.lu_solve`: a system with factors that are known, or with the transposed matrix (`adjoint`)."""
    if not left:
        raise Unsupported("a system X A = B")
    return _substituted(low, node.meta["val"], factors, pivots, b, adjoint=adjoint)


def _substituted(
    low: Lowering, fake: Tensor, factors: Value, pivots: Value, b: Value, *, adjoint: bool
) -> Read:
    """Rows exchanged as the pivots say, then forward and backward substitution, in a copy of `b`."""
    shape = tuple(fake.shape)
    n, lead = factors.shape[-1], factors.shape[:-2]
    if shape[: len(lead)] != lead:
        raise Unsupported("systems that are broadcast")
    right = _contiguous_floats(low, expand(b, shape))
    target = low.new(shape, right.dtype)
    known = _contiguous_floats(low, factors), low.contiguous(pivots)
    columns = math.prod(shape[len(lead) :]) // n if n else 0
    _emit(low, _substitution_loop(n, columns, adjoint=adjoint), target, known[0], known[1], right)
    return target


def _lu_loop(pointers: Pointers, target: Read, matrix: Read) -> str:
    """Template of LU factors with partial pivoting, row by row (Doolittle), and the pivots behind them."""
    n, typed = matrix.shape[-1], C_TYPES[matrix.dtype]
    return c_function(
        pointers,
        f"for (int64_t t = 0; t < {math.prod(matrix.shape[:-2])}; ++t) {{\n"
        f"{typed} *O = o + t * {n * n + n};\n"
        f"for (int64_t i = 0; i < {n * n}; ++i) O[i] = {pointers.name(matrix)}[t * {n * n} + i];\n"
        f"for (int64_t k = 0; k < {n}; ++k) {{\nint64_t p = k;\n"
        f"for (int64_t i = k + 1; i < {n}; ++i) if (fabs(O[i * {n} + k]) > fabs(O[p * {n} + k])) p = i;\n"
        f"O[{n * n} + k] = p + 1;\n"
        f"if (p != k) for (int64_t j = 0; j < {n}; ++j) {{ {typed} x = O[k * {n} + j]; "
        f"O[k * {n} + j] = O[p * {n} + j]; O[p * {n} + j] = x; }}\n"
        f"for (int64_t i = k + 1; i < {n}; ++i) {{\nconst {typed} x = O[i * {n} + k] /= O[k * {n} + k];\n{_NO_ALIAS}\n"
        f"for (int64_t j = k + 1; j < {n}; ++j) O[i * {n} + j] -= x * O[k * {n} + j];\n}}\n}}\n}}",
    )


def _substitution_loop(n: int, columns: int, *, adjoint: bool) -> Template:
    """Template of the solution of `A X = O`, or of `A' X = O`, from the factors `P A = L U`."""

    def write(pointers: Pointers, target: Read, factors: Read, pivots: Read, right: Read) -> str:
        size, typed = n * columns, C_TYPES[target.dtype]
        order = _for("k", n, down=adjoint)
        exchange = [
            order,
            "const int64_t p = S[k] - 1;",
            f"if (p != k) for (int64_t m = 0; m < {columns}; ++m) {{ {typed} x = O[k * {columns} + m]; "
            f"O[k * {columns} + m] = O[p * {columns} + m]; O[p * {columns} + m] = x; }}",
            "}",
        ]
        lower = _sweep(n, columns, down=adjoint, transposed=adjoint, divided=False)
        upper = _sweep(n, columns, down=not adjoint, transposed=adjoint, divided=True)
        lines = [*upper, *lower, *exchange] if adjoint else [*exchange, *lower, *upper]
        return c_function(
            pointers,
            "\n".join(
                [
                    f"for (int64_t t = 0; t < {math.prod(factors.shape[:-2])}; ++t) {{",
                    f"const {typed} *A = {pointers.name(factors)} + t * {n * n};",
                    f"const int32_t *S = {pointers.name(pivots)} + t * {n};\n{typed} *O = o + t * {size};",
                    f"for (int64_t i = 0; i < {size}; ++i) O[i] = {pointers.name(right)}[t * {size} + i];",
                    *lines,
                    "}",
                ]
            ),
        )

    return write


def _sweep(n: int, columns: int, *, down: bool, transposed: bool, divided: bool) -> list[str]:
    """Substitution with one triangle of `A`, or of its transpose: each row less those that are solved."""
    element = f"A[k * {n} + i]" if transposed else f"A[i * {n} + k]"
    others = f"k = i + 1; k < {n}" if down else "k = 0; k < i"
    lines = [
        _for("i", n, down=down),
        f"for (int64_t {others}; ++k)",
        _NO_ALIAS,
        f"for (int64_t m = 0; m < {columns}; ++m) O[i * {columns} + m] -= {element} * O[k * {columns} + m];",
    ]
    if divided:
        lines.append(f"for (int64_t m = 0; m < {columns}; ++m) O[i * {columns} + m] /= A[i * {n} + i];")
    return [*lines, "}"]


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
    _aten._linalg_solve_ex.default: _solve,
    _aten.linalg_lu_solve.default: _lu_solve,
}
