"""Reading a model directory. Nothing in it can run code.

What is read may come from anyone: `sealed` verifies the files, `untrusted` what they say, and a learner is
built only where its tensors are what it expects.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from ..algorithms import build
from ..errors import UsageError
from ..inner.learner import Adapted, Learner, Model
from ..models.losses import Loss
from ..models.network import Params
from ..tasks.sources import SupportSize, Targets
from .manifest import Sealed, read_sealed, sha256
from .validation import (
    blaming,
    read_config,
    read_log,
    read_tensors,
    require,
    schema_of,
    support_of,
    targets_of,
)

if TYPE_CHECKING:
    from ..tasks.tables.schema import Schema

TASKS = "tasks/"  # before the names of what tasks own; parameters of modules have no slash so early
MASK = "mask/"  # before the names of parameters that refinement may have changed
_SHOWN = ("kind", "targets", "settings", "data", "versions", "best_step", "scores", "parent", "tasks")
_FLOATS = {torch.float16, torch.bfloat16, torch.float32, torch.float64}


@dataclass(frozen=True, eq=False)
class Stored:
    """What a model directory holds.

    Arguments:
        model: the learner with its meta-parameters.
        config: everything in `config.json`.
        path: the directory.
        sha256: names the directory's content.
        log: one dict a logged step.
        schema: what the columns of the table mean; `None` where there was no table.
        tasks: of an adapted directory, what each task predicts with.
        mask: of a refined directory, true where a parameter was changed, by name.
    """

    model: Model
    config: dict[str, Any] = field(repr=False)
    path: Path
    sha256: str
    log: list[dict[str, Any]] = field(repr=False)
    schema: Schema | None = field(repr=False)
    tasks: dict[str, Adapted] = field(repr=False)
    mask: Params = field(repr=False, default_factory=dict)

    @property
    def kind(self) -> str:
        """`run`, `adapted` or `refined`."""
        return str(self.config["kind"])

    @property
    def support(self) -> SupportSize | None:
        """How many rows formed a support set in training."""
        return support_of(self.config)

    @property
    def targets(self) -> Targets | None:
        """What the targets are."""
        return targets_of(self.config)


def load(
    directory: str | Path,
    *,
    module: nn.Module | None = None,
    loss: Loss | None = None,
    device: torch.device | str = "cpu",
) -> Stored:
    """Read a model directory of any kind; nothing in it can run code.

    Arguments:
        directory: what `innerloop train --out` or `save` wrote.
        module: the module, where the model was trained with one of your own.
        loss: the loss function, where the model was trained with one of your own.
        device: where the model goes.

    Returns:
        The model, and everything stored with it.

    Raises:
        ModelFileError: it is no model directory, or a damaged one, or made by a newer version.
        UsageError: `module` or `loss` is needed, or does not fit, or there is no such device.
        ResourceError: it cannot be read.

    Example:
        >>> load("no/such/place")
        Traceback (most recent call last):
        innerloop.errors.ModelFileError: no/such/place: there is no such folder: give a folder that ...
    """
    sealed = read_sealed(Path(directory))
    config, log, tensors = read_config(sealed), read_log(sealed), read_tensors(sealed)
    meta = {name: value for name, value in tensors.items() if not name.startswith((TASKS, MASK))}
    own, mask = (
        {name.removeprefix(start): value for name, value in tensors.items() if name.startswith(start)}
        for start in (TASKS, MASK)
    )
    learner = _learner(sealed, config, meta, module, loss)
    # the order of names in the file is arbitrary, and sums over parameters follow it
    meta = {name: meta[name] for name in learner.init()}
    with blaming(sealed, "config.json"):
        schema = schema_of(config)
    try:
        model = Model(learner, meta).to(device)
    except (RuntimeError, AssertionError) as error:
        raise UsageError(f"device={str(device)!r} cannot be used: {str(error).splitlines()[0]}") from None
    with blaming(sealed, "model.safetensors"):
        tasks = _tasks(model, config["tasks"], own)
        for name, value in mask.items():
            fits = name in meta and value.dtype == torch.bool and value.shape == meta[name].shape
            require(fits, f"the mask of {name!r} is not that of a parameter")
    return Stored(model, config, sealed.folder, sealed.sha256, log, schema, tasks, mask)


def describe(stored: Stored) -> dict[str, Any]:
    """What `innerloop inspect` prints, as plain data; what is not known is `None`.

    Example:
        >>> import tempfile
        >>> from innerloop.algorithms import mixed
        >>> from innerloop.storage.save import save
        >>> learner = mixed(2)
        >>> found = describe(load(save(Path(tempfile.mkdtemp()) / "run", Model(learner, learner.init()))))
        >>> found["algorithm"], found["parameters"]
        ('mixed', 13)
    """
    config, schema = stored.config, stored.config["schema"] or {}
    splits, support = config["splits"], config["support"]
    targets = [column.name for column in stored.schema.target_columns] if stored.schema else []
    return {
        "path": str(stored.path),
        "sha256": stored.sha256,
        "algorithm": config["learner"]["algorithm"],
        "algorithm_settings": config["learner"]["settings"],
        "model": config["learner"].get("model"),
        "parameters": sum(value.numel() for value in stored.model.meta.values()),
        "precision": str(kind).removeprefix("torch.") if (kind := precision(stored.model.meta)) else None,
        "task": schema.get("task"),
        "target": targets if len(targets) > 1 else next(iter(targets), None),
        "columns": [column["name"] for column in schema["columns"]] if schema else None,
        "classes": schema.get("classes"),
        "tasks_per_split": splits and {name: len(ids) for name, ids in splits.items()},
        "support": support and {("n_shot" if support["per_class"] else "n_support"): support["rows"]},
        "steps": stored.log[-1].get("step") if stored.log else None,
        **{name: config[name] for name in _SHOWN},
    }


Outline = dict[str, tuple[tuple[int, ...], torch.dtype]]


def outline(values: Params, dtype: torch.dtype | None = None) -> Outline:
    """Shape and type of each tensor; floating ones of type `dtype` if that is given."""
    return {
        name: (tuple(value.shape), dtype if dtype and value.is_floating_point() else value.dtype)
        for name, value in values.items()
    }


def precision(values: Params) -> torch.dtype | None:
    """The floating type of all tensors; `None` where they have several, none, or one that cannot compute."""
    found = {value.dtype for value in values.values() if value.is_floating_point()}
    return found.pop() if len(found) == 1 and found <= _FLOATS else None


def differences(found: Outline, expected: Outline) -> str:
    """The first five differences in words; empty where there is none."""
    words = [f"{name!r} is missing" for name in sorted(expected.keys() - found.keys())]
    words += [f"{name!r} is not of this learner" for name in sorted(found.keys() - expected.keys())]
    for name, (shape, dtype) in expected.items():
        if name in found and found[name] != (shape, dtype):
            words.append(f"{name!r} is {found[name][1]} {list(found[name][0])}, not {dtype} {list(shape)}")
    return ", ".join(words[:5]) + (f" and {len(words) - 5} more" if len(words) > 5 else "")


def frozen(learner: Learner) -> str | None:
    """The sha256 of what a module of the user's own holds besides its trainable parameters."""
    if (learner.recipe or {}).get("model") != "external":
        return None
    parts = [b""]
    for name, value in sorted(learner.network.constants.items()):
        exact = value.double() if value.is_floating_point() else value
        parts += [f"{name} {tuple(value.shape)} ".encode(), exact.cpu().contiguous().numpy().tobytes()]
    return sha256(b"".join(parts))


