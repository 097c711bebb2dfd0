"""Mathematical identities of the meta-gradients, in float64."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from innerloop.algorithms import fomaml, maml, mixed
from innerloop.models import mlp
from innerloop.outer.prefetch import task_keys
from innerloop.tasks.episodes import Batch, Episode, select, stack
from toolkit.oracles import (
    class_episode,
    difference_error,
    doubled,
    gradient,
    largest_error,
    plain_maml,
    random_direction,
    regression_episode,
    within,
)


def net(seed=0):
    torch.manual_seed(seed)
    return mlp(2, [8, 8], 1)


def test_zero_steps_give_the_plain_gradient_of_the_query_loss():
    episode, module = regression_episode(), net()
    learner = maml(module, loss="mse", inner_steps=0)
    meta = doubled(learner.init())
    leaf = {name: value.clone().requires_grad_() for name, value in meta.items()}
    flat = torch.func.functional_call(module.double(), leaf, (episode.query.x.flatten(0, 1),))
    truth = torch.autograd.grad(F.mse_loss(flat, episode.query.y.flatten(0, 1)), list(leaf.values()))
    within(largest_error(gradient(learner, meta, episode), dict(zip(meta, truth, strict=True))), 1e-14)


@pytest.mark.parametrize("steps", [1, 3, 5])
@pytest.mark.parametrize("learn_lr", [None, "all", "tensor", "weight"])
def test_unrolled_gradient_equals_finite_differences(steps, learn_lr):
    learner = maml(net(), loss="mse", inner_lr=0.1, inner_steps=steps, learn_lr=learn_lr)
    within(difference_error(learner, regression_episode(), doubled(learner.init())), 1e-8)


@pytest.mark.parametrize("steps", [1, 3, 5])
@pytest.mark.parametrize("adapt", ["all", "head", "body"])
@pytest.mark.parametrize("inner", ["sgd", "momentum", "adam", "adamw", "rmsprop"])
def test_every_rule_and_partition_has_the_gradient_of_finite_differences(inner, adapt, steps):
    learner = maml(net(), loss="mse", inner_lr=0.02, inner_steps=steps, inner=inner, adapt=adapt)
    within(difference_error(learner, regression_episode(), doubled(learner.init()), directions=1), 1e-8)


@pytest.mark.parametrize("steps", [1, 3, 5])
def test_unrolled_gradient_of_a_quadratic_is_the_closed_form(steps):
    """A linear model: every step is a linear map, and so is the way back."""
    episode, lr = regression_episode(), 0.1
    learner = maml(nn.Sequential(nn.Linear(2, 1)), loss="mse", inner_lr=lr, inner_steps=steps)
    meta = doubled(learner.init())
    start = torch.cat([meta["0.weight"][0], meta["0.bias"]])
    total = torch.zeros(3, dtype=torch.float64)
    for task in range(episode.n_tasks):
        (design, target), (far, truth) = (
            (torch.cat([b.x[task], torch.ones_like(b.x[task, :, :1])], 1), b.y[task, :, 0]) for b in episode
        )
        hessian = 2 * design.T @ design / len(target)
        step = torch.eye(3, dtype=torch.float64) - lr * hessian
        solution = torch.linalg.solve(hessian, 2 * design.T @ target / len(target))
        adapted = solution + torch.linalg.matrix_power(step, steps) @ (start - solution)
        slope = 2 * far.T @ (far @ adapted - truth) / len(truth)
        total += torch.linalg.matrix_power(step, steps) @ slope / episode.n_tasks
    found = gradient(learner, meta, episode)
    within((torch.cat([found["0.weight"][0], found["0.bias"]]) - total).abs().max(), 1e-13)


def test_unrolled_gradient_through_clipping_equals_finite_differences():
    learner = maml(net(), loss="mse", inner_lr=0.1, inner_steps=3, clip=0.5)
    within(difference_error(learner, regression_episode(), doubled(learner.init())), 1e-8)


NORMS = {
    "batch": lambda: nn.BatchNorm1d(8),
    "layer": lambda: nn.LayerNorm(8),
    "group": lambda: nn.GroupNorm(2, 8),
}


@pytest.mark.parametrize("mapping", ["vmap", "loop"])
@pytest.mark.parametrize("policy", ["support", "transductive"])
@pytest.mark.parametrize("norm", NORMS)
def test_gradient_through_normalisation_equals_finite_differences(norm, policy, mapping):
    """`vmap` around `torch.func.grad` fails this one on torch 2.13."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(4, 8), NORMS[norm](), nn.Tanh(), nn.Linear(8, 3))
    learner = maml(
        module, loss="cross_entropy", inner_lr=0.3, inner_steps=2, batchnorm=policy, mapping=mapping
    )
    within(difference_error(learner, class_episode(), doubled(learner.init())), 1e-8)


@pytest.mark.parametrize("first_order", [False, True])
@pytest.mark.parametrize("steps", [1, 4])
def test_gradient_equals_a_plain_loop_over_tasks(steps, first_order):
    episode, module = regression_episode(), net()
    preset = fomaml if first_order else maml
    learner = preset(module, loss="mse", inner_lr=0.1, inner_steps=steps)
    meta = doubled(learner.init())
    truth = plain_maml(module.double(), F.mse_loss, meta, episode, 0.1, steps, first_order)
    within(largest_error(gradient(learner, meta, episode), truth), 1e-14)


