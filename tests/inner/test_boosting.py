"""Boosted trees as tensors against scikit-learn, the summary of a support set against a loop, and residuals."""

import numpy as np
import pytest
import torch
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from threadpoolctl import threadpool_info

import innerloop as il
from innerloop.algorithms import ALGORITHMS
from innerloop.errors import UsageError
from innerloop.inner.batched import predict_adapted
from innerloop.inner.boosting import Trees
from innerloop.inner.boosting.bins import bin_edges, codes
from innerloop.inner.boosting.line import fit_line, line_values
from innerloop.inner.boosting.summary import summary_columns, support_values
from innerloop.outer.direct import episodes_of_all_sizes
from innerloop.storage import load, save
from innerloop.tasks import arrays
from innerloop.tasks.episodes import Batch
from toolkit.oracles import generator, within

pytestmark = pytest.mark.long

SETTINGS = {"max_leaf_nodes": None, "min_samples_leaf": 10, "l2_regularization": 1.0, "early_stopping": False}


def columns(rows=900, features=4, seed=0):
    """Columns of several kinds: normal, skewed, whole numbers, a flag."""
    rng = np.random.default_rng(seed)
    normal = rng.normal(size=(rows, features))
    return np.float32(np.c_[normal[:, 0], np.exp(2 * normal[:, 1]), normal[:, 2].round(), normal[:, 3] > 0])


def estimator(made, trees, rounds):
    return made(max_iter=rounds, learning_rate=trees.rate, max_depth=trees.depth, random_state=0, **SETTINGS)


def binned(x):
    return codes(x, [bin_edges(column) for column in x.T])


def test_values_are_those_of_scikit_learn():
    x = columns()
    y = np.sin(3 * x[:, 0]) + np.log1p(x[:, 1]) * x[:, 3] + x[:, 2]
    trees = Trees(4, rounds=60, depth=4)
    fitted = trees.fit(x, y[:, None], groups=np.arange(len(x)), rounds=60)
    new = columns(seed=1)
    edges = [bin_edges(column) for column in x.T]
    theirs = estimator(HistGradientBoostingRegressor, trees, 60).fit(binned(x), y).predict(codes(new, edges))
    ours = trees.predict(fitted, torch.from_numpy(new))[:, 0].numpy()
    within(np.abs(ours - theirs).max() / np.abs(theirs).max(), 1e-6)


@pytest.mark.parametrize("classes", [2, 3])
def test_probabilities_are_those_of_scikit_learn(classes):
    x = columns()
    y = np.digitize(x[:, 0] + x[:, 3], np.linspace(-1, 1, classes + 1)[1:-1])
    trees = Trees(4, classes, "classification", rounds=40, depth=3)
    fitted = trees.fit(x, y, groups=np.arange(len(x)), rounds=40)
    theirs = estimator(HistGradientBoostingClassifier, trees, 40).fit(binned(x), y)
    ours = trees.predict(fitted, torch.from_numpy(x)).softmax(-1).numpy()
    within(np.abs(ours - theirs.predict_proba(binned(x))).max(), 1e-6)


def test_a_class_that_no_row_has_is_never_likely():
    x, y = columns(200), np.repeat([0, 2], 100)
    trees = Trees(4, 3, "classification", rounds=5, depth=2)
    chance = trees.predict(trees.fit(x, y, groups=y), torch.from_numpy(x)).softmax(-1)
    assert float(chance[:, 1].max()) < 1e-6
    single = trees.predict(trees.fit(x, 0 * y, groups=y), torch.from_numpy(x)).softmax(-1)
    assert float(single[:, 0].min()) > 0.999


def test_no_edge_is_a_value_of_the_table():
    x = columns(5000)
    for column in x.T:
        edges = bin_edges(column)
        assert len(edges) <= 254
        assert not np.isin(edges, column).any()
        assert (np.diff(edges) > 0).all()
    fitted = Trees(4, rounds=20).fit(x, x[:, :1] * x[:, 1:2], groups=np.arange(5000) % 50)
    stored = np.concatenate([fitted[name].numpy().ravel() for name in ("trees/threshold", "trees/value")])
    assert not np.isin(stored[stored != 0], x).any()


def test_edges_part_what_can_be_parted():
    near = np.float32([1.0, np.nextafter(np.float32(1), np.float32(2)), 2.0])
    assert len(bin_edges(near)) == 1, "nothing lies between neighbours in float32"
    assert len(bin_edges(np.float32([3.0, 3.0]))) == len(bin_edges(np.float32([]))) == 0
    edges = bin_edges(np.float32([0, 1e-4, 2e-4, 50, 51, 1e6]))
    assert len(edges) == 5
    assert len(np.unique(codes(np.float32([[0], [1e-4], [2e-4], [50], [51], [1e6]]), [edges]))) == 6


