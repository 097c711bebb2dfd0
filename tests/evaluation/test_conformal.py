"""Conformal thresholds beside every draw of one score a task, and what intervals of calibrated models hold."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

import innerloop as il
from innerloop.errors import DataError, UsageError
from innerloop.evaluation.calibrating import MOST_TASKS, calibrate, in_set, support_sizes
from innerloop.evaluation.conformal import (
    LEVELS,
    Calibration,
    conformal_thresholds,
    needed_tasks,
    require_level,
)
from innerloop.inner.batched import adapt_tasks, support_losses
from innerloop.tasks.row_source import RowSource
from innerloop.tasks.support import SupportSize, Targets


def by_every_draw(scores):
    """The thresholds by going through all draws of one score a task."""
    every = np.unique(np.concatenate(scores))
    mean = np.mean([(own[:, None] <= every).mean(0) for own in scores], axis=0)
    # the mean distribution at the order statistics of each draw
    shares = [np.interp(sorted(draw), every, mean) for draw in itertools.product(*scores)]
    ranks = [0.0, *np.mean(shares, axis=0)]
    wanted = [np.interp(level * (len(scores) + 1), range(len(ranks)), ranks) for level in LEVELS]
    return [every[np.flatnonzero(mean >= share - 1e-9)[0]] for share in wanted]


@pytest.mark.parametrize("seed", range(5))
def test_thresholds_are_those_of_all_draws(seed) -> None:
    rng = np.random.default_rng(seed)
    scores = [np.abs(rng.normal(rng.normal(), 1, rng.integers(1, 5))).round(1 + seed % 2) for _ in range(6)]
    assert conformal_thresholds(scores).tolist() == by_every_draw(scores)


@pytest.mark.parametrize("place", [24, 49, 99, 124, 149, 174])
def test_with_one_row_a_task_the_share_of_tasks_is_held_exactly(place) -> None:
    """Each of 8 tasks in turn is the new one, the 7 others calibrate."""
    scores = np.random.default_rng(0).exponential(size=8)
    held = [
        own <= conformal_thresholds([np.array([s]) for s in np.delete(scores, number)])[place]
        for number, own in enumerate(scores)
    ]
    assert sum(held) == math.ceil(LEVELS[place] * 8 - 1e-9)


@pytest.mark.parametrize("tasks", [19, 27])
def test_tasks_that_are_alike_give_quantiles_of_their_rows(tasks) -> None:
    thresholds = conformal_thresholds([np.linspace(0, 1, 4001)[1:]] * tasks)
    known = (1 / (tasks + 1) <= LEVELS) & (tasks / (tasks + 1) >= LEVELS)
    np.testing.assert_allclose(thresholds[known], LEVELS[known], atol=3e-3)
    # more different scores than the grid holds: rounded up, never down
    assert (thresholds >= LEVELS - 1e-9)[known].all()


def test_every_task_counts_equally_however_many_rows_it_has() -> None:
    rng = np.random.default_rng(0)
    scores = [rng.exponential(size=4) for _ in range(12)]
    longer = [np.repeat(own, 1 + 5 * (number % 3)) for number, own in enumerate(scores)]
    assert conformal_thresholds(longer).tolist() == conformal_thresholds(scores).tolist()


@pytest.mark.parametrize(
    ("tasks", "rows", "spread"), [(20, 1, 1.0), (20, 20, 0.0), (20, 20, 1.0), (20, 20, 4.0)]
)
def test_coverage_is_that_of_exact_split_conformal(tasks, rows, spread) -> None:
    """In simulated worlds with 20 tasks: 19 of 21 with one row a task, 90 % with many, however alike tasks are."""
    rng = np.random.default_rng(1)
    held = []
    for _ in range(400):
        effects = spread * rng.normal(size=tasks)
        threshold = conformal_thresholds([np.abs(effect + rng.normal(size=rows)) for effect in effects])[179]
        new = np.abs(spread * rng.normal(size=400) + rng.normal(size=400))
        held.append((new <= threshold).mean())
    error = np.std(held) / math.sqrt(len(held))
    assert abs(np.mean(held) - (19 / 21 if rows == 1 else 0.9)) < 4 * error + 0.003


def test_too_few_tasks_give_no_interval() -> None:
    ladder = np.arange(1.0, 200.0)[:, None]
    eight, nine = (Calibration({0: ladder}, {0: np.zeros(count)}) for count in (8, 9))
    assert eight.threshold(0, 0.9) is None
    assert nine.threshold(0, 0.9).tolist() == [180.0]
    assert eight.threshold(0, 8 / 9).tolist() == [178.0], "the next level in steps of half a percent"
    assert Calibration({0: ladder}, {0: np.zeros(5000)}).threshold(0, 0.999) is None
    for level in (0.5, 0.8, 0.9, 0.95, 0.99):
        count = needed_tasks(level)
        assert count / (count + 1) >= level - 1e-12 > (count - 1) / count - 1e-9


def test_the_nearest_smaller_number_of_support_rows_counts() -> None:
    calibration = Calibration(
        {size: np.full((199, 1), value) for size, value in ((0, 3.0), (2, 2.0), (5, 1.0))},
        {0: np.zeros(30), 2: np.arange(30.0), 5: np.arange(4.0)},
    )
    assert [calibration.threshold(n, 0.9)[0] for n in (0, 1, 2, 4)] == [3, 3, 2, 2]
    assert calibration.threshold(9, 0.9)[0] == 2, "four tasks are too few for 90 %"
    assert calibration.threshold(9, 0.8)[0] == 1
    assert math.isnan(calibration.percentile(0, 1.0))
    assert calibration.percentile(3, 14.5) == 50.0


@pytest.mark.parametrize("level", [0, 1, 90, -0.1, "0.9", None, True, math.nan])
def test_what_is_no_share_is_refused(level) -> None:
    with pytest.raises(UsageError, match="between 0 and 1"):
        require_level(level)


def test_a_set_holds_what_is_likely_enough_and_the_most_likely_class() -> None:
    chance = torch.tensor([[0.5, 0.3, 0.2], [0.98, 0.01, 0.01], [1 / 3, 1 / 3, 1 / 3]])
    assert in_set(chance, torch.tensor([[0.75]])).sum(-1).tolist() == [2, 1, 3]
    assert in_set(chance, torch.tensor([[0.0]])).any(-1).all()


def test_support_sizes_hold_that_of_training() -> None:
    for most in range(1, 40):
        sizes = support_sizes(most)
        assert sizes[0] == 0
        assert most in sizes
        assert list(sizes) == sorted({*sizes})
        assert max(sizes) <= 4 * most


def random_lines(tasks=60, *, seed=0, rows=12, n_support=3, **options) -> RowSource:
    """Lines with noise, sorted by task, as a source."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(tasks, rows))
    y = rng.normal(size=(tasks, 1)) + x * rng.normal(size=(tasks, 1)) + 0.5 * rng.normal(size=(tasks, rows))
    flat = (torch.from_numpy(values.reshape(-1, 1)).float() for values in (x, y))
    ids = tuple(f"task {number}" for number in range(tasks))
    size = SupportSize(n_support, n_support)
    return RowSource(*flat, np.arange(tasks + 1) * rows, ids, size, Targets("regression", 1), **options)


