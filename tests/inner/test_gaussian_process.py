"""Gaussian processes against scikit-learn, dense linear algebra in NumPy, and the mixed model."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal
from sklearn.gaussian_process import GaussianProcessClassifier, GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, ConstantKernel, DotProduct, ExpSineSquared, Matern
from sklearn.linear_model import LinearRegression

from innerloop.algorithms import gp, mixed
from innerloop.errors import DataError, UsageError
from innerloop.inner.heads import (
    GaussianHead,
    GaussianProcessClassHead,
    GaussianProcessHead,
    LaplaceHead,
    inducing,
    process,
    process_classes,
)
from innerloop.inner.heads.kernels import PARTS, Kernel
from innerloop.inner.heads.process_evidence import ProcessEvidence, TaskRows
from innerloop.inner.heads.process_fit import Search, fitted
from innerloop.inner.heads.process_prior import ProcessPrior
from innerloop.tasks.episodes import Batch
from toolkit.oracles import class_episode, doubled, generator, random_direction, within


def rows(tasks, n, *, features=2, outputs=1, seed=0):
    g = generator(seed)
    x = torch.randn(tasks, n, features, generator=g, dtype=torch.float64)
    return Batch(x, torch.randn(tasks, n, outputs, generator=g, dtype=torch.float64))


def moved(head, seed=0, length=1.0):
    meta = doubled(head.init())
    return {n: v + length * random_direction(meta, seed)[n] for n, v in meta.items()}


def of_scikit_learn(part, own, noise):
    """The kernel of a part in units of the targets."""
    amplitude = ConstantKernel(noise * math.exp(2 * own.get("log_amplitude", torch.zeros(())).item()))
    if part == "linear":
        level, slope = (math.exp(2 * own["root"][i, i].item()) for i in (1, 0))
        return ConstantKernel(noise * slope) * DotProduct(sigma_0=math.sqrt(level / slope))
    scale = own["log_scale"].exp().tolist()
    if part == "squared_exponential":
        return amplitude * RBF(scale)
    if part == "matern32":
        return amplitude * Matern(scale, nu=1.5)
    return amplitude * ExpSineSquared(scale[0], math.exp(own["log_period"].item()))


@pytest.mark.parametrize("part", PARTS)
def test_posterior_and_likelihood_equal_scikit_learn(part):
    features = 1 if part in ("periodic", "linear") else 3
    head = GaussianProcessHead(features, kernel=part, mean="line")
    meta = moved(head)
    own = {n.rpartition("/")[2]: v for n, v in meta.items() if "/kernel/" in n}
    if part == "linear":
        own["root"][1, 0] = 0.0  # scikit-learn knows no correlation of level and slope
    support, query = rows(1, 9, features=features), rows(1, 5, features=features, seed=1)
    noise = math.exp(2 * meta["head/log_noise"].item())
    weights = meta["head/mean"][:, 0].numpy()

    def mean(x):
        return np.column_stack([x, np.ones(len(x))]) @ weights

    reference = GaussianProcessRegressor(of_scikit_learn(part, own, noise), alpha=noise, optimizer=None)
    x, y = support.x[0].numpy(), support.y[0, :, 0].numpy()
    reference.fit(x, y - mean(x))
    value, deviation = reference.predict(query.x[0].numpy(), return_std=True)
    adapted = head.solve(meta, support.x, support)
    expected = torch.from_numpy(value + mean(query.x[0].numpy()))
    within((head.predict(meta, adapted, query.x)[0, :, 0] - expected).abs().max(), 1e-8)
    spread = head.variance(meta, adapted, query.x)[0, :, 0]
    within((spread - torch.from_numpy(deviation**2 + noise)).abs().max(), 1e-8)
    rest = torch.from_numpy(y - mean(x))[None, :, None]
    found = ProcessEvidence.of(head.prior, meta, TaskRows(support.x, rest, rest, torch.ones(1, 9).double()))
    likelihood = -0.5 * (found.moments[1, 1] / noise + found.logdet + 9 * math.log(2 * math.pi * noise))
    within((likelihood - reference.log_marginal_likelihood_value_).abs(), 1e-8)


def test_a_sum_of_parts_is_the_sum_of_their_covariances():
    kernel, x = Kernel.named("linear + matern32+periodic", 2), rows(2, 4).x
    meta = {n: v + 0.3 for n, v in doubled(kernel.init()).items()}
    parts = [Kernel.named(name, 2) for name in ("linear", "matern32", "periodic")]
    within((kernel(meta, x, x) - sum(part(meta, x, x) for part in parts)).abs().max(), 1e-12)
    within((kernel(meta, x, x).diagonal(dim1=1, dim2=2) - kernel.diagonal(meta, x)).abs().max(), 1e-10)


def test_with_the_linear_kernel_it_is_the_mixed_model():
    line, process_head = GaussianHead(2, 2, "full"), GaussianProcessHead(2, 2, "linear")
    meta = moved(line)
    again = {**meta, "head/kernel/linear/root": meta["head/root"]}
    support, query = rows(3, 4, outputs=2), rows(3, 5, outputs=2, seed=1)
    one, other = line.solve(meta, support.x, support), process_head.solve(again, support.x, support)
    within(
        (line.predict(meta, one, query.x) - process_head.predict(again, other, query.x)).abs().max(), 1e-10
    )
    for of in ("variance", "log_density"):
        extra = () if of == "variance" else (query,)
        known = getattr(line, of)(meta, one, query.x, *extra)
        within((known - getattr(process_head, of)(again, other, query.x, *extra)).abs().max(), 1e-10)


@pytest.mark.parametrize("mean", ["constant", "line", "squares"])
def test_without_rows_it_predicts_the_mean_function(mean):
    head = GaussianProcessHead(2, mean=mean, kernel="matern32")
    meta, query = moved(head), rows(1, 4)
    support = Batch(query.x[:, :0], query.y[:, :0])
    powers = {"constant": [], "line": [1], "squares": [1, 2]}[mean]
    x = query.x[0].numpy()
    design = np.column_stack([*(x**power for power in powers), np.ones(len(x))])
    prior = math.exp(2 * meta["head/log_noise"].item()) * (
        1 + math.exp(2 * meta["head/kernel/matern32/log_amplitude"].item())
    )
    for own in (head.base(meta, 1), head.solve(meta, support.x, support)):
        assert np.allclose(
            head.predict(meta, own, query.x)[0], design @ meta["head/mean"].numpy(), atol=1e-12
        )
        assert np.allclose(head.variance(meta, own, query.x), prior, atol=1e-12)


def test_noise_that_grows_with_a_feature_is_that_of_scikit_learn_with_a_noise_a_row():
    head = GaussianProcessHead(1, kernel="squared_exponential", mean="constant", noise="log_linear")
    meta = moved(head)
    support, query = rows(1, 7, features=1), rows(1, 3, features=1, seed=2)
    scale = math.exp(2 * meta["head/log_noise"].item())

    def noise(x):
        return scale * np.exp(8 * np.tanh(meta["head/noise_slopes"].item() * x[:, 0] / 4))

    own = {n.rpartition("/")[2]: v for n, v in meta.items() if "/kernel/" in n}
    x, constant = support.x[0].numpy(), meta["head/mean"].item()
    kernel = of_scikit_learn("squared_exponential", own, scale)
    reference = GaussianProcessRegressor(kernel, alpha=noise(x), optimizer=None)
    reference.fit(x, support.y[0, :, 0].numpy() - constant)
    value, deviation = reference.predict(query.x[0].numpy(), return_std=True)
    adapted = head.solve(meta, support.x, support)
    assert np.allclose(head.predict(meta, adapted, query.x)[0, :, 0], value + constant, atol=1e-8)
    expected = deviation**2 + noise(query.x[0].numpy())
    assert np.allclose(head.variance(meta, adapted, query.x)[0, :, 0], expected, atol=1e-8)


def test_a_weight_of_two_counts_a_row_twice_and_one_of_zero_not_at_all():
    head, query = GaussianProcessHead(2), rows(1, 4, seed=3).x
    meta, data = moved(head), rows(1, 4)
    twice = Batch(*(torch.cat([part, part[:, :1]], 1)[:, [0, 1, 2, 4]] for part in data[:2]))
    junk = Batch(data.x.clone(), data.y.clone(), torch.tensor([[2.0, 1.0, 1.0, 0.0]]))
    junk.x[:, 3], junk.y[:, 3] = 1e30, math.inf
    one, other = (head.solve(meta, part.x, part) for part in (twice, junk))
    within((head.predict(meta, one, query) - head.predict(meta, other, query)).abs().max(), 1e-12)
    within((head.variance(meta, one, query) - head.variance(meta, other, query)).abs().max(), 1e-12)


def test_more_zeros_in_what_a_task_owns_change_nothing():
    for head, support in (
        (GaussianProcessHead(2), rows(1, 5)),
        (GaussianProcessClassHead(4, 3), class_episode(tasks=1).support),
    ):
        meta = moved(head)
        own = head.solve(meta, support.x, support)
        wide = {
            name: torch.nn.functional.pad(value, (0, 0, 0, 2) if name != list(own)[2] else (0, 2, 0, 2))
            for name, value in own.items()
        }
        assert any(wide[name].shape != own[name].shape for name in own)
        x = support.x + 0.1
        within((head.predict(meta, own, x) - head.predict(meta, wide, x)).abs().max(), 1e-13)
        within((head.uncertainty(meta, own, x) - head.uncertainty(meta, wide, x)).abs().max(), 1e-13)


def dense_restricted(prior, meta, data, taus, noise):
    """The restricted likelihood of all tasks together, from the covariance of all their rows at once."""
    x, y = data.x.flatten(0, 1), data.y.flatten(0, 1)[:, 0].numpy()
    within_task = np.kron(np.eye(len(data.x)), np.ones((data.x.shape[1], data.x.shape[1])))
    kernel = prior.kernel(meta, x[None], x[None])[0].numpy() * within_task
    total = kernel + np.diag(prior.relative_noise(meta, x[None])[0].numpy())
    for power, tau in enumerate(taus, 1):
        total += tau**2 * (x.numpy() ** power) @ (x.numpy() ** power).T
    one, inverse = np.ones(len(y)), np.linalg.inv(total)
    level = (one @ inverse @ y) / (one @ inverse @ one)
    quadratic = (y - level) @ inverse @ (y - level)
    logdet = np.linalg.slogdet(total)[1] + math.log(one @ inverse @ one)
    freedom = len(y) - 1
    best = quadratic / freedom
    used = best if noise is None else noise
    return 0.5 * (freedom * math.log(2 * math.pi * used) + logdet + quadratic / used), best


@pytest.mark.parametrize("noise", ["constant", "log_linear"])
def test_the_likelihood_that_is_maximised_is_that_of_the_dense_covariance(noise):
    prior = ProcessPrior(Kernel.named("linear+squared_exponential", 2), 1, "squares", noise)
    meta = {
        n: v + 0.4 * random_direction(doubled(prior.init()), 1)[n] for n, v in doubled(prior.init()).items()
    }
    data, taus = rows(4, 5), torch.tensor([0.3, -0.7], dtype=torch.float64)
    task_rows = TaskRows(data.x, prior.columns(data.x), data.y, torch.ones(4, 5).double())
    mean, found_noise, value = ProcessEvidence.of(prior, meta, task_rows).mean(taus, 1)
    expected, best = dense_restricted(prior, meta, data, taus.exp().tolist(), None)
    within(abs(value.item() - expected), 1e-8)
    within(abs(found_noise.item() - best), 1e-10)
    # the coefficients are the posterior mean of all rows together
    x, y = data.x.flatten(0, 1), data.y.flatten(0, 1)
    own = np.kron(np.eye(4), np.ones((5, 5))) * prior.kernel(meta, x[None], x[None])[0].numpy()
    own += np.diag(prior.relative_noise(meta, x[None])[0].numpy())
    design = prior.columns(x[None])[0].numpy()
    precision = np.diag([*np.repeat(taus.exp().numpy() ** -2, 2), 0.0])
    solved = np.linalg.solve(
        design.T @ np.linalg.solve(own, design) + precision, design.T @ np.linalg.solve(own, y.numpy())
    )
    within((mean - torch.from_numpy(solved)).abs().max(), 1e-9)


def test_the_derivative_of_the_likelihood_equals_finite_differences():
    prior = ProcessPrior(Kernel.named("linear+matern32+periodic", 2), 2, "squares", "log_linear")
    start = doubled(prior.init())
    data = rows(3, 5, outputs=2)
    weight = torch.tensor([[1.0] * 5, [1.0] * 5, [1.0] * 3 + [0.0] * 2], dtype=torch.float64)
    x = data.x * (weight > 0).unsqueeze(-1)
    task_rows = TaskRows(x, prior.columns(x), data.y, weight)
    names = [name for name in start if name != "head/mean"]

    def value(*free):
        meta = dict(zip(names, free[:-1], strict=True))
        return ProcessEvidence.of(prior, meta, task_rows).mean(free[-1], 2)[2]

    free = [(start[name] + 0.3).requires_grad_() for name in names]
    taus = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(value, (*free, taus), atol=1e-7, rtol=1e-6)


def curves(tasks, n, seed=0, noise=0.05):
    """Tasks that are waves of their own phase around a common parabola, seen at random places."""
    g = generator(seed)
    x = 2 * torch.rand(tasks, n, 1, generator=g, dtype=torch.float64) - 1
    phase = 6 * torch.rand(tasks, 1, 1, generator=g, dtype=torch.float64)
    y = x.square() + (3 * x + phase).sin()
    return Batch(x, y + noise * torch.randn(y.shape, generator=g, dtype=torch.float64))


def test_the_fit_finds_curves_that_the_mixed_model_cannot_and_knows_how_sure_it_is():
    train, together = curves(60, 12), curves(40, 25, seed=1)
    support = Batch(together.x[:, :5], together.y[:, :5])
    query = Batch(together.x[:, 5:], together.y[:, 5:])
    errors = {}
    for name, learner in (("gp", gp(1)), ("mixed", mixed(1, squares=True))):
        meta = learner.fit(doubled(learner.init()), train)
        predicted = learner.predict(meta, learner.adapt(meta, support), query.x)
        errors[name] = (predicted - query.y).square().mean().item()
        if name == "gp":
            spread = learner.variance(meta, learner.adapt(meta, support), query.x)
            inside = ((predicted - query.y).abs() < 1.645 * spread.sqrt()).double().mean().item()
            assert 0.85 < inside < 0.95
    assert errors["gp"] < 0.4 * errors["mixed"]


def test_no_direction_from_the_fit_has_a_higher_likelihood():
    data = curves(30, 8)
    learner = gp(1, kernel="linear+matern32", mean="line")
    prior = learner.head.head.prior
    meta = learner.fit(doubled(learner.init()), data)
    task_rows = TaskRows(data.x, prior.columns(data.x), data.y, torch.ones(30, 8).double())
    taus = torch.arange(-9.0, 7.0, 0.25, dtype=torch.float64).unsqueeze(-1)

    def best(values):
        found = ProcessEvidence.of(prior, values, task_rows)
        return min(found.mean(tau, 1)[2].item() for tau in taus)

    top = best(meta)
    for seed in range(20):
        direction = random_direction(meta, seed)
        assert best({n: v + 0.2 * direction[n] for n, v in meta.items()}) > top - 1e-2


def test_what_the_data_does_not_show_stays_out_of_the_kernel():
    """Tasks that differ in level only: curves and slopes of their own have almost no variance."""
    g = generator(4)
    x = torch.randn(60, 10, 2, generator=g, dtype=torch.float64)
    level = torch.randn(60, 1, 1, generator=g, dtype=torch.float64)
    y = level + x.sum(-1, keepdim=True) + 0.3 * torch.randn(60, 10, 1, generator=g, dtype=torch.float64)
    learner = gp(2)
    meta = learner.fit(doubled(learner.init()), Batch(x, y))
    level_variance = (2 * (meta["head/log_noise"] + meta["head/kernel/linear/root"][-1, -1])).exp().item()
    assert 0.6 < level_variance < 1.6
    for name in ("squared_exponential", "matern32"):
        own = (2 * (meta["head/log_noise"] + meta[f"head/kernel/{name}/log_amplitude"])).exp().item()
        scale = meta[f"head/kernel/{name}/log_scale"].exp()
        assert own < 0.03 or scale.min() > 5  # small, or as flat as a level
    within((meta["head/mean"][:2, 0] - 1).abs().max(), 0.1)


def test_a_task_without_rows_gets_the_pooled_line_and_the_spread_around_it():
    """Tasks whose level goes along with the feature: within them the slope is -1, over all rows about 1."""
    g = generator(8)
    middle = 2 * torch.randn(60, 1, 1, generator=g, dtype=torch.float64)
    x = middle + 0.5 * torch.randn(60, 9, 1, generator=g, dtype=torch.float64)
    y = 2 * middle - x + 0.1 * torch.randn(60, 9, 1, generator=g, dtype=torch.float64)
    data = Batch(torch.cat([x, x[:, :2]], 1), torch.cat([y, y[:, :2]], 1), torch.ones(60, 11).double())
    data.weight[:, 9:] = 0
    learner = gp(1, mean="line")
    meta = learner.fit(doubled(learner.init()), data)
    assert abs(meta["head/mean"][0].item() + 1) < 0.1
    line = LinearRegression().fit(x.flatten(0, 1), y.flatten())
    query = torch.tensor([[[-1.0], [2.0]]], dtype=torch.float64)
    nothing = Batch(query[:, :0], query[:, :0])
    several = Batch(x[:2, :3], y[:2, :3], torch.tensor([[1.0, 1.0, 1.0], [0.0, 0.0, 0.0]]))
    spread = (y.flatten().numpy() - line.predict(x.flatten(0, 1))).var(ddof=2)
    for own in (learner.adapt(meta, nothing), learner.adapt(meta, several), learner.head.base(meta, 1)):
        last = {name: value[-1:] for name, value in own.items()}
        assert np.allclose(learner.predict(meta, last, query)[0, :, 0], line.predict(query[0]), atol=1e-2)
        assert np.allclose(learner.variance(meta, last, query), spread, rtol=1e-2)
    alone = learner.adapt(meta, Batch(x[:1, :3], y[:1, :3]))
    beside = learner.adapt(meta, several)
    within(
        (learner.predict(meta, alone, query) - learner.predict(meta, beside, query.expand(2, 2, 1))[:1])
        .abs()
        .max(),
        1e-12,
    )


def test_the_noise_slope_is_found():
    g = generator(5)
    x = torch.randn(80, 12, 1, generator=g, dtype=torch.float64)
    y = x + (0.7 * x).exp() * 0.2 * torch.randn(80, 12, 1, generator=g, dtype=torch.float64)
    learner = gp(1, noise="log_linear", kernel="linear")
    meta = learner.fit(doubled(learner.init()), Batch(x, y))
    assert abs(meta["head/noise_slopes"].item() - 0.7) < 0.1


def test_columns_that_say_the_same_and_more_columns_than_rows_fit():
    data = rows(20, 5, features=40)
    x = torch.cat([data.x, data.x, torch.ones_like(data.x[..., :1])], -1)
    target = data.x[..., :1] + 0.1 * data.y
    learner = gp(81)
    meta = learner.fit(learner.init(), Batch(x.float(), target.float()))
    assert all(torch.isfinite(value).all() for value in meta.values())
    predicted = learner.predict(
        meta, learner.adapt(meta, Batch(x.float(), target.float()), steps=0), x.float()
    )
    assert (predicted - target).square().mean() < 0.5 * target.var()


def test_the_search_looks_at_a_part_of_large_data_and_says_so():
    data = curves(70, 90)
    head = GaussianProcessHead(1, kernel="squared_exponential", search=Search(rows=20, work=1.0, steps=20))
    every = GaussianProcessHead(1, kernel="squared_exponential")
    (said,) = head.remarks(head.init(), data)
    assert "from 50 of 70 tasks with at most 20 rows each" in said
    assert Search().left_out(50, 48, 3) == ()
    part, whole = (h.fit(doubled(h.init()), data.x, data) for h in (head, every))
    for name in whole:
        assert torch.allclose(part[name], whole[name], atol=0.5), name
    # junk in padded rows is never drawn
    wide = Batch(
        torch.full((70, 120, 1), 1e9).double(), torch.full((70, 120, 1), 1e9).double(), torch.zeros(70, 120)
    )
    wide.x[:, :90], wide.y[:, :90], wide.weight[:, :90] = data.x, data.y, 1.0
    padded = fitted(head.prior, wide.x, wide, Search(rows=20, steps=20))
    assert torch.allclose(padded["head/log_noise"], whole["head/log_noise"], atol=0.3)


@pytest.mark.parametrize("most", [30, 60])
def test_many_rows_by_a_few_of_them_are_the_exact_posterior_where_those_span_the_kernel(most, monkeypatch):
    head = GaussianProcessHead(1, 2, "linear+squared_exponential", mean="line")
    meta = moved(head)
    g = generator(6)
    x = torch.randn(2, 200, 1, generator=g, dtype=torch.float64)
    y = torch.cat([x.sin(), x.cos()], -1) + 0.1 * torch.randn(2, 200, 2, generator=g, dtype=torch.float64)
    weight = torch.ones(2, 200, dtype=torch.float64)
    weight[1, 150:] = 0
    support, query = Batch(x, y, weight), rows(2, 6, features=1, seed=7).x
    exact = head.solve(meta, x, support)
    monkeypatch.setattr(process, "MOST_ROWS", most)
    monkeypatch.setattr(inducing, "_AT_ONCE", 64)
    few = head.solve(meta, x, support)
    assert few["head/rows"].shape == (2, most, 1)
    assert few["head/root"].shape == (2, most, most)
    within((head.predict(meta, exact, query) - head.predict(meta, few, query)).abs().max(), 1e-5)
    within((head.variance(meta, exact, query) - head.variance(meta, few, query)).abs().max(), 1e-5)


def test_projected_rows_equal_the_dense_formula(monkeypatch):
    """With fewer rows than the kernel has directions it is the projected process of the textbook."""
    head = GaussianProcessHead(2, kernel="matern32", mean="constant")
    meta, data, query = moved(head), rows(1, 40), rows(1, 5, seed=8).x
    monkeypatch.setattr(process, "MOST_ROWS", 10)
    own = head.solve(meta, data.x, data)
    u, x, q = own["head/rows"][0], data.x[0], query[0]

    def k(a, b):
        return head.prior.kernel(meta, a[None], b[None])[0].numpy()

    rest = data.y[0, :, 0].numpy() - meta["head/mean"].item()
    inner = k(u, u) + k(u, x) @ k(x, u)
    value = k(q, u) @ np.linalg.solve(inner, k(u, x) @ rest) + meta["head/mean"].item()
    left = np.diag(k(q, q) - k(q, u) @ (np.linalg.inv(k(u, u)) - np.linalg.inv(inner)) @ k(u, q))
    noise = math.exp(2 * meta["head/log_noise"].item())
    assert np.allclose(head.predict(meta, own, query)[0, :, 0], value, atol=1e-8)
    assert np.allclose(head.variance(meta, own, query)[0, :, 0], noise * (1 + left), atol=1e-8)


def test_the_pivots_are_those_of_a_greedy_loop():
    kernel = Kernel.named("matern32", 2)
    meta, x = doubled(kernel.init()), rows(1, 25).x[0]
    full, chosen = kernel(meta, x[None], x[None])[0].numpy(), []
    for _ in range(6):
        inside = np.ix_(chosen, chosen)
        known = full[:, chosen] @ np.linalg.solve(full[inside], full[chosen]) if chosen else 0 * full
        chosen.append(int(np.argmax(np.diag(full - known))))
    assert inducing.pivots(kernel, meta, x, 6).tolist() == chosen


def test_laplace_with_the_linear_kernel_is_the_mixed_logistic_regression():
    line, process_head = LaplaceHead(4, 3), GaussianProcessClassHead(4, 3, "linear")
    meta, episode = moved(line), class_episode(tasks=2, ways=3)
    # the mixed model has the scale of its features outside of the root, whose diagonal is a logarithm
    diagonal = meta["head/root"].diagonal() - 0.5 * math.log(5)
    root = torch.tril(meta["head/root"], -1) / math.sqrt(5) + torch.diag(diagonal)
    again = {"head/mean": meta["head/mean"], "head/kernel/linear/root": root}
    one = line.solve(meta, episode.support.x, episode.support)
    other = process_head.solve(again, episode.support.x, episode.support)
    found = process_head.predict(again, other, episode.query.x)
    within((line.predict(meta, one, episode.query.x) - found).abs().max(), 1e-10)


def test_laplace_for_two_classes_has_the_mode_and_curvature_of_scikit_learn():
    head = GaussianProcessClassHead(2, 2, "squared_exponential", "constant")
    meta = moved(head, length=0.5)
    meta["head/mean"] *= 0
    data, query = rows(1, 14), rows(1, 6, seed=9).x
    labels = (data.y[..., 0] > 0).long()
    own = head.solve(meta, data.x, Batch(data.x, labels))
    found = head.predict(meta, own, query)[0].softmax(-1)[:, 1].numpy()
    values = {n.rpartition("/")[2]: v for n, v in meta.items() if "/kernel/" in n}
    # the difference of two logits has twice the variance of one
    kernel = of_scikit_learn("squared_exponential", values, 2.0)
    fit = GaussianProcessClassifier(kernel, optimizer=None, max_iter_predict=1000)
    one = fit.fit(data.x[0].numpy(), labels[0].numpy()).base_estimator_
    cross = one.kernel_(one.X_train_, query[0].numpy())
    mean = cross.T @ (one.y_train_ - one.pi_)
    half = np.linalg.solve(one.L_, one.W_sr_[:, None] * cross)
    variance = one.kernel_.diag(query[0].numpy()) - (half**2).sum(0)
    expected = 1 / (1 + np.exp(-mean / np.sqrt(1 + math.pi / 8 * variance)))
    assert np.allclose(found, expected, atol=1e-6)


def test_classes_of_many_rows_use_those_that_differ_most(monkeypatch):
    head = GaussianProcessClassHead(2, 3)
    meta, data = moved(head), rows(2, 30)
    labels = torch.arange(30).remainder(3).expand(2, 30)
    weight = torch.ones(2, 30, dtype=torch.float64)
    weight[1, 6:] = 0
    monkeypatch.setattr(process_classes, "MOST_ROWS", 8)
    own = head.solve(meta, data.x, Batch(data.x, labels, weight))
    assert own["head/rows"].shape == (2, 8, 2)
    chosen = inducing.pivots(head.prior.kernel, meta, data.x[0], 8)
    monkeypatch.undo()
    few = Batch(data.x[:1, chosen], labels[:1, chosen])
    alone = head.solve(meta, few.x, few)
    one, other = head.predict(meta, alone, data.x[:1]), head.predict(meta, own, data.x)
    within((one - other[:1]).abs().max(), 1e-10)
    short = Batch(data.x[1:, :6], labels[1:, :6])
    within((head.predict(meta, head.solve(meta, short.x, short), data.x[1:]) - other[1:]).abs().max(), 1e-10)


def test_what_has_no_meaning_is_refused():
    for name in ("linear+cubic", "matern32+matern32", ""):
        with pytest.raises(UsageError, match="give a sum of linear, squared_exponential"):
            gp(2, kernel=name)
    with pytest.raises(UsageError, match="mean='cubic' is unknown"):
        gp(2, mean="cubic")
    with pytest.raises(UsageError, match="noise='wild' is unknown"):
        gp(2, noise="wild")
    with pytest.raises(UsageError, match="no meaning for classes"):
        gp(2, 2, kind="classification", noise="log_linear")
    head = GaussianProcessHead(2)
    with pytest.raises(DataError, match="one column a target"):
        head.solve(head.init(), torch.zeros(1, 3, 2), Batch(torch.zeros(1, 3, 2), torch.zeros(1, 3)))


def test_densities_are_those_of_the_joint_gaussian():
    head = GaussianProcessHead(2)
    meta, support, query = moved(head), rows(1, 5), rows(1, 1, seed=11)
    x, y = torch.cat([support.x, query.x], 1), torch.cat([support.y, query.y], 1)[0, :, 0].numpy()
    noise = math.exp(2 * meta["head/log_noise"].item())
    covariance = noise * (head.prior.kernel(meta, x, x)[0].numpy() + np.eye(6))
    mean = head.prior.mean_of(meta, x)[0, :, 0].numpy()
    joint = multivariate_normal(mean, covariance).logpdf(y)
    known = multivariate_normal(mean[:5], covariance[:5, :5]).logpdf(y[:5])
    own = head.solve(meta, support.x, support)
    within(abs(head.log_density(meta, own, query.x, query).item() - (joint - known)), 1e-10)