def _learner(
    sealed: Sealed, config: dict[str, Any], meta: Params, module: nn.Module | None, loss: Loss | None
) -> Learner:
    """The learner of a configuration, built only once its tensors are known to be those in the file."""
    recipe, kind = config["learner"], precision(meta)
    _require_given("module", "module", recipe.get("model"), module)
    _require_given("loss", "loss function", recipe["settings"].get("loss"), loss)
    if module is None:
        with blaming(sealed, "model.safetensors"), torch.device("meta"):
            found = differences(outline(meta), outline(build(recipe, loss=loss).init(), kind))
            require(not found, found)
        with blaming(sealed, "config.json"), torch.random.fork_rng(devices=[]):
            return build(recipe, loss=loss)
    learner = build(recipe, module=module, loss=loss)
    if found := differences(outline(learner.init(), kind), outline(meta)):
        raise UsageError(f"module= is not the one {sealed.folder} was trained with: {found}")
    if config["frozen"] != frozen(learner):
        raise UsageError(
            f"module= has other frozen parameters or buffers than {sealed.folder} was trained with: "
            "load their values into the module before passing it"
        )
    return learner


def _require_given(name: str, what: str, stored: Any, given: Any) -> None:
    """An external part must be passed, and nothing else may be."""
    if stored == "external" and given is None:
        raise UsageError(f"this model was trained with a {what} of your own: pass it as {name}=")
    if stored != "external" and given is not None:
        raise UsageError(f"this model directory names its {what} itself: leave {name}= out")


def _tasks(model: Model, entries: list[dict[str, Any]] | None, stacks: Params) -> dict[str, Adapted]:
    """What each task predicts with; row `i` of a stack is that of the `i`-th task that owns something."""
    rows = [entry["id"] for entry in entries or [] if not entry["base"]]
    expected = outline(model.learner.own_like(model.meta)) if rows else {}
    stacked = {name: ((len(rows), *shape[1:]), dtype) for name, (shape, dtype) in expected.items()}
    found = differences(outline(stacks), stacked)
    require(not found, f"values of tasks: {found}")
    place = next(iter(model.meta.values())).device
    stacks = {name: stacks[name].to(place) for name in stacked}
    own = {
        task: {name: value[row : row + 1] for name, value in stacks.items()} for row, task in enumerate(rows)
    }
    return {entry["id"]: Adapted(model, own.get(entry["id"], {})) for entry in entries or []}
