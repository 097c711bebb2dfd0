"""Any module as a function of its parameters, and the built-in models."""

from .builtin import BodyHead, Contextual, Polynomial, Sine, build, conv4, mlp, recipe_of
from .losses import Loss, task_losses
from .network import Features, Network, Params

__all__ = [
    "BodyHead",
    "Contextual",
    "Features",
    "Loss",
    "Network",
    "Params",
    "Polynomial",
    "Sine",
    "build",
    "conv4",
    "mlp",
    "recipe_of",
    "task_losses",
]