@pytest.fixture(scope="module")
def lines():
    return il.meta_train(il.mixed(1), random_lines(200, seed=5)).model


def test_scores_are_errors_over_the_models_own_deviation(lines) -> None:
    """Beside a loop over tasks that are adapted alone; thresholds are what those scores give."""
    source = random_lines(8, draws=2)
    calibration = calibrate(lines, source, seed=7)
    assert calibration.sizes == support_sizes(3)
    for size in (0, 2):
        scores, losses = {}, {}
        part = replace(source, support=SupportSize(size, size))
        for ids, episode in part.fixed(7):
            for row, name in enumerate(ids):
                task = lines.adapt(episode.support.x[row], episode.support.y[row])
                x, y = episode.query.x[row], episode.query.y[row]
                scores.setdefault(name, []).append((((task(x) - y).abs() / task.deviation(x))[:, 0]).numpy())
                z, d = (
                    (task(episode.support.x[row]) - episode.support.y[row]),
                    task.deviation(episode.support.x[row]),
                )
                density = 0.5 * ((z / d).square() + 2 * d.log() + math.log(2 * math.pi))
                losses.setdefault(name, []).append(float(density.sum() / max(size, 1)))
        expected = conformal_thresholds([np.concatenate(own) for own in scores.values()])
        np.testing.assert_allclose(calibration.thresholds[size][:, 0], expected, rtol=1e-4)
        first = np.sort([own[0] for own in losses.values()])
        np.testing.assert_allclose(calibration.support_losses[size], first, rtol=1e-3, atol=1e-5)