def test_held_out_groups_stop_the_trees():
    rng = np.random.default_rng(0)
    x, noise = columns(600), rng.normal(size=(600, 1))
    trees = Trees(4, rounds=100)
    groups = np.arange(600) // 20
    assert trees.rounds_used(trees.fit(x, noise, groups=groups)) < 20
    assert trees.rounds_used(trees.fit(x, x[:, :1], groups=groups)) > 20
    # and say how far off they are on tasks they do not know
    assert 0.8 < float(trees.fit(x, noise, groups=groups)["trees/noise"]) < 1.3


def summary_of_one_row(rows, rest, row, base):
    """The summary by the book, for one query row of one task."""
    count = len(rows)
    square = ((rows - row) ** 2).mean(1)
    near = np.exp(-square / 0.5)
    design = np.c_[rows, np.ones(count)]
    line = np.linalg.solve(design.T @ design + np.eye(design.shape[1]), design.T @ rest)
    return np.array([
        base, count, np.sqrt(square.min()), rest.mean(), rest.std(), near @ rest / (near.sum() + 1e-6),
        rest[square.argmin()] / (1 + 1e-6), np.r_[row, 1] @ line,
    ])  # fmt: skip


@pytest.mark.parametrize("count", [1, 2, 9])
def test_the_summary_is_that_of_a_loop(count):
    g = generator()
    x, rest, query = (torch.randn(2, n, c, generator=g).double() for n, c in ((count, 3), (count, 1), (5, 3)))
    base = torch.randn(2, 5, 1, generator=g).double()
    found = summary_columns(support_values(rest, Batch(x, rest)), query, base)
    for task in range(2):
        for row in range(5):
            truth = summary_of_one_row(
                x[task].numpy(), rest[task, :, 0].numpy(), query[task, row].numpy(), base[task, row].item()
            )
            within(np.abs(found[task, row].numpy() - truth).max(), 1e-9)


def test_the_pooled_line_is_least_squares_where_there_is_no_noise():
    g = generator()
    x = torch.randn(6, 30, 2, generator=g)
    y = x[..., :1] ** 2 - 2 * x[..., 1:] + 1
    fitted = fit_line(x, y, torch.ones(6, 30))
    within((line_values(fitted, x) - y).abs().max(), 1e-2)


def world(tasks=60, rows=20, seed=0):
    """Tasks that share a step, each at a level of its own."""
    g = generator(seed)
    x = torch.rand(tasks, rows, 2, generator=g) * 2 - 1
    level = torch.randn(tasks, 1, 1, generator=g)
    y = 2 * (x[..., :1] > 0.3) + level + 0.1 * torch.randn(tasks, rows, 1, generator=g)
    return [(x[task].numpy(), y[task].numpy()) for task in range(tasks)]


@pytest.fixture(scope="module")
def tasks():
    x, y = (np.stack(part) for part in zip(*world(), strict=True))
    return arrays(x.reshape(-1, 2), y.reshape(-1, 1), np.repeat(np.arange(60), 20), n_support=5)


@pytest.mark.parametrize("name", ["boosting", "boosted_mixed", "boosted_gp"])
def test_trees_find_a_step_that_all_tasks_share_and_the_level_of_each(tasks, name, tmp_path):
    learner = ALGORITHMS[name](2)
    run = il.meta_train(learner, tasks.train, device="cpu")
    again = il.meta_train(learner, tasks.train, device="cpu")
    assert all(torch.equal(run.model.meta[n], again.model.meta[n]) for n in run.model.meta)
    scores = il.evaluate(run.model, tasks.test)
    line = il.meta_train(ALGORITHMS["mixed"](2), tasks.train, device="cpu").model
    error, of_line = (s.metric("error_over_variance").mean for s in (scores, il.evaluate(line, tasks.test)))
    assert error < 0.7 * of_line
    assert 0.5 < scores.metric("coverage_90").mean <= 1
    # without a label it is no worse than the best prediction for all tasks
    assert scores.metric("error_over_variance", 0).mean < il.evaluate(line, tasks.test).metric(
        "error_over_variance", 0).mean  # fmt: skip
    stored = load(save(tmp_path / name, run.model)).model
    x, y = (torch.from_numpy(part) for part in world(1, seed=9)[0])
    assert torch.equal(stored.adapt(x[:4], y[:4])(x), run.model.adapt(x[:4], y[:4])(x))


