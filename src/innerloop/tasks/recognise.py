"""Recognise what was given, without a spec file, and turn it into tasks.

| what | becomes |
|---|---|
| CSV or Parquet file, or a frame, with a task column | tasks of the table |
| the same with `n_way` and no task column | n-way episodes of its classes |
| folder of tables | a task a file |
| dict of arrays or `.npz`: `x`, `y`, `task` | tasks of the arrays |
| dict of arrays or `.npz`: `x`, `label` (`group`) | n-way episodes |
| folder `class/image` or `alphabet/class/image` | n-way episodes |
| folder `task/class/image` with `labels` | a task a folder |
| torch `Dataset` with whole-number labels | n-way episodes |
| `DataLoader`, or a data set with `batch_size` | each batch is a task |
| function that returns an `Episode` | tasks without end |
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch.utils.data import DataLoader, Dataset

from ..errors import DataError, UsageError
from ..files import explained
from .from_arrays import arrays, read_npz, sound_support
from .functions import from_any_function
from .images import ImageFolder, find_images, load_images
from .n_way import class_table, classes, sound_way
from .single_set import items, single
from .splits import Split, Tasks
from .tables.cells import listed
from .tables.delimited import refuse_name
from .tables.reading import TABLES, as_frame, entries
from .tables.table import table

WANTED = (
    "a table needs --task COLUMN, which says the task of each row, or --n-way N to draw tasks from classes "
    "(task= or n_way= in Python)"
)


def open_tasks(data: Any, **options: Any) -> Tasks:
    """Tasks from anything that this module recognises; the command and `il.tasks.open` are this function.

    Arguments:
        data: a path, frame, dict of arrays, data set, loader or function.
        options: those of what it is recognised as: of `table` (`task`, `target`, `n_support`, ...), `classes`
            (`n_way`, `n_shot`, ...) or `single` (`batch_size`); for images also `image_size`, `skip_bad` and
            `labels`. Those that are `None` count as not given. Support and episodes get sound sizes unless
            given.

    Returns:
        The tasks; their notes say what was recognised and decided.

    Raises:
        DataError: the data cannot be used as it is.
        UsageError: an option has no meaning here, or one is needed.

    Example:
        >>> import numpy as np
        >>> x = np.arange(60.0)
        >>> open_tasks({"x": x[:, None], "y": np.sin(x), "task": x // 6})
        Tasks(arrays: 10 tasks = 6 train + 2 valid + 2 test, 1 feature, regression, n_support=3)
    """
    kind = recognise(data)
    given = {name: value for name, value in options.items() if value is not None and value is not False}
    return LAYOUTS[kind](data, **_accepted(LAYOUTS[kind], kind, given))


def recognise(data: Any) -> str:
    """Which of `LAYOUTS` this is.

    Raises:
        DataError: a folder holds neither tables nor images, or nothing of this kind is known.
        UsageError: it is an archive, a pickle or an address.

    Example:
        >>> recognise({"x": [1.0]})
        'arrays'
    """
    if isinstance(data, str | Path):
        return _recognise_path(Path(data))
    if isinstance(data, Mapping):
        return "arrays"
    if isinstance(data, DataLoader):
        return "loader"
    if hasattr(data, "to_pandas") or type(data).__name__ == "DataFrame":
        return "table"
    if isinstance(data, Dataset) or _is_pair(data):
        return "data set"
    if callable(data):
        return "function"
    if type(data).__name__ == "LazyFrame":
        raise DataError("a LazyFrame holds no rows yet: give frame.collect()")
    raise DataError(
        f"a {type(data).__name__} is nothing that tasks are made of: give a path, a frame, a dict of arrays "
        "(x, y, task), a torch Dataset or DataLoader, or a function that returns an Episode"
    )


def _recognise_path(path: Path) -> str:
    refuse_name(path)
    with explained(path, DataError):
        folder = path.is_dir()
    if not folder:
        if path.suffix.lower() == ".npy":
            raise DataError(f"{path} is one array: save x, y and task with numpy.savez as .npz")
        return "arrays" if path.suffix.lower() == ".npz" else "table"
    suffixes = {entry.suffix.lower() for entry in entries(path)} & set(TABLES)
    # a text file beside images is more likely a remark than a table
    if suffixes - {".txt"}:
        return "folder of tables"
    if find_images(path).files:
        return "images"
    if suffixes:
        return "folder of tables"
    raise DataError(
        f"{path} holds neither tables nor images: give a folder of tables ({', '.join(TABLES)}, a file a "
        "task), or a folder with a folder of images a class",
        file=str(path),
    )


def _is_pair(data: Any) -> bool:
    return isinstance(data, tuple | list) and len(data) == 2 and all(hasattr(part, "shape") for part in data)


def _accepted(load: Callable[..., Tasks], kind: str, given: dict[str, Any]) -> dict[str, Any]:
    """The options that mean something here; a seed is always one."""
    known = inspect.signature(load).parameters
    for name in given:
        if name not in known and name != "seed":
            option = f"--{name.replace('_', '-')}"
            others = [other for other in list(known)[1:] if other != "seed"]
            raise UsageError(
                f"{option} has no meaning for {kind}: leave it out; known are {', '.join(others)}"
            )
    return {name: value for name, value in given.items() if name in known}


def open_table(
    data: Any,
    *,
    task: str | None = None,
    target: str | list[str] | None = None,
    n_support: int | str | None = None,
    n_shot: int | str | None = None,
    n_way: int | None = None,
    n_query: int | None = None,
    features: list[str] | None = None,
    ignore: list[str] | None = None,
    categorical: list[str] | None = None,
    kind: str | None = None,
    date_format: list[str] | None = None,
    decimal: str = ".",
    labels: str | None = None,
    split: Split | None = None,
    split_by: str | None = None,
    support: str | None = None,
    seed: int = 0,
) -> Tasks:
    """A file, a folder of tables or a frame."""
    folder = isinstance(data, str | Path) and Path(data).is_dir()
    if folder and task is None and n_way is None:
        task = "task"
    frame = as_frame(data, task=task or (target if isinstance(target, str) else None), decimal=decimal)
    if target is None:
        raise UsageError(
            f"a table needs --target COLUMN, the column to predict (target= in Python); it has "
            f"{listed(list(frame.columns), 12)}"
        )
    name = Path(data).stem if isinstance(data, str | Path) else "table"
    given = {
        "target": target, "n_shot": n_shot, "n_query": n_query, "features": features, "ignore": ignore,
        "categorical": categorical, "split": split, "seed": seed, "decimal": decimal,
    }  # fmt: skip
    of_tasks = {
        "task": task, "n_support": n_support, "kind": kind, "split_by": split_by, "support": support,
        "date_format": date_format, "labels": labels,
    }  # fmt: skip
    if n_way is not None:
        wrong = [key for key, value in of_tasks.items() if value is not None and key != "date_format"]
        if wrong and wrong != ["kind"]:
            option = f"--{wrong[0].replace('_', '-')}"
            raise UsageError(
                f"--n-way draws tasks from classes: leave {option} out, or leave --n-way out; support is "
                "--n-shot, rows a class"
            )
        chosen = _given(given)
        if n_query is None:
            way = sound_way(frame[str(target)].dropna(), None, n_shot=n_shot or 1, seed=seed)
            chosen["n_query"] = way["n_query"]
        return class_table(frame, n_way=n_way, **chosen).renamed(name)
    if task is None:
        raise UsageError(f"{WANTED}; it has {listed(list(frame.columns), 12)}")
    if n_support is None and n_shot is None:
        of_tasks |= sound_support(frame, target, kind, task)
    return table(frame, **_given(given | of_tasks)).renamed(name)


def _given(options: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


def open_arrays(
    data: Any,
    *,
    n_support: int | str | None = None,
    n_shot: int | str | None = None,
    n_way: int | None = None,
    n_query: int | None = None,
    kind: str | None = None,
    split: Split | None = None,
    seed: int = 0,
) -> Tasks:
    """A dict of arrays, or an `.npz` file."""
    found = read_npz(Path(data)) if isinstance(data, str | Path) else dict(data)
    keys = set(found)
    if keys == {"x", "y", "task"}:
        if n_way is not None:
            raise UsageError("--n-way draws tasks from classes, but these arrays have tasks: leave it out")
        size = {"n_support": n_support, "n_shot": n_shot, "n_query": n_query, "kind": kind, "split": split}
        return arrays(found["x"], found["y"], found["task"], seed=seed, **_given(size))
    if keys in ({"x", "label"}, {"x", "label", "group"}):
        if n_support is not None or kind is not None:
            raise UsageError("arrays x and label give n-way episodes: leave --n-support and --kind out")
        size = {"n_way": n_way, "n_shot": n_shot, "n_query": n_query, "split": split}
        return _episodes(found["x"], found["label"], found.get("group"), seed=seed, **_given(size))
    raise DataError(
        f"arrays are called x, y and task, or x and label (and group) for n-way episodes; found "
        f"{listed(sorted(map(str, keys)))}: rename them"
    )


def _episodes(x: Any, labels: Any, groups: Any = None, **options: Any) -> Tasks:
    """n-way episodes of a sound size, unless one is given."""
    given = {name: options[name] for name in ("n_shot", "split", "seed") if name in options}
    if not {"n_way", "n_query"} <= set(options):
        options = sound_way(labels, groups, **given) | options
    return classes(x, labels, groups=groups, **options)


def open_images(
    data: Any,
    *,
    n_support: int | str | None = None,
    n_shot: int | str | None = None,
    n_way: int | None = None,
    n_query: int | None = None,
    labels: str | None = None,
    split: Split | None = None,
    seed: int = 0,
    image_size: int | None = None,
    skip_bad: bool = False,
) -> Tasks:
    """A folder `class/image`, `alphabet/class/image` or, with `labels`, `task/class/image`."""
    found: ImageFolder = load_images(Path(data), size=image_size, skip_bad=skip_bad)
    given = _given({"n_shot": n_shot, "n_query": n_query, "split": split or found.split})
    if labels is not None:
        if labels != "shared":
            raise UsageError(
                f"labels={labels!r} is not for images: shared, or leave it out for n-way episodes"
            )
        if found.groups is None:
            raise DataError(
                f"{data} has no folder a task: task/class/image is the layout with --labels shared"
            )
        size = _given({"n_support": n_support}) or {"n_shot": 3}
        tasks = arrays(
            found.x, found.labels, found.groups, kind="classification", seed=seed, **(size | given)
        )
        notes = (*found.notes, "each folder is a task; its classes mean the same in every task")
    else:
        if n_support is not None:
            raise UsageError("folders of classes give n-way episodes: give --n-shot, rows a class")
        tasks = _episodes(found.x, found.labels, found.groups, seed=seed, **given, **_given({"n_way": n_way}))
        notes = found.notes
        if found.groups is not None:
            notes += (
                "folders are alphabet/class/image: n-way episodes, no alphabet in two splits; if a folder is "
                "a task whose classes mean the same in every folder, give --labels shared",
            )
    return replace(tasks, notes=(*tasks.notes, *notes), name=Path(data).name)


def open_dataset(
    data: Any,
    *,
    batch_size: int | None = None,
    n_way: int | None = None,
    n_shot: int | str | None = None,
    n_query: int | None = None,
    kind: str | None = None,
    split: Any = None,
    seed: int = 0,
) -> Tasks:
    """A torch `Dataset`, or a pair `(x, y)`."""
    if batch_size is not None:
        if n_way is not None or n_shot is not None:
            raise UsageError("batch_size makes each batch a task, n_way draws tasks from classes: give one")
        return single(data, batch_size=batch_size, kind=kind, seed=seed, **_given({"split": split}))
    x, y = items(data)
    if y.is_floating_point() or y.dim() != 1 or kind == "regression":
        raise UsageError(
            "this data set has no whole-number labels: give batch_size=, then each batch is a task"
        )
    size = {"n_way": n_way, "n_shot": n_shot, "n_query": n_query, "split": split}
    return _episodes(x, y, seed=seed, **_given(size))


def open_loader(
    data: Any,
    *,
    batch_size: int | None = None,
    kind: str | None = None,
    split: str | None = None,
    seed: int = 0,
) -> Tasks:
    """A `DataLoader` of anything."""
    return single(data, batch_size=batch_size, kind=kind, seed=seed, **_given({"split": split}))


LAYOUTS: dict[str, Callable[..., Tasks]] = {
    "table": open_table,
    "folder of tables": open_table,
    "arrays": open_arrays,
    "images": open_images,
    "data set": open_dataset,
    "loader": open_loader,
    "function": from_any_function,
}
