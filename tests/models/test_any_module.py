"""Any `nn.Module` unchanged: exact gradients through its layers, and refusals that name the way out."""

import pytest
import torch
from torch import nn

from innerloop.algorithms import fomaml, maml
from innerloop.errors import UsageError
from innerloop.inner.lora import lora
from innerloop.inner.partition import select_names
from innerloop.models import conv4
from innerloop.models.network import Network
from innerloop.tasks.episodes import Batch, Episode
from toolkit.oracles import class_episode, difference_error, doubled, largest_error, within


class Sequence(nn.Module):
    """A layer on sequences `(n, time, 4)`, then a mean over time and a linear output."""

    def __init__(self, layer):
        super().__init__()
        self.layer, self.out = layer, nn.Linear(4, 1)

    def forward(self, x):
        y = self.layer(x)
        return self.out((y[0] if isinstance(y, tuple) else y).mean(1))


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.inside = nn.Linear(4, 12)

    def forward(self, x):
        return nn.functional.scaled_dot_product_attention(*self.inside(x).chunk(3, -1))


class SelfAttention(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)

    def forward(self, x):
        return self.attention(x, x, x, need_weights=False)


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
        self.second.weight = self.first.weight

    def forward(self, x):
        return self.second(torch.tanh(self.first(x)))


class Containers(nn.Module):
    """Parameters in a list, an unused one, a frozen one and a buffer."""

    def __init__(self):
        super().__init__()
        self.weights = nn.ParameterList([nn.Parameter(torch.randn(4, 4)) for _ in range(2)])
        self.unused = nn.Parameter(torch.randn(3))
        self.frozen = nn.Parameter(torch.randn(4), requires_grad=False)
        self.register_buffer("shift", torch.randn(4))

    def forward(self, x):
        for weight in self.weights:
            x = torch.tanh(x @ weight) * self.frozen + self.shift
        return x


def weight_normed():
    return nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(4, 4)), nn.Tanh())


LAYERS = {
    "lstm": lambda: nn.LSTM(4, 4, batch_first=True),
    "gru": lambda: nn.GRU(4, 4, num_layers=2, bidirectional=False, batch_first=True),
    "attention": Attention,
    "multihead": SelfAttention,
    "transformer": lambda: nn.TransformerEncoderLayer(4, 2, 8, dropout=0.0, batch_first=True),
    "weight norm": weight_normed,
    "tied": Tied,
    "containers": Containers,
    "layer norm": lambda: nn.LayerNorm(4),
    "embedding of positions": lambda: nn.Sequential(nn.Linear(4, 4), nn.SiLU(inplace=True)),
}


def sequences(dtype=torch.float64):
    g = torch.Generator().manual_seed(0)

    def batch(rows):
        x = torch.randn(2, rows, 5, 4, generator=g, dtype=torch.float64)
        return Batch(x.to(dtype), torch.randn(2, rows, 1, generator=g, dtype=torch.float64).to(dtype))

    return Episode(batch(3), batch(4))


@pytest.mark.parametrize("name", LAYERS)
def test_gradients_through_layers_equal_finite_differences_and_the_loop(name):
    torch.manual_seed(0)
    module = Sequence(LAYERS[name]())
    stacked, looped = (
        maml(module, loss="mse", inner_lr=0.1, inner_steps=2, mapping=m) for m in ("vmap", "loop")
    )
    meta, episode = doubled(stacked.init()), sequences()
    within(difference_error(stacked, episode, meta), 1e-8)
    one, other = (learner.metagrad(learner, meta, episode)[0] for learner in (stacked, looped))
    within(largest_error(one, other), 1e-12)


