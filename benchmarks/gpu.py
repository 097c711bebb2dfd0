"""One table of what a machine with a GPU does: is it right, how fast, with what memory, and what does `auto` do?

    python benchmarks/gpu.py                       # on a GPU, under six minutes
    python benchmarks/gpu.py --device cpu --quick  # the same lines without one, small, in a minute: a test runs it

Meta-gradients of every algorithm in every gear are compared with float64 on the CPU. Whole meta-updates (second order,
Adam, the loss read back) are timed beside a plain loop over tasks and `torch.func` by hand: medians in ms. `auto` is
shown beside the devices it chooses between, with its estimates. Nothing of torch's settings is changed but TF32, in
the two lines that say so.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import nn

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "tests")]

from speed import IMAGES, SHAPES, conv_net, episode_of, images_of, net  # noqa: E402

import innerloop as il  # noqa: E402
from innerloop.cli import run as command  # noqa: E402
from innerloop.engine.devices import gpu, processor  # noqa: E402
from innerloop.outer.placement import update_work  # noqa: E402
from innerloop.outer.update import Outer, meta_gradient, meta_update, numbers_of  # noqa: E402
from innerloop.tasks.episodes import to  # noqa: E402
from toolkit.cases import CASES, IDS  # noqa: E402

Step = Callable[[], float]


class Block(nn.Module):
    """Three convolutions with a shortcut around them, then max-pooling: a block of ResNet-12."""

    def __init__(self, inward: int, outward: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for number, width in enumerate((inward, outward, outward)):
            layers += [nn.Conv2d(width, outward, 3, padding=1, bias=False), norm(outward)]
            layers += [nn.LeakyReLU(0.1)] if number < 2 else []
        self.body = nn.Sequential(*layers)
        self.shortcut = nn.Sequential(nn.Conv2d(inward, outward, 1, bias=False), norm(outward))
        self.after = nn.Sequential(nn.LeakyReLU(0.1), nn.MaxPool2d(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Features of half the side."""
        y: torch.Tensor = self.after(self.body(x) + self.shortcut(x))
        return y


def norm(width: int) -> nn.Module:
    return nn.BatchNorm2d(width, track_running_stats=False)


def resnet12(colours: int = 3, widths: tuple[int, ...] = (64, 128, 256, 512)) -> nn.Module:
    """ResNet-12 with a linear layer for 5 classes."""
    torch.manual_seed(0)
    blocks = [Block(a, b) for a, b in zip((colours, *widths), widths, strict=False)]
    return nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], 5))


class Workload:
    """A module with its episodes: one second-order meta-update of it."""

    def __init__(self, module: nn.Module, episode: il.Episode, steps: int, rate: float, loss: str) -> None:
        self.module, self.episode, self.steps, self.rate, self.loss = module, episode, steps, rate, loss
        self.criterion = nn.functional.mse_loss if loss == "mse" else nn.functional.cross_entropy

    @property
    def learner(self) -> il.Learner:
        """MAML on it."""
        return il.maml(
            self.module, loss=self.loss, inner_lr=self.rate, inner_steps=self.steps, batchnorm="transductive"
        )


def workloads(quick: bool) -> dict[str, Workload]:
    """W1 to W4 of the documents, and ResNet-12; small ones of each kind if it has to be quick."""
    made = {}
    for name, (widths, support, query, tasks, steps, rate, loss) in list(SHAPES.items())[quick and 2 :]:
        count = 4 if quick else tasks
        made[name] = Workload(net(widths), episode_of(widths, support, query, count, loss), steps, rate, loss)
    if quick:
        made["conv4-4, 8 x 8"] = Workload(
            conv_net(4, "max", 16, 1), images_of(16, 1, 5, 2), 1, 0.1, "cross_entropy"
        )
        return made
    for name, (width, pooling, side, colours, query, tasks, steps, rate) in IMAGES.items():
        module = conv_net(width, pooling, side, colours)
        made[name] = Workload(module, images_of(side, colours, query, tasks), steps, rate, "cross_entropy")
    images = images_of(84, 3, 25, 2)
    made["ResNet-12, 84 x 84, 2 tasks, 2 steps, 25 query rows"] = Workload(
        resnet12(), images, 2, 0.01, "cross_entropy"
    )
    return made


