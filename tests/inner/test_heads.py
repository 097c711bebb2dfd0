"""Heads against textbook formulas and independent solvers, and fits against an independent likelihood."""

import math

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from scipy.special import expit, logsumexp
from scipy.stats import multivariate_normal
from sklearn.linear_model import Ridge

from innerloop.algorithms import mixed
from innerloop.errors import UsageError
from innerloop.inner.heads import GaussianHead, LaplaceHead, LearnedRidgeHead, PrototypeHead
from innerloop.tasks.episodes import Batch
from toolkit.oracles import class_episode, doubled, random_direction, within


def random_prior(head, seed=0):
    meta = doubled(head.init())
    return {n: v + 2.0 * random_direction(meta, seed)[n] for n, v in meta.items()}


def prior(head, meta):
    """Mean, covariance and noise variance of the coefficients, densely."""
    root = head._root(meta).numpy()
    noise = math.exp(2 * meta["head/log_noise"].item())
    return meta["head/mean"].numpy()[:, 0], noise * root @ root.T, noise


def rows(tasks, n, seed=0):
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(tasks, n, 2, generator=g, dtype=torch.float64)
    slopes = torch.randn(tasks, 2, 1, generator=g, dtype=torch.float64)
    noise = 0.3 * torch.randn(tasks, n, 1, generator=g, dtype=torch.float64)
    level = 1.0 + 0.7 * torch.randn(tasks, 1, 1, generator=g, dtype=torch.float64)
    return Batch(x, x @ slopes + level + noise)


def with_one(x):
    return np.column_stack([x, np.ones(len(x))])


@pytest.mark.parametrize("n", [0, 1, 2, 9])
def test_posterior_and_predictive_density_equal_the_dense_gaussian_conditional(n):
    head = GaussianHead(2, 1, "full")
    meta = random_prior(head)
    support, query = rows(1, n), rows(1, 4, seed=1)
    own = head.solve(meta, support.x, support)
    mean, covariance, noise = prior(head, meta)
    a, b = with_one(support.x[0].numpy()), with_one(query.x[0].numpy())
    joint = a @ covariance @ a.T + noise * np.eye(n)
    gain = b @ covariance @ a.T @ np.linalg.inv(joint)
    expected = b @ mean + gain @ (support.y[0, :, 0].numpy() - a @ mean)
    spread = b @ covariance @ b.T + noise * np.eye(4) - gain @ (a @ covariance @ b.T)
    assert np.allclose(head.predict(meta, own, query.x)[0, :, 0], expected, atol=1e-11)
    assert np.allclose(head.variance(meta, own, query.x)[0, :, 0], np.diag(spread), atol=1e-11)
    values = zip(expected, np.diag(spread), query.y[0, :, 0].numpy(), strict=True)
    density = [multivariate_normal(m, v).logpdf(y) for m, v, y in values]
    assert head.loss(meta, own, query.x, query).item() == pytest.approx(-np.mean(density), abs=1e-11)
    assert np.allclose(head.log_density(meta, own, query.x, query)[0], density, atol=1e-11)


def test_padded_support_rows_change_nothing():
    head = GaussianHead(2, 1, "full")
    meta, support = random_prior(head), rows(1, 5)
    own = head.solve(meta, support.x, support)
    padded = Batch(
        torch.cat([support.x, torch.full((1, 2, 2), 7.0)], 1),
        torch.cat([support.y, torch.full((1, 2, 1), 9.0)], 1),
        torch.tensor([[1.0] * 5 + [0.0] * 2], dtype=torch.float64),
    )
    again = head.solve(meta, padded.x, padded)
    assert all((own[name] - again[name]).abs().max() < 1e-12 for name in own)


def log_evidence(head, meta, data):
    mean, covariance, noise = prior(head, meta)
    total = 0.0
    for x, y in zip(data.x.numpy(), data.y.numpy(), strict=True):
        a = with_one(x)
        total += multivariate_normal(a @ mean, a @ covariance @ a.T + noise * np.eye(len(a))).logpdf(y[:, 0])
    return total


