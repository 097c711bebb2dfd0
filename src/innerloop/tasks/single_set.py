"""One single data set as a source of tasks: each of its mini-batches is an episode."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol, TypeGuard, cast

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset, default_collate

from ..errors import DataError, UsageError
from .array_values import as_tensor
from .episodes import PyTree, tensors
from .sources import SingleSource
from .splits import SHARES, SPLITS, Tasks, parts
from .support import Targets

__all__ = ["is_pair", "items", "single"]

# rows read at once when the targets are looked at
_CHUNK = 512


class _Sized(Protocol):
    """A data set with a length."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: Any, /) -> Any: ...


Data = Dataset[Any] | DataLoader[Any] | tuple[ArrayLike | Tensor, ArrayLike | Tensor]


def is_pair(data: object) -> TypeGuard[tuple[ArrayLike, ArrayLike]]:
    """Two arrays, `x` and `y`."""
    return isinstance(data, tuple | list) and len(data) == 2 and all(hasattr(part, "shape") for part in data)


class _Rows(NamedTuple):
    """A map-style data set, how its rows become a batch, and the batch size its loader had."""

    dataset: _Sized
    collate: Callable[[list[Any]], object]
    batch_size: int | None

    def read(self, rows: Sequence[int]) -> tuple[PyTree, Tensor]:
        if isinstance(self.dataset, TensorDataset) and self.collate is default_collate:
            batch = self.dataset[list(rows)]
        else:
            batch = self.collate([self.dataset[row] for row in rows])
        if not isinstance(batch, tuple | list) or len(batch) != 2 or not isinstance(batch[1], Tensor):
            raise DataError("a batch of the data set must be a pair (x, y), y a tensor: give a collate_fn")
        for what, part in (("x", batch[0]), ("y", batch[1])):
            _require_finite(part, what, rows)
        return batch[0], batch[1]


def _require_finite(part: PyTree, what: str, rows: Sequence[int]) -> None:
    """Refuse rows of a batch with a value that is not finite: their tasks would be left out of training."""
    for values in tensors(part):
        if not values.is_floating_point() or torch.isfinite(values).all():
            continue
        where = "a batch of the data set"
        if len(values) == len(rows):
            bad = torch.nonzero(~torch.isfinite(values.reshape(len(rows), -1)).all(1)).flatten().tolist()
            where = f"row {rows[bad[0]]} of the data set" + (
                f" ({len(bad)} such rows here)" if bad[1:] else ""
            )
        several = what == "y" and values.dim() == 2 and values.shape[1] > 1
        way = "; rows that know some of several targets are taken by il.tasks.arrays" if several else ""
        raise DataError(f"{where} holds a value in {what} that is not finite: correct or remove the row{way}")


