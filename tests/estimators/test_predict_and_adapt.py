"""What the estimators predict, beside the model taken by hand; known groups, new ones, and labelled rows of them."""

import inspect
import warnings

import numpy as np
import pandas as pd
import pytest
import torch

import innerloop as il
from innerloop.algorithms import ALGORITHMS
from innerloop.errors import DataError, UsageError
from toolkit.groups import patients

X, Y = patients()
GROUPS = X.patient
ROWS = X.drop(columns="patient")
NEW, NEW_Y = patients(3, seed=1)
NEW = NEW.assign(patient="new " + NEW.patient)


@pytest.fixture(scope="module")
def mixed() -> il.MetaRegressor:
    return il.MetaRegressor("patient", algorithm="mixed", random_state=0).fit(X, Y)


@pytest.fixture(scope="module")
def classifier() -> il.MetaClassifier:
    return il.MetaClassifier("patient", algorithm="mixed", steps=5, random_state=0).fit(X, Y.median() < Y)


def by_hand(model: il.MetaRegressor, rows: pd.DataFrame, y: pd.Series, asked: pd.DataFrame) -> np.ndarray:
    """Adapt the model to labelled rows and predict others, encoded and scaled back."""
    schema = model._stored.schema
    target = schema.encode_target(rows.assign(score=y))
    task = model.model_.adapt(schema.encode(rows), target)
    return schema.decode(task(torch.from_numpy(schema.encode(asked))))["prediction"]


def test_a_group_of_fit_is_predicted_from_all_of_its_rows(mixed):
    own = GROUPS == "p03"
    expected = by_hand(mixed, X[own], Y[own], X[own])
    np.testing.assert_allclose(mixed.predict(X[own]), expected, rtol=1e-12)
    assert mixed.predict(X[own]).flags.writeable
    assert np.abs(expected - Y[own]).max() < 0.5  # and well


def test_a_mixed_model_predicts_the_posterior_mean_of_a_new_group(mixed):
    """The closed form in NumPy: weights of a group have the prior N(m, s² R'R), rows the noise s²."""
    own, asked = NEW[:3], NEW[3:6]
    schema, meta = mixed._stored.schema, {n: v.numpy() for n, v in mixed.model_.meta.items()}

    def design(rows: pd.DataFrame) -> np.ndarray:
        return np.column_stack([schema.encode(rows).astype(np.float64), np.ones(len(rows))])

    target = schema.encode_target(own.assign(score=NEW_Y[:3])).astype(np.float64)[:, 0]
    features, mean = design(own), meta["head/mean"][:, 0]
    root = np.tril(meta["head/root"], -1) + np.diag(np.exp(np.diag(meta["head/root"])))
    prior = root @ root.T
    gain = prior @ features.T @ np.linalg.inv(features @ prior @ features.T + np.eye(3))
    weights = mean + gain @ (target - features @ mean)
    expected = design(asked) @ weights * schema.target_scale + schema.target_mean
    found = mixed.predict(asked, support=(own, NEW_Y[:3]))
    np.testing.assert_allclose(found, expected, rtol=1e-8)


def test_a_new_group_gets_the_prediction_for_any_group(mixed):
    schema = mixed._stored.schema
    base = mixed.model_.base()(torch.from_numpy(schema.encode(NEW)))
    np.testing.assert_allclose(mixed.predict(NEW), schema.decode(base)["prediction"], rtol=1e-12)
    np.testing.assert_array_equal(mixed.predict(NEW, support=(NEW[:0], NEW_Y[:0])), mixed.predict(NEW))


