"""Gapminder over five country splits: MAML and its opponents, error over variance, both questions.

    python benchmarks/life_expectancy.py

takes about fifteen minutes on two cores and prints the table that stands in docs/benchmarks.md.
"""

import argparse

import numpy as np

from innerloop.cli.demo import METHODS, QUESTIONS, compare, first_rows
from innerloop.cli.text import columns
from innerloop.tasks.datasets import gapminder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--splits", type=int, default=5)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--inner-steps", type=int, default=5)
    options = parser.parse_args()
    for question, text in QUESTIONS.items():
        errors: dict[str, list[float]] = {}
        for seed in range(options.splits):
            tasks = gapminder(seed=seed)
            _, found = compare(
                tasks if question == "random" else first_rows(tasks),
                steps=options.steps,
                seed=seed,
                inner_steps=options.inner_steps,
            )
            for name, result in found.items():
                errors.setdefault(name, []).append(result.metric("error_over_variance")[0])
        print(f"\n{text}: squared error / variance of the meta-train targets, {options.steps} meta-updates")
        rows = [["", "mean", *(f"split {seed}" for seed in range(options.splits))]]
        for name, values in errors.items():
            rows.append([METHODS[name], f"{np.mean(values):.4f}", *(f"{value:.3f}" for value in values)])
        print(columns(rows), flush=True)


if __name__ == "__main__":
    main()
