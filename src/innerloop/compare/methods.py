"""Registry of the methods of a comparison: baselines and meta-learners, their search grids, where each applies."""

from __future__ import annotations

import functools
import importlib.util
import inspect
import sys
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from typing import NamedTuple

from ..algorithms import ALGORITHMS, baselines
from ..errors import UsageError
from ..inner.model import Model
from ..inner.per_target import per_target
from ..outer.interrupts import interruption_unsaid
from ..outer.training import Run
from ..tasks.sources import Targets
from ..tasks.splits import Tasks
from .linear import logistic, spread_of
from .nets import Bench, Settings, fine_tuned, from_scratch, linear_head, whole_training
from .result import LogEntry
from .sklearn_methods import EachTarget, Estimator, EstimatorLearner, Remembering, training_rows

__all__ = [
    "BASELINES",
    "LABELS",
    "META",
    "NETS",
    "QUICK_BASELINES",
    "QUICK_META",
    "Entrant",
    "Trained",
    "entrant",
    "entrants",
    "numbered_anew",
]


class Trained(NamedTuple):
    """A method made ready on the meta-train tasks of a fold.

    Arguments:
        model: what is scored.
        chosen: settings that the method chose itself, such as the strength of a ridge.
        log: learning curve, where it is trained by gradients.
    """

    model: Model
    chosen: dict[str, object]
    log: tuple[LogEntry, ...] = ()


def _of_run(run: Run) -> Trained:
    return Trained(run.model, {}, tuple(run.log))


def _with_spread(model: Model) -> Trained:
    return Trained(model, {"spread": round(spread_of(model), 4)})


Fit = Callable[[Bench, Settings], Trained]
Refuses = Callable[[Tasks], str | None]


@dataclass(frozen=True)
class Entrant:
    """A method that can enter a comparison.

    Arguments:
        name: stable name.
        label: for people.
        kind: one of `result.KINDS`.
        family: `meta`, `baseline` or `incontext`.
        fit: (bench, settings) -> trained.
        grid: settings to try, the sound ones first.
        refuses: why it does not apply to some tasks; `None` where it does.
        trained: it takes meta-updates, so that seeds differ.
        reuses: it starts from the pooled net, which is trained once: a try costs no training.
        sized: what is learned from the meta-train tasks depends on the support size.
        targets: the kind of targets that it is for; by it and the name another process makes it again.
    """

    name: str
    label: str
    kind: str
    family: str
    fit: Fit
    grid: tuple[Settings, ...] = ({},)
    refuses: Refuses = lambda tasks: None
    trained: bool = False
    reuses: bool = False
    sized: bool = True
    targets: str = ""

    def __reduce__(self) -> tuple[object, ...]:
        """By name, for the functions of an entrant are local ones."""
        return _entrant, (self.targets, self.name)


LABELS = {
    "maml": "MAML",
    "fomaml": "MAML, first order",
    "anil": "ANIL",
    "meta_sgd": "Meta-SGD",
    "ridge": "ridge on learned features",
    "protonet": "prototypical network",
    "gaussian": "Gaussian head on learned features",
    "reptile": "Reptile",
    "mixed": "linear mixed model",
    "gp": "Gaussian process",
    "deep_kernel": "Gaussian process on learned features",
    "cnp": "conditional neural process",
    "attentive_cnp": "attentive neural process",
    "set_net": "set network",
}
META = ("auto", "maml", "anil", "meta_sgd", "ridge", "protonet")
QUICK_META = {"regression": ("maml", "meta_sgd", "ridge"), "classification": ("maml", "ridge", "protonet")}
BASELINES = (
    "mean", "pooled", "pooled_net", "pooled_boosting", "alone", "alone_neighbours", "alone_net", "alone_boosting",
    "fine_tuned", "linear_head", "shrunken", "mixed", "mixed_squares", "gp", "boosting", "tabicl",
)  # fmt: skip
QUICK_BASELINES = ("pooled", "pooled_boosting", "alone", "shrunken", "mixed", "gp", "boosting")
# baselines that are nets; the others are what one would do without meta-learning and without a net
NETS = ("pooled_net", "alone_net", "fine_tuned", "linear_head")


def numbered_anew(tasks: Tasks) -> bool:
    """Whether each episode numbers its classes anew, so that a class number means nothing across tasks."""
    return tasks.targets.kind == "classification" and tasks.train.n_tasks is None


def entrants(tasks: Tasks, names: Sequence[str]) -> list[Entrant]:
    """The methods of these names, as they are for tasks of this kind.

    Raises:
        UsageError: a name is unknown.
    """
    return [entrant(tasks, name) for name in names]


