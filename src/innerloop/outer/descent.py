"""The course of a training: take the updates, keep the best parameters and checkpoints, end early where asked to."""

from __future__ import annotations

import math
import signal
import time
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch

from ..errors import DivergedError
from ..inner.model import Model
from ..models.precision import products_in
from ..tasks.sources import VALIDATION_SEED, RowSource, Source, stream
from .interrupts import Interrupts
from .logs import Entry
from .loop import OuterLoop
from .mean_loss import mean_loss
from .prefetch import EPISODES, blocks_of
from .state import Best, Checkpointer, TrainingState

__all__ = ["Callback", "Descent", "Episodes", "Every"]

# names of tasks that a remark shows
_SHOWN = 5


class Every(NamedTuple):
    """A callback that sees the state of a training: the meta-parameters and what the optimizer holds.

    Arguments:
        steps: it is called after every so many updates.
        look: called with the state and the entry of the log; it may raise `StopIteration` to end the training.

    Example:
        >>> import innerloop as il
        >>> norms = []
        >>> look = lambda state, entry: norms.append((state.step, entry["grad_norm"]))
        >>> learner = il.maml(il.models.mlp(1, [4], 1), loss="mse", inner_steps=1)
        >>> run = il.meta_train(
        ...     learner, il.tasks.sinusoid().train, steps=4, device="cpu", callbacks=[Every(2, look)]
        ... )
        >>> [step for step, _ in norms]
        [2, 4]
    """

    steps: int
    look: Callable[[TrainingState, Entry], object]


Callback = Callable[[Entry], object] | Every


class Episodes(NamedTuple):
    """Where the episodes of all updates come from.

    Arguments:
        source: meta-train tasks.
        size: episodes an update.
        seed: of what is drawn.
        steps: updates in all.
        device: where they are used.
    """

    source: Source
    size: int
    seed: int
    steps: int
    device: torch.device

    def name(self, step: int, task: int) -> str:
        """The name of a task of the meta-batch of an update, where tasks have names."""
        if type(self.source) is RowSource:
            return self.source.drawn(self.size, stream(self.seed, EPISODES, step))[task]
        return f"task {task + 1} of update {step + 1}"


