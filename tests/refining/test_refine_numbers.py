"""The candidate distribution, its density, the variance and the held-out gradients, against closed forms."""

import math

import pytest
import torch
import torch.nn.functional as F
from scipy import stats
from torch import nn
from torch.func import functional_call

from innerloop.algorithms import fomaml, plain
from innerloop.algorithms.gradient_based import gradient_learner
from innerloop.errors import DataError
from innerloop.inner import detached, masked, sgd
from innerloop.outer import unrolled
from innerloop.refining import Evidence, Objective, draw_candidates, fisher, held_out_gradients, row_gradients
from innerloop.refining.candidates import moving_rows
from innerloop.refining.folds import bootstrapped, fold_numbers, partitioned, reversed_partition
from innerloop.refining.selection import per_fold_agreement
from innerloop.tasks.episodes import Batch, unsqueeze
from innerloop.tasks.support import stream
from toolkit.oracles import generator, largest_error, unpadded

N, D, C, J, LR = 12, 3, 4, 3, 0.1


def linear(outputs=1, loss="mse", seed=0):
    """Rows, the objective of a linear model without bias, and its weights as `(D, outputs)`."""
    g = generator(seed)
    net = nn.Sequential(nn.Linear(D, outputs, bias=False)).double()
    with torch.no_grad():
        net[0].weight.copy_(torch.randn(outputs, D, generator=g, dtype=torch.float64))
    x = torch.randn(N, D, generator=g, dtype=torch.float64)
    if loss == "mse":
        y = torch.randn(N, outputs, generator=g, dtype=torch.float64)
    else:
        y = torch.randint(outputs, (N,), generator=g)
    learner = plain(net, loss=loss)
    meta = learner.init()
    return Batch(x, y), Objective(learner, meta, tuple(meta)), meta["0.weight"].T


def descent(x, y, w):
    """The gradient of mean squared error of a linear model with one output."""
    return 2 * x.T @ (x @ w - y) / len(x)


def folds_of(rows, combine=partitioned, seed=1):
    return combine(rows, J, stream(seed))


def test_gradients_of_rows_are_those_of_a_linear_model():
    rows, objective, w = linear()
    found = row_gradients(objective, objective.start(), rows)["0.weight"]
    truth = (2 * (rows.x @ w - rows.y) * rows.x).unsqueeze(1)
    assert (found - truth).abs().max() < 1e-13
    assert (found.mean(0) - descent(rows.x, rows.y, w).T).abs().max() < 1e-13


def test_gradients_of_rows_are_those_of_a_logistic_model():
    rows, objective, w = linear(C, "cross_entropy")
    found = row_gradients(objective, objective.start(), rows)["0.weight"]
    off = F.softmax(rows.x @ w, -1) - F.one_hot(rows.y, C)
    assert (found - torch.einsum("nc,nd->ncd", off, rows.x)).abs().max() < 1e-13


def test_gradients_of_rows_equal_a_loop_over_rows():
    g = generator(2)
    net = nn.Sequential(nn.Linear(D, 5), nn.Tanh(), nn.LayerNorm(5), nn.Linear(5, C)).double()
    rows = Batch(torch.randn(N, D, generator=g, dtype=torch.float64), torch.randint(C, (N,), generator=g))
    learner = plain(net, loss="cross_entropy")
    objective = Objective(learner, meta := learner.init(), tuple(meta))
    found = row_gradients(objective, objective.start(), rows)
    for n in range(N):
        loss = F.cross_entropy(net(rows.x[n : n + 1]), rows.y[n : n + 1])
        truth = dict(zip(meta, torch.autograd.grad(loss, list(net.parameters())), strict=True))
        assert largest_error({name: value[n] for name, value in found.items()}, truth) < 1e-13


@pytest.mark.parametrize("outputs", [1, 3])
def test_the_fisher_information_of_a_linear_model_is_its_curvature(outputs):
    rows, objective, _ = linear(outputs)
    found = fisher(objective, objective.start(), rows)["0.weight"]
    truth = 2 * rows.x.square().mean(0) / outputs  # the diagonal of the Hessian of the mean squared error
    assert (found - truth.expand(outputs, D)).abs().max() < 1e-13


def test_the_fisher_information_of_a_logistic_model():
    rows, objective, w = linear(C, "cross_entropy")
    found = fisher(objective, objective.start(), rows)["0.weight"]
    p = F.softmax(rows.x @ w, -1)
    truth = torch.einsum("nc,nd->cd", p * (1 - p), rows.x.square()) / N
    assert (found - truth).abs().max() < 1e-13


def test_the_fisher_information_of_a_loss_of_ones_own_is_empirical():
    rows, _, w = linear()
    net = nn.Sequential(nn.Linear(D, 1, bias=False)).double()
    with torch.no_grad():
        net[0].weight.copy_(w.T)
    learner = plain(net, loss=lambda prediction, target: (prediction - target).abs().mean(-1))
    objective = Objective(learner, meta := learner.init(), tuple(meta))
    assert (
        fisher(objective, objective.start(), rows)["0.weight"] - rows.x.square().mean(0)
    ).abs().max() < 1e-13


