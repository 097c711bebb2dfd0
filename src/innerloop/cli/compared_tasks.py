"""The tasks of `innerloop compare`, divided into folds; random parts of a table that has no tasks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from .opening import open_options, read_tasks
from .options import DataOptions

if TYPE_CHECKING:
    from ..tasks.splits import Tasks

__all__ = ["Folds", "read_folds"]

FOLDS = 5
# rows of a random part of a table that has no tasks
SINGLE_ROWS = 40


class Folds(NamedTuple):
    """Tasks divided in one or more ways.

    Arguments:
        tasks: one for each fold.
        clusters: the cluster of each task, where they are split by one.
        single: whether it is one table without tasks.
    """

    tasks: list[Tasks]
    clusters: dict[str, str] | None
    single: bool


def read_folds(tasks: str, data: DataOptions, *, folds: int | None, seed: int) -> Folds:
    """The tasks of every fold; how many follows from the number of tasks unless given."""
    single = _is_single(tasks, data)
    read = _reader_of_one_table(tasks, data, seed) if single else lambda data: read_tasks(tasks, data, seed)
    first = read(data)
    clusters = _clusters(tasks, data)
    if folds is None:
        named = first.splits and first.test.n_tasks is not None and data.split is None
        # what folds divide: tasks, or the values of a coarser column
        units = set(clusters.values()) if clusters else {n for part in first.splits.values() for n in part}
        folds = FOLDS if named and len(units) >= FOLDS else 1
    if folds == 1:
        return Folds([first], clusters, single)
    divided = (replace(data, split=f"{number}/{folds}") for number in range(1, folds + 1))
    return Folds([read(each) for each in divided], clusters, single)


def _clusters(tasks: str, data: DataOptions) -> dict[str, str] | None:
    if not (data.split_by and data.task):
        return None
    from ..tasks.tables.cells import task_ids
    from ..tasks.tables.deciding import Reading
    from ..tasks.tables.reading import as_frame

    frame = as_frame(Path(tasks), task=data.task, reading=Reading.of(open_options(data, None)))
    pairs = zip(task_ids(frame, data.task), task_ids(frame, data.split_by), strict=True)
    return {str(task): str(cluster) for task, cluster in pairs}


def _is_single(tasks: str, data: DataOptions) -> bool:
    """Whether it is a table with a target, and neither a task column nor classes to draw tasks from."""
    path = Path(tasks)
    wanted = data.target and not (data.task or data.n_way or data.encoder)
    return bool(wanted) and path.is_file() and path.suffix.lower() != ".npz"


def _reader_of_one_table(tasks: str, asked: DataOptions, seed: int) -> Callable[[DataOptions], Tasks]:
    """Random parts of a table as its tasks: there is nothing to adapt to, and the methods should find that out."""
    import numpy as np

    from ..tasks.recognise import open_tasks
    from ..tasks.tables.deciding import Reading
    from ..tasks.tables.reading import as_frame

    path = Path(tasks)
    frame = as_frame(path, reading=Reading.of(open_options(asked, None)))
    rows = max(4, min(SINGLE_ROWS, len(frame) // 10))
    order = np.random.default_rng(seed).permutation(len(frame))
    column = "part of the table"
    parts = frame.assign(**{column: order // rows})
    return lambda data: open_tasks(parts, **open_options(replace(data, task=column), seed)).renamed(path.stem)
