"""JSON that is plain data: written without NaN, read from anyone."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import ModelFileError, UsageError

__all__ = ["DAMAGED", "JsonObject", "parse_json", "to_json", "without_nan"]

JsonObject = dict[str, Any]

DAMAGED = "it was damaged or changed: copy the folder again from where it was made, or train again"

_DEPTH_LIMIT = 16


def parse_json(data: bytes, where: str, *, depth: int = _DEPTH_LIMIT) -> Any:
    """Parse JSON that may come from anyone: no key twice, no NaN or infinity, no deep nesting.

    Arguments:
        data: the bytes.
        where: the file, and the line where there are several, for the message.
        depth: levels that it may have.

    Returns:
        The value.

    Raises:
        ModelFileError: it is not such JSON.

    Example:
        >>> parse_json(b'{"a": 1, "a": 2}', "config.json")
        Traceback (most recent call last):
        innerloop.errors.ModelFileError: config.json: the key 'a' stands twice; it was damaged ...
    """
    try:
        text = data.decode("utf-8")
        value = json.loads(text, object_pairs_hook=_unique, parse_constant=_finite, parse_float=_finite)
        if _depth(value) > depth:
            raise RecursionError
    except RecursionError:
        raise ModelFileError(f"{where}: nested deeper than {depth} levels; {DAMAGED}") from None
    except ValueError as error:
        raise ModelFileError(f"{where}: {error}; {DAMAGED}") from None
    return value


def _depth(value: object) -> int:
    if not isinstance(value, dict | list):
        return 0
    return 1 + max(map(_depth, value.values() if isinstance(value, dict) else value), default=0)


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    members: dict[str, object] = {}
    for key, value in pairs:
        if key in members:
            raise ValueError(f"the key {key[:100]!r} stands twice")
        members[key] = value
    return members


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"the number {text[:20]} is not finite")
    return value


def to_json(value: object, *, indent: int | None = None) -> bytes:
    r"""JSON with a line end; numbers of numpy and paths are plain data too.

    Raises:
        UsageError: it holds anything else, or NaN or infinity.

    Example:
        >>> to_json({"lr": np.float64(0.1)})
        b'{"lr": 0.1}\n'
    """
    try:
        return (json.dumps(value, allow_nan=False, default=_plain, indent=indent) + "\n").encode()
    except (TypeError, ValueError) as error:
        raise UsageError(
            f"this cannot be stored ({error}): give text, finite numbers and lists of them"
        ) from None


def _plain(value: object) -> object:
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{str(value)[:100]} is no plain data")


def without_nan(value: Any) -> Any:
    """The same with `None` in place of numbers that are not finite.

    Example:
        >>> without_nan({"loss": [0.5, float("nan")]})
        {'loss': [0.5, None]}
    """
    if isinstance(value, dict):
        return {key: without_nan(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(entry) for entry in value]
    return None if isinstance(value, float | np.floating) and not math.isfinite(value) else value
