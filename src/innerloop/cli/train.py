"""`innerloop train`: meta-train on tasks and leave a model directory."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from ..errors import UsageError
from . import pages
from .auto import AUTO, decided, table, trained
from .common import Notes, emit, fingerprint
from .encoding import encoding_told, known_encoder, use_encoder
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
from .resuming import (
    Output,
    checkpoints_at,
    require_none,
    resumed,
    tellings,
    without_suffix,
)
from .resuming import (
    begun as written_down,
)
from .text import LABELS, batchnorm_line, cell, interval_line, say, scored, steps_table

if TYPE_CHECKING:
    from ..combining import Choice
    from ..evaluation.conformal import Calibration
    from ..evaluation.mixed_model import MixedSummary
    from ..evaluation.scores import Evaluation
    from ..inner.model import Model
    from ..outer.ranks import Ranks, Shards
    from ..outer.training import Run
    from ..report import Page
    from ..storage import Checkpoints
    from ..tasks.splits import Tasks

__all__ = ["train"]

REPORT = "report.html"


def train(
    tasks: Annotated[
        str | None,
        about(
            "A table, a folder of tables or images, an npz file, or a built-in name: gapminder. With --resume "
            "those of before unless given."
        ),
    ] = None,
    /,
    *,
    data: FoldedDataOptions = FoldedDataOptions(),
    algorithm: AlgorithmOptions = AlgorithmOptions(),
    training: TrainingOptions = TrainingOptions(),
    out: Annotated[
        Path | None, Parameter(group=OUTPUT, help="Model directory; runs/NAME-ALGORITHM unless given.")
    ] = None,
    resume: Annotated[
        Path | None,
        Parameter(
            group=OUTPUT,
            help="Go on with the training into this model directory; begin it where there is none and tasks are given.",
        ),
    ] = None,
    checkpoint_every: Annotated[
        int | None,
        Parameter(group=OUTPUT, help="Meta-updates between checkpoints; one a minute unless given."),
    ] = None,
    allow_changes: Annotated[
        bool, FLAG, about("Go on although data, settings or the version are others than before.")
    ] = False,
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
    license: Annotated[
        str | None,
        Parameter(group=OUTPUT, help="Licence of the model, for its card (README.md), such as cc-by-4.0."),
    ] = None,
    replace: Replace = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Meta-train a model on many tasks.

    It leaves a model directory, which evaluate, adapt, predict and inspect take; report.html in it shows the
    scores and what was learned, README.md is its model card. While it runs, DIR.live.jsonl grows by a line a
    meta-update. Tasks are split into meta-train, meta-validation and meta-test; the scores printed at the end are those
    of meta-test. With --folds the model of the first fold is kept, and the scores are of all folds. The directory holds
    no row of your data and no id of a task; innerloop inspect DIR --privacy lists what it holds.

    The state of the training is saved in DIR.checkpoints, once a minute and on Ctrl-C and SIGTERM, until the model is
    written; --resume DIR goes on from there and ends with the same numbers. After Ctrl-C the best model so far is
    written (once more: not even that).

    Examples:
      innerloop train schools.csv --task school --target exam --out runs/schools
      innerloop train activity.csv --task user --target activity --n-shot 3
      innerloop train letters.csv --target label --n-way 5 --n-shot 1
      innerloop train photos/known --encoder efficientnet-lite0 --n-shot 1
      innerloop train said.csv --text sentence --target intent --encoder wordllama
      innerloop train sinusoid --n-support 5 --algorithm fomaml
      innerloop train schools.csv --config schools.toml
      innerloop train --resume runs/schools
    """
    from ..outer.ranks import the_ranks
    from ..storage.card import require_licence
    from ..storage.manifest import refuse_occupied

    if license is not None:
        require_licence(license)
    output = Output(report_rows=report_rows, keep_ids=keep_ids, license=license, replace=replace)
    asked = Request(tasks=tasks or "", data=data, algorithm=algorithm, training=training)
    ranks = the_ranks()
    notes = Notes(quiet=quiet or ranks.rank > 0)
    use_encoder(data.encoder)
    with encoding_told(notes):
        read, directory = _place(asked, resume, out)
    require_place(directory)
    checkpoints = checkpoints_at(directory, every=checkpoint_every, allow_changes=allow_changes, notes=notes)
    with nullcontext() if ranks.rank else checkpoints:
        if resume is None:
            if not (ranks.rank and replace):  # the first rank gives up what was there
                require_none(directory, checkpoints, discard=replace)
        else:
            found = resumed(directory, checkpoints, asked, output, notes)
            if found is None:
                return
            asked, output = found
        refuse_occupied(directory, replace=output.replace or output.goes_on)
        # a training that is gone on with names it, and only the user asks for it
        known_encoder(asked.data.encoder)
        with encoding_told(notes):
            read = read or asked.fold(1).read()
        ranks.any(False)  # nobody writes before all have looked
        with tellings(directory, checkpoints, notes):
            _train(_Begun(asked, read, directory, output, checkpoints, ranks), notes, tensorboard, json=json)


