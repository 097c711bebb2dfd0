"""The Gaussian head against textbook formulas, and its fit against an independent likelihood."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal

from innerloop.algorithms import mixed
from innerloop.episodes import Batch
from innerloop.errors import UsageError
from innerloop.heads import GaussianHead
from oracles import doubled, random_direction


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
    density = [
        multivariate_normal(m, v).logpdf(y)
        for m, v, y in zip(expected, np.diag(spread), query.y[0, :, 0].numpy(), strict=True)
    ]
    assert head.loss(meta, own, query.x, query).item() == pytest.approx(-np.mean(density), abs=1e-11)


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
