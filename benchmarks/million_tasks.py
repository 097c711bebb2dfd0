"""A table of a million tasks of five rows, and one with a huge task: memory of loading, time of a meta-batch.

    python benchmarks/million_tasks.py

takes about a minute and needs 2 GB. Memory is what numpy, pandas and Python hold (tracemalloc), without the
table itself, in multiples of its size; times are the median and the fastest of 200 meta-batches of 32.
"""

import argparse
import statistics
import time
import tracemalloc

import numpy as np
import pandas as pd
import torch

from innerloop import tasks
from innerloop.tasks.sources import stream


def frame_of(sizes: np.ndarray, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    task = np.repeat(np.arange(len(sizes)), sizes)
    x = rng.normal(size=len(task))
    return pd.DataFrame({"task": task, "x": x, "y": 2 * x, "grade": rng.integers(0, 3, len(task))})


def loaded(frame: pd.DataFrame, **options: object) -> tuple[object, float, float, float]:
    """The tasks; seconds; peak and kept memory as multiples of the table's."""
    began = time.perf_counter()
    tasks.table(frame, task="task", **options)
    seconds = time.perf_counter() - began
    tracemalloc.start()
    found = tasks.table(frame, task="task", **options)
    kept, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    size = int(frame.memory_usage(index=False).sum())
    return found, seconds, peak / size, kept / size


def batch_times(source: object, repeats: int = 200) -> list[float]:
    times = []
    for step in range(repeats):
        began = time.perf_counter()
        source.sample(32, stream(0, step))
        times.append(1000 * (time.perf_counter() - began))
    return times[repeats // 10 :]


QUESTIONS = {
    "n_support=2": {"target": "y", "n_support": 2, "features": ["x"]},
    "n_shot=1": {"target": "grade", "n_shot": 1, "kind": "classification", "features": ["x"]},
    "order:x": {"target": "y", "n_support": 2, "features": ["x"], "support": "order:x"},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", type=int, default=1_000_000)
    parser.add_argument("--huge", type=int, default=100_000)
    options = parser.parse_args()
    torch.set_num_threads(1)
    many = np.full(options.tasks, 5)
    uneven = np.concatenate([np.full(40, options.huge), np.arange(2, 202)])
    for name, sizes in {"many": many, "uneven": uneven}.items():
        frame = frame_of(sizes)[["task", "x", "y", "grade"]]
        print(f"{name}: {len(sizes):,} tasks, {len(frame):,} rows, {sizes.min():,} to {sizes.max():,} a task")
        for what, question in QUESTIONS.items():
            part = frame[["task", "x", question["target"]]]
            found, seconds, peak, kept = loaded(part, **question)
            times = batch_times(found.train)
            print(
                f"  {what:12} table() {seconds:5.1f} s, peak {peak:.2f}x, kept {kept:.2f}x; meta-batch: "
                f"median {statistics.median(times):.2f} ms, fastest {min(times):.2f} ms",
                flush=True,
            )


if __name__ == "__main__":
    main()
