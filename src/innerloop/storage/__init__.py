"""Model directories: weights, settings and a manifest, written and read without running code from them."""

from .checkpoints import Checkpoints
from .describing import describe
from .load import load
from .save import save
from .stored import Stored

__all__ = ["Checkpoints", "Stored", "describe", "load", "save"]
