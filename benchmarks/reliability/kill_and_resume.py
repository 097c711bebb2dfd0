"""Trainings that are killed at random moments and go on: every end is compared with that of an uninterrupted one.

    python benchmarks/reliability/kill_and_resume.py                # 15 minutes
    python benchmarks/reliability/kill_and_resume.py --minutes 1

Every algorithm of `tests/toolkit/cases.py`, in one gear after the other, is trained for 40 updates with a checkpoint
after each. The process is killed (SIGKILL) after a random time, and another one goes on from the folder, until one
comes to its end. After each kill every checkpoint in the folder has to be readable, and the newest one no older than
before. Meta-parameters, log and best step of the end have to be those of a training that nobody killed, to the bit.
What is found goes to `kill_and_resume.txt` beside this file.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import os
import random
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path

import torch

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1] / "tests"))

import innerloop as il  # noqa: E402
from innerloop.errors import InnerloopError  # noqa: E402
from innerloop.outer.training import Gear  # noqa: E402
from innerloop.storage.manifest import CHECKPOINT, read_sealed  # noqa: E402
from innerloop.storage.training_states import unpacked  # noqa: E402
from toolkit.cases import CASES, IDS, Case  # noqa: E402
from toolkit.drawn import SOURCES  # noqa: E402

GEARS = ("eager", "loop", "traced", "compiled")
STEPS, LONGEST = 40, 60.0


def trained(case: Case, gear: str, folder: Path | None) -> str:
    """A digest of everything that a training ends with."""
    checkpoints = None if folder is None else il.Checkpoints(folder, every=1)
    source = SOURCES[case.kind]
    run = il.meta_train(
        case.make(), source, valid=source, steps=STEPS, meta_batch_size=3, validate_every=10, gear=Gear(gear),
        device="cpu", checkpoints=checkpoints,
    )  # fmt: skip
    digest = hashlib.sha256(repr((run.best_step, run.skipped, run.remarks)).encode())
    for name, value in run.model.meta.items():
        digest.update(name.encode() + value.detach().contiguous().numpy().tobytes())
    digest.update(repr(run.log).encode())
    return digest.hexdigest()


def attempt(case: Case, gear: str, folder: Path, seconds: float) -> tuple[str, str]:
    """A process that trains, killed after so many seconds: `killed`, `failed` or `ended`, and the digest."""
    result = folder.with_suffix(".digest")
    child = os.fork()
    if child == 0:
        try:
            result.write_text(trained(case, gear, folder))
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if os.waitpid(child, os.WNOHANG)[0]:
            return ("ended", result.read_text()) if result.exists() else ("failed", "")
        time.sleep(0.002)
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    if os.WIFEXITED(status):
        return ("ended", result.read_text()) if os.WEXITSTATUS(status) == 0 else ("failed", "")
    return "killed", ""


def unreadable(folder: Path) -> int:
    """Checkpoints that cannot be read."""
    found, kept = 0, il.Checkpoints(folder)
    for step in kept.steps:
        try:
            unpacked(read_sealed(kept.path(step), CHECKPOINT))
        except InnerloopError as error:
            print(error)
            found += 1
    return found


def one(case: Case, gear: str, folder: Path, rng: random.Random, until: float) -> Counter[str]:
    """A training killed until it ends, or until the time is over."""
    count: Counter[str] = Counter()
    began = time.monotonic()
    expected = trained(case, gear, None)
    # a kill comes on average after a third of a training
    span, newest, longest = 2 / 3 * (time.monotonic() - began), 0, 0
    while time.monotonic() < until:
        # where one step takes longer than thought, nothing would ever end
        state, digest = attempt(case, gear, folder, min(rng.uniform(0, span * 1.15**longest), LONGEST))
        count[state] += 1
        count["unreadable"] += unreadable(folder)
        steps = il.Checkpoints(folder).steps
        count["lost"] += (steps[-1] if steps else 0) < newest
        longest = 0 if steps and steps[-1] > newest else longest + 1
        newest = steps[-1] if steps else 0
        if state == "ended":
            count["identical"] += digest == expected
            if digest != expected:
                print(f"not identical: {case.algorithm} {case.kind} {gear}")
            break
        if state == "failed":
            break
    return count


def main() -> None:
    """Kill and resume for so many minutes, and write down what was found."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=15)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rng, began = random.Random(options.seed), time.monotonic()
    until = began + 60 * options.minutes
    totals: dict[str, Counter[str]] = {gear: Counter() for gear in GEARS}
    with tempfile.TemporaryDirectory() as place:
        for number in itertools.count():
            if time.monotonic() >= until:
                break
            case, gear = CASES[number % len(CASES)], GEARS[(number + number // len(CASES)) % len(GEARS)]
            found = one(case, gear, Path(place) / f"{number}-{IDS[number % len(CASES)]}", rng, until)
            totals[gear] += found
            print(IDS[number % len(CASES)], gear, dict(found), flush=True)
    text = report(totals, min(number, len(CASES)), (time.monotonic() - began) / 60)
    print(text)
    (HERE / "kill_and_resume.txt").write_text(text)
    bad = sum(found["unreadable"] + found["lost"] + found["failed"] for found in totals.values())
    ended, identical = (sum(found[name] for found in totals.values()) for name in ("ended", "identical"))
    sys.exit(bool(bad) or ended != identical)


def report(totals: dict[str, Counter[str]], cases: int, minutes: float) -> str:
    """A table, a line a gear."""
    names = ("killed", "ended", "identical", "unreadable", "lost", "failed")
    head = f"{'gear':10}" + "".join(f"{name:>12}" for name in names)
    rows = {**totals, "all": sum(totals.values(), Counter())}
    lines = [f"{gear:10}" + "".join(f"{found[name]:12}" for name in names) for gear, found in rows.items()]
    told = f"{cases} of {len(CASES)} algorithms and kinds of task, {STEPS} updates each, {minutes:.1f} minutes, torch "
    told += torch.__version__
    return "\n".join([told, "", head, *lines, ""])


if __name__ == "__main__":
    main()
