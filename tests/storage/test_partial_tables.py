"""Tables whose rows know some of several targets: read, predicted, calibrated, and by estimators of scikit-learn."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.linear_model import LinearRegression

import innerloop as il
from innerloop.algorithms import per_target
from innerloop.combining.answers import answers
from innerloop.compare.sklearn_methods import EachTarget
from innerloop.errors import DataError
from innerloop.evaluation.calibrating import calibrate
from innerloop.storage import Stored, load
from innerloop.tasks.tables.schema import Schema


def visits(tasks: int = 30, rows: int = 8, *, seed: int = 0) -> pd.DataFrame:
    """Rows with a weight, a height or both; a row in twelve has neither."""
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame({"who": np.repeat(np.arange(tasks), rows), "age": rng.normal(40, 9, tasks * rows)})
    level = rng.normal(size=tasks)[frame.who]
    frame["weight"] = 70 + frame.age / 3 + 5 * level + rng.normal(size=len(frame)) / 9
    frame["height"] = 170 - frame.age / 9 - 9 * level + rng.normal(size=len(frame)) / 9
    frame.loc[np.arange(len(frame)) % 3 == 0, "height"] = np.nan
    frame.loc[np.arange(len(frame)) % 4 == 0, "weight"] = np.nan
    return frame


def split(train: range, valid: range, test: range) -> dict[str, list[str]]:
    """The tasks of each split by their numbers."""
    return {name: [*map(str, part)] for name, part in (("train", train), ("valid", valid), ("test", test))}


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Stored:
    """A trained directory of a mixed model of both targets."""
    tasks = il.tasks.table(visits(), task="who", target=["weight", "height"], n_support=3)
    model = il.meta_train(per_target(il.mixed(1), 2), tasks.train, device="cpu").model
    path = tmp_path_factory.mktemp("runs") / "visits"
    return load(il.save(path, model, schema=tasks.schema, targets=tasks.targets))


def test_rows_with_some_targets_are_kept_and_counted() -> None:
    frame = visits()
    tasks = il.tasks.table(frame, task="who", target=["weight", "height"], n_support=3)
    known = frame[["weight", "height"]].notna()
    assert tasks.targets.partial
    assert tasks.schema is not None
    sources = (tasks.train, tasks.valid, tasks.test)
    assert sum(len(source.y) for source in sources) == int(known.any(axis=1).sum())
    y = torch.cat([source.y for source in sources])
    assert (~y.isnan()).sum(0).tolist() == known.sum().tolist()
    assert any(f"'weight' in {known.weight.sum()}" in note for note in tasks.notes)
    # mean and scale of a target are those of the meta-train rows that know it
    train = frame[frame.who.astype(str).isin(tasks.splits["train"])]
    for column in tasks.schema.target_columns:
        assert column.mean == pytest.approx(train[column.name].mean())
        assert column.scale == pytest.approx(train[column.name].std(ddof=0))


def test_a_complete_table_is_not_partial() -> None:
    frame = visits().dropna()
    tasks = il.tasks.table(frame, task="who", target=["weight", "height"], n_support=2)
    assert not tasks.targets.partial
    assert not tasks.schema.partial
    gaps = visits().assign(height=lambda rows: rows.height.where(rows.weight.notna()))
    rows = gaps[gaps.weight.isna() | gaps.height.notna()]  # all or nothing
    assert not il.tasks.table(rows, task="who", target=["weight", "height"], n_support=2).targets.partial


def test_padding_is_zero_and_unknown_values_stay() -> None:
    frame = visits().drop(index=range(3))  # the first task is shorter
    tasks = il.tasks.table(
        frame, task="who", target=["weight", "height"], n_support=3,
        split=split(range(20), range(20, 21), range(21, 30)),
    )  # fmt: skip
    rows = tasks.train.whole()
    padding = rows.weight == 0
    assert padding.any()
    assert rows.y[padding].abs().sum() == 0
    assert rows.y[~padding].isnan().any()


def test_a_row_is_support_for_what_it_knows_and_predicted_for_the_rest(run: Stored) -> None:
    new = visits(2, seed=5)
    said = run.predict_frame(new)
    for name in ("weight", "height"):
        assert (said[f"prediction_{name}"].isna() == new[name].notna()).all()
    assert said.n_support.tolist() == [7] * 16
    truth = visits(2, seed=5)
    hidden = new.copy()
    hidden.loc[1, "weight"] = np.nan  # one more to predict
    again = run.predict_frame(hidden)
    assert again.prediction_weight[1] == pytest.approx(truth.weight[1], abs=2)
    # by itself: a model of that target alone, on the rows that know it
    task = run.model.learner.learner
    meta = {
        name.removeprefix("target_0/"): value for name, value in run.model.meta.items() if "target_0" in name
    }
    x, y = torch.from_numpy(run.schema.encode(hidden[:8])), run.schema.encode_target(hidden[:8])[:, :1]
    there = ~np.isnan(y[:, 0])
    alone = il.Model(task, meta).adapt(x[there], torch.from_numpy(y[there]))
    column = run.schema.target_columns[0]
    expected = alone(x[1:2]).item() * column.scale + column.mean
    assert again.prediction_weight[1] == pytest.approx(expected, rel=1e-5)


def test_a_table_without_one_of_the_targets_is_predicted_for_it(run: Stored) -> None:
    new = visits(2, seed=5)
    without = run.predict_frame(new.drop(columns="height"))
    assert without.prediction_height.notna().all()
    assert without.n_support.tolist() == [int(new.weight[:8].notna().sum())] * 8 + [6] * 8


def test_adapted_tasks_predict_every_row(run: Stored) -> None:
    said = run.adapt_frame(visits(2, seed=5)).predict_frame(visits(2, seed=5))
    assert said[["prediction_weight", "prediction_height"]].notna().all().all()


def test_a_model_of_complete_rows_says_what_it_does_not_use(tmp_path: Path) -> None:
    frame = visits().dropna()
    schema = Schema.fit(frame, task="who", target=["weight", "height"])
    learner = il.mixed(1, 2)
    stored = load(il.save(tmp_path / "run", il.Model(learner, learner.init()), schema=schema))
    visits(2).to_csv(tmp_path / "new.csv", index=False)
    notes = stored.read_frame(tmp_path / "new.csv").attrs["notes"]
    assert any("rows know some of the targets" in note and "is not used" in note for note in notes)


def test_intervals_hold_half_of_the_known_values_that_they_are_to_hold(run: Stored) -> None:
    """Counted row by row, on tasks that the calibration has not seen."""
    tasks = il.tasks.table(
        visits(90, seed=2), task="who", target=["weight", "height"], n_support=3,
        split=split(range(9), range(9, 49), range(49, 90)),
    )  # fmt: skip
    calibration = calibrate(run.model, tasks.valid)
    assert calibration.n_tasks == 40
    limits = calibration.threshold(3, 0.5)
    held: list[list[float]] = [[], []]
    for ids, part in tasks.test.fixed(0):
        for row in range(len(ids)):
            inside = slice(None) if part.query.weight is None else part.query.weight[row] > 0
            x, y = part.query.x[row][inside], part.query.y[row][inside]
            task = run.model.adapt(part.support.x[row], part.support.y[row])
            within = (((task(x) - y).abs() / task.deviation(x)).double().numpy() <= limits).astype(float)
            for target, known in enumerate(~y.isnan().numpy().T):
                held[target] += [within[known, target].mean()] if known.any() else []
    for shares in held:
        assert abs(np.mean(shares) - 0.5) < 0.1


def test_tasks_that_never_know_a_target_are_not_calibrated_on(run: Stored) -> None:
    frame = visits(20, seed=3)
    frame.loc[frame.who < 15, "height"] = np.nan
    frame = frame[frame.weight.notna() | frame.height.notna()]
    tasks = il.tasks.table(
        frame, task="who", target=["weight", "height"], n_support=3,
        split=split(range(8, 17), range(17, 19), range(19, 20)) | {"valid": [*map(str, range(8)), "17", "18"]},
    )  # fmt: skip
    assert calibrate(run.model, tasks.valid).n_tasks == 2


def test_errors_of_models_are_compared_on_known_values(run: Stored) -> None:
    """Mean products of errors equal a loop over draws, rows and targets."""
    tasks = il.tasks.table(visits(12, seed=4), task="who", target=["weight", "height"], n_support=3)
    found = answers([run.model], tasks.valid, seed=7)
    expected: dict[str, list[float]] = {}
    for ids, part in tasks.valid.fixed(7):
        for row, name in enumerate(ids):
            inside = slice(None) if part.query.weight is None else part.query.weight[row] > 0
            task = run.model.adapt(part.support.x[row], part.support.y[row])
            error = (task(part.query.x[row][inside]) - part.query.y[row][inside]).double().numpy()
            expected.setdefault(name, []).append(float(np.nanmean(error**2)))
    np.testing.assert_allclose(
        found.errors[:, 0, 0], [np.mean(expected[name]) for name in found.tasks], rtol=1e-4
    )


def test_an_estimator_of_each_target_sees_the_rows_that_know_it() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(20, 2)), rng.normal(size=(20, 3))
    y[rng.random(y.shape) < 0.4] = np.nan
    y[:, 2] = np.nan
    both = EachTarget(lambda rows: LinearRegression()).fit(x, y).predict(x)
    for target in range(2):
        known = ~np.isnan(y[:, target])
        design = np.column_stack([x, np.ones(20)])
        weights = np.linalg.lstsq(design[known], y[known, target], rcond=None)[0]
        np.testing.assert_allclose(both[:, target], design @ weights, atol=1e-9)
    assert (both[:, 2] == 0).all()


def test_an_estimator_takes_targets_with_gaps() -> None:
    rows = visits()
    rows = rows[rows.weight.notna() | rows.height.notna()]
    X, y = rows[["age"]].to_numpy(), rows[["weight", "height"]]
    model = il.MetaRegressor(algorithm="mixed").fit(X, y, groups=rows.who)
    said = model.predict(X[:8], groups=rows.who[:8])
    assert np.isfinite(said).all()
    one = model.adapt([[30.0], [50.0]], [[80.0, np.nan], [np.nan, 160.0]])
    assert one.predict([[40.0]]).shape == (1, 2)
    with pytest.raises(DataError, match="row 1: there is no target"):
        model.adapt([[30.0], [50.0]], [[80.0, 1.0], [np.nan, np.nan]])
    whole = rows.dropna()
    complete = il.MetaRegressor(algorithm="mixed").fit(
        whole[["age"]].to_numpy(), whole[["weight", "height"]], groups=whole.who
    )
    with pytest.raises(DataError, match="row 0: a target is missing, and every row of fit had all"):
        complete.adapt([[30.0]], [[80.0, np.nan]])
