"""`innerloop train`: meta-train on tasks and leave a model directory."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from .auto import AUTO, raced, table
from .common import Notes, emit
from .drawn import command_line, draw
from .options import (
    ALGORITHM,
    OUTPUT,
    TRAINING,
    Categorical,
    D,
    Device,
    Features,
    Ignore,
    ImageSize,
    Json,
    Kind,
    Quiet,
    Replace,
    SkipBad,
    network_options,
    option_name,
    read_tasks,
    require_place,
)
from .text import LABELS, batchnorm_line, cell, scored, steps_table

if TYPE_CHECKING:
    from ..evaluation.scores import Evaluation
    from ..inner.learner import Learner
    from ..outer.training import Callback, Run
    from ..report import Page
    from ..tasks.sources import Source
    from ..tasks.splits import Tasks

A, T = (Parameter(group=group) for group in (ALGORITHM, TRAINING))

REPORT = "report.html"

# settings that `meta_train` takes as they are
_TRAINING = (
    *("steps", "meta_lr", "meta_batch_size", "schedule", "validate_every", "seed", "device"),
    *("engine", "memory", "precision"),
)


def train(
    tasks: Annotated[
        str,
        Parameter(help="A table, a folder of tables or images, an npz file, or a built-in name: gapminder."),
    ],
    /,
    *,
    task: Annotated[str | None, D, Parameter(help="Column that says the task of each row.")] = None,
    target: Annotated[
        str | None, D, Parameter(help="Column to predict; several for regression: A,B.")
    ] = None,
    n_support: Annotated[
        str | None, D, Parameter(help="Support rows a task: 5, or a range such as 1-8.")
    ] = None,
    n_shot: Annotated[str | None, D, Parameter(help="Support rows a class: 1, or a range.")] = None,
    n_way: Annotated[
        int | None, D, Parameter(help="Classes an episode, where classes are the tasks.")
    ] = None,
    n_query: Annotated[int | None, D, Parameter(help="Query rows of a training episode.")] = None,
    features: Features = None,
    ignore: Ignore = None,
    categorical: Categorical = None,
    kind: Kind = None,
    support: Annotated[
        str | None, D, Parameter(help="Which rows are support: random, order:COLUMN or block:COLUMN.")
    ] = None,
    split: Annotated[
        str | None, D, Parameter(help="Shares for train, validation, test: 0.7,0.15,0.15; or a CSV file.")
    ] = None,
    folds: Annotated[
        int | None,
        D,
        Parameter(help="Score by folds over tasks: 5 trains 5 times, every task is tested once."),
    ] = None,
    split_by: Annotated[
        str | None, D, Parameter(help="Column whose values are divided instead of tasks: clinic.")
    ] = None,
    date_format: Annotated[
        str | None, D, Parameter(help="How dates are written, where it is not clear: %d/%m/%Y.")
    ] = None,
    decimal: Annotated[
        str | None, D, Parameter(help="What numbers are written with: a point, or a comma as in 1,5.")
    ] = None,
    labels: Annotated[
        str | None,
        D,
        Parameter(help="shared: a class is the same in every task; per_task: each task has its own."),
    ] = None,
    image_size: ImageSize = None,
    skip_bad: SkipBad = False,
    data: Annotated[
        str | None, D, Parameter(help="Folder of built-in data that is not part of the package.")
    ] = None,
    algorithm: Annotated[
        str, A, Parameter(help="auto: a short race decides; others: innerloop list algorithms.")
    ] = AUTO,
    model: Annotated[str | None, A, Parameter(help="mlp or conv4; by the data unless given.")] = None,
    hidden: Annotated[str | None, A, Parameter(help="Hidden widths of the mlp: 40,40.")] = None,
    activation: Annotated[
        str | None, A, Parameter(help="Of the mlp's hidden units: tanh, relu, silu, gelu, sigmoid or sine.")
    ] = None,
    width: Annotated[int | None, A, Parameter(help="Channels of the conv4.")] = None,
    pool: Annotated[str | None, A, Parameter(help="Of the conv4: stride (default) or max.")] = None,
    scaling: Annotated[
        str, A, Parameter(help="Of numbers: shared by all tasks, or per_task, by each support.")
    ] = "shared",
    inner_lr: Annotated[
        float | None, A, Parameter(help="Inner step size (where it starts, if learned).")
    ] = None,
    inner_steps: Annotated[int | None, A, Parameter(help="Inner steps.")] = None,
    learn_lr: Annotated[
        str | None, A, Parameter(help="Learn step sizes: none, all, tensor or weight.")
    ] = None,
    inner_clip: Annotated[
        float | None, A, Parameter(help="Largest norm of an inner gradient; 0 for none.")
    ] = None,
    metagrad: Annotated[
        str | None,
        A,
        Parameter(help="unrolled, or checkpointed: less memory for many inner steps, more time."),
    ] = None,
    adapt: Annotated[str | None, A, Parameter(help="What adapts: all, head, body or a name pattern.")] = None,
    batchnorm: Annotated[
        str | None, A, Parameter(help="BatchNorm statistics: support, transductive or per_step.")
    ] = None,
    steps: Annotated[int | None, T, Parameter(help="Meta-updates.")] = None,
    meta_lr: Annotated[float | None, T, Parameter(help="Outer step size (Adam).")] = None,
    meta_batch_size: Annotated[int | None, T, Parameter(help="Episodes a meta-update.")] = None,
    schedule: Annotated[str, T, Parameter(help="cosine or constant.")] = "cosine",
    clip: Annotated[float, T, Parameter(help="Largest norm of the meta-gradient; 0 for none.")] = 10.0,
    validate_every: Annotated[int | None, T, Parameter(help="Steps between validations.")] = None,
    composition: Annotated[
        str | None,
        T,
        Parameter(help="Training tasks: fixed, permuted, recombined, fresh (default) or resplit."),
    ] = None,
    augment: Annotated[
        str | None, T, Parameter(help="Of training tasks: rotate, flip, crop, permute, noise, mix.")
    ] = None,
    engine: Annotated[
        str, T, Parameter(help="auto, eager, traced, compiled or loop; the result is the same.")
    ] = "auto",
    memory: Annotated[
        str, T, Parameter(help="What tasks that are worked on at once may keep: 512MB.")
    ] = "512MB",
    precision: Annotated[
        str, T, Parameter(help="Of the network's products in training: float32 or bfloat16.")
    ] = "float32",
    init: Annotated[
        Path | None, A, Parameter(help="Start from trained weights: a model directory, or safetensors.")
    ] = None,
    seed: Annotated[int, T, Parameter(help="Of the split, the initial parameters and the episodes.")] = 0,
    device: Annotated[Device, T] = "auto",
    out: Annotated[
        Path | None, Parameter(group=OUTPUT, help="Model directory; runs/NAME-ALGORITHM unless given.")
    ] = None,
    tensorboard: Annotated[
        Path | None, Parameter(group=OUTPUT, help="Folder for TensorBoard, written while training runs.")
    ] = None,
    replace: Replace = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Meta-train a model on many tasks.

    It leaves a model directory, which evaluate, adapt, predict and inspect take; report.html in it shows the
    scores and what was learned. While it runs, DIR.live.jsonl grows by a line a meta-update. Tasks are split into
    meta-train, meta-validation and meta-test; the scores printed at the end are those of meta-test.
    With --folds the model of the first fold is kept, and the scores are of all folds.

    Examples:
      innerloop train schools.csv --task school --target exam --out runs/schools
      innerloop train activity.csv --task user --target activity --n-shot 3
      innerloop train letters.csv --target label --n-way 5 --n-shot 1
      innerloop train sinusoid --n-support 5 --algorithm fomaml
      innerloop train schools.csv --config schools.toml
    """
    apart = ("json", "quiet", "out", "replace", "tensorboard")
    settings = {key: value for key, value in locals().items() if key not in ("apart", *apart)}
    execute(settings, out=out, replace=replace, tensorboard=tensorboard, json=json, quiet=quiet)


