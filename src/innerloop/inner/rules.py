"""Inner rules: how the fast weights of a task change, one gradient at a time.

A rule is a pair of pure functions over dicts of tensors with a leading task axis, so that it can be
differentiated, stacked and wrapped. What a rule learns (step sizes, masks, curvature) are ordinary
meta-parameters, named `inner/...`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..errors import UsageError
from ..models.network import Params

__all__ = [
    "InnerRule",
    "State",
    "adam",
    "adamw",
    "clipped",
    "curvature",
    "detached",
    "masked",
    "proximal",
    "rmsprop",
    "sgd",
    "straight_through",
]

State = dict[str, Any]
Update = Callable[[Params, State, Params, Params], tuple[Params, State]]

GRANULARITIES = ("all", "tensor", "weight")


class InnerRule(NamedTuple):
    """How fast weights change.

    Arguments:
        meta: names and values of the fast weights -> the meta-parameters that the rule learns.
        init: (fast, meta) -> state.
        update: (grads, state, fast, meta) -> (fast, state); `grads` and `fast` have a leading task axis.
        first_order: gradients are constants, so no second derivative is ever built.
        strength: of the pull towards the meta-parameters, 0 for none.
    """

    meta: Callable[[Params], Params]
    init: Callable[[Params, Params], State]
    update: Update
    first_order: bool = False
    strength: float = 0.0


class _Rate(NamedTuple):
    """A step size: fixed, or learned per granularity and, if `steps` is given, per inner step."""

    lr: float
    learn: str | None
    steps: int | None

    @staticmethod
    def of(lr: float, learn: str | None, steps: int | None) -> _Rate:
        _positive("lr", lr)
        if learn is not None and learn not in GRANULARITIES:
            raise UsageError(f"learn={learn!r} is unknown: choose one of {', '.join(GRANULARITIES)} or None")
        if steps is not None and (learn is None or steps < 1):
            raise UsageError(f"steps={steps} with learn={learn!r}: rates of their own a step must be learned")
        return _Rate(lr, learn, steps)

    def meta(self, fast: Params) -> Params:
        if self.learn is None:
            return {}
        axis = () if self.steps is None else (self.steps,)
        if self.learn == "all":
            return {"inner/lr": next(iter(fast.values())).new_full(axis, self.lr)}
        return {
            f"inner/lr/{name}": value.new_full(
                (*axis, *(value.shape if self.learn == "weight" else ())), self.lr
            )
            for name, value in fast.items()
        }

    def at(self, name: str, step: int, meta: Params) -> Tensor | float:
        """The rate of a tensor at a step; steps beyond the learned ones use the last of these."""
        if self.learn is None:
            return self.lr
        rate = meta["inner/lr" if self.learn == "all" else f"inner/lr/{name}"]
        return rate if self.steps is None else rate[min(step, self.steps - 1)]


# (direction of descent, new state) for one tensor: gradient, its moments, fast value, number of the step
_Direction = Callable[[Tensor, Params, Tensor, int], tuple[Tensor, Params]]


def _rule(rate: _Rate, direction: _Direction, moments: tuple[str, ...] = ()) -> InnerRule:
    """A rule that moves each tensor by its rate along a direction."""

    def init(fast: Params, meta: Params) -> State:
        zeros = {name: {key: torch.zeros_like(value) for key in moments} for name, value in fast.items()}
        return {"step": 0, "moments": zeros}

    def update(grads: Params, state: State, fast: Params, meta: Params) -> tuple[Params, State]:
        step, moved, moments = state["step"], {}, {}
        for name, value in fast.items():
            along, moments[name] = direction(grads[name], state["moments"][name], value, step)
            moved[name] = value - rate.at(name, step, meta) * along
        return moved, {"step": step + 1, "moments": moments}

    return InnerRule(rate.meta, init, update)


def sgd(lr: float, *, momentum: float = 0.0, learn: str | None = None, steps: int | None = None) -> InnerRule:
    r"""Gradient descent: $v \leftarrow \mu v + g,\; \phi \leftarrow \phi - \alpha\, v$.

    With `learn="weight"` it is the rule of Meta-SGD (Li et al., 2017, *Meta-SGD: Learning to Learn Quickly for
    Few-Shot Learning*), with `learn="tensor"` and `steps` that of MAML++ (Antoniou, Edwards & Storkey, 2019,
    *How to Train Your MAML*). Learned rates are free to change sign.

    Arguments:
        lr: step size, or where learned ones start; positive.
        momentum: $\mu$, from 0 to below 1.
        learn: learn one rate for `all`, one a `tensor` or one a `weight`.
        steps: learn rates of their own for each of this many inner steps; later steps use the last.

    Raises:
        UsageError: an argument has no meaning.

    Example:
        >>> rule, fast = sgd(0.1), {"w": torch.zeros(1, 2)}
        >>> rule.update({"w": torch.ones(1, 2)}, rule.init(fast, {}), fast, {})[0]["w"]
        tensor([[-0.1000, -0.1000]])
    """
    if not 0 <= momentum < 1:
        raise UsageError(f"momentum={momentum}: give a number from 0 to below 1")
    rate = _Rate.of(lr, learn, steps)
    if momentum == 0:
        return _rule(rate, lambda grad, moments, value, step: (grad, moments))

    def direction(grad: Tensor, moments: Params, value: Tensor, step: int) -> tuple[Tensor, Params]:
        velocity = momentum * moments["velocity"] + grad
        return velocity, {"velocity": velocity}

    return _rule(rate, direction, ("velocity",))


def adam(
    lr: float,
    *,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    learn: str | None = None,
    steps: int | None = None,
) -> InnerRule:
    r"""Adam that can be differentiated.

    $\phi \leftarrow \phi - \alpha\, (\hat m / \sqrt{\hat v + \epsilon^2} + \lambda \phi)$.

    $\epsilon$ stands inside the root: outside of it, the derivative of the root is infinite where a gradient is 0
    (a dead unit). Kingma & Ba, 2015, *Adam*; Loshchilov & Hutter, 2019, *Decoupled Weight Decay Regularization*.

    Arguments:
        lr: step size, or where learned ones start; positive.
        betas: decay of the two moments.
        eps: $\epsilon$, positive.
        weight_decay: decoupled decay $\lambda$, 0 for none.
        learn: see `sgd`.
        steps: see `sgd`.

    Raises:
        UsageError: an argument has no meaning.

    Example:
        >>> rule, fast = adam(0.1), {"w": torch.zeros(1, 1)}
        >>> round(rule.update({"w": torch.ones(1, 1)}, rule.init(fast, {}), fast, {})[0]["w"].item(), 4)
        -0.1
    """
    _positive("eps", eps)
    first, second = betas

    def direction(grad: Tensor, moments: Params, value: Tensor, step: int) -> tuple[Tensor, Params]:
        mean = first * moments["mean"] + (1 - first) * grad
        square = second * moments["square"] + (1 - second) * grad.square()
        corrected = square / (1 - second ** (step + 1))
        along = mean / (1 - first ** (step + 1)) / (corrected + eps * eps).sqrt()
        return along + weight_decay * value, {"mean": mean, "square": square}

    return _rule(_Rate.of(lr, learn, steps), direction, ("mean", "square"))


def adamw(
    lr: float, *, weight_decay: float = 0.01, learn: str | None = None, steps: int | None = None
) -> InnerRule:
    """Adam with decoupled weight decay, see `adam`.

    Arguments:
        lr: step size, or where learned ones start; positive.
        weight_decay: decay a unit of step size.
        learn: see `sgd`.
        steps: see `sgd`.

    Example:
        >>> adamw(0.1).first_order
        False
    """
    return adam(lr, weight_decay=weight_decay, learn=learn, steps=steps)


def rmsprop(
    lr: float, *, decay: float = 0.99, eps: float = 1e-8, learn: str | None = None, steps: int | None = None
) -> InnerRule:
    r"""RMSprop that can be differentiated.

    $v \leftarrow \rho v + (1-\rho) g^2,\; \phi \leftarrow \phi - \alpha\, g / \sqrt{v + \epsilon^2}$.

    Arguments:
        lr: step size, or where learned ones start; positive.
        decay: $\rho$.
        eps: $\epsilon$, positive; inside the root, see `adam`.
        learn: see `sgd`.
        steps: see `sgd`.

    Raises:
        UsageError: an argument has no meaning.

    Example:
        >>> rule, fast = rmsprop(0.1, decay=0.75), {"w": torch.zeros(1, 1)}
        >>> round(rule.update({"w": torch.ones(1, 1)}, rule.init(fast, {}), fast, {})[0]["w"].item(), 4)
        -0.2
    """
    _positive("eps", eps)

    def direction(grad: Tensor, moments: Params, value: Tensor, step: int) -> tuple[Tensor, Params]:
        square = decay * moments["square"] + (1 - decay) * grad.square()
        return grad / (square + eps * eps).sqrt(), {"square": square}

    return _rule(_Rate.of(lr, learn, steps), direction, ("square",))


def curvature(lr: float) -> InnerRule:
    r"""Gradient descent with a learned preconditioner, $\phi \leftarrow \phi - \alpha\, M_o\, G\, M_i$.

    A weight `(out, in)` is multiplied from both sides, a convolution `(out, in, *kernel)` also along its kernel,
    a bias from the left; all start as the identity. Park & Oliva, 2019, *Meta-Curvature*.

    Arguments:
        lr: step size, positive.

    Raises:
        UsageError: `lr` is not positive.

    Example:
        >>> sorted(curvature(0.1).meta({"w": torch.zeros(3, 2)}))
        ['inner/curvature/w/0', 'inner/curvature/w/1']
    """
    _positive("lr", lr)

    def meta(fast: Params) -> Params:
        return {
            f"inner/curvature/{name}/{axis}": torch.eye(size, dtype=value.dtype, device=value.device)
            for name, value in fast.items()
            for axis, size in enumerate(_folded(value.shape))
        }

    def update(grads: Params, state: State, fast: Params, meta: Params) -> tuple[Params, State]:
        moved = {}
        for name, value in fast.items():
            shape = value.shape[1:]
            along = grads[name].reshape(len(value), *_folded(shape))
            for axis in range(along.dim() - 1):
                matrix = meta[f"inner/curvature/{name}/{axis}"]
                along = (along.movedim(axis + 1, -1) @ matrix.mT).movedim(-1, axis + 1)
            moved[name] = value - lr * along.reshape(value.shape)
        return moved, state

    return InnerRule(meta, lambda fast, meta: {}, update)


def _folded(shape: torch.Size) -> tuple[int, ...]:
    """Output, input and kernel axes; the kernel's are one, and a scalar has one of length 1."""
    if len(shape) < 3:
        return tuple(shape) or (1,)
    return (shape[0], shape[1], shape[2:].numel())