def test_convolutions_with_batchnorm_and_pooling():
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Conv2d(1, 3, 3, padding=1), nn.BatchNorm2d(3), nn.Softplus(), nn.AvgPool2d(2), nn.Flatten(),
        nn.Linear(12, 3),
    )  # fmt: skip
    learner = maml(module, loss="cross_entropy", inner_lr=0.3, inner_steps=2)
    episode = class_episode(shape=(1, 4, 4))
    within(difference_error(learner, episode, doubled(learner.init())), 1e-8)


@pytest.mark.parametrize("fused", [True, False])
def test_the_callers_kernels_come_back(fused):
    before = torch.backends.mha.get_fastpath_enabled()
    try:
        torch.backends.mha.set_fastpath_enabled(fused)
        learner = maml(Sequence(nn.LSTM(4, 4, batch_first=True)), loss="mse")
        learner.metagrad(learner, learner.init(), sequences(torch.float32))
        assert torch.backends.mha.get_fastpath_enabled() is fused
        assert torch.backends.mkldnn.enabled
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def test_the_module_is_not_changed():
    module = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 3)).train()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    learner = maml(module, loss="cross_entropy", inner_steps=2)
    episode = class_episode()
    learner.metagrad(learner, doubled(learner.init()), episode)
    assert module.training
    assert module[2].training
    assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())


def test_a_query_prediction_depends_on_the_other_queries_only_if_asked_for():
    torch.manual_seed(0)
    episode = class_episode()
    for policy, independent in (("support", True), ("transductive", False)):
        learner = maml(conv4(1, 3, size=16, width=4), loss="cross_entropy", inner_lr=0.1, batchnorm=policy)
        meta = doubled(learner.init())
        images = class_episode(shape=(1, 16, 16))
        adapted = learner.adapt(meta, images.support)
        whole = learner.predict(meta, adapted, images.query.x)
        alone = learner.predict(meta, adapted, images.query.x[:, :2])
        assert ((whole[:, :2] - alone).abs().max() < 1e-12).item() is independent
    assert episode.n_tasks == 3


def test_dropout_draws_by_task_and_step_and_rests_without_a_key():
    network = Network(nn.Sequential(nn.Dropout(0.5), nn.Linear(50, 1)))
    meta, x = network.params(), torch.ones(2, 3, 50)
    key = torch.tensor([1, 2])
    one, two, other = (network(meta, {}, x, key=k)[0] for k in (key, key, key + 1))
    assert torch.equal(one, two)
    assert not torch.equal(one, other)
    assert not torch.equal(one[0], one[1])
    rest = network(meta, {}, x)[0]
    assert torch.equal(rest[0], rest[1])


def test_dropout_keeps_its_share_and_its_mean():
    network = Network(nn.Sequential(nn.Dropout(0.2), nn.Identity()))
    y, _ = network({}, {}, torch.ones(4, 100, 100), key=torch.arange(4))
    assert (y == 0).float().mean().item() == pytest.approx(0.2, abs=0.01)
    assert y.mean().item() == pytest.approx(1.0, abs=0.01)


def test_low_rank_additions_alone_move():
    module = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.Tanh(), nn.Flatten(), nn.Linear(32, 3))
    learner = maml(module, loss="cross_entropy", inner_lr=0.1, inner_steps=2, adapt=lora(rank=2))
    episode = class_episode(shape=(1, 4, 4))
    meta = doubled(learner.init())
    adapted = learner.adapt(meta, episode.support)
    assert all(".lora_" in name for name in adapted)
    plain = maml(module, loss="cross_entropy", inner_steps=0)
    before = plain.predict(doubled(plain.init()), {}, episode.query.x)
    start = next(iter(learner.path(meta, episode.support)))
    within((learner.predict(meta, start, episode.query.x) - before).abs().max(), 1e-12)
    within(difference_error(learner, episode, meta), 1e-8)


