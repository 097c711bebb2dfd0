"""The outer loop: draw episodes, take a meta-gradient, step the optimiser, keep the best parameters."""

from __future__ import annotations

import itertools
import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..engine import GEARS, Fast, Report
from ..engine.devices import AUTO, Choice, free_bytes, resolve_device
from ..engine.threads import threads_for
from ..errors import DivergedError, ResourceError, UsageError, check_known
from ..inner.learner import Learner, Metrics, Model, empty
from ..models.network import Params, reference
from ..models.precision import products, products_in
from ..tasks.episodes import Episode, select, to
from ..tasks.sources import VALIDATION_SEED, RowSource, Source, require_source, stream
from .logs import Entry
from .mean_loss import mean_loss
from .memory import bytes_of, tasks_at_once
from .placement import update_work
from .prefetch import EPISODES, Block, blocks_of
from .update import Outer, Update, geared_update, meta_update, numbers_of

__all__ = ["Callback", "Gear", "Run", "meta_train"]

SCHEDULES = ("cosine", "constant")
TRAINING_GEARS = (*GEARS, "loop")

_PATIENCE_NONFINITE = 20
# updates are made in one go for so long, so that the log and an interruption need not wait
_SECONDS_TOGETHER = 0.1

Callback = Callable[[Entry], None]


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
        self, learner: Learner, steps: int, *, clip: float | None, chunk: int | None
    ) -> Fast[tuple[Outer, Metrics]]:
        """The meta-update of a learner in this gear; see `outer.meta_update`."""
        gear = "eager" if self.name == "loop" else self.name
        planned = self.planned or steps
        made = geared_update(learner, clip=clip, chunk=chunk, gear=gear, planned=planned)
        recipe = json.dumps(learner.recipe, sort_keys=True, default=repr)
        # a module or loss from elsewhere is not told by the recipe
        if learner.recipe is None or '"external"' in recipe:
            return made
        return self.kept.setdefault(f"{recipe} {clip} {chunk} {products()}", made)


Engine = Gear  # by the name that the class had before


