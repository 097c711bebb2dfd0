"""Modules with randomness, checkpoints, buffers, trained statistics: the true gradient, or a refusal."""

import math
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

import innerloop as il
from innerloop.algorithms import maml, protonet
from innerloop.errors import UsageError
from innerloop.models.randomness import CounterRandom
from innerloop.tasks.episodes import map_tensors
from toolkit.oracles import (
    difference_error,
    doubled,
    fourth_order_difference,
    largest_error,
    plain_maml,
    regression_episode,
    within,
)

EPISODE = regression_episode()
KEY = torch.tensor([11, 12, 13])


class Between(nn.Module):
    """Two linear layers and something in between."""

    def __init__(self, function):
        super().__init__()
        self.first, self.last, self.function = nn.Linear(2, 6), nn.Linear(6, 1), function

    def forward(self, x):
        return self.last(self.function(self, torch.tanh(self.first(x))))


def drop_path(self, x):
    """Stochastic depth as timm and torchvision write it: whole rows are dropped."""
    if not self.training:
        return x
    return x / 0.7 * x.new_empty(x.shape[0], 1).bernoulli_(0.7)


def drop_path_of_torchvision(self, x):
    if not self.training:
        return x
    noise = torch.empty([x.shape[0], 1], dtype=x.dtype, device=x.device)
    return x * noise.bernoulli_(0.7).div_(0.7)


def noise_written(self, x):
    noise = torch.empty_like(x)
    noise.normal_(0, 0.1)
    return x + noise


RANDOM = {
    "dropout": lambda self, x: F.dropout(x, 0.5, self.training),
    "torch.dropout": lambda self, x: torch.dropout(x, 0.5, self.training),
    "drop path": drop_path,
    "drop path of torchvision": drop_path_of_torchvision,
    "noise": lambda self, x: x + 0.1 * torch.randn_like(x),
    "noise written": noise_written,
    "multiplied": lambda self, x: x * (1 + torch.rand(x.shape, dtype=x.dtype)),
    "masked": lambda self, x: x * torch.bernoulli(torch.full_like(x, 0.5)),
    "rrelu": lambda self, x: F.rrelu(x, training=self.training),
    "gumbel": lambda self, x: F.gumbel_softmax(x),
}


@pytest.mark.parametrize("name", RANDOM)
def test_the_gradient_through_random_numbers_equals_finite_differences_and_the_loop(name):
    torch.manual_seed(0)
    module = Between(RANDOM[name]).double()
    learner = maml(module, loss="mse", inner_lr=0.1, inner_steps=2)
    meta = doubled(learner.init())
    within(difference_error(learner, EPISODE, meta, key=KEY, difference=fourth_order_difference), 1e-8)
    loop = maml(module, loss="mse", inner_lr=0.1, inner_steps=2, mapping="loop")
    mapped, _ = learner.metagrad(learner, meta, EPISODE, 0, KEY)
    within(largest_error(mapped, loop.metagrad(loop, meta, EPISODE, 0, KEY)[0]), 1e-12)
    other, _ = learner.metagrad(learner, meta, EPISODE, 0, KEY + 1)
    assert largest_error(mapped, other) > 1e-3


@pytest.mark.parametrize("name", ["dropout", "drop path", "rrelu"])
def test_regularisation_rests_at_prediction_and_in_modules_put_into_evaluation_mode(name):
    torch.manual_seed(0)
    module = Between(RANDOM[name]).double()
    calm = Between(RANDOM[name]).double()
    calm.load_state_dict(module.state_dict())
    calm.eval()
    learner, resting = (maml(m, loss="mse", inner_steps=2) for m in (module, calm))
    meta = doubled(learner.init())
    truth = plain_maml(calm, F.mse_loss, meta, EPISODE, 0.01, 2)
    within(largest_error(learner.metagrad(learner, meta, EPISODE)[0], truth), 1e-10)
    within(largest_error(resting.metagrad(resting, meta, EPISODE, 0, KEY)[0], truth), 1e-10)


