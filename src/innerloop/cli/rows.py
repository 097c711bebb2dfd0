"""Rows of a table by task, as `adapt` and `predict` need them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import UsageError
from .common import Notes, require_rows

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from torch import Tensor

    from ..storage.save import Stored
    from ..tasks.episodes import Batch
    from ..tasks.tables.schema import Schema


def read_rows(stored: Stored, path: Path, notes: Notes) -> tuple[Schema, pd.DataFrame]:
    """The schema of a model and a table that follows it.

    Raises:
        UsageError: the model was not trained on a table with a task column.
        DataError: the table cannot be used.
    """
    from ..tasks.tables.reading import read_table

    schema = stored.schema
    if schema is None or (schema.task is None and stored.kind != "refined"):
        raise UsageError(
            f"{stored.path} was not trained on a table with a task column: "
            "use innerloop.load(...).model.adapt(x, y) from Python"
        )
    frame = read_table(path, task=schema.task, decimal=schema.decimal)
    require_rows(frame, str(path))
    for note in frame.attrs.get("notes", ()):
        notes(f"note: {note}")
    for name, count in schema.gaps(frame).items() if all(c.name in frame for c in schema.columns) else ():
        notes(f"note: {count} missing values of {name!r} were filled with its mean in training")
    return schema, frame


def schema_tasks(schema: Schema, frame: pd.DataFrame) -> np.ndarray:
    """The task of each row as text; one for all where there is no task column."""
    if schema.task is None:
        import numpy as np

        return np.full(len(frame), "all")
    from ..tasks.tables.cells import task_ids

    return task_ids(frame, str(schema.task)).astype(str)


def by_task(schema: Schema, frame: pd.DataFrame) -> dict[str, np.ndarray]:
    """Positions of the rows of each task, tasks in the order of their first row."""
    import numpy as np

    names, first, codes = np.unique(schema_tasks(schema, frame), return_index=True, return_inverse=True)
    order = np.argsort(codes, kind="stable")
    groups = np.split(order, np.cumsum(np.bincount(codes, minlength=len(names)))[:-1])
    return {str(names[task]): groups[task] for task in np.argsort(first)}


def task_support(schema: Schema, frame: pd.DataFrame, x: Tensor) -> Batch:
    """Labelled rows of one task as a support set; there may be none.

    Arguments:
        schema: what the columns mean.
        frame: the rows.
        x: their encoded features `(n, F)`.
    """
    import torch

    from ..tasks.episodes import Batch

    if len(frame):
        return Batch(x, torch.from_numpy(schema.encode_target(frame)))
    regression = schema.kind == "regression"
    shape = (0, schema.n_outputs) if regression else (0,)
    return Batch(x, torch.zeros(shape, dtype=x.dtype if regression else torch.int64))
