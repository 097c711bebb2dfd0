"""The outer loop: draw episodes, take a meta-gradient, step the optimiser, keep the best parameters."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace

import torch
from torch.utils import _pytree as pytree

from ..engine import Report
from ..engine.devices import AUTO, Choice, free_bytes, resolve_device
from ..engine.threads import threads_for
from ..errors import UsageError, check_known
from ..inner.given_rows import is_standardised
from ..inner.learner import Learner
from ..inner.model import Model
from ..inner.per_target import require_targets
from ..models.network import Params
from ..models.precision import products_in
from ..notebook import as_html
from ..tasks.episodes import to
from ..tasks.sources import Source, require_source, stream
from .descent import Callback, Descent, Episodes, Every
from .direct import direct_fit
from .logs import Entry
from .loop import Gear, OuterLoop
from .memory import bytes_of
from .optimizers import Optimizer, adam, torch_optimizer
from .placement import update_work
from .prefetch import EPISODES
from .progress import progress as shown
from .ranks import shared
from .schedules import SCHEDULES, Schedule
from .state import Checkpointer, TrainingState
from .update import Outer

__all__ = ["Callback", "Every", "Gear", "Run", "meta_train"]

Make = Callable[[Iterable[torch.nn.Parameter]], torch.optim.Optimizer]


# why there are no updates to make
_FITTED = "it was fitted directly"
Engine = Gear  # by the name that the class had before


@dataclass(frozen=True, eq=False)
class Run:
    """What training returns.

    Arguments:
        model: the learner with the best meta-parameters by meta-validation, the last ones without it.
        log: one dict a logged step: `step`, `loss`, `meta_lr`, `grad_norm` (of the meta-gradient, before it is
            clipped), and `valid_loss` where it was measured.
        best_step: the step the returned parameters come from.
        skipped: tasks left out because their loss was not finite; `remarks` names them.
        seconds: time taken.
        gear: the gear that was taken, and why.
        at_once: most tasks that were worked on together, by the memory they need; `None` for all.
        placed: the device, and under `auto` why.
        remarks: what happened on the way, for people: that memory ran out, or why it ended early.
        state: after the last update, from which `meta_train(state=)` goes on; `None` for a direct solution.
        interrupted: Ctrl-C ended it, and the model is the best one so far.

    Example:
        >>> import innerloop as il
        >>> run = il.meta_train(il.mixed(1), il.tasks.sinusoid().train, device="cpu")
        >>> run.best_step, run.skipped
        (0, 0)
    """

    model: Model
    log: list[Entry] = field(repr=False)
    best_step: int
    skipped: int
    seconds: float
    gear: Report = field(default_factory=Report)
    at_once: int | None = None
    placed: Choice = field(default_factory=lambda: resolve_device("cpu"))
    remarks: tuple[str, ...] = ()
    state: TrainingState | None = field(default=None, repr=False)
    interrupted: bool = False

    def _repr_html_(self) -> str:
        """What notebooks show: what training did, and its losses at ten steps or fewer."""
        facts = {
            "best step": self.best_step,
            "seconds": f"{self.seconds:.1f}",
            "gear": self.gear,
            "device": self.placed,
            "tasks left out": self.skipped or None,
            "remarks": self.remarks,
        }
        names = [name for name in ("step", "loss", "valid_loss") if any(name in entry for entry in self.log)]
        every = max(1, math.ceil(len(self.log) / 10))
        entries = [*reversed(self.log[::-1][::every])]  # the last one is among them
        rows = [[entry.get(name, "") for name in names] for entry in entries]
        return as_html(f"Run: {self.model.learner.called}", facts, [names, *rows] if rows else ())

    @property
    def engine(self) -> Report:
        """The gear, by the name that it had before."""
        return self.gear


def meta_train(
    learner: Learner,
    source: Source,
    *,
    valid: Source | None = None,
    steps: int = 2000,
    meta_batch_size: int = 32,
    meta_lr: float = 3e-3,
    optimizer: Optimizer | Make | None = None,
    schedule: str | Schedule = "cosine",
    clip: float | None = 10.0,
    validate_every: int | None = None,
    patience: int | None = None,
    seed: int = 0,
    device: str = "auto",
    gear: str | Gear = "auto",
    memory: str = AUTO,
    precision: str = "float32",
    meta: Params | None = None,
    state: TrainingState | None = None,
    checkpoints: Checkpointer | None = None,
    callbacks: Sequence[Callback] = (),
    progress: bool = False,
    shards: int | None = None,
    engine: str | Gear | None = None,
) -> Run:
    """Meta-train a learner on a task source.

    The episodes of step `k` come from `(seed, k)` alone. A task whose loss is not finite is left out of its
    step, counted and named. A learner with a direct solution (`mixed`, `gp`) is fitted by it and takes no steps.

    Ctrl-C ends the training after the update under way, with a warning, and the best parameters so far are returned;
    once more raises `KeyboardInterrupt`. With `checkpoints`, its state is kept then, and on SIGTERM, which goes on to
    do what it did before.

    Arguments:
        learner: the algorithm.
        source: meta-train tasks.
        valid: meta-validation tasks; the parameters with the lowest mean query loss on them are returned.
        steps: meta-updates.
        meta_batch_size: episodes a meta-update.
        meta_lr: largest step size of the outer loop.
        optimizer: of the outer loop: one of `innerloop.optimizers`, Adam unless given, or a function that makes one of
            `torch.optim` out of parameters; the step sizes of its groups then stand for `meta_lr`.
        schedule: `cosine` (to zero), `constant`, `linear` (to zero), `one_cycle`, or a function from the number of the
            update, from 0, to the step size; see `innerloop.schedules`.
        clip: largest norm of the meta-gradient; `None` for no limit.
        validate_every: steps between validations; a twentieth of `steps` unless given, a fifth where tasks never
            repeat.
        patience: end after so many validations in a row that were no better than the best one.
        seed: of everything random.
        device: `cpu`, `cuda`, ..., or `auto`, which takes the GPU where an update is estimated to be faster there;
            `Run.placed` says why.
        gear: of the meta-update: `eager`, `traced` (one graph of operators), `compiled` (machine code),
            `loop` (task by task), or `auto`, the fastest that pays within `steps`; see `innerloop.fast`. A `Gear`
            shares what is made among trainings.
        memory: memory of the tasks that are worked on at once, as in `512MB` or `2GB`; fewer at once where
            they need more. `auto` is 512 MB on the CPU, where large activations are slow all at once, and 60 % of
            what is free on a GPU. Where it runs out all the same, half as many tasks are tried.
        precision: `bfloat16` for the network's products of matrices and convolutions: for hardware that is faster at
            them, at the price of a coarser meta-gradient. Parameters, sums, losses, heads and scores stay float32.
        meta: where to start; `learner.init()` unless given.
        state: of a run that was ended, `run.state`: its updates are taken for made, and the result is that of one
            training of `steps` updates, to the bit, its log and best validation included.
        checkpoints: keeps the state of the training, `innerloop.Checkpoints(folder)` on disk; where it holds one
            already, the training goes on from that.
        callbacks: called with the log entry of every step, of short steps several times in a row; an `Every` sees the
            state too. One that raises `StopIteration` ends the training, and the best parameters are returned.
        progress: show update, loss and time left while it runs: a bar in notebooks and terminals, lines elsewhere.
        shards: parts of a meta-batch that the processes of `torchrun` share, 8 there unless given; any number of them
            makes the same updates, to the bit. 0: each process trains by itself. Callbacks are called on rank 0.
        engine: the gear, by the name that this argument had before.

    Raises:
        UsageError: an argument has no meaning.
        DivergedError: no finite meta-gradient for 20 steps in a row, or no finite loss on `valid` at all.
        ResourceError: the device has no memory for a single task, or another process of `torchrun` is gone.

    Example:
        >>> import innerloop as il
        >>> tasks = il.tasks.sinusoid(n_support=5)
        >>> learner = il.maml(il.models.mlp(1, [8], 1), loss="mse", inner_steps=1)
        >>> len(meta_train(learner, tasks.train, steps=3, device="cpu").log)
        3
    """
    _require_parts(learner, source, valid)
    _require_sense(steps, meta_batch_size, meta_lr, clip, validate_every, patience, seed, callbacks)
    gear = gear if engine is None else engine
    if isinstance(gear, str):
        gear = Gear(gear)
    moving = _optimizer(optimizer, meta_lr)
    rates = _schedule(schedule, meta_lr, steps)
    settings: dict[str, object] = {
        "steps": steps, "meta_batch_size": meta_batch_size, "meta_lr": meta_lr, "optimizer": _name(moving),
        "schedule": schedule if isinstance(schedule, str) else _name(schedule), "clip": clip,
        "validate_every": validate_every, "patience": patience, "seed": seed, "precision": precision,
        "gear": gear.name, "memory": memory, "device": device,
    }  # fmt: skip
    parts = shared(shards, meta_batch_size)
    if parts is not None:
        settings["shards"] = parts.count
        # one of the ranks keeps states and calls back; they all have the same
        if parts.ranks.rank:
            callbacks, checkpoints, progress = (), None, False
    with nullcontext() if checkpoints is None else checkpoints:
        state = None if state is None else state._replace(ended="")
        if checkpoints is not None:
            state = checkpoints.newest(learner, source, valid, settings) or state
        if parts is not None:
            state = parts.ranks.every(state)[0]
        # a direct solution is small work
        choice = resolve_device(device)
        meta = to(learner.init() if meta is None else meta, choice.device)
        direct = _direct(learner, meta, source, seed, choice, state, checkpoints)
        if direct is not None:
            return _marked(direct, source)
        start = meta
        choice = resolve_device(
            device,
            lambda: update_work(learner, start, source.sample(meta_batch_size, stream(seed, EPISODES, 0))),
        )
        first = _started(to(meta, choice.device), moving, state, steps, choice.device)
        bar = shown(learner.called, steps) if progress else nullcontext()
        with threads_for(first.meta), products_in(precision), bar as show:
            most = free_bytes(choice.device) if memory == AUTO else bytes_of(memory)
            loop = OuterLoop(
                learner, first, optimizer=moving, schedule=rates, steps=steps, clip=clip, gear=gear, memory=most,
                shards=parts,
            )  # fmt: skip
            # tasks without end are scored on many episodes each time, which training must not wait for
            endless = valid is not None and valid.n_tasks is None
            descent = Descent(
                loop,
                first,
                valid=valid,
                every=validate_every or max(1, steps // (5 if endless else 20)),
                patience=patience,
                callbacks=callbacks if show is None else [*callbacks, show],
                checkpoints=checkpoints,
            )
            last = descent.run(Episodes(source, meta_batch_size, seed, steps, choice.device))
    run = _run(learner, loop, last, choice=choice, interrupted=descent.interrupted)
    return _marked(run, source)


def _run(learner: Learner, loop: OuterLoop, last: TrainingState, *, choice: Choice, interrupted: bool) -> Run:
    """What training returns, of its last state."""
    validated = last.best is not None and math.isfinite(last.best.loss)
    meta, step = (last.best.meta, last.best.step) if last.best and validated else (loop.meta, last.step)
    remarks = (*last.remarks, *([last.ended] if last.ended else []))
    return Run(
        Model(learner, meta), list(last.log), step, last.skipped, last.seconds, loop.report, loop.chunk, choice,
        remarks, last, interrupted,
    )  # fmt: skip


def _marked(run: Run, source: Source) -> Run:
    """The run, whose model knows whether the rows that it has seen were standardised."""
    return replace(run, model=replace(run.model, standardised=is_standardised(source)))


def _direct(
    learner: Learner,
    meta: Params,
    source: Source,
    seed: int,
    choice: Choice,
    state: TrainingState | None,
    checkpoints: Checkpointer | None,
) -> Run | None:
    """A learner fitted by its direct solution; `None` where it has none. A checkpoint holds the solution."""
    if not learner.fits_directly:
        return None
    began = time.perf_counter()
    if state is not None and state.ended == _FITTED:
        params = to(state.meta, choice.device)
        return Run(Model(learner, params), [], 0, 0, state.seconds, placed=choice, remarks=state.remarks)
    with threads_for(meta):
        fitted = direct_fit(learner, meta, source, seed=seed)
    if fitted is None:
        return None
    params, remarks = fitted
    seconds = time.perf_counter() - began
    if checkpoints is not None:
        done = TrainingState(0, Outer(params, {}), seconds=seconds, remarks=remarks, ended=_FITTED)
        checkpoints.save(done, now=True)
    return Run(Model(learner, params), [], 0, 0, seconds, placed=choice, remarks=remarks)


def _require_parts(learner: object, source: object, valid: object) -> None:
    """Refuse what is no learner or no source."""
    if not isinstance(learner, Learner):
        raise UsageError(
            f"a {type(learner).__name__} is no learner: make one around it, such as il.maml(module, loss='mse')"
        )
    require_source(source, "train")
    require_targets(learner, source)
    if valid is not None:
        require_source(valid, "valid")
        require_targets(learner, valid)


def _require_sense(
    steps: int,
    meta_batch_size: int,
    meta_lr: float,
    clip: float | None,
    validate_every: int | None,
    patience: int | None,
    seed: int,
    callbacks: Sequence[Callback],
) -> None:
    """Refuse arguments without a meaning before anything is computed."""
    whole = {"steps": (steps, 0), "meta_batch_size": (meta_batch_size, 1), "seed": (seed, 0)}
    whole["validate_every"] = (1 if validate_every is None else validate_every, 1)
    whole["patience"] = (1 if patience is None else patience, 1)
    for callback in callbacks:
        if isinstance(callback, Every):
            whole["Every(steps)"] = (callback.steps, 1)
    for name, (value, least) in whole.items():
        if value < least:
            raise UsageError(f"{name}={value}: give {least} or more")
    for name, number in {"meta_lr": meta_lr, "clip": 1.0 if clip is None else clip}.items():
        if not 0 < number < math.inf:
            raise UsageError(f"{name}={number}: give a positive number")


def _optimizer(optimizer: Optimizer | Make | None, meta_lr: float) -> Optimizer:
    if optimizer is None:
        return adam()
    if isinstance(optimizer, Optimizer):
        return optimizer
    if callable(optimizer):
        return torch_optimizer(optimizer, rate=meta_lr)
    raise UsageError(
        f"optimizer={optimizer!r} is none: give one of innerloop.optimizers, such as adamw(), or a function of "
        "parameters that returns one of torch.optim"
    )


def _schedule(schedule: str | Schedule, meta_lr: float, steps: int) -> Schedule:
    if not isinstance(schedule, str):
        return schedule
    check_known("schedule", schedule, SCHEDULES)
    return SCHEDULES[schedule](meta_lr, max(steps, 1))


def _name(part: object) -> str:
    """What an optimizer or a schedule is called; those of the user's own by the name of their function."""
    return str(getattr(part, "name", "") or getattr(part, "__qualname__", type(part).__qualname__))


def _started(
    meta: Params, optimizer: Optimizer, state: TrainingState | None, steps: int, device: torch.device
) -> TrainingState:
    """The first state, or the one that is given, if it is of such a training."""
    if state is None:
        return TrainingState(0, Outer.start(meta, optimizer))
    if state.step > steps:
        raise UsageError(
            f"steps={steps}: the state is one after {state.step} updates; give all of them, old and new"
        )
    shapes = {name: value.shape for name, value in meta.items()}
    if {name: value.shape for name, value in state.meta.items()} != shapes:
        raise UsageError("state= is of another learner: its meta-parameters have other names or shapes")
    parts = (state.outer, state.best)
    outer, best = pytree.tree_map_only(torch.Tensor, lambda t: t.to(device), parts)
    return state._replace(outer=outer, best=best)
