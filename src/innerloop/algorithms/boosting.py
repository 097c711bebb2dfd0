"""Algorithms that stand on boosted trees."""

from __future__ import annotations

from ..errors import UsageError, check_known
from ..inner.boosting import BoostingLearner, ResidualLearner, Trees
from ..inner.boosting.summary import summary_size
from ..inner.heads.base import KINDS, check_sizes
from ..inner.learner import Learner
from ..models.builtin import Polynomial
from ..models.network import Network
from ..outer.metagrad import unrolled
from .closed_form import mixed
from .gaussian_process import KERNEL, gp
from .registry import registered

__all__ = ["boosted_gp", "boosted_mixed", "boosting"]


@registered
def boosting(
    n_features: int, n_outputs: int = 1, *, kind: str = "regression", rounds: int = 200, depth: int = 5,
    rate: float = 0.06, support: bool = True,
) -> Learner:  # fmt: skip
    r"""Boosted trees that see a task's support set as columns beside the features of a row.

    $\hat y = f(x,\, s(x, D_t))$, one sum of trees `f` for all tasks. The summary `s` of the support set $D_t$ holds
    the number of its rows, and of what a pooled line leaves of their targets: mean and deviation, the mean of rows
    near `x`, that of the nearest row and its distance, and the task's own line (`inner.boosting.summary`). The
    trees are grown on episodes whose support sets have all sizes from 0 to that of training.
    Friedman, 2001, *Greedy Function Approximation: A Gradient Boosting Machine*; the support set enters as in Garnelo
    et al., 2018, *Conditional Neural Processes*.

    When to use it: many tasks, features of many kinds and scales, effects that jump or interact; any number of
    labelled rows, none at all among them.

    Arguments:
        n_features: features `F`.
        n_outputs: targets or classes.
        kind: `regression` or `classification`.
        rounds: trees of each output at most; tasks left out decide how many.
        depth: divisions from the root of a tree to a leaf, at most.
        rate: the share of each tree that is added.
        support: whether the trees see the support set; without it, one prediction serves every task.

    Returns:
        The learner; `meta_train` grows its trees.

    Raises:
        UsageError: an argument has no meaning.

    Example:
        >>> learner = boosting(2)
        >>> sorted(learner.init())
        ['line', 'trees/baseline', 'trees/feature', 'trees/noise', 'trees/threshold', 'trees/value']
    """
    check_known("kind", kind, KINDS)
    _require_sizes(n_features, n_outputs, rounds, depth, rate)
    seen = summary_size(BoostingLearner.columns(n_outputs, kind)) if support else 0
    trees = Trees(n_features + seen, n_outputs, kind, rounds, depth, rate)
    return BoostingLearner(Network(Polynomial()), trees, n_features, unrolled(), support)


@registered
def boosted_mixed(
    n_features: int, n_outputs: int = 1, *, rounds: int = 200, depth: int = 5, rate: float = 0.06,
    covariance: str = "auto",
) -> Learner:  # fmt: skip
    r"""A boosted mean, and a linear mixed model on what it leaves: random effects around a curve of any shape.

    $y = f(x) + w_t^\top x + \epsilon,\; w_t \sim N(m, \sigma^2 V)$, where `f` is a sum of trees that all tasks share.
    The random effects are fitted on residuals of trees that were grown without the task.
    Hajjem, Bellavance & Larocque, 2014, *Mixed-effects Random Forest for Clustered Data*.

    When to use it: where a mixed model would do, if only the mean were a line.

    Arguments:
        n_features: features `F`.
        n_outputs: targets.
        rounds: see `boosting`.
        depth: see `boosting`.
        rate: see `boosting`.
        covariance: of the tasks' coefficients, see `mixed`.

    Returns:
        The learner; `meta_train` fits it.

    Raises:
        UsageError: an argument has no meaning.

    Example:
        >>> learner = boosted_mixed(2)
        >>> sorted(learner.init())[-3:]
        ['rest/head/log_noise', 'rest/head/mean', 'rest/head/root']
    """
    _require_sizes(n_features, n_outputs, rounds, depth, rate)
    trees = Trees(n_features, n_outputs, "regression", rounds, depth, rate)
    return ResidualLearner(trees, mixed(n_features, n_outputs, covariance=covariance), unrolled())


@registered
def boosted_gp(
    n_features: int, n_outputs: int = 1, *, rounds: int = 200, depth: int = 5, rate: float = 0.06,
    kernel: str = KERNEL,
) -> Learner:  # fmt: skip
    r"""A boosted mean, and a Gaussian process on what it leaves: a curve of its own for every task.

    $y = f(x) + f_t(x) + \epsilon,\; f_t \sim GP(c, \sigma^2 k)$, where `f` is a sum of trees that all tasks share.
    The process is fitted on residuals of trees that were grown without the task.
    Sigrist, 2022, *Gaussian Process Boosting*.

    When to use it: tasks that are curves around a mean with jumps and interactions, with few rows each.

    Arguments:
        n_features: features `F`.
        n_outputs: targets.
        rounds: see `boosting`.
        depth: see `boosting`.
        rate: see `boosting`.
        kernel: see `gp`.

    Returns:
        The learner; `meta_train` fits it.

    Raises:
        UsageError: an argument has no meaning.

    Example:
        >>> learner = boosted_gp(2, kernel="matern32")
        >>> [name for name in learner.init() if "noise" in name]
        ['mean/trees/noise', 'rest/head/log_noise']
    """
    _require_sizes(n_features, n_outputs, rounds, depth, rate)
    trees = Trees(n_features, n_outputs, "regression", rounds, depth, rate)
    rest = gp(n_features, n_outputs, kernel=kernel, mean="constant")
    return ResidualLearner(trees, rest, unrolled())


def _require_sizes(n_features: int, n_outputs: int, rounds: int, depth: int, rate: float) -> None:
    """Refuse sizes that mean nothing, or that no directory should hold."""
    check_sizes("boosting", n_features=n_features, n_outputs=n_outputs)
    for name, value, most in (("rounds", rounds, 5000), ("depth", depth, 12)):
        if not 1 <= value <= most:
            raise UsageError(f"{name}={value}: give a whole number from 1 to {most}")
    if not 0 < rate <= 1:
        raise UsageError(f"rate={rate}: give a number above 0, and at most 1")
