"""Boosting on the features of a row and what its task's support set says: a learner without inner steps."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ...models.losses import task_losses
from ...models.network import Network, Params, reference
from ...tasks.episodes import Batch, Episode, all_draws, to
from ..heads.base import one_hot, row_weights, target_columns
from ..learner import Learner, MetaGradient, Recipe
from .line import fit_line, line_size, line_values
from .summary import no_support, summary_columns, support_values
from .trees import Trees

__all__ = ["BoostingLearner"]


@dataclass(frozen=True, eq=False)
class BoostingLearner(Learner):
    """Boosted trees that see a row's features and a summary of its task's support set.

    The trees are shared by all tasks; what a task owns are its support rows, and what a pooled line leaves of their
    targets. Fitted on episodes whose support sets have all sizes from 0 to that of training, it knows from the
    trees what each size is worth.

    Arguments:
        network: hands features on.
        trees: of `n_features` features and `summary_size` further columns.
        n_features: features `F`.
        metagrad: how the gradient comes back, where there is one.
        support: whether the trees see the summary; otherwise the same prediction serves every task.
        recipe: see `Learner.recipe`.
    """

    network: Network
    trees: Trees
    n_features: int
    metagrad: MetaGradient
    support: bool = True
    recipe: Recipe | None = None

    @staticmethod
    def columns(n_outputs: int, kind: str) -> int:
        """Columns of targets that are summarised: of two classes one says all."""
        return 1 if kind == "classification" and n_outputs == 2 else n_outputs

    @property
    def n_columns(self) -> int:
        """Columns of targets that are summarised."""
        return self.columns(self.trees.n_outputs, self.trees.kind)

    def init(self) -> Params:
        """Trees and a line that say 0."""
        line = {"line": torch.zeros(line_size(self.n_features), self.n_columns)} if self.support else {}
        return {**self.trees.init(), **line}

    def own_like(self, meta: Params) -> Params:
        return self._nothing(meta, 1)

    def path(
        self, meta: Params, support: Batch, *, steps: int | None = None, key: Tensor | None = None
    ) -> Iterator[Params]:
        """Without the support set (step 0) and with it (step 1)."""
        support = all_draws(support)
        yield self._nothing(meta, len(support.y))
        if steps != 0 and self.support:
            rest = self._targets(support) - line_values(meta, support.x)
            yield support_values(rest, support)

    def predict(self, meta: Params, adapted: Params, x: Tensor, *, key: Tensor | None = None) -> Tensor:
        """Values or logits `(T, n, C)`."""
        rows = self._rows(meta, adapted, x)
        return self.trees.predict(meta, rows.flatten(0, 1)).reshape(*rows.shape[:2], self.trees.n_outputs)

    def variance(self, meta: Params, adapted: Params, x: Tensor) -> Tensor | None:
        """The mean squared error on tasks that the trees were not grown on; the same for every row."""
        if self.trees.kind == "classification":
            return None
        return meta["trees/noise"].expand(*x.shape[:2], -1)

    def loss(self, meta: Params, adapted: Params, batch: Batch, *, key: Tensor | None = None) -> Tensor:
        criterion = "mse" if self.trees.kind == "regression" else "cross_entropy"
        return task_losses(criterion, self.predict(meta, adapted, batch.x), batch)

    @property
    def fits_directly(self) -> bool:
        return True

    @property
    def fits_on_episodes(self) -> bool:
        return self.support

    @property
    def closed_form(self) -> bool:
        return True

    def fit(self, meta: Params, rows: Batch) -> Params | None:
        """The line through the rows of all tasks, before `fit_episodes` grows the trees; without it the trees."""
        if not self.support:
            inside = row_weights(rows, rows.x).cpu() > 0
            task = np.repeat(np.arange(len(inside)), inside.sum(1).numpy())
            return self._grown(meta, rows.x.cpu()[inside].numpy(), rows.y.cpu()[inside].numpy(), task)
        return {**meta, **fit_line(rows.x, self._targets(rows), row_weights(rows, rows.x))}

    def fit_episodes(self, meta: Params, episodes: Sequence[tuple[list[str], Episode]]) -> Params:
        """Grow the trees on the query rows of episodes, tasks counting equally."""
        parts = [self._training_rows(meta, names, episode) for names, episode in episodes]
        return self._grown(meta, *(np.concatenate(part) for part in zip(*parts, strict=True)))

    def _grown(self, meta: Params, x: np.ndarray, y: np.ndarray, task: np.ndarray) -> Params:
        """With trees on such rows, tasks counting equally."""
        number, size = np.unique(task, return_inverse=True, return_counts=True)[1:]
        weight = 1 / size[number]
        fitted = self.trees.fit(x, y, groups=task, weight=weight / weight.mean())
        return {**meta, **{name: value.to(meta[name]) for name, value in fitted.items()}}

    def _training_rows(
        self, meta: Params, names: Sequence[str], episode: Episode
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Columns, targets and task of each query row of a stack."""
        meta, episode = to(meta, "cpu"), to(episode, "cpu")
        query = episode.query
        with torch.no_grad():
            x = self._rows(meta, self.adapt(meta, episode.support), query.x)
        inside = row_weights(query, query.x) > 0
        task = np.repeat(np.array(names), inside.sum(1).numpy())
        return x[inside].numpy(), query.y[inside].numpy(), task

    def _nothing(self, meta: Params, count: int) -> Params:
        """What tasks own before they have seen a row."""
        if not self.support:
            return {}
        return no_support(count, self.n_features, self.n_columns, reference(meta))

    def _rows(self, meta: Params, adapted: Params, x: Tensor) -> Tensor:
        """The features and the summary, `(T, n, F + S)`."""
        if not self.support:
            return x
        return torch.cat([x, summary_columns(adapted, x, line_values(meta, x))], -1)

    def _targets(self, batch: Batch) -> Tensor:
        """Targets, or indicators of classes, `(T, n, n_columns)`."""
        if self.trees.kind == "regression":
            return target_columns(batch, self.trees.n_outputs)
        if not batch.y.shape[1]:
            like: Tensor = batch.x
            return like.new_zeros(len(batch.y), 0, self.n_columns)
        return one_hot(batch, self.trees.n_outputs, batch.x)[..., -self.n_columns :]
