"""Inner rules: how the fast weights of a task change, one gradient at a time.

A rule is a pair of pure functions over dicts of tensors with a leading task axis, so that it can be
differentiated, stacked and wrapped. What a rule learns (step sizes) are ordinary meta-parameters, named
`inner/...`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .errors import UsageError
from .functional import Params

State = dict[str, Any]

GRANULARITIES = ("all", "tensor", "weight")


class InnerRule(NamedTuple):
    """How fast weights change.

    Arguments:
        meta: names and values of the fast weights -> the meta-parameters that the rule learns.
        init: (fast, meta) -> state.
        update: (grads, state, fast, meta) -> (fast, state); `grads` and `fast` have a leading task axis.
        first_order: gradients are constants, so no second derivative is ever built.
    """

    meta: Callable[[Params], Params]
    init: Callable[[Params, Params], State]
    update: Callable[[Params, State, Params, Params], tuple[Params, State]]
    first_order: bool = False


def _nothing(fast: Params) -> Params:
    return {}


def sgd(lr: float) -> InnerRule:
    r"""Gradient descent with one fixed step size: $\phi \leftarrow \phi - \alpha\, g$.

    Arguments:
        lr: step size, positive.

    Returns:
        The rule.

    Raises:
        UsageError: `lr` is not positive.

    Example:
        >>> rule = sgd(0.1)
        >>> fast, _ = rule.update({"w": torch.ones(1, 2)}, {}, {"w": torch.zeros(1, 2)}, {})
        >>> fast["w"]
        tensor([[-0.1000, -0.1000]])
    """
    _positive("lr", lr)

    def update(grads: Params, state: State, fast: Params, meta: Params) -> tuple[Params, State]:
        return {name: value - lr * grads[name] for name, value in fast.items()}, state

    return InnerRule(_nothing, lambda fast, meta: {}, update)


def learned_sgd(lr: float, *, per: str = "tensor") -> InnerRule:
    r"""Gradient descent whose step sizes are meta-parameters: $\phi \leftarrow \phi - \alpha \circ g$.

    One rate for `all`, one a `tensor`, or one a `weight` (Li et al., 2017, *Meta-SGD: Learning to Learn
    Quickly for Few-Shot Learning*). Rates are free to change sign, as in the paper.

    Arguments:
        lr: initial step size, positive.
        per: `all`, `tensor` or `weight`.

    Returns:
        The rule.

    Raises:
        UsageError: `lr` is not positive or `per` is unknown.

    Example:
        >>> sorted(learned_sgd(0.1).meta({"w": torch.zeros(3)}))
        ['inner/lr/w']
    """
    _positive("lr", lr)
    if per not in GRANULARITIES:
        raise UsageError(f"per={per!r} is unknown: choose one of {', '.join(GRANULARITIES)}")

    def meta(fast: Params) -> Params:
        if per == "all":
            value = next(iter(fast.values()))
            return {"inner/lr": value.new_tensor(lr)}
        return {
            f"inner/lr/{name}": torch.full_like(value, lr) if per == "weight" else value.new_tensor(lr)
            for name, value in fast.items()
        }

    def update(grads: Params, state: State, fast: Params, meta: Params) -> tuple[Params, State]:
        def rate(name: str) -> Tensor:
            return meta["inner/lr" if per == "all" else f"inner/lr/{name}"]

        return {name: value - rate(name) * grads[name] for name, value in fast.items()}, state

    return InnerRule(meta, lambda fast, meta: {}, update)


def detached(rule: InnerRule) -> InnerRule:
    """The same rule with gradients as constants: first order, whatever the rule.

    Learned step sizes keep their gradient; only the derivative of the gradient is dropped
    (Finn, Abbeel & Levine, 2017, *Model-Agnostic Meta-Learning*, section 5.2).

    Arguments:
        rule: any rule.

    Returns:
        The wrapped rule.

    Example:
        >>> detached(sgd(0.1)).first_order
        True
    """

    def update(grads: Params, state: State, fast: Params, meta: Params) -> tuple[Params, State]:
        return rule.update({name: grad.detach() for name, grad in grads.items()}, state, fast, meta)

    return rule._replace(update=update, first_order=True)


def clipped(rule: InnerRule, norm: float) -> InnerRule:
    r"""The same rule on gradients whose norm over a task is at most `norm`.

    $g \leftarrow g \cdot \min(1, c / \lVert g \rVert)$, each task by itself.

    Arguments:
        rule: any rule.
        norm: largest norm $c$, positive.

    Returns:
        The wrapped rule.

    Raises:
        UsageError: `norm` is not positive.

    Example:
        >>> rule = clipped(sgd(1.0), 1.0)
        >>> fast, _ = rule.update({"w": torch.full((1, 4), 5.0)}, {}, {"w": torch.zeros(1, 4)}, {})
        >>> float(fast["w"].norm())
        1.0
    """
    _positive("norm", norm)

    def update(grads: Params, state: State, fast: Params, meta: Params) -> tuple[Params, State]:
        squares = torch.stack([grad.flatten(1).square().sum(1) for grad in grads.values()]).sum(0)
        # the root of max(s, c^2) is finite in every derivative where the root of s is not (s = 0)
        scale = norm / squares.clamp(min=norm * norm).sqrt()
        shaped = {
            name: grad * scale.reshape(-1, *(1 for _ in grad.shape[1:])) for name, grad in grads.items()
        }
        return rule.update(shaped, state, fast, meta)

    return rule._replace(update=update)


def _positive(argument: str, value: float) -> None:
    if not value > 0:
        raise UsageError(f"{argument}={value!r}: give a positive number")
