"""The model directory: weights as safetensors, everything else as JSON, and a manifest over both.

Writing is here, reading in `stored`. Nothing is written that could not be read again.
"""

from __future__ import annotations

import json
import math
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..algorithms import ALGORITHMS
from ..errors import DivergedError, ModelFileError, UsageError
from ..inner.learner import Adapted, Model
from ..models.network import Params
from ..tasks.sources import SupportSize, Targets
from .load import MASK, TASKS, Stored, describe, differences, frozen, load, outline, precision
from .manifest import EXTRA_FILES, SCHEMA_VERSION, parse_json, write_sealed
from .validation import require_config

if TYPE_CHECKING:
    from ..tasks.tables.schema import Schema

__all__ = ["Stored", "describe", "load", "save", "save_adapted", "versions"]


def save(
    directory: str | Path,
    model: Model,
    *,
    kind: str = "run",
    schema: Schema | None = None,
    splits: Mapping[str, Sequence[str]] | None = None,
    support: SupportSize | None = None,
    targets: Targets | None = None,
    settings: Mapping[str, Any] | None = None,
    data: Mapping[str, Any] | None = None,
    scores: Sequence[Mapping[str, Any]] | None = None,
    best_step: int | None = None,
    parent: Stored | None = None,
    mask: Params | None = None,
    log: Sequence[Mapping[str, Any]] = (),
    extra: Mapping[str, bytes] | None = None,
    replace: bool = False,
) -> Path:
    """Write a model directory; a crash leaves the old one or the new one.

    Arguments:
        directory: where; it must be missing or empty, or a model directory if `replace` is given.
        model: what to store.
        kind: `run` or `refined`.
        schema: what the columns mean.
        splits: ids of the tasks of each split.
        support: how many rows formed a support set.
        targets: what the targets are.
        settings: resolved settings of the command.
        data: where the data came from: `name` and `sha256`.
        scores: rows of `Evaluation.scores`.
        best_step: the step the parameters come from.
        parent: the model that this one was refined from.
        mask: true where refinement changed a parameter, by name.
        log: one dict a logged step; numbers that are not finite are stored as null.
        extra: files for people, by name: `report.html`, `scores.csv`.
        replace: replace a model directory that is there.

    Returns:
        The directory.

    Raises:
        UsageError: the model cannot be built again from names, a setting is no plain data, or the directory
            holds something else.
        DivergedError: a parameter is not finite.
        ResourceError: the directory cannot be written.

    Example:
        >>> import tempfile
        >>> from innerloop.algorithms import mixed
        >>> learner = mixed(2)
        >>> path = save(Path(tempfile.mkdtemp()) / "first", Model(learner, learner.init()))
        >>> sorted(file.name for file in path.iterdir())
        ['config.json', 'log.jsonl', 'manifest.json', 'model.safetensors']
        >>> load(path).model.adapt(torch.zeros(3, 2), torch.ones(3, 1))(torch.zeros(1, 2)).shape
        torch.Size([1, 1])
    """
    if not isinstance(model, Model):
        raise UsageError(
            f"save(directory, model) takes a Model, not {type(model).__name__}: of a run, give run.model"
        )
    if kind not in ("run", "refined"):
        raise UsageError(f"kind={kind!r} is unknown: choose run or refined; for adapted, use save_adapted")
    if odd := sorted({*(extra or {})} - EXTRA_FILES):
        raise UsageError(f"extra={odd}: choose among {', '.join(sorted(EXTRA_FILES))}")
    expected = outline(model.learner.init(), precision(model.meta))
    if found := differences(outline(model.meta), expected):
        raise UsageError(f"the meta-parameters are not those of the learner: {found}")
    if model.learner.recipe is None:
        raise UsageError(
            f"a learner assembled by hand cannot be stored by name: make it with {', '.join(ALGORITHMS)}"
        )
    config = {
        "schema_version": SCHEMA_VERSION,
        "kind": kind,
        "learner": model.learner.recipe,
        "frozen": frozen(model.learner),
        "schema": None if schema is None else schema.to_config(),
        "splits": splits and {name: list(ids) for name, ids in splits.items()},
        "support": None if support is None else _support(support),
        "targets": None if targets is None else targets._asdict(),
        "settings": dict(settings or {}),
        "data": None if data is None else dict(data),
        "scores": None if scores is None else _without_nan([dict(row) for row in scores]),
        "best_step": best_step,
        "parent": None if parent is None else parent.sha256,
        "tasks": None,
        "versions": versions(),
    }
    masks = {f"{MASK}{name}": value for name, value in (mask or {}).items()}
    return _write(directory, config, {**model.meta, **masks}, log, extra or {}, replace=replace)


