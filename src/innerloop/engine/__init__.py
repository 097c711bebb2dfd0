"""The engine: a meta-step in the fastest way that gives the same answer."""

from .gears import GEARS, Fast, Report, fast

__all__ = ["GEARS", "Fast", "Report", "fast"]
