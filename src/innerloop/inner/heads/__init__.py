"""Heads: closed forms that turn support features into predictions."""

from .base import Head as Head
from .base import Predictive as Predictive
from .base import Spread as Spread
from .gaussian import GaussianHead as GaussianHead
from .gaussian import pooled_least_squares as pooled_least_squares
from .laplace import LaplaceHead as LaplaceHead
from .prototypes import PrototypeHead as PrototypeHead
from .ridge import LearnedRidgeHead as LearnedRidgeHead
