"""`innerloop evaluate`: scores of a model directory on held-out tasks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from ..errors import UsageError
from .common import Notes, emit, stored_run
from .encoding import encoding_told, use_encoder
from .held_out import held_out
from .options import Device, Encoder, Json, Quiet, Steps
from .pages import Report, command_line, leave, require_report
from .refusals import require_steps
from .text import batchnorm_line, dependence_text, interval_line, labels_table, say, scored, steps_table

if TYPE_CHECKING:
    from ..evaluation.scores import Evaluation
    from ..report import Page
    from ..storage import Stored
    from ..tasks.sources import Source

__all__ = ["evaluate"]


def evaluate(
    directory: Annotated[Path, Parameter(help="What innerloop train left.")],
    tasks: Annotated[
        str | None,
        Parameter(
            help="A table with the columns of training, or a folder of classes; the training data unless given."
        ),
    ] = None,
    /,
    *,
    inner_steps: Steps = None,
    encoder: Encoder = None,
    device: Device = "auto",
    report: Report = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Score a model on tasks it has not met, by number of inner steps.

    Without TASKS these are the meta-test tasks of its training data, which have to lie below the working folder and
    to be unchanged: a directory of somebody else opens no file that you do not name. Of another table they are all
    tasks that training has not met. A page with pictures of the scores and of what was learned is left beside the
    directory.

    Examples:
      innerloop evaluate runs/schools
      innerloop evaluate runs/schools --report schools.html
      innerloop evaluate runs/schools --inner-steps 10
      innerloop evaluate runs/schools other_schools.csv --json
      innerloop evaluate runs/goods other_goods/
    """
    from ..evaluation.dependence import query_dependence
    from ..evaluation.labels import by_labels
    from ..evaluation.scores import evaluate as score
    from ..outer.placement import placed

    notes = Notes(quiet=quiet)
    require_steps(inner_steps)
    require_report(report)
    use_encoder(encoder)
    stored = stored_run(directory, device)
    if stored.kind == "adapted":
        raise UsageError(f"{directory} holds adapted tasks: evaluate the run they were adapted from")
    with encoding_told(notes):
        source = held_out(stored, tasks, notes)
    model, where = placed(stored.model, source, device)
    stored = replace(stored, model=model)
    if where.decided:
        notes(f"device: {where}")
    scores = score(stored.model, source, steps=inner_steps, calibration=stored.calibration)
    dependence = query_dependence(stored.model, source)
    labels = by_labels(stored.model, source)
    learner = stored.config["learner"]
    method = str(learner["algorithm"])
    paths = [str(directory), *([] if tasks is None else [tasks])]
    command = command_line("evaluate", {"inner_steps": inner_steps}, *paths)
    named = directory if directory.name else directory.resolve()
    beside = named.with_name(f"{named.name}-evaluate{f'-{Path(tasks).stem}' if tasks else ''}.html")
    page = leave(report, beside, lambda: _page(stored, source, scores, command, tasks, labels), notes)
    if json:
        settings = {"directory": str(directory), "tasks": tasks, "inner_steps": inner_steps}
        settings |= {"batchnorm": learner["settings"].get("batchnorm")}
        emit(
            "evaluate", stored.config["settings"].get("seed"), notes, settings, scores=scores.scores(method),
            by_labels=[row for each in labels.values() for row in each.scores(method)],
            query_dependence=dependence, report=None if page is None else str(page),
            calibration_tasks=stored.calibration and stored.calibration.n_tasks,
        )  # fmt: skip
        return
    say(f"{method}: {scored(scores, source)}")
    say(batchnorm_line(stored.model.learner) + steps_table(scores))
    say(interval_line(scores, stored.calibration))
    if labels:
        say(labels_table(labels))
    say(f"a prediction {dependence_text(dependence)}")
    if page is not None:
        say(f"page: {page}")


def _page(
    stored: Stored,
    source: Source,
    scores: Evaluation,
    command: str,
    tasks: str | None,
    labels: Mapping[int, Evaluation],
) -> Page:
    """The scores as a page."""
    from ..report import Scored, scored_page

    config = stored.config
    return scored_page(
        Scored(
            method=str(config["learner"]["algorithm"]),
            data=Path(str(tasks or config["settings"].get("tasks"))).stem,
            model=stored.model,
            source=source,
            scores=scores,
            schema=stored.schema,
            log=stored.log,
            best_step=config["best_step"],
            settings=config["settings"],
            versions=config["versions"],
            command=command,
            labels=labels,
        )
    )
