"""Learners: pure recipes that turn a support set into something that predicts.

A learner holds no trained parameters. Meta-parameters come in as a dict, what adaptation makes of them goes
out as a dict of the values each task owns, with a leading task axis `T`; everything else stays shared. The
same `adapt` serves training, evaluation, estimators and the command.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from .episodes import (
    Batch,
    Episode,
    all_draws,
    as_tensors,
    at_step,
    equal_sizes,
    map_tensors,
    stack,
    tensors,
    unsqueeze,
)
from .errors import DataError, UsageError
from .functional import Network, Params
from .heads import Head, Spread
from .inner import InnerRule
from .layers import fold
from .losses import Loss, require_loss, task_losses
from .tracing import tracing

Recipe = dict[str, Any]

# the query pass has a dropout stream of its own, away from those of the inner steps
_QUERY = 1 << 20


class Learner(Protocol):
    """What the trainer, the evaluation and the command need to know of an algorithm.

    Arguments of the methods:
        meta: meta-parameters by name.
        support, batch: rows of `T` stacked tasks.
        adapted: what `adapt` returned; values with a leading axis `T`.
        key: `(T,)` int64, dropout streams of the tasks; `None` for none (prediction, evaluation).

    Example:
        >>> from innerloop.algorithms import mixed
        >>> learner = mixed(1)
        >>> meta, support = learner.init(), Batch(torch.zeros(4, 2, 1), torch.zeros(4, 2, 1))
        >>> learner.predict(meta, learner.adapt(meta, support), torch.zeros(4, 7, 1)).shape
        torch.Size([4, 7, 1])
    """

    @property
    def network(self) -> Network:
        """The model."""

    @property
    def metagrad(self) -> MetaGradient:
        """How the gradient comes back."""

    @property
    def recipe(self) -> Recipe | None:
        """Name and settings from which `algorithms.build` makes the learner again; `None` if it cannot."""

    def init(self) -> Params:
        """Fresh meta-parameters."""

    def path(
        self, meta: Params, support: Batch, *, steps: int | None = None, key: Tensor | None = None
    ) -> Iterator[Params]:
        """Adapted values after 0, 1, ... inner steps; the first predicts without having seen a target."""

    def adapt(
        self, meta: Params, support: Batch, *, steps: int | None = None, key: Tensor | None = None
    ) -> Params:
        """The last of `path`."""

    def own_like(self, meta: Params) -> Params:
        """Values of the names, shapes and types that one task owns, with a leading axis of 1."""

    def predict(self, meta: Params, adapted: Params, x: Any, *, key: Tensor | None = None) -> Any:
        """Predictions `(T, n, *out)`."""

    def loss(self, meta: Params, adapted: Params, batch: Batch, *, key: Tensor | None = None) -> Tensor:
        """Mean loss of each task, `(T,)`."""

    def observe(self, meta: Params, episode: Episode) -> Params:
        """New values of the meta-parameters `state/...`, which learn by watching training, not by gradients."""

    def variance(self, meta: Params, adapted: Params, x: Any) -> Tensor | None:
        """Predictive variance of the values `(T, n, C)`, noise included; `None` where nothing is said of it."""


Metrics = dict[str, Tensor]


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
            figures for the log, `losses` `(T,)` among them.
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

        New values of the entries `state/...` are among the figures, under their names; their gradient is 0.
        """
        step = step if isinstance(step, Step) else Step(step, self.phase(step))
        parts = without_padding(learner, episode)
        if len(parts) == 1:
            return self._of_part(learner, meta, parts[0][1], step, key)
        found = [
            self._of_part(learner, meta, part, step, None if key is None else key[places])
            for places, part in parts
        ]
        return _mean_of_parts(found, [places for places, _ in parts])

    def _of_part(
        self, learner: Learner, meta: Params, episode: Episode, step: Step, key: Tensor | None
    ) -> tuple[Params, Metrics]:
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
        The places of the tasks of each group in the stack, and the group.
    """
    whole = [(list(range(episode.n_tasks)), episode)]
    if all(batch.weight is None for batch in episode):
        return whole
    network = learner.network
    seen = network.sees_other_rows if predicting else network.rows_interact
    return equal_sizes(episode) if seen(episode.query.x) else whole


def _mean_of_parts(found: list[tuple[Params, Metrics]], places: list[list[int]]) -> tuple[Params, Metrics]:
    """Gradients as the mean over all tasks; figures of a task each in the order of the stack."""
    total = sum(map(len, places))
    order = torch.tensor([place for part in places for place in part]).argsort()

    def mean(values: list[Tensor]) -> Tensor:
        weighted = [value * (len(part) / total) for value, part in zip(values, places, strict=True)]
        return torch.stack(weighted).sum(0)

    def figure(name: str, values: list[Tensor]) -> Tensor:
        of_tasks = all(v.shape == (len(part),) for v, part in zip(values, places, strict=True))
        return torch.cat(values)[order] if of_tasks and not name.startswith("state/") else mean(values)

    grads = {name: mean([grad[name] for grad, _ in found]) for name in found[0][0]}
    return grads, {name: figure(name, [metric[name] for _, metric in found]) for name in found[0][1]}


@dataclass(frozen=True)
class Start:
    """Fast weights that do not start at meta-parameters: zeros (CAVIA), prototypes (ProtoMAML).

    Arguments:
        names: of these fast weights.
        make: (meta, support) -> their values, with a leading task axis.
    """

    names: tuple[str, ...]
    make: Callable[[Params, Batch], Params]


@dataclass(frozen=True, eq=False)
class GradientLearner:
    """Adapts by a few steps of an inner rule on the support loss.

    Arguments:
        network: the model.
        criterion: the loss, on support and query alike.
        rule: the inner rule.
        fast: names of the parameters that adapt.
        inner_steps: steps taken in training, and at prediction unless told otherwise.
        metagrad: how the gradient comes back.
        start: fast weights that start elsewhere than at meta-parameters.
        recipe: see `Learner.recipe`.
    """

    network: Network
    criterion: Loss
    rule: InnerRule
    fast: tuple[str, ...]
    inner_steps: int
    metagrad: MetaGradient
    start: Start | None = None
    recipe: Recipe | None = None

    def __post_init__(self) -> None:
        """Refuse an unknown loss, a negative number of steps, and parts that do not go together."""
        require_loss(self.criterion)
        if self.inner_steps < 0:
            raise UsageError(f"inner_steps={self.inner_steps}: give 0 or more")
        self.metagrad.check(self)

    def init(self) -> Params:
        """The module's initial parameters and what the inner rule learns."""
        params = self.network.params()
        learned = self.rule.meta({name: params[name] for name in self.fast})
        learned |= self.network.step_params(self.inner_steps + 1)
        started = self.start.names if self.start else ()
        return {name: value for name, value in params.items() if name not in started} | learned

    def own_like(self, meta: Params) -> Params:
        """See `Learner.own_like`."""
        like, params = next(iter(meta.values())), self.network.params()
        own = {name: like.new_zeros(1, *params[name].shape) for name in self.fast}
        return {**own, **self.network.statistics_like(like)}

    def path(
        self, meta: Params, support: Batch, *, steps: int | None = None, key: Tensor | None = None
    ) -> Iterator[Params]:
        """See `Learner.path`."""
        for step, fast in enumerate(self._trajectory(meta, support, steps, key)):
            yield self.with_statistics(meta, fast, support, step)

    def adapt(
        self, meta: Params, support: Batch, *, steps: int | None = None, key: Tensor | None = None
    ) -> Params:
        """See `Learner.adapt`."""
        *_, fast = self._trajectory(meta, support, steps, key)
        return self.with_statistics(meta, fast, support, self.inner_steps if steps is None else steps)

    def predict(self, meta: Params, adapted: Params, x: Any, *, key: Tensor | None = None) -> Any:
        """See `Learner.predict`."""
        return self._query(meta, adapted, x, None, key)

    def loss(self, meta: Params, adapted: Params, batch: Batch, *, key: Tensor | None = None) -> Tensor:
        """See `Learner.loss`."""
        return task_losses(self.criterion, self._query(meta, adapted, batch.x, batch.weight, key), batch)

    def _query(self, meta: Params, adapted: Params, x: Any, weight: Tensor | None, key: Tensor | None) -> Any:
        prediction, _ = self.network(
            meta,
            adapted,
            x,
            weight=weight,
            key=None if key is None else fold(key, _QUERY),
            given_statistics=self.network.needs_statistics,
        )
        return prediction

    def _trajectory(
        self, meta: Params, support: Batch, steps: int | None, key: Tensor | None
    ) -> Iterator[Params]:
        count = support.y.shape[0]
        started = self.start.make(meta, all_draws(support)) if self.start else {}
        fast = {
            name: started[name] if name in started else meta[name].expand(count, *meta[name].shape)
            for name in self.fast
        }
        state = self.rule.init(fast, meta)
        yield fast
        for step in range(self.inner_steps if steps is None else steps):
            stream = None if key is None else fold(key, step)
            scaled = {**meta, **self.network.at_step(meta, step)}
            grads, fast = self._support_gradient(scaled, fast, at_step(support, step), stream)
            fast, state = self.rule.update(grads, state, fast, meta)
            yield fast

    def _support_gradient(
        self, meta: Params, fast: Params, support: Batch, key: Tensor | None
    ) -> tuple[Params, Params]:
        """Gradient of each task's support loss at `fast`, and `fast` as it was differentiated."""
        differentiable = torch.is_grad_enabled()

        def leaf(value: Tensor) -> Tensor:
            connected = differentiable and value.requires_grad
            return value if connected else value.detach().requires_grad_()

        fast = {name: leaf(value) for name, value in fast.items()}
        with torch.enable_grad():
            values = torch.autograd.grad(
                self.support_losses(meta, fast, support, key=key).sum(),
                list(fast.values()),
                create_graph=differentiable and not self.rule.first_order,
                materialize_grads=True,
                allow_unused=True,
            )
        return dict(zip(fast, values, strict=True)), fast

    def support_losses(
        self, meta: Params, fast: Params, support: Batch, *, key: Tensor | None = None
    ) -> Tensor:
        """What the inner loop descends: the mean support loss of each task, `(T,)`."""
        support = all_draws(support)
        prediction, _ = self.network(meta, fast, support.x, weight=support.weight, key=key)
        return task_losses(self.criterion, prediction, support)

    def with_statistics(self, meta: Params, fast: Params, support: Batch, step: int) -> Params:
        """Add the BatchNorm statistics that query rows are normalised with after a step."""
        if not self.network.needs_statistics:
            return fast
        if self.network.keeps_statistics:
            return {**fast, **_owned(self.network.at_step(meta, step), support)}
        support = all_draws(support)
        _require_support(support)
        _, statistics = self.network(meta, fast, support.x, weight=support.weight)
        return {**fast, **statistics}

    def observe(self, meta: Params, episode: Episode) -> Params:
        """See `Learner.observe`."""
        return _observed(self, self.network, meta, episode)

    def variance(self, meta: Params, adapted: Params, x: Any) -> Tensor | None:
        """Gradient steps say nothing of it."""
        return None


