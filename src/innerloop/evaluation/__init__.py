"""Scores of a model on held-out tasks: metrics, confidence intervals over tasks, what was learned, examples."""

from .calibrating import calibrate
from .conformal import Calibration
from .examples import Shown, show
from .inspection import Learned, gains, learned
from .intervals import Estimate, interval
from .scores import Evaluation, ScoreRow, evaluate, over_folds, paired_difference, query_dependence

__all__ = [
    "Calibration",
    "Estimate",
    "Evaluation",
    "Learned",
    "ScoreRow",
    "Shown",
    "calibrate",
    "evaluate",
    "gains",
    "interval",
    "learned",
    "over_folds",
    "paired_difference",
    "query_dependence",
    "show",
]
