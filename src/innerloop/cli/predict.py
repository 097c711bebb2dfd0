"""`innerloop predict`: predict the rows of a table that have no target."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from ..errors import UsageError, visible
from .classes import false_alarms, predict_rows
from .common import Notes, emit, require_rows, stored_run
from .encoding import encoding_told, use_encoder
from .options import OUTPUT, Device, Encoder, Footer, Json, Quiet, SkipBad, Steps, about
from .refusals import refuse_senseless, require_place, require_steps
from .text import harmless, say

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    from ..storage import Stored

__all__ = ["predict", "read_rows", "unlike_tasks"]

# a task whose support loss exceeds that of so many percent of the calibration tasks is told
_UNLIKE = 95


def predict(
    directory: Annotated[Path, Parameter(help="What innerloop train or innerloop adapt left.")],
    rows: Annotated[
        Path,
        Parameter(
            help="A table: rows with a target are support, rows without one get predicted. Of a model of pictures a "
            "file or folder, of arrays an npz file."
        ),
    ],
    /,
    *,
    out: Annotated[
        Path | None, Parameter(group=OUTPUT, help="CSV file to write; stdout unless given.")
    ] = None,
    interval: Annotated[
        float | None,
        about("Give intervals (classes: prediction sets) that hold this share of new rows: 0.9."),
    ] = None,
    none_of_these: Annotated[
        float | None,
        about(
            "Of classes: false alarms of 'none of these'; 0.05 where that can be had unless given, 0 for never."
        ),
    ] = None,
    inner_steps: Steps = None,
    skip_bad: SkipBad = False,
    skip_footer: Footer = None,
    encoder: Encoder = None,
    device: Device = "auto",
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Predict the rows of a table that have no target, or the class of pictures.

    Rows of the same task that have one are its support. The output keeps all rows and their order and adds
    the prediction, the probability of each class, and n_support, the number of support rows of the task;
    0 means the base prediction, without any adaptation. A directory that adapt or refine left needs no
    support rows, and every row is predicted.
    --interval 0.9 adds lower and upper, or for classes prediction_set, calibrated on the meta-validation tasks
    of training, and support_loss_percentile: near 100, a task is unlike them.
    A directory adapted to classes predicts every picture; a run takes pictures in folders for support, each folder
    a class, and predicts those that lie loose beside them. What belongs to none of the classes is called none of
    these; fit_percentile says how many percent of the rows of known classes fit worse.

    Examples:
      innerloop predict runs/schools mixed.csv --out predictions.csv
      innerloop predict adapted/schools new_pupils.csv
      innerloop predict runs/schools mixed.csv --interval 0.9
      innerloop predict runs/schools mixed.csv --json
      innerloop predict shelves/12 inbox/ --out found.csv
    """
    from ..storage.tables import row_tasks

    notes = Notes(quiet=quiet)
    require_steps(inner_steps)
    if out is not None:
        require_place(out)
        if out.exists() and out.samefile(rows):
            raise UsageError(f"--out {out}: this is the table itself: choose another file")
    use_encoder(encoder)
    stored = stored_run(directory, device)
    if stored.inputs is not None:
        senseless = {"inner_steps": inner_steps, "interval": interval, "skip_footer": skip_footer}
        refuse_senseless(senseless, "a model of pictures or arrays")
        rate = false_alarms(stored, none_of_these, notes)
        predict_rows(stored, rows, notes, out=out, none_of_these=rate, skip_bad=skip_bad, json=json)
        return
    refuse_senseless({"skip_bad": skip_bad or None}, "a table")
    frame = read_rows(stored, rows, notes, skip_footer=skip_footer)
    rate = none_of_these if not stored.has_classes else false_alarms(stored, none_of_these, notes)
    with encoding_told(notes):
        table = stored.predict_frame(frame, inner_steps=inner_steps, interval=interval, none_of_these=rate)
    schema = stored.table_schema()
    wanted = stored.unlabelled(frame)
    if stored.kind != "run" and not wanted.all():
        notes(f"note: {int((~wanted).sum())} rows have a target; this model predicts them all the same")
    wanted |= stored.kind != "run"
    base = 0 if stored.kind == "refined" else int((table["n_support"][wanted] == 0).sum())
    if base:
        notes(f"note: {base} rows belong to tasks without a support row: base prediction, n_support=0")
    if not wanted.any():
        notes(f"note: every row has a {schema.target!r}, so there is nothing to predict: leave some empty")
    unlike = _of_intervals(table[wanted], row_tasks(schema, frame)[wanted], interval, notes)
    if out is not None:
        from ..files import write_bytes

        write_bytes(out, _csv(rows, frame, table, schema.decimal).encode())
    if json:
        settings = {
            "directory": str(directory),
            "rows": str(rows),
            "inner_steps": inner_steps,
            "interval": interval,
        }
        content = {"out": str(out)} if out else {"predictions": _records(table)}
        emit(
            "predict",
            None,
            notes,
            settings,
            n_predicted=int(wanted.sum()),
            n_base=base,
            unlike=unlike,
            **content,
        )
    elif out is None:
        text = _csv(rows, frame, table, schema.decimal)
        # for people, who may not be steered by a cell; for programs, every cell as it is
        print(visible(text) if sys.stdout.isatty() else text, end="")
    else:
        count = len({*row_tasks(schema, frame)[wanted]})
        of_tasks = "" if stored.has_classes else f" of {count} tasks"
        say(f"predicted {int(wanted.sum())} rows{of_tasks}: {out}")


