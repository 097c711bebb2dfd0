"""Memory and time of one meta-update: ways to take the meta-gradient, and tasks at once.

    python benchmarks/memory.py           # both tables: about 15 minutes on one core
    python benchmarks/memory.py --quick   # 5 inner steps only
    python benchmarks/memory.py --only 84x84
    python benchmarks/memory.py --only gears   # the compiled update of large images beside one task at a time

Each cell is a process of its own on one thread: two updates (one where the first takes over 5 s), the processor time
of the last one, and the largest resident memory, the library included, as the operating system counts it.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from typing import Any

# image size, channels, width, pooling, query images a class, tasks, inner step size; and the inner steps to measure
SHAPES = {
    "28x28, conv4 of 64 channels, 16 tasks": (28, 1, 64, "stride", 1, 16, 0.1, (5, 20, 50)),
    "84x84, conv4 of 32 channels, 2 tasks": (84, 3, 32, "max", 15, 2, 0.01, (5, 50)),
}
WAYS: dict[str, tuple[str, dict[str, Any]]] = {
    "unrolled": ("maml", {}),
    "checkpointed": ("maml", {"metagrad": "checkpointed"}),
    "first order": ("fomaml", {}),
    "implicit": ("imaml", {"iterations": 5}),
}
LIMIT = 2 * 2**30


def one(shape: str, way: str, steps: int, at_once: str, tasks: int, gear: str) -> dict[str, float]:
    """Measure in this process."""
    import torch

    import innerloop as il
    from innerloop import algorithms
    from innerloop.outer.memory import bytes_of, needed_bytes, tasks_at_once
    from innerloop.outer.update import Outer, geared_update, numbers_of

    torch.set_num_threads(1)
    size, channels, width, pool, query, usual, rate, _ = SHAPES[shape]
    tasks = tasks or usual
    generator = torch.Generator().manual_seed(0)

    def batch(each: int) -> il.Batch:
        x = torch.rand(tasks, 5 * each, channels, size, size, generator=generator)
        return il.Batch(x, torch.arange(5).repeat(each).expand(tasks, -1).contiguous())

    episode = il.Episode(batch(1), batch(query))
    torch.manual_seed(0)
    algorithm, options = WAYS[way]
    module = il.models.conv4(channels, 5, size=size, width=width, pool=pool)
    learner = getattr(algorithms, algorithm)(
        module, loss="cross_entropy", inner_lr=rate, inner_steps=steps, batchnorm="transductive", **options
    )
    meta = learner.init()
    single = il.Episode(*(il.Batch(b.x[:1], b.y[:1]) for b in episode))
    found = {"counted": needed_bytes(learner, meta, single)} if at_once == "count" else {}
    if at_once == "count":
        return found
    chunk = {"all": None, "one": 1}.get(at_once, 0)
    if chunk == 0:
        chunk = tasks_at_once(learner, meta, episode, bytes_of(at_once))
    update = geared_update(learner, clip=None, chunk=chunk, gear=gear, planned=1000)
    state, key = Outer.start(meta), torch.arange(tasks)
    seconds = 0.0
    for number in range(2):
        began = time.process_time()
        state, _ = update(state, numbers_of(number, 1e-3), episode, key, 0)
        seconds = time.process_time() - began
        if seconds > 5 and gear == "eager":
            break
    peak = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"seconds": seconds, "peak": peak, "at_once": chunk or tasks}


def apart(*arguments: Any) -> dict[str, float]:
    """Measure in a process of its own; empty where it did not come to an end."""
    command = [sys.executable, __file__, "--one", json.dumps(arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=1200)
    return json.loads(done.stdout.splitlines()[-1]) if done.returncode == 0 else {}


def gigabytes(size: float) -> str:
    return f"{size / 2**30:.2f}"


def ways(shape: str, steps: tuple[int, ...]) -> None:
    print(f"\n| {shape} | " + " | ".join(f"{n} steps" for n in steps) + " | a task, counted, MB |")
    print("|---|" + "---|" * (len(steps) + 1))
    for way in WAYS:
        cells = []
        for n in steps:
            found = apart(shape, way, n, "all", 0, "eager")
            fits = "**" if found and found["peak"] <= LIMIT else ""
            cells.append(
                f"{fits}{gigabytes(found['peak'])}{fits}, {found['seconds']:.1f}" if found else "did not end"
            )
        counted = [f"{one(shape, way, n, 'count', 0, 'eager')['counted'] / 2**20:.0f}" for n in steps]
        print(f"| {way} | {' | '.join(cells)} | {', '.join(counted)} |", flush=True)


def chunks() -> None:
    print("\nTasks at once: peak memory in GB and processor time in s (how many tasks at once).")
    print("\n| | all | by size, 512MB | one by one |")
    print("|---|---|---|---|")
    small, large = SHAPES
    for shape, way, steps, tasks in (
        (small, "unrolled", 5, 32),
        (large, "unrolled", 5, 4),
        (large, "checkpointed", 50, 2),
    ):
        cells = []
        for at_once in ("all", "512MB", "one"):
            found = apart(shape, way, steps, at_once, tasks, "eager")
            cells.append(f"{gigabytes(found['peak'])}, {found['seconds']:.1f} ({found['at_once']:.0f})")
        what = f"{shape.rpartition(',')[0]}, {tasks} tasks, {way}, {steps} steps"
        print(f"| {what} | {' | '.join(cells)} |", flush=True)


def gears() -> None:
    """As training runs it: everything that the first updates need, the comparison with the plain function included."""
    print("\nPeak memory in GB by gear, 4 tasks of 5 steps, and processor time of an update in s.")
    print("\n| 84x84, conv4 of 32 channels | one by one, eager | by size, compiled |")
    print("|---|---|---|")
    shape = list(SHAPES)[-1]
    for way in ("unrolled", "first order"):
        plain, quick = (
            apart(shape, way, 5, at_once, 4, gear)
            for at_once, gear in (("one", "eager"), ("512MB", "compiled"))
        )
        cells = [f"{gigabytes(found['peak'])}, {found['seconds']:.1f}" for found in (plain, quick)]
        print(f"| {way} | {' | '.join(cells)} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", default="", help="28x28, 84x84, chunks or gears")
    parser.add_argument("--one")
    asked = parser.parse_args()
    if asked.one:
        print(json.dumps(one(*json.loads(asked.one))))
        return
    print(
        "One update, all tasks at once: peak memory of the process in GB, processor time in s; bold within 2 GB."
    )
    for shape, (*_, steps) in SHAPES.items():
        if asked.only in shape:
            ways(shape, steps[:1] if asked.quick else steps)
    if not asked.only or asked.only == "chunks":
        chunks()
    if not asked.only or asked.only == "gears":
        gears()


if __name__ == "__main__":
    main()
