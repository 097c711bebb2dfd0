"""Model directories that were damaged, or rewritten by somebody hostile: none may be taken for another model.

    python benchmarks/reliability/mutated_models.py
    python benchmarks/reliability/mutated_models.py --first 1234 --rewritten 1 --damaged 0   # one of them again

**Damaged**: a file of a directory gets flipped bits, is cut, gets bytes in its middle, loses some or repeats some; its
manifest stays. `innerloop.load` has to refuse every one of them, with one class of error.

**Rewritten**: a value of `config.json`, `log.jsonl` or a tensor is replaced, removed, added or exchanged for another,
or a file is damaged as above, or is a pickle that leaves a mark; then the manifest is made again, as anybody can. The
directory has to be refused, or `inspect`, `predict` and `evaluate` have to end within seconds, with an exit code of
their own, predictions that are finite, and nothing in what they print that steers a terminal. Leaves with 1 if not.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import pickle
import random
import re
import resource
import select
import signal
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import safetensors.torch
import torch

from innerloop import load
from innerloop.cli import run
from innerloop.errors import InnerloopError, ModelFileError
from innerloop.storage.manifest import MANIFEST, seal

Files = dict[str, bytes]

HERE = Path(__file__).resolve().parent
SECONDS = 60  # that any of the three verbs may take, on a busy machine
MEMORY = 2 << 30  # bytes that a process may need beyond those at its start
BATCH = 250  # directories that a process tries
LONG = 3000  # characters of a line on stderr
CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
HOSTILE: tuple[Any, ...] = (
    None, True, False, -1, 0, 1, 2, 3, 10**6, 10**12, 2**53, -(10**12), 0.0, -0.5, 1e30, -1e30, 1e-300, 1e308,
    "", "\x1b[2J\x1b]0;mine\x07", "\u202egnp.exe", "x" * 100_000, "../../../etc/hostname", "/etc/hostname", "/dev/zero",
    "=cmd()", "<script>alert(1)</script>", "__import__('os').system('true')", "external", "regression",
    "classification", "maml", "mlp", [], {}, [0] * 500, ["a", "a"], {"a": {"b": [1]}}, [[1.0, 2.0]],
)  # fmt: skip


class Payload:
    """What leaves a mark when it is unpickled."""

    def __init__(self, marker: str) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str, str]]:
        """Open the mark."""
        return open, (self.marker, "w")


class Fault(NamedTuple):
    """What should not have happened, and the seed that does it again."""

    seed: int
    what: str


def table(tasks: int = 12, rows: int = 7) -> pd.DataFrame:
    """A small table with a number, a category, a date and gaps."""
    rng = np.random.default_rng(0)
    site = np.repeat([f"s{n}" for n in range(tasks)], rows)
    dose = rng.normal(size=len(site)).round(3)
    frame = pd.DataFrame({"site": site, "dose": dose, "ward": rng.choice(["a", "b"], len(site))})
    frame["day"] = pd.Timestamp("2020-01-01") + pd.to_timedelta(rng.integers(0, 99, len(site)), unit="D")
    frame["risk"] = (dose + np.repeat(rng.normal(size=tasks), rows)).round(3)
    frame["ill"] = np.where(frame["risk"] > 0, "yes", "no")
    frame.loc[::9, "dose"] = np.nan
    return frame


def victims() -> dict[str, Files]:
    """Model directories of several algorithms and kinds, made in the working folder: their files by name."""
    frame = table()
    frame.to_csv("sites.csv", index=False)
    new = frame.assign(site="new " + frame["site"])[:21]
    new["risk"] = new["risk"].where(new.index % 7 < 3)
    new["ill"] = new["ill"].where(new.index % 7 < 3)
    new.to_csv("new.csv", index=False)
    values, classes = ("--target", "risk", "--ignore", "ill"), ("--target", "ill", "--ignore", "risk")
    quick = ("--task", "site", "--steps", "2", "--quiet", "--device", "cpu", "--gear", "eager")
    asked = {
        "maml": (*values, "--algorithm", "maml", "--hidden", "4", "--inner-steps", "2"),
        "mixed": (*values, "--algorithm", "mixed"),
        "gp": (*values, "--algorithm", "gp"),
        "protonet": (*classes, "--algorithm", "protonet", "--hidden", "4"),
        "boosting": (*values, "--algorithm", "boosting"),
    }
    for name, words in asked.items():
        _must(["train", "sites.csv", *words, *quick, "--out", name])
    _must(["adapt", "maml", "sites.csv", "--out", "adapted", "--quiet"])
    return {name: _contents(Path(name)) for name in (*asked, "adapted")}


def _must(words: list[str]) -> None:
    with contextlib.redirect_stdout(io.StringIO()):
        code = run(words)
    if code:
        raise SystemExit(f"{' '.join(words)} left with {code}")


def _contents(folder: Path) -> Files:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def damaged(data: bytes, chance: random.Random) -> bytes:
    """The same with flipped bits, cut, or with bytes added, removed or repeated."""
    if not data:
        return chance.randbytes(chance.randrange(1, 9))
    place, kind = chance.randrange(len(data)), chance.randrange(6)
    if kind == 0:
        changed = bytearray(data)
        for _ in range(chance.choice((1, 1, 2, 8))):
            changed[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        return bytes(changed)
    if kind == 1:
        return data[:place]
    if kind == 2:
        return data[:place] + chance.randbytes(chance.randrange(1, 9)) + data[place:]
    if kind == 3:
        return data[:place] + data[place + chance.randrange(1, 9) :]
    if kind == 4:
        return data[:place] + data[place : place + 8] * chance.randrange(2, 5) + data[place + 8 :]
    return data[:place] + b"\0" * min(512, len(data) - place) + data[place + 512 :]


def _places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The way to every value of plain data."""
    if path:
        yield path
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, entry in inside:
        yield from _places(entry, (*path, key))


