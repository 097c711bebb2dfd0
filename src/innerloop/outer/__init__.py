"""The outer loop: how the gradient comes back, and the training that repeats it."""

from .implicit import implicit
from .metagrad import annealed, checkpointed, displacement, multi_step, unrolled
from .training import Run, meta_train

__all__ = [
    "Run",
    "annealed",
    "checkpointed",
    "displacement",
    "implicit",
    "meta_train",
    "multi_step",
    "unrolled",
]
