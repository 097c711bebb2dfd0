"""Several targets, each learned by itself: rows that know some of them are used for those."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..errors import UsageError
from ..models.losses import known_targets
from ..models.network import Features, Network, Params
from ..tasks.episodes import Batch, Episode, map_tensors
from ..tasks.sources import RowSource
from .heads.base import row_weights
from .learner import Learner, MetaGradient, Metrics, Recipe, Step

__all__ = ["PerTarget", "of_target", "per_target", "require_targets"]

_STATE = "state/"


def per_target(learner: Learner, n_targets: int) -> PerTarget:
    r"""Let a learner of one target learn each of several, from the rows in which it is known.

    A target that a row does not know is NaN; for the learner of that target the row is padding. The loss of a task is
    $\sum_c n_c L_c / \sum_c n_c$ for the losses $L_c$ of the targets and the number $n_c$ of rows that know each, so
    every value that is known counts equally. Nothing is shared among targets: each has meta-parameters of its own.

    Arguments:
        learner: of one target.
        n_targets: targets `C`.

    Returns:
        The learner of all, which predicts `(T, n, C)`.

    Raises:
        UsageError: there is no target.

    Example:
        >>> from innerloop.algorithms import mixed
        >>> learner = per_target(mixed(1), 2)
        >>> support = Batch(torch.zeros(1, 2, 1), torch.tensor([[[1.0, torch.nan], [1.0, 4.0]]]))
        >>> own = learner.adapt(learner.init(), support)
        >>> [
        ...     round(value, 2)
        ...     for value in learner.predict(learner.init(), own, torch.zeros(1, 1, 1)).flatten().tolist()
        ... ]
        [0.67, 2.0]
    """
    if n_targets < 1:
        raise UsageError(f"n_targets={n_targets}: give 1 or more")
    recipe = None if learner.recipe is None else {**learner.recipe, "per_target": n_targets}
    again = functools.partial(per_target, learner, n_targets)
    return PerTarget(learner, n_targets).with_recipe(recipe, again)


@dataclass(frozen=True, eq=False)
class PerTarget(Learner):
    """See `per_target`."""

    learner: Learner
    n_targets: int
    recipe: Recipe | None = None
    network: Network = field(init=False)
    metagrad: MetaGradient = field(init=False)
    inner_steps: int = field(init=False)

    def __post_init__(self) -> None:
        """Take over what the learner of a target is."""
        object.__setattr__(self, "network", self.learner.network)
        object.__setattr__(self, "metagrad", _each_target(self.learner.metagrad))
        object.__setattr__(self, "inner_steps", self.learner.inner_steps)

    @property
    def takes_partial(self) -> bool:
        return True

    def init(self) -> Params:
        return _joined([self.learner.init() for _ in range(self.n_targets)])

    def own_like(self, meta: Params) -> Params:
        return _joined([self.learner.own_like(own) for own in self._parts(meta)])

    def path(
        self, meta: Params, support: Batch, *, steps: int | None = None, key: Tensor | None = None
    ) -> Iterator[Params]:
        parts = zip(self._parts(meta), self._rows(support), strict=True)
        paths = [self.learner.path(own, rows, steps=steps, key=key) for own, rows in parts]
        for adapted in zip(*paths, strict=True):
            yield _joined(adapted)

    def adapt(
        self, meta: Params, support: Batch, *, steps: int | None = None, key: Tensor | None = None
    ) -> Params:
        parts = zip(self._parts(meta), self._rows(support), strict=True)
        return _joined([self.learner.adapt(own, rows, steps=steps, key=key) for own, rows in parts])

    def predict(self, meta: Params, adapted: Params, x: Features, *, key: Tensor | None = None) -> Tensor:
        """Values `(T, n, C)`."""
        parts = zip(self._parts(meta), self._parts(adapted), strict=True)
        return torch.cat([self.learner.predict(own, task, x, key=key) for own, task in parts], -1)

    def variance(self, meta: Params, adapted: Params, x: Features) -> Tensor | None:
        parts = zip(self._parts(meta), self._parts(adapted), strict=True)
        found = [self.learner.variance(own, task, x) for own, task in parts]
        said = [each for each in found if each is not None]
        return torch.cat(said, -1) if len(said) == self.n_targets else None

    def loss(self, meta: Params, adapted: Params, batch: Batch, *, key: Tensor | None = None) -> Tensor:
        """The mean over the known values of each task, `(T,)`."""
        rows = self._rows(batch)
        parts = zip(self._parts(meta), self._parts(adapted), rows, strict=True)
        return _mean_of_targets(
            [self.learner.loss(own, task, part, key=key) for own, task, part in parts], rows
        )

    def observe(self, meta: Params, episode: Episode) -> Params:
        parts = zip(self._parts(meta), self.episodes(episode), strict=True)
        return _joined([self.learner.observe(own, part) for own, part in parts])

    @property
    def fits_directly(self) -> bool:
        return self.learner.fits_directly

    def fit(self, meta: Params, rows: Batch) -> Params | None:
        return self._fitted(self.learner.fit, meta, rows)

    def fit_again(self, meta: Params, rows: Batch) -> Params | None:
        return self._fitted(self.learner.fit_again, meta, rows)

    def _fitted(
        self, fit: Callable[[Params, Batch], Params | None], meta: Params, rows: Batch
    ) -> Params | None:
        parts = zip(self._parts(meta), self._rows(rows), strict=True)
        found = [fit(own, _tasks_with_rows(part)) for own, part in parts]
        fitted = [each for each in found if each is not None]
        return _joined(fitted) if len(fitted) == self.n_targets else None

    @property
    def fits_on_episodes(self) -> bool:
        return self.learner.fits_on_episodes

    def fit_episodes(self, meta: Params, episodes: Sequence[tuple[list[str], Episode]]) -> Params:
        by_target = zip(*(self.episodes(episode) for _, episode in episodes), strict=True)
        return _joined(
            [
                self.learner.fit_episodes(
                    own, [(names, part) for (names, _), part in zip(episodes, parts, strict=True)]
                )
                for own, parts in zip(self._parts(meta), by_target, strict=True)
            ]
        )

    def remarks(self, meta: Params, rows: Batch) -> tuple[str, ...]:
        parts = enumerate(zip(self._parts(meta), self._rows(rows), strict=True), 1)
        return tuple(
            f"target {number}: {remark}"
            for number, (own, part) in parts
            for remark in self.learner.remarks(own, _tasks_with_rows(part))
        )

    @property
    def adapts_by_gradient(self) -> bool:
        return self.learner.adapts_by_gradient

    @property
    def closed_form(self) -> bool:
        return self.learner.closed_form

    def with_inner_steps(self, count: int) -> Learner:
        return per_target(self.learner.with_inner_steps(count), self.n_targets)

    def first_order(self) -> Learner:
        return per_target(self.learner.first_order(), self.n_targets)

    def checkpointed(self) -> Learner:
        return per_target(self.learner.checkpointed(), self.n_targets)

    def episodes(self, episode: Episode) -> list[Episode]:
        """The episode as the learner of each target sees it."""
        return [Episode(*pair) for pair in zip(*(self._rows(batch) for batch in episode), strict=True)]

    def _rows(self, batch: Batch) -> list[Batch]:
        if batch.y.dim() < 3:  # without a row, the base has a support without columns
            return [batch] * self.n_targets
        return [of_target(batch, target, self.n_targets) for target in range(self.n_targets)]

    def _parts(self, values: Params) -> list[Params]:
        return [_part(values, target) for target in range(self.n_targets)]


def of_target(batch: Batch, target: int, count: int) -> Batch:
    """The rows of stacked tasks for one of `count` targets: rows that do not know it are padding.

    Raises:
        UsageError: the rows have another number of targets.

    Example:
        >>> rows = Batch(torch.zeros(1, 2, 1), torch.tensor([[[1.0, 2.0], [3.0, torch.nan]]]))
        >>> own = of_target(rows, 1, 2)
        >>> own.y.tolist(), own.weight.tolist()
        ([[[2.0], [0.0]]], [[1.0, 0.0]])
    """
    if batch.y.shape[2:] != (count,):
        raise UsageError(
            f"a row has targets of shape {tuple(batch.y.shape[2:])}, and this learner was made for {count}: give one "
            "column a target"
        )
    y, known = known_targets(batch.y[..., target : target + 1])
    counted = known[..., 0].to(y.dtype)
    if batch.weight is None:
        return Batch(batch.x, y, counted)
    return Batch(batch.x, y, batch.weight * (counted if batch.weight.dim() < 3 else counted[..., None]))


def _name(name: str, target: int) -> str:
    """What learns by watching keeps its `state/` in front."""
    state = _STATE if name.startswith(_STATE) else ""
    return f"{state}target_{target}/{name.removeprefix(state)}"


def _part(values: Params, target: int) -> Params:
    """The values that belong to a target, by the names that the learner has for them."""
    inside = f"target_{target}/"
    return {
        name.replace(inside, "", 1): value
        for name, value in values.items()
        if name.removeprefix(_STATE).startswith(inside)
    }


def _joined(parts: Sequence[Params]) -> Params:
    return {_name(name, target): value for target, own in enumerate(parts) for name, value in own.items()}


def _mean_of_targets(losses: Sequence[Tensor], rows: Sequence[Batch]) -> Tensor:
    """The mean of the losses of each task `(T,)`, a target counting as often as rows know it."""
    counts = torch.stack([row_weights(own, losses[0]).sum(1) for own in rows])
    return (torch.stack([*losses]) * counts).sum(0) / counts.sum(0).clamp(min=1)


def _tasks_with_rows(rows: Batch) -> Batch:
    """The tasks that have a row at all."""
    some = row_weights(rows, rows.y).sum(1) > 0
    chosen: Batch = rows if bool(some.all()) else map_tensors(lambda t: t[some], rows)
    return chosen


def _each_target(metagrad: MetaGradient) -> MetaGradient:
    """The meta-gradient of each target's learner by itself."""

    def compute(
        learner: Learner, meta: Params, episode: Episode, step: Step, key: Tensor | None
    ) -> tuple[Params, Metrics]:
        assert isinstance(learner, PerTarget)
        grads, losses, rows = [], [], []
        for target, own in enumerate(learner.episodes(episode)):
            inside, seen = learner.learner.unwrap(own)
            grad, metrics = metagrad.compute(inside, _part(meta, target), seen, step, key)
            grads.append(grad)
            losses.append(metrics["losses"])
            rows.append(own.query)
        return _joined(grads), {"losses": _mean_of_targets(losses, rows)}

    return MetaGradient(f"{metagrad.name}, each target by itself", compute, phase=metagrad.phase)


