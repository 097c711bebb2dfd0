"""Invented comparisons, complete in every part, for tests of what prints and draws them."""

from __future__ import annotations

import math

import numpy as np

from innerloop.compare.result import Cell, Comparison, Crossing, Curve, Difference, Effect, Method
from innerloop.evaluation.examples import Shown
from innerloop.evaluation.intervals import Estimate

# name, label, kind, family, mean error
METHODS = (
    ("mixed", "linear mixed model", "shared", "baseline", 0.46),
    ("maml", "MAML", "shared", "meta", 0.47),
    ("shrunken_ridge", "ridge shrunk to the pooled line", "shared", "baseline", 0.53),
    ("anil", "ANIL", "shared", "meta", 0.55),
    ("pooled", "one line for all tasks", "none", "baseline", 0.74),
    ("alone_ridge", "each task alone (ridge)", "alone", "baseline", 0.75),
    ("mean", "mean of the training targets", "none", "baseline", 1.0),
)
SIZES = (1, 2, 5, 10, 20)


def around(mean: float, half: float = 0.03) -> Estimate:
    """An estimate with its mean in the middle of its interval."""
    return Estimate(mean, mean - half, mean + half)


def synthetic_comparison(
    kind: str = "regression", *, n_tasks: int = 12, n_seeds: int = 2, images: bool = False, seed: int = 0
) -> Comparison:
    """A comparison with every part filled; one task is called `<script>alert(1)</script>`.

    Arguments:
        kind: `regression` or `classification`.
        n_tasks: meta-test tasks.
        n_seeds: seeds.
        images: the episodes are images (classification).
        seed: of the numbers.
    """
    rng = np.random.default_rng(seed)
    lower = kind == "regression"
    metric = "error_over_variance" if lower else "accuracy"
    names = ("<script>alert(1)</script>", *(f"task {i}" for i in range(1, n_tasks)))

    def value(error: float) -> float:
        return error if lower else 1 - error / 2

    methods = tuple(
        Method(
            name=name,
            label=label,
            kind=way,
            family=family,
            scores=tuple(map(tuple, (value(mean) + rng.normal(0, 0.05, (n_tasks, n_seeds))).tolist())),
            metrics=_metrics(kind, mean),
            settings={"inner_lr": 0.05, "hidden": (40, 40)} if family == "meta" else {},
            tried=4 if family == "meta" else 1,
            seconds=10.0 if family == "meta" else 0.1,
            log=_log(rng) if family == "meta" else (),
            before=around(value(0.73)) if family == "meta" else None,
        )
        for name, label, way, family, mean in METHODS
    )
    return Comparison(
        settings={"command": "innerloop compare table.csv --task site --target risk", "worthwhile": 0.05},
        data={
            "name": "table",
            "kind": kind,
            "n_tasks": n_tasks,
            "n_features": 3,
            "feature_shape": (1, 8, 8) if images else (3,),
            "support": "8",
            "unit": "row",
            "folds": 5,
            "seeds": n_seeds,
            "clusters": None,
        },
        metric=metric,
        lower_is_better=lower,
        tasks=names,
        clusters=(),
        methods=methods,
        skipped={"tabicl": "TabICL is not installed: pip install 'innerloop[incontext]'"},
        differences=_differences(lower),
        curves=_curves(value),
        crossings=(
            Crossing("support", "maml", "alone_ridge", 14.0, 11.0, None, "Above about 14 rows a task ..."),
        ),
        cells=_cells(value, images=images),
        effects=_effects(images=images),
        verdict={
            "helps": True,
            "net_over_classical": False,
            "best": "mixed",
            "over": "pooled",
            "net": "maml",
            "classical": "mixed",
            "difference": -0.28 if lower else 0.14,
            "ci95": (-0.31, -0.25) if lower else (0.12, 0.16),
            "sentence": "Adapting pays. A meta-learned net adds nothing to the mixed model.",
        },
        episodes=tuple(_shown(rng, kind, name, images=images) for name in names[:2]),
        learned=_learned(names),
        notes=("2 tasks have fewer than 9 rows and give less support",),
        versions={"innerloop": "0.1.0", "torch": "2.13.0"},
        seconds=123.4,
    )


def _metrics(kind: str, error: float) -> dict[str, Estimate]:
    if kind == "classification":
        return {
            "accuracy": around(1 - error / 2),
            "auc": around(1 - error / 3),
            "calibration_error": around(0.05, 0.01),
            "loss": around(error),
        }
    return {
        "error_over_variance": around(error),
        "rmse": around(2.5 * math.sqrt(error)),
        "r2": around(1 - error),
        "loss": around(error),
    }


