"""n-way episodes from labelled arrays or from a table of classes; the splits have no class in common."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from ..encoders import Encoder, use
from ..errors import DataError, UsageError
from .array_values import as_array, feature_tensor
from .inputs import InputSchema
from .messages import listed
from .sources import ClassSource
from .splits import SHARES, SPLITS, Split, Tasks, divide
from .support import SupportSize
from .tables.cells import sorted_labels
from .tables.deciding import Reading
from .tables.reading import TableLike, as_frame, table_name
from .tables.schema import Schema

__all__ = ["class_sizes", "class_source", "class_table", "classes", "classes_from_schema", "default_way"]


def classes(
    x: ArrayLike | Tensor,
    labels: ArrayLike | Tensor,
    *,
    n_way: int = 5,
    n_shot: int | str = 1,
    n_query: int = 15,
    groups: ArrayLike | Tensor | None = None,
    split: Split = SHARES,
    seed: int = 0,
    train_way: int | None = None,
) -> Tasks:
    """n-way episodes from labelled images or vectors; the splits have no class in common.

    Arguments:
        x: `(N, *feature)` array or tensor; bytes (uint8, 0 to 255) become 0 to 1.
        labels: `(N,)` class of each row, text or numbers.
        n_way: classes `W` an episode.
        n_shot: support rows `K` a class, a number or a range such as `1-5`.
        n_query: query rows `Q` a class.
        groups: `(N,)` group of each row, such as its alphabet: a class is then a label within a group,
            and the splits have no group in common.
        split: shares of the classes (or groups), or their names:
            `{"train": [...], "valid": [...], "test": [...]}`. Shares give meta-validation and meta-test
            `n_way` classes at least where there are enough.
        seed: of the split.
        train_way: classes of a training episode, where they are not `n_way`: many make a harder task, from which
            prototypes learn more (Snell, Swersky & Zemel, 2017).

    Returns:
        The tasks; each episode draws its classes, and which number each gets.

    Raises:
        DataError: lengths differ, a split has too few classes, or a class too few rows.
        UsageError: an argument has no meaning.

    Example:
        >>> images = torch.rand(60, 1, 8, 8)
        >>> classes(images, [row // 4 for row in range(60)], n_way=2, n_query=3)
        Tasks(classes: 15 classes = 11 train + 2 valid + 2 test, x 1x8x8, classification, n_shot=1)
    """
    features = feature_tensor(x, keep_bytes=True)
    index = _class_index(len(features), labels, groups)
    size = _Size(n_way, SupportSize.parse(None, n_shot), n_query)
    members = _divide(index, split, seed, size)
    inputs = InputSchema("arrays", tuple(features.shape[1:]), 255 if features.dtype == torch.uint8 else 1)
    return replace(_tasks(features, index, members, size, train_way), inputs=inputs)


def class_table(
    frame: TableLike,
    *,
    target: str,
    n_way: int = 5,
    n_shot: int | str = 1,
    n_query: int = 15,
    features: Sequence[str] | None = None,
    ignore: Sequence[str] = (),
    categorical: Sequence[str] = (),
    decimal: str = ".",
    missing: Sequence[str] = (),
    encoding: str | None = None,
    sheet: str | None = None,
    skip_rows: int = 0,
    header_rows: int = 1,
    skip_footer: int | None = None,
    text: Sequence[str] = (),
    encoder: str | Callable[[Any], Any] | Encoder | None = None,
    split: Split = SHARES,
    seed: int = 0,
    train_way: int | None = None,
) -> Tasks:
    """n-way episodes from a table of classes that has no task column.

    Arguments, besides those that `classes` and `table` explain:
        frame: path of a CSV file, or a pandas, polars or pyarrow frame; it is not changed.
        target: the column that holds the class.

    Returns:
        The tasks, `x` standardised on the meta-train classes; `schema.classes` is empty, as classes differ
        from episode to episode.

    Raises:
        DataError: the table cannot be used as it is.
        UsageError: an argument has no meaning.

    Example:
        >>> frame = pd.DataFrame({"width": np.arange(60.0), "letter": list("abcdefghijklmno") * 4})
        >>> class_table(frame, target="letter", n_way=2, n_query=3)
        Tasks(table: 15 classes = 11 train + 2 valid + 2 test, 1 feature, classification, n_shot=1)
    """
    name = table_name(frame)
    reading = Reading.of({
        "target": target, "n_way": n_way, "categorical": categorical, "decimal": decimal, "missing": missing,
        "encoding": encoding, "sheet": sheet, "text": text,
        "skip_rows": skip_rows, "header_rows": header_rows, "skip_footer": skip_footer,
    })  # fmt: skip
    used = None if encoder is None else use(encoder)
    frame = whole = as_frame(frame, reading=reading)
    notes = list(frame.attrs.get("notes", ()))
    labelled = Schema(None, target, "classification", ()).labelled(frame)
    if target in frame and not labelled.all():
        notes.append(f"{int((~labelled).sum())} of {len(frame)} rows have no {target!r} and were dropped")
        frame = frame[labelled]
    size = _Size(n_way, SupportSize.parse(None, n_shot), n_query)

    def fit(rows: pd.DataFrame, classes: Sequence[str] | None = None) -> Schema:
        return Schema.fit(
            rows, whole=whole, task=None, target=target, features=features, ignore=ignore, kind="classification",
            categorical=categorical, classes=classes, decimal=decimal, missing=missing, encoding=encoding,
            text=text, encoder=used, shape=reading.shape,
        )  # fmt: skip

    known = fit(frame)
    index = _class_index(len(frame), _label_texts(frame, known), None)
    members = _divide(index, split, seed, size)
    rows = index.rows[members[0]]
    schema = replace(fit(frame.iloc[np.sort(rows[rows >= 0])], known.classes), classes=())
    x = torch.from_numpy(schema.encode(frame))
    return replace(_tasks(x, index, members, size, train_way), schema=schema, notes=tuple(notes), name=name)


def classes_from_schema(
    frame: pd.DataFrame,
    schema: Schema,
    names: Sequence[str] | None,
    *,
    n_way: int,
    support: SupportSize,
    n_query: int = 15,
) -> ClassSource:
    """n-way episodes of a table by the rules of a schema that was fitted before.

    Arguments, besides those that `classes` explains:
        frame: rows; those without a target are left out.
        schema: what the columns mean.
        names: classes to take; all unless given.

    Raises:
        DataError: a column or class is missing, or classes or rows are too few.

    Example:
        >>> frame = pd.DataFrame({"width": np.arange(60.0), "letter": list("abcdefghijklmno") * 4})
        >>> schema = class_table(frame, target="letter", n_way=2, n_query=3).schema
        >>> size = {"n_way": 2, "support": SupportSize(1, 1, True), "n_query": 3}
        >>> len(classes_from_schema(frame, schema, ["a", "b"], **size).index)
        2
    """
    frame = frame[schema.labelled(frame)]
    if frame.empty:
        raise DataError(f"no row has a value in the target {schema.target!r}: name the classes of the rows")
    known = replace(schema, classes=sorted_labels(frame[schema.target]))
    index = _class_index(len(frame), _label_texts(frame, known), None)
    wanted = set(index.names if names is None else names)
    absent = sorted(wanted - set(index.names))
    if absent:
        raise DataError(f"{len(absent)} classes have no row in the table: {listed(absent)}")
    members = np.flatnonzero([name in wanted for name in index.names])
    _check(index, {"table": members}, _Size(n_way, support, n_query))
    x = torch.from_numpy(schema.encode(frame))
    return ClassSource(x, index.rows[members], n_way, support, n_query)


def class_source(
    x: Tensor, labels: ArrayLike, *, n_way: int, support: SupportSize, n_query: int | None = None
) -> ClassSource:
    """n-way episodes of all classes of some rows.

    Arguments:
        x: features `(N, *feature)`, bytes or floating numbers.
        labels: `(N,)` class of each row.
        n_way: classes `W` an episode.
        support: support rows a class.
        n_query: query rows a class; 15, or fewer where there are not so many, unless given.

    Raises:
        DataError: there are too few classes, or a class has too few rows.

    Example:
        >>> source = class_source(
        ...     torch.rand(12, 2), list("abc") * 4, n_way=3, support=SupportSize(1, 1, True)
        ... )
        >>> source.n_query
        3
    """
    index = _class_index(len(x), labels, None)
    fewest = int((index.rows >= 0).sum(1).min())
    size = _Size(n_way, support, n_query or max(1, min(15, fewest - support.high)))
    _check(index, {"given": np.arange(len(index.names))}, size)
    return ClassSource(x, index.rows, *size)


def _label_texts(frame: pd.DataFrame, schema: Schema) -> np.ndarray:
    return np.asarray(np.array(schema.classes, dtype=object)[schema.encode_target(frame)])


class _ClassIndex(NamedTuple):
    """The classes: `names` `(C,)`, `rows` `(C, most)` padded with -1, and the unit each is divided by."""

    names: np.ndarray
    rows: np.ndarray
    unit_names: list[str]
    unit: np.ndarray
    what: str


class _Size(NamedTuple):
    """Size of an n-way episode."""

    n_way: int
    support: SupportSize
    n_query: int


def _tasks(
    x: Tensor,
    index: _ClassIndex,
    members: Sequence[np.ndarray],
    size: _Size,
    train_way: int | None = None,
) -> Tasks:
    """Episodes of the classes of each split."""
    if train_way is not None and not 2 <= train_way <= len(members[0]):
        raise UsageError(f"train_way={train_way}: give 2 to {len(members[0])}, the meta-train classes")
    train, valid, test = (ClassSource(x, index.rows[part], *size) for part in members)
    targets = train.targets
    train = replace(train, n_way=train_way or train.n_way)
    splits = {name: tuple(index.names[part].tolist()) for name, part in zip(SPLITS, members, strict=True)}
    return Tasks(train, valid, test, targets, tuple(x.shape[1:]), splits=splits, name="classes")


def default_way(
    labels: ArrayLike | Tensor,
    groups: ArrayLike | Tensor | None,
    *,
    n_shot: int | str = 1,
    split: Split = SHARES,
    seed: int = 0,
) -> dict[str, int]:
    """The `n_way` and `n_query` of `classes` for data of this size: 5 and 15, or fewer where there is less.

    Raises:
        DataError: a split has one class, or a class has no row for a query.

    Example:
        >>> default_way([row // 4 for row in range(40)], None)
        {'n_way': 3, 'n_query': 3}
    """
    index = _class_index(len(as_array(labels, "labels")), labels, groups)
    support = SupportSize.parse(None, n_shot)
    for n_way in (5, 4, 3, 2):
        members = _members(index, split, seed, n_way)
        if min(map(len, members)) >= n_way:
            break
    fewest = int((index.rows[np.concatenate(members)] >= 0).sum(1).min())
    n_query = max(1, min(15, fewest - support.high))
    _check(index, dict(zip(SPLITS, members, strict=True)), _Size(n_way, support, n_query))
    return {"n_way": n_way, "n_query": n_query}


def class_sizes(labels: ArrayLike | Tensor, groups: ArrayLike | Tensor | None) -> np.ndarray:
    """Rows of the class that each row belongs to, `(n,)`.

    Example:
        >>> class_sizes(["a", "b", "a"], None).tolist()
        [2, 1, 2]
    """
    index = _class_index(len(as_array(labels, "labels")), labels, groups)
    sizes = np.zeros(int((index.rows >= 0).sum()), dtype=np.int64)
    for rows in index.rows:
        own = rows[rows >= 0]
        sizes[own] = len(own)
    return sizes


def _names(values: ArrayLike | Tensor, count: int, what: str) -> tuple[list[str], np.ndarray]:
    """Different values as text, in order, and the number of each row's value."""
    array = as_array(values, what)
    if array.shape != (count,):
        raise DataError(f"{what} has shape {array.shape}, expected ({count},): one for each row of x")
    gaps = np.flatnonzero(pd.isna(array))
    if len(gaps):
        raise DataError(f"row {gaps[0]} has no value in {what}: fill it in or remove the row")
    if array.dtype.kind not in "biuf":
        array = array.astype(str)
    uniques, codes = np.unique(array, return_inverse=True)
    return [str(value) for value in uniques.tolist()], codes


def _class_index(count: int, labels: ArrayLike | Tensor, groups: ArrayLike | Tensor | None) -> _ClassIndex:
    """The classes of `count` rows; with groups, a class is a label within a group."""
    names, codes = _names(labels, count, "labels")
    unit_names, unit = names, np.arange(len(names))
    if groups is not None:
        unit_names, group = _names(groups, count, "groups")
        pairs, codes = np.unique(group * len(names) + codes, return_inverse=True)
        unit = pairs // len(names)
        names = [f"{unit_names[pair // len(names)]}/{names[pair % len(names)]}" for pair in pairs]
    rows = np.full((len(names), int(np.bincount(codes).max(initial=0))), -1)
    rows[codes, pd.Series(codes).groupby(codes).cumcount()] = np.arange(count)
    return _ClassIndex(
        np.array(names, dtype=object), rows, unit_names, unit, "classes" if groups is None else "groups"
    )


def _members(index: _ClassIndex, split: Split, seed: int, n_way: int) -> list[np.ndarray]:
    """Positions of the classes of each split; classes that `split` does not name are in none."""
    least = n_way if index.what == "classes" else 1
    some = isinstance(split, Mapping)
    units = divide(index.unit_names, split, seed, what=index.what, least=least, all_named=not some)
    return [np.flatnonzero(np.isin(index.unit, part)) for part in units]


def _divide(index: _ClassIndex, split: Split, seed: int, size: _Size) -> list[np.ndarray]:
    """Positions of the classes of each split, which are enough for episodes of that size."""
    members = _members(index, split, seed, size.n_way)
    _check(index, dict(zip(SPLITS, members, strict=True)), size)
    return members


def _check(index: _ClassIndex, members: Mapping[str, np.ndarray], size: _Size) -> None:
    """Every split has `n_way` classes, every class has rows for support and query."""
    n_way, support, n_query = size
    if n_way < 2 or n_query < 1 or support.low < 1:
        raise UsageError(
            f"n_way={n_way}, n_shot={support}, n_query={n_query}: give 2 ways, 1 shot, 1 query or more"
        )
    fewest = min(len(part) for part in members.values())
    if fewest < n_way:
        counts = ", ".join(f"{len(part)} {name}" for name, part in members.items())
        raise DataError(
            f"n_way={n_way}, but the classes of the splits are {counts}: lower n_way, or give larger shares "
            "to the small splits"
        )
    used = np.concatenate(list(members.values()))
    rows = (index.rows[used] >= 0).sum(1)
    if rows.min() < support.high + n_query:
        small = int(rows.argmin())
        others = int((rows < support.high + n_query).sum()) - 1
        more = f" ({others} more classes have too few)" if others else ""
        raise DataError(
            f"class {index.names[used[small]]!r} has {rows[small]} rows, but n_shot={support} and "
            f"n_query={n_query} need {support.high + n_query}{more}: lower one, or leave the class out"
        )
