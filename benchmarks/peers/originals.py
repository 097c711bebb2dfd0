"""The updates of well-known scripts as their authors write them, with their libraries; `benchmarks/ports.py` runs them.

Each function takes a module and settings and returns an update: episodes in, mean query loss out. Where the script's
library cannot be had, `torch.func` stands in its place: the same algorithm by hand.
"""

from __future__ import annotations

import sys
import types
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

__all__ = [
    "anil",
    "by_hand",
    "cavia",
    "higher_maml",
    "imaml",
    "maml",
    "maml_plus_plus",
    "protonet",
    "reptile",
]

Update = Callable[[object], float]
cross_entropy, mse = nn.functional.cross_entropy, nn.functional.mse_loss


def learn2learn(folder: Path, name: str) -> type:
    """A class of learn2learn's algorithms; its package imports more than they need, and no longer installs."""
    for package in ("learn2learn", "learn2learn.algorithms"):
        module = types.ModuleType(package)
        module.__path__ = [str(folder.joinpath("learn2learn", *package.split(".")))]
        sys.modules[package] = module
    from learn2learn.algorithms.maml import MAML
    from learn2learn.algorithms.meta_sgd import MetaSGD

    return {"MAML": MAML, "MetaSGD": MetaSGD}[name]


def _tasks(episode):
    return zip(episode.support.x, episode.support.y, episode.query.x, episode.query.y, strict=True)


def maml(folder, module, *, loss, lr, steps, meta_lr, kind="MAML") -> Update:
    """learn2learn: examples/maml_sine.py, examples/vision/maml_omniglot.py; `kind` MetaSGD learns the rates."""
    wrapped = learn2learn(folder, kind)(module, lr=lr)
    optimizer = torch.optim.Adam(wrapped.parameters(), meta_lr)

    def update(episode):
        optimizer.zero_grad()
        total = 0.0
        for x, y, query, target in _tasks(episode):
            learner = wrapped.clone()
            for _ in range(steps):
                learner.adapt(loss(learner(x), y))
            error = loss(learner(query), target)
            error.backward()
            total += error.item()
        for parameter in wrapped.parameters():
            parameter.grad.data.mul_(1.0 / episode.n_tasks)
        optimizer.step()
        return total / episode.n_tasks

    return update


def anil(folder, module, *, loss, lr, steps, meta_lr) -> Update:
    """learn2learn: examples/vision/anil_fc100.py; query rows are normalised by themselves, as in MAML."""
    features, head = module[:-1], learn2learn(folder, "MAML")(module[-1], lr=lr)
    parameters = [*features.parameters(), *head.parameters()]
    optimizer = torch.optim.Adam(parameters, meta_lr)

    def update(episode):
        optimizer.zero_grad()
        total = 0.0
        for x, y, query, target in _tasks(episode):
            learner, data = head.clone(), features(x)
            for _ in range(steps):
                learner.adapt(loss(learner(data), y))
            error = loss(learner(features(query)), target)
            error.backward()
            total += error.item()
        for parameter in parameters:
            parameter.grad.data.mul_(1.0 / episode.n_tasks)
        optimizer.step()
        return total / episode.n_tasks

    return update


def higher_maml(folder, module, *, loss, lr, steps, meta_lr) -> Update:
    """higher: examples/maml-omniglot.py, with the mean over tasks in place of their sum."""
    sys.path.insert(0, str(folder / "higher"))
    import higher

    optimizer, inner = (
        torch.optim.Adam(module.parameters(), meta_lr),
        torch.optim.SGD(module.parameters(), lr),
    )

    def update(episode):
        optimizer.zero_grad()
        total = 0.0
        for x, y, query, target in _tasks(episode):
            with higher.innerloop_ctx(module, inner, copy_initial_weights=False) as (fast, step):
                for _ in range(steps):
                    step.step(loss(fast(x), y))
                error = loss(fast(query), target) / episode.n_tasks
                error.backward()
                total += error.item()
        optimizer.step()
        return total

    return update


def cavia(folder, module, *, loss, lr, steps, meta_lr, context) -> Update:
    """CAVIA: regression/cavia.py and its model; gradients are not clipped."""
    sys.path.insert(0, str(folder / "cavia" / "regression"))
    from cavia_model import CaviaModel

    widths = [layer.out_features for layer in module if isinstance(layer, nn.Linear)]
    model = CaviaModel(1, widths[-1], context, widths[:-1], "cpu")
    for mine, theirs in zip(module.parameters(), model.parameters(), strict=True):
        theirs.data = mine.data.clone()
    optimizer = torch.optim.Adam(model.parameters(), meta_lr)

    def update(episode):
        total, gradient = 0.0, [0] * len(list(model.parameters()))
        for x, y, query, target in _tasks(episode):
            model.reset_context_params()
            for _ in range(steps):
                (slope,) = torch.autograd.grad(loss(model(x), y), model.context_params, create_graph=True)
                model.context_params = model.context_params - lr * slope
            error = loss(model(query), target)
            for number, slope in enumerate(torch.autograd.grad(error, model.parameters())):
                gradient[number] += slope.detach()
            total += error.item()
        for slope, parameter in zip(gradient, model.parameters(), strict=True):
            parameter.grad = slope / episode.n_tasks
        optimizer.step()
        return total / episode.n_tasks

    return update


