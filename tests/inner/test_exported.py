"""Adapted models and adaptation as modules: equal to what they were made from, with names, hooks and torch.export."""

import warnings

import pytest
import torch
from torch import nn

import innerloop as il
from innerloop.errors import UsageError
from innerloop.inner.model import TaskModule
from toolkit.cases import CASES, IDS
from toolkit.oracles import generic, unpadded

every = pytest.mark.parametrize("case", CASES, ids=IDS)
MODULES = {
    "maml",
    "fomaml",
    "reptile",
    "anil",
    "boil",
    "meta_sgd",
    "maml_plus_plus",
    "meta_curvature",
    "sparse_maml",
}


def adapted(case):
    learner = case.make()
    model = il.Model(learner, generic(learner))
    x, y = unpadded(case.episode.support, 0)
    return model, x, y, unpadded(case.episode.query, 0)[0]


def exported(module, *arguments):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.export warns of its own future
        return torch.export.export(module, arguments).module()


@every
def test_the_module_of_a_task_predicts_what_the_task_does(case):
    model, x, y, query = adapted(case)
    task = model.adapt(x, y)
    module = task.module()
    torch.testing.assert_close(module(query), task(query), rtol=1e-12, atol=1e-12)
    if case.algorithm in MODULES:
        assert type(module) is type(model.learner.network.original)
        assert list(module.state_dict()) == list(model.learner.network.original.state_dict())
    if not isinstance(module, TaskModule):
        assert task.state_dict().keys() == module.state_dict().keys()


@every
def test_adaptation_is_a_graph_for_its_shapes(case):
    model, x, y, query = adapted(case)
    module = model.adapting(x, y, query)
    other = (1.1 * x, y.roll(1, 0), 0.9 * query) if isinstance(x, torch.Tensor) else (x, y, query)
    torch.testing.assert_close(module(*other), model.adapt(*other[:2])(other[2]), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("algorithm", ["maml", "ridge", "mixed"])
def test_torch_exports_a_task_and_adaptation(algorithm):
    case = next(one for one in CASES if one.algorithm == algorithm)
    model, x, y, query = adapted(case)
    task = model.adapt(x, y)
    torch.testing.assert_close(exported(task.module(), query)(query), task(query), rtol=1e-12, atol=1e-12)
    whole = exported(model.adapting(x, y, query), x, y, query)
    torch.testing.assert_close(whole(x, y, query), task(query), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("batchnorm", ["support", "transductive", "per_step", "frozen"])
def test_batchnorm_of_the_module_has_the_statistics_of_the_task(batchnorm):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 1)).double()
    net[1].running_mean.fill_(0.3)
    learner = il.maml(net, loss="mse", inner_steps=2, batchnorm=batchnorm)
    model = il.Model(learner, generic(learner))
    x, y, query = (torch.randn(6, n, dtype=torch.float64) for n in (2, 1, 2))
    task = model.adapt(x, y)
    torch.testing.assert_close(task.module()(query), task(query), rtol=1e-12, atol=1e-12)


def test_a_module_is_a_copy_with_hooks():
    learner = il.maml(nn.Linear(2, 1), loss="mse")
    task = il.Model(learner, learner.init()).adapt(torch.rand(3, 2), torch.rand(3, 1))
    module, seen = task.module(), []
    module.register_forward_hook(lambda *args: seen.append(args))
    before = task(torch.ones(1, 2))
    module.weight.data.zero_()
    module(torch.ones(1, 2))
    assert len(seen) == 1
    assert torch.equal(task(torch.ones(1, 2)), before)
    assert il.state_dict(task).keys() == {"weight", "bias"}


def test_a_task_of_a_head_moves_and_has_no_state_dict():
    learner = il.mixed(2)
    model = il.Model(learner, learner.init())
    task = model.adapt(torch.rand(3, 2), torch.rand(3, 1))
    module = task.module()
    assert module.double()(torch.ones(1, 2)).dtype == torch.float64
    with pytest.raises(UsageError, match="more than the values of a module"):
        task.state_dict()
    assert model.state_dict() == model.meta


def test_a_model_that_decides_by_values_has_no_graph():
    class Deciding(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(1, 1)

        def forward(self, x):
            return self.layer(x) if x.sum() > 0 else self.layer(-x)

    learner = il.maml(Deciding(), loss="mse", mapping="loop")
    model = il.Model(learner, learner.init())
    with pytest.raises(UsageError, match="no graph"):
        model.adapting(torch.ones(3, 1), torch.ones(3, 1), torch.ones(2, 1))
