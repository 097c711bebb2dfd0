"""Named algorithms: each assembles a partition, an inner rule or head, and a meta-gradient."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import replace
from typing import Any, ParamSpec

from torch import nn

from .errors import UsageError
from .functional import Network, select_names
from .heads import GaussianHead
from .inner import InnerRule, clipped, detached, learned_sgd, sgd
from .learner import GradientLearner, HeadLearner, Learner
from .losses import Loss
from .metagrad import unrolled
from .models import Polynomial, recipe_of
from .models import build as build_model

P = ParamSpec("P")

ALGORITHMS: dict[str, Callable[..., Learner]] = {}


def _registered(preset: Callable[P, Learner]) -> Callable[P, Learner]:
    """Make `preset` known by name and let its learners carry the recipe they were made from."""

    @functools.wraps(preset)
    def recorded(*args: P.args, **kwargs: P.kwargs) -> Learner:
        learner = preset(*args, **kwargs)
        bound = inspect.signature(preset).bind(*args, **kwargs)
        bound.apply_defaults()
        settings = dict(bound.arguments)
        module = settings.pop("module", None)
        loss = settings.get("loss")
        if loss is not None and not isinstance(loss, str):
            settings["loss"] = "external"
        recipe = {"algorithm": preset.__name__, "settings": settings}
        if module is not None:
            recipe["model"] = recipe_of(module) or "external"
        return replace(learner, recipe=recipe)  # type: ignore[type-var]

    ALGORITHMS[preset.__name__] = recorded
    return recorded


def build(recipe: dict[str, Any], *, module: nn.Module | None = None, loss: Loss | None = None) -> Learner:
    """Make a learner from its recipe.

    Arguments:
        recipe: `{"algorithm": name, "settings": {...}, "model": {"name": ..., "settings": {...}}}`.
        module: the module, where the recipe says `external`.
        loss: the loss function, where the recipe says `external`.

    Returns:
        The learner.

    Raises:
        UsageError: a name or setting is unknown, or an external part is not given.

    Example:
        >>> learner = maml(build_model("mlp", n_in=2), loss="mse", inner_steps=3)
        >>> build(learner.recipe).inner_steps
        3
    """
    name, settings = recipe["algorithm"], dict(recipe["settings"])
    if name not in ALGORITHMS:
        raise UsageError(f"algorithm {name!r} is unknown: choose one of {', '.join(ALGORITHMS)}")
    if settings.get("loss") == "external":
        if loss is None:
            raise UsageError("this model was trained with a loss function of your own: pass it as loss=")
        settings["loss"] = loss
    if "model" in recipe:
        if recipe["model"] != "external":
            module = build_model(recipe["model"]["name"], **recipe["model"]["settings"])
        elif module is None:
            raise UsageError("this model was trained with a module of your own: pass it as module=")
        settings["module"] = module
    try:
        inspect.signature(ALGORITHMS[name]).bind(**settings)
    except TypeError as error:
        raise UsageError(f"algorithm {name!r}: {error}") from None
    return ALGORITHMS[name](**settings)


@_registered
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
        >>> learner = maml(build_model("mlp", n_in=1), loss="mse", inner_lr=0.1, inner_steps=1)
        >>> len(learner.init())
        6
    """
    rule = _gradient_rule(inner_lr, learn_lr, clip)
    return _gradient_learner(module, loss, rule, inner_steps, adapt, batchnorm, mapping)


@_registered
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
        >>> fomaml(build_model("mlp", n_in=1), loss="mse").rule.first_order
        True
    """
    rule = detached(_gradient_rule(inner_lr, learn_lr, clip))
    return _gradient_learner(module, loss, rule, inner_steps, adapt, batchnorm, mapping)


@_registered
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
