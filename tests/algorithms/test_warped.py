"""T-Net: the identity changes nothing, and a warp is a metric of the inner step."""

import pytest
import torch
from torch import nn

from innerloop.algorithms import maml, t_net
from innerloop.errors import UsageError
from toolkit.cases import net
from toolkit.oracles import doubled, regression_episode, within


def test_at_the_identity_tasks_adapt_as_those_of_maml():
    episode = regression_episode()
    warped, plain = (make(net(), loss="mse", inner_lr=0.2, inner_steps=3) for make in (t_net, maml))
    meta, theirs = doubled(warped.init()), doubled(plain.init())
    ours = warped.adapt(meta, episode.support)
    for name, value in plain.adapt(theirs, episode.support).items():
        layer, _, kind = name.partition(".")
        within((ours[f"{layer}.layer.{kind}"] - value).abs().max(), 1e-12)


@pytest.mark.parametrize("bias", [True, False])
def test_a_step_of_the_effective_weight_is_taken_in_the_metric_of_the_warp(bias):
    """E = T W, E <- E - lr T T' G with G the gradient of the mean squared error at E, by matrices."""
    torch.manual_seed(0)
    episode = regression_episode()
    learner = t_net(nn.Sequential(nn.Linear(2, 3, bias=bias)), loss="mse", inner_lr=0.1, inner_steps=1)
    meta = doubled(learner.init())
    warp = torch.randn(3, 3, dtype=torch.float64)
    meta["0.warp.weight"] = warp
    support = episode.support._replace(y=torch.randn(3, 5, 3, dtype=torch.float64))
    adapted = learner.adapt(meta, support)
    for task in range(3):
        x = torch.cat([support.x[task], torch.ones(5, 1, dtype=torch.float64)], -1)
        start = [
            meta["0.layer.weight"],
            meta["0.layer.bias"][:, None] if bias else torch.zeros(3, 1).double(),
        ]
        effective = warp @ torch.cat(start, -1)
        slope = 2 * (x @ effective.mT - support.y[task]).mT @ x / support.y[task].numel()
        expected = effective - 0.1 * warp @ warp.mT @ slope
        within((warp @ adapted["0.layer.weight"][task] - expected[:, :2]).abs().max(), 1e-12)
        if bias:
            within((warp @ adapted["0.layer.bias"][task] - expected[:, 2]).abs().max(), 1e-12)


def test_convolutions_are_warped_across_channels_and_the_module_stays():
    module = nn.Sequential(nn.Conv2d(1, 4, 3, groups=1), nn.Flatten(), nn.LazyLinear(2))
    module(torch.zeros(1, 1, 5, 5))
    before = list(module.state_dict())
    learner = t_net(module, loss="cross_entropy")
    assert learner.init()["0.warp.weight"].shape == (4, 4, 1, 1)
    assert list(module.state_dict()) == before


def test_a_model_without_layers_is_refused():
    with pytest.raises(UsageError, match="the model has none"):
        t_net(nn.Linear(2, 1), loss="mse")
