"""Algorithms that adapt by a closed form: what holds for all of them, in float64, and how well they learn."""

from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

import innerloop as il
from innerloop.algorithms import ALGORITHMS, build, gaussian, mixed, protonet, ridge
from innerloop.algorithms.assemble import learner_for
from innerloop.algorithms.baselines import _LEVELS, _divide, _root, alone_ridge, shrunken_ridge
from innerloop.errors import DataError, UsageError
from innerloop.inner import Model
from innerloop.inner.batched import predict_tasks
from innerloop.inner.heads import Predictive
from innerloop.models import conv4, mlp
from innerloop.storage import load, save
from innerloop.tasks.episodes import Batch, Episode, select, stack
from toolkit.oracles import (
    class_episode,
    difference_error,
    doubled,
    generic,
    gradient,
    largest_error,
    regression_episode,
    within,
)

WAYS = 3


def body(inputs, *, norm):
    torch.manual_seed(0)
    layers = [nn.Linear(inputs, 8), *([nn.BatchNorm1d(8)] if norm else []), nn.Tanh(), nn.Linear(8, 5)]
    return nn.Sequential(*layers)


def on_features(preset, kind=None, *, norm=False, **options):
    inputs = 2 if kind == "regression" else 4
    sizes = {"n_features": 5, "n_outputs": 1 if kind == "regression" else WAYS}
    return preset(body(inputs, norm=norm), **sizes, **({"kind": kind} if kind else {}), **options)


REGRESSION = {
    "ridge": lambda **o: on_features(ridge, "regression", **o),
    "gaussian": lambda **o: on_features(gaussian, "regression", **o),
}
CLASSES = {
    "protonet": lambda **o: on_features(protonet, **o),
    "ridge classes": lambda **o: on_features(ridge, "classification", **o),
    "gaussian classes": lambda **o: on_features(gaussian, "classification", **o),
}
LEARNERS = {**REGRESSION, **CLASSES}
MIXED = {
    "mixed": lambda: mixed(2, covariance="full"),
    "mixed squares": lambda: mixed(2, squares=True, covariance="diagonal"),
    "mixed classes": lambda: mixed(4, WAYS, kind="classification"),
    "mixed classes full": lambda: mixed(4, WAYS, kind="classification", covariance="full"),
}


def episode_for(name, **sizes):
    regression = name in REGRESSION or ("mixed" in name and "classes" not in name)
    return regression_episode(**sizes) if regression else class_episode(ways=WAYS, **sizes)


moved = partial(generic, seed=7, length=1.0)


@pytest.mark.parametrize("norm", [False, True], ids=["plain", "batchnorm"])
@pytest.mark.parametrize("name", LEARNERS)
def test_the_meta_gradient_equals_finite_differences(name, norm):
    learner = LEARNERS[name](norm=norm)
    within(difference_error(learner, episode_for(name), moved(learner)), 1e-8)


@pytest.mark.parametrize("name", MIXED)
def test_the_meta_gradient_on_plain_features_equals_finite_differences(name):
    learner = MIXED[name]()
    within(difference_error(learner, episode_for(name), moved(learner)), 1e-8)