def test_first_order_differs_from_unrolled():
    episode, module = regression_episode(), net()
    second, first = (p(module, loss="mse", inner_lr=0.1, inner_steps=2) for p in (maml, fomaml))
    meta = doubled(second.init())
    assert largest_error(gradient(first, meta, episode), gradient(second, meta, episode)) > 1e-3


@pytest.mark.parametrize("adapt", ["all", "head"])
def test_first_order_is_the_query_gradient_at_the_adapted_point(adapt):
    episode = regression_episode()
    learner = fomaml(net(), loss="mse", inner_lr=0.1, inner_steps=3, adapt=adapt)
    meta = doubled(learner.init())
    with torch.no_grad():
        adapted = learner.adapt(meta, episode.support)
    leaf = {name: value.clone().requires_grad_() for name, value in adapted.items()}
    shared = {name: value.clone().requires_grad_() for name, value in meta.items()}
    loss = learner.loss(shared, leaf, episode.query).mean()
    own = torch.autograd.grad(loss, list(leaf.values()), retain_graph=True)
    truth = {name: value.sum(0) for name, value in zip(leaf, own, strict=True)}
    rest = [name for name in meta if name not in truth]
    if rest:
        truth |= dict(zip(rest, torch.autograd.grad(loss, [shared[n] for n in rest]), strict=True))
    within(largest_error(gradient(learner, meta, episode), truth), 1e-14)


@pytest.mark.parametrize("per", ["all", "tensor", "weight"])
def test_learned_rates_at_a_constant_equal_maml_and_get_a_gradient(per):
    episode, module = regression_episode(), net()
    fixed = maml(module, loss="mse", inner_lr=0.1, inner_steps=2)
    learned = maml(module, loss="mse", inner_lr=0.1, inner_steps=2, learn_lr=per)
    meta, wider = doubled(fixed.init()), doubled(learned.init())
    wider |= {name: torch.full_like(value, 0.1) for name, value in wider.items() if name not in meta}
    found = gradient(learned, wider, episode)
    within(largest_error(found, gradient(fixed, meta, episode)), 1e-14)
    assert all(found[name].abs().min() > 0 for name in found if name.startswith("inner/"))


def test_only_the_head_moves_and_the_body_is_trained():
    episode = regression_episode()
    learner = maml(net(), loss="mse", inner_lr=0.1, inner_steps=2, adapt="head")
    meta = doubled(learner.init())
    with torch.no_grad():
        adapted = learner.adapt(meta, episode.support)
    assert sorted(adapted) == ["4.bias", "4.weight"]
    assert all((adapted[name] - meta[name]).abs().max() > 0 for name in adapted)
    assert all(value.abs().max() > 0 for value in gradient(learner, meta, episode).values())
    within(difference_error(learner, episode, meta), 1e-8)


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_vmap_equals_the_loop(dropout):
    torch.manual_seed(0)
    module = mlp(2, [8, 8], 1, dropout=dropout)
    episode = regression_episode(tasks=4)
    key = task_keys(4, torch.Generator().manual_seed(0))
    stacked, looped = (
        maml(module, loss="mse", inner_lr=0.1, inner_steps=3, mapping=m) for m in ("vmap", "loop")
    )
    meta = doubled(stacked.init())
    found = gradient(stacked, meta, episode, key=key)
    within(largest_error(found, gradient(looped, meta, episode, key=key)), 1e-12)
    one_by_one = [
        gradient(stacked, meta, select(episode, slice(t, t + 1)), key=key[t : t + 1]) for t in range(4)
    ]
    mean = {name: sum(g[name] for g in one_by_one) / 4 for name in meta}
    within(largest_error(found, mean), 1e-12)


@pytest.mark.parametrize("policy", ["support", "transductive"])
def test_padding_changes_nothing(policy):
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(2, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Dropout(0.3), nn.Linear(8, 1))
    learner = maml(module, loss="mse", inner_lr=0.1, inner_steps=2, batchnorm=policy)
    meta = doubled(learner.init())
    whole = regression_episode(tasks=3, support=6, query=7)
    sizes = [(6, 3), (4, 7), (2, 5)]
    alone = [
        Episode(*(Batch(b.x[t, :n], b.y[t, :n]) for b, n in zip(whole, size, strict=True)))
        for t, size in enumerate(sizes)
    ]
    key = task_keys(3, torch.Generator().manual_seed(1))
    padded = stack(alone)
    # what stands in a padded row must not matter, not even infinity
    junk = padded.query.x.masked_fill(padded.query.weight.unsqueeze(-1) == 0, 1e30)
    padded = padded._replace(query=padded.query._replace(x=junk))
    found = gradient(learner, meta, padded, key=key)
    separate = [gradient(learner, meta, stack([e]), key=key[t : t + 1]) for t, e in enumerate(alone)]
    truth = {name: sum(g[name] for g in separate) / 3 for name in meta}
    within(largest_error(found, truth), 1e-12)


def test_the_gaussian_head_gradient_equals_finite_differences():
    learner = mixed(2, covariance="full")
    meta = doubled(learner.init())
    meta = {name: value + random_direction(meta, 7)[name] for name, value in meta.items()}
    within(difference_error(learner, regression_episode(), meta), 1e-8)
