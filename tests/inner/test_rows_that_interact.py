"""Models whose rows see each other are never given padding, and the leak test finds them."""

from functools import partial

import pytest
import torch
from torch import nn

import innerloop as il
from innerloop import algorithms as a
from innerloop.cli import run as command
from innerloop.evaluation import evaluate, query_dependence
from innerloop.inner import Model
from innerloop.inner.batched import predict_tasks
from innerloop.inner.learner import without_padding
from innerloop.models.network import Network
from innerloop.outer.mean_loss import mean_loss
from innerloop.outer.prefetch import task_keys
from innerloop.tasks.episodes import Batch, Episode, select, stack
from innerloop.tasks.support import SupportSize, Targets
from toolkit.oracles import class_episode, doubled, largest_error, within
from toolkit.sources import FixedSource


class Centred(nn.Module):
    """A layer that subtracts the mean of the rows at hand."""

    def forward(self, x):
        return x - x.mean(0)


class Among(nn.Module):
    """Attention of each row to all rows."""

    def forward(self, x):
        return x + torch.softmax(x @ x.mT, -1) @ x


def net(*layers, n_out=3):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), *layers, nn.Tanh(), nn.Linear(6, n_out))


INTERACTING = {"centred": Centred, "attention": Among}
INDEPENDENT = {
    "plain": nn.Identity,
    "batch norm": lambda: nn.BatchNorm1d(6),
    "layer norm": lambda: nn.LayerNorm(6),
    "group norm": lambda: nn.GroupNorm(2, 6),
    "dropout": lambda: nn.Dropout(0.5),
}


@pytest.mark.parametrize("name", [*INTERACTING, *INDEPENDENT])
def test_the_probe_finds_modules_whose_rows_interact(name):
    layer = (INTERACTING | INDEPENDENT)[name]()
    module = net(layer)
    nn.init.zeros_(module[-1].weight)  # hides the interaction, as the head of an n-way model does
    network = Network(module)
    assert network.rows_interact(class_episode().query.x) == (name in INTERACTING)
    assert network.rows_interact(torch.zeros(1, 2, 4)) == (name in INTERACTING), "found once"


def ragged():
    whole = class_episode(tasks=4, shots=2, queries=4)
    sizes = [(6, 12), (4, 7), (6, 12), (5, 12)]
    return [
        Episode(*(Batch(b.x[t, :n], b.y[t, :n]) for b, n in zip(whole, size, strict=True)))
        for t, size in enumerate(sizes)
    ]


MAKE = {
    "maml": lambda layer: a.maml(net(layer), loss="cross_entropy", inner_lr=0.1, inner_steps=2),
    "reptile": lambda layer: a.reptile(net(layer), loss="cross_entropy", inner_lr=0.1),
    "imaml": lambda layer: a.imaml(net(layer), loss="cross_entropy", inner_steps=3),
    "bmaml": lambda layer: a.bmaml(net(layer), loss="cross_entropy", particles=2),
    "protonet": lambda layer: a.protonet(net(layer, n_out=5), n_features=5, n_outputs=3),
    "per_step": lambda layer: a.maml(
        net(layer, nn.BatchNorm1d(6)), loss="cross_entropy", inner_lr=0.1, batchnorm="per_step"
    ),
}


@pytest.mark.parametrize("layer", INTERACTING)
@pytest.mark.parametrize("name", MAKE)
def test_tasks_of_different_sizes_are_as_each_by_itself(name, layer):
    learner = MAKE[name](INTERACTING[layer]())
    meta, alone = doubled(learner.init()), ragged()
    key = task_keys(4, torch.Generator().manual_seed(0))
    found, figures = learner.metagrad(learner, meta, stack(alone), 0, key)
    parts = [learner.metagrad(learner, meta, stack([e]), 0, key[t : t + 1]) for t, e in enumerate(alone)]
    mean = {entry: sum(grad[entry] for grad, _ in parts) / 4 for entry in meta}
    within(largest_error(found, mean), 1e-12)
    for entry, value in figures.items():
        each = [part[entry] for _, part in parts]
        truth = sum(each) / 4 if entry.startswith("state/") else torch.cat(each)
        assert torch.allclose(value, truth, rtol=1e-11, atol=1e-13)


fixed = partial(FixedSource, targets=Targets("classification", 3), support=SupportSize(2, 2))


@pytest.mark.parametrize("case", ["centred", "transductive"])
def test_scores_and_predictions_do_not_see_padding(case):
    """Under `transductive` BatchNorm a padded row would otherwise enter the statistics of a prediction."""
    if case == "centred":
        learner = a.maml(net(Centred()), loss="cross_entropy", inner_lr=0.1)
    else:
        learner = a.maml(net(nn.BatchNorm1d(6)), loss="cross_entropy", batchnorm="transductive")
    model, alone = Model(learner, doubled(learner.init())), ragged()
    whole = evaluate(model, fixed(stack(alone)))
    for t, task in enumerate(alone):
        one = evaluate(model, fixed(stack([task])))
        place = whole.ids.index(f"task {t}")
        for name in ("loss", "accuracy"):
            within(abs(whole.values[name][place] - one.values[name][0]).max(), 1e-12)
    losses = [mean_loss(model, fixed(stack([task]))) for task in alone]
    within(abs(mean_loss(model, fixed(stack(alone))) - sum(losses) / 4), 1e-12)
    found = predict_tasks(model, [e.support for e in alone], [e.query.x for e in alone])
    for task, prediction in zip(alone, found, strict=True):
        truth = model.adapt(task.support.x, task.support.y)(task.query.x)
        within((prediction - truth).abs().max(), 1e-12)


def test_the_leak_test_tells_dependent_predictions_from_independent_ones():
    episode = class_episode()
    source = fixed(select(episode, slice(None)))

    def dependence(layer, **options):
        learner = a.maml(net(layer), loss="cross_entropy", inner_lr=0.1, **options)
        return query_dependence(Model(learner, doubled(learner.init())), source)

    within(dependence(nn.Identity()), 1e-12)
    within(dependence(nn.BatchNorm1d(6)), 1e-12)
    within(dependence(nn.BatchNorm1d(6), batchnorm="per_step"), 1e-12)
    assert dependence(nn.BatchNorm1d(6), batchnorm="transductive") > 1e-2
    assert dependence(Centred()) > 1e-2


def test_the_command_says_whether_predictions_depend_on_each_other(tmp_path, capsys):
    run = str(tmp_path / "run")
    assert command(["train", "sinusoid", "--steps", "1", "--out", run, "--quiet"]) == 0
    capsys.readouterr()
    assert command(["evaluate", run, "--quiet"]) == 0
    assert "does not change with the other queries" in capsys.readouterr().out
    assert command(["evaluate", run, "--quiet", "--json"]) == 0
    assert '"query_dependence": ' in capsys.readouterr().out


def test_the_leak_test_is_public():
    assert il.query_dependence is query_dependence


def test_a_single_query_row_beside_padded_support_rows_is_enough() -> None:
    """Two rows are needed to try whether rows interact: where the query has one, the support rows are tried."""
    support = Batch(torch.randn(1, 3, 2), torch.randn(1, 3, 1), torch.tensor([[1.0, 1.0, 0.0]]))
    query = Batch(torch.randn(1, 1, 2), torch.randn(1, 1, 1), torch.ones(1, 1))
    learner = il.maml(il.models.mlp(2, [4], 1), loss="mse", inner_steps=1)
    ((positions, part),) = without_padding(learner, Episode(support, query))
    assert positions == [0]
    assert part.query.y.shape == (1, 1, 1)
