"""Baseline networks without meta-learning: trained on pooled rows, fine-tuned, or from scratch in each task.

A gradient learner with no inner step is a net that is trained on the rows of all tasks and never adapts.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import numpy as np
import torch

from ..algorithms import ALGORITHMS
from ..algorithms.assemble import learner_for, sound_settings
from ..algorithms.baselines import RidgeHead
from ..algorithms.gradient_based import inner_rule
from ..engine.devices import Choice
from ..engine.threads import threads_for
from ..inner.gradient import GradientLearner
from ..inner.head import HeadLearner
from ..inner.heads import Head, LaplaceHead
from ..inner.learner import Learner
from ..inner.model import Model
from ..inner.rules import InnerRule
from ..models.builtin import build
from ..models.network import Network, reference
from ..outer.interrupts import interruption_unsaid
from ..outer.metagrad import unrolled
from ..outer.placement import placed
from ..outer.training import Gear, Run, meta_train
from ..tasks.augment import Augmented
from ..tasks.episodes import Batch, Episode, to
from ..tasks.sources import EVALUATION_SEED, ClassSource, RowSource, Source, SupportSize, Targets
from ..tasks.splits import Tasks
from .linear import with_best_spread

__all__ = [
    "NO_ADAPTATION",
    "AllClasses",
    "Bench",
    "Settings",
    "best_stop",
    "fine_tuned",
    "from_scratch",
    "linear_head",
    "whole_training",
]

Settings: TypeAlias = Mapping[str, Any]  # arguments of `learner_for` and of the trainer

OUTER = ("meta_lr", "meta_batch_size")
# settings that leave a net as it is
NO_ADAPTATION: Settings = {"inner_steps": 0, "learn_lr": None, "clip": None}

# support sets of each meta-validation task that a step is chosen by, and episodes where tasks never repeat
_DRAWS, _EPISODES = 3, 100


def whole_training(learner: Learner, source: Source, **options: Any) -> Run:
    """`meta_train`, of which half is not compared.

    Raises:
        KeyboardInterrupt: Ctrl-C ended it.
    """
    with interruption_unsaid():
        run = meta_train(learner, source, **options)
    if run.interrupted:
        raise KeyboardInterrupt
    return run


@dataclass(frozen=True, eq=False)
class Bench:
    """Where the methods of one fold and seed are trained; what several of them start from is trained once.

    Arguments:
        tasks: the fold.
        seed: of parameters and episodes.
        steps: meta-updates of a training.
        model: options of `learner_for` for the network, the same for every method.
        device: see `meta_train`.
        gear: what makes meta-updates fast; shared by trainings that have much in common.
        runs: trainings that are done, by their settings.
        placed: where trainings ran, and why, for whoever asks; the benches of a comparison share it.
    """

    tasks: Tasks
    seed: int
    steps: int
    model: Settings = field(default_factory=dict)
    device: str = "auto"
    gear: Gear = field(default_factory=Gear)
    runs: dict[str, Run] = field(default_factory=dict)
    placed: list[Choice] = field(default_factory=list)

    def train(self, learner: Learner, settings: Settings, *, validated: bool = True) -> Run:
        """Meta-train with sound outer settings, those in `settings` before them."""
        sound = sound_settings(self.tasks, (learner.recipe or {}).get("algorithm", "maml"))
        run = whole_training(
            learner,
            self.tasks.train,
            valid=_fewer(self.tasks.valid) if validated else None,
            steps=self.steps,
            meta_lr=settings.get("meta_lr", sound.meta_lr),
            meta_batch_size=settings.get("meta_batch_size", sound.meta_batch_size),
            validate_every=max(1, self.steps // 8),
            seed=self.seed,
            device=self.device,
            gear=self.gear,
        )
        self.placed.append(run.placed)
        return run

    def learner(self, algorithm: str, settings: Settings) -> Learner:
        """A learner by name; outer settings are not its own."""
        own = {name: value for name, value in settings.items() if name not in OUTER}
        has_network = "module" in inspect.signature(ALGORITHMS[algorithm]).parameters
        network = dict(self.model) if has_network else {}
        return learner_for(self.tasks, algorithm=algorithm, seed=self.seed, **(network | own))

    def unadapted(self, settings: Settings) -> Learner:
        """A net that never adapts."""
        return self.learner("maml", {**NO_ADAPTATION, **settings})

    def pooled_net(self, settings: Settings) -> Run:
        """One net for the rows of all tasks."""
        key = str(sorted(settings.items()))
        if key not in self.runs:
            self.runs[key] = self.train(self.unadapted(settings), settings)
        return self.runs[key]

    def start(self) -> Model:
        """A net without meta-learning that tasks can be adapted from, and the parameters to adapt."""
        tasks, source = self.tasks, self.tasks.train
        # what the source draws from before it augments
        plain = source.source if isinstance(source, Augmented) else source
        if not isinstance(plain, ClassSource):
            return self.pooled_net({}).model
        learner = self.unadapted({})
        if "start" not in self.runs:
            rows = AllClasses(plain)
            every = replace(source, source=rows) if isinstance(source, Augmented) else rows
            wide = replace(self, tasks=replace(tasks, targets=every.targets, train=every), runs={})
            self.runs["start"] = wide.train(wide.unadapted({}), {}, validated=False)
        trained = self.runs["start"].model.meta
        device = next(iter(trained.values())).device
        meta = {name: value.to(device) for name, value in learner.init().items()}
        # the last layer is that of the other classes: a new one starts at zero
        body = list(meta)[:-2]
        same = [name for name in body if name in trained and trained[name].shape == meta[name].shape]
        return Model(learner, meta | {name: trained[name] for name in same})


def _fewer(source: Source) -> Source:
    """The same tasks with few support sets of each: enough to choose a step by."""
    return replace(source, draws=_DRAWS) if isinstance(source, RowSource) else source


def fine_tuned(bench: Bench, settings: Settings, *, most: int = 30) -> Model:
    """The pooled net, adapted to each task by gradient steps whose number is tuned on meta-validation tasks.

    Where classes are numbered anew, it is the net that tells all meta-train classes apart, with a new last layer.
    """
    return _stopped(bench, bench.start(), inner_rule("sgd", settings["inner_lr"], None, 10.0), most)


def from_scratch(bench: Bench, settings: Settings, *, most: int = 60) -> Model:
    """A net that starts from random parameters in every task, with tuned stopping."""
    learner = bench.unadapted({})
    model, _ = placed(Model(learner, learner.init()), bench.tasks.valid, bench.device)
    return _stopped(bench, model, inner_rule("adam", settings["inner_lr"], None, 10.0), most)


def linear_head(bench: Bench) -> Model:
    """A linear layer for each task on the features of the pooled net, shrunk to the last layer of that net."""
    base, tasks = bench.start(), bench.tasks
    recipe = base.learner.recipe["model"]  # type: ignore[index]
    body = Network(build(recipe["name"], **(recipe["settings"] | {"n_out": None})))
    shared = {name: base.meta[name] for name in body.params()}
    weight, bias = (value for name, value in base.meta.items() if name not in shared)
    size = weight.shape[1]
    head: Head
    if tasks.targets.kind == "regression":
        head = RidgeHead(size, tasks.n_outputs, n_support=1, spreads=())
    else:
        head = LaplaceHead(size, tasks.n_outputs, "diagonal")
    learner = HeadLearner(body, head, unrolled())
    fresh = {name: value.to(weight.device) for name, value in head.init().items()}
    meta = fresh | shared | {"head/mean": torch.cat([weight.T, bias[None]])}
    return with_best_spread(learner, meta, replace(tasks, valid=_fewer(tasks.valid)))


@dataclass(frozen=True, eq=False)
class AllClasses:
    """Rows of all classes with numbers that stay: what a plain classifier of them is trained on.

    Arguments:
        source: n-way episodes of the classes.
        rows: support and query rows of a batch, each.
    """

    source: ClassSource
    rows: int = 20

    @property
    def targets(self) -> Targets:
        """Every class."""
        return Targets("classification", len(self.source.index))

    @property
    def support(self) -> SupportSize:
        """What BatchNorm takes its statistics from."""
        return SupportSize(self.rows, self.rows)

    @property
    def n_tasks(self) -> None:
        """Batches never repeat."""
        return

    def sample(self, count: int, generator: torch.Generator) -> Episode:
        """See `Source.sample`."""
        index = self.source.index
        shape = (count, 2 * self.rows)
        label = torch.randint(len(index), shape, generator=generator)
        share = torch.rand(shape, generator=generator, dtype=torch.float64)
        sizes = torch.from_numpy((index >= 0).sum(1))
        x = self.source.x[torch.from_numpy(index)[label, (share * sizes[label]).long()]]
        x = x.float() / 255 if x.dtype == torch.uint8 else x
        return Episode(
            Batch(x[:, : self.rows], label[:, : self.rows]), Batch(x[:, self.rows :], label[:, self.rows :])
        )

    def fixed(self, seed: int) -> Iterator[tuple[list[str], Episode]]:
        """There is nothing to evaluate: held-out classes are none of these."""
        yield from ()


def _stopped(bench: Bench, model: Model, rule: InnerRule, most: int) -> Model:
    """The model with gradient steps by a rule, as many as suit meta-validation tasks best."""
    assert isinstance(model.learner, GradientLearner)
    learner, source = replace(model.learner, rule=rule), _fewer(bench.tasks.valid)
    if isinstance(source, ClassSource):
        # every step of every episode is scored
        source = replace(source, episodes=min(source.episodes, _EPISODES))
    steps = best_stop(Model(learner, model.meta), source, most)
    return Model(replace(learner, inner_steps=steps), model.meta)


def best_stop(model: Model, source: Source, most: int, *, seed: int = EVALUATION_SEED) -> int:
    """The number of inner steps, up to `most`, with the lowest mean query loss on the tasks of a source."""
    totals = np.zeros(most + 1)
    like = reference(model.meta)
    with torch.no_grad(), threads_for(model.meta):
        for _, raw in source.fixed(seed):
            episode = to(raw, like.device, like.dtype)
            for step, adapted in enumerate(model.learner.path(model.meta, episode.support, steps=most)):
                totals[step] += float(model.learner.loss(model.meta, adapted, episode.query).sum())
    return int(np.argmin(np.nan_to_num(totals, nan=np.inf)))
