"""iMAML: gradients by the implicit function theorem."""

from __future__ import annotations

from torch import nn

from ..inner.learner import Learner
from ..inner.rules import proximal
from ..models.losses import Loss
from ..outer.implicit import implicit
from .gradient_based import gradient_learner, inner_rule
from .registry import registered


@registered
def imaml(
    module: nn.Module, *, loss: Loss, strength: float = 2.0, inner_lr: float = 0.1, inner_steps: int = 16,
    solver: str = "cg", iterations: int = 5, clip: float | None = None, inner: str = "sgd",
    batchnorm: str = "support", mapping: str = "vmap",
) -> Learner:  # fmt: skip
    r"""iMAML: MAML with many proximal inner steps and a meta-gradient that does not look back at them.

    $\phi_t \approx \arg\min_\phi L^{support}_t(\phi) + \frac\lambda2 \lVert\phi-\theta\rVert^2$; see
    `metagrad.implicit`.
    Memory does not grow with the steps; the gradient is as exact as the inner solution and the linear solve,
    whose `residual` is in the log.
    Rajeswaran, Finn, Kakade & Levine, 2019, *Meta-Learning with Implicit Gradients*.

    Arguments:
        module: any `nn.Module`.
        loss: see `losses.task_losses`.
        strength: $\lambda$ of the pull to the meta-parameters.
        inner_lr: inner step size.
        inner_steps: inner steps, enough to come near the minimum.
        solver: `cg` or `neumann`.
        iterations: of the solver.
        clip: largest norm of an inner gradient.
        inner: the inner rule, see `maml`.
        batchnorm: see `functional.Network`.
        mapping: `vmap` or `loop`.

    Returns:
        The learner.

    Raises:
        UsageError: an argument has no meaning.

    Example:
        >>> from innerloop.models import build
        >>> imaml(build("mlp", n_in=1), loss="mse").rule.strength
        2.0
    """
    rule = proximal(inner_rule(inner, inner_lr, None, clip), strength)
    metagrad = implicit(strength, solver=solver, iterations=iterations)
    return gradient_learner(
        module, loss, rule, inner_steps, metagrad=metagrad, batchnorm=batchnorm, mapping=mapping
    )
