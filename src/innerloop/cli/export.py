"""`innerloop export`: a trained model as one file that adapts and predicts without this package."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from ..errors import UsageError
from .common import Notes, emit, stored_run
from .options import OUTPUT, Json, Quiet, about
from .refusals import require_place
from .text import say

__all__ = ["export"]


def export(
    directory: Annotated[Path, Parameter(help="What innerloop train left.")],
    /,
    *,
    out: Annotated[Path, Parameter(group=OUTPUT, help="The file: NAME.onnx or NAME.pt2.")],
    to: Annotated[str | None, about("onnx or torch; by the ending of --out unless given.")] = None,
    interval: Annotated[
        float | None, about("Intervals inside that hold this share of the rows of new tasks: 0.9.")
    ] = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Write a model as one file that adapts to a task and predicts it, without this package.

    It takes the columns of the table, of the rows that are known of a task and of those to predict, any number of each,
    and gives what predict gives. Encoders, scaling, the inner steps with their gradients, the head and intervals are
    inside. .onnx runs in onnxruntime, in other languages too; .pt2 is read by torch.export.load.

    Examples:
      innerloop export runs/schools --out schools.onnx
      innerloop export runs/schools --out schools.pt2 --interval 0.9
    """
    notes = Notes(quiet=quiet)
    if out.is_dir():
        raise UsageError(f"--out {out} is a folder: name a file, as in {out / 'model.onnx'}")
    require_place(out)
    stored = stored_run(directory, "cpu")
    path = stored.export(out, to=to, interval=interval)
    columns = [column.name for column in stored.table_schema().columns]
    if json:
        size = path.stat().st_size
        emit(
            "export",
            None,
            notes,
            {"to": to, "interval": interval},
            out=str(path),
            bytes=size,
            columns=columns,
        )
        return
    say(f"{path}: {path.stat().st_size / 2**20:.1f} MB, of the columns {', '.join(columns)}")
