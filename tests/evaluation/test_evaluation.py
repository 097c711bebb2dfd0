"""Scores against a plain recomputation, one task at a time, in numpy."""

import math

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

import innerloop as il
from innerloop.errors import DataError, UsageError
from innerloop.evaluation import Evaluation, interval, paired_difference
from toolkit.oracles import unpadded


def frame(classes=False):
    rng = np.random.default_rng(0)
    sizes = rng.integers(6, 14, size=12)
    table = pd.DataFrame({"site": np.repeat(np.arange(12), sizes), "x": rng.normal(size=sizes.sum())})
    table["y"] = 40 + 7 * table["x"] * np.repeat(rng.normal(size=12), sizes) + rng.normal(size=len(table))
    return table.assign(y=np.where(table["y"] > 40, "high", "low")) if classes else table


def model_of(outputs, loss, steps=2):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = il.models.mlp(1, [6], outputs)
    learner = il.maml(module, loss=loss, inner_lr=0.1, inner_steps=steps)
    return il.Model(learner, {name: value.detach() for name, value in learner.init().items()})


def one_by_one(model, source, steps, seed=20_240_229):
    """For every task the predictions and targets of each of its episodes, in natural units or as numbers."""
    found = {}
    for ids, episode in source.fixed(seed):
        for row, name in enumerate(ids):
            (x, y), (query, target) = (unpadded(batch, row) for batch in episode)
            task = model.adapt(x, y, steps=steps)
            found.setdefault(name, []).append((task(query).numpy(), target.numpy()))
    return found


@pytest.mark.parametrize("step", [0, 1, 2])
def test_regression_metrics(step):
    table = frame()
    tasks = il.tasks.table(table, task="site", target="y", n_support=4)
    model = model_of(1, "mse")
    found = il.evaluate(model, tasks.test)
    trained = table[table["site"].astype(str).isin(tasks.splits["train"])]["y"]
    scale, variance = tasks.schema.targets.scale[0], trained.var(ddof=0)
    assert scale**2 == pytest.approx(variance, rel=1e-5)

    squared, spread = [], []
    for draws in one_by_one(model, tasks.test, step).values():
        squared.append(np.mean([np.mean((scale * (p - y)) ** 2) for p, y in draws]))
        spread += [(np.mean(scale * y), np.mean((scale * y) ** 2)) for _, y in draws]
    mean = np.mean(squared)
    first, second = np.mean(spread, axis=0)
    assert found.metric("rmse", step)[0] == pytest.approx(math.sqrt(mean), rel=1e-4)
    assert found.metric("error_over_variance", step)[0] == pytest.approx(mean / variance, rel=1e-4)
    assert found.metric("r2", step)[0] == pytest.approx(1 - mean / (second - first**2), rel=1e-3)
    # three tasks: too few for the logarithm
    low, high = stats.t.interval(0.95, len(squared) - 1, mean, stats.sem(squared))
    assert found.metric("rmse", step)[1:] == pytest.approx(
        (math.sqrt(max(low, 0)), math.sqrt(high)), rel=1e-4
    )
    assert found.metric("r2", step)[1] <= found.metric("r2", step)[0] <= found.metric("r2", step)[2]


def test_accuracy_and_loss():
    tasks = il.tasks.table(frame(classes=True), task="site", target="y", n_shot=2)
    model = model_of(2, "cross_entropy")
    found = il.evaluate(model, tasks.test)
    hits, losses = [], []
    for draws in one_by_one(model, tasks.test, 2).values():
        hits.append(np.mean([np.mean(p.argmax(1) == y) for p, y in draws]))
        losses.append(
            np.mean(
                [
                    -np.mean(np.log(np.exp(p) / np.exp(p).sum(1, keepdims=True))[range(len(y)), y])
                    for p, y in draws
                ]
            )
        )
    assert found.metric("accuracy")[0] == pytest.approx(np.mean(hits), rel=1e-5)
    assert found.metric("loss")[0] == pytest.approx(np.mean(losses), rel=1e-4)
    assert found.metrics[0] == "accuracy"


@pytest.mark.parametrize("count", [2, 3, 20, 400])
def test_the_interval_is_that_of_the_t_distribution(count):
    values = np.random.default_rng(count).normal(3, 2, size=count)
    mean, low, high = interval(values)
    assert mean == pytest.approx(values.mean())
    assert (low, high) == pytest.approx(stats.t.interval(0.95, count - 1, values.mean(), stats.sem(values)))


def logarithmic(values):
    """Student's interval of the logarithm of the mean, by the delta method, in the words of scipy."""
    error = stats.sem(values) / values.mean()
    return np.exp(stats.t.interval(0.95, len(values) - 1, np.log(values.mean()), error))


