"""Inner losses apart from the outer one: by hand, by finite differences, through a model directory; other targets."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import innerloop as il
from innerloop.algorithms import ALGORITHMS, build
from innerloop.errors import DataError, UsageError
from innerloop.inner import InnerLoss, learned_loss, on_support
from innerloop.tasks.episodes import stack
from toolkit.compiler import compiles
from toolkit.oracles import difference_error, doubled, generic, largest_error, regression_episode, within

EPISODE = regression_episode()


class Learned(nn.Module):
    """A loss with parameters: a weighted sum of the squared and the absolute error."""

    def __init__(self):
        super().__init__()
        self.weights = nn.Parameter(torch.tensor([0.5, 0.2]))

    def forward(self, prediction, target):
        error = prediction - target
        return (self.weights[0] * error.square() + self.weights[1] * (error.square() + 0.1).sqrt()).mean(-1)


def smooth(prediction, target):
    return ((prediction - target).square() + 0.5).sqrt().mean(-1)


def pulled(prediction, support, params):
    """Without labels: rows that are near predict alike; weights are pulled to zero."""
    return (prediction - prediction.mean(0)).square().mean(-1) + 0.3 * params["0.weight"].square().sum()


def net():
    torch.manual_seed(0)
    return il.models.mlp(2, [4], 1)


LOSSES = {
    "function": lambda: smooth,
    "module": Learned,
    "on_support": lambda: on_support(pulled),
    "own": lambda: on_support(
        lambda prediction, support, params: (
            params["inner/loss/scale"] * (prediction - support.y).square().mean(-1)
        ),
        meta={"scale": torch.ones(())},
    ),
}


def by_hand(learner, loss, meta, episode):
    """The mean query loss after adaptation, task by task with torch.func."""
    total, module = 0.0, net().double()
    for t in range(episode.n_tasks):
        fast = {name: meta[name] for name in learner.fast}

        def support_loss(fast, t=t):
            prediction = torch.func.functional_call(module, fast, (episode.support.x[t],))
            return loss(prediction, episode.support.x[t], episode.support.y[t], {**meta, **fast}).mean()

        for _ in range(learner.inner_steps):
            grads = torch.func.grad(support_loss)(fast)
            fast = {name: value - 0.1 * grads[name] for name, value in fast.items()}
        prediction = torch.func.functional_call(module, fast, (episode.query.x[t],))
        total = total + F.mse_loss(prediction, episode.query.y[t]) / episode.n_tasks
    return total


LEARNED = Learned().double()
BY_HAND = {
    "function": lambda p, x, y, params: smooth(p, y),
    "module": lambda p, x, y, params: torch.func.functional_call(
        LEARNED, {"weights": params["inner/loss/weights"]}, (p, y)
    ),
    "on_support": lambda p, x, y, params: pulled(p, None, params),
    "own": lambda p, x, y, params: params["inner/loss/scale"] * (p - y).square().mean(-1),
}


@pytest.mark.parametrize("name", LOSSES)
def test_the_meta_gradient_is_that_of_a_loop_by_hand(name):
    learner = il.maml(net(), loss="mse", inner_lr=0.1, inner_steps=2, inner_loss=LOSSES[name]())
    meta = generic(learner)
    leaves = {key: value.detach().requires_grad_() for key, value in meta.items()}
    value = by_hand(learner, BY_HAND[name], leaves, EPISODE)
    grads = torch.autograd.grad(value, list(leaves.values()), allow_unused=True, materialize_grads=True)
    seen, _ = learner.metagrad(learner, meta, EPISODE)
    within(largest_error(dict(zip(leaves, grads, strict=True)), seen), 1e-12)


# the first layer, which `on_support` pulls, does not adapt in ANIL
PAIRS = [
    (name, algorithm)
    for name in LOSSES
    for algorithm in ("maml", "anil", "meta_sgd")
    if (name, algorithm) != ("on_support", "anil")
]


@pytest.mark.parametrize(("name", "algorithm"), PAIRS)
def test_the_meta_gradient_equals_finite_differences(name, algorithm):
    learner = ALGORITHMS[algorithm](net(), loss="mse", inner_loss=LOSSES[name]())
    within(difference_error(learner, EPISODE, generic(learner)), 1e-8)


@compiles
@pytest.mark.parametrize("name", LOSSES)
def test_it_compiles(name):
    learner = il.maml(net(), loss="mse", inner_steps=2, inner_loss=LOSSES[name]())
    meta = doubled(learner.init())
    quick = il.fast(lambda meta: learner.metagrad(learner, meta, EPISODE)[0], gear="compiled")
    within(largest_error(learner.metagrad(learner, meta, EPISODE)[0], quick(meta)), 1e-12)
    assert quick.report.gear == "compiled"


def test_a_learned_loss_is_trained():
    tasks = il.tasks.sinusoid(n_support=5)
    learner = il.maml(il.models.mlp(1, [8], 1), loss="mse", inner_steps=1, inner_loss=Learned())
    run = il.meta_train(learner, tasks.train, steps=5, device="cpu", gear="eager")
    start = learner.init()["inner/loss/weights"]
    assert not torch.equal(run.model.meta["inner/loss/weights"], start)


def test_padding_changes_nothing():
    learner = il.maml(net(), loss="mse", inner_loss=Learned())
    meta = doubled(learner.init())
    one, two = (il.Episode(*(il.Batch(b.x[t], b.y[t]) for b in EPISODE)) for t in range(2))
    short = il.Episode(il.Batch(one.support.x[:-2], one.support.y[:-2]), one.query)
    whole, _ = learner.metagrad(learner, meta, stack([short, two]))
    parts = [learner.metagrad(learner, meta, stack([part]))[0] for part in (short, two)]
    within(largest_error({n: (parts[0][n] + parts[1][n]) / 2 for n in whole}, whole), 1e-12)
    scalar = il.maml(net(), loss="mse", inner_loss=on_support(lambda p, support, params: p.square().mean()))
    with pytest.raises(UsageError, match="let it return one value a row"):
        scalar.metagrad(scalar, doubled(scalar.init()), stack([short, two]))


def test_a_model_directory_keeps_it_by_name_or_asks_for_it(tmp_path):
    for number, (given, passed) in enumerate(((Learned(), {"inner_loss": Learned()}), ("mse", {}))):
        learner = il.maml(il.models.mlp(1, [4], 1), loss="mse", inner_loss=given)
        model = il.Model(learner, learner.init())
        path = il.save(tmp_path / str(number), model)
        loaded = il.load(path, **passed).model
        x, y = torch.rand(4, 1), torch.rand(4, 1)
        assert torch.equal(loaded.adapt(x, y)(x), model.adapt(x, y)(x))
        assert build(learner.recipe, **passed).recipe == learner.recipe
        with pytest.raises(UsageError, match="inner_loss="):
            il.load(path, **({} if passed else {"inner_loss": Learned()}))


def test_what_is_no_inner_loss_is_refused():
    for given, words in {
        "l1": "inner_loss='l1' is unknown: choose one of mse, cross_entropy",
        3: "inner_loss=3 is no loss",
        nn.Identity(): "a module with parameters",
    }.items():
        with pytest.raises(UsageError, match=words):
            il.maml(net(), loss="mse", inner_loss=given)
    for make in (ALGORITHMS["reptile"], ALGORITHMS["imaml"]):
        with pytest.raises(UsageError, match="'inner/loss/weights': use a plain inner loss"):
            make(net(), loss="mse", inner_loss=Learned())
    assert isinstance(learned_loss(Learned()), InnerLoss)


class Twofold(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.value, self.label = nn.Linear(3, 4), nn.Linear(4, 1), nn.Linear(4, 3)

    def forward(self, x):
        h = torch.tanh(self.body(x))
        return {"value": self.value(h), "label": self.label(h)}


def twofold(prediction, target):
    rows = (prediction["value"] - target["value"]).square().mean(-1)
    return rows + F.cross_entropy(prediction["label"], target["label"], reduction="none")


def twofold_task(generator):
    x = torch.randn(9, 3, generator=generator, dtype=torch.float64)
    weight = torch.randn(3, 1, generator=generator, dtype=torch.float64)
    y = {"value": x @ weight, "label": (x.sum(1) > 0).long() + (x[:, 0] > 1).long()}
    halves = (slice(0, 4), slice(4, 9))
    return il.Episode(
        *(il.Batch(x[half], {name: value[half] for name, value in y.items()}) for half in halves)
    )


def test_targets_may_be_dicts_of_tensors():
    learner = il.maml(Twofold(), loss=twofold, inner_steps=2)
    g = torch.Generator().manual_seed(0)
    episode = stack([twofold_task(g) for _ in range(3)])
    within(difference_error(learner, episode, generic(learner)), 1e-8)
    tasks = il.tasks.open(twofold_task)
    run = il.meta_train(learner, tasks.train, steps=2, device="cpu")
    score = il.evaluate(run.model, tasks.test)
    assert set(score.values) == {"loss"}
    rows = twofold_task(g).support
    assert run.model.adapt(rows.x, rows.y)(rows.x)["label"].shape == (4, 3)
    plain = il.maml(nn.Linear(3, 1), loss="mse")
    with pytest.raises(DataError, match="targets that are one tensor, not a dict of 'value', 'label'"):
        plain.metagrad(plain, doubled(plain.init()), episode)


def test_masks_are_classes_at_places():
    torch.manual_seed(0)
    x, y = torch.rand(2, 4, 1, 6, 6, dtype=torch.float64), torch.randint(3, (2, 4, 6, 6))
    learner = il.maml(nn.Conv2d(1, 3, 3, padding=1), loss="cross_entropy", inner_steps=1)
    meta = doubled(learner.init())
    base = {name: value.expand(2, *value.shape) for name, value in meta.items()}
    losses = learner.loss(meta, base, il.Batch(x, y))
    for t in range(2):
        logits = F.conv2d(x[t], meta["weight"], meta["bias"], padding=1)
        torch.testing.assert_close(losses[t], F.cross_entropy(logits, y[t]))
    within(difference_error(learner, il.Episode(il.Batch(x, y), il.Batch(x, y)), generic(learner)), 1e-8)
    tasks = il.tasks.open(lambda g: il.Episode(il.Batch(x[0], y[0]), il.Batch(x[1], y[1])))
    score = il.evaluate(il.Model(learner, meta), tasks.test)
    with torch.no_grad():
        adapted = learner.adapt(meta, il.Batch(x[:1], y[:1]))
        guess = learner.predict(meta, adapted, x[1:])[0].argmax(1)
    assert score.values["accuracy"][0, -1] == pytest.approx((guess == y[1]).double().mean().item())
    with pytest.raises(DataError, match="logits have shape"):
        learner.loss(meta, base, il.Batch(x, y[..., :-1]))