def _log(rng: np.random.Generator) -> tuple[dict[str, float], ...]:
    losses = np.exp(-np.arange(20) / 5) + 0.4 + rng.normal(0, 0.02, 20)
    return tuple(
        {"step": step + 1, "loss": float(loss)}
        | ({"valid_loss": float(loss) + 0.05} if step % 5 == 4 else {})
        for step, loss in enumerate(losses)
    )


def _differences(lower: bool) -> tuple[Difference, ...]:
    sign = 1 if lower else -1
    found = []
    for name, _, _, _, mean in METHODS[1:]:
        difference = sign * (METHODS[0][4] - mean)
        gain = 1 - METHODS[0][4] / mean
        p = math.exp(-60 * abs(difference))
        found.append(
            Difference("mixed", name, around(difference, 0.02), around(gain, 0.03), p, min(1.0, 6 * p))
        )
    return tuple(found)


def _curves(value) -> tuple[Curve, ...]:
    falls = {"maml": (0.6, 0.1), "alone_ridge": (1.2, 0.3), "pooled": (0.74, 0.0), "mixed": (0.58, 0.1)}
    support = tuple(
        Curve(
            name,
            "support",
            (*map(float, SIZES), 39.0),
            (*map(str, SIZES), "all"),
            tuple(around(value(start - slope * math.log(size))) for size in (*SIZES, 39)),
        )
        for name, (start, slope) in falls.items()
    )
    steps = Curve(
        "maml", "inner_steps", tuple(map(float, range(6))), tuple(map(str, range(6))),
        tuple(around(value(0.47 + 0.26 * 0.5**step)) for step in range(6)),
    )  # fmt: skip
    tasks = Curve(
        "maml", "train_tasks", (10.0, 40.0, 100.0), ("10", "40", "100"),
        tuple(around(value(error)) for error in (0.6, 0.5, 0.47)),
    )  # fmt: skip
    return (*support, steps, tasks)


def _cells(value, *, images: bool) -> tuple[Cell, ...]:
    augmentations = ("none", "rotate", "flip", "crop") if images else ("none", "noise", "mix")
    return tuple(
        Cell(learning, name, dropout, around(value(base + 0.01 * number + 0.1 * dropout)))
        for learning, base in (("conventional", 0.6), ("meta", 0.48))
        for number, name in enumerate(augmentations)
        for dropout in (0.0, 0.1, 0.2, 0.5)
    )


def _effects(*, images: bool) -> tuple[Effect, ...]:
    name = "rotate" if images else "noise"
    return (
        Effect(("learning=meta",), Estimate(-0.12, -0.15, -0.09), 0.001),
        Effect((f"augmentation={name}",), Estimate(0.01, -0.01, 0.03), 0.6),
        Effect(("dropout=0.5",), Estimate(0.05, 0.02, 0.08), 0.02),
        Effect(("learning=meta", "dropout=0.5"), Estimate(0.0, -0.02, 0.02), 1.0),
    )


def _learned(tasks) -> dict:
    def rows(names: str, *values):
        return tuple(dict(zip(names.split(), row, strict=True)) for row in values)

    layers = (("0", "Linear 3 to 40"), ("2", "Linear 40 to 1"))
    return {
        "method": "maml",
        "moved": rows(
            "layer kind weights start moved relative low high",
            (*layers[0], 160, 2.0, 0.1, 0.05, 0.04, 0.06),
            (*layers[1], 41, 1.0, 0.4, 0.4, 0.3, 0.5),
        ),
        "similarity": rows("layer kind cka low high", (*layers[0], 0.99, 0.98, 1.0)),
        "rates": rows(
            "parameter step mean lowest highest negative", ("0.weight", "every", 0.1, 0.1, 0.1, 0.0)
        ),
        "masks": (),
        "gains": rows("task before after gain", (tasks[0], 1.0, 0.4, 0.6), (tasks[1], 1.0, 1.2, -0.2)),
    }


def _shown(rng: np.random.Generator, kind: str, name: str, *, images: bool) -> Shown:
    def rows(count: int):
        if images:
            return tuple(_tuples(rng.random((count, 1, 8, 8)).round(2).tolist()))
        return tuple(map(tuple, rng.normal(size=(count, 3)).round(3).tolist()))

    def targets(count: int):
        if kind == "classification":
            return tuple(rng.choice(["walk", "sit <b>"], count).tolist())
        return tuple(rng.normal(5, 2, count).round(2).tolist())

    features = () if images else ("dose", "age", "weight")
    predictions = {"maml": targets(8), "pooled": targets(8)}
    return Shown(name, features, rows(4), targets(4), rows(8), targets(8), predictions)


def _tuples(value):
    return tuple(_tuples(entry) for entry in value) if isinstance(value, list) else value
