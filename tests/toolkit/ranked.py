"""Processes that share a training, started as `torchrun` starts them, and the trainings that tests let them share."""

import hashlib
import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack, contextmanager
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import nn

import innerloop as il
from innerloop import algorithms as a
from innerloop.outer.ranks import Shards, rank_of, the_ranks

__all__ = ["TRAININGS", "fingerprint", "frame_of_all_sizes", "kept", "launch", "said", "tasks_of_all_sizes"]


class Training(NamedTuple):
    """A learner, and how it is trained."""

    make: Callable[[], il.Learner]
    gear: str = "eager"
    shards: int = 8
    scored: bool = True


def _net(n_out=1, batchnorm=False):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(1, 8), nn.BatchNorm1d(8) if batchnorm else nn.Tanh(), nn.ReLU(), nn.Linear(8, n_out)
    )


def _line():
    torch.manual_seed(0)
    return nn.Linear(1, 1, bias=False)


TRAININGS = {
    "maml": Training(lambda: a.maml(_net(), loss="mse", inner_steps=2)),
    "maml, compiled": Training(lambda: a.maml(_net(), loss="mse", inner_steps=1), "compiled"),
    "running statistics": Training(
        lambda: a.maml(_net(batchnorm=True), loss="mse", inner_steps=1, batchnorm="frozen"), shards=4
    ),
    "shards of two sizes": Training(lambda: a.fomaml(_net(), loss="mse", inner_steps=1), shards=5),
    "ridge": Training(lambda: a.ridge(_net(4), n_features=4)),
    # its inner loop overflows on tasks of large values, which are left out
    "tasks left out": Training(
        lambda: a.maml(_line(), loss="mse", inner_lr=20.0, inner_steps=20), scored=False
    ),
}


def frame_of_all_sizes():
    """A table of 40 sites of 4 to 13 rows, some of them with values far larger than those of others."""
    random = np.random.default_rng(0)
    site = np.repeat(np.arange(40), random.integers(4, 14, 40))
    x = random.normal(size=len(site)) * np.where(site % 9 == 0, 1000.0, 1.0)
    return pd.DataFrame({"site": site, "x": x, "y": np.sin(x) + site % 3})


def tasks_of_all_sizes():
    """The sites as tasks."""
    return il.tasks.table(frame_of_all_sizes(), task="site", target="y", n_support="2-4", n_query=6)


def fingerprint(name):
    """What a training ends with: the bits of its parameters, log, last validation and scores."""
    make, gear, shards, scored = TRAININGS[name]
    tasks = tasks_of_all_sizes()
    run = il.meta_train(
        make(), tasks.train, valid=tasks.valid if scored else None, steps=4, meta_batch_size=12,
        validate_every=2, gear=gear, device="cpu", shards=shards,
    )  # fmt: skip
    digest = hashlib.sha256()
    for value in (*run.state.meta.values(), *run.model.meta.values()):
        digest.update(value.numpy().tobytes())
    found = {
        "parameters": digest.hexdigest(),
        "log": [[entry[key].hex() for key in ("loss", "grad_norm")] for entry in run.log],
        "skipped": run.skipped,
        "gear": run.gear.gear,
    }
    if scored:
        found["validation"] = run.log[-1]["valid_loss"].hex()
        scores = il.evaluate(run.model, tasks.test, shards=Shards(8, the_ranks()))
        found["scores"] = scores.values["loss"].sum().hex()
    return found


@contextmanager
def launch(count, *command):
    """So many processes of a command, each with the variables that `torchrun` sets, of one thread each."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    variables = {"WORLD_SIZE": count, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": 1}
    common = os.environ | {name: str(value) for name, value in variables.items()}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with ExitStack() as stack:
        ranks = []
        for rank in range(count):
            own = common | {"RANK": str(rank), "LOCAL_RANK": str(rank)}
            ranks.append(stack.enter_context(subprocess.Popen([sys.executable, *command], env=own, **pipes)))
            stack.callback(ranks[-1].kill)
        yield ranks


def said(ranks):
    """What each printed and complained of, once all have ended, and their exit codes."""
    texts = [rank.communicate() for rank in ranks]
    return *zip(*texts, strict=True), [rank.returncode for rank in ranks]


def kept(folder, end=None):
    """A training that saves checkpoints and goes on from them; after `end` updates the process dies."""

    def die(state, entry):
        if state.step == end:
            os._exit(3)

    torch.set_num_threads(1)
    tasks = tasks_of_all_sizes()
    return il.meta_train(
        TRAININGS["maml"].make(), tasks.train, valid=tasks.valid, steps=8, meta_batch_size=12, validate_every=2,
        gear="eager", device="cpu", shards=8, checkpoints=None if folder is None else il.Checkpoints(folder, every=2),
        callbacks=[il.Every(1, die)],
    )  # fmt: skip


def main(names):
    """Print the fingerprints of some trainings, on rank 0."""
    torch.set_num_threads(1)
    found = {name: fingerprint(name) for name in names}
    if rank_of() == 0:
        print(json.dumps(found))


if __name__ == "__main__" and sys.argv[1] == "kept":
    torch.set_num_threads(1)
    kept(sys.argv[2], 5)
elif __name__ == "__main__":
    main(sys.argv[1:])
