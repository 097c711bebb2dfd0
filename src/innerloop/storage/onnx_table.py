"""The ONNX file of a model of a table: names of categories and classes go in and come out as text."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from ..engine.onnx_file import to_onnx
from .exported import METADATA, TableFile

__all__ = ["onnx_bytes"]

_ML = "ai.onnx.ml"


def onnx_bytes(file: TableFile) -> bytes:
    """The file as bytes; inputs are `support.COLUMN` and `query.COLUMN`.

    Raises:
        UsageError: an operator has no form in ONNX, or onnxscript is not installed.
    """
    inputs = [*(f"support.{name}" for name in file.support), *(f"query.{name}" for name in file.query)]
    model = to_onnx(file.program, inputs=inputs, outputs=file.outputs)
    said: Any = file.metadata
    for column in said["columns"]:
        if column["kind"] == "category":
            for place in ("support", "query"):
                _text_input(model, f"{place}.{column['name']}", column["levels"])
    if classes := said["classes"]:
        (target,) = said["targets"]
        _text_input(model, f"support.{target}", classes)
        _text_output(model, "prediction", classes)
    if all(entry.domain != _ML for entry in model.opset_import):
        model.opset_import.add(domain=_ML, version=3)
    model.producer_name = "innerloop"
    entry = model.metadata_props.add()
    entry.key, entry.value = METADATA, json.dumps(file.metadata)
    return bytes(model.SerializeToString())


def _text_input(model: Any, name: str, names: Sequence[str]) -> None:
    """An input of numbers of names becomes one of the names; any other text is -1."""
    from onnx import TensorProto, helper

    value = next(one for one in model.graph.input if one.name == name)
    inside = f"{name}.number"
    for node in model.graph.node:
        node.input[:] = [inside if one == name else one for one in node.input]
    value.type.tensor_type.elem_type = TensorProto.STRING
    known = _spellings(names)
    node = helper.make_node(
        "LabelEncoder", [name], [inside], name=f"{name}.encoder", domain=_ML,
        keys_strings=list(known), values_int64s=list(known.values()), default_int64=-1,
    )  # fmt: skip
    model.graph.node.insert(0, node)


def _text_output(model: Any, name: str, names: Sequence[str]) -> None:
    """An output of numbers of names becomes one of the names; empty where there is none."""
    from onnx import TensorProto, helper

    inside = f"{name}.number"
    for node in model.graph.node:
        node.output[:] = [inside if one == name else one for one in node.output]
        node.input[:] = [inside if one == name else one for one in node.input]
    value = next(one for one in model.graph.output if one.name == name)
    value.type.tensor_type.elem_type = TensorProto.STRING
    node = helper.make_node(
        "LabelEncoder", [inside], [name], name=f"{name}.decoder", domain=_ML,
        keys_int64s=list(range(len(names))), values_strings=list(names), default_string="",
    )  # fmt: skip
    model.graph.node.append(node)


def _spellings(names: Sequence[str]) -> dict[str, int]:
    """The number of each name, and of the other spelling of whole numbers, as `match_values` has them.

    Example:
        >>> _spellings(["1", "b", "2.0"])
        {'1': 0, 'b': 1, '2.0': 2, '1.0': 0, 'b.0': 1, '2': 2}
    """
    known = {name: number for number, name in enumerate(names)}
    for number, name in enumerate(names):
        known.setdefault(name.removesuffix(".0") if name.endswith(".0") else f"{name}.0", number)
    return known
