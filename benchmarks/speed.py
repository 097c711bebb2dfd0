"""How fast a meta-update is, beside a loop over tasks, torch's own compiler and, where they are installed, the peers.

    python benchmarks/speed.py                     # this package's gears and a plain loop, about two minutes
    python benchmarks/speed.py --harness FOLDER    # beside the peers of a harness like the one of docs/performance.md
    python benchmarks/speed.py --trainer           # what `meta_train` adds to the bare update
    python benchmarks/speed.py --images            # convolutional nets, about five minutes
    python benchmarks/speed.py --heads             # ridge and Gaussian heads on learned features
    python benchmarks/speed.py --errors            # of the meta-gradient of a conv net, over many starts
    python benchmarks/speed.py --precision         # products in bfloat16: time, and error of the meta-gradient

All are timed in turns, A B C ... C B A, in one run; medians in ms and ratios are printed.
"""

import argparse
import itertools
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

import innerloop as il
from innerloop.algorithms.assemble import learner_for
from innerloop.models.precision import PRECISIONS, products_in
from innerloop.outer.update import Outer, meta_gradient, meta_update, numbers_of
from innerloop.tasks.episodes import to
from innerloop.tasks.sources import stream

HERE = Path(__file__).resolve().parent

# name: widths, support rows, query rows, tasks, inner steps, step size, loss
SHAPES = {
    "sinusoid, 1 step": ([1, 40, 40, 1], 10, 10, 25, 1, 0.01, "mse"),
    "sinusoid, 5 steps": ([1, 40, 40, 1], 10, 10, 25, 5, 0.01, "mse"),
    "table, 5 steps": ([10, 16, 2], 16, 16, 32, 5, 0.1, "cross_entropy"),
}


def net(widths: list[int]) -> nn.Module:
    torch.manual_seed(0)
    layers = [part for a, b in itertools.pairwise(widths) for part in (nn.Linear(a, b), nn.ReLU())]
    return nn.Sequential(*layers[:-1])


def episode_of(widths: list[int], support: int, query: int, tasks: int, loss: str) -> il.Episode:
    generator = torch.Generator().manual_seed(1)

    def batch(rows: int) -> il.Batch:
        x = torch.randn(tasks, rows, widths[0], generator=generator)
        if loss == "mse":
            return il.Batch(x, torch.randn(tasks, rows, widths[-1], generator=generator))
        return il.Batch(x, torch.randint(widths[-1], (tasks, rows), generator=generator))

    return il.Episode(batch(support), batch(query))


# name: width, pooling, side, colours, query rows, tasks, inner steps, step size; always 5 classes of one support row
IMAGES = {
    "conv4-64, 28 x 28, 32 tasks, 1 step, 5 query rows": (64, "stride", 28, 1, 5, 32, 1, 0.1),
    "conv4-64, 28 x 28, 32 tasks, 5 steps, 75 query rows": (64, "stride", 28, 1, 75, 32, 5, 0.1),
    "conv4-32, 84 x 84, 4 tasks, 5 steps, 75 query rows": (32, "max", 84, 3, 75, 4, 5, 0.01),
}


def conv_net(width: int, pooling: str, side: int, colours: int) -> nn.Module:
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for inward in (colours, width, width, width):
        layers += [nn.Conv2d(inward, width, 3, 2 if pooling == "stride" else 1, 1)]
        layers += [nn.BatchNorm2d(width, track_running_stats=False), nn.ReLU()]
        layers += [nn.MaxPool2d(2)] if pooling == "max" else []
        side = side // 2 if pooling == "max" else (side + 1) // 2
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(width * side * side, 5))


def images_of(side: int, colours: int, query: int, tasks: int) -> il.Episode:
    generator = torch.Generator().manual_seed(1)

    def batch(rows: int) -> il.Batch:
        x = torch.rand(tasks, rows, colours, side, side, generator=generator)
        return il.Batch(x, torch.arange(rows).remainder(5).expand(tasks, rows).clone())

    return il.Episode(batch(5), batch(query))