def masked(rule: InnerRule) -> InnerRule:
    r"""The same rule on a learned subset of the weights: $g \leftarrow 1[s \ge 0] \circ g$.

    The scores $s$ are meta-parameters that start at 0; their gradient passes the step function unchanged
    (straight through). von Oswald et al., 2021, *Learning where to learn: Gradient sparsity in meta and
    continual learning* (sparse-MAML).

    Arguments:
        rule: any rule.

    Example:
        >>> sorted(masked(sgd(0.1)).meta({"w": torch.zeros(3)}))
        ['inner/mask/w']
    """

    def meta(fast: Params) -> Params:
        scores = {f"inner/mask/{name}": torch.zeros_like(value) for name, value in fast.items()}
        return {**rule.meta(fast), **scores}

    def update(grads: Params, state: State, fast: Params, meta: Params) -> tuple[Params, State]:
        chosen = {name: grad * straight_through(meta[f"inner/mask/{name}"]) for name, grad in grads.items()}
        return rule.update(chosen, state, fast, meta)

    return rule._replace(meta=meta, update=update)


def straight_through(score: Tensor) -> Tensor:
    """1 where a score is at least 0, else 0; its derivative is taken for 1.

    Example:
        >>> straight_through(torch.tensor([-0.1, 0.0, 2.0])).tolist()
        [0.0, 1.0, 1.0]
    """
    return (score >= 0).to(score.dtype) + (score - score.detach())


