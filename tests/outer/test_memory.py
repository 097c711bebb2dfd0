"""What a meta-gradient keeps alive is counted, and chunks of tasks follow from it."""

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils import _pytree as pytree

import innerloop as il
from innerloop import algorithms as a
from innerloop.engine.c.program import lower
from innerloop.engine.trace import graph_of
from innerloop.errors import UsageError
from innerloop.outer import meta_train
from innerloop.outer.memory import _Alive, bytes_of, needed_bytes, tasks_at_once
from innerloop.outer.update import Outer, geared_update, meta_update, numbers_of
from innerloop.tasks.episodes import Batch, Episode, map_tensors, select
from toolkit.oracles import class_episode


def images(tasks=3):
    episode = class_episode(tasks=tasks, shape=(1, 16, 16))
    return map_tensors(lambda t: t.float() if t.is_floating_point() else t, episode)


def module():
    torch.manual_seed(0)
    return nn.Sequential(
        *(nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(4)),
        *(nn.Flatten(), nn.Linear(128, 3)),
    )


WEIGHTS = 4 * sum(value.numel() for value in module().parameters())


def needed(algorithm, steps, **options):
    learner = getattr(a, algorithm)(module(), loss="cross_entropy", inner_steps=steps, **options)
    return needed_bytes(learner, learner.init(), select(images(), slice(0, 1)))


def test_what_is_alive_is_counted():
    x = torch.zeros(4, dtype=torch.float64)
    with _Alive([x]) as alive:
        one = x + 1
        two = one.exp() * one.view(2, 2).flatten()  # its exponential dies with this line
        assert (alive.now, alive.most) == (64, 96)
        del one
        assert alive.now == 32
    assert two.shape == x.shape


LEARNERS = {
    "unrolled": ("maml", {}),
    "checkpointed": ("maml", {"metagrad": "checkpointed"}),
    "first order": ("fomaml", {}),
    "implicit": ("imaml", {}),
    "multi-step": ("maml_plus_plus", {}),
    "multi-step, checkpointed": ("maml_plus_plus", {"metagrad": "checkpointed"}),
    "adam, checkpointed": ("maml", {"metagrad": "checkpointed", "inner": "adam"}),
}


@pytest.mark.parametrize("name", LEARNERS)
def test_long_loops_are_counted_from_short_ones(name, monkeypatch):
    algorithm, options = LEARNERS[name]
    found = needed(algorithm, 6, **options)
    monkeypatch.setattr("innerloop.outer.memory._FEW", 10)
    assert found == needed(algorithm, 6, **options)


@pytest.mark.parametrize("name", ["unrolled", "first order", "implicit", "multi-step"])
def test_what_is_large_is_counted_by_its_shapes(name, monkeypatch):
    algorithm, options = LEARNERS[name]
    learner = getattr(a, algorithm)(module(), loss="cross_entropy", inner_steps=2, **options)
    meta, episode = learner.init(), select(images(), slice(0, 1))
    found, kinds, taken = needed_bytes(learner, meta, episode), set(), type(learner.metagrad).__call__

    def watched(metagrad, learner, meta, *rest):
        kinds.update(map(type, meta.values()))
        return taken(metagrad, learner, meta, *rest)

    monkeypatch.setattr("innerloop.outer.memory._LARGE", 0)
    monkeypatch.setattr(type(learner.metagrad), "__call__", watched)
    assert found == needed_bytes(learner, meta, episode)
    assert kinds == {FakeTensor}