def test_the_global_generator_is_left_alone_and_predictions_repeat():
    module = Between(RANDOM["noise"])
    learner = maml(module, loss="mse")
    model = il.Model(learner, learner.init())
    before = torch.get_rng_state()
    task = model.adapt(torch.zeros(3, 2), torch.ones(3, 1))
    assert torch.equal(task(torch.ones(4, 2)), task(torch.ones(4, 2)))
    assert torch.equal(torch.get_rng_state(), before)


def test_numbers_of_the_counter_have_the_distributions_they_should():
    with CounterRandom(torch.tensor(3)):
        normal, uniform = torch.randn(40_000), torch.rand(40_000)
        heads = torch.empty(40_000).bernoulli_(0.3)
        waits = torch.empty(40_000).exponential_(2.0)
        kept = F.dropout(torch.ones(40_000), 0.25)
    for values, mean, deviation in (
        (normal, 0, 1),
        (uniform, 0.5, math.sqrt(1 / 12)),
        (heads, 0.3, math.sqrt(0.21)),
        (waits, 0.5, 0.5),
        (kept, 1, math.sqrt(1 / 3)),
    ):
        assert abs(values.mean() - mean) < 4 * deviation / 200
        assert abs(values.std() - deviation) < 0.02
    assert abs(torch.corrcoef(torch.stack([normal, uniform]))[0, 1]) < 0.02


def test_attention_with_dropout_of_its_own_is_refused():
    def attention(self, x):
        return F.scaled_dot_product_attention(x, x, x, dropout_p=0.1)

    learner = maml(Between(attention), loss="mse")
    with pytest.raises(UsageError, match=r"dropout_p=0\.1.*use nn\.Dropout"):
        learner.metagrad(learner, doubled(learner.init()), EPISODE, 0, KEY)


@pytest.mark.parametrize("mapping", ["vmap", "loop"])
@pytest.mark.parametrize("reentrant", [False, True])
def test_a_checkpoint_inside_a_module_does_not_change_the_gradient(mapping, reentrant):
    def inside(self, x):
        return checkpoint(lambda z: torch.sin(self.first(z[:, :2])), x, use_reentrant=reentrant)

    module = Between(inside).double()
    learner = maml(module, loss="mse", inner_lr=0.05, inner_steps=2, mapping=mapping)
    meta = {n: v + 0.5 * torch.randn_like(v) for n, v in doubled(learner.init()).items()}
    plain = Between(lambda self, x: torch.sin(self.first(x[:, :2]))).double()
    truth = plain_maml(plain, F.mse_loss, meta, EPISODE, 0.05, 2)
    within(largest_error(learner.metagrad(learner, meta, EPISODE)[0], truth), 1e-12)
    assert torch.utils.checkpoint.CheckpointFunction.__module__ == "torch.utils.checkpoint"


def spectral(make):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(2, 6), nn.Tanh(), make(nn.Linear(6, 6)), nn.Tanh(), nn.Linear(6, 1)
    ).double()


@pytest.mark.parametrize("make", [nn.utils.parametrizations.spectral_norm, nn.utils.spectral_norm])
def test_spectral_norm_holds_and_its_gradient_is_that_of_torch_at_converged_vectors(make):
    learner = maml(spectral(make), loss="mse", inner_lr=0.05, inner_steps=0)
    meta = doubled(learner.init())
    (weight,) = (n for n in meta if n.endswith(("weight.original", "weight_orig")))
    # far from where the module's vectors started, and with one large singular value, so that both have converged
    meta[weight] = meta[weight] + 3 * torch.outer(torch.arange(6) - 2.0, torch.ones(6)).double()
    module = spectral(make)
    module.load_state_dict(meta, strict=False)
    module.train()
    for _ in range(300):
        module(torch.zeros(1, 2, dtype=torch.float64))
    module.eval()
    grads, _ = learner.metagrad(learner, meta, EPISODE)
    truth = plain_maml(module, F.mse_loss, meta, EPISODE, 0.05, 0)
    within(largest_error(grads, truth), 1e-6)


def test_the_largest_singular_value_stays_one_while_the_weight_is_trained():
    learner = maml(spectral(nn.utils.parametrizations.spectral_norm).float(), loss="mse", inner_steps=1)
    run = il.meta_train(learner, il.tasks.open(draw).train, steps=60, meta_lr=0.03)
    module = learner.network.module
    module.load_state_dict({**module.state_dict(), **run.model.meta})
    assert abs(torch.linalg.matrix_norm(module[2].weight, 2).item() - 1) < 0.05