@pytest.mark.parametrize("combine", [partitioned, reversed_partition, bootstrapped])
def test_candidates_and_held_out_gradients_of_a_linear_model(combine):
    rows, objective, w = linear()
    folds = folds_of(rows, combine)
    found = draw_candidates(objective, objective.start(), folds, lr=LR)
    held, losses, _ = held_out_gradients(objective, found.draws, folds)
    centres = []
    for j in range(J):
        (x, y), (x_held, y_held) = unpadded(folds.support, j), unpadded(folds.query, j)
        a = descent(x, y, w)
        phi = w - LR * a
        centres.append(phi.T)
        assert (found.moved_by["0.weight"][j] - a.T).abs().max() < 1e-13
        assert (found.draws["0.weight"][j] - phi.T).abs().max() < 1e-13
        assert (held["0.weight"][j] - descent(x_held, y_held, phi).T).abs().max() < 1e-13
        assert abs(losses[j] - (x_held @ phi - y_held).square().mean()) < 1e-13
    spread = torch.stack(centres)
    assert (found.mean["0.weight"] - spread.mean(0)).abs().max() < 1e-14
    assert (found.variance["0.weight"] - spread.var(0, unbiased=False)).abs().max() < 1e-14


def test_the_density_of_a_draw_is_that_of_independent_normal_variables():
    rows, objective, _ = linear()
    folds = folds_of(rows)
    found = draw_candidates(objective, objective.start(), folds, lr=LR)
    draw = {"0.weight": torch.tensor([[0.3, -0.2, 1.0]], dtype=torch.float64)}
    mean, deviation = found.mean["0.weight"].numpy(), found.variance["0.weight"].sqrt().numpy()
    truth = stats.norm.logpdf(draw["0.weight"].numpy(), mean, deviation).sum()
    assert found.log_density(draw) == pytest.approx(truth, rel=1e-12)


def test_what_is_certain_has_no_density_elsewhere():
    rows, objective, w = linear()
    found = draw_candidates(objective, objective.start(), folds_of(rows), lr=0.0)
    assert found.variance["0.weight"].abs().max() == 0
    assert found.log_density({"0.weight": w.T}) == 0.0
    assert found.log_density({"0.weight": w.T + 1}) == -math.inf


def test_laplace_noise_is_the_posterior_of_a_linear_model():
    """With orthogonal features the diagonal is all there is: the exact posterior variance of Bayesian regression."""
    g = generator(3)
    x = torch.linalg.qr(torch.randn(N, D, generator=g, dtype=torch.float64))[0] * 2
    rows = Batch(x, torch.randn(N, 1, generator=g, dtype=torch.float64))
    _, objective, _ = linear()
    theta, tau = objective.start(), 0.7
    folds = folds_of(rows)
    information = fisher(objective, theta, rows)
    found = draw_candidates(
        objective, theta, folds, lr=LR, tau=tau, information=information, generator=generator(4)
    )
    count = moving_rows(folds)
    assert count == N * (J - 1) / J
    # targets have variance 1/2 around the line, so the precision is 2 X'X + tau
    precision = 2 * (x.T @ x) * count / N + tau * torch.eye(D, dtype=torch.float64)
    assert (found.noise["0.weight"] - torch.linalg.inv(precision).diagonal()).abs().max() < 1e-13
    between = found.centres["0.weight"].var(0, unbiased=False)
    assert (found.variance["0.weight"] - between - found.noise["0.weight"]).abs().max() < 1e-15
    assert (found.draws["0.weight"] - found.centres["0.weight"]).abs().min() > 0


def test_samples_have_the_mean_and_the_variance():
    rows, objective, _ = linear()
    theta = objective.start()
    found = draw_candidates(
        objective, theta, folds_of(rows), lr=LR, tau=5.0, information=fisher(objective, theta, rows),
        generator=generator(),
    )  # fmt: skip
    g = generator(1)
    draws = torch.stack([found.sample(g)["0.weight"] for _ in range(4000)])
    error = found.variance["0.weight"].sqrt() / 4000**0.5
    assert ((draws.mean(0) - found.mean["0.weight"]).abs() < 5 * error).all()
    assert (draws.var(0) / found.variance["0.weight"] - 1).abs().max() < 0.15


def test_a_candidate_goes_no_further_than_its_reach():
    rows, objective, w = linear()
    folds = folds_of(rows)
    near = draw_candidates(objective, objective.start(), folds, lr=LR, reach=1e-3).draws["0.weight"]
    free = draw_candidates(objective, objective.start(), folds, lr=LR).draws["0.weight"]
    lengths = (near - w.T).flatten(1).norm(dim=1) / w.norm()
    assert (lengths - 1e-3).abs().max() < 1e-12
    cosine = F.cosine_similarity((near - w.T).flatten(1), (free - w.T).flatten(1))
    assert (cosine - 1).abs().max() < 1e-9


