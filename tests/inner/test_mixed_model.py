"""The linear mixed model: BLUPs in NumPy, likelihoods from SciPy, fits from statsmodels and from a grid."""

import itertools
import math
import warnings

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal
from sklearn.linear_model import LogisticRegression

import innerloop as il
from innerloop.errors import UsageError
from innerloop.inner.heads import GaussianHead, LaplaceHead
from innerloop.inner.heads.base import prior_root
from innerloop.inner.heads.evidence import Moments, Rows, basis_of
from innerloop.inner.heads.random_effects import FIXED, most_likely, telling
from innerloop.tasks.episodes import Batch
from toolkit.oracles import class_episode, doubled, random_direction, within


def world(tasks=30, rows=8, features=3, vary=(0,), seed=0, spread=0.7):
    """Tasks whose level and some slopes differ."""
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(tasks, rows, features, generator=g, dtype=torch.float64)
    slopes = torch.randn(features, generator=g, dtype=torch.float64).expand(tasks, features).clone()
    slopes[:, list(vary)] += spread * torch.randn(tasks, len(vary), generator=g, dtype=torch.float64)
    level = 1.0 + 0.5 * torch.randn(tasks, 1, 1, generator=g, dtype=torch.float64)
    noise = 0.4 * torch.randn(tasks, rows, 1, generator=g, dtype=torch.float64)
    return Batch(x, (x * slopes[:, None]).sum(-1, keepdim=True) + level + noise)


def design_of(data, columns):
    """Columns and the constant, `(rows, columns + 1)`, of all tasks."""
    x = data.x.flatten(0, 1).numpy()[:, list(columns)]
    return np.column_stack([x, np.ones(len(x))])


def groups_of(data):
    return np.repeat(np.arange(data.x.shape[0]), data.x.shape[1])


@pytest.mark.parametrize("random", [None, [1], [2, 0], []])
def test_a_new_task_is_adapted_to_the_blup_of_lme4(random):
    r"""$\hat b = \Sigma Z^\top (Z\Sigma Z^\top + \sigma^2 I)^{-1} (y - X\beta)$, for the given variances."""
    learner = il.mixed(3, random=random, covariance="full")
    meta = doubled(learner.init())
    meta = {n: v + 0.8 * random_direction(meta, 3)[n] for n, v in meta.items()}
    new = world(tasks=1, rows=5, seed=9)
    columns = range(3) if random is None else random
    noise = math.exp(2 * meta["head/log_noise"].item())
    raw = meta["head/root"].numpy()
    root = np.tril(raw, -1) + np.diag(np.exp(np.diag(raw)))
    sigma, beta = noise * root @ root.T, meta["head/mean"].numpy()[:, 0]
    x, z, y = design_of(new, range(3)), design_of(new, columns), new.y.flatten().numpy()
    marginal = z @ sigma @ z.T + noise * np.eye(5)
    blup = sigma @ z.T @ np.linalg.solve(marginal, y - x @ beta)
    query = world(tasks=1, rows=4, seed=10)
    expected = design_of(query, range(3)) @ beta + design_of(query, columns) @ blup
    task = il.Model(learner, meta).adapt(new.x[0], new.y[0])
    within(np.abs(task(query.x[0])[:, 0].numpy() - expected).max(), 1e-8)


@pytest.mark.parametrize("likelihood", ["ml", "reml"])
@pytest.mark.parametrize("random", [[], [0], [0, 2]])
def test_fits_are_those_of_statsmodels(likelihood, random):
    mixedlm = pytest.importorskip("statsmodels.regression.mixed_linear_model", reason="statsmodels is absent")
    data = world(vary=random)
    learner = il.mixed(3, random=random, covariance="full", likelihood=likelihood)
    fitted = learner.fit(doubled(learner.init()), data)
    x, z, y = design_of(data, range(3)), design_of(data, random), data.y.flatten().numpy()
    model = mixedlm.MixedLM(y, x, groups=groups_of(data), exog_re=z)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its searches stop early now and then: the best of several counts
        fits = [model.fit(reml=likelihood == "reml", method=[name]) for name in ("bfgs", "lbfgs")]
    reference = max(fits, key=lambda fit: fit.llf)
    root, noise = learner.head.random_effects(fitted)[1], fitted["head/log_noise"].mul(2).exp()
    within(np.abs(fitted["head/mean"][:, 0].numpy() - reference.fe_params).max(), 1e-4)
    within(np.abs((noise * root @ root.T).numpy() - reference.cov_re).max(), 1e-4)
    within(abs(noise.item() - reference.scale), 1e-4)


