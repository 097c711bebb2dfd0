"""Gradient boosting on tables of many tasks: its trees as tensors, and learners that stand on them."""

from .residual import ResidualLearner
from .support_set import BoostingLearner
from .trees import Trees

__all__ = ["BoostingLearner", "ResidualLearner", "Trees"]
