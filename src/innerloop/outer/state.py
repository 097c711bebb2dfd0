"""The state of a training between two updates: what it needs to go on as if it had never stopped."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from ..errors import UsageError
from ..inner.learner import Learner
from ..models.network import Params
from ..tasks.sources import Source
from .logs import Entry
from .update import Outer

__all__ = ["UNPLANNED", "Best", "Checkpointer", "TrainingState"]

# of `at_once`: no update has been made yet that would tell
UNPLANNED = 0


class Best(NamedTuple):
    """The best validation so far.

    Arguments:
        meta: meta-parameters to predict with.
        step: updates they were made by.
        loss: mean query loss on the meta-validation tasks.
        worse: validations in a row since then.
    """

    meta: Params
    step: int
    loss: float
    worse: int = 0


class TrainingState(NamedTuple):
    """Where a training is: the meta-parameters, the state of the optimizer, and what was found on the way.

    There is no random state in it: whatever is drawn for update `k` comes from the seed and `k` alone.

    Arguments:
        step: updates made.
        outer: meta-parameters `outer.meta`, and the state of the optimizer `outer.state`.
        best: the best validation so far, where there was one.
        log: the entries of the updates; those after `step` do not count.
        skipped: tasks left out because their loss was not finite.
        left_out: how often each of them was, by name.
        failed: updates in a row without a finite meta-gradient.
        at_once: most tasks worked on together; `None` for all, 0 where that is not known yet.
        seconds: time taken.
        remarks: what happened on the way, for people.
        ended: why it ended before its last update; empty where it did not.

    Example:
        >>> import torch
        >>> state = TrainingState(3, Outer.start({"w": torch.ones(2)}))
        >>> TrainingState.from_state_dict(state.state_dict()).meta
        {'w': tensor([1., 1.])}
    """

    step: int
    outer: Outer
    best: Best | None = None
    log: Sequence[Entry] = ()
    skipped: int = 0
    left_out: Mapping[str, int] = {}
    failed: int = 0
    at_once: int | None = UNPLANNED
    seconds: float = 0.0
    remarks: tuple[str, ...] = ()
    ended: str = ""

    @property
    def meta(self) -> Params:
        """The meta-parameters."""
        return self.outer.meta

    @property
    def best_loss(self) -> float:
        """That of the best validation; infinite before one."""
        return math.inf if self.best is None else self.best.loss

    def state_dict(self) -> dict[str, Any]:
        """Plain dicts, lists and tensors, as `torch.save` writes and `torch.load(weights_only=True)` reads them."""
        rest = self._asdict()
        outer, best = rest.pop("outer"), rest.pop("best")
        return {
            **rest,
            "meta": dict(outer.meta),
            "optimizer": outer.state,
            "best": None if best is None else best._asdict(),
            "log": [dict(entry) for entry in self.log if entry["step"] <= self.step],
            "left_out": dict(self.left_out),
            "remarks": list(self.remarks),
        }

    @staticmethod
    def from_state_dict(state: Mapping[str, Any]) -> TrainingState:
        """The way back from `state_dict`.

        Raises:
            UsageError: an entry is missing, or is none of a state.
        """
        needed = {"step", "meta", "optimizer"}
        if missing := needed - state.keys():
            raise UsageError(
                f"this is no state of a training: it lacks {', '.join(sorted(missing))}; give what "
                "TrainingState.state_dict() returned"
            )
        rest = {name: value for name, value in state.items() if name not in needed}
        if odd := sorted(rest.keys() - set(TrainingState._fields)):
            raise UsageError(f"this is no state of a training: it holds {odd[0]!r}, which none has")
        if (best := rest.get("best")) is not None:
            rest["best"] = Best(**best)
        if "remarks" in rest:
            rest["remarks"] = tuple(rest["remarks"])
        return TrainingState(int(state["step"]), Outer(dict(state["meta"]), state["optimizer"]), **rest)


class Checkpointer(Protocol):
    """Keeps states of a training where they outlive the process, as `innerloop.Checkpoints` does on disk."""

    @property
    def every(self) -> int | None:
        """Updates between two states that are kept; `None` where `due` goes by other things."""

    def __enter__(self) -> object:
        """Take possession: nobody else may keep states there until `__exit__`."""

    def __exit__(self, *error: object) -> None:
        """Give it back."""

    def part(self, name: str) -> Checkpointer:
        """A place of its own for one of several trainings that belong together."""

    def newest(
        self, learner: Learner, source: Source, valid: Source | None, settings: Mapping[str, object]
    ) -> TrainingState | None:
        """The newest state that is kept, if there is one.

        Arguments:
            learner: the algorithm.
            source: meta-train tasks.
            valid: meta-validation tasks.
            settings: of the training, by name; plain data.

        Raises:
            InnerloopError: it is one of another training, or may not be gone on with.
        """

    def due(self, step: int) -> bool:
        """Whether the state after so many updates is to be kept."""

    def save(self, state: TrainingState, *, now: bool = False) -> bool:
        """Keep a state; whether that went well. What goes wrong must not end the training.

        Arguments:
            state: the state.
            now: it may be the last one, so nothing is put off.
        """
