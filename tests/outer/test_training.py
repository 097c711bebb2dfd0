"""The outer loop: same seed, same run; nothing of the caller's changes; what is not finite is left out."""

import math
import random
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

import innerloop as il
from innerloop.errors import DivergedError, UsageError
from innerloop.outer import annealed, unrolled
from toolkit.compiler import compiles


def tasks_of_lines(**options):
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"site": np.repeat(np.arange(12), 8), "x": rng.normal(size=96)})
    table["y"] = table["x"] * np.repeat(rng.normal(size=12), 8) + 0.1 * rng.normal(size=96)
    return il.tasks.table(table, task="site", target="y", n_support=3, **options)


def learner_of(module=None, **options):
    if module is None:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            module = il.models.mlp(1, [8], 1)
    return il.maml(module, loss="mse", **{"inner_lr": 0.05, "inner_steps": 2} | options)


def train(learner, tasks, **options):
    return il.meta_train(
        learner, tasks.train, **{"valid": tasks.valid, "steps": 4, "device": "cpu"} | options
    )


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_same_seed_same_bits_other_seed_other_run():
    tasks, learner = tasks_of_lines(), learner_of()
    first, again, other = (train(learner, tasks, seed=seed) for seed in (3, 3, 4))
    assert same(first.model.meta, again.model.meta)
    assert first.log == again.log
    assert not same(first.model.meta, other.model.meta)


def one_update_at_a_time(monkeypatch):
    monkeypatch.setattr("innerloop.outer.prefetch._MOST_AT_ONCE", 1)
    monkeypatch.setattr("innerloop.outer.loop._SECONDS_TOGETHER", 0)


@pytest.mark.parametrize("steps", [0, 1, 2, 7, 40])
def test_drawing_and_making_many_updates_together_changes_nothing(steps, monkeypatch):
    learner, tasks = learner_of(il.models.mlp(1, [4], 1, dropout=0.5)), tasks_of_lines()
    together = train(learner, tasks, steps=steps, meta_batch_size=3, gear="eager")
    one_update_at_a_time(monkeypatch)
    alone = train(learner, tasks, steps=steps, meta_batch_size=3, gear="eager")
    assert len(alone.log) == steps
    assert together.log == alone.log
    assert same(together.model.meta, alone.model.meta)


@compiles
@pytest.mark.parametrize("gear", ["eager", "compiled"])
def test_nor_does_it_where_the_update_changes_on_the_way(gear, monkeypatch):
    # another meta-gradient from 5 on, validation at multiples of 7, two sizes of tasks, a loss that overflows, dropout
    rows = np.random.default_rng(0)
    counts = [6 + task % 2 for task in range(12)]
    x = rows.normal(size=sum(counts))
    frame = pd.DataFrame({"task": np.repeat(np.arange(12), counts), "x": x, "y": 2 * x})
    frame.loc[frame.task == 0, "y"] += [50, 0, 0, 0, 0, 0]
    parts = {"train": [0, *range(5, 12)], "valid": [1, 2], "test": [3, 4]}
    tasks = il.tasks.table(frame, task="task", target="y", n_support=3, split=parts)

    def limited(prediction, target):
        far = torch.where(target.abs() > 5, torch.inf, 1.0)
        return ((prediction - target).square() * far).mean(-1)

    learner = il.maml(il.models.mlp(1, [4], 1, dropout=0.3), loss=limited, inner_steps=2)
    learner = replace(learner, metagrad=annealed(unrolled(), 5))

    def run():
        return il.meta_train(
            learner, tasks.train, valid=tasks.valid, steps=23, meta_batch_size=3, validate_every=7,
            gear=gear, device="cpu",
        )  # fmt: skip

    together = run()
    one_update_at_a_time(monkeypatch)
    alone = run()
    assert together.skipped == alone.skipped > 0
    assert [list(map(repr, entry.items())) for entry in together.log] == [
        list(map(repr, entry.items())) for entry in alone.log
    ]
    assert together.best_step == alone.best_step
    assert same(together.model.meta, alone.model.meta)
    assert together.gear.gear == gear


@pytest.mark.parametrize("gear", ["eager", "loop"])
def test_what_is_raised_for_numbers_that_are_not_finite_leaves_only_its_update_out(gear):
    """A check of values, or a factorisation, of parameters that the update before has spoiled."""

    class Checked(nn.Linear):
        def forward(self, x):
            found = super().forward(x)
            if not torch.isfinite(found).all():
                raise ValueError("not finite")
            return found

    def loss(prediction, target):
        wrong = target.abs() > 2
        # a root that is 0 has no finite slope
        root = torch.where(wrong, prediction - prediction.detach(), 1).sqrt()
        return ((prediction - target).square() + torch.where(wrong, root, 0)).mean(-1)

    tasks = tasks_of_lines()
    learner = il.maml(Checked(1, 1), loss=loss, inner_steps=0, mapping="loop")
    run = il.meta_train(learner, tasks.train, steps=40, meta_batch_size=3, gear=gear, device="cpu")
    spoiled = [math.isnan(entry["loss"]) for entry in run.log]
    assert any(spoiled)
    assert not all(spoiled)


