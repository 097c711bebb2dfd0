"""The features that a model has learned: what its last hidden layer makes of a row."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from ..errors import UsageError
from ..inner.gradient import GradientLearner
from ..inner.head import HeadLearner
from ..inner.model import Model, require_model
from ..inner.plain import PlainLearner
from ..inner.statistics import query_outputs
from ..models.network import Features

__all__ = ["features"]


def features(model: Model, x: Features) -> Tensor:
    """Learned features of rows, by the parameters that all tasks share, before any adaptation.

    Arguments:
        model: a closed-form head on a network, whose features are what the network puts out; or what adapts a network
            by gradients, whose features go into its last layer with parameters.
        x: rows `(n, *feature)`, encoded and scaled as in training.

    Returns:
        Features `(n, F)`.

    Raises:
        UsageError: the model has no network, or none of these two.

    Example:
        >>> import innerloop as il
        >>> learner = il.maml(il.models.mlp(2, [8, 5], 1), loss="mse")
        >>> features(il.Model(learner, learner.init()), torch.zeros(3, 2)).shape
        torch.Size([3, 5])
    """
    require_model(model)
    learner = model.learner
    network = copy.copy(learner.network)
    layers = [
        layer for layer in network.module.modules() if next(layer.parameters(recurse=False), None) is not None
    ]
    known = isinstance(learner, HeadLearner | GradientLearner | PlainLearner)
    if not known or not layers or (len(layers) < 2 and not isinstance(learner, HeadLearner)):
        name = (learner.recipe or {}).get("algorithm", type(learner).__name__)
        raise UsageError(
            f"{name} has no hidden layer to take features from: choose ridge, gaussian, protonet or maml"
        )
    # vmap hides values from hooks, the loop over tasks does not
    network.mapping = "loop"
    seen: list[Tensor] = []

    def look(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        seen.append(inputs[0])

    with torch.no_grad():
        own, stacked = model.base()._prepared(x)
        with layers[-1].register_forward_pre_hook(look):
            outputs = query_outputs(network, model.meta, own, stacked)
    found = outputs[0] if isinstance(learner, HeadLearner) else seen[-1]
    return found.flatten(1)
