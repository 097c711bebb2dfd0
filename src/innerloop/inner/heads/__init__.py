"""Heads: closed forms that turn support features into predictions."""

from .base import ClassHead, Head, Predictive
from .class_means import ClassMeansHead
from .gaussian import GaussianHead, pooled_least_squares
from .laplace import LaplaceHead
from .pooled_base import PooledBase
from .process import GaussianProcessHead
from .process_classes import GaussianProcessClassHead
from .prototypes import PrototypeHead
from .ridge import LearnedRidgeHead
from .set_net import SetClassHead, SetValueHead
from .two_covariance import TwoCovarianceHead

__all__ = [
    "ClassHead",
    "ClassMeansHead",
    "GaussianHead",
    "GaussianProcessClassHead",
    "GaussianProcessHead",
    "Head",
    "LaplaceHead",
    "LearnedRidgeHead",
    "PooledBase",
    "Predictive",
    "PrototypeHead",
    "SetClassHead",
    "SetValueHead",
    "TwoCovarianceHead",
    "pooled_least_squares",
]
