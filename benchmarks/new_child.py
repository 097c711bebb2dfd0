"""The picture of the README: growth of a new child, predicted from none, one and three of its measurements.

    python benchmarks/new_child.py docs/pictures/new_child.png

Each curve of the data is a level, a slope and a bend of its own around those of all, as heights of children are.
"""

from __future__ import annotations

import sys

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

import innerloop as il

AGES = np.arange(2.0, 13.0)
BLUE, GREY = "#1f5fa8", "#8a8f98"


def children(count: int, seed: int) -> pd.DataFrame:
    """Heights in cm of so many children, a row a year."""
    rng = np.random.default_rng(seed)
    pace, level, bend = (
        rng.normal(6.0, 0.6, count),
        rng.normal(87.0, 4.0, count),
        rng.normal(0.0, 0.12, count),
    )
    age = np.tile(AGES, count)
    child = np.repeat(np.arange(count), len(AGES))
    height = level[child] + pace[child] * (age - 2) + bend[child] * (age - 2) * (age - 12)
    return pd.DataFrame(
        {"child": [f"c{n}" for n in child], "age": age, "height": height + rng.normal(0, 0.7, len(age))}
    )


def main(path: str) -> None:
    known, others = children(120, 0), children(20, 1)
    tall = others.groupby("child")["height"].mean().idxmax()  # of twenty, one that is unlike the mean
    new = others[others.child == tall].assign(child="new")
    model = il.MetaRegressor(
        "child", algorithm="gp", n_support="1-5", validation_fraction=0.3, random_state=0
    )
    model.fit(known[["child", "age"]], known["height"])
    asked = pd.DataFrame({"child": "new", "age": np.linspace(2, 12, 81)})
    figure = Figure(figsize=(10.5, 3.4), layout="constrained")
    axes = figure.subplots(1, 3, sharey=True)
    titles = {0: "nothing known", 1: "one measurement", 3: "three measurements"}
    for axis, (count, title) in zip(axes, titles.items(), strict=True):
        rows = new.iloc[:count]
        support = {"support": (rows[["child", "age"]], rows["height"])} if count else {}
        value, lower, upper = model.predict(asked, interval=0.9, **support)
        axis.fill_between(asked.age, lower, upper, color=BLUE, alpha=0.15, linewidth=0)
        axis.plot(asked.age, value, color=BLUE)
        axis.plot(new.age[count:], new.height[count:], "o", color=GREY, fillstyle="none", markersize=5)
        axis.plot(rows.age, rows.height, "o", color="black", markersize=6)
        axis.set_title(title)
        axis.set_xlabel("age in years")
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("height in cm")
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main(sys.argv[1])
