"""Compare meta-learning with baselines: every method on the same episodes, with differences and a verdict."""

from __future__ import annotations

import platform
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from typing import Any, cast

import numpy as np

from ..algorithms.assemble import sound_settings
from ..errors import UsageError
from ..evaluation.examples import Shown, show
from ..evaluation.inspection import gains, learned, plain_rows
from ..evaluation.intervals import INTERVALS, holm, paired
from ..tasks.splits import Tasks
from . import curves
from .contest import Contest, Effort, Entry, Progress, method, silent
from .factorial import factorial, levels
from .methods import BASELINES, META, QUICK_BASELINES, QUICK_META, entrants
from .nets import Settings
from .result import AXES, Comparison, Crossing, DataFacts, Difference, LearnedRows, Method, Verdict
from .search import HEADLINE
from .verdict import Question, verdict

__all__ = ["Plan", "compare", "plan_for"]

QUICK_STEPS = 300
EPISODES = 4


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
) -> Comparison:
    """Every method of a plan on the same episodes of the meta-test tasks, and what that shows.

    Arguments:
        folds: the tasks, divided in one or more ways; every task is a meta-test task at most once.
        plan: what to do.
        clusters: the cluster of each task, where tasks were divided by a coarser column.
        settings: what was asked for, for the record.
        progress: see `Progress`.

    Returns:
        The comparison, methods best first.

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
    began = time.perf_counter()
    contest = Contest(folds, entrants(folds[0], list(dict.fromkeys(plan.methods))), plan.effort)
    phase = _Phases(progress, [contest.cost, *_later_costs(folds, plan)])
    contest.progress = phase(0)
    entries = contest.run()
    if not entries:
        reasons = "; ".join(f"{name}: {why}" for name, why in contest.skipped.items())
        raise UsageError(f"none of the methods applies to these tasks ({reasons})")
    kind, seeds = folds[0].targets.kind, plan.effort.seeds
    lower = kind == "regression"
    ids = next(iter(entries.values())).by_seed()[0].ids
    groups = tuple(clusters[name] for name in ids) if clusters else ()
    methods = [method(entry, seeds, clusters=groups, how=plan.interval) for entry in entries.values()]
    headline = HEADLINE[kind]
    methods.sort(key=lambda m: m.metrics[headline].mean if lower else -m.metrics[headline].mean)
    pairs = asked(entries)
    lines = _lines(contest, pairs, plan, phase(1))
    # every fold is a training of its own, so that one seed a cell is enough
    once = replace(plan.effort, seeds=1)
    cells, effects = factorial(folds, once, clusters=groups, tell=phase(2)) if plan.factorial else ((), ())
    differences = compared(entries, [m.name for m in methods], pairs, seeds, lower=lower, clusters=groups)
    return Comparison(
        settings={**(settings or {}), "worthwhile": plan.worthwhile, "interval": plan.interval}
        | {"steps": plan.effort.steps, "tries": plan.effort.tries, "seeds": seeds},
        data=_about(folds, seeds, ids, clusters),
        metric=headline,
        lower_is_better=lower,
        tasks=ids,
        clusters=groups,
        methods=tuple(methods),
        skipped=contest.skipped,
        differences=differences,
        curves=tuple(line.curve(groups_of(line, ids, groups), plan.interval, errors=lower) for line in lines),
        crossings=_crossings(lines, entries, pairs, folds[0], lower=lower),
        cells=cells,
        effects=effects,
        verdict=_judged(methods, entries, pairs, differences, plan),
        episodes=_shown(folds[0], entries, [m.name for m in methods], pairs),
        learned=_learned(folds[0], entries, [m.name for m in methods]),
        notes=folds[0].notes,
        versions=_versions(),
        seconds=round(time.perf_counter() - began, 3),
    )


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


def asked(entries: Mapping[str, Entry]) -> dict[str, tuple[str, str]]:
    """The pairs that the two questions are about, each side chosen on meta-validation tasks.

    Where nothing that does not adapt knows the targets (classes numbered anew), the question is about each task
    alone instead.
    """
    every = entries.values()

    def of_kind(kind: str) -> str | None:
        return _best(e for e in every if e.entrant.kind == kind)

    pooled = any(e.entrant.kind == "none" and e.name not in ("mean", "majority") for e in every)
    over = of_kind("none") if pooled else of_kind("alone") or of_kind("none")
    net = _best(e for e in every if e.entrant.family == "meta")
    mixed = _best(e for e in every if e.name in ("mixed", "mixed_squares"))
    pairs = {"adapting": (of_kind("shared"), over), "net": (net, mixed)}
    return {name: (a, b) for name, (a, b) in pairs.items() if a is not None and b is not None}


def _best(entries: Iterable[Entry]) -> str | None:
    """The name of the method with the lowest error on meta-validation tasks; `None` where there is none."""
    best = min(entries, key=lambda entry: entry.valid_error, default=None)
    return best.name if best else None


def compared(
    entries: Mapping[str, Entry],
    ranked: Sequence[str],
    pairs: Mapping[str, tuple[str, str]],
    seeds: int,
    *,
    lower: bool,
    clusters: Sequence[str],
) -> tuple[Difference, ...]:
    """Paired differences that bear on the questions, corrected for their number.

    Those of the best method to every other one, of what adapts to what does not, and of nets to the mixed model.
    """
    wanted = [(ranked[0], name) for name in ranked[1:]]
    if "adapting" in pairs:
        over = pairs["adapting"][1]
        wanted += [(n, over) for n in ranked if entries[n].entrant.kind != "none" and n != over]
    if "net" in pairs:
        wanted += [(n, pairs["net"][1]) for n in ranked if entries[n].entrant.family == "meta"]
    wanted = list(dict.fromkeys(wanted))
    values = {name: entries[name].headline(seeds) for name in ranked}
    tested = [paired(values[a], values[b], lower_is_better=lower, clusters=clusters) for a, b in wanted]
    corrected = holm([each.p for each in tested])
    return tuple(
        Difference(a, b, each.difference, each.gain, each.p, p)
        for (a, b), each, p in zip(wanted, tested, corrected, strict=True)
    )


def _judged(
    methods: Sequence[Method],
    entries: Mapping[str, Entry],
    pairs: Mapping[str, tuple[str, str]],
    differences: Sequence[Difference],
    plan: Plan,
) -> Verdict:
    """The answers to the two questions."""
    by_name = {m.name: m for m in methods}
    differing = {
        name: next(d for d in differences if (d.ours, d.theirs) == pair) for name, pair in pairs.items()
    }
    # two questions, each about one pair that meta-validation tasks chose: other methods are not in their way
    corrected = dict(zip(differing, holm([each.p for each in differing.values()]), strict=True))

    def question(name: str) -> Question | None:
        if name not in differing:
            return None
        pair = differing[name]
        return Question(by_name[pair.ours], by_name[pair.theirs], pair, plan.worthwhile, corrected[name])

    # what may be right for one table is what does not adapt to parts of it
    right = _best(e for e in entries.values() if e.entrant.kind == "none") or _best(entries.values())
    return verdict(
        question("adapting"), question("net"), single=plan.single, right=by_name[right] if right else None
    )


def _lines(
    contest: Contest, pairs: Mapping[str, tuple[str, str]], plan: Plan, progress: Progress
) -> list[curves.Line]:
    """The curves asked for, of the best method of each kind and the two that the second question is about."""
    entries = contest.entries
    alone = _best(e for e in entries.values() if e.entrant.kind == "alone")
    named = [*(name for pair in pairs.values() for name in pair), *([alone] if alone else [])]
    names = list(dict.fromkeys(named))
    lines = curves.inner_steps(entries) if "inner_steps" in plan.curves else []
    if "support" in plan.curves:
        lines += curves.support(contest, names, progress)
    if "train_tasks" in plan.curves:
        lines += curves.train_tasks(contest, names, progress)
    return lines


def groups_of(line: curves.Line, ids: Sequence[str], groups: Sequence[str]) -> list[str]:
    """The cluster of each task of a curve: some curves have their tasks in the order of their names."""
    if not groups:
        return []
    order = range(len(ids)) if line.axis == "inner_steps" else np.argsort(np.asarray(ids))
    return [groups[position] for position in order]


def _crossings(
    lines: Sequence[curves.Line],
    entries: Mapping[str, Entry],
    pairs: Mapping[str, tuple[str, str]],
    tasks: Tasks,
    *,
    lower: bool,
) -> tuple[Crossing, ...]:
    """From which support size on each task alone is as good as what is shared and adapted."""
    by_method = {line.method: line for line in lines if line.axis == "support"}
    alone = next((name for name in by_method if entries[name].entrant.kind == "alone"), None)
    best = pairs.get("adapting", ("", ""))[0]
    if alone is None or best not in by_method:
        return ()
    unit = f"rows a {'class' if tasks.train.support.per_class else 'task'}"
    labels = (entries[best].entrant.label, entries[alone].entrant.label)
    pair = (by_method[best], by_method[alone])
    return (curves.crossing(*pair, lower_is_better=lower, labels=labels, unit=unit),)


def _shown(
    tasks: Tasks, entries: Mapping[str, Entry], ranked: Sequence[str], pairs: Mapping[str, tuple[str, str]]
) -> tuple[Shown, ...]:
    """Episodes of the first fold with the predictions of the methods that the verdict names, and the best."""
    named = dict.fromkeys([ranked[0], *(name for pair in pairs.values() for name in pair)])
    models = {name: entries[name].first[0].model for name in named}
    return show(models, tasks.test, schema=tasks.schema, count=EPISODES)


def _learned(tasks: Tasks, entries: Mapping[str, Entry], ranked: Sequence[str]) -> LearnedRows:
    """What the best meta-learner learned, on the meta-test tasks of the first fold."""
    best = next((name for name in ranked if entries[name].entrant.family == "meta"), None)
    if best is None:
        return {}
    entry = entries[best]
    frames = learned(entry.first[0].model, tasks.test).rows()
    frames["gains"] = plain_rows(gains(entry.scores[0][0]))
    return cast(LearnedRows, {"method": best, **{name: tuple(rows) for name, rows in frames.items()}})


def _about(
    folds: Sequence[Tasks], seeds: int, ids: Sequence[str], clusters: Mapping[str, str] | None
) -> DataFacts:
    tasks = folds[0]
    support = tasks.train.support
    return {
        "name": tasks.name,
        "kind": tasks.targets.kind,
        "n_tasks": len(ids),
        "feature_shape": tuple(tasks.feature_shape),
        "n_features": tasks.feature_shape[0] if len(tasks.feature_shape) == 1 else None,
        "support": str(support),
        "unit": "class" if support.per_class else "task",
        "folds": len(folds),
        "seeds": seeds,
        "clusters": len(set(clusters.values())) if clusters else None,
    }


def _versions() -> dict[str, str]:
    """Versions of the packages that are installed."""
    versions = {"python": platform.python_version()}
    for name in ("innerloop", "torch", "numpy", "scipy", "scikit-learn", "tabicl"):
        with suppress(PackageNotFoundError):
            versions[name] = version(name)
    return versions