def execute(
    settings: dict[str, Any],
    *,
    out: Path | None,
    replace: bool,
    json: bool,
    quiet: bool,
    tensorboard: Path | None = None,
) -> Path:
    """Train by settings, score on meta-test, write the directory."""
    from ..evaluation.scores import evaluate, over_folds
    from ..storage.manifest import refuse_occupied

    notes = Notes(quiet=quiet)
    _require_sense(settings)
    folds = settings["folds"]
    if folds:
        settings |= {"split": f"1/{folds}"}
    data = read_tasks(settings)
    directory = out or Path("runs") / f"{data.name}-{settings['algorithm']}"
    refuse_occupied(directory, replace=replace)
    require_place(directory)
    for line in (repr(data), *(f"note: {note}" for note in data.notes)):
        notes(line)
    asked, settings = settings, _complete(settings, data)
    if settings["algorithm"] == AUTO:
        chosen, race = raced(data, _training(data, settings), settings, _wanted(settings), notes)
        settings = _complete(asked | chosen, data)
        if race is not None and not json:
            print(table(race))
    _learner(data, settings)  # what has no meaning is refused before a log is begun
    with _loggers(directory, tensorboard, notes) as loggers:
        run = _trained(data, settings, notes, loggers=loggers)
    found = evaluate(run.model, data.test)
    every = [found]
    if folds:
        # whatever happens to the other folds, this model is there
        _keep(directory, run, data, settings, found, None, replace=replace)
        every += _other_folds(settings, notes)
    total = over_folds(every) if folds else found
    page = draw(lambda: _page(run, data, settings, total), notes)
    _keep(directory, run, data, settings, found, page, replace=replace or bool(folds))
    means = [each.metric(found.metrics[0])[0] for each in every]
    if json:
        emit(
            "train", settings["seed"], notes, settings, out=str(directory),
            scores=total.scores(settings["algorithm"]), best_step=run.best_step,
            training_seconds=round(run.seconds, 3), remarks=list(data.notes),
            report=str(directory / REPORT) if page else None, folds=means,
        )  # fmt: skip
    else:
        _show(total, data, run.model.learner, means)
        print(f"model: {directory}{' (of the first fold)' if folds else ''}")
        if page:
            print(f"page: {directory / REPORT}")
    return directory