@pytest.mark.parametrize("form", [Moments, Rows])
@pytest.mark.parametrize("outputs", [1, 2])
def test_the_profile_has_the_greatest_likelihood_and_the_integral_over_the_mean(form, outputs):
    data = world(tasks=4, rows=5, features=2)
    data = Batch(
        data.x, torch.cat([data.y, data.y.sin()][:outputs], -1), torch.ones(4, 5, dtype=torch.float64)
    )
    data.weight[-1, -2:] = 0
    design = torch.cat([data.x, torch.ones_like(data.x[..., :1])], -1)
    root = torch.tensor([[0.7, 0.0], [0.3, 1.2]], dtype=torch.float64)
    evidence = form.of(design, data, torch.tensor([1, 2]))
    profile, basis = evidence.profile(root), basis_of(evidence.gram)
    real = data.weight.flatten() > 0
    x, task = design.flatten(0, 1)[real].numpy(), groups_of(data)[real.numpy()]
    z, y = x[:, 1:], data.y.flatten(0, 1)[real].numpy()
    shape = np.eye(len(x)) + (z @ (root @ root.T).numpy() @ z.T) * (task[:, None] == task)
    inverse = np.linalg.inv(shape)
    information = x.T @ inverse @ x
    mean = np.linalg.solve(information, x.T @ inverse @ y)
    errors = [(y - x @ mean)[:, n] @ inverse @ (y - x @ mean)[:, n] for n in range(outputs)]
    value, found, noise = profile.best(basis, restricted=False)
    within(np.abs(found.numpy() - mean).max(), 1e-10)
    densities = [
        multivariate_normal(x @ mean[:, n], errors[n] / len(x) * shape).logpdf(y[:, n])
        for n in range(outputs)
    ]
    within(abs(value.item() + sum(densities)), 1e-8)
    within(abs(profile.negative_log_density(found, noise).item() + sum(densities)), 1e-8)
    # the density of targets integrated over a flat mean, by the formula of a Gaussian with a wide one
    wide = 1e7
    value, _, noise = profile.best(basis, restricted=True)
    total = 0.0
    for n in range(outputs):
        within(abs(noise[n].item() - errors[n] / (len(x) - 3)), 1e-10)
        covariance = noise[n].item() * (shape + wide * x @ x.T)
        density = multivariate_normal(np.zeros(len(x)), covariance, allow_singular=False).logpdf(y[:, n])
        total += density + 1.5 * math.log(2 * math.pi * wide * noise[n].item())
    within(abs(value.item() + total), 1e-4 * abs(total))


def test_shared_variances_are_the_best_of_a_grid():
    data = world(vary=(0, 1, 2), spread=0.4)
    learner = il.mixed(3, covariance="shared")
    fitted = learner.fit(doubled(learner.init()), data)
    logs = fitted["head/root"].diagonal()
    assert len({*logs[:3].tolist()}) == 1
    evidence = Moments.of(torch.cat([data.x, torch.ones_like(data.x[..., :1])], -1), data, torch.arange(4))
    basis = basis_of(evidence.gram)

    def value(slopes, level):
        root = torch.tensor([slopes] * 3 + [level], dtype=torch.float64).exp()
        return evidence.profile(root).best(basis, restricted=False)[0].item()

    best = value(logs[0].item(), logs[3].item())
    for a, b in itertools.product((-0.05, 0.0, 0.05), repeat=2):
        assert value(logs[0].item() + a, logs[3].item() + b) >= best - 1e-9
    # restricted to the same columns as the others, in another parametrisation
    assert torch.equal(learner.head._root(fitted), torch.diag(logs.exp()))


def test_collinear_columns_count_once():
    data = world(features=2)
    twice = Batch(torch.cat([data.x, 2 * data.x[..., :1]], -1), data.y)
    one, other = il.mixed(2, random=[1], likelihood="reml"), il.mixed(3, random=[1], likelihood="reml")
    plain, doubled_up = (
        learner.fit(doubled(learner.init()), d) for learner, d in ((one, data), (other, twice))
    )
    assert torch.allclose(plain["head/root"], doubled_up["head/root"], atol=1e-5)
    assert torch.allclose(plain["head/log_noise"], doubled_up["head/log_noise"], atol=1e-7)


