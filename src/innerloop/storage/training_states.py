"""The state of a training as files: tensors as safetensors, everything else as JSON. Reading them runs no code."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..errors import UsageError
from ..outer.logs import Entry
from ..outer.state import TrainingState
from .manifest import Sealed
from .plain_json import JsonObject, parse_json, to_json, without_nan
from .plain_types import require
from .validation import blaming

__all__ = ["STATE_FILES", "log_lines", "packed", "unpacked"]

STATE_FILES = frozenset({"about.json", "log.jsonl", "state.json", "state.safetensors"})
# an optimizer may hold others, and each level of it is three of JSON
_DEPTH = 96


def log_lines(entries: Sequence[Entry]) -> list[bytes]:
    """Entries of a log, each as a line of JSON; what is not finite is null."""
    return [to_json(without_nan(dict(entry))) for entry in entries]


def packed(state: TrainingState, about: JsonObject, log: Sequence[bytes]) -> dict[str, bytes]:
    """The files of a checkpoint.

    Arguments:
        state: of the training.
        about: what the training is, to be compared when it goes on.
        log: its log, see `log_lines`.

    Raises:
        UsageError: an optimizer of the user's own holds what is no plain data.
    """
    import safetensors.torch

    tensors: list[Tensor] = []
    tree = _encoded({**state.state_dict(), "log": None}, tensors, {})
    named = {str(number): value for number, value in enumerate(tensors)}
    return {
        "about.json": to_json(about),
        "log.jsonl": b"".join(log),
        "state.json": to_json(tree),
        "state.safetensors": safetensors.torch.save(named),
    }


def _encoded(value: object, tensors: list[Tensor], known: dict[int, JsonObject]) -> object:
    """A pytree as JSON; a tensor stands there by its number. Dicts are lists of pairs, which keep their order."""
    if isinstance(value, Tensor):
        if id(value) not in known:
            known[id(value)] = {"tensor": len(tensors), "complex": value.is_complex()}
            whole = torch.view_as_real(value) if value.is_complex() else value
            tensors.append(whole.detach().cpu().clone().contiguous())
        return known[id(value)]
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return {"dict": [[key, _encoded(part, tensors, known)] for key, part in value.items()]}
    if type(value) in (list, tuple):
        parts = [_encoded(part, tensors, known) for part in value]  # type: ignore[attr-defined]
        return {type(value).__name__: parts}
    if isinstance(value, float) and not math.isfinite(value):
        return {"number": str(value)}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise UsageError(
        f"the optimizer holds a {type(value).__name__}, which cannot be stored: give one that holds tensors, numbers, "
        "text and dicts, lists and tuples of them"
    )


def unpacked(sealed: Sealed) -> tuple[TrainingState, JsonObject]:
    """The state of a checkpoint, and what the training is.

    Raises:
        ModelFileError: it is none.
    """
    import safetensors.torch

    where, contents = sealed.folder, sealed.contents
    with blaming(sealed, "manifest.json"):
        require(set(contents) == STATE_FILES, f"it names {sorted(contents)}, not {sorted(STATE_FILES)}")
    about = parse_json(contents["about.json"], str(where / "about.json"))
    tree = parse_json(contents["state.json"], str(where / "state.json"), depth=_DEPTH)
    with blaming(sealed, "state.safetensors"):
        tensors = safetensors.torch.load(contents["state.safetensors"])
    with blaming(sealed, "state.json"):
        require(isinstance(about, dict), "about.json is no object")
        return TrainingState.from_state_dict(
            _decoded(tree, tensors) | {"log": _log(contents["log.jsonl"])}
        ), about


def _log(data: bytes) -> list[Entry]:
    entries = [json.loads(line) for line in data.splitlines()]
    return [{key: math.nan if value is None else value for key, value in entry.items()} for entry in entries]


def _decoded(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    """The way back from `_encoded`; whatever else stands there makes an exception."""
    if not isinstance(value, dict):
        require(not isinstance(value, list), "a list stands where none can")
        return value
    if set(value) == {"tensor", "complex"}:
        found = tensors[str(value["tensor"])]
        return torch.view_as_complex(found) if value["complex"] else found
    ((kind, inside),) = value.items()
    if kind == "dict":
        return {key: _decoded(part, tensors) for key, part in inside}
    if kind in ("list", "tuple"):
        parts = [_decoded(part, tensors) for part in inside]
        return parts if kind == "list" else tuple(parts)
    require(kind == "number", f"{kind!r} is no kind of value")
    return float(inside)
