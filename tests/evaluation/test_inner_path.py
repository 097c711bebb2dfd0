"""The path of the inner loop against a loop by hand."""

import math

import pytest
import torch
from torch import nn

import innerloop as il
from innerloop.algorithms import protonet
from innerloop.errors import UsageError
from toolkit.cases import body, net


def rows(count, seed):
    generator = torch.Generator().manual_seed(seed)
    return il.Batch(torch.randn(count, 2, generator=generator), torch.randn(count, 1, generator=generator))


def test_losses_norms_and_predictions_are_those_of_a_loop():
    module, support, query = net(2, 1).double(), rows(6, 1), rows(4, 2)
    learner = il.maml(module, loss="mse", inner_lr=0.1, inner_steps=2)
    path = il.inner_path(il.Model(learner, learner.init()), support, query, steps=4)
    x, y, qx, qy = (t.double() for t in (support.x, support.y, query.x, query.y))
    start = [p.detach().clone() for p in module.parameters()]
    assert path.predictions.shape == (5, 4, 1)
    before = 0.0
    for step, row in path.numbers.iterrows():
        loss = nn.functional.mse_loss(module(x), y)
        slopes = torch.autograd.grad(loss, list(module.parameters()))
        length = math.sqrt(sum(float(s.square().sum()) for s in slopes))
        away = [(p - s).detach() for p, s in zip(module.parameters(), start, strict=True)]
        assert row["support_loss"] == pytest.approx(loss.item(), rel=1e-10)
        assert row["query_loss"] == pytest.approx(nn.functional.mse_loss(module(qx), qy).item(), rel=1e-10)
        assert row["gradient"] == pytest.approx(length, rel=1e-10)
        assert row["moved"] == pytest.approx(math.sqrt(sum(float(a.square().sum()) for a in away)), rel=1e-10)
        assert row["update"] == pytest.approx(0.1 * before, rel=1e-8)
        torch.testing.assert_close(path.predictions[step], module(qx).detach(), rtol=1e-10, atol=1e-12)
        before = length
        with torch.no_grad():
            for parameter, slope in zip(module.parameters(), slopes, strict=True):
                parameter.sub_(0.1 * slope)


def test_a_closed_form_has_a_path_of_one_step_and_no_gradient():
    learner = protonet(body(4), n_features=5, n_outputs=2)
    support = il.Batch(torch.randn(4, 4), torch.tensor([0, 1, 0, 1]))
    path = il.inner_path(il.Model(learner, learner.init()), support)
    assert path.numbers["step"].tolist() == [0, 1]
    assert path.numbers["gradient"].isna().all()
    assert path.numbers["query_loss"].isna().all()
    assert path.predictions.shape == (2, 4, 2)


def test_a_learner_is_no_model():
    with pytest.raises(UsageError, match="is no model"):
        il.inner_path(il.maml(net(2, 1), loss="mse"), rows(3, 0))


def test_the_figure_shows_the_numbers():
    mpl = pytest.importorskip("matplotlib")
    mpl.use("agg")
    learner = il.maml(net(2, 1), loss="mse", inner_steps=3)
    path = il.inner_path(il.Model(learner, learner.init()), rows(6, 1), rows(4, 2))
    ax = il.figures.inner_path(path.numbers)
    drawn = [line.get_ydata().tolist() for line in ax.lines]
    assert drawn == [path.numbers["support_loss"].tolist(), path.numbers["query_loss"].tolist()]
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["support rows", "query rows"]
    mpl.pyplot.close("all")
