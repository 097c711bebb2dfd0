"""Read one single data set for `refine`: a table, an .npz file or a folder of images, divided into its parts."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from ..errors import DataError, UsageError
from ..tasks.array_values import feature_tensor, read_npz
from ..tasks.episodes import Batch
from ..tasks.images import load_images
from ..tasks.messages import listed
from ..tasks.recognise import recognise
from ..tasks.support import Targets, stream
from ..tasks.tables import deciding
from ..tasks.tables.cells import sorted_labels
from ..tasks.tables.reading import entries, read_table
from ..tasks.tables.schema import Schema
from ..tasks.tables.targets import target_kind
from .folds import split_off

__all__ = ["Divided", "Reading", "open_rows"]

# name of a folder -> ending of the names of its arrays
_PARTS = {"train": "", "val": "_valid", "valid": "_valid", "validation": "_valid", "test": "_test"}
_TEST = 7  # stream of the rows that are set aside for testing


@dataclass(frozen=True, eq=False)
class Divided:
    """Rows of a single data set.

    Arguments:
        rows: to refine on.
        valid: rows that only stop, where the data have such a part.
        test: rows to test with.
        targets: what the targets are.
        schema: what the columns mean, for a table.
        notes: what was decided, for people.
    """

    rows: Batch
    valid: Batch | None
    test: Batch | None
    targets: Targets
    schema: Schema | None = None
    notes: tuple[str, ...] = ()

    @staticmethod
    def of(batches: Mapping[str, Batch], targets: Targets) -> Divided:
        """Rows by the ending of their names: none, `_valid` and `_test`."""
        return Divided(batches[""], batches.get("_valid"), batches.get("_test"), targets)


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How data are read for a trained model.

    Arguments:
        n_out: outputs of the model.
        n_in: features of a row, where the model takes vectors; images are made square and flattened to fit.
        target: the target column of a table.
        features: columns to use; all others unless given.
        ignore: columns not to use.
        categorical: columns whose values are names.
        classes: names of the classes in the order of the outputs.
        kind: `regression` or `classification`; found out unless given.
        standardise: scale the columns of a table by the rows to refine on; else numbers stay as they are, for a
            trained model knows the scale it was trained with.
        schema: what the columns mean, of a model that was trained here.
        image_size: side of the images in pixels.
        skip_bad: leave damaged images out.
        test_share: share of the rows for testing, where the data have no such part.
        seed: of that division.
    """

    n_out: int
    n_in: int | None = None
    target: str | None = None
    features: Sequence[str] | None = None
    ignore: Sequence[str] = ()
    categorical: Sequence[str] = ()
    classes: Sequence[str] | None = None
    kind: str | None = None
    standardise: bool = False
    schema: Schema | None = None
    image_size: int | None = None
    skip_bad: bool = False
    test_share: float = 0.25
    seed: int = 0


def open_rows(data: Path, reading: Reading, *, test: Path | None = None) -> Divided:
    """Read a table, an `.npz` file or a folder of images as one single data set.

    An `.npz` file holds `x` and `y`, and if it likes `x_test`, `y_test`, `x_valid`, `y_valid`; a folder holds a folder
    of images for each class, or such folders below `train`, `test` and `valid`. What has no part for testing gives a
    random share of its rows.

    Arguments:
        data: the file or folder.
        reading: how it is read.
        test: rows to test with, in the same form.

    Returns:
        The rows.

    Raises:
        DataError: the data cannot be used.
        UsageError: an option is needed, or has no meaning here.
    """
    kind = recognise(data)
    readers: dict[str, Callable[[Path, Path | None, Reading], Divided]]
    readers = {"table": _tables, "arrays": _arrays, "images": _images}
    if kind not in readers:
        raise DataError(
            f"{data} is a {kind}: give one table, an npz file or a folder of images", file=str(data)
        )
    if not 0 <= reading.test_share < 1:
        raise UsageError(f"--test-share {reading.test_share}: give a share from 0 to below 1")
    if kind != "table" and (reading.features or reading.ignore or reading.categorical or reading.target):
        raise UsageError(
            f"--target, --features, --ignore and --categorical are for tables, and {data} is none"
        )
    divided = readers[kind](data, test, reading)
    if divided.test is None and reading.test_share:
        rows, away = split_off(divided.rows, reading.test_share, stream(reading.seed, _TEST))
        note = f"{len(away.y)} of {len(divided.rows.y)} rows were set aside for testing"
        divided = replace(divided, rows=rows, test=away, notes=(*divided.notes, note))
    return divided