def test_labelled_rows_of_new_groups_are_adapted_to(mixed):
    known = NEW.groupby("patient").cumcount() < 2
    found = mixed.predict(NEW[~known], support=(NEW[known], NEW_Y[known]))
    expected = [
        by_hand(mixed, NEW[known & own], NEW_Y[known & own], NEW[~known & own])
        for own in (NEW.patient == name for name in NEW.patient.unique())
    ]
    np.testing.assert_allclose(found, np.concatenate(expected), rtol=1e-10)
    one = mixed.adapt(NEW[:2], NEW_Y[:2])
    np.testing.assert_allclose(one.predict(NEW[2:6]), found[:4], rtol=1e-12)
    assert one.score(NEW[2:6], NEW_Y[2:6]) == pytest.approx(
        1 - ((found[:4] - NEW_Y[2:6]) ** 2).sum() / ((NEW_Y[2:6] - NEW_Y[2:6].mean()) ** 2).sum()
    )


def test_support_of_a_known_group_is_all_that_it_is_adapted_to(mixed):
    own = X[GROUPS == "p03"]
    found = mixed.predict(own, support=(own[:2], Y[own.index[:2]]))
    np.testing.assert_allclose(found, by_hand(mixed, own[:2], Y[own.index[:2]], own), rtol=1e-12)


def test_groups_beside_x_are_as_good_as_a_column_of_it(mixed):
    other = il.MetaRegressor(algorithm="mixed", random_state=0).fit(ROWS, Y, groups=GROUPS)
    np.testing.assert_array_equal(other.predict(ROWS, groups=GROUPS), mixed.predict(X))
    rows, owners = NEW.drop(columns="patient"), NEW.patient
    support = (rows[:2], NEW_Y[:2], owners[:2])
    np.testing.assert_array_equal(
        other.predict(rows[2:6], groups=owners[2:6], support=support),
        mixed.predict(NEW[2:6], support=(NEW[:2], NEW_Y[:2])),
    )
    # without groups, all rows are of one group that is new
    np.testing.assert_array_equal(
        other.predict(rows[2:6], support=support[:2]), mixed.predict(NEW[2:6], support=(NEW[:2], NEW_Y[:2]))
    )
    np.testing.assert_array_equal(other.predict(rows), mixed.predict(NEW))


def test_several_groups_are_adapted_to_at_once(mixed):
    adapted = mixed.adapt(NEW, NEW_Y, groups=NEW.patient)
    assert list(adapted) == sorted(NEW.patient.unique())
    for name, one in adapted.items():
        own = NEW.patient == name
        np.testing.assert_allclose(
            one.predict(NEW[own]), mixed.adapt(NEW[own], NEW_Y[own]).predict(NEW[own]), rtol=1e-10
        )
        assert one.n_support_ == own.sum()


def test_more_rows_of_a_group_are_added_to_those_it_has(mixed):
    known = X.groupby("patient").cumcount() < 4
    model = il.MetaRegressor("patient", algorithm="mixed", random_state=0).fit(X[known], Y[known])
    before = {name: value.clone() for name, value in model.model_.meta.items()}
    model.partial_fit(X[~known], Y[~known]).partial_fit(NEW, NEW_Y)
    assert all(torch.equal(value, before[name]) for name, value in model.model_.meta.items())
    for rows, y in ((X, Y), (NEW, NEW_Y)):
        own = rows.patient == rows.patient[0]
        np.testing.assert_allclose(
            model.predict(rows[own]), model.adapt(rows[own], y[own]).predict(rows[own]), rtol=1e-10
        )
    fresh = il.MetaRegressor("patient", algorithm="mixed", random_state=0).partial_fit(X, Y)
    np.testing.assert_array_equal(fresh.predict(X), mixed.predict(X))


def test_classes_keep_their_labels(classifier):
    shares = classifier.predict_proba(X)
    assert shares.shape == (len(X), 2)
    np.testing.assert_allclose(shares.sum(1), 1)
    assert classifier.classes_.dtype == bool
    assert (classifier.predict(X) == (shares[:, 1] > 0.5)).all()
    share = (classifier.predict(X) == (Y.median() < Y)).mean()
    assert classifier.score(X, Y.median() < Y) == share > 0.9
    one = classifier.adapt(NEW[:3], [True, False, True])
    np.testing.assert_allclose(
        one.predict_proba(NEW[3:6]),
        classifier.predict_proba(NEW[3:6], support=(NEW[:3], [True, False, True])),
    )
    assert one.predict(NEW[3:6]).dtype == bool


