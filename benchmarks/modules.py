"""What becomes of a module: the gear of a meta-update, its time beside eager, and its gradient beside a plain loop's.

    python benchmarks/modules.py > docs/modules.md

One meta-update of MAML with three inner steps, second order, 8 tasks of 5 support and 5 query rows, one thread. The
gradient is compared in float64 with a loop over tasks that is no part of the library (`tests/toolkit/oracles.py`),
eager and in the gear that `auto` takes.
"""

import argparse
import platform
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

import innerloop as il
from innerloop.outer.update import Outer, meta_update, numbers_of

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from toolkit.oracles import plain_maml

TASKS, ROWS, STEPS, RATE = 8, 5, 3, 0.01
HEAD = """# Modules

What becomes of a module: the gear that `auto` takes for a meta-update, and its time beside eager.

The last column is the largest difference of the meta-gradient, eager and in that gear, from a plain loop over tasks in
float64, relative to the largest gradient. Hardsigmoid and the weight norms stand in that loop by their formulas, for
torch's own operators have no second derivative, or a wrong one.

MAML, {steps} inner steps, second order, {tasks} tasks of {rows} support and {rows} query rows.

| module | gear | first result | eager | in the gear | times | gradient |
|---|---|---|---|---|---|---|"""


class Between(nn.Module):
    """A function between two linear layers."""

    def __init__(self, function: Callable, width: int = 16, out: int | None = None) -> None:
        super().__init__()
        self.first, self.last, self.function = nn.Linear(4, width), nn.Linear(out or width, 1), function

    def forward(self, x):
        return self.last(self.function(self.first(x)))


class Recurrent(nn.Module):
    def __init__(self, layer: type[nn.RNNBase]) -> None:
        super().__init__()
        self.layer, self.last = layer(4, 8, batch_first=True), nn.Linear(8, 1)

    def forward(self, x):
        return self.last(self.layer(x.unsqueeze(1).expand(-1, 3, -1))[0][:, -1])


class Tokens(nn.Module):
    """Features as a sequence of tokens, through a layer, and their mean."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.first, self.layer, self.last = nn.Linear(1, 8), layer, nn.Linear(8, 1)

    def forward(self, x):
        tokens = self.first(x.unsqueeze(-1))
        if isinstance(self.layer, nn.MultiheadAttention):
            return self.last(self.layer(tokens, tokens, tokens, need_weights=False)[0].mean(1))
        return self.last(self.layer(tokens).mean(1))


class Words(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table, self.last = nn.Embedding(5, 8), nn.Linear(8, 1)

    def forward(self, x):
        return self.last(self.table(x[:, 0].abs().long().clamp(max=4)))


class Messages(nn.Module):
    """Messages summed at the nodes of a graph."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 8), nn.Linear(8, 1)
        self.register_buffer("target", torch.tensor([0, 1, 2, 0]))

    def forward(self, x):
        z = self.first(x).tanh()
        summed = z.new_zeros(len(z), 3).index_add(1, self.target, z[:, :4])
        return self.last(torch.cat([summed, z[:, :5]], 1))


