"""The registry: algorithms by name, and the recipe from which a learner is made again."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import ParamSpec

from torch import nn

from ..errors import UsageError
from ..inner.inner_loss import InnerLossLike
from ..inner.learner import Learner, Recipe
from ..inner.per_target import per_target
from ..inner.per_task import per_task
from ..models.builtin import build as build_model
from ..models.builtin import recipe_of
from ..models.losses import Loss
from .arguments import explained, full_signature
from .combination import combination

__all__ = ["ALGORITHMS", "build", "registered"]

P = ParamSpec("P")
Preset = Callable[..., Learner]

_GROUP = "innerloop.algorithms"
_PACKAGE = __name__.partition(".")[0]


class _Algorithms(Mapping[str, Preset]):
    """Presets by name: those that were registered, and those that installed packages offer as entry points.

    An entry point is loaded when its name is asked for, or when all names are.
    """

    def __init__(self) -> None:
        self._presets: dict[str, Preset] = {}

    def add(self, name: str, preset: Preset) -> None:
        """Register a preset.

        Raises:
            UsageError: another module has registered the name.
        """
        first = self._presets.get(name, preset)
        if first.__module__ != preset.__module__:
            raise UsageError(
                f"algorithm {name!r} of {preset.__module__}: {first.__module__} has one of that name already, "
                "choose another"
            )
        self._presets[name] = preset

    def __getitem__(self, name: str) -> Preset:
        if name not in self._presets:
            for entry in entry_points(group=_GROUP, name=name):
                self._load(entry)
        return self._presets[name]

    def __iter__(self) -> Iterator[str]:
        for entry in entry_points(group=_GROUP):
            if entry.name not in self._presets:
                self._load(entry)
        return iter(self._presets)

    def __len__(self) -> int:
        return len(list(iter(self)))

    def _load(self, entry: EntryPoint) -> None:
        """Import what an installed package offers, which registers it."""
        package = entry.dist.name if entry.dist else entry.value
        try:
            entry.load()
        except Exception as error:
            raise UsageError(
                f"algorithm {entry.name!r} of the installed package {package} cannot be loaded "
                f"({type(error).__name__}: {error}): update or uninstall that package"
            ) from error
        if entry.name not in self._presets:
            raise UsageError(
                f"the installed package {package} offers an algorithm {entry.name!r}, but {entry.value} registers "
                "none of that name: the entry point must have the name of a function under @registered"
            )


# arguments that may be functions, and what they are
_LOSSES = {"loss": "a loss function", "inner_loss": "an inner loss"}
ALGORITHMS = _Algorithms()


def registered(preset: Callable[P, Learner]) -> Callable[P, Learner]:
    """Make an algorithm known by the name of its function, and let its learners carry the recipe they were made from.

    Its learners can then be saved and loaded, wherever this has run; the command finds it once an installed package
    offers it as an entry point of the group `innerloop.algorithms`, with the name of the function.

    The function takes a `module`, if the algorithm has a network, and settings that JSON can hold. The command gives it
    what it has parameters for: `loss`, or `kind` (regression or classification), and its options such as `inner_lr`.

    Arguments:
        preset: makes a learner.

    Returns:
        The same function, which records its arguments.

    Raises:
        UsageError: another module has registered an algorithm of this name, or its arguments have no names.

    Example:
        >>> from innerloop.algorithms import maml
        >>> maml(build_model("mlp", n_in=2), loss="mse", inner_steps=3).recipe["settings"]["inner_steps"]
        3
    """
    signature = full_signature(preset)
    open_ended = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    if odd := [p.name for p in signature.parameters.values() if p.kind in open_ended]:
        raise UsageError(
            f"algorithm {preset.__name__!r} takes any {odd[0]}, which could not be stored by name: write its arguments "
            "out, or take **options: Unpack[GradientOptions]"
        )

    @functools.wraps(preset)
    def recorded(*args: P.args, **kwargs: P.kwargs) -> Learner:
        try:
            bound = signature.bind(*args, **kwargs)
        except TypeError as error:
            raise TypeError(f"{preset.__name__}() {error}") from None
        bound.apply_defaults()
        learner = preset(*bound.args, **bound.kwargs)
        settings = dict(bound.arguments)
        if settings.get("batchnorm") == "auto":
            settings["batchnorm"] = learner.network.batchnorm
        again = functools.partial(recorded, *args, **kwargs)
        return learner.with_recipe(_recipe(preset, settings), again)

    recorded.__signature__ = signature  # type: ignore[attr-defined]
    annotations = {p.name: p.annotation for p in signature.parameters.values()}
    recorded.__annotations__ = {
        name: hint for name, hint in annotations.items() if hint is not inspect.Parameter.empty
    }
    recorded.__doc__ = explained(preset)
    ALGORITHMS.add(preset.__name__, recorded)
    return recorded


def _recipe(preset: Preset, settings: dict[str, object]) -> Recipe:
    """Name and settings of a call, parts that have no name as `external`."""
    module = settings.pop("module", None)
    for name in _LOSSES:
        if settings.get(name) is not None and not isinstance(settings[name], str):
            settings[name] = "external"
    recipe: Recipe = {"algorithm": preset.__name__, "settings": settings}
    home = preset.__module__ or "__main__"
    if home.partition(".")[0] != _PACKAGE:
        # for people to read: nothing is ever imported because a file names it
        recipe["defined_in"] = home
    if isinstance(module, nn.Module):
        recipe["model"] = recipe_of(module) or "external"
    return recipe


def build(
    recipe: Recipe,
    *,
    module: nn.Module | None = None,
    loss: Loss | None = None,
    inner_loss: InnerLossLike | None = None,
) -> Learner:
    """Make a learner from its recipe.

    Arguments:
        recipe: see `inner.learner.Recipe`.
        module: the module, where the recipe says `external`.
        loss: the loss function, where the recipe says `external`.
        inner_loss: the inner loss, where the recipe says `external`.

    Raises:
        UsageError: a name or setting is unknown, or an external part is not given.

    Example:
        >>> from innerloop.algorithms import maml
        >>> learner = maml(build_model("mlp", n_in=2), loss="mse", inner_steps=3)
        >>> build(learner.recipe).inner_steps
        3
    """
    if "members" in recipe:
        return combination([build(member) for member in recipe["members"]], **recipe["settings"])
    require_registered(recipe)
    name, settings = recipe["algorithm"], dict(recipe["settings"])
    for own, given in {"loss": loss, "inner_loss": inner_loss}.items():
        if settings.get(own) == "external":
            if given is None:
                raise UsageError(f"this model was trained with {_LOSSES[own]} of your own: pass it as {own}=")
            settings[own] = given
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
    if "per_target" in recipe:
        learner = per_target(learner, recipe["per_target"])
    return per_task(learner, **recipe["per_task"]) if "per_task" in recipe else learner


def require_registered(recipe: Recipe) -> None:
    """Refuse a recipe whose algorithm is not registered, with the name of the module that has it.

    Raises:
        UsageError: it is unknown here.
    """
    for member in recipe.get("members", ()):
        require_registered(member)
    name, home = recipe["algorithm"], recipe.get("defined_in")
    if name in ALGORITHMS or "members" in recipe:
        return
    if home is None:
        raise UsageError(f"algorithm {name!r} is unknown: choose one of {', '.join(ALGORITHMS)}")
    raise UsageError(
        f"algorithm {name!r} is not registered here: this model was made with one of the module {str(home)!r:.80}; "
        "import that module first, or install the package it belongs to"
    )
