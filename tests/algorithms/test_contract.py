"""What every algorithm promises, checked over one list; an algorithm that is not in the list fails."""

import inspect
import pickle
import re
from dataclasses import replace

import pytest
import torch

from innerloop import models
from innerloop.algorithms import ALGORITHMS, build
from innerloop.errors import UsageError
from innerloop.inner import Model
from innerloop.inner.gradient import GradientLearner
from innerloop.outer import meta_train
from innerloop.outer.prefetch import task_keys
from innerloop.storage import load, save
from innerloop.tasks.episodes import Batch, Episode, join_rows, map_tensors, select, stack
from innerloop.tasks.sources import FunctionSource, SupportSize, Targets
from toolkit.cases import CASES, IDS, learner_module
from toolkit.oracles import (
    class_episode,
    difference_error,
    fourth_order_difference,
    generic,
    gradient,
    largest_error,
    regression_episode,
    within,
)

every = pytest.mark.parametrize("case", CASES, ids=IDS)
EXACT = [(case, name) for case, name in zip(CASES, IDS, strict=True) if case.gradient == "exact"]
exact = pytest.mark.parametrize("case", [case for case, _ in EXACT], ids=[name for _, name in EXACT])


def test_every_algorithm_is_in_the_list():
    own = {name for name, preset in ALGORITHMS.items() if str(preset.__module__).startswith("innerloop.")}
    assert {case.algorithm for case in CASES} == own


@pytest.mark.parametrize("name", {case.algorithm: None for case in CASES})
def test_every_algorithm_says_what_it_is(name):
    text = inspect.getdoc(ALGORITHMS[name])
    assert re.search(r"\b(19|20)\d\d\b", text), "the year of the paper"
    for part in ("Arguments:", "Example:"):
        assert part in text


@exact
def test_the_meta_gradient_is_the_derivative_of_the_mean_query_loss(case):
    learner = case.make()
    within(difference_error(learner, case.episode, generic(learner)), 1e-8)


@exact
def test_the_meta_gradient_equals_fourth_order_differences(case):
    learner = case.make()
    worst = difference_error(
        learner, case.episode, generic(learner), directions=1, difference=fourth_order_difference
    )
    within(worst, 1e-9)


@every
def test_tasks_at_once_equal_tasks_one_by_one(case):
    learner = case.make()
    meta, episode = generic(learner), case.episode
    whole = gradient(learner, meta, episode)
    parts = [gradient(learner, meta, select(episode, slice(t, t + 1))) for t in range(episode.n_tasks)]
    mean = {name: sum(part[name] for part in parts) / len(parts) for name in whole}
    within(largest_error(whole, mean), 1e-12)


@every
def test_vmap_equals_the_loop(case):
    learner = case.make()
    if "mapping" not in learner.recipe["settings"]:
        pytest.skip("a closed form on the features themselves maps nothing")
    looped = case.make(mapping="loop")
    meta = generic(learner)
    within(largest_error(gradient(learner, meta, case.episode), gradient(looped, meta, case.episode)), 1e-12)


def padded(episode):
    """The first task without its last rows, stacked with the others, and the same tasks one by one."""

    def cut(batch, task, rows):
        return Batch(batch.x[task, :rows], batch.y[task, :rows])

    sizes = [(episode.support.y.shape[1] - 1, episode.query.y.shape[1] - 2)] + [
        (episode.support.y.shape[1], episode.query.y.shape[1])
    ] * (episode.n_tasks - 1)
    alone = [
        Episode(cut(episode.support, task, s), cut(episode.query, task, q))
        for task, (s, q) in enumerate(sizes)
    ]
    return stack(alone), [stack([one]) for one in alone]


@every
def test_padding_changes_nothing(case):
    learner = case.make()
    meta = generic(learner)
    together, alone = padded(case.episode)
    whole = gradient(learner, meta, together)
    parts = [gradient(learner, meta, one) for one in alone]
    mean = {name: sum(part[name] for part in parts) / len(parts) for name in whole}
    within(largest_error(whole, mean), 1e-12)


@every
def test_the_order_of_support_rows_does_not_matter(case):
    learner = case.make()
    meta, episode = generic(learner), case.episode
    order = torch.randperm(episode.support.y.shape[1], generator=torch.Generator().manual_seed(0))
    shuffled = map_tensors(lambda t: t[:, order], episode.support)
    one, other = (
        learner.predict(meta, learner.adapt(meta, support), episode.query.x)
        for support in (episode.support, shuffled)
    )
    within((one - other).abs().max(), 1e-11)


@every
def test_a_prediction_does_not_depend_on_the_other_queries(case):
    learner = case.make()
    meta, episode = generic(learner), case.episode
    adapted = learner.adapt(meta, episode.support)
    whole = learner.predict(meta, adapted, episode.query.x)
    alone = learner.predict(meta, adapted, episode.query.x[:, 1:2])
    within((whole[:, 1:2] - alone).abs().max(), 1e-13)


