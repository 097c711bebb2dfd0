"""Model directories: weights, settings and a manifest, written and read without running code from them."""

from .describing import describe
from .load import load
from .save import save
from .stored import Stored

__all__ = ["Stored", "describe", "load", "save"]