def plain_loop(
    module: nn.Module, episode: il.Episode, steps: int, rate: float, loss: str
) -> Callable[[], None]:
    """Second-order MAML as a tutorial writes it: task by task, with torch.optim.Adam."""
    criterion = nn.functional.mse_loss if loss == "mse" else nn.functional.cross_entropy
    params = dict(module.named_parameters())
    optimizer = torch.optim.Adam(params.values(), lr=1e-3)

    def step() -> None:
        optimizer.zero_grad()
        for task in range(episode.n_tasks):
            fast = params
            for _ in range(steps):
                out = torch.func.functional_call(module, fast, (episode.support.x[task],))
                slopes = torch.autograd.grad(
                    criterion(out, episode.support.y[task]), list(fast.values()), create_graph=True
                )
                fast = {n: v - rate * g for (n, v), g in zip(fast.items(), slopes, strict=True)}
            out = torch.func.functional_call(module, fast, (episode.query.x[task],))
            (criterion(out, episode.query.y[task]) / episode.n_tasks).backward()
        optimizer.step()

    return step


def gear_of(
    module: nn.Module, episode: il.Episode, steps: int, rate: float, loss: str, gear: str
) -> Callable[[], None]:
    learner = il.maml(module, loss=loss, inner_lr=rate, inner_steps=steps, batchnorm="transductive")
    return geared(learner, episode, gear)


def geared(learner: il.Learner, episode: il.Episode, gear: str) -> Callable[[], None]:
    update = il.fast(meta_update(learner, clip=None), gear=gear)
    key = torch.arange(episode.n_tasks)
    state = Outer.start(learner.init())
    number = 0

    def step() -> None:
        nonlocal state, number
        state, figures = update(state, numbers_of(number, 1e-3), episode, key, 0)
        figures["losses"].mean().item()
        number += 1

    step()
    step.seconds = update.report.seconds  # type: ignore[attr-defined]
    return step


def interleaved(ways: dict[str, Callable[[], None]], rounds: int, seconds: float) -> dict[str, float]:
    """Median time of each in ms, taken in turns."""
    counts, times = {}, {name: [] for name in ways}
    for name, step in ways.items():
        step()
        began = time.perf_counter()
        step()
        counts[name] = max(1, min(300, int(seconds / (time.perf_counter() - began))))
    for turn in range(rounds):
        for name in list(ways)[:: 1 if turn % 2 == 0 else -1]:
            for _ in range(counts[name]):
                began = time.perf_counter()
                ways[name]()
                times[name].append(1000 * (time.perf_counter() - began))
    return {name: statistics.median(found) for name, found in times.items()}


def own(rounds: int) -> None:
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, one thread; medians in ms, in brackets times the plain loop")
    print("| update | loop | eager | traced | compiled | first call s: traced, compiled |")
    print("|---|---|---|---|---|---|")
    for name, (widths, support, query, tasks, steps, rate, loss) in SHAPES.items():
        episode = episode_of(widths, support, query, tasks, loss)
        ways = {"loop": plain_loop(net(widths), episode, steps, rate, loss)}
        ways |= {
            gear: gear_of(net(widths), episode, steps, rate, loss, gear)
            for gear in ("eager", "traced", "compiled")
        }
        found = interleaved(ways, rounds, 0.3)
        cells = [f"{ms:.2f} ({found['loop'] / ms:.1f})" for ms in found.values()]
        made = ", ".join(f"{ways[gear].seconds:.1f}" for gear in ("traced", "compiled"))
        print(f"| {name} | {' | '.join(cells)} | {made} |", flush=True)


def images(rounds: int) -> None:
    """Convolutional nets: the plain loop, the traced and the compiled gear."""
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, one thread; medians in ms, in brackets times the plain loop")
    print("| update | loop | traced | compiled | first call s: traced, compiled |")
    print("|---|---|---|---|---|")
    for name, (width, pooling, side, colours, query, tasks, steps, rate) in IMAGES.items():
        episode = images_of(side, colours, query, tasks)
        module = conv_net(width, pooling, side, colours)
        ways = {"loop": plain_loop(module, episode, steps, rate, "cross_entropy")}
        for gear in ("traced", "compiled"):
            ways[gear] = gear_of(module, episode, steps, rate, "cross_entropy", gear)
        found = interleaved(ways, rounds, 0.3)
        cells = [f"{ms:.0f} ({found['loop'] / ms:.1f})" for ms in found.values()]
        made = ", ".join(f"{ways[gear].seconds:.1f}" for gear in ("traced", "compiled"))
        print(f"| {name} | {' | '.join(cells)} | {made} |", flush=True)


