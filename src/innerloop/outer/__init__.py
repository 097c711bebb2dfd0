"""The outer loop: how the gradient comes back, what moves the meta-parameters, and the training that repeats it."""

from . import optimizers, schedules
from .evolution import evolution
from .implicit import implicit
from .metagrad import annealed, checkpointed, displacement, multi_step, truncated, unrolled
from .open_loop import MetaStep, meta_step
from .state import TrainingState
from .training import Every, Run, meta_train

__all__ = [
    "Every",
    "MetaStep",
    "Run",
    "TrainingState",
    "annealed",
    "checkpointed",
    "displacement",
    "evolution",
    "implicit",
    "meta_step",
    "meta_train",
    "multi_step",
    "optimizers",
    "schedules",
    "truncated",
    "unrolled",
]
