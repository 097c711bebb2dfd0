"""Predictions meet their targets: what broadcasting would make something else is refused, whatever scores it."""

import pandas as pd
import pytest
import torch
from torch import nn

import innerloop as il
from innerloop.errors import DataError, UsageError
from innerloop.models import task_losses
from innerloop.tasks.episodes import Batch


def tasks():
    x = torch.linspace(-2, 2, 80, dtype=torch.float64)
    return il.tasks.open(
        {"x": x[:, None].numpy(), "y": (3 * x).numpy(), "task": torch.arange(80).numpy() % 8}
    )


def batch(*shape):
    return Batch(torch.zeros(2, 5, 1), torch.ones(2, 5, *shape))


@pytest.mark.parametrize(("prediction", "target"), [((), (1,)), ((1,), ()), ((3, 1), (3,))])
def test_one_value_too_little_or_too_much_around_a_row_is_refused_by_every_loss(prediction, target):
    output = torch.zeros(2, 5, *prediction)
    for loss in ("mse", lambda p, y: (p - y) ** 2, lambda p, y: ((p - y) ** 2).mean()):
        with pytest.raises(DataError, match="predictions have shape"):
            task_losses(loss, output, batch(*target))


def test_a_loss_of_dicts_is_refused_where_it_compares_each_row_with_each():
    output = {"mean": torch.zeros(2, 5), "log": torch.zeros(2, 5)}
    with pytest.raises(DataError, match=r"a dict of 'mean', 'log'"):
        task_losses(lambda p, y: (p["mean"] - y) ** 2, output, batch(1))
    assert task_losses(lambda p, y: (p["mean"] - y[:, 0]) ** 2, output, batch(1)).tolist() == [1.0, 1.0]


def test_losses_of_any_shape_that_mean_something_stay():
    two = torch.zeros(2, 5, 2)  # mean and log variance

    def nll(p, y):
        return ((p[:, :1] - y) ** 2 * torch.exp(-p[:, 1:]) + p[:, 1:]).mean(-1)

    assert task_losses(nll, two, batch(1)).tolist() == [1.0, 1.0]
    assert task_losses(lambda p, y: (p - y) ** 2, torch.zeros(2, 5, 5), batch(5)).tolist() == [1.0, 1.0]
    text = torch.zeros(2, 5, 4, 7), Batch(torch.zeros(2, 5, 4), torch.zeros(2, 5, 4, dtype=torch.int64))

    def letters(p, y):
        return nn.functional.cross_entropy(p.flatten(0, 1), y.flatten(), reduction="none")

    assert torch.allclose(task_losses(letters, *text), torch.tensor(7.0).log())


def test_a_loss_that_loses_rows_is_refused_where_tasks_are_padded():
    weight = torch.tensor([[1.0] * 5, [1.0] * 4 + [0.0]])
    with pytest.raises(DataError, match="one value a row"):
        task_losses(lambda p, y: (p - y)[:3, 0] ** 2, torch.zeros(2, 5, 1), batch(1)._replace(weight=weight))


def test_fewer_outputs_than_classes_are_named():
    rows = Batch(torch.zeros(2, 3, 1), torch.tensor([[0, 1, 2], [0, 1, 1]]))
    with pytest.raises(DataError, match=r"2 outputs.*up to 2.*one output a class"):
        task_losses("cross_entropy", torch.zeros(2, 3, 2), rows)
    with pytest.raises(DataError, match=r"logits have shape \(2, 3\)"):
        task_losses("cross_entropy", torch.zeros(2, 3), rows)


class Two(nn.Module):
    """Mean and log variance, as columns or by name."""

    def __init__(self, named):
        super().__init__()
        self.named, self.linear = named, nn.Linear(1, 2)

    def forward(self, x):
        y = self.linear(x)
        return {"mean": y[:, :1], "log": y[:, 1:]} if self.named else y


@pytest.mark.parametrize("named", [False, True])
def test_outputs_beside_the_prediction_are_never_scored_as_predictions(named):
    def nll(p, y):
        mean, log = (p["mean"], p["log"]) if named else (p[:, :1], p[:, 1:])
        return ((mean - y) ** 2 * torch.exp(-log) + log).mean(-1)

    data = tasks()
    run = il.meta_train(il.maml(Two(named), loss=nll), data.train, valid=data.valid, steps=2, device="cpu")
    with pytest.raises(DataError, match="a dict of 'mean', 'log'" if named else r"2\) but targets"):
        il.evaluate(run.model, data.test)


@pytest.mark.parametrize(
    "learner", [il.mixed(1), il.ridge(nn.Linear(1, 3), n_features=3, n_outputs=1)], ids=["mixed", "ridge"]
)
def test_heads_take_targets_as_columns_only(learner):
    model = il.Model(learner, learner.init())
    x, y = torch.arange(4.0)[:, None], torch.arange(4.0)
    with pytest.raises(DataError, match=r"targets have \(1, 4\)"):
        model.adapt(x, y)
    assert model.adapt(x, y[:, None])(x).shape == (4, 1)


def test_first_mistakes_get_the_sentence_that_leads_on():
    data, learner = tasks(), il.maml(il.models.mlp(1, [4], 1), loss="mse")
    run = il.meta_train(learner, data.train, steps=1, device="cpu")
    mistakes = {
        "give tasks.train": lambda: il.meta_train(learner, data, steps=1),
        "give tasks.valid": lambda: il.meta_train(learner, data.train, valid=data, steps=1),
        "give tasks.test": lambda: il.evaluate(run.model, data),
        "as in run.model": lambda: il.evaluate(run, data.test),
        r"il.Model\(learner, meta\)": lambda: il.evaluate(learner, data.test),
        "a list is no source": lambda: il.evaluate(run.model, [1]),
        "Sequential is no learner": lambda: il.meta_train(il.models.mlp(1, [4], 1), data.train, steps=1),
        "run the model once": lambda: il.maml(nn.LazyLinear(1), loss="mse"),
        "give its .module": lambda: il.maml(nn.DataParallel(nn.Linear(1, 1)), loss="mse"),
        "not type": lambda: il.maml(nn.Linear, loss="mse"),
        r"a row has shape \(1,\)": lambda: il.meta_train(
            il.maml(nn.Linear(5, 1), loss="mse"), data.train, steps=1, device="cpu"
        ),
    }
    for sentence, mistake in mistakes.items():
        with pytest.raises((UsageError, DataError), match=sentence):
            mistake()


def test_classes_need_logits_of_each_row():
    frame = pd.DataFrame({"who": [i // 8 for i in range(64)], "x": range(64), "y": ["u", "v"] * 32})
    data = il.tasks.open(frame, task="who", target="y")
    with pytest.raises(DataError, match="one output a class"):
        il.meta_train(
            il.maml(il.models.mlp(1, [4], 1), loss="cross_entropy"), data.train, steps=1, device="cpu"
        )


def test_cross_entropy_of_tasks_without_rows_is_zero() -> None:
    none = Batch(torch.zeros(2, 0, 1), torch.zeros(2, 0, dtype=torch.int64))
    assert task_losses("cross_entropy", torch.zeros(2, 0, 3), none).tolist() == [0.0, 0.0]
