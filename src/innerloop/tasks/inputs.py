"""What a row is, of a model that was trained on pictures or arrays: how files and arrays become its features."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from numpy.typing import ArrayLike
from torch import Tensor

from ..errors import DataError, ModelFileError, UsageError
from .array_values import as_tensor, feature_tensor

__all__ = ["InputSchema"]

SOURCES = ("images", "arrays")
_BYTES = 255
_MODES = {1: "L", 3: "RGB"}


@dataclass(frozen=True)
class InputSchema:
    """What a row is, of a model that was trained on pictures or arrays.

    Arguments:
        source: `images` or `arrays`.
        shape: of a row; of pictures `(channels, side, side)`, one channel for grey and three for RGB.
        scale: what values are divided by: 255 where they are bytes, else 1.
        encoder: of pictures, or of any files, that became features `(F,)`; empty where there is none.
        weights: by which the weights of the encoder are recognised.

    Raises:
        UsageError: pictures have another shape.

    Example:
        >>> InputSchema("images", (3, 84, 84), 255).mode
        'RGB'
    """

    source: str
    shape: tuple[int, ...]
    scale: int = 1
    encoder: str = ""
    weights: str = ""

    def __post_init__(self) -> None:
        """Refuse what has no meaning."""
        known = self.source in SOURCES and self.scale in (1, _BYTES)
        square = len(self.shape) == 3 and self.shape[1] == self.shape[2] and self.shape[0] in _MODES
        if (
            not known
            or not self.shape
            or min(self.shape) < 1
            or (self.source == "images" and not square and not self.encoder)
        ):
            raise UsageError(f"rows of {self.source!r} have no shape {self.shape} and scale {self.scale}")

    @property
    def mode(self) -> str:
        """Colours of pictures: `L` for grey, `RGB`."""
        return _MODES[self.shape[0]]

    def array(self, x: ArrayLike | Tensor) -> Tensor:
        """Rows of an array in the shape and type of training, `(N, *shape)`, bytes as they are.

        Raises:
            DataError: they have another shape or type.
        """
        values = as_tensor(x, "x")
        if tuple(values.shape[1:]) != self.shape:
            raise DataError(
                f"rows of x have shape {tuple(values.shape[1:])}, and those of training had {self.shape}"
            )
        if (values.dtype == torch.uint8) != (self.scale == _BYTES):
            trained = "bytes (uint8, 0 to 255)" if self.scale == _BYTES else "floating numbers"
            raise DataError(f"x holds {str(values.dtype).removeprefix('torch.')}, and training had {trained}")
        return feature_tensor(values, keep_bytes=True)

    def to_config(self) -> dict[str, Any]:
        """Plain data that JSON holds exactly."""
        return asdict(self)

    @staticmethod
    def from_config(config: dict[str, Any]) -> InputSchema:
        """The schema again.

        Raises:
            ModelFileError: the data is none.
        """
        try:
            whole = all(type(size) is int for size in (*config["shape"], config["scale"]))
            if not whole:
                raise TypeError("its sizes are no whole numbers")
            return InputSchema(**{**config, "shape": tuple(config["shape"])})
        except (KeyError, TypeError, UsageError) as error:
            raise ModelFileError(f"the stored input schema is damaged: {error}") from None
