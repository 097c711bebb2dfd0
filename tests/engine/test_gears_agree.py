"""Gears agree where a model normalises, drops out and is clipped, on padded tasks, and where training goes on."""

import pytest
import torch
from torch import nn

import innerloop as il
from innerloop import algorithms as a
from innerloop.engine import fast
from innerloop.outer.prefetch import task_keys
from innerloop.outer.update import Outer, meta_update, numbers_of
from innerloop.tasks.episodes import map_tensors
from toolkit.compiler import compiles
from toolkit.oracles import class_episode, generic, largest_error, uneven

PAIRS = [
    *(("support", "traced"), ("transductive", "traced"), ("per_step", "traced")),
    pytest.param("per_step", "compiled", marks=compiles),
]


def module(dropout=0.3):
    torch.manual_seed(0)
    # a bias before BatchNorm would have a gradient of rounding alone, which Adam makes as large as any
    layers = (nn.Linear(4, 6, bias=False), nn.BatchNorm1d(6), nn.Tanh(), nn.Dropout(dropout), nn.Linear(6, 3))
    return nn.Sequential(*layers)


def learner(batchnorm, **options):
    return a.maml(
        module(), loss="cross_entropy", inner_lr=0.1, inner_steps=2, batchnorm=batchnorm, clip=0.3, **options
    )


def start(given):
    return Outer.start(generic(given))


def updated(update, state, numbers=range(3)):
    """The state after some updates, each with dropout streams of its own; the meta-gradient is clipped."""
    episode = uneven(class_episode())
    for number in numbers:
        key = task_keys(episode.n_tasks, torch.Generator().manual_seed(number))
        state, _ = update(state, numbers_of(number, 1e-2), episode, key, 0)
    return state


@pytest.mark.parametrize(("batchnorm", "gear"), PAIRS)
def test_normalising_dropping_out_and_clipping_are_the_same(batchnorm, gear):
    given = learner(batchnorm)
    plain = meta_update(given, clip=0.05)
    quick = fast(plain, gear=gear)
    results, expected = updated(quick, start(given)), updated(plain, start(given))
    assert largest_error(results.meta, expected.meta) < 1e-12
    assert largest_error(results.state[1], expected.state[1]) < 1e-13
    assert (quick.report.gear, quick.report.reason) == (gear, "")


def test_the_streams_of_dropout_matter():
    """Otherwise the test above could not fail."""
    given = learner("support")
    plain = meta_update(given, clip=0.05)
    one, other = updated(plain, start(given), [0]), updated(plain, start(given), [1])
    assert largest_error(one.state[0], other.state[0]) > 1e-4


def test_going_on_from_a_state_is_going_on():
    given = learner("per_step")
    plain = meta_update(given, clip=0.05)
    whole = updated(plain, start(given), range(4))
    half = updated(fast(plain, gear="traced"), start(given), range(2))
    # what a file gives back: the values, in new memory
    resumed = map_tensors(lambda t: t.clone(), half)
    rest = updated(fast(plain, gear="traced"), resumed, range(2, 4))
    assert largest_error(rest.meta, whole.meta) < 1e-12


def test_training_with_dropout_and_batchnorm_ends_the_same():
    """The trainer gives every gear the same episodes and streams."""
    tasks = il.tasks.sinusoid(n_support=5)

    def trained(gear):
        torch.manual_seed(0)
        net = nn.Sequential(
            nn.Linear(1, 8, bias=False), nn.BatchNorm1d(8), nn.Tanh(), nn.Dropout(0.2), nn.Linear(8, 1)
        )
        given = il.maml(net.double(), loss="mse", inner_steps=1, batchnorm="per_step")
        options = {"steps": 4, "device": "cpu", "meta_batch_size": 3, "clip": 0.1}
        run = il.meta_train(given, tasks.train, gear=gear, **options)
        assert run.gear.gear == gear
        return run.model.meta

    assert largest_error(trained("traced"), trained("eager")) < 1e-12
