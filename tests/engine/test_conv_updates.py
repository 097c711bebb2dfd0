"""Whole meta-updates of convolutional nets in machine code: task by task, in threads, and the same as eagerly."""

import pytest
import torch
from torch import nn
from torch.utils import _pytree as pytree

import innerloop as il
from innerloop import algorithms
from innerloop.engine import fast
from innerloop.engine.c import program
from innerloop.engine.gears import convolutions
from innerloop.engine.trace import graph_of
from innerloop.outer.update import Outer, meta_update, numbers_of
from innerloop.tasks.episodes import select
from toolkit.compiler import compiles

TASKS, WAY = 6, 3


class Residual(nn.Module):
    """Two ways through a block, a tap of 1 x 1, and a mean over places."""

    def __init__(self):
        super().__init__()
        self.first, self.norm = nn.Conv2d(2, 5, 3, padding=1), nn.BatchNorm2d(5)
        self.second, self.across = nn.Conv2d(5, 4, (3, 2), 2, dilation=(1, 2)), nn.Conv2d(2, 4, 1, 2)
        self.head = nn.Linear(4, WAY)

    def forward(self, x):
        inside = self.second(torch.tanh(self.norm(self.first(x))))
        return self.head((inside + self.across(x)[..., : inside.shape[-2], : inside.shape[-1]]).mean((2, 3)))


def strided():
    layers = [nn.Conv2d(2, 4, 3, 2, 1), nn.BatchNorm2d(4), nn.Softplus(), nn.Conv2d(4, 8, 3, 2, 1), nn.Tanh()]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(32, WAY))


def pooled():
    layers = [nn.Conv2d(2, 8, 3, padding=1), nn.BatchNorm2d(8), nn.Tanh(), nn.MaxPool2d(2)]
    layers += [nn.Conv2d(8, 4, 3, padding=1, bias=False), nn.MaxPool2d(2, 1), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(4 * 4, WAY))


def along():
    layers = [nn.Flatten(2), nn.Conv1d(2, 4, 5, 3), nn.BatchNorm1d(4), nn.Sigmoid(), nn.MaxPool1d(3)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(12, WAY))


NETS = {"residual": Residual, "strided": strided, "pooled": pooled, "along": along}


def update_of(make, dtype=torch.float64, inner_steps=1):
    torch.manual_seed(0)
    module = make().to(dtype)
    learner = il.maml(
        module, loss="cross_entropy", inner_lr=0.3, inner_steps=inner_steps, batchnorm="transductive"
    )
    x = torch.randn(TASKS, 8, 2, 6, 6, dtype=dtype)
    y = torch.randint(WAY, (TASKS, 8))
    episode = il.Episode(il.Batch(x[:, :5], y[:, :5]), il.Batch(x[:, 5:], y[:, 5:]))
    state = Outer.start(learner.init())
    return meta_update(learner, clip=1.0), (state, numbers_of(3, 1e-3), episode, torch.arange(TASKS), 0)


def gradients(result):
    """The meta-gradient, which is in the first moment after one update, and the losses."""
    (_, (mean, _)), figures = result
    return [*mean.values(), figures["losses"]]


def assert_compiled_is_the_same(update, args):
    quick = fast(update, gear="compiled")
    quick(*args)
    assert quick.report.reason == ""
    for a, b in zip(gradients(quick(*args)), gradients(update(*args)), strict=True):
        assert torch.allclose(a, b, rtol=1e-12, atol=1e-12)


@compiles
@pytest.mark.parametrize(("net", "by_task"), [*((net, True) for net in NETS), ("residual", False)], ids=str)
def test_a_compiled_update_is_the_same(net, by_task, monkeypatch):
    monkeypatch.setattr(program, "_LARGE", 0 if by_task else 2**40)
    update, args = update_of(NETS[net], inner_steps=2 if net == "strided" else 1)
    assert_compiled_is_the_same(update, args)


@compiles
@pytest.mark.parametrize(
    "preset", [algorithms.fomaml, algorithms.anil, algorithms.protonet], ids=["fomaml", "anil", "protonet"]
)
def test_other_members_of_the_family(preset, monkeypatch):
    """Shared bodies and first order: convolutions without an axis of tasks."""
    monkeypatch.setattr(program, "_LARGE", 0)
    torch.manual_seed(0)
    module = strided().double()
    if preset is algorithms.protonet:
        learner = preset(module, n_features=WAY, n_outputs=WAY, batchnorm="transductive")
    else:
        learner = preset(module, loss="cross_entropy", inner_lr=0.3, inner_steps=1, batchnorm="transductive")
    _, (_, numbers, episode, key, phase) = update_of(strided)
    update = meta_update(learner, clip=None)
    args = (Outer.start(learner.init()), numbers, episode, key, phase)
    assert_compiled_is_the_same(update, args)


