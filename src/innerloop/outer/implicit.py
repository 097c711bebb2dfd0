"""Implicit meta-gradients (iMAML): the implicit function theorem in place of unrolled inner steps."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..errors import UsageError, check_known
from ..inner.derivatives import gradient
from ..inner.learner import Learner, MetaGradient, Metrics, Step
from ..models.network import Params
from ..tasks.episodes import Episode
from .requirements import require_all_adapt, require_inner_rule, require_nothing_learned

__all__ = ["implicit"]


def implicit(strength: float, *, solver: str = "cg", iterations: int = 5) -> MetaGradient:
    r"""iMAML: the gradient through the solution of the inner problem, however it was found.

    $\frac1T\sum_t (I + \frac1\lambda H_t)^{-1} \nabla L^{query}_t(\phi_t)$.

    $H_t$ is the Hessian of the support loss at the solution of the proximal inner problem; the system is solved
    by `cg` (conjugate gradients) or `neumann` ($\sum_k (-H/\lambda)^k$, which needs $\lVert H \rVert < \lambda$).
    Memory does not grow with the inner steps. The relative residual of the solve is reported as `residual`.
    Rajeswaran, Finn, Kakade & Levine, 2019, *Meta-Learning with Implicit Gradients*; Lorraine, Vicol & Duvenaud,
    2020, *Optimizing Millions of Hyperparameters by Implicit Differentiation*.

    Arguments:
        strength: $\lambda$, that of the inner rule's proximal term.
        solver: `cg` or `neumann`.
        iterations: products with the Hessian.

    Raises:
        UsageError: the solver is unknown.

    Example:
        >>> implicit(1.0).name
        'implicit'
    """
    solvers = {"cg": _conjugate_gradients, "neumann": _neumann}
    check_known("solver", solver, solvers)

    def compute(
        learner: Learner, meta: Params, episode: Episode, step: Step, key: Tensor | None
    ) -> tuple[Params, Metrics]:
        learner = require_inner_rule(learner, "implicit")
        meta = {name: value.detach() for name, value in meta.items()}
        with torch.no_grad():
            adapted = learner.adapt(meta, episode.support, key=key)
        fast = {name: adapted[name].detach().requires_grad_() for name in learner.fast}
        with torch.enable_grad():
            complete = learner.with_statistics(meta, fast, episode.support, learner.inner_steps)
            losses = learner.loss(meta, complete, episode.query, key=key)
            right = gradient(losses.sum(), fast)
            support = learner.support_losses(meta, fast, episode.support, key=key)
            slope = gradient(support.sum(), fast, create_graph=True)

        def system(v: Params) -> Params:
            product = torch.autograd.grad(
                list(slope.values()), list(fast.values()), list(v.values()),
                retain_graph=True, materialize_grads=True, allow_unused=True,
            )  # fmt: skip
            return {name: v[name] + h / strength for name, h in zip(v, product, strict=True)}

        solution = solvers[solver](system, right, iterations)
        rest = _combine(right, system(solution), -1.0)
        residual = (_dot(rest, rest) / _dot(right, right).clamp(min=1e-300)).sqrt()
        grads = {name: solution[name].mean(0) for name in meta}
        return grads, {"losses": losses.detach(), "residual": residual.detach()}

    def check(learner: Learner) -> None:
        require_all_adapt(learner, "implicit", "the rest needs another derivative")
        require_nothing_learned(learner, "implicit")
        actual = require_inner_rule(learner, "implicit").rule.strength
        if actual != strength:
            raise UsageError(
                f"implicit(strength={strength}) with an inner rule whose proximal strength is {actual}: the "
                f"strength must be one value; wrap the rule in proximal(rule, {strength})"
            )

    return MetaGradient("implicit", compute, check)


def _dot(one: Params, other: Params) -> Tensor:
    """Inner product of each task, `(T,)`."""
    return torch.stack([(one[name] * other[name]).flatten(1).sum(1) for name in one]).sum(0)


def _combine(one: Params, other: Params, scale: Tensor | float) -> Params:
    """`one + scale * other`, the scale a number or one a task."""

    def spread(value: Tensor) -> Tensor | float:
        return scale.reshape(-1, *(1 for _ in value.shape[1:])) if isinstance(scale, Tensor) else scale

    return {name: value + spread(value) * other[name] for name, value in one.items()}


_System = Callable[[Params], Params]


def _conjugate_gradients(system: _System, right: Params, iterations: int) -> Params:
    """Solve each task's symmetric system; a task that has converged stays where it is."""
    solution = {name: torch.zeros_like(value) for name, value in right.items()}
    rest, direction = right, right
    square = _dot(rest, rest)
    for _ in range(iterations):
        product = system(direction)
        curvature = _dot(direction, product)
        done = (square == 0) | (curvature == 0)
        length = torch.where(done, 0.0, square / torch.where(done, 1.0, curvature))
        solution = _combine(solution, direction, length)
        rest = _combine(rest, product, -length)
        following = _dot(rest, rest)
        direction = _combine(
            rest, direction, torch.where(done, 0.0, following / torch.where(done, 1.0, square))
        )
        square = following
    return solution


def _neumann(system: _System, right: Params, iterations: int) -> Params:
    """The truncated series of the inverse."""
    solution, term = right, right
    for _ in range(iterations):
        term = _combine(term, system(term), -1.0)
        solution = _combine(solution, term, 1.0)
    return solution
