"""From tasks to a learner with sound settings: what the command, the estimators and a quick start use."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import nn

from .. import algorithms
from ..errors import UsageError
from ..inner.learner import Learner
from ..inner.per_target import per_target
from ..inner.per_task import PerTaskOptions, per_task
from ..models import builtin as models
from ..models.losses import KNOWN
from ..tasks.splits import Tasks
from . import baselines
from .terms import positions_of_terms

__all__ = ["SCALINGS", "Sound", "learner_for", "sound_settings"]

SCALINGS = ("shared", "per_task")


class Sound(NamedTuple):
    """Settings that work untuned on a kind of data."""

    model: str
    inner_lr: float
    inner_steps: int
    learn_lr: str | None
    clip: float | None
    meta_lr: float
    meta_batch_size: int
    steps: int


# a head solves for the weights of all features at once, and more of them cost it little
_FEATURE_WIDTHS = (64, 64)
VECTORS = Sound("mlp", 0.05, 5, "tensor", 10.0, 3e-3, 32, 1000)
IMAGES = Sound("conv4", 0.4, 1, "tensor", 10.0, 8e-3, 32, 300)


def sound_settings(tasks: Tasks, algorithm: str = "maml") -> Sound:
    """Settings for data of this shape, vectors or images, and for an algorithm that needs others.

    Example:
        >>> from innerloop.tasks import sinusoid
        >>> sound_settings(sinusoid()).model
        'mlp'
    """
    sound = IMAGES if len(tasks.feature_shape) == 3 else VECTORS
    if algorithm == "auto":
        # nets are some of several: on small tables more updates than these only overfit
        return sound._replace(steps=min(sound.steps, 400))
    # few numbers and a smooth likelihood: a prior over coefficients or curves is found in fewer, longer steps
    return sound._replace(meta_lr=1e-2, steps=300) if algorithm in ("mixed", "gp") else sound


def learner_for(
    tasks: Tasks,
    *,
    algorithm: str = "maml",
    model: str | None = None,
    module: nn.Module | None = None,
    hidden: Sequence[int] | None = None,
    activation: str | None = None,
    width: int | None = None,
    pool: str | None = None,
    scaling: str = "shared",
    dropout: float = 0.0,
    seed: int = 0,
    **settings: Any,
) -> Learner:
    """A learner by name whose model, loss and settings fit the tasks.

    Where rows know some of several targets, the loss leaves out what they do not know; an algorithm without a loss
    of one's choice learns each target by itself (`inner.per_target`).

    Arguments:
        tasks: what it will learn.
        algorithm: one of `algorithms.ALGORITHMS` or `baselines.BASELINES`.
        model: one of `models.MODELS`; by the shape of the data unless given.
        module: a network of your own in its place, which ends in `tasks.n_outputs` outputs, or in features where a
            head follows.
        hidden: hidden widths of an `mlp`; where a head follows, the last one is the number of features.
        activation: of the hidden units of an `mlp`, one of `models.ACTIVATIONS`; `tanh` unless given.
        width: channels of a `conv4`.
        pool: `stride` (as in papers on Omniglot) or `max` (on mini-ImageNet) of a `conv4`; `stride` unless given.
        scaling: `shared` by all tasks, or `per_task`: numbers are scaled by each task's support, see `inner.per_task`.
        dropout: share of hidden units or channels set to 0 in training.
        seed: of the initial parameters.
        settings: of the algorithm; those not given are sound for the shape of the data. `interactions` and `random` of
            `mixed` may name columns, see `terms.positions_of_terms`.

    Raises:
        UsageError: a name is unknown, or a setting has no meaning for this algorithm, model or data.

    Example:
        >>> from innerloop.tasks import sinusoid
        >>> learner_for(sinusoid(), inner_steps=2).inner_steps
        2
    """
    preset = _preset(algorithm)
    accepted = inspect.signature(preset).parameters
    senseless = sorted(name for name in settings if name not in accepted)
    if senseless:
        raise UsageError(f"{senseless[0]} has no meaning for {algorithm}: leave it out")
    if "kind" in accepted:
        settings.setdefault("kind", tasks.targets.kind)
    own = _own_scales(tasks, scaling)
    wanted = _Architecture(model, module, hidden, activation, width, pool, dropout)
    # a loss can leave out what a row does not know; a head or trees learn each target by itself
    apart = tasks.n_outputs if tasks.targets.partial and not _masks(accepted) else 0
    if apart:
        tasks = replace(tasks, targets=tasks.targets._replace(n_outputs=1))
    if "module" not in accepted:
        _require_no_network(tasks, algorithm, wanted, own, classes="kind" in accepted)
        if "n_support" in accepted:
            settings.setdefault("n_support", tasks.train.support.high)
        if "random" in accepted:
            settings = positions_of_terms(tasks, settings)
        if algorithm == "mixed" and tasks.targets.kind == "classification":
            # answers of a few rows tell how much slopes vary together, not each by itself
            settings.setdefault("covariance", "shared")
        learner = preset(tasks.n_features, tasks.n_outputs, **settings)
        return per_target(learner, apart) if apart else learner
    _fill_in(settings, accepted, tasks, algorithm)
    if "n_context" in accepted:
        context = settings.setdefault("n_context", accepted["n_context"].default)
        channels, *rest = tasks.feature_shape
        tasks = replace(tasks, feature_shape=(channels + context, *rest))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed % 2**63)
        if "n_features" in accepted:
            module = _module(tasks, wanted, None)
            settings["n_features"] = _count_features(module, tasks.feature_shape)
            settings["n_way" if "n_way" in accepted else "n_outputs"] = tasks.n_outputs
        else:
            module = _module(tasks, wanted, tasks.n_outputs)
        if "seed" in accepted:
            settings["seed"] = seed
        learner = preset(module, **settings)
    learner = per_target(learner, apart) if apart else learner
    return per_task(learner, **own) if own else learner


class _Architecture(NamedTuple):
    """What was asked for of the network; `None` for what fits the data."""

    model: str | None
    module: nn.Module | None
    hidden: Sequence[int] | None
    activation: str | None
    width: int | None
    pool: str | None
    dropout: float


def _preset(algorithm: str) -> Callable[..., Learner]:
    """A baseline or an algorithm by name."""
    for known in (baselines.BASELINES, algorithms.ALGORITHMS):
        if algorithm in known:
            return known[algorithm]
    names = ", ".join((*algorithms.ALGORITHMS, *baselines.BASELINES))
    raise UsageError(f"algorithm {algorithm!r} is unknown: choose one of {names}")


def _require_no_network(
    tasks: Tasks, algorithm: str, wanted: _Architecture, own: PerTaskOptions, *, classes: bool
) -> None:
    """Refuse what an algorithm without a network has no use for."""
    if own:
        raise UsageError(
            f"{algorithm} has no network, and no need for scales or classes of each task: leave scaling out, or "
            "choose maml"
        )
    if len(tasks.feature_shape) != 1 or (tasks.targets.kind != "regression" and not classes):
        raise UsageError(
            f"{algorithm} predicts {'values or classes' if classes else 'numbers'} from feature vectors, and "
            f"these tasks are {tasks.targets.kind} on rows of shape {tasks.feature_shape}: choose maml"
        )
    if any(wanted):
        raise UsageError(
            f"{algorithm} has no network: leave model, module, hidden, activation, width, pool and dropout out"
        )


def _own_scales(tasks: Tasks, scaling: str) -> PerTaskOptions:
    """What each support decides for its task, as `per_task` takes it; empty for nothing."""
    if scaling not in SCALINGS:
        raise UsageError(f"scaling={scaling!r} is unknown: choose {' or '.join(SCALINGS)}")
    own: PerTaskOptions = {}
    if scaling == "per_task":
        if len(tasks.feature_shape) != 1:
            raise UsageError("scaling='per_task' is for tables: leave it out for images")
        columns = tasks.schema.columns if tasks.schema else ()
        # a task column would lose what it says; flags, names and marks of gaps have no scale
        numbers = [
            position == 0 and column.kind in ("number", "date") and not column.constant_in_task
            for column in columns
            for position in range(column.width)
        ]
        own["features"] = numbers if tasks.schema else [True] * tasks.n_features
        own["n_targets"] = tasks.n_outputs if tasks.targets.kind == "regression" else 0
    if tasks.own_classes:
        own["n_classes"] = tasks.n_outputs
    return own


def _fill_in(settings: dict[str, Any], accepted: Collection[str], tasks: Tasks, algorithm: str) -> None:
    """Settings that were not given and have a sound value for these tasks."""
    sound = sound_settings(tasks)
    for name in ("inner_lr", "inner_steps", "learn_lr", "clip"):
        if name in accepted:
            settings.setdefault(name, getattr(sound, name))
    if "n_way" in accepted and tasks.targets.kind == "regression":
        raise UsageError(f"{algorithm} predicts classes, and these tasks are regression: choose maml")
    if "loss" in accepted:
        values = KNOWN if tasks.targets.partial and _masks(accepted) else "mse"
        settings.setdefault("loss", values if tasks.targets.kind == "regression" else "cross_entropy")
    elif "kind" not in accepted and tasks.targets.kind == "regression":
        raise UsageError(f"{algorithm} predicts classes, and these tasks are regression: choose ridge")


def _masks(accepted: Collection[str]) -> bool:
    """Whether an algorithm takes the loss of rows that know some of several targets; particles are not weighted."""
    return "loss" in accepted and "particles" not in accepted


def _numbered_anew(tasks: Tasks) -> bool:
    """Whether each episode numbers its classes anew."""
    return tasks.own_classes or (tasks.targets.kind == "classification" and tasks.train.n_tasks is None)


def _count_features(module: nn.Module, shape: Sequence[int]) -> int:
    """Features of a row, by trying two."""
    device = next((value.device for value in module.parameters()), torch.device("cpu"))
    with torch.no_grad():
        return int(module(torch.zeros(2, *shape, device=device)).shape[-1])


def _module(tasks: Tasks, wanted: _Architecture, outputs: int | None) -> nn.Module:
    """The network; with `outputs=None` one that ends in features."""
    model, module, hidden, activation, width, pool, dropout = wanted
    if module is not None:
        if any((model, hidden, activation, width, pool, dropout)):
            raise UsageError(
                "module= is the whole network: leave model, hidden, activation, width, pool, dropout out"
            )
        return module
    model = model or sound_settings(tasks).model
    shape = tasks.feature_shape
    if model == "mlp":
        if width is not None or pool is not None:
            name = "pool" if width is None else "width"
            raise UsageError(f"{name} belongs to conv4: an mlp takes hidden widths")
        if len(shape) != 1:
            raise UsageError(f"an mlp takes feature vectors, and these rows have shape {shape}: choose conv4")
        widths = hidden or (_FEATURE_WIDTHS if outputs is None else (40, 40))
        module = models.mlp(shape[0], list(widths), outputs, activation=activation or "tanh", dropout=dropout)
    elif model == "conv4":
        if hidden is not None or activation is not None:
            name = "hidden" if hidden is not None else "activation"
            raise UsageError(f"{name} belongs to mlp: a conv4 takes a width")
        if len(shape) != 3 or shape[1] != shape[2]:
            raise UsageError(f"a conv4 takes square images, and these rows have shape {shape}: choose mlp")
        module = models.conv4(
            shape[0], outputs, size=shape[1], width=width or 64, pool=pool or "stride", dropout=dropout
        )
    else:
        raise UsageError(f"model {model!r} is unknown: choose one of {', '.join(models.MODELS)}")
    if outputs is not None and _numbered_anew(tasks):
        # a head of zeros has no opinion on numbers that mean another class in every episode
        nn.init.zeros_(module[-1].weight)  # type: ignore[index]
        nn.init.zeros_(module[-1].bias)  # type: ignore[index]
    return module
