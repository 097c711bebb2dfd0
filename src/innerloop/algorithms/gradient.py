"""Algorithms that adapt by gradient steps: a partition, an inner rule and a meta-gradient each."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from ..functional import Network, select_names
from ..inner import InnerRule, clipped, detached, learned_sgd, sgd
from ..learner import GradientLearner, Learner
from ..losses import Loss
from ..metagrad import unrolled
from .registry import registered


@registered
def maml(
    module: nn.Module,
    *,
    loss: Loss,
    inner_lr: float = 0.01,
    inner_steps: int = 5,
    learn_lr: str | None = None,
    clip: float | None = None,
    adapt: str | Callable[[str], bool] = "all",
    batchnorm: str = "support",
    mapping: str = "vmap",
) -> Learner:
    r"""MAML: an initialisation from which a few gradient steps reach every task.

    $\phi_t = \theta - \alpha \nabla L^{support}_t(\theta)$ (repeated), and $\theta$ descends
    $\frac1T \sum_t L^{query}_t(\phi_t)$ through the steps.
    Finn, Abbeel & Levine, 2017, *Model-Agnostic Meta-Learning for Fast Adaptation of Deep Networks*.

    Arguments:
        module: any `nn.Module`.
        loss: see `losses.task_losses`.
        inner_lr: inner step size.
        inner_steps: inner steps.
        learn_lr: learn the step size: one for `all`, one a `tensor` or one a `weight`; `None` keeps it fixed,
            as in the paper.
        clip: largest norm of a task's inner gradient; `None` for no limit, as in the paper.
        adapt: what adapts, see `functional.select_names`.
        batchnorm: see `functional.Network`.
        mapping: `vmap` or `loop`, the same result.

    Returns:
        The learner.

    Raises:
        UsageError: an argument has no meaning.

    Example:
        >>> from innerloop.models import build
        >>> learner = maml(build("mlp", n_in=1), loss="mse", inner_lr=0.1, inner_steps=1)
        >>> len(learner.init())
        6
    """
    rule = _gradient_rule(inner_lr, learn_lr, clip)
    return _gradient_learner(module, loss, rule, inner_steps, adapt, batchnorm, mapping)


@registered
def fomaml(
    module: nn.Module,
    *,
    loss: Loss,
    inner_lr: float = 0.01,
    inner_steps: int = 5,
    learn_lr: str | None = None,
    clip: float | None = None,
    adapt: str | Callable[[str], bool] = "all",
    batchnorm: str = "support",
    mapping: str = "vmap",
) -> Learner:
    r"""First-order MAML: MAML that takes the inner gradients for constants.

    The meta-gradient is the query gradient at the adapted point, $\nabla L^{query}_t(\phi_t)$: cheaper in
    time and memory, and close to MAML where curvature matters little.
    Finn, Abbeel & Levine, 2017, section 5.2; Nichol, Achiam & Schulman, 2018, *On First-Order Meta-Learning*.

    Arguments:
        module: any `nn.Module`.
        loss: see `losses.task_losses`.
        inner_lr: inner step size.
        inner_steps: inner steps.
        learn_lr: see `maml`.
        clip: see `maml`.
        adapt: what adapts, see `functional.select_names`.
        batchnorm: see `functional.Network`.
        mapping: `vmap` or `loop`.

    Returns:
        The learner.

    Raises:
        UsageError: an argument has no meaning.

    Example:
        >>> from innerloop.models import build
        >>> fomaml(build("mlp", n_in=1), loss="mse").rule.first_order
        True
    """
    rule = detached(_gradient_rule(inner_lr, learn_lr, clip))
    return _gradient_learner(module, loss, rule, inner_steps, adapt, batchnorm, mapping)


def _gradient_rule(inner_lr: float, learn_lr: str | None, clip: float | None) -> InnerRule:
    rule = sgd(inner_lr) if learn_lr is None else learned_sgd(inner_lr, per=learn_lr)
    return rule if clip is None else clipped(rule, clip)


def _gradient_learner(
    module: nn.Module,
    loss: Loss,
    rule: InnerRule,
    inner_steps: int,
    adapt: str | Callable[[str], bool],
    batchnorm: str,
    mapping: str,
) -> GradientLearner:
    network = Network(module, batchnorm=batchnorm, mapping=mapping)
    return GradientLearner(network, loss, rule, select_names(network, adapt), inner_steps, unrolled())
