"""What a learner is: a pure recipe of how to adapt and predict.

A learner holds no trained parameters. Meta-parameters come in as a dict; what adaptation makes of them goes out
as a dict of the values each task owns, with a leading task axis `T`; everything else stays shared. The same
`adapt` serves training, evaluation, estimators and the command.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Self, TypeVar

import torch
from torch import Tensor, nn

from ..engine.modes import tracing
from ..errors import UsageError
from ..models.losses import Loss
from ..models.network import Features, Network, Params
from ..notebook import as_html
from ..tasks.episodes import Batch, Episode, equal_sizes, tensors

__all__ = [
    "Learner",
    "MetaGradient",
    "Metrics",
    "Recipe",
    "Step",
    "empty",
    "require_steps",
    "resized_recipe",
    "without_padding",
]

R = TypeVar("R")
Metrics = dict[str, Tensor]
# Plain data from which a learner is made again: `algorithm`, its registered name; `settings`, its arguments (a loss
# of one's own is `external`); `model`, name and settings of a built-in one, or `external`; `per_target`, how many
# targets are learned, each by itself; `per_task`, arguments of `per_task`; `members`, the recipes of what a
# combination averages; `defined_in`, the module of an algorithm that is not of this package, for people to read.
Recipe = dict[str, Any]


_MOST_STEPS = 10_000


def require_steps(inner_steps: int) -> None:
    """Refuse a number of inner steps that is negative, or so high that adaptation would not end.

    Raises:
        UsageError: it is.

    Example:
        >>> require_steps(-1)
        Traceback (most recent call last):
        innerloop.errors.UsageError: inner_steps=-1: give 0 to 10000
    """
    if not 0 <= inner_steps <= _MOST_STEPS:
        raise UsageError(f"inner_steps={inner_steps}: give 0 to {_MOST_STEPS}")


class Learner(ABC):
    """How an algorithm adapts and predicts: what training, evaluation and the command need to know of it.

    For an algorithm of one's own, derive from this class, set `network` and `metagrad`, and write `init`, `path`,
    `own_like`, `predict` and `loss`; all else has a default.

    Arguments of the methods:
        meta: meta-parameters by name.
        support, batch: rows of `T` stacked tasks.
        adapted: what `adapt` returned; values with a leading axis `T`.
        key: `(T,)` int64, dropout streams of the tasks; `None` for none (prediction, evaluation).

    Attributes:
        network: the model.
        metagrad: how the gradient comes back.
        recipe: name and settings from which `algorithms.build` makes the learner again; `None` if it cannot.
        made_by: the call that made the learner, by which it is pickled; `None`: by its parts.
        inner_steps: inner steps in training; 0 where adaptation takes none.

    Example:
        >>> from innerloop.algorithms import mixed
        >>> learner = mixed(1)
        >>> meta, support = learner.init(), Batch(torch.zeros(4, 2, 1), torch.zeros(4, 2, 1))
        >>> learner.predict(meta, learner.adapt(meta, support), torch.zeros(4, 7, 1)).shape
        torch.Size([4, 7, 1])
    """

    network: Network
    metagrad: MetaGradient
    recipe: Recipe | None = None
    made_by: Callable[[], Learner] | None = None
    inner_steps: int = 0

    @abstractmethod
    def init(self) -> Params:
        """Fresh meta-parameters."""

    @abstractmethod
    def path(
        self, meta: Params, support: Batch, *, steps: int | None = None, key: Tensor | None = None
    ) -> Iterator[Params]:
        """Adapted values after 0, 1, ... inner steps; the first predicts without having seen a target."""

    @abstractmethod
    def own_like(self, meta: Params) -> Params:
        """Values of the names, shapes and types that one task owns, with a leading axis of 1.

        An axis of length 0 is as long as the task has support rows, or shorter; see `inner.owned`.
        """

    @abstractmethod
    def predict(self, meta: Params, adapted: Params, x: Features, *, key: Tensor | None = None) -> Any:
        """Predictions `(T, n, *out)`."""

    @abstractmethod
    def loss(self, meta: Params, adapted: Params, batch: Batch, *, key: Tensor | None = None) -> Tensor:
        """Mean loss of each task, `(T,)`."""

    def scored(self, meta: Params, adapted: Params, batch: Batch) -> tuple[Any, Tensor]:
        """`predict` and `loss` of the same rows, for whoever needs both (see `without_padding`)."""
        return self.predict(meta, adapted, batch.x), self.loss(meta, adapted, batch)

    def adapt(
        self, meta: Params, support: Batch, *, steps: int | None = None, key: Tensor | None = None
    ) -> Params:
        """The last of `path`."""
        for adapted in self.path(meta, support, steps=steps, key=key):  # noqa: B007  a list would hold them all
            pass
        return adapted

    def observe(self, meta: Params, episode: Episode) -> Params:
        """New values of the meta-parameters `state/...`, which learn by watching training, not by gradients."""
        return {}

    def variance(self, meta: Params, adapted: Params, x: Features) -> Tensor | None:
        """Predictive variance of the values `(T, n, C)`, noise included; `None` where nothing is said of it."""
        return None

    @property
    def takes_partial(self) -> bool:
        """Whether rows may know some of several targets only, NaN for the others."""
        return False

    @property
    def fits_directly(self) -> bool:
        """Whether `fit` finds the meta-parameters, so that the trainer draws rows for it."""
        return False

    def fit(self, meta: Params, rows: Batch) -> Params | None:
        """Meta-parameters by direct optimisation on all rows of the meta-train tasks; `None`: gradients find them."""
        return None

    def fit_again(self, meta: Params, rows: Batch) -> Params | None:
        """The meta-parameters of a direct fit to other rows, its predictions in the units of the fit in `meta`."""
        return self.fit(meta, rows)

    def remarks(self, meta: Params, rows: Batch) -> tuple[str, ...]:
        """What people should know of the `fit` that found `meta` from these rows, a sentence each."""
        return ()

    @property
    def fits_classes(self) -> bool:
        """Whether `fit` asks for every row of the meta-train classes once, each class numbered."""
        return False

    @property
    def fits_on_episodes(self) -> bool:
        """Whether `fit_episodes` completes what `fit` finds."""
        return False

    def fit_episodes(self, meta: Params, episodes: Sequence[tuple[list[str], Episode]]) -> Params:
        """Meta-parameters by direct optimisation on stacks of episodes and the names of their tasks."""
        return meta

    def unwrap(self, episode: Episode) -> tuple[Learner, Episode]:
        """The learner that the meta-gradient is taken of, and the episode as it sees it: a wrapper's inside."""
        return self, episode

    def with_recipe(self, recipe: Recipe | None, made_by: Callable[[], Learner] | None = None) -> Self:
        """The same learner with another recipe, and the call that makes it again."""
        learner = copy.copy(self)
        object.__setattr__(learner, "recipe", recipe)
        object.__setattr__(learner, "made_by", made_by)
        return learner

    @property
    def called(self) -> str:
        """The name of its algorithm; of a learner assembled by hand, that of its class."""
        return str((self.recipe or {}).get("algorithm", type(self).__name__))

    def _repr_html_(self) -> str:
        """What notebooks show: the algorithm, its network and its settings."""
        recipe = self.recipe or {}
        network = recipe.get("model")
        name = network.get("name") if isinstance(network, dict) else network
        steps = self.inner_steps or None
        facts = {"network": name, "inner_steps": steps, **recipe.get("settings", {})}
        return as_html(f"Learner: {self.called}", facts)

    def __copy__(self) -> Self:
        """Another object of the same parts."""
        learner = object.__new__(type(self))
        learner.__dict__.update(self.__dict__)
        return learner

    def __reduce__(self) -> str | tuple[Any, ...]:
        """Pickled as the call that made it: its parts are functions inside functions, which have no name.

        Raises:
            UsageError: the module was changed since, so that the call would make another learner.
        """
        if self.made_by is None:
            return object.__new__, (type(self),), self.__dict__
        again, meta = self.made_by().init(), self.init()
        if again.keys() != meta.keys() or not all(torch.equal(again[name], meta[name]) for name in meta):
            raise UsageError(
                "this learner cannot be pickled: its module was changed after it was made; "
                "make the learner again, or give it a copy of the module"
            )
        return self.made_by, ()

    @property
    def adapts_by_gradient(self) -> bool:
        """Whether inner steps follow a gradient, so that they have a derivative order and can be checkpointed."""
        return False

    @property
    def closed_form(self) -> bool:
        """Whether adaptation is a formula, so that a number of inner steps means nothing."""
        return False

    @property
    def plain_loss(self) -> Loss | None:
        """The loss of an ordinary model with these meta-parameters; `None` where prediction needs a support set."""
        return None

    def for_classes(self, meta: Params, count: int) -> tuple[Learner, Params]:
        """The same learner for `count` classes, whose numbers mean nothing, and its meta-parameters.

        Raises:
            UsageError: its last layer has an output for each class of an episode, and no more.
        """
        name = (self.recipe or {}).get("algorithm", type(self).__name__)
        raise UsageError(
            f"{name} has an output layer of fixed width, one output for each class of an episode: for any number of "
            "classes train two_covariance, protonet, ridge or gaussian"
        )

    def class_means(self, meta: Params, x: Features) -> Tensor | None:
        """The one row `(1, 1, F)` that says all of rows `(1, n, *feature)` of a class; `None`: the rows themselves do.

        With the number of rows as its weight it is what `adapt_to_means` takes.
        """
        return None

    def adapt_to_means(self, meta: Params, means: Batch) -> Params:
        """What `adapt` would give for rows of which `class_means` has made these.

        Raises:
            UsageError: this learner has no such rows.
        """
        raise UsageError(f"{type(self).__name__} adapts to rows, not to means of classes")

    def with_inner_steps(self, count: int) -> Learner:
        """The same learner with another number of inner steps in training."""
        return self

    def first_order(self) -> Learner:
        """The same learner whose inner gradients are constants of the meta-gradient."""
        return self

    def checkpointed(self) -> Learner:
        """The same learner with activation checkpointing of its inner steps."""
        return self

    def module_of(self, meta: Params, own: Params) -> nn.Module | None:
        """The ordinary module that predicts as a task with values `own` does; `None`: there is none."""
        return None

    def run(self, function: Callable[..., R], *arguments: object) -> R:
        """Call a part of the inner loop, with activation checkpointing if `checkpointed` asked for it."""
        return function(*arguments)