def _other_folds(settings: dict[str, Any], notes: Notes) -> Iterator[Evaluation]:
    """The same training with the tasks divided in every other way; each on its own meta-test tasks."""
    from dataclasses import replace

    from ..evaluation.scores import evaluate

    for number in range(2, settings["folds"] + 1):
        data = read_tasks(settings | {"split": f"{number}/{settings['folds']}"})
        found = evaluate(_trained(data, settings, notes, f", fold {number}").model, data.test)
        # episodes of classes have no names of their own
        ids = found.ids if data.test.n_tasks else tuple(f"fold {number}, {name}" for name in found.ids)
        yield replace(found, ids=ids)


def _complete(settings: dict[str, Any], data: Tasks) -> dict[str, Any]:
    """The settings with those that follow from the data, where they were not given."""
    from ..algorithms.assemble import sound_settings

    sound, support = sound_settings(data, settings["algorithm"]), data.train.support
    missing = {
        key: getattr(sound, key) for key in ("steps", "meta_lr", "meta_batch_size") if settings[key] is None
    }
    size = {"n_support": None, "n_shot": None, "n_shot" if support.per_class else "n_support": str(support)}
    return settings | missing | size


@contextmanager
def _loggers(directory: Path, tensorboard: Path | None, notes: Notes) -> Iterator[Sequence[Callback]]:
    """Log while training runs: lines beside the directory until it is written, and TensorBoard if asked for."""
    from ..files import remove_file
    from ..outer.logs import JsonLines, TensorBoard, logging

    board = [] if tensorboard is None else [TensorBoard(tensorboard)]
    place = directory if directory.name else directory.resolve()
    live = place.with_name(f"{place.name}.live.jsonl")
    with logging(JsonLines(live), *board, warn=notes) as loggers:
        yield loggers
    remove_file(live)  # the directory is going to have all of it


def _trained(
    data: Tasks, settings: dict[str, Any], notes: Notes, what: str = "", loggers: Sequence[Callback] = ()
) -> Run:
    """Meta-train on the tasks, with progress on stderr."""
    from ..outer.training import meta_train

    learner = _learner(data, settings)
    with notes.progress(f"{settings['algorithm']} on {data.name}{what}", settings["steps"]) as callback:
        run = meta_train(
            learner,
            _training(data, settings),
            valid=data.valid,
            callbacks=[callback, *loggers],
            meta=_start(learner, settings["init"], notes),
            clip=settings["clip"] or None,
            **{key: settings[key] for key in _TRAINING},
        )
    together = "" if run.at_once is None else f"; at most {run.at_once} tasks at once, by --memory"
    notes(f"engine: {run.engine}{together}")
    if run.skipped:
        notes(f"note: {run.skipped} tasks were left out of their step because their loss was not finite")
    return run


def _training(data: Tasks, settings: dict[str, Any]) -> Source:
    """Where training episodes come from: put together and augmented as asked for."""
    from ..tasks.augment import augmented, named
    from ..tasks.compose import composed

    training = composed(data.train, settings["composition"] or "fresh", seed=settings["seed"])
    return augmented(training, *named(settings["augment"] or ""))


