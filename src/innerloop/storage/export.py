"""Writing a model of a table as one file, in the format that was asked for."""

from __future__ import annotations

from pathlib import Path

from ..engine.onnx_file import require_onnx
from ..errors import UsageError, check_known
from ..files import write_bytes
from ..inner.model import Model
from ..tasks.tables.schema import Schema
from .exported import table_file, torch_bytes
from .interval_columns import Intervals
from .onnx_table import onnx_bytes

__all__ = ["export_table", "format_of"]

_ENDINGS = {"onnx": ".onnx", "torch": ".pt2"}


def export_table(
    path: Path, model: Model, *, schema: Schema, to: str | None, intervals: Intervals | None, sha256: str
) -> None:
    """What `Stored.export` does with its model."""
    kind = format_of(path, to)
    if kind == "onnx":
        require_onnx()  # before the work
    file = table_file(model, schema, intervals=intervals, sha256=sha256)
    write_bytes(path, onnx_bytes(file) if kind == "onnx" else torch_bytes(file))


def format_of(path: Path, to: str | None) -> str:
    """The format of an exported file: as it was asked for, or by the ending of its name.

    Raises:
        UsageError: it is none, or the ending is of another one.

    Example:
        >>> format_of(Path("risk.onnx"), None), format_of(Path("risk.pt2"), "torch")
        ('onnx', 'torch')
    """
    by_name = next((kind for kind, ending in _ENDINGS.items() if path.suffix == ending), None)
    if to is None and by_name is None:
        raise UsageError(
            f"{path}: end the name with .onnx or .pt2, or say the format (--to onnx, --to torch)"
        )
    if to is not None:
        check_known("to", to, tuple(_ENDINGS))
        if by_name not in (None, to):
            raise UsageError(f"{path}: a file of {to} ends with {_ENDINGS[to]}: name it so")
    return str(to or by_name)