def rewritten_json(value: Any, chance: random.Random) -> Any:
    """The same with one to three values replaced, removed, added or exchanged."""
    for _ in range(chance.choice((1, 1, 1, 2, 3))):
        places = [*_places(value)]
        if not places:
            return chance.choice(HOSTILE)
        *way, last = chance.choice(places)
        holder = value
        for key in way:
            holder = holder[key]
        kind = chance.randrange(6)
        if kind < 4:
            number = isinstance(holder[last], int | float) and kind == 0
            holder[last] = holder[last] * 10**12 if number else json.loads(json.dumps(chance.choice(HOSTILE)))
        elif kind == 4:
            del holder[last]
        elif isinstance(holder, dict):
            holder[chance.choice([*holder, "x", "\x1b[31m", "tasks"])] = json.loads(
                json.dumps(chance.choice(HOSTILE))
            )
        else:
            holder.append(json.loads(json.dumps(chance.choice(HOSTILE))))
    return value


def rewritten_tensors(data: bytes, chance: random.Random) -> bytes:
    """The same with a tensor filled, scaled, reshaped, renamed, removed or of another type."""
    tensors = safetensors.torch.load(data)
    name = chance.choice(sorted(tensors))
    value = tensors[name]
    kind = chance.randrange(7)
    if kind < 3:
        fill = torch.full(value.shape, chance.choice((0.0, -1.0, 1e30, -1e30, 1e-40, 3e38, 1e6))).to(
            value.dtype
        )
        tensors[name] = fill
    elif kind == 3:
        tensors[name] = (value.double() * chance.choice((1e6, -1e6, 1e30))).to(value.dtype)
    elif kind == 4:
        tensors[name] = value.flatten()[: chance.randrange(value.numel() + 1)].clone()
    elif kind == 5:
        tensors[name] = value.to(chance.choice((torch.float64, torch.float16, torch.int64, torch.bool)))
    else:
        tensors[chance.choice(("more", "tasks/more", "mask/more", "calibration/more"))] = tensors.pop(name)
    return safetensors.torch.save(tensors)


def rewritten(files: Files, chance: random.Random, marker: str) -> Files:
    """The files of a directory with something hostile in one of them, under a manifest made again."""
    content = {name: data for name, data in files.items() if name != MANIFEST}
    kind = chance.randrange(10)
    name = "config.json" if kind < 6 else chance.choice(sorted(content))
    if kind < 6:
        content[name] = json.dumps(rewritten_json(json.loads(content[name]), chance)).encode()
    elif kind < 8 and name == "model.safetensors":
        content[name] = rewritten_tensors(content[name], chance)
    elif kind < 8 and name == "log.jsonl" and content[name]:
        lines = [json.loads(line) for line in content[name].splitlines()]
        content[name] = b"".join(
            json.dumps(line).encode() + b"\n" for line in rewritten_json(lines, chance) or []
        )
    elif kind == 8:
        stream = io.BytesIO()
        torch.save({"a": Payload(marker)}, stream)
        content[name] = chance.choice((pickle.dumps(Payload(marker)), stream.getvalue()))
    else:
        content[name] = damaged(content[name], chance)
    return seal(content)


