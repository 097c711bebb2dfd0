"""The updates of a training, one after the other: gear, memory, several in one call, and what is not finite."""

from __future__ import annotations

import itertools
import json
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..engine import GEARS, Fast, Report
from ..errors import DivergedError, ResourceError, UsageError
from ..inner.learner import Learner, Metrics, empty
from ..models.network import Params, reference
from ..models.precision import products
from ..tasks.episodes import Episode, select
from .logs import Entry
from .memory import ran_out, tasks_at_once
from .optimizers import Optimizer
from .prefetch import Block
from .ranks import Shards
from .schedules import Schedule
from .sharded import ShardedUpdate, sharded_update
from .state import UNPLANNED, TrainingState
from .update import Outer, Update, geared_update, meta_update, numbers_of

__all__ = ["Gear", "OuterLoop"]

TRAINING_GEARS = (*GEARS, "loop")

_PATIENCE_NONFINITE = 20
# updates are made in one go for so long, so that the log and an interruption need not wait
_SECONDS_TOGETHER = 0.1


@dataclass(frozen=True, eq=False)
class Gear:
    """A gear for several trainings: learners made of the same recipe share their graphs, which are made once.

    Arguments:
        name: as `gear` of `meta_train`.
        planned: meta-updates of all trainings together, which `auto` goes by; those of each unless given.

    Raises:
        UsageError: the gear is unknown.

    Example:
        >>> import innerloop as il
        >>> tasks, gear = il.tasks.sinusoid(n_support=5), Gear("traced")
        >>> for seed in range(2):
        ...     learner = il.maml(il.models.mlp(1, [8], 1), loss="mse", inner_steps=1)
        ...     run = il.meta_train(learner, tasks.train, steps=3, seed=seed, device="cpu", gear=gear)
        >>> run.gear.graphs, len(gear.kept)
        (1, 1)
    """

    name: str = "auto"
    planned: int | None = None
    kept: dict[str, Fast[tuple[Outer, Metrics]]] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        """Refuse what is unknown."""
        if self.name not in TRAINING_GEARS:
            raise UsageError(f"gear={self.name!r} is unknown: choose one of {', '.join(TRAINING_GEARS)}")

    def update(
        self,
        learner: Learner,
        steps: int,
        *,
        optimizer: Optimizer,
        clip: float | None,
        chunk: int | None,
        shards: Shards | None = None,
    ) -> Fast[tuple[Outer, Metrics]]:
        """The meta-update of a learner in this gear; see `outer.meta_update`."""
        gear = "eager" if self.name == "loop" else self.name
        how: dict[str, Any] = {"clip": clip, "optimizer": optimizer, "chunk": chunk, "gear": gear}
        how["planned"] = self.planned or steps
        made = geared_update(learner, **how) if shards is None else sharded_update(learner, shards, **how)
        recipe = json.dumps(learner.recipe, sort_keys=True, default=repr)
        # a module, loss or optimizer from elsewhere is not told by recipe and name
        if learner.recipe is None or '"external"' in recipe or not optimizer.name:
            return made
        return self.kept.setdefault(f"{recipe} {optimizer.name} {clip} {chunk} {shards} {products()}", made)


