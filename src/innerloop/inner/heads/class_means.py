"""Class means by cosine: what a good encoder needs, and nothing more."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional

from ...models.network import Params
from ...tasks.episodes import Batch
from ...tasks.support import stream
from .class_covariances import sums_of
from .prototypes import PrototypeHead, among_present
from .temperature import class_episodes, log_temperature

__all__ = ["ClassMeansHead"]

_EPISODES = 240
# of classes that nothing is known of: the scale of 10 that is usual for cosines
_TEMPERATURE = 0.1


@dataclass(frozen=True)
class ClassMeansHead(PrototypeHead):
    r"""Classes by the angle to the mean of their support features, over one temperature.

    $\text{logit}_k(x) = \frac1\tau \frac{\phi(x)^\top c_k}{\lVert \phi(x) \rVert \lVert c_k \rVert},\quad
    c_k = \frac{1}{|S_k|}\sum_{i \in S_k} \phi_i$. Nothing but $\tau$ is learned: by the cross-entropy on episodes of
    the meta-train classes. A class without a support row is treated as in `PrototypeHead`.

    Arguments:
        n_features: features `F`.
        n_outputs: the most classes `W` a task has.
        shots: support rows of a class for which the temperature is fitted: the mean of more is nearer to its class.

    Raises:
        UsageError: a size has no meaning.

    Example:
        >>> head = ClassMeansHead(2, 2)
        >>> support = Batch(torch.tensor([[[3.0, 0.0], [0.0, 0.5]]]), torch.tensor([[0, 1]]))
        >>> own = head.solve(head.init(), support.x, support)
        >>> head.predict(
        ...     head.init(), own, torch.tensor([[[2.0, 0.0]]])
        ... ).round().tolist()  # angles of 0 and 90 degrees
        [[[10.0, 0.0]]]
    """

    shots: int = 1
    fits_directly = True
    fits_classes = True

    def init(self) -> Params:
        """A tenth: cosines count tenfold."""
        return {"head/log_temperature": torch.tensor(math.log(_TEMPERATURE))}

    def predict(self, meta: Params, adapted: Params, features: Tensor) -> Tensor:
        """Logits `(T, n, W)`."""
        cosine = _unit(features) @ _unit(adapted["head/prototypes"]).mT
        present = (adapted["head/rows"] > 0).unsqueeze(1)
        return among_present(cosine * (-meta["head/log_temperature"]).exp(), present)

    def for_classes(self, meta: Params, count: int) -> tuple[ClassMeansHead, Params]:
        """Nothing that is learned belongs to a class."""
        return replace(self, n_outputs=count), meta

    def fit(self, meta: Params, features: Tensor, rows: Batch) -> Params:
        """The temperature, by episodes of the classes; that of before where no two of them have two rows."""
        sums = sums_of(features.detach(), rows)
        values = sums.means[sums.of_row] + sums.residuals
        found = [
            (
                _unit(values[query]) @ _unit(torch.stack([values[each].mean(0) for each in support])).mT,
                labels,
            )
            for support, query, labels in class_episodes(
                sums.of_row, self.n_outputs, count=_EPISODES, generator=stream(0, 3), shots=(self.shots,)
            )
        ]
        if not found:
            return meta
        return {**meta, "head/log_temperature": log_temperature(found).to(meta["head/log_temperature"])}


def _unit(values: Tensor) -> Tensor:
    return functional.normalize(values, dim=-1)
