"""iMAML: gradients by the implicit function theorem."""

from __future__ import annotations

from typing import Unpack

from torch import nn

from ..inner.learner import Learner
from ..inner.rules import proximal
from ..models.losses import Loss
from ..outer.implicit import implicit
from .arguments import GradientOptions
from .gradient_based import assembled, inner_rule
from .registry import registered

__all__ = ["imaml"]


@registered
def imaml(
    module: nn.Module, *, loss: Loss, strength: float = 2.0, inner_lr: float = 0.1, inner_steps: int = 16,
    solver: str = "cg", iterations: int = 5, inner: str = "sgd", **options: Unpack[GradientOptions],
) -> Learner:  # fmt: skip
    r"""iMAML: MAML with many proximal inner steps and a meta-gradient that does not look back at them.

    $\phi_t \approx \arg\min_\phi L^{support}_t(\phi) + \frac\lambda2 \lVert\phi-\theta\rVert^2$; see
    `outer.implicit`.
    Memory does not grow with the steps, which must be enough to come near the minimum; the gradient is as exact as
    the inner solution and the linear solve, whose `residual` is in the log.
    Rajeswaran, Finn, Kakade & Levine, 2019, *Meta-Learning with Implicit Gradients*.

    Its own arguments:
        strength: $\lambda$ of the pull to the meta-parameters.
        solver: `cg` or `neumann`.
        iterations: of the solver.

    Example:
        >>> from innerloop.models import build
        >>> imaml(build("mlp", n_in=1), loss="mse").rule.strength
        2.0
    """
    # the gradient of the loss is clipped, the pull is not
    rule = proximal(inner_rule(inner, inner_lr, None, options["clip"]), strength)
    metagrad = implicit(strength, solver=solver, iterations=iterations)
    return assembled(module, loss, rule, inner_steps, metagrad=metagrad, options={**options, "clip": None})
