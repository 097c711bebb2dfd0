"""What is chosen where no algorithm is named: that it is never far from the best, and is an ordinary model."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import innerloop as il
from innerloop.combining import choose
from innerloop.combining.answers import Answers, answers, at_size, sizes_of
from innerloop.combining.candidates import Trainer, entries
from innerloop.combining.choosing import _weights
from innerloop.combining.refitting import joined
from innerloop.errors import UsageError
from innerloop.evaluation.labels import by_labels
from innerloop.evaluation.members import members, weights_frame
from innerloop.inner.combination import Combination
from innerloop.storage import load, save
from innerloop.tasks import arrays
from toolkit.oracles import within


def lines(tasks=30, rows=9, spread=1.0, seed=0):
    """Tasks that are lines of their own around a common one; `spread` 0 for the same line in every task."""
    rng = np.random.default_rng(seed)
    x = rng.uniform(-1, 1, (tasks, rows, 2))
    own = np.array([1.0, -1.0]) + spread * rng.normal(size=(tasks, 1, 2))
    y = (x * own).sum(-1) + spread * rng.normal(size=(tasks, 1)) + 0.3 * rng.normal(size=(tasks, rows))
    return arrays(x.reshape(-1, 2), y.ravel(), np.repeat(np.arange(tasks), rows), n_support=4)


def answered(tasks=40, rows=10, seed=0):
    """Tasks that answer yes above a level of their own."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(tasks, rows, 2))
    y = x[..., 0] + 0.3 * rng.normal(size=(tasks, rows)) > 1.5 * rng.normal(size=(tasks, 1))
    names = np.where(y, "yes", "no").ravel()
    return arrays(x.reshape(-1, 2), names, np.repeat(np.arange(tasks), rows), n_support=6)


@pytest.fixture(scope="module")
def chosen():
    return choose(lines(), steps=40, options={"device": "cpu"})


def test_the_choice_is_one_ordinary_model(chosen, tmp_path):
    tasks = lines()
    model = chosen.model
    stored = load(save(tmp_path / "run", model, targets=tasks.targets))
    x, y = torch.randn(4, 2), torch.randn(4, 1)
    own = model.adapt(x, y)
    assert torch.equal(stored.model.adapt(x, y)(x), own(x))
    again = load(stored.with_tasks({"a": stored.model.adapt(x, y)}).save(tmp_path / "adapted"))
    within((again.tasks["a"](x) - own(x)).abs().max(), 1e-5)
    assert own.deviation(x).shape == (4, 1)
    assert il.evaluate(model, tasks.test).steps == (0, 1)


def test_it_is_not_far_from_the_best_candidate(chosen):
    tasks = lines()
    found = answers([chosen.model], tasks.test).losses.mean()
    best = il.meta_train(il.mixed(2), tasks.train, device="cpu").model
    assert found < 1.1 * answers([best], tasks.test).losses.mean()


def test_without_labels_it_is_no_worse_than_one_model_for_all(chosen):
    tasks = lines()
    none = at_size(tasks.test, 0)
    pooled = il.meta_train(il.algorithms.boosting(2, support=False), tasks.train, device="cpu").model
    ours, theirs = answers([chosen.before, pooled], none).losses.mean(0)
    assert ours < 1.05 * theirs


def test_errors_fall_with_labels(chosen):
    found = by_labels(chosen.model, lines().test)
    assert list(found) == [0, 1, 2, 4]
    errors = [each.metric("error_over_variance").mean for each in found.values()]
    assert errors[-1] < errors[1] < errors[0]


def test_the_weights_are_on_the_simplex_and_are_told(chosen):
    weights = np.array([each.weights for each in chosen.candidates])
    within(np.abs(weights.sum(0) - 1).max(), 1e-6)
    assert weights.min() >= 0
    rows = chosen.rows()
    assert set(rows[0]["weights"]) == {"0", "1", "2", "4"}
    frame = weights_frame(chosen.model)
    if isinstance(chosen.model.learner, Combination):
        assert len(frame) == (weights.max(1) > 0).sum() == len(members(chosen.model))


def test_what_does_not_adapt_stays_where_nothing_gains():
    # 3 tasks, on which the first member, the pooled one, is the best, and no average is better
    rng = np.random.default_rng(0)
    error = rng.normal(size=(8, 30, 1)) + np.r_[0.0, 0.3, 0.6] * np.sign(rng.normal(size=(8, 1, 3)))
    errors = np.stack([own.T @ own / 30 for own in error])
    known = [Answers(tuple("abcdefgh"), 5.0, errors, (), np.ones((8, 3, 1)))]
    weights, losses = _weights(known, [0], single=False)
    assert weights.tolist() == [[1.0, 0.0, 0.0]]
    within(np.abs(losses - errors[:, 0, 0]).max(), 1e-12)
    # fewer tasks cannot tell
    few, _ = _weights([known[0].some(np.arange(5))], [0], single=False)
    assert few[0, 0] < 1
    better, _ = _weights(known, [2], single=False)
    assert better[0, 0] > 0.5
    # without a label, those that are made for it share among themselves
    none, _ = _weights([replace(known[0], rows=0.0)], [1, 2], single=False)
    assert none[0, 0] == 0
    within(abs(none.sum() - 1), 1e-12)


