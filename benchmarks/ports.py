"""Well-known meta-learning scripts beside their ports: lines, time of an update, agreement of the first updates.

    python benchmarks/ports.py --originals FOLDER           # every row, about half an hour on one core
    python benchmarks/ports.py --originals FOLDER --only cavia,anil
    python benchmarks/ports.py --table                      # docs/ports.md from the numbers measured before

FOLDER holds the sources of the originals: `learn2learn` (0.2.0), and clones of `higher`, `cavia`, `imaml_dev` and
`HowToTrainYourMAMLPytorch`; none of them is changed. Without it a loop by hand stands in for learn2learn's MAML.

Both sides get the same start, the same episodes and one thread, and are timed in turns, by processor time. The losses
of the first three updates are compared in double precision, where rounding does not grow through Adam's division.
Images are random numbers in the shapes of the data sets: they decide neither lines nor time. An original's lines are
those of its files without blank lines and comments; those of a port are what stands in its function here, and an import
and an evaluation.
"""

from __future__ import annotations

import argparse
import copy
import inspect
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

import innerloop as il
from innerloop import engine
from innerloop.algorithms import anil, cavia, imaml, maml_plus_plus, meta_sgd, protonet, reptile
from innerloop.tasks.episodes import to

sys.path.insert(0, str(Path(__file__).resolve().parent / "peers"))
import originals

RESULTS = Path(__file__).resolve().parent / "results" / "ports.jsonl"
PAGE = Path(__file__).resolve().parents[1] / "docs" / "ports.md"
# updates whose losses are compared
FIRST = 3


def images(channels: int, size: int, **episodes: int) -> il.Tasks:
    """Random images of 300 classes in the shapes of a data set."""
    count, shape = episodes["n_shot"] + episodes["n_query"], (channels, size, size)
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(256, (300 * count, *shape), generator=generator, dtype=torch.uint8)
    labels = torch.arange(300).repeat_interleave(count)
    return il.tasks.classes(x, labels, **episodes)


def omniglot(**episodes: int) -> il.Tasks:
    """Stands for `il.datasets.load("omniglot", ...)`."""
    return images(1, 28, **episodes)


def mini_imagenet(**episodes: int) -> il.Tasks:
    """Stands for `il.datasets.load("mini-imagenet", ...)`."""
    return images(3, 84, **episodes)


def fc100(**episodes: int) -> il.Tasks:
    """Stands for the images of FC100."""
    return images(3, 32, **episodes)


Train = Callable[..., Any]


def sine_maml(train: Train) -> None:
    tasks = il.tasks.sinusoid(n_support=10, n_query=10)
    net = il.models.mlp(1, [32, 32], 1, activation="relu")
    learner = il.maml(net, loss="mse", inner_lr=0.01, inner_steps=5)
    train(learner, tasks, meta_batch_size=16, meta_lr=0.001)


def sine_meta_sgd(train: Train) -> None:
    tasks = il.tasks.sinusoid(n_support=10, n_query=10)
    net = il.models.mlp(1, [40, 40], 1, activation="relu")
    learner = meta_sgd(net, loss="mse", inner_lr=0.01, inner_steps=1)
    train(learner, tasks, meta_batch_size=16, meta_lr=0.001)


def sine_cavia(train: Train) -> None:
    tasks = il.tasks.sinusoid(n_support=10, n_query=10)
    net = il.models.mlp(1 + 5, [40, 40], 1, activation="relu")
    learner = cavia(net, loss="mse", n_context=5, inner_lr=1.0, inner_steps=1)
    train(learner, tasks, meta_batch_size=25, meta_lr=0.001)


def sine_reptile(train: Train) -> None:
    tasks = il.tasks.sinusoid(n_support=10, n_query=10)
    net = il.models.mlp(1, [64, 64], 1, activation="tanh")
    learner = reptile(net, loss="mse", inner_lr=0.02, inner_steps=10)
    train(learner, tasks, meta_batch_size=10, meta_lr=0.1, optimizer=il.optimizers.sgd())


