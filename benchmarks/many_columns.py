"""The linear mixed model with many columns: seconds of a fit, and which coefficients it takes to differ among tasks.

    python benchmarks/many_columns.py

takes a minute or less. Each table is drawn: some slopes differ among tasks, all of them, or none; the noise has
standard deviation 0.5.
"""

import time

import torch

import innerloop as il
from innerloop.inner.heads.random_effects import FIXED
from innerloop.tasks.episodes import Batch

# tasks, rows of each, columns, how many slopes differ, their standard deviation
TABLES = ((100, 50, 250, 3, 0.5), (100, 20, 250, 3, 0.5), (60, 100, 250, 0, 0.5), (100, 50, 250, 250, 0.1))


def drawn(tasks: int, rows: int, columns: int, vary: int, spread: float) -> Batch:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(tasks, rows, columns, generator=generator)
    slopes = (0.2 * torch.randn(columns, generator=generator)).expand(tasks, columns).clone()
    slopes[:, :vary] += spread * torch.randn(tasks, vary, generator=generator)
    level = 0.7 * torch.randn(tasks, 1, 1, generator=generator)
    noise = 0.5 * torch.randn(tasks, rows, 1, generator=generator)
    return Batch(x, (x * slopes[:, None]).sum(-1, keepdim=True) + level + noise)


def main() -> None:
    print("tasks  rows  columns  differ  found  right  noise  seconds")
    for tasks, rows, columns, vary, spread in TABLES:
        data, learner = drawn(tasks, rows, columns, vary, spread), il.mixed(columns)
        began = time.process_time()
        meta = learner.fit(learner.init(), data)
        seconds = time.process_time() - began
        found = (meta["head/root"].diagonal()[:-1] > FIXED).nonzero().flatten().tolist()
        right = sum(column < vary for column in found)
        noise = meta["head/log_noise"].exp().item()
        print(f"{tasks:5}{rows:6}{columns:9}{vary:8}{len(found):7}{right:7}{noise:7.2f}{seconds:9.1f}")


if __name__ == "__main__":
    main()
