"""What a model directory is made of, as far as those need to know who only describe it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from ..evaluation.conformal import Calibration
    from ..inner.model import Adapted, Model
    from ..tasks.inputs import InputSchema
    from ..tasks.tables.schema import Schema
    from .enrolled import Enrolled
    from .plain_json import JsonObject
    from .validation import Config

__all__ = ["Contents"]


class Contents(Protocol):
    """The fields of `Stored`, to read."""

    @property
    def model(self) -> Model:
        """The learner with its meta-parameters."""

    @property
    def config(self) -> Config:
        """Everything in `config.json`."""

    @property
    def log(self) -> list[JsonObject]:
        """One dict a logged step."""

    @property
    def schema(self) -> Schema | None:
        """What the columns of the table mean."""

    @property
    def tasks(self) -> dict[str, Adapted]:
        """What each known task predicts with."""

    @property
    def extra(self) -> Mapping[str, bytes]:
        """Files for people, by name."""

    @property
    def calibration(self) -> Calibration | None:
        """What conformal intervals need."""

    @property
    def inputs(self) -> InputSchema | None:
        """What a row is, of pictures and arrays."""

    @property
    def enrolled(self) -> Enrolled | None:
        """The classes it is adapted to by their names."""
