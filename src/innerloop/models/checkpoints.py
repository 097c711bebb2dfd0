"""Activation checkpoints inside a module, which would compute again with other parameters."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch.utils.checkpoint as checkpointing

__all__ = ["without_checkpoints"]


@contextmanager
def without_checkpoints() -> Iterator[None]:
    """Activation checkpoints inside a module keep their activations: they would recompute with other parameters."""
    names = ("CheckpointFunction", "_checkpoint_without_reentrant_generator")
    before = {name: getattr(checkpointing, name) for name in names}
    try:
        checkpointing.CheckpointFunction = _Direct  # type: ignore[misc, assignment]
        checkpointing._checkpoint_without_reentrant_generator = _no_checkpoint
        yield
    finally:
        for name, value in before.items():
            setattr(checkpointing, name, value)


class _Direct:
    """Stands for `torch.utils.checkpoint.CheckpointFunction`."""

    @staticmethod
    def apply(function: Callable[..., Any], preserve: bool, *args: Any) -> Any:
        """The function's result."""
        return function(*args)


def _no_checkpoint(*args: object, **kwargs: object) -> Iterator[None]:
    """Stands for the generator around a checkpoint's forward pass."""
    yield
