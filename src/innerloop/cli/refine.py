"""`innerloop refine`: held-out gradients choose what changes in a trained model."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Group, Parameter

from .common import Notes, emit, fingerprint
from .opening import names
from .options import (
    DATA,
    OUTPUT,
    Categorical,
    Device,
    Features,
    Ignore,
    ImageSize,
    Json,
    Kind,
    Options,
    Quiet,
    Replace,
    SkipBad,
    about,
)
from .refusals import require_place
from .text import say
from .trained import ModelOptions, TrainedModel, opened

if TYPE_CHECKING:
    from ..refining import Refined
    from ..refining.rounds import RoundEntry
    from ..refining.rows import Divided, Reading

__all__ = ["refine"]


@Parameter(name="*", group=DATA)
@dataclass(frozen=True, kw_only=True)
class RowOptions(Options):
    """The rows to refine on and to test with."""

    data: Annotated[Path, about("Rows to refine on: a table, an npz file or a folder of images.")]
    test: Annotated[Path | None, about("Rows to test with, in the same form; else a share of --data.")] = None
    test_share: Annotated[float, about("That share; 0 for no test.")] = 0.25
    target: Annotated[str | None, about("Column to predict, for a table.")] = None
    features: Features = None
    ignore: Ignore = None
    categorical: Categorical = None
    kind: Kind = None
    classes: Annotated[str | None, about("Names of the classes in the order of the outputs: A,B.")] = None
    standardise: Annotated[
        bool, Parameter(negative="", help="Scale the columns of a table, as the model was trained.")
    ] = False
    image_size: ImageSize = None
    skip_bad: SkipBad = False


@Parameter(name="*", group=Group("Rounds", sort_key=3))
@dataclass(frozen=True, kw_only=True)
class RoundOptions(Options):
    """What changes how: fields of `refining.Settings`, except `adapt` and `device`."""

    adapt: Annotated[str, about("What may change: all, head, body or name patterns.")] = "all"
    score: Annotated[
        str | None, about("gradient, agreement, snr, fisher, learned, static, random or all.")
    ] = None
    budget: Annotated[float | None, about("Share of the parameters that change a round.")] = None
    scope: Annotated[str | None, about("Where the largest are chosen: global, tensor, neuron.")] = None
    folds: Annotated[int | None, about("Draws a round.")] = None
    moves: Annotated[str | None, about("Rows that move a candidate: most, few or bootstrap.")] = None
    noise: Annotated[str | None, about("Of the candidates: none or laplace.")] = None
    tau: Annotated[float | None, about("Precision of the prior of that noise.")] = None
    rule: Annotated[str | None, about("sgd, momentum, adam, adamw or rmsprop.")] = None
    lr: Annotated[float | None, about("Step size of the first round.")] = None
    candidate_lr: Annotated[float | None, about("Step size of a candidate.")] = None
    decay: Annotated[float | None, about("Round t takes a step of 1 / (1 + decay t).")] = None
    rounds: Annotated[int | None, about("Largest number of rounds.")] = None
    tolerance: Annotated[float | None, about("Stop when the averaged parameters move less ...")] = None
    patience: Annotated[int | None, about("... for so many rounds.")] = None
    stop: Annotated[str | None, about("How the number of rounds is found: auto, split, crossfit, none.")] = (
        None
    )
    batch_size: Annotated[int | None, about("Largest number of rows a round.")] = None
    seed: Annotated[int, about("Of the division of the rows and the folds.")] = 0
    device: Device = "auto"

    def arguments(self) -> dict[str, Any]:
        """The fields of `refining.Settings` that were asked for."""
        apart = ("adapt", "device")
        return {
            key: value for key, value in self.settings().items() if key not in apart and value is not None
        }


def refine(
    model: Annotated[Path, about("A model directory, or a state dict as safetensors with --architecture.")],
    /,
    *,
    data: RowOptions,
    architecture: ModelOptions = ModelOptions(),
    rounds: RoundOptions = RoundOptions(),
    out: Annotated[
        Path | None, Parameter(group=OUTPUT, help="Model directory; runs/refined-NAME unless given.")
    ] = None,
    weights: Annotated[
        Path | None,
        Parameter(group=OUTPUT, help="Also a safetensors file with the names and types of MODEL."),
    ] = None,
    replace: Replace = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Refine a trained model: held-out gradients choose what changes.

    In every round a part of the rows moves candidate parameters, the rows held out give their gradient there, and
    the parameters that score highest take a step. The test rows are scored before and after, and used for nothing
    else. It leaves a model directory, and with --weights a state dict for the program that the model comes from.

    Examples:
      innerloop refine net.safetensors --architecture conv4 --data photos
      innerloop refine net.safetensors --data digits.npz --config net.toml
      innerloop refine runs/schools --data new_school.csv --out runs/refined
    """
    from ..refining import Settings
    from ..refining import refine as refined
    from ..refining.rows import open_rows
    from ..storage import save
    from ..storage.manifest import refuse_occupied

    notes = Notes(quiet=quiet)
    settings = {"model": model, **data.settings(), **architecture.settings(), **rounds.settings()}
    chosen = Settings(**rounds.arguments())
    directory = out or Path("runs") / f"refined-{model.stem}"
    refuse_occupied(directory, replace=replace)
    for path in [directory, *([weights] if weights else [])]:
        require_place(path)
    start = opened(model, architecture)
    rows = open_rows(data.data, _reading(start, data, rounds.seed), test=data.test)
    for note in (start.told, *rows.notes, _counted(rows)):
        notes(f"note: {note}")
    result = refined(
        start.model(rows),
        rows.rows,
        valid=rows.valid,
        test=rows.test,
        adapt=rounds.adapt,
        device=rounds.device,
        callbacks=[_progress(notes, chosen.rounds)],
        **rounds.arguments(),
    )
    save(
        directory,
        result.model,
        kind="refined",
        schema=rows.schema,
        targets=rows.targets,
        settings={key: value for key, value in settings.items() if value is not None and value is not False},
        data=fingerprint(data.data),
        best_step=result.best_round,
        parent=start.stored,
        mask=result.mask,
        log=result.log,
        replace=replace,
    )
    if weights is not None:
        start.write_back(result, weights)
    masks = result.mask.values()
    changed, total = sum(int(mask.sum()) for mask in masks), sum(mask.numel() for mask in masks)
    if json:
        emit(
            "refine", rounds.seed, notes, settings, out=str(directory),
            weights=None if weights is None else str(weights), best_round=result.best_round,
            stopped=result.stopped, changed=changed / total, n_rows=len(rows.rows.y),
            n_test=0 if rows.test is None else len(rows.test.y), before=result.scores.get("before"),
            after=result.scores.get("after"), log=result.log, remarks=[start.told, *rows.notes],
        )  # fmt: skip
        return
    say(f"stopped: {result.stopped}; the parameters are those of round {result.best_round}")
    say(f"changed: {changed} of {total} parameters ({100 * changed / total:.1f} %)")
    _show_scores(result)
    say(f"model: {directory}")
    if weights is not None:
        say(f"weights: {weights}")