def entrant(tasks: Tasks, name: str) -> Entrant:
    """One method by name.

    `mean`, `alone` and `shrunken` are what fits the targets: `majority`, `alone_logistic` and `shrunken_logistic`
    for classes, `mean`, `alone_ridge` and `shrunken_ridge` for numbers.

    Raises:
        UsageError: the name is unknown.

    Example:
        >>> from innerloop.tasks import sinusoid
        >>> entrant(sinusoid(), "maml").kind
        'shared'
    """
    return _entrant(tasks.targets.kind, name)


def _entrant(targets: str, name: str) -> Entrant:
    """See `entrant`; of a kind of targets."""
    numbers, classes, common = (
        {entry.name: entry for entry in table.values()} for table in (_NUMBERS, _CLASSES, _COMMON)
    )
    of_classes = targets == "classification"
    known = common | (classes | _CLASSES if of_classes else numbers | _NUMBERS)
    if name in known:
        return replace(known[name], targets=targets)
    if name in ALGORITHMS:
        return replace(_meta_learner(name), targets=targets)
    if name in numbers or name in classes:
        raise UsageError(f"method {name!r} does not apply: these tasks are {targets}")
    everything = sorted({*ALGORITHMS, *numbers, *classes, *common})
    raise UsageError(f"method {name!r} is unknown: choose among {', '.join(everything)}")


def _meta_learner(name: str) -> Entrant:
    accepted = inspect.signature(ALGORITHMS[name]).parameters
    grid: list[Settings] = [{}, {"hidden": (16,)}, {"meta_lr": 1e-3}] if "module" in accepted else [{}]
    if "inner_lr" in accepted:
        grid.append({"inner_lr": 0.2})

    def fit(bench: Bench, settings: Settings) -> Trained:
        if "hidden" in settings and len(bench.tasks.feature_shape) == 3:
            settings = {"width": 32}
        return _of_run(bench.train(bench.learner(name, settings), settings))

    def refuses(tasks: Tasks) -> str | None:
        of_classes = "n_way" in accepted or name == "protonet"
        return "it predicts classes" if of_classes and tasks.targets.kind != "classification" else None

    return Entrant(name, LABELS.get(name, name), "shared", "meta", fit, tuple(grid), refuses, trained=True)


def _needs_vectors(tasks: Tasks) -> str | None:
    return None if len(tasks.feature_shape) == 1 else "it needs feature vectors"


def _needs_meaning(tasks: Tasks) -> str | None:
    """Refused where class numbers mean nothing across tasks."""
    return "classes are numbered anew in every episode" if numbered_anew(tasks) else None


def _needs_all_targets(tasks: Tasks) -> str | None:
    return "rows know some of several targets only" if tasks.targets.partial else None


def _both(*reasons: Refuses) -> Refuses:
    return lambda tasks: next((text for reason in reasons if (text := reason(tasks))), None)


# --- closed forms -----------------------------------------------------------------------------------------


def _linear(name: str) -> Fit:
    """Ridge regressions of `baselines`, which choose their strength on the meta-train tasks."""

    def fit(bench: Bench, settings: Settings) -> Trained:
        tasks, support = bench.tasks, bench.tasks.train.support
        ordered = support.choice.how == "order"
        size = support.high * (tasks.n_outputs if support.per_class else 1)
        make = functools.partial(baselines.BASELINES[name], tasks.n_features, n_support=size, ordered=ordered)
        partial = tasks.targets.partial
        learner = per_target(make(1), tasks.n_outputs) if partial else make(tasks.n_outputs)
        model = whole_training(learner, tasks.train, device=bench.device).model
        return Trained(model, {}) if name == "pooled" or partial else _with_spread(model)

    return fit


def _pooled_logistic(bench: Bench, settings: Settings) -> Trained:
    from sklearn.linear_model import LogisticRegression

    return _pooled_estimator(bench, LogisticRegression(max_iter=1000, **settings))


def _logistic(*, pooled: bool) -> Fit:
    return lambda bench, settings: _with_spread(
        logistic(bench.tasks, pooled=pooled, inverse_penalty=settings.get("C", 1.0))
    )


def _named(algorithm: str, **options: object) -> Fit:
    """An algorithm of the registry as a baseline."""
    return lambda bench, settings: _of_run(
        bench.train(bench.learner(algorithm, {**options, **settings}), settings)
    )


def _combined(bench: Bench, settings: Settings) -> Trained:
    """What `train` does where no algorithm is named."""
    from ..combining import choose

    with interruption_unsaid():
        choice = choose(bench.tasks, steps=bench.steps, seed=bench.seed, options={"device": bench.device})
    if choice.run.interrupted:
        raise KeyboardInterrupt
    return Trained(choice.model, {})