def test_the_fit_is_a_maximum_of_the_dense_likelihood():
    data = rows(12, 6)
    learner = mixed(2, covariance="full")
    fitted = learner.fit(doubled(learner.init()), data)
    best = log_evidence(learner.head, fitted, data)
    for seed in range(20):
        direction = random_direction(fitted, seed)
        moved = {name: value + 0.1 * direction[name] for name, value in fitted.items()}
        assert log_evidence(learner.head, moved, data) < best + 1e-6


def test_the_fit_agrees_with_statsmodels_on_a_balanced_table():
    mixedlm = pytest.importorskip("statsmodels.regression.mixed_linear_model", reason="statsmodels is absent")
    data = rows(40, 8)
    learner = mixed(2, covariance="full")
    fitted = learner.fit(doubled(learner.init()), data)
    design = with_one(data.x.flatten(0, 1).numpy())
    target, groups = data.y.flatten().numpy(), np.repeat(np.arange(40), 8)
    model = mixedlm.MixedLM(target, design, groups=groups, exog_re=design)
    reference = model.fit(reml=False, method=["lbfgs"])
    mean, covariance, noise = prior(learner.head, fitted)
    assert np.allclose(mean, reference.fe_params, atol=2e-3)
    assert np.allclose(covariance, reference.cov_re, atol=5e-3)
    assert noise == pytest.approx(reference.scale, rel=5e-3)
    assert log_evidence(learner.head, fitted, data) >= reference.llf - 1e-4


def test_auto_keeps_the_diagonal_unless_correlation_earns_its_numbers():
    independent = mixed(2).fit(doubled(mixed(2).init()), rows(30, 8))["head/root"]
    assert (independent - torch.diag(independent.diagonal())).abs().max() == 0
    g = torch.Generator().manual_seed(0)
    x = torch.randn(60, 8, 2, generator=g, dtype=torch.float64)
    level = torch.randn(60, 1, 1, generator=g, dtype=torch.float64)
    noise = 0.1 * torch.randn(60, 8, 1, generator=g, dtype=torch.float64)
    together = Batch(x, level * (x[..., :1] + 1) + noise)
    correlated = mixed(2).fit(doubled(mixed(2).init()), together)["head/root"]
    assert (correlated - torch.diag(correlated.diagonal())).abs().max() > 0.1


def test_collinear_and_constant_features_fit():
    data = rows(10, 6)
    x = torch.cat([data.x[..., :1], 2 * data.x[..., :1], torch.ones_like(data.x[..., :1])], -1)
    learner = mixed(3)
    fitted = learner.fit(learner.init(), Batch(x.float(), data.y.float()))
    assert all(torch.isfinite(value).all() for value in fitted.values())


def test_an_unknown_covariance_is_refused():
    with pytest.raises(UsageError, match="covariance='round' is unknown"):
        GaussianHead(2, 1, "round")


def test_prototypes_equal_a_loop_over_classes_and_rows():
    episode = class_episode(tasks=2, ways=3, shots=4)
    head = PrototypeHead(4, 3)
    own = head.solve({}, episode.support.x, episode.support)
    found = head.predict({}, own, episode.query.x)
    for task in range(2):
        labels = episode.support.y[task]
        centres = [episode.support.x[task][labels == way].mean(0) for way in range(3)]
        for row, query in enumerate(episode.query.x[task]):
            expected = [-sum((query - centre) ** 2).item() for centre in centres]
            assert found[task, row].tolist() == pytest.approx(expected, abs=1e-12)


def test_a_class_without_support_has_a_thousandth_and_leaves_the_gradient_of_the_others_alone():
    episode = class_episode(tasks=2, ways=3, shots=2)
    narrow, wide = PrototypeHead(4, 3), PrototypeHead(4, 5)
    grads, values = [], []
    for head in (narrow, wide):
        x = episode.support.x.clone().requires_grad_()
        own = head.solve({}, x, episode.support)
        loss = head.loss({}, own, episode.query.x, episode.query).sum()
        grads.append(torch.autograd.grad(loss, x)[0])
        values.append(head.predict({}, own, episode.query.x).softmax(-1).detach())
    within((grads[0] - grads[1]).abs().max(), 1e-14)
    within((values[1][..., 3:] - 1e-3 / 1.002).abs().max(), 1e-14)
    absent = Batch(episode.query.x, torch.full_like(episode.query.y, 4))
    own = wide.solve({}, episode.support.x, episode.support)
    assert torch.allclose(wide.loss({}, own, absent.x, absent), torch.tensor(math.log(1002.0)).double())


