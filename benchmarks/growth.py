"""How time and memory of one meta-update grow with tasks, inner steps and width: a table, a plot and their numbers.

    python benchmarks/growth.py                    # this package beside a plain loop
    python benchmarks/growth.py --harness FOLDER   # beside learn2learn and JAX too, see speed.py
    python benchmarks/growth.py --draw             # table and plot from benchmarks/results/growth.jsonl

Second-order MAML with Adam on nets 10-w-w-2, 16 support and 16 query rows, one thread, float32. Each cell is a process
of its own: processor time (of all its threads) of an update and of the first one with all that is made for it, and the
largest resident memory less that after the imports. Processor time, since machines with other work tell no other.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results" / "growth.jsonl"
PICTURE = HERE.parent / "docs" / "pictures" / "growth.png"
AXES = {"tasks": (8, 32, 128, 1024), "steps": (1, 5, 20, 50), "width": (16, 64, 256, 1024)}
BASE = {"tasks": 32, "steps": 5, "width": 16}
GEARS = ("auto", "compiled", "traced")
PEERS = {"learn2learn": "l2l", "JAX": "jax_"}
NAMES = ("plain loop", *(f"innerloop, {gear}" for gear in GEARS), *PEERS)
ROWS, RATE, SECONDS, PATIENCE = 16, 0.1, 1.0, 900


def resident() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def spent() -> float:
    """Processor time of this process and of compilers that it started."""
    return time.process_time() + resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime


def timed(step: Any) -> dict[str, float]:
    """Processor time of the first update in s, and the median of the following ones in ms."""
    began = spent()
    step()
    first = spent() - began
    if first > 30:
        began = spent()
        step()
        return {"first": first, "ms": 1000 * (spent() - began)}
    times: list[float] = []
    while sum(times) < SECONDS or len(times) < 3:
        began = spent()
        step()
        times.append(spent() - began)
    return {"first": first, "ms": 1000 * statistics.median(times)}


def own(name: str, size: dict[str, int]) -> dict[str, Any]:
    """A plain loop or this package, in this process."""
    sys.path.insert(0, str(HERE))
    import torch
    from speed import episode_of, net, plain_loop

    import innerloop as il
    from innerloop.outer.memory import bytes_of, tasks_at_once
    from innerloop.outer.update import Outer, geared_update, numbers_of

    torch.set_num_threads(1)
    before = resident()
    widths = [10, size["width"], size["width"], 2]
    episode = episode_of(widths, ROWS, ROWS, size["tasks"], "cross_entropy")
    module, gear = net(widths), name.rpartition(" ")[2]
    if gear not in GEARS:
        found = timed(plain_loop(module, episode, size["steps"], RATE, "cross_entropy"))
        return {**found, "mb": resident() - before}
    began = spent()
    learner = il.maml(module, loss="cross_entropy", inner_lr=RATE, inner_steps=size["steps"])
    meta, key = learner.init(), torch.arange(size["tasks"])
    chunk = tasks_at_once(learner, meta, episode, bytes_of("512MB"))
    update = geared_update(learner, clip=None, chunk=chunk, gear=gear, planned=1000)
    state, number = Outer.start(meta), 0
    planned = spent() - began

    def step() -> None:
        nonlocal state, number
        state, figures = update(state, numbers_of(number, 1e-3), episode, key, 0)
        figures["losses"].mean().item()
        number += 1

    found = timed(step)
    found["first"] += planned
    return {**found, "mb": resident() - before, "gear": str(update.report), "at_once": chunk or size["tasks"]}


def workload(size: dict[str, int]) -> str:
    """The same update in the words of the harness."""
    sizes = [10, size["width"], size["width"], 2]
    return repr(
        {"kind": "mlp", "sizes": sizes, "loss": "ce", "ks": ROWS, "kq": ROWS, "T": size["tasks"]}
        | {"steps": size["steps"], "lr": RATE, "first_order": False, "name": "growth"}
    )


def peer(name: str, size: dict[str, int], harness: Path) -> dict[str, Any]:
    """A peer by the harness's own worker."""
    environments = Path(os.environ.get("BENCH_ENVS", Path.home() / ".cache" / "innerloop-bench"))
    python = environments / ("jax" if name == "JAX" else "peers") / "bin" / "python"
    variables = {**os.environ, "BENCH_ENVS": str(environments), "JAX_PLATFORMS": "cpu"}
    variables["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false"
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "harness"
        shutil.copytree(harness, place, ignore=shutil.ignore_patterns("ref"))
        with (place / "common.py").open("a") as file:
            file.write(f"\nWORKLOADS['growth'] = {workload(size)}\n")
        worker = subprocess.Popen(
            [str(python), "-u", "worker.py"], cwd=place, env=variables, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        )  # fmt: skip

        def ask(**command: Any) -> dict[str, Any]:
            assert worker.stdin is not None
            assert worker.stdout is not None
            print(json.dumps(command), file=worker.stdin, flush=True)
            return json.loads(worker.stdout.readline())

        def busy() -> float:
            fields = Path(f"/proc/{worker.pid}/stat").read_text().rpartition(")")[2].split()
            return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

        setup = ask(cmd="setup", module=PEERS[name], workload="growth", threads=1, kw={})
        began = busy()
        once = ask(cmd="time", n=1)
        assert once["ok"]
        first = busy() - began
        few = ask(cmd="time", n=3)
        more = max(1, int(SECONDS / statistics.median(few["ts"]))) if first < 30 else 1
        began = busy()
        found = ask(cmd="time", n=more)
        ms = 1000 * (busy() - began) / more
        worker.kill()
        worker.wait()
    return {"first": first, "ms": ms, "mb": found["rss"] - setup["rss_import"]}


def cells() -> list[dict[str, int]]:
    """All sizes, the ends of the axes first: a run that is stopped shows the whole range."""
    found = [BASE | {axis: values[end]} for end in (-1, 0) for axis, values in AXES.items()]
    found += [BASE | {axis: value} for axis, values in AXES.items() for value in values]
    return [size for place, size in enumerate(found) if size not in found[:place]]


def measured(name: str, size: dict[str, int], harness: Path | None) -> dict[str, Any]:
    command = [sys.executable, __file__, "--one", json.dumps([name, size, str(harness) if harness else ""])]
    with tempfile.TemporaryDirectory() as cache:  # nothing compiled before is found
        variables = {**os.environ, "INNERLOOP_CACHE": cache}
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, check=False, timeout=PATIENCE, env=variables
            )
        except subprocess.TimeoutExpired:
            return {"failed": f"not done after {PATIENCE} s"}
    if done.returncode:
        return {"failed": (done.stderr.strip().splitlines() or ["no reason given"])[-1][:200]}
    return json.loads(done.stdout.splitlines()[-1])


