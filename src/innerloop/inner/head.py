"""A learner that adapts by solving a closed-form head on the features of a shared network."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..models.layers import fold
from ..models.network import Network, Params
from ..tasks.episodes import Batch, Episode, all_draws
from .gradient import _QUERY, _observed, _owned, _require_support
from .heads import Head, Spread
from .learner import MetaGradient, Recipe


@dataclass(frozen=True, eq=False)
class HeadLearner:
    """Adapts by solving a closed-form head on the features of a shared network.

    Arguments:
        network: module that turns `x` into features `(n, F)`; shared by all tasks.
        head: the closed form.
        metagrad: how the gradient comes back.
        recipe: see `Learner.recipe`.
    """

    network: Network
    head: Head
    metagrad: MetaGradient
    recipe: Recipe | None = None

    def __post_init__(self) -> None:
        """Refuse parts that do not go together."""
        self.metagrad.check(self)

    def init(self) -> Params:
        """The network's initial parameters and the head's."""
        return {**self.network.params(), **self.network.step_params(1), **self.head.init()}

    def own_like(self, meta: Params) -> Params:
        """See `Learner.own_like`."""
        like = next(iter(meta.values()))
        return {**self.head.base(meta, 1), **self.network.statistics_like(like)}

    def path(
        self, meta: Params, support: Batch, *, steps: int | None = None, key: Tensor | None = None
    ) -> Iterator[Params]:
        """The head before (step 0) and after its solution (step 1)."""
        support = all_draws(support)
        statistics, features = self._support_features(meta, support, key)
        yield {**statistics, **self.head.base(meta, support.y.shape[0])}
        if steps != 0:
            yield {**statistics, **self.head.solve(meta, features, support)}

    def adapt(
        self, meta: Params, support: Batch, *, steps: int | None = None, key: Tensor | None = None
    ) -> Params:
        """See `Learner.adapt`."""
        *_, adapted = self.path(meta, support, steps=steps, key=key)
        return adapted

    def predict(self, meta: Params, adapted: Params, x: Any, *, key: Tensor | None = None) -> Tensor:
        """See `Learner.predict`."""
        return self.head.predict(meta, adapted, self._query_features(meta, adapted, x, None, key))

    def loss(self, meta: Params, adapted: Params, batch: Batch, *, key: Tensor | None = None) -> Tensor:
        """See `Learner.loss`."""
        features = self._query_features(meta, adapted, batch.x, batch.weight, key)
        return self.head.loss(meta, adapted, features, batch)

    def observe(self, meta: Params, episode: Episode) -> Params:
        """See `Learner.observe`."""
        return _observed(self, self.network, meta, episode)

    def variance(self, meta: Params, adapted: Params, x: Any) -> Tensor | None:
        """See `Learner.variance`; some heads give it."""
        if not isinstance(self.head, Spread):
            return None
        return self.head.variance(meta, adapted, self._query_features(meta, adapted, x, None, None))

    def fit(self, meta: Params, rows: Batch) -> Params | None:
        """Meta-parameters by direct optimisation where nothing but the head is trained, else `None`.

        Arguments:
            meta: where to start.
            rows: all rows of the meta-train tasks, stacked.
        """
        if self.network.params():
            return None
        features, _ = self.network(meta, {}, rows.x, weight=rows.weight)
        fitted = self.head.fit(meta, features, rows)
        return None if fitted is None else {**meta, **fitted}

    def _support_features(self, meta: Params, support: Batch, key: Tensor | None) -> tuple[Params, Tensor]:
        kept = self.network.at_step(meta, 0)
        if self.network.needs_statistics and not kept:
            _require_support(support)
        stream = None if key is None else fold(key, 0)
        features, seen = self.network({**meta, **kept}, {}, support.x, weight=support.weight, key=stream)
        if not self.network.needs_statistics:
            return {}, features
        return (_owned(kept, support) if kept else seen), features

    def _query_features(
        self, meta: Params, adapted: Params, x: Any, weight: Tensor | None, key: Tensor | None
    ) -> Tensor:
        features: Tensor = self.network(
            meta,
            adapted,
            x,
            weight=weight,
            key=None if key is None else fold(key, _QUERY),
            given_statistics=self.network.needs_statistics,
        )[0]
        return features
