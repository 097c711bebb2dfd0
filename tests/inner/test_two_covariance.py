"""The two-covariance head against brute-force Gaussian densities, and its fit against NumPy and scikit-learn."""

import numpy as np
import pytest
import torch
from scipy.linalg import block_diag
from scipy.stats import multivariate_normal
from sklearn.covariance import ledoit_wolf

from innerloop import meta_train
from innerloop.algorithms import two_covariance
from innerloop.errors import DataError
from innerloop.inner import Model
from innerloop.inner.heads import TwoCovarianceHead
from innerloop.inner.heads.class_covariances import covariances, shrunken, sums_of
from innerloop.tasks import classes
from innerloop.tasks.episodes import Batch
from innerloop.tasks.sources import class_rows_of


def world(n_classes, n_rows, features=3, seed=0):
    """Rows of classes of the model itself, with correlated features, the classes and both covariances."""
    rng = np.random.default_rng(seed)
    between, within = (a @ a.T + 0.2 * np.eye(features) for a in rng.normal(size=(2, features, features)))
    center = rng.normal(size=features)
    means = rng.multivariate_normal(center, 2 * between, n_classes)
    noise = rng.multivariate_normal(np.zeros(features), within, (n_classes, n_rows))
    x = (means[:, None] + noise).reshape(-1, features)
    return x, np.repeat(np.arange(n_classes), n_rows), (center, 2 * between, within)


def meta_of(center, between, within, temperature=1.0):
    """The meta-parameters of a head that knows the truth, by SciPy's eigenvectors of the pair."""
    from scipy.linalg import eigh

    values, vectors = eigh(between, within)
    return {
        "head/center": torch.from_numpy(center),
        "head/projection": torch.from_numpy(vectors),
        "head/log_between": torch.from_numpy(np.log(values)),
        "head/log_temperature": torch.tensor(np.log(temperature)),
    }


@pytest.mark.parametrize("counts", [(1, 1), (1, 4, 2)])
def test_logits_are_the_ratio_of_the_joint_gaussian_densities(counts):
    x, _, truth = world(len(counts), max(counts))
    center, between, within = truth
    groups = [x[k * max(counts) :][:count] for k, count in enumerate(counts)]
    query = world(4, 1, seed=0)[0] + 0.3
    support = Batch(
        torch.from_numpy(np.concatenate(groups)).unsqueeze(0),
        torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts)).unsqueeze(0),
    )
    head, meta = TwoCovarianceHead(3, len(counts)), meta_of(*truth, temperature=2.5)
    own = head.solve(meta, support.x, support)
    logits = head.predict(meta, own, torch.from_numpy(query).unsqueeze(0))[0].numpy()

    def density(rows):
        """Of rows of one class together, whose mean nobody knows."""
        n = len(rows)
        joint = np.kron(np.ones((n, n)), between) + block_diag(*[within] * n)
        return multivariate_normal(np.tile(center, n), joint).logpdf(rows.ravel())

    for row, each in enumerate(query):
        alone = density(each[None])
        expected = [density(np.vstack([group, each])) - density(group) - alone for group in groups]
        assert np.allclose(2.5 * logits[row], expected, atol=1e-9)


def test_a_class_without_a_row_changes_no_other_class():
    x, y, truth = world(3, 2)
    support = Batch(torch.from_numpy(x).unsqueeze(0), torch.from_numpy(y).unsqueeze(0))
    meta, few, more = meta_of(*truth), TwoCovarianceHead(3, 3), TwoCovarianceHead(3, 4)
    own = [head.solve(meta, support.x, support) for head in (few, more)]
    one, other = (
        head.predict(meta, adapted, support.x) for head, adapted in zip((few, more), own, strict=True)
    )
    assert torch.allclose(one, other[..., :3], atol=1e-12)
    assert torch.allclose(other.softmax(-1)[..., 3], torch.full((1, 6), 1e-3 / (1 + 1e-3)).double())


def test_shrinkage_is_that_of_ledoit_and_wolf():
    x = np.random.default_rng(0).normal(size=(30, 12)) @ np.diag(np.arange(1, 13))
    expected, share = ledoit_wolf(x, assume_centered=True)
    assert 0.05 < share < 0.95
    assert np.allclose(shrunken(torch.from_numpy(x), len(x)).numpy(), expected, rtol=1e-10)


