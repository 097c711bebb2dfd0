"""Scores of a model on held-out tasks: metrics, confidence intervals over tasks, what was learned, examples."""

from .calibrating import calibrate
from .conformal import Calibration
from .dependence import query_dependence
from .examples import Shown, show
from .inner_path import InnerPath, inner_path
from .inspection import Learned, gains, learned
from .intervals import Estimate, interval
from .mixed_model import MixedSummary, mixed_summary
from .none_of_these import FitCalibration, calibrate_fit
from .scores import Evaluation, ScoreRow, evaluate, over_folds, paired_difference

__all__ = [
    "Calibration",
    "Estimate",
    "Evaluation",
    "FitCalibration",
    "InnerPath",
    "Learned",
    "MixedSummary",
    "ScoreRow",
    "Shown",
    "calibrate",
    "calibrate_fit",
    "evaluate",
    "gains",
    "inner_path",
    "interval",
    "learned",
    "mixed_summary",
    "over_folds",
    "paired_difference",
    "query_dependence",
    "show",
]