@every
def test_adapting_changes_neither_parameters_nor_random_state(case):
    learner = case.make()
    meta, episode = generic(learner), case.episode
    before = {name: value.clone() for name, value in meta.items()}
    module = {name: value.clone() for name, value in learner.network.module.state_dict().items()}
    state = torch.get_rng_state()
    model = Model(learner, meta)
    task = model.adapt(episode.support.x[0], episode.support.y[0])
    task(episode.query.x[0])
    learner.metagrad(learner, meta, episode)
    assert all(torch.equal(meta[name], before[name]) for name in meta)
    assert all(
        torch.equal(value, module[name]) for name, value in learner.network.module.state_dict().items()
    )
    assert torch.equal(torch.get_rng_state(), state)
    assert not any(value.requires_grad for value in meta.values())


@every
def test_more_steps_at_prediction_than_in_training(case):
    learner = case.make()
    meta, episode = generic(learner), case.episode
    trained = len(list(learner.path(meta, episode.support)))
    longer = list(learner.path(meta, episode.support, steps=trained + 3))
    assert len(longer) == trained + 4 if isinstance(learner, GradientLearner) else len(longer) >= trained
    assert all(torch.isfinite(value).all() for value in longer[-1].values())
    first = learner.predict(meta, longer[0], episode.query.x)
    none = learner.predict(meta, learner.adapt(meta, episode.support, steps=0), episode.query.x)
    assert torch.equal(first, none)


@every
def test_the_base_predicts_without_a_support_row(case):
    learner = case.make()
    task = Model(learner, generic(learner)).base()
    assert torch.isfinite(task(case.episode.query.x[0])).all()


@every
def test_dropout_streams_belong_to_tasks(case):
    learner = case.make()
    meta, episode = generic(learner), case.episode
    key = task_keys(episode.n_tasks, torch.Generator().manual_seed(0))
    # no dropout in the model: a key changes nothing
    within(largest_error(gradient(learner, meta, episode), gradient(learner, meta, episode, key=key)), 1e-14)


@every
def test_the_recipe_and_the_model_directory_give_the_same_predictions(case, tmp_path):
    learner = case.make()
    meta = {name: value.float() for name, value in generic(learner).items()}
    if learner.recipe.get("model") == "external":
        again = build(learner.recipe, module=learner_module(case))
    else:
        again = build(learner.recipe)
    episode = map_tensors(lambda t: t.float() if t.is_floating_point() else t, case.episode)
    one, other = (
        le.predict(meta, le.adapt(meta, episode.support), episode.query.x) for le in (learner, again)
    )
    assert torch.equal(one, other)
    save(tmp_path / "run", Model(learner, meta))
    module = learner_module(case) if learner.recipe.get("model") == "external" else None
    run = load(tmp_path / "run", module=module)
    task = run.model.adapt(episode.support.x[0], episode.support.y[0])
    assert torch.equal(task(episode.query.x[0]), Model(learner, meta).adapt(
        episode.support.x[0], episode.support.y[0])(episode.query.x[0]))  # fmt: skip
    run.with_tasks({"a": task}).save(tmp_path / "one")
    stored = load(tmp_path / "one", module=module).tasks["a"]
    assert torch.equal(stored(episode.query.x[0]), task(episode.query.x[0]))


@every
def test_training_lowers_the_loss_and_repeats(case):
    learner = case.make()
    episode = map_tensors(lambda t: t.float() if t.is_floating_point() else t, case.episode)
    targets = Targets(case.kind, 1 if case.kind == "regression" else 3)
    source = FunctionSource(lambda count, generator: episode, targets, SupportSize(5, 5), 3)
    # the direct solution of the mixed model is a fit of its own, tested in test_heads.py
    learner = replace(learner)
    object.__setattr__(learner, "fit", lambda meta, rows: None)
    # trees that say nothing have no leaf to improve
    somewhere = {name: value.float() for name, value in generic(learner).items()}
    start = somewhere if case.algorithm == "boosting" else None
    options = {"steps": 20, "meta_batch_size": 3, "meta_lr": 0.03, "schedule": "constant", "device": "cpu"}
    one, two = (meta_train(learner, source, meta=start, **options) for _ in range(2))
    assert all(torch.equal(one.model.meta[name], two.model.meta[name]) for name in one.model.meta)
    losses = [entry["loss"] for entry in one.log]
    assert sum(losses[-3:]) < sum(losses[:3])


@every
def test_another_process_can_be_given_the_learner(case):
    learner = case.make()
    copy, meta, episode = pickle.loads(pickle.dumps(learner)), generic(learner), case.episode
    assert copy.recipe == learner.recipe
    for made in (copy, pickle.loads(pickle.dumps(Model(copy, meta))).learner):
        expected, seen = (gradient(each, meta, episode) for each in (learner, made))
        assert all(torch.equal(seen[name], value) for name, value in expected.items())


def test_a_learner_whose_module_has_changed_is_not_pickled():
    module = models.mlp(1, [4], 1)
    learner = ALGORITHMS["maml"](module, loss="mse")
    module[0].weight.data.add_(1)
    with pytest.raises(UsageError, match="its module was changed after it was made"):
        pickle.dumps(learner)


def test_the_two_batches_of_an_episode_join():
    episode = regression_episode()
    assert join_rows(*episode).y.shape[1] == 11
    assert class_episode().n_tasks == 3
