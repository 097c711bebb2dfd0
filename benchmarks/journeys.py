"""Print how often three journeys through the code go from one package into another.

    python benchmarks/journeys.py            # --all: every pair of functions too

The journeys are those of docs/architecture.md: from CSV to adapted parameters, one meta-update, and predict. Each
is run once on a tiny table, and every call is watched.

A *move* is a call from a function of one package of innerloop into a function of another. Coming back is not
counted; torch, pandas and other libraries in between are looked through, and so are torch's own hooks. The *walk* is
the moves between packages in the order in which each is made for the first time: a loop that makes the same
move again adds nothing to what a reader has to follow. Moves marked `callback` go into a function that its own
package handed down, so they are read where it was written; they count all the same. `errors.py` and `files.py`
are modules that everything uses, no packages.
"""

import argparse
import importlib
import pkgutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from io import StringIO
from pathlib import Path
from types import FrameType
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

import innerloop
from innerloop.cli import run as command

SOURCE = str(Path(innerloop.__file__).parent) + "/"


class Move(NamedTuple):
    """A call from one package into another: `package.module.function` on both sides."""

    caller: str
    callee: str
    callback: bool

    @property
    def packages(self) -> tuple[str, str]:
        """The two packages."""
        return self.caller.partition(".")[0], self.callee.partition(".")[0]


def name_of(frame: FrameType) -> str | None:
    """`package.module.function` of a frame; `None` outside the packages of innerloop."""
    code = frame.f_code
    if not code.co_filename.startswith(SOURCE):
        return None
    package, *path = code.co_filename.removeprefix(SOURCE).removesuffix(".py").split("/")
    owner = frame.f_globals.get(code.co_qualname.partition(".")[0])
    hook = isinstance(owner, type) and issubclass(owner, (TorchDispatchMode, TorchFunctionMode))
    if not path or hook:
        return None
    return ".".join([package, *(part for part in path if part != "__init__"), code.co_qualname])


def callers(frame: FrameType | None) -> Iterator[str]:
    """The functions of innerloop that wait for a frame, the nearest first."""
    while frame is not None:
        if name := name_of(frame):
            yield name
        frame = frame.f_back


@contextmanager
def watched() -> Iterator[list[Move]]:
    """Collect the moves that are made inside."""
    moves: list[Move] = []

    def notice(frame: FrameType, event: str, _: object) -> None:
        callee = name_of(frame) if event == "call" else None
        if callee is None:
            return
        waiting = list(callers(frame.f_back))
        package = callee.partition(".")[0]
        if waiting and waiting[0].partition(".")[0] != package:
            callback = any(name.partition(".")[0] == package for name in waiting)
            moves.append(Move(waiting[0], callee, callback))

    before = sys.getprofile()
    sys.setprofile(notice)
    try:
        yield moves
    finally:
        sys.setprofile(before)


def walk(moves: list[Move]) -> list[Move]:
    """The first call between every two packages, in order."""
    first: dict[tuple[str, str], Move] = {}
    for move in moves:
        first.setdefault(move.packages, move)
    return list(first.values())


def lines(rows: int = 8, tasks: int = 12) -> pd.DataFrame:
    """A table of lines whose slope differs from task to task."""
    rng = np.random.default_rng(0)
    site = np.arange(rows * tasks) // rows
    x = rng.normal(size=rows * tasks)
    return pd.DataFrame({"site": [f"s{n}" for n in site], "x": x, "y": x * rng.normal(size=tasks)[site]})


def csv_to_adapted(folder: Path) -> Callable[[], object]:
    """From CSV to adapted parameters: read a table, make a learner, adapt it to one task."""
    lines().to_csv(folder / "sites.csv", index=False)

    def journey() -> object:
        tasks = innerloop.tasks.table(folder / "sites.csv", task="site", target="y", n_support=4)
        learner = innerloop.maml(innerloop.models.mlp(1, [4], 1), loss="mse", inner_steps=2)
        episode = tasks.train.sample(1, torch.Generator().manual_seed(0))
        return learner.adapt(learner.init(), episode.support)

    return journey


def meta_update(folder: Path) -> Callable[[], object]:
    """One meta-update: `meta_train` for one step, with a learner and tasks that are there."""
    tasks = innerloop.tasks.table(lines(), task="site", target="y", n_support=4)
    learner = innerloop.maml(innerloop.models.mlp(1, [4], 1), loss="mse", inner_steps=2)
    return lambda: innerloop.meta_train(learner, tasks.train, steps=1, device="cpu")


def predict(folder: Path) -> Callable[[], object]:
    """Predict: `innerloop predict DIR TABLE`, from the verb to the file it writes."""
    frame = lines()
    frame.to_csv(folder / "sites.csv", index=False)
    asked = frame.assign(y=frame["y"].where(frame.groupby("site").cumcount() < 3))
    asked.to_csv(folder / "new.csv", index=False)
    path, out = str(folder / "sites.csv"), str(folder / "run")
    quick = ["--algorithm", "maml", "--hidden", "4", "--n-support", "3", "--steps", "1", "--quiet"]
    run_command(["train", path, "--task", "site", "--target", "y", *quick, "--out", out])
    words = ["predict", out, str(folder / "new.csv"), "--out", str(folder / "found.csv"), "--quiet"]
    return lambda: run_command(words)


def run_command(words: list[str]) -> None:
    """Run a verb that must succeed, without what it prints."""
    with redirect_stdout(StringIO()):
        code = command(words)
    if code:
        sys.exit(f"innerloop {' '.join(words)} left with {code}")


# journey -> the most moves that it may take
JOURNEYS = {csv_to_adapted: 8, meta_update: 12, predict: 14}


def moves_of(make: Callable[[Path], Callable[[], object]]) -> list[Move]:
    """Every move of a journey, all modules being imported before it starts."""
    for module in pkgutil.walk_packages(innerloop.__path__, "innerloop."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    with tempfile.TemporaryDirectory() as folder:
        journey = make(Path(folder))
        with watched() as moves:
            journey()
    return moves


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--all", action="store_true", help="every pair of functions too")
    everything = parser.parse_args().all
    for make, most in JOURNEYS.items():
        moves = moves_of(make)
        between = walk(moves)
        print(f"{make.__doc__}\n{len(between)} moves between packages, at most {most} wanted")
        for number, move in enumerate(between, 1):
            mark = "   (callback)" if move.callback else ""
            print(f"{number:4}. {' -> '.join(move.packages):22}  {move.caller} -> {move.callee}{mark}")
        pairs = dict.fromkeys(moves)
        print(f"{len(moves)} calls in all, of {len(pairs)} pairs of functions\n")
        if everything:
            print("\n".join(f"      {move.caller} -> {move.callee}" for move in pairs), end="\n\n")


if __name__ == "__main__":
    main()