def _place(asked: Request, resume: Path | None, out: Path | None) -> tuple[Tasks | None, Path]:
    """The tasks, if they had to be read for it, and the model directory."""
    if resume is not None:
        if out is not None:
            raise UsageError("--resume names the model directory: leave --out out")
        return None, without_suffix(resume)
    if not asked.tasks:
        raise UsageError("give the tasks: a table, say, or a built-in name such as gapminder")
    asked.require_sense()
    read = asked.fold(1).read()
    return read, out or Path("runs") / f"{read.name}-{asked.method}"


@dataclass(frozen=True)
class _Begun:
    """A training that is going to be made, of the first fold where there are several, and where it goes."""

    request: Request
    tasks: Tasks
    directory: Path
    output: Output
    checkpoints: Checkpoints
    ranks: Ranks

    @property
    def shards(self) -> Shards | None:
        """How ranks share the tasks that are scored; `None` where there is one process."""
        from ..outer.ranks import SHARDS, Shards, launched

        return Shards(SHARDS, self.ranks) if launched() else None

    def part(self, fold: int) -> Checkpoints:
        """The checkpoints of a fold; all of them without folds."""
        return self.checkpoints.part(f"fold {fold}") if self.request.data.folds else self.checkpoints


def _train(begun: _Begun, notes: Notes, tensorboard: Path | None, *, json: bool) -> None:
    """Train, score on meta-test, write the directory, print."""
    read, checkpoints, ranks = begun.tasks, begun.checkpoints, begun.ranks
    for line in (repr(read), *(f"note: {note}" for note in read.notes)):
        notes(line)
    request = decided(begun.request.fold(1), read, notes)
    if request.method != AUTO:
        request.complete(read).learner(read)  # what has no meaning is refused before a log is begun
    if not ranks.rank:
        checkpoints.ask(written_down(begun.request, begun.output))
    logged = nullcontext(()) if ranks.rank else log_callbacks(begun.directory, tensorboard, notes)
    try:
        with logged as loggers:
            run, choice = trained(request, read, notes, callbacks=loggers, checkpoints=begun.part(1))
    except UsageError:  # what was asked for has no meaning: there is nothing to go on with
        if not (ranks.rank or begun.output.goes_on):
            checkpoints.remove()
        raise
    if choice is not None and not json and not ranks.rank:
        say(table(choice))
    before = None if choice is None else choice.before
    if not _Trained(_told(request, read, choice), run, begun, before).score(notes, json=json):
        raise KeyboardInterrupt
    if not ranks.rank:
        checkpoints.remove()


def _told(request: Request, tasks: Tasks, choice: Choice | None) -> Request:
    """The request with all that follows from the data, and what was trained where that was left open."""
    return replace(request.complete(tasks), candidates=None if choice is None else choice.rows())