def random_ridge(kind, outputs):
    head = LearnedRidgeHead(6, outputs, kind)
    meta = doubled(head.init())
    return head, {n: v + 0.5 * random_direction(meta, 3)[n] for n, v in meta.items()}


@pytest.mark.parametrize("n", [1, 4, 7, 30])
def test_the_dual_ridge_equals_the_primal_and_scikit_learn(n):
    _, meta = random_ridge("regression", 2)
    g = torch.Generator().manual_seed(n)
    x, y = (torch.randn(3, n, size, generator=g, dtype=torch.float64) for size in (6, 2))
    primal, dual, auto = (
        LearnedRidgeHead(6, 2, form=form).solve(meta, x, Batch(x, y))["head/weights"]
        for form in ("primal", "dual", "auto")
    )
    within((primal - dual).abs().max(), 1e-10)
    assert torch.equal(auto, dual if n < 7 else primal)
    features, constant = meta["head/log_lambda"].exp().tolist()
    # scikit-learn has one strength for all columns: a column times 1 / c has the strength c^2
    scale = math.sqrt(features / constant)
    for task in range(3):
        design = with_one(x[task].numpy())
        design[:, -1] *= scale
        reference = Ridge(alpha=features, fit_intercept=False).fit(design, y[task].numpy()).coef_.T
        reference[-1] *= scale
        assert np.allclose(primal[task], reference, atol=1e-10)


def test_a_constant_without_regulariser_is_the_intercept_of_scikit_learn():
    meta = {"head/log_lambda": torch.tensor([0.3, -40.0], dtype=torch.float64)}
    g = torch.Generator().manual_seed(0)
    x, y = (torch.randn(1, 20, size, generator=g, dtype=torch.float64) for size in (6, 1))
    weights = LearnedRidgeHead(6).solve(meta, x, Batch(x, y))["head/weights"][0, :, 0].numpy()
    reference = Ridge(alpha=math.exp(0.3)).fit(x[0].numpy(), y[0, :, 0].numpy())
    assert np.allclose(weights, [*reference.coef_, reference.intercept_], atol=1e-10)


def test_ridge_classes_equal_a_numpy_loop():
    head, meta = random_ridge("classification", 3)
    episode = class_episode(tasks=2, ways=3, shots=2, shape=(6,))
    own = head.solve(meta, episode.support.x, episode.support)
    found = head.predict(meta, own, episode.query.x).numpy()
    features, constant = meta["head/log_lambda"].exp().tolist()
    strength = np.diag([features] * 6 + [constant])
    for task in range(2):
        x = with_one(episode.support.x[task].numpy())
        weights = np.linalg.inv(x.T @ x + strength) @ x.T @ np.eye(3)[episode.support.y[task].numpy()]
        logits = with_one(episode.query.x[task].numpy()) @ weights
        expected = math.exp(meta["head/log_scale"]) * logits + meta["head/bias"].numpy()
        assert np.allclose(found[task], expected, atol=1e-12)


def random_laplace(classes, spread):
    head = LaplaceHead(3, classes)
    meta = doubled(head.init())
    meta = {n: v + random_direction(meta, 5)[n] for n, v in meta.items()}
    return head, meta | {"head/root": meta["head/root"] + math.log(spread) * torch.eye(4)}