def test_direct_members_are_fitted_again_with_the_validation_tasks():
    tasks = lines()
    choice = choose(tasks, given={"covariance": "auto"}, single=True, options={"device": "cpu"})
    whole = il.meta_train(choice.model.learner, joined(tasks.train, tasks.valid), device="cpu").model
    before = il.meta_train(choice.model.learner, tasks.train, device="cpu").model
    assert all(torch.equal(choice.model.meta[n], whole.meta[n]) for n in whole.meta)
    assert all(torch.equal(choice.before.meta[n], before.meta[n]) for n in before.meta)


def test_joined_tasks_are_those_of_both():
    tasks = lines()
    both = joined(tasks.train, tasks.valid)
    rows = both.whole()
    assert both.ids == (*tasks.train.ids, *tasks.valid.ids)
    assert torch.equal(rows.x, torch.cat([tasks.train.whole().x, tasks.valid.whole().x]))
    assert torch.equal(rows.y, torch.cat([tasks.train.whole().y, tasks.valid.whole().y]))


def test_a_single_one_is_kept_by_name(tmp_path):
    choice = choose(lines(), steps=10, single=True, given={"covariance": "auto"}, options={"device": "cpu"})
    assert not isinstance(choice.model.learner, Combination)
    assert [max(each.weights) for each in choice.candidates].count(1.0) == 1
    scores = [each.score.mean for each in choice.candidates if any(each.weights)]
    assert scores[0] == min(each.score.mean for each in choice.candidates[:1])


def test_classes_are_combined_too(tmp_path):
    tasks = answered()
    choice = choose(tasks, steps=30, options={"device": "cpu"})
    assert choice.metric == "loss"
    scores = il.evaluate(choice.model, tasks.test)
    assert scores.metric("accuracy").mean > scores.metric("accuracy", 0).mean
    chance = choice.model.adapt(torch.randn(3, 2), torch.tensor([0, 1, 1]))(torch.randn(5, 2)).softmax(-1)
    within((chance.sum(-1) - 1).abs().max(), 1e-5)
    stored = load(save(tmp_path / "run", choice.model)).model
    x, y = torch.randn(3, 2), torch.tensor([0, 1, 1])
    assert torch.equal(stored.adapt(x, y)(x), choice.model.adapt(x, y)(x))


def test_the_same_seed_chooses_the_same():
    asked = {"steps": 10, "given": {"covariance": "auto"}, "options": {"device": "cpu"}}
    one, other = (choose(lines(), **asked) for _ in range(2))
    assert {each.algorithm for each in one.candidates} == {"mixed", "boosted_mixed"}
    assert [each.weights for each in one.candidates] == [each.weights for each in other.candidates]
    assert all(torch.equal(one.model.meta[n], other.model.meta[n]) for n in one.model.meta)


def test_only_what_takes_the_settings_is_trained():
    tasks = lines()
    assert [each.algorithm for each in entries(tasks, {"inner_steps": 2})] == ["maml"]
    assert {each.algorithm for each in entries(tasks, {}, network=True)} == {"ridge", "maml"}
    with pytest.raises(UsageError, match="no algorithm takes covariance, inner_steps"):
        entries(tasks, {"covariance": "full", "inner_steps": 2})


def test_halving_goes_on_from_where_a_net_was():
    tasks = lines()
    trainer = Trainer(tasks, 40, 0, tasks.train, {}, {}, {"device": "cpu"}, lambda label: None, patience=None)
    nets = [entry for entry in entries(tasks, {}) if not entry.direct]
    runs, dropped = trainer.halved(nets)
    assert len(runs) == len(dropped) == 1
    (label, run), = runs.items()  # fmt: skip
    whole = trainer.train(next(entry for entry in nets if entry.label == label))
    assert all(torch.equal(run.model.meta[n], whole.model.meta[n]) for n in run.model.meta)


def test_nets_are_trained_with_every_number_of_rows(monkeypatch):
    asked = []

    def seen(learner, source, **options):
        asked.append((learner.fits_directly, str(source.support), str(options["valid"].support)))
        return il.meta_train(learner, source, **options)

    monkeypatch.setattr("innerloop.combining.candidates.meta_train", seen)
    choose(lines(), steps=4, options={"device": "cpu"})
    assert {source for direct, source, _ in asked if direct} == {"4"}
    assert {(source, valid) for direct, source, valid in asked if not direct} == {("0-4", "0-4")}


def test_sizes_go_from_none_to_the_trained_one():
    assert sizes_of(lines().valid) == (0, 1, 2, 4)
    assert sizes_of(il.tasks.sinusoid(n_support=10).valid) == (10,)


def test_answers_are_those_of_a_loop():
    tasks = lines()
    models = [
        il.meta_train(learner, tasks.train, device="cpu").model
        for learner in (il.mixed(2), il.algorithms.boosting(2))
    ]
    found = answers(models, at_size(tasks.valid, 3, draws=1), seed=5)
    source = at_size(tasks.valid, 3, draws=1)
    for names, episode in source.fixed(5):
        for task, name in enumerate(names):
            inside = slice(None) if episode.query.weight is None else episode.query.weight[task] > 0
            x, y = episode.query.x[task][inside], episode.query.y[task][inside]
            errors = [m.adapt(episode.support.x[task], episode.support.y[task])(x) - y for m in models]
            products = [[(one * other).mean().item() for other in errors] for one in errors]
            own = found.errors[found.tasks.index(name)] * source.targets.variance[0]
            within(np.abs(own - np.array(products)).max(), 1e-5)
