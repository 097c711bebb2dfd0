"""Optimizers of the outer loop: pure functions from meta-gradients to new meta-parameters, and wrappers around them.

An optimizer is a pair of pure functions over dicts of tensors, so that a whole meta-update is one function that can be
compiled, repeated in one call and stored. `torch_optimizer` takes any class of `torch.optim` in its stead, at the price
of one operator after the other.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..errors import UsageError
from ..models.network import Params

__all__ = [
    "Optimizer",
    "accumulated",
    "adam",
    "adamw",
    "averaged",
    "grouped",
    "rmsprop",
    "scaled",
    "sgd",
    "torch_optimizer",
]

State = Any  # a pytree of tensors


def _as_they_are(state: State, params: Params) -> Params:
    return params


class Optimizer(NamedTuple):
    """How the outer loop turns meta-gradients into new meta-parameters.

    Arguments:
        name: of the optimizer and its settings; what has the same name does the same. Empty for one that nothing else
            can be told to equal.
        init: parameters -> state, a pytree of tensors.
        update: (gradients, state, parameters, numbers) -> (parameters, state).
        numbers: (number of the update from 0, step size) -> what `update` needs that changes from update to update
            without being learned.
        result: (state, parameters) -> the parameters to predict with, where they are others than those that move.
        traceable: whether it can be part of a graph.

    Example:
        >>> optimizer = sgd(momentum=0.9)
        >>> params = {"w": torch.ones(2)}
        >>> params, state = optimizer.update(
        ...     {"w": torch.ones(2)}, optimizer.init(params), params, [torch.tensor(0.1)]
        ... )
        >>> params["w"]
        tensor([0.9000, 0.9000])
    """

    name: str
    init: Callable[[Params], State]
    update: Callable[[Params, State, Params, Tensor], tuple[Params, State]]
    numbers: Callable[[int, float], tuple[float, ...]]
    result: Callable[[State, Params], Params] = _as_they_are
    traceable: bool = True


def adam(
    *, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8, weight_decay: float = 0.0
) -> Optimizer:
    r"""Adam: $\theta \leftarrow \theta - \eta\, \hat m / (\sqrt{\hat v} + \epsilon)$, corrected for the start.

    Kingma & Ba, 2015, *Adam: A Method for Stochastic Optimization*.

    Arguments:
        betas: decay of the mean and of the square of gradients.
        eps: added to the root.
        weight_decay: times the parameters, added to the gradient (an L2 penalty).

    Raises:
        UsageError: a number has no meaning.

    Example:
        >>> adam(weight_decay=0.01).name
        'adam(betas=(0.9, 0.999), eps=1e-08, weight_decay=0.01)'
    """
    return _adam("adam", betas, eps, weight_decay, decoupled=False)


def adamw(
    *, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8, weight_decay: float = 0.01
) -> Optimizer:
    r"""Adam with decoupled weight decay: beside its step, $\theta \leftarrow (1 - \eta \lambda)\, \theta$.

    Loshchilov & Hutter, 2019, *Decoupled Weight Decay Regularization*.

    Arguments:
        betas: decay of the mean and of the square of gradients.
        eps: added to the root.
        weight_decay: the decay $\lambda$.

    Raises:
        UsageError: a number has no meaning.

    Example:
        >>> adamw().traceable
        True
    """
    return _adam("adamw", betas, eps, weight_decay, decoupled=True)


def _adam(name: str, betas: tuple[float, float], eps: float, decay: float, *, decoupled: bool) -> Optimizer:
    first, second = betas
    _require(name, decay, "weight_decay", decay >= 0)
    _require(name, eps, "eps", eps > 0)
    _require(name, betas, "betas", 0 <= first < 1 and 0 <= second < 1)

    def init(params: Params) -> State:
        return _zeros(params), _zeros(params)

    def numbers(step: int, rate: float) -> tuple[float, ...]:
        corrected = rate / (1 - first ** (step + 1)), math.sqrt(1 - second ** (step + 1))
        return (*corrected, 1 - rate * decay) if decoupled else corrected

    def update(grads: Params, state: State, params: Params, numbers: Tensor) -> tuple[Params, State]:
        means, squares = state
        rate, correction = numbers[0], numbers[1]
        moved, mean, square = {}, {}, {}
        for key, value in params.items():
            grad, old, before, weight = (_real(one) for one in (grads[key], means[key], squares[key], value))
            if decay and decoupled:
                weight = weight * numbers[2].to(weight.dtype)
            elif decay:
                grad = grad + decay * weight
            average = old + (1 - first) * (grad - old)
            power = second * before + (1 - second) * grad * grad
            root = power.sqrt() / correction.to(power.dtype) + eps
            parts = weight - rate.to(power.dtype) * (average / root), average, power
            moved[key], mean[key], square[key] = (_like(value, part) for part in parts)
        return moved, (mean, square)

    return Optimizer(f"{name}(betas={betas}, eps={eps}, weight_decay={decay})", init, update, numbers)


def sgd(*, momentum: float = 0.0, nesterov: bool = False, weight_decay: float = 0.0) -> Optimizer:
    r"""Gradient descent with momentum: $b \leftarrow \mu b + g,\ \theta \leftarrow \theta - \eta b$.

    Sutskever, Martens, Dahl & Hinton, 2013, *On the importance of initialization and momentum in deep learning*.

    Arguments:
        momentum: the decay $\mu$; 0 for plain gradient descent.
        nesterov: step along $g + \mu b$.
        weight_decay: times the parameters, added to the gradient.

    Raises:
        UsageError: a number has no meaning.

    Example:
        >>> sgd(momentum=0.9).name
        'sgd(momentum=0.9, nesterov=False, weight_decay=0.0)'
    """
    _require("sgd", momentum, "momentum", 0 <= momentum < 1)
    _require("sgd", nesterov, "nesterov", bool(momentum) or not nesterov)
    _require("sgd", weight_decay, "weight_decay", weight_decay >= 0)

    def init(params: Params) -> State:
        return _zeros(params) if momentum else {}

    def update(grads: Params, state: State, params: Params, numbers: Tensor) -> tuple[Params, State]:
        moved, velocity = {}, {}
        for key, value in params.items():
            grad = grads[key] + weight_decay * value if weight_decay else grads[key]
            if momentum:
                velocity[key] = momentum * state[key] + grad
                grad = grad + momentum * velocity[key] if nesterov else velocity[key]
            moved[key] = value - numbers[0].to(_real(value).dtype) * grad
        return moved, velocity

    name = f"sgd(momentum={momentum}, nesterov={nesterov}, weight_decay={weight_decay})"
    return Optimizer(name, init, update, _rate_alone)


def rmsprop(*, alpha: float = 0.99, eps: float = 1e-8, weight_decay: float = 0.0) -> Optimizer:
    r"""RMSprop: $\theta \leftarrow \theta - \eta\, g / (\sqrt v + \epsilon)$, $v$ a running mean of $g^2$.

    Tieleman & Hinton, 2012, *Neural Networks for Machine Learning*, lecture 6.5.

    Arguments:
        alpha: decay of the square of gradients.
        eps: added to the root.
        weight_decay: times the parameters, added to the gradient.

    Raises:
        UsageError: a number has no meaning.

    Example:
        >>> rmsprop().name
        'rmsprop(alpha=0.99, eps=1e-08, weight_decay=0.0)'
    """
    _require("rmsprop", alpha, "alpha", 0 <= alpha < 1)
    _require("rmsprop", eps, "eps", eps > 0)
    _require("rmsprop", weight_decay, "weight_decay", weight_decay >= 0)

    def update(grads: Params, state: State, params: Params, numbers: Tensor) -> tuple[Params, State]:
        moved, squares = {}, {}
        for key, value in params.items():
            grad, before, weight = (_real(one) for one in (grads[key], state[key], value))
            grad = grad + weight_decay * weight if weight_decay else grad
            square = alpha * before + (1 - alpha) * grad * grad
            parts = weight - numbers[0].to(weight.dtype) * grad / (square.sqrt() + eps), square
            moved[key], squares[key] = (_like(value, part) for part in parts)
        return moved, squares

    return Optimizer(
        f"rmsprop(alpha={alpha}, eps={eps}, weight_decay={weight_decay})", _zeros, update, _rate_alone
    )


def scaled(optimizer: Optimizer, factor: float) -> Optimizer:
    """The same optimizer with a multiple of the step size; for the parts of `grouped`.

    Arguments:
        optimizer: what to scale.
        factor: times the step size; 0 leaves the parameters where they are.

    Raises:
        UsageError: the factor is negative.

    Example:
        >>> scaled(sgd(), 0.1).numbers(0, 3.0)[0]
        0.30000000000000004
    """
    _require("scaled", factor, "factor", factor >= 0)

    def numbers(step: int, rate: float) -> tuple[float, ...]:
        return optimizer.numbers(step, factor * rate)

    return optimizer._replace(name=_around("scaled", optimizer, factor), numbers=numbers)


def grouped(groups: Mapping[str, Optimizer]) -> Optimizer:
    """An optimizer for each group of meta-parameters, by name: the first pattern that fits has a parameter.

    Arguments:
        groups: optimizers by patterns of names with `*`, such as `{"inner/*": scaled(adam(), 0.1), "*": adamw()}`,
            which moves what inner rules learn by smaller steps than weights.

    Raises:
        UsageError: there is no group, or at the start a parameter fits no pattern.

    Example:
        >>> optimizer = grouped({"inner/*": scaled(sgd(), 0.1), "*": sgd()})
        >>> params = {"w": torch.ones(1), "inner/lr": torch.ones(1)}
        >>> numbers = torch.tensor(optimizer.numbers(0, 1.0))
        >>> optimizer.update(params, optimizer.init(params), params, numbers)[0]
        {'w': tensor([0.]), 'inner/lr': tensor([0.9000])}
    """
    if not groups:
        raise UsageError(
            "grouped({}) has no group: give optimizers by patterns of names, such as {'*': adam()}"
        )
    lengths = [len(one.numbers(0, 1.0)) for one in groups.values()]

    def split(params: Params) -> list[Params]:
        parts: dict[str, Params] = {pattern: {} for pattern in groups}
        for name, value in params.items():
            pattern = next((one for one in groups if fnmatchcase(name, one)), None)
            if pattern is None:
                raise UsageError(
                    f"grouped: {name!r} fits none of {', '.join(groups)}: add a group '*' for all others"
                )
            parts[pattern][name] = value
        return list(parts.values())

    def init(params: Params) -> State:
        return tuple(one.init(part) for one, part in zip(groups.values(), split(params), strict=True))

    def numbers(step: int, rate: float) -> tuple[float, ...]:
        return tuple(number for one in groups.values() for number in one.numbers(step, rate))

    def update(grads: Params, state: State, params: Params, numbers: Tensor) -> tuple[Params, State]:
        moved: Params = {}
        states = []
        parts = zip(
            groups.values(), split(grads), state, split(params), torch.split(numbers, lengths), strict=True
        )
        for one, *arguments in parts:
            new, own = one.update(*arguments)
            moved |= new
            states.append(own)
        return {name: moved[name] for name in params}, tuple(states)

    def result(state: State, params: Params) -> Params:
        parts = zip(groups.values(), state, split(params), strict=True)
        of_groups = {name: value for one, own, part in parts for name, value in one.result(own, part).items()}
        return {name: of_groups[name] for name in params}

    names = [one.name for one in groups.values()]
    name = f"grouped({dict(zip(groups, names, strict=True))})" if all(names) else ""
    return Optimizer(name, init, update, numbers, result, all(one.traceable for one in groups.values()))


def averaged(optimizer: Optimizer, decay: float = 0.999) -> Optimizer:
    r"""Predict with an exponential moving average of the parameters, $a \leftarrow \rho a + (1 - \rho)\, \theta$.

    The average starts at the first parameters. Scores and the returned model have it; gradients are taken at the
    parameters themselves. Polyak & Juditsky, 1992, *Acceleration of Stochastic Approximation by Averaging*.

    Arguments:
        optimizer: moves the parameters.
        decay: the decay $\rho$ of the average.

    Raises:
        UsageError: the decay is not between 0 and 1.

    Example:
        >>> optimizer = averaged(sgd(), 0.5)
        >>> params = {"w": torch.ones(1)}
        >>> params, state = optimizer.update(params, optimizer.init(params), params, torch.ones(1))
        >>> params["w"].item(), optimizer.result(state, params)["w"].item()
        (0.0, 0.5)
    """
    _require("averaged", decay, "decay", 0 <= decay < 1)

    def init(params: Params) -> State:
        return optimizer.init(params), {name: value.clone() for name, value in params.items()}

    def update(grads: Params, state: State, params: Params, numbers: Tensor) -> tuple[Params, State]:
        inside, before = state
        moved, inside = optimizer.update(grads, inside, params, numbers)
        return moved, (
            inside,
            {name: old + (1 - decay) * (moved[name] - old) for name, old in before.items()},
        )

    def result(state: State, params: Params) -> Params:
        average: Params = state[1]
        return average

    return optimizer._replace(
        name=_around("averaged", optimizer, decay), init=init, update=update, result=result
    )


def accumulated(optimizer: Optimizer, every: int) -> Optimizer:
    """Move once in several updates, by the mean of their gradients: a larger meta-batch in the same memory.

    Arguments:
        optimizer: moves the parameters.
        every: updates that it takes together.

    Raises:
        UsageError: `every` is not positive.

    Example:
        >>> optimizer = accumulated(sgd(), 2)
        >>> params = {"w": torch.ones(1)}
        >>> state = optimizer.init(params)
        >>> for step in range(2):
        ...     params, state = optimizer.update(
        ...         params, state, params, torch.tensor(optimizer.numbers(step, 1.0))
        ...     )
        ...     print(params["w"].item())
        1.0
        0.0
    """
    _require("accumulated", every, "every", every >= 1)

    def init(params: Params) -> State:
        return optimizer.init(params), _zeros(params)

    def numbers(step: int, rate: float) -> tuple[float, ...]:
        return (float((step + 1) % every == 0), *optimizer.numbers(step // every, rate))

    def update(grads: Params, state: State, params: Params, numbers: Tensor) -> tuple[Params, State]:
        inside, sums = state
        total = {name: sums[name] + grad / every for name, grad in grads.items()}
        moved, after = optimizer.update(total, inside, params, numbers[1:])
        now = numbers[0] > 0

        def chosen(new: Tensor, old: Tensor) -> Tensor:
            return torch.where(now, new, old)

        taken = torch.utils._pytree.tree_map(chosen, (moved, after), (params, inside))
        rest = {name: torch.where(now, torch.zeros_like(value), value) for name, value in total.items()}
        return taken[0], (taken[1], rest)

    def result(state: State, params: Params) -> Params:
        return optimizer.result(state[0], params)

    if not optimizer.traceable:
        raise UsageError(
            "accumulated takes an optimizer of innerloop.optimizers: those of torch change what they hold"
        )
    return Optimizer(_around("accumulated", optimizer, every), init, update, numbers, result)


def torch_optimizer(
    make: Callable[[Iterable[torch.nn.Parameter]], torch.optim.Optimizer], *, rate: float = 1.0
) -> Optimizer:
    """Any optimizer of `torch.optim`, or of a package like it, whose `step` needs no closure.

    The step sizes are those that its groups have, times what the schedule says. It is run operator by operator,
    beside a meta-gradient in its gear.

    Arguments:
        make: parameters -> optimizer, such as `lambda params: torch.optim.AdamW(params, 3e-3)`.
        rate: the step size that stands for those of the groups: at half of it they are halved.

    Raises:
        UsageError: it makes no `torch.optim.Optimizer`.

    Example:
        >>> optimizer = torch_optimizer(lambda params: torch.optim.SGD(params, lr=0.1))
        >>> params = {"w": torch.ones(1)}
        >>> optimizer.update(params, optimizer.init(params), params, torch.ones(1))[0]
        {'w': tensor([0.9000])}
    """

    def made(params: Params) -> tuple[torch.optim.Optimizer, dict[str, torch.nn.Parameter]]:
        own = {name: torch.nn.Parameter(value.detach().clone()) for name, value in params.items()}
        optimizer = make(list(own.values()))
        if not isinstance(optimizer, torch.optim.Optimizer):
            raise UsageError(
                f"optimizer= made a {type(optimizer).__name__}: give one of innerloop.optimizers, or a function of "
                "parameters that returns a torch.optim.Optimizer, such as lambda p: torch.optim.AdamW(p, 3e-3)"
            )
        taken = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
        if left := [name for name, parameter in own.items() if id(parameter) not in taken]:
            raise UsageError(
                f"optimizer= leaves out {left[0]!r}: let it take all parameters that it is given"
            )
        return optimizer, own

    def init(params: Params) -> State:
        made(params)
        return {}

    def update(grads: Params, state: State, params: Params, numbers: Tensor) -> tuple[Params, State]:
        optimizer, own = made(params)
        for name, parameter in own.items():
            parameter.grad = grads[name].detach()
            if name in state:  # the optimizer writes into its tensors
                optimizer.state[parameter] = {
                    key: one.clone() if isinstance(one, Tensor) else one for key, one in state[name].items()
                }
        for group in optimizer.param_groups:
            group["lr"] = group["lr"] * float(numbers[0])
        optimizer.step()
        after = {name: dict(optimizer.state[parameter]) for name, parameter in own.items()}
        return {name: parameter.detach() for name, parameter in own.items()}, after

    def numbers(step: int, given: float) -> tuple[float, ...]:
        return (given / rate,)

    return Optimizer("", init, update, numbers, traceable=False)


def _rate_alone(step: int, rate: float) -> tuple[float, ...]:
    return (rate,)


def _zeros(params: Params) -> Params:
    return {name: torch.zeros_like(value) for name, value in params.items()}


def _around(name: str, optimizer: Optimizer, number: float) -> str:
    return f"{name}({optimizer.name}, {number})" if optimizer.name else ""


def _require(name: str, value: object, argument: str, sensible: bool) -> None:
    if not sensible:
        raise UsageError(f"{name}({argument}={value}) has no meaning: see help(innerloop.optimizers.{name})")


def _real(value: Tensor) -> Tensor:
    """Complex numbers as pairs of real ones, as torch's optimisers take them."""
    return torch.view_as_real(value) if value.is_complex() else value


def _like(value: Tensor, parts: Tensor) -> Tensor:
    """The way back from `_real`."""
    return torch.view_as_complex(parts) if value.is_complex() else parts
