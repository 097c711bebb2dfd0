"""Tune the settings of an algorithm on meta-validation tasks; it needs the extra `tune`."""

from .space import Knob, Number, OneOf, knobs, named_algorithms
from .trials import Tuning, tune

__all__ = ["Knob", "Number", "OneOf", "Tuning", "knobs", "named_algorithms", "tune"]
