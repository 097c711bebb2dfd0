"""HTML report page of a model: scores, example episodes, what was learned, settings of a run."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

import pandas as pd

from ..compare.result import LogEntry
from ..evaluation.calibrating import INTERVALS, LEVEL
from ..evaluation.examples import show
from ..evaluation.inspection import gains, learned
from ..evaluation.intervals import interval
from ..evaluation.members import member_name, weights_frame
from ..evaluation.scores import Evaluation
from ..inner.model import Model
from ..tasks.sources import Source
from . import pictures
from .figures import steps_numbers
from .figures.style import metric_label
from .page import Answer, Page, Section, Table, pairs
from .pictures import estimate

if TYPE_CHECKING:
    from ..tasks.tables.schema import Schema

__all__ = ["Scored", "scored_page"]


@dataclass(frozen=True, eq=False)
class Scored:
    """A model that was scored, and what is known of it.

    Arguments:
        method: name of the algorithm.
        data: name of the data.
        model: the model.
        source: the tasks it was scored on.
        scores: of the model on the source.
        schema: what the columns mean.
        log: of training.
        best_step: the step the parameters come from.
        settings: what it was asked for.
        versions: of the packages used.
        command: makes the page again.
        notes: remarks.
        folds: the scores are of so many, the model and `source` of the first.
        shows_rows: show rows and names of tasks: pictures of episodes, and remarks that name tasks.
        labels: scores by number of labelled rows.
    """

    method: str
    data: str
    model: Model
    source: Source
    scores: Evaluation
    schema: Schema | None = None
    log: Sequence[LogEntry] = ()
    best_step: int | None = None
    settings: Mapping[str, object] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    command: str = ""
    notes: Sequence[str] = ()
    folds: int = 1
    shows_rows: bool = True
    labels: Mapping[int, Evaluation] = field(default_factory=dict)

    @property
    def units(self) -> str:
        """What was scored: tasks, or episodes where tasks never repeat."""
        return "held-out tasks" if self.source.n_tasks is not None else "held-out episodes"


def scored_page(run: Scored) -> Page:
    """What a model does on held-out tasks, and what it learned, as a page.

    Arguments:
        run: the model and its scores.

    Returns:
        The page, to be rendered.

    Example:
        >>> import innerloop as il
        >>> tasks, learner = il.tasks.sinusoid(episodes=5), il.mixed(1)
        >>> model = il.Model(learner, learner.init())
        >>> page = scored_page(Scored("mixed", "sinusoid", model, tasks.test, il.evaluate(model, tasks.test)))
        >>> page.title
        'mixed on sinusoid'
    """
    return Page(
        title=f"{run.method} on {run.data}",
        about=_about(run),
        verdict=_verdict(run),
        answers=_answers(run),
        sections=_sections(run),
        settings=(
            pairs(
                "Settings", [(k, v) for k, v in run.settings.items() if v is not False and k != "candidates"]
            ),
            pairs("Algorithm", _algorithm(run.model)),
            pairs("Versions", list(run.versions.items())),
        ),
        command=run.command,
        notes=_notes(run),
    )


def _notes(run: Scored) -> tuple[str, ...]:
    """The remarks; where the page names no tasks, without those that do."""
    if run.shows_rows:
        return tuple(run.notes)
    kept = tuple(note for note in run.notes if not _names_a_task(note, run.schema))
    hidden = "Pictures of rows of tasks, and names of tasks, are left out; innerloop train --report-rows shows them."
    return (*kept, hidden)


def _names_a_task(note: str, schema: Schema | None) -> bool:
    """Whether a remark may hold an id or a value: anything in quotation marks that is no column."""
    columns = {schema.task, *(c.name for c in (*schema.columns, *schema.target_columns))} if schema else set()
    quotes = re.findall(r"'((?:[^'\\]|\\.)*)'|\"([^\"]*)\"", note)
    return any((one or other) not in columns for one, other in quotes)


def _about(run: Scored) -> str:
    """The data in one line."""
    parts = [f"{len(run.scores.ids)} {run.units}", run.scores.targets.kind]
    targets = [column.name for column in run.schema.target_columns] if run.schema is not None else []
    if targets:
        parts.append(f"target{'s' * (len(targets) > 1)} {' and '.join(targets)}")
    parts += [f"support {support_words(run.scores)}", *[f"{run.folds} folds"] * (run.folds > 1)]
    return ", ".join(parts)


def support_words(evaluation: Evaluation) -> str:
    """The support size in words."""
    size = evaluation.support
    return f"{size} row{'s' * (size.high != 1)} a {'class' if size.per_class else 'task'}"


def _verdict(run: Scored) -> str:
    scores, metric = run.scores, run.scores.metrics[0]
    text = f"{metric_label(metric).capitalize()} {estimate(*scores.metric(metric))} on {len(scores.ids)} {run.units}"
    if len(scores.steps) > 1:
        text += f"; before adaptation {estimate(*scores.metric(metric, 0))}"
    return f"{text}. What simpler methods reach on the same tasks is measured by innerloop compare."


def _answers(run: Scored) -> tuple[Answer, ...]:
    """Whether the scores after adaptation differ from those before, task by task."""
    scores, intervals = run.scores, _intervals_answer(run.scores)
    if len(scores.steps) < 2:
        return intervals
    classes = scores.targets.kind == "classification"
    name = "accuracy" if classes else "error_over_variance"
    gain = (scores.values[name][:, -1] - scores.values[name][:, 0]) * (1 if classes else -1)
    mean, low, high = interval(gain)
    answer = "yes" if low > 0 else "no" if high < 0 else "open"
    tasks = pictures.gain_words(gains(scores))
    ground = f"Gain in {metric_label(name)} by adapting: {estimate(mean, low, high)}. {tasks}"
    return (("Does adapting pay, against this model without adapting?", answer, ground), *intervals)


def _intervals_answer(scores: Evaluation) -> tuple[Answer, ...]:
    """Whether conformal intervals hold what they promise, where there are any."""
    for what, held, size in (("intervals", *INTERVALS[:2]), ("prediction sets", *INTERVALS[2:])):
        if held in scores.metrics:
            mean, low, high = scores.metric(held)
            answer = "no" if high < LEVEL else "yes" if high >= LEVEL else "open"
            ground = (
                f"{metric_label(held).capitalize()}: {estimate(mean, low, high)} on tasks that calibrated nothing; "
                f"{metric_label(size)}: {estimate(*scores.metric(size))}."
            )
            return ((f"Do 90 % {what} for new tasks hold?", answer, ground),)
    return ()


def _sections(run: Scored) -> tuple[Section, ...]:
    scores = run.scores
    gained = gains(scores)
    if not run.shows_rows:
        gained = gained.assign(task=[str(number) for number in range(1, len(gained) + 1)])
    tasks = pictures.gains(gained) if len(scores.steps) > 1 else ()
    shown = show({run.method: run.model}, run.source, schema=run.schema) if run.shows_rows else ()
    episodes = pictures.episodes(shown)
    inside = (
        *pictures.inside(learned(run.model, run.source)),
        *pictures.learning({run.method: run.log}, run.best_step),
    )
    of_first = ("Of the first fold, whose model is kept.",) * (run.folds > 1)
    return (
        Section(
            "Scores", (), (*pictures.steps(steps_numbers(scores, run.method)), *tasks), (_scores(scores),)
        ),
        *_labels(run.labels),
        *(_candidates(run.settings) or _members(run.model)),
        Section("Episodes", of_first * bool(episodes), episodes),
        Section("What was learned", of_first * bool(inside), inside),
    )


def _labels(labels: Mapping[int, Evaluation]) -> tuple[Section, ...]:
    """What each further label brings."""
    if not labels:
        return ()
    rows = [
        {"labelled rows": str(count), **{metric_label(m): estimate(*each.metric(m)) for m in each.metrics}}
        for count, each in labels.items()
    ]
    title = "All metrics by number of labelled rows, means and 95 % intervals over tasks"
    return (Section("Labels", (), (), (Table(title, pd.DataFrame(rows)),)),)


def _candidates(settings: Mapping[str, object]) -> tuple[Section, ...]:
    """What was trained where the algorithm was left open: scores on meta-validation tasks, and weights."""
    rows = []
    for each in cast(Sequence[Mapping[str, Any]], settings.get("candidates") or ()):
        weights, ends = each["weights"], (math.nan if end is None else end for end in each["ci95"])
        score = estimate(each["mean"], *ends)
        shares = {_rows_words(size): f"{100 * share:.0f} %" for size, share in weights.items()}
        row = {"candidate": each["label"], metric_label(each["metric"]): score}
        rows.append(row | (shares if any(weights.values()) else dict.fromkeys(shares, "")))
    if not rows:
        return ()
    text = (
        "What applies to these tasks was trained, and scored on the meta-validation tasks. The prediction is an "
        "average whose weights depend on how many labelled rows a task has; what has none was left out."
    )
    title = "Candidates: error after adaptation, and weight by number of labelled rows"
    return (Section("Who carries what weight", (text,), (), (Table(title, pd.DataFrame(rows).fillna("")),)),)


def _rows_words(size: object) -> str:
    return f"{size} row{'' if str(size) == '1' else 's'}"


def _members(model: Model) -> tuple[Section, ...]:
    """Who carries what weight, where several learners are combined."""
    frame = weights_frame(model)
    if frame.empty:
        return ()
    text = (
        "The prediction is the average of those of the members. What each of them counts depends on how many labelled "
        "rows a task has; it was found on the meta-validation tasks."
    )
    shown = frame.rename(columns={name: _rows_words(name) for name in frame.columns[1:]})
    for name in shown.columns[1:]:
        shown[name] = [f"{100 * weight:.0f} %" for weight in shown[name]]
    return (Section("Who carries what weight", (text,), (), (Table("Weights of the members", shown),)),)


def _scores(evaluation: Evaluation) -> Table:
    """Every metric by inner step."""
    rows = []
    for position, steps in enumerate(evaluation.steps):
        row = {"inner steps": str(steps) if steps else "0 (before adaptation)"}
        rows.append(row | {metric_label(m): _cell(evaluation, m, position) for m in evaluation.metrics})
    return Table("All metrics, means and 95 % intervals over tasks", pd.DataFrame(rows))


def _cell(evaluation: Evaluation, metric: str, position: int) -> str:
    """A metric at an inner step; intervals are those of the last one."""
    value = evaluation.metric(metric, position)
    return "" if metric in INTERVALS and math.isnan(value.mean) else estimate(*value)


def _algorithm(model: Model) -> list[tuple[str, object]]:
    """Settings of the algorithm and its model."""
    recipe = model.learner.recipe or {}
    values = [("algorithm", recipe.get("algorithm")), *(recipe.get("settings") or {}).items()]
    values += [
        (f"member {number}", member_name(member))
        for number, member in enumerate(recipe.get("members", ()), 1)
    ]
    net = recipe.get("model")
    values += (
        [("model", net["name"]), *net["settings"].items()] if isinstance(net, dict) else [("model", net)]
    )
    return [*values, ("parameters", sum(value.numel() for value in model.meta.values()))]
