"""Where training runs, and what it does when memory runs out."""

import pytest
import torch

import innerloop as il
from innerloop.engine import devices
from innerloop.engine.devices import Choice
from innerloop.errors import ResourceError
from innerloop.outer import loop, training
from innerloop.outer.placement import adaptation_work, placed, update_work
from innerloop.outer.training import meta_train
from innerloop.outer.update import geared_update
from innerloop.tasks.episodes import select
from toolkit.oracles import class_episode, regression_episode


def learner_of(hidden=8, **options):
    return il.maml(il.models.mlp(1, [hidden], 1), loss="mse", **{"inner_steps": 2, **options})


def test_the_work_of_an_update_grows_with_tasks_steps_and_width():
    episode = regression_episode(tasks=3, features=1)
    of = {}
    for name, learner in {
        "plain": learner_of(), "steps": learner_of(inner_steps=4), "wide": learner_of(64)
    }.items():  # fmt: skip
        of[name] = update_work(learner, learner.init(), episode)
    learner = learner_of()
    one = update_work(learner, learner.init(), select(episode, slice(0, 1)))
    assert of["plain"] == one.times(3)
    assert of["plain"].operators == one.operators
    assert of["steps"].operators > 1.5 * of["plain"].operators
    assert of["wide"].flops > 5 * of["plain"].flops
    assert of["wide"].operators == of["plain"].operators


def test_adapting_is_less_work_than_an_update():
    episode, learner = regression_episode(tasks=32, features=1), learner_of()
    model = il.Model(learner, learner.init())
    assert adaptation_work(model, episode).operators < update_work(learner, model.meta, episode).operators


def test_auto_asks_for_the_work_of_an_update_and_says_why(monkeypatch):
    asked = []

    def choose(work, **options):
        asked.append((work, options))
        return Choice(torch.device("cpu"), "because")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(devices, "gpu", lambda: devices.Speed(1, 1, 1))
    monkeypatch.setattr(devices, "choose", choose)
    tasks = il.tasks.sinusoid(n_support=5, episodes=3)
    run = meta_train(learner_of(), tasks.train, steps=1, meta_batch_size=4)
    assert str(run.placed) == "cpu (because)"
    assert [work.operators > 0 for work, _ in asked] == [True]
    _, choice = placed(run.model, tasks.test, "auto")
    assert choice.reason == "because"
    assert asked[1][1]["what"] == "adapting and predicting"
    assert asked[1][0].operators < asked[0][0].operators
    # a direct solution has no update: it stays on the CPU
    assert meta_train(il.mixed(1), tasks.train).placed.reason == "small work"
    assert len(asked) == 2


class Full:
    """An update on a device that has memory for so many tasks at once."""

    def __init__(self, monkeypatch, room, error=None):
        self.tried = []
        full = error or torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB\nmore")

        def make(learner, *, chunk, **options):
            update = geared_update(learner, chunk=chunk, **options)
            plain = update.function

            def limited(state, numbers, episode, key, phase):
                at_once = min(chunk or episode.n_tasks, episode.n_tasks)
                self.tried.append(at_once)
                if at_once > room:
                    raise full
                return plain(state, numbers, episode, key, phase)

            update.function = limited
            return update

        monkeypatch.setattr(loop, "geared_update", make)


@pytest.mark.parametrize(("room", "tried"), [(3, [12, 6, 3]), (6, [12, 6]), (1, [12, 6, 3, 1])])
def test_out_of_memory_halves_the_tasks_at_once_and_goes_on(monkeypatch, room, tried):
    tasks = il.tasks.sinusoid(n_support=5, episodes=3)
    options = {"steps": 3, "meta_batch_size": 12, "device": "cpu", "gear": "eager"}
    learner = learner_of()
    whole = meta_train(learner, tasks.train, **options)
    full = Full(monkeypatch, room)
    run = meta_train(learner, tasks.train, **options)
    assert full.tried == [*tried, tried[-1], tried[-1]]
    assert run.at_once == tried[-1]
    assert run.remarks == (f"memory ran out (update 1): at most {tried[-1]} tasks at once from there on",)
    assert whole.remarks == ()
    for name, value in whole.model.meta.items():
        torch.testing.assert_close(run.model.meta[name], value)


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory")])
def test_memory_of_the_processor_runs_out_in_other_words(monkeypatch, error):
    tasks = il.tasks.sinusoid(n_support=5, episodes=3)
    options = {"steps": 1, "meta_batch_size": 12, "device": "cpu", "gear": "eager"}
    Full(monkeypatch, 3, error)
    assert meta_train(learner_of(), tasks.train, **options).at_once == 3
    monkeypatch.setattr(loop, "tasks_at_once", lambda *parts: (_ for _ in ()).throw(error))
    with pytest.raises(ResourceError, match=r"no memory for one task \(update 1\).*first order"):
        meta_train(learner_of(), tasks.train, **options)


def test_no_memory_for_one_task_is_an_error_with_a_way_out(monkeypatch):
    Full(monkeypatch, 0)
    tasks = il.tasks.sinusoid(n_support=5, episodes=3)
    with pytest.raises(
        ResourceError, match=r"no memory for one task \(update 1\).*checkpointed.*CUDA out of"
    ):
        meta_train(learner_of(), tasks.train, steps=1, meta_batch_size=4, device="cpu", gear="eager")


def test_memory_is_by_default_what_the_device_has_free(monkeypatch):
    monkeypatch.setattr(training, "free_bytes", lambda device: 1)
    tasks = il.tasks.sinusoid(n_support=5, episodes=3)
    options = {"steps": 1, "meta_batch_size": 4, "device": "cpu", "gear": "eager"}
    assert meta_train(learner_of(), tasks.train, **options).at_once == 1
    assert meta_train(learner_of(), tasks.train, **options, memory="1GB").at_once is None


def test_classes_are_counted_too():
    learner = il.protonet(il.models.mlp(4, [8], None), n_features=8, n_outputs=3)
    assert update_work(learner, learner.init(), class_episode()).flops > 0
