"""BatchNorm policies: what each normalises with, where its gradient goes, and that they differ."""

import pytest
import torch
from torch import nn

import innerloop as il
from innerloop import algorithms as a
from innerloop.cli.text import batchnorm_line
from innerloop.errors import UsageError
from innerloop.inner import Model
from innerloop.outer import meta_train
from innerloop.tasks.episodes import Batch, Episode, stack
from toolkit.oracles import (
    central_difference,
    class_episode,
    difference_error,
    directional,
    doubled,
    largest_error,
    mean_query_loss,
    random_direction,
    within,
)


def net(n_out=3):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, n_out))


def body():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Tanh())


MAKE = {
    "maml": lambda **o: a.maml(net(), loss="cross_entropy", inner_lr=0.3, inner_steps=2, **o),
    "anil": lambda **o: a.anil(net(), loss="cross_entropy", inner_lr=0.3, inner_steps=2, **o),
    "maml_plus_plus": lambda **o: a.maml_plus_plus(
        net(), loss="cross_entropy", inner_steps=2, first_order_until=0, multi_step_until=1, **o
    ),
    "protomaml": lambda **o: a.protomaml(body(), n_features=6, n_way=3, inner_lr=0.3, inner_steps=2, **o),
    "protonet": lambda **o: a.protonet(body(), n_features=6, n_outputs=3, **o),
    "ridge": lambda **o: a.ridge(body(), n_features=6, n_outputs=3, kind="classification", **o),
}
per_step = pytest.mark.parametrize("name", MAKE)


def generic(learner):
    """Meta-parameters away from their start; running variances stay positive."""
    meta = doubled(learner.init())
    direction = random_direction(meta, 3)
    return {name: value + 0.3 * direction[name].abs() for name, value in meta.items()}


def learned(values):
    return {name: value for name, value in values.items() if not name.startswith("state/")}


@per_step
@pytest.mark.parametrize("mapping", ["vmap", "loop"])
def test_per_step_gradient_equals_finite_differences_with_the_statistics_held(name, mapping):
    learner, episode = MAKE[name](batchnorm="per_step", mapping=mapping), class_episode()
    meta = generic(learner)
    grads, _ = learner.metagrad(learner, meta, episode, 5)
    assert all((grads[entry] == 0).all() for entry in grads if entry.startswith("state/"))
    direction = {
        n: v if n in learned(meta) else torch.zeros_like(v) for n, v in random_direction(meta).items()
    }
    with torch.no_grad():
        truth = central_difference(lambda m: mean_query_loss(learner, m, episode), meta, direction)
    length = sum(v.square().sum() for v in grads.values()).sqrt().item()
    within(abs(directional(grads, direction) - truth) / length, 1e-8)


@per_step
def test_per_step_scales_replace_those_of_the_layer(name):
    learner = MAKE[name](batchnorm="per_step")
    meta = learner.init()
    assert not any(entry.endswith("1.weight") and not entry.startswith("inner/") for entry in meta)
    rows = {value.shape[0] for entry, value in meta.items() if "/bn/" in entry}
    assert rows == {learner.inner_steps + 1}


def by_hand(x, statistics, scales, weights):
    """The forward pass of `net`, one task."""
    hidden = x @ weights["0.weight"].T + weights["0.bias"]
    mean, var = statistics(hidden)
    hidden = (hidden - mean) / (var + 1e-5).sqrt() * scales[0] + scales[1]
    return torch.tanh(hidden) @ weights["3.weight"].T + weights["3.bias"]


def test_per_step_equals_its_formula():
    """Support rows use their own statistics, query rows the running ones of the step they are at."""
    learner, episode = MAKE["maml"](batchnorm="per_step"), class_episode()
    meta = generic(learner)
    adapted = learner.adapt(meta, episode.support)
    found = learner.predict(meta, adapted, episode.query.x)
    rows = [
        [meta[f"inner/bn/1.{k}"][s] for k in ("weight", "bias")]
        + [meta[f"state/bn/1.running_{k}"][s] for k in ("mean", "var")]
        for s in range(3)
    ]
    for task in range(episode.n_tasks):
        fast = {n: meta[n].clone().requires_grad_() for n in ("0.weight", "0.bias", "3.weight", "3.bias")}
        x, y = episode.support.x[task], episode.support.y[task]
        for step in range(2):
            logits = by_hand(x, lambda h: (h.mean(0), h.var(0, unbiased=False)), rows[step][:2], fast)
            grads = torch.autograd.grad(nn.functional.cross_entropy(logits, y), list(fast.values()))
            fast = {
                n: (w - 0.3 * g).detach().requires_grad_()
                for (n, w), g in zip(fast.items(), grads, strict=True)
            }
        truth = by_hand(episode.query.x[task], lambda h: rows[2][2:], rows[2][:2], fast)
        within((found[task] - truth).abs().max(), 1e-13)