def heads(rounds: int) -> None:
    """Meta-updates of heads with a closed form, on one layer of 64 features, 32 sinusoids of 10 query rows."""
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, one thread; medians in ms, in brackets times eager")
    print("| head | eager | traced | compiled | first call s: traced, compiled |")
    print("|---|---|---|---|---|")
    for algorithm, rows in itertools.product(("ridge", "gaussian"), (10, 100)):
        tasks = il.tasks.sinusoid(n_support=rows, n_query=10)
        learner = learner_for(tasks, algorithm=algorithm, hidden=[64])
        episode = tasks.train.sample(32, stream(0))
        ways = {gear: geared(learner, episode, gear) for gear in ("eager", "traced", "compiled")}
        found = interleaved(ways, rounds, 0.5)
        cells = [f"{ms:.2f} ({found['eager'] / ms:.1f})" for ms in found.values()]
        made = ", ".join(f"{ways[gear].seconds:.1f}" for gear in ("traced", "compiled"))
        print(f"| {algorithm}, {rows} support rows | {' | '.join(cells)} | {made} |", flush=True)


def in_precision(chosen: str, learner: il.Learner, *given: Any) -> Callable[[], list[torch.Tensor]]:
    """The traced meta-gradient."""
    function = il.fast(meta_gradient(learner), gear="traced")

    def run() -> list[torch.Tensor]:
        with products_in(chosen):
            return list(function(*given)[0].values())

    return run


def precisions(rounds: int) -> None:
    """Time of a traced meta-gradient, and its relative error against float64, by the precision of products."""
    torch.set_num_threads(1)
    print("| meta-gradient, traced | float32 | bfloat16 |")
    print("|---|---|---|")
    cases = {
        name: (net(widths), episode_of(widths, support, query, tasks, loss), steps, rate, loss)
        for name, (widths, support, query, tasks, steps, rate, loss) in SHAPES.items()
    }
    name, (width, pooling, side, colours, query, tasks, steps, rate) = next(iter(IMAGES.items()))
    pictures = images_of(side, colours, query, tasks)
    cases[name] = (conv_net(width, pooling, side, colours), pictures, steps, rate, "cross_entropy")
    for name, (module, episode, steps, rate, loss) in cases.items():
        learner = il.maml(module, loss=loss, inner_lr=rate, inner_steps=steps, batchnorm="transductive")
        meta, key, number = learner.init(), torch.arange(episode.n_tasks), torch.tensor(0.0)

        given = (episode, key, number, 0)
        ways = {chosen: in_precision(chosen, learner, meta, *given) for chosen in PRECISIONS}
        exact, _ = meta_gradient(learner)(
            {n: value.double() for n, value in meta.items()},
            to(episode, "cpu", torch.float64),
            key,
            number,
            0,
        )
        whole = torch.cat([value.flatten() for value in exact.values()])
        errors = [
            float((torch.cat([value.flatten() for value in way()]) - whole).norm() / whole.norm())
            for way in ways.values()
        ]
        found = interleaved(ways, rounds, 0.3)
        cells = [f"{ms:.2f} ms, {error:.1e}" for ms, error in zip(found.values(), errors, strict=True)]
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


def errors(starts: int = 12, tasks: int = 8) -> None:
    """Relative error of the meta-gradient against float64 by gear, over starts: kinks decide it."""
    print(f"{starts} starts, {tasks} tasks: smallest, median and largest error of the meta-gradient")
    print("| | eager | compiled |\n|---|---|---|")
    for name, (width, pooling, side, colours, query, _, steps, rate) in list(IMAGES.items())[:2]:
        learner = il.maml(
            conv_net(width, pooling, side, colours),
            loss="cross_entropy",
            inner_lr=rate,
            inner_steps=steps,
            batchnorm="transductive",
        )
        gradient = meta_gradient(learner)
        ways = {gear: il.fast(gradient, gear=gear) for gear in ("eager", "compiled")}
        episode, first = images_of(side, colours, query, tasks), learner.init()
        given = (torch.arange(tasks), torch.tensor(0.0), 0)
        found: dict[str, list[float]] = {gear: [] for gear in ways}
        for start in range(starts):
            generator = torch.Generator().manual_seed(start)
            meta = {n: v + 0.02 * torch.randn(v.shape, generator=generator) for n, v in first.items()}
            doubles = {n: value.double() for n, value in meta.items()}
            exact, _ = gradient(doubles, to(episode, "cpu", torch.float64), *given)
            whole = torch.cat([value.flatten() for value in exact.values()])
            for gear, way in ways.items():
                grads, _ = way(meta, episode, *given)
                apart = torch.cat([value.flatten() for value in grads.values()]) - whole
                found[gear].append(float(apart.norm() / whole.norm()))
        cells = [f"{min(e):.1e}, {statistics.median(e):.1e}, {max(e):.1e}" for e in found.values()]
        print(f"| {name.replace('32 tasks', f'{tasks} tasks')} | {' | '.join(cells)} |", flush=True)