class Mixture(nn.Module):
    """The mean of a mixture of three components, weighted by their precision."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 16), nn.Linear(16, 9)

    def forward(self, x):
        share, mean, scale = self.last(self.first(x).tanh()).chunk(3, -1)
        return (share.softmax(-1) * mean / F.softplus(scale)).sum(-1, keepdim=True)


class Residual(nn.Module):
    """Blocks of a residual net of three convolutions, as in ResNet-12."""

    def __init__(self, widths: tuple[int, ...] = (8,)) -> None:
        super().__init__()
        pairs = zip((1, *widths[:-1]), widths, strict=True)
        self.blocks = nn.ModuleList(nn.ModuleList(self.block(*pair)) for pair in pairs)
        self.last = nn.Linear(widths[-1], 1)

    @staticmethod
    def block(before: int, after: int) -> list[nn.Module]:
        convs = [nn.Conv2d(before if n == 0 else after, after, 3, padding=1, bias=False) for n in range(3)]
        norms = [nn.BatchNorm2d(after) for _ in range(4)]
        return [*convs, nn.Conv2d(before, after, 1, bias=False), *norms]

    def forward(self, x):
        for a, b, c, short, *norms in self.blocks:
            y = F.leaky_relu(norms[0](a(x)), 0.1)
            y = F.leaky_relu(norms[1](b(y)), 0.1)
            y = norms[2](c(y)) + norms[3](short(x))
            x = F.max_pool2d(F.leaky_relu(y, 0.1), 2)
        return self.last(x.mean((2, 3)))


class UNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down, self.deep = nn.Conv2d(1, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.up, self.last = nn.Conv2d(16, 8, 3, padding=1), nn.Linear(8, 1)

    def forward(self, x):
        skip = self.down(x).relu()
        deep = F.interpolate(self.deep(F.max_pool2d(skip, 2)).relu(), scale_factor=2)
        return self.last(self.up(torch.cat([skip, deep], 1)).relu().mean((2, 3)))


def between(layer: nn.Module, *, width: int = 16, out: int | None = None) -> Callable[[], nn.Module]:
    return lambda: Between(layer, width, out)


def images(*layers: nn.Module, features: int) -> Callable[[], nn.Module]:
    return lambda: nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), *layers, nn.Flatten(), nn.Linear(features, 1))


ACTIVATIONS = (
    *(
        "ELU",
        "Hardshrink",
        "Hardsigmoid",
        "Hardswish",
        "Hardtanh",
        "LeakyReLU",
        "LogSigmoid",
        "PReLU",
        "ReLU",
        "ReLU6",
    ),
    *(
        "SELU",
        "CELU",
        "GELU",
        "Sigmoid",
        "SiLU",
        "Mish",
        "Softplus",
        "Softshrink",
        "Softsign",
        "Tanh",
        "Tanhshrink",
    ),
)
VECTORS: dict[str, Callable[[], nn.Module]] = {
    **{name: between(getattr(nn, name)()) for name in ACTIVATIONS},
    "GELU(tanh)": between(nn.GELU("tanh")),
    "ReLU(inplace=True)": between(nn.ReLU(inplace=True)),
    "Threshold": between(nn.Threshold(0.1, 0.0)),
    "GLU": between(nn.GLU(), out=8),
    "Softmax": between(nn.Softmax(-1)),
    "LayerNorm": lambda: Between(nn.Sequential(nn.LayerNorm(16), nn.Tanh())),
    "RMSNorm": lambda: Between(nn.Sequential(nn.RMSNorm(16), nn.Tanh())),
    "weight_norm": lambda: Between(
        nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(16, 16)), nn.Tanh())
    ),
    "spectral_norm": lambda: Between(nn.utils.parametrizations.spectral_norm(nn.Linear(16, 16))),
    "clamp": between(lambda x: x.clamp(-1, 1)),
    "norm": between(lambda x: x / x.norm(dim=-1, keepdim=True)),
    "std": between(lambda x: x / x.std(-1, keepdim=True)),
    "Dropout": lambda: Between(nn.Sequential(nn.Tanh(), nn.Dropout(0.2))),
    "RNN": lambda: Recurrent(nn.RNN),
    "GRU": lambda: Recurrent(nn.GRU),
    "LSTM": lambda: Recurrent(nn.LSTM),
    "MultiheadAttention": lambda: Tokens(nn.MultiheadAttention(8, 2, batch_first=True)),
    "TransformerEncoderLayer": lambda: Tokens(
        nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
    ),
    "Embedding": Words,
    "mixture density head": Mixture,
    "message passing (index_add)": Messages,
}
IMAGES: dict[str, Callable[[], nn.Module]] = {
    "BatchNorm2d": images(nn.BatchNorm2d(8), nn.ReLU(), features=512),
    "GroupNorm": images(nn.GroupNorm(2, 8), nn.ReLU(), features=512),
    "InstanceNorm2d": images(nn.InstanceNorm2d(8), nn.ReLU(), features=512),
    "LocalResponseNorm": images(nn.LocalResponseNorm(2), nn.ReLU(), features=512),
    "Conv1d": lambda: nn.Sequential(
        nn.Flatten(2), nn.Conv1d(1, 8, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(512, 1)
    ),
    "Conv2d(groups=8)": images(nn.ReLU(), nn.Conv2d(8, 8, 3, groups=8), features=288),
    "Conv2d(padding='same')": images(nn.ReLU(), nn.Conv2d(8, 8, 3, padding="same"), features=512),
    "Conv2d(padding_mode='reflect')": images(
        nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1, padding_mode="reflect"), features=512
    ),
    "ConvTranspose2d": images(nn.ReLU(), nn.ConvTranspose2d(8, 4, 2, stride=2), features=1024),
    "MaxPool2d": images(nn.ReLU(), nn.MaxPool2d(2), features=128),
    "MaxPool2d(padding=1)": images(nn.ReLU(), nn.MaxPool2d(3, 2, 1), features=128),
    "AvgPool2d": images(nn.ReLU(), nn.AvgPool2d(2), features=128),
    "AvgPool2d(3, 2, 1)": images(nn.ReLU(), nn.AvgPool2d(3, 2, 1), features=128),
    "AdaptiveAvgPool2d(1)": images(nn.ReLU(), nn.AdaptiveAvgPool2d(1), features=8),
    "AdaptiveAvgPool2d(3)": images(nn.ReLU(), nn.AdaptiveAvgPool2d(3), features=72),
    "Upsample(nearest)": images(nn.ReLU(), nn.Upsample(scale_factor=2), features=2048),
    "Upsample(bilinear)": images(nn.ReLU(), nn.Upsample(scale_factor=2, mode="bilinear"), features=2048),
    "residual block": Residual,
    "ResNet-12 (8, 16, 32 channels)": lambda: Residual((8, 16, 32)),
    "U-Net": UNet,
}


def episode(shape: tuple[int, ...]) -> il.Episode:
    g = torch.Generator().manual_seed(0)

    def batch():
        return il.Batch(
            torch.randn(TASKS, ROWS, *shape, generator=g), torch.randn(TASKS, ROWS, 1, generator=g)
        )

    return il.Episode(batch(), batch())


def learner_of(make: Callable[[], nn.Module]) -> il.Learner:
    torch.manual_seed(0)
    module = make()
    norms = any(isinstance(layer, nn.BatchNorm2d) for layer in module.modules())
    return il.maml(
        module, loss="mse", inner_lr=RATE, inner_steps=STEPS, batchnorm="transductive" if norms else "auto"
    )


def seconds(call: Callable[[], object], budget: float) -> float:
    times, began = [], time.perf_counter()
    while not times or time.perf_counter() - began < budget:
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def gradient_error(make: Callable[[], nn.Module], shape: tuple[int, ...]) -> float:
    """Largest relative difference from the plain loop in float64, eager and in the gear of `auto`."""
    learner = learner_of(make)
    meta = {name: value.double() for name, value in learner.init().items()}
    data = il.Episode(*(il.Batch(b.x.double(), b.y.double()) for b in episode(shape)))
    torch.manual_seed(0)
    module = make().double()
    for layer in module.modules():  # dropout rests, and BatchNorm takes the rows at hand, as the learner does
        layer.train(isinstance(layer, nn.modules.batchnorm._BatchNorm))
        if isinstance(layer, nn.modules.batchnorm._BatchNorm):
            layer.track_running_stats, layer.running_mean, layer.running_var = False, None, None
    if any(
        isinstance(layer, (nn.Hardsigmoid, nn.utils.parametrize.ParametrizationList))
        for layer in module.modules()
    ):
        module = (
            learner.network.module.double()
        )  # by their formulas: torch's operators have no second derivative
    with sdpa_kernel(SDPBackend.MATH):  # fused attention has no second derivative
        truth = plain_maml(module, F.mse_loss, meta, data, RATE, STEPS)
    largest = max(float(value.abs().max()) for value in truth.values())
    worst = 0.0
    for gear in ("eager", "auto"):
        grads = il.fast(lambda meta: learner.metagrad(learner, meta, data)[0], gear=gear)(meta)
        worst = max(worst, *(float((grads[name] - truth[name]).abs().max()) for name in truth))
    return worst / largest


def row(name: str, make: Callable[[], nn.Module], shape: tuple[int, ...], budget: float) -> str:
    learner = learner_of(make)
    arguments = (Outer.start(learner.init()), numbers_of(0, 1e-3), episode(shape), torch.arange(TASKS), 0)
    update = meta_update(learner, clip=10.0)
    quick = il.fast(update)
    began = time.perf_counter()
    quick(*arguments)
    first = time.perf_counter() - began
    plain, fast = (seconds(lambda f=f: f(*arguments), budget) for f in (update, quick))
    gear = f"{quick.report.gear}{f' ({quick.report.reason})' if quick.report.reason else ''}"
    error = gradient_error(make, shape)
    return (
        f"| {name} | {gear} | {first:.1f} s | {1000 * plain:.1f} ms | {1000 * fast:.3f} ms | {plain / fast:.0f} | "
        f"{error:.0e} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="*", help="names of modules")
    parser.add_argument("--budget", type=float, default=0.3, help="seconds of measuring for each gear")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    print(HEAD.format(steps=STEPS, tasks=TASKS, rows=ROWS))
    modules = {**{n: (m, (4,)) for n, m in VECTORS.items()}, **{n: (m, (1, 8, 8)) for n, m in IMAGES.items()}}
    for name, (make, shape) in modules.items():
        if not options.only or name in options.only:
            print(row(name, make, shape, options.budget), flush=True)
    print(f"\n`python benchmarks/modules.py`, torch {torch.__version__}, {platform.machine()}, one thread.")


if __name__ == "__main__":
    main()
