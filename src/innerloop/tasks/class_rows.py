"""Rows with the name of their class where it is known: pictures in folders, loose files, arrays, tables of classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from ..encoders import encoder, require_features
from ..errors import Collector, DataError, Guard, UsageError
from ..files import explained
from .array_values import as_array, read_npz
from .encoded import encode_files
from .images import SUFFIXES, Images, find_images, read_images
from .inputs import InputSchema
from .messages import listed
from .tables.cells import factorize
from .tables.reading import TableLike, as_frame
from .tables.schema import Schema

__all__ = ["ClassRows", "class_rows", "rows_of_frame"]

# folders above a picture that name its class
_DEPTH = 4

Data = str | Path | Sequence[str | Path] | Mapping[str, ArrayLike] | TableLike


class ClassRows(NamedTuple):
    """Rows, and the class of each where it is known.

    Arguments:
        x: features `(n, *feature)`, bytes or floating numbers.
        labels: `(n,)` name of the class, or `None`.
        names: what each row is called: its file below the folder, or its number.
        notes: what was left out or changed, one sentence each.
        skipped: rows that were left out because they cannot be used.
    """

    x: Tensor
    labels: np.ndarray
    names: tuple[str, ...]
    notes: tuple[str, ...] = ()
    skipped: int = 0

    @property
    def labelled(self) -> np.ndarray:
        """Rows whose class is known, `(n,)` bool."""
        return np.array([label is not None for label in self.labels], dtype=bool)

    def some(self, chosen: np.ndarray) -> ClassRows:
        """These rows alone, `chosen` `(n,)` bool."""
        places = np.flatnonzero(chosen)
        names = tuple(self.names[place] for place in places)
        return self._replace(x=self.x[torch.from_numpy(places)], labels=self.labels[places], names=names)


def class_rows(data: Data, schema: InputSchema | Schema, *, skip_bad: bool = False) -> ClassRows:
    """Rows for a model of classes, read as in training.

    Arguments:
        data: of pictures a folder, a file or several: what is in a folder within the folder is of the class of that
            name, what lies loose is of none. Of arrays an `.npz` file or a dict with `x`, and `label` where the
            class is known (empty text for a row without). Of tables a file or frame.
        schema: of the model.
        skip_bad: leave files out that cannot be used, and count them.

    Raises:
        DataError: there is no row, or one cannot be used.
        UsageError: this is no data of the kind that the model was trained on.
    """
    if isinstance(schema, Schema):
        if isinstance(data, str | Path):
            data = as_frame(Path(data), reading=schema.reading)
        return rows_of_frame(data, schema)  # type: ignore[arg-type]  # as_frame says what is no frame
    if isinstance(data, Mapping):
        return _of_arrays(data, schema)
    if not isinstance(data, str | Path | Sequence):
        raise UsageError(f"this model was trained on {schema.source}, and a {type(data).__name__} holds none")
    paths = [Path(data)] if isinstance(data, str | Path) else [Path(each) for each in data]
    if len(paths) == 1 and paths[0].suffix.lower() == ".npz":
        return _of_arrays(read_npz(paths[0]), schema)
    if schema.source == "arrays":
        raise UsageError(
            f"{paths[0]}: this model was trained on arrays, and what became of pictures before is not known: give an "
            ".npz file with x, and label where it is known, or train on a folder of pictures"
        )
    return _of_files(paths, schema, skip_bad=skip_bad)


def rows_of_frame(frame: TableLike, schema: Schema) -> ClassRows:
    """Rows of a table of classes; those without a target are of no class.

    Raises:
        DataError: a column is missing, or a value is not what its column holds.
    """
    table = as_frame(frame, reading=schema.reading)
    labels = np.full(len(table), None, dtype=object)
    known = schema.labelled(table)
    if known.any():
        codes, values = factorize(table[schema.target][known])
        labels[known] = np.array([str(value) for value in values], dtype=object)[codes]
    names = tuple(str(number) for number in range(1, len(table) + 1))
    return ClassRows(torch.from_numpy(schema.encode(table)), labels, names)


def _of_arrays(arrays: Mapping[str, ArrayLike], schema: InputSchema) -> ClassRows:
    if not {"x"} <= set(arrays) <= {"x", "label", "group"}:
        raise DataError(
            f"arrays are called x, and label where the class is known; found {listed(sorted(map(str, arrays)))}"
        )
    x = schema.array(arrays["x"])
    labels = np.full(len(x), None, dtype=object)
    for name in ("group", "label"):
        if name not in arrays:
            continue
        given = as_array(arrays[name], name)
        if given.shape != (len(x),):
            raise DataError(f"{name} has shape {given.shape}, expected ({len(x)},): one for each row of x")
        texts = [None if pd.isna(value) or str(value) == "" else str(value) for value in given.tolist()]
        # a class of arrays with groups is a label within its group, as in training
        labels = np.array(
            [text if label is None or text is None else f"{label}/{text}"
             for label, text in zip(labels, texts, strict=True)],
            dtype=object,
        )  # fmt: skip
    if not len(x):
        raise DataError("x has no row")
    return ClassRows(x, labels, tuple(str(number) for number in range(1, len(x) + 1)))


def _of_files(paths: Sequence[Path], schema: InputSchema, *, skip_bad: bool) -> ClassRows:
    """Pictures below folders, and files that are named one by one."""
    files: list[Path] = []
    names: list[str] = []
    labels: list[str | None] = []
    others = 0
    for path in paths:
        with explained(path, DataError):
            folder = path.is_dir()
        if not folder:
            files, names, labels = [*files, path], [*names, str(path)], [*labels, None]
            continue
        found = find_images(
            path, _DEPTH, every=schema.encoder != "" and encoder(schema.encoder).takes == "any"
        )
        files += found.files
        names += [str(file.relative_to(path)) for file in found.files]
        labels += ["/".join(folders) or None for folders in found.folders]
        others += found.others
    if not files:
        where = listed([str(path) for path in paths], 3)
        what = f"no picture among its {others} files" if others else "no file"
        raise DataError(f"{where} holds {what}: give {', '.join(SUFFIXES)} files, in a folder for each class")
    collected = Collector()
    guard = collected if skip_bad else nullcontext
    pictures = _read(files, schema, guard=guard)
    bad = sorted({error.place.get("file", str(error)) for error in collected.found})
    notes = [*pictures.notes]
    if bad:
        notes.append(f"{len(bad)} pictures that cannot be used were left out: {listed(bad, 3)}")
    if others:
        notes.append(f"{others} files are no pictures and were left out")
    kept = pictures.positions
    return ClassRows(
        torch.from_numpy(pictures.x),
        np.array([labels[number] for number in kept], dtype=object),
        tuple(names[number] for number in kept),
        tuple(notes),
        len(bad),
    )


def _read(files: Sequence[Path], schema: InputSchema, *, guard: Guard) -> Images:
    """Files as in training: pictures in its size and colours, or the features of its encoder."""
    if not schema.encoder:
        return read_images(files, size=schema.shape[1], mode=schema.mode, guard=guard)
    known = encoder(schema.encoder, weights=schema.weights)
    found = encode_files(files, encoder=known, guard=guard)
    require_features(known, found.x, schema.shape[0])
    return found