@pytest.mark.parametrize("rows", [2, 9])
@pytest.mark.parametrize("kind", ["regression", "classification"])
def test_the_ridge_gradient_is_right_with_fewer_and_with_more_rows_than_features(kind, rows):
    learner = on_features(ridge, kind)
    episode = regression_episode(support=rows) if kind == "regression" else class_episode(shots=rows // 2)
    within(difference_error(learner, episode, moved(learner)), 1e-8)


@pytest.mark.parametrize("norm", [False, True], ids=["plain", "batchnorm"])
@pytest.mark.parametrize("name", LEARNERS)
def test_vmap_equals_the_loop_and_tasks_one_by_one(name, norm):
    episode = episode_for(name, tasks=4)
    stacked, looped = (LEARNERS[name](norm=norm, mapping=mapping) for mapping in ("vmap", "loop"))
    meta = moved(stacked)
    found = gradient(stacked, meta, episode)
    within(largest_error(found, gradient(looped, meta, episode)), 1e-12)
    alone = [gradient(stacked, meta, select(episode, slice(t, t + 1))) for t in range(4)]
    within(largest_error(found, {n: sum(g[n] for g in alone) / 4 for n in meta}), 1e-12)


@pytest.mark.parametrize("norm", [False, True], ids=["plain", "batchnorm"])
@pytest.mark.parametrize("name", LEARNERS)
def test_padding_changes_nothing(name, norm):
    learner = LEARNERS[name](norm=norm)
    meta = moved(learner)
    whole = episode_for(name, tasks=3)
    parts = [
        Episode(*(Batch(b.x[t, :n], b.y[t, :n]) for b, n in zip(whole, size, strict=True)))
        for t, size in enumerate([(5, 3), (4, 6), (2, 5)])
    ]
    padded = stack(parts)
    junk = [b._replace(x=b.x.masked_fill(b.weight.unsqueeze(-1) == 0, 1e30)) for b in padded]
    found = gradient(learner, meta, Episode(*junk))
    alone = [gradient(learner, meta, stack([part])) for part in parts]
    within(largest_error(found, {n: sum(g[n] for g in alone) / 3 for n in meta}), 1e-12)


@pytest.mark.parametrize("name", LEARNERS)
def test_the_order_of_the_support_does_not_matter(name):
    learner, episode = LEARNERS[name](norm=True), episode_for(name)
    meta = moved(learner)
    order = torch.randperm(episode.support.y.shape[1], generator=torch.Generator().manual_seed(3))
    shuffled = Batch(episode.support.x[:, order], episode.support.y[:, order])
    within(largest_error(learner.adapt(meta, shuffled), learner.adapt(meta, episode.support)), 1e-12)


@pytest.mark.parametrize("name", LEARNERS)
def test_a_prediction_does_not_depend_on_the_other_queries(name):
    learner, episode = LEARNERS[name](norm=True), episode_for(name)
    meta = moved(learner)
    adapted = learner.adapt(meta, episode.support)
    together = learner.predict(meta, adapted, episode.query.x)
    alone = learner.predict(meta, adapted, episode.query.x[:, 2:3])
    within((together[:, 2:3] - alone).abs().max(), 1e-12)


@pytest.mark.parametrize("name", [*LEARNERS, *MIXED])
def test_without_support_rows_the_solution_is_the_base(name):
    learner = (LEARNERS | MIXED)[name]()
    episode, meta = episode_for(name), moved(learner)
    nothing = Batch(episode.support.x[:, :0], episode.support.y[:, :0])
    base, solved = learner.path(meta, nothing)
    assert {n: v.shape for n, v in base.items()} == {n: v.shape for n, v in solved.items()}
    within(largest_error(solved, base), 1e-12)
    filled = learner.adapt(meta, episode.support)
    assert {n: v.shape for n, v in base.items()} == {n: v.shape for n, v in filled.items()}


@pytest.mark.parametrize("name", [*LEARNERS, *MIXED])
def test_a_learner_is_made_again_from_its_recipe(name):
    learner = (LEARNERS | MIXED)[name]()
    module = learner.network.module if "mixed" not in name else None
    again = build(learner.recipe, module=module)
    assert again.head == learner.head
    assert {n: v.shape for n, v in again.init().items()} == {n: v.shape for n, v in learner.init().items()}


@pytest.mark.parametrize("name", [*LEARNERS, *MIXED])
def test_adapted_tasks_survive_the_disk(name, tmp_path):
    torch.manual_seed(0)
    features = {"n_features": 6, "n_outputs": WAYS}
    made = {
        "protonet": lambda: protonet(mlp(4, [6], None), **features),
        "ridge classes": lambda: ridge(mlp(4, [6], None), kind="classification", **features),
        "gaussian classes": lambda: gaussian(mlp(4, [6], None), kind="classification", **features),
        "ridge": lambda: ridge(mlp(2, [6], None), n_features=6),
        "gaussian": lambda: gaussian(mlp(2, [6], None), n_features=6),
    }
    learner = (made | MIXED)[name]()
    model = Model(learner, learner.init())
    episode = episode_for(name, tasks=1)
    run = load(save(tmp_path / "run", model))
    task = run.model.adapt(episode.support.x[0].float(), matched(episode.support.y[0]))
    stored = load(run.with_tasks({"a": task}).save(tmp_path / "adapted"))
    x = episode.query.x[0].float()
    assert torch.equal(stored.tasks["a"](x), task(x))


def matched(y):
    return y.float() if y.is_floating_point() else y


@pytest.mark.parametrize("name", [*CLASSES, "mixed classes"])
def test_class_numbers_that_mean_nothing_are_refused(name):
    learner = (LEARNERS | MIXED)[name]()
    episode, meta = class_episode(ways=WAYS), doubled(learner.init())
    with pytest.raises(DataError, match=r"outside 0 \.\.\. 2.*n_outputs=3"):
        learner.adapt(meta, episode.support._replace(y=episode.support.y + 1))
    with pytest.raises(DataError, match="must be class numbers"):
        learner.adapt(meta, episode.support._replace(y=episode.support.y.double()))


def test_arguments_that_mean_nothing_are_refused():
    with pytest.raises(UsageError, match="kind='ranking' is unknown"):
        mixed(2, kind="ranking")
    with pytest.raises(UsageError, match="n_outputs=1: give a whole number of 2 or more"):
        mixed(2, 1, kind="classification")
    with pytest.raises(UsageError, match="n_features=0"):
        ridge(nn.Linear(1, 1), n_features=0)
    with pytest.raises(UsageError, match="give hidden widths and no output"):
        mlp(3, [], None)


@pytest.mark.parametrize("pool", ["stride", "max"])
def test_feature_extractors_are_the_models_without_their_last_layer(pool):
    torch.manual_seed(0)
    whole = conv4(1, 5, width=4, pool=pool)
    torch.manual_seed(0)
    features = conv4(1, None, width=4, pool=pool)
    x = torch.randn(3, 1, 28, 28)
    assert torch.equal(whole[:-1](x), features(x))
    assert mlp(3, [5, 7], None)(torch.zeros(2, 3)).shape == (2, 7)


CLOSED = ("protonet", "ridge", "gaussian", "mixed")


def table(kind):
    g = np.random.default_rng(0)
    task = np.repeat(np.arange(30), 12)
    x, level = g.normal(size=(360, 2)), g.normal(size=30)[task]
    score = x[:, 0] + level + 0.1 * g.normal(size=360)
    target = score if kind == "regression" else np.where(score > 0, "high", "low")
    return pd.DataFrame({"task": task, "a": x[:, 0], "b": x[:, 1], "y": target})


@pytest.mark.parametrize("kind", ["regression", "classification"])
@pytest.mark.parametrize("name", CLOSED)
def test_each_learns_a_table_by_name(name, kind):
    tasks = il.tasks.table(table(kind), task="task", target="y", n_support="3-6")
    if (name, kind) == ("protonet", "regression"):
        with pytest.raises(UsageError, match="protonet predicts classes"):
            learner_for(tasks, algorithm=name)
        return
    learner = learner_for(tasks, algorithm=name)
    assert name in ALGORITHMS
    start = Model(learner, learner.init())
    model = il.meta_train(learner, tasks.train, steps=30, meta_lr=0.02, device="cpu").model
    metric = "squared_error" if kind == "regression" else "loss"
    after, before = (il.evaluate(m, tasks.train).values[metric][:, -1].mean() for m in (model, start))
    assert after < 0.9 * before
    if isinstance(learner.head, Predictive):
        variance = learner.head.uncertainty(
            model.meta, learner.head.base(model.meta, 1), torch.zeros(1, 2, learner.head.n_features)
        )
        assert variance.shape == (1, 2, tasks.n_outputs)
        assert variance.min() > 0


@pytest.mark.parametrize("name", ["protonet", "ridge", "gaussian"])
def test_each_takes_images(name):
    g = torch.Generator().manual_seed(0)
    x, y = torch.rand(120, 1, 28, 28, generator=g), torch.arange(120) // 10
    tasks = il.tasks.classes(x, y, n_way=3, n_shot=2, n_query=3, split=(0.5, 0.25, 0.25))
    learner = learner_for(tasks, algorithm=name, width=4)
    run = il.meta_train(learner, tasks.train, steps=2, meta_batch_size=2, device="cpu")
    assert learner.head.n_features == 16
    assert np.isfinite(run.log[-1]["loss"])


def test_tasks_of_every_size_are_predicted_together():
    learner = protonet(mlp(2, [4], None), n_features=4, n_outputs=3)
    supports = [
        Batch(torch.randn(4, 2), torch.tensor([0, 1, 0, 1])),
        Batch(torch.zeros(0, 2), torch.zeros(0, dtype=torch.int64)),
    ]
    model = Model(learner, learner.init())
    two_ways, nothing = predict_tasks(model, supports, [torch.randn(3, 2), torch.randn(2, 2)])
    within(two_ways.softmax(-1)[:, 2].max(), 1.01e-3)
    assert torch.equal(nothing, torch.zeros(2, 3))


def errors(tasks, learner):
    return il.evaluate(il.meta_train(learner, tasks.train).model, tasks.test).metric("error_over_variance")[0]


def test_the_mixed_model_on_computer_buyers(shared_data):
    file = shared_data / "tables" / "computer_buyers.csv"
    tasks = il.tasks.table(file, task="person", target="rating", n_support=8)
    ours = errors(tasks, mixed(tasks.n_features, covariance="diagonal"))
    assert ours <= 0.50
    assert ours < errors(tasks, shrunken_ridge(tasks.n_features, n_support=8))


def test_the_mixed_model_on_schools(shared_data):
    file = shared_data / "tables" / "schools.csv"
    tasks = il.tasks.table(file, task="school", target="exam", n_support=10)
    ours = errors(tasks, mixed(tasks.n_features))
    assert ours <= 1.02 * errors(tasks, shrunken_ridge(tasks.n_features, n_support=10))


@pytest.mark.parametrize("make", [alone_ridge, shrunken_ridge])
def test_the_strength_of_a_ridge_is_that_which_a_loop_over_all_of_them_finds(make):
    rng = np.random.default_rng(5)
    x, task = rng.normal(size=(160, 3)), np.arange(160) // 8
    y = x @ [1.0, -0.5, 0.2] + rng.normal(size=20)[task] + 0.5 * rng.normal(size=160)
    tasks = il.tasks.arrays(x, y, task, n_support=4)
    rows, head = tasks.train.whole(), make(3, n_support=4).head
    fitted = head.fit(head.init(), rows.x, rows)
    levels = _LEVELS if head.pooled else (1e4,)

    def error(root):
        found, meta = [], {**fitted, "head/root": root}
        for draw in range(4):
            support, query = _divide(rows, 4, draw)
            own = head.solve(meta, rows.x, support)
            squares = (query.y - head.predict(meta, own, rows.x)).square().mean(-1) * query.weight
            found.append(squares.sum(1) / query.weight.sum(1))
        return torch.cat(found).mean().item()

    roots = [_root(fitted["head/root"], spread, level) for spread in head.spreads for level in levels]
    assert error(fitted["head/root"]) == pytest.approx(min(map(error, roots)), rel=1e-6)
