"""The model that `innerloop refine` starts from: a model directory, or a state dict of a built-in architecture."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Group, Parameter

from ..errors import UsageError
from .options import Options, about

if TYPE_CHECKING:
    from torch import nn

    from ..inner.model import Model
    from ..models.network import Params
    from ..refining import Refined
    from ..refining.rows import Divided
    from ..storage import Stored

__all__ = ["ModelOptions", "TrainedModel", "opened"]


@Parameter(name="*", group=Group("Model", sort_key=2))
@dataclass(frozen=True, kw_only=True)
class ModelOptions(Options):
    """What a state dict does not say of its model."""

    architecture: Annotated[str | None, about("Of a state dict: mlp or conv4.")] = None
    activation: Annotated[str | None, about("Of an mlp: tanh, relu, silu, gelu, sigmoid, sine.")] = None
    output_activation: Annotated[str | None, about("On the outputs of an mlp, if there is one.")] = None


class TrainedModel:
    """A model to refine.

    Arguments:
        told: what was read, in words.
        shapes: its parameters, from the inputs to the outputs.
        stored: the model directory, where it is one.
    """

    def __init__(self, told: str, shapes: Params, stored: Stored | None = None) -> None:
        self.told, self.shapes, self.stored = told, shapes, stored

    def model(self, rows: Divided) -> Model | nn.Module:
        """What to refine."""
        assert self.stored is not None
        return self.stored.model

    def write_back(self, result: Refined, path: Path) -> None:
        """Write the refined weights under the names and types that the model came with."""
        from ..refining import state_dict
        from ..storage.state_dicts import write_state_dict

        write_state_dict(path, state_dict(result.model))


class _StateDict(TrainedModel):
    """Weights of a file in a built-in architecture."""

    def __init__(self, path: Path, options: ModelOptions) -> None:
        from ..models.builtin import recipe_of
        from ..storage.state_dicts import built, read_state_dict

        if options.architecture is None:
            raise UsageError(
                f"{path} is a state dict, which does not say its model: give --architecture mlp or conv4"
            )
        spelled = {"activation": options.activation, "output": options.output_activation}
        self.given: dict[str, Any] = {key: value for key, value in spelled.items() if value is not None}
        self.architecture, self.state = options.architecture, read_state_dict(path)
        self.trained = built(self.architecture, self.state, **self.given)
        shapes: Params = dict(self.trained.module.named_parameters())
        recipe = (recipe_of(self.trained.module) or {"settings": {}})["settings"]
        shown = ", ".join(f"{key} {value}" for key, value in recipe.items() if value not in (None, 0.0))
        count = sum(value.numel() for value in shapes.values())
        super().__init__(f"{path} is {self.architecture} ({shown}), {count} parameters", shapes)

    def model(self, rows: Divided) -> Model | nn.Module:
        """The module; a learner around it where the file holds BatchNorm statistics."""
        from ..algorithms import plain
        from ..inner.model import Model
        from ..models.losses import KNOWN
        from ..storage.state_dicts import built

        if self.architecture == "conv4":
            self.trained = built("conv4", self.state, size=int(rows.rows.x.shape[-1]), **self.given)
        if not self.trained.statistics:
            return self.trained.module
        values = KNOWN if rows.targets.partial else "mse"
        loss = values if rows.targets.kind == "regression" else "cross_entropy"
        learner = plain(self.trained.module, loss=loss)
        return Model(learner, {**learner.init(), **self.trained.statistics})

    def write_back(self, result: Refined, path: Path) -> None:
        """Write the refined weights under the names and types of the file."""
        from ..storage.state_dicts import write_state_dict

        write_state_dict(path, self.trained.give_back(result.model.meta))


def opened(path: Path, options: ModelOptions) -> TrainedModel:
    """The model of a directory, or of a state dict whose architecture the options tell."""
    from ..storage import load

    if not path.is_dir() and (options.architecture is not None or path.exists()):
        return _StateDict(path, options)
    stored = load(path)
    if "members" in stored.config["learner"]:
        raise UsageError(
            f"{path} holds a combination of several learners, and one is refined: train with --single or --algorithm"
        )
    if "per_target" in stored.config["learner"]:
        raise UsageError(
            f"{path} learns each of several targets by itself, and one network is refined: train with --algorithm "
            "maml, or name one target"
        )
    network = stored.model.learner.network
    if not network.params():
        raise UsageError(f"{path} holds no network, so there is nothing to refine")
    return TrainedModel(f"{path} is a model directory ({stored.kind})", network.params(), stored)
