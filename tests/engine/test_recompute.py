"""A checkpointed inner loop gives the gradient of the unrolled one, and keeps no activations."""

from dataclasses import replace

import pytest
import torch
from torch import nn

import innerloop as il
from innerloop import algorithms as a
from innerloop.algorithms import gradient_learner
from innerloop.engine import fast
from innerloop.engine.recompute import recomputed
from innerloop.errors import UsageError
from innerloop.inner import proximal, sgd
from innerloop.inner.gradient import GradientLearner
from innerloop.outer import annealed, checkpointed, multi_step, unrolled
from innerloop.outer.prefetch import task_keys
from innerloop.outer.update import Outer, meta_update, numbers_of
from toolkit.cases import body, net
from toolkit.oracles import (
    class_episode,
    doubled,
    generic,
    largest_error,
    regression_episode,
    uneven,
)


def image_net(*, dropout: float = 0.0) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        *(nn.Conv2d(1, 3, 3, padding=1), nn.BatchNorm2d(3), nn.ReLU(), nn.MaxPool2d(2), nn.Dropout(dropout)),
        *(nn.Flatten(), nn.Linear(12, 3)),
    )


def on_rows(name, **options):
    extra = 2 if name == "cavia" else 0
    more = {"n_context": 2} if extra else {}
    return lambda **o: getattr(a, name)(
        net(4 + extra, 3), loss="cross_entropy", **{"inner_lr": 0.1, **more, **options, **o}
    )


def on_images(batchnorm, name="maml", **options):
    dropout = options.pop("dropout", 0.0)
    return lambda **o: getattr(a, name)(
        image_net(dropout=dropout),
        loss="cross_entropy",
        **{"inner_lr": 0.1, "inner_steps": 3, "batchnorm": batchnorm, **options, **o},
    )


def on_features(**o):
    return a.protomaml(body(4), n_features=5, n_way=3, inner_lr=0.1, inner_steps=3, **o)


ROWS = {
    "maml": on_rows("maml", inner_steps=4),
    "no step": on_rows("maml", inner_steps=0),
    "one step": on_rows("maml", inner_steps=1),
    "momentum, learned, clipped": on_rows(
        "maml", inner_steps=4, inner="momentum", learn_lr="tensor", clip=0.5
    ),
    "adam": on_rows("maml", inner_steps=3, inner="adam", learn_lr="all"),
    "rmsprop": on_rows("maml", inner_steps=3, inner="rmsprop"),
    "a part": on_rows("maml", inner_steps=3, adapt="*.weight"),
    "lora": on_rows("maml", inner_steps=3, adapt="lora(2)"),
    "loop": on_rows("maml", inner_steps=3, mapping="loop"),
    **{
        name: on_rows(name, inner_steps=3)
        for name in ("anil", "boil", "meta_sgd", "maml_plus_plus", "meta_curvature", "sparse_maml", "cavia")
    },
    "protomaml": on_features,
}
IMAGES = {
    "support": on_images("support"),
    "transductive": on_images("transductive"),
    "per_step": on_images("per_step"),
    "per_step, multi-step loss": on_images("per_step", "maml_plus_plus", first_order_until=0),
    "support, multi-step loss": on_images("support", "maml_plus_plus", first_order_until=0),
    "dropout": on_images("support", dropout=0.4),
    "dropout, multi-step loss": on_images("support", "maml_plus_plus", first_order_until=0, dropout=0.4),
}
CASES = [*((make, False) for make in ROWS.values()), *((make, True) for make in IMAGES.values())]
every = pytest.mark.parametrize(("make", "images"), CASES, ids=[*ROWS, *IMAGES])


def given(images, *, padded=True):
    episode = class_episode(shape=(1, 4, 4)) if images else class_episode()
    key = task_keys(episode.n_tasks, torch.Generator().manual_seed(0))
    return uneven(episode) if padded else episode, key


@every
@pytest.mark.parametrize("step", [0, 200])
def test_the_gradient_is_that_of_the_unrolled_loop(make, images, step):
    whole, again = make(), make(metagrad="checkpointed")
    meta, (episode, key) = generic(whole), given(images)
    expected, figures = whole.metagrad(whole, meta, episode, step, key)
    results, others = again.metagrad(again, meta, episode, step, key)
    assert largest_error(results, expected) < 1e-12
    assert figures.keys() == others.keys()
    assert torch.allclose(figures["losses"], others["losses"], rtol=1e-13)
    assert again.metagrad.name.endswith("checkpointed")


TRACED = ("one step", "dropout")


