"""What comes before the layer that adapts is computed once for all inner steps, and only where that changes nothing."""

import pytest
import torch
from torch import nn

import innerloop as il
from innerloop.algorithms import anil, gradient_learner
from innerloop.inner import sgd
from innerloop.outer import unrolled


class Body(nn.Module):
    """A body and a head, as people write them; `tied` reads the head's weight before the head is called."""

    def __init__(self, *, tied: bool = False, dropout: float = 0.0, twice: bool = False) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Dropout(dropout))
        self.head = nn.Linear(6, 3)
        self.tied, self.twice = tied, twice

    def forward(self, x):
        features = self.body(x)
        if self.tied:
            features = features * self.head.weight.sum(0)
        return self.head(features) + (self.head(features.flip(-1)) if self.twice else 0)


def episode():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 3, 5, 4, generator=generator, dtype=torch.float64)
    y = torch.randint(3, (2, 3, 5), generator=generator)
    return il.Episode(il.Batch(x[0], y[0]), il.Batch(x[1], y[1]))


def by_loop(module, episode, *, steps, rate):
    """ANIL task by task: the whole model at every step, as published."""
    loss = nn.functional.cross_entropy
    body = dict(module.named_parameters())
    total = 0.0
    for task in range(episode.n_tasks):
        fast = {name: body[name] for name in ("head.weight", "head.bias")}
        for _ in range(steps):
            out = torch.func.functional_call(module, {**body, **fast}, (episode.support.x[task],))
            slopes = torch.autograd.grad(
                loss(out, episode.support.y[task]), list(fast.values()), create_graph=True
            )
            fast = {n: v - rate * s for (n, v), s in zip(fast.items(), slopes, strict=True)}
        out = torch.func.functional_call(module, {**body, **fast}, (episode.query.x[task],))
        total = total + loss(out, episode.query.y[task]) / episode.n_tasks
    grads = torch.autograd.grad(total, list(body.values()))
    return dict(zip(body, grads, strict=True))


@pytest.mark.parametrize("gear", ["eager", "traced"])
@pytest.mark.parametrize("options", [{}, {"tied": True}, {"twice": True}], ids=str)
def test_the_gradient_is_that_of_the_whole_model_at_every_step(options, gear):
    torch.manual_seed(1)
    module = Body(**options).double()
    learner = anil(module, loss="cross_entropy", inner_lr=0.3, inner_steps=4)
    function = il.fast(lambda meta, episode: learner.metagrad(learner, meta, episode)[0], gear=gear)
    found = function(learner.init(), episode())
    assert function.report.gear == gear
    for name, expected in by_loop(module, episode(), steps=4, rate=0.3).items():
        torch.testing.assert_close(found[name], expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    ("options", "shared"),
    [({}, "head"), ({"tied": True}, ""), ({"twice": True}, ""), ({"dropout": 0.5}, "")],
    ids=str,
)
def test_the_layer_is_found_where_nothing_before_it_depends_on_it(options, shared):
    learner = anil(Body(**options).double(), loss="cross_entropy", inner_lr=0.3, inner_steps=4)
    meta, rows = learner.init(), episode()
    assert learner.network.entry(learner.fast, meta, rows.support.x) == shared


def test_the_graph_goes_back_through_the_body_once_for_all_inner_steps():
    torch.manual_seed(1)
    counts = {}
    for adapt in ("head", "all"):
        for steps in (2, 6):
            learner = gradient_learner(
                Body().double(), "cross_entropy", sgd(0.3), steps, metagrad=unrolled(), adapt=adapt
            )
            losses = learner.loss
            meta = {n: v.requires_grad_() for n, v in learner.init().items()}
            adapted = learner.adapt(meta, episode().support)
            nodes, seen = [losses(meta, adapted, episode().query).sum().grad_fn], set()
            while nodes:
                node = nodes.pop()
                if node is not None and node not in seen:
                    seen.add(node)
                    nodes += [following for following, _ in node.next_functions]
            counts[adapt, steps] = sum("Tanh" in node.name() for node in seen)
    assert counts["head", 2] == counts["head", 6] == 2  # support rows and query rows
    assert counts["all", 6] > counts["all", 2]


def test_no_rows_are_left_alone():
    learner = anil(Body().double(), loss="cross_entropy", inner_lr=0.3, inner_steps=4)
    meta, rows = learner.init(), episode()
    none = il.Batch(rows.support.x[:, :0], rows.support.y[:, :0])
    assert learner.adapt(meta, none)["head.bias"].shape == (3, 3)
    assert learner.network._entries == {}