class Descent:
    """The updates of a training from a state on.

    Arguments:
        loop: makes the updates.
        start: the state that it starts from.
        valid: meta-validation tasks.
        every: updates between validations.
        patience: validations in a row without a better one, after which it ends.
        callbacks: called after each update.
        checkpoints: keeps states where they outlive the process.
    """

    def __init__(
        self,
        loop: OuterLoop,
        start: TrainingState,
        *,
        valid: Source | None,
        every: int,
        patience: int | None,
        callbacks: Sequence[Callback],
        checkpoints: Checkpointer | None,
    ) -> None:
        self.loop, self.valid, self.every, self.patience = loop, valid, every, patience
        self.callbacks, self.checkpoints = callbacks, checkpoints
        self.log = [entry for entry in start.log if entry["step"] <= start.step]
        self.best, self.ended = start.best, start.ended
        self.skipped, self.left_out = start.skipped, Counter(start.left_out)
        self.began = time.perf_counter() - start.seconds
        self.interrupted = False
        self.interrupts = Interrupts(terminated=checkpoints is not None)

    @property
    def state(self) -> TrainingState:
        """The state after the last update."""
        loop = self.loop
        return TrainingState(
            loop.made, loop.state, self.best, self.log, self.skipped, dict(self.left_out), loop.failed,
            loop.at_once, time.perf_counter() - self.began, tuple(loop.remarks), self.ended,
        )  # fmt: skip

    def run(self, episodes: Episodes) -> TrainingState:
        """Take the updates; the state after the last one.

        Raises:
            DivergedError: nothing was finite; the last state that was is kept before.
        """
        loop, steps = self.loop, episodes.steps
        if self.ended:
            return self.state
        blocks = blocks_of(
            episodes.source, episodes.size, episodes.seed, steps, self._cut(steps), episodes.device, loop.dtype,
            rounded=loop.gear.name not in ("eager", "loop"), start=loop.made,
            own=None if loop.shards is None else loop.shards.own(episodes.size),
        )  # fmt: skip
        with self.interrupts:
            try:
                for entry in (entry for block in blocks for entry in loop.take(block)):
                    self._name(episodes)
                    if self._any(self._ends(entry, steps)):
                        break
            except DivergedError as error:
                # the meta-parameters are those before the first update that failed
                self._name(episodes)
                self._keep(now=True)
                raise DivergedError(f"{error}{self._most_often()}") from None
        self._require_finite(steps)
        self.interrupts.pass_on()
        if self.skipped:
            said = f"tasks left out of their update because their loss was not finite: {self.skipped}"
            return self.state._replace(remarks=(*loop.remarks, f"{said}{self._most_often()}"))
        return self.state

    def _cut(self, steps: int) -> int:
        """At multiples of this, the state is looked at."""
        looking = [one.steps for one in self.callbacks if isinstance(one, Every)]
        if self.valid is not None:
            looking.append(self.every)
        if self.checkpoints is not None and self.checkpoints.every is not None:
            looking.append(self.checkpoints.every)
        return math.gcd(*looking) or max(steps, 1)

    def _name(self, episodes: Episodes) -> None:
        """Count the tasks that were left out, by name."""
        for step, task in self.loop.left_out:
            self.skipped += 1
            self.left_out[episodes.name(step, task)] += 1
        self.loop.left_out.clear()

    def _most_often(self) -> str:
        """The tasks that were left out most often, in words."""
        if not self.left_out:
            return ""
        shown = [f"{name!r} ({times} times)" for name, times in self.left_out.most_common(_SHOWN)]
        return f"; left out most often: {', '.join(shown)}"

    def _require_finite(self, steps: int) -> None:
        validated = [entry["valid_loss"] for entry in self.log if "valid_loss" in entry]
        lost = self.log and all(math.isnan(entry["loss"]) for entry in self.log)
        if math.isinf(self.state.best_loss) and (validated or lost):
            what = "loss on the meta-validation tasks" if validated else "meta-gradient"
            raise DivergedError(f"no {what} was finite in {steps} steps: lower inner_lr or meta_lr")

    def _ends(self, entry: Entry, steps: int) -> bool:
        """Validate, log, call back and keep the state; whether the training ends here."""
        step = int(entry["step"])
        if self.valid is not None and (step % self.every == 0 or step == steps):
            self._validate(entry, self.valid)
        self.log.append(entry)
        self.ended = self._reason(step, entry)
        # updates that are made in one go are looked at together
        whole = step == self.loop.made
        stopped = self._any(self.interrupts.noted is not None and whole)
        over = bool(self.ended) or step == steps
        if self.checkpoints is not None and whole and (over or stopped or self.checkpoints.due(step)):
            self._keep(now=over or stopped)
        if stopped:
            # said of the last update too: further trainings may have been meant to follow
            self._interrupt(step, steps)
        return over or stopped

    def _any(self, flag: bool) -> bool:
        """Whether it holds on this rank or on another one: what ends the training ends it for all, here."""
        shards = self.loop.shards
        return flag if shards is None else shards.ranks.any(flag)

    def _reason(self, step: int, entry: Entry) -> str:
        """Why the training ends here, if it does so before its last update."""
        try:
            for callback in self.callbacks:
                self._call(callback, step, entry)
        except StopIteration as error:
            why = f": {error}" if str(error) else ""
            return f"a callback ended the training after update {step}{why}"
        if self.patience is not None and self.best is not None and self.best.worse >= self.patience:
            return f"ended after update {step}: no better validation for {self.best.worse} in a row"
        return ""

    def _interrupt(self, step: int, steps: int) -> None:
        self.interrupted = True
        said = f"interrupted after update {step} of {steps}: the best meta-parameters so far are returned"
        self.loop.remarks.append(said)
        if self.interrupts.noted == signal.SIGINT:
            warnings.warn(said, stacklevel=5)

    def _keep(self, *, now: bool) -> None:
        if self.checkpoints is not None:
            self.checkpoints.save(self.state, now=now)

    def _call(self, callback: Callback, step: int, entry: Entry) -> None:
        if not isinstance(callback, Every):
            callback(entry)
        elif step % callback.steps == 0:
            callback.look(self.state, entry)

    def _validate(self, entry: Entry, valid: Source) -> None:
        meta = self.loop.meta
        with products_in("float32"):
            model = Model(self.loop.learner, meta)
            loss = mean_loss(model, valid, seed=VALIDATION_SEED, shards=self.loop.shards)
        entry["valid_loss"] = loss
        before = self.best or Best(meta, self.loop.made, math.inf)
        better = loss < before.loss
        self.best = Best(meta, self.loop.made, loss) if better else before._replace(worse=before.worse + 1)
