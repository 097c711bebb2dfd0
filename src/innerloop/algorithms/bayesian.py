"""Bayesian MAML."""

from __future__ import annotations

from torch import nn

from ..inner.learner import Learner
from ..inner.particles import ParticleLearner, chaser
from ..models.network import Network
from ..outer.metagrad import unrolled
from .registry import registered


@registered
def bmaml(
    module: nn.Module, *, loss: str, particles: int = 5, inner_lr: float = 0.1, inner_steps: int = 3,
    leader_steps: int = 1, seed: int = 0, batchnorm: str = "support", mapping: str = "vmap",
) -> Learner:  # fmt: skip
    """Bayesian MAML: several initialisations adapt together, and their spread says how sure the prediction is.

    Stein variational gradient descent in the inner loop, the chaser loss in the outer one. For tasks where it
    matters when the model does not know.
    Yoon, Kim, Dia, Kim, Bengio & Ahn, 2018, *Bayesian Model-Agnostic Meta-Learning*.

    Arguments:
        module: any `nn.Module`.
        loss: `mse` or `cross_entropy`.
        particles: models a task.
        inner_lr: inner step size.
        inner_steps: inner steps.
        leader_steps: steps that the leader of the chaser loss is ahead; 0 trains on the query loss instead.
        seed: of the initial particles.
        batchnorm: see `functional.Network`.
        mapping: `vmap` or `loop`.

    Returns:
        The learner.

    Raises:
        UsageError: an argument has no meaning.

    Example:
        >>> from innerloop.models import build
        >>> bmaml(build("mlp", n_in=1, hidden=[4]), loss="mse").init()["0.bias"].shape
        torch.Size([5, 4])
    """
    network = Network(module, batchnorm=batchnorm, mapping=mapping)
    metagrad = chaser(leader_steps) if leader_steps else unrolled()
    return ParticleLearner(network, loss, particles, inner_lr, inner_steps, metagrad, seed)
