"""What ranks bring: seconds of an update by 1, 2, ... processes of one thread each, and what 8 to 512 would take.

    python benchmarks/ranks.py                     # 1 and 2 ranks, conv4 on 28x28 images, 5-way 1-shot
    python benchmarks/ranks.py --ranks 1,2,4 --updates 40
    python benchmarks/ranks.py --network 10e9      # bytes a second between machines, for the table on paper

All processes make the same updates, which is checked by the sha256 of the meta-parameters. Updates are timed from the
sixth on, so that making graphs does not count; the median stands for all. The table on paper takes the measured seconds
of a shard and of the step, and the bytes that are gathered; its assumptions are printed with it. Other programs on the
machine spoil the result: the load before is printed.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import statistics
import subprocess
import sys
import time

import torch

import innerloop as il
from innerloop.outer.ranks import rank_of

WARM = 5


def images() -> il.tasks.Tasks:
    """5-way 1-shot episodes of random 28x28 images: as much work as real ones."""
    x = torch.rand(400, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    return il.tasks.classes(x, torch.arange(400) // 4, n_way=5, n_shot=1, n_query=3)


def worker(updates: int, shards: int) -> None:
    """Train, and print on rank 0 how long updates took."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    tasks, times = images(), []
    learner = il.maml(il.models.conv4(1, 5), loss="cross_entropy", inner_steps=1)
    run = il.meta_train(
        learner, tasks.train, steps=updates + WARM, meta_batch_size=32, device="cpu", gear="compiled", shards=shards,
        callbacks=[lambda entry: times.append(time.perf_counter())],
    )  # fmt: skip
    if rank_of() == 0:
        seconds = [after - before for before, after in zip(times[WARM - 1 :], times[WARM:], strict=False)]
        bits = b"".join(value.numpy().tobytes() for value in run.state.meta.values())
        size = sum(value.nbytes for value in run.state.meta.values())
        print(json.dumps([statistics.median(seconds), hashlib.sha256(bits).hexdigest(), size, str(run.gear)]))


def timed(ranks: int, updates: int, shards: int) -> tuple[float, str, int, str]:
    """Seconds of an update, the bits of the result, bytes of the meta-parameters and the gear."""
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks), __file__,
        "--worker", "--updates", str(updates), "--shards", str(shards),
    ]  # fmt: skip
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    out = subprocess.run(command, check=False, env=environment, capture_output=True, text=True)
    if out.returncode:
        raise SystemExit(out.stderr)
    seconds, bits, size, gear = json.loads(out.stdout.splitlines()[-1])
    return seconds, bits, size, gear


def on_paper(one: float, size: int, network: float) -> None:
    """What more ranks would take, each with a core like this one and a shard of 4 tasks."""
    shard = one / 8
    print(
        f"\non paper: shards of 4 tasks of {shard:.3f} s, {size / 1e6:.2f} MB a shard gathered over {network:.0e} B/s,"
    )
    print(
        "as many shards as ranks (a meta-batch of 4 tasks a rank), every rank receives all of them, equal cores,"
    )
    print("50 us a message, and no overlap of work and gathering")
    print("ranks  seconds an update  tasks a second  of the ideal")
    for ranks in (8, 16, 32, 64, 128, 256, 512):
        seconds = shard + (ranks - 1) * (size / network + 50e-6)
        print(f"{ranks:5}  {seconds:17.3f}  {4 * ranks / seconds:14.0f}  {shard / seconds:12.0%}")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--ranks", default="1,2")
    parser.add_argument("--updates", type=int, default=20)
    parser.add_argument("--shards", type=int, default=8)
    parser.add_argument("--network", type=float, default=1e9)
    parser.add_argument("--worker", action="store_true")
    asked = parser.parse_args()
    if asked.worker:
        worker(asked.updates, asked.shards)
        return
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} before")
    found = {ranks: timed(ranks, asked.updates, asked.shards) for ranks in map(int, asked.ranks.split(","))}
    first = next(iter(found.values()))
    print("ranks  seconds an update  times as fast  gear")
    for ranks, (seconds, bits, _, gear) in found.items():
        print(f"{ranks:5}  {seconds:17.3f}  {first[0] / seconds:13.2f}  {gear}")
        if bits != first[1]:
            raise SystemExit(f"{ranks} ranks end with other meta-parameters")
    print("the meta-parameters are the same, to the bit")
    on_paper(first[0] / next(iter(found)) if 1 not in found else found[1][0], first[2], asked.network)


if __name__ == "__main__":
    main()