def run(harness: Path | None) -> None:
    """Measure what is not yet in the file of results."""
    known = [json.loads(line) for line in RESULTS.read_text().splitlines()] if RESULTS.exists() else []
    rows = {_key(row["name"], row["size"]): row for row in known}
    for size in cells():
        for name in NAMES:
            if (name in PEERS and harness is None) or _key(name, size) in rows:
                continue
            chosen = rows.get(_key("innerloop, auto", size), {})
            if name == "innerloop, compiled" and chosen.get("gear", "").startswith("compiled"):
                row = chosen | {"name": name}
            else:
                row = {"name": name, "size": size, **measured(name, size, harness if name in PEERS else None)}
            rows[_key(name, size)] = row
            with RESULTS.open("a") as file:
                print(json.dumps(row), file=file)
            print(row, file=sys.stderr, flush=True)


def _key(name: str, size: dict[str, int]) -> tuple[Any, ...]:
    return (name, *sorted(size.items()))


def table(rows: list[dict[str, Any]]) -> None:
    for axis, values in AXES.items():
        if len({row["size"][axis] for row in rows}) < 2:
            continue  # not measured
        rest = ", ".join(f"{BASE[other]} {other}" for other in BASE if other != axis)
        print(f"\n| {axis} ({rest}) | {' | '.join(map(str, values))} |\n|---|{'---|' * len(values)}")
        for name in NAMES:
            mine = {
                r["size"][axis]: r
                for r in rows
                if r["name"] == name and r["size"] == BASE | {axis: r["size"][axis]}
            }
            if mine:
                print(f"| {name} | {' | '.join(_cell(mine.get(value)) for value in values)} |")


def _cell(row: dict[str, Any] | None) -> str:
    if row is None or "failed" in row:
        return "" if row is None else row["failed"]
    return f"{row['ms']:.3g} ms, {max(row['mb'], 0):.0f} MB, {row['first']:.1f} s"


def draw(rows: list[dict[str, Any]]) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    styles = {
        "plain loop": ("#7f7f7f", "-", "o"), "learn2learn": ("#b15928", "-", "s"), "JAX": ("#6a3d9a", "-", "^"),
        "innerloop, auto": ("#1f78b4", "-", "o"), "innerloop, compiled": ("#1f78b4", "--", "v"),
        "innerloop, traced": ("#33a02c", "--", "d"),
    }  # fmt: skip
    figures = {"ms": "ms an update", "mb": "MB over the imports", "first": "s to the first result"}
    known = [axis for axis in AXES if len({r["size"][axis] for r in rows}) > 1]
    canvas, grid = plt.subplots(
        3,
        len(known),
        figsize=(3 + 3 * len(known), 9),
        sharey="row",
        sharex="col",
        layout="constrained",
        squeeze=False,
    )
    for line, (figure, label) in zip(grid, figures.items(), strict=True):
        for ax, axis in zip(line, known, strict=True):
            for name in NAMES:
                mine = sorted(
                    (r["size"][axis], max(r[figure], 1e-1))
                    for r in rows
                    if r["name"] == name and "ms" in r and r["size"] == BASE | {axis: r["size"][axis]}
                )
                if mine:
                    color, dashes, marker = styles[name]
                    ax.plot(
                        *zip(*mine, strict=True), dashes, color=color, marker=marker, ms=4, lw=1.4, label=name
                    )
            ax.set_xscale("log", base=2)
            ax.set_yscale("log")
            ax.set_xticks(AXES[axis], [str(value) for value in AXES[axis]])
            ax.grid(visible=True, alpha=0.3)
        line[0].set_ylabel(label)
    for ax, axis in zip(grid[-1], known, strict=True):
        ax.set_xlabel(f"{'inner ' if axis == 'steps' else ''}{axis}")
    handles, labels = grid[0][0].get_legend_handles_labels()
    canvas.legend(handles, labels, loc="outside upper center", ncols=1 + len(known), frameon=False)
    canvas.savefig(PICTURE, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--harness", type=Path)
    parser.add_argument("--draw", action="store_true")
    parser.add_argument("--one")
    asked = parser.parse_args()
    if asked.one:
        name, size, harness = json.loads(asked.one)
        print(json.dumps(peer(name, size, Path(harness)) if name in PEERS else own(name, size)))
        return
    if not asked.draw:
        run(asked.harness)
    rows = [json.loads(line) for line in RESULTS.read_text().splitlines()]
    table(rows)
    draw(rows)


if __name__ == "__main__":
    main()
