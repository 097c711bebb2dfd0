"""Many tasks in stacks: each result is that of the task alone."""

import math

import pytest
import torch
from torch import nn

from innerloop import models
from innerloop.algorithms import fomaml, gaussian, gp, maml, mixed, protonet, ridge
from innerloop.inner import Model
from innerloop.inner.batched import adapt_tasks, deviations, predict_adapted, predict_tasks, support_losses
from innerloop.inner.per_task import per_task
from innerloop.tasks.episodes import Batch
from toolkit.oracles import doubled, within


def features():
    return models.mlp(3, [6], None)


LEARNERS = {
    "maml": (1, lambda: maml(models.mlp(3, [6], 1), loss="mse", learn_lr="tensor")),
    "first order, head": (1, lambda: fomaml(models.mlp(3, [6], 1), loss="mse", adapt="head")),
    "batchnorm": (1, lambda: maml(nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1)), loss="mse")),
    "maml of classes": (4, lambda: maml(models.mlp(3, [6], 4), loss="cross_entropy")),
    "scaled in the task": (1, lambda: per_task(mixed(3), features=[True] * 3, n_targets=1)),
    "mixed": (1, lambda: mixed(3)),
    "gp": (1, lambda: gp(3)),
    "gp of classes": (4, lambda: gp(3, 4, kind="classification")),
    "ridge": (1, lambda: ridge(features(), n_features=6)),
    "gaussian": (1, lambda: gaussian(features(), n_features=6)),
    "protonet": (4, lambda: protonet(features(), n_features=6, n_outputs=4)),
}  # fmt: skip


def tasks_of(outputs: int, sizes: list[int]) -> tuple[list[Batch], list[torch.Tensor]]:
    generator = torch.Generator().manual_seed(4)

    def rows(n: int) -> torch.Tensor:
        return torch.randn(n, 3, generator=generator, dtype=torch.float64)

    supports = []
    for n in sizes:
        x = rows(n)
        supports.append(
            Batch(x, torch.arange(n) % outputs if outputs > 1 else x[:, :1].sin() + len(supports))
        )
    return supports, [rows(1 + number % 4) for number in range(len(sizes))]


@pytest.mark.parametrize("name", LEARNERS)
def test_each_deviation_and_support_loss_is_that_of_the_task_alone(name, monkeypatch) -> None:
    monkeypatch.setattr("innerloop.inner.batched._AT_ONCE", 2)
    outputs, make = LEARNERS[name]
    learner = make()
    model = Model(learner, doubled(learner.init()))
    supports, queries = tasks_of(outputs, [5, 2, 3, 5])
    alone = [model.adapt(support.x, support.y) for support in supports]
    losses = [
        learner.loss(model.meta, task.own, Batch(support.x[None], support.y[None])).item()
        for task, support in zip(alone, supports, strict=True)
    ]
    assert support_losses(alone, supports) == pytest.approx(losses, rel=1e-9)
    found = deviations(alone, queries)
    if name not in ("mixed", "gaussian", "gp", "scaled in the task"):
        assert found is None
        return
    for task, x, own in zip(alone, queries, found, strict=True):
        torch.testing.assert_close(own, task.deviation(x))


def test_a_task_without_a_row_has_no_support_loss() -> None:
    learner = mixed(3)
    model = Model(learner, doubled(learner.init()))
    (full,), _ = tasks_of(1, [4])
    none = Batch(full.x[:0], full.y[:0])
    losses = support_losses(adapt_tasks(model, [none, full]), [none, full])
    assert math.isnan(losses[0])
    assert losses[1] == losses[1]


