"""Support drawn anew at each inner step: against a loop that takes the steps one by one, for every algorithm."""

import pytest
import torch

import innerloop as il
from innerloop.cli import run
from innerloop.inner.per_task import per_task
from innerloop.outer import meta_train
from innerloop.tasks.compose import composed
from innerloop.tasks.episodes import all_draws, at_step
from innerloop.tasks.support import stream
from toolkit.cases import CASES, IDS
from toolkit.oracles import doubled, regression_episode


def drawn(episode, seed=0, draws=3):
    """The same episode whose support has three draws of most of its rows."""
    weight = (torch.rand(*episode.support.y.shape[:2], draws, generator=stream(seed)) < 0.6).double()
    weight[:, 0] = 1.0
    return episode._replace(support=episode.support._replace(weight=weight))


def test_each_inner_step_sees_its_own_draw() -> None:
    torch.manual_seed(0)
    learner = il.maml(il.models.mlp(2, [5], 1), loss="mse", inner_lr=0.1, inner_steps=4)
    episode, meta = drawn(regression_episode()), doubled(learner.init())
    for task in range(episode.n_tasks):
        params = {name: value.clone().requires_grad_() for name, value in meta.items()}
        for step in range(4):
            rows = episode.support.weight[task, :, step % 3] > 0
            out = torch.func.functional_call(learner.network.module, params, episode.support.x[task, rows])
            loss = (out - episode.support.y[task, rows]).square().mean()
            grads = torch.autograd.grad(loss, list(params.values()))
            params = {
                name: (value - 0.1 * grad).detach().requires_grad_()
                for (name, value), grad in zip(params.items(), grads, strict=True)
            }
        adapted = learner.adapt(meta, episode.support)
        for name, value in params.items():
            torch.testing.assert_close(adapted[name][task], value.detach(), atol=1e-12, rtol=0)


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_equal_draws_are_the_plain_support_for_every_algorithm(case) -> None:
    learner, episode = case.make(), case.episode
    meta = doubled(learner.init())
    same = episode.support._replace(weight=torch.ones(*episode.support.y.shape[:2], 4, dtype=torch.float64))
    grads = learner.metagrad(learner, meta, episode)[0]
    again = learner.metagrad(learner, meta, episode._replace(support=same))[0]
    assert max((again[name] - grads[name]).abs().max() for name in grads) < 1e-12
    moved = learner.metagrad(learner, meta, drawn(episode))[0]
    changes = any((moved[name] - grads[name]).abs().max() > 1e-9 for name in grads)
    # closed forms, trees and a plain model have no steps, and Reptile takes support and query rows together
    assert changes != (learner.closed_form or case.algorithm in ("plain", "reptile"))


def test_the_composition_halves_the_support_of_each_task() -> None:
    tasks = il.tasks.table(table(), task="site", target="risk", n_support="1-5")
    source = composed(tasks.train, "resplit")
    episode, plain = source.sample(6, stream(0)), tasks.train.sample(6, stream(0))
    assert torch.equal(episode.query.x, plain.query.x)
    rows = plain.support.weight.sum(1)
    union = all_draws(episode.support).weight
    assert ((union > 0) <= (plain.support.weight > 0)).all()
    for step in range(20):
        torch.testing.assert_close(at_step(episode.support, step).weight.sum(1), ((rows + 1) / 2).floor())
    assert [a.query.y.shape for _, a in source.fixed(0)] == [b.query.y.shape for _, b in tasks.train.fixed(0)]
    learner = per_task(
        il.maml(il.models.mlp(1, [4], 1), loss="mse", inner_steps=3), features=[True], n_targets=1
    )
    assert torch.isfinite(
        torch.tensor([entry["loss"] for entry in meta_train(learner, source, steps=3).log])
    ).all()


def table():
    import numpy as np
    import pandas as pd

    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"site": np.repeat(np.arange(12), 7), "dose": rng.normal(size=84)})
    return frame.assign(risk=frame.dose**2 + frame.site)


def test_resplit_from_the_command(tmp_path) -> None:
    table().to_csv(tmp_path / "a.csv", index=False)
    words = ["--task", "site", "--target", "risk", "--steps", "2", "--quiet", "--device", "cpu"]
    out = ["--composition", "resplit", "--out", str(tmp_path / "run")]
    assert run(["train", str(tmp_path / "a.csv"), *words, *out]) == 0
    assert il.load(tmp_path / "run").config["settings"]["composition"] == "resplit"
