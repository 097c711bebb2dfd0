"""The same seed gives the same bytes, whatever is around it: process, hash seed, folder, locale, caller's random state.

    python benchmarks/reliability/same_results.py

For each algorithm, models are trained in processes of their own: twice alike, with other values of `PYTHONHASHSEED`, in
another folder, with another locale and time zone, after other random numbers were drawn. Every one has to give the
same bytes of meta-parameters, scores and predictions. In one process: predictions for one task and row at a time are
those of all together, training and predicting leave the random state of Python, NumPy and torch where it was, and
episodes of a `DataLoader` do not depend on its workers. Leaves with 1 if anything differs.
"""

from __future__ import annotations

import hashlib
import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch.utils.data import DataLoader, TensorDataset

import innerloop as il
from innerloop.algorithms.assemble import learner_for

NETS = ("maml", "anil", "ridge")
ALGORITHMS = (*NETS, "mixed", "gp", "boosting")
VARIANTS: dict[str, dict[str, str]] = {
    "again": {},
    "PYTHONHASHSEED=1": {"PYTHONHASHSEED": "1"},
    "PYTHONHASHSEED=7": {"PYTHONHASHSEED": "7"},
    "another folder, locale and time zone": {"FOLDER": "yes", "LC_ALL": "C", "TZ": "Asia/Tokyo"},
    "other random numbers before": {"BEFORE": "13"},
}


def table() -> pd.DataFrame:
    """Rows of 12 sites."""
    rng = np.random.default_rng(0)
    site = np.repeat([f"s{n}" for n in range(12)], 7)
    dose = rng.normal(size=len(site))
    risk = dose + np.repeat(rng.normal(size=12), 7)
    return pd.DataFrame({"site": site, "dose": dose, "ward": rng.choice(["a", "b"], len(site)), "risk": risk})


def trained(algorithm: str) -> tuple[il.Model, il.tasks.Tasks]:
    """A model after three steps."""
    tasks = il.tasks.table(table(), task="site", target="risk", n_support=3)
    network = {"hidden": [8]} if algorithm in NETS else {}
    learner = learner_for(tasks, algorithm=algorithm, **network)
    return il.meta_train(
        learner, tasks.train, valid=tasks.valid, steps=3, device="cpu", gear="eager"
    ).model, tasks


def fingerprint(algorithm: str) -> str:
    """The sha256 of everything that a training gives."""
    torch.set_num_threads(1)
    if "BEFORE" in os.environ:
        seed = int(os.environ["BEFORE"])
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)
    model, tasks = trained(algorithm)
    found = hashlib.sha256()
    for name in sorted(model.meta):
        found.update(name.encode() + model.meta[name].numpy().tobytes())
    found.update(repr(il.evaluate(model, tasks.test).scores(algorithm)).encode())
    return found.hexdigest()


def in_a_process(algorithm: str, more: dict[str, str]) -> str:
    """The fingerprint that a new process finds."""
    environment = {**os.environ, "PYTHONHASHSEED": "0", **more}
    with tempfile.TemporaryDirectory() as other:
        here = other if "FOLDER" in more else None
        words = [sys.executable, str(Path(__file__).resolve()), algorithm]
        done = subprocess.run(words, env=environment, cwd=here, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def singly(algorithm: str) -> float:
    """The largest difference of predictions of one row at a time from those of all, relative to the largest."""
    model, tasks = trained(algorithm)
    generator = torch.Generator().manual_seed(0)
    batch = tasks.test.sample(2, generator)
    x, y, query = batch.support.x[0], batch.support.y[0], batch.query.x[0]
    adapted = model.adapt(x, y)
    together = adapted(query)
    alone = torch.cat([adapted(row[None]) for row in query])
    return float((together - alone).abs().max() / together.abs().max())


def random_state() -> tuple[object, ...]:
    """The state of every generator that a caller may use."""
    kind, keys, *rest = np.random.get_state()
    return random.getstate(), (kind, keys.tobytes(), *rest), torch.get_rng_state().numpy().tobytes()  # type: ignore[union-attr]


def of_workers() -> bool:
    """Whether a training on batches of a loader is the same with 0 and 2 workers."""
    rng = np.random.default_rng(0)
    x = torch.tensor(rng.normal(size=(256, 2)), dtype=torch.float32)
    data = TensorDataset(x, x.sum(1, keepdim=True))
    found = set()
    for workers in (0, 2):
        loader = DataLoader(data, batch_size=16, num_workers=workers)
        tasks = il.tasks.single(loader)
        learner = il.maml(il.models.mlp(2, [8], 1), loss="mse")
        model = il.meta_train(
            learner, tasks.train, steps=3, device="cpu", gear="eager", meta=_zeros(learner)
        ).model
        found.add(
            hashlib.sha256(b"".join(model.meta[n].numpy().tobytes() for n in sorted(model.meta))).hexdigest()
        )
    return len(found) == 1


def _zeros(learner: il.Learner) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {name: torch.randn(value.shape, generator=generator) for name, value in learner.init().items()}


def main() -> int:
    """Compare, and print what differs."""
    failed, told = 0, [f"torch {torch.__version__}", ""]
    for algorithm in ALGORITHMS:
        first = in_a_process(algorithm, {})
        wrong = [name for name, more in VARIANTS.items() if in_a_process(algorithm, more) != first]
        before = random_state()
        gap = singly(algorithm)
        kept = random_state() == before
        right = not wrong and kept and gap < 1e-5
        failed += not right
        bytes_are = "the same bytes" if not wrong else f"DIFFERENT: {wrong}"
        told.append(
            f"{algorithm}: {1 + len(VARIANTS)} processes, {bytes_are}; one "
            f"row at a time differs by {gap:.0e}; random state {'kept' if kept else 'CHANGED'}"
        )
        print(told[-1], flush=True)
    same = of_workers()
    told.append(f"DataLoader with 0 and 2 workers: {'the same bytes' if same else 'DIFFERENT'}")
    print(told[-1])
    (Path(__file__).resolve().parent / "same_results.txt").write_text("\n".join(told) + "\n")
    return 1 if failed or not same else 0


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(fingerprint(sys.argv[1]))
    else:
        sys.exit(main())
