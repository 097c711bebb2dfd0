"""The library against an implementation in plain numpy that shares nothing with it, to 1e-12."""

import pytest

from innerloop import algorithms as a
from toolkit import plain_numpy
from toolkit.cases import net
from toolkit.oracles import doubled, random_direction, regression_episode, within

STEPS = pytest.mark.parametrize("steps", [1, 3, 5])


def error(learner, reference, **options):
    """Largest difference of the meta-gradients, away from the initial parameters."""
    episode = regression_episode()
    meta = doubled(learner.init())
    direction = random_direction(meta, 3)
    meta = {name: value + 0.3 * direction[name] for name, value in meta.items()}
    found, figures = learner.metagrad(learner, meta, episode)
    tasks = [
        tuple((batch.x[task].numpy(), batch.y[task].numpy()) for batch in episode)
        for task in range(episode.n_tasks)
    ]
    truth = reference({name: value.numpy() for name, value in meta.items()}, tasks, **options)
    assert set(truth) == set(found)
    return max(abs(found[name].numpy() - truth[name]).max() for name in truth), figures


@STEPS
def test_maml(steps):
    learner = a.maml(net(2, 1), loss="mse", inner_lr=0.1, inner_steps=steps)
    within(error(learner, plain_numpy.maml, steps=steps, lr=0.1)[0], 1e-12)


@STEPS
def test_meta_sgd(steps):
    learner = a.meta_sgd(net(2, 1), loss="mse", inner_lr=0.1, inner_steps=steps)
    within(error(learner, plain_numpy.maml, steps=steps, lr=None)[0], 1e-12)


@STEPS
def test_anil(steps):
    learner = a.anil(net(2, 1), loss="mse", inner_lr=0.1, inner_steps=steps)
    within(error(learner, plain_numpy.maml, steps=steps, lr=0.1, fast=("2.weight", "2.bias"))[0], 1e-12)


@STEPS
def test_imaml(steps):
    options = {"inner_lr": 0.1, "inner_steps": steps, "strength": 2.0}
    learner = a.imaml(net(2, 1), loss="mse", iterations=60, **options)
    worst, figures = error(learner, plain_numpy.imaml, steps=steps, lr=0.1, strength=2.0)
    within(worst, 1e-12)
    within(figures["residual"].max(), 1e-12)