def test_several_inputs_and_dict_outputs_with_a_loss_of_ones_own():
    class TwoInputs(nn.Module):
        def __init__(self):
            super().__init__()
            self.left, self.right = nn.Linear(2, 1), nn.Linear(3, 1)

        def forward(self, a, b):
            return {"sum": self.left(a) + self.right(b), "left": self.left(a)}

    def loss(prediction, target):
        return ((prediction["sum"] - target) ** 2 + 0.1 * prediction["left"] ** 2).squeeze(-1)

    g = torch.Generator().manual_seed(0)

    def batch(n):
        x = {"a": torch.randn(3, n, 2, generator=g).double(), "b": torch.randn(3, n, 3, generator=g).double()}
        return Batch(x, torch.randn(3, n, 1, generator=g).double())

    learner = maml(TwoInputs(), loss=loss, inner_lr=0.1, inner_steps=2)
    within(difference_error(learner, Episode(batch(3), batch(4)), doubled(learner.init())), 1e-8)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_precisions(dtype):
    learner = maml(nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1)), loss="mse", inner_lr=0.1)
    meta = {name: value.to(dtype) for name, value in learner.init().items()}
    episode = sequences(dtype)
    flat = Episode(*(Batch(b.x.mean(2), b.y) for b in episode))
    grads, _ = learner.metagrad(learner, meta, flat)
    assert all(g.dtype is dtype and torch.isfinite(g).all() for g in grads.values())


class OnceOnly(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x * 2

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        return grad * 2


class Stubborn(nn.Module):
    def __init__(self, last):
        super().__init__()
        self.inside, self.last = nn.Linear(4, 1), last

    def forward(self, x):
        return self.last(torch.tanh(self.inside(x.mean(1)))) ** 2


def aligned(x):
    """The CTC loss has a derivative and no second one."""
    scores = torch.stack([x, -x, 2 * x], -1).permute(1, 0, 2).expand(4, -1, -1).log_softmax(-1)
    target = torch.ones(len(x), 2, dtype=torch.long)
    sizes = torch.full((len(x),), 4), torch.full((len(x),), 2)
    return nn.functional.ctc_loss(scores, target, *sizes, reduction="none").unsqueeze(-1)


@pytest.mark.parametrize("last", [OnceOnly.apply, aligned])
def test_what_cannot_be_differentiated_twice_is_named_with_the_way_out(last):
    options = {"loss": "mse", "inner_lr": 0.1, "mapping": "loop"}
    second, first = maml(Stubborn(last), **options), fomaml(Stubborn(last), **options)
    meta, episode = doubled(second.init()), sequences()
    with pytest.raises(UsageError, match=r"differentiated twice.*fomaml"):
        second.metagrad(second, meta, episode)
    assert all(torch.isfinite(g).all() for g in first.metagrad(first, meta, episode)[0].values())


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (nn.BatchNorm1d(3), "a bare BatchNorm1d"),
        (nn.Sequential(nn.SyncBatchNorm(3)), "SyncBatchNorm"),
        (nn.Sequential(nn.AlphaDropout(0.1)), "AlphaDropout"),
        (nn.LSTM(3, 4, num_layers=2, dropout=0.5), "inside a fused layer"),
    ],
)
def test_layers_that_cannot_be_functions_are_refused(module, message):
    with pytest.raises(UsageError, match=message):
        Network(module)


def test_the_old_weight_norm_is_refused():
    with pytest.warns(FutureWarning):
        module = nn.Sequential(nn.utils.weight_norm(nn.Linear(2, 2)))
    with pytest.raises(UsageError, match="parametrizations"):
        Network(module)


def test_partitions_that_mean_nothing_are_refused():
    class Bare(nn.Module):
        def __init__(self):
            super().__init__()
            self.w1, self.w2 = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(2))

    with pytest.raises(UsageError, match="name pattern"):
        select_names(Network(Bare()), "head")
    with pytest.raises(UsageError, match="matches no trainable parameter"):
        select_names(Network(nn.Sequential(nn.Linear(1, 1))), "layer9.*")
    assert select_names(Network(Bare()), "w2") == ("w2",)
