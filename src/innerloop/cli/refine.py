"""`innerloop refine`: held-out gradients choose what changes in a trained model."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Group, Parameter

from ..errors import UsageError
from .common import Notes, emit
from .options import (
    OUTPUT,
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
    names,
    require_place,
)

if TYPE_CHECKING:
    from ..refining import Refined
    from ..refining.rows import Divided, Reading
    from ..storage import Stored
    from ..storage.state_dicts import Trained

MODEL, ROUNDS = Group("Model", sort_key=2), Group("Rounds", sort_key=3)
M, R = (Parameter(group=group) for group in (MODEL, ROUNDS))

# options that are fields of `refining.Settings`
_SETTINGS = (
    "folds", "moves", "noise", "tau", "score", "budget", "scope", "rule", "lr", "candidate_lr", "decay", "rounds",
    "tolerance", "patience", "stop", "batch_size", "seed",
)  # fmt: skip


def refine(
    model: Annotated[
        Path, Parameter(help="A model directory, or a state dict as safetensors with --architecture.")
    ],
    /,
    *,
    data: Annotated[
        Path, D, Parameter(help="Rows to refine on: a table, an npz file or a folder of images.")
    ],
    test: Annotated[
        Path | None, D, Parameter(help="Rows to test with, in the same form; else a share of --data.")
    ] = None,
    test_share: Annotated[float, D, Parameter(help="That share; 0 for no test.")] = 0.25,
    target: Annotated[str | None, D, Parameter(help="Column to predict, for a table.")] = None,
    features: Features = None,
    ignore: Ignore = None,
    categorical: Categorical = None,
    kind: Kind = None,
    classes: Annotated[
        str | None, D, Parameter(help="Names of the classes in the order of the outputs: A,B.")
    ] = None,
    standardise: Annotated[
        bool, D, Parameter(negative="", help="Scale the columns of a table, as the model was trained.")
    ] = False,
    image_size: ImageSize = None,
    skip_bad: SkipBad = False,
    architecture: Annotated[str | None, M, Parameter(help="Of a state dict: mlp or conv4.")] = None,
    activation: Annotated[
        str | None, M, Parameter(help="Of an mlp: tanh, relu, silu, gelu, sigmoid, sine.")
    ] = None,
    output_activation: Annotated[
        str | None, M, Parameter(help="On the outputs of an mlp, if there is one.")
    ] = None,
    adapt: Annotated[str, R, Parameter(help="What may change: all, head, body or name patterns.")] = "all",
    score: Annotated[
        str | None,
        R,
        Parameter(help="gradient, agreement, snr, fisher, learned, static, random or all."),
    ] = None,
    budget: Annotated[float | None, R, Parameter(help="Share of the parameters that change a round.")] = None,
    scope: Annotated[
        str | None, R, Parameter(help="Where the largest are chosen: global, tensor, neuron.")
    ] = None,
    folds: Annotated[int | None, R, Parameter(help="Draws a round.")] = None,
    moves: Annotated[
        str | None, R, Parameter(help="Rows that move a candidate: most, few or bootstrap.")
    ] = None,
    noise: Annotated[str | None, R, Parameter(help="Of the candidates: none or laplace.")] = None,
    tau: Annotated[float | None, R, Parameter(help="Precision of the prior of that noise.")] = None,
    rule: Annotated[str | None, R, Parameter(help="sgd, momentum, adam, adamw or rmsprop.")] = None,
    lr: Annotated[float | None, R, Parameter(help="Step size of the first round.")] = None,
    candidate_lr: Annotated[float | None, R, Parameter(help="Step size of a candidate.")] = None,
    decay: Annotated[float | None, R, Parameter(help="Round t takes a step of 1 / (1 + decay t).")] = None,
    rounds: Annotated[int | None, R, Parameter(help="Largest number of rounds.")] = None,
    tolerance: Annotated[
        float | None, R, Parameter(help="Stop when the averaged parameters move less ...")
    ] = None,
    patience: Annotated[int | None, R, Parameter(help="... for so many rounds.")] = None,
    stop: Annotated[
        str | None, R, Parameter(help="How the number of rounds is found: auto, split, crossfit, none.")
    ] = None,
    batch_size: Annotated[int | None, R, Parameter(help="Largest number of rows a round.")] = None,
    seed: Annotated[int, R, Parameter(help="Of the division of the rows and the folds.")] = 0,
    device: Annotated[Device, R] = "auto",
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
    settings = {
        key: value
        for key, value in locals().items()
        if key not in ("json", "quiet", "out", "replace", "weights")
    }
    execute(settings, out=out, weights=weights, replace=replace, json=json, quiet=quiet)


def execute(
    settings: dict[str, Any],
    *,
    out: Path | None,
    weights: Path | None,
    replace: bool,
    json: bool,
    quiet: bool,
) -> Path:
    """Refine by settings, score before and after, write the directory."""
    from ..refining import Settings
    from ..refining import refine as refined
    from ..refining.rows import open_rows
    from ..storage.manifest import refuse_occupied

    notes = Notes(quiet=quiet)
    chosen = {key: settings[key] for key in _SETTINGS if settings[key] is not None}
    Settings(**chosen)
    directory = out or Path("runs") / f"refined-{settings['model'].stem}"
    refuse_occupied(directory, replace=replace)
    for place in [directory, *([weights] if weights else [])]:
        require_place(place)
    start = _Start(settings)
    rows = open_rows(settings["data"], start.reading, test=settings["test"])
    for note in (start.about, *rows.notes, _counted(rows)):
        notes(f"note: {note}")
    found = refined(
        start.model(rows),
        rows.rows,
        valid=rows.valid,
        test=rows.test,
        adapt=settings["adapt"],
        device=settings["device"],
        callbacks=[_progress(notes, chosen.get("rounds", Settings.rounds))],
        **chosen,
    )
    _keep(directory, found, rows, start, settings, replace=replace)
    if weights is not None:
        start.give_back(found, weights)
    if json:
        emit("refine", settings["seed"], notes, settings, **_summary(found, directory, weights, rows, start))
        return directory
    _print(found, directory, weights)
    return directory


def _keep(
    directory: Path, found: Refined, rows: Divided, start: _Start, settings: dict[str, Any], *, replace: bool
) -> None:
    """Write the model directory."""
    from ..storage import save

    save(
        directory,
        found.model,
        kind="refined",
        schema=rows.schema,
        targets=rows.targets,
        settings={key: value for key, value in settings.items() if value is not None and value is not False},
        data=_fingerprint(settings["data"]),
        best_step=found.best_round,
        parent=start.stored,
        mask=found.mask,
        log=found.log,
        replace=replace,
    )


class _Start:
    """The trained model: a model directory, or a state dict of a built-in architecture."""

    stored: Stored | None = None
    trained: Trained | None = None

    def __init__(self, settings: dict[str, Any]) -> None:
        from ..refining.rows import Reading
        from ..storage import load
        from ..storage.state_dicts import built, read_state_dict

        self.path: Path = settings["model"]
        given = {
            key: settings[key]
            for key in ("target", "kind", "standardise", "image_size", "skip_bad", "test_share", "seed")
        }
        for key in ("features", "ignore", "categorical", "classes"):
            given[key] = (
                names(settings[key]) if settings[key] else (None if key in ("features", "classes") else ())
            )
        self.size: int | None = settings["image_size"]
        if self.path.is_dir() or (settings["architecture"] is None and not self.path.exists()):
            self.stored = load(self.path)
            shapes = self._network_params()
            given["schema"] = self.stored.schema
        else:
            if settings["architecture"] is None:
                raise UsageError(
                    f"{self.path} is a state dict, which does not say its model: give --architecture mlp or conv4"
                )
            self.state = read_state_dict(self.path)
            spelled = {"activation": settings["activation"], "output": settings["output_activation"]}
            self.given = {key: value for key, value in spelled.items() if value is not None}
            self.trained = built(settings["architecture"], self.state, **self.given)
            shapes = dict(self.trained.module.named_parameters())
        self.architecture = settings["architecture"]
        first, *_, last = (value for value in shapes.values() if value.dim() > 1)
        vectors = first.dim() == 2
        self.reading: Reading = Reading(
            n_out=int(last.shape[0]), n_in=int(first.shape[1]) if vectors else None, **given
        )

    def _network_params(self) -> dict[str, Any]:
        assert self.stored is not None
        params = self.stored.model.learner.network.params()
        if not params:
            raise UsageError(f"{self.path} holds no network, so there is nothing to refine")
        return params

    @property
    def about(self) -> str:
        """What was read."""
        from ..models.builtin import recipe_of

        if self.stored is not None:
            return f"{self.path} is a model directory ({self.stored.kind})"
        assert self.trained is not None
        count = sum(value.numel() for value in self.trained.module.parameters())
        told = (recipe_of(self.trained.module) or {"settings": {}})["settings"]
        shown = ", ".join(f"{key} {value}" for key, value in told.items() if value not in (None, 0.0))
        return f"{self.path} is {self.architecture} ({shown}), {count} parameters"

    def model(self, rows: Divided) -> Any:
        """What to refine."""
        from ..algorithms import plain
        from ..inner.learner import Model
        from ..storage.state_dicts import built

        if self.stored is not None:
            return self.stored.model
        assert self.trained is not None
        if self.architecture == "conv4":
            side = int(rows.rows.x.shape[-1])
            self.trained = built("conv4", self.state, size=side, **self.given)
        if not self.trained.statistics:
            return self.trained.module
        loss = "mse" if rows.targets.kind == "regression" else "cross_entropy"
        learner = plain(self.trained.module, loss=loss)
        return Model(learner, {**learner.init(), **self.trained.statistics})

    def give_back(self, found: Refined, path: Path) -> None:
        """Write the refined weights under the names and types that MODEL has."""
        from ..refining import state_dict
        from ..storage.state_dicts import write_state_dict

        back = state_dict(found.model) if self.trained is None else self.trained.give_back(found.model.meta)
        write_state_dict(path, back)


def _counted(rows: Divided) -> str:
    stop = "" if rows.valid is None else f", {len(rows.valid.y)} to stop with"
    test = "none to test with" if rows.test is None else f"{len(rows.test.y)} to test with"
    return f"{len(rows.rows.y)} rows to refine on{stop}, {test}"


def _progress(notes: Notes, rounds: int) -> Any:
    """A line for about every tenth round."""
    every = max(1, rounds // 10)

    def show(entry: dict[str, Any]) -> None:
        if entry["round"] == 1 or entry["round"] % every == 0:
            accuracy = entry["accuracy"]
            right = "" if math.isnan(accuracy) else f"  accuracy {100 * accuracy:.1f} %"
            valid = f"  validation {entry['valid_loss']:.4f}" if "valid_loss" in entry else ""
            notes(
                f"round {entry['round']}/{rounds}  held-out loss {entry['loss']:.4f}{right}{valid}  "
                f"changed {100 * entry['changed']:.1f} %  moved {entry['moved']:.2g}"
            )

    return show


def _print(found: Refined, directory: Path, weights: Path | None) -> None:
    print(f"stopped: {found.stopped}; the parameters are those of round {found.best_round}")
    changed, total = _changed(found)
    print(f"changed: {changed} of {total} parameters ({100 * changed / total:.1f} %)")
    if found.scores:
        for name in found.scores["before"]:
            before, after = (found.scores[when][name] for when in ("before", "after"))
            if name == "accuracy":
                print(f"test accuracy: {100 * before:.1f} % before, {100 * after:.1f} % after")
            else:
                print(f"test {name}: {before:.4f} before, {after:.4f} after")
    print(f"model: {directory}")
    if weights is not None:
        print(f"weights: {weights}")


def _changed(found: Refined) -> tuple[int, int]:
    return (
        sum(int(value.sum()) for value in found.mask.values()),
        sum(value.numel() for value in found.mask.values()),
    )


def _summary(
    found: Refined, directory: Path, weights: Path | None, rows: Divided, start: _Start
) -> dict[str, Any]:
    changed, total = _changed(found)
    return {
        "out": str(directory),
        "weights": None if weights is None else str(weights),
        "best_round": found.best_round,
        "stopped": found.stopped,
        "changed": changed / total,
        "n_rows": len(rows.rows.y),
        "n_test": 0 if rows.test is None else len(rows.test.y),
        "before": found.scores.get("before"),
        "after": found.scores.get("after"),
        "log": found.log,
        "remarks": [start.about, *rows.notes],
    }


def _fingerprint(path: Path) -> dict[str, Any]:
    from ..storage.manifest import sha256

    return {"name": str(path), "sha256": sha256(path.read_bytes()) if path.is_file() else None}
