"""Meta-gradients: how the query loss reaches the meta-parameters.

A meta-gradient is the only part that sees the query set in training.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .episodes import Episode
from .functional import Params
from .learner import Learner, MetaGradient, Metrics


def unrolled() -> MetaGradient:
    r"""Differentiate through every inner step: $\nabla_\theta\, \frac1T\sum_t L^{query}_t(\phi_t(\theta))$.

    Exact where the inner rule is; with a `detached` rule it is first-order MAML
    (Finn, Abbeel & Levine, 2017, *Model-Agnostic Meta-Learning for Fast Adaptation of Deep Networks*).

    Returns:
        The meta-gradient.

    Example:
        >>> callable(unrolled())
        True
    """

    def metagrad(
        learner: Learner, meta: Params, episode: Episode, step: int, key: Tensor | None
    ) -> tuple[Params, Metrics]:
        meta = {name: value.detach().requires_grad_() for name, value in meta.items()}
        with torch.enable_grad():
            adapted = learner.adapt(meta, episode.support, key=key)
            losses = learner.loss(meta, adapted, episode.query, key=key)
            values = torch.autograd.grad(
                losses.mean(), list(meta.values()), materialize_grads=True, allow_unused=True
            )
        return dict(zip(meta, values, strict=True)), {"losses": losses.detach()}

    return metagrad
