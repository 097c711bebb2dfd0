"""Linear algebra that ONNX lacks, as loops of its operators: Cholesky factors, triangular and general systems.

Matrices have any leading axes. The functions are translated to ONNX by onnxscript, which reads their source; they are
not run by Python.
"""
# mypy: disable-error-code="misc, no-any-return, valid-type, untyped-decorator, call-overload"

from typing import TypeVar, Union

from onnxscript import DOUBLE, FLOAT, script
from onnxscript import opset18 as op
from onnxscript.values import Opset

__all__ = ["cholesky", "solve", "solve_lower", "solve_upper"]

_domain = Opset("innerloop.linalg", 1)
Real = TypeVar("Real", bound=Union[DOUBLE, FLOAT])  # noqa: UP007  onnxscript knows no `|`


@script(_domain)
def cholesky(matrix: Real) -> Real:
    """The lower factor, column by column; NaN from the first pivot on that is not positive."""
    size = op.Gather(op.Shape(matrix), -1)
    place = op.Range(0, size, 1)
    down = op.Unsqueeze(place, [-1])
    factor = op.Sub(matrix, matrix)
    zero = op.CastLike(0.0, matrix)
    for column in range(size):
        here = op.Reshape(column, [1])
        row = op.Gather(factor, here, axis=-2)
        rest = op.Sub(op.Gather(matrix, here, axis=-1), op.ReduceSum(op.Mul(factor, row), [-1], keepdims=1))
        pivot = op.Gather(rest, here, axis=-2)
        # the logarithm's NaN, for a root of zero would give infinity
        root = op.Where(op.Greater(pivot, zero), op.Sqrt(pivot), op.Log(op.Sub(zero, op.Exp(zero))))
        found = op.Where(op.Less(down, here), zero, op.Div(rest, root))
        factor = op.Where(op.Equal(place, here), found, factor)
    return factor


@script(_domain)
def solve_lower(matrix: Real, right: Real) -> Real:
    """Forward substitution."""
    size = op.Gather(op.Shape(matrix), -1)
    down = op.Unsqueeze(op.Range(0, size, 1), [-1])
    product = op.MatMul(matrix, right)
    found = op.Sub(product, product)
    for number in range(size):
        here = op.Reshape(number, [1])
        row = op.Gather(matrix, here, axis=-2)
        rest = op.Sub(op.Gather(right, here, axis=-2), op.MatMul(row, found))
        found = op.Where(op.Equal(down, here), op.Div(rest, op.Gather(row, here, axis=-1)), found)
    return found


@script(_domain)
def solve_upper(matrix: Real, right: Real) -> Real:
    """Backward substitution."""
    size = op.Gather(op.Shape(matrix), -1)
    down = op.Unsqueeze(op.Range(0, size, 1), [-1])
    product = op.MatMul(matrix, right)
    found = op.Sub(product, product)
    for number in range(size):
        here = op.Reshape(op.Sub(op.Sub(size, 1), number), [1])
        row = op.Gather(matrix, here, axis=-2)
        rest = op.Sub(op.Gather(right, here, axis=-2), op.MatMul(row, found))
        found = op.Where(op.Equal(down, here), op.Div(rest, op.Gather(row, here, axis=-1)), found)
    return found


@script(_domain)
def solve(matrix: Real, right: Real) -> Real:
    """Gauss-Jordan elimination with row pivoting."""
    size = op.Gather(op.Shape(matrix), -1)
    down = op.Unsqueeze(op.Range(0, size, 1), [-1])
    left, found = matrix, right
    for number in range(size):
        here = op.Reshape(number, [1])
        column = op.Abs(op.Gather(left, here, axis=-1))
        free = op.Where(op.Less(down, here), op.CastLike(-1.0, left), column)
        pivot = op.Equal(down, op.ArgMax(free, axis=-2, keepdims=1))
        chosen = op.CastLike(pivot, left)
        row = op.ReduceSum(op.Mul(chosen, left), [-2], keepdims=1)
        other = op.ReduceSum(op.Mul(chosen, found), [-2], keepdims=1)
        current = op.Equal(down, here)
        left = op.Where(current, row, op.Where(pivot, op.Gather(left, here, axis=-2), left))
        found = op.Where(current, other, op.Where(pivot, op.Gather(found, here, axis=-2), found))
        share = op.Div(op.Gather(left, here, axis=-1), op.Gather(row, here, axis=-1))
        share = op.Where(current, op.CastLike(0.0, left), share)
        found = op.Sub(found, op.Mul(share, other))
        left = op.Sub(left, op.Mul(share, row))
    diagonal = op.Mul(left, op.CastLike(op.Equal(down, op.Range(0, size, 1)), left))
    return op.Div(found, op.ReduceSum(diagonal, [-1], keepdims=1))
