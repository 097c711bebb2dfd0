"""Trainings that are killed at random moments and go on: every end is compared with that of an uninterrupted one.

    python benchmarks/reliability/kill_and_resume.py                # 2,000 kills: half an hour to an hour
    python benchmarks/reliability/kill_and_resume.py --kills 50
    python benchmarks/reliability/kill_and_resume.py --jobs 2 --log kills.jsonl    # may be stopped and goes on

Every algorithm of `tests/toolkit/cases.py` is trained in every gear, for 12 updates with a checkpoint after each. The
process is killed (SIGKILL) after a random time, on average a quarter of a training, and another one goes on from the
folder, until one comes to its end. After each kill every checkpoint in the folder has to be readable, and the newest
one no older than before. Meta-parameters, log and best step of the end have to be those of a training that saved
nothing and that nobody killed, to the bit. It ends after the trainings that bring enough kills. What is found goes to
`kill_and_resume.txt` beside this file.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import multiprocessing
import os
import random
import select
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from multiprocessing.pool import AsyncResult
from pathlib import Path
from typing import Any

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
STEPS, LONGEST = 12, 300.0
# kills that an uninterrupted training has time for, on average
KILLS = 4


def trained(case: Case, gear: str, folder: Path | None) -> str:
    """A digest of everything that a training ends with."""
    checkpoints = None if folder is None else il.Checkpoints(folder, every=1)
    source = SOURCES[case.kind]
    run = il.meta_train(
        case.make(), source, valid=source, steps=STEPS, meta_batch_size=3, validate_every=3, gear=Gear(gear),
        device="cpu", checkpoints=checkpoints,
    )  # fmt: skip
    digest = hashlib.sha256(repr((run.best_step, run.skipped, run.remarks)).encode())
    for name, value in run.model.meta.items():
        digest.update(name.encode() + value.detach().contiguous().numpy().tobytes())
    digest.update(repr(run.log).encode())
    return digest.hexdigest()


def attempt(case: Case, gear: str, folder: Path | None, seconds: float) -> tuple[str, str]:
    """A process that trains, killed after so many seconds: `killed`, `failed` or `ended`, and the digest."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(writing, trained(case, gear, folder).encode())
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    os.close(writing)
    if not select.select([reading], [], [], seconds)[0]:
        os.kill(child, signal.SIGKILL)
    status = os.waitpid(child, 0)[1]
    # what a child of the child holds open would never end
    digest = os.read(reading, 100).decode() if select.select([reading], [], [], 0)[0] else ""
    os.close(reading)
    if digest:
        return "ended", digest
    return ("failed" if os.WIFEXITED(status) else "killed"), ""


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


def one(case: Case, gear: str, folder: Path, rng: random.Random) -> Counter[str]:
    """A training killed until it ends."""
    count: Counter[str] = Counter()
    # both without a kill; from here on, compiled programs are in their folder
    _, expected = attempt(case, gear, None, LONGEST)
    began = time.monotonic()
    state, digest = attempt(case, gear, folder, LONGEST)
    span, newest, longest = 2 / KILLS * (time.monotonic() - began), 0, 0
    shutil.rmtree(folder, ignore_errors=True)
    if state == "ended" and digest == expected:
        state = "begun"
    else:
        count[state] += 1
    while state in ("begun", "killed"):
        # where one step takes longer than thought, nothing would ever end
        state, digest = attempt(case, gear, folder, min(rng.uniform(0, span * 1.15**longest), LONGEST))
        count[state] += 1
        count["unreadable"] += unreadable(folder)
        steps = il.Checkpoints(folder).steps
        count["lost"] += (steps[-1] if steps else 0) < newest
        longest = 0 if steps and steps[-1] > newest else longest + 1
        newest = steps[-1] if steps else 0
    identical = state == "ended" and digest == expected
    count["identical"] += identical
    count["trainings"] += 1
    if not identical:
        print(f"{state}, not identical: {case.algorithm} {case.kind} {gear}")
    return count


def turn(number: int, seed: int, place: Path) -> dict[str, object]:
    """One training after the other: every algorithm in one gear, then every one in another gear."""
    turns, index = divmod(number, len(CASES))
    gear = GEARS[(index + turns) % len(GEARS)]
    torch.set_num_threads(1)
    rng = random.Random(f"{seed} {number}")
    found = one(CASES[index], gear, place / f"{number}-{IDS[index]}", rng)
    return {"number": number, "case": IDS[index], "gear": gear, "found": found}


def main() -> None:
    """Kill and resume so many times, and write down what was found."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=2000)
    parser.add_argument("--jobs", type=int, default=1, help="trainings at once")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--log", type=Path, help="a line a training; another run with this file goes on from it"
    )
    options = parser.parse_args()
    lines = options.log.read_text().splitlines() if options.log and options.log.exists() else []
    done = [json.loads(line) for line in lines]
    known = {each["number"] for each in done}
    numbers = (number for number in itertools.count() if number not in known)
    with (
        tempfile.TemporaryDirectory() as place,
        multiprocessing.get_context("fork").Pool(options.jobs) as pool,
        open(options.log or os.devnull, "a") as log,
    ):
        waiting: list[AsyncResult[dict[str, Any]]] = []
        while waiting or _killed(done) < options.kills:
            while len(waiting) < options.jobs and _killed(done) < options.kills:
                waiting.append(pool.apply_async(turn, (next(numbers), options.seed, Path(place))))
            time.sleep(0.05)
            for each in [each for each in waiting if each.ready()]:
                waiting.remove(each)
                done.append(each.get())
                print(json.dumps(done[-1]), file=log, flush=True)
                print(done[-1]["case"], done[-1]["gear"], dict(done[-1]["found"]), flush=True)
    text = report(done)
    print(text)
    (HERE / "kill_and_resume.txt").write_text(text)
    found = _sum(each["found"] for each in done)
    bad = found["unreadable"] + found["lost"] + found["failed"]
    sys.exit(bool(bad) or found["trainings"] != found["identical"])


def _sum(found: Iterable[Mapping[str, int]]) -> Counter[str]:
    return sum((Counter(each) for each in found), Counter())


def _killed(done: Sequence[Mapping[str, Any]]) -> int:
    return _sum(each["found"] for each in done)["killed"]


def report(done: Sequence[Mapping[str, Any]]) -> str:
    """A table, a line a gear."""
    names = ("trainings", "killed", "identical", "unreadable", "lost", "failed")
    head = f"{'gear':10}" + "".join(f"{name:>12}" for name in names)
    rows = {gear: _sum(each["found"] for each in done if each["gear"] == gear) for gear in GEARS}
    rows["all"] = _sum(rows.values())
    lines = [f"{gear:10}" + "".join(f"{found[name]:12}" for name in names) for gear, found in rows.items()]
    pairs = len({(each["case"], each["gear"]) for each in done})
    told = f"{pairs} of {len(CASES) * len(GEARS)} pairs of an algorithm on a kind of task and a gear, {STEPS} updates "
    told += f"each, torch {torch.__version__}"
    return "\n".join([told, "", head, *lines, ""])


if __name__ == "__main__":
    main()