def test_coverage_and_width_of_an_evaluation_are_those_of_a_loop(lines) -> None:
    calibration = calibrate(lines, random_lines(40, seed=1))
    source = random_lines(6, seed=2, draws=3)
    found = il.evaluate(lines, source, calibration=calibration)
    bound = calibration.threshold(3, 0.9)[0]
    held, width = {name: [] for name in source.ids}, {name: [] for name in source.ids}
    for ids, episode in source.fixed(il.tasks.sources.EVALUATION_SEED):
        for row, name in enumerate(ids):
            task = lines.adapt(episode.support.x[row], episode.support.y[row])
            x, y = episode.query.x[row], episode.query.y[row]
            half = bound * task.deviation(x)
            held[name].append(float(((task(x) - y).abs() <= half).double().mean()))
            width[name].append(float(2 * half.mean()))
    position = [found.ids.index(name) for name in source.ids]
    for metric, own in (("interval_coverage_90", held), ("interval_width_90", width)):
        values = found.values[metric]
        assert np.isnan(values[:, 0]).all(), "before adaptation there is another number of support rows"
        np.testing.assert_allclose(values[position, -1], [np.mean(v) for v in own.values()], rtol=1e-5)
    rows = [row for row in found.scores("mixed") if row["metric"].startswith("interval_")]
    assert [row["inner_steps"] for row in rows] == [1, 1]
    assert "interval_coverage_90" not in il.evaluate(lines, source, steps=0, calibration=calibration).values


def test_intervals_hold_for_new_tasks_where_the_models_own_do_not() -> None:
    """Noise that depends on the task and has heavy tails, and a net that says nothing of its deviation."""
    rng = np.random.default_rng(0)

    def world(seed):
        source = random_lines(400, seed=seed)
        noise = torch.from_numpy(rng.standard_t(2, size=source.y.shape)).float()
        return replace(source, y=source.y + noise)

    torch.manual_seed(0)
    learner = il.maml(il.models.mlp(1, [8], 1), loss="mse", inner_steps=2)
    model = il.Model(learner, learner.init())
    calibration = calibrate(model, world(1))
    found = il.evaluate(model, world(2), calibration=calibration).metric("interval_coverage_90")
    assert abs(found.mean - 0.9) < 0.02


@pytest.mark.parametrize("n_classes", [2, 4])
def test_prediction_sets_hold_the_class(n_classes) -> None:
    slopes = torch.from_numpy(np.random.default_rng(0).normal(size=(2, n_classes))).float()

    def world(seed):
        rng = np.random.default_rng(seed)
        x = torch.from_numpy(rng.normal(size=(60 * 15, 2))).float()
        y = (x @ slopes + torch.from_numpy(rng.gumbel(size=(60 * 15, n_classes)))).argmax(-1)
        ids, size = tuple(map(str, range(60))), SupportSize(5, 5)
        return RowSource(x, y, np.arange(61) * 15, ids, size, Targets("classification", n_classes))

    torch.manual_seed(0)
    learner = il.maml(il.models.mlp(2, [8], n_classes), loss="cross_entropy", inner_steps=2)
    model = il.Model(learner, learner.init())
    found = il.evaluate(model, world(2), calibration=calibrate(model, world(1)))
    assert abs(found.metric("set_coverage_90").mean - 0.9) < 0.04
    assert 1 <= found.metric("set_size_90").mean <= n_classes


