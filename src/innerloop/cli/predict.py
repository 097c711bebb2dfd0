"""`innerloop predict`: predict the rows of a table that have no target."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from ..errors import DataError, UsageError
from .common import Notes, emit, stored_run
from .options import OUTPUT, Device, Json, Quiet, Steps, require_place, require_steps
from .rows import by_task, read_rows, schema_tasks, task_support

if TYPE_CHECKING:
    import pandas as pd

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    from ..storage.save import Stored
    from ..tasks.tables.schema import Schema


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
    inner_steps: Steps = None,
    device: Device = "auto",
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Predict the rows of a table that have no target.

    Rows of the same task that have one are its support. The output keeps all rows and their order and adds
    the prediction, the probability of each class, and n_support, the number of support rows of the task;
    0 means the base prediction, without any adaptation. A directory that adapt or refine left needs no
    support rows, and every row is predicted.

    Examples:
      innerloop predict runs/schools mixed.csv --out predictions.csv
      innerloop predict adapted/schools new_pupils.csv
      innerloop predict runs/schools mixed.csv --json
    """
    notes = Notes(quiet=quiet)
    require_steps(inner_steps)
    if out is not None:
        require_place(out)
        if out.exists() and out.samefile(rows):
            raise UsageError(f"--out {out}: this is the table itself: choose another file")
    stored = stored_run(directory, device)
    ready = stored.kind in ("adapted", "refined")
    if ready and inner_steps is not None:
        raise UsageError(
            f"--inner-steps: this model is {stored.kind} already; give the number to innerloop adapt"
        )
    schema, frame = read_rows(stored, rows, notes)
    if ready:
        wanted, values, counts = _from_adapted(stored, schema, frame, notes)
    else:
        wanted, values, counts = _from_run(stored, schema, frame, inner_steps)
    labels = _own_labels(stored, schema, frame)
    added = _added(schema, frame, wanted, schema.decode(values, labels), counts)
    base = 0 if stored.kind == "refined" else int((counts[wanted] == 0).sum())
    if base:
        notes(f"note: {base} rows belong to tasks without a support row: base prediction, n_support=0")
    if not wanted.any():
        notes(f"note: every row has a {schema.target!r}, so there is nothing to predict: leave some empty")
    if out is not None:
        from ..files import write_bytes

        write_bytes(out, _csv(rows, frame, added).encode())
    if json:
        settings = {"directory": str(directory), "rows": str(rows), "inner_steps": inner_steps}
        content = {"out": str(out)} if out else {"predictions": _records(frame, added)}
        emit("predict", None, notes, settings, n_predicted=int(wanted.sum()), n_base=base, **content)
    elif out is None:
        print(_csv(rows, frame, added), end="")
    else:
        count = len({*schema_tasks(schema, frame[wanted])})
        print(f"predicted {int(wanted.sum())} rows of {count} tasks: {out}")


