"""How often the 95 % intervals of a comparison hold the truth, by simulation.

    python benchmarks/coverage.py > benchmarks/coverage.txt

Scores of tasks are drawn from a known distribution, intervals are computed, and it is counted how often they hold
its mean. `normal` is what Student's interval assumes; `lognormal` is skewed as squared errors are; `accuracy` has
tasks whose accuracy is 0.9 on average with 20 query rows each.
"""

from __future__ import annotations

import math

import numpy as np

from innerloop.evaluation.intervals import mean_interval, two_way

RUNS = 2000
COUNTS = (10, 30, 100)


def scores(name: str, count: int, rng: np.random.Generator) -> tuple[np.ndarray, float]:
    """Scores of tasks and their true mean."""
    if name == "normal":
        return rng.normal(0.5, 0.2, count), 0.5
    if name == "lognormal":
        return rng.lognormal(0, 1, count), math.exp(0.5)
    share = rng.beta(9, 1, count)
    return rng.binomial(20, share) / 20, 0.9


def covered(name: str, count: int, how: str, runs: int) -> float:
    rng = np.random.default_rng(count)
    hits = 0
    for _ in range(runs):
        values, truth = scores(name, count, rng)
        _, low, high = mean_interval(values, how="bca" if how == "bca" else "t", errors="log" in how)
        hits += low <= truth <= high
    return 100 * hits / runs


def covered_in_clusters(count: int, runs: int) -> tuple[float, float]:
    """Tasks in clusters of five that differ as much as tasks: the interval by cluster, and that by task."""
    rng = np.random.default_rng(count)
    clusters = [str(task // 5) for task in range(5 * count)]
    hits = [0, 0]
    for _ in range(runs):
        values = rng.normal(size=5 * count) + np.repeat(rng.normal(size=count), 5)
        for place, groups in enumerate((clusters, ())):
            _, low, high = mean_interval(values, clusters=groups)
            hits[place] += low <= 0 <= high
    return 100 * hits[0] / runs, 100 * hits[1] / runs


def covered_two_way(count: int, seeds: int, spread: float, runs: int) -> float:
    """Differences with an effect of the task, of the seed, and of both together."""
    rng = np.random.default_rng(count + seeds)
    hits = 0
    for _ in range(runs):
        values = rng.normal(size=(count, 1)) + rng.normal(size=(count, seeds))
        values += spread * rng.normal(size=(1, seeds))
        low, high = two_way(values)[0][1:]
        hits += low <= 0 <= high
    return 100 * hits / runs


def main() -> None:
    print(f"coverage of 95 % intervals in per cent, {RUNS} simulations (standard error 0.5);")
    print(f"{RUNS // 4} for bca (1.0), {RUNS // 2} for pairs (0.7)\n")
    print(f"{'mean over tasks':28}" + "".join(f"{count:>6} tasks" for count in COUNTS))
    for name in ("normal", "lognormal", "accuracy"):
        for how in ("t", *(["t of the logarithm"] if name == "lognormal" else []), "bca"):
            runs = RUNS // 4 if how == "bca" else RUNS
            cells = [covered(name, count, how, runs) for count in COUNTS]
            print(f"{name + ', ' + how:28}" + "".join(f"{cell:>12.1f}" for cell in cells), flush=True)
    print(f"\n{'tasks in clusters of 5':28}" + "".join(f"{count:>3} clusters" for count in COUNTS))
    found = [covered_in_clusters(count, RUNS) for count in COUNTS]
    for place, label in enumerate(("normal, by cluster", "normal, by task (wrong)")):
        print(f"{label:28}" + "".join(f"{cell[place]:>12.1f}" for cell in found))
    print(f"\n{'paired, tasks and seeds':28}" + "".join(f"{count:>6} tasks" for count in COUNTS))
    for seeds in (1, 2, 3):
        for spread in (0.0, 0.2, 1.0) if seeds > 1 else (0.0,):
            cells = [covered_two_way(count, seeds, spread, RUNS // 2) for count in COUNTS]
            label = f"{seeds} seed{'s' * (seeds > 1)}, spread {spread}"
            print(f"{label:28}" + "".join(f"{cell:>12.1f}" for cell in cells), flush=True)


if __name__ == "__main__":
    main()
