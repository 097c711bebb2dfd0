"""Arrays from memory or an `.npz` file as numpy arrays and tensors; what is no array of numbers is refused."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from ..errors import DataError
from .messages import file_error, first_line
from .tables.delimited import read_existing

__all__ = ["as_array", "as_tensor", "feature_tensor", "read_npz"]

# deflate packs nothing but zeros to a thousandth; data shrinks to a fiftieth at most
_MOST_TIMES, _SMALL = 200, 2**26


def as_array(values: ArrayLike | Tensor, name: str) -> np.ndarray:
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
        array = np.asarray(values)
    except (TypeError, ValueError) as error:
        raise DataError(f"{name} is not an array ({error}): rows must have equal shapes") from None
    if array.ndim == 0:
        raise DataError(f"{name} is a single {type(values).__name__}: give an array with one row for each")
    return array


def as_tensor(values: ArrayLike | Tensor, name: str) -> Tensor:
    """Numbers as a tensor of their own type.

    Raises:
        DataError: they are no numbers.
    """
    if isinstance(values, Tensor) and values.layout == torch.strided:
        return values.detach().cpu()
    array = values if isinstance(values, np.ndarray) else as_array(values, name)
    if array.dtype.kind not in "biuf":
        raise DataError(f"{name} holds {array.dtype} values: give numbers")
    # a copy where needed: torch reads neither foreign byte order nor read-only memory
    return torch.from_numpy(np.require(array, array.dtype.newbyteorder("="), ["C", "W"]))


def feature_tensor(x: ArrayLike | Tensor, *, keep_bytes: bool = False) -> Tensor:
    """Numbers as a floating tensor `(N, *feature)`; bytes become 0 to 1.

    Raises:
        DataError: they are no finite numbers.
    """
    values = as_tensor(x, "x")
    if values.dim() < 2:
        raise DataError(f"x has shape {tuple(values.shape)}, expected (rows, *feature): use x[:, None]")
    if values.dtype == torch.uint8:
        return values if keep_bytes else values.float() / 255
    features = values.float()
    bad = torch.nonzero(~torch.isfinite(features.flatten(1)).all(1))
    if len(bad):
        raise DataError(f"row {int(bad[0])} of x holds a value that is not finite: correct or remove the row")
    return features


def read_npz(path: Path) -> dict[str, np.ndarray]:
    """The arrays of an `.npz` file; arrays of Python objects are refused, as reading them could run code.

    Raises:
        DataError: the file is damaged or holds objects.
    """
    data = read_existing(path)
    try:
        _refuse_bomb(path, data)
        with np.load(io.BytesIO(data), allow_pickle=False) as archive:
            return {name: np.asarray(archive[name]) for name in archive.files}
    except ValueError as error:
        if isinstance(error, DataError):
            raise
        if "allow_pickle" not in str(error):
            raise file_error(path, f" cannot be read ({error}): write it again") from None
        raise file_error(
            path, " holds an array of objects: save numbers or text (array.astype(str)) with numpy.savez"
        ) from None
    except Exception as error:  # a damaged archive makes zip and numpy fail in any way
        raise file_error(path, f" cannot be read as npz ({first_line(error)}): write it again") from None


def _refuse_bomb(path: Path, data: bytes) -> None:
    """Refuse an archive of which a few bytes would fill the memory."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        size = sum(entry.file_size for entry in archive.infolist())
    if size > _SMALL + _MOST_TIMES * len(data):
        raise file_error(
            path,
            f" has {len(data):,} bytes and unpacks to {size:,}, which is more than data does: write it again "
            "with numpy.savez, which does not compress",
        )
