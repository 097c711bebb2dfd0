"""What a task's support says before anything is learned from it: level and scale of columns, and its classes.

`per_task` puts this around any learner. What it finds becomes part of what the task owns, so that training,
evaluation, prediction and adapted directories use the same values.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypedDict

import torch
from torch import Tensor

from ..errors import UsageError
from ..models.losses import known_targets
from ..models.network import Features, Network, Params, reference
from ..tasks.episodes import Batch, Episode, all_draws
from .heads.base import row_weights
from .learner import Learner, MetaGradient, Recipe

__all__ = ["PerTask", "PerTaskOptions", "per_task"]

_PREFIX = "support."
# the logit of a class that the support does not have
_NEVER = -1e9


class PerTaskOptions(TypedDict, total=False):
    """Arguments of `per_task`, as a recipe holds them."""

    features: list[bool]
    n_targets: int
    n_classes: int


def per_task(
    learner: Learner, *, features: Sequence[bool] = (), n_targets: int = 0, n_classes: int = 0
) -> PerTask:
    r"""A learner that first takes level and scale, or the classes, from each task's support.

    Of `n` support rows $x_1, ..., x_n$ of a column whose scale over meta-train is 1, it takes

    $$ m = \frac1n \sum_i x_i, \qquad s^2 = \frac1n \Bigl(1 + \sum_i (x_i - m)^2\Bigr) $$

    and hands $(x - m) / s$ to the learner, for query rows too. One further squared deviation of 1, that of
    meta-train, keeps $s$ from zero where rows are few or equal; without a row $m = 0$ and $s = 1$. Targets are
    treated in the same way, and predictions turned back: the loss is in units of the task.

    Arguments:
        learner: what adapts.
        features: `(F,)` features to scale; none if empty. Those that are constant within tasks would lose what
            they say, so they are left out.
        n_targets: targets of regression to scale; 0 for none.
        n_classes: outputs of a classifier whose tasks have classes of their own: what the support of a task does
            not have is never predicted; 0 for classes that all tasks share.

    Raises:
        UsageError: there is nothing to do.

    Example:
        >>> from innerloop.algorithms import maml
        >>> from innerloop.models import build
        >>> learner = per_task(maml(build("mlp", n_in=1), loss="mse"), features=[True], n_targets=1)
        >>> support = Batch(torch.tensor([[[4.0], [6.0]]]), torch.tensor([[[10.0], [10.0]]]))
        >>> own = learner.adapt(learner.init(), support, steps=0)
        >>> own["support.x_mean"].item(), round(own["support.x_scale"].item() ** 2, 3)
        (5.0, 1.5)
    """
    if not any(features) and not n_targets and not n_classes:
        raise UsageError("per_task has nothing to do: name features, targets or classes")
    scaled = [bool(each) for each in features]
    parts: PerTaskOptions = {"features": scaled, "n_targets": n_targets, "n_classes": n_classes}
    recipe: Recipe | None = None if learner.recipe is None else {**learner.recipe, "per_task": parts}
    again = functools.partial(per_task, learner, **parts)
    return PerTask(learner, tuple(scaled), n_targets, n_classes).with_recipe(recipe, again)


@dataclass(frozen=True, eq=False)
class PerTask(Learner):
    """See `per_task`."""

    learner: Learner
    features: tuple[bool, ...]
    n_targets: int
    n_classes: int
    network: Network = field(init=False)
    metagrad: MetaGradient = field(init=False)
    inner_steps: int = field(init=False)

    def __post_init__(self) -> None:
        """Take over what the learner inside is."""
        for name in ("network", "metagrad", "inner_steps"):
            object.__setattr__(self, name, getattr(self.learner, name))

    @property
    def adapts_by_gradient(self) -> bool:
        return self.learner.adapts_by_gradient

    @property
    def closed_form(self) -> bool:
        return self.learner.closed_form

    @property
    def takes_partial(self) -> bool:
        return self.learner.takes_partial

    def unwrap(self, episode: Episode) -> tuple[Learner, Episode]:
        """The learner inside, and the episode with scaled rows."""
        own = self._own(episode.support)
        return self.learner.unwrap(Episode(*(self._scaled_rows(own, batch) for batch in episode)))

    def init(self) -> Params:
        return self.learner.init()

    def for_classes(self, meta: Params, count: int) -> tuple[Learner, Params]:
        learner, resized = self.learner.for_classes(meta, count)
        return PerTask(learner, self.features, self.n_targets, self.n_classes and count), resized

    def own_like(self, meta: Params) -> Params:
        like, own = reference(meta), dict[str, Tensor]()
        for name, width in (("x", len(self.features)), ("y", self.n_targets)):
            if width:
                own |= {f"{_PREFIX}{name}_mean": like.new_zeros(1, 1, width)}
                own |= {f"{_PREFIX}{name}_scale": like.new_ones(1, 1, width)}
        if self.n_classes:
            own[f"{_PREFIX}classes"] = like.new_zeros(1, 1, self.n_classes)
        return {**self.learner.own_like(meta), **own}

    def path(
        self, meta: Params, support: Batch, *, steps: int | None = None, key: Tensor | None = None
    ) -> Iterator[Params]:
        own = self._own(support)
        for adapted in self.learner.path(meta, self._scaled_rows(own, support), steps=steps, key=key):
            yield {**adapted, **own}

    def adapt(
        self, meta: Params, support: Batch, *, steps: int | None = None, key: Tensor | None = None
    ) -> Params:
        own = self._own(support)
        return {**self.learner.adapt(meta, self._scaled_rows(own, support), steps=steps, key=key), **own}

    def predict(self, meta: Params, adapted: Params, x: Features, *, key: Tensor | None = None) -> Tensor:
        own, inside = _apart(adapted)
        out: Tensor = self.learner.predict(meta, inside, self._scaled(own, "x", x), key=key)
        if self.n_targets:
            out = out * own[f"{_PREFIX}y_scale"] + own[f"{_PREFIX}y_mean"]
        if self.n_classes:
            known = own[f"{_PREFIX}classes"]
            # without support, every class may be
            out = torch.where((known > 0) | (known.sum(-1, keepdim=True) == 0), out, out.new_tensor(_NEVER))
        return out

    def loss(self, meta: Params, adapted: Params, batch: Batch, *, key: Tensor | None = None) -> Tensor:
        """In units of the task where targets are scaled."""
        own, inside = _apart(adapted)
        return self.learner.loss(meta, inside, self._scaled_rows(own, batch), key=key)

    def variance(self, meta: Params, adapted: Params, x: Features) -> Tensor | None:
        own, inside = _apart(adapted)
        variance = self.learner.variance(meta, inside, self._scaled(own, "x", x))
        if variance is None or not self.n_targets:
            return variance
        return variance * own[f"{_PREFIX}y_scale"].square()

    def _own(self, support: Batch) -> Params:
        """What the support of each task says, with a leading task axis."""
        own: Params = {}
        support = all_draws(support)
        if self.features:
            rows = row_weights(support, support.x)[..., None]
            scaled = torch.tensor(self.features, device=support.x.device)
            own |= _moments("x", support.x, rows, scaled)
        if self.n_targets:
            # without a row, the base has a support without columns
            y = support.y if support.y.dim() == 3 else support.x.new_zeros(len(support.y), 0, self.n_targets)
            every = y.new_ones(self.n_targets, dtype=torch.bool)
            y, known = known_targets(y)
            own |= _moments("y", y, known * row_weights(support, y)[..., None], every)
        if self.n_classes:
            classes = torch.nn.functional.one_hot(support.y.long(), self.n_classes).to(support.x.dtype)
            rows = classes if support.weight is None else classes * support.weight[..., None]
            own[f"{_PREFIX}classes"] = (rows.sum(1, keepdim=True) > 0).to(support.x.dtype)
        return own

    def _scaled_rows(self, own: Params, batch: Batch) -> Batch:
        """The rows as the learner inside sees them; padding stays zero."""
        x, y = self._scaled(own, "x", batch.x), batch.y
        if self.n_targets and y.dim() == 3:
            y = self._scaled(own, "y", y)
        weight = all_draws(batch).weight
        if weight is None:
            return Batch(x, y)
        rows = (weight > 0)[..., None]
        y = torch.where(rows, y, torch.zeros_like(y)) if y.dim() == 3 else y
        return Batch(x * rows.to(x.dtype) if self.features else x, y, batch.weight)

    def _scaled(self, own: Params, name: str, values: Features) -> Features:
        mean = own.get(f"{_PREFIX}{name}_mean")
        return values if mean is None else (values - mean) / own[f"{_PREFIX}{name}_scale"]


def _moments(name: str, values: Tensor, rows: Tensor, scaled: Tensor) -> Params:
    """Mean and scale `(T, 1, F)` of the support rows that count; 0 and 1 for columns that are not scaled."""
    count = rows.sum(1, keepdim=True).clamp(min=1)
    mean = (values * rows).sum(1, keepdim=True) / count
    squares = ((values - mean).square() * rows).sum(1, keepdim=True)
    scale = ((1 + squares) / count).sqrt()
    return {
        f"{_PREFIX}{name}_mean": torch.where(scaled, mean, torch.zeros_like(mean)),
        f"{_PREFIX}{name}_scale": torch.where(scaled, scale, torch.ones_like(scale)),
    }


def _apart(adapted: Params) -> tuple[Params, Params]:
    """What the support said, and what the learner inside adapted."""
    own = {name: value for name, value in adapted.items() if name.startswith(_PREFIX)}
    return own, {name: value for name, value in adapted.items() if name not in own}