@dataclass(frozen=True)
class _Trained:
    """A model that was trained, of the first fold where there are several, and where it goes."""

    request: Request
    run: Run
    begun: _Begun
    before: Model | None = None

    @property
    def tasks(self) -> Tasks:
        """The tasks."""
        return self.begun.tasks

    @property
    def directory(self) -> Path:
        """The model directory."""
        return self.begun.directory

    def score(self, notes: Notes, *, json: bool) -> bool:
        """Score on meta-test, on every rank; write the directory and print, on the first one.

        Returns:
            Whether all was done; if not, it was interrupted, and what is there is written.
        """
        from ..evaluation.calibrating import calibrate
        from ..evaluation.scores import evaluate, over_folds

        request, folds, ranks = self.request, self.request.data.folds, self.begun.ranks
        # a model that was fitted with the meta-validation tasks would be surer of them than of new ones
        calibration = calibrate(self.before or self.run.model, self.tasks.valid)
        scores = evaluate(self.run.model, self.tasks.test, calibration=calibration, shards=self.begun.shards)
        every, cut = [scores], self.cut
        replace = self.begun.output.replace or self.begun.output.goes_on
        if folds:
            # whatever happens to the other folds, this model is there
            if not ranks.rank:
                self.save(scores, calibration, replace=replace)
            others, fold = self.other_folds(notes)
            every += others
            cut = f"interrupted in fold {fold}: scores are of {len(every)} of {folds} folds" if fold else ""
        if ranks.rank:
            return not cut
        total = over_folds(every) if folds else scores
        if total.worsened:
            notes(f"warning: {total.worsened}")
        if folds and cut:
            notes(f"note: {cut}")
        remarks = [*self.tasks.notes, *filter(None, (total.worsened, cut))]
        page = pages.draw(lambda: self.page(total, remarks, folds=len(every)), notes)
        self.save(scores, calibration, page=page, cut=cut, replace=replace or bool(folds))
        report = str(self.directory / REPORT) if page else None
        means = [each.metric(scores.metrics[0])[0] for each in every]
        if json:
            emit(
                "train", request.training.seed, notes, request.settings(), out=str(self.directory),
                scores=total.scores(request.method), best_step=self.run.best_step,
                training_seconds=round(self.run.seconds, 3), remarks=remarks, report=report,
                folds=means, calibration_tasks=calibration.n_tasks,
            )  # fmt: skip
        else:
            self.show(total, means)
            say(interval_line(total, calibration))
            say(f"model: {self.directory}{' (of the first fold)' if folds else ''}")
            if report:
                say(f"page: {report}")
        return not cut

    @property
    def cut(self) -> str:
        """That the training was interrupted, in words."""
        said = [remark for remark in self.run.remarks if remark.startswith("interrupted")]
        return said[-1] if self.run.interrupted else ""

    def other_folds(self, notes: Notes) -> tuple[list[Evaluation], int]:
        """Scores of the other folds, and the number of the one that was interrupted; 0 where none was."""
        every: list[Evaluation] = []
        if self.run.interrupted:
            return every, 1
        try:
            for scores in _other_folds(self.request, self.request.data.folds or 0, notes, self.begun):
                every.append(scores)
        except KeyboardInterrupt:
            return every, len(every) + 2
        return every, 0

    def save(
        self,
        scores: Evaluation,
        calibration: Calibration,
        *,
        replace: bool,
        page: bytes | None = None,
        cut: str = "",
    ) -> None:
        """Write the model directory."""
        from ..evaluation.none_of_these import calibrate_fit
        from ..storage import save

        settings = self.request.settings() | {"at_once": self.run.at_once, "placed": str(self.run.placed)}
        output = self.begun.output
        settings |= {"report_rows": output.report_rows, "license": output.license}
        settings |= {"warning": scores.worsened or None, "interrupted": cut or None}
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
            keep_ids=self.begun.output.keep_ids,
            calibration=calibration,
            inputs=self.tasks.inputs,
            fit=calibrate_fit(self.before or self.run.model, self.tasks.train, self.tasks.valid),
            replace=replace,
        )

    def mixed(self) -> MixedSummary | None:
        """The statistician's numbers of the linear mixed model, or of the first one that a combination has."""
        from ..combining.refitting import joined
        from ..evaluation.members import members
        from ..evaluation.mixed_model import has_mixed_summary, mixed_summary
        from ..tasks.sources import RowSource

        every = members(self.run.model) or {"": self.run.model}
        model = next((each for each in every.values() if has_mixed_summary(each)), None)
        if model is None:
            return None
        source, valid = self.request.source(self.tasks), self.tasks.valid
        if self.before is not None and isinstance(source, RowSource) and isinstance(valid, RowSource):
            # candidates of `auto` were fitted with these tasks too
            source = joined(source, valid)
        try:
            return mixed_summary(model, source, schema=self.tasks.schema)
        except UsageError:  # the fixed effects were drawn, which the training has said
            return None

    def page(self, scores: Evaluation, remarks: Sequence[str], *, folds: int) -> Page:
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
                notes=remarks,
                folds=folds,
                # rows of built-in data are nobody's secret
                shows_rows=self.begun.output.report_rows or not Path(request.tasks).exists(),
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


def _other_folds(request: Request, folds: int, notes: Notes, begun: _Begun) -> Iterator[Evaluation]:
    """The same training with the tasks divided in every other way; each on its own meta-test tasks."""
    from ..evaluation.calibrating import calibrate
    from ..evaluation.scores import evaluate

    for number in range(2, folds + 1):
        tasks = request.fold(number).read()
        run, choice = trained(request, tasks, notes, what=f", fold {number}", checkpoints=begun.part(number))
        if run.interrupted:
            raise KeyboardInterrupt
        judged = choice.before if choice is not None else run.model
        calibration = calibrate(judged, tasks.valid)
        scores = evaluate(run.model, tasks.test, calibration=calibration, shards=begun.shards)
        # episodes of classes have no names of their own
        ids = scores.ids if tasks.test.n_tasks else tuple(f"fold {number}, {name}" for name in scores.ids)
        yield replace(scores, ids=ids)
