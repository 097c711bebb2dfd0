"""Does meta-learning help here? Methods on the same episodes, with the same tuning budget, and what they show."""

from .comparison import Plan, compare, plan_for
from .result import Comparison

__all__ = ["Comparison", "Plan", "compare", "plan_for"]
