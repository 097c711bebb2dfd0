"""The outer loop: draw episodes, take a meta-gradient, step the optimiser, keep the best parameters."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch.utils import _pytree as pytree

from ..engine import Report
from ..engine.devices import AUTO, Choice, free_bytes, resolve_device
from ..engine.threads import threads_for
from ..errors import DivergedError, UsageError, check_known
from ..inner.learner import Learner, Model
from ..models.network import Params
from ..models.precision import products_in
from ..tasks.episodes import to
from ..tasks.sources import VALIDATION_SEED, Source, require_source, stream
from .direct import direct_fit
from .logs import Entry
from .loop import Gear, OuterLoop
from .mean_loss import mean_loss
from .memory import bytes_of
from .optimizers import Optimizer, adam, torch_optimizer
from .placement import update_work
from .prefetch import EPISODES, blocks_of
from .ranks import shared
from .schedules import SCHEDULES, Schedule
from .state import TrainingState
from .update import Outer

__all__ = ["Callback", "Every", "Gear", "Run", "meta_train"]

Make = Callable[[Iterable[torch.nn.Parameter]], torch.optim.Optimizer]


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
Engine = Gear  # by the name that the class had before


@dataclass(frozen=True, eq=False)
class Run:
    """What training returns.

    Arguments:
        model: the learner with the best meta-parameters by meta-validation, the last ones without it.
        log: one dict a logged step: `step`, `loss`, `meta_lr`, `grad_norm` (of the meta-gradient, before it is
            clipped), and `valid_loss` where it was measured.
        best_step: the step the returned parameters come from.
        skipped: tasks left out because their loss was not finite.
        seconds: time taken.
        gear: the gear that was taken, and why.
        at_once: most tasks that were worked on together, by the memory they need; `None` for all.
        placed: the device, and under `auto` why.
        remarks: what happened on the way, for people: that memory ran out, or why it ended early.
        state: after the last update, from which `meta_train(state=)` goes on; `None` for a direct solution.

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
    callbacks: Sequence[Callback] = (),
    shards: int | None = None,
    engine: str | Gear | None = None,
) -> Run:
    """Meta-train a learner on a task source.

    The episodes of step `k` come from `(seed, k)` alone. A task whose loss is not finite is left out of its
    step and counted. A learner with a direct solution (`mixed`, `gp`) is fitted by it and takes no steps.

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
            training of `steps` updates, to the bit; the best validation of that run is not known any more.
        callbacks: called with the log entry of every step, of short steps several times in a row; an `Every` sees the
            state too. One that raises `StopIteration` ends the training, and the best parameters are returned.
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
    began = time.perf_counter()
    moving = _optimizer(optimizer, meta_lr)
    rates = _schedule(schedule, meta_lr, steps)
    parts = shared(shards, meta_batch_size)
    # a direct solution is small work
    choice = resolve_device(device)
    meta = to(learner.init() if meta is None else meta, choice.device)
    with threads_for(meta):
        fitted = direct_fit(learner, meta, source, seed=seed)
    if fitted is not None:
        params, remarks = fitted
        seconds = time.perf_counter() - began
        return Run(Model(learner, params), [], 0, 0, seconds, placed=choice, remarks=remarks)
    start = meta
    choice = resolve_device(
        device,
        lambda: update_work(learner, start, source.sample(meta_batch_size, stream(seed, EPISODES, 0))),
    )
    outer = _started(learner, to(meta, choice.device), moving, state, steps, choice.device)

    with threads_for(outer.meta), products_in(precision):
        most = free_bytes(choice.device) if memory == AUTO else bytes_of(memory)
        loop = OuterLoop(
            learner,
            outer,
            optimizer=moving,
            schedule=rates,
            made=0 if state is None else state.step,
            steps=steps,
            clip=clip,
            gear=gear,
            memory=most,
            shards=parts,
        )
        # tasks without end are scored on many episodes each time, which training must not wait for
        endless = valid is not None and valid.n_tasks is None
        every = validate_every or max(1, steps // (5 if endless else 20))
        descent = _Descent(loop, valid, every, patience, callbacks)
        best, best_step, log = descent.run(source, steps, meta_batch_size, seed, choice.device)
    seconds = time.perf_counter() - began
    model = Model(learner, best)
    return Run(
        model,
        log,
        best_step,
        loop.skipped,
        seconds,
        loop.report,
        loop.chunk,
        choice,
        tuple(loop.remarks),
        TrainingState(loop.made, loop.state),
    )


def _require_parts(learner: object, source: object, valid: object) -> None:
    """Refuse what is no learner or no source."""
    if not isinstance(learner, Learner):
        raise UsageError(
            f"a {type(learner).__name__} is no learner: make one around it, such as il.maml(module, loss='mse')"
        )
    require_source(source, "train")
    if valid is not None:
        require_source(valid, "valid")


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


def _started(
    learner: Learner,
    meta: Params,
    optimizer: Optimizer,
    state: TrainingState | None,
    steps: int,
    device: torch.device,
) -> Outer:
    """The first state, or the one that is given, if it is of such a training."""
    if state is None:
        return Outer.start(meta, optimizer)
    if state.step > steps:
        raise UsageError(
            f"steps={steps}: the state is one after {state.step} updates; give all of them, old and new"
        )
    shapes = {name: value.shape for name, value in meta.items()}
    if {name: value.shape for name, value in state.meta.items()} != shapes:
        raise UsageError("state= is of another learner: its meta-parameters have other names or shapes")
    moved: Outer = pytree.tree_map_only(torch.Tensor, lambda t: t.to(device), state.outer)
    return moved


class _Descent:
    """Take the steps; keep the best parameters by validation, call the callbacks, and end early where asked to."""

    def __init__(
        self,
        loop: OuterLoop,
        valid: Source | None,
        every: int,
        patience: int | None,
        callbacks: Sequence[Callback],
    ) -> None:
        self.loop, self.valid, self.every, self.patience, self.callbacks = (
            loop,
            valid,
            every,
            patience,
            callbacks,
        )
        self.log: list[Entry] = []
        self.best, self.best_step, self.best_loss = loop.meta, loop.made, math.inf
        self.worse = 0  # validations in a row

    def run(
        self, source: Source, steps: int, meta_batch_size: int, seed: int, device: torch.device
    ) -> tuple[Params, int, list[Entry]]:
        """The best parameters, their step, and the log."""
        loop = self.loop
        rounded = loop.gear.name not in ("eager", "loop")
        looking = [one.steps for one in self.callbacks if isinstance(one, Every)]
        cut = math.gcd(*looking, *([self.every] if self.valid is not None else [])) or max(steps, 1)
        own = None if loop.shards is None else loop.shards.own(meta_batch_size)
        blocks = blocks_of(
            source,
            meta_batch_size,
            seed,
            steps,
            cut,
            device,
            loop.dtype,
            rounded=rounded,
            start=loop.made,
            own=own,
        )
        for entry in (entry for block in blocks for entry in loop.take(block)):
            ends = self._ends(entry, steps)
            if ends if loop.shards is None else loop.shards.ranks.any(ends):
                break
        validated = [entry["valid_loss"] for entry in self.log if "valid_loss" in entry]
        lost = self.log and all(math.isnan(entry["loss"]) for entry in self.log)
        if math.isinf(self.best_loss) and (validated or lost):
            what = "loss on the meta-validation tasks" if validated else "meta-gradient"
            raise DivergedError(f"no {what} was finite in {steps} steps: lower inner_lr or meta_lr")
        if math.isinf(self.best_loss):
            return loop.meta, loop.made, self.log
        return self.best, self.best_step, self.log

    def _ends(self, entry: Entry, steps: int) -> bool:
        """Validate, log and call back; whether the training ends here."""
        step = int(entry["step"])
        if self.valid is not None and (step % self.every == 0 or step == steps):
            self._validate(entry, self.valid)
        self.log.append(entry)
        shards = self.loop.shards
        try:
            for callback in self.callbacks if shards is None or shards.ranks.rank == 0 else ():
                self._call(callback, step, entry)
        except StopIteration as error:
            why = f": {error}" if str(error) else ""
            self.loop.remarks.append(f"a callback ended the training after update {step}{why}")
            return True
        if self.patience is not None and self.worse >= self.patience:
            self.loop.remarks.append(
                f"ended after update {step}: no better validation for {self.worse} in a row"
            )
            return True
        return False

    def _call(self, callback: Callback, step: int, entry: Entry) -> None:
        if not isinstance(callback, Every):
            callback(entry)
        elif step % callback.steps == 0:
            callback.look(TrainingState(step, self.loop.state), entry)

    def _validate(self, entry: Entry, valid: Source) -> None:
        meta = self.loop.meta
        with products_in("float32"):
            model = Model(self.loop.learner, meta)
            entry["valid_loss"] = mean_loss(model, valid, seed=VALIDATION_SEED, shards=self.loop.shards)
        if entry["valid_loss"] < self.best_loss:
            self.best, self.best_step, self.best_loss, self.worse = (
                meta,
                self.loop.made,
                entry["valid_loss"],
                0,
            )
        else:
            self.worse += 1
