"""The state of a training between two updates: what it needs to go on as if it had never stopped."""

from __future__ import annotations

from typing import Any, NamedTuple

from ..errors import UsageError
from ..models.network import Params
from .update import Outer

__all__ = ["TrainingState"]


class TrainingState(NamedTuple):
    """Where a training is: the number of updates made, the meta-parameters, and the state of the optimizer.

    Arguments:
        step: updates made.
        outer: meta-parameters `outer.meta`, and the state of the optimizer `outer.state`.

    Example:
        >>> import torch
        >>> state = TrainingState(3, Outer.start({"w": torch.ones(2)}))
        >>> TrainingState.from_state_dict(state.state_dict()).meta
        {'w': tensor([1., 1.])}
    """

    step: int
    outer: Outer

    @property
    def meta(self) -> Params:
        """The meta-parameters."""
        return self.outer.meta

    def state_dict(self) -> dict[str, object]:
        """Plain dicts, lists and tensors, as `torch.save` writes and `torch.load(weights_only=True)` reads them."""
        return {"step": self.step, "meta": dict(self.outer.meta), "optimizer": self.outer.state}

    @staticmethod
    def from_state_dict(state: dict[str, Any]) -> TrainingState:
        """The way back from `state_dict`.

        Raises:
            UsageError: an entry is missing.
        """
        if missing := {"step", "meta", "optimizer"} - state.keys():
            raise UsageError(
                f"this is no state of a training: it lacks {', '.join(sorted(missing))}; give what "
                "TrainingState.state_dict() returned"
            )
        return TrainingState(int(state["step"]), Outer(dict(state["meta"]), state["optimizer"]))
