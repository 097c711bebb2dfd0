"""HTML report page of a comparison: verdict, ranking, curves, factorial, what was learned, episodes, tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import cast

import pandas as pd

from ..compare.result import KINDS, Comparison, Difference
from ..compare.verdict import spoken
from ..evaluation.examples import Shown
from ..evaluation.inspection import Learned, Row
from . import pictures
from .figures.style import metric_label
from .page import Answer, Page, Section, Table, cell, pairs
from .pictures import estimate

__all__ = ["comparison_page"]

_ANSWERS = {True: "yes", False: "no", None: "open"}


def comparison_page(comparison: Comparison) -> Page:
    """The page of a comparison.

    Arguments:
        comparison: the comparison.

    Returns:
        The page, to be rendered.

    Example:
        >>> comparison = Comparison({}, {"name": "schools"}, "accuracy", False, (), (), ())
        >>> comparison_page(comparison).title
        'Does meta-learning help on schools?'
    """
    data = comparison.data
    return Page(
        title=f"Does meta-learning help on {data.get('name', 'these tasks')}?",
        about=_about(comparison),
        verdict=str(comparison.verdict.get("sentence", "")),
        answers=_answers(comparison),
        sections=_sections(comparison),
        settings=(
            pairs(
                "Settings", [(k, v) for k, v in comparison.settings.items() if k not in ("command", "next")]
            ),
            pairs("Data", [*data.items(), ("seconds", comparison.seconds)]),
            pairs("Versions", list(comparison.versions.items())),
        ),
        command=str(comparison.settings.get("command", "")),
        next=str(comparison.settings.get("next", "")),
        notes=(
            *comparison.notes,
            *(f"{name} did not run: {why}" for name, why in comparison.skipped.items()),
        ),
    )


def _about(comparison: Comparison) -> str:
    """The data in one line."""
    data = comparison.data
    parts = [f"{len(comparison.tasks)} held-out tasks", str(data.get("kind", ""))]
    if data.get("support"):
        parts.append(f"support {data['support']} a {'class' if data.get('unit') == 'class' else 'task'}")
    counts = {"folds": data.get("folds", 1), "seeds": data.get("seeds", 1)}
    parts += [f"{count} {what}" for what, count in counts.items() if count > 1]
    if comparison.seconds:
        long = comparison.seconds >= 90
        parts.append(
            f"took {comparison.seconds / 60:.0f} min" if long else f"took {comparison.seconds:.0f} s"
        )
    return ", ".join(part for part in parts if part)


def _answers(comparison: Comparison) -> tuple[Answer, ...]:
    """The two questions of a verdict, and what each answer rests on."""
    verdict = comparison.verdict
    if "helps" not in verdict:
        return ()
    by_name = {method.name: method for method in comparison.methods}
    over, classical = (by_name.get(name or "") for name in (verdict["over"], verdict.get("classical")))
    alone = over is not None and over.kind == "alone"
    what = "learning from other tasks pay, over each task alone" if alone else "adapting to a task pay"
    answers = [(f"Does {what}?", verdict["helps"], (verdict["best"], verdict["over"]))]
    if classical is not None:
        asked = f"Does meta-learning pay over {spoken(classical.label)}?"
        answers.insert(0, (asked, verdict["net_over_classical"], (verdict["net"], verdict["classical"])))
    return tuple((asked, _ANSWERS[answer], _ground(comparison, pair)) for asked, answer, pair in answers)


def _ground(comparison: Comparison, pair: tuple[str | None, str | None]) -> str:
    """The difference that an answer rests on."""
    one = next((one for one in comparison.differences if (one.ours, one.theirs) == pair), None)
    if one is None:
        return ""
    least = comparison.settings.get("worthwhile")
    share = f"{100 * least:g} %" if isinstance(least, float | int) else least
    counts = f"; what is worth having begins at {share}" if least else ""
    return (
        f"{comparison.label(one.ours)} minus {comparison.label(one.theirs)}, {metric_label(comparison.metric)}: "
        f"{estimate(*one.difference)}. Error saved: {_saved(one)}{counts}."
    )


def _sections(comparison: Comparison) -> tuple[Section, ...]:
    curves = tuple(
        one for axis in ("support", "train_tasks", "inner_steps") for one in pictures.curve(comparison, axis)
    )
    logs = {method.label: method.log for method in comparison.methods if method.log}
    return (
        Section(
            "Ranking",
            (),
            (*pictures.ranking(comparison), *pictures.dots(comparison)),
            _ranking_tables(comparison),
        ),
        Section("Curves", (), curves),
        Section("Augmentation and dropout", (), pictures.factorial(comparison)),
        _learned(comparison),
        Section("Learning curves", (), pictures.learning(logs)),
        Section("Episodes", (), pictures.episodes(_labelled(comparison))),
        Section("Differences", (), (), _difference_tables(comparison)),
        Section("What was searched", (), (), _search_tables(comparison)),
    )


def _learned(comparison: Comparison) -> Section:
    """What the best meta-learner learned."""
    rows = comparison.learned
    if not rows:
        return Section("What was learned")
    gained = pd.DataFrame(list(rows["gains"]), columns=["task", "before", "after", "gain"])
    text = f"By the best meta-learner, {comparison.label(rows['method'])}, in the first fold."
    frames = Learned.of(cast(Mapping[str, tuple[Row, ...]], rows))
    return Section("What was learned", (text,), (*pictures.inside(frames), *pictures.gains(gained)))


def _labelled(comparison: Comparison) -> list[Shown]:
    """The episodes with methods by their label."""
    return [
        replace(one, predictions={comparison.label(name): values for name, values in one.predictions.items()})
        for one in comparison.episodes
    ]


def _ranking_tables(comparison: Comparison) -> tuple[Table, ...]:
    """Every metric of every method."""
    names = list(dict.fromkeys(name for method in comparison.methods for name in method.metrics))
    if not names:
        return ()
    rows = []
    for method in comparison.methods:
        row: dict[str, object] = {"method": method.label, "kind": KINDS.get(method.kind, method.kind)}
        for name in names:
            value = method.metrics.get(name)
            row[metric_label(name)] = "" if value is None else estimate(*value)
        if any(other.before for other in comparison.methods):
            row["before adaptation"] = "" if method.before is None else estimate(*method.before)
        rows.append({**row, "seconds": method.seconds})
    return _table("All metrics, means and 95 % intervals over tasks", rows)


def _table(title: str, rows: Sequence[Mapping[str, object]]) -> tuple[Table, ...]:
    return (Table(title, pd.DataFrame(rows)),) if rows else ()


def _saved(one: Difference) -> str:
    """The gain of a pair in per cent, with its interval."""
    mean, low, high = (f"{100 * value:z.1f}" for value in one.gain)
    return f"{mean} % [{low}, {high}]"


def _difference_tables(comparison: Comparison) -> tuple[Table, ...]:
    rows = [
        {
            "ours": comparison.label(one.ours),
            "theirs": comparison.label(one.theirs),
            f"difference in {metric_label(comparison.metric)}": estimate(*one.difference),
            "error saved": _saved(one),
            "p": one.p,
            "p after Holm": one.p_holm,
        }
        for one in comparison.differences
    ]
    title = "Paired differences on the same tasks, ours minus theirs, 95 % intervals over tasks and seeds"
    return _table(title, rows)


def _search_tables(comparison: Comparison) -> tuple[Table, ...]:
    """What the search chose for each method."""
    rows = [
        {
            "method": method.label,
            "tried": method.tried,
            "chosen": "; ".join(
                f"{key.replace('_', ' ')} {cell(value)}" for key, value in method.settings.items()
            )
            or "sound ones",
        }
        for method in comparison.methods
    ]
    return _table("Settings tried on meta-validation tasks, and those chosen in the first fold", rows)