@contextlib.contextmanager
def limited(seconds: int = SECONDS) -> Iterator[None]:
    """`TimeoutError` after some seconds."""

    def late(number: int, frame: object) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def write(folder: Path, files: Files) -> None:
    """Make the folder hold these files, and no others."""
    folder.mkdir(exist_ok=True)
    for path in folder.iterdir():
        path.unlink()
    for name, data in files.items():
        (folder / name).write_bytes(data)


def of_load(folder: Path) -> str:
    """What loading comes to: `loaded`, or the name of the error."""
    try:
        with limited():
            load(folder)
    except BaseException as error:  # whatever it is, it is what is asked for here
        return type(error).__name__
    return "loaded"


def try_damaged(number: int, kinds: dict[str, Files], folder: Path) -> tuple[str, Fault | None]:
    """What becomes of one damaged directory."""
    chance = random.Random(number)
    files = kinds[chance.choice(sorted(kinds))]
    name = chance.choice(sorted(files))
    changed = damaged(files[name], chance)
    write(folder, files | {name: changed})
    found = of_load(folder)
    if changed == files[name]:
        return "unchanged by the mutation", None if found == "loaded" else Fault(
            number, f"whole, but {found}"
        )
    right = found == ModelFileError.__name__
    return found, None if right else Fault(number, f"{name} was damaged: {found}")


def try_verb(words: list[str]) -> tuple[int, str, str, str]:
    """Run a verb: its exit code, stdout, stderr, and what is wrong with them."""
    out, err = io.StringIO(), io.StringIO()
    began = time.perf_counter()
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), limited():
            code = run(words)
    except TimeoutError:
        code = -1
    seconds, printed = time.perf_counter() - began, out.getvalue() + err.getvalue()
    wrong = ""
    if code not in (0, 2, 3, 4, 6):
        wrong = f"left with {code} after {seconds:.0f} s: {err.getvalue()[-300:]}"
    elif CONTROLS.search(printed):
        wrong = f"prints {CONTROLS.findall(printed)[:3]}"
    elif any(len(line) > LONG for line in err.getvalue().splitlines()):
        wrong = "prints a very long message"
    elif "root:" in printed or ("hostname" in printed and "/etc/hostname" not in printed):
        wrong = "quotes a file that nobody named"
    elif seconds > SECONDS:
        wrong = f"took {seconds:.0f} s"
    return code, out.getvalue(), err.getvalue(), wrong


def try_rewritten(number: int, kinds: dict[str, Files], folder: Path) -> tuple[str, Fault | None]:
    """What becomes of one directory that somebody rewrote."""
    chance = random.Random(number)
    marker = str(folder.parent / "marker")
    write(folder, rewritten(kinds[chance.choice(sorted(kinds))], chance, marker))
    return outcome(number, folder, marker)


def outcome(number: int, folder: Path, marker: str) -> tuple[str, Fault | None]:
    """What loading, `inspect`, `predict` and `evaluate` make of a directory."""
    try:
        with limited():
            load(folder)
        found = "loaded"
    except InnerloopError as error:
        found = f"refused, {type(error).__name__}"
    except BaseException as error:
        return type(error).__name__, Fault(number, f"load: {type(error).__name__}: {error}"[:400])
    if os.path.exists(marker):
        return "code of the file ran", Fault(number, "a pickle was read")
    for words in (["inspect", str(folder)], ["predict", str(folder), "new.csv"], ["evaluate", str(folder)]):
        more = ["--report", "none", "--quiet"] if words[0] == "evaluate" else []
        code, out, _, wrong = try_verb([*words, *more])
        if not wrong and words[0] == "predict" and code == 0:
            wrong = _wrong_predictions(out)
        if wrong:
            return "wrong", Fault(number, f"{' '.join(words)}: {wrong}")
        if found != "loaded" and code == 0:
            return "wrong", Fault(number, f"{words[0]} takes what load does not")
    return found, None


