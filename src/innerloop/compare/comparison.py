"""Compare meta-learning with baselines: every method on the same episodes, with differences and a verdict."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from typing import Any, cast

import numpy as np

from ..algorithms.assemble import sound_settings
from ..errors import UsageError
from ..evaluation.examples import Shown, show
from ..evaluation.inspection import gains, learned, plain_rows
from ..evaluation.intervals import INTERVALS, holm, paired
from ..storage.versions import versions
from ..tasks.sources import RowSource
from ..tasks.splits import Tasks
from . import curves
from .contest import Contest, Effort, Entry, Progress, method, silent
from .factorial import factorial, levels
from .methods import BASELINES, META, NETS, QUICK_BASELINES, QUICK_META, entrants
from .nets import Settings
from .result import (
    AXES,
    Cell,
    Comparison,
    Crossing,
    Curve,
    DataFacts,
    Difference,
    Effect,
    LearnedRows,
    Method,
    Verdict,
)
from .search import HEADLINE
from .verdict import Question, decided, verdict
from .workers import Workers

__all__ = ["Plan", "compare", "plan_for"]

QUICK_STEPS = 300
EPISODES = 4
# support sets on which the tasks of a fold are tested, all together
TESTED = 3000


@dataclass(frozen=True)
class Plan:
    """What a comparison does.

    Arguments:
        methods: names; see `methods.META` and `methods.BASELINES`.
        effort: steps, tries and seeds.
        worthwhile: smallest gain worth having, as a share of the error.
        interval: `t` or `bca`.
        single: the tasks are random parts of one table.
        curves: axes of the curves, see `result.AXES`.
        factorial: cross meta-learning with augmentation and dropout.
    """

    methods: tuple[str, ...]
    effort: Effort
    worthwhile: float = 0.05
    interval: str = "t"
    single: bool = False
    curves: tuple[str, ...] = AXES
    factorial: bool = True

    def __post_init__(self) -> None:
        """Refuse what has no meaning."""
        if self.interval not in INTERVALS:
            raise UsageError(f"interval={self.interval!r} is unknown: choose one of {', '.join(INTERVALS)}")
        if not 0 <= self.worthwhile < 1:
            raise UsageError(
                f"worthwhile={self.worthwhile}: give a share of the error from 0 to 1, such as 0.05"
            )


def plan_for(
    tasks: Tasks,
    *,
    quick: bool = False,
    learners: Sequence[str] | None = None,
    baselines: Sequence[str] | None = None,
    steps: int | None = None,
    seeds: int | None = None,
    tries: int | None = None,
    model: Settings | None = None,
    device: str = "auto",
    **options: Any,
) -> Plan:
    """A plan that fits the tasks; what is not given is the default of the full or the quick comparison.

    Example:
        >>> from innerloop.tasks import sinusoid
        >>> plan_for(sinusoid(), quick=True).effort.seeds
        2
    """
    kind = tasks.targets.kind
    meta = tuple(learners) if learners is not None else (QUICK_META[kind] if quick else META)
    others = tuple(baselines) if baselines is not None else (QUICK_BASELINES if quick else BASELINES)
    effort = Effort(
        steps=steps or (QUICK_STEPS if quick else sound_settings(tasks).steps),
        tries=tries or (2 if quick else 4),
        seeds=seeds or (2 if quick else 3),
        model=model or {},
        device=device,
    )
    axes = ("support", "inner_steps") if quick else AXES
    return Plan((*others, *meta), effort, **({"curves": axes, "factorial": not quick} | options))


def compare(
    folds: Sequence[Tasks],
    plan: Plan,
    *,
    clusters: Mapping[str, str] | None = None,
    settings: Mapping[str, object] | None = None,
    progress: Progress = silent,
    jobs: int = 1,
) -> Comparison:
    """Every method of a plan on the same episodes of the meta-test tasks, and what that shows.

    Arguments:
        folds: the tasks, divided in one or more ways; every task is a meta-test task at most once.
        plan: what to do.
        clusters: the cluster of each task, where tasks were divided by a coarser column.
        settings: what was asked for, for the record.
        progress: see `Progress`.
        jobs: processes that methods are shared out among; the numbers do not depend on it.

    Returns:
        The comparison, methods best first. Where it is interrupted, that of the methods that are done, with the curves
        that are, and with a note that says so.

    Raises:
        UsageError: a method is unknown, or none applies.

    Example:
        >>> from innerloop.tasks import sinusoid
        >>> tasks = sinusoid(n_support=5, episodes=20)
        >>> plan = plan_for(
        ...     tasks, learners=["maml"], baselines=["pooled", "mixed"], steps=2, tries=1, seeds=1
        ... )
        >>> comparison = compare([tasks], plan)
        >>> sorted(method.name for method in comparison.methods)
        ['maml', 'mixed', 'pooled']
    """
    began, workers = time.perf_counter(), Workers(jobs)
    folds = [_bounded(tasks) for tasks in folds]
    contest = Contest(folds, entrants(folds[0], list(dict.fromkeys(plan.methods))), plan.effort)
    phase = _Phases(progress, [contest.cost, *_later_costs(folds, plan)])
    contest.progress = phase(0)
    if not contest.run(workers):
        reasons = "; ".join(f"{name}: {why}" for name, why in contest.skipped.items())
        raise UsageError(f"none of the methods applies to these tasks ({reasons})")
    if contest.interrupted:
        plan = replace(plan, curves=(), factorial=False)
    outcome = _Outcome(contest, plan, clusters or {})
    lines, groups = [], outcome.groups
    cells: tuple[Cell, ...] = ()
    effects: tuple[Effect, ...] = ()
    try:
        lines = outcome.lines(phase(1), workers)
        if plan.factorial:
            # every fold is a training of its own, so that one seed a cell is enough
            once = replace(plan.effort, seeds=1)
            cells, effects = factorial(folds, once, clusters=groups, tell=phase(2), workers=workers)
    except KeyboardInterrupt:
        contest.interrupted = True
    return Comparison(
        settings={**(settings or {}), "worthwhile": plan.worthwhile, "interval": plan.interval}
        | {"steps": plan.effort.steps, "tries": plan.effort.tries, "seeds": plan.effort.seeds},
        data=outcome.data(),
        metric=HEADLINE[folds[0].targets.kind],
        lower_is_better=outcome.lower,
        tasks=outcome.ids,
        clusters=groups,
        methods=outcome.methods,
        skipped=contest.skipped,
        differences=outcome.differences,
        curves=tuple(outcome.curve(line) for line in lines),
        crossings=outcome.crossings(lines),
        cells=cells,
        effects=effects,
        verdict=outcome.verdict(),
        episodes=outcome.episodes(),
        learned=outcome.learned(),
        notes=(*folds[0].notes, *contest.where, *outcome.remarks),
        interrupted=contest.interrupted,
        versions=_versions(),
        seconds=round(time.perf_counter() - began, 3),
    )


def _bounded(tasks: Tasks) -> Tasks:
    """The tasks, of which many are tested on fewer support sets each: there are enough of them to average over."""
    source = tasks.test
    if not isinstance(source, RowSource):
        return tasks
    return replace(tasks, test=replace(source, draws=max(1, min(source.draws, TESTED // len(source.ids)))))


class _Phases:
    """Progress of the whole out of the progress of its phases."""

    def __init__(self, progress: Progress, costs: Sequence[float]) -> None:
        self.progress = progress
        self.ends = np.concatenate([[0.0], np.cumsum(costs) / max(sum(costs), 1e-9)])

    def __call__(self, number: int) -> Progress:
        """What to tell in a phase."""
        start, end = float(self.ends[number]), float(self.ends[number + 1])
        return lambda what, share: self.progress(what, start + share * (end - start))


def _later_costs(folds: Sequence[Tasks], plan: Plan) -> list[float]:
    """Meta-updates of the curves and of the factorial."""
    each = len(folds) * plan.effort.steps
    trainings = ("support" in plan.curves) + len(curves.TRAIN_TASKS) * ("train_tasks" in plan.curves)
    return [2.0 * each * trainings, float(each * len(levels(folds[0]))) if plan.factorial else 0.0]


@dataclass(frozen=True, eq=False)
class _Outcome:
    """What the methods of a contest did, and the conclusions from it; `clusters` by task, or empty."""

    contest: Contest
    plan: Plan
    clusters: Mapping[str, str]

    @property
    def entries(self) -> dict[str, Entry]:
        return self.contest.entries

    @property
    def tasks(self) -> Tasks:
        """The first fold."""
        return self.contest.folds[0]

    @property
    def lower(self) -> bool:
        """Whether less is better."""
        return self.tasks.targets.kind == "regression"

    @cached_property
    def ids(self) -> tuple[str, ...]:
        return next(iter(self.entries.values())).by_seed()[0].ids

    @cached_property
    def groups(self) -> tuple[str, ...]:
        """The cluster of each task; empty where tasks are the units."""
        return tuple(self.clusters[name] for name in self.ids) if self.clusters else ()

    @cached_property
    def methods(self) -> tuple[Method, ...]:
        """Every method, best first."""
        headline, sign = HEADLINE[self.tasks.targets.kind], 1 if self.lower else -1
        seeds, how = self.plan.effort.seeds, self.plan.interval
        every = [method(entry, seeds, clusters=self.groups, how=how) for entry in self.entries.values()]
        return tuple(sorted(every, key=lambda one: sign * one.metrics[headline].mean))

    def best(self, *, kind: str = "", family: str = "", names: Sequence[str] = ()) -> str | None:
        """The method with the lowest error on meta-validation tasks, of a kind, family or some names; or `None`."""
        fitting = [
            entry
            for entry in self.entries.values()
            if kind in ("", entry.entrant.kind)
            and family in ("", entry.entrant.family)
            and (not names or entry.name in names)
        ]
        return min(fitting, key=lambda entry: entry.valid_error).name if fitting else None

    @cached_property
    def pairs(self) -> dict[str, tuple[str, str]]:
        """The pairs that the two questions are about, each side chosen on meta-validation tasks.

        Where nothing that does not adapt knows the targets (classes numbered anew), the question is about each task
        alone instead.
        """
        whole = [e.name for e in self.entries.values() if e.entrant.kind == "none"]
        pooled = set(whole) - {"mean", "majority"}
        over = self.best(kind="none") if pooled else self.best(kind="alone") or self.best(kind="none")
        classical = [e.name for e in self.entries.values() if e.entrant.family == "baseline"]
        net, plain = self.best(family="meta"), self.best(names=sorted({*classical} - {*NETS}))
        pairs = {"adapting": (self.best(kind="shared"), over), "net": (net, plain if classical else None)}
        return {name: (a, b) for name, (a, b) in pairs.items() if a is not None and b is not None}

    @cached_property
    def differences(self) -> tuple[Difference, ...]:
        """Paired differences that bear on the questions, corrected for their number.

        Those of the best method to every other one, of what adapts to what does not, and of meta-learners to the best
        classical method.
        """
        ranked = [one.name for one in self.methods]
        wanted = [(ranked[0], name) for name in ranked[1:]]
        if "adapting" in self.pairs:
            over = self.pairs["adapting"][1]
            wanted += [(n, over) for n in ranked if self.entries[n].entrant.kind != "none" and n != over]
        if "net" in self.pairs:
            plain = self.pairs["net"][1]
            wanted += [(n, plain) for n in ranked if self.entries[n].entrant.family == "meta"]
        wanted = list(dict.fromkeys(wanted))
        return self._differences(wanted, HEADLINE[self.tasks.targets.kind])

    def _differences(self, wanted: Sequence[tuple[str, str]], metric: str) -> tuple[Difference, ...]:
        seeds, names = self.plan.effort.seeds, {name for pair in wanted for name in pair}
        values = {name: self.entries[name].of_tasks(metric, seeds) for name in names}
        lower = self.lower or metric == "loss"
        tested = [
            paired(values[a], values[b], lower_is_better=lower, clusters=self.groups) for a, b in wanted
        ]
        corrected = holm([each.p for each in tested])
        return tuple(
            Difference(a, b, each.difference, each.gain, each.p, p)
            for (a, b), each, p in zip(wanted, tested, corrected, strict=True)
        )

    @cached_property
    def questions(self) -> dict[str, Question]:
        """The two questions; for classes by log loss where that can tell and the accuracy cannot, or says otherwise."""
        pairs = self.pairs
        if not pairs:
            return {}
        by_pair = {(one.ours, one.theirs): one for one in self.differences}
        asked = self._asked({name: by_pair[pair] for name, pair in pairs.items()}, "error")
        if self.lower or not all("loss" in e.scores[0][0].values for e in self.entries.values()):
            return asked
        losses = dict(zip(pairs, self._differences(list(pairs.values()), "loss"), strict=True))
        by_loss = self._asked(losses, "log loss")
        return {name: decided(one, by_loss[name]) for name, one in asked.items()}

    def _asked(self, pairs: Mapping[str, Difference], what: str) -> dict[str, Question]:
        by_name = {one.name: one for one in self.methods}
        # two questions, each about one pair that meta-validation tasks chose: other methods are not in their way
        corrected = holm([one.p for one in pairs.values()])
        return {
            name: Question(by_name[one.ours], by_name[one.theirs], one, self.plan.worthwhile, p, what)
            for (name, one), p in zip(pairs.items(), corrected, strict=True)
        }

    @property
    def remarks(self) -> tuple[str, ...]:
        """What a reader must know of how the verdict was found."""
        found = []
        if self.contest.interrupted:
            missing = [e.label for e in self.contest.entrants.values() if e.name not in self.entries]
            methods = f"{', '.join(missing)} did not run, and " if missing else ""
            found.append(f"interrupted: {methods}not all curves were made")
        if by_loss := [one for one in self.questions.values() if one.what != "error"]:
            found.append(
                f"accuracy and log loss do not say the same of {by_loss[0].ours.label} and {by_loss[0].theirs.label}: "
                "the log loss decides, for it sees probabilities, and accuracy only the first class"
            )
        return tuple(found)

    def verdict(self) -> Verdict:
        """The answers to the two questions."""
        by_name, questions = {one.name: one for one in self.methods}, self.questions
        # what may be right for one table is what does not adapt to parts of it
        right = by_name[self.best(kind="none") or self.best() or ""]
        adapting, net = questions.get("adapting"), questions.get("net")
        return verdict(adapting, net, single=self.plan.single, right=right)

    def lines(self, progress: Progress, workers: Workers) -> list[curves.Line]:
        """The curves asked for, of the methods that the questions are about and the best one of each task alone."""
        asked, alone = self.plan.curves, self.best(kind="alone")
        named = [*(name for pair in self.pairs.values() for name in pair), *([alone] if alone else [])]
        names = list(dict.fromkeys(named))
        lines = curves.inner_steps(self.entries) if "inner_steps" in asked else []
        if "support" in asked:
            lines += curves.support(self.contest, names, progress, workers)
        if "train_tasks" in asked:
            lines += curves.train_tasks(self.contest, names, progress, workers)
        return lines

    def curve(self, line: curves.Line) -> Curve:
        """Means with intervals; some curves have their tasks in the order of their names."""
        order = range(len(self.ids)) if line.axis == "inner_steps" else np.argsort(np.asarray(self.ids))
        groups = [self.groups[position] for position in order] if self.groups else []
        return line.curve(groups, self.plan.interval, errors=self.lower)

    def crossings(self, lines: Sequence[curves.Line]) -> tuple[Crossing, ...]:
        """From which support size on each task alone is as good as what is shared and adapted."""
        by_method = {line.method: line for line in lines if line.axis == "support"}
        alone = next((name for name in by_method if self.entries[name].entrant.kind == "alone"), None)
        best = self.pairs.get("adapting", ("", ""))[0]
        if alone is None or best not in by_method:
            return ()
        unit = f"rows a {'class' if self.tasks.train.support.per_class else 'task'}"
        labels = (self.entries[best].entrant.label, self.entries[alone].entrant.label)
        pair = (by_method[best], by_method[alone])
        return (curves.crossing(*pair, lower_is_better=self.lower, labels=labels, unit=unit),)

    def episodes(self) -> tuple[Shown, ...]:
        """Episodes of the first fold with predictions of the best method and of those that the verdict names."""
        named = dict.fromkeys([self.methods[0].name, *(n for pair in self.pairs.values() for n in pair)])
        models = {name: self.entries[name].first[0].model for name in named}
        return show(models, self.tasks.test, schema=self.tasks.schema, count=EPISODES)

    def learned(self) -> LearnedRows:
        """What the best meta-learner learned, on the meta-test tasks of the first fold."""
        best = next((one.name for one in self.methods if one.family == "meta"), None)
        if best is None:
            return {}
        entry = self.entries[best]
        frames = learned(entry.first[0].model, self.tasks.test).rows()
        frames["gains"] = plain_rows(gains(entry.scores[0][0]))
        return cast(LearnedRows, {"method": best, **{name: tuple(rows) for name, rows in frames.items()}})

    def data(self) -> DataFacts:
        tasks, support = self.tasks, self.tasks.train.support
        return {
            "name": tasks.name,
            "kind": tasks.targets.kind,
            "n_tasks": len(self.ids),
            "feature_shape": tuple(tasks.feature_shape),
            "n_features": tasks.feature_shape[0] if len(tasks.feature_shape) == 1 else None,
            "support": str(support),
            "unit": "class" if support.per_class else "task",
            "folds": len(self.contest.folds),
            "seeds": self.plan.effort.seeds,
            "clusters": len(set(self.clusters.values())) or None,
        }


def _versions() -> dict[str, str]:
    """Versions of the packages that are installed."""
    installed = versions()
    for name in ("scipy", "scikit-learn", "tabicl"):
        with suppress(PackageNotFoundError):
            installed[name] = version(name)
    return installed