def save_adapted(
    directory: str | Path,
    parent: Stored,
    adapted: Mapping[str, Adapted],
    *,
    n_support: Mapping[str, int] | None = None,
    settings: Mapping[str, Any] | None = None,
    data: Mapping[str, Any] | None = None,
    replace: bool = False,
) -> Path:
    """Write a directory of adapted tasks; it holds the meta-parameters too and can be used alone.

    Arguments:
        directory: as for `save`.
        parent: the model that the tasks were adapted from.
        adapted: what each task predicts with, by its id.
        n_support: support rows of each task.
        settings: resolved settings of the command.
        data: where the support rows came from.
        replace: as for `save`.

    Returns:
        The directory.

    Raises:
        UsageError: there is no task, or one was adapted from another model; and as for `save`.
        DivergedError: a value of a task is not finite.
        ResourceError: the directory cannot be written.

    Example:
        >>> import tempfile
        >>> from innerloop.algorithms import mixed
        >>> learner, place = mixed(1), Path(tempfile.mkdtemp())
        >>> run = load(save(place / "run", Model(learner, learner.init())))
        >>> site = run.model.adapt(torch.zeros(3, 1), torch.ones(3, 1))
        >>> list(load(save_adapted(place / "sites", run, {"north": site})).tasks)
        ['north']
    """
    if not adapted:
        raise UsageError("there is no adapted task to store: give at least one")
    meta = parent.model.meta
    expected = outline(parent.model.learner.own_like(meta))
    for task, one in adapted.items():
        if not isinstance(task, str):
            raise UsageError(f"task {task!r} is no text: give ids as text")
        if one.model is not parent.model and not _equal(one.model.meta, meta):
            raise UsageError(f"task {task!r} was adapted from another model than {parent.path}: give its own")
        _require_finite(one.own, f"task {task!r} diverged: ")
        if one.own and (found := differences(outline(one.own), expected)):
            raise UsageError(f"task {task!r} does not fit its model: {found}")
    own = [one.own for one in adapted.values() if one.own]
    stacks = {f"{TASKS}{name}": torch.cat([values[name] for values in own]) for name in expected if own}
    counts = n_support or {}
    tasks = [
        {"id": task, "n_support": counts.get(task), "base": not one.own} for task, one in adapted.items()
    ]
    change = {
        "kind": "adapted",
        "settings": dict(settings or {}),
        "data": None if data is None else dict(data),
        "parent": parent.config["parent"] if parent.kind == "adapted" else parent.sha256,
        "tasks": tasks,
        "versions": versions(),
    }
    return _write(directory, {**parent.config, **change}, {**meta, **stacks}, parent.log, {}, replace=replace)


def _write(
    directory: str | Path,
    config: dict[str, Any],
    tensors: Params,
    log: Sequence[Mapping[str, Any]],
    extra: Mapping[str, bytes],
    *,
    replace: bool,
) -> Path:
    import safetensors.torch

    _require_finite(tensors, "the model diverged: ")
    text = _json(config, indent=1)
    try:
        require_config(parse_json(text, "config"))
    except (ModelFileError, ValueError) as error:
        raise UsageError(f"this cannot be stored: {error}") from None
    # a clone, because tensors that share memory are refused
    plain = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
    content = {
        "config.json": text,
        "log.jsonl": b"".join(_json(_without_nan(dict(entry))) for entry in log),
        "model.safetensors": safetensors.torch.save(plain),
    }
    write_sealed(Path(directory), {**content, **extra}, replace=replace)
    return Path(directory)


def _support(support: SupportSize) -> dict[str, Any]:
    return {"rows": str(support), "per_class": support.per_class, "choice": str(support.choice)}


def _json(value: Any, *, indent: int | None = None) -> bytes:
    try:
        return (json.dumps(value, allow_nan=False, default=_plain, indent=indent) + "\n").encode()
    except (TypeError, ValueError) as error:
        raise UsageError(
            f"this cannot be stored ({error}): give text, finite numbers and lists of them"
        ) from None


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{str(value)[:100]} is no plain data")


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(entry) for entry in value]
    return None if isinstance(value, float | np.floating) and not math.isfinite(value) else value


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that results depend on.

    Example:
        >>> sorted(versions())
        ['innerloop', 'numpy', 'python', 'torch']
    """
    packages = {name: version(name) for name in ("innerloop", "torch", "numpy")}
    return {"python": platform.python_version(), **packages}


def _equal(one: Params, other: Params) -> bool:
    same = outline(one) == outline(other)
    return same and all(torch.equal(one[name].cpu(), other[name].cpu()) for name in one)


def _require_finite(values: Params, who: str) -> None:
    for name, value in values.items():
        if not torch.isfinite(value).all():
            raise DivergedError(f"{who}{name!r} holds NaN or infinity: lower the learning rates, train again")
