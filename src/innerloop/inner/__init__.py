"""The inner loop: what adapts to a task, and how."""

from .learner import Adapted, Learner, MetaGradient, Model, Step
from .rules import (
    InnerRule,
    adam,
    adamw,
    clipped,
    curvature,
    detached,
    masked,
    proximal,
    rmsprop,
    sgd,
    straight_through,
)

__all__ = [
    "Adapted",
    "InnerRule",
    "Learner",
    "MetaGradient",
    "Model",
    "Step",
    "adam",
    "adamw",
    "clipped",
    "curvature",
    "detached",
    "masked",
    "proximal",
    "rmsprop",
    "sgd",
    "straight_through",
]
