"""Time to an accuracy on Omniglot, 5-way 1-shot, with `innerloop train` from the first import to the last score.

    python benchmarks/time_to_accuracy.py FOLDER                # which holds images/omniglot28_train_val.npz
    python benchmarks/time_to_accuracy.py FOLDER --only short   # one of the runs
    python benchmarks/time_to_accuracy.py FOLDER --threads 2
    python benchmarks/time_to_accuracy.py FOLDER --learn2learn SOURCE   # the short run in it

Scores are of the 172 validation characters of Vinyals' split, which neither training nor the choice of its best step
sees: 60 of the 1,028 training characters are kept for that. The 172 are of five alphabets that training has not met and
resemble each other more; the score of the 60, of alphabets that it has met, stands beside. One query image a class,
BatchNorm of the rows at hand (`transductive`), as in the papers. Each run is a command of its own; its time is that of
the whole command, and beside it the processor time.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

import innerloop as il
from innerloop.tasks.sources import ClassSource
from innerloop.tasks.support import SupportSize

SHARED = "--n-way 5 --n-shot 1 --n-query 1 --model conv4 --batchnorm transductive --seed 0 --json --quiet"
MAML = "--algorithm maml --inner-steps 1 --inner-lr 0.4 --width 64 --meta-batch-size 32 --meta-lr 0.002"
# name: options
RUNS = {
    "short": f"{MAML} --steps 1000",
    "long": f"{MAML} --steps 5000 --augment rotate",
    "pooled": f"{MAML} --steps 1500".replace("64", "32 --pool max"),
    "prototypes": f"{MAML} --steps 5000 --augment rotate".replace("maml", "protomaml"),
}
KEPT = 60


def prepare(source: Path, folder: Path) -> tuple[Path, Path]:
    """The characters as arrays and the split as a table, in forms that the command takes."""
    with np.load(source) as found:
        images = np.unpackbits(found["images"], axis=-1)[..., :784].reshape(-1, 20, 1, 28, 28)
        alphabets = found["alphabet_names"][found["alphabet"]]
        names = np.array([f"{a}/{c:02d}" for a, c in zip(alphabets, found["character"], strict=True)])
        part = np.array(["train", "test"])[found["split"]]
    train = np.flatnonzero(part == "train")
    part[np.random.default_rng(0).choice(train, KEPT, replace=False)] = "valid"
    arrays, split = folder / "omniglot.npz", folder / "split.csv"
    np.savez(arrays, x=255 * images.reshape(-1, 1, 28, 28), label=np.repeat(names, 20))
    rows = [f"{name},{where}" for name, where in zip(names, part, strict=True)]
    split.write_text("\n".join(["task,split", *rows]))
    return arrays, split


def of_kept(directory: Path, arrays: Path, split: Path) -> float:
    """Accuracy on the training characters that were kept."""
    parts = dict(line.split(",") for line in split.read_text().splitlines()[1:])
    with np.load(arrays) as found:
        rows = [np.flatnonzero(found["label"] == name) for name, part in parts.items() if part == "valid"]
        source = ClassSource(torch.from_numpy(found["x"]), np.stack(rows), 5, SupportSize(1, 1), n_query=1)
    mean, _, _ = il.evaluate(il.load(directory).model, source).metric("accuracy")
    return mean


def children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def in_learn2learn(source: str, arrays: Path, split: Path, threads: str) -> str:
    """The short run by another library: a row of the table."""
    script = Path(__file__).parent / "peers" / "omniglot_learn2learn.py"
    began, used = time.perf_counter(), children()
    done = subprocess.run(
        [sys.executable, str(script), source, str(arrays), str(split), "1000", "0"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": threads},
    )
    if done.returncode:
        sys.exit(done.stderr)
    found = json.loads(done.stdout)
    mean, low, high = (100 * (found["mean"] + sign * found["half"]) for sign in (0, -1, 1))
    minutes, processor = (time.perf_counter() - began) / 60, (children() - used) / 60
    score = f"{mean:.1f} % [{low:.1f}, {high:.1f}]"
    return f"| learn2learn, 1,000 updates | {score} | {minutes:.1f} | {processor:.1f} | | |"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", default="")
    parser.add_argument("--threads", default="1")
    parser.add_argument("--learn2learn", metavar="SOURCE", default="", help="its folder learn2learn")
    parser.add_argument("--options", default="", help="options of innerloop train instead of a run's own")
    asked = parser.parse_args()
    runs = {"given": asked.options} if asked.options else RUNS
    print("| options | accuracy, 95 % interval | minutes, whole command | of a processor | training | kept |")
    print("|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        arrays, split = prepare(asked.folder / "images" / "omniglot28_train_val.npz", Path(folder))
        if asked.learn2learn:
            print(in_learn2learn(asked.learn2learn, arrays, split, asked.threads))
            return
        for name, options in runs.items():
            if asked.only and name != asked.only:
                continue
            out = ["--split", str(split), "--out", f"{folder}/{name}"]
            command = ["innerloop", "train", str(arrays), *SHARED.split(), *options.split(), *out]
            began, used = time.perf_counter(), children()
            done = subprocess.run(
                command,
                capture_output=True,
                text=True,
                check=False,
                env={**os.environ, "OMP_NUM_THREADS": asked.threads},
            )
            minutes, processor = (time.perf_counter() - began) / 60, (children() - used) / 60
            if done.returncode:
                sys.exit(done.stderr)
            found = json.loads(done.stdout)
            (score,) = [row for row in found["scores"] if row["headline"]]
            low, high = score["ci95"]
            kept = of_kept(Path(folder) / name, arrays, split)
            print(
                f"| `{options}` | {100 * score['mean']:.1f} % [{100 * low:.1f}, {100 * high:.1f}] | {minutes:.1f} | "
                f"{processor:.1f} | {found['training_seconds'] / 60:.1f} | {100 * kept:.1f} % |",
                flush=True,
            )


if __name__ == "__main__":
    main()
