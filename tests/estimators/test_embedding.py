"""Learned features beside the layer that follows them."""

import pickle

import numpy as np
import pytest
import torch

import innerloop as il
from innerloop.errors import UsageError
from innerloop.evaluation.features import features
from toolkit.groups import patients

X, Y = patients()


@pytest.mark.parametrize("algorithm", ["maml", "fomaml", "anil", "reptile", "plain"])
def test_the_last_layer_makes_the_prediction_of_the_features(algorithm):
    options = {"hidden": (6, 4), "steps": 2, "random_state": 0}
    embedding = il.MetaEmbedding(il.MetaRegressor("patient", algorithm=algorithm, **options)).fit(X, Y)
    found = embedding.transform(X)
    assert found.shape == (len(X), 4)
    model = embedding.estimator_
    weight, bias = [
        value.numpy() for name, value in model.model_.meta.items() if not name.startswith("inner/")
    ][-2:]
    schema = model._stored.schema
    base = (found @ weight.T + bias)[:, 0] * schema.target_scale + schema.target_mean
    np.testing.assert_allclose(base, model.predict(X.assign(patient="nobody")), rtol=1e-10)


def test_a_closed_form_head_stands_on_the_features():
    """Of a ridge regression of one new group, in NumPy."""
    net = il.MetaRegressor("patient", algorithm="ridge", hidden=(8, 5), steps=3, random_state=0)
    embedding = il.MetaEmbedding(net).fit(X, Y)
    model, new = embedding.estimator_, X[:6].assign(patient="new")
    assert embedding.transform(X).shape == (len(X), 5)
    schema = model._stored.schema
    design = np.column_stack([embedding.transform(new), np.ones(6)])
    target = schema.encode_target(new.assign(score=Y[:6])).astype(np.float64)[:, 0]
    of_features, of_constant = np.exp(model.model_.meta["head/log_lambda"].numpy())
    strength = np.diag([*[of_features] * 5, of_constant])
    weights = np.linalg.solve(design.T @ design + strength, design.T @ target)
    expected = design @ weights * schema.target_scale + schema.target_mean
    np.testing.assert_allclose(model.predict(new, support=(new, Y[:6])), expected, rtol=1e-6)


def test_classes_are_recognised_and_features_do_not_depend_on_the_group():
    embedding = il.MetaEmbedding(
        il.MetaClassifier("patient", algorithm="protonet", hidden=(5,), steps=2), random_state=1
    ).fit(X, Y > 0)
    np.testing.assert_array_equal(embedding.transform(X), embedding.transform(X.assign(patient="nobody")))
    again = pickle.loads(pickle.dumps(embedding))
    np.testing.assert_array_equal(again.transform(X), embedding.transform(X))
    assert isinstance(
        il.MetaEmbedding().set_params(random_state=0)._learner_for(np.array(["a", "b"])), il.MetaClassifier
    )
    assert isinstance(il.MetaEmbedding()._learner_for(np.arange(9)), il.MetaRegressor)


@pytest.mark.parametrize("algorithm", ["mixed", "bmaml"])
def test_what_has_no_hidden_layer_is_refused(algorithm):
    with pytest.raises(
        UsageError, match=f"{algorithm} has no hidden layer to take features from: choose ridge"
    ):
        il.MetaEmbedding(il.MetaRegressor("patient", algorithm=algorithm, steps=1)).fit(X, Y)


def test_features_of_a_model_without_estimators():
    learner = il.maml(
        torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.ReLU(), torch.nn.Linear(3, 1)), loss="mse"
    )
    meta, x = learner.init(), torch.randn(4, 2, generator=torch.Generator().manual_seed(0))
    expected = torch.relu(x @ meta["0.weight"].T + meta["0.bias"])
    torch.testing.assert_close(features(il.Model(learner, meta), x), expected)
