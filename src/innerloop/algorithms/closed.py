"""Algorithms that adapt by a closed form on features."""

from __future__ import annotations

from ..functional import Network
from ..heads import GaussianHead
from ..learner import HeadLearner, Learner
from ..metagrad import unrolled
from ..models import Polynomial
from .registry import registered


@registered
def mixed(n_features: int, n_outputs: int = 1, *, squares: bool = False, covariance: str = "auto") -> Learner:
    """Linear mixed model: a regression line of its own for every task, drawn from a learned Gaussian.

    The Gaussian head on the features themselves, fitted by maximum likelihood. The statistician's first
    answer to many small regression tasks, and hard to beat where tasks differ in level and slope only.
    Laird & Ware, 1982, *Random-Effects Models for Longitudinal Data*.

    Arguments:
        n_features: features `F`.
        n_outputs: targets.
        squares: add the squares of the features.
        covariance: of the tasks' coefficients, see `heads.GaussianHead`.

    Returns:
        The learner; regression only.

    Example:
        >>> sorted(mixed(2).init())
        ['head/log_noise', 'head/mean', 'head/root']
    """
    degree = 2 if squares else 1
    head = GaussianHead(n_features * degree, n_outputs, covariance)
    return HeadLearner(Network(Polynomial(degree)), head, unrolled())
