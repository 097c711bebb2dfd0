"""n-way episodes: labelled arrays or a table of classes; the splits have no class in common."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from ..errors import DataError, UsageError
from .sources import ClassSource, SupportSize
from .splits import SHARES, SPLITS, Fold, Split, Tasks, divide, parts
from .tables.cells import close_names, listed, meant, sorted_labels
from .tables.reading import as_frame
from .tables.schema import Schema


def classes(
    x: Any,
    labels: Any,
    *,
    n_way: int = 5,
    n_shot: int | str = 1,
    n_query: int = 15,
    groups: Any = None,
    split: Split = SHARES,
    seed: int = 0,
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
    support = SupportSize.parse(None, n_shot)
    members = _divide(index, split, seed, n_way)
    _check_classes(index, dict(zip(SPLITS, members, strict=True)), n_way, support, n_query)
    return _episodic(features, index, members, ClassSize(n_way, support, n_query))


def class_table(
    frame: Any,
    *,
    target: str,
    n_way: int = 5,
    n_shot: int | str = 1,
    n_query: int = 15,
    features: Sequence[str] | None = None,
    ignore: Sequence[str] = (),
    categorical: Sequence[str] = (),
    decimal: str = ".",
    split: Split = SHARES,
    seed: int = 0,
) -> Tasks:
    """n-way episodes from a table of classes that has no task column; see `classes`.

    Arguments:
        frame: path of a CSV file, or a pandas, polars or pyarrow frame; it is not changed.
        target: the column that holds the class.
        n_way: classes `W` an episode.
        n_shot: support rows `K` a class, a number or a range.
        n_query: query rows `Q` a class.
        features: columns to use; all others unless given.
        ignore: columns not to use.
        categorical: columns whose values are names, numbers among them too.
        decimal: what numbers are written with, `.` or `,`; the same at prediction.
        split: see `classes`.
        seed: of the split.

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
    name = Path(frame).stem if isinstance(frame, str | Path) else "table"
    frame = whole = as_frame(frame, task=target, decimal=decimal)
    notes = list(frame.attrs.get("notes", ()))
    labelled = Schema(None, target, "classification", ()).labelled(frame)
    if target in frame and not labelled.all():
        notes.append(f"{int((~labelled).sum())} of {len(frame)} rows have no {target!r} and were dropped")
        frame = frame[labelled]
    support = SupportSize.parse(None, n_shot)
    known = Schema.fit(
        frame, task=None, target=target, features=features, ignore=ignore, kind="classification",
        categorical=categorical,
    )  # fmt: skip
    names = np.array(known.classes, dtype=object)[known.encode_target(frame)]
    index = _class_index(len(frame), names, None)
    members = _divide(index, split, seed, n_way)
    _check_classes(index, dict(zip(SPLITS, members, strict=True)), n_way, support, n_query)
    train = np.zeros(len(frame), dtype=bool)
    rows = index.rows[members[0]]
    train[rows[rows >= 0]] = True
    schema = Schema.fit(
        frame[train], whole=whole, task=None, target=target, features=features, ignore=ignore, kind="classification",
        categorical=categorical, classes=known.classes, decimal=decimal,
    ).without_classes()  # fmt: skip
    x = torch.from_numpy(schema.encode(frame))
    size = ClassSize(n_way, support, n_query)
    return _episodic(x, index, members, size, schema=schema, notes=tuple(notes), name=name)


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

    Arguments:
        frame: rows; those without a target are left out.
        schema: what the columns mean.
        names: classes to take; all unless given.
        n_way: classes an episode.
        support: shots a class.
        n_query: query rows a class.

    Returns:
        The source.

    Raises:
        DataError: a column or class is missing, or classes or rows are too few.

    Example:
        >>> frame = pd.DataFrame({"width": np.arange(60.0), "letter": list("abcdefghijklmno") * 4})
        >>> schema = class_table(frame, target="letter", n_way=2, n_query=3).schema
        >>> source = classes_from_schema(
        ...     frame, schema, ["a", "b"], n_way=2, support=SupportSize(1, 1, True), n_query=3
        ... )
        >>> len(source.index)
        2
    """
    frame = frame[schema.labelled(frame)]
    if frame.empty:
        raise DataError(f"no row has a value in the target {schema.target!r}: name the classes of the rows")
    known = replace(schema, classes=sorted_labels(frame[schema.target]))
    index = _class_index(len(frame), np.array(known.classes, dtype=object)[known.encode_target(frame)], None)
    wanted = set(index.names if names is None else names)
    absent = sorted(wanted - set(index.names))
    if absent:
        raise DataError(f"{len(absent)} classes have no row in the table: {listed(absent)}")
    members = np.flatnonzero([name in wanted for name in index.names])
    _check_classes(index, {"table": members}, n_way, support, n_query)
    x = torch.from_numpy(schema.encode(frame))
    return ClassSource(x, index.rows[members], n_way, support, n_query)


class ClassIndex(NamedTuple):
    """The classes: `names` `(C,)`, `rows` `(C, most)` padded with -1, and the unit each is divided by."""

    names: np.ndarray
    rows: np.ndarray
    unit_names: list[str]
    unit: np.ndarray
    grouped: bool


class ClassSize(NamedTuple):
    """Size of an n-way episode."""

    n_way: int
    support: SupportSize
    n_query: int


def _episodic(
    x: Tensor,
    index: ClassIndex,
    members: Sequence[np.ndarray],
    size: ClassSize,
    *,
    schema: Schema | None = None,
    notes: tuple[str, ...] = (),
    name: str = "classes",
) -> Tasks:
    train, valid, test = (
        ClassSource(x, index.rows[part], size.n_way, size.support, size.n_query) for part in members
    )
    splits = {name: tuple(index.names[part].tolist()) for name, part in zip(SPLITS, members, strict=True)}
    return Tasks(train, valid, test, train.targets, tuple(x.shape[1:]), schema, splits, notes, name)


def sound_way(
    labels: Any, groups: Any, *, n_shot: int | str = 1, split: Split = SHARES, seed: int = 0
) -> dict[str, int]:
    """The `n_way` and `n_query` of `classes` for data of this size: 5 and 15, or fewer where there is less.

    Arguments:
        labels: `(N,)` class of each row.
        groups: `(N,)` group of each row, or `None`.
        n_shot: support rows a class.
        split: see `classes`.
        seed: of the split.

    Raises:
        DataError: a split has one class, or a class has no row for a query.

    Example:
        >>> sound_way([row // 4 for row in range(40)], None)
        {'n_way': 3, 'n_query': 3}
    """
    index = _class_index(len(as_array(labels, "labels")), labels, groups)
    support = SupportSize.parse(None, n_shot)
    for n_way in (5, 4, 3, 2):
        members = _divide(index, split, seed, n_way)
        if min(map(len, members)) >= n_way or n_way == 2:
            break
    fewest = int((index.rows[np.concatenate(members)] >= 0).sum(1).min())
    size = {"n_way": n_way, "n_query": max(1, min(15, fewest - support.high))}
    _check_classes(index, dict(zip(SPLITS, members, strict=True)), n_way, support, size["n_query"])
    return size


def feature_tensor(x: Any, *, keep_bytes: bool = False) -> Tensor:
    """Numbers as a floating tensor `(N, *feature)`; bytes become 0 to 1.

    Raises:
        DataError: they are no finite numbers.
    """
    values = x.detach().cpu() if isinstance(x, Tensor) else as_array(x, "x")
    if isinstance(values, np.ndarray):
        if values.dtype.kind not in "biuf":
            raise DataError(f"x holds {values.dtype} values: give numbers")
        # a copy where needed: torch reads neither foreign byte order nor read-only memory
        values = torch.from_numpy(np.require(values, values.dtype.newbyteorder("="), ["C", "W"]))
    if values.dim() < 2:
        raise DataError(f"x has shape {tuple(values.shape)}, expected (rows, *feature): use x[:, None]")
    if values.dtype == torch.uint8 and keep_bytes:
        return values
    features = values.float() / 255 if values.dtype == torch.uint8 else values.float()
    bad = torch.nonzero(~torch.isfinite(features.flatten(1)).all(1))
    if len(bad):
        raise DataError(f"row {int(bad[0])} of x holds a value that is not finite: correct or remove the row")
    return features


def as_array(values: Any, name: str) -> np.ndarray:
    """An array or tensor as an array.

    Raises:
        DataError: it is none.
    """
    if isinstance(values, Tensor):
        if values.layout != torch.strided:
            raise DataError(f"{name} is a sparse tensor, which is not taken: give {name}.to_dense()")
        return values.detach().cpu().numpy()
    if hasattr(values, "toarray"):
        raise DataError(f"{name} is a sparse matrix, which is not taken: give {name}.toarray()")
    try:
        found = np.asarray(values)
    except (TypeError, ValueError) as error:
        raise DataError(f"{name} is not an array ({error}): rows must have equal shapes") from None
    if found.ndim == 0:
        raise DataError(f"{name} is a single {type(values).__name__}: give an array with one row for each")
    return found


def _named(values: Any, count: int, what: str) -> tuple[list[str], np.ndarray]:
    """Different values as text, in order, and the number of each row's one."""
    array = as_array(values, what)
    if array.shape != (count,):
        raise DataError(f"{what} has shape {array.shape}, expected ({count},): one for each row of x")
    gaps = np.flatnonzero(pd.isna(array))
    if len(gaps):
        raise DataError(f"row {gaps[0]} has no value in {what}: fill it in or remove the row")
    if array.dtype.kind not in "biuf":
        array = array.astype(str)
    found, codes = np.unique(array, return_inverse=True)
    return [str(value) for value in found.tolist()], codes


def _class_index(count: int, labels: Any, groups: Any) -> ClassIndex:
    names, codes = _named(labels, count, "labels")
    unit_names, unit = names, np.arange(len(names))
    if groups is not None:
        unit_names, group = _named(groups, count, "groups")
        pairs, codes = np.unique(group * len(names) + codes, return_inverse=True)
        unit = pairs // len(names)
        names = [f"{unit_names[pair // len(names)]}/{names[pair % len(names)]}" for pair in pairs]
    counts = np.bincount(codes, minlength=len(names))
    order = np.argsort(codes, kind="stable")
    rows = np.full((len(names), int(counts.max(initial=0))), -1)
    starts = np.cumsum(counts) - counts
    rows[codes[order], np.arange(count) - starts[codes[order]]] = order
    return ClassIndex(np.array(names, dtype=object), rows, unit_names, unit, groups is not None)


def _divide(index: ClassIndex, split: Split, seed: int, n_way: int) -> list[np.ndarray]:
    """Positions of the classes of each split."""
    what = "groups" if index.grouped else "classes"
    if isinstance(split, Fold | str | Path):
        units = divide(index.unit_names, split, seed, what=what)
        return [np.flatnonzero(np.isin(index.unit, part)) for part in units]
    if not isinstance(split, Mapping):
        if len(index.unit_names) < 3:
            raise DataError(
                f"there are {len(index.unit_names)} {what}: the three splits need one each at least"
            )
        units = parts(len(index.unit_names), split, seed, least=1 if index.grouped else n_way)
        return [np.flatnonzero(np.isin(index.unit, part)) for part in units]
    if set(split) != set(SPLITS):
        raise UsageError(f"split has the keys {listed(sorted(map(str, split)))}: give train, valid and test")
    owner: dict[str, str] = {}
    for part in SPLITS:
        for name in map(str, split[part]):
            if name not in index.unit_names:
                near = meant(close_names(name, index.unit_names))
                raise DataError(f"split[{part!r}]: {name!r} is none of the {what}{near}")
            if owner.setdefault(name, part) != part:
                raise DataError(
                    f"{name!r} is in the splits {owner[name]} and {part}: {what} must be disjoint"
                )
    owners = np.array([owner.get(name, "") for name in index.unit_names])[index.unit]
    return [np.flatnonzero(owners == part) for part in SPLITS]


def _check_classes(
    index: ClassIndex,
    members: Mapping[str, np.ndarray],
    n_way: int,
    support: SupportSize,
    n_query: int,
) -> None:
    """Every split has `n_way` classes, every class has rows for support and query."""
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