# share of the newest statistics in a running average; the first ones are averaged evenly
_NEWEST = 0.1


def running_average(meta: Params, seen: Params) -> Params:
    """New values of `state/...` entries: a little of what was just seen, and the count of updates.

    Example:
        >>> meta = {"state/updates": torch.tensor(0.0), "state/a": torch.tensor(1.0)}
        >>> running_average(meta, {"state/a": torch.tensor(3.0)})["state/a"]
        tensor(3.)
    """
    count = meta["state/updates"]
    share = (1 / (count + 1)).clamp(min=_NEWEST)
    moved = {name: meta[name] + share * (value - meta[name]) for name, value in seen.items()}
    return {**moved, "state/updates": count + 1}


def _observed(learner: Learner, network: Network, meta: Params, episode: Episode) -> Params:
    """Running BatchNorm statistics: for each step the mean over tasks of those of the query rows."""
    if not network.keeps_statistics:
        return {}
    query, steps = episode.query, []
    for adapted in learner.path(meta, episode.support):
        _, seen = network(meta, adapted, query.x, weight=query.weight, given_statistics=True)
        steps.append({name: value.detach().mean(0) for name, value in seen.items()})
    kept = {name: meta[f"state/bn/{name}"] for name in steps[0]}
    rows = {
        f"state/bn/{name}": torch.stack([step[name] for step in steps[: len(value)]])
        for name, value in kept.items()
    }
    return running_average(meta, rows)


