"""What a model directory says, checked before anything is built from it.

A model directory may come from anyone. Its configuration names parts of this package from closed registries,
with settings of the types that these declare. Functions here raise `ValueError` for what is wrong, and
`blaming` turns it into a `ModelFileError` that says where.
"""

from __future__ import annotations

import inspect
import json
import typing
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypedDict

import torch

from ..algorithms import ALGORITHMS
from ..algorithms.combination import COMBINATION
from ..algorithms.registry import require_registered
from ..errors import ModelFileError
from ..evaluation.mixed_model import MixedSummary, TargetSummary
from ..evaluation.scores import ScoreRow
from ..models.builtin import MODELS
from ..models.losses import LOSSES
from ..models.network import Params
from ..tasks.sources import SupportSize, Targets
from .manifest import CARD, EXTRA_FILES, MODEL_FILES, Sealed, check_version
from .plain_json import DAMAGED, JsonObject, parse_json
from .plain_types import fits, require, require_fields

if TYPE_CHECKING:
    from ..tasks.inputs import InputSchema
    from ..tasks.tables.schema import Schema

__all__ = [
    "KINDS",
    "ClassEntry",
    "Config",
    "TaskEntry",
    "blaming",
    "inputs_of",
    "mixed_of",
    "outputs_of",
    "read_config",
    "read_log",
    "read_tensors",
    "require_config",
    "require_recipe",
    "schema_of",
    "support_of",
    "targets_of",
]

KINDS = ("run", "adapted", "refined")

# fields that older directories lack, and what that means
_LATER: JsonObject = {"mixed": None, "salt": None, "alike": None, "inputs": None, "enrolled": None}
_MOST_TARGETS = 1 << 10  # each has parameters of its own
_RECIPE_LIMIT = 1 << 16  # a list of a million layers would be built before its tensors were missed
_LARGEST = (
    1 << 31
)  # of a setting: squares of larger ones leave the range of float32, and torch takes none of them


class TaskEntry(TypedDict):
    """A task of an adapted directory, or that a run knows; `base` where it owns no values and the base predicts."""

    id: str
    n_support: int | None
    base: bool


class ClassEntry(TypedDict):
    """A class that was enrolled, by its name, and the rows it was given by."""

    id: str
    n_support: int


class Config(TypedDict):
    """What `config.json` holds; a file has these fields, no others, of these types."""

    schema_version: int
    kind: str
    learner: JsonObject
    frozen: str | None
    schema: JsonObject | None
    splits: dict[str, list[str]] | None
    salt: str | None
    alike: list[str] | None
    support: dict[str, str | bool] | None
    targets: JsonObject | None
    settings: JsonObject
    data: JsonObject | None
    scores: list[JsonObject] | None
    best_step: int | None
    parent: str | None
    mixed: JsonObject | None
    tasks: list[TaskEntry] | None
    inputs: JsonObject | None
    enrolled: list[ClassEntry] | None
    versions: dict[str, str]


@contextmanager
def blaming(sealed: Sealed, name: str) -> Iterator[None]:
    """Whatever a hostile file provokes, as one error that names the file."""
    try:
        yield
    except Exception as error:  # values from outside can make any part of torch or of this package fail
        what = (str(error) or type(error).__name__).splitlines()[0]
        raise ModelFileError(f"{sealed.folder / name}: {what}; {DAMAGED}") from None


def read_config(sealed: Sealed) -> Config:
    """The configuration of a model directory."""
    names, where = set(sealed.contents), str(sealed.folder / "config.json")
    with blaming(sealed, "manifest.json"):
        require(
            names - EXTRA_FILES - {CARD} == MODEL_FILES,
            f"it names {sorted(names)}, not {sorted(MODEL_FILES)}",
        )
    config = parse_json(sealed.contents["config.json"], where)
    check_version(config.get("schema_version") if isinstance(config, dict) else None, where)
    recipe = config.get("learner")
    for part in _parts(recipe):
        if "defined_in" in part and isinstance(part.get("algorithm"), str):
            require_registered(part)
    with blaming(sealed, "config.json"):
        return require_config({**config, **(_LATER | config)} if isinstance(config, dict) else config)


def read_log(sealed: Sealed) -> list[JsonObject]:
    """The entries of the log."""
    lines, where = sealed.contents["log.jsonl"].splitlines(), sealed.folder / "log.jsonl"
    entries = [parse_json(line, f"{where}, line {number}") for number, line in enumerate(lines, 1)]
    with blaming(sealed, "log.jsonl"):
        require(all(isinstance(entry, dict) for entry in entries), "a line is no JSON object")
    return entries


def read_tensors(sealed: Sealed) -> Params:
    """Every tensor of the directory."""
    import safetensors.torch

    with blaming(sealed, "model.safetensors"):
        tensors: Params = safetensors.torch.load(sealed.contents["model.safetensors"])
        for name, value in tensors.items():
            require(bool(torch.isfinite(value).all()), f"{name!r} holds NaN or infinity")
    return tensors