@per_step
def test_per_step_statistics_are_averages_of_what_query_rows_show(name):
    learner, episode = MAKE[name](batchnorm="per_step"), class_episode()
    meta = doubled(learner.init())
    first = learner.metagrad(learner, meta, episode)[1]
    assert first["state/updates"] == 1
    prefix = "body." if name == "protomaml" else ""
    entry = f"state/bn/{prefix}1.running_mean"
    if name != "protomaml":
        hidden = episode.query.x @ meta["0.weight"].T + meta["0.bias"]  # before any step
        within((first[entry][0] - hidden.mean((0, 1))).abs().max(), 1e-13)
        spread = hidden.var(1, unbiased=False).mean(0)
        within((first[entry.replace("mean", "var")][0] - spread).abs().max(), 1e-13)
    later = (
        meta | {n: v for n, v in first.items() if n in meta} | {"state/updates": torch.tensor(99.0).double()}
    )
    moved = learner.metagrad(learner, later, episode)[1][entry]
    again = learner.metagrad(learner, later | {"state/updates": torch.zeros(()).double()}, episode)[1][entry]
    within((moved - (0.9 * later[entry] + 0.1 * again)).abs().max(), 1e-13)


@per_step
def test_per_step_predicts_single_rows_without_support_and_in_padded_stacks(name):
    learner, whole = MAKE[name](batchnorm="per_step"), class_episode()
    meta = generic(learner)
    adapted = learner.adapt(meta, whole.support)
    together = learner.predict(meta, adapted, whole.query.x)
    within((together[:, 1:2] - learner.predict(meta, adapted, whole.query.x[:, 1:2])).abs().max(), 1e-13)
    assert torch.isfinite(Model(learner, meta).base()(whole.query.x[0])).all()
    cut = [Episode(*(Batch(b.x[t, : 6 - t], b.y[t, : 6 - t]) for b in whole)) for t in range(3)]
    found = learner.metagrad(learner, meta, stack(cut))
    alone = [learner.metagrad(learner, meta, stack([one])) for one in cut]
    for part in (0, 1):
        names = [n for n in found[part] if n in meta]
        mean = {n: sum(each[part][n] for each in alone) / 3 for n in names}
        within(largest_error({n: found[part][n] for n in names}, mean), 1e-12)


@pytest.mark.parametrize("policy", ["support", "transductive"])
def test_per_step_is_really_used(policy):
    """Training moves the running statistics, and predictions differ from those of the other policies."""
    tasks = il.tasks.function(
        shifted,
        targets=il.tasks.support.Targets("classification", 3),
        support=6,
        feature_shape=(4,),
    )
    learner = MAKE["maml_plus_plus"](batchnorm="per_step")
    run = meta_train(learner, tasks.train, steps=30, meta_batch_size=8, device="cpu")
    meta = run.model.meta
    mean = meta["state/bn/1.running_mean"]
    assert meta["state/updates"] == 30
    assert mean.abs().min() > 0
    assert (mean[0] - mean[2]).abs().max() > 1e-4, "each step has statistics of its own"
    episode = tasks.test.sample(4, torch.Generator().manual_seed(0))

    def predict(meta):
        return learner.predict(meta, learner.adapt(meta, episode.support), episode.query.x)

    moved = meta | {"state/bn/1.running_mean": mean + torch.tensor([[0.0], [0.0], [1.0]])}
    assert (predict(meta) - predict(moved)).abs().max() > 1e-3
    other = MAKE["maml_plus_plus"](batchnorm=policy)
    plain = {n: v for n, v in meta.items() if "/bn/" not in n and not n.startswith("state/")}
    plain |= {f"1.{k}": meta[f"inner/bn/1.{k}"][2] for k in ("weight", "bias")}
    plain |= {n: v for n, v in other.init().items() if n not in plain}
    theirs = other.predict(plain, other.adapt(plain, episode.support), episode.query.x)
    assert (predict(meta) - theirs).abs().max() > 1e-3


def shifted(count, generator):
    episode = class_episode(tasks=count, seed=int(torch.randint(1000, (1,), generator=generator)))
    return Episode(*(Batch(b.x.float() + 2, b.y) for b in episode))


@pytest.mark.parametrize(
    "make",
    [
        lambda: a.reptile(net(), loss="cross_entropy", batchnorm="per_step"),
        lambda: a.imaml(net(), loss="cross_entropy", batchnorm="per_step"),
        lambda: a.bmaml(net(), loss="cross_entropy", batchnorm="per_step"),
    ],
    ids=["reptile", "imaml", "bmaml"],
)
def test_per_step_is_refused_where_its_scales_would_not_be_trained(make):
    with pytest.raises(UsageError, match="per_step"):
        make()


@pytest.mark.parametrize("policy", ["support", "per_step"])
def test_without_batchnorm_the_policy_changes_nothing(policy):
    module = il.models.mlp(4, [5], 3)
    learner = a.maml(module, loss="cross_entropy", batchnorm=policy)
    assert sorted(learner.init()) == sorted(dict(module.named_parameters()))
    within(difference_error(learner, class_episode(), doubled(learner.init())), 1e-8)


def test_scores_name_the_policy():
    lines = [
        batchnorm_line(MAKE["maml"](batchnorm=policy)) for policy in ("support", "transductive", "per_step")
    ]
    assert [line.split()[1] for line in lines] == ["support", "transductive", "per_step"]
    assert batchnorm_line(a.maml(il.models.mlp(2), loss="mse")) == ""
