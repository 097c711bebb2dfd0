"""An ordinary model as a learner: nothing adapts, every task is predicted with the same parameters."""

from __future__ import annotations

from torch import nn

from ..inner.learner import Learner, Recipe
from ..inner.plain import PlainLearner
from ..models.losses import Loss
from ..models.network import Network, Params
from ..outer.metagrad import unrolled
from .registry import registered

__all__ = ["plain", "plain_learner"]


@registered
def plain(module: nn.Module, *, loss: Loss, mapping: str = "vmap") -> Learner:
    r"""An ordinary model: one set of parameters $\theta$ for all tasks, and nothing adapts.

    Meta-trained, it descends $\frac1T \sum_t L^{query}_t(\theta)$: the model of all tasks pooled, the baseline
    of Chen, Liu, Kira, Wang & Huang, 2019, *A Closer Look at Few-shot Classification*. It is also what
    `innerloop.refine` leaves.

    Arguments:
        module: any `nn.Module`.
        loss: see `models.task_losses`.
        mapping: `vmap` or `loop` over tasks, the same result.

    Raises:
        UsageError: an argument has no meaning.

    Example:
        >>> from innerloop.models import build
        >>> learner = plain(build("mlp", n_in=2), loss="mse")
        >>> learner.own_like(learner.init())
        {}
    """
    return plain_learner(Network(module, mapping=mapping), loss)


def plain_learner(network: Network, loss: Loss, recipe: Recipe | None = None) -> PlainLearner:
    """An ordinary model from a network that is there.

    Arguments:
        network: the network.
        loss: see `models.task_losses`.
        recipe: from which the learner can be made again.

    Example:
        >>> plain_learner(Network(nn.Sequential(nn.Linear(1, 1))), "mse").statistics
        {}
    """
    return PlainLearner(network, loss, unrolled(), _running_statistics(network), recipe)


def _running_statistics(network: Network) -> Params:
    """The BatchNorm statistics that the original module keeps, by name; 0 and 1 where it keeps none."""
    names = [f"{layer}.{kind}" for layer in network.normalizers for kind in ("running_mean", "running_var")]
    values = {**dict(network.module.named_buffers()), **network.entries}
    return {name: values[name].detach().clone() for name in names}