def plain_loop(work: Workload, device: str) -> Step:
    """Task by task, as a tutorial writes it."""
    episode = to(work.episode, device)
    params = {n: v.detach().to(device).requires_grad_() for n, v in work.module.named_parameters()}
    optimizer = torch.optim.Adam(params.values(), lr=1e-3)

    def step() -> float:
        optimizer.zero_grad()
        total = 0.0
        for task in range(episode.n_tasks):
            one = (part[task] for batch in episode for part in batch[:2])
            loss = adapted_loss(work, params, *one, functional=False) / episode.n_tasks
            loss.backward()
            total += loss.detach()
        optimizer.step()
        return float(total)

    return step


def adapted_loss(
    work: Workload,
    params: dict[str, torch.Tensor],
    x: torch.Tensor,
    y: torch.Tensor,
    query_x: torch.Tensor,
    query_y: torch.Tensor,
    *,
    functional: bool,
) -> torch.Tensor:
    """Query loss of a task after inner steps, with `torch.func` or with `torch.autograd`."""

    def loss(values: dict[str, torch.Tensor], x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return work.criterion(torch.func.functional_call(work.module, values, (x,)), y)

    fast = params
    for _ in range(work.steps):
        if functional:
            grads = torch.func.grad(loss)(fast, x, y)
        else:
            found = torch.autograd.grad(loss(fast, x, y), list(fast.values()), create_graph=True)
            grads = dict(zip(fast, found, strict=True))
        fast = {name: value - work.rate * grads[name] for name, value in fast.items()}
    return loss(fast, query_x, query_y)


def by_hand(work: Workload, device: str) -> Step:
    """`vmap` over tasks and `grad` of `torch.func`, with torch's Adam."""
    (x, y, _), (query_x, query_y, _) = to(work.episode, device)
    params = {n: v.detach().to(device).requires_grad_() for n, v in work.module.named_parameters()}
    optimizer = torch.optim.Adam(params.values(), lr=1e-3)

    def mean(values: dict[str, torch.Tensor]) -> torch.Tensor:
        def one(*rows: torch.Tensor) -> torch.Tensor:
            return adapted_loss(work, values, *rows, functional=True)

        return torch.func.vmap(one)(x, y, query_x, query_y).mean()

    slope = torch.func.grad_and_value(mean)

    def step() -> float:
        grads, value = slope({name: value.detach() for name, value in params.items()})
        for name, grad in grads.items():
            params[name].grad = grad
        optimizer.step()
        return float(value)

    return step


def in_gear(work: Workload, device: str, gear: str) -> Step:
    """The meta-update of the trainer."""
    learner, episode = work.learner, to(work.episode, device)
    update = il.fast(meta_update(learner, clip=None), gear=gear)
    state, number = Outer.start(to(learner.init(), device)), 0
    key = torch.arange(episode.n_tasks, device=device)

    def step() -> float:
        nonlocal state, number
        state, figures = update(state, numbers_of(number, 1e-3, device), episode, key, 0)
        number += 1
        return float(figures["losses"].mean())

    step()
    if update.report.gear != gear:
        raise RuntimeError(f"ran {update.report}")
    return step


def synchronized(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def timed(make: Callable[[], Step], device: str, seconds: float) -> str:
    """Median time of a step in ms, with the time to its first result and the most memory; or why there is none."""
    on_gpu = device.startswith("cuda")
    if on_gpu:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    began = time.perf_counter()
    try:
        step = make()
        step()
    except (RuntimeError, NotImplementedError) as error:
        return f"none ({str(error).splitlines()[0][:60]})"
    synchronized(device)
    first, times = time.perf_counter() - began, []
    ends = time.perf_counter() + seconds
    while len(times) < 3 or time.perf_counter() < ends:
        began = time.perf_counter()
        step()
        synchronized(device)
        times.append(time.perf_counter() - began)
    memory = f", {torch.cuda.max_memory_allocated() / 2**20:.0f} MB" if on_gpu else ""
    return f"{1e3 * statistics.median(times):.3g} ms (first {first:.1f} s{memory})"


def flat(grads: dict[str, torch.Tensor]) -> torch.Tensor:
    return torch.cat([value.detach().cpu().double().flatten() for value in grads.values()])


def error_of(learner: il.Learner, episode: il.Episode, device: str, gear: str) -> float:
    """Relative error of the meta-gradient in float32 on a device against float64 on the CPU."""
    meta, gradient = learner.init(), meta_gradient(learner)
    key = torch.arange(episode.n_tasks)
    number = torch.zeros((), dtype=torch.float64)
    exact = gradient(to(meta, "cpu", torch.float64), to(episode, "cpu", torch.float64), key, number, 0)[0]
    function = il.fast(gradient, gear=gear)
    single = to(episode, device, torch.float32)
    found = function(to(meta, device), single, key.to(device), number.to(device), 0)[0]
    whole = flat(exact)
    return float((flat(found) - whole).norm() / whole.norm().clamp(min=1e-12))


def gears(device: str, quick: bool) -> tuple[str, ...]:
    """Torch's operators, and code of our own where a device has it; without what it takes to compile if quick."""
    return ("eager", "traced", "compiled") if device == "cpu" and not quick else ("eager", "traced")


def correctness(device: str, quick: bool) -> None:
    """Every algorithm in every gear; then a conv net with and without TF32."""
    print("\nRelative error of the meta-gradient (float32) against float64 on the CPU\n")
    ways = gears(device, quick)
    print(f"| | {' | '.join(ways)} |\n|---|{'---|' * len(ways)}")
    # a graph takes seconds to make: of each algorithm the first case
    first = {case.algorithm: name for case, name in reversed(list(zip(CASES, IDS, strict=True)))}
    for case, name in list(zip(CASES, IDS, strict=True))[:: 12 if quick else 1]:
        learner, graph = case.make(), first[case.algorithm] == name
        errors = {
            gear: error_of(learner, case.episode, device, gear) for gear in ways if graph or gear == "eager"
        }
        cells = [f"{errors[gear]:.1e}" if gear in errors else "" for gear in ways]
        print(f"| {name} | {' | '.join(cells)} |", flush=True)
    width, pooling, side, colours, _, _, steps, rate = next(iter(IMAGES.values()))
    width, tasks = (4, 2) if quick else (width, 8)
    before = torch.backends.cudnn.allow_tf32
    work = Workload(
        conv_net(width, pooling, side, colours),
        images_of(side, colours, 5, tasks),
        steps,
        rate,
        "cross_entropy",
    )
    for allowed in (True, False):
        torch.backends.cudnn.allow_tf32 = allowed
        cells = [f"{error_of(work.learner, work.episode, device, gear):.1e}" for gear in ways]
        print(f"| conv4, TF32 {'allowed' if allowed else 'off'} | {' | '.join(cells)} |", flush=True)
    torch.backends.cudnn.allow_tf32 = before


def times(device: str, quick: bool, seconds: float) -> None:
    """Meta-updates in all gears beside a plain loop and `torch.func`, and what `auto` estimates."""
    print("\nA meta-update: median, time to the first result, most memory\n")
    print(f"| | plain loop | torch.func | {' | '.join(gears(device, quick))} | estimate: CPU, GPU |")
    print(f"|---|---|---|{'---|' * len(gears(device, quick))}---|")
    for name, work in workloads(quick).items():
        ways: list[Callable[[], Step]] = [
            lambda w=work: plain_loop(w, device),
            lambda w=work: by_hand(w, device),
        ]
        ways += [lambda w=work, g=gear: in_gear(w, device, g) for gear in gears(device, quick)]
        cells = [timed(way, device, seconds) for way in ways]
        counts = update_work(work.learner, work.learner.init(), work.episode)
        there = gpu()
        estimates = [
            f"{1e3 * speed.seconds(counts):.3g} ms" if speed else "none" for speed in (processor(), there)
        ]
        print(f"| {name} | {' | '.join(cells)} | {', '.join(estimates)} |", flush=True)


@contextmanager
def table(rows: int = 12, tasks: int = 30) -> Iterator[Path]:
    """A folder with a table of lines that differ from site to site."""
    rng = np.random.default_rng(0)
    site, x = np.arange(rows * tasks) // rows, rng.normal(size=(rows * tasks, 3))
    y = x[:, 0] * rng.normal(size=tasks)[site] + x[:, 1] + 0.1 * rng.normal(size=len(x))
    with tempfile.TemporaryDirectory() as folder:
        frame = pd.DataFrame(x, columns=["a", "b", "c"]).assign(site=[f"s{n}" for n in site], y=y)
        frame.to_csv(Path(folder) / "sites.csv", index=False)
        yield Path(folder)


def verbs(device: str, quick: bool) -> None:
    """Seconds of `train` and `compare` on one table, by device."""
    print("\nOne table (30 sites of 12 rows): seconds of a verb, and what it says of the device\n")
    print("| verb | --device | s | device |\n|---|---|---|---|")
    steps = "20" if quick else "1000"
    asked = {
        "train": ["--algorithm", "maml", "--steps", steps],
        "compare": ["--quick", "--learners", "maml", "--baselines", "pooled,shrunken", "--report", "none"],
    }
    asked["compare"] += ["--steps", "2" if quick else "300", "--folds", "3", "--seeds", "1", "--tries", "1"]
    with table() as folder:
        for verb, options in asked.items():
            for choice in dict.fromkeys(("auto", device) if quick else ("auto", "cpu", device)):
                words = [
                    verb,
                    str(folder / "sites.csv"),
                    "--task",
                    "site",
                    "--target",
                    "y",
                    "--n-support",
                    "5",
                ]
                words += [*options, "--device", choice, "--out", str(folder / f"{verb}-{choice}")]
                said, began = StringIO(), time.perf_counter()
                with redirect_stdout(StringIO()), redirect_stderr(said):
                    code = command(words)
                seconds = time.perf_counter() - began
                lines = [line[8:] for line in said.getvalue().splitlines() if line.startswith("device: ")]
                if code:
                    sys.exit(f"innerloop {' '.join(words)} left with {code}: {said.getvalue()}")
                print(f"| {verb} | {choice} | {seconds:.1f} | {lines[0] if lines else ''} |", flush=True)


def adaptations(device: str, quick: bool, seconds: float) -> None:
    """Tasks a second that a table net adapts to, with predictions."""
    widths, support, query, _, steps, rate, loss = SHAPES["table, 5 steps"]
    tasks = 64 if quick else 4096
    episode = episode_of(widths, support, query, tasks, loss)
    learner = il.maml(net(widths), loss=loss, inner_lr=rate, inner_steps=steps)
    print(f"\nAdaptations a second: a table net, {steps} steps, {support} support and {query} query rows\n")
    print("| device | gear | adaptations a second |\n|---|---|---|")

    def adapted(meta: dict[str, torch.Tensor], support: il.Batch, x: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return learner.predict(meta, learner.adapt(meta, support), x)

    for place in dict.fromkeys(("cpu", device)):
        meta, moved = to(learner.init(), place), to(episode, place)
        for gear in gears(place, quick):
            function = il.fast(adapted, gear=gear)
            found = timed(
                lambda f=function, m=meta, e=moved: lambda: float(f(m, e.support, e.query.x)[0, 0, 0]),
                place,
                seconds,
            )
            rate_of = tasks / float(found.split(" ms")[0]) * 1e3 if " ms" in found else float("nan")
            print(f"| {place} | {gear} | {rate_of:,.0f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--quick", action="store_true", help="small, to see that it runs")
    given = parser.parse_args()
    seconds = 0.05 if given.quick else 1.0
    on_gpu = given.device.startswith("cuda")
    card = torch.cuda.get_device_name(given.device) if on_gpu else "not measured on a GPU"
    print(f"{card}; torch {torch.__version__}, CUDA {torch.version.cuda}, {torch.get_num_threads()} threads")
    began = time.perf_counter()
    correctness(given.device, given.quick)
    times(given.device, given.quick, seconds)
    verbs(given.device, given.quick)
    adaptations(given.device, given.quick, seconds)
    print(f"\n{time.perf_counter() - began:.0f} s in all")


if __name__ == "__main__":
    main()