@pytest.mark.parametrize("spread", [0.3, 1.0, 10.0, 100.0])
@pytest.mark.parametrize("classes", [2, 4])
def test_the_mode_is_that_of_a_general_optimiser_and_the_curvature_that_of_the_dense_hessian(classes, spread):
    head, meta = random_laplace(classes, spread)
    support = class_episode(tasks=1, ways=classes, shots=3, shape=(3,)).support
    own = head.solve(meta, support.x, support)
    x, y = with_one(support.x[0].numpy()), np.eye(classes)[support.y[0].numpy()]
    root, mean = head._root(meta).numpy(), meta["head/mean"].numpy()
    design = x @ root

    def objective(flat):
        white = flat.reshape(mean.shape)
        logits = x @ mean + design @ white
        chance = np.exp(logits - logsumexp(logits, axis=1, keepdims=True))
        value = 0.5 * (flat**2).sum() + (logsumexp(logits, axis=1) - (logits * y).sum(1)).sum()
        return value, flat + (design.T @ (chance - y)).ravel()

    found = minimize(objective, np.zeros(mean.size), jac=True, method="BFGS", options={"gtol": 1e-9})
    mode = mean + root @ found.x.reshape(mean.shape)
    assert np.allclose(own["head/weights"][0], mode, atol=1e-5 * max(spread, 1))
    white = np.linalg.solve(root, own["head/weights"][0].numpy() - mean)
    logits = x @ own["head/weights"][0].numpy()
    chance = np.exp(logits - logsumexp(logits, axis=1, keepdims=True))
    hessian = np.eye(mean.size)
    for row, p in zip(design, chance, strict=True):
        hessian += np.kron(np.outer(row, row), np.diag(p) - np.outer(p, p))
    # one more Newton step goes nowhere: a length in whitened weights, where rounding of the gradient does not count
    assert np.abs(np.linalg.solve(hessian, objective(white.ravel())[1])).max() < 1e-6
    centre = np.kron(root, np.eye(classes) - 1 / classes)
    covariance = centre @ np.linalg.inv(hessian) @ centre.T
    dense = np.einsum("ikjk->kij", covariance.reshape(4, classes, 4, classes))
    assert np.allclose(root @ own["head/spread"][0].numpy() @ root.T, dense, atol=1e-9 * max(spread, 1) ** 2)


def test_two_classes_are_binary_logistic_regression_with_the_formula_of_mackay():
    head, meta = random_laplace(2, 1.5)
    episode = class_episode(tasks=1, ways=2, shots=4, queries=5, shape=(3,))
    own = head.solve(meta, episode.support.x, episode.support)
    found = head.predict(meta, own, episode.query.x).softmax(-1)[0, :, 1].numpy()
    x, y = with_one(episode.support.x[0].numpy()), episode.support.y[0].numpy()
    root = math.sqrt(2) * head._root(meta).numpy()
    prior = root @ root.T
    mean = (meta["head/mean"][:, 1] - meta["head/mean"][:, 0]).numpy()
    weights = mean.copy()
    for _ in range(50):
        p = expit(x @ weights)
        precision = np.linalg.inv(prior) + x.T @ np.diag(p * (1 - p)) @ x
        step = x.T @ (p - y) + np.linalg.solve(prior, weights - mean)
        weights = weights - np.linalg.solve(precision, step)
    queries = with_one(episode.query.x[0].numpy())
    variance = np.diag(queries @ np.linalg.inv(precision) @ queries.T)
    assert np.allclose(found, expit(queries @ weights / np.sqrt(1 + math.pi / 8 * variance)), atol=1e-10)
    assert np.allclose(head.uncertainty(meta, own, episode.query.x)[0, :, 1], found * (1 - found))


def test_class_densities_are_those_of_the_predicted_probabilities():
    episode = class_episode(tasks=2, ways=3)
    for head in (PrototypeHead(4, 3), LaplaceHead(4, 3)):
        meta = doubled(head.init())
        own = head.solve(meta, episode.support.x, episode.support)
        density = head.log_density(meta, own, episode.query.x, episode.query)
        assert torch.allclose(-density.mean(1), head.loss(meta, own, episode.query.x, episode.query))


@pytest.mark.parametrize("spread", [1.0, 1e3])
def test_the_laplace_head_is_finite_in_single_precision(spread):
    """Separable classes and a wide prior: probabilities underflow, Newton's whole step overshoots."""
    head = LaplaceHead(3, 4)
    root = math.log(spread) * torch.eye(4)
    meta = {n: v.requires_grad_() for n, v in (head.init() | {"head/root": root}).items()}
    support = class_episode(tasks=2, ways=4, shots=3, shape=(3,)).support
    support = Batch(10 * support.x.float(), support.y)
    loss = head.loss(meta, head.solve(meta, support.x, support), support.x, support).sum()
    assert all(torch.isfinite(grad).all() for grad in torch.autograd.grad(loss, list(meta.values())))
