"""Model directories: weights, settings and a manifest, written and read without running code from them."""

from .load import Stored, describe, load
from .save import save, save_adapted

__all__ = ["Stored", "describe", "load", "save", "save_adapted"]