@compiles
def test_threads_share_the_tasks(monkeypatch):
    monkeypatch.setattr(program, "_LARGE", 0)
    monkeypatch.setattr(program, "_LONG", 0)
    update, args = update_of(pooled)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        quick = fast(update, gear="compiled")
        quick(*args)
        found = {}
        for count in (3, 2, 1, 3):
            torch.set_num_threads(count)
            found.setdefault(count, []).append(gradients(quick(*args)))
    finally:
        torch.set_num_threads(before)
    for several in found.values():
        assert all(
            torch.allclose(a, b, rtol=1e-12, atol=1e-14) for a, b in zip(several[0], found[1][0], strict=True)
        )
    assert all(torch.equal(a, b) for a, b in zip(*found[3], strict=True))


@compiles
def test_threads_read_sums_of_all_tasks(monkeypatch):
    """What tasks add up and all read afterwards is the sum, not the part of it that the reading thread has added."""
    monkeypatch.setattr(program, "_LARGE", 0)
    monkeypatch.setattr(program, "_LONG", 0)
    update, (state, numbers, episode, key, phase) = update_of(strided)
    # as many tasks as channels: what follows the sums looks as if it could be cut by tasks, and is shared out
    args = (state, numbers, select(episode, slice(0, 4)), key[:4], phase)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        assert_compiled_is_the_same(update, args)
    finally:
        torch.set_num_threads(before)


@compiles
def test_in_single_precision_as_near_the_truth_as_eagerly():
    exact, args = update_of(strided)
    truth = gradients(exact(*args))
    update, args = update_of(strided, dtype=torch.float32)
    quick = fast(update, gear="compiled")
    quick(*args)
    scale = max(value.abs().max() for value in truth)

    def error(result):
        return (
            max((a.double() - b).abs().max() for a, b in zip(gradients(result), truth, strict=True)) / scale
        )

    assert error(quick(*args)) <= 3 * error(update(*args)) + 1e-9


def test_a_gradient_that_is_rounding_alone_is_no_disagreement():
    """The bias before BatchNorm has the gradient 0; Adam makes a step of what rounding leaves of it."""
    update, args = update_of(strided, dtype=torch.float32)
    for value in (args[0].meta["0.bias"],):
        value.zero_()
    quick = fast(update, gear="traced")
    quick(*args)
    assert quick.report.gear == "traced", quick.report


def test_convolutions_make_compiling_pay_sooner():
    update, args = update_of(strided)
    leaves, structure = pytree.tree_flatten(args)
    graph, _ = graph_of(update, leaves, structure)
    first, second = 9 * 9 * 2 * 4, 4 * 9 * 4 * 8  # multiplications of one row
    # support and query rows go forward, and back by weights and images; support rows once more in second order
    support = 2 * first + 3 * second + 2 * (first + 2 * second) + first + second
    query = 2 * first + 3 * second
    assert convolutions(graph) == pytest.approx(TASKS * (5 * support + 3 * query), rel=0.35)


NORMS = {
    "batch": lambda: nn.BatchNorm1d(8, track_running_stats=False),
    "layer": lambda: nn.LayerNorm(8),
    "group": lambda: nn.GroupNorm(2, 8),
}


@pytest.mark.parametrize("gear", ["eager", "traced"])
@pytest.mark.parametrize("norm", NORMS)
def test_normalisation_in_second_order(norm, gear):
    """`vmap` around `torch.func.grad` is wrong here (torch 2.13): the meta-gradient is that of a plain loop."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(4, 8), NORMS[norm](), nn.Tanh(), nn.Linear(8, 1)).double()
    learner = il.maml(module, loss="mse", inner_lr=0.1, inner_steps=1, batchnorm="transductive")
    x, y = torch.randn(2, TASKS, 10, 4).double(), torch.randn(2, TASKS, 10, 1).double()
    episode = il.Episode(il.Batch(x[0], y[0]), il.Batch(x[1], y[1]))
    update = fast(meta_update(learner, clip=None), gear=gear)
    start = Outer.start({name: value.detach().clone() for name, value in module.named_parameters()})
    (_, (mean, _)), _ = update(start, numbers_of(0, 1e-3), episode, torch.arange(TASKS), 0)
    params, total = dict(module.named_parameters()), 0

    def loss(params, x, y):
        return nn.functional.mse_loss(torch.func.functional_call(module, params, (x,)), y)

    for task in range(TASKS):
        slopes = torch.autograd.grad(loss(params, x[0, task], y[0, task]), params.values(), create_graph=True)
        fast_ones = {name: value - 0.1 * s for (name, value), s in zip(params.items(), slopes, strict=True)}
        total = total + loss(fast_ones, x[1, task], y[1, task]) / TASKS
    for name, expected in zip(params, torch.autograd.grad(total, params.values()), strict=True):
        assert torch.allclose(mean[name] * 10, expected, rtol=1e-11, atol=1e-13)
