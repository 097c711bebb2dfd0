"""Whether plain data, which may come from anyone, has declared types; `ValueError` says where it has not."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["fits", "require", "require_fields"]

_WHOLE = 1 << 53  # beyond it, integers are not exact as floats


def require(condition: bool, what: str) -> None:
    """Raise `ValueError` with the words `what` unless the condition holds."""
    if not condition:
        raise ValueError(what)


def require_fields(value: object, hints: Mapping[str, object], what: str) -> None:
    """Refuse what is no dict with exactly these fields, of these types.

    Example:
        >>> require_fields({"seed": "0"}, {"seed": int}, "a run")
        Traceback (most recent call last):
        ValueError: a run: seed='0' is no int
    """
    if not isinstance(value, dict) or set(value) != set(hints):
        odd = sorted(set(value) ^ set(hints)) if isinstance(value, dict) else type(value).__name__
        raise ValueError(f"{what} lacks these fields or does not know them: {odd}")
    for key, hint in hints.items():
        spelled = hint.__name__ if isinstance(hint, type) else str(hint).split(" | collections")[0]
        require(fits(value[key], hint), f"{what}: {key}={value[key]!r:.40} is no {spelled}")


def fits(value: Any, hint: Any) -> bool:
    """Whether plain data has a declared type.

    Example:
        >>> fits([1, 2.5], list[float]), fits([True], list[float])
        (True, False)
    """
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return True
    if typing.is_typeddict(hint):
        return isinstance(value, dict)  # its fields are checked one by one
    if origin in (types.UnionType, typing.Union):
        return any(fits(value, choice) for choice in inner)
    if origin is dict:
        return isinstance(value, dict) and all(fits(entry, inner[1]) for entry in value.values())
    if isinstance(origin, type) and issubclass(origin, Sequence):
        return isinstance(value, list | tuple) and all(fits(entry, inner[0]) for entry in value)
    if isinstance(hint, type) and (dataclasses.is_dataclass(hint) or hasattr(hint, "_fields")):
        hints = typing.get_type_hints(hint)
        return isinstance(value, hint) and all(fits(getattr(value, name), hints[name]) for name in hints)
    if hint in (int, float) and type(value) is int:
        return abs(value) <= _WHOLE
    return hint in (int, float, bool, str, type(None)) and type(value) is hint
