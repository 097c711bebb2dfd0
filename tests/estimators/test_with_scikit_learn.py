"""Inside of pipelines, searches and cross-validation, with and without metadata routing."""

import numpy as np
import pytest
import sklearn
from sklearn.base import clone
from sklearn.compose import ColumnTransformer
from sklearn.model_selection import (
    GridSearchCV,
    GroupKFold,
    LeaveOneGroupOut,
    cross_val_score,
    cross_validate,
)
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

import innerloop as il
from toolkit.groups import patients

X, Y = patients(6)
ROWS, GROUPS = X.drop(columns="patient"), X.patient
MIXED = il.MetaRegressor("patient", algorithm="mixed", random_state=0)


def scaled() -> ColumnTransformer:
    return ColumnTransformer([("numbers", StandardScaler(), ["dose"]), ("names", OneHotEncoder(), ["ward"])])


@pytest.mark.parametrize("cv", [GroupKFold(3), LeaveOneGroupOut()])
def test_groups_are_cross_validated(cv):
    """Held-out groups are new ones: what is scored is the prediction for any group."""
    result = cross_validate(MIXED, X, Y, groups=GROUPS, cv=cv, return_estimator=True)
    assert len(result["test_score"]) == cv.get_n_splits(groups=GROUPS)
    for model, (train, test) in zip(result["estimator"], cv.split(X, groups=GROUPS), strict=True):
        assert set(model._stored.tasks) == set(GROUPS[train])
        predicted = model.predict(X.iloc[test])
        np.testing.assert_allclose(predicted, clone(MIXED).fit(X.iloc[train], Y[train]).predict(X.iloc[test]))


def test_groups_are_routed_to_fit_and_score():
    with sklearn.config_context(enable_metadata_routing=True):
        model = il.MetaRegressor(algorithm="mixed", random_state=0)
        model.set_fit_request(groups=True).set_score_request(groups=True, support=False)
        found = cross_validate(model, ROWS, Y, params={"groups": GROUPS}, cv=GroupKFold(3))["test_score"]
        piped = make_pipeline(scaled(), clone(model))
        with_steps = cross_validate(piped, ROWS, Y, params={"groups": GROUPS}, cv=GroupKFold(3))["test_score"]
        ours = cross_validate(
            model, ROWS, Y, params={"groups": GROUPS}, cv=il.SupportQuerySplit(3, n_splits=3)
        )
    by_column = cross_val_score(MIXED, X, Y, groups=GROUPS, cv=GroupKFold(3))
    np.testing.assert_allclose(found, by_column)
    assert with_steps.shape == (3,)
    # groups with a few rows in the training part are known, and their other rows are predicted well
    assert ours["test_score"].min() > 0.6 > by_column.max()


def test_a_pipeline_hands_groups_on():
    pipeline = make_pipeline(scaled(), il.MetaRegressor(algorithm="mixed", random_state=0))
    pipeline.fit(ROWS, Y, metaregressor__groups=GROUPS)
    assert pipeline.predict(ROWS, groups=GROUPS).shape == (len(X),)
    assert np.corrcoef(pipeline.predict(ROWS, groups=GROUPS), Y)[0, 1] > 0.99


def test_parameters_are_searched():
    search = GridSearchCV(
        MIXED, {"algorithm": ["mixed", "maml"], "n_support": [2, 3], "steps": [2]}, cv=GroupKFold(2)
    )
    search.fit(X, Y, groups=GROUPS)
    assert search.best_params_["algorithm"] == "mixed"
    assert search.predict(X).shape == (len(X),)
    assert search.best_estimator_.adapt(X[:3].assign(patient="x"), Y[:3]).predict(
        X[3:5].assign(patient="x")
    ).shape == (2,)


def test_an_adapted_estimator_is_cross_validated_within_its_group():
    model = clone(MIXED).fit(X, Y)
    new, y = patients(1, 12, seed=3)
    one = model.adapt(new, y)
    fresh = clone(one)
    assert fresh.estimator is model
    assert not hasattr(fresh, "group_")
    scores = cross_val_score(one, new, y, cv=3)
    alone = cross_val_score(
        make_pipeline(OneHotEncoder(handle_unknown="ignore")), new, y, cv=3, scoring=lambda *_: 0
    )
    assert scores.min() > alone.max()


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_learned_features_are_frames_when_asked_for(library):
    pytest.importorskip(library)
    net = il.MetaRegressor("patient", algorithm="ridge", hidden=(6, 3), steps=2, random_state=0)
    embedding = il.MetaEmbedding(net).set_output(transform=library).fit(X, Y)
    frame = embedding.transform(X)
    assert type(frame).__module__.startswith(library)
    assert list(frame.columns) == ["metaembedding0", "metaembedding1", "metaembedding2"]
    piped = make_pipeline(il.MetaEmbedding(net), StandardScaler()).fit(X, Y)
    np.testing.assert_allclose(piped.transform(X).mean(0), 0, atol=1e-10)
