"""The registry: algorithms by name, and the recipe from which a learner is made again."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import replace
from typing import Any, ParamSpec

from torch import nn

from ..errors import UsageError
from ..inner.learner import Learner
from ..inner.per_task import per_task
from ..models.builtin import build as build_model
from ..models.builtin import recipe_of
from ..models.losses import Loss

P = ParamSpec("P")

ALGORITHMS: dict[str, Callable[..., Learner]] = {}


def registered(preset: Callable[P, Learner]) -> Callable[P, Learner]:
    """Make `preset` known by name and let its learners carry the recipe they were made from."""

    @functools.wraps(preset)
    def recorded(*args: P.args, **kwargs: P.kwargs) -> Learner:
        learner = preset(*args, **kwargs)
        bound = inspect.signature(preset).bind(*args, **kwargs)
        bound.apply_defaults()
        settings = dict(bound.arguments)
        module = settings.pop("module", None)
        loss = settings.get("loss")
        if loss is not None and not isinstance(loss, str):
            settings["loss"] = "external"
        recipe = {"algorithm": preset.__name__, "settings": settings}
        if module is not None:
            recipe["model"] = recipe_of(module) or "external"
        return replace(learner, recipe=recipe)  # type: ignore[type-var]

    ALGORITHMS[preset.__name__] = recorded
    return recorded


def build(recipe: dict[str, Any], *, module: nn.Module | None = None, loss: Loss | None = None) -> Learner:
    """Make a learner from its recipe.

    Arguments:
        recipe: `{"algorithm": name, "settings": {...}, "model": {"name": ..., "settings": {...}}}`, and `per_task`
            with the arguments of `pertask.per_task` where a support is scaled.
        module: the module, where the recipe says `external`.
        loss: the loss function, where the recipe says `external`.

    Returns:
        The learner.

    Raises:
        UsageError: a name or setting is unknown, or an external part is not given.

    Example:
        >>> from innerloop.algorithms import maml
        >>> learner = maml(build_model("mlp", n_in=2), loss="mse", inner_steps=3)
        >>> build(learner.recipe).inner_steps
        3
    """
    name, settings = recipe["algorithm"], dict(recipe["settings"])
    if name not in ALGORITHMS:
        raise UsageError(f"algorithm {name!r} is unknown: choose one of {', '.join(ALGORITHMS)}")
    if settings.get("loss") == "external":
        if loss is None:
            raise UsageError("this model was trained with a loss function of your own: pass it as loss=")
        settings["loss"] = loss
    if "model" in recipe:
        if recipe["model"] != "external":
            module = build_model(recipe["model"]["name"], **recipe["model"]["settings"])
        elif module is None:
            raise UsageError("this model was trained with a module of your own: pass it as module=")
        settings["module"] = module
    try:
        inspect.signature(ALGORITHMS[name]).bind(**settings)
    except TypeError as error:
        raise UsageError(f"algorithm {name!r}: {error}") from None
    learner = ALGORITHMS[name](**settings)
    return per_task(learner, **recipe["per_task"]) if "per_task" in recipe else learner
