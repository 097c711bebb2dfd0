"""Optimizers of the outer loop against those of torch.optim, schedules against torch's, and the wrappers by hand."""

import math

import pytest
import torch

from innerloop.errors import UsageError
from innerloop.outer.optimizers import (
    accumulated,
    adam,
    adamw,
    averaged,
    grouped,
    rmsprop,
    scaled,
    sgd,
    torch_optimizer,
)
from innerloop.outer.schedules import constant, cosine, linear, one_cycle

RATES = [0.1, 0.05, 0.2, 0.01, 0.3, 0.1, 0.1]
OPTIM = torch.optim
PAIRS = {
    "adam": (adam(), lambda p: OPTIM.Adam(p, 1.0)),
    "adam, L2": (
        adam(betas=(0.8, 0.9), eps=1e-3, weight_decay=0.1),
        lambda p: OPTIM.Adam(p, 1.0, (0.8, 0.9), 1e-3, weight_decay=0.1),
    ),
    "adamw": (adamw(weight_decay=0.2), lambda p: OPTIM.AdamW(p, 1.0, weight_decay=0.2)),
    "sgd": (sgd(), lambda p: OPTIM.SGD(p, 1.0)),
    "momentum": (sgd(momentum=0.9, weight_decay=0.1), lambda p: OPTIM.SGD(p, 1.0, 0.9, weight_decay=0.1)),
    "nesterov": (sgd(momentum=0.9, nesterov=True), lambda p: OPTIM.SGD(p, 1.0, 0.9, nesterov=True)),
    "rmsprop": (rmsprop(alpha=0.9, weight_decay=0.1), lambda p: OPTIM.RMSprop(p, 1.0, 0.9, weight_decay=0.1)),
}


def start():
    return {
        "w": torch.linspace(-1, 1, 6, dtype=torch.float64).reshape(2, 3),
        "b": torch.ones(2, dtype=torch.float64),
    }


def gradients(steps=7):
    g = torch.Generator().manual_seed(0)
    return [
        {n: torch.randn(v.shape, generator=g, dtype=v.dtype) for n, v in start().items()}
        for _ in range(steps)
    ]


def moved(optimizer, rates=RATES):
    """The parameters after each update."""
    params, path = start(), []
    state = optimizer.init(params)
    for step, (rate, grads) in enumerate(zip(rates, gradients(len(rates)), strict=True)):
        numbers = torch.tensor(optimizer.numbers(step, rate), dtype=torch.float64)
        params, state = optimizer.update(grads, state, params, numbers)
        path.append(optimizer.result(state, params))
    return path


def moved_by_torch(make):
    params = {name: torch.nn.Parameter(value) for name, value in start().items()}
    optimizer, path = make(list(params.values())), []
    for rate, grads in zip(RATES, gradients(), strict=True):
        for name, parameter in params.items():
            parameter.grad = grads[name]
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()
        path.append({name: value.detach().clone() for name, value in params.items()})
    return path


def same(one, other, atol=1e-14):
    for a, b in zip(one, other, strict=True):
        for name, value in a.items():
            torch.testing.assert_close(value, b[name], rtol=1e-12, atol=atol)


@pytest.mark.parametrize("name", PAIRS)
def test_an_optimizer_is_that_of_torch(name):
    ours, theirs = PAIRS[name]
    same(moved(ours), moved_by_torch(theirs))


@pytest.mark.parametrize("name", PAIRS)
def test_a_class_of_torch_is_taken_as_it_is(name):
    same(moved(torch_optimizer(PAIRS[name][1])), moved_by_torch(PAIRS[name][1]), atol=0)


def test_groups_of_a_torch_optimizer_keep_their_proportions():
    def make(params):
        first, second = params
        return OPTIM.SGD([{"params": [second], "lr": 0.3}, {"params": [first]}], lr=0.1)

    params, grads = start(), gradients(1)[0]
    after, _ = torch_optimizer(make, rate=2.0).update(grads, {}, params, torch.tensor([0.5]))
    torch.testing.assert_close(after["w"], params["w"] - 0.05 * grads["w"])
    torch.testing.assert_close(after["b"], params["b"] - 0.15 * grads["b"])