# --- nets -------------------------------------------------------------------------------------------------


def _pooled_net(bench: Bench, settings: Settings) -> Trained:
    return _of_run(bench.pooled_net(settings))


def _stopped(make: Callable[[Bench, Settings], Model]) -> Fit:
    """A net whose number of gradient steps in a task was tuned."""

    def fit(bench: Bench, settings: Settings) -> Trained:
        model = make(bench, settings)
        return Trained(model, {"inner_steps": model.learner.inner_steps})

    return fit


def _linear_head(bench: Bench, settings: Settings) -> Trained:
    return _with_spread(linear_head(bench))


# --- scikit-learn and TabICL ------------------------------------------------------------------------------


def _constant(bench: Bench, settings: Settings) -> Trained:
    from sklearn.dummy import DummyClassifier, DummyRegressor

    numbers = bench.tasks.targets.kind == "regression"
    return _pooled_estimator(bench, DummyRegressor() if numbers else DummyClassifier())


def _pooled_boosting(bench: Bench, settings: Settings) -> Trained:
    from sklearn import ensemble

    options = {"random_state": bench.seed, "early_stopping": True, **settings}
    if bench.tasks.targets.kind == "classification":
        return _pooled_estimator(bench, ensemble.HistGradientBoostingClassifier(**options))
    regressor = ensemble.HistGradientBoostingRegressor(**options)
    return _pooled_estimator(bench, _of_all_outputs(_at_once(bench.tasks.targets), regressor))


def _of_all_outputs(targets: Targets, regressor: Estimator) -> Estimator:
    """A regressor of one target as one of all targets of the tasks."""
    from sklearn.multioutput import MultiOutputRegressor

    return regressor if targets.n_outputs == 1 else MultiOutputRegressor(regressor)


def _at_once(targets: Targets) -> Targets:
    """The targets that one estimator predicts: one of them where rows know some of several."""
    return targets._replace(n_outputs=1) if targets.partial else targets


def _pooled_estimator(bench: Bench, estimator: Estimator) -> Trained:
    from sklearn.base import clone

    x, y = training_rows(bench.tasks.train)
    if bench.tasks.targets.partial:
        one = estimator
        estimator = EachTarget(lambda rows: clone(one))
    learner = EstimatorLearner(bench.tasks.targets, pooled=estimator.fit(x, y))
    return Trained(Model(learner, learner.init()), {})


def _alone(make: Callable[[Targets, int, Settings, int], Estimator]) -> Fit:
    def fit(bench: Bench, settings: Settings) -> Trained:
        learner = EstimatorLearner(
            bench.tasks.targets, functools.partial(make, _at_once(bench.tasks.targets), bench.seed, settings)
        )
        return Trained(Model(learner, learner.init()), {})

    return fit


def _neighbours(targets: Targets, seed: int, settings: Settings, rows: int) -> Estimator:
    from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor

    numbers = targets.kind == "regression"
    count = min(settings["n_neighbors"], rows)
    return (KNeighborsRegressor if numbers else KNeighborsClassifier)(count, weights="distance")


def _boosting(targets: Targets, seed: int, settings: Settings, rows: int) -> Estimator:
    from sklearn import ensemble

    options = {"max_depth": 2, "random_state": seed, **settings}
    if targets.kind == "classification":
        return ensemble.GradientBoostingClassifier(**options)
    return _of_all_outputs(targets, ensemble.GradientBoostingRegressor(**options))


def _tabicl(targets: Targets, seed: int, settings: Settings, rows: int) -> Estimator:
    return Remembering(_loaded_tabicl(targets.kind))


@functools.cache
def _loaded_tabicl(kind: str) -> Estimator:
    """TabICL whose weights are read once, not in every fit."""
    import tabicl

    base = tabicl.TabICLRegressor if kind == "regression" else tabicl.TabICLClassifier

    class Once(base):  # type: ignore[misc, valid-type]
        def _load_model(self) -> None:
            if not hasattr(self, "model_"):
                # it tells of its download where --json puts its object
                with redirect_stdout(sys.stderr):
                    super()._load_model()

    return Once(n_estimators=1)


def _needs_tabicl(tasks: Tasks) -> str | None:
    spec = importlib.util.find_spec("tabicl")
    # a folder of this name that is no package has a spec, and no file
    if spec is None or spec.origin is None:
        return "TabICL is not installed: pip install 'innerloop[incontext]'"
    return "it predicts one target" if tasks.targets.kind == "regression" and tasks.n_outputs > 1 else None