@pytest.mark.parametrize("name", LEARNERS)
def test_each_task_is_adapted_and_predicted_as_alone(name, monkeypatch) -> None:
    monkeypatch.setattr("innerloop.inner.batched._AT_ONCE", 5)  # several stacks of several sizes
    outputs, make = LEARNERS[name]
    learner = make()
    model = Model(learner, doubled(learner.init()))
    supports, queries = tasks_of(outputs, [5, 2, 3, 5, 2, 7, 3, 3, 1, 5, 8, 2])
    alone = [model.adapt(support.x, support.y) for support in supports]
    together = adapt_tasks(model, supports)
    at_once = predict_tasks(model, supports, queries)
    again = predict_adapted(alone, queries)
    for one, adapted, x, prediction, same in zip(alone, together, queries, at_once, again, strict=True):
        assert one.own.keys() == adapted.own.keys()
        for key, value in one.own.items():
            within((value - adapted.own[key]).abs().max(), 1e-10)
        for other in (adapted(x), prediction, same):
            within((one(x) - other).abs().max(), 1e-10)


@pytest.mark.parametrize("name", ["maml", "mixed", "protonet"])
def test_tasks_without_values_of_their_own_are_predicted_by_the_base(name) -> None:
    outputs, make = LEARNERS[name]
    learner = make()
    model = Model(learner, doubled(learner.init()))
    supports, queries = tasks_of(outputs, [4, 0, 2])
    tasks = [model.adapt(*supports[0][:2]), model.base(), model.adapt(*supports[2][:2])]
    for one, x, prediction, without in zip(
        tasks, queries, predict_adapted(tasks, queries), predict_tasks(model, supports, queries), strict=True
    ):
        within((one(x) - prediction).abs().max(), 1e-12)
        within((one(x) - without).abs().max(), 1e-10)


def test_steps_are_those_asked_for() -> None:
    learner = LEARNERS["maml"][1]()
    model = Model(learner, doubled(learner.init()))
    (support,), (x,) = tasks_of(1, [4])
    (none,), (two,) = (adapt_tasks(model, [support], steps=steps) for steps in (0, 2))
    within((none(x) - model.base()(x)).abs().max(), 1e-12)
    within((two(x) - model.adapt(support.x, support.y, steps=2)(x)).abs().max(), 1e-12)


def test_no_task_gives_nothing() -> None:
    learner = mixed(3)
    model = Model(learner, learner.init())
    assert adapt_tasks(model, []) == predict_tasks(model, [], []) == predict_adapted([], []) == []


@pytest.mark.parametrize("large", ["support", "query"])
def test_one_large_task_does_not_fill_up_the_small_ones(large, monkeypatch) -> None:
    most = 300
    monkeypatch.setattr("innerloop.inner.batched.ROWS_AT_ONCE", most)
    sizes = [3, 100, *[3] * 40] if large == "support" else [3] * 42
    supports, queries = tasks_of(1, sizes)
    if large == "query":
        queries[1] = torch.randn(250, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    learner = mixed(3)
    model, seen = Model(learner, doubled(learner.init())), []
    predict = learner.predict

    def spy(meta, adapted, x, **options):
        seen.append(x.shape[:2])
        return predict(meta, adapted, x, **options)

    object.__setattr__(learner, "predict", spy)
    at_once = predict_tasks(model, supports, queries)
    assert sum(count for count, _ in seen) == 42
    assert len(seen) < 10  # still many at a time
    assert all(count == 1 or count * rows <= most for count, rows in seen)
    for support, x, prediction in zip(supports, queries, at_once, strict=True):
        within((model.adapt(support.x, support.y)(x) - prediction).abs().max(), 1e-10)


def test_wide_rows_make_smaller_stacks(monkeypatch) -> None:
    monkeypatch.setattr("innerloop.inner.batched._VALUES_AT_ONCE", 60)
    learner = mixed(3)
    model, seen = Model(learner, doubled(learner.init())), []
    supports, queries = tasks_of(1, [2] * 8)
    predict = learner.predict
    object.__setattr__(learner, "predict", lambda *a, **o: seen.append(a[2].numel()) or predict(*a, **o))
    predict_tasks(model, supports, queries)
    assert len(seen) > 1
    assert max(seen) <= 60
