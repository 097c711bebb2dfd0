"""Scores of a model on held-out tasks, with intervals over tasks."""

from .intervals import interval
from .scores import Evaluation, evaluate, over_folds, paired_difference, query_dependence

__all__ = ["Evaluation", "evaluate", "interval", "over_folds", "paired_difference", "query_dependence"]
