"""Results of a comparison as plain values, to JSON and back: what is computed once, printed and drawn.

Everything is a frozen dataclass of numbers, text, tuples and dicts. A float that is undefined is NaN, in JSON null.
"""

from __future__ import annotations

import dataclasses
import json
import math
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypedDict

from ..errors import DataError
from ..evaluation.examples import Shown
from ..evaluation.inspection import Row
from ..evaluation.intervals import Estimate
from ..notebook import as_html

__all__ = [
    "AXES",
    "KINDS",
    "Cell",
    "Comparison",
    "Crossing",
    "Curve",
    "DataFacts",
    "Difference",
    "Effect",
    "LearnedRows",
    "LogEntry",
    "Method",
    "Verdict",
]

SCHEMA_VERSION = 1

KINDS = {
    "none": "one model for all, not adapted",
    "alone": "each task on its own",
    "shared": "shared and adapted",
}
AXES = ("support", "train_tasks", "inner_steps")

LogEntry = Mapping[str, object]  # `step`, `loss`, and `valid_loss` where it was measured


class DataFacts(TypedDict, total=False):
    """The data of a comparison; `unit` is what the support size counts in, `row` or `class`."""

    name: str
    kind: str
    n_tasks: int
    feature_shape: tuple[int, ...]
    n_features: int | None
    support: str
    unit: str
    folds: int
    seeds: int
    clusters: int | None


class Verdict(TypedDict, total=False):
    """The answers to the two questions: true, false or `None`, the methods each is about, and what it rests on."""

    helps: bool | None
    net_over_classical: bool | None
    best: str | None
    over: str | None
    net: str | None
    classical: str | None
    difference: float | None
    ci95: tuple[float, ...] | None
    sentence: str


class LearnedRows(TypedDict, total=False):
    """What the best meta-learner learned, as rows of the frames of `evaluation.inspection`."""

    method: str
    moved: tuple[Row, ...]
    similarity: tuple[Row, ...]
    rates: tuple[Row, ...]
    masks: tuple[Row, ...]
    gains: tuple[Row, ...]


@dataclass(frozen=True)
class Method:
    """One method of a comparison.

    Arguments:
        name: stable name, such as `maml`, `pooled`, `shrunken_ridge`.
        label: the name for people.
        kind: one of `KINDS`.
        family: `meta` (a meta-learner), `baseline` or `incontext`.
        scores: headline metric `(tasks, seeds)`, tasks in the order of `Comparison.tasks`.
        metrics: every metric with its interval over tasks, means over seeds.
        settings: what the search chose, in the first fold.
        tried: settings tried.
        seconds: time taken to search, train and score.
        log: learning curve of the first training.
        before: headline metric before adaptation, for methods that have such a state.
    """

    name: str
    label: str
    kind: str
    family: str
    scores: tuple[tuple[float, ...], ...]
    metrics: dict[str, Estimate]
    settings: dict[str, object] = field(default_factory=dict)
    tried: int = 1
    seconds: float = 0.0
    log: tuple[LogEntry, ...] = ()
    before: Estimate | None = None


@dataclass(frozen=True)
class Difference:
    """A paired difference of the headline metric, `ours` minus `theirs`, on the same tasks.

    Arguments:
        ours: method.
        theirs: method.
        difference: with a two-way bootstrap interval over tasks and seeds.
        gain: relative gain of ours: the share of the error of theirs that ours saves (error is one minus
            accuracy in classification); positive is better.
        p: two-sided p value of no difference.
        p_holm: the same, corrected by Holm for all differences of the comparison.
    """

    ours: str
    theirs: str
    difference: Estimate
    gain: Estimate
    p: float
    p_holm: float


@dataclass(frozen=True)
class Curve:
    """The headline metric of a method along an axis.

    Arguments:
        method: name.
        axis: `support` (rows a task or shots a class), `train_tasks` (meta-train tasks) or `inner_steps`.
        at: values of the axis, ascending.
        labels: how to write them (`all` for the last support size).
        estimates: one for each of `at`.
    """

    method: str
    axis: str
    at: tuple[float, ...]
    labels: tuple[str, ...]
    estimates: tuple[Estimate, ...]


@dataclass(frozen=True)
class Crossing:
    """Where the curve of one method meets that of another.

    Arguments:
        axis: as in `Curve`.
        ours: the method that is better for small values.
        theirs: the one that catches up.
        at: where they meet; `None` if they do not within the curve.
        low: lower end of the 95 % interval; `None`: below the smallest value.
        high: upper end; `None`: above the largest value.
        sentence: what that means.
    """

    axis: str
    ours: str
    theirs: str
    at: float | None
    low: float | None
    high: float | None
    sentence: str


@dataclass(frozen=True)
class Cell:
    """One cell of the factorial.

    Arguments:
        learning: `meta` or `conventional`.
        augmentation: name, `none` among them.
        dropout: share of units left out in training.
        score: headline metric with its interval over tasks.
    """

    learning: str
    augmentation: str
    dropout: float
    score: Estimate


@dataclass(frozen=True)
class Effect:
    """A main effect or an interaction of the factorial, in the headline metric.

    Arguments:
        factors: the levels it belongs to, one factor for a main effect, two for an interaction:
            `("learning=meta",)`, `("learning=meta", "dropout=0.2")`.
        effect: how much the metric changes against the first level of each factor, averaged over the others;
            for an interaction how much one change changes the other.
        p_holm: two-sided p value, corrected by Holm for all effects.
    """

    factors: tuple[str, ...]
    effect: Estimate
    p_holm: float