def draw(generator):
    x = torch.randn(12, 2, generator=generator)
    y = x.sum(1, keepdim=True).sin()
    return il.Episode(il.Batch(x[:6], y[:6]), il.Batch(x[6:], y[6:]))


class Counting(nn.Module):
    def __init__(self, *, assigned):
        super().__init__()
        self.layer, self.assigned = nn.Linear(2, 1), assigned
        self.register_buffer("mean", torch.zeros(2))

    def forward(self, x):
        if self.training:
            mean = 0.9 * self.mean + 0.1 * x.detach().mean(0)
            self.mean = mean if self.assigned else self.mean.copy_(mean)
        return self.layer(x - self.mean)


@pytest.mark.parametrize("mapping", ["vmap", "loop"])
@pytest.mark.parametrize("assigned", [False, True])
@pytest.mark.filterwarnings("ignore:this model cannot be mapped")
def test_a_buffer_that_the_forward_pass_changes_is_refused_and_kept_in_evaluation_mode(mapping, assigned):
    module = Counting(assigned=assigned)
    learner = maml(module, loss="mse", mapping=mapping)
    meta = doubled(learner.init())
    with pytest.raises(UsageError, match="changes its buffer 'mean'"):
        learner.metagrad(learner, meta, EPISODE, 0, KEY)
    still = maml(module.eval(), loss="mse", mapping=mapping)
    still.metagrad(still, meta, EPISODE, 0, KEY)


def trained():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(2, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, 1)).double()
    for _ in range(20):
        module(torch.randn(30, 2, dtype=torch.float64) + 1)
    return module


def test_statistics_of_an_earlier_training_stay():
    module = trained()
    with pytest.warns(UserWarning, match="batchnorm='frozen'"):
        learner = maml(module, loss="mse", inner_lr=0.05, inner_steps=2)
    assert learner.recipe["settings"]["batchnorm"] == "frozen"
    meta = doubled(learner.init())
    truth = plain_maml(module.eval(), F.mse_loss, meta, EPISODE, 0.05, 2)
    within(largest_error(learner.metagrad(learner, meta, EPISODE)[0], truth), 1e-12)
    named = maml(module, loss="mse", inner_lr=0.05, inner_steps=2, batchnorm="frozen")
    within(largest_error(named.metagrad(named, meta, EPISODE)[0], truth), 1e-12)
    own = maml(module, loss="mse", inner_lr=0.05, inner_steps=2, batchnorm="support")
    assert largest_error(own.metagrad(own, meta, EPISODE)[0], truth) > 1e-3


def test_features_of_a_trained_net_are_those_of_plain_torch():
    module = trained()[:3]
    learner = protonet(module, n_features=6, n_outputs=2, batchnorm="frozen")
    x, y = torch.randn(1, 4, 2, dtype=torch.float64), torch.tensor([[0, 1, 0, 1]])
    meta = doubled(learner.init())
    logits = learner.predict(meta, learner.adapt(meta, il.Batch(x, y)), x)[0]
    features = module.eval()(x[0])
    prototypes = torch.stack([features[y[0] == c].mean(0) for c in (0, 1)])
    own = -torch.cdist(features, prototypes).square()
    assert torch.allclose(logits.softmax(-1), own.softmax(-1), atol=1e-10)


def test_fresh_statistics_are_those_of_the_support_set():
    fresh = nn.Sequential(nn.Linear(2, 6), nn.BatchNorm1d(6))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert maml(fresh, loss="mse").network.batchnorm == "support"


