"""One graph of adaptation and prediction for any number of rows: equal to the model, for every algorithm."""

import pytest
import torch
from torch import nn

import innerloop as il
from innerloop.engine.open_graph import open_graph
from innerloop.engine.trace import Untraceable
from innerloop.errors import UsageError
from innerloop.inner.adaptation import adaptation, require_row_by_row
from toolkit.cases import CASES
from toolkit.oracles import generic, unpadded

pytestmark = pytest.mark.long


def graph_of(model, x, y, query):
    adapted = adaptation(model)
    given = [torch.cat([part] * 9)[:rows] for part, rows in ((x, 17), (y, 17), (query, 19))]
    return open_graph(lambda *rows: [part for part in adapted(*rows) if part is not None], *given)


def differs(case):
    """Whether the graph of a case has parts of its own: losses are no part of a step along a gradient but MAML's."""
    return case.kind == "regression" or case.algorithm == "maml" or not case.make().adapts_by_gradient


EACH = {f"{case.algorithm}-{case.kind}": case for case in CASES if differs(case)}


@pytest.mark.parametrize("case", EACH.values(), ids=EACH)
def test_one_graph_serves_any_number_of_rows(case):
    learner = case.make()
    meta = generic(learner)
    if learner.adapts_by_gradient and learner.inner_steps > 2:  # later steps are as the second
        learner = learner.with_inner_steps(2)
    model = il.Model(learner, meta)
    x, y = unpadded(case.episode.support, 0)
    query = unpadded(case.episode.query, 0)[0]
    graph = graph_of(model, x, y, query)
    for rows, asked in ((0, 1), (1, 3), (len(x), len(query))):
        prediction, *variance = graph(x[:rows], y[:rows], query[:asked])
        task = model.adapt(x[:rows], y[:rows]) if rows else model.base()
        torch.testing.assert_close(prediction, task(query[:asked]), rtol=1e-9, atol=1e-9)
        if variance:
            torch.testing.assert_close(
                variance[0].sqrt(), task.deviation(query[:asked]), rtol=1e-9, atol=1e-9
            )


def test_a_module_that_decides_by_values_has_no_graph():
    class Deciding(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(1, 1)

        def forward(self, x):
            return self.layer(x) if x.sum() > 0 else self.layer(-x)

    learner = il.maml(Deciding(), loss="mse", mapping="loop")
    with pytest.raises(Untraceable, match="no graph"):
        graph_of(il.Model(learner, learner.init()), torch.ones(3, 1), torch.ones(3, 1), torch.ones(2, 1))


def test_rows_that_are_predicted_together_are_refused():
    net = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Linear(3, 1))
    learner = il.maml(net, loss="mse", batchnorm="transductive")
    with pytest.raises(UsageError, match="from the rows that are asked with it"):
        require_row_by_row(il.Model(learner, learner.init()), torch.randn(4, 2))
