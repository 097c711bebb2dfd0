"""What was learned, against plain loops and direct formulas."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

import innerloop as il
from innerloop.algorithms import ALGORITHMS
from innerloop.evaluation.inspection import (
    activations,
    first_episodes,
    gains,
    learned,
    linear_cka,
    masks,
    movement,
    rates,
    similarity,
)
from innerloop.models.network import Network
from innerloop.tasks.sources import SupportSize, Targets
from toolkit.cases import CASES


def model_of(name, *, net=None, **options):
    torch.manual_seed(0)
    net = net or nn.Sequential(nn.Linear(1, 7), nn.Tanh(), nn.Linear(7, 7), nn.Tanh(), nn.Linear(7, 1))
    learner = ALGORITHMS[name](net, loss="mse", **options)
    return il.Model(learner, learner.init())


@pytest.fixture
def episode():
    return first_episodes(il.tasks.sinusoid(n_support=6, episodes=5).test, 5)[1]


def direct_cka(x, y):
    """Kornblith et al. 2019, equation 3, with the centring matrix written out."""
    n = len(x)
    h = np.eye(n) - np.ones((n, n)) / n

    def hsic(k, m):
        return np.trace(k @ h @ m @ h) / (n - 1) ** 2

    k, m = x @ x.T, y @ y.T
    return hsic(k, m) / np.sqrt(hsic(k, k) * hsic(m, m))


@pytest.mark.parametrize(("rows", "one", "other"), [(30, 4, 7), (6, 40, 3), (9, 20, 30)])
def test_cka_is_the_formula_of_the_paper(rows, one, other):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(rows, one))
    y = np.tanh(x @ rng.normal(size=(one, other))) + 3
    expected = direct_cka(x, y)
    assert 0 < expected < 1
    assert linear_cka(torch.from_numpy(x), torch.from_numpy(y)) == pytest.approx(expected, abs=1e-12)


def test_cka_does_not_see_rotation_scale_and_shift():
    x = torch.randn(20, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    rotation, _ = torch.linalg.qr(
        torch.randn(5, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    )
    assert linear_cka(x, 4 * x @ rotation + 7) == pytest.approx(1, abs=1e-12)
    assert np.isnan(linear_cka(x, torch.ones(20, 2)))


def test_movement_is_the_norm_of_the_change_task_by_task(episode):
    model = model_of("maml", inner_lr=0.1, inner_steps=3)
    found = movement(model, episode).set_index("layer")
    assert list(found.index) == ["0", "2", "4"]
    for layer in found.index:
        moved, relative = [], []
        for task in range(5):
            own = model.adapt(episode.support.x[task], episode.support.y[task]).own
            change = sum(
                (own[f"{layer}.{part}"][0] - model.meta[f"{layer}.{part}"]).square().sum().item()
                for part in ("weight", "bias")
            )
            start = sum(model.meta[f"{layer}.{part}"].square().sum().item() for part in ("weight", "bias"))
            moved.append(change**0.5)
            relative.append((change / start) ** 0.5)
        assert found.loc[layer, "moved"] == pytest.approx(np.mean(moved), rel=1e-5)
        assert found.loc[layer, "relative"] == pytest.approx(np.mean(relative), rel=1e-5)
        assert found.loc[layer, "low"] < found.loc[layer, "relative"] < found.loc[layer, "high"]
    assert found["weights"].tolist() == [14, 56, 8]
    assert found["kind"].tolist() == ["Linear 1 to 7", "Linear 7 to 7", "Linear 7 to 1"]


def test_what_tasks_share_does_not_move(episode):
    anil = movement(model_of("anil", inner_lr=0.1), episode)
    assert anil["relative"].gt(0).tolist() == [False, False, True]
    same = similarity(model_of("anil", inner_lr=0.1), episode)
    assert same["cka"].tolist()[:2] == pytest.approx([1, 1], abs=1e-12)
    assert same["layer"].tolist() == ["0", "2", "4"]


def test_similarity_compares_the_outputs_of_each_layer_on_the_same_rows(episode):
    model = model_of("maml", inner_lr=0.3, inner_steps=5)
    rows = episode.query.x.flatten(0, 1)
    rows = rows[torch.linspace(0, len(rows) - 1, min(256, len(rows))).round().long()]
    net = model.learner.network.module
    found = []
    for task in range(5):
        own = model.adapt(episode.support.x[task], episode.support.y[task]).own
        adapted = copy.deepcopy(net)
        adapted.load_state_dict({name: value[0] for name, value in own.items()})
        start = copy.deepcopy(net)
        start.load_state_dict(model.meta)
        with torch.no_grad():
            found.append(direct_cka(start[:3](rows).double().numpy(), adapted[:3](rows).double().numpy()))
    row = similarity(model, episode).set_index("layer").loc["2"]
    assert row["cka"] == pytest.approx(np.mean(found), abs=1e-6)
    assert row["cka"] < 0.9999


def test_hooks_go_away_and_batchnorm_takes_the_statistics_of_the_task():
    net = nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 1))
    network = Network(net)
    meta = network.params()
    _, statistics = network(meta, {}, torch.randn(1, 9, 2))
    x = torch.randn(1, 3, 2)
    found = activations(network, meta, statistics, x)
    y, _ = network(meta, statistics, x, given_statistics=True)
    assert list(found) == ["0", "1", "3"]
    torch.testing.assert_close(found["3"], y[0].detach())
    assert not any(layer._forward_hooks for layer in network.module.modules())
    assert network.mapping == "vmap"


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.algorithm}-{case.kind}")
def test_every_algorithm_can_be_looked_at(case):
    learner = case.make()
    model = il.Model(learner, learner.init())
    before = {name: value.clone() for name, value in model.meta.items()}
    moved = movement(model, case.episode)
    alike = similarity(model, case.episode)
    rates(model), masks(model)
    assert len(moved)
    assert (moved["moved"] >= 0).all()
    assert alike["cka"].dropna().between(0, 1 + 1e-9).all()
    assert all(torch.equal(model.meta[name], value) for name, value in before.items())


def test_rates_tell_weights_from_steps():
    every = rates(model_of("maml", inner_lr=0.1, inner_steps=7, learn_lr="tensor"))
    assert every["step"].tolist() == ["every"] * 6
    # biases of 7 and 7 steps: the shape alone could mean either
    by_step = rates(model_of("maml_plus_plus", inner_lr=0.1, inner_steps=7))
    assert by_step["step"].tolist() == [str(step) for step in range(1, 8)] * 6
    model = model_of("meta_sgd", inner_lr=0.1)
    model.meta["inner/lr/0.weight"][:2] = -0.3
    row = rates(model).iloc[0]
    assert (row["parameter"], row["step"]) == ("0.weight", "every")
    assert row["negative"] == pytest.approx(2 / 7)
    assert (row["lowest"], row["highest"]) == pytest.approx((-0.3, 0.1))
    one = rates(model_of("maml", inner_lr=0.1, learn_lr="all"))
    assert one[["parameter", "step"]].values.tolist() == [["all", "every"]]
    assert rates(model_of("maml", inner_lr=0.1)).empty


def test_masks_count_what_may_move():
    model = model_of("sparse_maml", inner_lr=0.1)
    model.meta["inner/mask/0.weight"][:3] = -1
    found = masks(model).set_index("parameter")
    assert found.loc["0.weight", "adapting"] == pytest.approx(4 / 7)
    assert found.loc["4.bias", "adapting"] == 1
    assert masks(model_of("maml", inner_lr=0.1)).empty


def test_gains_are_positive_where_adapting_helped():
    values = {"accuracy": np.array([[0.2, 0.9], [0.5, 0.25], [0.5, 0.5]]), "loss": np.zeros((3, 2))}
    targets, size = Targets("classification", 2), SupportSize(1, 1)
    found = gains(il.Evaluation(("a", "b", "c"), (0, 1), values, targets, size))
    assert found["task"].tolist() == ["a", "c", "b"]
    assert found["gain"].tolist() == pytest.approx([0.7, 0, -0.25])
    errors = {"squared_error": np.array([[9.0, 4.0], [1.0, 4.0]]), "loss": np.zeros((2, 2))}
    found = gains(il.Evaluation(("a", "b"), (0, 1), errors, Targets("regression", 1), size))
    assert found.iloc[0].tolist() == ["a", 3.0, 2.0, 1.0]
    assert found.iloc[1].tolist() == ["b", 1.0, 2.0, -1.0]


def test_without_tasks_only_the_parameters_speak():
    found = learned(model_of("maml", inner_lr=0.1, learn_lr="tensor"), None)
    assert (len(found.moved), len(found.similarity), len(found.rates)) == (0, 0, 6)
    assert found.rows()["rates"][0]["parameter"] == "0.weight"


def test_the_first_episodes_are_those_of_evaluation():
    source = il.tasks.sinusoid(n_support=3, episodes=9).test
    ids, episode = first_episodes(source, 4)
    names, whole = next(iter(source.fixed(20_240_229)))
    assert ids == [names[place] for place in (0, 3, 5, 8)]
    torch.testing.assert_close(episode.support.x, whole.support.x[[0, 3, 5, 8]])
