"""`innerloop predict`: predict the rows of a table that have no target."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from .common import OUTPUT, Device, Json, Notes, Quiet, emit, stored_run
from .rows import by_task, read_rows, task_support

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    from ..checkpoint import Stored
    from ..schema import Schema


def predict(
    directory: Annotated[Path, Parameter(help="What innerloop train or innerloop adapt left.")],
    rows: Annotated[
        Path, Parameter(help="A table: rows with a target are support, rows without one get predicted.")
    ],
    /,
    *,
    out: Annotated[
        Path | None, Parameter(group=OUTPUT, help="CSV file to write; stdout unless given.")
    ] = None,
    inner_steps: Annotated[int | None, Parameter(help="Inner steps; as in training unless given.")] = None,
    device: Device = "auto",
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Predict for every row without a target, adapted to the rows of its task that have one.

    The output keeps the rows and their order and adds the prediction, the probability of each class, and
    n_support, the support rows of the task; 0 means the base prediction, without any adaptation.

    innerloop predict runs/schools mixed.csv --out predictions.csv

    innerloop predict adapted/schools new_pupils.csv
    """
    notes = Notes(quiet=quiet)
    stored = stored_run(directory, device)
    schema, frame = read_rows(stored, rows, notes)
    if stored.kind == "adapted":
        wanted, values, counts = _from_adapted(stored, schema, frame, notes)
    else:
        wanted, values, counts = _from_run(stored, schema, frame, inner_steps)
    table = _filled(schema, frame, wanted, values, counts)
    base = int((counts[wanted] == 0).sum())
    if base:
        notes(f"note: {base} rows belong to tasks without a support row: base prediction, n_support=0")
    if out is not None:
        from ..files import write_bytes

        write_bytes(out, table.to_csv(index=False).encode())
    if json:
        settings = {"directory": str(directory), "rows": str(rows), "inner_steps": inner_steps}
        content = {"out": str(out)} if out else {"predictions": _records(table)}
        emit("predict", None, notes, settings, n_predicted=int(wanted.sum()), n_base=base, **content)
    elif out is None:
        table.to_csv(sys.stdout, index=False)
    else:
        print(f"predicted {int(wanted.sum())} rows of {len(by_task(schema, frame))} tasks: {out}")


def _from_run(
    stored: Stored, schema: Schema, frame: pd.DataFrame, inner_steps: int | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Which rows are predicted, their outputs, and the support rows of each row's task."""
    import numpy as np
    import torch

    from ..learner import predict_tasks

    labelled = schema.labelled(frame)
    counts = np.zeros(len(frame), dtype=np.int64)
    supports, queries, places = [], [], []
    for rows in by_task(schema, frame).values():
        support, query = rows[labelled[rows]], rows[~labelled[rows]]
        counts[rows] = len(support)
        if len(query):
            supports.append(task_support(schema, frame.iloc[support]))
            queries.append(torch.from_numpy(schema.encode(frame.iloc[query])))
            places.append(query)
    values = np.zeros((len(frame), schema.n_outputs))
    model = stored.model if inner_steps is None else _with_steps(stored, inner_steps)
    for place, part in zip(places, predict_tasks(model, supports, queries), strict=True):
        values[place] = part.cpu().numpy()
    return ~labelled, values, counts


def _with_steps(stored: Stored, inner_steps: int) -> Any:
    from dataclasses import replace

    from ..errors import UsageError
    from ..learner import GradientLearner, Model

    if not isinstance(stored.model.learner, GradientLearner):
        raise UsageError("--inner-steps: this model adapts by a closed form, which has no steps")
    return Model(replace(stored.model.learner, inner_steps=inner_steps), stored.model.meta)


def _from_adapted(
    stored: Stored, schema: Schema, frame: pd.DataFrame, notes: Notes
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    import numpy as np
    import torch

    support = {entry["id"]: entry["n_support"] or 0 for entry in stored.config["tasks"]}
    labelled = schema.labelled(frame)
    if labelled.any():
        notes(f"note: {int(labelled.sum())} rows have a target; an adapted model predicts them all the same")
    counts = np.zeros(len(frame), dtype=np.int64)
    values = np.zeros((len(frame), schema.n_outputs))
    for name, rows in by_task(schema, frame).items():
        task = stored.tasks.get(name) or stored.model.base()
        counts[rows] = support.get(name, 0)
        values[rows] = task(torch.from_numpy(schema.encode(frame.iloc[rows]))).cpu().numpy()
    return np.ones(len(frame), dtype=bool), values, counts


def _filled(
    schema: Schema, frame: pd.DataFrame, wanted: np.ndarray, values: np.ndarray, counts: np.ndarray
) -> pd.DataFrame:
    """The table with the predictions added; empty where a row was support."""
    import pandas as pd

    table = frame.copy()
    for name, column in schema.decode(values).items():
        table[name] = pd.Series(column, index=frame.index).where(wanted)
    table["n_support"] = counts
    return table


def _records(table: pd.DataFrame) -> list[dict[str, Any]]:
    import json

    records: list[dict[str, Any]] = json.loads(table.to_json(orient="records"))
    return records
