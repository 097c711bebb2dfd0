"""One meta-update as a pure function: meta-gradient, clipping and the optimizer, over chunks of tasks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from ..engine import Fast, fast
from ..engine.modes import checking, compiling
from ..inner.learner import Learner, Metrics, Step
from ..models.network import Params
from ..tasks.episodes import Episode, select, tensors
from .metagrad import checkpointed
from .optimizers import Optimizer, adam

__all__ = [
    "Gradient",
    "Outer",
    "Update",
    "geared_update",
    "mean_gradient",
    "meta_gradient",
    "meta_update",
    "numbers_of",
    "stepped",
]

_ADAM = adam()
# of an update that is computed to check its graph: bytes of the tasks that are worked on at once, and inner steps up to
# which their activations are stored
_FEW, _STORED = 4 * 2**20, 10


class Outer(NamedTuple):
    """What the outer loop changes: the meta-parameters, and the state of the optimizer, a pytree of tensors."""

    meta: Params
    state: object

    @property
    def device(self) -> torch.device:
        """Where the meta-parameters are."""
        return next(iter(self.meta.values())).device

    @classmethod
    def start(cls, meta: Params, optimizer: Optimizer = _ADAM) -> Outer:
        """Before the first update.

        Example:
            >>> Outer.start({"w": torch.ones(2)}).state
            ({'w': tensor([0., 0.])}, {'w': tensor([0., 0.])})
        """
        meta = {name: value.detach().clone() for name, value in meta.items()}
        return cls(meta, optimizer.init(meta))


Update = Callable[[Outer, Tensor, Episode, Tensor, int], tuple[Outer, Metrics]]
Gradient = Callable[[Params, Episode, Tensor, Tensor, int], tuple[Params, Metrics]]


def meta_gradient(learner: Learner) -> Gradient:
    """The meta-gradient of a learner as a function of meta-parameters, episodes, dropout streams, step and phase."""

    def gradient(
        meta: Params, episode: Episode, key: Tensor, number: Tensor, phase: int
    ) -> tuple[Params, Metrics]:
        if checking() and learner.adapts_by_gradient:
            few = _few_tasks(meta, episode)
            return mean_gradient(_in_little_memory(learner), meta, episode, key, number, phase, few)
        return learner.metagrad(learner, meta, episode, Step(number, phase), key)

    return gradient


def _in_little_memory(learner: Learner) -> Gradient:
    """The meta-gradient as it is computed once, beside a graph that needs far less memory than all activations."""
    long = learner.inner_steps > _STORED
    metagrad = checkpointed(learner.metagrad) if long else learner.metagrad

    def gradient(
        meta: Params, episode: Episode, key: Tensor, number: Tensor, phase: int
    ) -> tuple[Params, Metrics]:
        return metagrad(learner, meta, episode, Step(number, phase), key)

    return gradient


def _few_tasks(meta: Params, episode: Episode) -> int:
    """How many tasks at once have about `_FEW` bytes of rows and of weights of their own."""
    weights = sum(value.nbytes for value in meta.values())
    rows = sum(tensor.nbytes for tensor in tensors(episode)) // episode.n_tasks
    return max(1, _FEW // (weights + rows))


def geared_update(
    learner: Learner,
    *,
    clip: float | None,
    optimizer: Optimizer = _ADAM,
    chunk: int | None,
    gear: str,
    planned: int,
) -> Fast[tuple[Outer, Metrics]]:
    """The update in a gear; where tasks are worked on in chunks, one graph of a chunk serves all of them.

    Arguments:
        learner: the algorithm.
        clip: see `meta_update`.
        optimizer: see `meta_update`; the graph ends before one that cannot be part of it.
        chunk: see `meta_update`.
        gear: see `engine.fast`.
        planned: updates that are going to be made.

    Example:
        >>> import innerloop as il
        >>> learner = il.maml(il.models.mlp(1, [4], 1), loss="mse")
        >>> geared_update(learner, clip=None, chunk=None, gear="eager", planned=1).report.gear
        'eager'
    """
    if chunk is None and optimizer.traceable:
        return fast(meta_update(learner, clip=clip, optimizer=optimizer), gear=gear, planned=planned)
    gradient = fast(meta_gradient(learner), gear=gear, planned=planned)
    update = meta_update(learner, clip=clip, optimizer=optimizer, chunk=chunk, gradient=gradient)
    return Fast(update, "eager", planned, gradient.report)


def meta_update(
    learner: Learner,
    *,
    clip: float | None,
    optimizer: Optimizer = _ADAM,
    chunk: int | None = None,
    gradient: Gradient | None = None,
) -> Update:
    r"""The update that training repeats, as a function without side effects.

    $g = \nabla_\theta \frac1T\sum_t L_t$, scaled to a norm of at most `clip`, then the optimizer.

    Arguments:
        learner: the algorithm.
        clip: largest norm of the meta-gradient; `None` for no limit.
        optimizer: moves the meta-parameters; Adam unless given.
        chunk: most tasks at once; all unless given. The result is the same.
        gradient: `meta_gradient` of the learner, in a gear of its own.

    Returns:
        A function of the state, the numbers of `numbers_of`, stacked episodes, dropout streams `(T,)` and the
        phase of the meta-gradient; it returns the new state, and `losses` `(T,)`, `grad_norm`, `finite` (whether the
        state may be used) and whatever the meta-gradient reports.
    """
    gradient = gradient or meta_gradient(learner)

    def update(
        outer: Outer, numbers: Tensor, episode: Episode, key: Tensor, phase: int
    ) -> tuple[Outer, Metrics]:
        grads, metrics = mean_gradient(gradient, outer.meta, episode, key, numbers[0], phase, chunk)
        return stepped(outer, grads, metrics, numbers, clip=clip, optimizer=optimizer)

    return update


def stepped(
    outer: Outer,
    grads: Params,
    metrics: Metrics,
    numbers: Tensor,
    *,
    clip: float | None,
    optimizer: Optimizer,
) -> tuple[Outer, Metrics]:
    """The step along a meta-gradient: clipping, then the optimizer.

    Arguments:
        outer: the state.
        grads: the meta-gradient.
        metrics: of the tasks; meta-parameters among them, that are followed and not learned, go into the state.
        numbers: those of `numbers_of`.
        clip: see `meta_update`.
        optimizer: see `meta_update`.

    Returns:
        The new state, and the metrics with `grad_norm` and `finite`.

    Example:
        >>> outer, grads = Outer.start({"w": torch.zeros(1)}), {"w": torch.tensor([3.0])}
        >>> _, metrics = stepped(outer, grads, {}, numbers_of(0, 0.1), clip=1.0, optimizer=adam())
        >>> float(metrics["grad_norm"])
        3.0
    """
    total = torch.stack([_square_sum(grad) for grad in grads.values()]).sum()
    metrics["finite"], metrics["grad_norm"] = torch.isfinite(total), total.sqrt()
    if clip is not None:
        scale = clip / total.clamp(min=clip * clip).sqrt()
        grads = {name: grad * scale for name, grad in grads.items()}
    watched = {name: metrics.pop(name) for name in outer.meta.keys() & metrics.keys()}
    meta, state = optimizer.update(grads, outer.state, outer.meta, numbers[1:])
    return Outer(meta | watched, state), metrics


def numbers_of(
    step: int, rate: float, device: torch.device | str = "cpu", optimizer: Optimizer = _ADAM
) -> Tensor:
    """What changes from update to update without being learned, float64: the step, and what the optimizer needs.

    Arguments:
        step: number of the update, from 0.
        rate: step size.
        device: where the result is.
        optimizer: see `meta_update`.
    """
    return torch.tensor([step, *optimizer.numbers(step, rate)], dtype=torch.float64, device=device)


def _square_sum(value: Tensor) -> Tensor:
    return (torch.view_as_real(value) if value.is_complex() else value).square().sum()


def mean_gradient(
    gradient: Gradient,
    meta: Params,
    episode: Episode,
    key: Tensor,
    number: Tensor,
    phase: int,
    chunk: int | None,
) -> tuple[Params, Metrics]:
    """The mean meta-gradient of tasks and their metrics, at most `chunk` tasks at a time; see `meta_update`."""
    total = episode.n_tasks
    # compiled steps go task by task of themselves
    if chunk is None or chunk >= total or compiling():
        return gradient(meta, episode, key, number, phase)
    grads: Params = {}
    parts: list[Metrics] = []
    for part in _chunks(total, chunk):
        added, metrics = gradient(meta, select(episode, part), key[part], number, phase)
        share = (part.stop - part.start) / total
        grads = {n: grads[n] + share * g if grads else share * g for n, g in added.items()}
        parts.append({n: share * v if n in meta or not v.dim() else v for n, v in metrics.items()})
    joined: Metrics = {}
    for name in parts[0]:
        values = [part[name] for part in parts]
        of_tasks = name not in meta and values[0].dim()
        joined[name] = torch.cat(values) if of_tasks else torch.stack(values).sum(0)
    return grads, joined


def _chunks(total: int, most: int) -> Iterator[slice]:
    """Parts of at most so many, as even as can be: equal sizes share a graph."""
    size = -(-total // -(-total // most))
    for start in range(0, total, size):
        yield slice(start, min(start + size, total))
