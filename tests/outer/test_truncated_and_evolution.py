"""Truncated and evolution-strategies meta-gradients against closed forms, and against the exact gradient."""

import math

import pytest
import torch
from torch import nn

import innerloop as il
from innerloop.algorithms import gradient_learner, protonet
from innerloop.errors import UsageError
from innerloop.inner import clipped, detached, sgd
from innerloop.outer import checkpointed, evolution, multi_step, truncated, unrolled
from toolkit.cases import body, net
from toolkit.oracles import (
    class_episode,
    doubled,
    generic,
    gradient,
    largest_error,
    regression_episode,
    within,
)


def line(metagrad, steps, rate=0.1):
    """Linear least squares: query losses after inner steps are quadratic in the meta-parameters."""
    torch.manual_seed(0)
    return gradient_learner(nn.Linear(2, 1, bias=False), "mse", sgd(rate), steps, metagrad=metagrad)


def by_matrices(theta, episode, *, steps, rate, last):
    """Mean query gradient times (I - rate H)^last, task by task; its mean over tasks as a row."""
    total = torch.zeros(2, 1, dtype=torch.float64)
    for task in range(episode.n_tasks):
        x, y = episode.support.x[task], episode.support.y[task]
        step = torch.eye(2, dtype=torch.float64) - rate * 2 * x.mT @ x / len(x)
        solution = theta.mT
        for _ in range(steps):
            solution = step @ solution + rate * 2 * x.mT @ y / len(x)
        qx, qy = episode.query.x[task], episode.query.y[task]
        slope = 2 * qx.mT @ (qx @ solution - qy) / len(qx)
        total += torch.linalg.matrix_power(step, min(last, steps)) @ slope
    return {"weight": total.mT / episode.n_tasks}


@pytest.mark.parametrize("last", [0, 1, 3, 5, 9])
def test_truncation_of_a_quadratic_is_a_power_of_the_step_matrix(last):
    episode = regression_episode()
    learner = line(truncated(unrolled(), last), 5)
    meta = doubled(learner.init())
    expected = by_matrices(meta["weight"], episode, steps=5, rate=0.1, last=last)
    within(largest_error(gradient(learner, meta, episode), expected), 1e-12)


@pytest.mark.parametrize("way", [unrolled, lambda: multi_step(10), lambda: checkpointed(unrolled())])
def test_truncation_at_the_full_length_is_exact_and_at_none_is_first_order(way):
    episode, rule = class_episode(), clipped(sgd(0.2, learn="tensor"), 1.0)

    def made(metagrad, rule=rule):
        return gradient_learner(net(4, 3), "cross_entropy", rule, 3, metagrad=metagrad)

    meta = generic(made(way()))
    exact, first = gradient(made(way()), meta, episode), gradient(made(way(), detached(rule)), meta, episode)
    within(largest_error(gradient(made(truncated(way(), 3)), meta, episode), exact), 1e-12)
    within(largest_error(gradient(made(truncated(way(), 0)), meta, episode), first), 1e-12)
    assert largest_error(first, exact) > 1e-4


def test_truncation_is_for_inner_gradients():
    with pytest.raises(UsageError, match="last=-1"):
        truncated(unrolled(), -1)
    learner = protonet(body(4), n_features=5, n_outputs=3)
    with pytest.raises(UsageError, match="truncated needs inner gradient steps"):
        truncated(unrolled(), 1).check(learner)


def direct(learner, meta, episode):
    """The exact meta-gradient of the same learner."""
    return gradient(line(unrolled(), learner.inner_steps), meta, episode)["weight"]


