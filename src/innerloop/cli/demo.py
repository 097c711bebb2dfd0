"""`innerloop demo`: the whole way on real data, in under a minute."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from .common import Notes, emit
from .options import OUTPUT, TRAINING, Json, Quiet
from .text import cell, columns, say

if TYPE_CHECKING:
    from ..evaluation.scores import Evaluation
    from ..outer.training import Run
    from ..tasks.sources import Source
    from ..tasks.splits import Tasks

__all__ = ["METHODS", "QUESTIONS", "best_opponent", "compare", "demo", "first_rows"]

STEPS = 400
ERROR = "error_over_variance"
QUESTIONS = {
    "random": "from 3 random years, predict the other 9",
    "first": "from the first 3 years (1952-1962), predict the later 9",
}
METHODS = {
    "maml": "MAML, after adaptation",
    "maml_before": "MAML, before adaptation",
    "pooled": "one line for all countries",
    "alone_ridge": "each country alone (ridge)",
    "shrunken_ridge": "ridge shrunk to the pooled line",
    "mixed": "linear mixed model",
    "mixed_squares": "linear mixed model with squares",
}


def demo(
    *,
    out: Annotated[Path, Parameter(group=OUTPUT, help="Model directory to leave.")] = Path("runs/demo"),
    steps: Annotated[int, Parameter(group=TRAINING, help="Meta-updates.")] = STEPS,
    seed: Annotated[int, Parameter(group=TRAINING, help="Of the split and of training.")] = 0,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Show the whole way on real data: life expectancy of countries.

    142 countries with 12 rows each are the tasks. Countries are split into meta-train, meta-validation and
    meta-test; every method is scored on the same episodes of the meta-test countries.

    Examples:
      innerloop demo
      innerloop demo --seed 1 --json
    """
    from ..tasks.datasets import gapminder

    notes = Notes(quiet=quiet)
    tasks = gapminder(seed=seed)
    notes(repr(tasks))
    scores: list[dict[str, Any]] = []
    for question, text in QUESTIONS.items():
        asked = tasks if question == "random" else first_rows(tasks)
        with notes.progress(f"MAML: {text}", steps) as callback:
            run, results = compare(asked, steps=steps, seed=seed, callback=callback)
        for method, result in results.items():
            if method != "maml_before":
                scores += [row | {"question": question} for row in result.scores(method)]
        if question == "random":
            _save(out, run, tasks, results["maml"], steps=steps, seed=seed)
        if not json:
            _show(text, results)
    rows = _leave_rows(tasks, out)
    if json:
        settings = {"out": str(out), "steps": steps, "rows": str(rows)}
        emit("demo", seed, notes, settings, scores=scores)
        return
    say(f"took {notes.seconds:.0f} s. The model is in {out}; try it:")
    say(f"  innerloop evaluate {out}\n  innerloop predict {out} {rows}")


def first_rows(tasks: Tasks) -> Tasks:
    """The same tasks with the first rows of each as support and the later ones as query."""
    from ..tasks.sources import RowSource, SupportChoice

    def ordered(source: Source) -> RowSource:
        if not isinstance(source, RowSource):
            raise TypeError("only rows of a table have an order")
        return replace(source, support=source.support._replace(choice=SupportChoice("order")))

    return replace(tasks, train=ordered(tasks.train), valid=ordered(tasks.valid), test=ordered(tasks.test))


def compare(
    tasks: Tasks,
    *,
    steps: int = STEPS,
    seed: int = 0,
    callback: Callable[[dict[str, Any]], None] | None = None,
    inner_steps: int | None = None,
) -> tuple[Run, dict[str, Evaluation]]:
    """MAML and its opponents, trained on the same tasks and scored on the same episodes."""
    from ..algorithms import baselines, mixed
    from ..algorithms.assemble import learner_for, sound_settings
    from ..evaluation.scores import evaluate
    from ..outer.training import meta_train

    count, size = tasks.n_features, tasks.train.support.high
    ordered = tasks.train.support.choice.how == "order"
    opponents = {
        "pooled": baselines.pooled(count),
        "alone_ridge": baselines.alone_ridge(count, n_support=size, ordered=ordered),
        "shrunken_ridge": baselines.shrunken_ridge(count, n_support=size, ordered=ordered),
        "mixed": mixed(count),
        "mixed_squares": mixed(count, squares=True),
    }
    run = meta_train(
        learner_for(tasks, seed=seed, inner_steps=inner_steps or sound_settings(tasks).inner_steps),
        tasks.train,
        valid=tasks.valid,
        steps=steps,
        seed=seed,
        callbacks=[] if callback is None else [callback],
    )
    maml = evaluate(run.model, tasks.test)
    results = {"maml": maml, "maml_before": maml.at(0)}
    for name, learner in opponents.items():
        results[name] = evaluate(meta_train(learner, tasks.train).model, tasks.test)
    return run, results


def best_opponent(results: dict[str, Evaluation]) -> str:
    """The opponent of MAML with the lowest error."""
    names = [name for name in results if not name.startswith("maml")]
    return min(names, key=lambda name: results[name].metric(ERROR)[0])


def _show(text: str, results: dict[str, Evaluation]) -> None:
    from ..evaluation.scores import paired_difference

    say(f"\n{text}: {len(results['maml'].ids)} held-out countries, 95 % intervals over countries")
    rows = [
        [METHODS[name], *(cell(result.metric(metric), metric) for metric in ("rmse", "r2", ERROR))]
        for name, result in results.items()
    ]
    say(columns([["", "RMSE (years)", "R2", "error / variance"], *rows]))
    opponent = best_opponent(results)
    difference = paired_difference(results["maml"], results[opponent], ERROR)
    say(f"MAML minus {METHODS[opponent]}, error / variance, paired: {cell(difference, ERROR)}")
    say(_verdict(difference, METHODS[opponent]))


def _verdict(difference: tuple[float, float, float], opponent: str) -> str:
    _, low, high = difference
    if high < 0:
        return f"MAML is better than the best opponent, {opponent}."
    if low > 0:
        return f"The {opponent} is better than MAML here."
    return f"MAML and the {opponent} cannot be told apart on these countries."


def _save(out: Path, run: Run, tasks: Tasks, scores: Evaluation, *, steps: int, seed: int) -> None:
    from ..storage import save

    support = {"n_support": str(tasks.train.support)}
    save(
        out,
        run.model,
        schema=tasks.schema,
        splits=tasks.splits,
        support=tasks.train.support,
        targets=tasks.targets,
        settings={"tasks": "gapminder", "seed": seed, "steps": steps, "algorithm": "maml", **support},
        data={"name": "gapminder", "sha256": None},
        scores=scores.scores("maml"),
        best_step=run.best_step,
        log=run.log,
        replace=True,
    )


def _leave_rows(tasks: Tasks, out: Path) -> Path:
    """A table to try `predict` on: two held-out countries, the target of all but 3 rows left out."""
    from ..files import write_bytes
    from ..tasks.datasets import gapminder_frame

    frame = gapminder_frame()[["country", "year", "log_gdp", "lifeExp"]]
    frame = frame[frame["country"].isin(tasks.splits["test"][:2])]
    frame["lifeExp"] = frame["lifeExp"].where(frame.groupby("country").cumcount() < 3)
    path = out.with_name(f"{out.name}-rows.csv")
    write_bytes(path, frame.to_csv(index=False).encode())
    return path
