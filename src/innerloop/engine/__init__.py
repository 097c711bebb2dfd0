"""The engine: a meta-step in the fastest way that gives the same answer."""

from .gears import GEARS, Fast, Report, fast
from .timing import Timing, benchmark

__all__ = ["GEARS", "Fast", "Report", "Timing", "benchmark", "fast"]
