"""Warped gradients: meta-trained layers between those that adapt."""

from __future__ import annotations

from typing import Unpack

from torch import nn

from ..inner.learner import Learner
from ..inner.warp import with_warps
from ..models.losses import Loss
from ..outer.metagrad import unrolled
from .arguments import UnrolledOptions
from .gradient_based import assembled, inner_rule
from .registry import registered

__all__ = ["t_net"]


@registered
def t_net(
    module: nn.Module, *, loss: Loss, inner_lr: float = 0.01, inner_steps: int = 5, learn_lr: str | None = None,
    inner: str = "sgd", **options: Unpack[UnrolledOptions],
) -> Learner:  # fmt: skip
    r"""T-Net: MAML through meta-trained maps after each layer, which warp the gradient of what adapts.

    A layer becomes $T (W x + b)$: tasks adapt $W$ and $b$, and share $T$, the identity at first. For the effective
    weight $E = T W$ an inner step is $E \leftarrow E - \alpha\, T T^\top \nabla_E L$: the metric of the inner loop is
    learned, as in Meta-Curvature, by layers that also compute.
    Lee & Choi, 2018, *Gradient-Based Meta-Learning with Learned Layerwise Metric and Subspace*; Flennerhag et al.,
    2020, *Meta-Learning with Warped Gradient Descent*.

    Example:
        >>> from innerloop.models import build
        >>> learner = t_net(build("mlp", n_in=1, hidden=[4]), loss="mse")
        >>> [name for name in learner.init() if name not in learner.fast]
        ['0.warp.weight', '2.warp.weight']
    """
    warped, adapts = with_warps(module)
    rule = inner_rule(inner, inner_lr, learn_lr)
    return assembled(warped, loss, rule, inner_steps, metagrad=unrolled(), adapt=adapts, options=options)