def test_tasks_of_different_sizes_are_stored_and_predicted_together(tasks, tmp_path):
    learner = ALGORITHMS["boosting"](2, rounds=20)
    model = il.meta_train(learner, tasks.train, device="cpu").model
    run = load(save(tmp_path / "run", model))
    supports = [(torch.from_numpy(x[:n]), torch.from_numpy(y[:n])) for n, (x, y) in enumerate(world(4), 1)]
    own = {f"task {n}": run.model.adapt(x, y) for n, (x, y) in enumerate(supports, 1)}
    stored = load(run.with_tasks(own).save(tmp_path / "adapted"))
    query = torch.rand(7, 2, generator=generator(1))
    for name, task in own.items():
        within((stored.tasks[name](query) - task(query)).abs().max(), 1e-5)
    together = predict_adapted(list(own.values()), [query] * 4)
    for one, task in zip(together, own.values(), strict=True):
        within((one - task(query)).abs().max(), 1e-5)


def test_episodes_for_a_fit_have_supports_of_every_size(tasks):
    sizes = {
        int(size)
        for _, episode in episodes_of_all_sizes(tasks.train)
        for size in (
            [episode.support.y.shape[1]]
            if episode.support.weight is None
            else episode.support.weight.sum(1).tolist()
        )
    }
    assert sizes == set(range(6))


def test_classes_of_a_task_are_learned_from_its_support():
    g = generator()
    shift = torch.randn(80, 1, generator=g) * 2
    x = torch.randn(80, 24, 1, generator=g)
    y = (x[..., 0] > shift).long()
    tasks = arrays(x.reshape(-1, 1), y.ravel(), np.repeat(np.arange(80), 24), n_support=8)
    learner = ALGORITHMS["boosting"](1, 2, kind="classification")
    scores = il.evaluate(il.meta_train(learner, tasks.train, device="cpu").model, tasks.test)
    assert scores.metric("accuracy").mean > scores.metric("accuracy", 0).mean + 0.05


def test_sizes_that_mean_nothing_are_refused():
    for wrong in ({"rounds": 0}, {"depth": 13}, {"rate": 0.0}, {"kind": "ranking"}):
        with pytest.raises(UsageError):
            ALGORITHMS["boosting"](2, **wrong)


def test_a_hostile_number_of_a_feature_is_no_way_out_of_the_row():
    trees = Trees(2, rounds=1, depth=1)
    params = trees.init() | {"trees/feature": torch.full((1, 1, 1), 1e9)}
    assert trees.predict(params, torch.zeros(3, 2)).shape == (3, 1)


@pytest.mark.parametrize("name", ["boosting", "boosted_mixed"])
def test_no_query_row_is_no_prediction(name):
    learner = ALGORITHMS[name](2, rounds=3, depth=2)
    task = il.Model(learner, learner.init()).adapt(torch.zeros(3, 2), torch.zeros(3, 1))
    assert task(torch.zeros(0, 2)).shape == (0, 1)


def test_rows_are_predicted_by_trees_that_do_not_know_their_group():
    x, groups = columns(300), np.repeat(np.arange(60), 5)
    y = np.sin(3 * x[:, 0]) + x[:, 2]
    trees = Trees(4, rounds=40, depth=3)
    fitted, without = trees.fit_and_leave_out(x, y[:, None], groups=groups)
    assert all(torch.equal(value, trees.fit(x, y[:, None], groups=groups)[n]) for n, value in fitted.items())
    rounds, coded = trees.rounds_used(fitted), binned(x)
    part = groups % 5
    for number in range(5):
        away = part == number
        other = estimator(HistGradientBoostingRegressor, trees, 40).fit(coded[~away], y[~away])
        stages = list(other.staged_predict(coded[away]))
        within(np.abs(stages[rounds - 1] - without[away, 0]).max(), 1e-12)


def test_small_tables_take_one_thread(monkeypatch):
    seen = []
    grow = Trees.grow

    def counted(self, *arguments):
        seen.append({pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "openmp"})
        return grow(self, *arguments)

    monkeypatch.setattr(Trees, "grow", counted)
    x = columns()
    Trees(4, rounds=5).fit(x, x[:, :1], groups=np.arange(len(x)), rounds=5)
    assert seen
    assert all(threads <= {1} for threads in seen)


def test_one_model_for_all_tasks_is_grown_on_all_their_rows():
    rng = np.random.default_rng(0)
    x, task = rng.normal(size=(60, 2)).astype(np.float32), np.repeat(np.arange(6), 10)
    tasks = il.tasks.arrays(x, x[:, 0] ** 2, task, n_support=3)
    learner = il.algorithms.boosting(2, support=False, rounds=20)
    meta = il.meta_train(learner, tasks.train, device="cpu").model.meta
    rows = tasks.train.whole()
    groups = np.repeat(np.arange(len(rows.x)), rows.x.shape[1])
    flat, target = rows.x.flatten(0, 1).numpy(), rows.y.flatten(0, 1).numpy()
    theirs = learner.trees.fit(flat, target, groups=groups)
    assert all(torch.equal(meta[name], theirs[name]) for name in theirs)