def test_every_update_before_a_failure_is_in_the_log():
    tasks, seen = tasks_of_lines(), []
    learner = learner_of()
    bad = {"left": 30}

    def loss(prediction, target):
        bad["left"] -= 1
        far = (prediction - target).square().mean(-1)
        return far * (1.0 if bad["left"] > 0 else math.nan)

    learner = il.maml(il.models.mlp(1, [4], 1), loss=loss, inner_steps=1)
    with pytest.raises(DivergedError, match="up to step"):
        il.meta_train(learner, tasks.train, steps=90, gear="eager", device="cpu", callbacks=[seen.append])
    assert [entry["step"] for entry in seen] == list(range(1, len(seen) + 1))
    assert sum(math.isnan(entry["loss"]) for entry in seen) == 19


def test_dropout_follows_the_seed_too():
    tasks = tasks_of_lines()
    learner = learner_of(nn.Sequential(nn.Linear(1, 8), nn.Dropout(0.5), nn.Linear(8, 1)))
    first, again = (train(learner, tasks, seed=1) for _ in range(2))
    assert same(first.model.meta, again.model.meta)


def random_states():
    return repr((random.getstate(), np.random.get_state())), torch.get_rng_state()


def test_global_random_states_stay_as_they_are(tmp_path):
    tasks, learner = tasks_of_lines(), learner_of()
    text, state = random_states()
    run = train(learner, tasks)
    il.evaluate(run.model, tasks.test)
    x, y = torch.ones(3, 1), torch.zeros(3, 1)
    run.model.adapt(x, y)(x)
    il.save(tmp_path / "run", run.model)
    il.load(tmp_path / "run").model.base()(x)
    after, state_after = random_states()
    assert text == after
    assert torch.equal(state, state_after)


@pytest.mark.parametrize("training", [True, False])
def test_the_module_of_the_user_stays_as_it_is(training):
    module = nn.Sequential(nn.Linear(1, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 1)).train(training)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    tasks = tasks_of_lines()
    run = train(learner_of(module), tasks)
    il.evaluate(run.model, tasks.test)
    run.model.adapt(torch.ones(3, 1), torch.zeros(3, 1))(torch.ones(2, 1))
    assert same(before, module.state_dict())
    assert {part.training for part in module.modules()} == {training}
    assert all(value.grad is None and value.requires_grad for value in module.parameters())


def test_adapt_predict_and_evaluate_leave_the_model_as_it_is():
    tasks = tasks_of_lines()
    model = train(learner_of(), tasks).model
    before = {name: value.clone() for name, value in model.meta.items()}
    il.evaluate(model, tasks.test, steps=4)
    x = torch.linspace(-1, 1, 5)[:, None]
    task = model.adapt(x, 3 * x)
    first = task(x)
    model.adapt(x, -3 * x)(x)
    assert torch.equal(task(x), first)
    assert same(before, model.meta)
    assert not any(value.requires_grad for value in model.meta.values())


def test_where_training_starts_is_not_changed():
    tasks, learner = tasks_of_lines(), learner_of()
    meta = learner.init()
    before = {name: value.detach().clone() for name, value in meta.items()}
    run = train(learner, tasks, meta=meta)
    assert same(before, meta)
    assert not same(run.model.meta, meta)


def test_the_best_parameters_by_validation_come_back():
    tasks, learner = tasks_of_lines(), learner_of()
    run = train(learner, tasks, steps=12, validate_every=2, meta_lr=0.3)
    measured = {entry["step"]: entry["valid_loss"] for entry in run.log if "valid_loss" in entry}
    assert list(measured) == [2, 4, 6, 8, 10, 12]
    assert run.best_step == min(measured, key=measured.get)
    from innerloop.outer.mean_loss import mean_loss
    from innerloop.tasks.sources import VALIDATION_SEED

    assert mean_loss(run.model, tasks.valid, seed=VALIDATION_SEED) == measured[run.best_step]


def test_without_validation_the_last_parameters_come_back():
    run = train(learner_of(), tasks_of_lines(), valid=None)
    assert (run.best_step, len(run.log)) == (4, 4)
    assert [entry["step"] for entry in run.log] == [1, 2, 3, 4]


