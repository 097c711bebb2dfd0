"""Slow truths that the library is held against: loops, closed forms and finite differences, in float64."""

import json
import os
from pathlib import Path

import torch
from torch.func import functional_call

from innerloop.tasks.episodes import Batch, Episode, map_tensors, stack


def within(figure, bound):
    """Assert `figure < bound`; under `benchmarks/proofs.py` also note both, beside the test that is running."""
    figure = float(torch.as_tensor(figure).detach())
    notes = os.environ.get("INNERLOOP_PROOFS")
    if notes:
        test = os.environ["PYTEST_CURRENT_TEST"].rpartition(" ")[0]
        with Path(notes).open("a", encoding="utf-8") as file:
            file.write(json.dumps({"test": test, "figure": figure, "bound": bound}) + "\n")
    assert figure < bound


def regression_episode(tasks=3, support=5, query=6, features=2, seed=0):
    """Stacked tasks that are one curve at different heights."""
    g = torch.Generator().manual_seed(seed)

    def batch(rows):
        x = torch.randn(tasks, rows, features, generator=g, dtype=torch.float64)
        return Batch(x, torch.sin(x.sum(-1, keepdim=True)) + torch.arange(tasks).reshape(-1, 1, 1))

    return Episode(batch(support), batch(query))


def class_episode(tasks=3, ways=3, shots=2, queries=2, shape=(4,), seed=0):
    """Stacked tasks of classes; the features are random and know nothing of them."""
    g = torch.Generator().manual_seed(seed)

    def batch(each):
        x = torch.randn(tasks, ways * each, *shape, generator=g, dtype=torch.float64)
        return Batch(x, torch.arange(ways).repeat(each).expand(tasks, -1).contiguous())

    return Episode(batch(shots), batch(queries))


def doubled(meta):
    """Parameters in float64."""
    return {name: value.double() for name, value in meta.items()}


def generator(seed=0):
    """A stream of random numbers with a seed of its own."""
    return torch.Generator().manual_seed(seed)


def generic(learner, *, seed=3, length=0.3):
    """Meta-parameters in float64 away from their start, where nothing is zero by chance."""
    meta = doubled(learner.init())
    direction = random_direction(meta, seed)
    return {name: value + length * direction[name] for name, value in meta.items()}


def gradient(learner, meta, episode, step=0, *, key=None):
    """The meta-gradient of a learner, without the figures beside it."""
    return learner.metagrad(learner, meta, episode, step, key)[0]


def mean_query_loss(learner, meta, episode, key=None):
    """The function whose gradient an exact meta-gradient is."""
    adapted = learner.adapt(meta, episode.support, key=key)
    return learner.loss(meta, adapted, episode.query, key=key).mean()


def central_difference(function, meta, direction, eps=1e-6):
    """Derivative of `function(meta)` along a direction, by central differences."""
    up = {name: value + eps * direction[name] for name, value in meta.items()}
    down = {name: value - eps * direction[name] for name, value in meta.items()}
    return (function(up) - function(down)).item() / (2 * eps)


def fourth_order_difference(function, meta, direction, eps=1e-4):
    """The same to fourth order: its error is that of rounding where `function` is smooth."""
    near = central_difference(function, meta, direction, eps)
    far = central_difference(function, meta, direction, 2 * eps)
    return (4 * near - far) / 3


def random_direction(meta, seed=0):
    """A direction of length 1 in the space of all meta-parameters."""
    g = torch.Generator().manual_seed(seed)
    raw = {n: torch.randn(v.shape, generator=g, dtype=torch.float64) for n, v in meta.items()}
    length = sum(v.square().sum() for v in raw.values()).sqrt()
    return {n: v / length for n, v in raw.items()}


def directional(grads, direction):
    """The derivative along a direction, from the gradient."""
    return sum((grads[name] * direction[name]).sum().item() for name in grads)


def difference_error(learner, episode, meta, *, key=None, directions=3, difference=central_difference):
    """Largest relative error of the meta-gradient against differences along random directions."""
    grads, _ = learner.metagrad(learner, meta, episode, 0, key)
    length = sum(v.square().sum() for v in grads.values()).sqrt().item()
    worst = 0.0
    for seed in range(directions):
        direction = random_direction(meta, seed)
        with torch.no_grad():
            truth = difference(lambda m: mean_query_loss(learner, m, episode, key), meta, direction)
        worst = max(worst, abs(directional(grads, direction) - truth) / length)
    return worst


def plain_maml(module, loss, meta, episode, lr, steps, first_order=False):
    """MAML by the book: a Python loop over tasks with `torch.autograd`, no part of the library."""
    meta = {name: value.clone().requires_grad_() for name, value in meta.items()}
    total = 0.0
    for task in range(episode.query.y.shape[0]):
        fast = dict(meta)
        for _ in range(steps):
            value = loss(functional_call(module, fast, (episode.support.x[task],)), episode.support.y[task])
            grads = torch.autograd.grad(value, list(fast.values()), create_graph=not first_order)
            fast = {n: w - lr * g for (n, w), g in zip(fast.items(), grads, strict=True)}
        total = total + loss(functional_call(module, fast, (episode.query.x[task],)), episode.query.y[task])
    grads = torch.autograd.grad(total / episode.query.y.shape[0], list(meta.values()))
    return dict(zip(meta, grads, strict=True))


def largest_error(grads, truth):
    """The largest absolute difference of any entry of two dictionaries of tensors."""
    return max((grads[name] - truth[name]).abs().max().item() for name in truth)


def unpadded(batch, task):
    """Features and targets of one task of a stack, without its padding."""
    rows = slice(None) if batch.weight is None else batch.weight[task] > 0
    return batch.x[task][rows], batch.y[task][rows]


def uneven(episode: Episode) -> Episode:
    """The same tasks, the first with fewer rows."""
    tasks = range(episode.n_tasks)
    cut = [
        Episode(
            *(
                Batch(
                    *(map_tensors(lambda t, i=i: t[i][: -1 if i == 0 else None], part) for part in batch[:2])
                )
                for batch in episode
            )
        )
        for i in tasks
    ]
    return stack(cut)