def single(
    data: Data,
    *,
    split: str = "half",
    batch_size: int | None = None,
    kind: str | None = None,
    valid: Data | None = None,
    test: Data | None = None,
    shares: tuple[float, float, float] = SHARES,
    seed: int = 0,
) -> Tasks:
    """Tasks from one single data set: every mini-batch is a task.

    Arguments:
        data: a `DataLoader` over a map-style data set (its data set, batch size and `collate_fn` are used;
            its sampler and random state are not), such a data set, or a pair of arrays `x` `(N, *feature)`
            and `y` `(N,)` or `(N, C)`.
        split: `half` makes one half of each batch support and the other query; `none` makes the whole batch
            both, the recipe of many tutorials, which scores a model on rows it has adapted to.
        batch_size: rows an episode; needed unless a loader brings it.
        kind: `regression` or `classification`; unless given, whole numbers, truth values and exactly the two
            numbers 0 and 1 are classes, other numbers are not.
        valid: rows for meta-validation, in one of the same forms; taken out of `data` unless given.
        test: rows for meta-test; taken out of `data` unless given.
        shares: of the rows for the three splits.
        seed: of the split.

    Returns:
        The tasks; the splits have no row in common. Values are used as they are: scale them yourself.

    Raises:
        DataError: there are too few rows, or a batch is no pair of features and targets.
        UsageError: this is no data set with a length, or an argument has no meaning.

    Example:
        >>> x, y = torch.rand(100, 3), torch.arange(100) % 2
        >>> single((x, y), batch_size=10)
        Tasks(single: 7 batches to train on, 3 features, classification, n_support=5)
    """
    if split not in ("half", "none"):
        raise UsageError(f"split={split!r} is unknown: choose half or none")
    rows = _rows(data)
    size = batch_size or rows.batch_size
    if size is None or size < 2:
        raise UsageError(f"batch_size={size}: give the rows of an episode, 2 or more")
    owners, indices = _divide(rows, {"valid": valid, "test": test}, shares, seed)
    if len(indices["train"]) < size:
        raise DataError(
            f"batch_size={size}, but meta-train has {len(indices['train'])} rows: lower batch_size"
        )
    targets, convert = _targets(rows, indices["train"], kind)
    notes, sources = [], []
    for name in SPLITS:
        count = len(indices[name])
        if count < 2:
            raise DataError(f"{name} has {count} row(s), and an episode needs 2: give more rows to it")
        if count < size:
            notes.append(f"{name} has {count} rows, fewer than batch_size={size}: they form one episode")
        read = _reader(owners[name], indices[name], convert)
        sources.append(SingleSource(read, count, min(size, count), targets, split))
    x = sources[0].rows([0])[0]
    shape = tuple(x.shape[1:]) if isinstance(x, Tensor) else ()
    train, valid_source, test_source = sources
    return Tasks(train, valid_source, test_source, targets, shape, notes=tuple(notes), name="single")


def items(data: Data) -> tuple[Tensor, Tensor]:
    """All rows of a data set: features `(N, *feature)` and targets.

    Images of Pillow become bytes `(channels, height, width)`.

    Raises:
        DataError: rows are no pairs, or have different shapes.
        UsageError: this is no data set with a length.

    Example:
        >>> x, y = items(TensorDataset(torch.rand(6, 2), torch.arange(6)))
        >>> x.shape, y.shape
        (torch.Size([6, 2]), torch.Size([6]))
    """
    dataset = _rows(data).dataset
    if isinstance(dataset, TensorDataset) and len(dataset.tensors) == 2:
        return dataset.tensors[0], dataset.tensors[1]
    xs, ys = [], []
    # a transform that draws from the global generator must not change the caller's stream
    with torch.random.fork_rng(devices=[]):
        for number in range(len(dataset)):
            row = dataset[number]
            if not isinstance(row, tuple | list) or len(row) != 2:
                raise DataError(
                    f"row {number} of the data set is no pair (x, y): return one from __getitem__"
                )
            xs.append(_pixels(row[0]))
            ys.append(torch.as_tensor(row[1]))
            if xs[-1].shape != xs[0].shape or ys[-1].shape != ys[0].shape:
                raise DataError(
                    f"row {number} of the data set has shape {tuple(xs[-1].shape)}, row 0 "
                    f"{tuple(xs[0].shape)}: give all rows one shape (a transform that resizes)"
                )
    if not xs:
        raise DataError("the data set has no row: give one with rows")
    return torch.stack(xs), torch.stack(ys)


def _pixels(x: Any) -> Tensor:
    """A tensor; an image of Pillow has its channels last."""
    values = _single_precision(x if isinstance(x, Tensor) else np.asarray(x))
    if hasattr(x, "getbands"):
        return values[None] if values.dim() == 2 else values.permute(2, 0, 1)
    return values


