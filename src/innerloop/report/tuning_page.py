"""HTML report page of a tuning: the settings that were found, what mattered, every trial."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd

from ..evaluation.scores import Evaluation
from ..tuning import Tuning
from ..tuning.space import in_words
from . import figures
from .figures.style import metric_label
from .page import Draw, Page, Picture, Section, Table, pairs
from .pictures import estimate

__all__ = ["tuning_page"]


def tuning_page(
    tuning: Tuning, *, data: str = "these tasks", settings: Mapping[str, object] | None = None,
    command: str = "", next: str = "", notes: Sequence[str] = (),
) -> Page:  # fmt: skip
    """The page of a tuning.

    Arguments:
        tuning: what was found.
        data: the name of the data.
        settings: what was asked for.
        command: makes the page again.
        next: trains with the settings that were found.
        notes: remarks.

    Example:
        >>> import innerloop as il
        >>> tasks = il.tasks.sinusoid(n_support=5, episodes=10)
        >>> tuning = il.tune(tasks, algorithm="mixed", trials=2, device="cpu")
        >>> tuning_page(tuning, data="sinusoid").title
        'Settings tuned on sinusoid'
    """
    states = tuning.trials["state"].value_counts()
    ends = ", ".join(f"{count} {state}" for state, count in states.items() if state != "complete")
    count = f"{len(tuning.trials)} trial{'s' * (len(tuning.trials) != 1)}{f' ({ends})' if ends else ''}"
    return Page(
        title=f"Settings tuned on {data}",
        about=f"{count}, {len(tuning.losses)} meta-validation tasks",
        verdict=_verdict(tuning),
        sections=_sections(tuning),
        settings=(
            pairs("Settings found", list(tuning.settings.items())),
            pairs("Asked for", list((settings or {}).items())),
        ),
        command=command,
        next=next,
        notes=tuple(notes),
    )


def _verdict(tuning: Tuning) -> str:
    metric = "log loss" if tuning.metric == "loss" else metric_label(tuning.metric)
    error, gain = estimate(*tuning.error), estimate(*tuning.gain)
    beaten = f"{gain} less than that of the best untuned settings"
    if tuning.error == tuning.untuned:
        beaten = "and no trial was better than the untuned settings"
    said = [
        f"Best: {in_words(tuning.settings)}. Its {metric} on the meta-validation tasks is {error}, {beaten}. It is the "
        "lowest of many trials, so expect more on new tasks."
    ]
    if tuning.scores is None:
        said.append("The tuning was interrupted: nothing was scored on the meta-test tasks.")
    else:
        shown = tuning.scores.metrics[:2]
        held = ", ".join(f"{metric_label(name)} {estimate(*tuning.scores.metric(name))}" for name in shown)
        said.append(
            f"On the {len(tuning.scores.ids)} meta-test tasks, which no trial has seen and which were scored once: "
            f"{held}."
        )
    return " ".join(said)


def _sections(tuning: Tuning) -> tuple[Section, ...]:
    shown = tuning.trials.rename(columns={"error": metric_label(tuning.metric), "best": "lowest so far"})
    return (
        Section("What mattered", (), (*_importances(tuning), *_tried(tuning))),
        Section("Trials", (), _trials(tuning), (Table("Every trial, in order", shown),)),
        *([] if tuning.scores is None else [_scores(tuning.scores)]),
    )


def _importances(tuning: Tuning) -> tuple[Picture, ...]:
    numbers = figures.importances_numbers(tuning)
    if numbers.empty:
        return ()
    text = (
        f"How much each setting told the best quarter of the trials from the others (PED-ANOVA), of 100 %. Most: "
        f"{numbers['setting'].iloc[0]}."
    )
    return (
        Picture(
            "importances", "What mattered", text, numbers, lambda ax: figures.importances(numbers, ax=ax)
        ),
    )


def _tried(tuning: Tuning) -> tuple[Picture, ...]:
    numbers = figures.tried_numbers(tuning)
    names = list(dict.fromkeys(numbers["setting"]))
    parts = [(name, numbers[numbers["setting"] == name]) for name in names]
    draw = tuple((name, _drawn(part)) for name, part in parts if part["error"].notna().sum() >= 3)
    if not draw:
        return ()
    text = "Every mark is a trial; ticks at the lower edge are trials that were given up early."
    return (Picture("tried", "Errors by setting", text, numbers, draw),)


def _drawn(part: pd.DataFrame) -> Draw:
    """A figure that waits for its Axes."""
    return lambda ax: figures.tried(part, ax=ax)


def _trials(tuning: Tuning) -> tuple[Picture, ...]:
    numbers = figures.trials_numbers(tuning)
    text = (
        "Mean over the meta-validation tasks. A trial is given up at a quarter, half or three quarters of its training "
        "when it is worse than the best one was there (Wilcoxon's signed-rank test over tasks, p < 0.1)."
    )
    return (
        Picture("trials", "Errors of the trials", text, numbers, lambda ax: figures.trials(numbers, ax=ax)),
    )


def _scores(scores: Evaluation) -> Section:
    rows = [
        {"metric": metric_label(name), "before adaptation": estimate(*scores.metric(name, 0)),
         "after": estimate(*scores.metric(name))}
        for name in scores.metrics
    ]  # fmt: skip
    title = f"Means and 95 % intervals over {len(scores.ids)} meta-test tasks"
    return Section("Meta-test tasks", (), (), (Table(title, pd.DataFrame(rows)),))