class SomeNaN:
    """A source whose first task of each stack has a target that is no number."""

    def __init__(self, source, count):
        self.source, self.count = source, count
        self.targets, self.support, self.n_tasks = source.targets, source.support, source.n_tasks

    def sample(self, count, generator):
        episode = self.source.sample(count, generator)
        y = episode.query.y.clone()
        y[: self.count] = torch.nan
        return episode._replace(query=episode.query._replace(y=y))


def test_a_task_that_is_not_finite_is_left_out_and_counted():
    tasks = tasks_of_lines()
    run = il.meta_train(learner_of(), SomeNaN(tasks.train, 2), steps=3, meta_batch_size=5, device="cpu")
    assert run.skipped == 6
    assert all(torch.isfinite(value).all() for value in run.model.meta.values())
    assert all(np.isfinite(entry["loss"]) for entry in run.log)


def test_the_others_of_the_step_count_as_if_it_had_not_been_there():
    from innerloop.outer.loop import Gear, OuterLoop
    from innerloop.outer.optimizers import adam
    from innerloop.outer.prefetch import task_keys
    from innerloop.outer.state import TrainingState
    from innerloop.outer.update import Outer
    from innerloop.tasks.episodes import select
    from innerloop.tasks.support import stream

    tasks, learner = tasks_of_lines(), learner_of()
    key = task_keys(5, stream(0, 1))
    spoiled = SomeNaN(tasks.train, 2).sample(5, stream(0, 0))
    found = []
    for episode, keys in ((spoiled, key), (select(spoiled, slice(2, None)), key[2:])):
        start = TrainingState(0, Outer.start(learner.init()))
        settings = {"steps": 1, "clip": None, "gear": Gear("eager"), "memory": 2**30}
        loop = OuterLoop(learner, start, optimizer=adam(), schedule=lambda step: 0.01, **settings)
        loop.step(episode, 0, keys)
        found.append(loop.state.meta)
    for name, value in found[0].items():
        torch.testing.assert_close(value, found[1][name], rtol=0, atol=1e-6)


def test_training_that_stays_not_finite_stops_with_a_way_out():
    with pytest.raises(DivergedError, match=r"20 steps in a row.*lower inner_lr") as caught:
        il.meta_train(learner_of(), SomeNaN(tasks_of_lines().train, 32), steps=50, device="cpu")
    assert caught.value.exit_code == 6


def test_the_schedule_and_the_clip():
    tasks, learner = tasks_of_lines(), learner_of()
    cosine = [entry["meta_lr"] for entry in train(learner, tasks, steps=8, meta_lr=0.1).log]
    assert cosine == pytest.approx([0.05 * (1 + np.cos(np.pi * step / 8)) for step in range(8)])
    assert {entry["meta_lr"] for entry in train(learner, tasks, schedule="constant", meta_lr=0.1).log} == {
        0.1
    }


@pytest.mark.parametrize(
    "wrong",
    [
        {"steps": -1}, {"meta_batch_size": 0}, {"meta_lr": 0.0}, {"meta_lr": float("nan")}, {"clip": -1.0},
        {"validate_every": 0}, {"seed": -1}, {"schedule": "step"}, {"device": "nonsense"},
    ],
)  # fmt: skip
def test_arguments_without_a_meaning_are_refused(wrong):
    with pytest.raises(UsageError, match=next(iter(wrong))):
        train(learner_of(), tasks_of_lines(), **wrong)


def test_a_closed_form_is_fitted_and_takes_no_steps():
    tasks = tasks_of_lines()
    run = il.meta_train(il.mixed(1), tasks.train, steps=100, device="cpu")
    assert run.log == []
    assert il.evaluate(run.model, tasks.test).metric("rmse")[0] < 0.3


def test_callbacks_see_every_step():
    seen = []
    run = train(learner_of(), tasks_of_lines(), callbacks=[seen.append])
    assert seen == run.log


def test_more_inner_steps_than_in_training_are_not_written_into_the_learner():
    tasks = tasks_of_lines()
    model = train(learner_of(), tasks).model
    il.evaluate(model, tasks.test, steps=7)
    assert model.learner.inner_steps == 2
    assert replace(model.learner, inner_steps=3).inner_steps == 3


def test_training_that_never_had_a_finite_score_is_an_error():
    tasks = tasks_of_lines()
    with pytest.raises(DivergedError, match="meta-validation tasks was finite in 3 steps"):
        il.meta_train(learner_of(), tasks.train, valid=tasks.valid, steps=3, meta_lr=1e30, device="cpu")


def test_the_earlier_name_of_the_gear_is_understood():
    tasks = il.tasks.sinusoid(n_support=5)
    learner = il.maml(il.models.mlp(1, [4], 1), loss="mse", inner_steps=1)
    run = il.meta_train(learner, tasks.train, steps=2, engine="traced", device="cpu")
    assert run.gear.gear == "traced"
