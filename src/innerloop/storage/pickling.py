"""A stored model as plain values that can be pickled, and back: learners hold functions, which cannot."""

from __future__ import annotations

from typing import Any

from torch import nn

from ..algorithms import build
from ..inner.learner import Adapted, Model
from .stored import Stored

__all__ = ["packed", "unpacked"]


def packed(stored: Stored) -> dict[str, Any]:
    """The values of a stored model: its configuration, which names the learner, and tensors.

    Example:
        >>> import pickle, innerloop as il
        >>> from innerloop.storage.save import unsaved
        >>> learner = il.mixed(2)
        >>> parts = pickle.loads(pickle.dumps(packed(unsaved(il.Model(learner, learner.init())))))
        >>> sorted(unpacked(parts).model.meta) == sorted(learner.init())
        True
    """
    parts = {name: value for name, value in vars(stored).items() if name != "model"}
    own = {task: adapted.own for task, adapted in stored.tasks.items()}
    return {**parts, "tasks": own, "extra": dict(stored.extra), "meta": stored.model.meta}


def unpacked(parts: dict[str, Any], module: nn.Module | None = None) -> Stored:
    """The stored model again.

    Arguments:
        parts: what `packed` gave.
        module: the module, where the model was trained with one of your own.
    """
    model = Model(build(parts["config"]["learner"], module=module), parts["meta"])
    tasks = {task: Adapted(model, values) for task, values in parts["tasks"].items()}
    rest = {name: value for name, value in parts.items() if name not in ("meta", "tasks")}
    return Stored(model=model, tasks=tasks, **rest)
