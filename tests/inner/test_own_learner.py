"""A learner of one's own: a subclass with the required methods only trains, adapts, scores and is wrapped."""

from dataclasses import dataclass

import pytest
import torch
from torch import nn

import innerloop as il
from innerloop.algorithms import mixed, plain, ridge
from innerloop.errors import UsageError
from innerloop.inner.per_task import per_task
from innerloop.models import Network
from innerloop.outer import annealed, checkpointed, displacement, unrolled
from innerloop.outer.memory import needed_bytes
from toolkit.oracles import difference_error, doubled, regression_episode, within


class Offset(il.Learner):
    """A shared model, and for each task the mean of what it leaves of the support targets."""

    def __init__(self, module: nn.Module, metagrad=None) -> None:
        self.network, self.metagrad = Network(module), metagrad or unrolled()

    def init(self):
        return self.network.params()

    def own_like(self, meta):
        return {"offset": next(iter(meta.values())).new_zeros(1, 1, 1)}

    def path(self, meta, support, *, steps=None, key=None):
        zero = support.y.new_zeros(len(support.y), 1, 1)
        yield {"offset": zero}
        if steps != 0:
            rest = support.y - self.network(meta, {}, support.x)[0]
            weight = torch.ones_like(rest[..., :1]) if support.weight is None else support.weight[..., None]
            yield {"offset": (rest * weight).sum(1, keepdim=True) / weight.sum(1, keepdim=True).clamp(min=1)}

    def predict(self, meta, adapted, x, *, key=None):
        return self.network(meta, {}, x)[0] + adapted["offset"]

    def loss(self, meta, adapted, batch, *, key=None):
        error = (self.predict(meta, adapted, batch.x) - batch.y).square().mean(-1)
        weight = torch.ones_like(error) if batch.weight is None else batch.weight
        return (error * weight).sum(1) / weight.sum(1).clamp(min=1)


def test_its_meta_gradient_is_the_derivative_of_the_query_loss():
    learner = Offset(nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 1)))
    within(difference_error(learner, regression_episode(), doubled(learner.init())), 1e-8)


def test_it_trains_scores_and_adapts():
    tasks = il.tasks.sinusoid(n_support=5, episodes=20)
    torch.manual_seed(0)
    learner = Offset(il.models.mlp(1, [16], 1))
    before = il.evaluate(il.Model(learner, learner.init()), tasks.test).metric("rmse")[0]
    run = il.meta_train(learner, tasks.train, steps=60, meta_lr=0.01, device="cpu")
    assert il.evaluate(run.model, tasks.test).metric("rmse")[0] < before
    task = run.model.adapt(torch.zeros(3, 1), torch.full((3, 1), 7.0))
    torch.testing.assert_close(task(torch.zeros(1, 1)), torch.full((1, 1), 7.0))
    assert run.model.base()(torch.zeros(1, 1)).item() != pytest.approx(7.0)
    with pytest.raises(UsageError, match="does not say how sure"):
        task.deviation(torch.zeros(1, 1))


def test_it_has_the_defaults_of_the_base():
    learner = Offset(nn.Linear(2, 1))
    meta, episode = learner.init(), regression_episode()
    assert learner.recipe is None
    assert learner.inner_steps == 0
    assert not learner.adapts_by_gradient
    assert learner.observe(meta, episode) == {}
    assert learner.fit(meta, episode.support) is None
    assert learner.unwrap(episode) == (learner, episode)
    copied = learner.with_recipe({"algorithm": "offset"})
    assert copied.recipe == {"algorithm": "offset"}
    assert learner.recipe is None
    assert needed_bytes(learner, meta, il.Episode(*(doubled_like(b) for b in episode))) > 0


def doubled_like(batch):
    return il.Batch(batch.x.float(), batch.y.float())


def test_a_learner_without_the_required_methods_cannot_be_made():
    class Half(il.Learner):
        def init(self):
            return {}

    with pytest.raises(TypeError, match="abstract"):
        Half()


def test_it_can_be_a_frozen_dataclass():
    @dataclass(frozen=True)
    class Shifted(Offset):
        network: Network
        metagrad: object

    learner = Shifted(Network(nn.Linear(2, 1)), unrolled())
    assert learner.with_recipe({"a": 1}).recipe == {"a": 1}
    assert set(learner.init()) == {"weight", "bias"}


@pytest.mark.parametrize("wrapper", [checkpointed, lambda metagrad: annealed(metagrad, 2)])
def test_what_needs_inner_gradient_steps_refuses_it(wrapper):
    learner = Offset(nn.Linear(2, 1))
    with pytest.raises(UsageError, match="needs inner gradient steps"):
        wrapper(unrolled()).check(learner)
    with pytest.raises(UsageError, match="displacement needs inner gradient steps"):
        displacement().check(learner)


def test_a_learner_with_gradient_steps_of_its_own_kind_is_told_who_may():
    class Stepping(Offset):
        adapts_by_gradient = True

    with pytest.raises(UsageError, match="made by gradient_learner, not Stepping"):
        displacement().check(Stepping(nn.Linear(2, 1)))


def test_a_wrapper_passes_on_what_the_learner_inside_can():
    inside = il.maml(il.models.mlp(2, [4], 1), loss="mse", inner_steps=3)
    around = per_task(inside, n_targets=1)
    assert around.inner_steps == 3
    assert around.adapts_by_gradient
    assert not around.closed_form
    assert per_task(ridge(nn.Linear(2, 3), n_features=3), n_targets=1).closed_form
    assert around.plain_loss is None
    assert inside.plain_loss == "mse"
    assert plain(nn.Sequential(nn.Linear(2, 1)), loss="mse").plain_loss == "mse"
    assert mixed(2).plain_loss is None
    learner, seen = around.unwrap(regression_episode())
    assert learner is inside
    torch.testing.assert_close(seen.support.y.mean(1), torch.zeros(3, 1, dtype=torch.float64))


@pytest.mark.parametrize("steps", [2, 11])
def test_the_check_of_a_wrapped_gradient_learner_takes_little_memory(steps, monkeypatch):
    """Beside a graph: few tasks at once, and of a long inner loop no activations; the gradient is the same."""
    from innerloop.engine.modes import while_checking
    from innerloop.inner.gradient import GradientLearner
    from innerloop.outer.update import meta_gradient

    calls = []
    adapt = GradientLearner.adapt

    def watched(self, meta, support, **options):
        calls.append((self.checkpointing, len(support.y)))
        return adapt(self, meta, support, **options)

    monkeypatch.setattr(GradientLearner, "adapt", watched)
    monkeypatch.setattr("innerloop.outer.update._FEW", 1)
    learner = per_task(il.maml(il.models.mlp(2, [4], 1), loss="mse", inner_steps=steps), n_targets=1)
    meta, episode = doubled(learner.init()), regression_episode()
    key, number = torch.zeros(3, dtype=torch.int64), torch.tensor(1.0)
    usual, metrics = meta_gradient(learner)(meta, episode, key, number, 0)
    assert calls == [(False, 3)]
    with while_checking():
        again, same = meta_gradient(learner)(meta, episode, key, number, 0)
    assert calls[-1] == (steps > 10, 1)
    torch.testing.assert_close(same, metrics)
    assert all(torch.allclose(usual[name], again[name], rtol=1e-12, atol=1e-14) for name in usual)