def require_config(value: object) -> Config:
    """The configuration that a value is; refuse one that `load` could not use."""
    require_fields(value, typing.get_type_hints(Config), "the configuration")
    config = typing.cast(Config, value)
    require(config["kind"] in KINDS, f"kind {config['kind']!r} is unknown")
    held = config["tasks"] is not None
    require(
        config["kind"] == "run" or held == (config["kind"] == "adapted"), "tasks do not go with this kind"
    )
    hints = typing.get_type_hints(TaskEntry)
    for task in config["tasks"] or []:
        require_fields(task, hints, "a task")
    ids = [task["id"] for task in config["tasks"] or []]
    require(len(set(ids)) == len(ids), "a task stands twice")
    _require_classes(config)
    require(
        all((task["n_support"] or 0) >= 0 for task in config["tasks"] or []), "a task has less than 0 rows"
    )
    settings = config["settings"]
    percentile = settings.get("support_loss_percentile", {})
    require(fits(percentile, dict[str, float]), "support_loss_percentile is no table of numbers")
    labels = settings.get("labels") if config["kind"] == "adapted" else None
    require(fits(labels, dict[str, list[str]] | None), "labels are no lists of classes")
    data = config["data"] or {}
    require(all(fits(data.get(key), str | None) for key in ("name", "sha256")), "data has no name and sha256")
    for row in config["scores"] or []:
        _require_score(row)
    support_of(config)
    targets_of(config)
    mixed_of(config)
    require_recipe(config["learner"])
    return config


def _require_classes(config: Config) -> None:
    """Different names in order, and rows of each."""
    entries = config["enrolled"]
    if entries is None:
        return
    require(config["kind"] == "adapted", "classes do not go with this kind")
    for entry in entries:
        require_fields(entry, typing.get_type_hints(ClassEntry), "a class")
    names = [entry["id"] for entry in entries]
    require(names == sorted(set(names)), "the names of the classes do not ascend")
    require(len(names) >= 2 and all(entry["n_support"] > 0 for entry in entries), "a class has no row")


def _require_score(row: JsonObject) -> None:
    """What is there of a score has its type; the headline, which is shown, is whole."""
    hints = typing.get_type_hints(ScoreRow) | {"mean": float | None, "ci95": list[float | None]}
    hints = hints if row.get("headline") else {key: hint for key, hint in hints.items() if key in row}
    require_fields({key: row[key] for key in hints if key in row}, hints, "a score")
    require(len(row.get("ci95", (0, 0))) == 2, "the interval of a score has no two ends")


def _parts(recipe: object) -> Iterator[JsonObject]:
    """The recipe, or those of the members of a combination."""
    if isinstance(recipe, dict):
        members = recipe.get("members")
        yield from (
            [part for part in members if isinstance(part, dict)] if isinstance(members, list) else [recipe]
        )


def require_recipe(recipe: JsonObject) -> None:
    """Only names from the registries, only settings of the types that these declare."""
    require(len(json.dumps(recipe)) <= _RECIPE_LIMIT, "the learner has more settings than any algorithm")
    most = max(map(abs, _numbers(recipe)), default=0)
    require(most <= _LARGEST, f"a setting of the learner is {most!r:.40}, and none is above {_LARGEST}")
    if "members" in recipe:
        _require_combination(recipe)
        return
    parts = {"algorithm", "settings", *({"model", "per_target", "per_task", "defined_in"} & set(recipe))}
    require(set(recipe) == parts, f"the learner has the parts {sorted(recipe)}, not {sorted(parts)}")
    require(isinstance(recipe.get("defined_in", ""), str), "the module of the algorithm is no name")
    _require_settings("algorithm", recipe["algorithm"], recipe["settings"], ALGORITHMS)
    if "per_target" in recipe:
        count = recipe["per_target"]
        require(
            type(count) is int and 0 < count <= _MOST_TARGETS, "the learner has no such number of targets"
        )
    if "per_task" in recipe:
        hints = {"features": list[bool], "n_targets": int, "n_classes": int}
        require_fields(recipe["per_task"], hints, "what is taken from each support")
        small = all(0 <= recipe["per_task"][name] <= _RECIPE_LIMIT for name in ("n_targets", "n_classes"))
        require(small, "what is taken from each support has no such size")
    model = recipe.get("model", "external")
    if model != "external":
        named = isinstance(model, dict) and set(model) == {"name", "settings"}
        require(named, "the model has no name and settings")
        _require_settings("model", model["name"], model["settings"], MODELS)


def _numbers(value: object) -> Iterator[float]:
    """Every number in plain data."""
    if isinstance(value, int | float):
        yield value
    elif isinstance(value, dict | list | tuple):
        for entry in value.values() if isinstance(value, dict) else value:
            yield from _numbers(entry)


