"""Every method on every fold and seed: searched, trained and scored on the same episodes."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import NamedTuple

import numpy as np

from ..engine.devices import Choice
from ..errors import DivergedError
from ..evaluation.intervals import Array, Estimate, mean_interval
from ..evaluation.scores import ERRORS, Evaluation, evaluate, over_folds
from ..outer.training import Gear
from ..tasks.splits import Tasks
from .methods import Entrant, Trained
from .nets import Bench, Settings
from .result import Method
from .search import HEADLINE, Chosen, adapted, error_on, search
from .workers import HERE, Workers

__all__ = ["Contest", "Effort", "Entry", "Progress", "method", "silent"]

# what a method without meta-updates is taken to cost, in meta-updates, when the time left is estimated
CLOSED_COST = 40

# told what is done now and which share of the work is behind
Progress = Callable[[str, float], None]


def silent(what: str, share: float) -> None:
    """Progress that nobody looks at."""


@dataclass(frozen=True)
class Effort:
    """How much work a comparison may take.

    Arguments:
        steps: meta-updates of a training.
        tries: settings to try for each method.
        seeds: trainings of each method that has randomness.
        model: options of `learner_for` for the network of every net: `model`, `hidden`, `width`.
        device: see `meta_train`.
    """

    steps: int
    tries: int
    seeds: int
    model: Settings = field(default_factory=dict)
    device: str = "auto"


@dataclass
class Entry:
    """What one method did, by fold: what was chosen, scores by seed, the first training, errors, time taken."""

    entrant: Entrant
    chosen: list[Chosen] = field(default_factory=list)
    scores: list[list[Evaluation]] = field(default_factory=list)
    first: list[Trained] = field(default_factory=list)
    paths: list[Evaluation] = field(default_factory=list)
    valid: list[float] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def name(self) -> str:
        """Its stable name."""
        return self.entrant.name

    @property
    def valid_error(self) -> float:
        """Mean error on the meta-validation tasks: what methods are chosen by."""
        return float(np.mean(self.valid))

    def by_seed(self) -> list[Evaluation]:
        """The scores after adaptation of every task, one evaluation a seed."""
        seeds = len(self.scores[0])
        return [adapted([fold[seed] for fold in self.scores]) for seed in range(seeds)]

    def headline(self, seeds: int) -> Array:
        """The headline metric `(tasks, seeds)`; a method without randomness has equal columns."""
        return self.of_tasks(HEADLINE[self.scores[0][0].targets.kind], seeds)

    def of_tasks(self, metric: str, seeds: int) -> Array:
        """A metric of every task `(tasks, seeds)`, see `headline`."""
        values = np.stack([evaluation.values[metric][:, -1] for evaluation in self.by_seed()], 1)
        return values if values.shape[1] == seeds else np.repeat(values[:, :1], seeds, 1)


class Entered(NamedTuple):
    """What became of one method: what it did, or why it was left out; and where its nets were trained."""

    name: str
    entry: Entry | None
    reason: str
    placed: list[Choice]


class Contest:
    """Runs entrants over folds, which test every task at most once, and seeds; what does not apply is skipped.

    In a process of its own it starts with nothing trained: only folds, entrants and effort are sent there.
    """

    def __init__(
        self,
        folds: Sequence[Tasks],
        entrants: Sequence[Entrant],
        effort: Effort,
        progress: Progress = silent,
    ) -> None:
        reasons = {entrant.name: entrant.refuses(folds[0]) for entrant in entrants}
        self.folds, self.effort, self.progress = folds, effort, progress
        self.skipped = {name: reason for name, reason in reasons.items() if reason}
        self.entrants = {e.name: e for e in entrants if e.name not in self.skipped}
        self.entries: dict[str, Entry] = {}
        self.gear = Gear(planned=effort.steps * effort.seeds * len(folds))
        self.benches: dict[tuple[int, int], Bench] = {}
        self.placed: list[Choice] = []
        self.interrupted = False
        self._done = 0.0

    def __reduce__(self) -> tuple[object, ...]:
        """Without what was trained."""
        return Contest, (self.folds, list(self.entrants.values()), self.effort)

    def run(self, workers: Workers = HERE) -> dict[str, Entry]:
        """Every method on every fold; those that fail are moved to `skipped`.

        Where the user interrupts, what is done is kept, and `interrupted` says so; with nothing done it goes on up.
        """
        groups = self._groups()
        apart, done = workers.apart(groups), 0.0
        if apart:
            self.progress("starting", 0.0)
        try:
            for number, entered in workers.run([partial(self.enter, group) for group in groups]):
                for each in entered:
                    self._take(each)
                done += sum(self._cost(self.entrants[name]) for name in groups[number]) * len(self.folds)
                if apart:
                    self.progress(
                        f"{len(self.entries)} of {len(self.entrants)} methods done", done / self._total
                    )
        except KeyboardInterrupt:
            if not self.entries:
                raise
            self.interrupted = True
        self.entries = {name: self.entries[name] for name in self.entrants if name in self.entries}
        return self.entries

    def enter(self, names: Sequence[str]) -> list[Entered]:
        """Methods of these names on every fold; those that start from the same training stand together."""
        return [self._enter_one(self.entrants[name]) for name in names]

    def _take(self, entered: Entered) -> None:
        if entered.entry is None:
            self.skipped[entered.name] = entered.reason
        else:
            self.entries[entered.name] = entered.entry
            self.placed += entered.placed

    def _groups(self) -> list[tuple[str, ...]]:
        """Names in groups that share trainings, the costly ones first so that none is left at the end."""
        shared = tuple(e.name for e in self.entrants.values() if e.reuses or e.name == "pooled_net")
        others = [(name,) for name in self.entrants if name not in shared]
        groups = [*others, *([shared] if shared else [])]
        return sorted(groups, key=lambda group: -sum(self._cost(self.entrants[name]) for name in group))

    def _enter_one(self, entrant: Entrant) -> Entered:
        entry, before = Entry(entrant), len(self.placed)
        began = time.perf_counter()
        for number in range(len(self.folds)):
            where = f"fold {number + 1}/{len(self.folds)}, " if len(self.folds) > 1 else ""
            self.progress(f"{entrant.label}, {where}".rstrip(", "), self._done / self._total)
            try:
                self._enter(entry, number)
            except DivergedError as error:
                return Entered(entrant.name, None, str(error), [])
            except (OSError, ImportError, RuntimeError) as error:
                # a model from elsewhere that cannot fetch its weights must not end the comparison
                if entrant.family != "incontext":
                    raise
                return Entered(entrant.name, None, f"{type(error).__name__}: {error}", [])
            self._done += self._cost(entrant)
        entry.seconds = time.perf_counter() - began
        placed, self.placed = self.placed[before:], self.placed[:before]
        return Entered(entrant.name, entry, "", placed)

    @property
    def where(self) -> tuple[str, ...]:
        """The devices that nets were trained on, where there was a choice, each with the reason of the first one."""
        chosen = [choice for choice in reversed(self.placed) if choice.decided]
        reasons = {str(choice.device): choice.reason for choice in chosen}
        return tuple(f"nets were trained on {device}: {reason}" for device, reason in reasons.items())

    @property
    def cost(self) -> float:
        """All of it, in meta-updates."""
        return sum(map(self._cost, self.entrants.values())) * len(self.folds)

    @property
    def _total(self) -> float:
        return max(self.cost, 1.0)

    def bench(self, fold: int, seed: int) -> Bench:
        """Where the methods of a fold and seed are trained."""
        if (fold, seed) not in self.benches:
            self.benches[fold, seed] = self.bench_of(self.folds[fold], seed)
        return self.benches[fold, seed]

    def bench_of(self, tasks: Tasks, seed: int = 0) -> Bench:
        """Where methods are trained on tasks that may be others than those of a fold."""
        effort = self.effort
        return Bench(
            tasks, seed, effort.steps, effort.model, effort.device, gear=self.gear, placed=self.placed
        )

    def _enter(self, entry: Entry, fold: int) -> None:
        """Search, train and score one method on one fold."""
        tasks, entrant = self.folds[fold], entry.entrant
        chosen = search(entrant, self.bench(fold, 0), tries=self.effort.tries)
        scores: list[Evaluation] = []
        for seed in range(self.effort.seeds if entrant.trained else 1):
            trained = entrant.fit(self.bench(fold, seed), chosen.settings)
            taken = trained.model.learner.inner_steps
            if entrant.family == "meta" and seed == 0 and taken:
                # steps beyond those of training are looked at once, for the curve
                entry.paths.append(evaluate(trained.model, tasks.test, steps=2 * taken))
                scores.append(_ends(entry.paths[-1], taken))
            else:
                scores.append(evaluate(trained.model, tasks.test, path=False))
            if seed == 0:
                entry.first.append(trained)
                entry.valid.append(error_on(trained.model, tasks, tasks.valid))
        entry.chosen.append(chosen)
        entry.scores.append(scores)

    def _cost(self, entrant: Entrant) -> float:
        if not entrant.trained or entrant.reuses:
            return CLOSED_COST
        tries = min(len(entrant.grid), self.effort.tries)
        return self.effort.steps * (self.effort.seeds + (0.25 * tries if tries > 1 else 0))


def method(entry: Entry, seeds: int, *, clusters: Sequence[str], how: str) -> Method:
    """What one method is in the result of a comparison."""
    by_seed = entry.by_seed()
    mean = replace(
        by_seed[0],
        values={name: np.mean([e.values[name] for e in by_seed], 0) for name in by_seed[0].values},
    )
    name, first = HEADLINE[mean.targets.kind], entry.first[0]

    def estimates(evaluation: Evaluation, names: Sequence[str]) -> dict[str, Estimate]:
        return {n: metric_interval(evaluation, n, clusters=clusters, how=how) for n in dict.fromkeys(names)}

    before = None
    if entry.entrant.kind == "shared":
        start = over_folds([replace(fold[0].at(0), steps=(0,)) for fold in entry.scores])
        before = estimates(start, [name])[name]
    return Method(
        name=entry.name,
        label=entry.entrant.label,
        kind=entry.entrant.kind,
        family=entry.entrant.family,
        scores=tuple(map(tuple, entry.headline(seeds).tolist())),
        metrics=estimates(mean, [name, *mean.metrics]),
        settings={**entry.chosen[0].settings, **first.chosen},
        tried=entry.chosen[0].tried,
        seconds=round(entry.seconds, 3),
        log=first.log,
        before=before,
    )


def metric_interval(evaluation: Evaluation, name: str, *, clusters: Sequence[str], how: str) -> Estimate:
    """A metric with its interval over tasks, or over clusters of them."""
    plain = evaluation.metric(name)
    if how == "t" and not clusters:
        return plain
    base = {"rmse": "squared_error", "r2": "error_over_variance"}.get(name, name)
    values = evaluation.of_tasks(base)
    groups = clusters if len(values) == len(clusters) else ()
    _, low, high = mean_interval(values, clusters=groups, how=how, errors=base in ERRORS)
    if name == "rmse":
        return Estimate(plain.mean, float(np.sqrt(max(low, 0))), float(np.sqrt(high)))
    if name == "r2":
        spread = evaluation.query_variance
        return Estimate(plain.mean, 1 - high / spread, 1 - low / spread) if spread > 0 else plain
    return Estimate(plain.mean, low, high)


def _ends(evaluation: Evaluation, steps: int) -> Evaluation:
    """Before adaptation and after `steps` inner steps."""
    values = {name: value[:, [0, steps]] for name, value in evaluation.values.items()}
    return replace(evaluation, steps=(0, steps), values=values)