def test_squares_and_interactions_are_columns_of_their_own():
    data = world(features=2)
    a, b = data.x[..., :1], data.x[..., 1:]
    wide = Batch(torch.cat([a, b, a * a, a * b], -1), data.y)
    learner = il.mixed(2, squares=[0], interactions=[(0, 1)], random=[0, 2, 3])
    plain = il.mixed(4, random=[0, 2, 3])
    one, other = learner.fit(doubled(learner.init()), data), plain.fit(doubled(plain.init()), wide)
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert il.mixed(3, squares=True).init()["head/mean"].shape == (7, 1)


def test_of_many_columns_those_that_differ_are_found():
    """The columns with a random effect are planted: both are found, and no other one."""
    data = world(tasks=60, rows=20, features=80, vary=(5, 41))
    learner = il.mixed(80)
    fitted = learner.fit(doubled(learner.init()), data)
    logs = fitted["head/root"].diagonal()
    assert [n for n in range(80) if logs[n] > FIXED] == [5, 41]
    assert "2 of 80 slopes" in learner.remarks(fitted, data)[0]
    # the same as naming them
    named = il.mixed(80, random=[5, 41], covariance="auto")
    again = named.fit(doubled(named.init()), data)
    assert torch.allclose(again["head/mean"], fitted["head/mean"], atol=1e-8)
    assert learner.head.random_effects(fitted)[0] == named.head.random_effects(again)[0] == [5, 41, 80]


def test_of_many_columns_all_or_none_may_differ():
    learner = il.mixed(70)
    for vary, said in (
        (range(70), "all 70 slopes vary among tasks, with one variance"),
        ((), "none of 70 slopes"),
    ):
        data = world(tasks=60, rows=20, features=70, vary=vary, spread=0.25)
        assert said in learner.remarks(learner.fit(learner.init(), data), data)[0]
    assert il.mixed(3).remarks(il.mixed(3).init(), world()) == ()


def test_the_score_of_a_variance_is_the_derivative_of_the_likelihood():
    data = world(tasks=25, rows=6, features=4, vary=(2,))
    design = torch.cat([data.x, torch.ones_like(data.x[..., :1])], -1)
    _, params = most_likely(Moments.of(design, data, torch.tensor([4])), "diagonal")
    level = params["head/root"].diagonal().exp()
    noise, mean = params["head/log_noise"].mul(2).exp(), params["head/mean"]
    from innerloop.inner.heads.random_effects import _scores

    score = _scores(design, data.y - design @ mean, [4], params)
    x, task, n = design_of(data, range(4)), groups_of(data), len(data.x)
    together = (task[:, None] == task).astype(float)
    base = np.eye(len(x)) + level.item() ** 2 * together

    def density(column, variance):
        covariance = noise.item() * (base + variance * np.outer(x[:, column], x[:, column]) * together)
        return multivariate_normal(x @ mean[:, 0].numpy(), covariance).logpdf(data.y.flatten().numpy())

    inverse = np.linalg.inv(base)
    for column in range(4):
        slope = (density(column, 1e-5) - density(column, -1e-5)) / 2e-5
        sizes = [
            x[task == t, column] @ inverse[np.ix_(task == t, task == t)] @ x[task == t, column]
            for t in range(n)
        ]
        within(abs(score[column].item() - slope / math.sqrt(0.5 * sum(s * s for s in sizes))), 1e-4)
    assert telling(design, data) == [2, 4]


def test_two_hundred_and_fifty_columns_take_a_bounded_number_of_evaluations(monkeypatch):
    calls = []
    whole = Moments.profile
    monkeypatch.setattr(Moments, "profile", lambda self, root: calls.append(self.sizes) or whole(self, root))
    data = world(tasks=60, rows=10, features=250, vary=(7,))
    design = torch.cat([data.x, torch.ones_like(data.x[..., :1])], -1)
    assert telling(design, data) == [7, 250]
    assert len(calls) < 100
    assert max(effects for _, _, effects in calls) <= 3  # never all of them at once