def _nothing_to_check(learner: Learner) -> None:
    return


def _one_phase(step: int) -> int:
    return 0


class Step(NamedTuple):
    """Which meta-update it is, for meta-gradients that change in the course of training.

    Arguments:
        number: from 0; a tensor `()` where one graph serves several updates.
        phase: number of the first update that is computed in the same way.
    """

    number: int | Tensor
    phase: int


@dataclass(frozen=True)
class MetaGradient:
    """How the gradient comes back.

    Arguments:
        name: for messages.
        compute: (learner, meta, episode, step, key) -> the gradient of every meta-parameter by name, and
            metrics for the log, `losses` `(T,)` among them.
        check: raises `UsageError` for a learner that would run and train nothing, or wrongly.
        phase: number of a meta-update -> that of the first one which is computed in the same way.
    """

    name: str
    compute: Callable[[Learner, Params, Episode, Step, Tensor | None], tuple[Params, Metrics]]
    check: Callable[[Learner], None] = _nothing_to_check
    phase: Callable[[int], int] = _one_phase

    def __call__(
        self,
        learner: Learner,
        meta: Params,
        episode: Episode,
        step: int | Step = 0,
        key: Tensor | None = None,
    ) -> tuple[Params, Metrics]:
        """The meta-gradient at one meta-update; `key` are the dropout streams of the tasks.

        New values of the entries `state/...` are among the metrics, under their names; their gradient is 0.
        """
        step = step if isinstance(step, Step) else Step(step, self.phase(step))
        parts = without_padding(learner, episode)
        if len(parts) == 1:
            return self._of_part(learner, meta, parts[0][1], step, key)
        results = [
            self._of_part(learner, meta, part, step, None if key is None else key[positions])
            for positions, part in parts
        ]
        return _mean_of_parts(results, [positions for positions, _ in parts])

    def _of_part(
        self, learner: Learner, meta: Params, episode: Episode, step: Step, key: Tensor | None
    ) -> tuple[Params, Metrics]:
        learner, episode = learner.unwrap(episode)
        grads, metrics = self.compute(learner, meta, episode, step, key)
        with torch.no_grad():
            state = learner.observe(meta, episode)
        return grads | {n: torch.zeros_like(meta[n]) for n in state}, metrics | state