def trainer(rounds: int) -> None:
    """Time a step of `meta_train`, everything included, against the bare update."""
    torch.set_num_threads(1)
    widths, support, query, tasks, steps, rate, loss = SHAPES["table, 5 steps"]
    import pandas as pd

    generator = torch.Generator().manual_seed(0)
    x = torch.randn(200 * 40, widths[0], generator=generator)
    frame = pd.DataFrame(x.numpy()).add_prefix("x")
    frame["y"] = (x[:, 0] > 0).int().numpy()
    frame["task"] = torch.arange(200).repeat_interleave(40).numpy()
    data = il.tasks.table(frame, task="task", target="y", n_support=support, n_query=query)
    learner = il.maml(net(widths), loss=loss, inner_lr=rate, inner_steps=steps)
    sample = data.train.sample(tasks, stream(0))
    bare = gear_of(net(widths), sample, steps, rate, loss, "compiled")
    found = {"bare": [], "trainer": []}
    for _ in range(rounds):
        found["bare"].append(interleaved({"bare": bare}, 1, 0.5)["bare"])
        few, many = (
            il.meta_train(learner, data.train, steps=n, meta_batch_size=tasks, gear="compiled", device="cpu")
            for n in (100, 1100)
        )
        # without the seconds of tracing and compiling, which vary by more than all steps take
        longer, shorter = (run.seconds - run.gear.seconds for run in (many, few))
        found["trainer"].append(1000 * (longer - shorter) / 1000)
    medians = {name: statistics.median(times) for name, times in found.items()}
    print(f"bare update {medians['bare']:.3f} ms, a step of meta_train {medians['trainer']:.3f} ms")


def beside_peers(harness: Path, workloads: str, seconds: int, peers: str) -> None:
    """Run a harness with this package added to it."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "harness"
        shutil.copytree(harness, place, ignore=shutil.ignore_patterns("ref"))
        shutil.copy(HERE / "peers" / "innerloop_.py", place / "impls")
        environment = {**os.environ, "INNERLOOP_SOURCE": str(HERE.parent / "src"), "BENCH_PY": sys.executable}
        for workload in workloads.split(","):
            subprocess.run([sys.executable, "reference.py", workload], cwd=place, check=True, env=environment)
            gears = [f"innerloop_:gear={gear}@1" for gear in ("compiled", "traced", "eager")]
            specs = " ".join([*gears, *peers.split(",")])
            command = [
                sys.executable,
                "bench.py",
                "--wl",
                workload,
                "--impl",
                specs,
                "--maxsec",
                str(seconds),
            ]
            subprocess.run(command, cwd=place, check=True, env=environment)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--harness", type=Path)
    parser.add_argument("--workloads", default="W1s1,W1s5,W2h16")
    parser.add_argument("--peers", default="jax_,loop@1,l2l@1", help="names that the harness knows")
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--trainer", action="store_true")
    parser.add_argument("--heads", action="store_true")
    parser.add_argument("--images", action="store_true")
    parser.add_argument("--errors", action="store_true")
    parser.add_argument("--precision", action="store_true")
    asked = parser.parse_args()
    if asked.harness:
        beside_peers(asked.harness, asked.workloads, asked.seconds, asked.peers)
    elif asked.trainer:
        trainer(asked.rounds)
    elif asked.heads:
        heads(asked.rounds)
    elif asked.images:
        images(asked.rounds)
    elif asked.errors:
        errors()
    elif asked.precision:
        precisions(asked.rounds)
    else:
        own(asked.rounds)


if __name__ == "__main__":
    main()
