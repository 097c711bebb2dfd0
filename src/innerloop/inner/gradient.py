"""A learner that adapts by gradient steps on the support loss, as MAML and its relatives do."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..engine.recompute import recomputed
from ..models.losses import KNOWN, Loss, require_loss, task_losses
from ..models.network import Features, Network, Params, reference
from ..tasks.episodes import Batch, Episode, all_draws, at_step, tensors
from .derivatives import as_leaves, gradient
from .exported import with_values
from .inner_loss import InnerLoss
from .learner import Learner, MetaGradient, R, Recipe, require_steps
from .rules import InnerRule, State, detached
from .statistics import observed, of_each_task, query_outputs, require_support
from .streams import for_step

__all__ = ["GradientLearner", "Start"]


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
class GradientLearner(Learner):
    """Adapts by a few steps of an inner rule on the support loss.

    Arguments:
        network: the model.
        criterion: the loss, on support and query alike unless `inner_loss` is given.
        rule: the inner rule.
        fast: names of the parameters that adapt.
        inner_steps: steps taken in training, and at prediction unless told otherwise.
        metagrad: how the gradient comes back.
        start: fast weights that start elsewhere than at meta-parameters.
        recipe: see `Learner.recipe`.
        inner_loss: what the inner loop descends in place of the loss.
        checkpointing: activation checkpointing: activations of inner steps are not stored for the meta-gradient,
            but computed again.
        differentiated: so many of the last inner steps are differentiated by the meta-gradient, the gradients of
            earlier ones are constants; all unless given.
    """

    network: Network
    criterion: Loss
    rule: InnerRule
    fast: tuple[str, ...]
    inner_steps: int = field()  # without the default of the base class
    metagrad: MetaGradient = field()
    start: Start | None = None
    recipe: Recipe | None = None
    inner_loss: InnerLoss | None = None
    checkpointing: bool = False
    differentiated: int | None = None

    def __post_init__(self) -> None:
        """Refuse an unknown loss, a negative number of steps, and parts that do not go together."""
        require_loss(self.criterion)
        require_steps(self.inner_steps)
        self.metagrad.check(self)

    def init(self) -> Params:
        """The module's initial parameters and what the inner rule learns."""
        params = self.network.params()
        learned = self.rule.meta({name: params[name] for name in self.fast})
        learned |= self.inner_loss.meta if self.inner_loss else {}
        learned |= self.network.step_params(self.inner_steps + 1)
        started = self.start.names if self.start else ()
        return {name: value for name, value in params.items() if name not in started} | learned

    def own_like(self, meta: Params) -> Params:
        like, params = reference(meta), self.network.params()
        own = {n: meta.get(n, like).new_zeros(1, *params[n].shape) for n in self.fast}
        return {**own, **self.network.statistics_like(like)}

    def path(
        self, meta: Params, support: Batch, *, steps: int | None = None, key: Tensor | None = None
    ) -> Iterator[Params]:
        for step, fast in enumerate(self._trajectory(meta, support, steps, key)):
            yield self.with_statistics(meta, fast, support, step)

    def adapt(
        self, meta: Params, support: Batch, *, steps: int | None = None, key: Tensor | None = None
    ) -> Params:
        for fast in self._trajectory(meta, support, steps, key):  # noqa: B007  a list of them would keep them all
            pass
        return self.with_statistics(meta, fast, support, self.inner_steps if steps is None else steps)

    def predict(self, meta: Params, adapted: Params, x: Features, *, key: Tensor | None = None) -> Any:
        return query_outputs(self.network, meta, adapted, x, key=key)

    def loss(self, meta: Params, adapted: Params, batch: Batch, *, key: Tensor | None = None) -> Tensor:
        outputs = query_outputs(self.network, meta, adapted, batch.x, weight=batch.weight, key=key)
        return task_losses(self.criterion, outputs, batch)

    def scored(self, meta: Params, adapted: Params, batch: Batch) -> tuple[Any, Tensor]:
        outputs = query_outputs(self.network, meta, adapted, batch.x, weight=batch.weight)
        return outputs, task_losses(self.criterion, outputs, batch)

    @property
    def takes_partial(self) -> bool:
        """A loss of one's own is called with the NaN that stand for targets that are not known."""
        return self.inner_loss is None and (self.criterion == KNOWN or not isinstance(self.criterion, str))

    def _trajectory(
        self, meta: Params, support: Batch, steps: int | None, key: Tensor | None
    ) -> Iterator[Params]:
        started = self.start.make(meta, all_draws(support)) if self.start else {}
        shared = of_each_task({name: meta[name] for name in self.fast if name not in started}, support)
        fast = {name: started[name] if name in started else shared[name] for name in self.fast}
        state = self.rule.init(fast, meta)
        yield fast
        count = self.inner_steps if steps is None else steps
        inside = self._shared_part(meta, fast, support, key) if count > 1 else None
        for step in range(count):
            constant = self.differentiated is not None and step < count - self.differentiated
            moved = partial(self._moved, at_step(support, step), for_step(key, step), step, constant)
            fast, state = self.run(moved, meta, fast, state, inside)
            yield fast

    def _shared_part(
        self, meta: Params, fast: Params, support: Batch, key: Tensor | None
    ) -> tuple[str, Tensor] | None:
        """What comes before the layer that adapts, which all inner steps share; `None` where there is no such layer."""
        drawn = support.weight is not None and support.weight.dim() > 2
        network = self.network
        if drawn or network.keeps_statistics or next(tensors(support.x)).shape[1] == 0:
            return None
        layer = network.entry(self.fast, meta, support.x)
        if not layer:
            return None
        # constants in first order: no gradient comes back through an inner step
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.rule.first_order):
            features = network.before(
                layer, meta, fast, support.x, weight=support.weight, key=for_step(key, 0)
            )
        return None if features is None else (layer, features)

    def _moved(
        self,
        support: Batch,
        key: Tensor | None,
        step: int,
        constant: bool,
        meta: Params,
        fast: Params,
        state: State,
        inside: tuple[str, Tensor] | None,
    ) -> tuple[Params, State]:
        """Fast weights and state of the rule after one more inner step, whose gradient may be a constant."""
        scaled = {**meta, **self.network.at_step(meta, step)}
        second_order = torch.is_grad_enabled() and not (constant or self.rule.first_order)
        grads, fast = self._support_gradient(scaled, fast, support, key, inside, second_order)
        return self.rule.update(grads, state, fast, meta)

    def _support_gradient(
        self,
        meta: Params,
        fast: Params,
        support: Batch,
        key: Tensor | None,
        inside: tuple[str, Tensor] | None,
        second_order: bool,
    ) -> tuple[Params, Params]:
        """Gradient of each task's support loss at `fast`, and `fast` as it was differentiated."""
        fast = as_leaves(fast)
        with torch.enable_grad():
            total = self.support_losses(meta, fast, support, key=key, inside=inside).sum()
            return gradient(total, fast, create_graph=second_order), fast

    def support_losses(
        self,
        meta: Params,
        fast: Params,
        support: Batch,
        *,
        key: Tensor | None = None,
        inside: tuple[str, Tensor] | None = None,
    ) -> Tensor:
        """What the inner loop descends: the mean support loss of each task, `(T,)`; `inside` as of a `Network`."""
        support = all_draws(support)
        prediction, _ = self.network(meta, fast, support.x, weight=support.weight, key=key, inside=inside)
        if self.inner_loss is not None:
            return self.inner_loss.losses(prediction, support, meta, fast)
        return task_losses(self.criterion, prediction, support)

    def with_statistics(self, meta: Params, fast: Params, support: Batch, step: int) -> Params:
        """Add the BatchNorm statistics that query rows are normalised with after a step."""
        if not self.network.needs_statistics:
            return fast
        if self.network.keeps_statistics:
            return {**fast, **of_each_task(self.network.at_step(meta, step), support)}
        support = all_draws(support)
        require_support(support)

        def seen(meta: Params, fast: Params) -> Params:
            return self.network(meta, fast, support.x, weight=support.weight)[1]

        statistics: Params = self.run(seen, meta, fast)
        return {**fast, **statistics}

    def observe(self, meta: Params, episode: Episode) -> Params:
        return observed(self, meta, episode)

    @property
    def adapts_by_gradient(self) -> bool:
        return True

    @property
    def plain_loss(self) -> Loss | None:
        """The loss, unless fast weights start at values made anew from the support set."""
        return None if self.start or self.inner_loss else self.criterion

    def module_of(self, meta: Params, own: Params) -> nn.Module | None:
        if self.start is not None and not own:
            return None  # without a support set such weights have no start
        return with_values(self.network, {**meta, **{name: value.squeeze(0) for name, value in own.items()}})

    def with_inner_steps(self, count: int) -> GradientLearner:
        return replace(self, inner_steps=count)

    def first_order(self) -> GradientLearner:
        return replace(self, rule=detached(self.rule))

    def truncated(self, last: int) -> GradientLearner:
        """The same learner of whose inner steps only so many of the last are differentiated by the meta-gradient."""
        return replace(self, differentiated=last)

    def checkpointed(self) -> GradientLearner:
        return replace(self, checkpointing=True)

    def run(self, function: Callable[..., R], *arguments: object) -> R:
        result: R = recomputed(function, *arguments) if self.checkpointing else function(*arguments)
        return result
