"""Products in bfloat16: a coarser meta-gradient of the same function, in every gear, and nothing else."""

import pytest
import torch
from torch import nn

import innerloop as il
from innerloop.engine import fast
from innerloop.errors import UsageError
from innerloop.models.network import Network
from innerloop.models.precision import products_in
from innerloop.outer.mean_loss import mean_loss
from innerloop.outer.metagrad import Step
from innerloop.outer.update import meta_gradient
from innerloop.tasks.sources import VALIDATION_SEED
from toolkit.cases import CASES, IDS
from toolkit.oracles import class_episode, doubled

every = pytest.mark.parametrize("case", CASES, ids=IDS)


def gradient_of(learner, episode, precision="bfloat16"):
    meta = {name: value.float() for name, value in learner.init().items()}
    with products_in(precision):
        return learner.metagrad(
            learner, meta, episode, Step(torch.tensor(0.0), 0), torch.arange(episode.n_tasks)
        )


def to_float(episode):
    return il.tasks.episodes.to(episode, torch.device("cpu"), torch.float32)


def divides(learner) -> bool:
    """Whether a tiny gradient moves a weight about as far as a large one."""
    meta, start = learner.init(), {"w": torch.zeros(1, 1)}
    moved = [
        learner.rule.update({"w": torch.full((1, 1), size)}, learner.rule.init(start, meta), start, meta)[0][
            "w"
        ]
        for size in (1.0, 1e-3)
    ]
    return bool(moved[0] / moved[1] < 10)


@every
def test_every_algorithm_trains_with_coarser_products(case):
    learner, episode = case.make(), to_float(case.episode)
    (coarse, said), (fine, _) = (gradient_of(learner, episode, name) for name in ("bfloat16", "float32"))
    assert all(value.dtype == torch.float32 for value in coarse.values())
    assert all(torch.isfinite(value).all() for value in (*coarse.values(), said["losses"]))
    apart = sum(float((coarse[name] - fine[name]).square().sum()) for name in fine) ** 0.5
    size = sum(float(value.square().sum()) for value in fine.values()) ** 0.5
    # a rule that divides a gradient by its own size (adam, rmsprop) makes much of what little there is
    assert apart < 0.25 * size or divides(learner)
    # eight bits of bfloat16 are seen, unless there is no product in a network
    assert apart > 1e-5 * size or case.algorithm in (
        "mixed", "gp", "boosting", "boosted_mixed", "boosted_gp", "class_means", "two_covariance"
    )  # fmt: skip


def test_gears_agree_and_c_says_why_it_does_not_run():
    learner = il.maml(nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3)), loss="cross_entropy")
    episode, key, number = to_float(class_episode()), torch.arange(class_episode().n_tasks), torch.tensor(0.0)
    found = {}
    for gear in ("eager", "traced", "auto"):
        function = fast(meta_gradient(learner), gear=gear, planned=10_000)
        with products_in("bfloat16"):
            found[gear] = function(learner.init(), episode, key, number, 0)[0], function.report
    for gear in ("traced", "auto"):
        grads, report = found[gear]
        assert report.gear == "traced"
        for name, value in found["eager"][0].items():
            torch.testing.assert_close(grads[name], value, rtol=1e-3, atol=1e-5)
    assert "not compiled" in found["auto"][1].reason


def test_sums_over_a_batch_keep_their_precision():
    """BatchNorm of the results of a product in bfloat16 is computed in float32, a model of bfloat16 in its own."""
    torch.manual_seed(0)
    network = Network(nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)))
    x = torch.randn(1, 50, 3)
    with products_in("bfloat16"):
        y, statistics = network(network.params(), {}, x)
    assert y.dtype == torch.float32
    assert all(value.dtype == torch.float32 for value in statistics.values())
    narrow = {name: value.bfloat16() for name, value in network.params().items()}
    y, statistics = network(narrow, {}, x.bfloat16())
    assert y.dtype == torch.bfloat16
    assert all(value.dtype == torch.bfloat16 for value in statistics.values())


def test_double_precision_is_not_made_coarser():
    case = CASES[-1]
    learner, episode = case.make(), case.episode
    meta = doubled(learner.init())
    step, key = Step(torch.tensor(0.0), 0), torch.arange(episode.n_tasks)
    with products_in("bfloat16"):
        coarse, _ = learner.metagrad(learner, meta, episode, step, key)
    fine, _ = learner.metagrad(learner, meta, episode, step, key)
    assert all(torch.equal(coarse[name], fine[name]) for name in fine)


def test_training_takes_the_precision_and_scores_without_it():
    data = il.tasks.sinusoid(n_support=5, n_query=10)

    def trained(precision, gear="eager"):
        torch.manual_seed(0)
        learner = il.maml(il.models.mlp(1, [16], 1), loss="mse", inner_steps=1)
        return il.meta_train(
            learner, data.train, steps=40, precision=precision, gear=gear, device="cpu", meta_lr=1e-2
        )

    coarse, fine = trained("bfloat16"), trained("float32")
    assert coarse.log[-1]["loss"] != fine.log[-1]["loss"]
    assert coarse.log[-1]["loss"] == pytest.approx(fine.log[-1]["loss"], rel=0.1)
    assert all(value.dtype == torch.float32 for value in coarse.model.meta.values())
    learner = il.maml(il.models.mlp(1, [4], 1), loss="mse", inner_steps=1)
    given = {"steps": 1, "precision": "bfloat16", "gear": "eager", "device": "cpu"}
    run = il.meta_train(learner, data.train, valid=data.valid, **given)
    assert run.log[-1]["valid_loss"] == mean_loss(run.model, data.valid, seed=VALIDATION_SEED)
    with pytest.raises(UsageError, match=r"precision='half' is unknown: choose one of float32, bfloat16"):
        trained("half")
