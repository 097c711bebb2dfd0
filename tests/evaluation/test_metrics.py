"""Metrics of padded stacks against scikit-learn, one task at a time."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

import innerloop as il
from innerloop.evaluation.metrics import CALIBRATION_BINS, accuracy, auc, calibration_gaps
from innerloop.tasks.episodes import Batch


@given(st.integers(0, 10**6), st.integers(2, 4))
def test_auc_is_that_of_scikit_learn(seed, classes):
    generator = torch.Generator().manual_seed(seed)
    # few different values, so that there are ties
    logits = torch.randint(-2, 3, (3, 12, classes), generator=generator).float()
    y = torch.randint(classes, (3, 12), generator=generator)
    weight = (torch.rand(3, 12, generator=generator) < 0.8).float()
    found = auc(logits, Batch(logits, y, weight))
    for task in range(3):
        kept = weight[task] > 0
        share, label = logits[task][kept].double().softmax(-1).numpy(), y[task][kept].numpy()
        areas = [
            roc_auc_score(label == c, share[:, c])
            for c in range(classes)
            if 0 < (label == c).sum() < len(label)
        ]
        if areas:
            assert found[task] == pytest.approx(np.mean(areas))
        else:
            assert np.isnan(found[task])


def test_calibration_gaps_by_hand():
    probability = torch.tensor([[[0.95, 0.05], [0.93, 0.07], [0.4, 0.6], [0.5, 0.5]]]).double()
    batch = Batch(probability, torch.tensor([[0, 1, 1, 0]]), torch.tensor([[1.0, 1.0, 1.0, 0.0]]))
    gaps = calibration_gaps(probability.log(), batch)
    assert gaps.shape == (1, CALIBRATION_BINS)
    assert gaps[0, 9] == pytest.approx((0.95 - 1 + 0.93) / 3)
    assert gaps[0, 6] == pytest.approx((0.6 - 1) / 3)
    assert np.abs(gaps).sum() == pytest.approx(abs(gaps[0, 9]) + abs(gaps[0, 6]))
    assert accuracy(probability.log(), batch).item() == pytest.approx(2 / 3)


def test_the_evaluation_has_them():
    tasks = il.tasks.arrays(
        np.random.default_rng(0).normal(size=(200, 2)),
        np.random.default_rng(1).integers(0, 2, 200),
        np.arange(200) // 10,
        n_shot=2,
        kind="classification",
    )
    learner = il.mixed(2, 2, kind="classification")
    found = il.evaluate(il.Model(learner, learner.init()), tasks.test)
    assert found.metrics == ("accuracy", "auc", "calibration_error", "loss")
    mean, low, high = found.metric("calibration_error")
    gaps = found.values["calibration_gaps"][:, -1]
    assert mean == pytest.approx(np.abs(gaps.mean(0)).sum())
    assert 0 <= low <= mean <= high <= 1
    assert 0 <= found.metric("auc")[0] <= 1
    assert found.at(0).values["calibration_gaps"].shape == (len(found.ids), 1, CALIBRATION_BINS)