def _rows(data: Data) -> _Rows:
    what, dataset = ("a loader over ", data.dataset) if isinstance(data, DataLoader) else ("", data)
    if isinstance(dataset, IterableDataset):
        raise UsageError(f"{what}an IterableDataset has no rows to draw from: give a data set with a length")
    if isinstance(data, DataLoader):
        size = data.batch_size or getattr(data.batch_sampler, "batch_size", None)
        collate = data.collate_fn if data.batch_size else default_collate
        return _Rows(cast(_Sized, dataset), collate, size)
    if is_pair(data):
        x, y = map(_single_precision, data)
        if len(x) != len(y):
            raise DataError(f"x has {len(x)} rows and y {len(y)}: give one target for each row")
        return _Rows(TensorDataset(x, y), default_collate, None)
    if not (hasattr(data, "__len__") and hasattr(data, "__getitem__")):
        raise UsageError(
            f"{type(data).__name__} is no data set with a length: give a DataLoader, a Dataset or "
            "a pair (x, y)"
        )
    return _Rows(cast(_Sized, data), default_collate, None)


def _single_precision(values: ArrayLike | Tensor) -> Tensor:
    """A tensor as it is; an array of double precision in single precision."""
    tensor = as_tensor(values, "an array")
    return tensor.float() if tensor.dtype == torch.float64 and not isinstance(values, Tensor) else tensor


def _divide(
    rows: _Rows, given: dict[str, Data | None], shares: tuple[float, float, float], seed: int
) -> tuple[dict[str, _Rows], dict[str, np.ndarray]]:
    """Which data set each split reads, and which rows of it."""
    owners = {name: rows if (other := given.get(name)) is None else _rows(other) for name in SPLITS}
    count = len(rows.dataset)
    if count < 3:
        raise DataError(f"the data set has {count} row(s): the three splits need more")
    train, *others = parts(count, shares, seed)
    indices = {"train": train, **dict(zip(SPLITS[1:], others, strict=True))}
    for name in SPLITS[1:]:
        if owners[name] is not rows:
            # what is given from outside needs no rows of `data`
            indices["train"] = np.sort(np.concatenate([indices["train"], indices[name]]))
            indices[name] = np.arange(len(owners[name].dataset))
    return owners, indices


def _targets(rows: _Rows, train: np.ndarray, kind: str | None) -> tuple[Targets, Callable[[Tensor], Tensor]]:
    """What the meta-train targets are, and how a batch of them becomes what losses take."""
    if kind not in (None, "regression", "classification"):
        raise UsageError(f"kind={kind!r} is unknown: choose regression or classification")
    # a transform that draws from the global generator must not change the caller's stream
    with torch.random.fork_rng(devices=[]):
        y = torch.cat(
            [rows.read(chunk.tolist())[1] for chunk in np.array_split(train, -(-len(train) // _CHUNK))]
        )
    values = set(torch.unique(y).tolist()) if y.dim() == 1 else set()
    if kind is None:
        classes = y.dim() == 1 and (not y.is_floating_point() or values == {0.0, 1.0})
        kind = "classification" if classes else "regression"
    if kind == "regression":
        columns = y.double().reshape(len(y), -1)
        variance = tuple(columns.var(0, unbiased=False).tolist())
        if min(variance) == 0:
            raise DataError("a target is the same in every meta-train row: there is nothing to learn")
        return Targets(kind, len(variance), (1.0,) * len(variance), variance), _as_columns
    wrong = sorted(value for value in values if value < 0 or value != int(value))
    if y.dim() != 1 or wrong:
        what = f"{wrong[0]}" if wrong else f"shape {tuple(y.shape[1:])} a row"
        raise DataError(f"classes are numbered 0, 1, 2, ..., one number a row; found {what}")
    if len(values) < 2:
        raise DataError("the meta-train rows have one class: two or more are needed")
    return Targets(kind, int(max(values)) + 1), Tensor.long


def _as_columns(y: Tensor) -> Tensor:
    return y.float().reshape(len(y), -1)


def _reader(
    rows: _Rows, index: np.ndarray, convert: Callable[[Tensor], Tensor]
) -> Callable[[Sequence[int]], tuple[PyTree, Tensor]]:
    def read(wanted: Sequence[int]) -> tuple[PyTree, Tensor]:
        x, y = rows.read(index[list(wanted)].tolist())
        if next(tensors(x)).shape[0] != len(y):
            raise DataError("a batch has different numbers of features and targets: check the collate_fn")
        return x, convert(y)

    return read
