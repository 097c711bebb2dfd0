"""Nets without meta-learning, out of the same parts: trained on pooled rows, fine-tuned, or from scratch.

A gradient learner with no inner step is a net that is trained on the rows of all tasks and never adapts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from ..algorithms.assemble import learner_for, sound_settings
from ..algorithms.baselines import RidgeHead
from ..algorithms.gradient_based import inner_rule
from ..engine.threads import threads_for
from ..inner.gradient import GradientLearner
from ..inner.head import HeadLearner
from ..inner.heads import GaussianHead, Head, LaplaceHead
from ..inner.learner import Learner, Model
from ..models.builtin import build
from ..models.network import Network
from ..outer.metagrad import unrolled
from ..outer.training import Gear, Run, meta_train
from ..tasks.augment import Augmented
from ..tasks.episodes import Batch, Episode, to
from ..tasks.sources import EVALUATION_SEED, ClassSource, RowSource, Source, SupportSize, Targets
from ..tasks.splits import Tasks
from .linear import with_best_spread

OUTER = ("meta_lr", "meta_batch_size")

# support sets of each meta-validation task that a step is chosen by, and episodes where tasks never repeat
_DRAWS, _EPISODES = 3, 100


@dataclass(frozen=True, eq=False)
class Bench:
    """Where the methods of one fold and seed are trained; what several of them start from is trained once.

    Arguments:
        tasks: the fold.
        seed: of parameters and episodes.
        steps: meta-updates of a training.
        model: options of `learner_for` for the network, the same for every method.
        device: see `meta_train`.
        callbacks: called with the log entry of every step.
        gear: what makes meta-updates fast; shared by trainings that have much in common.
    """

    tasks: Tasks
    seed: int
    steps: int
    model: Mapping[str, Any] = field(default_factory=dict)
    device: str = "auto"
    callbacks: tuple[Any, ...] = ()
    gear: Gear = field(default_factory=Gear)
    kept: dict[Any, Run] = field(default_factory=dict)

    def train(self, learner: Learner, settings: Mapping[str, Any], *, validated: bool = True) -> Run:
        """Meta-train with sound outer settings, those in `settings` before them."""
        sound = sound_settings(self.tasks, (learner.recipe or {}).get("algorithm", "maml"))
        return meta_train(
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
            callbacks=self.callbacks,
        )

    def learner(self, algorithm: str, settings: Mapping[str, Any]) -> Learner:
        """A learner by name; outer settings are not its own."""
        own = {name: value for name, value in settings.items() if name not in OUTER}
        network = {} if algorithm == "mixed" else dict(self.model)
        return learner_for(self.tasks, algorithm=algorithm, seed=self.seed, **(network | own))

    def pooled_net(self, settings: Mapping[str, Any]) -> Run:
        """One net for the rows of all tasks."""
        key = tuple(sorted((name, str(value)) for name, value in settings.items()))
        if key not in self.kept:
            learner = self.learner("maml", {"inner_steps": 0, "learn_lr": None, "clip": None, **settings})
            self.kept[key] = self.train(learner, settings)
        return self.kept[key]

    def start(self) -> Model:
        """A net without meta-learning that tasks can be adapted from, and the parameters to adapt."""
        tasks, source = self.tasks, self.tasks.train
        if not isinstance(_plain(source), ClassSource):
            return self.pooled_net({}).model
        learner = self.learner("maml", {"inner_steps": 0, "learn_lr": None, "clip": None})
        if "start" not in self.kept:
            every = _with_source(source, AllClasses(_plain(source)))
            wide = replace(self, tasks=replace(tasks, targets=every.targets, train=every), kept={})
            classifier = wide.learner("maml", {"inner_steps": 0, "learn_lr": None, "clip": None})
            self.kept["start"] = wide.train(classifier, {}, validated=False)
        found, own = self.kept["start"].model.meta, learner.init()
        same = {name: value for name, value in found.items() if value.shape == own[name].shape}
        # the last layer is that of the other classes: a new one starts at zero
        last = list(own)[-2:]
        return Model(learner, own | {name: value for name, value in same.items() if name not in last})


def _fewer(source: Source) -> Source:
    """The same tasks with few support sets of each: enough to choose a step by."""
    return replace(source, draws=_DRAWS) if isinstance(source, RowSource) else source


def _plain(source: Any) -> Any:
    """What a source draws from before it augments."""
    return source.source if isinstance(source, Augmented) else source


def _with_source(source: Any, inner: Any) -> Any:
    return replace(source, source=inner) if isinstance(source, Augmented) else inner


def fine_tuned(bench: Bench, settings: Mapping[str, Any], *, most: int = 30) -> Model:
    """The pooled net, adapted to each task by gradient steps whose number is tuned on meta-validation tasks.

    Where classes are numbered anew, it is the net that tells all meta-train classes apart, with a new last layer.
    """
    base = bench.start()
    return _stopped(bench, _descending(base.learner, "sgd", settings["inner_lr"]), base.meta, most)


def from_scratch(bench: Bench, settings: Mapping[str, Any], *, most: int = 60) -> Model:
    """A net that starts from random parameters in every task, with tuned stopping."""
    learner = bench.learner("maml", {"inner_steps": 0, "learn_lr": None, "clip": None})
    return _stopped(bench, _descending(learner, "adam", settings["inner_lr"]), learner.init(), most)


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
        head = RidgeHead(GaussianHead(size, tasks.n_outputs, "diagonal"), 1, True, ())
    else:
        head = LaplaceHead(size, tasks.n_outputs, "diagonal")
    learner = HeadLearner(body, head, unrolled())
    meta = head.init() | shared | {"head/mean": torch.cat([weight.T, bias[None]])}
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
        place = torch.from_numpy(index)[label, (share * sizes[label]).long()]
        x = self.source.x[place]
        x = x.float() / 255 if x.dtype == torch.uint8 else x
        return Episode(
            Batch(x[:, : self.rows], label[:, : self.rows]), Batch(x[:, self.rows :], label[:, self.rows :])
        )

    def fixed(self, seed: int) -> Iterator[tuple[list[str], Episode]]:
        """There is nothing to evaluate: held-out classes are none of these."""
        yield from ()


def _descending(learner: Any, rule: str, inner_lr: float) -> GradientLearner:
    stepping: GradientLearner = replace(learner, rule=inner_rule(rule, inner_lr, None, 10.0))
    return stepping


def _stopped(bench: Bench, learner: GradientLearner, meta: Any, most: int) -> Model:
    source = _fewer(bench.tasks.valid)
    if isinstance(source, ClassSource):
        # every step of every episode is scored
        source = replace(source, episodes=min(source.episodes, _EPISODES))
    steps = best_stop(Model(learner, meta), source, most)
    return Model(replace(learner, inner_steps=steps), meta)


def best_stop(model: Model, source: Source, most: int, *, seed: int = EVALUATION_SEED) -> int:
    """The number of inner steps, up to `most`, with the lowest mean query loss on the tasks of a source."""
    totals = np.zeros(most + 1)
    reference = next(iter(model.meta.values()))
    with torch.no_grad(), threads_for(model.meta):
        for _, raw in source.fixed(seed):
            episode = to(raw, reference.device, reference.dtype)
            for step, adapted in enumerate(model.learner.path(model.meta, episode.support, steps=most)):
                totals[step] += float(model.learner.loss(model.meta, adapted, episode.query).sum())
    return int(np.argmin(np.nan_to_num(totals, nan=np.inf)))
