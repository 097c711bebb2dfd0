"""Meta-gradients: how the query loss reaches the meta-parameters.

A meta-gradient is the only part that sees the query set in training: multi-step losses, displacements and
implicit solves live here. Each refuses, when a learner is made, the parts that would run and train nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from ..engine.modes import tracing
from ..engine.recompute import directly, recomputed
from ..errors import UsageError
from ..inner.gradient import GradientLearner
from ..inner.learner import Learner, MetaGradient, Metrics, Step
from ..inner.rules import detached
from ..models.network import Params
from ..tasks.episodes import Episode, all_draws, join_rows, select


def unrolled() -> MetaGradient:
    r"""Differentiate through every inner step: $\nabla_\theta\, \frac1T\sum_t L^{query}_t(\phi_t(\theta))$.

    Exact where the inner rule is; with a `detached` rule it is first-order MAML
    (Finn, Abbeel & Levine, 2017, *Model-Agnostic Meta-Learning for Fast Adaptation of Deep Networks*).

    Returns:
        The meta-gradient.

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

    Returns:
        The meta-gradient.

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
        run = learner.run if isinstance(learner, GradientLearner) else directly
        query_loss = partial(learner.loss, batch=episode.query, key=key)
        parts = [
            weight * run(query_loss, meta, adapted)
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

    Returns:
        The wrapped meta-gradient.

    Example:
        >>> annealed(unrolled(), 50).name
        'unrolled, first order for 50 steps'
    """

    def compute(
        learner: Learner, meta: Params, episode: Episode, step: Step, key: Tensor | None
    ) -> tuple[Params, Metrics]:
        if step.phase < first_order_steps and isinstance(learner, GradientLearner):
            learner = replace(learner, rule=detached(learner.rule))
        return metagrad.compute(learner, meta, episode, step, key)

    def check(learner: Learner) -> None:
        if not isinstance(learner, GradientLearner):
            raise UsageError(
                "annealing the derivative order needs inner gradient steps: this learner has none"
            )
        metagrad.check(learner)

    def phase(step: int) -> int:
        return max(first_order_steps if step >= first_order_steps else 0, metagrad.phase(step))

    return MetaGradient(f"{metagrad.name}, first order for {first_order_steps} steps", compute, check, phase)


def checkpointed(metagrad: MetaGradient) -> MetaGradient:
    r"""The same gradient with the memory of one inner step: the others are computed again, last step first.

    Of each step only the fast weights and the state of the inner rule are kept. On the way back,
    $v_s = \bigl(\partial \phi_{s+1} / \partial \phi_s\bigr)^\top v_{s+1}$ is a product with the Hessian of the support
    loss, one step at a time; every other derivative is taken along. It costs one more pass through each step.
    Griewank & Walther, 2008, *Evaluating Derivatives*, chapter 12; Chen, Xu, Zhang & Guestrin, 2016, *Training Deep
    Nets with Sublinear Memory Cost*.

    Arguments:
        metagrad: what differentiates through inner steps: `unrolled`, `multi_step`, `annealed`.

    Returns:
        The wrapped meta-gradient.

    Example:
        >>> checkpointed(unrolled()).name
        'unrolled, checkpointed'
    """

    def compute(
        learner: Learner, meta: Params, episode: Episode, step: Step, key: Tensor | None
    ) -> tuple[Params, Metrics]:
        assert isinstance(learner, GradientLearner)
        if _first_of_its_kind(step):
            # steps that are computed again have no graph to look into: one step of one task stands for all
            one = slice(0, 1)
            few = replace(learner, inner_steps=min(learner.inner_steps, 1))
            metagrad.compute(few, meta, select(episode, one), step, None if key is None else key[one])
        return metagrad.compute(replace(learner, run=recomputed), meta, episode, step, key)

    def check(learner: Learner) -> None:
        if not isinstance(learner, GradientLearner):
            raise UsageError("checkpointing needs inner gradient steps: this learner has none")
        metagrad.check(learner)

    return MetaGradient(f"{metagrad.name}, checkpointed", compute, check, metagrad.phase)


METAGRADS: dict[str, Callable[..., MetaGradient]] = {"unrolled": unrolled, "checkpointed": checkpointed}


def kept(name: str, metagrad: MetaGradient) -> MetaGradient:
    """What the option `metagrad` of an algorithm makes of its meta-gradient.

    Arguments:
        name: one of `METAGRADS`.
        metagrad: that differentiates through inner steps.

    Returns:
        The meta-gradient.

    Raises:
        UsageError: the name is unknown.

    Example:
        >>> kept("checkpointed", multi_step(10)).name
        'multi_step, checkpointed'
    """
    if name not in METAGRADS:
        raise UsageError(f"metagrad={name!r} is unknown: choose one of {', '.join(METAGRADS)}")
    return checkpointed(metagrad) if name == "checkpointed" else metagrad


def displacement(*, rows: str = "all") -> MetaGradient:
    r"""Reptile: the mean way back from the adapted to the meta-parameters, $\frac1T\sum_t (\theta - \phi_t)$.

    No derivative of the inner loop is taken. With one step it is the step size times the support gradient.
    Nichol, Achiam & Schulman, 2018, *On First-Order Meta-Learning Algorithms*.

    Arguments:
        rows: adapt on `all` rows of the episode, as in the paper, where training draws no query set, or on its
            `support` rows only.

    Returns:
        The meta-gradient.

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
        _require_all_adapt(learner, "displacement", "the rest would never be trained")
        _require_nothing_learned(learner, "displacement")

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
                found = losses(learner, meta, episode, step, key)
                if _first_of_its_kind(step):
                    _require_twice_differentiable(found)
                grads = _grad(found.mean(), meta)
        except RuntimeError as error:
            raise _explained(error) from error
        return grads, {"losses": found.detach()}

    return compute


def _first_of_its_kind(step: Step) -> bool:
    """Whether values can be looked at, and no earlier update was computed in the same way."""
    return not tracing() and float(step.number) == step.phase


def _require_twice_differentiable(losses: Tensor) -> None:
    """Find functions marked `once_differentiable`: autograd drops their second derivative without a word."""
    stack, seen = [losses.grad_fn], set()
    while stack:
        node = stack.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if node.name() == "torch::autograd::Error":
            raise UsageError(
                "a function of the model is marked once_differentiable and cannot be differentiated twice: "
                "use fomaml or reptile, or a function without the mark"
            )
        stack.extend(following for following, _ in node.next_functions)


def _explained(error: RuntimeError) -> Exception:
    """Name the operator that has no second derivative, and the way out."""
    text = str(error)
    if "derivative for" not in text and "double backward" not in text and "differentiate twice" not in text:
        return error
    return UsageError(
        f"an operator of the model cannot be differentiated twice ({text.splitlines()[0]}): "
        "use fomaml, reptile or a model without it"
    )


def _grad(value: Tensor, params: Params, *, create_graph: bool = False) -> Params:
    found = torch.autograd.grad(
        value, list(params.values()), create_graph=create_graph, materialize_grads=True, allow_unused=True
    )
    return dict(zip(params, found, strict=True))


def _require_all_adapt(learner: Learner, name: str, why: str) -> None:
    if not isinstance(learner, GradientLearner):
        raise UsageError(f"{name} needs inner gradient steps: this learner has none")
    rest = [param for param in learner.network.params() if param not in learner.fast]
    if rest or learner.start is not None:
        what = repr(rest[0]) if rest else "its start"
        raise UsageError(
            f"{name} with a learner that adapts only a part of the model ({what} is left): {why}"
        )


def _require_nothing_learned(learner: Learner, name: str) -> None:
    learned = [key for key in learner.init() if key.startswith(("inner/", "state/"))]
    if learned:
        what = (
            "a BatchNorm policy other than per_step" if "/bn/" in learned[0] else "a rule that learns nothing"
        )
        raise UsageError(f"{name} gives no gradient to {learned[0]!r}: use {what}")