def _tables(data: Path, test: Path | None, reading: Reading) -> Divided:
    """A table, and if there is one a table to test with."""
    schema = reading.schema
    if schema is None and reading.target is None:
        raise UsageError("a table needs --target COLUMN, the column to predict")
    frames = {
        part: read_table(path, reading=_cells(reading))
        for part, path in (("", data), ("_test", test))
        if path
    }
    notes = [note for frame in frames.values() for note in frame.attrs.get("notes", ())]
    if schema is None:
        schema = _schema(frames[""], reading)
    batches: dict[str, Batch] = {}
    for part, frame in frames.items():
        labelled = schema.labelled(frame)
        if not labelled.any():
            raise DataError(f"{test if part else data} has no row with a target {schema.target!r}")
        if not labelled.all():
            notes.append(f"{int((~labelled).sum())} rows without a target were left out")
        used = frame[labelled]
        x, y = schema.encode(used), schema.encode_target(used)
        batches[part] = Batch(torch.from_numpy(x), torch.from_numpy(y))
    return replace(Divided.of(batches, schema.targets), schema=schema, notes=tuple(notes))


def _cells(reading: Reading) -> deciding.Reading:
    """How the cells of a table are read."""
    if reading.schema is not None:
        return reading.schema.reading
    kind = reading.kind or ("classification" if reading.n_out > 1 else None)
    return deciding.Reading.of({"target": reading.target, "kind": kind, "categorical": reading.categorical})


def _schema(frame: pd.DataFrame, reading: Reading) -> Schema:
    """What the columns mean; numbers keep their scale unless they are to be standardised."""
    target = str(reading.target)
    kind = reading.kind or ("classification" if reading.n_out > 1 else target_kind(frame, target))
    classes = reading.classes
    if kind == "classification" and classes is None and target in frame:
        classes = _order(frame[target].dropna().to_numpy(), reading.n_out)
    schema = Schema.fit(
        frame,
        task=None,
        target=target,
        features=reading.features,
        ignore=reading.ignore,
        categorical=reading.categorical,
        kind=kind,
        classes=classes,
    )
    if reading.standardise:
        return schema
    columns = tuple(
        replace(column, mean=0.0, scale=1.0) if column.kind == "number" and not column.missing else column
        for column in schema.columns
    )
    return replace(schema, columns=columns, target_mean=0.0, target_scale=1.0)


def _order(labels: np.ndarray, n_out: int) -> list[str]:
    """Names of the classes in the order of the outputs: 0, 1, ... as they stand, else numbers or names in order.

    Raises:
        DataError: there are not as many names as outputs.
    """
    names = list(sorted_labels(pd.Series([_spelled(label) for label in labels.tolist()], dtype=str)))
    numbers = [str(number) for number in range(n_out)]
    if set(names) <= set(numbers):
        return numbers
    if len(names) != n_out:
        raise DataError(
            f"the rows have {len(names)} classes ({listed(names)}) and the model {n_out} outputs: name all classes "
            "in the order of the outputs (--classes)"
        )
    return names