def _start(learner: Learner, init: Path | None, notes: Notes) -> dict[str, Any] | None:
    """Meta-parameters that begin with the weights of a file or model directory."""
    if init is None:
        return None
    from ..storage.state_dicts import begun

    meta, left = begun(learner.init(), init)
    notes(f"note: training starts from the weights of {init}")
    if left:
        notes(f"note: {', '.join(left)} have another shape there and start anew")
    return meta


def _page(run: Run, data: Tasks, settings: dict[str, Any], found: Evaluation) -> Page:
    """What was trained, as a page."""
    from ..report import Scored, scored_page
    from ..storage.stored import versions

    asked = {key: value for key, value in settings.items() if key != "tasks"}
    if settings["folds"]:
        del asked["split"]
    return scored_page(
        Scored(
            method=str(settings["algorithm"]),
            data=data.name,
            model=run.model,
            source=data.test,
            scores=found,
            schema=data.schema,
            log=run.log,
            best_step=run.best_step,
            settings=settings,
            versions=versions(),
            command=command_line("train", asked, str(settings["tasks"])),
            notes=data.notes,
            folds=settings["folds"] or 1,
        )
    )


def _keep(
    directory: Path,
    run: Run,
    data: Tasks,
    settings: dict[str, Any],
    found: Evaluation,
    page: bytes | None,
    *,
    replace: bool,
) -> None:
    """Write the model directory."""
    from ..storage import save

    save(
        directory,
        run.model,
        schema=data.schema,
        splits=data.splits,
        support=data.train.support,
        targets=data.targets,
        settings={key: value for key, value in settings.items() if value is not None},
        data=_data(settings),
        scores=found.scores(settings["algorithm"]),
        best_step=run.best_step,
        log=run.log,
        extra={REPORT: page} if page else {},
        replace=replace,
    )


def _show(found: Evaluation, data: Tasks, learner: Learner, folds: Sequence[float]) -> None:
    """Scores for people; `folds` are the means of the headline, one a fold."""
    import numpy as np

    from ..evaluation.intervals import interval

    headline = found.metrics[0]
    print(f"meta-test{f' of {len(folds)} folds' if len(folds) > 1 else ''}: {scored(found, data.test)}")
    print(batchnorm_line(learner) + steps_table(found))
    if len(folds) > 1:
        each = ", ".join(cell((mean, math.nan, math.nan), headline) for mean in folds)
        print(
            f"{LABELS[headline]} by fold: {each}; mean {cell(interval(np.array(folds)), headline)} over folds"
        )
    print(f"{LABELS[headline]} after adaptation: {cell(found.metric(headline), headline)}")


def _require_sense(settings: dict[str, Any]) -> None:
    """Refuse what can be refused before any data is read."""
    from ..algorithms.baselines import BASELINES
    from ..errors import UsageError

    if settings["folds"] is not None and settings["split"] is not None:
        raise UsageError("--folds divides the tasks itself: leave --split out")
    for key, least in {
        "folds": 3,
        "seed": 0,
        "steps": 0,
        "meta_batch_size": 1,
        "validate_every": 1,
        "n_query": 1,
    }.items():
        if settings[key] is not None and settings[key] < least:
            raise UsageError(f"{option_name(key)} {settings[key]}: give {least} or more")
    if settings["task"] is not None and settings["task"] == settings["target"]:
        raise UsageError(f"{settings['task']!r} is named as task and as target: they are two columns")
    if settings["algorithm"] in BASELINES:
        raise UsageError(
            f"{settings['algorithm']} is a baseline to compare with, which leaves no model: use it from "
            "Python (innerloop.algorithms.baselines), or choose one of: innerloop list algorithms"
        )


def _learner(data: Any, settings: dict[str, Any]) -> Any:
    from ..algorithms.assemble import learner_for

    return learner_for(
        data,
        algorithm=settings["algorithm"],
        **network_options(settings),
        seed=settings["seed"],
        **_wanted(settings),
    )


def _wanted(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings of the algorithm that were asked for."""
    wanted = {
        key: settings[key]
        for key in ("inner_lr", "inner_steps", "learn_lr", "metagrad", "adapt", "batchnorm")
        if settings[key] is not None
    }
    if settings["inner_clip"] is not None:
        wanted["clip"] = settings["inner_clip"] or None
    if wanted.get("learn_lr") == "none":
        wanted["learn_lr"] = None
    return wanted


def _data(settings: dict[str, Any]) -> dict[str, Any]:
    from ..storage.manifest import sha256

    path = Path(settings["tasks"])
    fingerprint = sha256(path.read_bytes()) if path.is_file() else None
    return {"name": str(settings["tasks"]), "sha256": fingerprint}
