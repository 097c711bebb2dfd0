"""An ordinary model as a learner: nothing adapts, every task is predicted with the same parameters."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from ..episodes import Batch, Episode
from ..functional import Network, Params
from ..learner import Learner, MetaGradient, Recipe
from ..losses import Loss, task_losses
from ..metagrad import unrolled
from .registry import registered


@dataclass(frozen=True, eq=False)
class PlainLearner:
    """Predicts with the meta-parameters as they are.

    BatchNorm uses fixed statistics, as a trained model does outside of training: they stand among the
    meta-parameters, without a gradient, and begin as the module's running ones, or 0 and 1 where it has none.

    Arguments:
        network: the model.
        criterion: the loss.
        metagrad: how the gradient comes back.
        statistics: the module's BatchNorm statistics by name.
        recipe: see `Learner.recipe`.
    """

    network: Network
    criterion: Loss
    metagrad: MetaGradient
    statistics: Params
    recipe: Recipe | None = None

    def init(self) -> Params:
        """The module's parameters, and its BatchNorm statistics."""
        return {**self.network.params(), **{name: value.clone() for name, value in self.statistics.items()}}

    def own_like(self, meta: Params) -> Params:
        """See `Learner.own_like`: a task owns nothing."""
        return {}

    def path(
        self, meta: Params, support: Batch, *, steps: int | None = None, key: Tensor | None = None
    ) -> Iterator[Params]:
        """See `Learner.path`."""
        yield {}

    def adapt(
        self, meta: Params, support: Batch, *, steps: int | None = None, key: Tensor | None = None
    ) -> Params:
        """See `Learner.adapt`."""
        return {}

    def predict(self, meta: Params, adapted: Params, x: Any, *, key: Tensor | None = None) -> Any:
        """See `Learner.predict`; values in `adapted`, `(T, ...)`, come before those of `meta`."""
        shared = {**meta, **{name: meta[name].detach() for name in self.statistics}}
        return self.network(shared, adapted, x, key=key, given_statistics=bool(self.statistics))[0]

    def loss(self, meta: Params, adapted: Params, batch: Batch, *, key: Tensor | None = None) -> Tensor:
        """See `Learner.loss`."""
        return task_losses(self.criterion, self.predict(meta, adapted, batch.x, key=key), batch)

    def observe(self, meta: Params, episode: Episode) -> Params:
        """See `Learner.observe`: nothing is learned by watching."""
        return {}

    def variance(self, meta: Params, adapted: Params, x: Any) -> Tensor | None:
        """See `Learner.variance`: nothing is said of it."""
        return None


@registered
def plain(module: nn.Module, *, loss: Loss, mapping: str = "vmap") -> Learner:
    r"""An ordinary model: one set of parameters $\theta$ for all tasks, and nothing adapts.

    Meta-trained, it descends $\frac1T \sum_t L^{query}_t(\theta)$: the model of all tasks pooled, the baseline
    of Chen, Liu, Kira, Wang & Huang, 2019, *A Closer Look at Few-shot Classification*. It is also what
    `innerloop.refine` leaves.

    Arguments:
        module: any `nn.Module`.
        loss: see `losses.task_losses`.
        mapping: `vmap` or `loop` over tasks, the same result.

    Returns:
        The learner.

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
        loss: see `losses.task_losses`.
        recipe: from which the learner can be made again.

    Returns:
        The learner.

    Example:
        >>> plain_learner(Network(nn.Sequential(nn.Linear(1, 1))), "mse").statistics
        {}
    """
    return PlainLearner(network, loss, unrolled(), _running_statistics(network), recipe)


def _running_statistics(network: Network) -> Params:
    """The BatchNorm statistics that the original module keeps, by name; 0 and 1 where it keeps none."""
    names = [f"{layer}.{kind}" for layer in network.normalizers for kind in ("running_mean", "running_var")]
    found = {**dict(network.module.named_buffers()), **network.entries}
    return {name: found[name].detach().clone() for name in names}
