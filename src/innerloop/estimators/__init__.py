"""scikit-learn's door: estimators that learn across groups and adapt to a new one from a few rows."""

from .adapted import AdaptedClassifier, AdaptedRegressor
from .classifier import MetaClassifier
from .cross_validation import SupportQuerySplit, cross_val_adapt
from .embedding import MetaEmbedding
from .regressor import MetaRegressor

__all__ = [
    "AdaptedClassifier",
    "AdaptedRegressor",
    "MetaClassifier",
    "MetaEmbedding",
    "MetaRegressor",
    "SupportQuerySplit",
    "cross_val_adapt",
]
