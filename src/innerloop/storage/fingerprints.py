"""What tells two trainings apart: a learner, its tasks, the settings and the machine, as plain data to compare."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import platform
from collections.abc import Iterator, Mapping
from types import FunctionType

import numpy as np
import torch
from torch import Tensor

from ..inner.learner import Learner
from ..tasks.sources import Source
from .plain_json import JsonObject
from .tensors import frozen, outline
from .versions import versions

__all__ = ["MACHINE", "about", "changes", "fingerprint"]

# what a result does not depend on beyond rounding
MACHINE = "machine"
_OF_MACHINE = ("gear", "memory", "device")


def fingerprint(value: object) -> str:
    """The first half of the sha256 of data.

    Arrays, tensors and everything plain count, in dataclasses, tuples, lists, dicts and closures too. Of any other
    object the name of its class counts alone.

    Example:
        >>> import innerloop as il
        >>> one, other = (il.tasks.sinusoid(n_support=n).train for n in (5, 6))
        >>> fingerprint(one) == fingerprint(one), fingerprint(one) == fingerprint(other)
        (True, False)
    """
    digest = hashlib.sha256()
    for part in _parts(value, set()):
        digest.update(part)
    return digest.hexdigest()[:32]


def _parts(value: object, above: set[int]) -> Iterator[bytes | memoryview]:
    """Bytes that differ where values do; `above` are the objects that hold this one."""
    if isinstance(value, Tensor):
        value = value.detach().cpu().contiguous().view(torch.uint8 if value.dim() else value.dtype).numpy()
    yield f"{type(value).__module__}.{type(value).__qualname__} ".encode()
    if isinstance(value, np.ndarray) and not value.dtype.hasobject:
        yield f"{value.dtype} {value.shape} ".encode()
        yield np.ascontiguousarray(value).reshape(-1).view(np.uint8).data
    elif value is None or isinstance(value, str | bytes | int | float | np.generic | torch.dtype):
        yield f"{value!r} ".encode()
    elif id(value) not in above:
        for part in _inside(value):
            yield from _parts(part, above | {id(value)})


def _inside(value: object) -> Iterator[object]:
    """What an object holds, as far as that is looked at."""
    if isinstance(value, np.ndarray):
        yield from value.ravel().tolist()
    elif dataclasses.is_dataclass(value):
        yield from ((field.name, getattr(value, field.name)) for field in dataclasses.fields(value))
    elif isinstance(value, tuple | list):
        yield len(value)
        yield from value
    elif isinstance(value, Mapping):
        yield len(value)
        yield from value.items()
    elif isinstance(value, functools.partial):
        yield from (value.func, value.args, value.keywords)
    elif isinstance(value, FunctionType):
        yield from (value.__module__, value.__qualname__, value.__defaults__, value.__kwdefaults__)
        yield from (cell.cell_contents for cell in value.__closure__ or ())


def about(
    learner: Learner, source: Source, valid: Source | None, settings: Mapping[str, object]
) -> JsonObject:
    """What a training is, as plain data.

    Arguments:
        learner: the algorithm.
        source: meta-train tasks.
        valid: meta-validation tasks.
        settings: of the training, by name.
    """
    shapes = {name: f"{kind} {list(shape)}" for name, (shape, kind) in outline(learner.init()).items()}
    own = versions()
    machine = {name: settings[name] for name in _OF_MACHINE if name in settings}
    return {
        "learner": learner.recipe or "assembled by hand",
        "meta_parameters": shapes,
        "frozen": frozen(learner),
        "train_tasks": fingerprint(source),
        "valid_tasks": fingerprint(valid),
        "training": {name: value for name, value in settings.items() if name not in machine},
        "innerloop": own.pop("innerloop"),
        MACHINE: {
            **own,
            **machine,
            "threads": torch.get_num_threads(),
            "processor": f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}",
        },
    }


def changes(now: JsonObject, before: JsonObject) -> dict[str, str]:
    """What differs between two trainings, by dotted name, in words.

    Example:
        >>> changes({"training": {"steps": 3, "seed": 0}}, {"training": {"steps": 2, "seed": 0}})
        {'training.steps': 'training.steps is 3, and was 2'}
    """
    one, other = (dict(_flat(value)) for value in (now, before))
    missing = "nothing"
    return {
        name: f"{name} is {_short(one.get(name, missing))}, and was {_short(other.get(name, missing))}"
        for name in {**one, **other}
        if one.get(name, missing) != other.get(name, missing)
    }


def _flat(value: object, name: str = "") -> Iterator[tuple[str, object]]:
    if isinstance(value, Mapping) and value:
        for key, part in value.items():
            yield from _flat(part, f"{name}.{key}" if name else str(key))
    elif isinstance(value, list | tuple):
        yield name, list(value)
    else:
        yield name, value


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