def require_targets(learner: Learner, source: object) -> None:
    """Refuse tasks whose rows know some of several targets for a learner that takes all or none.

    Raises:
        UsageError: it is such a learner.

    Example:
        >>> from innerloop.algorithms import mixed
        >>> from innerloop.tasks import arrays
        >>> y = torch.rand(40, 2).index_fill(0, torch.tensor([3]), torch.nan)
        >>> y[3, 0] = 1.0
        >>> require_targets(mixed(1, 2), arrays(torch.rand(40, 1), y, torch.arange(40) // 5).train)
        Traceback (most recent call last):
        innerloop.errors.UsageError: target 2 of 2 is not known in 1 of 30 rows (NaN), and mixed needs all targets ...
    """
    targets = getattr(source, "targets", None)
    if targets is None or not targets.partial or learner.takes_partial:
        return
    where = "some rows know some of several targets only"
    if isinstance(source, RowSource):
        unknown = source.y.isnan().sum(0)
        target = int(unknown.argmax())
        where = f"target {target + 1} of {len(unknown)} is not known in {int(unknown[target])} of {len(source.y)} rows"
    raise UsageError(
        f"{where} (NaN), and {learner.called} needs all targets of a row: give a loss that leaves out what is not "
        "known (loss='known_mse', of maml and its like), or each target a learner of its own "
        "(innerloop.algorithms.per_target)"
    )
