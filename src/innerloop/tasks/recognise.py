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

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ..encoders import Encoder, use
from ..errors import DataError, UsageError
from ..files import explained
from .array_values import as_array, read_npz
from .encoded import load_encoded
from .from_arrays import arrays, default_support
from .functions import from_any_function
from .images import find_images
from .inputs import InputSchema
from .messages import file_error, listed
from .n_way import class_sizes, class_table, classes, default_way
from .single_set import is_pair, items, single
from .soundness import doubts, remarks
from .splits import Tasks
from .support import SupportSize
from .tables.deciding import Reading
from .tables.delimited import refuse_name
from .tables.reading import TABLES, TableLike, as_frame, entries, table_name
from .tables.table import table

__all__ = [
    "LAYOUTS",
    "Options",
    "given_options",
    "layout_of",
    "open_tasks",
    "recognise",
    "without_task",
]

# options by name, as the command and `il.tasks.open` take them; what is not given is not there
Options: TypeAlias = dict[str, Any]


# names of the arrays that tasks are made of
_ARRAYS = ({"x", "y", "task"}, {"x", "label"}, {"x", "label", "group"})


def open_tasks(data: object, **options: Any) -> Tasks:
    """Tasks from anything that this module recognises; the command and `il.tasks.open` are this function.

    Arguments:
        data: a path, frame, dict of arrays, data set, loader or function.
        options: those of what it is recognised as: of `table` (`task`, `target`, `n_support`, ...), `classes`
            (`n_way`, `n_shot`, ...) or `single` (`batch_size`); for images also `image_size`, `skip_bad`,
            `labels` and `encoder` (see `innerloop.encoders`; a name, or a function of yours). Those that are
            `None` count as not given. Support and episodes get sound sizes unless given.

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
    given = given_options(options)
    kind = layout_of(data, given)
    load, known = LAYOUTS[kind]
    for name in given:
        if name not in known and name != "seed":
            raise UsageError(
                f"{_flag(name)} has no meaning for {kind}: leave it out; known are {', '.join(known)}"
            )
    tasks = load(data, given)
    return replace(tasks, notes=(*tasks.notes, *remarks(tasks), *doubts(tasks)))


def given_options(options: Options) -> Options:
    """The options that were given; an encoder is looked up."""
    given = {name: value for name, value in options.items() if value is not None and value is not False}
    return {**given, "encoder": use(given["encoder"])} if "encoder" in given else given


def layout_of(data: object, given: Options) -> str:
    """Which of `LAYOUTS` this is; with an encoder that takes any file, a folder holds files of classes.

    Raises:
        DataError: see `recognise`.
        UsageError: see `recognise`.
    """
    encoder = given.get("encoder")
    if (
        encoder is not None
        and encoder.takes == "any"
        and "text" not in given
        and isinstance(data, str | Path)
    ):
        with explained(Path(data), DataError):
            folder = Path(data).is_dir()
        if folder:
            return "images"
    return recognise(data)


def recognise(data: object) -> str:
    """Which of `LAYOUTS` this is.

    Raises:
        DataError: a folder holds neither tables nor images, or nothing of this kind is known.
        UsageError: it is an archive, a pickle or an address.

    Example:
        >>> recognise({"x": [[1.0]], "label": [0]})
        'arrays'
    """
    if isinstance(data, str | Path):
        return _recognise_path(Path(data))
    if isinstance(data, Mapping):
        _refuse_a_task_each(list(data.values()))
        named = {*map(str, data)} in _ARRAYS
        if data and not named and all(isinstance(value, list | tuple) for value in data.values()):
            raise DataError(
                f"a dict of columns ({listed([*data], 4)}) is no table yet: give one frame, pandas.DataFrame(data)"
            )
        return "arrays"
    if isinstance(data, DataLoader):
        return "loader"
    if hasattr(data, "to_pandas") or type(data).__name__ == "DataFrame":
        return "table"
    if isinstance(data, Dataset) or is_pair(data):
        return "data set"
    if type(data).__name__.endswith("GroupBy"):
        raise DataError("a groupby is no table: give the one frame it was made of, with task= its column")
    if isinstance(data, list | tuple):
        _refuse_a_task_each(data)
    if callable(data):
        return "function"
    if type(data).__name__ == "LazyFrame":
        raise DataError("a LazyFrame holds no rows yet: give frame.collect()")
    raise DataError(
        f"a {type(data).__name__} is nothing that tasks are made of: give a path, a frame, a dict of arrays "
        "(x, y, task), a torch Dataset or DataLoader, or a function that returns an Episode"
    )


def _refuse_a_task_each(values: Sequence[object]) -> None:
    """Refuse an object for each task, with the way to one for all."""
    if values and all(type(value).__name__ == "DataFrame" for value in values):
        raise DataError(
            f"{len(values)} frames, a task each, are no table: give one frame with a column that says the task of each "
            "row, pandas.concat(frames), or of a dict of them pandas.concat(frames, names=['task']).reset_index('task')"
        )
    if values and all(is_pair(value) for value in values):
        raise DataError(
            f"{len(values)} pairs (x, y), a task each, are no arrays yet: join them as one frame would be, into "
            "{'x': x, 'y': y, 'task': task}, with numpy.concatenate of each and numpy.repeat of the names of the tasks"
        )


def _recognise_path(path: Path) -> str:
    refuse_name(path)
    with explained(path, DataError):
        folder = path.is_dir()
    if not folder:
        if path.suffix.lower() == ".npy":
            raise file_error(path, " is one array: save x, y and task with numpy.savez as .npz")
        return "arrays" if path.suffix.lower() == ".npz" else "table"
    suffixes = {entry.suffix.lower() for entry in entries(path)} & set(TABLES)
    images = find_images(path)
    # a table beside folders of images, and a text file beside images, is more likely a remark than a task
    if any(images.folders):
        return "images"
    if suffixes - {".txt"}:
        return "folder of tables"
    if images.files:
        return "images"
    if suffixes:
        return "folder of tables"
    raise file_error(
        path,
        f" holds neither tables nor images: give a folder of tables ({', '.join(TABLES)}, a file a "
        "task), or a folder with a folder of images a class",
    )


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _only(options: Options, *names: str) -> Options:
    return {name: value for name, value in options.items() if name in names}


def without_task(columns: list[object]) -> UsageError:
    """The error of a table of which nobody has said what its tasks are."""
    return UsageError(
        "a table needs --task COLUMN, which says the task of each row, or --n-way N to draw tasks from classes "
        f"(task= or n_way= in Python); it has {listed(columns, 12)}"
    )


def _open_table(data: TableLike, options: Options) -> Tasks:
    """A file, a folder of tables or a frame."""
    for name in ("task", "split_by"):
        if name in options:
            options = {**options, name: str(options[name])}  # names of columns that are numbers
    task, target = options.get("task"), options.get("target")
    if isinstance(data, str | Path) and Path(data).is_dir() and task is None and "n_way" not in options:
        task = "task"
    frame = as_frame(data, task=task, reading=Reading.of({**options, "task": task}))
    if target is None:
        raise UsageError(
            f"a table needs --target COLUMN, the column to predict (target= in Python); it has "
            f"{listed(list(frame.columns), 12)}"
        )
    if "n_way" in options or ("encoder" in options and task is None):
        return _open_classes(frame, options).renamed(table_name(data))
    if task is None:
        raise without_task(list(frame.columns))
    if "train_way" in options:
        raise UsageError("--train-way is for classes without a task column: leave it out, or give --n-way")
    if "n_support" not in options and "n_shot" not in options:
        options = {**options, **default_support(frame, target, options.get("kind"), task)}
    return table(frame, **{**options, "task": task}).renamed(table_name(data))


def _open_classes(frame: pd.DataFrame, options: Options) -> Tasks:
    """A table without a task column as n-way episodes of its classes."""
    of_tasks = ("task", "n_support", "kind", "split_by", "support", "labels", "rare")
    wrong = [name for name in of_tasks if name in options]
    if wrong and wrong != ["kind"]:
        raise UsageError(
            f"--n-way draws tasks from classes: leave {_flag(wrong[0])} out, or leave --n-way out; support is "
            "--n-shot, rows a class"
        )
    options = {name: value for name, value in options.items() if name not in ("kind", "date_format")}
    if not {"n_way", "n_query"} <= set(options) and options["target"] in frame:
        labels = frame[options["target"]].dropna()
        way = default_way(labels, None, n_shot=options.get("n_shot") or 1, seed=options.get("seed", 0))
        options = {**way, **options}
    return class_table(frame, **options)


def _open_arrays(data: str | Path | Mapping[str, ArrayLike], options: Options) -> Tasks:
    """A dict of arrays, or an `.npz` file."""
    named = read_npz(Path(data)) if isinstance(data, str | Path) else dict(data)
    keys = set(named)
    if keys == _ARRAYS[0]:
        if {"n_way", "train_way", "skip_small"} & set(options):
            raise UsageError("--n-way draws tasks from classes, but these arrays have tasks: leave it out")
        return arrays(named["x"], named["y"], named["task"], **options)
    if keys in _ARRAYS:
        if "n_support" in options or "kind" in options:
            raise UsageError("arrays x and label give n-way episodes: leave --n-support and --kind out")
        return _episodes(named["x"], named["label"], named.get("group"), **options)
    raise DataError(
        f"arrays are called x, y and task, or x and label (and group) for n-way episodes; found "
        f"{listed(sorted(map(str, keys)))}: rename them"
    )


def _episodes(
    x: ArrayLike | Tensor, labels: ArrayLike | Tensor, groups: ArrayLike | None = None, **options: Any
) -> Tasks:
    """n-way episodes of a default size, unless one is given."""
    if options.pop("skip_small", False):
        return _without_small(x, labels, groups, options)
    if not {"n_way", "n_query"} <= set(options):
        options = {**default_way(labels, groups, **_only(options, "n_shot", "split", "seed")), **options}
    return classes(x, labels, groups=groups, **options)


def _without_small(
    x: ArrayLike | Tensor, labels: ArrayLike | Tensor, groups: ArrayLike | None, options: Options
) -> Tasks:
    """The same without classes that have too few rows for a support set and a query."""
    needed = SupportSize.parse(None, options.get("n_shot", 1)).high + options.get("n_query", 1)
    index = class_sizes(labels, groups)
    kept = np.flatnonzero(index >= needed)
    if not len(kept):
        raise DataError(f"no class has {needed} rows, which n_shot and n_query need: lower one of them")
    texts = as_array(labels, "labels")
    units = None if groups is None else as_array(groups, "groups")
    chosen = None if units is None else units[kept]
    tasks = _episodes(as_array(x, "x")[kept], texts[kept], chosen, **options)
    pairs = texts if units is None else np.array([f"{g}/{t}" for g, t in zip(units, texts, strict=True)])
    small = sorted({str(name) for name in pairs[index < needed]})
    note = (
        f"{len(small)} classes with fewer than {needed} rows were left out (--skip-small): {listed(small, 3)}"
    )
    return replace(tasks, notes=(*tasks.notes, *([note] if small else [])))


def _open_images(data: str | Path, options: Options) -> Tasks:
    """A folder `class/image`, `alphabet/class/image` or, with `labels`, `task/class/image`."""
    folder = load_encoded(
        Path(data), options.get("encoder"), size=options.get("image_size"), skip_bad="skip_bad" in options
    )
    given = _only(options, "n_shot", "n_query", "split", "seed")
    if folder.split:
        given = {"split": folder.split, **given}
    if "labels" in options:
        if options["labels"] != "shared":
            raise UsageError(
                f"labels={options['labels']!r} is not for images: shared, or leave it out for n-way episodes"
            )
        if folder.groups is None:
            raise DataError(
                f"{data} has no folder a task: task/class/image is the layout with --labels shared"
            )
        size = _only(options, "n_support") or {"n_shot": 3}
        tasks = arrays(folder.x, folder.labels, folder.groups, kind="classification", **(size | given))
        more = ["each folder is a task; its classes mean the same in every task"]
    else:
        if "n_support" in options:
            raise UsageError("folders of classes give n-way episodes: give --n-shot, rows a class")
        options_of_classes = _only(options, "n_way", "train_way", "skip_small")
        tasks = _episodes(folder.x, folder.labels, folder.groups, **given, **options_of_classes)
        tasks = replace(tasks, inputs=_inputs(folder.x, options.get("encoder")))
        more = [] if folder.groups is None else [
            "folders are alphabet/class/image: n-way episodes, no alphabet in two splits; if a folder is "
            "a task whose classes mean the same in every folder, give --labels shared"
        ]  # fmt: skip
    return replace(tasks, notes=(*tasks.notes, *folder.notes, *more), name=Path(data).name)


def _inputs(x: np.ndarray, encoder: Encoder | None) -> InputSchema:
    """What a row of a folder is: a picture, or the features of an encoder."""
    if encoder is None:
        return InputSchema("images", x.shape[1:], 255)
    return InputSchema("images", x.shape[1:], 1, encoder.name, encoder.weights)


def _open_dataset(data: Any, options: Options) -> Tasks:
    """A torch `Dataset`, or a pair `(x, y)`."""
    if "batch_size" in options:
        if "n_way" in options or "n_shot" in options:
            raise UsageError("batch_size makes each batch a task, n_way draws tasks from classes: give one")
        return single(data, **_only(options, "batch_size", "kind", "split", "seed"))
    x, y = items(data)
    if y.is_floating_point() or y.dim() != 1 or options.get("kind") == "regression":
        raise UsageError(
            "this data set has no whole-number labels: give batch_size=, then each batch is a task"
        )
    return _episodes(x, y, **_only(options, "n_way", "n_shot", "n_query", "split", "seed"))


class Layout(NamedTuple):
    """What data was recognised as: how it becomes tasks, and the options that mean something there."""

    load: Callable[[Any, Options], Tasks]
    options: tuple[str, ...]


_SIZES = ("n_support", "n_shot", "n_way", "n_query")
_TABLE = Layout(
    _open_table,
    (
        "task", "target", *_SIZES, "features", "ignore", "categorical", "kind", "date_format", "decimal",
        "missing", "encoding", "sheet", "skip_rows", "header_rows", "skip_footer", "labels", "split", "split_by",
        "support", "rare", "train_way", "text", "encoder",
    ),
)  # fmt: skip
LAYOUTS: dict[str, Layout] = {
    "table": _TABLE,
    "folder of tables": _TABLE,
    "arrays": Layout(_open_arrays, (*_SIZES, "kind", "split", "train_way", "skip_small")),
    "images": Layout(
        _open_images,
        (*_SIZES, "labels", "split", "image_size", "skip_bad", "train_way", "skip_small", "encoder"),
    ),
    "data set": Layout(_open_dataset, ("batch_size", "n_way", "n_shot", "n_query", "kind", "split")),
    "loader": Layout(lambda data, options: single(data, **options), ("batch_size", "kind", "split")),
    "function": Layout(lambda data, _: from_any_function(data), ()),
}