def without_padding(
    learner: Learner, episode: Episode, *, predicting: bool = False
) -> list[tuple[list[int], Episode]]:
    """The stack as it is, or where the model would see padded rows, groups of tasks of equal sizes.

    Arguments:
        learner: whose model.
        episode: stacked tasks.
        predicting: predictions are asked for, which know of no weights; losses do, so that BatchNorm can
            leave padding out.

    Returns:
        The positions of the tasks of each group in the stack, and the group.
    """
    whole = [(list(range(episode.n_tasks)), episode)]
    if all(batch.weight is None for batch in episode):
        return whole
    network = learner.network
    seen = network.sees_other_rows if predicting else network.rows_interact
    # it takes two rows to tell; a stack of one has padding on the other side only
    larger = max((episode.query, episode.support), key=lambda batch: batch.y.shape[:2].numel())
    if larger.y.shape[:2].numel() < 2:
        return whole
    return equal_sizes(episode) if seen(larger.x) else whole


def _mean_of_parts(
    results: list[tuple[Params, Metrics]], positions: list[list[int]]
) -> tuple[Params, Metrics]:
    """Gradients as the mean over all tasks; metrics of a task each in the order of the stack."""
    total = sum(map(len, positions))
    device = next(iter(results[0][0].values())).device
    order = torch.tensor([position for part in positions for position in part], device=device).argsort()

    def mean(values: list[Tensor]) -> Tensor:
        weighted = [value * (len(part) / total) for value, part in zip(values, positions, strict=True)]
        return torch.stack(weighted).sum(0)

    def joined(name: str, values: list[Tensor]) -> Tensor:
        of_tasks = all(v.shape == (len(part),) for v, part in zip(values, positions, strict=True))
        return torch.cat(values)[order] if of_tasks and not name.startswith("state/") else mean(values)

    grads = {name: mean([grad[name] for grad, _ in results]) for name in results[0][0]}
    return grads, {name: joined(name, [metric[name] for _, metric in results]) for name in results[0][1]}


def empty(batch: Batch) -> bool:
    """Whether some task has no row; not known, and taken for false, while tracing."""
    if next(tensors(batch.x)).shape[1] == 0:
        return True
    return batch.weight is not None and not tracing() and not bool(batch.weight.sum(1).all())


def resized_recipe(recipe: Recipe | None, count: int) -> Recipe | None:
    """The recipe of the same learner for `count` classes.

    Example:
        >>> resized_recipe({"algorithm": "protonet", "settings": {"n_features": 8, "n_outputs": 5}}, 20)
        {'algorithm': 'protonet', 'settings': {'n_features': 8, 'n_outputs': 20}}
    """
    if recipe is None:
        return None
    return {**recipe, "settings": {**recipe["settings"], "n_outputs": count}}
