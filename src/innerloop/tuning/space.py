"""What is tuned: the settings of an algorithm and of its training, each with a range."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple, TypeAlias

from ..algorithms import ALGORITHMS
from ..algorithms.assemble import learner_for, sound_settings
from ..combining.candidates import entries
from ..errors import UsageError, check_known
from ..models.builtin import MOST_SQUARED
from ..tasks.splits import Tasks

__all__ = [
    "OUTER", "Knob", "Number", "OneOf", "Settings", "in_words", "knobs", "named_algorithms", "settings_of",
]  # fmt: skip

Settings: TypeAlias = dict[str, Any]

# settings of the outer loop: arguments of `meta_train`, and not of a learner
OUTER = ("meta_lr", "meta_batch_size")
_KERNELS = (
    "linear+squared_exponential+matern32", "linear+squared_exponential", "linear+matern32", "linear+periodic",
    "linear",
)  # fmt: skip


class Number(NamedTuple):
    """A number to tune.

    Arguments:
        low: least value.
        high: largest value.
        sound: the value of those who do not tune.
        whole: whole numbers only.
        log: equal factors are equally likely, not equal differences.
    """

    low: float
    high: float
    sound: float
    whole: bool = False
    log: bool = True


class OneOf(NamedTuple):
    """A choice to tune.

    Arguments:
        values: what there is to choose from.
        sound: the value of those who do not tune.
    """

    values: tuple[str | int | bool, ...]
    sound: str | int | bool


Knob: TypeAlias = Number | OneOf


def named_algorithms(tasks: Tasks, algorithm: str, given: Mapping[str, Any], *, network: bool) -> list[str]:
    """The algorithms that are tuned: those named, separated by commas, or the candidates of `auto`.

    Arguments:
        tasks: what to learn.
        algorithm: names, or `auto`.
        given: settings of the algorithm that are fixed.
        network: options of the network are fixed.

    Raises:
        UsageError: a name is unknown.

    Example:
        >>> from innerloop.tasks import sinusoid
        >>> named_algorithms(sinusoid(), "maml,ridge", {}, network=False)
        ['maml', 'ridge']
    """
    names = [name.strip() for name in algorithm.split(",") if name.strip()]
    if names == ["auto"]:
        return list(dict.fromkeys(entry.algorithm for entry in entries(tasks, given, network=network)))
    if not names or "auto" in names:
        raise UsageError(f"--algorithm {algorithm}: give names such as maml,ridge, or auto alone")
    for name in names:
        check_known("algorithm", name, ALGORITHMS)
    return list(dict.fromkeys(names))


def knobs(tasks: Tasks, algorithm: str, *, given: Collection[str] = (), **fixed: Any) -> dict[str, Knob]:
    """The settings of an algorithm that have a range to tune in, without those that are given.

    Arguments:
        tasks: what to learn.
        algorithm: its name.
        given: names of settings that are fixed.
        fixed: arguments of `learner_for`, with which it is tried what the algorithm takes.

    Example:
        >>> from innerloop.tasks import sinusoid
        >>> sorted(knobs(sinusoid(), "maml", given=["meta_batch_size"]))
        ['hidden_layers', 'hidden_width', 'inner_lr', 'inner_steps', 'learn_lr', 'meta_lr']
        >>> knobs(sinusoid(), "mixed")["squares"]
        OneOf(values=(False, True), sound=False)
    """
    accepted = inspect.signature(ALGORITHMS[algorithm]).parameters
    found = _of_adaptation(tasks, algorithm, accepted) | _of_closed_forms(tasks, algorithm, accepted)
    if "module" in accepted:
        found |= _of_network(tasks, algorithm, given)
    if not learner_for(tasks, algorithm=algorithm, **fixed).fits_directly:
        sound = sound_settings(tasks, algorithm)
        found["meta_lr"] = Number(sound.meta_lr / 10, sound.meta_lr * 10, sound.meta_lr)
        found["meta_batch_size"] = OneOf((8, 16, 32, 64), sound.meta_batch_size)
    return {name: knob for name, knob in found.items() if name not in given}


def _of_adaptation(tasks: Tasks, algorithm: str, accepted: Collection[str]) -> dict[str, Knob]:
    """The inner loop of algorithms that take inner steps."""
    sound = sound_settings(tasks, algorithm)
    images = len(tasks.feature_shape) == 3
    every: dict[str, Knob] = {
        "inner_lr": Number(1e-2 if images else 1e-3, 1.0, sound.inner_lr),
        "inner_steps": Number(1, 5 if images else 10, sound.inner_steps, whole=True),
        "learn_lr": OneOf(("none", "tensor", "weight"), sound.learn_lr or "none"),
    }
    return {name: knob for name, knob in every.items() if name in accepted}


def _of_closed_forms(tasks: Tasks, algorithm: str, accepted: Collection[str]) -> dict[str, Knob]:
    """Covariances, kernels and terms of algorithms that adapt in closed form."""
    regression = tasks.targets.kind == "regression"
    found: dict[str, Knob] = {}
    if algorithm == "gaussian":
        found["covariance"] = OneOf(("full", "diagonal", "shared"), "full")
    if algorithm == "mixed":
        values = ("full", "diagonal", "shared")
        found["covariance"] = OneOf(("auto", *values), "auto") if regression else OneOf(values, "shared")
        if tasks.n_features <= MOST_SQUARED:
            found["squares"] = OneOf((False, True), False)
    if "kernel" in accepted:
        sound = str(inspect.signature(ALGORITHMS[algorithm]).parameters["kernel"].default)
        found["kernel"] = OneOf(tuple(dict.fromkeys((sound, *_KERNELS))), sound)
    if "noise" in accepted and regression:
        found["noise"] = OneOf(("constant", "log_linear"), "constant")
    return found


def _of_network(tasks: Tasks, algorithm: str, given: Collection[str]) -> dict[str, Knob]:
    """The size of the network, unless a part of it is given, and the scaling of numbers."""
    found: dict[str, Knob] = {}
    vectors = len(tasks.feature_shape) == 1
    if not {"model", "hidden", "width"} & set(given):
        if sound_settings(tasks).model == "conv4":
            found["width"] = OneOf((16, 32, 64), 64)
        else:
            head = "n_features" in inspect.signature(ALGORITHMS[algorithm]).parameters
            found["hidden_layers"] = Number(1, 3, 2, whole=True, log=False)
            found["hidden_width"] = Number(16, 128, 64 if head else 40, whole=True)
    if vectors and tasks.schema is not None and not tasks.encoded:
        found["scaling"] = OneOf(("shared", "per_task"), "shared")
    return found


def settings_of(values: Mapping[str, Any]) -> Settings:
    """Settings as `learner_for` and `meta_train` take them, of the values of knobs; numbers get three digits.

    Example:
        >>> settings_of({"hidden_layers": 2, "hidden_width": 40, "inner_lr": 0.012345, "learn_lr": "none"})
        {'inner_lr': 0.0123, 'learn_lr': None, 'hidden': [40, 40]}
    """
    found = {
        name: float(f"{value:.3g}") if isinstance(value, float) else value
        for name, value in values.items()
        if name not in ("hidden_layers", "hidden_width")
    }
    if found.get("learn_lr") == "none":
        found["learn_lr"] = None
    if "hidden_width" in values:
        found["hidden"] = [int(values["hidden_width"])] * int(values["hidden_layers"])
    return found


def in_words(settings: Mapping[str, Any]) -> str:
    """Settings as people read them.

    Example:
        >>> in_words({"algorithm": "maml", "inner_lr": 0.1, "learn_lr": None, "hidden": [40, 40]})
        'maml, inner lr 0.1, learn lr none, hidden 40,40'
    """
    own = [
        f"{name.replace('_', ' ')} {_word(value)}" for name, value in settings.items() if name != "algorithm"
    ]
    return ", ".join([str(settings["algorithm"]), *own])


def _word(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ",".join(map(str, value))
    return "none" if value is None else str(value)
