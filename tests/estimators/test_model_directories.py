"""Estimators as model directories, which the command reads, and as pickles."""

import copy
import json
import pickle
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import innerloop as il
from innerloop.cli import run as command
from innerloop.errors import ModelFileError, UsageError
from innerloop.storage.manifest import write_sealed
from toolkit.groups import patients

X, Y = patients()
NEW, NEW_Y = patients(2, seed=1)
NEW = NEW.assign(patient="new " + NEW.patient)
ROWS, NEW_ROWS = X.drop(columns="patient"), NEW.drop(columns="patient")


@pytest.fixture(scope="module")
def mixed() -> il.MetaRegressor:
    return il.MetaRegressor("patient", algorithm="mixed", random_state=0).fit(X, Y)


def test_a_loaded_estimator_predicts_and_adapts_as_before(mixed, tmp_path):
    path = mixed.save_pretrained(tmp_path / "model")
    again = il.MetaRegressor.from_pretrained(path)
    assert again.get_params() == mixed.get_params()
    for model in (
        again,
        pickle.loads(pickle.dumps(mixed)),
        copy.deepcopy(mixed),
        pickle.loads(pickle.dumps(again)),
    ):
        np.testing.assert_array_equal(model.predict(X), mixed.predict(X))
        np.testing.assert_array_equal(model.predict(NEW), mixed.predict(NEW))
        support = (NEW[:2], NEW_Y[:2])
        np.testing.assert_array_equal(
            model.predict(NEW[2:6], support=support), mixed.predict(NEW[2:6], support=support)
        )
        assert list(model.feature_names_in_) == list(X.columns)
        assert model.n_features_in_ == 3
    again.partial_fit(NEW[:4], NEW_Y[:4]).partial_fit(NEW[4:], NEW_Y[4:])
    np.testing.assert_allclose(again.predict(NEW[:6]), mixed.adapt(NEW[:6], NEW_Y[:6]).predict(NEW[:6]))
    with pytest.raises(UsageError, match="'p00' was adapted to rows that a model directory does not hold"):
        again.partial_fit(X, Y)


def test_groups_that_are_saved_stay_in_their_order_when_one_changes(mixed, tmp_path):
    model = copy.deepcopy(mixed).partial_fit(X[:6], Y[:6] + 1)
    expected = model.predict(X)
    again = il.MetaRegressor.load(model.save(tmp_path / "model"))
    np.testing.assert_array_equal(again.predict(X), expected)
    assert not np.array_equal(expected, mixed.predict(X))