def test_tasks_without_so_many_rows_do_not_calibrate_a_size(lines) -> None:
    source = random_lines(12)
    short = replace(
        source, starts=np.concatenate([[0, 2, 12], source.starts[2:]]), ids=("short", *source.ids)
    )
    calibration = calibrate(lines, short)
    assert {size: len(own) for size, own in calibration.support_losses.items()} == {
        0: 13, 1: 13, 2: 12, 3: 12, 5: 12, 8: 12,
    }  # fmt: skip


def test_of_many_tasks_some_take_part_and_keep_their_blocks(lines) -> None:
    source = random_lines(MOST_TASKS + 100, rows=4)
    blocks = np.arange(0, len(source.y) + 1, 2)
    size = SupportSize.parse(2, None, "block:session")
    calibration = calibrate(lines, replace(source, support=size, blocks=blocks))
    assert calibration.n_tasks == MOST_TASKS
    assert calibration.sizes == (0, 1, 2), "a block has two rows"


def test_a_model_that_needs_a_support_row_gives_no_interval_without_one() -> None:
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Linear(1, 4), torch.nn.BatchNorm1d(4), torch.nn.Linear(4, 1))
    learner = il.maml(module, loss="mse", inner_steps=1)
    calibration = calibrate(il.Model(learner, learner.init()), random_lines(10))
    assert 0 not in calibration.sizes
    assert calibration.threshold(0, 0.9) is None


def test_of_like_tasks_each_percentile_is_as_likely_and_others_stand_out(lines) -> None:
    calibration = calibrate(lines, random_lines(100, seed=1))

    def percentiles(source, stretched=1.0):
        _, episode = next(iter(source.fixed(0)))
        rows = [il.Batch(*(t[row] for t in episode.support[:2])) for row in range(episode.n_tasks)]
        rows = [il.Batch(batch.x, stretched * batch.y) for batch in rows]
        losses = support_losses(adapt_tasks(lines, rows), rows)
        return np.array([calibration.percentile(3, loss) for loss in losses])

    like = percentiles(random_lines(400, seed=2, draws=1))
    np.testing.assert_allclose(np.quantile(like, [0.25, 0.5, 0.75]), [25, 50, 75], atol=12)
    assert (like > 95).mean() < 0.15
    assert (percentiles(random_lines(400, seed=2, draws=1), 5.0) > 95).mean() > 0.5


def test_what_diverges_gives_an_interval_without_end(lines) -> None:
    source = random_lines(9)
    y = source.y.clone()
    y[:12] = math.inf
    calibration = calibrate(lines, replace(source, y=y))
    assert np.isfinite(calibration.thresholds[0]).all()
    assert calibration.threshold(0, 0.9)[0] > 1e299
    assert calibration.threshold(0, 0.5)[0] < 10


def test_what_is_no_model_or_source_is_refused(lines) -> None:
    with pytest.raises(UsageError, match="no model"):
        calibrate(lines.learner, random_lines())
    with pytest.raises(UsageError, match=r"tasks\.valid"):
        calibrate(lines, il.tasks.sinusoid())
    with pytest.raises(UsageError, match="no score"):
        conformal_thresholds([np.zeros(0)])
    with pytest.raises(DataError, match="targets have"):
        calibrate(lines, replace(random_lines(), y=torch.zeros(720, 2)))


def test_shots_of_classes_are_calibrated_by_their_rows() -> None:
    frame = pd.DataFrame({"x": np.random.default_rng(0).normal(size=400), "site": np.arange(400) // 20})
    frame["y"] = np.where(frame.x > 0, "a", "b")
    tasks = il.tasks.table(frame, task="site", target="y", n_shot=2)
    learner = il.protonet(il.models.mlp(1, [4], None), n_features=4, n_outputs=2)
    calibration = calibrate(il.Model(learner, learner.init()), tasks.train)
    assert calibration.sizes == support_sizes(4)