def omniglot_learn2learn(train: Train) -> None:
    tasks = omniglot(n_way=5, n_shot=1, n_query=1)
    layers = [nn.Flatten()]
    for inward, outward in ((784, 256), (256, 128), (128, 64), (64, 64)):
        layers += [nn.Linear(inward, outward), nn.BatchNorm1d(outward, track_running_stats=False), nn.ReLU()]
    net = nn.Sequential(*layers, nn.Linear(64, 5))
    learner = il.maml(net, loss="cross_entropy", inner_lr=0.5, inner_steps=1, batchnorm="transductive")
    train(learner, tasks, meta_batch_size=32, meta_lr=0.003)


def omniglot_higher(train: Train) -> None:
    tasks = omniglot(n_way=5, n_shot=1, n_query=15)
    layers = []
    for inward in (1, 64, 64):
        layers += [nn.Conv2d(inward, 64, 3), nn.BatchNorm2d(64, track_running_stats=False)]
        layers += [nn.ReLU(), nn.MaxPool2d(2, 2)]
    net = nn.Sequential(*layers, nn.Flatten(), nn.Linear(64, 5))
    learner = il.maml(net, loss="cross_entropy", inner_lr=0.1, inner_steps=5, batchnorm="transductive")
    train(learner, tasks, meta_batch_size=4, meta_lr=0.001)


def omniglot_maml_plus_plus(train: Train) -> None:
    tasks = omniglot(n_way=5, n_shot=1, n_query=1)
    net = il.models.conv4(1, 5, size=28, width=64, pool="max")
    learner = maml_plus_plus(
        net, loss="cross_entropy", inner_lr=0.1, inner_steps=5, batchnorm="transductive",
        multi_step_until=7500, first_order_until=0,
    )  # fmt: skip
    train(learner, tasks, meta_batch_size=8, meta_lr=0.001)


def omniglot_imaml(train: Train) -> None:
    tasks = omniglot(n_way=5, n_shot=1, n_query=1)
    net = il.models.conv4(1, 5, size=28, width=64)
    learner = imaml(
        net, loss="cross_entropy", strength=2.0, inner_lr=0.01, inner_steps=16, iterations=5,
        batchnorm="transductive",
    )  # fmt: skip
    train(learner, tasks, meta_batch_size=4, meta_lr=0.01)


def fc100_anil(train: Train) -> None:
    tasks = fc100(n_way=5, n_shot=5, n_query=5)
    net = il.models.conv4(3, 5, size=32, width=64, pool="max")
    learner = anil(net, loss="cross_entropy", inner_lr=0.1, inner_steps=5, batchnorm="transductive")
    train(learner, tasks, meta_batch_size=8, meta_lr=0.001)


def mini_imagenet_protonet(train: Train) -> None:
    tasks = mini_imagenet(n_way=30, n_shot=1, n_query=15)
    net = il.models.conv4(3, None, size=84, width=64, pool="max")
    learner = protonet(net, n_features=1600, n_outputs=30, batchnorm="transductive")
    train(learner, tasks, meta_batch_size=1, meta_lr=0.001)


class Row(NamedTuple):
    """A script, its port, and how the original's update is made.

    Arguments:
        title: algorithm and data.
        port: the port.
        original: an update of `originals`.
        settings: of it.
        source: what it is, for people.
        files: of the script, in the folder of originals; none where a loop by hand stands in.
        needs: the folder without which the update cannot be made.
    """

    title: str
    port: Callable[[Train], None]
    original: Callable[..., Callable[[il.Episode], float]]
    settings: dict[str, Any]
    source: str
    files: tuple[str, ...] = ()
    needs: str = ""


def _settings(lr: float, steps: int, meta_lr: float, loss: Any = nn.functional.cross_entropy, **more: Any):
    return {"lr": lr, "steps": steps, "meta_lr": meta_lr, "loss": loss, **more}


_MSE = nn.functional.mse_loss
_L2L, _VISION, _CAVIA, _PLUS, _IMAML = (
    "learn2learn/examples/", "learn2learn/examples/vision/", "cavia/regression/",
    "HowToTrainYourMAMLPytorch/", "imaml_dev/",
)  # fmt: skip
_CAVIA_FILES = ("cavia", "cavia_model", "main", "tasks_sine", "utils", "logger", "arguments")
_PLUS_FILES = (
    "few_shot_learning_system", "inner_loop_optimizers", "meta_neural_network_architectures", "experiment_builder",
    "data", "train_maml_system",
)  # fmt: skip
_IMAML_FILES = (
    "examples/omniglot_implicit_maml", "implicit_maml/learner_model", "implicit_maml/utils", "implicit_maml/dataset",
)  # fmt: skip