def test_the_command_reads_what_an_estimator_saved(mixed, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    path = mixed.save(tmp_path / "model")
    known = NEW.groupby("patient").cumcount() < 2
    table = pd.concat([NEW.assign(score=NEW_Y.where(known)), X[:3]])
    table.to_csv("new.csv", index=False)
    assert command(["predict", str(path), "new.csv", "--out", "predicted.csv", "--quiet"]) == 0
    found = pd.read_csv("predicted.csv")
    expected = [mixed.predict(NEW[~known], support=(NEW[known], NEW_Y[known])), mixed.predict(X[:3])]
    np.testing.assert_allclose(
        found.prediction[np.r_[~known, [True] * 3]], np.concatenate(expected), rtol=1e-5
    )
    assert found.n_support.tolist() == [2] * 12 + [6] * 3
    assert command(["inspect", str(path)]) == 0
    NEW.assign(score=NEW_Y).to_csv("others.csv", index=False)
    assert command(["evaluate", str(path), "others.csv", "--report", "none"]) == 0
    assert command(["evaluate", str(path)]) == 2
    assert "does not say what it was trained on: give a table" in capsys.readouterr().err


def test_what_the_command_trained_is_loaded(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    X.assign(score=Y).to_csv("visits.csv", index=False)
    words = "train visits.csv --task patient --target score --n-support 3 --algorithm mixed --out run --quiet"
    assert command(words.split()) == 0
    model, stored = il.MetaRegressor.load("run"), il.load("run")
    table = NEW.assign(score=NEW_Y.where(NEW.groupby("patient").cumcount() < 2))
    expected = stored.predict_frame(table).prediction
    known = table.score.notna()
    found = model.predict(
        NEW[~known][["dose", "ward", "patient"]],
        support=(NEW[known][["dose", "ward", "patient"]], NEW_Y[known]),
    )
    np.testing.assert_array_equal(found, expected[~known])
    with pytest.raises(UsageError, match=r"run \(run, regression\) is no MetaClassifier"):
        il.MetaClassifier.load("run")


@pytest.mark.parametrize(
    "labels", [[3, -1], [True, False], ["10", "9"], [0.0, 2.0], np.array([7, 9], dtype=np.uint8)]
)
def test_labels_come_back_as_they_were(labels, tmp_path):
    y = np.where(Y.median() < Y, labels[0], labels[1])
    model = il.MetaClassifier(algorithm="mixed", steps=3, random_state=0).fit(ROWS, y, groups=X.patient)
    again = il.MetaClassifier.load(model.save(tmp_path / "model"))
    assert again.classes_.dtype == model.classes_.dtype
    np.testing.assert_array_equal(again.classes_, model.classes_)
    np.testing.assert_array_equal(
        again.predict_proba(ROWS, groups=X.patient), model.predict_proba(ROWS, groups=X.patient)
    )


def test_the_groups_of_fit_can_be_left_out(mixed, tmp_path):
    path = mixed.save(tmp_path / "model", known_groups=False)
    again = il.MetaRegressor.load(path)
    np.testing.assert_array_equal(again.predict(X), mixed.predict(X.assign(patient="nobody")))
    everything = b"".join(file.read_bytes() for file in path.iterdir())
    for name in X.patient.unique():
        assert name.encode() not in everything
    for value in [*X.dose, *Y]:
        assert repr(value).encode() not in everything


def test_a_network_of_ones_own_is_given_again(tmp_path):
    def net() -> torch.nn.Module:
        return torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 1))

    model = il.MetaRegressor(module=net(), steps=2, random_state=0).fit(ROWS, Y, groups=X.patient)
    expected = model.predict(ROWS, groups=X.patient)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(model)).predict(ROWS, groups=X.patient), expected)
    path = model.save(tmp_path / "model")
    again = il.MetaRegressor.load(path, module=net())
    np.testing.assert_array_equal(again.predict(ROWS, groups=X.patient), expected)
    with pytest.raises(UsageError, match="pass it as module="):
        il.MetaRegressor.load(path)


def test_an_adapted_estimator_is_pickled(mixed):
    one = mixed.adapt(NEW[:3], NEW_Y[:3])
    again = pickle.loads(pickle.dumps(one))
    np.testing.assert_array_equal(again.predict(NEW[3:6]), one.predict(NEW[3:6]))
    np.testing.assert_array_equal(again.estimator.predict(X), mixed.predict(X))


@pytest.mark.parametrize(
    "harm",
    [{"parameters": {"algorithm": "mixed", "colour": 1}}, {"columns": None}, {"named": 1, "columns": 3}],
)
def test_a_directory_that_says_nonsense_of_its_estimator_is_damaged(mixed, tmp_path, harm):
    path = mixed.save(tmp_path / "model")
    content = {name: (path / name).read_bytes() for name in ("config.json", "log.jsonl", "model.safetensors")}
    config = json.loads(content["config.json"])
    config["settings"]["estimator"] |= harm
    write_sealed(path, {**content, "config.json": json.dumps(config).encode()}, replace=True)
    with pytest.raises(ModelFileError, match="what it says of the estimator is damaged"):
        il.MetaRegressor.load(path)


def test_an_adapted_directory_is_loaded_with_load(mixed, tmp_path):
    frame = NEW.assign(score=NEW_Y)
    path = Path(il.load(mixed.save(tmp_path / "model")).adapt_frame(frame).save(tmp_path / "adapted"))
    with pytest.raises(
        UsageError, match=r"adapted \(adapted, regression\) is no MetaRegressor: load it with"
    ):
        il.MetaRegressor.load(path)
