"""`innerloop train`: meta-train on tasks and leave a model directory."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from .common import (
    ALGORITHM,
    DATA,
    OUTPUT,
    TRAINING,
    Device,
    Json,
    Notes,
    Quiet,
    cell,
    emit,
    read_tasks,
    steps_table,
)

D, A, T = (Parameter(group=group) for group in (DATA, ALGORITHM, TRAINING))


def train(
    tasks: Annotated[str, Parameter(help="A CSV file, or a built-in name: sinusoid, gapminder, alphabets.")],
    /,
    *,
    task: Annotated[str | None, D, Parameter(help="Column that says the task of each row.")] = None,
    target: Annotated[str | None, D, Parameter(help="Column to predict.")] = None,
    n_support: Annotated[
        str | None, D, Parameter(help="Support rows a task: 5, or a range such as 1-8.")
    ] = None,
    n_shot: Annotated[str | None, D, Parameter(help="Support rows a class: 1, or a range.")] = None,
    n_way: Annotated[
        int | None, D, Parameter(help="Classes an episode, where classes are the tasks.")
    ] = None,
    n_query: Annotated[int | None, D, Parameter(help="Query rows of a training episode.")] = None,
    features: Annotated[
        str | None, D, Parameter(help="Columns to use: A,B,C. All others unless given.")
    ] = None,
    ignore: Annotated[str | None, D, Parameter(help="Columns not to use: A,B.")] = None,
    categorical: Annotated[str | None, D, Parameter(help="Columns whose values are names: A,B.")] = None,
    kind: Annotated[
        str | None, D, Parameter(help="regression or classification; found out unless given.")
    ] = None,
    split: Annotated[
        str | None, D, Parameter(help="Shares for train, validation, test: 0.7,0.15,0.15.")
    ] = None,
    algorithm: Annotated[str, A, Parameter(help="See: innerloop list algorithms.")] = "maml",
    model: Annotated[str | None, A, Parameter(help="mlp or conv4; by the data unless given.")] = None,
    hidden: Annotated[str | None, A, Parameter(help="Hidden widths of the mlp: 40,40.")] = None,
    width: Annotated[int | None, A, Parameter(help="Channels of the conv4.")] = None,
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
    adapt: Annotated[str | None, A, Parameter(help="What adapts: all, head, body or a name pattern.")] = None,
    batchnorm: Annotated[
        str | None, A, Parameter(help="BatchNorm statistics: support or transductive.")
    ] = None,
    steps: Annotated[int | None, T, Parameter(help="Meta-updates.")] = None,
    meta_lr: Annotated[float | None, T, Parameter(help="Outer step size (Adam).")] = None,
    meta_batch_size: Annotated[int | None, T, Parameter(help="Episodes a meta-update.")] = None,
    schedule: Annotated[str, T, Parameter(help="cosine or constant.")] = "cosine",
    clip: Annotated[float, T, Parameter(help="Largest norm of the meta-gradient; 0 for none.")] = 10.0,
    validate_every: Annotated[int | None, T, Parameter(help="Steps between validations.")] = None,
    seed: Annotated[int, T, Parameter(help="Of the split, the initial parameters and the episodes.")] = 0,
    device: Device = "auto",
    out: Annotated[
        Path | None, Parameter(group=OUTPUT, help="Model directory; runs/NAME-ALGORITHM unless given.")
    ] = None,
    replace: Annotated[bool, Parameter(negative="", group=OUTPUT, help="Replace a model directory.")] = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Meta-train on many tasks; adapt, predict and evaluate with what it leaves.

    innerloop train schools.csv --task school --target exam --n-support 10 --out runs/schools

    innerloop train letters.csv --target label --n-way 5 --n-shot 1

    innerloop train alphabets --n-way 5 --n-shot 1 --steps 300
    """
    settings = {
        key: value for key, value in locals().items() if key not in ("json", "quiet", "out", "replace")
    }
    execute(settings, out=out, replace=replace, json=json, quiet=quiet)


