"""Intervals and p values against scipy, statsmodels and simulation."""

import numpy as np
import pytest
from scipy import stats

from innerloop.evaluation.intervals import bootstrap_interval, holm, mean_interval, paired, two_way


def test_the_interval_is_students():
    values = np.random.default_rng(0).normal(3, 2, 17)
    found = mean_interval(values)
    assert found[1:] == pytest.approx(stats.t.interval(0.95, 16, values.mean(), stats.sem(values)))


def test_bca_is_that_of_scipy():
    values = np.random.default_rng(1).lognormal(size=40)
    found = mean_interval(values, how="bca")
    other = stats.bootstrap((values,), np.mean, method="BCa", rng=1).confidence_interval
    assert found.low == pytest.approx(other.low, rel=0.05)  # both are drawn
    assert found.high == pytest.approx(other.high, rel=0.05)  # both are drawn
    assert found.high - found.mean > found.mean - found.low  # a long tail to the right


def test_the_percentile_bootstrap_is_that_of_scipy():
    values = np.random.default_rng(4).lognormal(size=(2, 50))
    found = bootstrap_interval(values, lambda means: means[0] / means[1])

    def ratio(x, y, axis):
        return x.mean(axis) / y.mean(axis)

    other = stats.bootstrap(tuple(values), ratio, paired=True, method="percentile", rng=1).confidence_interval
    assert found == pytest.approx(tuple(other), rel=0.05)  # both are drawn


def test_a_bootstrap_interval_may_be_open():
    low, high = bootstrap_interval(
        np.array([[-1.0, -1.0, 5.0]]), lambda means: means[0] if means[0] > 0 else np.inf
    )
    assert low > 0
    assert high == np.inf


def test_clusters_of_one_task_are_tasks_and_equal_clusters_are_their_means():
    values = np.random.default_rng(2).normal(size=12)
    alone = mean_interval(values, clusters=[f"c{i}" for i in range(12)])
    assert alone == pytest.approx(mean_interval(values))
    doubled = mean_interval(np.repeat(values, 2), clusters=np.repeat(np.arange(12), 2).astype(str).tolist())
    assert doubled == pytest.approx(mean_interval(values))


def test_cluster_interval_against_statsmodels():
    sm = pytest.importorskip("statsmodels.api")
    rng = np.random.default_rng(3)
    clusters = rng.integers(0, 9, 60)
    values = rng.normal(size=60) + rng.normal(size=9)[clusters]
    fit = sm.OLS(values, np.ones((60, 1))).fit(
        cov_type="cluster", cov_kwds={"groups": clusters, "use_correction": False}, use_t=True
    )
    count = len(np.unique(clusters))
    half = stats.t.ppf(0.975, count - 1) * fit.bse[0] * np.sqrt(count / (count - 1))
    found = mean_interval(values, clusters=clusters.astype(str).tolist())
    assert found == pytest.approx((values.mean(), values.mean() - half, values.mean() + half))


def test_what_cannot_be_told_is_nan():
    assert np.isnan(mean_interval(np.array([1.0])).low)
    assert np.isnan(mean_interval(np.array([1.0, np.nan])).low)
    assert np.isnan(mean_interval(np.ones(5), clusters=["a"] * 5).low)
    assert np.isnan(two_way(np.ones((1, 2)))[1])


def test_one_seed_gives_the_paired_t_test():
    rng = np.random.default_rng(4)
    ours, theirs = rng.normal(1.0, 0.3, (2, 25, 1))
    found = paired(ours, theirs, lower_is_better=True)
    test = stats.ttest_rel(ours[:, 0], theirs[:, 0])
    low, high = test.confidence_interval()
    assert found.difference.mean == pytest.approx((ours - theirs).mean())
    # the bootstrap estimates the standard error to two digits
    assert found.difference[1:] == pytest.approx((low, high), abs=0.03 * (high - low))
    assert found.p == pytest.approx(test.pvalue, abs=0.03)


def test_seeds_that_differ_widen_the_interval():
    rng = np.random.default_rng(5)
    tasks = rng.normal(size=(30, 1)) * 0.1
    same = two_way(tasks + np.array([[0.0, 0.0]]))[0]
    differ = two_way(tasks + np.array([[-0.5, 0.5]]))[0]
    assert differ.high - differ.low > 10 * (same.high - same.low)


@pytest.mark.parametrize("seeds_spread", [0.0, 0.3])
def test_coverage_of_the_two_way_interval(seeds_spread):
    rng = np.random.default_rng(6)
    hits = 0
    for _ in range(400):
        values = rng.normal(size=(30, 1)) + seeds_spread * rng.normal(size=(1, 2)) + rng.normal(size=(30, 2))
        low, high = two_way(values)[0][1:]
        hits += low <= 0 <= high
    assert 0.91 <= hits / 400 <= 0.995


def test_the_gain_is_the_share_of_the_error_saved():
    rng = np.random.default_rng(7)
    theirs = rng.uniform(0.5, 1.5, (40, 2))
    found = paired(0.8 * theirs, theirs, lower_is_better=True)
    assert found.gain == pytest.approx((0.2, 0.2, 0.2), abs=1e-9)
    accuracy = paired(np.full((9, 1), 0.9), np.full((9, 1), 0.8), lower_is_better=False)
    assert accuracy.difference.mean == pytest.approx(0.1)
    assert accuracy.gain.mean == pytest.approx(0.5)
    perfect = paired(np.ones((9, 1)), np.ones((9, 1)), lower_is_better=False)
    assert np.isnan(perfect.gain.mean)


def test_holm_against_statsmodels():
    multitest = pytest.importorskip("statsmodels.stats.multitest")
    p = np.random.default_rng(8).uniform(size=12) ** 3
    assert holm(p) == pytest.approx(multitest.multipletests(p, method="holm")[1])
    assert holm([0.01, float("nan"), 0.04])[0] == pytest.approx(0.02)
    assert np.isnan(holm([float("nan")])[0])
    assert holm([]) == []
