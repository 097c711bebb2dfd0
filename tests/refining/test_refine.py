"""What `innerloop.refine` promises: which parameters move, when it stops, what it keeps, and what it gives back."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.func import functional_call

import innerloop as il
from innerloop.algorithms import plain, sparse_maml
from innerloop.errors import DataError, DivergedError, UsageError
from innerloop.refining import SCORES, Objective, Settings, largest, learned_mask
from innerloop.refining.folds import partitioned, split_off
from innerloop.refining.rounds import descend, score
from innerloop.tasks.episodes import Batch
from innerloop.tasks.support import stream
from toolkit.oracles import generator, largest_error, unpadded

QUICK = {"stop": "none", "device": "cpu", "tolerance": 0.0, "decay": 0.0}


def net(n_in=4, n_out=3, hidden=6):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(n_in, hidden), nn.Tanh(), nn.Linear(hidden, n_out)).double()


def rows(count=30, seed=0):
    g = generator(seed)
    x = torch.randn(count, 4, generator=g, dtype=torch.float64)
    return x, (x[:, :3] + 0.3 * torch.randn(count, 3, generator=g, dtype=torch.float64)).argmax(1)


def params(module):
    return {name: value.detach().clone() for name, value in module.named_parameters()}


def by_hand(module, x, y, *, rounds, folds, lr, candidate_lr, choose):
    """Held-out agreement selection as a loop over rounds and folds, with no part of the library but the folds."""
    theta = params(module)

    def gradient(values, x, y):
        leaves = {name: value.clone().requires_grad_() for name, value in values.items()}
        loss = F.cross_entropy(functional_call(module, leaves, (x,)), y)
        return dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True))

    for t in range(rounds):
        drawn = partitioned(Batch(x, y), folds, stream(0, 0, t))
        a, h = [], []
        for j in range(folds):
            a.append(gradient(theta, *unpadded(drawn.support, j)))
            phi = {name: value - candidate_lr * a[j][name] for name, value in theta.items()}
            h.append(gradient(phi, *unpadded(drawn.query, j)))
        mean_a, mean_h = ({n: sum(g[n] for g in part) / folds for n in theta} for part in (a, h))
        mask = choose(mean_a, mean_h)
        theta = {name: value - lr * mask[name] * mean_h[name] for name, value in theta.items()}
    return theta


def top(scores, budget):
    flat = torch.cat([value.flatten() for value in scores.values()])
    limit = flat.sort(descending=True).values[max(1, math.floor(budget * len(flat))) - 1]
    return {name: (value >= limit).double() for name, value in scores.items()}


CHOICES = {
    "all": lambda a, h: {name: torch.ones_like(value) for name, value in h.items()},
    "gradient": lambda a, h: top({name: value.abs() for name, value in h.items()}, 0.2),
    "agreement": lambda a, h: top({name: value * a[name] for name, value in h.items()}, 0.2),
}


@pytest.mark.parametrize("name", CHOICES)
def test_the_rounds_are_those_of_the_pseudo_code(name):
    """With every parameter chosen this is cross-fit gradient descent."""
    module, (x, y) = net(), rows()
    options = {"rounds": 7, "folds": 3, "lr": 0.3, "candidate_lr": 0.1}
    found = il.refine(module, (x, y), score=name, budget=0.2, rule="sgd", reach=1e9, **options, **QUICK)
    truth = by_hand(module, x, y, choose=CHOICES[name], **options)
    assert largest_error(found.model.meta, truth) < 1e-12
    assert [entry["selected"] for entry in found.log] == pytest.approx(
        [1.0 if name == "all" else 10 / 51] * 7
    )


def test_without_a_candidate_step_it_is_full_batch_adam():
    module, (x, y) = net(), rows()
    found = il.refine(
        module, (x, y), score="all", candidate_lr=0.0, folds=3, rounds=10, lr=0.01, rule="adam", **QUICK
    )
    optimizer = torch.optim.Adam(module.parameters(), lr=0.01)
    for _ in range(10):
        optimizer.zero_grad()
        F.cross_entropy(module(x), y).backward()
        optimizer.step()
    assert largest_error(found.model.meta, params(module)) < 1e-7


def test_a_mask_makes_it_masked_training():
    module, (x, y) = net(), rows()
    mask = {
        name: (torch.rand(v.shape, generator=generator()) < 0.4).double()
        for name, v in params(module).items()
    }
    options = {"rounds": 5, "folds": 3, "lr": 0.3, "candidate_lr": 0.1}
    found = il.refine(module, (x, y), score="all", mask=mask, rule="sgd", reach=1e9, **options, **QUICK)
    truth = by_hand(module, x, y, choose=lambda a, h: mask, **options)
    assert largest_error(found.model.meta, truth) < 1e-12
    start = params(module)
    assert all(torch.equal(found.mask[name], mask[name] > 0) for name in start)


def test_a_static_mask_is_drawn_once():
    module, (x, y) = net(), rows()
    found = il.refine(module, (x, y), score="static", budget=0.1, rounds=6, **QUICK)
    assert all(set(count.flatten().tolist()) <= {0, 6} for count in found.chosen.values())
    assert sum(int(mask.sum()) for mask in found.mask.values()) == 5
    moving = il.refine(module, (x, y), score="random", budget=0.1, rounds=6, **QUICK)
    assert sum(int(mask.sum()) for mask in moving.mask.values()) > 5


def test_the_mask_that_sparse_maml_learned_can_be_used():
    module, (x, y) = net(), rows()
    learner = sparse_maml(module, loss="cross_entropy")
    meta = {n: v - 0.5 if n.startswith("inner/mask/0") else v for n, v in learner.init().items()}
    mask = learned_mask(il.Model(learner, meta))
    assert {name: float(value.mean()) for name, value in mask.items()} == {
        "0.weight": 0.0, "0.bias": 0.0, "2.weight": 1.0, "2.bias": 1.0
    }  # fmt: skip
    found = il.refine(il.Model(learner, meta), (x, y), mask=mask, score="all", rounds=3, **QUICK)
    assert not found.mask["0.weight"].any()
    assert found.mask["2.weight"].all()


@pytest.mark.parametrize("name", SCORES)
def test_a_small_step_never_increases_the_held_out_loss_of_a_convex_model(name):
    g = generator(1)
    module = nn.Sequential(nn.Linear(4, 3)).double()
    x = torch.randn(40, 4, generator=g, dtype=torch.float64)
    y = torch.randint(3, (40,), generator=g)
    learner = plain(module, loss="cross_entropy")
    meta = learner.init()
    objective = Objective(learner, meta, tuple(meta))
    settings_ = Settings(score=name, budget=0.3, rule="sgd", lr=0.02, candidate_lr=0.01, rounds=1, decay=0.0)
    before = score(objective, meta, Batch(x, y))["loss"]
    for _ in range(30):
        found = descend(Objective(learner, meta, tuple(meta)), Batch(x, y), settings_)
        meta = found.theta
        after = score(objective, meta, Batch(x, y))["loss"]
        assert after <= before + 1e-12
        before = after


@settings(max_examples=60)
@given(
    sizes=st.lists(st.sampled_from([(1,), (3,), (2, 3), (4, 1), (2, 2, 3)]), min_size=1, max_size=4),
    budget=st.floats(0.001, 1.0),
    scope=st.sampled_from(["global", "tensor", "neuron"]),
    seed=st.integers(0, 99),
)
def test_the_largest_scores_are_chosen_and_no_others(sizes, budget, scope, seed):
    g = generator(seed)
    scores = {str(i): torch.randn(size, generator=g) for i, size in enumerate(sizes)}
    mask = largest(scores, budget, scope)
    groups = {
        "global": [[torch.cat([v.flatten() for v in part.values()]) for part in (scores, mask)]],
        "tensor": [(scores[n].flatten(), mask[n].flatten()) for n in scores],
        "neuron": [
            pair
            for n in scores
            for pair in (
                zip(scores[n].flatten(1), mask[n].flatten(1), strict=True)
                if scores[n].dim() > 1
                else [(scores[n], mask[n])]
            )
        ],
    }[scope]  # fmt: skip
    for values, chosen in groups:
        assert set(chosen.tolist()) <= {0.0, 1.0}
        assert int(chosen.sum()) == max(1, math.floor(budget * len(values) + 1e-9))
        if 0 < chosen.sum() < len(values):
            assert values[chosen == 1].min() >= values[chosen == 0].max()


def test_frozen_parameters_never_move():
    module, (x, y) = net(), rows()
    module[0].weight.requires_grad_(False)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    found = il.refine(module, (x, y), score="all", rounds=4, adapt="0.*,2.bias", **QUICK)
    after = found.state_dict()
    assert torch.equal(after["0.weight"], before["0.weight"])
    assert torch.equal(after["2.weight"], before["2.weight"])
    assert not torch.equal(after["0.bias"], before["0.bias"])
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert {*found.mask} == {"0.bias", "2.bias"}


def test_one_example_a_class_is_left_out_one_by_one():
    x, y = rows()
    one = torch.stack([torch.nonzero(y == c)[0, 0] for c in range(3)])
    found = il.refine(net(), (x[one], y[one]), rounds=5, device="cpu")
    assert "cross-fitting" in found.stopped
    with pytest.raises(DataError, match="add rows"):
        il.refine(net(), (x[:1], y[:1]), rounds=1, stop="none", device="cpu")


def test_two_rows_leave_nothing_to_cross_fit_with():
    x, y = rows()
    found = il.refine(net(), (x[:2], y[:2]), rounds=3, device="cpu")
    assert found.best_round == 0


@pytest.mark.parametrize("bad", [math.nan, math.inf, 1e30])
def test_divergence_keeps_the_last_good_weights(bad):
    module, (x, y) = net(), rows()
    calls = []

    def loss(prediction, target):
        return F.cross_entropy(prediction, target)

    good = il.refine(module, (x, y), loss=loss, rounds=3, rule="sgd", lr=0.1, **QUICK)

    def poisoned(entry):
        calls.append(entry)

    found = il.refine(
        module, (x, y), loss=loss, rounds=50, rule="sgd", lr=bad if math.isfinite(bad) else 1e300,
        callbacks=[poisoned], score="all", **QUICK,
    )  # fmt: skip
    assert found.stopped.startswith("diverged in round")
    assert "lower lr" in found.stopped
    assert all(torch.isfinite(value).all() for value in found.model.meta.values())
    assert len(calls) < 50
    assert good.stopped == "all 3 rounds were taken"
    assert score_of(found, x, y) < 20 * max(score_of(good, x, y), 1)


def score_of(found, x, y):
    return float(F.cross_entropy(found.model.base()(x), y))


def test_with_a_third_split_divergence_keeps_the_best():
    module, (x, y) = net(), rows(60)
    found = il.refine(module, (x, y), rounds=50, rule="sgd", lr=1e6, score="all", stop="split", device="cpu")
    assert found.best_round == 0
    assert largest_error(found.model.meta, params(module)) == 0


def test_a_model_that_is_not_finite_is_refused():
    module, (x, y) = net(), rows()
    with torch.no_grad():
        module[0].bias[0] = math.nan
    with pytest.raises(DivergedError, match="before anything has changed"):
        il.refine(module, (x, y), rounds=2, **QUICK)


def test_it_stops_when_the_average_stands_still_and_says_so():
    g = generator(2)
    x = torch.randn(40, 4, generator=g, dtype=torch.float64)
    y = x.sum(1, keepdim=True) + 0.1 * torch.randn(40, 1, generator=g, dtype=torch.float64)
    module = nn.Sequential(nn.Linear(4, 1)).double()
    options = {"rule": "sgd", "lr": 0.1, "stop": "none", "device": "cpu", "score": "all", "rounds": 4000}
    found = il.refine(module, (x, y), decay=0.1, tolerance=2e-4, patience=5, **options)
    assert "averaged parameters moved less than 0.0002" in found.stopped
    assert 5 <= len(found.log) < 4000
    assert all(entry["moved"] < 2e-4 for entry in found.log[-5:])
    assert found.log[-6]["moved"] >= 2e-4 or len(found.log) == 5
    least_squares = torch.linalg.lstsq(torch.cat([x, torch.ones(40, 1, dtype=torch.float64)], 1), y).solution
    assert (found.model.meta["0.weight"].flatten() - least_squares.flatten()[:4]).abs().max() < 0.05


def test_it_stops_when_the_validation_loss_no_longer_falls():
    module, (x, y) = net(), rows(200)
    noise = torch.randint(3, (40,), generator=generator())
    found = il.refine(
        module,
        (x[:10], noise[:10]),
        valid=(x[100:], y[100:]),
        rounds=500,
        worse=7,
        lr=0.05,
        score="all",
        device="cpu",
    )
    assert found.stopped == "the validation loss has not fallen for 7 rounds"
    losses = [entry["valid_loss"] for entry in found.log]
    best = min(range(len(losses)), key=losses.__getitem__) + 1
    assert found.best_round in (0, best)


def test_the_step_decays():
    found = il.refine(net(), rows(), rounds=4, lr=0.1, **{**QUICK, "decay": 0.5})
    assert [entry["lr"] for entry in found.log] == pytest.approx([0.1, 0.1 / 1.5, 0.05, 0.04])


@pytest.mark.parametrize("name", SCORES)
@pytest.mark.parametrize("noise", ["none", "laplace"])
def test_equal_seeds_give_equal_results(name, noise):
    module, data = net(), rows()
    state = torch.get_rng_state()
    one, two, other = (
        il.refine(module, data, score=name, noise=noise, moves="bootstrap", rounds=3, seed=seed, **QUICK)
        for seed in (1, 1, 2)
    )
    assert largest_error(one.model.meta, two.model.meta) == 0
    assert largest_error(one.model.meta, other.model.meta) > 0
    assert torch.equal(torch.get_rng_state(), state)


def test_records_say_what_was_done():
    x, y = rows(200)
    found = il.refine(
        net(), (x[:120], y[:120]), test=(x[120:], y[120:]), rounds=40, lr=0.02, stop="split", device="cpu"
    )
    keys = {"round", "loss", "accuracy", "selected", "changed", "lr", "moved", "valid_loss", "valid_accuracy"}
    assert all({*entry} == keys for entry in found.log)
    assert found.scores["after"]["accuracy"] > found.scores["before"]["accuracy"]
    changed = sum(int(mask.sum()) for mask in found.mask.values()) / 51
    assert 0 < changed <= found.log[-1]["changed"]
    assert found.seconds > 0


def test_the_third_split_takes_from_every_class_and_never_all():
    y = torch.tensor([0] * 10 + [1] * 5 + [2])
    first, second = split_off(Batch(torch.arange(16.0)[:, None], y), 0.2, generator())
    assert torch.bincount(second.y, minlength=3).tolist() == [2, 1, 0]
    assert sorted(torch.cat([first.x, second.x]).flatten().tolist()) == list(range(16))
    with pytest.raises(DataError, match="stop='none'"):
        split_off(Batch(torch.zeros(2, 1), torch.zeros(2, 1)), 0.2, generator())


class Odd(nn.Module):
    """Half precision, a buffer, tied weights, BatchNorm with statistics, and a dict for input."""

    def __init__(self):
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 4)
        self.last.weight = self.first.weight
        self.register_buffer("scale", torch.tensor(2.0))

    def forward(self, left, right):
        return self.last(torch.relu(self.norm(self.first(left + self.scale * right))))


def test_the_state_dict_fits_the_original_module():
    module = Odd()
    module.half()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    g = generator()
    x = {"left": torch.randn(20, 4, generator=g), "right": torch.randn(20, 4, generator=g)}
    found = il.refine(module, Batch(x, torch.randint(4, (20,), generator=g)), rounds=3, lr=0.05, **QUICK)
    after = found.state_dict()
    assert list(after) == list(before)
    assert {name: value.dtype for name, value in after.items()} == {n: v.dtype for n, v in before.items()}
    assert torch.equal(after["first.weight"], after["last.weight"])
    assert not torch.equal(after["first.weight"], before["first.weight"])
    for name in ("scale", "norm.running_mean", "norm.num_batches_tracked"):
        assert torch.equal(after[name], before[name])
    assert str(module.load_state_dict(after)) == "<All keys matched successfully>"


def test_meta_trained_weights_go_back_into_their_module():
    module = il.models.mlp(2, [3], 1)
    learner = il.maml(module, loss="mse", learn_lr="tensor")
    meta = {name: value + 1 for name, value in learner.init().items()}
    found = il.state_dict(il.Model(learner, meta))
    assert {*found} == {*module.state_dict()}
    assert torch.equal(found["0.weight"], module[0].weight + 1)
    with pytest.raises(UsageError, match="no module"):
        il.state_dict(il.Model(il.mixed(2), il.mixed(2).init()))
    low_rank = il.maml(module, loss="mse", adapt="lora(1)")
    with pytest.raises(UsageError, match="low-rank"):
        il.state_dict(il.Model(low_rank, low_rank.init()))


def test_batchnorm_without_statistics_takes_those_of_the_rows():
    torch.manual_seed(0)
    module = il.models.conv4(1, 3, size=16, width=4)
    x, y = torch.rand(24, 1, 16, 16), torch.arange(24) % 3
    found = il.refine(module, (x, y), test=(x, y), rounds=0, **QUICK)
    with torch.no_grad():
        truth = float(
            F.cross_entropy(module(x), y)
        )  # it normalises with the rows at hand, which are the same
    assert found.scores["before"]["loss"] == pytest.approx(truth, rel=1e-4)
    alone = found.model.base()(x[:1])
    assert (alone - found.model.base()(x)[:1]).abs().max() < 1e-5


def test_a_refined_model_can_be_refined_again_and_a_meta_trained_one_too():
    module, (x, y) = net(), rows()
    first = il.refine(module, (x, y), rounds=3, **QUICK)
    again = il.refine(first.model, (x, y), test=(x, y), rounds=0, **QUICK)
    assert largest_error(again.model.meta, first.model.meta) == 0
    learner = il.maml(module, loss="cross_entropy")
    meta = il.refine(il.Model(learner, learner.init()), (x, y), rounds=3, **QUICK)
    assert largest_error(meta.model.meta, first.model.meta) == 0
    assert meta.model.learner.recipe["algorithm"] == "plain"
    head = il.protonet(nn.Sequential(nn.Linear(4, 5)), n_features=5, n_outputs=3)
    with pytest.raises(UsageError, match="support rows"):
        il.refine(il.Model(head, head.init()), (x, y), **QUICK)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"score": "largest"}, "score='largest' is unknown"),
        ({"scope": "row"}, "scope='row' is unknown"),
        ({"moves": "half"}, "moves='half' is unknown"),
        ({"noise": "much"}, "noise='much' is unknown"),
        ({"stop": "never"}, "stop='never' is unknown"),
        ({"rule": "sga"}, "inner='sga' is unknown"),
        ({"budget": 0.0}, "budget=0.0"),
        ({"budget": 1.5}, "budget=1.5"),
        ({"folds": 1}, "folds=1"),
        ({"lr": 0.0}, "lr=0.0"),
        ({"lr": math.nan}, "lr=nan"),
        ({"decay": -1.0}, "decay=-1.0"),
        ({"rounds": -1}, "rounds=-1"),
        ({"learning_rate": 0.1}, "no argument 'learning_rate'"),
        ({"adapt": "layer4.*"}, "matches no trainable parameter"),
        ({"mask": {"odd": torch.ones(1)}}, "mask: 'odd'"),
    ],
)
def test_arguments_without_a_meaning_are_refused(arguments, words):
    with pytest.raises(UsageError, match=words.replace("'", ".").replace("*", ".")):
        il.refine(net(), rows(), **{"device": "cpu", **arguments})


def test_rows_that_do_not_fit_are_refused():
    x, y = rows()
    with pytest.raises(DataError, match="class number 7, and the model has 3 outputs"):
        il.refine(net(), (x, y + 5), device="cpu")
    with pytest.raises(DataError, match="cannot take rows of shape"):
        il.refine(net(), (x[:, :2], y), device="cpu")
    with pytest.raises(UsageError, match="takes a module or a Model"):
        il.refine({"0.weight": x}, (x, y), device="cpu")
