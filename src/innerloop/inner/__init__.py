"""The inner loop: what adapts to a task, and how."""

from .inner_loss import InnerLoss, learned_loss, on_support
from .learner import Learner, MetaGradient, Step
from .model import Adapted, Model
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
    "InnerLoss",
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
    "learned_loss",
    "masked",
    "on_support",
    "proximal",
    "rmsprop",
    "sgd",
    "straight_through",
]