def _owned(values: Params, support: Batch) -> Params:
    """Shared values as those of each task."""
    count = support.y.shape[0]
    return {name: value.expand(count, *value.shape) for name, value in values.items()}


def empty(batch: Batch) -> bool:
    """Whether some task has no row; not known, and taken for false, while tracing."""
    if next(tensors(batch.x)).shape[1] == 0:
        return True
    return batch.weight is not None and not tracing() and not bool(batch.weight.sum(1).all())


def _require_support(support: Batch) -> None:
    if empty(support):
        raise DataError(
            "batchnorm='support' normalises with the support set, and a task has no support row: "
            "give it a labelled row, or use a model without BatchNorm"
        )


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


@dataclass(frozen=True, eq=False)
class Model:
    """A learner with its meta-parameters: what training returns and a model directory holds.

    Arguments:
        learner: the recipe.
        meta: the meta-parameters.

    Example:
        >>> from innerloop.algorithms import mixed
        >>> learner = mixed(1)
        >>> model = Model(learner, learner.init())
        >>> task = model.adapt(torch.tensor([[0.0], [1.0]]), torch.tensor([[1.0], [1.0]]))
        >>> task(torch.tensor([[2.0]])).shape
        torch.Size([1, 1])
    """

    learner: Learner
    meta: Params

    def adapt(self, x: Any, y: Tensor, *, steps: int | None = None) -> Adapted:
        """Adapt to one task.

        Arguments:
            x: support features `(n, *feature)`, tensors or numpy arrays.
            y: support targets `(n, *target)`.
            steps: inner steps; as in training unless given.

        Returns:
            A callable from query features to predictions; the model itself does not change.
        """
        support = self._like(unsqueeze(Batch(as_tensors(x), as_tensors(y))))
        with torch.no_grad():
            return Adapted(self, self.learner.adapt(self.meta, support, steps=steps))

    def base(self) -> Adapted:
        """What predicts without any support row: the meta-parameters as they are."""
        return Adapted(self, {})

    def to(self, device: torch.device | str) -> Model:
        """The same model on another device."""
        return Model(self.learner, {name: value.to(device) for name, value in self.meta.items()})

    def _like(self, tree: Any) -> Any:
        """Tensors of data on the device and in the precision of the meta-parameters."""
        reference = next(iter(self.meta.values()))

        def match(t: Tensor) -> Tensor:
            return t.to(reference.device, reference.dtype if t.is_floating_point() else None)

        return map_tensors(match, tree)