def _of_intervals(
    predicted: pd.DataFrame, tasks: np.ndarray, interval: float | None, notes: Notes
) -> dict[str, float] | None:
    """Say what is to be known of the intervals; the tasks that are unlike those of the calibration."""
    if interval is None:
        return None
    first = next(name for name in predicted if name == "prediction_set" or str(name).startswith("lower"))
    without = int(predicted[first].isna().sum())
    if without:
        notes(f"note: {without} rows have no interval: no calibration task had so few support rows")
    percentile = dict(zip(tasks.tolist(), predicted["support_loss_percentile"].tolist(), strict=True))
    return unlike_tasks(percentile, notes)


def unlike_tasks(percentile: Mapping[str, float], notes: Notes) -> dict[str, float]:
    """The tasks whose support loss exceeds that of nearly all calibration tasks, with a note that names them.

    Example:
        >>> unlike_tasks({"a": 99.0, "b": 50.0, "c": float("nan")}, Notes(quiet=True))
        {'a': 99.0}
    """
    from ..tasks.messages import listed

    found = {task: share for task, share in percentile.items() if share > _UNLIKE}
    if found:
        count = f"{len(found)} task{'s are' if len(found) > 1 else ' is'} unlike those of the calibration"
        notes(
            f"note: {count} ({listed(sorted(found), 3)}): the loss on their support rows exceeds that of more than "
            f"{_UNLIKE} % of them (of like tasks, {100 - _UNLIKE} % do), so their intervals may not hold"
        )
    return found


def read_rows(stored: Stored, path: Path, notes: Notes, *, skip_footer: int | None = None) -> pd.DataFrame:
    """A table for a model, with notes on what was understood; see `Stored.read_frame`.

    Raises:
        UsageError: the model was not trained on a table with a task column.
        DataError: the table cannot be used.
    """
    frame = stored.read_frame(path, skip_footer=skip_footer)
    require_rows(frame, str(path))
    for note in frame.attrs["notes"]:
        notes(f"note: {note}")
    return frame


def _csv(path: Path, frame: pd.DataFrame, predicted: pd.DataFrame, decimal: str) -> str:
    """The table as it was written, with the new columns behind, in its separator and decimal mark."""
    import pandas as pd

    table = as_written(path, frame)
    added = predicted.iloc[:, frame.shape[1] :].rename(columns=harmless)
    if "prediction" in added and not pd.api.types.is_numeric_dtype(added["prediction"]):
        added["prediction"] = added["prediction"].map(harmless, na_action="ignore")
    whole = pd.concat([table, added.set_axis(table.index)], axis=1)
    text: str = whole.to_csv(
        index=False,
        lineterminator="\n",
        sep=frame.attrs.get("separator") or ",",
        decimal=frame.attrs.get("decimal") or decimal,
    )
    return text


def _records(table: pd.DataFrame) -> list[dict[str, object]]:
    """Rows as plain values; what is missing is `None`."""
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
        with warnings.catch_warnings():
            # more values than names: lines above the header, or names of rows
            warnings.simplefilter("error", pd.errors.ParserWarning)
            text = pd.read_csv(
                path, sep=separator, dtype=str, keep_default_na=False, encoding="utf-8-sig", index_col=False
            )
    except (ValueError, OSError, pd.errors.ParserError, pd.errors.ParserWarning):
        return frame
    # lines that hold nothing were left out, and names lost the space around them
    text = text[(text != "").any(axis=1)]
    if [name.strip() for name in text.columns] == frame.columns.tolist() and len(text) == len(frame):
        return text
    return frame
