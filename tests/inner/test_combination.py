"""A combination against the average by hand, and what a hostile directory may not be."""

import copy

import numpy as np
import pytest
import torch

from innerloop.algorithms import boosting, build, combination, mixed
from innerloop.errors import UsageError
from innerloop.inner import Model
from innerloop.storage.validation import require_recipe
from innerloop.tasks.episodes import Batch
from toolkit.oracles import class_episode, generic, regression_episode, within


@pytest.fixture
def both():
    learner = combination([mixed(2), boosting(2, rounds=3, depth=2)], sizes=[0, 5])
    meta = generic(learner)
    meta["weights"] = torch.tensor([[0.2, 0.8], [0.6, 0.4]], dtype=torch.float64)
    meta["noise"] = torch.tensor([[[1.0], [2.0]], [[1.5], [0.5]]], dtype=torch.float64)
    return learner, meta


def test_values_and_variance_are_those_of_the_mixture(both):
    learner, meta = both
    episode = regression_episode()
    own = learner.adapt(meta, episode.support)
    parts = []
    for number, member in enumerate(learner.members):
        inside = learner.part(meta, number)
        adapted = member.adapt(inside, episode.support)
        parts.append(
            [f(inside, adapted, episode.query.x).detach().numpy() for f in (member.predict, member.variance)]
        )
    (one, v1), (other, v2) = parts
    mean = 0.6 * one + 0.4 * other
    within(np.abs(learner.predict(meta, own, episode.query.x).numpy() - mean).max(), 1e-12)
    variance = 0.6 * (1.5 * v1 + one**2) + 0.4 * (0.5 * v2 + other**2) - mean**2
    within(np.abs(learner.variance(meta, own, episode.query.x).numpy() - variance).max(), 1e-10)
    density = sum(
        w * np.exp(-((episode.query.y.numpy() - m) ** 2) / 2 / v) / np.sqrt(2 * np.pi * v)
        for w, m, v in ((0.6, one, 1.5 * v1), (0.4, other, 0.5 * v2))
    )
    loss = learner.loss(meta, own, episode.query).numpy()
    within(np.abs(loss + np.log(density[..., 0]).mean(1)).max(), 1e-10)


@pytest.mark.parametrize(("rows", "weight"), [(0, 0.2), (5, 0.6), (50, 0.6), (2, None)])
def test_weights_follow_the_number_of_rows(both, rows, weight):
    learner, meta = both
    support = Batch(torch.zeros(1, rows, 2).double(), torch.zeros(1, rows, 1).double())
    found = learner.adapt(meta, support)["weights"][0]
    expected = 0.2 + 0.4 * np.log(1 + rows) / np.log(6) if weight is None else weight
    within(abs(found[0].item() - expected), 1e-12)
    within(abs(found.sum().item() - 1), 1e-12)


def test_padded_tasks_have_the_weights_of_their_rows(both):
    learner, meta = both
    weight = torch.tensor([[1.0, 1, 1, 1, 1], [1, 1, 0, 0, 0]], dtype=torch.float64)
    support = Batch(torch.zeros(2, 5, 2).double(), torch.zeros(2, 5, 1).double(), weight)
    own = learner.adapt(meta, support)["weights"]
    alone = learner.adapt(meta, Batch(support.x[1:, :2], support.y[1:, :2]))["weights"]
    within((own[1] - alone[0]).abs().max(), 1e-12)


def test_probabilities_are_averaged():
    members = [mixed(4, 3, kind="classification"), boosting(4, 3, kind="classification", rounds=3, depth=2)]
    learner = combination(members, sizes=[6], kind="classification", n_outputs=3)
    meta, episode = generic(learner), class_episode()
    meta["weights"] = torch.tensor([[0.3, 0.7]], dtype=torch.float64)
    own = learner.adapt(meta, episode.support)
    chance = 0
    for number, (member, share) in enumerate(zip(members, (0.3, 0.7), strict=True)):
        inside = learner.part(meta, number)
        adapted = member.adapt(inside, episode.support)
        chance = chance + share * member.predict(inside, adapted, episode.query.x).softmax(-1)
    within((learner.predict(meta, own, episode.query.x).softmax(-1) - chance).abs().max(), 1e-12)


def test_the_recipe_makes_it_again(both):
    learner, meta = both
    again = build(learner.recipe)
    x, y = torch.zeros(2, 2), torch.ones(2, 1)
    single = {name: value.float() for name, value in meta.items()}
    one, other = (Model(each, single).adapt(x, y)(x) for each in (learner, again))
    assert torch.equal(one, other)
    require_recipe(learner.recipe)


@pytest.mark.parametrize(
    "change",
    [
        lambda r: r["members"].append(copy.deepcopy(r)),
        lambda r: r["members"][0].update(model="external"),
        lambda r: r["members"][0].update(algorithm="os.system"),
        lambda r: r.update(algorithm="maml"),
        lambda r: r.update(members=[]),
        lambda r: r.update(members={"a": 1}),
        lambda r: r.update(more=1),
        lambda r: r["settings"].update(sizes=[]),
        lambda r: r["settings"].update(sizes=[5.0, 1.0]),
        lambda r: r["settings"].update(sizes=[0.0] * 1000),
        lambda r: r["settings"].update(n_outputs=-1),
        lambda r: r["settings"].update(kind=3),
    ],
)
def test_a_recipe_that_is_none_is_refused(both, change):
    recipe = copy.deepcopy(both[0].recipe)
    change(recipe)
    with pytest.raises(ValueError, match=r"combination|members|algorithm|setting"):
        require_recipe(recipe)


def test_what_has_no_meaning_is_refused():
    with pytest.raises(UsageError, match="members"):
        combination([], sizes=[0])
    for sizes in ([], [3, 1], [-1], [2, 2]):
        with pytest.raises(UsageError, match="sizes"):
            combination([mixed(2)], sizes=sizes)