def _files(folder: str, *names: str) -> tuple[str, ...]:
    return tuple(f"{folder}{name}.py" for name in names)


ROWS = {
    "sine": Row(
        "MAML, sinusoids", sine_maml, originals.maml, _settings(0.01, 5, 0.001, _MSE),
        "learn2learn, `maml_sine.py`", _files(_L2L, "maml_sine"), "learn2learn",
    ),
    "meta_sgd": Row(
        "Meta-SGD, sinusoids", sine_meta_sgd, originals.maml, _settings(0.01, 1, 0.001, _MSE, kind="MetaSGD"),
        "learn2learn, `MetaSGD`", (), "learn2learn",
    ),
    "cavia": Row(
        "CAVIA, sinusoids", sine_cavia, originals.cavia, _settings(1.0, 1, 0.001, _MSE, context=5),
        "its authors, `cavia.py`", _files(_CAVIA, *_CAVIA_FILES), "cavia",
    ),
    "reptile": Row(
        "Reptile, sinusoids", sine_reptile, originals.reptile, _settings(0.02, 10, 0.1, _MSE), "by hand"
    ),
    "l2l": Row(
        "MAML, Omniglot, learn2learn's settings", omniglot_learn2learn, originals.maml, _settings(0.5, 1, 0.003),
        "learn2learn, `maml_omniglot.py`", _files(_VISION, "maml_omniglot"), "learn2learn",
    ),
    "higher": Row(
        "MAML, Omniglot, higher's settings", omniglot_higher, originals.higher_maml, _settings(0.1, 5, 0.001),
        "higher, `maml-omniglot.py`", _files("higher/examples/", "maml-omniglot", "support/omniglot_loaders"), "higher",
    ),
    "plus": Row(
        "MAML++, Omniglot", omniglot_maml_plus_plus, originals.maml_plus_plus, _settings(0.1, 5, 0.001),
        "by hand; lines: its authors'", _files(_PLUS, *_PLUS_FILES),
    ),
    "imaml": Row(
        "iMAML, Omniglot", omniglot_imaml, originals.imaml,
        _settings(0.01, 16, 0.01, strength=2.0, iterations=5),
        "its authors, `imaml_dev`", _files(_IMAML, *_IMAML_FILES), "imaml_dev",
    ),
    "anil": Row(
        "ANIL, FC100, 5-way 5-shot", fc100_anil, originals.anil, _settings(0.1, 5, 0.001),
        "learn2learn, `anil_fc100.py`", _files(_VISION, "anil_fc100"), "learn2learn",
    ),
    "protonet": Row(
        "prototypical network, 84 x 84, 30-way", mini_imagenet_protonet, originals.protonet, {"meta_lr": 0.001},
        "learn2learn, `protonet_miniimagenet.py`", _files(_VISION, "protonet_miniimagenet"),
    ),
}  # fmt: skip


def code_lines(text: str) -> int:
    """Lines that are neither blank nor comments."""
    return sum(bool(line.strip()) and not line.strip().startswith("#") for line in text.splitlines())


def module_of(learner: il.Learner) -> nn.Module:
    """The module that a learner was made of, without what the algorithm puts around it."""
    module = learner.network.original
    return getattr(module, "module", module)