def _from_run(
    stored: Stored, schema: Schema, frame: pd.DataFrame, inner_steps: int | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Which rows are predicted, their outputs, and the support rows of each row's task."""
    import numpy as np
    import torch

    from ..inner.learner import predict_tasks

    labelled = schema.labelled(frame)
    x = torch.from_numpy(schema.encode(frame))
    counts = np.zeros(len(frame), dtype=np.int64)
    supports, queries, places = [], [], []
    for rows in by_task(schema, frame).values():
        support, query = rows[labelled[rows]], rows[~labelled[rows]]
        counts[rows] = len(support)
        if len(query):
            supports.append(task_support(schema, frame.iloc[support], x[support]))
            queries.append(x[query])
            places.append(query)
    values = np.zeros((len(frame), schema.n_outputs))
    if inner_steps is not None:
        _require_inner_steps(stored)
    found = predict_tasks(stored.model, supports, queries, steps=inner_steps)
    for place, part in zip(places, found, strict=True):
        values[place] = part.cpu().numpy()
    return ~labelled, values, counts


def _require_inner_steps(stored: Stored) -> None:
    """Refuse a number of steps for what adapts without any."""
    if stored.model.learner.closed_form:
        raise UsageError("--inner-steps: this model adapts by a closed form, which has no steps")


def _from_adapted(
    stored: Stored, schema: Schema, frame: pd.DataFrame, notes: Notes
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    import numpy as np
    import torch

    support = {entry["id"]: entry["n_support"] or 0 for entry in stored.config["tasks"] or []}
    labelled = schema.labelled(frame)
    if labelled.any():
        notes(f"note: {int(labelled.sum())} rows have a target; this model predicts them all the same")
    x = torch.from_numpy(schema.encode(frame))
    counts = np.zeros(len(frame), dtype=np.int64)
    values = np.zeros((len(frame), schema.n_outputs))
    for name, rows in by_task(schema, frame).items():
        task = stored.tasks.get(name) or stored.model.base()
        counts[rows] = support.get(name, 0)
        values[rows] = task(x[rows]).cpu().numpy()
    return np.ones(len(frame), dtype=bool), values, counts


def _own_labels(stored: Stored, schema: Schema, frame: pd.DataFrame) -> list[tuple[str, ...]]:
    """The classes of each row's task, where tasks have classes of their own."""
    if not schema.n_way:
        return []
    adapted = stored.config["settings"].get("labels") if stored.kind == "adapted" else None
    known = schema.own_labels(frame) if adapted is None else adapted
    return [tuple(known.get(name, ())) for name in schema_tasks(schema, frame)]


def _added(
    schema: Schema,
    frame: pd.DataFrame,
    wanted: np.ndarray,
    decoded: dict[str, np.ndarray],
    counts: np.ndarray,
) -> pd.DataFrame:
    """The new columns; a prediction is missing where a row was support.

    Raises:
        DataError: the table has one of these columns already.
    """
    import pandas as pd

    columns = {name: pd.Series(column, index=frame.index).where(wanted) for name, column in decoded.items()}
    columns["n_support"] = pd.Series(counts, index=frame.index)
    taken = [name for name in columns if name in frame]
    if taken:
        raise DataError(f"the table has a column {taken[0]!r} already: rename it or leave it out")
    return pd.DataFrame(columns)


def _csv(path: Path, frame: pd.DataFrame, added: pd.DataFrame) -> str:
    """The table as it was written, with the new columns behind."""
    import pandas as pd

    table = as_written(path, frame)
    added = added.rename(columns=_harmless)
    if "prediction" in added and not pd.api.types.is_numeric_dtype(added["prediction"]):
        added["prediction"] = added["prediction"].map(_harmless, na_action="ignore")
    text: str = pd.concat([table, added.set_axis(table.index)], axis=1).to_csv(
        index=False, lineterminator="\n"
    )
    return text


def _harmless(label: str) -> str:
    """A label that a spreadsheet program would run as a formula, marked as text; numbers stay as they are.

    The rows of the user are not changed, but labels come from the training data of somebody else, perhaps.

    Example:
        >>> _harmless("=1+1"), _harmless("-1"), _harmless("plain")
        ("'=1+1", '-1', 'plain')
    """
    from ..tasks.tables.cells import parse

    return f"'{label}" if label[:1] in tuple("=+-@\t\r") and parse(label) is None else label


def _records(frame: pd.DataFrame, added: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows as plain values; what is missing is `None`."""
    import pandas as pd

    table = pd.concat([frame, added], axis=1)
    columns = {
        str(name): [None if gap else value for value, gap in zip(column.tolist(), column.isna(), strict=True)]
        for name, column in table.items()
    }
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def as_written(path: Path, frame: pd.DataFrame) -> pd.DataFrame:
    """The cells of a text file as they stand there: `007`, `1.50` and `NA` stay what they are.

    What cannot be read so to the same rows and columns (a folder, Parquet) is given as it was understood.
    """
    import pandas as pd

    if not path.is_file():
        return frame
    separator = frame.attrs.get("separator")
    if separator is None:
        return frame
    try:
        text = pd.read_csv(
            path, sep=separator, dtype=str, keep_default_na=False, encoding="utf-8-sig", index_col=False
        )
    except (ValueError, OSError, pd.errors.ParserError):
        return frame
    # lines that hold nothing were left out, and names lost the space around them
    text = text[(text != "").any(axis=1)]
    if [name.strip() for name in text.columns] == frame.columns.tolist() and len(text) == len(frame):
        return text
    return frame
