"""The outer loop opened: optimizers and schedules of one's own, callbacks that see the state, resuming, `meta_step`."""

import io
import math
from dataclasses import replace

import pytest
import torch

import innerloop as il
from innerloop.errors import UsageError
from innerloop.outer.metagrad import multi_step
from toolkit.compiler import compiles

TASKS = il.tasks.sinusoid(n_support=5)
OPTIONS = {"device": "cpu", "meta_batch_size": 4, "gear": "eager"}
GEARS = ["eager", "traced", pytest.param("compiled", marks=compiles)]


def learner_of(**options):
    torch.manual_seed(0)
    return il.maml(il.models.mlp(1, [8], 1), loss="mse", inner_steps=1, **options)


def equal(one, other):
    assert one.keys() == other.keys()
    assert all(torch.equal(value, other[name]) for name, value in one.items())


def episodes(count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [TASKS.train.sample(4, generator) for _ in range(count)]


OPTIMIZERS = {
    "adamw": il.optimizers.adamw(),
    "average": il.optimizers.averaged(il.optimizers.adam(), 0.9),
    "accumulated": il.optimizers.accumulated(il.optimizers.sgd(momentum=0.9), 2),
    "groups": il.optimizers.grouped({"*bias": il.optimizers.rmsprop(), "*": il.optimizers.adam()}),
    "torch": il.optimizers.torch_optimizer(lambda params: torch.optim.AdamW(params, 3e-3)),
}


@pytest.mark.parametrize("gear", GEARS)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_resumed_training_is_the_uninterrupted_one_to_the_bit(name, gear):
    options = {**OPTIONS, "optimizer": OPTIMIZERS[name], "gear": gear}
    whole = il.meta_train(learner_of(), TASKS.train, steps=7, **options)
    rate = il.schedules.cosine(3e-3, 7)
    half = il.meta_train(learner_of(), TASKS.train, steps=4, schedule=rate, **options)
    file = io.BytesIO()
    torch.save(half.state.state_dict(), file)
    file.seek(0)
    state = il.TrainingState.from_state_dict(torch.load(file, weights_only=True))
    rest = il.meta_train(learner_of(), TASKS.train, steps=7, state=state, **options)
    assert rest.log == whole.log
    equal(whole.model.meta, rest.model.meta)
    assert rest.state.step == 7


def test_a_torch_optimizer_trains_as_ours_does():
    ours = il.meta_train(learner_of(), TASKS.train, steps=5, **OPTIONS)
    theirs = il.meta_train(
        learner_of(), TASKS.train, steps=5, optimizer=lambda params: torch.optim.Adam(params, 3e-3), **OPTIONS
    )
    for name, value in ours.model.meta.items():
        torch.testing.assert_close(theirs.model.meta[name], value, rtol=1e-4, atol=1e-6)


@compiles
def test_a_torch_optimizer_leaves_the_gradient_in_its_gear():
    optimizer = OPTIMIZERS["torch"]
    run = il.meta_train(
        learner_of(), TASKS.train, steps=3, optimizer=optimizer, **{**OPTIONS, "gear": "compiled"}
    )
    assert run.gear.gear == "compiled"


def test_a_schedule_of_ones_own_is_the_step_size():
    rates = [0.1, 0.02, 0.3]
    run = il.meta_train(learner_of(), TASKS.train, steps=3, schedule=lambda step: rates[step], **OPTIONS)
    assert [entry["meta_lr"] for entry in run.log] == rates
    still = il.meta_train(learner_of(), TASKS.train, steps=3, schedule=lambda step: 0.0, **OPTIONS)
    equal(still.model.meta, learner_of().init())


def test_the_returned_parameters_are_the_average():
    seen = []
    look = il.Every(1, lambda state, entry: seen.append({n: v.clone() for n, v in state.meta.items()}))
    optimizer = il.optimizers.averaged(il.optimizers.adam(), 0.5)
    run = il.meta_train(learner_of(), TASKS.train, steps=4, optimizer=optimizer, callbacks=[look], **OPTIONS)
    average = learner_of().init()
    for params in seen:
        average = {name: 0.5 * value + 0.5 * params[name] for name, value in average.items()}
    for name, value in average.items():
        torch.testing.assert_close(run.model.meta[name], value)


@pytest.mark.parametrize("gear", GEARS)
def test_a_callback_sees_the_state_of_its_step(gear):
    options = {**OPTIONS, "gear": gear}
    seen = {}
    look = il.Every(3, lambda state, entry: seen.update({state.step: state}))
    il.meta_train(learner_of(), TASKS.train, steps=8, schedule="constant", callbacks=[look], **options)
    assert list(seen) == [3, 6]
    for step, state in seen.items():
        run = il.meta_train(learner_of(), TASKS.train, steps=step, schedule="constant", **options)
        equal(state.meta, run.model.meta)


def test_the_norm_of_the_meta_gradient_is_in_the_log():
    run = il.meta_train(learner_of(), TASKS.train, steps=1, clip=1e-3, **OPTIONS)
    learner = learner_of()
    from innerloop.outer.prefetch import EPISODES, task_keys
    from innerloop.tasks.sources import stream

    generator = stream(0, EPISODES, 0)
    episode = TASKS.train.sample(4, generator)
    grads, _ = learner.metagrad(learner, learner.init(), episode, 0, task_keys(4, generator))
    expected = math.sqrt(sum(float(grad.square().sum()) for grad in grads.values()))
    assert run.log[0]["grad_norm"] == pytest.approx(expected, rel=1e-5)


def test_a_callback_ends_the_training():
    def stop(entry):
        if entry["step"] == 3:
            raise StopIteration("good enough")

    run = il.meta_train(learner_of(), TASKS.train, steps=50, callbacks=[stop], **OPTIONS)
    assert [entry["step"] for entry in run.log] == [1, 2, 3]
    assert run.remarks == ("a callback ended the training after update 3: good enough",)
    # several updates may have been made in one call: the state knows how many
    assert run.state.step == run.best_step >= 3


def test_patience_ends_the_training_at_the_best_validation():
    run = il.meta_train(
        learner_of(),
        TASKS.train,
        valid=TASKS.train,
        steps=40,
        validate_every=2,
        patience=3,
        schedule=lambda step: 1e-3 if step < 6 else 3.0,
        **OPTIONS,
    )
    losses = {entry["step"]: entry["valid_loss"] for entry in run.log if "valid_loss" in entry}
    assert run.best_step == min(losses, key=losses.get)
    assert max(losses) == run.best_step + 6 < 40
    assert "no better validation for 3 in a row" in run.remarks[-1]


@pytest.mark.parametrize("gear", GEARS)
def test_a_loop_of_ones_own_makes_the_updates_of_meta_train(gear):
    source = TASKS.train
    run = il.meta_train(learner_of(), source, steps=4, **{**OPTIONS, "gear": gear})
    step = il.meta_step(learner_of(), rate=il.schedules.cosine(3e-3, 4), gear=gear)
    from innerloop.outer.prefetch import EPISODES
    from innerloop.tasks.sources import stream

    state = step.init()
    for number in range(4):
        state, metrics = step(state, source.sample(4, stream(0, EPISODES, number)))
    equal(state.meta, run.model.meta)
    assert metrics["losses"].mean().item() == pytest.approx(run.log[-1]["loss"])
    assert step.report.gear == gear


@pytest.mark.parametrize("gear", GEARS)
def test_a_scan_is_one_update_after_the_other(gear):
    data = episodes(5)
    step = il.meta_step(learner_of(), il.optimizers.adamw(), gear=gear, rate=il.schedules.linear(0.01, 5))
    state = step.init()
    losses = []
    for one in data:
        state, metrics = step(state, one)
        losses.append(metrics["losses"])
    scanned, metrics = step.scan(step.init(), data)
    equal(scanned.meta, state.meta)
    assert torch.equal(metrics["losses"], torch.stack(losses))
    assert scanned.step == 5


def test_an_update_that_is_not_finite_is_not_taken():
    step = il.meta_step(learner_of(), gear="eager")
    good, bad, last = episodes(3)
    bad.query.y[0] = math.nan
    state, _ = step(step.init(), good)
    kept, metrics = step(state, bad)
    assert not metrics["finite"]
    equal(kept.meta, state.meta)
    scanned, metrics = step.scan(step.init(), [good, bad, last])
    assert metrics["finite"].tolist() == [True, False, True]
    equal(scanned.meta, step(kept, last)[0].meta)


def test_what_has_no_meaning_is_refused():
    run = il.meta_train(learner_of(), TASKS.train, steps=2, **OPTIONS)
    step = il.meta_step(learner_of(), gear="eager")
    annealing = il.meta_step(replace(learner_of(), metagrad=multi_step(2)), gear="eager")
    for words, call in {
        "optimizer='adam' is none": lambda: il.meta_train(
            learner_of(), TASKS.train, optimizer="adam", steps=1, **OPTIONS
        ),
        "schedule='steps' is unknown": lambda: il.meta_train(
            learner_of(), TASKS.train, schedule="steps", steps=1, **OPTIONS
        ),
        "patience=0": lambda: il.meta_train(learner_of(), TASKS.train, patience=0, steps=1, **OPTIONS),
        r"Every\(steps\)=0": lambda: il.meta_train(
            learner_of(), TASKS.train, callbacks=[il.Every(0, print)], steps=1, **OPTIONS
        ),
        "steps=1: the state is one after 2": lambda: il.meta_train(
            learner_of(), TASKS.train, state=run.state, steps=1, **OPTIONS
        ),
        "state= is of another learner": lambda: il.meta_train(
            il.maml(il.models.mlp(1, [9], 1), loss="mse"), TASKS.train, state=run.state, steps=3, **OPTIONS
        ),
        "it lacks meta, optimizer": lambda: il.TrainingState.from_state_dict({"step": 1}),
        "scan takes updates that are computed alike": lambda: annealing.scan(annealing.init(), episodes(4)),
        "scan takes updates that are computed alike, and 0": lambda: step.scan(step.init(), []),
        "of the same shapes": lambda: step.scan(
            step.init(), [episodes(1)[0], TASKS.train.sample(3, torch.Generator())]
        ),
        "is no learner": lambda: il.meta_step(torch.nn.Linear(1, 1)),
        "none of innerloop.optimizers": lambda: il.meta_step(learner_of(), torch.optim.Adam),
        "chunk=0": lambda: il.meta_step(learner_of(), chunk=0),
    }.items():
        with pytest.raises(UsageError, match=words):
            call()
