"""Splits that give a few rows of held-out groups back, and scores of any estimator on them, beside a loop."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.base import clone
from sklearn.linear_model import LinearRegression
from sklearn.metrics import mean_absolute_error, r2_score
from sklearn.model_selection import GroupKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import innerloop as il
from innerloop.errors import DataError, UsageError
from toolkit.groups import patients

X, Y = patients()
DOSE = X[["dose"]]
MIXED = il.MetaRegressor(algorithm="mixed", random_state=0)


@given(
    sizes=st.lists(st.integers(1, 7), min_size=2, max_size=9),
    n_support=st.integers(0, 4),
    n_splits=st.integers(2, 9),
    seed=st.integers(0, 3),
)
def test_every_group_is_held_out_once_and_gives_its_support_back(sizes, n_support, n_splits, seed):
    ids = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(sizes)), sizes))
    splitter = il.SupportQuerySplit(n_support, n_splits=n_splits, random_state=seed)
    if n_splits > len(sizes):
        with pytest.raises(DataError, match=f"n_splits={n_splits}, and there are {len(sizes)} groups"):
            list(splitter.split(ids, groups=ids))
        return
    splits = list(splitter.split(ids, groups=ids))
    assert len(splits) == splitter.get_n_splits() == n_splits
    held = []
    for train, test in splits:
        assert sorted([*train, *test]) == list(range(len(ids)))
        out = np.unique(ids[test])
        held += out.tolist()
        for group in out:
            assert (ids[train] == group).sum() == min(n_support, sizes[group] - 1)
    assert sorted(held) == list(range(len(sizes)))
    again = list(splitter.split(ids, groups=ids))
    assert [[part.tolist() for part in pair] for pair in splits] == [
        [part.tolist() for part in pair] for pair in again
    ]


def test_support_rows_are_drawn_at_random():
    ids = np.repeat(np.arange(200), 10)
    drawn = np.concatenate(
        [
            train[np.isin(ids[train], ids[test])] % 10
            for train, test in il.SupportQuerySplit(3).split(ids, groups=ids)
        ]
    )
    # 600 draws of 10 places: the chance of more than 100 or fewer than 25 at one of them is below 1e-5
    assert 25 < np.bincount(drawn).min() < np.bincount(drawn).max() < 100


def test_what_cannot_be_split_is_refused():
    ids = np.repeat(["a", "b"], 3)
    with pytest.raises(DataError, match="splits are made of groups: give groups="):
        list(il.SupportQuerySplit(1, n_splits=2).split(ids))
    with pytest.raises(UsageError, match="n_support=-1"):
        list(il.SupportQuerySplit(-1, n_splits=2).split(ids, groups=ids))


def test_an_ordinary_estimator_learns_the_support_rows_too():
    splitter = il.SupportQuerySplit(2, n_splits=3)
    found = il.cross_val_adapt(LinearRegression(), DOSE, Y, groups=X.patient, n_support=2, n_splits=3)
    expected = cross_val_score(LinearRegression(), DOSE, Y, groups=X.patient, cv=splitter)
    np.testing.assert_allclose(found, expected)


def test_a_meta_learner_adapts_to_the_support_rows():
    found = il.cross_val_adapt(MIXED, DOSE, Y, groups=X.patient, n_support=2, n_splits=3)
    splitter, expected = il.SupportQuerySplit(2, n_splits=3), []
    for train, query in splitter.split(DOSE, groups=X.patient):
        known = train[np.isin(X.patient[train], X.patient[query])]
        training = np.setdiff1d(train, known)
        model = clone(MIXED).fit(DOSE.iloc[training], Y[training], groups=X.patient[training])
        predicted = np.empty(len(query))
        for group in X.patient[query].unique():
            mine, asked = known[X.patient[known] == group], X.patient[query] == group
            adapted = model.adapt(DOSE.iloc[mine], Y[mine])
            predicted[asked] = adapted.predict(DOSE.iloc[query[asked]])
        expected.append(r2_score(Y[query], predicted))
    np.testing.assert_allclose(found, expected, rtol=1e-10)
    by_column = il.cross_val_adapt(
        il.MetaRegressor("patient", algorithm="mixed", random_state=0),
        X[["patient", "dose"]],
        Y,
        n_support=2,
        n_splits=3,
    )
    np.testing.assert_allclose(by_column, expected, rtol=1e-10)
    assert min(found) > 0.9


def test_steps_before_a_meta_learner_see_training_rows_only():
    pipeline = make_pipeline(StandardScaler(), "passthrough", MIXED)
    found = il.cross_val_adapt(pipeline, DOSE, Y, groups=X.patient, n_support=2, n_splits=3)
    # what is linear in its features does not mind their scale
    np.testing.assert_allclose(
        found, il.cross_val_adapt(MIXED, DOSE, Y, groups=X.patient, n_support=2, n_splits=3), rtol=1e-4
    )


def test_scorers_of_scikit_learn_are_used():
    options = {"groups": X.patient, "n_support": 3, "n_splits": 2}
    error = il.cross_val_adapt(MIXED, DOSE, Y, scoring="neg_mean_absolute_error", **options)
    assert (error > -0.5).all()
    assert (error < 0).all()
    plain = il.cross_val_adapt(LinearRegression(), DOSE, Y, scoring="neg_mean_absolute_error", **options)
    train, test = next(iter(il.SupportQuerySplit(3, n_splits=2).split(DOSE, groups=X.patient)))
    line = LinearRegression().fit(DOSE.iloc[train], Y[train])
    assert plain[0] == pytest.approx(-mean_absolute_error(Y[test], line.predict(DOSE.iloc[test])))
    classifier = il.MetaClassifier(algorithm="mixed", steps=1, random_state=0)
    for scoring in (None, "roc_auc"):
        scores = il.cross_val_adapt(classifier, DOSE, Y > 0, scoring=scoring, **options)
        assert scores.shape == (2,)
        assert np.isfinite(scores).all()


def test_without_support_groups_get_the_prediction_for_any_group():
    found = il.cross_val_adapt(MIXED, DOSE, Y, groups=X.patient, n_support=0, n_splits=3)
    expected = []
    for training, query in il.SupportQuerySplit(0, n_splits=3).split(DOSE, groups=X.patient):
        assert not set(X.patient[training]) & set(X.patient[query])
        model = clone(MIXED).fit(DOSE.iloc[training], Y[training], groups=X.patient[training])
        expected.append(model.score(DOSE.iloc[query], Y[query]))
    np.testing.assert_allclose(found, expected)
    assert max(found) < il.cross_val_adapt(MIXED, DOSE, Y, groups=X.patient, n_support=2, n_splits=3).min()


def test_frames_of_polars_are_split_too():
    polars = pytest.importorskip("polars")
    found = il.cross_val_adapt(
        MIXED, polars.from_pandas(DOSE), Y.to_numpy(), groups=X.patient.to_numpy(), n_support=2, n_splits=3
    )
    np.testing.assert_allclose(
        found, il.cross_val_adapt(MIXED, DOSE, Y, groups=X.patient, n_support=2, n_splits=3), rtol=1e-6
    )


def test_the_splitter_stands_in_the_place_of_those_of_scikit_learn():
    frame = pd.DataFrame({"dose": DOSE.dose})
    ours = cross_val_score(
        LinearRegression(), frame, Y, groups=X.patient, cv=il.SupportQuerySplit(0, n_splits=12)
    )
    theirs = cross_val_score(LinearRegression(), frame, Y, groups=X.patient, cv=GroupKFold(12))
    np.testing.assert_allclose(np.sort(ours), np.sort(theirs))
    assert repr(il.SupportQuerySplit(2)) == "SupportQuerySplit(n_splits=5, n_support=2, random_state=0)"
