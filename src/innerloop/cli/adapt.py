"""`innerloop adapt`: adapt a model to the tasks of a table and keep the result."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from ..errors import DataError
from .common import Notes, emit, stored_run
from .options import OUTPUT, Device, Json, Quiet, Replace, Steps
from .predict import read_rows, unlike_tasks
from .refusals import require_place, require_steps
from .text import say

__all__ = ["adapt"]


def adapt(
    directory: Annotated[Path, Parameter(help="What innerloop train left.")],
    support: Annotated[Path, Parameter(help="A table of labelled rows: task, features and target.")],
    /,
    *,
    out: Annotated[Path, Parameter(group=OUTPUT, help="Directory for the adapted tasks.")],
    inner_steps: Steps = None,
    replace: Replace = False,
    device: Device = "auto",
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Adapt a model to the tasks of a table and keep the result.

    Every task of the table is adapted to once, by its labelled rows; predict then needs no labelled rows.

    Examples:
      innerloop adapt runs/schools known_pupils.csv --out adapted/schools
      innerloop predict adapted/schools new_pupils.csv
    """
    from ..storage.manifest import refuse_occupied

    notes = Notes(quiet=quiet)
    require_steps(inner_steps)
    refuse_occupied(out, replace=replace)
    require_place(out)
    stored = stored_run(directory, device)
    frame = read_rows(stored, support, notes)
    if not stored.labelled(frame).any():
        target = stored.table_schema().target
        raise DataError(f"{support} has no row with a value in the target {target!r}")
    adapted = stored.adapt_frame(frame, inner_steps=inner_steps)
    settings = {"support": str(support), **adapted.config["settings"]}
    adapted.save(out, settings=settings, replace=replace)
    counts = adapted.n_support
    percentile = adapted.config["settings"].get("support_loss_percentile") or {}
    unlike = unlike_tasks(percentile, notes)
    if json:
        emit("adapt", None, notes, settings, out=str(out), tasks=counts, unlike=unlike)
        return
    tasks, n_rows = len(counts), sum(counts.values())
    say(f"adapted to {tasks} task{'s' * (tasks != 1)}, {n_rows} support row{'s' * (n_rows != 1)}: {out}")