class OuterLoop:
    """The state of training, the update in its gear, and the guard against what is not finite.

    Arguments:
        learner: the algorithm.
        start: where to start.
        optimizer: moves the meta-parameters.
        schedule: its step size.
        steps: updates in all.
        clip: largest norm of the meta-gradient.
        gear: of the update.
        memory: bytes of the tasks that are worked on at once.
        shards: how the tasks of an update are shared among ranks; `None` where they are not.
    """

    def __init__(
        self,
        learner: Learner,
        start: TrainingState,
        *,
        optimizer: Optimizer,
        schedule: Schedule,
        steps: int,
        clip: float | None,
        gear: Gear,
        memory: int,
        shards: Shards | None = None,
    ) -> None:
        self.shards = shards
        self.learner, self.clip, self.gear, self.memory = learner, clip, gear, memory
        self.state, self.optimizer, self.schedule = start.outer, optimizer, schedule
        self.dtype = reference(start.meta).dtype
        self.made, self.steps = start.step, max(steps, 1)
        self.failed = start.failed
        # positions in its meta-batch of each task that was left out, with the number of the update, from 0
        self.left_out: list[tuple[int, int]] = []
        self.at_once = start.at_once
        self.remarks = list(start.remarks)
        self.update: Fast[tuple[Outer, Metrics]] | None = None
        self.seconds = math.inf  # of an update, lately

    @property
    def meta(self) -> Params:
        """The meta-parameters to predict with."""
        return self.optimizer.result(self.state.state, self.state.meta)

    @property
    def chunk(self) -> int | None:
        """Most tasks at once; `None` for all."""
        return self.at_once or None

    @property
    def report(self) -> Report:
        """Which gear was taken."""
        return self.update.report if self.update else Report()

    def take(self, block: Block) -> Iterator[Entry]:
        """Make the updates of a block, short ones together; what goes into the log of each."""
        start, phases = 0, [self.learner.metagrad.phase(block.first + n) for n in range(len(block.key))]
        while start < len(phases):
            most = max(1, int(min(len(phases), _SECONDS_TOGETHER / self.seconds)))
            phase = phases[start]
            alike = itertools.takewhile(phase.__eq__, phases[start : start + most])
            part = block.part(start, start + len(list(alike)))
            start += len(part.key)
            began = time.perf_counter()
            entries = self._together(part, phase)
            if entries:
                self.seconds = (time.perf_counter() - began) / len(entries)
                yield from entries
                continue
            for one in map(part.at, range(len(part.key))):
                began = time.perf_counter()
                entry = self.step(one.episode, one.first, one.key)
                self.seconds = time.perf_counter() - began
                yield entry

    def _together(self, block: Block, phase: int) -> list[Entry]:
        """The updates of a block in one go; nothing where there is only one, or where they must be looked at."""
        if self.update is None or len(block.key) == 1 or empty(block.at(0).episode.support):
            return []
        if self.shards is not None:
            return []
        steps = range(block.first, block.first + len(block.key))
        numbers = torch.stack([self._numbers(step, block.key.device) for step in steps])
        try:
            state, metrics = self.update.scan(self.state, (numbers, block.episode, block.key), phase)
        except Exception:
            # an update that is not finite was handed on; what else there is comes up one by one
            return []
        losses = metrics["losses"].tolist()
        if not (all(map(math.isfinite, itertools.chain(*losses))) and metrics["finite"].all()):
            return []
        self.failed, self.state, self.made = 0, state, steps.stop
        norms = metrics["grad_norm"].tolist()
        return [
            self._entry(step, sum(own) / len(own), norm)
            for step, own, norm in zip(steps, losses, norms, strict=True)
        ]

    def _entry(self, step: int, loss: float, norm: float) -> Entry:
        return {"step": step + 1, "loss": loss, "meta_lr": self.schedule(step), "grad_norm": norm}

    def _numbers(self, step: int, device: torch.device) -> Tensor:
        return numbers_of(step, self.schedule(step), device, self.optimizer)

    def step(self, episode: Episode, step: int, key: Tensor) -> Entry:
        """One update; what goes into the log."""
        if self.update is None:
            self.update = self._planned(episode)
        self.made = step + 1
        if empty(episode.support):
            self.learner.adapt(self.state.meta, episode.support)  # raises where that cannot be
        phase = self.learner.metagrad.phase(step)
        numbers = self._numbers(step, key.device)
        state, metrics = self._updated(numbers, episode, key, phase)
        losses = metrics["losses"].tolist()
        finite = [math.isfinite(loss) for loss in losses]
        if not all(finite):
            self.left_out += [(step, task) for task, known in enumerate(finite) if not known]
            losses = []
            if any(finite):
                chosen = torch.tensor(finite, device=key.device)
                state, metrics = self._left(chosen, numbers, episode, key, phase)
                losses = metrics["losses"].tolist()
        if not (losses and metrics["finite"]):
            self._failed(step)
            return self._entry(step, math.nan, math.nan)
        self.failed, self.state = 0, state
        return self._entry(step, sum(losses) / len(losses), float(metrics["grad_norm"]))

    def _updated(self, numbers: Tensor, episode: Episode, key: Tensor, phase: int) -> tuple[Outer, Metrics]:
        """One update; where the device has no memory for it, with half as many tasks at once from here on."""
        while True:
            try:
                assert self.update is not None
                return self.update(self.state, numbers, episode, key, phase)
            except (RuntimeError, MemoryError) as error:
                if not ran_out(error):
                    raise
                full = str(error)
            # outside of the handler, whose traceback keeps what was computed
            self._halve(episode.n_tasks, int(numbers[0]) + 1, full)

    def _halve(self, tasks: int, step: int, full: str) -> None:
        """Half as many tasks at once; said once, however often it happens."""
        before = min(self.chunk or tasks, tasks)
        if before == 1:
            raise _no_memory(step, full)
        self.at_once = before // 2
        said = "memory ran out (update "
        self.remarks[:] = [remark for remark in self.remarks if not remark.startswith(said)]
        self.remarks.append(f"{said}{step}): at most {self.at_once} tasks at once from there on")
        self.update = self._made()
        if self.state.device.type == "cuda":
            torch.cuda.empty_cache()

    def _left(
        self, chosen: Tensor, numbers: Tensor, episode: Episode, key: Tensor, phase: int
    ) -> tuple[Outer, Metrics]:
        """The update by some of the tasks, as the plain function: their number may never come again."""
        if self.update is not None and isinstance(self.update.function, ShardedUpdate):
            return self.update.function(self.state, numbers, episode, key, phase, chosen)
        return self._plain()(self.state, numbers, select(episode, chosen), key[chosen], phase)

    def _plain(self) -> Update:
        return meta_update(self.learner, clip=self.clip, optimizer=self.optimizer, chunk=self.chunk)

    def _planned(self, episode: Episode) -> Fast[tuple[Outer, Metrics]]:
        """The update in its gear; how many tasks at once follows from the memory they need."""
        if self.gear.name == "loop":
            self.at_once = 1
        elif self.at_once == UNPLANNED:
            try:
                self.at_once = tasks_at_once(self.learner, self.state.meta, episode, self.memory)
            except (RuntimeError, MemoryError) as error:
                if not ran_out(error):
                    raise
                raise _no_memory(self.made + 1, str(error)) from None
        return self._made()

    def _made(self) -> Fast[tuple[Outer, Metrics]]:
        return self.gear.update(
            self.learner,
            self.steps,
            optimizer=self.optimizer,
            clip=self.clip,
            chunk=self.chunk,
            shards=self.shards,
        )

    def _failed(self, step: int) -> None:
        self.failed += 1
        if self.failed >= _PATIENCE_NONFINITE:
            raise DivergedError(
                f"the meta-gradient was not finite for {self.failed} steps in a row, up to step "
                f"{step + 1}, and the meta-parameters are those before them: lower inner_lr or meta_lr, take fewer "
                "inner steps, or limit the inner gradients (--inner-clip 1; in Python clip=1.0 of the algorithm)"
            )


def _no_memory(step: int, full: str) -> ResourceError:
    """What to do where not even one task fits."""
    first = (full.splitlines() or ["out of memory"])[0]
    return ResourceError(
        f"the device has no memory for one task (update {step}): take fewer inner steps or query rows, "
        f"metagrad='checkpointed', an algorithm of first order (fomaml), or device='cpu'. It said: {first}"
    )
