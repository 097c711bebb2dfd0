"""Graphs that several trainings share: the results are those of trainings that make their own."""

import pytest
import torch
from torch import nn

import innerloop as il
from innerloop.errors import UsageError
from innerloop.outer import meta_train
from innerloop.outer.training import Gear

TASKS = il.tasks.sinusoid(n_support=5, episodes=8)


def trained(gear, *, seed=0, inner_lr=0.05, module=None, loss="mse"):
    torch.manual_seed(seed)
    net = module or il.models.mlp(1, [4], 1)
    learner = il.maml(net, loss=loss, inner_lr=inner_lr, inner_steps=1)
    return meta_train(learner, TASKS.train, steps=3, meta_batch_size=4, seed=seed, device="cpu", gear=gear)


def test_a_second_training_takes_the_graph_of_the_first_and_gives_the_result_of_its_own() -> None:
    shared = Gear("traced")
    for seed in (0, 1):
        ours, alone = trained(shared, seed=seed), trained("traced", seed=seed)
        assert all(torch.equal(ours.model.meta[name], alone.model.meta[name]) for name in alone.model.meta)
        assert ours.gear.graphs == 1
    assert len(shared.kept) == 1


def test_learners_that_differ_share_nothing() -> None:
    shared = Gear("traced")
    slow, fast = (trained(shared, inner_lr=rate) for rate in (0.01, 0.5))
    assert len(shared.kept) == 2
    assert not torch.equal(slow.model.meta["0.weight"], fast.model.meta["0.weight"])


@pytest.mark.parametrize("external", ["module", "loss"])
def test_what_no_recipe_tells_is_never_shared(external) -> None:
    shared = Gear("traced")
    options = (
        {"module": nn.Sequential(nn.Linear(1, 4), nn.Tanh(), nn.Linear(4, 1))}
        if external == "module"
        else {"loss": lambda prediction, target: (prediction - target).abs().mean(-1)}
    )
    trained(shared, **options)
    assert not shared.kept


def test_the_gear_is_chosen_for_all_trainings_together() -> None:
    assert trained(Gear(planned=60)).gear.gear == "traced"
    assert trained(Gear()).gear.gear == "eager"


def test_a_gear_is_known_by_name() -> None:
    with pytest.raises(UsageError, match="gear='warp'"):
        Gear("warp")