@pytest.mark.parametrize("count", [5, 20, 40])
def test_the_interval_of_errors_is_above_zero_and_holds_the_truth_more_often(count):
    rng = np.random.default_rng(count)
    values = rng.lognormal(0, 2, size=count)
    assert interval(values, errors=True)[1:] == pytest.approx(logarithmic(values))
    assert interval(values, errors=True)[1] > 0

    held = np.zeros(2)
    for _ in range(400):
        values = rng.lognormal(0, 1, size=count)
        for place, errors in enumerate((False, True)):
            _, low, high = interval(values, errors=errors)
            held[place] += low <= math.exp(0.5) <= high
    assert held[1] > held[0]


def test_metrics_of_errors_have_it():
    errors = np.random.default_rng(0).lognormal(0, 2, size=(9, 1))
    values = dict.fromkeys(("loss", "squared_error", "error_over_variance"), errors)
    targets, support = il.tasks.sinusoid().targets, il.tasks.sinusoid().train.support
    found = Evaluation(tuple("abcdefghi"), (0,), values, targets, support, query_variance=2.0)
    low, high = logarithmic(errors[:, 0])
    assert found.metric("error_over_variance")[1:] == pytest.approx((low, high))
    assert found.metric("rmse")[1:] == pytest.approx((math.sqrt(low), math.sqrt(high)))
    assert found.metric("r2")[1:] == pytest.approx((1 - high / 2, 1 - low / 2))
    assert found.metric("loss") == interval(errors[:, 0])


def test_errors_without_a_logarithm_have_the_usual_interval():
    few, none = np.array([1.0, 2.0, 9.0]), np.zeros(6)
    assert interval(few, errors=True) == interval(few)
    assert interval(none, errors=True) == (0, 0, 0)


def test_what_is_undefined_is_nan_and_warns_nobody():
    assert interval(np.array([2.0]))[0] == 2.0
    assert np.isnan(interval(np.array([2.0]))[1:]).all()
    assert interval(np.array([1.0, np.inf]))[0] == np.inf
    assert np.isnan(interval(np.array([np.inf, -np.inf]))).all()
    targets, support = il.tasks.sinusoid().targets, il.tasks.sinusoid().train.support
    values = {name: np.ones((2, 1)) for name in ("loss", "squared_error", "error_over_variance")}
    flat = Evaluation(("a", "b"), (0,), values, targets, support, query_variance=0.0)
    assert np.isnan(flat.metric("r2")).all()
    assert flat.metric("rmse")[0] == 1


def test_a_bound_of_what_can_be_is_a_bound_of_the_interval():
    tasks = il.tasks.sinusoid()
    values = {"accuracy": np.array([[1.0], [1.0], [0.2]]), "loss": np.ones((3, 1))}
    found = Evaluation(
        ("a", "b", "c"), (0,), values, tasks.targets._replace(kind="classification"), tasks.train.support
    )
    assert found.metric("accuracy")[2] == 1.0
    with pytest.raises(UsageError, match="'recall' is unknown"):
        found.metric("recall")


def test_paired_difference_is_that_of_the_tasks():
    tasks = il.tasks.table(frame(), task="site", target="y", n_support=4)
    ours, theirs = (il.evaluate(model_of(1, "mse", steps), tasks.test) for steps in (1, 2))
    difference = ours.values["squared_error"][:, -1] - theirs.values["squared_error"][:, -1]
    low, high = stats.t.interval(0.95, len(difference) - 1, difference.mean(), stats.sem(difference))
    assert paired_difference(ours, theirs, "squared_error") == pytest.approx((difference.mean(), low, high))
    other = il.evaluate(model_of(1, "mse"), tasks.valid)
    with pytest.raises(DataError, match="different tasks"):
        paired_difference(ours, other, "squared_error")


def test_every_model_is_scored_on_the_same_episodes_and_again_the_same():
    tasks = il.tasks.table(frame(), task="site", target="y", n_support="2-5")
    a, b = model_of(1, "mse"), model_of(1, "mse", steps=0)
    first, again = il.evaluate(a, tasks.test), il.evaluate(a, tasks.test)
    for name, values in first.values.items():
        np.testing.assert_array_equal(values, again.values[name])
    # without a step both are the same model, so any difference would be one of the episodes
    np.testing.assert_array_equal(first.values["loss"][:, 0], il.evaluate(b, tasks.test).values["loss"][:, 0])


def test_rows_of_the_schema():
    tasks = il.tasks.table(frame(), task="site", target="y", n_support=4)
    found = il.evaluate(model_of(1, "mse"), tasks.test)
    rows = found.scores("maml")
    assert [row["headline"] for row in rows].count(True) == 1
    headline = next(row for row in rows if row["headline"])
    assert (headline["metric"], headline["inner_steps"], headline["n_support"]) == ("rmse", 2, 4)
    assert headline["mean"] == found.metric("rmse")[0]
    before = found.at(0)
    assert before.steps == (0,)
    assert before.metric("rmse") == found.metric("rmse", 0)


def test_negative_steps_are_refused():
    tasks = il.tasks.table(frame(), task="site", target="y", n_support=4)
    with pytest.raises(UsageError, match="steps=-1"):
        il.evaluate(model_of(1, "mse"), tasks.test, steps=-1)
