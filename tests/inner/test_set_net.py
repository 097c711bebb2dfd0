"""Networks that read a support set: against loops in NumPy, for any order of the rows, and with none."""

import numpy as np
import pytest
import torch

import innerloop as il
from innerloop.algorithms import ALGORITHMS
from innerloop.errors import UsageError
from innerloop.inner.heads.set_net import READINGS, SetClassHead, SetReader, SetValueHead
from innerloop.tasks.episodes import Batch
from toolkit.oracles import doubled, within

every = pytest.mark.parametrize("reading", READINGS)


def silu(values):
    return values / (1 + np.exp(-values))


def softmax(values):
    powers = np.exp(values - values.max())
    return powers / powers.sum()


def by_hand(meta, reading, x, y, query):
    """What a reader says of one task's query rows, row by row."""
    w = {name.removeprefix("head/"): value.numpy() for name, value in meta.items()}

    def layer(name, values):
        return values @ w[f"{name}/weight"] + w.get(f"{name}/bias", 0.0)

    root = np.sqrt(len(w["row1/bias"]))
    rows = [layer("row2", silu(layer("row1", np.r_[a, b]))) for a, b in zip(x, y, strict=True)]
    seen = list(x)
    if reading == "transformer":
        asked, keys, told = ([layer(f"among_{n}", row) for row in rows] for n in ("query", "key", "value"))
        mixed = []
        for row, one in zip(rows, asked, strict=True):
            share = softmax(np.array([one @ key / root for key in keys]))
            mixed.append(row + sum(a * value for a, value in zip(share, told, strict=True)))
        rows = seen = [row + silu(layer("after", row)) for row in mixed]
    said = []
    for one in query:
        if reading == "mean":
            told = np.mean(rows, 0) if rows else np.zeros_like(w["row1/bias"])
        else:
            keys = [w["nobody_key"], *(layer("key", row) for row in seen)]
            share = softmax(np.array([layer("query", one) @ key / root for key in keys]))
            told = sum(a * value for a, value in zip(share, [w["nobody_value"], *rows], strict=True))
        hidden = silu(layer("out1", np.r_[one, told, np.log1p(len(rows))]))
        said.append(layer("out3", silu(layer("out2", hidden))))
    return np.array(said)


def reader(reading):
    """A reader away from its first weights."""
    made = SetReader(2, 1, 3, reading, 5, seed=1)
    generator = torch.Generator().manual_seed(2)
    meta = doubled(made.init())
    return made, {
        name: value + 0.3 * torch.randn(value.shape, generator=generator, dtype=value.dtype)
        for name, value in meta.items()
    }


@every
@pytest.mark.parametrize("rows", [0, 1, 4])
def test_a_reader_is_a_loop_over_rows(reading, rows):
    made, meta = reader(reading)
    rng = np.random.default_rng(0)
    x, y, query = rng.normal(size=(rows, 2)), rng.normal(size=(rows, 1)), rng.normal(size=(3, 2))
    # a second task that is longer, so that the first is padded, with rows that must not count
    padded = [torch.from_numpy(np.concatenate([part, np.full((2, part.shape[1]), 7.0)])) for part in (x, y)]
    weight = torch.ones(2, rows + 2, dtype=torch.float64)
    weight[0, rows:] = 0
    own = made.read(meta, *(torch.stack([part, part + 1]) for part in padded), weight)
    said = made.say(meta, own, torch.from_numpy(query).expand(2, 3, 2))[0].numpy()
    within(np.abs(said - by_hand(meta, reading, x, y, query)).max(), 1e-12)


@every
def test_no_rows_are_what_nothing_is(reading):
    made, meta = reader(reading)
    empty = torch.zeros(2, 0, 2, dtype=torch.float64)
    own = made.read(meta, empty, empty[..., :1], empty[..., 0])
    query = torch.randn(2, 3, 2, dtype=torch.float64)
    nothing = made.nothing(meta, 2)
    assert {name: value.shape for name, value in own.items()} == {n: v.shape for n, v in nothing.items()}
    assert torch.equal(made.say(meta, own, query), made.say(meta, nothing, query))


@every
def test_the_log_density_is_that_of_a_gaussian(reading):
    head = SetValueHead(2, 1, reading, 6)
    meta, batch = doubled(head.init()), Batch(torch.randn(2, 4, 2).double(), torch.randn(2, 4, 1).double())
    own = head.solve(meta, batch.x, batch)
    normal = torch.distributions.Normal(
        head.predict(meta, own, batch.x), head.variance(meta, own, batch.x).sqrt()
    )
    found = head.log_density(meta, own, batch.x, batch)
    within((found - normal.log_prob(batch.y)[..., 0]).abs().max(), 1e-12)


@pytest.mark.parametrize("name", ["cnp", "attentive_cnp", "set_net"])
def test_it_learns_what_support_rows_say(name):
    tasks = il.tasks.sinusoid(n_support=10, episodes=30)
    learner = ALGORITHMS[name](il.models.mlp(1, [16], None), n_features=16, units=16)
    run = il.meta_train(learner, tasks.train, steps=300, meta_lr=5e-3, device="cpu")
    score = il.evaluate(run.model, tasks.test)
    assert score.metric("rmse").mean < 0.95 * score.metric("rmse", 0).mean


def test_the_first_weights_follow_the_seed():
    one, again, other = (SetReader(2, 1, 1, seed=seed).init() for seed in (0, 0, 1))
    assert all(torch.equal(one[name], again[name]) for name in one)
    assert not torch.equal(one["head/row1/weight"], other["head/row1/weight"])


def test_what_has_no_meaning_is_refused():
    with pytest.raises(UsageError, match="reading"):
        SetValueHead(2, reading="median")
    with pytest.raises(UsageError, match="units=0"):
        SetClassHead(2, 3, units=0)
    with pytest.raises(UsageError, match="n_outputs"):
        SetClassHead(2, 1)