class Flow(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(2, 1)

    def forward(self, x):
        return self.layer(x if x.sum() > 0 else x.sin())


class Cube(torch.autograd.Function):
    """Written in the usual way, which `vmap` does not take."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx, grad):
        return 3 * ctx.saved_tensors[0] ** 2 * grad


@pytest.mark.parametrize(
    "make", [Flow, lambda: Between(lambda self, x: Cube.apply(x))], ids=["control flow", "autograd.Function"]
)
def test_a_model_that_cannot_be_mapped_runs_task_by_task_and_says_so(make):
    module = make().double()
    learner = maml(module, loss="mse", inner_lr=0.05, inner_steps=2)
    meta = doubled(learner.init())
    with pytest.warns(UserWarning, match=r"cannot be mapped over tasks.*mapping='loop' says so"):
        grads, _ = learner.metagrad(learner, meta, EPISODE)
    truth = plain_maml(module, F.mse_loss, meta, EPISODE, 0.05, 2)
    within(largest_error(grads, truth), 1e-12)
    learner.metagrad(learner, meta, EPISODE)  # once is enough


def test_layers_without_a_size_are_refused_with_the_way_out():
    with pytest.raises(UsageError, match=r"run the model once, model\(x\)"):
        maml(nn.Sequential(nn.LazyLinear(3), nn.Linear(3, 1)), loss="mse")


def test_frozen_statistics_that_are_not_there_are_refused():
    module = nn.Sequential(nn.Linear(2, 6), nn.BatchNorm1d(6, track_running_stats=False))
    with pytest.raises(UsageError, match="'1' keeps no running statistics"):
        maml(module, loss="mse", batchnorm="frozen")


def test_a_complex_parameter_leaves_the_data_real():
    class Spectral(nn.Module):
        def __init__(self):
            super().__init__()
            self.filter = nn.Parameter(torch.randn(5, dtype=torch.cfloat))
            self.head = nn.Linear(8, 1)

        def forward(self, x):
            return self.head(torch.fft.irfft(torch.fft.rfft(x, dim=-1) * self.filter, n=8))

    def draw_signals(generator):
        x = torch.randn(12, 8, generator=generator)
        return il.Episode(
            il.Batch(x[:6], x[:6].sum(1, keepdim=True)), il.Batch(x[6:], x[6:].sum(1, keepdim=True))
        )

    torch.manual_seed(0)
    learner = maml(Spectral(), loss="mse", inner_steps=1, inner_lr=0.05)
    tasks = il.tasks.open(draw_signals)
    run = il.meta_train(learner, tasks.train, steps=30, meta_lr=0.03)
    assert run.log[-1]["loss"] < run.log[0]["loss"]
    x, y = torch.randn(6, 8), torch.randn(6, 1)
    assert run.model.adapt(x, y)(x).dtype == torch.float32
    episode = il.Episode(il.Batch(x[None], y[None]), il.Batch(x[None], y[None]))
    meta = learner.init()
    truth = plain_maml(learner.network.module, F.mse_loss, meta, episode, 0.05, 1)
    within(largest_error(learner.metagrad(learner, meta, episode)[0], truth), 1e-4)


def test_no_episode_is_drawn_for_a_head_whose_features_are_trained():
    drawn = []

    def counting(generator):
        drawn.append(1)
        return draw(generator)

    learner = il.ridge(nn.Linear(2, 4), n_features=4)
    il.meta_train(learner, il.tasks.open(counting).train, steps=2, meta_batch_size=4)
    assert len(drawn) < 500  # some are drawn ahead; a direct fit would ask for 1,000


class Recurrent(nn.Module):
    """A recurrent layer, which lists the weights of its last call."""

    def __init__(self):
        super().__init__()
        self.layer, self.last = nn.GRU(2, 3), nn.Linear(3, 1)

    def forward(self, x):
        return self.last(self.layer(x)[0])


@pytest.mark.parametrize(
    "make",
    [
        lambda: nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4), nn.Linear(4, 1)),
        lambda: Between(lambda net, h: F.dropout(h, 0.3, net.training)),
        Recurrent,
    ],
    ids=["BatchNorm", "self.training", "GRU"],
)
def test_calls_between_updates_make_no_further_graph(make):
    learner = maml(make(), loss="mse", inner_steps=1)
    meta, episode = learner.init(), map_tensors(lambda t: t.float(), EPISODE)
    quick = il.fast(lambda meta: learner.metagrad(learner, meta, episode, 1, KEY)[0], gear="traced")
    seen = []
    for _ in range(3):
        seen.append(quick(meta))
        adapted = learner.adapt(meta, episode.support)  # as validation does, where nothing is dropped out
        learner.predict(meta, adapted, episode.query.x)
    assert quick.report.graphs == 1
    assert all(torch.equal(seen[2][name], value) for name, value in seen[0].items())