@pytest.mark.parametrize("classes", [2, 3])
def test_random_effects_of_classes_are_those_of_a_root_with_rows_of_zero(classes):
    chosen = LaplaceHead(3, classes, "full", random=[1])
    meta = doubled(chosen.init())
    meta = {n: v + 0.5 * random_direction(meta, 1)[n] for n, v in meta.items()}
    episode = class_episode(tasks=2, ways=classes, shots=4, shape=(3,))
    found = chosen.predict(meta, chosen.solve(meta, episode.support.x, episode.support), episode.query.x)
    # the columns that are fixed have a variance near 0 in the full model
    every = LaplaceHead(3, classes, "full")
    raw = -18.0 * torch.eye(4, dtype=torch.float64)
    places = torch.tensor([1, 3])
    raw[places[:, None], places] = meta["head/root"]
    wide = {"head/mean": meta["head/mean"], "head/root": raw}
    expected = every.predict(wide, every.solve(wide, episode.support.x, episode.support), episode.query.x)
    within((found - expected).abs().max(), 1e-6)
    base = chosen.predict(meta, chosen.base(meta, 2), episode.query.x)
    within((base - every.predict(wide, every.base(wide, 2), episode.query.x)).abs().max(), 1e-6)


def test_shrunken_answers_are_those_of_scikit_learn_with_a_strength_for_level_and_slopes():
    """Two classes: the mode is that of a logistic regression whose columns are scaled by their deviations."""
    head = LaplaceHead(3, 2, "shared", newton=40)
    meta = doubled(head.init())
    meta["head/root"] = torch.diag(torch.tensor([-0.4, -0.4, -0.4, 1.1], dtype=torch.float64))
    support = class_episode(tasks=1, ways=2, shots=6, shape=(3,)).support
    own = head.solve(meta, support.x, support)
    deviation = math.sqrt(2) * head._root(meta).diagonal().numpy()
    design = np.column_stack([support.x[0].numpy(), np.ones(12)]) * deviation
    reference = LogisticRegression(C=1.0, fit_intercept=False, tol=1e-12, max_iter=10_000)
    expected = reference.fit(design, support.y[0].numpy()).coef_[0] * deviation
    found = (own["head/weights"][0, :, 1] - own["head/weights"][0, :, 0]).numpy()
    within(np.abs(found - expected).max(), 1e-6)
    assert deviation[0] == deviation[1] != deviation[3]


def test_shared_variances_move_all_slopes_together():
    raw = torch.tensor(
        [[1.0, 9.0, 9.0], [9.0, 3.0, 9.0], [9.0, 9.0, -1.0]], dtype=torch.float64, requires_grad=True
    )
    root = prior_root(raw, "shared", random=None, size=3)
    expected = torch.diag(torch.tensor([2.0, 2.0, -1.0], dtype=torch.float64).exp())
    assert torch.equal(root, expected)
    (grad,) = torch.autograd.grad(root.sum(), raw)
    assert grad[0, 0] == grad[1, 1] != grad[2, 2]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"random": [3]}, "random=3 is no column: there are 0 ... 1"),
        ({"n_features": 10**9, "squares": True}, "squares are too many"),
        ({"random": [0, 0]}, "names a column twice"),
        ({"squares": [4]}, "4 is no feature: there are 0 ... 1"),
        ({"interactions": [(0, 0)]}, "are not two features"),
        ({"interactions": [(0, 1), (1, 0)]}, "named twice"),
        ({"likelihood": "map"}, "likelihood='map' is unknown"),
        ({"likelihood": "reml", "kind": "classification", "n_outputs": 2}, "the target is a class"),
        ({"covariance": "round"}, "covariance='round' is unknown"),
    ],
)
def test_what_has_no_meaning_is_refused(settings, message):
    with pytest.raises(UsageError, match=message.replace("(", r"\(")):
        il.mixed(**{"n_features": 2, **settings})


def test_terms_and_effects_survive_a_model_directory(tmp_path):
    data = world(features=2)
    learner = il.mixed(
        2, squares=True, interactions=[(0, 1)], random=[0], covariance="shared", likelihood="reml"
    )
    meta = learner.fit(learner.init(), Batch(data.x.float(), data.y.float()))
    model = il.Model(learner, meta)
    again = il.load(il.save(tmp_path / "run", model)).model
    x, y = data.x[0].float(), data.y[0].float()
    assert torch.equal(again.adapt(x, y)(x), model.adapt(x, y)(x))
    assert GaussianHead(2, 1).effects == [0, 1, 2]