def test_what_a_network_keeps_of_its_first_call_is_made_of_numbers(monkeypatch):
    class Placed(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear, self.places = nn.Linear(4, 2), None

        def forward(self, x):
            if self.places is None:
                self.places = torch.linspace(0, 1, 4)
            return self.linear(x + self.places)

    monkeypatch.setattr("innerloop.outer.memory._LARGE", 0)
    learner = il.maml(Placed(), loss="mse", inner_steps=1)
    rows = Batch(torch.ones(1, 3, 4), torch.ones(1, 3, 2))
    needed_bytes(learner, learner.init(), Episode(rows, rows))
    assert type(learner.network.module.places) is torch.Tensor


def test_a_large_network_that_decides_by_values_is_counted_as_it_runs(monkeypatch):
    class Deciding(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(4, 2)

        def forward(self, x):
            return self.linear(x) if self.linear.weight.detach().abs().sum() > 0 else self.linear(2 * x)

    learner = il.maml(Deciding(), loss="mse", inner_steps=1, mapping="loop")
    rows = Batch(torch.ones(1, 3, 4), torch.ones(1, 3, 2))
    found = needed_bytes(learner, learner.init(), Episode(rows, rows))
    monkeypatch.setattr("innerloop.outer.memory._LARGE", 0)
    assert found == needed_bytes(learner, learner.init(), Episode(rows, rows)) > 0


def test_a_checkpointed_step_keeps_its_weights_and_the_state_of_its_rule():
    def growth(algorithm, **options):
        return (needed(algorithm, 12, **options) - needed(algorithm, 4, **options)) / 8

    small = 0.1 * WEIGHTS
    assert growth("maml", metagrad="checkpointed") == pytest.approx(WEIGHTS, abs=small)
    assert growth("maml", metagrad="checkpointed", inner="adam") == pytest.approx(3 * WEIGHTS, abs=small)
    # the slopes of all its losses are taken first
    assert growth("maml_plus_plus", metagrad="checkpointed", first_order_until=0) < 2.1 * WEIGHTS
    assert growth("imaml") == 0
    assert growth("maml") > 20 * WEIGHTS


@pytest.mark.parametrize("algorithm", ["fomaml", "imaml", "reptile"])
def test_without_a_way_back_nothing_of_a_step_is_kept(algorithm):
    rows = Batch(torch.ones(1, 1, 64), torch.ones(1, 1, 1))

    def needed(steps):
        learner = getattr(a, algorithm)(il.models.mlp(64, [64], 1), loss="mse", inner_steps=steps)
        return needed_bytes(learner, learner.init(), Episode(rows, rows))

    assert needed(12) == needed(4)


def test_no_gear_merges_what_is_computed_again():
    """A graph of operators sees equal ones, and would keep everything after all."""
    rows = Batch(torch.randn(2, 64, 8), torch.zeros(2, 64).long())
    episode, most = Episode(rows, rows), {}
    for metagrad in ("unrolled", "checkpointed"):
        torch.manual_seed(0)
        module = il.models.mlp(8, [16], 3)
        learner = a.maml(module, loss="cross_entropy", inner_steps=3, metagrad=metagrad)
        update = meta_update(learner, clip=None)
        arguments = (Outer.start(learner.init()), numbers_of(1, 1e-3), episode, torch.arange(2), 0)
        leaves, structure = pytree.tree_flatten(arguments)
        given = [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]
        with _Alive(given) as alive:
            update(*arguments)
        graph, _ = graph_of(update, leaves, structure, decomposed=True)
        with torch.no_grad(), _Alive(given) as traced:
            graph(*given)
        most[metagrad] = (alive.most, traced.most, lower(graph).arena)
    for less, more in zip(most["checkpointed"], most["unrolled"], strict=True):
        assert less < 0.7 * more


def test_chunks_fit_the_limit_and_one_task_is_the_least():
    learner = a.maml(module(), loss="cross_entropy", inner_steps=2)
    episode, meta = images(tasks=8), learner.init()
    one = needed_bytes(learner, meta, select(episode, slice(0, 1)))
    assert tasks_at_once(learner, meta, episode, 8 * one) is None
    assert tasks_at_once(learner, meta, episode, 3 * one + 1) == 3
    assert tasks_at_once(learner, meta, episode, one // 2) == 1


def test_one_graph_of_a_chunk_serves_all_chunks():
    learner, episode = (
        a.maml(il.models.mlp(4, [4], 3), loss="cross_entropy", inner_steps=1),
        class_episode(tasks=7),
    )
    start = Outer.start({name: value.double() for name, value in learner.init().items()})
    arguments = start, numbers_of(0, 1e-3), episode, torch.arange(7), 0
    expected, losses = meta_update(learner, clip=0.5)(*arguments)
    for most, graphs in {3: 2, 4: 2, 1: 1}.items():  # chunks of 3, 3, 1; of 4, 3; of 1
        update = geared_update(learner, clip=0.5, chunk=most, gear="traced", planned=1)
        for _ in range(2):
            found, metrics = update(*arguments)
            assert all(torch.allclose(found.state[0][n], v, rtol=1e-12) for n, v in expected.state[0].items())
            assert torch.allclose(metrics["losses"], losses["losses"], rtol=1e-12)
        assert (update.report.gear, update.report.graphs) == ("traced", graphs)


def test_training_in_chunks_is_training():
    def trained(memory, at_once):
        tasks = il.tasks.sinusoid(n_support=5)
        torch.manual_seed(0)
        learner = il.maml(il.models.mlp(1, [8], 1).double(), loss="mse", inner_steps=2)
        options = {"steps": 3, "gear": "eager", "device": "cpu", "meta_batch_size": 5}
        run = meta_train(learner, tasks.train, memory=memory, **options)
        assert run.at_once == at_once
        return run.model.meta

    whole, single = trained("512MB", None), trained("1B", 1)
    assert all(torch.allclose(whole[name], single[name], rtol=1e-12, atol=1e-14) for name in whole)


def test_learners_around_learners_and_heads_are_counted():
    rows = Batch(torch.ones(1, 5, 2), torch.ones(1, 5, 1))
    inside = il.maml(il.models.mlp(2, [8], 1), loss="mse", inner_steps=7)
    from innerloop.inner.per_task import per_task

    around = per_task(inside, n_targets=1)
    episode = Episode(rows, rows)
    assert needed_bytes(around, around.init(), episode) == needed_bytes(inside, inside.init(), episode)
    head = il.ridge(nn.Linear(2, 3), n_features=3, n_outputs=1)
    assert needed_bytes(head, head.init(), episode) > 0


@pytest.mark.parametrize("text", ["", "0", "a lot", "-1MB", "3 bits"])
def test_a_size_that_cannot_be_read_is_refused(text):
    with pytest.raises(UsageError, match="is not a size: write 512MB or 2GB"):
        bytes_of(text)


def test_sizes_are_read():
    assert [bytes_of(text) for text in ("7", "1k", "1.5 MB", "2GB")] == [7, 2**10, 3 * 2**19, 2**31]
