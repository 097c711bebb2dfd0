"""Meta-gradients with a formula of their own equal it, and combinations that train nothing are refused."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call

from innerloop import inner
from innerloop.algorithms import (
    anil,
    bmaml,
    fomaml,
    gradient_learner,
    imaml,
    maml,
    maml_plus_plus,
    meta_curvature,
    mixed,
    protomaml,
    reptile,
    sparse_maml,
)
from innerloop.errors import UsageError
from innerloop.inner.particles import svgd_direction
from innerloop.outer import annealed, displacement, implicit, multi_step, unrolled
from innerloop.outer.metagrad import step_weights
from innerloop.tasks.episodes import Batch, Episode, join_rows
from toolkit.cases import net
from toolkit.oracles import (
    central_difference,
    class_episode,
    difference_error,
    directional,
    doubled,
    gradient,
    largest_error,
    random_direction,
    regression_episode,
    within,
)


def test_reptile_with_one_step_is_the_rate_times_the_support_gradient():
    episode, module = regression_episode(), net()
    learner = reptile(module, loss="mse", inner_lr=0.3, inner_steps=1, rows="support")
    meta = doubled(learner.init())
    leaf = {name: value.clone().requires_grad_() for name, value in meta.items()}
    flat = functional_call(module.double(), leaf, (episode.support.x.flatten(0, 1),))
    truth = torch.autograd.grad(F.mse_loss(flat, episode.support.y.flatten(0, 1)), list(leaf.values()))
    expected = {name: 0.3 * value for name, value in zip(leaf, truth, strict=True)}
    within(largest_error(gradient(learner, meta, episode), expected), 1e-14)


@pytest.mark.parametrize("rows", ["all", "support"])
def test_reptile_is_the_way_back_to_the_start(rows):
    episode = regression_episode()
    learner = reptile(net(), loss="mse", inner_lr=0.1, inner_steps=4, rows=rows)
    meta = doubled(learner.init())
    seen = join_rows(*episode) if rows == "all" else episode.support
    with torch.no_grad():
        adapted = learner.adapt(meta, seen)
    expected = {name: (meta[name] - adapted[name]).mean(0) for name in meta}
    assert largest_error(gradient(learner, meta, episode), expected) == 0


def test_the_mask_passes_its_gradient_straight_through():
    """One step, all scores 0: d loss / d score = -lr * support gradient * query gradient at the adapted point."""
    episode, module = regression_episode(), net()
    learner = sparse_maml(module, loss="mse", inner_lr=0.2, inner_steps=1)
    plain = maml(module, loss="mse", inner_lr=0.2, inner_steps=1)
    meta = doubled(learner.init())
    weights = {name: value for name, value in meta.items() if not name.startswith("inner/")}
    with torch.no_grad():
        start, adapted = list(plain.path(weights, episode.support))
    support = {name: (start[name] - adapted[name]) / 0.2 for name in weights}
    leaf = {name: value.clone().requires_grad_() for name, value in adapted.items()}
    query = torch.autograd.grad(plain.loss(weights, leaf, episode.query).sum(), list(leaf.values()))
    found = gradient(learner, meta, episode)
    for name, value in zip(leaf, query, strict=True):
        within((found[f"inner/mask/{name}"] - (-0.2 * support[name] * value).mean(0)).abs().max(), 1e-14)


def test_weights_of_negative_score_stay_where_they_are():
    episode = regression_episode()
    learner = sparse_maml(net(), loss="mse", inner_lr=0.2, inner_steps=3)
    meta = doubled(learner.init())
    meta["inner/mask/0.weight"] = torch.tensor([[1.0, -1.0]] * 6, dtype=torch.float64)
    with torch.no_grad():
        adapted = learner.adapt(meta, episode.support)
    moved = (adapted["0.weight"] - meta["0.weight"]).abs()
    assert moved[..., 1].max() == 0
    assert moved[..., 0].min() > 0


def test_multi_step_weights():
    assert step_weights(4, 0.0) == [0.25] * 4
    assert step_weights(4, 0.5) == pytest.approx([0.125] * 3 + [0.625])
    assert step_weights(4, 0.99) == pytest.approx([0.0075] * 3 + [1 - 0.0225])
    assert step_weights(4, 1.0) == [0, 0, 0, 1.0]
    assert step_weights(1, 0.0) == [1.0]


@pytest.mark.parametrize("step", [0, 50, 100])
def test_the_multi_step_loss_is_the_weighted_sum_of_the_losses_after_each_step(step):
    episode = regression_episode()
    rule = inner.sgd(0.1, learn="tensor", steps=3)
    learner = gradient_learner(net(), "mse", rule, 3, metagrad=multi_step(100))
    meta = doubled(learner.init())

    def total(values):
        path = list(learner.path(values, episode.support))[1:]
        weights = step_weights(3, step / 100)
        return sum(
            w * learner.loss(values, a, episode.query) for w, a in zip(weights, path, strict=True)
        ).mean()

    direction = random_direction(meta)
    truth = central_difference(total, meta, direction)
    within(abs(directional(gradient(learner, meta, episode, step), direction) - truth), 1e-8)


def test_the_derivative_order_changes_when_it_should():
    episode, module = regression_episode(), net()
    learner = gradient_learner(module, "mse", inner.sgd(0.1), 3, metagrad=annealed(unrolled(), 10))
    first, second = (p(module, loss="mse", inner_lr=0.1, inner_steps=3) for p in (fomaml, maml))
    meta = doubled(learner.init())
    assert largest_error(gradient(learner, meta, episode, 9), gradient(first, meta, episode)) == 0
    assert largest_error(gradient(learner, meta, episode, 10), gradient(second, meta, episode)) == 0


def test_maml_plus_plus_ends_as_maml_with_rates_of_its_own():
    episode, module = regression_episode(), net()
    learner = maml_plus_plus(
        module, loss="mse", inner_lr=0.1, inner_steps=3, multi_step_until=5, first_order_until=2
    )
    plain = maml(module, loss="mse", inner_lr=0.1, inner_steps=3)
    meta = doubled(learner.init())
    weights = {name: value for name, value in meta.items() if not name.startswith("inner/")}
    rates = {name: torch.full_like(value, 0.1) for name, value in meta.items() if name.startswith("inner/")}
    late = gradient(learner, weights | rates, episode, 5)
    truth = gradient(plain, weights, episode)
    within(largest_error({name: late[name] for name in truth}, truth), 1e-14)


def test_steps_beyond_the_learned_ones_use_the_last_rate():
    rule = inner.sgd(0.1, learn="all", steps=2)
    fast = {"w": torch.zeros(1, 1, dtype=torch.float64)}
    meta = {"inner/lr": torch.tensor([1.0, 10.0], dtype=torch.float64)}
    state = rule.init(fast, meta)
    for expected in (-1.0, -11.0, -21.0):
        fast, state = rule.update({"w": torch.ones(1, 1, dtype=torch.float64)}, state, fast, meta)
        assert fast["w"].item() == expected


# --- inner rules against torch's optimisers


@pytest.mark.parametrize(
    ("rule", "optimizer"),
    [
        (inner.sgd(0.1), lambda p: torch.optim.SGD(p, 0.1)),
        (inner.sgd(0.1, momentum=0.9), lambda p: torch.optim.SGD(p, 0.1, momentum=0.9)),
        (inner.adam(0.1), lambda p: torch.optim.Adam(p, 0.1, eps=1e-8)),
        (inner.adamw(0.1), lambda p: torch.optim.AdamW(p, 0.1, eps=1e-8, weight_decay=0.01)),
        (inner.rmsprop(0.1), lambda p: torch.optim.RMSprop(p, 0.1, alpha=0.99, eps=1e-8)),
    ],
)
def test_rules_follow_the_optimisers_of_torch(rule, optimizer):
    g = torch.Generator().manual_seed(0)
    start = torch.randn(3, 2, generator=g, dtype=torch.float64)
    reference = nn.Parameter(start.clone())
    stock = optimizer([reference])
    fast = {"w": start.clone().unsqueeze(0)}
    state = rule.init(fast, {})
    for _ in range(5):
        grad = torch.randn(3, 2, generator=g, dtype=torch.float64)
        reference.grad = grad.clone()
        stock.step()
        fast, state = rule.update({"w": grad.unsqueeze(0)}, state, fast, {})
    # the rule has eps inside the root, the optimisers outside: equal where gradients are not tiny
    within((fast["w"][0] - reference).abs().max(), 1e-6)


@pytest.mark.parametrize("name", ["adam", "adamw", "rmsprop"])
def test_a_dead_unit_gives_a_finite_meta_gradient(name):
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 1))
    nn.init.constant_(module[0].bias, -100.0)
    learner = maml(module, loss="mse", inner_lr=0.01, inner_steps=3, inner=name)
    found = gradient(learner, doubled(learner.init()), regression_episode())
    assert all(torch.isfinite(value).all() for value in found.values())


def test_curvature_at_the_identity_is_maml_and_multiplies_as_matrices():
    episode, module = (
        class_episode(shape=(1, 4, 4)),
        nn.Sequential(nn.Conv2d(1, 3, 3), nn.Tanh(), nn.Flatten(), nn.Linear(12, 3)),
    )
    learner = meta_curvature(module, loss="cross_entropy", inner_lr=0.1, inner_steps=2)
    plain = maml(module, loss="cross_entropy", inner_lr=0.1, inner_steps=2)
    meta = doubled(learner.init())
    weights = {name: value for name, value in meta.items() if not name.startswith("inner/")}
    found, truth = gradient(learner, meta, episode), gradient(plain, weights, episode)
    within(largest_error({name: found[name] for name in truth}, truth), 1e-14)
    rule = inner.curvature(1.0)
    g = torch.Generator().manual_seed(0)
    fast = {"w": torch.zeros(1, 3, 2, dtype=torch.float64)}
    learned = {
        n: torch.randn(v.shape, generator=g, dtype=torch.float64)
        for n, v in rule.meta({"w": fast["w"][0]}).items()
    }
    grad = torch.randn(1, 3, 2, generator=g, dtype=torch.float64)
    moved, _ = rule.update({"w": grad}, {}, fast, learned)
    out, into = learned["inner/curvature/w/0"], learned["inner/curvature/w/1"]
    within((moved["w"][0] + out @ grad[0] @ into.mT).abs().max(), 1e-14)


# --- implicit gradients on quadratics


def quadratic():
    """Linear least squares: the inner problem and its implicit gradient have closed forms."""
    torch.manual_seed(0)
    return nn.Linear(2, 1, bias=False), regression_episode(tasks=3)


def closed_form(meta, episode, strength):
    """Solution and meta-gradient of min mean (y - x w)^2 + strength/2 |w - theta|^2, task by task."""
    total = torch.zeros(2, 1, dtype=torch.float64)
    theta = meta["weight"].mT
    for task in range(episode.n_tasks):
        x, y = episode.support.x[task], episode.support.y[task]
        hessian = 2 * x.mT @ x / len(x)
        system = hessian + strength * torch.eye(2, dtype=torch.float64)
        solution = torch.linalg.solve(system, 2 * x.mT @ y / len(x) + strength * theta)
        qx, qy = episode.query.x[task], episode.query.y[task]
        slope = 2 * qx.mT @ (qx @ solution - qy) / len(qx)
        total += strength * torch.linalg.solve(system, slope)
    return {"weight": total.mT / episode.n_tasks}


@pytest.mark.parametrize("solver", ["cg", "neumann"])
def test_the_implicit_gradient_of_a_quadratic_is_the_closed_form(solver):
    module, episode = quadratic()
    strength = 8.0
    learner = imaml(
        module, loss="mse", strength=strength, inner_lr=0.05, inner_steps=400, solver=solver, iterations=200
    )
    meta = doubled(learner.init())
    within(largest_error(gradient(learner, meta, episode), closed_form(meta, episode, strength)), 1e-9)


def test_the_reported_residual_bounds_the_error_and_falls():
    module, episode = quadratic()
    truth = None
    errors, residuals = [], []
    for iterations in (1, 2, 3):
        learner = imaml(
            module, loss="mse", strength=2.0, inner_lr=0.1, inner_steps=500, iterations=iterations
        )
        meta = doubled(learner.init())
        truth = truth or closed_form(meta, episode, 2.0)
        found, metrics = learner.metagrad(learner, meta, episode)
        errors.append(largest_error(found, truth))
        residuals.append(metrics["residual"].max().item())
    assert errors[0] > errors[1] >= errors[2] - 1e-12
    assert residuals[0] > residuals[1]
    # the system's smallest eigenvalue is 1 or more, so the residual bounds the error, relative to the right side
    assert residuals[1] < 1e-9 or errors[1] <= residuals[1] * 100


def test_the_implicit_gradient_is_that_of_unrolling_an_exact_solve():
    module, episode = quadratic()
    rule = inner.proximal(inner.sgd(0.1), 2.0)
    long = gradient_learner(module, "mse", rule, 300, metagrad=unrolled())
    short = gradient_learner(module, "mse", rule, 300, metagrad=implicit(2.0, iterations=5))
    meta = doubled(long.init())
    within(largest_error(gradient(long, meta, episode), gradient(short, meta, episode)), 1e-9)


# --- Bayesian MAML


def test_svgd_equals_its_double_loop():
    g = torch.Generator().manual_seed(0)
    particles, slope = (torch.randn(2, 4, 3, generator=g, dtype=torch.float64) for _ in range(2))
    found = svgd_direction(particles, slope, 5)
    for task in range(2):
        square = torch.cdist(particles[task], particles[task]).square()
        width = square.flatten().median() / math.log(5)
        for i in range(4):
            total = torch.zeros(3, dtype=torch.float64)
            for j in range(4):
                kernel = torch.exp(-square[j, i] / width)
                push = -2 / width * (particles[task, j] - particles[task, i]) * kernel
                total += kernel * slope[task, j] - push / 5
            within((found[task, i] - total / 4).abs().max(), 1e-13)


def test_the_chaser_loss_is_the_squared_way_to_the_leader():
    episode = regression_episode()
    learner = bmaml(net(), loss="mse", particles=3, inner_lr=0.1, inner_steps=2, leader_steps=2)
    meta = doubled(learner.init())
    with torch.no_grad():
        leader = learner.adapt(meta, episode.support)
        for _ in range(2):
            leader = learner._step(leader, join_rows(*episode), None)
    leaf = {name: value.clone().requires_grad_() for name, value in meta.items() if name in leader}
    chaser = learner.adapt(leaf, episode.support)
    loss = sum((chaser[n] - leader[n]).square().flatten(1).sum(1) for n in leader).mean()
    truth = dict(zip(leaf, torch.autograd.grad(loss, list(leaf.values())), strict=True))
    within(largest_error(gradient(learner, meta, episode), truth), 1e-14)


def test_particles_spread_where_there_is_no_data():
    learner = bmaml(net(), loss="mse", particles=8, inner_lr=0.05, inner_steps=20)
    meta = doubled(learner.init())
    support = Batch(torch.zeros(1, 20, 2, dtype=torch.float64), torch.zeros(1, 20, 1, dtype=torch.float64))
    adapted = learner.adapt(meta, support)
    near, far = (
        learner.disagreement(meta, adapted, torch.full((1, 1, 2), at, dtype=torch.float64))
        for at in (0.0, 3.0)
    )
    assert far.item() > near.item()


# --- prototypes as a start


def test_protomaml_without_a_step_is_a_prototypical_network():
    torch.manual_seed(0)
    body = nn.Sequential(nn.Linear(4, 5), nn.Tanh())
    learner = protomaml(body, n_features=5, n_way=3, inner_lr=0.1, inner_steps=0)
    episode = class_episode()
    meta = doubled(learner.init())
    logits = learner.predict(meta, learner.adapt(meta, episode.support), episode.query.x)
    features = [body.double()(batch.x) for batch in episode]
    for task in range(3):
        centres = torch.stack([features[0][task][episode.support.y[task] == k].mean(0) for k in range(3)])
        distance = torch.cdist(features[1][task], centres).square()
        assert torch.allclose(logits[task].softmax(-1), (-distance).softmax(-1), atol=1e-12)
    within(difference_error(replace(learner, inner_steps=2), episode, meta), 1e-8)


# --- refusals


def learner_with(metagrad, rule, **options):
    return gradient_learner(net(), "mse", rule, 2, metagrad=metagrad, **options)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: learner_with(displacement(), inner.sgd(0.1), adapt="head"),
            "displacement.*only a part.*0.weight",
        ),
        (
            lambda: learner_with(displacement(), inner.sgd(0.1, learn="all")),
            "displacement gives no gradient.*inner/lr",
        ),
        (lambda: learner_with(implicit(1.0), inner.sgd(0.1)), "implicit.*proximal strength is 0"),
        (lambda: learner_with(implicit(1.0), inner.proximal(inner.sgd(0.1), 2.0)), "strength.*one value"),
        (
            lambda: learner_with(implicit(1.0), inner.proximal(inner.sgd(0.1), 1.0), adapt="body"),
            "implicit.*only a part",
        ),
        (lambda: replace(mixed(2), metagrad=displacement()), "displacement needs inner gradient steps"),
        (lambda: replace(anil(net(), loss="mse"), metagrad=displacement()), "only a part"),
        (lambda: inner.sgd(0.1, steps=3), "must be learned"),
        (lambda: maml(net(), loss="mse", inner="lion"), "inner='lion' is unknown"),
        (lambda: maml(net(), loss="huber"), "loss='huber' is unknown: choose one of mse, cross_entropy"),
        (lambda: maml(net(), loss=3), "loss=3 is neither"),
        (lambda: maml(net(), loss="mse", inner_lr=-1.0), "give a positive number"),
        (lambda: maml(net(), loss="mse", inner_steps=-1), "0 to 10000"),
        (lambda: bmaml(net(), loss="mse", particles=1), "two particles"),
        (lambda: implicit(1.0, solver="lu"), "solver='lu'"),
    ],
)
def test_combinations_that_train_nothing_are_refused_by_name(make, message):
    with pytest.raises(UsageError, match=message):
        make()


def test_an_episode_of_one_query_row():
    episode = regression_episode(query=1)
    learner = maml(net(), loss="mse", inner_lr=0.1)
    within(difference_error(learner, Episode(*episode), doubled(learner.init())), 1e-8)
