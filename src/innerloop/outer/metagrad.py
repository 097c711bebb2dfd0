"""Meta-gradients: how the query loss reaches the meta-parameters.

A meta-gradient is the only part that sees the query set in training: multi-step losses, displacements and
implicit solves live here. Each refuses, when a learner is made, the parts that would run and train nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from ..engine.modes import tracing
from ..errors import UsageError, check_known
from ..inner.derivatives import gradient
from ..inner.learner import Learner, MetaGradient, Metrics, Step
from ..models.network import Params
from ..tasks.episodes import Episode, all_draws, join_rows, select
from .requirements import (
    in_words,
    require_all_adapt,
    require_gradient_steps,
    require_inner_rule,
    require_nothing_learned,
    require_twice_differentiable,
)

__all__ = [
    "METAGRADS",
    "annealed",
    "by_name",
    "checkpointed",
    "displacement",
    "multi_step",
    "step_weights",
    "truncated",
    "unrolled",
]


def unrolled() -> MetaGradient:
    r"""Differentiate through every inner step: $\nabla_\theta\, \frac1T\sum_t L^{query}_t(\phi_t(\theta))$.

    Exact where the inner rule is; with a `detached` rule it is first-order MAML
    (Finn, Abbeel & Levine, 2017, *Model-Agnostic Meta-Learning for Fast Adaptation of Deep Networks*).

    Example:
        >>> unrolled().name
        'unrolled'
    """

    def losses(learner: Learner, meta: Params, episode: Episode, step: Step, key: Tensor | None) -> Tensor:
        adapted = learner.adapt(meta, episode.support, key=key)
        return learner.loss(meta, adapted, episode.query, key=key)

    return MetaGradient("unrolled", _differentiated(losses))


def multi_step(anneal_steps: int) -> MetaGradient:
    r"""Differentiate a weighted sum of the query losses after every inner step.

    $\frac1T \sum_t \sum_s w_s L^{query}_t(\phi_{t,s})$.

    The weights start equal, $w_s = 1/S$. Over `anneal_steps` meta-updates those of earlier steps fall in
    proportion, but not below $0.03/S$, and the last one takes what they leave; after that only the last step
    counts. Antoniou, Edwards & Storkey, 2019, *How to Train Your MAML*, section "Multi-Step Loss Optimization".

    Arguments:
        anneal_steps: meta-updates until only the last step counts, at least 1.

    Raises:
        UsageError: `anneal_steps` is not positive.

    Example:
        >>> multi_step(100).name
        'multi_step'
    """
    if anneal_steps < 1:
        raise UsageError(f"anneal_steps={anneal_steps}: give 1 or more")

    def losses(learner: Learner, meta: Params, episode: Episode, step: Step, key: Tensor | None) -> Tensor:
        path = list(learner.path(meta, episode.support, key=key))
        if step.phase >= anneal_steps:
            return learner.loss(meta, path[-1], episode.query, key=key)
        weights = step_weights(len(path) - 1, step.number / anneal_steps)
        query_loss = partial(learner.loss, batch=episode.query, key=key)
        parts = [
            weight * learner.run(query_loss, meta, adapted)
            for weight, adapted in zip(weights, path[1:] or path, strict=True)
        ]
        return torch.stack(parts).sum(0)

    def phase(step: int) -> int:
        return anneal_steps if step >= anneal_steps else 0

    return MetaGradient("multi_step", _differentiated(losses), phase=phase)


def step_weights(steps: int, share: float | Tensor) -> Sequence[float | Tensor]:
    """Weights of the losses after steps 1 to `steps`, `share` of the way through the annealing.

    Example:
        >>> step_weights(2, 0.0), step_weights(2, 1.0)
        ([0.5, 0.5], [0.0, 1.0])
    """
    if steps < 2 or (not isinstance(share, Tensor) and share >= 1):
        return [0.0] * (steps - 1) + [1.0]
    falling, least = (1 - share) / steps, 0.03 / steps
    early = falling.clamp(min=least) if isinstance(falling, Tensor) else max(falling, least)
    return [early] * (steps - 1) + [1 - early * (steps - 1)]


def annealed(metagrad: MetaGradient, first_order_steps: int) -> MetaGradient:
    """First order for the first meta-updates, then as given: cheaper and steadier at the start.

    Antoniou, Edwards & Storkey, 2019, *How to Train Your MAML*, section "Derivative-Order Annealing".

    Arguments:
        metagrad: what to use afterwards.
        first_order_steps: meta-updates of first order.

    Example:
        >>> annealed(unrolled(), 50).name
        'unrolled, first order for 50 steps'
    """

    def compute(
        learner: Learner, meta: Params, episode: Episode, step: Step, key: Tensor | None
    ) -> tuple[Params, Metrics]:
        learner = learner.first_order() if step.phase < first_order_steps else learner
        return metagrad.compute(learner, meta, episode, step, key)

    def check(learner: Learner) -> None:
        require_gradient_steps(learner, "annealing the derivative order")
        metagrad.check(learner)

    def phase(step: int) -> int:
        return max(first_order_steps if step >= first_order_steps else 0, metagrad.phase(step))

    return MetaGradient(f"{metagrad.name}, first order for {first_order_steps} steps", compute, check, phase)


def checkpointed(metagrad: MetaGradient) -> MetaGradient:
    r"""Activation checkpointing: the same gradient in the memory of one inner step, the others computed again.

    Of each step only the fast weights and the state of the inner rule are stored. On the way back,
    $v_s = \bigl(\partial \phi_{s+1} / \partial \phi_s\bigr)^\top v_{s+1}$ is a product with the Hessian of the support
    loss, one step at a time; every other derivative is taken along. It costs one more pass through each step.
    Griewank & Walther, 2008, *Evaluating Derivatives*, chapter 12; Chen, Xu, Zhang & Guestrin, 2016, *Training Deep
    Nets with Sublinear Memory Cost*.

    Arguments:
        metagrad: what differentiates through inner steps: `unrolled`, `multi_step`, `annealed`.

    Example:
        >>> checkpointed(unrolled()).name
        'unrolled, checkpointed'
    """

    def compute(
        learner: Learner, meta: Params, episode: Episode, step: Step, key: Tensor | None
    ) -> tuple[Params, Metrics]:
        if _first_of_its_kind(step):
            # steps that are computed again have no graph to look into: one step of one task stands for all
            one, few = slice(0, 1), learner.with_inner_steps(min(learner.inner_steps, 1))
            metagrad.compute(few, meta, select(episode, one), step, None if key is None else key[one])
        return metagrad.compute(learner.checkpointed(), meta, episode, step, key)

    def check(learner: Learner) -> None:
        require_gradient_steps(learner, "checkpointing")
        metagrad.check(learner)

    return MetaGradient(f"{metagrad.name}, checkpointed", compute, check, metagrad.phase)


def truncated(metagrad: MetaGradient, last: int) -> MetaGradient:
    r"""Truncated backpropagation: the last inner steps are differentiated, the gradients of earlier ones are constants.

    With $\phi_{s+1} = \phi_s - \alpha g_s$, the derivative $\partial g_s / \partial\phi_s$ is kept for the last $K$
    steps and taken for 0 before: $K = 0$ is first-order MAML, with $K$ the number of steps the gradient is exact, and
    memory grows with $K$ alone. Learned step sizes keep their gradient at every step.
    Shaban, Cheng, Hatch & Boots, 2019, *Truncated Back-propagation for Bilevel Optimization*.

    Arguments:
        metagrad: what differentiates through inner steps: `unrolled`, `multi_step`, `annealed`.
        last: $K$, of steps that are differentiated.

    Raises:
        UsageError: `last` is negative.

    Example:
        >>> truncated(unrolled(), 2).name
        'unrolled, last 2 steps'
    """
    if last < 0:
        raise UsageError(f"last={last}: give 0 or more")

    def compute(
        learner: Learner, meta: Params, episode: Episode, step: Step, key: Tensor | None
    ) -> tuple[Params, Metrics]:
        return metagrad.compute(
            require_inner_rule(learner, "truncated").truncated(last), meta, episode, step, key
        )

    def check(learner: Learner) -> None:
        require_inner_rule(learner, "truncated")
        metagrad.check(learner)

    return MetaGradient(f"{metagrad.name}, last {last} steps", compute, check, metagrad.phase)


METAGRADS: dict[str, Callable[..., MetaGradient]] = {"unrolled": unrolled, "checkpointed": checkpointed}


def by_name(name: str, metagrad: MetaGradient) -> MetaGradient:
    """A meta-gradient as the option `metagrad` of an algorithm asks for it: as it is, or checkpointed.

    Arguments:
        name: one of `METAGRADS`.
        metagrad: that differentiates through inner steps.

    Raises:
        UsageError: the name is unknown.

    Example:
        >>> by_name("checkpointed", multi_step(10)).name
        'multi_step, checkpointed'
    """
    check_known("metagrad", name, METAGRADS)
    return checkpointed(metagrad) if name == "checkpointed" else metagrad


def displacement(*, rows: str = "all") -> MetaGradient:
    r"""Reptile: the mean way back from the adapted to the meta-parameters, $\frac1T\sum_t (\theta - \phi_t)$.

    No derivative of the inner loop is taken. With one step it is the step size times the support gradient.
    Nichol, Achiam & Schulman, 2018, *On First-Order Meta-Learning Algorithms*.

    Arguments:
        rows: adapt on `all` rows of the episode, as in the paper, where training draws no query set, or on its
            `support` rows only.

    Raises:
        UsageError: `rows` is unknown.

    Example:
        >>> displacement().name
        'displacement'
    """
    if rows not in ("all", "support"):
        raise UsageError(f"rows={rows!r} is unknown: choose all or support")

    def compute(
        learner: Learner, meta: Params, episode: Episode, step: Step, key: Tensor | None
    ) -> tuple[Params, Metrics]:
        meta = {name: value.detach() for name, value in meta.items()}
        seen = join_rows(all_draws(episode.support), episode.query) if rows == "all" else episode.support
        with torch.no_grad():
            adapted = learner.adapt(meta, seen, key=key)
            losses = learner.loss(meta, adapted, episode.query, key=key)
        return {name: (value - adapted[name]).mean(0) for name, value in meta.items()}, {"losses": losses}

    def check(learner: Learner) -> None:
        require_all_adapt(learner, "displacement", "the rest would never be trained")
        require_nothing_learned(learner, "displacement")

    return MetaGradient("displacement", compute, check)


def _differentiated(
    losses: Callable[[Learner, Params, Episode, Step, Tensor | None], Tensor],
) -> Callable[[Learner, Params, Episode, Step, Tensor | None], tuple[Params, Metrics]]:
    """The gradient of the mean of `losses` over tasks, by automatic differentiation."""

    def compute(
        learner: Learner, meta: Params, episode: Episode, step: Step, key: Tensor | None
    ) -> tuple[Params, Metrics]:
        meta = {name: value.detach().requires_grad_() for name, value in meta.items()}
        try:
            with torch.enable_grad():
                of_tasks = losses(learner, meta, episode, step, key)
                if _first_of_its_kind(step):
                    require_twice_differentiable(of_tasks)
                grads = gradient(of_tasks.mean(), meta)
        except RuntimeError as error:
            raise in_words(error) from error
        return grads, {"losses": of_tasks.detach()}

    return compute


def _first_of_its_kind(step: Step) -> bool:
    """Whether values can be looked at, and no earlier update was computed in the same way."""
    return not tracing() and float(step.number) == step.phase
