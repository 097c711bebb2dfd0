"""How long the answer takes: `train` with auto, `compare --quick` and the demo, with nothing compiled before.

    python benchmarks/minutes.py --data FOLDER      # medians of three, about a quarter of an hour on two idle cores
    python benchmarks/minutes.py --data FOLDER --times 1 --full    # the full one too, an hour

FOLDER holds the tables of docs/benchmarks.md. Each command is a process of its own with an empty cache of compiled
programs; seconds by the clock, and of processors with those of its children.
"""

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

TABLES = {
    "computer buyers, 180 x 20": "computer_buyers.csv --task person --target rating --n-support 8",
    "London schools, 139 schools": "schools.csv --task school --target exam --n-support 5",
    "High School and Beyond, 160 schools": "hsb82.csv --task school --target mathach --n-support 10",
}


def seconds(words: list[str], folder: Path) -> tuple[float, float]:
    """By the clock and of processors."""
    with tempfile.TemporaryDirectory() as empty:
        environment = {**os.environ, "INNERLOOP_CACHE": empty}
        before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        command = [sys.executable, "-m", "innerloop", *words, "--quiet"]
        subprocess.run(command, check=True, cwd=folder, env=environment, stdout=subprocess.DEVNULL)
        clock, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    return clock, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--times", type=int, default=3)
    parser.add_argument("--full", action="store_true", help="the full comparison of the first two tables too")
    asked = parser.parse_args()
    commands = {"the demo": ["demo"]}
    for name, words in TABLES.items():
        table, *options = words.split()
        where = [str(asked.data.resolve() / table), *options]
        commands[f"train, {name}"] = ["train", *where]
        commands[f"compare --quick, {name}"] = ["compare", *where, "--quick"]
        if asked.full and "Beyond" not in name:
            commands[f"compare, {name}"] = ["compare", *where]
    print("| command | s by the clock | s of processors |\n|---|---|---|")
    for name, words in commands.items():
        with tempfile.TemporaryDirectory() as folder:
            out = [] if words[0] == "demo" else ["--out"]
            found = [
                seconds([*words, *(each for o in out for each in (o, f"run{number}"))], Path(folder))
                for number in range(asked.times)
            ]
        clock, processor = (statistics.median(times) for times in zip(*found, strict=True))
        print(f"| {name} | {clock:.0f} | {processor:.0f} |", flush=True)


if __name__ == "__main__":
    main()
