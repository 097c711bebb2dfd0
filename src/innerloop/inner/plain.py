"""A learner that does not adapt: ordinary training on the rows of all tasks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..models.losses import KNOWN, Loss, task_losses
from ..models.network import Features, Network, Params
from ..tasks.episodes import Batch
from .learner import Learner, MetaGradient, Recipe

__all__ = ["PlainLearner"]


@dataclass(frozen=True, eq=False)
class PlainLearner(Learner):
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
        """A task owns nothing."""
        return {}

    def path(
        self, meta: Params, support: Batch, *, steps: int | None = None, key: Tensor | None = None
    ) -> Iterator[Params]:
        yield {}

    def predict(self, meta: Params, adapted: Params, x: Features, *, key: Tensor | None = None) -> Any:
        """Values in `adapted`, `(T, ...)`, take precedence over those of `meta`."""
        shared = {**meta, **{name: meta[name].detach() for name in self.statistics}}
        return self.network(shared, adapted, x, key=key, given_statistics=bool(self.statistics))[0]

    def loss(self, meta: Params, adapted: Params, batch: Batch, *, key: Tensor | None = None) -> Tensor:
        return task_losses(self.criterion, self.predict(meta, adapted, batch.x, key=key), batch)

    @property
    def takes_partial(self) -> bool:
        """A loss of one's own is called with the NaN that stand for targets that are not known."""
        return self.criterion == KNOWN or not isinstance(self.criterion, str)

    @property
    def plain_loss(self) -> Loss | None:
        return self.criterion
