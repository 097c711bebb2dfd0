"""Rows of no class: the rate of false alarms against simulated worlds, and what is stored of it."""

import numpy as np
import pytest
import torch

import innerloop as il
from innerloop.errors import DataError, UsageError
from innerloop.evaluation.conformal import LEVELS, conformal_thresholds
from innerloop.evaluation.none_of_these import FitCalibration, calibrate_fit, require_rate
from innerloop.models import build
from innerloop.storage import load
from innerloop.storage.calibrations import fit_of, fit_tensors
from innerloop.storage.save import unsaved

FEATURES, WAYS, SHOTS = 3, 5, 2


def world(rng, n_classes, n_rows):
    """Classes with Gaussian means and rows of heavy tails, some classes wider than others: no model of it is true."""
    means = 2 * rng.normal(size=(n_classes, 1, FEATURES))
    width = np.exp(0.4 * rng.normal(size=(n_classes, 1, 1)))
    return (means + width * rng.standard_t(5, size=(n_classes, n_rows, FEATURES))).astype(np.float32)


def trained(rng, n_classes=80, n_rows=8):
    """A run on a world, with its calibration."""
    x = world(rng, n_classes, n_rows).reshape(-1, FEATURES)
    tasks = il.tasks.classes(x, np.arange(n_classes).repeat(n_rows), n_way=WAYS, n_query=3)
    run = il.meta_train(il.two_covariance(FEATURES, WAYS), tasks.train, device="cpu")
    fit = calibrate_fit(run.model, tasks.train, tasks.valid)
    return unsaved(run.model, inputs=tasks.inputs, targets=tasks.targets, fit=fit)


@pytest.fixture(scope="module")
def runs():
    return [trained(np.random.default_rng(seed)) for seed in range(4)]


def alarms(stored, rng, rate, draws=12):
    """How many rows of classes that are there, and of others, are called none of these."""
    known, others = [], []
    for _ in range(draws):
        x = world(rng, 2 * WAYS, SHOTS + 20)
        rows, labels = x[:WAYS, :SHOTS].reshape(-1, FEATURES), np.arange(WAYS).repeat(SHOTS)
        adapted = stored.adapt_files({"x": rows, "label": labels})
        for part, found in ((x[:WAYS, SHOTS:], known), (x[WAYS:, SHOTS:], others)):
            said = adapted.predict_files({"x": part.reshape(-1, FEATURES)}, none_of_these=rate)
            found.append((said.prediction == "none of these").mean())
    return np.mean(known), np.mean(others)


def test_false_alarms_are_as_many_as_asked_for(runs):
    found = np.mean([alarms(run, np.random.default_rng([7, n]), 0.1) for n, run in enumerate(runs)], axis=0)
    # four calibrations on 68 classes: a deviation of about two points
    assert 0.05 < found[0] < 0.15
    assert found[1] > 2 * found[0]


def test_it_is_stored_and_read_and_told_by_a_percentile(runs, tmp_path):
    again = load(runs[0].save(tmp_path / "run"))
    assert again.fit.counts == runs[0].fit.counts
    for pair, values in runs[0].fit.thresholds.items():
        assert np.array_equal(again.fit.thresholds[pair], values)
    x = world(np.random.default_rng(3), WAYS, SHOTS + 1)
    adapted = again.adapt_files({"x": x[:, 0], "label": np.arange(WAYS)})
    near, far = (adapted.predict_files({"x": rows}, none_of_these=0.05) for rows in (x[:, 0], 1000 + x[:, 0]))
    assert (near.fit_percentile > 5).all()
    assert (far.prediction == "none of these").all()
    assert (far.fit_percentile <= 5).all()
    assert (adapted.predict_files({"x": 1000 + x[:, 0]}).prediction != "none of these").all()


def test_shares_are_counted_by_hand():
    misfits = [np.array([float(each)]) for each in range(1, 100)]
    fit = FitCalibration({(2, 1): conformal_thresholds(misfits)}, {(2, 1): 99})
    # of 99 classes with a row each, a new row exceeds the r-th smallest with a chance of 1 - r / 100
    for rank in (50, 90, 95):
        share = fit.shares(2, np.array([1]), np.array([rank + 0.5]))[0]
        assert share == pytest.approx(1 - rank / 100, abs=0.005)
    assert fit.shares(2, np.array([1]), np.array([0.0]))[0] == 1


def test_thresholds_lie_on_lines_between_those_of_the_nearest_pairs():
    flat = {
        pair: np.full(len(LEVELS), value) for pair, value in (((2, 1), 1.0), ((5, 1), 2.0), ((5, 5), 3.0))
    }
    fit = FitCalibration(flat, dict.fromkeys(flat, 30))
    assert [fit._at(*pair)[0] for pair in ((2, 9), (7, 1), (5, 6))] == [1.0, 2.0, 3.0]
    assert fit._at(30, 2)[0] == pytest.approx(2 + (1 - 1 / 2) / (1 - 1 / 5))
    # half of the way from 2 to 5 classes, by the logarithm
    assert FitCalibration({(2, 1): flat[2, 1], (8, 1): flat[5, 1]}, {})._at(4, 1)[0] == pytest.approx(1.5)


def test_a_rate_that_cannot_be_held_is_refused(runs):
    fit = FitCalibration({(2, 1): np.zeros(len(LEVELS))}, {(2, 1): 9})
    assert require_rate(0.1, fit, "here") is fit
    with pytest.raises(
        UsageError, match=r"none_of_these=0.05 needs 19 classes .* had 9: ask for 0.1 or more"
    ):
        require_rate(0.05, fit, "here")
    with pytest.raises(UsageError, match="give a share of false alarms"):
        require_rate(5, fit, "here")
    with pytest.raises(UsageError, match="does not hold how badly"):
        require_rate(0.1, None, "here")
    with pytest.raises(DataError, match="give it another name"):
        runs[0].adapt_files({"x": np.zeros((2, FEATURES)), "label": ["a", "none of these"]})


def test_networks_are_calibrated_on_classes_they_have_not_seen_and_fixed_layers_not():
    x = world(np.random.default_rng(0), 30, 6).reshape(-1, FEATURES)
    tasks = il.tasks.classes(x, np.arange(30).repeat(6), n_way=2, n_query=3)
    torch.manual_seed(0)
    learner = il.protonet(build("mlp", n_in=FEATURES, hidden=[4], n_out=None), n_features=4, n_outputs=2)
    fit = calibrate_fit(il.Model(learner, learner.init()), tasks.train, tasks.valid)
    assert fit.n_classes == len(tasks.splits["valid"])
    maml = il.maml(build("mlp", n_in=FEATURES, n_out=2), loss="cross_entropy")
    assert calibrate_fit(il.Model(maml, maml.init()), tasks.train, tasks.valid) is None
    line = il.mixed(1)
    sinusoid = il.tasks.sinusoid()
    assert calibrate_fit(il.Model(line, line.init()), sinusoid.train, sinusoid.valid) is None


def test_tensors_of_another_kind_are_refused():
    good = fit_tensors(FitCalibration({(5, 1): np.arange(199.0)}, {(5, 1): 30}))
    assert fit_of(good).counts == {(5, 1): 30}
    value = good["fit/5x1"]
    for name, wrong in (
        ("fit/5", value),
        ("fit/0x1", value),
        ("fit/5x1", value[:-1]),
        ("fit/5x1", value.float()),
        ("fit/5x1", value.flip(0)),
        ("fit/5x1", torch.cat([value[:-1], torch.tensor([0.5]).double()])),
    ):
        with pytest.raises(ValueError, match="fit/"):
            fit_of({name: wrong})
