"""scikit-learn's door: estimators that learn across groups and adapt to a new one from a few rows."""

from .adapted import AdaptedClassifier, AdaptedRegressor
from .classifier import MetaClassifier
from .regressor import MetaRegressor

__all__ = ["AdaptedClassifier", "AdaptedRegressor", "MetaClassifier", "MetaRegressor"]