def _require_combination(recipe: JsonObject) -> None:
    """Sizes and kind, and members that are no combinations themselves."""
    require(
        set(recipe) == {"algorithm", "settings", "members"}, "a combination has a part it knows nothing of"
    )
    require(recipe["algorithm"] == COMBINATION, f"{recipe['algorithm']!r} has no members")
    hints = {"sizes": list[float], "kind": str, "n_outputs": int}
    require_fields(recipe["settings"], hints, "the combination")
    settings, members = recipe["settings"], recipe["members"]
    require(isinstance(members, list) and len(members) > 0, "the combination has no members")
    sizes = settings["sizes"]
    require(
        0 < len(sizes) <= 64 and sizes == sorted(set(sizes)), "the sizes of the combination do not ascend"
    )
    require(0 < settings["n_outputs"] <= _RECIPE_LIMIT, "the combination has no such number of outputs")
    for member in members:
        require(
            isinstance(member, dict) and "members" not in member, "a member of the combination is no learner"
        )
        require(member.get("model") != "external", "a member of the combination is not of this package")
        require_recipe(member)


def _require_settings(
    word: str, name: Any, settings: Any, registry: Mapping[str, Callable[..., object]]
) -> None:
    known = isinstance(name, str) and name in registry
    require(known, f"{word} {name!r} is unknown: there are {', '.join(registry)}")
    require(isinstance(settings, dict), f"{word} {name!r} has no settings")
    loss = settings.get("loss", "external")
    require(loss in ("external", *LOSSES), f"loss {loss!r} is unknown: there are {', '.join(LOSSES)}")
    hints = dict.fromkeys(inspect.signature(registry[name]).parameters, Any)
    hints |= typing.get_type_hints(registry[name])
    for key in settings:
        require(key in hints, f"{word} {name!r} has no setting {key!r}")
    require_fields(settings, {key: hints[key] for key in settings}, f"{word} {name!r}")


def support_of(config: Config) -> SupportSize | None:
    """How many rows formed a support set, and which."""
    if (stored := config["support"]) is None:
        return None
    stored = {"choice": "random", **stored}
    require_fields(stored, {"rows": str, "per_class": bool, "choice": str}, "support")
    rows = stored["rows"]
    n_support, n_shot = (None, rows) if stored["per_class"] else (rows, None)
    return SupportSize.parse(n_support, n_shot, str(stored["choice"]))


def targets_of(config: Config) -> Targets | None:
    """What the targets are."""
    if (stored := config["targets"]) is None:
        return None
    stored = {"partial": False, **stored}
    require_fields(stored, typing.get_type_hints(Targets), "targets")
    targets = Targets(**{**stored, "scale": tuple(stored["scale"]), "variance": tuple(stored["variance"])})
    require(
        targets.kind in ("regression", "classification"),
        f"targets of the kind {targets.kind!r:.40} are unknown",
    )
    sizes = 0 < targets.n_outputs <= _RECIPE_LIMIT and all(size > 0 for size in targets.scale)
    require(sizes and all(size >= 0 for size in targets.variance), "the targets have no such number or scale")
    return targets


def mixed_of(config: Config) -> MixedSummary | None:
    """The statistician's numbers of a linear mixed model."""
    if (stored := config["mixed"]) is None:
        return None
    hints = typing.get_type_hints(MixedSummary) | {"targets": list[JsonObject]}
    require_fields(stored, hints, "the mixed model")
    for each in stored["targets"]:
        require_fields(each, typing.get_type_hints(TargetSummary), "a target of the mixed model")
    summary = MixedSummary.of(stored)
    terms, effects = len(summary.terms), len(summary.random)
    for each in summary.targets:
        sizes = (
            len(each.estimates),
            len(each.standard_errors),
            len(each.covariance),
            *map(len, each.covariance),
        )
        require(
            sizes == (terms, terms, *(effects,) * (effects + 1)),
            "the mixed model has other sizes than its terms",
        )
    return summary


def schema_of(config: Config) -> Schema | None:
    """What the columns of the table mean."""
    if config["schema"] is None:
        return None
    from ..tasks.tables.schema import Schema
    from ..tasks.tables.sense import require_sense

    schema = Schema.from_config(config["schema"])
    require(fits(schema, Schema), "the schema holds a value of another type than its columns have")
    require_sense(schema)
    return schema


def inputs_of(config: Config) -> InputSchema | None:
    """What a row of pictures or arrays is."""
    from ..tasks.inputs import InputSchema

    return None if config["inputs"] is None else InputSchema.from_config(config["inputs"])


def outputs_of(config: Config, schema: Schema | None) -> tuple[str, int] | None:
    """The kind and number of targets or classes; `None` where it is not known."""
    targets = schema or targets_of(config)
    return None if targets is None else (targets.kind, targets.n_outputs)