def _grid(name: str, *values: object) -> tuple[Settings, ...]:
    return tuple({name: value} for value in values)


_VECTORS_OF_MEANING = _both(_needs_vectors, _needs_meaning)
_COMMON = {
    e.name: e
    for e in (
        Entrant("pooled_net", "one net for all tasks", "none", "baseline", _pooled_net,
                ({}, {"hidden": (16,)}, {"meta_lr": 1e-3}, {"hidden": (64, 64)}),
                _needs_meaning, trained=True),
        Entrant("pooled_boosting", "boosting on the rows of all tasks", "none", "baseline", _pooled_boosting,
                ({}, {"max_leaf_nodes": 8}, {"learning_rate": 0.03, "max_iter": 300}, {"max_leaf_nodes": 63}),
                _VECTORS_OF_MEANING),
        Entrant("alone_neighbours", "each task alone (nearest neighbours)", "alone", "baseline",
                _alone(_neighbours), _grid("n_neighbors", 3, 1, 5, 10)),
        Entrant("alone_net", "each task alone (net from scratch)", "alone", "baseline",
                _stopped(from_scratch), _grid("inner_lr", 0.01, 0.003, 0.03, 0.1)),
        Entrant("alone_boosting", "each task alone (boosting)", "alone", "baseline", _alone(_boosting),
                ({"n_estimators": 30}, {"n_estimators": 10}, {"n_estimators": 30, "max_depth": 1},
                 {"n_estimators": 100, "learning_rate": 0.03}), _needs_vectors),
        Entrant("fine_tuned", "pooled net, fine-tuned", "shared", "baseline", _stopped(fine_tuned),
                _grid("inner_lr", 0.05, 0.2, 0.01, 0.5), trained=True, reuses=True),
        Entrant("gp", "Gaussian process", "shared", "baseline", _named("gp"), refuses=_VECTORS_OF_MEANING,
                sized=False),
        Entrant("boosting", "boosting with support features", "shared", "baseline", _named("boosting"),
                refuses=_VECTORS_OF_MEANING),
        Entrant("auto", "the combination that train makes (auto)", "shared", "meta", _combined,
                refuses=_VECTORS_OF_MEANING),
        Entrant("linear_head", "pooled features, linear head", "shared", "baseline", _linear_head,
                refuses=_needs_all_targets, trained=True, reuses=True),
        Entrant("tabicl", "TabICL, each task alone", "alone", "incontext", _alone(_tabicl), ({},),
                _both(_needs_tabicl, _needs_vectors)),
    )
}  # fmt: skip
_NUMBERS = {
    "mean": Entrant("mean", "mean of the training targets", "none", "baseline", _constant),
    "pooled": Entrant("pooled", "one line for all tasks", "none", "baseline", _linear("pooled"),
                      refuses=_needs_vectors),
    "alone": Entrant("alone_ridge", "each task alone (ridge)", "alone", "baseline", _linear("alone_ridge"),
                     refuses=_needs_vectors),
    "shrunken": Entrant("shrunken_ridge", "ridge shrunk to the pooled line", "shared", "baseline",
                        _linear("shrunken_ridge"), refuses=_needs_vectors),
    "mixed": Entrant("mixed", "linear mixed model", "shared", "baseline", _named("mixed"),
                     refuses=_needs_vectors, sized=False),
    "mixed_squares": Entrant("mixed_squares", "linear mixed model with squares", "shared", "baseline",
                             _named("mixed", squares=True), refuses=_needs_vectors, sized=False),
}  # fmt: skip
_CLASSES = {
    "mean": Entrant("majority", "the most frequent class", "none", "baseline", _constant),
    "pooled": Entrant("pooled", "one logistic regression for all tasks", "none", "baseline",
                      _pooled_logistic, _grid("C", 1.0, 0.1, 10.0, 0.01), _VECTORS_OF_MEANING),
    "alone": Entrant("alone_logistic", "each task alone (logistic)", "alone", "baseline",
                     _logistic(pooled=False), refuses=_needs_vectors),
    "shrunken": Entrant("shrunken_logistic", "logistic shrunk to the pooled one", "shared", "baseline",
                        _logistic(pooled=True), _grid("C", 1.0, 0.1, 10.0, 0.01), _VECTORS_OF_MEANING),
    "mixed": Entrant("mixed", "mixed logistic regression", "shared", "baseline", _named("mixed"),
                     refuses=_VECTORS_OF_MEANING, trained=True),
    "mixed_squares": Entrant("mixed_squares", "mixed logistic regression with squares", "shared", "baseline",
                             _named("mixed", squares=True), refuses=_VECTORS_OF_MEANING, trained=True),
}  # fmt: skip