def test_covariances_are_those_of_numpy_for_many_rows():
    x, y, (_, between, within) = world(3000, 4)
    found = covariances(sums_of(torch.from_numpy(x).unsqueeze(0), Batch(None, torch.from_numpy(y)[None])))
    v = found.projection.numpy()
    assert np.allclose(v.T @ within @ v, np.eye(3), atol=0.1)
    assert np.allclose(v.T @ between @ v, np.diag(found.between), atol=0.1 * found.between.max().item())
    # without shrinkage, which vanishes for many rows: sums of squares within and between, over their freedom
    means = x.reshape(3000, 4, 3).mean(1)
    rest = (x.reshape(3000, 4, 3) - means[:, None]).reshape(-1, 3)
    w = rest.T @ rest / 9000
    b = np.cov(means.T) - w / 4
    assert np.allclose(v.T @ w @ v, np.eye(3), atol=0.01)
    assert np.allclose(v.T @ b @ v, np.diag(found.between), atol=0.02 * found.between.max().item())


def test_the_sums_know_a_class_by_its_task_and_leave_padding_out():
    y = torch.tensor([[0, 1, 0], [0, 0, 1]])
    x = torch.arange(6.0).reshape(2, 3, 1)
    sums = sums_of(x, Batch(x, y, torch.tensor([[1.0, 1.0, 1.0], [1.0, 1.0, 0.0]])))
    assert sums.means.flatten().tolist() == [1.0, 1.0, 3.5]
    assert sums.counts.tolist() == [2, 1, 2]


def test_of_its_own_world_the_temperature_is_one_and_of_classes_that_vary_otherwise_it_is_higher():
    x, y, _ = world(200, 12)
    tasks = classes(x, y, n_way=5, n_query=5)
    run = meta_train(two_covariance(3, 5), tasks.train, device="cpu")
    temperature = run.model.meta["head/log_temperature"].exp().item()
    assert 0.8 < temperature < 1.25
    # classes whose rows vary differently far, of the wide ones of which one covariance for all is too sure
    rng = np.random.default_rng(1)
    wide = x + 3 * np.repeat(np.exp(1.5 * rng.normal(size=200)), 12)[:, None] * rng.normal(size=x.shape)
    run = meta_train(two_covariance(3, 5), classes(wide, y, n_way=5, n_query=5).train, device="cpu")
    assert run.model.meta["head/log_temperature"].exp().item() > 1.25


def test_few_classes_are_fitted_with_a_remark_and_single_rows_are_refused():
    x, y, _ = world(12, 8)
    tasks = classes(x, y, n_way=2, n_query=5)
    run = meta_train(two_covariance(3, 2), tasks.train, device="cpu")
    assert run.remarks == ()
    assert run.model.meta["head/log_temperature"] != 0
    few = classes(x[:48], y[:48], n_way=2, n_query=5, split=(1 / 3, 1 / 3, 1 / 3))
    run = meta_train(two_covariance(3, 2), few.train, device="cpu")
    assert run.remarks[0].startswith("2 classes tell little")
    assert run.model.meta["head/log_temperature"] == 0
    with pytest.raises(DataError, match="3 rows of 3 classes do not tell"):
        covariances(sums_of(torch.rand(1, 3, 2), Batch(None, torch.arange(3)[None])))
    with pytest.raises(DataError, match="all equal"):
        covariances(sums_of(torch.ones(1, 4, 2), Batch(None, torch.tensor([[0, 0, 1, 1]]))))


def test_every_row_of_the_classes_is_given_once():
    x, y, _ = world(9, 5)
    source = classes(x, y, n_way=2, n_query=4).train
    rows = class_rows_of(source)
    assert rows.x.shape == (1, 5 * len(source.index), 3)
    assert len(torch.unique(rows.x[0], dim=0)) == rows.x.shape[1]
    assert torch.bincount(rows.y[0]).tolist() == [5] * len(source.index)


def test_it_beats_nearest_class_means_where_features_differ_in_scale_within_classes():
    x, y, _ = world(60, 10, features=6, seed=3)
    tasks = classes(x, y, n_way=5, n_query=5)
    run = meta_train(two_covariance(6, 5), tasks.train, device="cpu")
    episode = tasks.test.sample(200, torch.Generator().manual_seed(0))
    own = run.model.learner.adapt(run.model.meta, episode.support)
    said = run.model.learner.predict(run.model.meta, own, episode.query.x).argmax(-1)
    distance = (episode.query.x.unsqueeze(2) - own["head/means"].unsqueeze(1)).square().sum(-1)
    right = [(each == episode.query.y).double().mean() for each in (said, distance.argmin(-1))]
    assert right[0] > right[1] + 0.02


@pytest.mark.parametrize("count", [2, 7])
def test_the_head_serves_any_number_of_classes(count):
    learner = two_covariance(3, 5)
    resized, meta = learner.for_classes(learner.init(), count)
    x = torch.randn(count, 3, generator=torch.Generator().manual_seed(0))
    task = Model(resized, meta).adapt(x, torch.arange(count))
    assert torch.equal(task.own["head/means"][0], x)
    assert task(x).shape == (count, count)