def test_one_antithetic_pair_on_a_quadratic_is_the_slope_along_its_noise():
    """(L(t + s e) - L(t - s e)) / 2s = g'e exactly, whatever s: the estimate g'e e is parallel to e."""
    episode = regression_episode()
    found = []
    for deviation in (0.01, 3.0):
        learner = line(evolution(deviation, pairs=1, seed=5), 2)
        meta = doubled(learner.init())
        found.append(gradient(learner, meta, episode, 7)["weight"])
    exact = direct(learner, meta, episode)
    within((found[0] - found[1]).abs().max(), 1e-9)
    # of g'e e the two numbers g'(g'e e) = (g'e)^2 and |g'e e|^2 = (g'e)^2 |e|^2 give |e|^2, and e up to its sign
    square = (exact * found[0]).sum()
    assert square > 0
    noise = found[0] / square.sqrt()
    within((noise * (exact * noise).sum() - found[0]).abs().max(), 1e-9)


def test_evolution_is_unbiased_for_the_quadratic():
    """The mean over many updates is the exact gradient within five standard errors, which are known:
    the covariance of g'e e is |g|^2 I + g g'."""
    episode = regression_episode()
    pairs, updates = 64, 24
    learner = line(evolution(0.5, pairs=pairs), 2)
    meta = doubled(learner.init())
    exact = direct(learner, meta, episode)
    found = [gradient(learner, meta, episode, number)["weight"] for number in range(updates)]
    mean = torch.stack(found).mean(0)
    error = ((exact.square().sum() + exact.square()) / (pairs * updates)).sqrt()
    assert bool(((mean - exact).abs() < 5 * error).all())
    assert bool((error < 0.05 * exact.norm()).all())


def test_evolution_follows_the_smoothed_objective_where_the_loss_has_steps():
    """E sign(t + s e) of the smoothed step is erf(t / (s sqrt 2)), whose slope is that of a normal density."""

    class Step(nn.Module):
        def __init__(self):
            super().__init__()
            self.t = nn.Parameter(torch.tensor(0.3))

        def forward(self, x):
            return torch.sign(self.t) + 0 * x

    def judged(prediction, target):
        return prediction.mean()

    learner = gradient_learner(Step(), judged, sgd(0.1), 0, metagrad=evolution(0.5, pairs=4000))
    rows = il.Batch(torch.zeros(1, 2, 1).double(), torch.zeros(1, 2, 1).double())
    found = gradient(learner, doubled(learner.init()), il.Episode(rows, rows))["t"].item()
    expected = math.sqrt(2 / math.pi) / 0.5 * math.exp(-0.5 * (0.3 / 0.5) ** 2)
    assert abs(found - expected) < 0.1


@pytest.mark.parametrize("gear", ["traced", "compiled"])
def test_the_noise_depends_on_the_seed_and_the_update_alone_in_every_gear(gear):
    tasks = il.tasks.sinusoid(n_support=5)
    episode = tasks.train.sample(3, torch.Generator().manual_seed(0))
    learner = gradient_learner(net(1, 1), "mse", sgd(0.1), 2, metagrad=evolution(0.1, pairs=3))
    steps = {name: il.meta_step(learner, gear=name) for name in ("eager", gear)}
    states = {name: step.init(learner.init()) for name, step in steps.items()}
    for _ in range(3):
        for name, step in steps.items():
            states[name], _ = step(states[name], episode)
    assert steps[gear].report.gear == gear
    for name, value in states["eager"].meta.items():
        torch.testing.assert_close(states[gear].meta[name], value, rtol=1e-3, atol=1e-5)
    other = gradient_learner(net(1, 1), "mse", sgd(0.1), 2, metagrad=evolution(0.1, pairs=3, seed=1))
    meta = learner.init()
    assert largest_error(gradient(learner, meta, episode), gradient(other, meta, episode)) > 1e-4
    assert largest_error(gradient(learner, meta, episode, 1), gradient(learner, meta, episode, 2)) > 1e-4


@pytest.mark.parametrize(
    ("options", "message"), [({"deviation": 0}, "deviation=0"), ({"pairs": 0}, "pairs=0")]
)
def test_what_means_nothing_is_refused(options, message):
    with pytest.raises(UsageError, match=message):
        evolution(**options)
