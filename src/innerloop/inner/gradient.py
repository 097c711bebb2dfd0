"""Adaptation: gradient steps of an inner rule, or a closed form on shared features."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..engine.recompute import Runner, directly
from ..errors import DataError, UsageError
from ..models.layers import fold
from ..models.losses import Loss, require_loss, task_losses
from ..models.network import Network, Params
from ..tasks.episodes import Batch, Episode, all_draws, at_step
from .learner import Learner, MetaGradient, Recipe, empty
from .rules import InnerRule, State

# the query pass has a dropout stream of its own, away from those of the inner steps
_QUERY = 1 << 20


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
        run: how a step is run: `directly`, or `recomputed`, which keeps no activations.
    """

    network: Network
    criterion: Loss
    rule: InnerRule
    fast: tuple[str, ...]
    inner_steps: int
    metagrad: MetaGradient
    start: Start | None = None
    recipe: Recipe | None = None
    run: Runner = directly

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
        for fast in self._trajectory(meta, support, steps, key):  # noqa: B007  a list of them would keep them all
            pass
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
            moved = partial(self._moved, at_step(support, step), stream, step)
            fast, state = self.run(moved, meta, fast, state)
            yield fast

    def _moved(
        self, support: Batch, key: Tensor | None, step: int, meta: Params, fast: Params, state: State
    ) -> tuple[Params, State]:
        """Fast weights and state of the rule after one more inner step."""
        scaled = {**meta, **self.network.at_step(meta, step)}
        grads, fast = self._support_gradient(scaled, fast, support, key)
        return self.rule.update(grads, state, fast, meta)

    def _support_gradient(
        self, meta: Params, fast: Params, support: Batch, key: Tensor | None
    ) -> tuple[Params, Params]:
        """Gradient of each task's support loss at `fast`, and `fast` as it was differentiated."""
        differentiable, fast = torch.is_grad_enabled(), as_leaves(fast)
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

        def seen(meta: Params, fast: Params) -> Params:
            return self.network(meta, fast, support.x, weight=support.weight)[1]

        statistics: Params = self.run(seen, meta, fast)
        return {**fast, **statistics}

    def observe(self, meta: Params, episode: Episode) -> Params:
        """See `Learner.observe`."""
        return _observed(self, self.network, meta, episode)

    def variance(self, meta: Params, adapted: Params, x: Any) -> Tensor | None:
        """Gradient steps say nothing of it."""
        return None


# share of the newest statistics in a running average; the first ones are averaged evenly
_NEWEST = 0.1


def as_leaves(values: Params) -> Params:
    """What a gradient is taken at: part of the graph where gradients are on and it has one, else cut from it.

    Example:
        >>> as_leaves({"w": torch.zeros(1)})["w"].requires_grad
        True
    """
    connected = torch.is_grad_enabled()
    return {
        name: value if connected and value.requires_grad else value.detach().requires_grad_()
        for name, value in values.items()
    }


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


def _require_support(support: Batch) -> None:
    if empty(support):
        raise DataError(
            "batchnorm='support' normalises with the support set, and a task has no support row: "
            "give it a labelled row, or use a model without BatchNorm"
        )
