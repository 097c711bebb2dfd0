"""One meta-update as a value, for an outer loop of one's own: compiled, many in one call, and resumed to the bit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from ..engine import Fast, Report
from ..engine.devices import AUTO, resolve_device
from ..errors import UsageError
from ..inner.learner import Learner, Metrics, empty
from ..inner.model import Model
from ..models.network import Params, reference
from ..tasks.episodes import Episode, to
from ..tasks.sources import stream
from .optimizers import Optimizer, adam
from .prefetch import EPISODES, task_keys
from .schedules import Schedule, constant
from .state import TrainingState
from .update import Outer, geared_update, numbers_of

__all__ = ["MetaStep", "meta_step"]


def meta_step(
    learner: Learner,
    optimizer: Optimizer | None = None,
    *,
    rate: float | Schedule = 3e-3,
    clip: float | None = 10.0,
    chunk: int | None = None,
    gear: str = "auto",
    planned: int = 1000,
    seed: int = 0,
) -> MetaStep:
    r"""The meta-update that `meta_train` repeats, for a loop of one's own.

    `state, metrics = step(state, episodes)` takes the mean gradient of the query losses over the tasks, clips it, and
    moves the meta-parameters by the optimizer.

    Arguments:
        learner: the algorithm.
        optimizer: one of `innerloop.optimizers`, or `torch_optimizer(...)`; Adam unless given.
        rate: step size, or a function from the number of the update, from 0, to it; see `innerloop.schedules`.
        clip: largest norm of the meta-gradient; `None` for no limit.
        chunk: most tasks at once; all unless given. The result is the same.
        gear: `eager`, `traced`, `compiled` or `auto`, as in `innerloop.fast`.
        planned: updates that are going to be made, which `auto` goes by.
        seed: of dropout.

    Raises:
        UsageError: an argument has no meaning.

    Example:
        >>> import innerloop as il
        >>> tasks = il.tasks.sinusoid(n_support=5)
        >>> learner = il.maml(il.models.mlp(1, [8], 1), loss="mse", inner_steps=1)
        >>> step = il.meta_step(
        ...     learner, il.optimizers.adamw(), rate=il.schedules.cosine(3e-3, 3), gear="eager"
        ... )
        >>> state, generator = step.init(), torch.Generator().manual_seed(0)
        >>> for _ in range(3):
        ...     state, metrics = step(state, tasks.train.sample(4, generator))
        >>> state.step, metrics["losses"].shape
        (3, torch.Size([4]))
        >>> step.model(state).adapt(torch.zeros(5, 1), torch.zeros(5, 1))(torch.zeros(2, 1)).shape
        torch.Size([2, 1])
    """
    optimizer = adam() if optimizer is None else optimizer
    if not isinstance(learner, Learner):
        raise UsageError(
            f"a {type(learner).__name__} is no learner: make one, such as il.maml(module, loss='mse')"
        )
    if not isinstance(optimizer, Optimizer):
        raise UsageError(
            f"optimizer={optimizer!r} is none of innerloop.optimizers: give adamw(), say, or torch_optimizer(make)"
        )
    if chunk is not None and chunk < 1:
        raise UsageError(f"chunk={chunk}: give 1 or more")
    schedule = rate if callable(rate) else constant(rate)
    update = geared_update(learner, clip=clip, optimizer=optimizer, chunk=chunk, gear=gear, planned=planned)
    return MetaStep(learner, optimizer, schedule, seed, update)


@dataclass(frozen=True, eq=False)
class MetaStep:
    """See `meta_step`.

    Arguments:
        learner: the algorithm.
        optimizer: moves the meta-parameters.
        schedule: its step size.
        seed: of dropout.
        update: the update in its gear.
    """

    learner: Learner
    optimizer: Optimizer
    schedule: Schedule
    seed: int
    update: Fast[tuple[Outer, Metrics]] = field(repr=False)

    @property
    def report(self) -> Report:
        """Which gear was taken, and why."""
        return self.update.report

    def init(self, meta: Params | None = None, *, device: str = "cpu") -> TrainingState:
        """The state before the first update.

        Arguments:
            meta: where to start; `learner.init()` unless given.
            device: where to work; `auto` takes a GPU where there is one.
        """
        meta = self.learner.init() if meta is None else meta
        place = resolve_device(device).device if device == AUTO else torch.device(device)
        return TrainingState(0, Outer.start(to(meta, place), self.optimizer))

    def __call__(self, state: TrainingState, episodes: Episode) -> tuple[TrainingState, Metrics]:
        """The next state, and what was measured on the way.

        Arguments:
            state: of `init`, or of the call before.
            episodes: stacked episodes, of `source.sample(tasks, generator)` say.

        Returns:
            The state, and metrics: `losses` `(T,)`, the query loss of each task after adaptation; `grad_norm`; and
            `finite`, false where the gradient was not and the state is the one before, but for its number.
        """
        episodes, like = self._placed(state, episodes), reference(state.meta)
        if empty(episodes.support):
            self.learner.adapt(state.meta, episodes.support)  # raises where that cannot be
        key = task_keys(episodes.n_tasks, stream(self.seed, EPISODES, state.step)).to(like.device)
        phase = self.learner.metagrad.phase(state.step)
        outer, metrics = self.update(
            state.outer, self._numbers(state.step, like.device), episodes, key, phase
        )
        kept = outer if bool(metrics["finite"]) else state.outer
        return TrainingState(state.step + 1, kept), metrics

    def scan(self, state: TrainingState, episodes: Sequence[Episode]) -> tuple[TrainingState, Metrics]:
        """Several updates in a row, which in C are one call; the result is that of one after the other, to the bit.

        Arguments:
            state: of `init`, or of the call before.
            episodes: for each update stacked episodes, all of the same shapes.

        Returns:
            The last state, and metrics with a leading axis of updates.

        Raises:
            UsageError: there are no episodes, or their shapes differ.
        """
        steps = range(state.step, state.step + len(episodes))
        phases = {self.learner.metagrad.phase(step) for step in steps}
        if len(phases) != 1:
            raise UsageError(
                f"scan takes updates that are computed alike, and {len(steps)} from {state.step} on are not: "
                "give at least one, and call it again where the meta-gradient changes"
            )
        placed = [self._placed(state, one) for one in episodes]
        try:
            rows: Episode = pytree.tree_map(_stacked, *placed)
        except (RuntimeError, ValueError) as error:
            raise UsageError(
                f"scan takes episodes of the same shapes: {str(error).splitlines()[0]}"
            ) from None
        device = reference(state.meta).device
        tasks = placed[0].n_tasks
        keys = torch.stack([task_keys(tasks, stream(self.seed, EPISODES, step)) for step in steps]).to(device)
        numbers = torch.stack([self._numbers(step, device) for step in steps])
        outer, metrics = self.update.scan(state.outer, (numbers, rows, keys), phases.pop())
        if bool(metrics["finite"].all()):
            return TrainingState(steps.stop, outer), metrics
        parts = []
        for one in placed:  # which of them was not finite is seen one by one
            state, measured = self(state, one)
            parts.append(measured)
        return state, {name: torch.stack([part[name] for part in parts]) for name in parts[0]}

    def model(self, state: TrainingState) -> Model:
        """The learner with the meta-parameters of a state, averaged where the optimizer averages them."""
        return Model(self.learner, self.optimizer.result(state.outer.state, state.meta))

    def _placed(self, state: TrainingState, episodes: Episode) -> Episode:
        like = reference(state.meta)
        placed: Episode = to(episodes, like.device, like.dtype)
        return placed

    def _numbers(self, step: int, device: torch.device) -> Tensor:
        return numbers_of(step, self.schedule(step), device, self.optimizer)


def _stacked(*several: Tensor | None) -> Tensor | None:
    """Parts of episodes with a leading axis of updates; weights that no episode has stay away."""
    return None if several[0] is None else torch.stack([one for one in several if one is not None])