def _wrong_predictions(text: str) -> str:
    frame = pd.read_csv(io.StringIO(text))
    wanted = frame["risk" if frame["ill"].notna().all() else "ill"].isna()
    found = frame.loc[wanted, "prediction"]
    return "" if found.notna().all() else f"{int(found.isna().sum())} of {len(found)} predictions are empty"


Attempt = Callable[[int, dict[str, Files], Path], tuple[str, Fault | None]]


class Tally(NamedTuple):
    """How often each outcome, the faults, the longest time of one in seconds, and the memory that all took, in MiB."""

    outcomes: Counter[str]
    faults: list[Fault]
    longest: float
    grown: float

    def __add__(self, other: Tally) -> Tally:  # type: ignore[override]
        """Both together."""
        return Tally(
            self.outcomes + other.outcomes,
            self.faults + other.faults,
            max(self.longest, other.longest),
            max(self.grown, other.grown),
        )


def attack(numbers: range, kinds: dict[str, Files], one: Attempt) -> Tally:
    """Try all these seeds, in processes that may need `MEMORY` more than they have at their start."""
    total = Tally(Counter(), [], 0.0, 0.0)
    while numbers:
        tally = _batch(numbers[:BATCH], kinds, one)
        total += tally
        numbers = numbers[tally.outcomes.total() :]
        for fault in tally.faults:
            print(f"seed {fault.seed}: {fault.what!r}", file=sys.stderr, flush=True)
    return total


def _batch(numbers: range, kinds: dict[str, Files], one: Attempt) -> Tally:
    """Try some seeds in a process of their own, until one of them ends it."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        with open(writing, "wb") as answers:
            _answer(numbers, kinds, one, answers)
        os._exit(0)
    os.close(writing)
    total = Tally(Counter(), [], 0.0, 0.0)
    with open(reading, "rb", buffering=0) as answers:  # what is read ahead would not wake `select`
        for number in numbers:
            if select.select([answers], [], [], 4 * SECONDS)[0] and (line := answers.readline()):
                total += _tally(number, *json.loads(line))
                continue
            os.kill(child, signal.SIGKILL)
            status = os.waitpid(child, 0)[1]
            return total + _tally(number, "ended the process", f"it ended with {status}", 4.0 * SECONDS, 0.0)
    os.waitpid(child, 0)
    return total


def _tally(number: int, outcome: str, wrong: str, seconds: float, grown: float) -> Tally:
    return Tally(Counter([outcome]), [Fault(number, wrong)] if wrong else [], seconds, grown)


def _answer(numbers: range, kinds: dict[str, Files], one: Attempt, answers: io.BufferedWriter) -> None:
    """Try them, and write down one after the other what came of it."""
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + MEMORY, size + MEMORY))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    folder = Path("mutated").resolve()
    for number in numbers:
        began = time.perf_counter()
        found, fault = one(number, kinds, folder)
        seconds = time.perf_counter() - began
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
        line = [found, "" if fault is None else fault.what, seconds, grown]
        answers.write(json.dumps(line).encode() + b"\n")
        answers.flush()


def report(what: str, count: int, kinds: int, tally: Tally) -> str:
    """What came of them, a line an outcome."""
    lines = [f"{count:,} {what} directories of {kinds} kinds: {len(tally.faults)} wrong"]
    lines += [f"  {times:7,}  {outcome}" for outcome, times in tally.outcomes.most_common()]
    lines.append(
        f"  the longest took {tally.longest:.1f} s; a process of {BATCH} needed {tally.grown:.0f} MiB at most"
    )
    return "\n".join(lines)


def main() -> int:
    """Try them, and print and write down how often what came of it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--damaged", type=int, default=98_000)
    parser.add_argument("--rewritten", type=int, default=2_000)
    parser.add_argument("--first", type=int, default=0)
    asked = parser.parse_args()
    warnings.simplefilter("error")
    torch.set_num_threads(1)
    failed, told = 0, [f"seeds from {asked.first}, torch {torch.__version__}"]
    with tempfile.TemporaryDirectory() as place, contextlib.chdir(place):
        kinds = victims()
        for count, what, one in (
            (asked.damaged, "damaged", try_damaged),
            (asked.rewritten, "rewritten", try_rewritten),
        ):
            tally = attack(range(asked.first, asked.first + count), kinds, one)
            told.append(report(what, count, len(kinds), tally))
            print(told[-1], flush=True)
            failed += len(tally.faults)
    (HERE / "mutated_models.txt").write_text("\n\n".join(told) + "\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
