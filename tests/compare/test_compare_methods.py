"""The methods of a comparison against plain loops and scikit-learn."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsRegressor

import innerloop as il
from innerloop.compare import methods
from innerloop.compare.contest import Contest, Effort
from innerloop.compare.linear import _with_spread, logistic
from innerloop.compare.methods import BASELINES, META, Entrant, _alone, entrant
from innerloop.compare.nets import AllClasses, Bench, best_stop, fine_tuned
from innerloop.compare.search import error_on, search
from innerloop.compare.sklearn_methods import EstimatorLearner, training_rows
from innerloop.engine.devices import NO_GPU, Choice
from innerloop.errors import DivergedError, UsageError
from innerloop.tasks.sources import EVALUATION_SEED, stream
from toolkit.oracles import unpadded


def tasks_of(kind="regression", n_tasks=15, rows=12, seed=0, **options):
    rng = np.random.default_rng(seed)
    x, task = rng.normal(size=(n_tasks * rows, 2)), np.arange(n_tasks * rows) // rows
    y = x @ [1.0, -0.5] + rng.normal(0, 1.5, n_tasks)[task] + 0.3 * rng.normal(size=len(x))
    if kind == "classification":
        return il.tasks.arrays(x, (y > 0).astype(int), task, n_shot=2, kind=kind, **options)
    return il.tasks.arrays(x, y, task, n_support=4, **options)


def classes_of():
    rng = np.random.default_rng(0)
    label = np.arange(400) // 20
    x = rng.normal(size=(20, 3))[label] + 0.3 * rng.normal(size=(400, 3))
    return il.tasks.classes(x.astype(np.float32), label, n_way=3, n_shot=2, n_query=5)


def one_by_one(model, source):
    for _, episode in source.fixed(EVALUATION_SEED):
        for task in range(episode.n_tasks):
            yield tuple(zip(*(unpadded(batch, task) for batch in episode), strict=True))


def test_an_estimator_is_fitted_to_each_support():
    tasks = tasks_of()
    trained = entrant(tasks, "alone_neighbours").fit(Bench(tasks, 0, 1), {"n_neighbors": 2})
    found = il.evaluate(trained.model, tasks.test).values["squared_error"][:, -1].mean()
    errors = []
    for (x, query), (y, target) in one_by_one(trained.model, tasks.test):
        own = KNeighborsRegressor(2, weights="distance").fit(x.double().numpy(), y[:, 0].numpy())
        errors.append(np.mean((own.predict(query.double().numpy()) - target[:, 0].numpy()) ** 2))
    assert found == pytest.approx(np.mean(errors) * tasks.targets.scale[0] ** 2, rel=1e-4)


def test_classes_that_a_support_lacks_are_possible():
    tasks = tasks_of("classification")
    learner = EstimatorLearner(tasks.targets, lambda rows: LogisticRegression())
    model = il.Model(learner, learner.init())
    only = model.adapt(torch.randn(3, 2), torch.zeros(3, dtype=torch.int64))(torch.randn(4, 2))
    assert only.softmax(-1)[:, 0].min() > 0.99
    assert torch.isfinite(only).all()
    nothing = model.adapt(torch.zeros(0, 2), torch.zeros(0, dtype=torch.int64))(torch.randn(4, 2))
    assert nothing.softmax(-1) == pytest.approx(0.5)


def test_pooled_logistic_is_that_of_scikit_learn():
    tasks = tasks_of("classification")
    shrunken = logistic(tasks, pooled=True, inverse_penalty=0.5)
    prior = il.Model(shrunken.learner, _with_spread(shrunken.meta, 1e-6))
    x, y = training_rows(tasks.train)
    other = LogisticRegression(C=0.5, max_iter=1000).fit(x, y)
    episode = next(iter(tasks.test.fixed(0)))[1]
    theirs = np.stack([other.predict_proba(rows.double().numpy())[:, 1] for rows in episode.query.x])
    pooled = entrant(tasks, "pooled").fit(Bench(tasks, 0, 1), {"C": 0.5}).model
    for model, error in ((prior, 1e-4), (pooled, 2e-3)):
        adapted = model.learner.adapt(model.meta, episode.support)
        ours = model.learner.predict(model.meta, adapted, episode.query.x).softmax(-1)[..., 1]
        assert ours.numpy() == pytest.approx(theirs, abs=error)


def test_the_stop_is_the_best_of_the_path():
    tasks = tasks_of()
    learner = il.maml(il.models.mlp(2, [8], 1), loss="mse", inner_lr=0.2, inner_steps=1)
    model = il.Model(learner, learner.init())
    losses = il.evaluate(model, tasks.valid, steps=12).values["loss"].mean(0)
    assert best_stop(model, tasks.valid, 12) == int(losses.argmin())


def test_fine_tuning_starts_at_the_pooled_net_and_helps():
    tasks = tasks_of(n_tasks=30)
    bench = Bench(tasks, 0, 60)
    pooled = entrant(tasks, "pooled_net").fit(bench, {}).model
    tuned = fine_tuned(bench, {"inner_lr": 0.05})
    assert len(bench.runs) == 1
    a, b = (il.evaluate(model, tasks.test) for model in (pooled, tuned))
    np.testing.assert_allclose(b.values["loss"][:, 0], a.values["loss"][:, 0], rtol=1e-5)
    assert tuned.learner.inner_steps > 0
    assert b.values["loss"][:, -1].mean() < a.values["loss"][:, 0].mean()


def test_a_classifier_of_all_classes_sees_rows_of_the_class_it_says():
    tasks = classes_of()
    source = AllClasses(tasks.train, rows=6)
    episode = source.sample(4, stream(0))
    assert episode.support.x.shape == (4, 6, 3)
    for batch in episode:
        for x, y in zip(batch.x.flatten(0, 1), batch.y.flatten(), strict=True):
            rows = tasks.train.index[y]
            assert (tasks.train.x[rows[rows >= 0]] == x).all(1).any()


@pytest.mark.parametrize("kind", ["regression", "classification", "n-way"])
def test_every_method_runs_or_says_why_not(kind):
    tasks = classes_of() if kind == "n-way" else tasks_of(kind, n_tasks=8)
    few = {"episodes": 3} if kind == "n-way" else {"draws": 1}
    tasks = replace(tasks, valid=replace(tasks.valid, **few))
    bench = Bench(tasks, 0, 2)
    ran = []
    for name in (*BASELINES, *META):
        each = entrant(tasks, name)
        if (reason := each.refuses(tasks)) is not None:
            assert isinstance(reason, str)
            continue
        trained = each.fit(bench, each.grid[0])
        found = il.evaluate(trained.model, tasks.valid, path=False)
        assert np.isfinite(found.values["loss"]).all(), name
        ran.append(each.name)
    assert {"alone_net", "fine_tuned", "linear_head", "maml"} <= set(ran)


def test_names_are_known_or_refused():
    tasks = tasks_of()
    assert entrant(tasks, "alone").name == "alone_ridge"
    assert entrant(tasks_of("classification"), "shrunken").name == "shrunken_logistic"
    assert entrant(tasks, "reptile").kind == "shared"
    with pytest.raises(UsageError, match="'gpt' is unknown"):
        entrant(tasks, "gpt")
    with pytest.raises(UsageError, match="does not apply"):
        entrant(tasks, "alone_logistic")


def test_search_takes_the_best_and_no_more_than_its_tries():
    tasks = tasks_of()
    seen = []

    def fit(bench, settings):
        seen.append((settings["n_neighbors"], bench.steps))
        if settings["n_neighbors"] == 2:
            raise DivergedError("no")
        return entrant(tasks, "alone_neighbours").fit(bench, settings)

    grid = tuple({"n_neighbors": k} for k in (1, 2, 4, 3))
    found = search(Entrant("x", "x", "alone", "baseline", fit, grid), Bench(tasks, 0, 100), tries=3)
    assert [k for k, _ in seen] == [1, 2, 4]
    alone = entrant(tasks, "alone_neighbours")
    models = {k: alone.fit(Bench(tasks, 0, 1), {"n_neighbors": k}).model for k in (1, 4)}
    errors = {k: error_on(model, tasks, tasks.valid) for k, model in models.items()}
    assert found.settings == {"n_neighbors": min(errors, key=errors.get)}
    assert (found.tried, found.error) == (3, min(errors.values()))
    seen.clear()
    search(Entrant("x", "x", "alone", "baseline", fit, grid, trained=True), Bench(tasks, 0, 100), tries=1)
    assert seen == []  # there is nothing to choose among
    search(Entrant("x", "x", "alone", "baseline", fit, grid, trained=True), Bench(tasks, 0, 100), tries=2)
    assert seen[0] == (1, 25)


def test_tabicl_is_used_where_it_is_installed(monkeypatch, capsys):
    import sys
    import types

    loaded, tasks = [], tasks_of()
    methods._loaded_tabicl.cache_clear()
    assert "incontext" in entrant(tasks, "tabicl").refuses(tasks)
    module = types.ModuleType("tabicl")
    module.__spec__ = types.SimpleNamespace(origin=None)
    monkeypatch.setitem(sys.modules, "tabicl", module)
    assert "incontext" in entrant(tasks, "tabicl").refuses(tasks)  # a folder that happens to have this name
    module.__spec__.origin = "tabicl/__init__.py"

    class StandIn:
        def __init__(self, n_estimators):
            self.inner = KNeighborsRegressor(2)
            self.predict = self.inner.predict

        def _load_model(self):
            print("Downloading")
            loaded.append(self)
            self.model_ = None

        def fit(self, x, y):
            self._load_model()
            self.inner.fit(x, y)
            return self

    module.TabICLRegressor = StandIn
    each = entrant(tasks, "tabicl")
    assert each.refuses(tasks) is None
    found = il.evaluate(each.fit(Bench(tasks, 0, 1), {}).model, tasks.test)
    neighbours = il.evaluate(
        Entrant("x", "x", "alone", "baseline", _alone(lambda *_: KNeighborsRegressor(2)))
        .fit(Bench(tasks, 0, 1), {})
        .model,
        tasks.test,
    )
    np.testing.assert_array_equal(found.values["loss"], neighbours.values["loss"])
    assert len(loaded) == 1  # the weights are read once for all tasks
    assert capsys.readouterr().out == ""
    methods._loaded_tabicl.cache_clear()


def test_a_comparison_says_where_its_nets_were_trained():
    contest = Contest([il.tasks.sinusoid(n_support=5, episodes=3)], [], Effort(1, 1, 1))
    cpu = torch.device("cpu")
    contest.placed += [Choice(cpu, NO_GPU), Choice(cpu)]
    assert contest.where == ()
    contest.placed += [Choice(cpu, "small"), Choice(torch.device("cuda"), "large"), Choice(cpu, "tiny")]
    assert sorted(contest.where) == ["nets were trained on cpu: small", "nets were trained on cuda: large"]