@dataclass(frozen=True, eq=False)
class Adapted:
    """A model adapted to one task; call it with query features.

    Arguments:
        model: the model it came from.
        own: values of this task, with a leading axis of 1; empty for the base.
    """

    model: Model
    own: Params

    def __call__(self, x: Any) -> Any:
        """Predict `(n, *out)` for features `(n, *feature)`: values, or logits of classes."""
        model = self.model
        with torch.no_grad():
            own, stacked = self._prepared(x)
            return map_tensors(lambda t: t.squeeze(0), model.learner.predict(model.meta, own, stacked))

    def deviation(self, x: Any) -> Tensor:
        """Predictive standard deviation of each value, `(n, C)`, in the units of the targets adapted to.

        Raises:
            UsageError: the algorithm says nothing of it.

        Example:
            >>> from innerloop.algorithms import mixed
            >>> learner = mixed(1)
            >>> task = Model(learner, learner.init()).adapt(torch.zeros(3, 1), torch.ones(3, 1))
            >>> round(
            ...     task.deviation(torch.zeros(1, 1)).item(), 3
            ... )  # noise 1, and a mean known from 3 rows and a prior
            1.118
        """
        model = self.model
        with torch.no_grad():
            own, stacked = self._prepared(x)
            variance = model.learner.variance(model.meta, own, stacked)
        if variance is None:
            raise UsageError(
                "this learner does not say how sure it is of a value: use gaussian, mixed or bmaml; of classes, "
                "every learner gives probabilities"
            )
        return variance.squeeze(0).sqrt()

    def _prepared(self, x: Any) -> tuple[Params, Any]:
        """Values of the task and features as a stack of one."""
        model = self.model
        stacked = model._like(map_tensors(lambda t: t.unsqueeze(0), as_tensors(x)))
        return self.own or next(iter(model.learner.path(model.meta, _no_rows(stacked), steps=0))), stacked

    def classify(self, x: Any) -> Tensor:
        """The most likely class number of each row, `(n,)`."""
        found: Tensor = self(x).argmax(-1)
        return found


