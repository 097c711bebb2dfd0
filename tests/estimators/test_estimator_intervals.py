"""Intervals and prediction sets of estimators, beside the columns of a frame, and what they hold of new groups."""

import pickle
import re

import numpy as np
import pandas as pd
import pytest

import innerloop as il
from innerloop.errors import UsageError
from toolkit.groups import patients

X, Y = patients(60)
NEW, NEW_Y = patients(100, seed=1)
NEW = NEW.assign(patient="new " + NEW.patient)
KNOWN = NEW.groupby("patient").cumcount() < 2
SUPPORT = (NEW[KNOWN], NEW_Y[KNOWN])


@pytest.fixture(scope="module")
def model() -> il.MetaRegressor:
    return il.MetaRegressor("patient", algorithm="mixed", validation_fraction=0.4, random_state=0).fit(X, Y)


def test_intervals_hold_nine_of_ten_rows_of_new_groups(model):
    found, lower, upper = model.predict(NEW[~KNOWN], support=SUPPORT, interval=0.9)
    np.testing.assert_array_equal(found, model.predict(NEW[~KNOWN], support=SUPPORT))
    # of 400 rows of 100 groups by 24 validation groups: the share varies by about 0.05
    assert 0.75 < ((lower <= NEW_Y[~KNOWN]) & (NEW_Y[~KNOWN] <= upper)).mean() < 0.99
    narrow = model.predict(NEW[~KNOWN], support=SUPPORT, interval=0.5)
    assert (narrow[2] - narrow[1] < upper - lower).all()
    base = model.predict(NEW[~KNOWN], interval=0.9)
    assert np.mean(base[2] - base[1]) > 3 * np.mean(upper - lower)


def test_they_are_those_of_the_frame_and_of_the_directory(model, tmp_path):
    table = NEW.assign(score=NEW_Y.where(KNOWN))
    stored = il.load(model.save(tmp_path / "model"))
    frame = stored.predict_frame(table, interval=0.9)[~KNOWN]
    again = il.MetaRegressor.load(tmp_path / "model")
    for each in (model, again, pickle.loads(pickle.dumps(model))):
        found = each.predict(NEW[~KNOWN], support=SUPPORT, interval=0.9)
        for values, column in zip(found, ("prediction", "lower", "upper"), strict=True):
            np.testing.assert_allclose(values, frame[column], rtol=1e-10)
    # a group that was fitted: by its number of rows, of which six is at home in the calibration
    one = model.adapt(X[:6], Y[:6]).predict(X[:6], interval=0.9)
    known = again.predict(X[:6], interval=0.9)
    np.testing.assert_allclose(one, known, rtol=1e-10)


def test_several_targets_have_an_interval_each():
    y = pd.DataFrame({"score": Y, "other": -Y})
    model = il.MetaRegressor("patient", algorithm="mixed", validation_fraction=0.4, random_state=0).fit(X, y)
    found, lower, upper = model.predict(NEW, interval=0.8)
    assert found.shape == lower.shape == upper.shape == (len(NEW), 2)
    assert ((lower < found) & (found < upper)).all()


def test_classes_have_prediction_sets():
    labels = np.array(["a;b", 'c"d', "e"], dtype=object)
    cuts = Y.quantile([0.3, 0.7])
    model = il.MetaClassifier(
        "patient", algorithm="ridge", hidden=(8,), steps=5, validation_fraction=0.4, random_state=0
    ).fit(X, labels[np.digitize(Y, cuts)])
    truth = labels[np.digitize(NEW_Y, cuts)]
    support = (NEW[KNOWN], truth[KNOWN])
    found, member = model.predict(NEW[~KNOWN], support=support, interval=0.9)
    assert member.shape == (len(found), 3)
    assert member[np.arange(len(found)), np.searchsorted(model.classes_, found)].mean() > 0.99
    held = member[np.arange(len(found)), np.searchsorted(model.classes_, truth[~KNOWN])]
    assert 0.75 < held.mean() < 0.999
    one, few = model.adapt(NEW[:2], truth[:2]).predict(NEW[2:6], interval=0.9)
    np.testing.assert_array_equal(one, found[:4])
    np.testing.assert_array_equal(few, member[:4])


def test_too_few_validation_groups_are_told(model):
    with pytest.raises(
        UsageError, match="needs 99 validation groups or more, and the model was calibrated on 24"
    ):
        model.predict(NEW, interval=0.99)
    few = il.MetaRegressor("patient", algorithm="mixed", random_state=0).fit(X[:72], Y[:72])
    with pytest.raises(
        UsageError, match=r"interval=0\.9 needs 9 validation groups .* on 0: raise validation_fraction"
    ):
        few.predict(NEW, interval=0.9)


def test_the_share_of_groups_that_is_named_is_enough():
    rows = int(X.patient.isin(X.patient.unique()[:20]).sum())
    few = il.MetaRegressor("patient", algorithm="mixed", random_state=0).fit(X[:rows], Y[:rows])
    with pytest.raises(UsageError) as said:
        few.predict(NEW, interval=0.9)
    found = re.search(r"to (0\.\d+) of the 20 groups", str(said.value))
    assert found
    few.set_params(validation_fraction=float(found[1])).fit(X[:rows], Y[:rows])
    value, lower, upper = few.predict(NEW, interval=0.9)
    assert np.isfinite(value).all()
    assert (lower < upper).all()


def test_levels_that_are_no_share_are_refused(model):
    with pytest.raises(UsageError, match="interval=90: give a share between 0 and 1"):
        model.predict(NEW, interval=90)
