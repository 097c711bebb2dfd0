"""Bayesian MAML."""

from __future__ import annotations

from typing import Unpack

from torch import nn

from ..inner.learner import Learner
from ..inner.particles import ParticleLearner, chaser
from ..models.network import Network
from ..outer.metagrad import unrolled
from .arguments import NetworkOptions
from .registry import registered

__all__ = ["bmaml"]


@registered
def bmaml(
    module: nn.Module, *, loss: str, particles: int = 5, inner_lr: float = 0.1, inner_steps: int = 3,
    leader_steps: int = 1, seed: int = 0, **options: Unpack[NetworkOptions],
) -> Learner:  # fmt: skip
    """Bayesian MAML: several initialisations adapt together, and their spread says how sure the prediction is.

    Stein variational gradient descent in the inner loop, the chaser loss in the outer one; see
    `inner.particles.ParticleLearner`. For tasks where it matters when the model does not know.
    Yoon, Kim, Dia, Kim, Bengio & Ahn, 2018, *Bayesian Model-Agnostic Meta-Learning*.

    Its own arguments:
        loss: `mse` or `cross_entropy`.
        particles: models a task.
        leader_steps: steps that the leader of the chaser loss is ahead; 0 trains on the query loss instead.
        seed: of the initial particles.

    Example:
        >>> from innerloop.models import build
        >>> bmaml(build("mlp", n_in=1, hidden=[4]), loss="mse").init()["0.bias"].shape
        torch.Size([5, 4])
    """
    metagrad = chaser(leader_steps) if leader_steps else unrolled()
    return ParticleLearner(Network(module, **options), loss, particles, inner_lr, inner_steps, metagrad, seed)
