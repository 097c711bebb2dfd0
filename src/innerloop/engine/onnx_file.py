"""A graph of torch's operators as an ONNX model."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram

from ..errors import UsageError

__all__ = ["require_onnx", "to_onnx"]

_aten = torch.ops.aten


def require_onnx() -> None:
    """Refuse to write ONNX where the extra `export` is not installed.

    Raises:
        UsageError: it is not.
    """
    try:
        import onnxscript  # noqa: F401
    except ImportError:
        raise UsageError(
            "ONNX files are written with onnxscript, which is not installed: pip install 'innerloop[export]'"
        ) from None


def to_onnx(program: ExportedProgram, *, inputs: Sequence[str], outputs: Sequence[str]) -> Any:
    """The ONNX model (`onnx.ModelProto`) of an exported program.

    Arguments:
        program: what `torch.export.export` returned.
        inputs: names of the inputs, in order.
        outputs: names of the outputs, in order.

    Raises:
        UsageError: an operator of the graph has no form in ONNX, or onnxscript is not installed.
    """
    require_onnx()
    with _quiet():
        try:
            made = torch.onnx.export(
                program,
                dynamo=True,
                verbose=False,
                custom_translation_table=_translations(),
            )
        except Exception as error:
            raise UsageError(
                f"this model has no form in ONNX: {_reason(error)}; --to torch has one"
            ) from error
    assert made is not None
    graph = made.model.graph
    named = {id(value) for value in (*graph.inputs, *graph.outputs)}
    for node in graph.all_nodes():
        for value in node.outputs:
            if id(value) not in named:  # no name inside is one of these
                value.name = f"inside.{value.name}"
    for values, names in ((graph.inputs, inputs), (graph.outputs, outputs)):
        for value, name in zip(values, names, strict=True):
            value.name = name
    return made.model_proto


def _reason(error: Exception) -> str:
    """The operator that has none, where that is why."""
    for cause in (error, error.__cause__):
        text = str(cause)
        if "call_function[target=" in text:
            operator = text.partition("call_function[target=")[2].partition("]")[0]
            return f"its operator {operator.removeprefix('torch.ops.')} is not known there"
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what torch says of its own future."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _translations() -> dict[Callable[..., Any], Callable[..., Any]]:
    """Operators that ONNX lacks, by the functions that stand for them."""
    from onnxscript import opset18 as op

    from . import onnx_linalg as linalg

    def cholesky_ex(matrix: Tensor, upper: bool = False, check_errors: bool = False) -> tuple[Any, Any]:
        if upper:
            raise NotImplementedError("upper Cholesky factors")
        factor = _single(linalg.cholesky(matrix))
        broken = op.IsNaN(op.ReduceSum(factor, [-1, -2], keepdims=0))
        return factor, op.Cast(broken, to=6)

    def triangular(
        matrix: Tensor, right: Tensor, upper: bool, left: bool = True, unitriangular: bool = False
    ) -> Any:
        if not left or unitriangular:
            raise NotImplementedError("triangular systems from the right, or with a diagonal of 1")
        return _single(linalg.solve_upper(matrix, right) if upper else linalg.solve_lower(matrix, right))

    def solve_ex(
        matrix: Tensor, right: Tensor, left: bool = True, check_errors: bool = False
    ) -> tuple[Any, ...]:
        if not left:
            raise NotImplementedError("systems from the right")
        found = _single(linalg.solve(matrix, right))
        broken = op.IsNaN(op.ReduceSum(found, [-1, -2], keepdims=0))
        # the factors and the order of rows, which nothing asks for
        rows = op.Cast(op.ReduceSum(matrix, [-1], keepdims=0), to=6)
        return found, op.Identity(matrix), rows, op.Cast(broken, to=6)

    return {
        _aten.linalg_cholesky_ex.default: cholesky_ex,
        _aten.linalg_solve_triangular.default: triangular,
        _aten._linalg_solve_ex.default: solve_ex,
    }


def _single(values: Any) -> Any:
    """The one result of a function, which onnxscript hands on alone or in a tuple."""
    return values[0] if isinstance(values, tuple) else values
