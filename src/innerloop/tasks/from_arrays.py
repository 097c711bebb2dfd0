"""Arrays as data: rows of any shape with a target and a task each, from memory or an `.npz` file."""

from __future__ import annotations

import io
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ..errors import DataError
from .n_way import as_array, feature_tensor
from .sources import RowSource, Source
from .splits import SHARES, Split, Tasks
from .tables.cells import absent_columns, distinct
from .tables.delimited import read_existing
from .tables.schema import labelled_rows, target_kind, target_names
from .tables.table import table

# deflate packs nothing but zeros to a thousandth; data shrinks to a fiftieth at most
_MOST_TIMES, _SMALL = 200, 2**26


def read_npz(path: Path) -> dict[str, np.ndarray]:
    """The arrays of an `.npz` file; arrays of Python objects are refused, as reading them could run code.

    Raises:
        DataError: the file is damaged or holds objects.
    """
    data = read_existing(path)
    try:
        _refuse_bomb(path, data)
        with np.load(io.BytesIO(data), allow_pickle=False) as found:
            return {name: np.asarray(found[name]) for name in found.files}
    except ValueError as error:
        if "allow_pickle" not in str(error):
            raise DataError(f"{path} cannot be read ({error}): write it again", file=str(path)) from None
        raise DataError(
            f"{path} holds an array of objects: save numbers or text (array.astype(str)) with numpy.savez",
            file=str(path),
        ) from None
    except DataError:
        raise
    except Exception as error:  # a damaged archive makes zip and numpy fail in any way
        first = (str(error) or type(error).__name__).splitlines()[0]
        raise DataError(f"{path} cannot be read as npz ({first}): write it again", file=str(path)) from None


def _refuse_bomb(path: Path, data: bytes) -> None:
    """Refuse an archive of which a few bytes would fill the memory."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        size = sum(entry.file_size for entry in archive.infolist())
    if size > _SMALL + _MOST_TIMES * len(data):
        raise DataError(
            f"{path} has {len(data):,} bytes and unpacks to {size:,}, which is more than data does: write it again "
            "with numpy.savez, which does not compress",
            file=str(path),
        )


def arrays(
    x: Any,
    y: Any,
    task: Any,
    *,
    n_support: int | str | None = None,
    n_shot: int | str | None = None,
    kind: str | None = None,
    split: Split = SHARES,
    seed: int = 0,
    n_query: int = 32,
) -> Tasks:
    """Tasks from arrays: row `i` of `x` and `y` belongs to task `task[i]`.

    Arguments:
        x: `(N, F)` features, which are standardised on meta-train; or `(N, *feature)` such as images, which
            are used as they are (bytes become 0 to 1).
        y: `(N,)` or `(N, C)` targets, or `(N,)` classes.
        task: `(N,)` task of each row, text or numbers.
        n_support: support rows a task; 5 unless given, for regression.
        n_shot: support rows a class; 3 unless given, for classification.
        kind: `regression` or `classification`; found out unless given, see `schema.target_kind`.
        split: see `table`.
        seed: of the split.
        n_query: largest number of query rows of a training episode.

    Returns:
        The tasks; features are called `x0`, `x1`, ... in the schema, targets `y`, or `y0`, `y1`, ...

    Raises:
        DataError: shapes do not fit, or values cannot be used.
        UsageError: an argument has no meaning.

    Example:
        >>> x = np.arange(40.0).reshape(20, 2)
        >>> arrays(x, np.sin(x[:, 0]), np.arange(20) // 4, n_support=2)
        Tasks(arrays: 5 tasks = 3 train + 1 valid + 1 test, 2 features, regression, n_support=2)
    """
    rows, targets, tasks = (as_array(values, name) for values, name in ((x, "x"), (y, "y"), (task, "task")))
    for values, name in ((targets, "y"), (tasks, "task")):
        if len(values) != len(rows):
            raise DataError(f"x has {len(rows)} rows and {name} {len(values)}: give one for each row")
    if tasks.ndim != 1 or targets.ndim > 2:
        raise DataError(f"task has shape {tasks.shape} and y {targets.shape}: give (N,), and (N,) or (N, C)")
    if targets.ndim == 2 and targets.shape[1] == 1:
        targets = targets[:, 0]
    size: dict[str, Any] = {"n_support": n_support, "n_shot": n_shot}
    if rows.ndim == 1:
        rows = rows[:, None]
    frame = pd.DataFrame({"task": tasks})
    names = ["y"] if targets.ndim == 1 else [f"y{number}" for number in range(targets.shape[1])]
    for name, column in zip(names, targets.reshape(len(rows), -1).T, strict=True):
        frame[name] = column
    target = names if len(names) > 1 else "y"
    options: dict[str, Any] = {"task": "task", "target": target, "kind": kind, "split": split, "seed": seed}
    options["n_query"] = n_query
    size = size if n_support or n_shot else sound_support(frame, target, kind, "task")
    if rows.ndim == 2:
        columns = pd.DataFrame(rows, columns=[f"x{number}" for number in range(rows.shape[1])])
        return table(pd.concat([frame, columns], axis=1), **size, **options).renamed("arrays")
    # what is no vector is used as it is: the table divides the rows, and its one column says which row it is
    frame["row"] = np.arange(len(rows), dtype=np.float64)
    return _with_rows(table(frame, **size, **options), rows).renamed("arrays")


def sound_support(frame: pd.DataFrame, target: Any, kind: str | None, task: str) -> dict[str, int]:
    """5 rows a task, or 3 rows a class; fewer where half of the tasks have too few for a query of that size.

    Example:
        >>> frame = pd.DataFrame({"site": list("aaaabbbb"), "risk": range(8)})
        >>> sound_support(frame, "risk", None, "site")
        {'n_support': 2}
    """
    found = target_kind(frame, target, kind, task=task)
    if task not in frame:
        raise DataError(absent_columns([task], frame))
    codes, _ = distinct(frame[task])
    codes = codes[(codes >= 0) & labelled_rows(frame, target_names(target))]
    rows = np.bincount(codes)
    rows = rows[rows > 1]
    middle = int(np.median(rows)) if len(rows) else 2
    if found == "classification":
        return {"n_shot": 3}
    return {"n_support": max(1, min(5, middle // 2))}


def _with_rows(tasks: Tasks, rows: np.ndarray) -> Tasks:
    """The same tasks with rows of any shape in place of their numbers."""
    if tasks.schema is None:
        raise DataError("a table has a schema")
    features, number = feature_tensor(rows), tasks.schema.columns[0]

    def whole(source: Source) -> RowSource:
        if not isinstance(source, RowSource):
            raise DataError("rows of a table come from a RowSource")
        place = (source.x[:, 0].double() * number.scale + number.mean).round().long()
        return replace(source, x=features[place])

    classes = ", ".join(f"{place} is {name!r}" for place, name in enumerate(tasks.schema.classes[:20]))
    return replace(
        tasks,
        train=whole(tasks.train),
        valid=whole(tasks.valid),
        test=whole(tasks.test),
        feature_shape=tuple(rows.shape[1:]),
        schema=None,
        notes=(*tasks.notes, *([f"classes: {classes}"] if classes else [])),
    )
