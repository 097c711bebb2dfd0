"""Predictive distributions of values: their score against scipy, closed forms and a simulation."""

import math
from functools import partial

import numpy as np
import pytest
import torch
from scipy import stats

import innerloop as il
from innerloop import algorithms as a
from innerloop.cli import run as command
from innerloop.errors import UsageError
from innerloop.evaluation import evaluate
from innerloop.inner import Model
from innerloop.tasks.episodes import Batch, Episode, stack
from innerloop.tasks.support import SupportSize, Targets
from toolkit.oracles import doubled, regression_episode
from toolkit.sources import FixedSource

fixed = partial(FixedSource, support=SupportSize(5, 5))


def test_scores_equal_scipy_in_natural_units_whatever_the_padding():
    whole = regression_episode(tasks=3, support=5, query=40)
    sizes = (40, 25, 7)
    episode = stack(
        [Episode(Batch(*(v[t] for v in whole.support[:2])), Batch(whole.query.x[t, :n], whole.query.y[t, :n]))
         for t, n in enumerate(sizes)]
    )  # fmt: skip
    learner = a.mixed(2)
    meta = doubled(learner.init())
    meta["head/log_noise"] += 0.3
    found = evaluate(Model(learner, meta), fixed(episode, Targets("regression", 1, (2.5,), (1.0,))))
    for t, n in enumerate(sizes):
        task = Model(learner, meta).adapt(whole.support.x[t], whole.support.y[t])
        x, y = whole.query.x[t, :n], 2.5 * whole.query.y[t, :n].numpy()
        normal = stats.norm(2.5 * task(x).numpy(), 2.5 * task.deviation(x).numpy())
        assert math.isclose(found.values["log_likelihood"][t, -1], normal.logpdf(y).mean(), rel_tol=1e-12)
        for share in (90, 95):
            low, high = normal.interval(share / 100)
            inside = ((low <= y) & (y <= high)).mean()
            assert math.isclose(found.values[f"coverage_{share}"][t, -1], inside)
    assert np.allclose(found.values["log_likelihood"], -found.values["loss"] - math.log(2.5))


def lines(count, rows, seed):
    """Tasks out of the model of `mixed`: lines drawn from a Gaussian, noise 0.5."""
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(count, rows, 1, generator=g, dtype=torch.float64)
    slope, level = (torch.randn(count, 1, 1, generator=g, dtype=torch.float64) for _ in range(2))
    y = 1 + 0.7 * level + (2 + 1.5 * slope) * x
    y = y + 0.5 * torch.randn(y.shape, generator=g, dtype=torch.float64)
    return Episode(Batch(x[:, :4], y[:, :4]), Batch(x[:, 4:], y[:, 4:]))


def test_intervals_cover_what_they_promise_where_the_model_is_true():
    learner = a.mixed(1)
    train = lines(2000, 20, 0)
    meta = learner.fit(doubled(learner.init()), train.query)
    found = evaluate(Model(learner, meta), fixed(lines(4000, 9, 1), Targets("regression", 1)))
    for name, share in (("coverage_90", 0.9), ("coverage_95", 0.95)):
        for step in (0, 1):  # before and after the support set
            mean, low, high = found.metric(name, step)
            assert abs(mean - share) < 2.5 * (high - low) / 2 + 0.004
    # the entropy of the truth bounds the likelihood, and adaptation earns some
    assert found.metric("log_likelihood", 1)[0] > found.metric("log_likelihood", 0)[0] + 0.5
    assert found.metric("log_likelihood")[0] < stats.norm(0, 0.5).expect(stats.norm(0, 0.5).logpdf)


def test_the_noise_of_particles_is_what_their_disagreement_leaves_of_the_error():
    episode = regression_episode()
    learner = a.bmaml(il.models.mlp(2, [6], 1), loss="mse", particles=3, inner_steps=2)
    meta = doubled(learner.init())
    _, figures = learner.metagrad(learner, meta, episode)
    adapted = learner.adapt(meta, episode.support)
    outputs = learner.outputs(adapted, episode.query.x)
    left = (outputs.mean(1) - episode.query.y).square() - outputs.var(1, unbiased=False)
    assert math.isclose(figures["state/noise"].item(), max(left.mean().item(), 1e-6), rel_tol=1e-12)
    variance = learner.variance(meta | {"state/noise": figures["state/noise"]}, adapted, episode.query.x)
    assert torch.allclose(variance, outputs.var(1, unbiased=False) + figures["state/noise"])


def test_particles_learn_a_noise_that_covers():
    def draw(count, generator):
        episode = lines(count, 20, int(torch.randint(2**31, (1,), generator=generator)))
        return Episode(*(Batch(b.x.float(), b.y.float()) for b in episode))

    tasks = il.tasks.function(draw, targets=Targets("regression", 1), support=4, feature_shape=(1,))
    learner = a.bmaml(il.models.mlp(1, [16], 1), loss="mse", particles=3, inner_steps=2, inner_lr=0.05)
    run = il.meta_train(learner, tasks.train, steps=150, meta_batch_size=16, meta_lr=1e-2, device="cpu")
    found = il.evaluate(run.model, tasks.test)
    assert 0.85 < found.metric("coverage_90")[0] < 0.97


def test_what_says_nothing_is_refused_and_not_scored():
    learner = a.maml(il.models.mlp(2, [4], 1), loss="mse")
    model = Model(learner, learner.init())
    with pytest.raises(UsageError, match="gaussian, mixed or bmaml"):
        model.base().deviation(torch.zeros(1, 2))
    found = evaluate(model, fixed(regression_episode(), Targets("regression", 1)))
    assert "log_likelihood" not in found.metrics


def test_the_command_prints_likelihood_and_coverage(tmp_path, capsys):
    arguments = ["train", "sinusoid", "--algorithm", "mixed", "--out", str(tmp_path / "run"), "--quiet"]
    assert command(arguments) == 0
    capsys.readouterr()
    assert command(["evaluate", str(tmp_path / "run"), "--quiet"]) == 0
    printed = capsys.readouterr().out
    assert all(text in printed for text in ("log likelihood", "in 90 % interval", "in 95 % interval"))
    assert command(["evaluate", str(tmp_path / "run"), "--quiet", "--json"]) == 0
    assert '"metric": "coverage_95"' in capsys.readouterr().out