def detached(rule: InnerRule) -> InnerRule:
    """The same rule with gradients as constants: first order, whatever the rule.

    Learned step sizes keep their gradient; only the derivative of the gradient is dropped
    (Finn, Abbeel & Levine, 2017, *Model-Agnostic Meta-Learning*, section 5.2).

    Arguments:
        rule: any rule.

    Example:
        >>> detached(sgd(0.1)).first_order
        True
    """

    def update(grads: Params, state: State, fast: Params, meta: Params) -> tuple[Params, State]:
        return rule.update({name: grad.detach() for name, grad in grads.items()}, state, fast, meta)

    return rule._replace(update=update, first_order=True)


def proximal(rule: InnerRule, strength: float) -> InnerRule:
    r"""The same rule with a pull back to the start: $g \leftarrow g + \lambda (\phi - \theta)$.

    The inner problem becomes $\min_\phi L(\phi) + \frac\lambda2 \lVert\phi-\theta\rVert^2$, which implicit
    gradients need (Rajeswaran et al., 2019, *Meta-Learning with Implicit Gradients*).

    Arguments:
        rule: any rule.
        strength: $\lambda$, positive.

    Raises:
        UsageError: `strength` is not positive.

    Example:
        >>> proximal(sgd(0.1), 2.0).strength
        2.0
    """
    _positive("strength", strength)

    def update(grads: Params, state: State, fast: Params, meta: Params) -> tuple[Params, State]:
        pulled = {name: grad + strength * (fast[name] - meta[name]) for name, grad in grads.items()}
        return rule.update(pulled, state, fast, meta)

    return rule._replace(update=update, strength=rule.strength + strength)


def clipped(rule: InnerRule, norm: float) -> InnerRule:
    r"""The same rule on gradients whose norm over a task is at most `norm`.

    $g \leftarrow g \cdot \min(1, c / \lVert g \rVert)$, each task by itself.

    Arguments:
        rule: any rule.
        norm: largest norm $c$, positive.

    Raises:
        UsageError: `norm` is not positive.

    Example:
        >>> rule, fast = clipped(sgd(1.0), 1.0), {"w": torch.zeros(1, 4)}
        >>> fast, _ = rule.update({"w": torch.full((1, 4), 5.0)}, rule.init(fast, {}), fast, {})
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
