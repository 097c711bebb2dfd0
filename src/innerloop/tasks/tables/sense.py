"""What is asked of a schema that comes from a file: nothing that `Schema.fit` could not have made."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from .columns import Column
from .targets import KINDS

if TYPE_CHECKING:
    from .schema import Schema

__all__ = ["require_sense"]

_COLUMN_KINDS = ("number", "date", "flag", "category", "text")
# features that an encoder may make of a text
_MANY_FEATURES = 1 << 16


def require_sense(schema: Schema) -> None:
    """Refuse a schema that `fit` could not have made, of values of the right types.

    Raises:
        ValueError: it is one.

    Example:
        >>> from innerloop.tasks.tables.schema import Schema
        >>> require_sense(Schema("site", "risk", "regression", (), target_scale=0.0))
        Traceback (most recent call last):
        ValueError: column 'risk' of the schema has the scale 0.0
    """
    if schema.kind not in KINDS:
        raise ValueError(f"the schema is of the unknown kind {schema.kind!r:.80}")
    every = (*schema.columns, *schema.target_columns)
    for column in every:
        _require_column(column)
    _require_unique("a column", [column.name for column in every])
    _require_unique("a class", schema.classes)
    if schema.decimal not in (".", ",") or schema.n_way < 0 or len(schema.classes) == 1:
        raise ValueError("the schema has no such decimal mark or number of classes")
    if schema.partial and not schema.more_targets:
        raise ValueError("the schema has one target, of which rows know all or nothing")


def _require_column(column: Column) -> None:
    if column.kind not in _COLUMN_KINDS:
        raise ValueError(
            f"column {column.name!r:.80} of the schema is of the unknown kind {column.kind!r:.80}"
        )
    if not column.scale > 0:
        raise ValueError(f"column {column.name!r:.80} of the schema has the scale {column.scale}")
    encoded = column.kind == "text"
    if encoded != bool(column.encoder) or not encoded <= column.features <= encoded * _MANY_FEATURES:
        raise ValueError(
            f"column {column.name!r:.80} of the schema has no such encoder or number of features"
        )
    _require_unique("a level", column.levels)


def _require_unique(what: str, names: Sequence[str]) -> None:
    if len(set(names)) < len(names):
        raise ValueError(f"the schema has {what} twice")