@dataclass(frozen=True)
class Comparison:
    """Everything that a comparison found.

    Arguments:
        settings: what was asked for, and the command to ask again under `command`.
        data: see `DataFacts`.
        metric: the headline metric: `error_over_variance` or `accuracy`.
        lower_is_better: of the headline metric.
        tasks: ids of the meta-test tasks, in the order of the scores.
        clusters: the cluster of each task, where the split is by a coarser column; else empty.
        methods: best first.
        skipped: methods that did not run, with the reason.
        differences: of the best method to every other one, of every adapting method to the pooled model, and of
            nets to the mixed model.
        curves: see `Curve`.
        crossings: see `Crossing`.
        cells: of the factorial, empty without it.
        effects: of the factorial.
        verdict: see `Verdict`.
        episodes: to show.
        learned: see `LearnedRows`, of the first fold; empty without a meta-learner.
        notes: remarks, one sentence each.
        versions: of the packages used.
        seconds: the whole took.
        interrupted: some methods or curves are missing.

    Example:
        >>> comparison = Comparison({}, {"name": "x"}, "accuracy", False, ("a",), (), ())
        >>> Comparison.from_json(comparison.to_json()) == comparison
        True
    """

    settings: dict[str, object]
    data: DataFacts
    metric: str
    lower_is_better: bool
    tasks: tuple[str, ...]
    clusters: tuple[str, ...]
    methods: tuple[Method, ...]
    skipped: dict[str, str] = field(default_factory=dict)
    differences: tuple[Difference, ...] = ()
    curves: tuple[Curve, ...] = ()
    crossings: tuple[Crossing, ...] = ()
    cells: tuple[Cell, ...] = ()
    effects: tuple[Effect, ...] = ()
    verdict: Verdict = field(default_factory=Verdict)
    episodes: tuple[Shown, ...] = ()
    learned: LearnedRows = field(default_factory=LearnedRows)
    notes: tuple[str, ...] = ()
    versions: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0
    interrupted: bool = False

    def method(self, name: str) -> Method:
        """The method of a name.

        Raises:
            DataError: the comparison has none of this name.
        """
        by_name = {method.name: method for method in self.methods}
        if name not in by_name:
            raise DataError(f"this comparison has no method {name!r}: it has {', '.join(by_name)}")
        return by_name[name]

    def label(self, name: str) -> str:
        """What people call a method; its name where there is none."""
        return next((method.label for method in self.methods if method.name == name), name)

    def _repr_html_(self) -> str:
        """What notebooks show: the verdict, and the methods with their headline metric, best first."""
        rows = [
            [method.label, KINDS.get(method.kind, method.kind), _interval(method.metrics.get(self.metric))]
            for method in self.methods
        ]
        facts = {
            "verdict": self.verdict.get("sentence"),
            "tasks": len(self.tasks),
            "skipped": self.skipped,
            "interrupted": "some methods or curves are missing" if self.interrupted else None,
        }
        head = ["method", "", f"{self.metric} ({'lower' if self.lower_is_better else 'higher'} is better)"]
        return as_html(f"Comparison: {self.data.get('name', 'tasks')}", facts, [head, *rows])

    def to_json(self) -> str:
        """The comparison as one JSON object."""
        content = {"schema_version": SCHEMA_VERSION, **_encode(self)}
        return json.dumps(content, allow_nan=False, ensure_ascii=False)

    @staticmethod
    def from_json(text: str) -> Comparison:
        """What `to_json` wrote.

        Raises:
            DataError: it is none, or made by a newer version.
        """
        try:
            content = json.loads(text)
            version = content.pop("schema_version")
        except (TypeError, ValueError, AttributeError, KeyError):
            raise DataError(
                "this is no comparison: innerloop compare writes one as comparison.json"
            ) from None
        if version != SCHEMA_VERSION:
            raise DataError(
                f"this comparison has schema version {version}, and {SCHEMA_VERSION} is known: update innerloop"
            )
        try:
            return typing.cast(Comparison, _decode(content, Comparison))
        except (TypeError, ValueError, AttributeError, KeyError) as error:
            raise DataError(f"this comparison is damaged: {error}") from None


def _interval(estimate: Estimate | None) -> str:
    return "" if estimate is None else "{:.4g} [{:.4g}, {:.4g}]".format(*estimate)


def _encode(value: object) -> Any:
    """Plain JSON values; what is not finite is null."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: _encode(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {str(key): _encode(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_encode(entry) for entry in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value


def _decode(value: Any, kind: Any) -> Any:
    """A JSON value as the type that a field is declared with."""
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):
        return None if value is None else _decode(value, next(k for k in inner if k is not type(None)))
    if kind is float:
        return math.nan if value is None else float(value)
    if origin is tuple:
        return tuple(_decode(entry, inner[0]) for entry in value)
    if origin is dict:
        return {key: _decode(entry, inner[1]) for key, entry in value.items()}
    if isinstance(kind, type) and issubclass(kind, tuple) and hasattr(kind, "_fields"):
        return kind(*(_decode(entry, float) for entry in value))
    if dataclasses.is_dataclass(kind):
        hints = typing.get_type_hints(kind)
        return kind(**{name: _decode(entry, hints[name]) for name, entry in value.items()})  # type: ignore[operator]
    return _frozen(value)


def _frozen(value: object) -> object:
    """Lists inside free-form values become tuples, as everywhere in a comparison."""
    if isinstance(value, list):
        return tuple(_frozen(entry) for entry in value)
    if isinstance(value, dict):
        return {key: _frozen(entry) for key, entry in value.items()}
    return value
