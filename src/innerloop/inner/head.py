"""A learner that adapts by solving a closed-form head on the features of a shared network."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..models.network import Features, Network, Params, reference
from ..tasks.episodes import Batch, Episode, all_draws
from .heads import Head
from .learner import Learner, MetaGradient, Recipe, resized_recipe
from .statistics import observed, of_each_task, query_outputs, require_support
from .streams import for_step

__all__ = ["HeadLearner"]


@dataclass(frozen=True, eq=False)
class HeadLearner(Learner):
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
        like = reference(meta)
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

    def predict(self, meta: Params, adapted: Params, x: Features, *, key: Tensor | None = None) -> Tensor:
        return self.head.predict(meta, adapted, query_outputs(self.network, meta, adapted, x, key=key))

    def loss(self, meta: Params, adapted: Params, batch: Batch, *, key: Tensor | None = None) -> Tensor:
        features = query_outputs(self.network, meta, adapted, batch.x, weight=batch.weight, key=key)
        return self.head.loss(meta, adapted, features, batch)

    def observe(self, meta: Params, episode: Episode) -> Params:
        return observed(self, meta, episode)

    def variance(self, meta: Params, adapted: Params, x: Features) -> Tensor | None:
        return self.head.variance(meta, adapted, query_outputs(self.network, meta, adapted, x))

    @property
    def fits_directly(self) -> bool:
        """Where nothing but the head is trained, and it has a direct optimisation."""
        return self.head.fits_directly and not self.network.params()

    @property
    def fits_classes(self) -> bool:
        return self.head.fits_classes

    def for_classes(self, meta: Params, count: int) -> tuple[Learner, Params]:
        found = self.head.for_classes(meta, count)
        if found is None:
            return super().for_classes(meta, count)
        head, resized = found
        return replace(self, head=head).with_recipe(resized_recipe(self.recipe, count)), resized

    def class_means(self, meta: Params, x: Features) -> Tensor | None:
        if not self.head.keeps_means or self.network.needs_statistics:
            return None
        first = x[:, :1]
        # it takes several different rows to tell
        if self.network.sees_other_rows(torch.cat([first, first + 1, first - 1], 1)):
            return None
        mean: Tensor = self.network(meta, {}, x)[0].mean(1, keepdim=True)
        return mean

    def adapt_to_means(self, meta: Params, means: Batch) -> Params:
        return self.head.solve(meta, means.x, means)

    def fit(self, meta: Params, rows: Batch) -> Params | None:
        """The head's own direct optimisation, where nothing but the head is trained."""
        if not self.fits_directly:
            return None
        features, _ = self.network(meta, {}, rows.x, weight=rows.weight)
        fitted = self.head.fit(meta, features, rows)
        return None if fitted is None else {**meta, **fitted}

    def fit_again(self, meta: Params, rows: Batch) -> Params | None:
        if not self.fits_directly:
            return None
        features, _ = self.network(meta, {}, rows.x, weight=rows.weight)
        fitted = self.head.fit_again(meta, features, rows)
        return None if fitted is None else {**meta, **fitted}

    def remarks(self, meta: Params, rows: Batch) -> tuple[str, ...]:
        return self.head.remarks(meta, rows)

    @property
    def closed_form(self) -> bool:
        return True

    def _support_features(self, meta: Params, support: Batch, key: Tensor | None) -> tuple[Params, Tensor]:
        """BatchNorm statistics that each task owns, and the features of its support rows."""
        running = self.network.at_step(meta, 0)
        if self.network.needs_statistics and not running:
            require_support(support)
        features, seen = self.network(
            {**meta, **running}, {}, support.x, weight=support.weight, key=for_step(key, 0)
        )
        if not self.network.needs_statistics:
            return {}, features
        return (of_each_task(running, support) if running else seen), features