def imaml(folder, module, *, loss, lr, steps, meta_lr, strength, iterations) -> Update:
    """iMAML: its `Learner` and `cg_solve`, with the pull in every step and without damping, as the paper has them."""
    sys.path.insert(0, str(folder / "imaml_dev"))
    from implicit_maml.learner_model import Learner
    from implicit_maml.utils import cg_solve

    learner = Learner(module, loss, inner_lr=lr, outer_lr=meta_lr)
    learner.outer_opt = torch.optim.Adam(module.parameters(), meta_lr)

    def update(episode):
        start, total, gradient = learner.get_params(), 0.0, 0.0
        for x, y, query, target in _tasks(episode):
            learner.set_params(start.clone())
            learner.learn_on_data(x, y, steps, add_regularization=True, w_0=start, lam=strength)
            error = learner.get_loss(query, target)
            slope = torch.cat([g.reshape(-1) for g in torch.autograd.grad(error, module.parameters())])
            system = learner.matrix_evaluator(None, strength, regu_coef=0.0, lam_damping=0.0, x=x, y=y)
            gradient = gradient + cg_solve(system, slope, iterations) / episode.n_tasks
            total += error.item()
        learner.set_params(start)
        learner.outer_step_with_grad(gradient, flat_grad=True)
        return total / episode.n_tasks

    return update


def protonet(folder, module, *, meta_lr) -> Update:
    """learn2learn: examples/vision/protonet_miniimagenet.py; query rows are normalised by themselves."""
    optimizer = torch.optim.Adam(module.parameters(), meta_lr)

    def update(episode):
        total = 0.0
        for x, y, query, target in _tasks(episode):
            optimizer.zero_grad()
            ways = int(y.max()) + 1
            embedded = module(x)[y.argsort(stable=True)]
            support = embedded.reshape(ways, -1, embedded.shape[-1]).mean(1)
            logits = -((module(query).unsqueeze(1) - support.unsqueeze(0)) ** 2).sum(dim=2)
            error = cross_entropy(logits, target)
            error.backward()
            optimizer.step()
            total += error.item()
        return total / episode.n_tasks

    return update


def _stepped(module, fast, x, y, rates, loss, *, create_graph=True):
    """One inner step by hand."""
    slopes = torch.autograd.grad(
        loss(torch.func.functional_call(module, fast, (x,)), y),
        list(fast.values()),
        create_graph=create_graph,
    )
    return {n: v - r * g for (n, v), r, g in zip(fast.items(), rates, slopes, strict=True)}


def maml_plus_plus(folder, module, *, loss, lr, steps, meta_lr) -> Update:
    """MAML++ by hand, early in training: learned rates a layer and step, and the mean of the losses after each step."""
    shared = dict(module.named_parameters())
    rates = {name: nn.Parameter(torch.full((steps,), lr)) for name in shared}
    optimizer = torch.optim.Adam([*shared.values(), *rates.values()], meta_lr)

    def update(episode):
        optimizer.zero_grad()
        total = 0.0
        for x, y, query, target in _tasks(episode):
            fast: dict[str, Tensor] = dict(shared)
            error = 0.0
            for step in range(steps):
                fast = _stepped(module, fast, x, y, [rate[step] for rate in rates.values()], loss)
                error = error + loss(torch.func.functional_call(module, fast, (query,)), target) / steps
            error.backward()
            total += error.item()
        for parameter in (*shared.values(), *rates.values()):
            parameter.grad.mul_(1 / episode.n_tasks)
        optimizer.step()
        return total / episode.n_tasks

    return update


def reptile(folder, module, *, loss, lr, steps, meta_lr) -> Update:
    """Reptile by hand: SGD on a copy with all rows of the task, then a step of `meta_lr` towards where it ends."""

    def update(episode):
        start = {name: value.clone() for name, value in module.state_dict().items()}
        ends, total = [], 0.0
        for x, y, query, target in _tasks(episode):
            module.load_state_dict(start)
            optimizer = torch.optim.SGD(module.parameters(), lr)
            rows, targets = torch.cat([x, query]), torch.cat([y, target])
            for _ in range(steps):
                optimizer.zero_grad()
                loss(module(rows), targets).backward()
                optimizer.step()
            with torch.no_grad():
                total += loss(module(query), target).item()
            ends.append({name: value.clone() for name, value in module.state_dict().items()})
        mean = {name: torch.stack([end[name] for end in ends]).mean(0) for name in start}
        module.load_state_dict({n: v + meta_lr * (mean[n] - v) for n, v in start.items()})
        return total / episode.n_tasks

    return update


def by_hand(folder, module, *, loss, lr, steps, meta_lr) -> Update:
    """Second-order MAML by hand, where learn2learn's source is not at hand."""
    shared = dict(module.named_parameters())
    optimizer = torch.optim.Adam(shared.values(), meta_lr)

    def update(episode):
        optimizer.zero_grad()
        total = 0.0
        for x, y, query, target in _tasks(episode):
            fast: dict[str, Tensor] = dict(shared)
            for _ in range(steps):
                fast = _stepped(module, fast, x, y, [lr] * len(fast), loss)
            error = loss(torch.func.functional_call(module, fast, (query,)), target) / episode.n_tasks
            error.backward()
            total += error.item()
        optimizer.step()
        return total

    return update