@pytest.mark.parametrize("name", TRACED)
def test_a_traced_update_is_the_same(name):
    make, images = {**ROWS, **IMAGES}[name], name in IMAGES
    learner = make(metagrad="checkpointed")
    plain = meta_update(learner, clip=0.5)
    quick = fast(plain, gear="traced")
    episode, key = given(images, padded=False)
    for update in (quick, plain):
        state, metrics = update(Outer.start(generic(learner)), numbers_of(200, 1e-2), episode, key, 0)
        if update is quick:
            first = state, metrics
    assert largest_error(first[0].state[0], state.state[0]) < 1e-12
    assert torch.allclose(first[1]["losses"], metrics["losses"], rtol=1e-13)
    assert quick.report.gear == "traced", quick.report.reason


def test_parts_of_ones_own_and_wrappers_in_either_order():
    module, episode = net(2, 1), regression_episode()

    def learner(metagrad):
        rule = proximal(sgd(0.1, learn="tensor", steps=2), 0.5)
        return gradient_learner(module, "mse", rule, 3, metagrad=metagrad)

    inside, outside = annealed(checkpointed(multi_step(5)), 2), checkpointed(annealed(multi_step(5), 2))
    plain = annealed(multi_step(5), 2)
    meta = generic(learner(plain))
    for step in (0, 3, 9):
        one, two, three = (m(learner(m), meta, episode, step, None)[0] for m in (plain, inside, outside))
        assert largest_error(one, two) < 1e-12
        assert largest_error(one, three) < 1e-12


def test_draws_of_support_rows_are_those_of_their_step():
    episode = regression_episode()
    weight = torch.rand(3, 5, 2, generator=torch.Generator().manual_seed(1)).round().double()
    weight[:, 0] = 1
    episode = episode._replace(support=episode.support._replace(weight=weight))
    make = lambda **o: a.maml(net(2, 1), loss="mse", inner_lr=0.1, inner_steps=4, **o)  # noqa: E731
    whole, again = make(), make(metagrad="checkpointed")
    meta = generic(whole)
    one, two = (m.metagrad(m, meta, episode)[0] for m in (whole, again))
    assert largest_error(one, two) < 1e-12


def test_it_is_refused_where_there_are_no_inner_steps():
    heads = a.protonet(nn.Linear(4, 5), n_features=5, n_outputs=3)
    with pytest.raises(UsageError, match="needs inner gradient steps"):
        replace(heads, metagrad=checkpointed(unrolled()))
    with pytest.raises(
        UsageError, match="metagrad='backwards' is unknown: choose one of unrolled, checkpointed"
    ):
        a.maml(net(4, 3), loss="mse", metagrad="backwards")


class Once(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.square()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, slope):
        return 2 * ctx.saved_tensors[0] * slope


class Marked(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, x):
        return Once.apply(self.layer(x))


@pytest.mark.parametrize("name", ["maml", "maml_plus_plus"])
@pytest.mark.parametrize("metagrad", ["unrolled", "checkpointed"])
def test_a_model_without_a_second_derivative_is_found(metagrad, name):
    learner = getattr(a, name)(Marked(), loss="cross_entropy", mapping="loop", metagrad=metagrad)
    first = 100 if name == "maml_plus_plus" else 0  # when its second derivative is first taken
    with pytest.raises(UsageError, match="once_differentiable"):
        learner.metagrad(learner, doubled(learner.init()), class_episode(), first, None)


def test_the_recipe_makes_it_again():
    learner = a.maml(il.models.build("mlp", n_in=2), loss="mse", metagrad="checkpointed")
    again = a.build(learner.recipe)
    assert isinstance(again, GradientLearner)
    assert again.metagrad.name == "unrolled, checkpointed"


def test_any_function_keeps_its_gradient():
    x, y = torch.ones(2, requires_grad=True), torch.full((2,), 3.0, requires_grad=True)

    def function(parts, power, unused):
        return {"same": parts[0], "sum": (parts[0] * parts[1] ** power).sum(), "count": 2, "whole": power}

    results = recomputed(function, (x, y), 2, torch.zeros(1, requires_grad=True))
    assert (results["count"], results["whole"]) == (2, 2)
    grads = torch.autograd.grad(results["sum"] + results["same"].sum(), (x, y))
    assert [grad.tolist() for grad in grads] == [[10.0, 10.0], [6.0, 6.0]]
    with torch.no_grad():
        assert not recomputed(function, (x, y), 2, x)["sum"].requires_grad
    assert recomputed(lambda t: t > 0, x).tolist() == [True, True]


def test_a_second_derivative_is_refused_and_not_wrong():
    x = torch.tensor(2.0, requires_grad=True)
    (slope,) = torch.autograd.grad(recomputed(lambda t: t**3, x) + x**2, x, create_graph=True)
    assert slope.item() == 16
    with pytest.raises(RuntimeError, match="first derivative only"):
        torch.autograd.grad(slope, x)