@pytest.mark.parametrize("labels", [["10", "9", "b"], [10, 9, -3], [1.0, 2.0, 5.0], ["x", " y", "ü"]])
def test_labels_of_any_kind_come_back(labels):
    y = np.array(labels)[np.digitize(Y, Y.quantile([0.3, 0.7]))]
    model = il.MetaClassifier("patient", algorithm="mixed", steps=3, random_state=0).fit(X, y)
    np.testing.assert_array_equal(model.classes_, np.unique(labels))
    found = model.predict(X)
    assert found.dtype == y.dtype
    assert (found == y).mean() > 0.8
    np.testing.assert_array_equal(model.classes_[model.predict_proba(X).argmax(1)], found)


def test_several_targets():
    y = pd.DataFrame({"score": Y, "other": Y**2})
    model = il.MetaRegressor("patient", algorithm="mixed", random_state=0).fit(X, y)
    found = model.predict(X)
    assert found.shape == (len(X), 2)
    assert np.corrcoef(found[:, 0], Y)[0, 1] > 0.99
    assert model.adapt(NEW, NEW_Y.to_frame().assign(other=NEW_Y**2), groups=NEW.patient)["new p00"].predict(
        NEW[:2]
    ).shape == (2, 2)
    plain = il.MetaRegressor("patient", algorithm="mixed", random_state=0).fit(X, y.to_numpy())
    np.testing.assert_array_equal(plain.predict(X), found)


def test_groups_count_equally_in_an_evaluation():
    """Beside a loop: the first rows of each new group are support, the others are asked."""
    visits = X.assign(visit=X.groupby("patient").cumcount())
    new = NEW.assign(visit=NEW.groupby("patient").cumcount())
    model = il.MetaRegressor(
        "patient", algorithm="mixed", support="order:visit", n_support=2, random_state=0
    ).fit(visits, Y)
    scores = model.evaluate(new, NEW_Y)
    errors = []
    for _, own in new.groupby("patient"):
        y = NEW_Y[own.index]
        errors.append(((model.predict(own[2:], support=(own[:2], y[:2])) - y[2:]) ** 2).mean())
    assert scores.metric("squared_error")[0] == pytest.approx(np.mean(errors), rel=1e-6)
    other = model.evaluate(new, NEW_Y, n_support=4)
    assert other.support.high == 4
    with pytest.raises(DataError, match="group 'p00' was fitted"):
        model.evaluate(visits, Y)


def test_rows_nobody_has_grouped_are_one_group_and_a_warning_names_both_fixes():
    with pytest.warns(UserWarning, match=r"fit\(X, y, groups=ids\).*MetaRegressor\(task='patient'\)"):
        model = il.MetaRegressor(algorithm="mixed").fit(ROWS, Y)
    line = np.linalg.lstsq(np.column_stack([ROWS.dose, ROWS.ward == "north", np.ones(len(X))]), Y, rcond=None)
    assert model.predict(ROWS).std() > 0
    assert model.score(ROWS, Y) == pytest.approx(1 - line[1][0] / ((Y - Y.mean()) ** 2).sum(), abs=0.02)


def test_groups_of_one_row_are_told_and_still_adapted_to():
    rows, y = pd.concat([X, NEW[:1]]), pd.concat([Y, NEW_Y[:1]])
    with pytest.warns(UserWarning, match="1 of 13 groups are too small to train on"):
        model = il.MetaRegressor("patient", algorithm="mixed", random_state=0).fit(rows, y)
    np.testing.assert_allclose(
        model.predict(NEW[1:3].assign(patient="new p00")), model.adapt(NEW[:1], NEW_Y[:1]).predict(NEW[1:3])
    )


