"""The short run of `benchmarks/time_to_accuracy.py` in learn2learn, as its examples write it; that command calls this.

Arguments: the folder `learn2learn` of its source, the arrays, the split, the number of updates and a seed. It no longer
installs on current Python, and its package imports more than its algorithms need.
"""

import json
import math
import sys
import types
from pathlib import Path

import numpy as np
import torch
from torch import nn

TASKS, WAYS, RATE, META_LR, EPISODES = 32, 5, 0.4, 0.002, 600


def conv4():
    layers = []
    for inward in (1, 64, 64, 64):
        layers += [nn.Conv2d(inward, 64, 3, 2, 1), nn.BatchNorm2d(64, track_running_stats=False), nn.ReLU()]
    head = nn.Linear(64 * 2 * 2, WAYS)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    return nn.Sequential(*layers, nn.Flatten(), head)


def episode(images, rng):
    """A support and a query image of each of five characters: `images` is (characters, 20, 1, 28, 28)."""
    chosen = rng.choice(len(images), WAYS, replace=False)
    picked = np.stack([images[c][rng.choice(20, 2, replace=False)] for c in chosen])
    x = torch.from_numpy(picked).float() / 255
    return x[:, 0], x[:, 1], torch.arange(WAYS)


def maml_of(source):
    for name in ("learn2learn", "learn2learn.algorithms"):
        package = types.ModuleType(name)
        package.__path__ = [str(Path(source).joinpath(*name.split(".")[1:]))]
        sys.modules[name] = package
    from learn2learn.algorithms.maml import MAML

    return MAML


def main(source, arrays, split, updates, seed):
    parts = dict(line.split(",") for line in Path(split).read_text().splitlines()[1:])
    with np.load(arrays) as found:
        x, label = found["x"].astype(np.uint8), found["label"]
    pools = {
        part: np.stack([x[label == name] for name, where in parts.items() if where == part])
        for part in ("train", "test")
    }
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    maml, criterion = maml_of(source)(conv4(), lr=RATE), nn.CrossEntropyLoss()
    optimizer = torch.optim.Adam(maml.parameters(), lr=META_LR)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda n: 0.5 * (1 + math.cos(math.pi * n / updates))
    )
    for _ in range(updates):
        optimizer.zero_grad()
        for _ in range(TASKS):
            support, query, y = episode(pools["train"], rng)
            learner = maml.clone()
            learner.adapt(criterion(learner(support), y))
            (criterion(learner(query), y) / TASKS).backward()
        nn.utils.clip_grad_norm_(maml.parameters(), 10.0)
        optimizer.step()
        schedule.step()
    scores = []
    for _ in range(EPISODES):
        support, query, y = episode(pools["test"], rng)
        learner = maml.clone()
        learner.adapt(criterion(learner(support), y))
        with torch.no_grad():
            scores.append(float((learner(query).argmax(1) == y).float().mean()))
    half = 1.96 * np.std(scores, ddof=1) / math.sqrt(EPISODES)
    print(json.dumps({"mean": float(np.mean(scores)), "half": half}))


if __name__ == "__main__":
    main(*sys.argv[1:4], *map(int, sys.argv[4:]))