def _arrays(data: Path, test: Path | None, reading: Reading) -> Divided:
    """The arrays of an `.npz` file."""
    arrays = read_npz(data)
    if test is not None:
        more = read_npz(test)
        arrays |= {f"{name}_test": more[name] for name in ("x", "y", "label") if name in more}
    arrays = {name.replace("label", "y"): value for name, value in arrays.items()}
    odd = sorted(set(arrays) - {"x", "y", "x_test", "y_test", "x_valid", "y_valid"})
    if odd or not {"x", "y"} <= set(arrays):
        raise DataError(
            f"arrays are called x and y, and if there are such parts x_test, y_test, x_valid and y_valid; found "
            f"{listed(sorted(arrays))}: rename them",
            file=str(data),
        )
    parts = {
        part: (arrays[f"x{part}"], arrays[f"y{part}"])
        for part in ("", "_valid", "_test")
        if f"x{part}" in arrays and f"y{part}" in arrays
    }
    y = parts[""][1]
    kind = reading.kind or ("regression" if y.dtype.kind == "f" and reading.n_out == 1 else "classification")
    if kind == "regression":
        batches = {
            part: Batch(feature_tensor(x), torch.as_tensor(y).float()) for part, (x, y) in parts.items()
        }
        targets = Targets("regression", reading.n_out, (1.0,) * reading.n_out, (1.0,) * reading.n_out)
        return Divided.of(batches, targets)
    shaped = {part: (_shaped(feature_tensor(x), reading, str(data)), y) for part, (x, y) in parts.items()}
    return _labelled(shaped, reading)


def _images(data: Path, test: Path | None, reading: Reading) -> Divided:
    """A folder of images, a folder a class, or such folders for each part."""
    inside = {entry.name.lower(): entry for entry in entries(data) if entry.is_dir()}
    folders = {"": data}
    if "train" in inside and set(inside) <= set(_PARTS):
        folders = {_PARTS[name]: path for name, path in inside.items()}
    if test is not None:
        folders["_test"] = test
    size = reading.image_size or _side(reading.n_in)
    parts, notes = {}, []
    for part in sorted(folders):  # "" comes first, and says the size of the others
        images = load_images(folders[part], size=size, skip_bad=reading.skip_bad)
        if images.groups is not None:
            raise DataError(
                f"{folders[part]}: a folder of images for each class is needed, and these are two folders deep",
                file=str(folders[part]),
            )
        size = int(images.x.shape[-1])
        parts[part] = (_shaped(feature_tensor(images.x), reading, str(folders[part])), images.labels)
        notes += [note for note in images.notes if note not in notes]
    divided = _labelled(parts, reading)
    return replace(divided, notes=(*notes, *divided.notes))


def _side(n_in: int | None) -> int | None:
    """Side of the square images whose pixels, grey or RGB, are the features of a model."""
    for channels in (1, 3):
        if n_in is not None and n_in % channels == 0 and math.isqrt(n_in // channels) ** 2 * channels == n_in:
            return math.isqrt(n_in // channels)
    return None


def _shaped(x: Tensor, reading: Reading, where: str) -> Tensor:
    """Rows as the model takes them: flat where it takes vectors."""
    if reading.n_in is None:
        return x
    flat = x.flatten(1)
    if flat.shape[1] != reading.n_in:
        raise DataError(
            f"{where}: a row has {flat.shape[1]} values {tuple(x.shape[1:])}, and the model takes {reading.n_in}: "
            "give rows of that shape (--image-size for images)",
            file=where,
        )
    return flat


def _labelled(parts: Mapping[str, tuple[Tensor, np.ndarray]], reading: Reading) -> Divided:
    """Rows with class numbers."""
    every = np.concatenate([np.asarray(y).astype(object).ravel() for _, y in parts.values()])
    classes = [str(name) for name in reading.classes or _order(every, reading.n_out)]
    if len(classes) != reading.n_out:
        raise UsageError(f"--classes names {len(classes)}, and the model has {reading.n_out} outputs")
    number = {name: position for position, name in enumerate(classes)}
    batches = {}
    for part, (x, y) in parts.items():
        labels = [_spelled(label) for label in np.asarray(y).ravel().tolist()]
        if len(labels) != len(x):
            raise DataError(
                f"x{part} has {len(x)} rows and y{part} {len(labels)}: give one label for each row"
            )
        for row, label in enumerate(labels):
            if label not in number:
                raise DataError(
                    f"row {row} of y{part} is of class {label!r}, which is none of {listed(classes)}"
                )
        batches[part] = Batch(x, torch.tensor([number[label] for label in labels], device="cpu"))
    divided = Divided.of(batches, Targets("classification", reading.n_out))
    return replace(divided, notes=(f"classes: {listed(classes, 20)}",))


def _spelled(label: object) -> str:
    """A label as text; whole numbers without a point."""
    return str(int(label)) if isinstance(label, float) and label.is_integer() else str(label)
