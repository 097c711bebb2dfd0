"""Rows that know some of several targets: every algorithm uses them for those targets, and for nothing else."""

from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
import torch
from torch import Tensor

import innerloop as il
from innerloop.algorithms import ALGORITHMS, build, per_target
from innerloop.algorithms.assemble import learner_for
from innerloop.algorithms.baselines import BASELINES
from innerloop.engine import fast
from innerloop.errors import UsageError
from innerloop.inner.learner import Learner
from innerloop.inner.per_target import of_target
from innerloop.models.losses import task_losses
from innerloop.outer.update import meta_gradient
from innerloop.tasks.episodes import Batch, Episode, stack, to
from innerloop.tasks.splits import Tasks

# what predicts classes only
_CLASSES = ("protonet", "protomaml", "class_means", "two_covariance")
_NAMES = sorted({*ALGORITHMS, *BASELINES} - {*_CLASSES})


@cache
def tasks() -> Tasks:
    """Tasks with two targets, of which most rows know one."""
    rng = np.random.default_rng(0)
    x, who = rng.normal(size=(240, 2)), np.arange(240) // 10
    level = rng.normal(size=24)[who]
    y = np.stack([x[:, 0] + level, x[:, 1] - 2 * level], 1) + 0.1 * rng.normal(size=(240, 2))
    y[np.arange(240) % 3 == 0, 1] = np.nan
    y[np.arange(240) % 4 == 1, 0] = np.nan
    return il.tasks.arrays(x, y, who, n_support=5)


def learner(name: str) -> Learner:
    """The learner of an algorithm for them, small and in double precision."""
    own = {"hidden": (6,)} if "module" in (ALGORITHMS.get(name) or BASELINES[name]).__annotations__ else {}
    return learner_for(tasks(), algorithm=name, **own)


def episode(*, seed: int = 0) -> Episode:
    """Four stacked tasks in double precision."""
    generator = torch.Generator().manual_seed(seed)
    return to(tasks().train.sample(4, generator), "cpu", torch.float64)


def double(learner: Learner) -> dict[str, Tensor]:
    """Fresh meta-parameters, no two alike, in double precision."""
    generator = torch.Generator().manual_seed(1)
    return {
        name: value.double() + 0.1 * torch.rand(value.shape, generator=generator, dtype=torch.float64)
        if value.is_floating_point()
        else value
        for name, value in learner.init().items()
    }


