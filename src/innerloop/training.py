"""The outer loop: draw episodes, take a meta-gradient, step the optimiser, keep the best parameters."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from .data.sources import RowSource, Source, stream
from .episodes import Episode, select, to
from .errors import DivergedError, UsageError
from .evaluation import mean_loss
from .functional import Params
from .learner import Learner, Metrics, Model
from .threads import threads_for

SCHEDULES = ("cosine", "constant")

# streams of one seed: training episodes and dropout; validation and evaluation have seeds of their own
_EPISODES, _DROPOUT = 0, 1
VALIDATION_SEED = 20_230_228
_PATIENCE_NONFINITE = 20

Callback = Callable[[dict[str, Any]], None]


@dataclass(frozen=True, eq=False)
class Run:
    """What training returns.

    Arguments:
        model: the learner with the best meta-parameters by meta-validation, the last ones without it.
        log: one dict a logged step: `step`, `loss`, `meta_lr`, and `valid_loss` where it was measured.
        best_step: the step the returned parameters come from.
        skipped: tasks left out because their loss was not finite.
        seconds: time taken.

    Example:
        >>> import innerloop as il
        >>> run = il.meta_train(il.mixed(1), il.tasks.sinusoid().train, device="cpu")
        >>> run.best_step, run.skipped
        (0, 0)
    """

    model: Model
    log: list[dict[str, Any]] = field(repr=False)
    best_step: int
    skipped: int
    seconds: float


def meta_train(
    learner: Learner,
    source: Source,
    *,
    valid: Source | None = None,
    steps: int = 2000,
    meta_batch_size: int = 32,
    meta_lr: float = 3e-3,
    schedule: str = "cosine",
    clip: float | None = 10.0,
    validate_every: int | None = None,
    seed: int = 0,
    device: str = "auto",
    meta: Params | None = None,
    callbacks: Sequence[Callback] = (),
) -> Run:
    """Meta-train a learner on a task source.

    The episodes of step `k` come from `(seed, k)` alone. A task whose loss is not finite is left out of its
    step and counted. A learner with a direct solution (`mixed`) is fitted by it and takes no steps.

    Arguments:
        learner: the algorithm.
        source: meta-train tasks.
        valid: meta-validation tasks; the parameters with the lowest mean query loss on them are returned.
        steps: meta-updates.
        meta_batch_size: episodes a meta-update.
        meta_lr: step size of the outer Adam.
        schedule: `cosine` (to zero) or `constant`.
        clip: largest norm of the meta-gradient; `None` for no limit.
        validate_every: steps between validations; a twentieth of `steps` unless given, a fifth where tasks never
            repeat.
        seed: of everything random.
        device: `auto` (a GPU if there is one), `cpu`, `cuda`, ...
        meta: where to start; `learner.init()` unless given.
        callbacks: called with the log entry of every step.

    Returns:
        The run.

    Raises:
        UsageError: an argument has no meaning.
        DivergedError: no finite meta-gradient for 20 steps in a row.

    Example:
        >>> import innerloop as il
        >>> tasks = il.tasks.sinusoid(n_support=5)
        >>> learner = il.maml(il.models.mlp(1, [8], 1), loss="mse", inner_steps=1)
        >>> len(meta_train(learner, tasks.train, steps=3, device="cpu").log)
        3
    """
    _require_sense(steps, meta_batch_size, meta_lr, schedule, clip, validate_every, seed)
    began = time.perf_counter()
    place = resolve_device(device)
    if meta is None:
        meta = learner.init()
    meta = {name: value.to(place) for name, value in meta.items()}
    with threads_for(meta):
        fitted = _direct_fit(learner, meta, source)
    if fitted is not None:
        return Run(Model(learner, fitted), [], 0, 0, time.perf_counter() - began)

    with threads_for(meta):
        loop = _OuterLoop(learner, meta, meta_lr, schedule, steps, clip)
        # tasks without end are scored on many episodes each time, which training must not wait for
        endless = valid is not None and valid.n_tasks is None
        every = validate_every or max(1, steps // (5 if endless else 20))
        best, best_step, log = _descend(
            loop, source, valid, steps, meta_batch_size, every, seed, place, callbacks
        )
    return Run(Model(learner, best), log, best_step, loop.skipped, time.perf_counter() - began)


def _require_sense(
    steps: int,
    meta_batch_size: int,
    meta_lr: float,
    schedule: str,
    clip: float | None,
    validate_every: int | None,
    seed: int,
) -> None:
    """Refuse arguments without a meaning before anything is computed."""
    whole = {"steps": (steps, 0), "meta_batch_size": (meta_batch_size, 1), "seed": (seed, 0)}
    whole["validate_every"] = (1 if validate_every is None else validate_every, 1)
    for name, (value, least) in whole.items():
        if value < least:
            raise UsageError(f"{name}={value}: give {least} or more")
    for name, number in {"meta_lr": meta_lr, "clip": 1.0 if clip is None else clip}.items():
        if not 0 < number < math.inf:
            raise UsageError(f"{name}={number}: give a positive number")
    if schedule not in SCHEDULES:
        raise UsageError(f"schedule={schedule!r} is unknown: choose one of {', '.join(SCHEDULES)}")


def _descend(
    loop: _OuterLoop,
    source: Source,
    valid: Source | None,
    steps: int,
    meta_batch_size: int,
    every: int,
    seed: int,
    place: torch.device,
    callbacks: Sequence[Callback],
) -> tuple[Params, int, list[dict[str, Any]]]:
    """Take the steps; the best parameters by validation, their step, and the log."""
    log: list[dict[str, Any]] = []
    best, best_step, best_loss = loop.snapshot(), 0, math.inf
    for step in range(steps):
        episode = source.sample(meta_batch_size, stream(seed, _EPISODES, step))
        key = task_keys(meta_batch_size, stream(seed, _DROPOUT, step)).to(place)
        entry = {"step": step + 1, **loop.step(to(episode, place, loop.dtype), step, key)}
        if valid is not None and ((step + 1) % every == 0 or step + 1 == steps):
            entry["valid_loss"] = mean_loss(Model(loop.learner, loop.meta), valid, seed=VALIDATION_SEED)
            if entry["valid_loss"] < best_loss:
                best, best_step, best_loss = loop.snapshot(), step + 1, entry["valid_loss"]
        log.append(entry)
        for callback in callbacks:
            callback(entry)
    if math.isinf(best_loss):
        best, best_step = loop.snapshot(), steps
    return best, best_step, log


class _OuterLoop:
    """Meta-parameters, their optimiser and the guard against what is not finite."""

    def __init__(
        self, learner: Learner, meta: Params, lr: float, schedule: str, steps: int, clip: float | None
    ) -> None:
        self.learner, self.clip = learner, clip
        self.meta = {name: value.detach().clone() for name, value in meta.items()}
        self.dtype = next(iter(self.meta.values())).dtype
        self.optimizer = torch.optim.Adam(list(self.meta.values()), lr=lr, foreach=True)
        self.lr, self.schedule, self.steps = lr, schedule, max(steps, 1)
        self.skipped = self.failed = 0

    def snapshot(self) -> Params:
        return {name: value.detach().clone() for name, value in self.meta.items()}

    def step(self, episode: Episode, step: int, key: Tensor) -> dict[str, Any]:
        rate = self.lr
        if self.schedule == "cosine":
            rate *= 0.5 * (1 + math.cos(math.pi * step / self.steps))
        self.optimizer.param_groups[0]["lr"] = rate
        grads, metrics = self._finite_gradient(episode, step, key)
        losses = metrics["losses"]
        if grads is None:
            self.failed += 1
            if self.failed >= _PATIENCE_NONFINITE:
                raise DivergedError(
                    f"the meta-gradient was not finite for {self.failed} steps in a row, up to step "
                    f"{step + 1}: lower inner_lr or meta_lr, or limit the inner gradients (--inner-clip 1; "
                    "in Python clip=1.0 of the algorithm)"
                )
            return {"loss": math.nan, "meta_lr": rate}
        self.failed = 0
        values = list(grads.values())
        if self.clip is not None:
            norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(values)))
            torch._foreach_mul_(values, (self.clip / norm.clamp(min=self.clip)))
        for value, grad in zip(self.meta.values(), values, strict=True):
            value.grad = grad
        self.optimizer.step()
        for name in self.meta.keys() & metrics.keys():
            self.meta[name].copy_(metrics[name])  # what learns by watching, see `Learner.observe`
        return {"loss": losses.mean().item(), "meta_lr": rate}

    def _finite_gradient(self, episode: Episode, step: int, key: Tensor) -> tuple[Params | None, Metrics]:
        """The meta-gradient over the tasks whose loss is finite; `None` where there is none."""
        grads, metrics = self.learner.metagrad(self.learner, self.meta, episode, step, key)
        finite = torch.isfinite(metrics["losses"])
        if not finite.all():
            self.skipped += int((~finite).sum())
            if not finite.any():
                return None, metrics
            grads, metrics = self.learner.metagrad(
                self.learner, self.meta, select(episode, finite), step, key[finite]
            )
        total = torch.stack([grad.sum() for grad in grads.values()]).sum()
        return (grads if torch.isfinite(total) else None), metrics


def _direct_fit(learner: Learner, meta: Params, source: Source) -> Params | None:
    fit = getattr(learner, "fit", None)
    if fit is None:
        return None
    if isinstance(source, RowSource):
        rows = source.whole()
    else:
        episode = source.sample(1000, stream(0, _EPISODES))
        rows = episode.query
    fitted: Params | None = fit(meta, rows)
    return fitted


def task_keys(count: int, generator: torch.Generator) -> Tensor:
    """A dropout stream for each of `count` tasks, `(count,)` int64."""
    return torch.randint(-(2**62), 2**62, (count,), generator=generator)


def resolve_device(device: str) -> torch.device:
    """`auto` is a GPU if there is one, else the CPU.

    Raises:
        UsageError: there is no such device.

    Example:
        >>> resolve_device("cpu")
        device(type='cpu')
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        place = torch.device(device)
        torch.empty(0, device=place)
    except (RuntimeError, AssertionError) as error:
        # torch answers an unknown name with a list of everything it was ever built for
        reason = str(error).splitlines()[0].partition(". ")[0]
        why = "torch knows no such device" if reason.startswith("Expected one of") else reason
        raise UsageError(f"device={device!r} cannot be used ({why}): choose auto, cpu, cuda, ...") from None
    return place