def both(
    row: Row, folder: Path, gear: str, dtype: torch.dtype = torch.float32
) -> tuple[Callable[[int], float], Callable[[int], float], engine.Report, int]:
    """Updates of the original and of the port on the same episodes; the port's gear and the tasks of an update."""
    torch.manual_seed(0)
    found: dict[str, Any] = {}

    def train(learner: il.Learner, tasks: il.Tasks, **settings: Any) -> None:
        found.update(settings, learner=learner, tasks=tasks)

    row.port(train)
    learner, count = found["learner"], found["meta_batch_size"]
    make = row.original if not row.needs or (folder / row.needs).is_dir() else originals.by_hand
    module = copy.deepcopy(module_of(learner)).train().to(dtype)
    original = make(folder, module, **row.settings)
    generator = torch.Generator().manual_seed(1)
    episodes = [to(found["tasks"].train.sample(count, generator), "cpu", dtype) for _ in range(4)]
    step = il.meta_step(
        learner, found.get("optimizer"), rate=found["meta_lr"], clip=None, gear=gear, planned=60_000
    )
    state = step.init({name: value.to(dtype) for name, value in learner.init().items()})

    def ours(number: int) -> float:
        nonlocal state
        state, figures = step(state, episodes[number % 4])
        return float(figures["losses"].mean())

    report = step.update.report
    return lambda number: original(episodes[number % 4]), ours, report, count


def measured(row: Row, folder: Path, gear: str, seconds: float) -> dict[str, Any]:
    """Everything that stands in a row of the table."""
    original, ours, _, _ = both(row, folder, "eager", torch.float64)
    pairs = [(original(number), ours(number)) for number in range(FIRST)]
    apart = max(abs(one - two) / abs(one) for one, two in pairs)
    original, ours, report, count = both(row, folder, gear)
    for number in range(FIRST):
        original(number), ours(number)
    times: dict[str, list[float]] = {"original": [], "ours": []}
    began, number = time.perf_counter(), FIRST
    while time.perf_counter() - began < seconds or len(times["ours"]) < 3:
        for name, update in (("original", original), ("ours", ours))[:: 1 if number % 2 else -1]:
            start = time.process_time()
            update(number)
            times[name].append(1000 * (time.process_time() - start))
        number += 1
    texts = [(folder / name).read_text(errors="replace") for name in row.files if (folder / name).is_file()]
    return {
        "title": row.title, "source": row.source if (folder / row.needs).is_dir() else "by hand", "tasks": count,
        "lines": sum(map(code_lines, texts)) or None, "port_lines": code_lines(inspect.getsource(row.port)) + 1,
        "ms": statistics.median(times["original"]), "port_ms": statistics.median(times["ours"]),
        "gear": report.gear, "apart": apart, "updates": len(times["ours"]),
    }  # fmt: skip


def table(found: dict[str, dict[str, Any]]) -> str:
    """The rows as Markdown."""
    head = "| script | original | tasks | lines | port | ms an update | port | ahead | first losses apart |\n"
    text = head + "|---" * 9 + "|\n"
    for name in (name for name in ROWS if name in found):
        row = found[name]
        ahead = row["ms"] / row["port_ms"]
        text += (
            f"| {row['title']} | {row['source']} | {row['tasks']} | {row['lines'] or ''} | {row['port_lines']} "
            f"| {row['ms']:.3g} | {row['port_ms']:.3g} ({row['gear']}) | {ahead:.1f} | {row['apart']:.0e} |\n"
        )
    return text


def read() -> dict[str, dict[str, Any]]:
    lines = RESULTS.read_text().splitlines() if RESULTS.exists() else []
    return {entry["name"]: entry for entry in map(json.loads, lines)}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--originals", type=Path, default=Path("no folder"))
    parser.add_argument("--only", default=",".join(ROWS))
    parser.add_argument("--gear", default="auto")
    parser.add_argument(
        "--seconds", type=float, default=10, help="of both sides together, three updates at least"
    )
    parser.add_argument("--table", action="store_true", help="write docs/ports.md from what was measured")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    found = read()
    for name in () if asked.table else asked.only.split(","):
        entry = {"name": name, **measured(ROWS[name], asked.originals, asked.gear, asked.seconds)}
        found = read() | {name: entry}
        RESULTS.write_text("".join(json.dumps(found[name]) + "\n" for name in ROWS if name in found))
        print(table({name: found[name]}).splitlines()[-1], flush=True)
    if asked.table:
        begin, end = "<!-- ports: begin -->\n", "<!-- ports: end -->"
        before, _, rest = PAGE.read_text().partition(begin)
        PAGE.write_text(before + begin + table(found) + end + rest.partition(end)[2])


if __name__ == "__main__":
    main()