def _no_rows(x: Any) -> Batch:
    """An empty support set for one task with features like `x`."""
    empty = map_tensors(lambda t: t[:, :0], x)
    return Batch(empty, torch.zeros(1, 0))


def predict_tasks(
    model: Model,
    supports: Sequence[Batch],
    queries: Sequence[Any],
    *,
    steps: int | None = None,
    at_once: int = 256,
) -> list[Any]:
    """Adapt to many tasks and predict for their query rows, several tasks at a time.

    Arguments:
        model: the model.
        supports: support rows of each task; none of them for the base prediction.
        queries: query features of each task.
        steps: inner steps; as in training unless given.
        at_once: tasks in one stack.

    Returns:
        Predictions of each task, `(n, *out)`.

    Example:
        >>> from innerloop.algorithms import mixed
        >>> learner = mixed(1)
        >>> model = Model(learner, learner.init())
        >>> one, two = Batch(torch.zeros(2, 1), torch.ones(2, 1)), Batch(torch.zeros(0, 1), torch.ones(0, 1))
        >>> [part.shape[0] for part in predict_tasks(model, [one, two], [torch.ones(1, 1), torch.ones(3, 1)])]
        [1, 3]
    """
    found: list[Any] = []
    for start in range(0, len(supports), at_once):
        rows = [next(tensors(x)).shape[0] for x in queries[start : start + at_once]]
        blank = [
            Batch(x, torch.zeros(n)) for x, n in zip(queries[start : start + at_once], rows, strict=True)
        ]
        parts = zip(supports[start : start + at_once], blank, strict=True)
        episode = model._like(stack([Episode(support, query) for support, query in parts]))
        groups = without_padding(model.learner, episode, predicting=True)
        for task, predictions in sorted(_predicted(model, groups, steps), key=operator.itemgetter(0)):
            found.append(map_tensors(operator.itemgetter(slice(rows[task])), predictions))
    return found


def _predicted(
    model: Model, groups: list[tuple[list[int], Episode]], steps: int | None
) -> Iterator[tuple[int, Any]]:
    """The place of each task and its predictions."""
    for places, part in groups:
        with torch.no_grad():
            adapted = model.learner.adapt(model.meta, part.support, steps=steps)
            predictions = model.learner.predict(model.meta, adapted, part.query.x)
        for row, place in enumerate(places):
            yield place, map_tensors(operator.itemgetter(row), predictions)