@dataclass(frozen=True, eq=False)
class Run:
    """What training returns.

    Arguments:
        model: the learner with the best meta-parameters by meta-validation, the last ones without it.
        log: one dict a logged step: `step`, `loss`, `meta_lr`, and `valid_loss` where it was measured.
        best_step: the step the returned parameters come from.
        skipped: tasks left out because their loss was not finite.
        seconds: time taken.
        gear: the gear that was taken, and why.
        at_once: most tasks that were worked on together, by the memory they need; `None` for all.
        placed: the device, and under `auto` why.
        remarks: what happened on the way, for people: that memory ran out, say.

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
    schedule: str = "cosine",
    clip: float | None = 10.0,
    validate_every: int | None = None,
    seed: int = 0,
    device: str = "auto",
    gear: str | Gear = "auto",
    memory: str = AUTO,
    precision: str = "float32",
    meta: Params | None = None,
    callbacks: Sequence[Callback] = (),
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
        meta_lr: step size of the outer Adam.
        schedule: `cosine` (to zero) or `constant`.
        clip: largest norm of the meta-gradient; `None` for no limit.
        validate_every: steps between validations; a twentieth of `steps` unless given, a fifth where tasks never
            repeat.
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
        callbacks: called with the log entry of every step, of short steps several times in a row.
        engine: the gear, by the name that this argument had before.

    Raises:
        UsageError: an argument has no meaning.
        DivergedError: no finite meta-gradient for 20 steps in a row, or no finite loss on `valid` at all.
        ResourceError: the device has no memory for a single task.

    Example:
        >>> import innerloop as il
        >>> tasks = il.tasks.sinusoid(n_support=5)
        >>> learner = il.maml(il.models.mlp(1, [8], 1), loss="mse", inner_steps=1)
        >>> len(meta_train(learner, tasks.train, steps=3, device="cpu").log)
        3
    """
    _require_parts(learner, source, valid)
    _require_sense(steps, meta_batch_size, meta_lr, schedule, clip, validate_every, seed)
    gear = gear if engine is None else engine
    if isinstance(gear, str):
        gear = Gear(gear)
    began = time.perf_counter()
    # a direct solution is small work
    choice = resolve_device(device)
    meta = to(learner.init() if meta is None else meta, choice.device)
    with threads_for(meta):
        fitted = _direct_fit(learner, meta, source)
    if fitted is not None:
        params, remarks = fitted
        seconds = time.perf_counter() - began
        return Run(Model(learner, params), [], 0, 0, seconds, placed=choice, remarks=remarks)
    start = meta
    choice = resolve_device(
        device,
        lambda: update_work(learner, start, source.sample(meta_batch_size, stream(seed, EPISODES, 0))),
    )
    meta = to(meta, choice.device)

    with threads_for(meta), products_in(precision):
        most = free_bytes(choice.device) if memory == AUTO else bytes_of(memory)
        loop = _OuterLoop(learner, meta, meta_lr, schedule, steps, clip, gear, most)
        # tasks without end are scored on many episodes each time, which training must not wait for
        endless = valid is not None and valid.n_tasks is None
        every = validate_every or max(1, steps // (5 if endless else 20))
        best, best_step, log = _descend(
            loop, source, valid, steps, meta_batch_size, every, seed, choice.device, callbacks
        )
    seconds = time.perf_counter() - began
    model = Model(learner, best)
    return Run(
        model, log, best_step, loop.skipped, seconds, loop.report, loop.chunk, choice, tuple(loop.remarks)
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
    check_known("schedule", schedule, SCHEDULES)


def _descend(
    loop: _OuterLoop,
    source: Source,
    valid: Source | None,
    steps: int,
    meta_batch_size: int,
    every: int,
    seed: int,
    device: torch.device,
    callbacks: Sequence[Callback],
) -> tuple[Params, int, list[Entry]]:
    """Take the steps; the best parameters by validation, their step, and the log."""
    log: list[Entry] = []
    best, best_step, best_loss = loop.state.meta, 0, math.inf
    rounded = loop.gear.name not in ("eager", "loop")
    cut = every if valid is not None else max(steps, 1)
    blocks = blocks_of(source, meta_batch_size, seed, steps, cut, device, loop.dtype, rounded=rounded)
    for entry in (entry for block in blocks for entry in loop.take(block)):
        step = int(entry["step"])
        if valid is not None and (step % every == 0 or step == steps):
            with products_in("float32"):
                entry["valid_loss"] = mean_loss(
                    Model(loop.learner, loop.state.meta), valid, seed=VALIDATION_SEED
                )
            if entry["valid_loss"] < best_loss:
                best, best_step, best_loss = loop.state.meta, step, entry["valid_loss"]
        log.append(entry)
        for callback in callbacks:
            callback(entry)
    validated = [entry["valid_loss"] for entry in log if "valid_loss" in entry]
    if math.isinf(best_loss) and (validated or (log and all(math.isnan(entry["loss"]) for entry in log))):
        what = "loss on the meta-validation tasks" if validated else "meta-gradient"
        raise DivergedError(f"no {what} was finite in {steps} steps: lower inner_lr or meta_lr")
    if math.isinf(best_loss):
        best, best_step = loop.state.meta, steps
    return best, best_step, log


class _OuterLoop:
    """The state of training, the update in its gear, and the guard against what is not finite."""

    def __init__(
        self,
        learner: Learner,
        meta: Params,
        lr: float,
        schedule: str,
        steps: int,
        clip: float | None,
        gear: Gear,
        memory: int,
    ) -> None:
        self.learner, self.clip, self.gear, self.memory = learner, clip, gear, memory
        self.state = Outer.start(meta)
        self.dtype = reference(meta).dtype
        self.lr, self.schedule, self.steps = lr, schedule, max(steps, 1)
        self.skipped = self.failed = 0
        self.chunk: int | None = None
        self.remarks: list[str] = []
        self.update: Fast[tuple[Outer, Metrics]] | None = None
        self.seconds = math.inf  # of an update, lately

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
        steps = range(block.first, block.first + len(block.key))
        numbers = torch.stack([numbers_of(step, self._rate(step), block.key.device) for step in steps])
        try:
            state, metrics = self.update.scan(self.state, (numbers, block.episode, block.key), phase)
        except Exception:
            # an update that is not finite was handed on; what else there is comes up one by one
            return []
        losses = metrics["losses"].tolist()
        if not (all(map(math.isfinite, itertools.chain(*losses))) and metrics["finite"].all()):
            return []
        self.failed, self.state = 0, state
        return [
            {"step": step + 1, "loss": sum(own) / len(own), "meta_lr": self._rate(step)}
            for step, own in zip(steps, losses, strict=True)
        ]

    def _rate(self, step: int) -> float:
        """Adam's step size by the schedule."""
        if self.schedule == "constant":
            return self.lr
        return self.lr * 0.5 * (1 + math.cos(math.pi * step / self.steps))

    def step(self, episode: Episode, step: int, key: Tensor) -> Entry:
        """One update; what goes into the log."""
        if self.update is None:
            self.update = self._planned(episode)
        rate = self._rate(step)
        if empty(episode.support):
            self.learner.adapt(self.state.meta, episode.support)  # raises where that cannot be
        phase = self.learner.metagrad.phase(step)
        numbers = numbers_of(step, rate, key.device)
        state, metrics = self._updated(numbers, episode, key, phase)
        losses = metrics["losses"].tolist()
        finite = [math.isfinite(loss) for loss in losses]
        if not all(finite):
            self.skipped += finite.count(False)
            losses = []
            if any(finite):
                chosen = torch.tensor(finite, device=key.device)
                state, metrics = self._plain()(
                    self.state, numbers, select(episode, chosen), key[chosen], phase
                )
                losses = metrics["losses"].tolist()
        if not (losses and metrics["finite"]):
            self._failed(step)
            return {"step": step + 1, "loss": math.nan, "meta_lr": rate}
        self.failed, self.state = 0, state
        return {"step": step + 1, "loss": sum(losses) / len(losses), "meta_lr": rate}

    def _updated(self, numbers: Tensor, episode: Episode, key: Tensor, phase: int) -> tuple[Outer, Metrics]:
        """One update; where the device has no memory for it, with half as many tasks at once from here on."""
        while True:
            try:
                assert self.update is not None
                return self.update(self.state, numbers, episode, key, phase)
            except torch.OutOfMemoryError as error:
                full = str(error)
            # outside of the handler, whose traceback keeps what was computed
            self._halve(episode.n_tasks, int(numbers[0]) + 1, full)

    def _halve(self, tasks: int, step: int, full: str) -> None:
        """Half as many tasks at once; said once, however often it happens."""
        before = min(self.chunk or tasks, tasks)
        if before == 1:
            raise ResourceError(
                f"the device has no memory for one task (update {step}): take fewer inner steps or query rows, "
                f"metagrad='checkpointed', or device='cpu'. It said: {full.splitlines()[0]}"
            )
        self.chunk = before // 2
        self.remarks[:] = [
            f"memory ran out (update {step}): at most {self.chunk} tasks at once from there on"
        ]
        self.update = self.gear.update(self.learner, self.steps, clip=self.clip, chunk=self.chunk)
        if self.state.device.type == "cuda":
            torch.cuda.empty_cache()

    def _plain(self) -> Update:
        return meta_update(self.learner, clip=self.clip, chunk=self.chunk)

    def _planned(self, episode: Episode) -> Fast[tuple[Outer, Metrics]]:
        """The update in its gear; how many tasks at once follows from the memory they need."""
        if self.gear.name == "loop":
            self.chunk = 1
        else:
            self.chunk = tasks_at_once(self.learner, self.state.meta, episode, self.memory)
        return self.gear.update(self.learner, self.steps, clip=self.clip, chunk=self.chunk)

    def _failed(self, step: int) -> None:
        self.failed += 1
        if self.failed >= _PATIENCE_NONFINITE:
            raise DivergedError(
                f"the meta-gradient was not finite for {self.failed} steps in a row, up to step "
                f"{step + 1}: lower inner_lr or meta_lr, or limit the inner gradients (--inner-clip 1; "
                "in Python clip=1.0 of the algorithm)"
            )


def _direct_fit(learner: Learner, meta: Params, source: Source) -> tuple[Params, tuple[str, ...]] | None:
    """Meta-parameters that the learner finds without gradients, with its remarks; `None` if it does not."""
    if not learner.fits_directly:
        return None
    rows = source.whole() if isinstance(source, RowSource) else source.sample(1000, stream(0, EPISODES)).query
    rows = to(rows, next(iter(meta.values())).device)
    fitted = learner.fit(meta, rows)
    return None if fitted is None else (fitted, learner.remarks(fitted, rows))