def execute(settings: dict[str, Any], *, out: Path | None, replace: bool, json: bool, quiet: bool) -> Path:
    """Train by settings, score on meta-test, write the directory."""
    from ..assemble import sound_settings
    from ..checkpoint import save
    from ..evaluation import evaluate
    from ..sealed import refuse_occupied
    from ..training import meta_train

    notes = Notes(quiet=quiet)
    data = read_tasks(settings)
    directory = out or Path("runs") / f"{data.name}-{settings['algorithm']}"
    refuse_occupied(directory, replace=replace)
    notes(repr(data))
    for note in data.notes:
        notes(f"note: {note}")
    learner = _learner(data, settings)
    sound = sound_settings(data)
    steps: int = sound.steps if settings["steps"] is None else settings["steps"]
    meta_lr: float = settings["meta_lr"] or sound.meta_lr
    meta_batch_size: int = settings["meta_batch_size"] or sound.meta_batch_size
    with notes.progress(f"{settings['algorithm']} on {data.name}", steps) as callback:
        run = meta_train(
            learner,
            data.train,
            valid=data.valid,
            schedule=settings["schedule"],
            clip=settings["clip"] or None,
            validate_every=settings["validate_every"],
            seed=settings["seed"],
            device=settings["device"],
            callbacks=[callback],
            steps=steps,
            meta_lr=meta_lr,
            meta_batch_size=meta_batch_size,
        )
    found = evaluate(run.model, data.test)
    settings |= {"steps": steps, "meta_lr": meta_lr, "meta_batch_size": meta_batch_size}
    settings |= {"n_support": None, "n_shot": None} | _support(data)
    scores = found.scores(settings["algorithm"])
    save(
        directory,
        run.model,
        schema=data.schema,
        splits=data.splits,
        support=data.train.support,
        targets=data.targets,
        settings={key: value for key, value in settings.items() if value is not None},
        data=_data(settings),
        scores=scores,
        best_step=run.best_step,
        log=run.log,
        replace=replace,
    )
    if run.skipped:
        notes(f"note: {run.skipped} tasks were left out of their step because their loss was not finite")
    if json:
        emit(
            "train", settings["seed"], notes, settings, out=str(directory), scores=scores,
            best_step=run.best_step, training_seconds=round(run.seconds, 3), remarks=list(data.notes),
        )  # fmt: skip
        return directory
    headline = found.metrics[0]
    print(f"meta-test: {len(found.ids)} tasks, support {found.support}, 95 % intervals over tasks")
    print(steps_table(found))
    print(f"{headline} after adaptation: {cell(found.metric(headline), headline)}")
    print(f"model: {directory}")
    return directory


def _learner(data: Any, settings: dict[str, Any]) -> Any:
    from ..assemble import learner_for
    from ..errors import UsageError

    wanted = {
        key: settings[key]
        for key in ("inner_lr", "inner_steps", "learn_lr", "adapt", "batchnorm")
        if settings[key] is not None
    }
    if settings["inner_clip"] is not None:
        wanted["clip"] = settings["inner_clip"] or None
    if wanted.get("learn_lr") == "none":
        wanted["learn_lr"] = None
    try:
        hidden = [int(width) for width in settings["hidden"].split(",")] if settings["hidden"] else None
    except ValueError:
        raise UsageError(f"--hidden {settings['hidden']}: give widths such as 40,40") from None
    return learner_for(
        data,
        algorithm=settings["algorithm"],
        model=settings["model"],
        hidden=hidden,
        width=settings["width"],
        seed=settings["seed"],
        **wanted,
    )


def _support(data: Any) -> dict[str, str]:
    support = data.train.support
    return {"n_shot" if support.per_class else "n_support": str(support)}


def _data(settings: dict[str, Any]) -> dict[str, Any]:
    from ..sealed import sha256

    path = Path(settings["tasks"])
    fingerprint = sha256(path.read_bytes()) if path.is_file() else None
    return {"name": str(settings["tasks"]), "sha256": fingerprint}