def test_groups_have_optimizers_of_their_own():
    path = moved(grouped({"b": scaled(sgd(), 0.1), "*": adam()}))
    for name, alone in (("w", adam()), ("b", scaled(sgd(), 0.1))):
        torch.testing.assert_close(path[-1][name], moved(alone)[-1][name])


def test_the_average_follows_the_parameters():
    average, plain = start(), moved(adam())
    for seen, params in zip(moved(averaged(adam(), 0.7)), plain, strict=True):
        average = {name: 0.7 * value + 0.3 * params[name] for name, value in average.items()}
        same([seen], [average])


def test_accumulated_gradients_move_once_by_their_mean():
    path = moved(accumulated(adam(), 3), [0.1] * 6)
    params, grads = start(), gradients(6)
    optimizer = adam()
    state = optimizer.init(params)
    same([path[0], path[1]], [start()] * 2)
    for turn in range(2):
        mean = {name: sum(one[name] for one in grads[3 * turn : 3 * turn + 3]) / 3 for name in params}
        params, state = optimizer.update(mean, state, params, torch.tensor(optimizer.numbers(turn, 0.1)))
        torch.testing.assert_close(path[3 * turn + 2]["w"], params["w"], rtol=1e-6, atol=1e-7)


def test_schedules_are_those_of_torch():
    def of_torch(make, steps=10):
        optimizer = OPTIM.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.5)
        scheduler, seen = make(optimizer), []
        for _ in range(steps):
            seen.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            scheduler.step()
        return seen

    schedulers, steps = OPTIM.lr_scheduler, range(10)
    expected = of_torch(lambda o: schedulers.CosineAnnealingLR(o, 10))
    assert [cosine(0.5, 10)(step) for step in steps] == pytest.approx(expected)
    expected = of_torch(lambda o: schedulers.LinearLR(o, 1.0, 1e-12, 10))
    assert [linear(0.5, 10)(step) for step in steps] == pytest.approx(expected)
    expected = of_torch(lambda o: schedulers.OneCycleLR(o, 0.5, total_steps=10, cycle_momentum=False))
    assert [one_cycle(0.5, 10)(step) for step in steps] == pytest.approx(expected)


def test_a_warm_up_rises_to_the_step_size():
    for make in (cosine, linear, constant):
        rates = [make(1.0, 12, warmup=4)(step) for step in range(12)]
        assert rates[:4] == [0.25, 0.5, 0.75, 1.0]
        assert rates[4] == 1.0
    assert cosine(1.0, 12, warmup=4)(8) == pytest.approx(0.5)
    assert math.isclose(linear(1.0, 12, warmup=4)(8), 0.5)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: adam(eps=0.0), r"adam\(eps=0.0\) has no meaning"),
        (lambda: adamw(weight_decay=-1), r"weight_decay=-1"),
        (lambda: sgd(nesterov=True), r"nesterov=True"),
        (lambda: sgd(momentum=1.0), r"momentum=1.0"),
        (lambda: rmsprop(alpha=1.0), r"alpha=1.0"),
        (lambda: averaged(adam(), 1.0), r"decay=1.0"),
        (lambda: accumulated(adam(), 0), r"every=0"),
        (lambda: accumulated(torch_optimizer(lambda p: OPTIM.SGD(p, 1.0)), 2), "change what they hold"),
        (lambda: scaled(adam(), -1), "factor=-1"),
        (lambda: grouped({}), "has no group"),
        (lambda: grouped({"b": adam()}).init(start()), r"'w' fits none of b: add a group '\*'"),
        (lambda: torch_optimizer(lambda p: 3).init(start()), "made a int"),
        (lambda: torch_optimizer(lambda p: OPTIM.SGD(p[:1], 1.0)).init(start()), "leaves out 'b'"),
        (lambda: cosine(0.0, 3), "rate=0.0"),
        (lambda: linear(1.0, 0), "steps=0"),
        (lambda: one_cycle(1.0, 10, rising=1.0), "rising=1.0"),
    ],
)
def test_what_has_no_meaning_is_refused(make, words):
    with pytest.raises(UsageError, match=words):
        make()