def test_an_unknown_group_can_be_refused():
    model = il.MetaRegressor("patient", algorithm="mixed", on_unknown_task="raise", random_state=0).fit(X, Y)
    assert np.isfinite(model.predict(X)).all()
    with pytest.raises(DataError, match="group 'new p00' has no row in fit: give labelled rows"):
        model.predict(NEW)
    assert np.isfinite(model.predict(NEW[2:6], support=(NEW[:2], NEW_Y[:2]))).all()


def test_gaps_dates_names_and_other_frames_are_understood():
    polars, pyarrow = pytest.importorskip("polars"), pytest.importorskip("pyarrow")
    rows = X.assign(visit=pd.date_range("2024-01-01", periods=len(X)).strftime("%Y-%m-%d"))
    rows["dose"] = rows.dose.mask(np.arange(len(X)) % 7 == 0)
    model = il.MetaRegressor("patient", algorithm="mixed", random_state=0).fit(rows, Y)
    expected = model.predict(rows)
    assert list(model.feature_names_in_) == ["patient", "dose", "ward", "visit"]
    np.testing.assert_array_equal(model.predict(polars.from_pandas(rows)), expected)
    np.testing.assert_array_equal(model.predict(pyarrow.Table.from_pandas(rows)), expected)
    again = il.MetaRegressor("patient", algorithm="mixed", random_state=0)
    again.fit(polars.from_pandas(rows), polars.Series("score", Y))
    np.testing.assert_array_equal(again.predict(rows), expected)


def test_the_same_seed_gives_the_same_model_and_others_differ():
    def fitted(seed: int) -> np.ndarray:
        model = il.MetaRegressor("patient", algorithm="maml", hidden=(4,), steps=3, random_state=seed)
        return model.fit(X, Y).predict(X)

    np.testing.assert_array_equal(fitted(1), fitted(1))
    assert not np.array_equal(fitted(1), fitted(2))


@pytest.mark.parametrize("name", [*ALGORITHMS])
def test_every_algorithm_is_at_hand(name):
    accepted = inspect.signature(ALGORITHMS[name]).parameters
    options = {"hidden": (4,)} if "module" in accepted else {}
    of_classes = ("protonet", "protomaml", "class_means", "two_covariance")
    refused = {**dict.fromkeys(of_classes, Y), "boosted_mixed": Y > 0, "boosted_gp": Y > 0}.get(name)
    for estimator, y in ((il.MetaRegressor, Y), (il.MetaClassifier, Y > 0)):
        model = estimator("patient", algorithm=name, steps=1, random_state=0, **options)
        if refused is not None and refused.dtype == y.dtype:
            error(UsageError, "these tasks are", lambda model=model, y=y: model.fit(X, y))
            continue
        assert model.fit(X, y).algorithm_ == name
        assert model.predict(NEW, support=(NEW, y[: len(NEW)])).shape == (len(NEW),)


def test_auto_combines_what_validation_groups_are_good_at():
    model = il.MetaRegressor("patient", hidden=(4,), steps=8, random_state=0).fit(X, Y)
    assert model.algorithm_ in ALGORITHMS
    few = X.patient.isin(["p00", "p01"])
    assert il.MetaRegressor("patient", steps=8).fit(X[few], Y[few]).algorithm_ == "mixed"


def test_a_network_of_ones_own():
    net = torch.nn.Sequential(torch.nn.Linear(3, 5), torch.nn.Tanh(), torch.nn.Linear(5, 1))
    before = {name: value.clone() for name, value in net.state_dict().items()}
    model = il.MetaRegressor("patient", module=net, steps=2, random_state=0).fit(X, Y)
    assert model.algorithm_ == "maml"
    assert model.model_.meta["0.weight"].shape == (5, 3)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    with pytest.raises(UsageError, match="module= is the whole network: leave model, hidden"):
        il.MetaRegressor("patient", module=net, hidden=(3,), steps=2).fit(X, Y)


def test_progress_is_printed_when_asked_for(capsys):
    il.MetaRegressor("patient", algorithm="maml", hidden=(4,), steps=10, verbose=1).fit(X, Y)
    assert len(capsys.readouterr().out.splitlines()) == 10


