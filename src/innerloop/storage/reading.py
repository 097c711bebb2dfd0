"""What a model directory holds, read and checked: the fields of `Facts`. Nothing in it can run code.

What is read may come from anyone: `manifest` verifies the files, `validation` what they say, and a learner is
built only where its tensors are what it expects.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import nn

from ..algorithms import build
from ..engine.devices import resolve_device
from ..errors import UsageError
from ..inner.batched import predict_adapted
from ..inner.inner_loss import InnerLossLike
from ..inner.learner import Learner
from ..inner.model import Adapted, Model
from ..models.losses import Loss
from ..models.network import Params, reference
from ..tasks.sources import Targets
from ..tasks.tables.schema import Schema
from .calibrations import CALIBRATION, FIT, calibration_of, fit_of
from .enrolled import ENROLLED, Enrolled, enrolled_of
from .facts import Facts
from .manifest import EXTRA_FILES, Sealed, read_sealed
from .plain_types import require
from .task_values import MASK, TASKS, unpacked
from .tensors import differences, frozen, outline, precision
from .validation import (
    Config,
    TaskEntry,
    blaming,
    inputs_of,
    outputs_of,
    read_config,
    read_log,
    read_tensors,
    schema_of,
    targets_of,
)

if TYPE_CHECKING:
    from ..tasks.inputs import InputSchema

__all__ = ["read"]

Of = TypeVar("Of", bound=Facts)


def read(
    of: type[Of],
    directory: str | Path,
    /,
    *,
    module: nn.Module | None = None,
    loss: Loss | None = None,
    inner_loss: InnerLossLike | None = None,
    device: torch.device | str = "cpu",
) -> Of:
    """Read a model directory of any kind into an object; arguments and errors are those of `load`.

    Example:
        >>> read(Facts, "no/such/place")
        Traceback (most recent call last):
        innerloop.errors.ModelFileError: no/such/place: there is no such folder: give a folder that ...
    """
    sealed = read_sealed(Path(directory))
    config, log, tensors = read_config(sealed), read_log(sealed), read_tensors(sealed)
    others = (TASKS, MASK, CALIBRATION, ENROLLED, FIT)
    meta = {name: value for name, value in tensors.items() if not name.startswith(others)}
    own, mask = (
        {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
        for prefix in (TASKS, MASK)
    )
    learner = _learner(sealed, config, meta, module, loss, inner_loss)
    # the order of names in the file is arbitrary, and sums over parameters follow it
    meta = {name: meta[name] for name in learner.init()}
    with blaming(sealed, "config.json"):
        schema, inputs = schema_of(config), inputs_of(config)
    try:
        # rows that a model was refined on keep their scale, unless they were asked to be standardised
        standardised = schema is not None and schema.task is not None and config["kind"] != "refined"
        model = Model(learner, meta, standardised).to(device)
    except (RuntimeError, AssertionError):
        resolve_device(str(device))  # says what is wrong with it
        raise
    with blaming(sealed, "model.safetensors"):
        tasks = _tasks(model, config["tasks"] or [], own)
        for name, value in mask.items():
            fits = name in meta and value.dtype == torch.bool and value.shape == meta[name].shape
            require(fits, f"the mask of {name!r} is not that of a parameter")
        calibration = calibration_of(tensors, outputs_of(config, schema))
        fit = fit_of(tensors)
        enrolled = _enrolled(model, config, tensors, schema, inputs)
    with blaming(sealed, "config.json"):
        _require_same_sizes(model, schema, targets_of(config))
    extra = {name: data for name, data in sealed.contents.items() if name in EXTRA_FILES}
    return of(
        model,
        config,
        sealed.folder,
        sealed.sha256,
        log,
        schema,
        tasks,
        mask,
        extra,
        calibration,
        inputs,
        enrolled,
        fit,
    )


def _enrolled(
    model: Model, config: Config, tensors: Params, schema: Schema | None, inputs: InputSchema | None
) -> Enrolled | None:
    """The classes that the model was adapted to."""
    entries, targets = config["enrolled"], targets_of(config)
    if entries is None:
        odd = sorted(name for name in tensors if name.startswith(ENROLLED))
        require(not odd, f"{odd} are of classes, and there are none")
        return None
    shape = inputs.shape if inputs is not None else (schema.n_features,) if schema is not None else ()
    require(bool(shape) and targets is not None, "there are classes of rows of which nothing is said")
    outputs = 0 if targets is None else targets.n_outputs
    return enrolled_of(model, entries, tensors, shape=shape, n_outputs=outputs)


def _require_same_sizes(model: Model, schema: Schema | None, targets: Targets | None) -> None:
    """Refuse columns and targets that are not the inputs and outputs of the model, by predicting a row."""
    if schema is None:
        return
    require(targets is None or targets.kind == schema.kind, "the targets are not of the kind of the table")
    row = torch.zeros(1, schema.n_features, device=reference(model.meta).device)
    width = predict_adapted([model.base()], [row])[0].shape[-1]
    # a table without a task column has classes that training drew from
    fits = width == schema.n_outputs or (schema.task is None and schema.n_outputs == 0)
    require(fits, f"the model has {width} outputs, the table {schema.n_outputs} targets or classes")
    same = targets is None or targets.n_outputs == width
    require(same, f"the model has {width} outputs, and not as many as there are targets")


def _learner(
    sealed: Sealed,
    config: Config,
    meta: Params,
    module: nn.Module | None,
    loss: Loss | None,
    inner_loss: InnerLossLike | None,
) -> Learner:
    """The learner of a configuration, built only once its tensors are known to be those in the file."""
    recipe, kind = config["learner"], precision(meta)
    _require_given("module", "module", recipe.get("model"), module)
    _require_given("loss", "loss function", recipe["settings"].get("loss"), loss)
    _require_given("inner_loss", "inner loss", recipe["settings"].get("inner_loss"), inner_loss)
    if module is None:
        with blaming(sealed, "model.safetensors"), torch.device("meta"):
            wrong = differences(
                outline(meta), outline(build(recipe, loss=loss, inner_loss=inner_loss).init(), kind)
            )
            require(not wrong, wrong)
        with blaming(sealed, "config.json"), torch.random.fork_rng(devices=[]):
            return build(recipe, loss=loss, inner_loss=inner_loss)
    learner = build(recipe, module=module, loss=loss, inner_loss=inner_loss)
    if wrong := differences(outline(learner.init(), kind), outline(meta)):
        raise UsageError(f"module= is not the one {sealed.folder} was trained with: {wrong}")
    if config["frozen"] != frozen(learner):
        raise UsageError(
            f"module= has other frozen parameters or buffers than {sealed.folder} was trained with: "
            "load their values into the module before passing it"
        )
    return learner


def _require_given(name: str, what: str, stored: object, given: object) -> None:
    """An external part must be passed, and nothing else may be."""
    if stored == "external" and given is None:
        raise UsageError(f"this model was trained with a {what} of your own: pass it as {name}=")
    if stored != "external" and given is not None:
        raise UsageError(f"this model directory names its {what} itself: leave {name}= out")


def _tasks(model: Model, entries: list[TaskEntry], stacks: Params) -> dict[str, Adapted]:
    """What each task predicts with; values are in the order of the tasks that own something."""
    owners = [entry["id"] for entry in entries if not entry["base"]]
    own = dict(zip(owners, unpacked(model, stacks, len(owners)), strict=True))
    return {entry["id"]: Adapted(model, own.get(entry["id"], {})) for entry in entries}