def test_the_gradient_of_a_learned_mask_is_minus_lr_times_both_gradients():
    """sparse-MAML's mask over one inner step, against the per-fold agreement of `score='learned'`."""
    g = generator(5)
    net = nn.Sequential(nn.Linear(D, 5), nn.Tanh(), nn.Linear(5, C)).double()
    rows = Batch(torch.randn(N, D, generator=g, dtype=torch.float64), torch.randint(C, (N,), generator=g))
    folds = folds_of(rows)
    family = gradient_learner(net, "cross_entropy", detached(masked(sgd(LR))), 1, metagrad=unrolled())
    masks, _ = family.metagrad(family, family.init(), folds)
    learner = plain(net, loss="cross_entropy")
    objective = Objective(learner, meta := learner.init(), tuple(meta))
    found = draw_candidates(objective, objective.start(), folds, lr=LR)
    held, _, _ = held_out_gradients(objective, found.draws, folds)
    agreement = per_fold_agreement(Evidence(held, found.moved_by, None, g))
    for name in meta:
        assert (masks[f"inner/mask/{name}"] + LR * agreement[name]).abs().max() < 1e-13


def test_the_mean_held_out_gradient_is_that_of_first_order_maml_over_the_folds():
    rows, objective, _ = linear(C, "cross_entropy")
    folds = folds_of(rows)
    found = draw_candidates(objective, objective.start(), folds, lr=LR)
    held, _, _ = held_out_gradients(objective, found.draws, folds)
    learner = fomaml(objective.learner.network.module, loss="cross_entropy", inner_lr=LR, inner_steps=1)
    truth, _ = learner.metagrad(learner, objective.meta, folds)
    assert largest_error({name: value.mean(0) for name, value in held.items()}, truth) < 1e-13


@pytest.mark.parametrize("seed", range(5))
def test_folds_divide_all_rows_evenly_in_every_class(seed):
    y = torch.tensor([0] * 7 + [1] * 4 + [2] * 9)[torch.randperm(20, generator=generator(seed))]
    folds = fold_numbers(y, 4, generator(seed))
    sizes = torch.bincount(folds, minlength=4)
    assert sizes.tolist() == [5, 5, 5, 5]
    for label in range(3):
        inside = torch.bincount(folds[y == label], minlength=4)
        assert inside.max() - inside.min() <= 1
    assert not torch.equal(folds, fold_numbers(y, 4, generator(seed + 100)))


def test_every_row_is_held_out_once_and_never_by_a_candidate_it_moved():
    rows = Batch(torch.arange(11.0)[:, None], torch.zeros(11, 1))
    folds = partitioned(rows, 4, generator())
    held = []
    for j in range(4):
        moved, out = unpadded(folds.support, j)[0], unpadded(folds.query, j)[0]
        assert sorted(torch.cat([moved, out]).flatten().tolist()) == list(range(11))
        held += out.flatten().tolist()
    assert sorted(held) == list(range(11))
    for j in range(5):
        moved, out = (unpadded(part, j)[0].flatten() for part in bootstrapped(rows, 5, generator()))
        assert len(moved) == 11
        assert len(out)
        assert not set(moved.tolist()) & set(out.tolist())


@pytest.mark.parametrize("combine", [partitioned, reversed_partition, bootstrapped])
def test_one_row_cannot_be_held_out(combine):
    with pytest.raises(DataError, match="add rows"):
        combine(Batch(torch.zeros(1, 1), torch.zeros(1, 1)), 2, generator())


def test_batchnorm_keeps_its_statistics_row_by_row():
    net = nn.Sequential(nn.Linear(D, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, C)).double()
    x = torch.randn(30, D, dtype=torch.float64, generator=generator())
    net(x)
    net.eval()
    learner = plain(net, loss="cross_entropy")
    meta = learner.init()
    found = learner.predict(meta, {}, x.unsqueeze(0))[0]
    assert (found - net(x)).abs().max() < 1e-13
    alone = learner.predict(meta, {}, unsqueeze(Batch(x[:1], x[:1])).x)[0]
    assert (alone - net(x[:1])).abs().max() < 1e-13
    names = tuple(learner.network.params())
    objective = Objective(learner, meta, names)
    y = torch.randint(C, (30,), generator=generator())
    grads, _, _ = objective.gradients({n: meta[n][None] for n in names}, Batch(x[None], y[None]))
    truth = torch.autograd.grad(
        F.cross_entropy(functional_call(net, dict(net.named_parameters()), (x,)), y), list(net.parameters())
    )
    assert largest_error({n: g[0] for n, g in grads.items()}, dict(zip(names, truth, strict=True))) < 1e-12