def error(of: type[Exception], match: str, call) -> None:
    with pytest.raises(of, match=match):
        call()


def test_what_has_no_meaning_is_refused_in_one_sentence(mixed, classifier):
    from scipy import sparse

    plain = il.MetaRegressor(algorithm="mixed")
    error(
        DataError,
        r"X is a sparse csr_array.*give X.toarray\(\)",
        lambda: plain.fit(sparse.csr_array(np.eye(4)), [1, 2, 3, 4]),
    )
    error(
        UsageError,
        "task='patient' names the groups, and groups= too",
        lambda: il.MetaRegressor("patient").fit(X, Y, groups=GROUPS),
    )
    error(DataError, "task='person': .*'person'", lambda: il.MetaRegressor("person").fit(X, Y))
    error(DataError, "groups has 3 entries and X 72 rows", lambda: plain.fit(ROWS, Y, groups=[1, 2, 3]))
    error(
        DataError,
        "no task id in column 'patient'",
        lambda: il.MetaRegressor("patient", algorithm="mixed").fit(X.assign(patient=None), Y),
    )
    error(
        UsageError,
        "on_unknown_task='drop' is unknown",
        lambda: il.MetaRegressor("patient", on_unknown_task="drop").fit(X, Y),
    )
    error(
        UsageError,
        "algorithm 'mamal' is unknown",
        lambda: il.MetaRegressor("patient", algorithm="mamal").fit(X, Y),
    )
    error(
        UsageError,
        "share of 1.5 of the tasks cannot validate",
        lambda: il.MetaRegressor("patient", validation_fraction=1.5).fit(X, Y),
    )
    error(
        DataError,
        "n_support=6 needs 7 labelled rows",
        lambda: il.MetaRegressor("patient", n_support=6).fit(X, Y),
    )
    error(UsageError, r"support is \(X, y\) of one group", lambda: mixed.predict(NEW, support=NEW))
    error(
        DataError,
        r"X holds rows of 3 groups .*adapt\(X, y, groups=X\['patient'\]\)",
        lambda: mixed.adapt(NEW, NEW_Y),
    )
    error(
        DataError,
        "rows of group 'new p01' for the model of group 'new p00'",
        lambda: mixed.adapt(NEW[:2], NEW_Y[:2]).predict(NEW[6:8]),
    )
    error(
        DataError,
        "y, row 1: there is no class label",
        lambda: il.MetaClassifier("patient").fit(X[:3], ["a", " ", "b"]),
    )
    error(
        UsageError,
        "class 'c' has no row in the first call",
        lambda: il.MetaClassifier("patient").partial_fit(
            X, np.where(Y > 0, "a", "b"), classes=["a", "b", "c"]
        ),
    )
    error(DataError, "class 'perhaps' of target", lambda: classifier.adapt(NEW[:2], ["perhaps", "no"]))
    error(DataError, "target 'score' is 1 in every", lambda: il.MetaRegressor("patient").fit(X, Y * 0 + 1))
    error(
        TypeError,
        "column 'x1': the argument must be a string or a number, not a dict",
        lambda: plain.fit(np.array([[1, {}], [2, 3]], dtype=object), [1, 2]),
    )
    error(
        DataError,
        "the table has a column 'prediction' already",
        lambda: il.MetaRegressor("patient").fit(X.rename(columns={"dose": "prediction"}), Y),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        alone = il.MetaRegressor(algorithm="mixed").fit(ROWS, Y)
    error(UsageError, "groups= at prediction, and fit had none", lambda: alone.predict(ROWS, groups=GROUPS))
    by_groups = il.MetaRegressor(algorithm="mixed").fit(ROWS, Y, groups=GROUPS)
    error(
        UsageError,
        "or neither for one new group",
        lambda: by_groups.predict(ROWS, groups=GROUPS, support=(ROWS, Y)),
    )
