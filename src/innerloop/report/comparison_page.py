"""The page of a comparison."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pandas as pd

from ..compare.result import KINDS, Comparison, Difference
from ..compare.verdict import spoken
from ..evaluation.examples import Shown
from ..evaluation.inspection import Learned
from . import pictures
from .figures.style import METRICS
from .page import Page, Section, Table, pairs
from .pictures import estimate

_ANSWERS = {True: "yes", False: "no", None: "open"}


def comparison_page(found: Comparison) -> Page:
    """What a comparison found, as a page.

    Arguments:
        found: the comparison.

    Returns:
        The page, to be rendered.

    Example:
        >>> found = Comparison({}, {"name": "schools"}, "accuracy", False, (), (), ())
        >>> comparison_page(found).title
        'Does meta-learning help on schools?'
    """
    data = found.data
    return Page(
        title=f"Does meta-learning help on {data.get('name', 'these tasks')}?",
        about=_about(found),
        verdict=str(found.verdict.get("sentence", "")),
        answers=_answers(found),
        sections=_sections(found),
        settings=(
            pairs("Settings", [(k, v) for k, v in found.settings.items() if k != "command"]),
            pairs("Data", [*data.items(), ("seconds", found.seconds)]),
            pairs("Versions", list(found.versions.items())),
        ),
        command=str(found.settings.get("command", "")),
        notes=(*found.notes, *(f"{name} did not run: {why}" for name, why in found.skipped.items())),
    )


def _about(found: Comparison) -> str:
    """The data in one line."""
    data = found.data
    parts = [f"{len(found.tasks)} held-out tasks", str(data.get("kind", ""))]
    if data.get("support"):
        parts.append(f"support {data['support']} a {'class' if data.get('unit') == 'class' else 'task'}")
    parts += [f"{data[key]} {key}" for key in ("folds", "seeds") if (data.get(key) or 0) > 1]
    if found.seconds:
        parts.append(
            f"took {found.seconds / 60:.0f} min" if found.seconds >= 90 else f"took {found.seconds:.0f} s"
        )
    return ", ".join(part for part in parts if part)


def _answers(found: Comparison) -> tuple[tuple[str, str, str], ...]:
    """The two questions of a verdict, and what each answer rests on."""
    verdict = found.verdict
    if "helps" not in verdict:
        return ()
    label = {method.name: method for method in found.methods}
    alone = verdict["over"] in label and label[verdict["over"]].kind == "alone"
    what = "learning from other tasks pay, over each task alone" if alone else "adapting to a task pay"
    answers = [(f"Does {what}?", verdict["helps"], (verdict["best"], verdict["over"]))]
    if verdict.get("mixed") in label:
        against = spoken(label[verdict["mixed"]].label)
        pair = (verdict["net"], verdict["mixed"])
        answers.append((f"Does a meta-learned net pay over {against}?", verdict["net_over_mixed"], pair))
    return tuple((asked, _ANSWERS[answer], _ground(found, pair)) for asked, answer, pair in answers)


def _ground(found: Comparison, pair: tuple[str, str]) -> str:
    """The difference that an answer rests on."""
    one = next((one for one in found.differences if (one.ours, one.theirs) == pair), None)
    if one is None:
        return ""
    label = {method.name: method.label for method in found.methods}
    least = found.settings.get("worthwhile")
    counts = (
        f"; what is worth having begins at {least if isinstance(least, str) else f'{100 * least:g} %'}"
        if least
        else ""
    )
    return (
        f"{label.get(one.ours, one.ours)} minus {label.get(one.theirs, one.theirs)}, "
        f"{METRICS.get(found.metric, found.metric)}: {estimate(*one.difference)}. Error saved: {_saved(one)}{counts}."
    )


def _sections(found: Comparison) -> tuple[Section, ...]:
    curves = tuple(
        one for axis in ("support", "train_tasks", "inner_steps") for one in pictures.curve(found, axis)
    )
    logs = {method.label: method.log for method in found.methods if method.log}
    return (
        Section("Ranking", (), (*pictures.ranking(found), *pictures.dots(found)), _ranking_tables(found)),
        Section("Curves", (), curves),
        Section("Augmentation and dropout", (), pictures.factorial(found)),
        _learned(found),
        Section("Learning curves", (), pictures.learning(logs)),
        Section("Episodes", (), pictures.episodes(_labelled(found))),
        Section("Differences", (), (), _difference_tables(found)),
        Section("What was searched", (), (), _search_tables(found)),
    )


def _learned(found: Comparison) -> Section:
    """What the best meta-learner learned."""
    rows = found.learned
    if not rows:
        return Section("What was learned")
    label = next((method.label for method in found.methods if method.name == rows["method"]), rows["method"])
    gained = pd.DataFrame(list(rows["gains"]), columns=["task", "before", "after", "gain"])
    text = f"By the best meta-learner, {label}, in the first fold."
    return Section("What was learned", (text,), (*pictures.inside(Learned.of(rows)), *pictures.gains(gained)))


def _labelled(found: Comparison) -> list[Shown]:
    """The episodes with methods by their label."""
    label = {method.name: method.label for method in found.methods}
    return [
        replace(one, predictions={label.get(name, name): values for name, values in one.predictions.items()})
        for one in found.episodes
    ]


def _ranking_tables(found: Comparison) -> tuple[Table, ...]:
    """Every metric of every method."""
    names = list(dict.fromkeys(name for method in found.methods for name in method.metrics))
    if not names:
        return ()
    rows = []
    for method in found.methods:
        row: dict[str, Any] = {"method": method.label, "kind": KINDS.get(method.kind, method.kind)}
        for name in names:
            value = method.metrics.get(name)
            row[METRICS.get(name, name)] = "" if value is None else estimate(*value)
        if any(other.before for other in found.methods):
            row["before adaptation"] = "" if method.before is None else estimate(*method.before)
        rows.append({**row, "seconds": method.seconds})
    return (Table("All metrics, means and 95 % intervals over tasks", pd.DataFrame(rows)),)


def _saved(one: Difference) -> str:
    """The gain of a pair in per cent, with its interval."""
    mean, low, high = (f"{100 * value:z.1f}" for value in one.gain)
    return f"{mean} % [{low}, {high}]"


def _difference_tables(found: Comparison) -> tuple[Table, ...]:
    if not found.differences:
        return ()
    label = {method.name: method.label for method in found.methods}
    rows = [
        {
            "ours": label.get(one.ours, one.ours),
            "theirs": label.get(one.theirs, one.theirs),
            f"difference in {METRICS.get(found.metric, found.metric)}": estimate(*one.difference),
            "error saved": _saved(one),
            "p": one.p,
            "p after Holm": one.p_holm,
        }
        for one in found.differences
    ]
    title = "Paired differences on the same tasks, ours minus theirs, 95 % intervals over tasks and seeds"
    return (Table(title, pd.DataFrame(rows)),)


def _search_tables(found: Comparison) -> tuple[Table, ...]:
    """What the search chose for each method."""
    rows = [
        {
            "method": method.label,
            "tried": method.tried,
            "chosen": "; ".join(_chosen(method.settings)) or "sound ones",
        }
        for method in found.methods
    ]
    if not rows:
        return ()
    return (
        Table(
            "Settings tried on meta-validation tasks, and those chosen in the first fold", pd.DataFrame(rows)
        ),
    )


def _chosen(settings: dict[str, Any]) -> list[str]:
    from .page import cell

    return [f"{name.replace('_', ' ')} {cell(value)}" for name, value in settings.items()]