def _reading(start: TrainedModel, rows: RowOptions, seed: int) -> Reading:
    """How rows are read for the model."""
    from ..refining.rows import Reading

    matrices = [value for value in start.shapes.values() if value.dim() > 1]
    first, last = matrices[0], matrices[-1]
    return Reading(
        n_out=int(last.shape[0]),
        n_in=int(first.shape[1]) if first.dim() == 2 else None,
        target=rows.target,
        features=names(rows.features or None),
        ignore=names(rows.ignore) or (),
        categorical=names(rows.categorical) or (),
        classes=names(rows.classes or None),
        kind=rows.kind,
        standardise=rows.standardise,
        schema=None if start.stored is None else start.stored.schema,
        image_size=rows.image_size,
        skip_bad=rows.skip_bad,
        test_share=rows.test_share,
        seed=seed,
    )


def _counted(rows: Divided) -> str:
    stop = "" if rows.valid is None else f", {len(rows.valid.y)} to stop with"
    test = "none to test with" if rows.test is None else f"{len(rows.test.y)} to test with"
    return f"{len(rows.rows.y)} rows to refine on{stop}, {test}"


def _progress(notes: Notes, rounds: int) -> Callable[[RoundEntry], None]:
    """A line for about every tenth round."""
    every = max(1, rounds // 10)

    def show(entry: RoundEntry) -> None:
        if entry["round"] == 1 or entry["round"] % every == 0:
            accuracy = entry["accuracy"]
            right = "" if math.isnan(accuracy) else f"  accuracy {100 * accuracy:.1f} %"
            valid = f"  validation {entry['valid_loss']:.4f}" if "valid_loss" in entry else ""
            notes(
                f"round {entry['round']}/{rounds}  held-out loss {entry['loss']:.4f}{right}{valid}  "
                f"changed {100 * entry['changed']:.1f} %  moved {entry['moved']:.2g}"
            )

    return show


def _show_scores(result: Refined) -> None:
    for name, before in result.scores.get("before", {}).items():
        after = result.scores["after"][name]
        if name == "accuracy":
            say(f"test accuracy: {100 * before:.1f} % before, {100 * after:.1f} % after")
        else:
            say(f"test {name}: {before:.4f} before, {after:.4f} after")
