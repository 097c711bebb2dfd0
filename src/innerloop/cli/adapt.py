"""`innerloop adapt`: adapt a model to the tasks of a table and keep the result."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from ..errors import DataError, UsageError
from .common import Notes, emit, stored_run
from .options import OUTPUT, Device, Json, Quiet, Replace, Steps, require_place, require_steps
from .rows import by_task, read_rows, task_support


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
    import torch

    from ..storage.manifest import refuse_occupied
    from ..storage.save import save_adapted

    notes = Notes(quiet=quiet)
    require_steps(inner_steps)
    refuse_occupied(out, replace=replace)
    require_place(out)
    stored = stored_run(directory, device)
    if stored.kind == "adapted":
        raise UsageError(f"{directory} is adapted already: give the run it was adapted from")
    schema, frame = read_rows(stored, support, notes)
    labelled = frame[schema.labelled(frame)]
    if labelled.empty:
        raise DataError(f"{support} has no row with a value in the target {schema.target!r}")
    groups = by_task(schema, labelled)
    x = torch.from_numpy(schema.encode(labelled))
    adapted = {}
    for name, rows in groups.items():
        batch = task_support(schema, labelled.iloc[rows], x[rows])
        adapted[name] = stored.model.adapt(batch.x, batch.y, steps=inner_steps)
    counts = {name: len(rows) for name, rows in groups.items()}
    settings: dict[str, Any] = {"support": str(support), "inner_steps": inner_steps}
    if schema.n_way:
        # the numbers of classes mean nothing without the task they belong to
        settings["labels"] = {name: list(labels) for name, labels in schema.own_labels(labelled).items()}
    save_adapted(out, stored, adapted, n_support=counts, settings=settings, replace=replace)
    if json:
        emit("adapt", None, notes, settings, out=str(out), tasks=counts)
        return
    tasks, n_rows = len(adapted), sum(counts.values())
    print(f"adapted to {tasks} task{'s' * (tasks != 1)}, {n_rows} support row{'s' * (n_rows != 1)}: {out}")