def test_the_loss_is_the_mean_over_known_values() -> None:
    rng = np.random.default_rng(0)
    prediction, target = rng.normal(size=(2, 5, 3)), rng.normal(size=(2, 5, 3))
    target[rng.random(target.shape) < 0.5] = np.nan
    weight = np.array([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
    batch = Batch(torch.zeros(2, 5, 1), torch.from_numpy(target), torch.from_numpy(weight).double())
    got = task_losses("known_mse", torch.from_numpy(prediction), batch)
    expected = []
    for own, true, rows in zip(prediction, target, weight, strict=True):
        values = [
            (own[row, column] - true[row, column]) ** 2
            for row in range(5)
            for column in range(3)
            if rows[row] and not np.isnan(true[row, column])
        ]
        expected.append(np.mean(values))
    np.testing.assert_allclose(got.numpy(), expected, rtol=1e-12)


def test_all_known_is_the_squared_error() -> None:
    rows = Batch(torch.zeros(2, 4, 1), torch.rand(2, 4, 2), torch.tensor([[1.0, 1, 1, 1], [1, 1, 0, 0]]))
    prediction = torch.rand(2, 4, 2)
    torch.testing.assert_close(
        task_losses("known_mse", prediction, rows), task_losses("mse", prediction, rows)
    )


# not those that choose a strength on random halves of the rows, which are others where padding differs
@pytest.mark.parametrize("name", ["mixed", "gp", "boosted_mixed", "pooled"])
def test_each_target_is_fitted_as_by_itself(name: str) -> None:
    """Model and predictions are those of a learner of one target on the rows that know it."""
    together = learner(name)
    joint = il.meta_train(together, tasks().train, device="cpu").model
    rows = tasks().train.whole()
    for target in range(2):
        single = together.learner
        known = ~rows.y[..., target].isnan()
        known = known if rows.weight is None else known & (rows.weight > 0)
        widest = int(known.sum(1).max())
        x, y = torch.zeros(len(known), widest, 2), torch.zeros(len(known), widest, 1)
        weight = torch.zeros(len(known), widest)
        for task, own in enumerate(known):  # the rows of the task that know the target, alone
            count = int(own.sum())
            x[task, :count], y[task, :count, 0] = rows.x[task][own], rows.y[task, own, target]
            weight[task, :count] = 1
        fitted = single.fit(single.init(), Batch(x, y, weight))
        alone = il.Model(single, fitted)
        support, query = tasks().test.whole(), torch.rand(7, 2)
        here = ~support.y[0, :5, target].isnan()
        expected = alone.adapt(support.x[0, :5][here], support.y[0, :5, target : target + 1][here])(query)
        got = joint.adapt(support.x[0, :5], support.y[0, :5])(query)[:, target : target + 1]
        torch.testing.assert_close(got, expected, rtol=1e-3, atol=1e-3)


def test_a_mixed_model_is_the_ridge_of_each_target_in_numpy() -> None:
    """What a task adapts to is, for each target, the posterior mean of Gaussian coefficients in float64."""
    both = per_target(il.mixed(2, covariance="full"), 2)
    meta, rows = double(both), episode()
    adapted = both.adapt(meta, rows.support)
    said = both.predict(meta, adapted, rows.query.x).numpy()
    for target in range(2):
        mean, raw = (meta[f"target_{target}/head/{name}"].numpy() for name in ("mean", "root"))
        root = np.tril(raw, -1) + np.diag(np.exp(np.diag(raw)))
        for task in range(4):
            y = rows.support.y[task, :, target].numpy()
            here = ~np.isnan(y)
            design = np.column_stack([rows.support.x[task].numpy(), np.ones(len(y))])[here]
            precision = np.linalg.inv(root @ root.T)
            weights = np.linalg.solve(
                precision + design.T @ design, precision @ mean + design.T @ y[here][:, None]
            )
            query = np.column_stack([rows.query.x[task].numpy(), np.ones(rows.query.x.shape[1])])
            np.testing.assert_allclose(said[task, :, target], (query @ weights)[:, 0], atol=1e-9)


@pytest.mark.parametrize("name", _NAMES)
def test_a_value_that_is_not_known_has_no_influence(name: str) -> None:
    """Predictions, losses and gradients are finite, and those of a task alone equal those in a padded stack."""
    each = learner(name)
    assert each.takes_partial
    meta, rows = double(each), episode()
    torch.manual_seed(0)
    gradients, metrics = each.metagrad(each, meta, rows)
    assert all(bool(value.isfinite().all()) for value in (*gradients.values(), metrics["losses"]))
    adapted = each.adapt(meta, rows.support)
    losses = each.loss(meta, adapted, rows.query)
    assert bool(losses.isfinite().all())
    one = Episode(*(Batch(batch.x[0, :4], batch.y[0, :4]) for batch in rows))
    other = Episode(*(Batch(batch.x[1], batch.y[1]) for batch in rows))
    padded = stack([one, other])
    assert padded.support.weight is not None
    whole = each.adapt(meta, padded.support)
    alone = stack([one])
    own = each.adapt(meta, alone.support)
    expected = each.loss(meta, own, alone.query)
    torch.testing.assert_close(each.loss(meta, whole, padded.query)[:1], expected, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("name", ["maml", "mixed", "anil"])
def test_rows_that_know_all_but_one_target_count_for_the_others(name: str) -> None:
    """A support row without the second target changes what is said of the first."""
    each = learner(name)
    meta, rows = double(each), episode()
    knows_first = rows.support._replace(y=rows.support.y.clone())
    knows_first.y[:, 0] = torch.tensor([3.0, torch.nan])
    changed = knows_first._replace(y=knows_first.y.clone())
    changed.y[:, 0, 0] = -3.0
    with torch.no_grad():
        first, second = (
            each.predict(meta, each.adapt(meta, support), rows.query.x) for support in (knows_first, changed)
        )
    assert (first - second)[..., 0].abs().min().item() > 1e-3
    if name == "mixed":
        torch.testing.assert_close(first[..., 1], second[..., 1], rtol=0, atol=0)


@pytest.mark.parametrize("name", ["maml", "ridge", "gaussian"])
@pytest.mark.parametrize("gear", ["traced", "compiled"])
def test_a_graph_gives_the_same_gradient(name: str, gear: str) -> None:
    each = learner_for(tasks(), algorithm=name, hidden=(6,), **({"inner_steps": 2} if name == "maml" else {}))
    meta, rows = double(each), episode()
    gradient = meta_gradient(each)
    number, key = torch.zeros(()), torch.zeros(4, dtype=torch.int64)
    expected, _ = gradient(meta, rows, key, number, 0)
    quick = fast(gradient, gear=gear)
    for _ in range(2):
        got, _ = quick(meta, rows, key, number, 0)
    assert quick.report.gear == gear
    for name_, value in expected.items():
        torch.testing.assert_close(got[name_], value, rtol=1e-10, atol=1e-12)


def test_gradients_agree_with_finite_differences() -> None:
    each = learner_for(tasks(), algorithm="maml", hidden=(4,), inner_steps=2, learn_lr=None, clip=None)
    meta, rows = double(each), episode()
    gradients, _ = each.metagrad(each, meta, rows)

    def loss(params: dict[str, Tensor]) -> float:
        return each.loss(params, each.adapt(params, rows.support), rows.query).mean().item()

    for name, value in meta.items():
        step = torch.zeros_like(value)
        step.view(-1)[0] = 1e-6
        up, down = (loss({**meta, name: value + sign * step}) for sign in (1, -1))
        assert gradients[name].view(-1)[0].item() == pytest.approx((up - down) / 2e-6, rel=1e-5, abs=1e-8)


@pytest.mark.parametrize(
    "make", [lambda: il.mixed(2, 2), lambda: il.maml(il.models.mlp(2, [4], 2), loss="mse")]
)
def test_a_learner_of_whole_rows_is_refused_with_the_way_out(make: Callable[[], Learner]) -> None:
    with pytest.raises(
        UsageError, match=r"target 2 of 2 is not known in \d+ of \d+ rows.*known_mse.*per_target"
    ):
        il.meta_train(make(), tasks().train, device="cpu")
    with pytest.raises(UsageError, match="needs all targets"):
        il.evaluate(il.Model(make(), make().init()), tasks().test)


def test_adapting_to_a_gap_is_refused_where_it_would_make_nan() -> None:
    y = torch.tensor([[1.0, 2.0], [3.0, torch.nan]])
    whole, some = il.mixed(1, 2), per_target(il.mixed(1), 2)
    with pytest.raises(UsageError, match=r"row 1: target 2 is NaN.*per_target"):
        il.Model(whole, whole.init()).adapt(torch.zeros(2, 1), y)
    adapted = il.Model(some, some.init()).adapt(torch.zeros(2, 1), y)
    assert bool(adapted(torch.zeros(1, 1)).isfinite().all())


def test_a_loss_of_ones_own_sees_what_is_not_known() -> None:
    def absolute(prediction: Tensor, target: Tensor) -> Tensor:
        return (prediction - target).abs().nan_to_num(nan=0.0).mean(-1)

    each = il.maml(il.models.mlp(2, [4], 2), loss=absolute, inner_steps=1)
    run = il.meta_train(each, tasks().train, steps=2, device="cpu")
    assert np.isfinite(run.log[-1]["loss"])


def test_scores_are_those_of_known_values() -> None:
    """Evaluation equals a loop over tasks, rows and targets."""
    model = il.meta_train(learner("mixed"), tasks().train, device="cpu").model
    score = il.evaluate(model, tasks().test, seed=3)
    scale = np.array(tasks().targets.scale)
    found: dict[str, list[float]] = {}
    for ids, part in tasks().test.fixed(3):
        for row, name in enumerate(ids):
            inside = slice(None) if part.query.weight is None else part.query.weight[row] > 0
            there = slice(None) if part.support.weight is None else part.support.weight[row] > 0
            task = model.adapt(part.support.x[row][there], part.support.y[row][there])
            error = (task(part.query.x[row][inside]) - part.query.y[row][inside]).double().numpy() * scale
            found.setdefault(name, []).append(float(np.nanmean(error**2)))
    expected = [np.mean(found[name]) for name in score.ids]
    np.testing.assert_allclose(score.values["squared_error"][:, -1], expected, rtol=1e-5)


def test_of_target_keeps_draws_of_support_rows() -> None:
    rows = Batch(torch.zeros(1, 2, 1), torch.tensor([[[1.0, torch.nan], [2.0, 3.0]]]), torch.ones(1, 2, 4))
    assert of_target(rows, 1, 2).weight.tolist() == [[[0.0] * 4, [1.0] * 4]]
    with pytest.raises(UsageError, match="made for 3"):
        of_target(rows, 0, 3)


def test_it_is_made_again_from_its_recipe() -> None:
    each = per_target(il.mixed(2), 3)
    again = build(each.recipe)
    assert again.recipe == each.recipe
    assert {name: value.shape for name, value in again.init().items()} == {
        name: value.shape for name, value in each.init().items()
    }
    with pytest.raises(UsageError, match="n_targets=0"):
        per_target(il.mixed(2), 0)
