"""Options that algorithms share: type, default and explanation of each, written once.

A preset takes them as `**options: Unpack[GradientOptions]`; `registered` puts them into its signature and
its docstring, so that `help(maml)` and `inspect.signature(maml)` show every argument.
"""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Callable
from typing import Annotated, NamedTuple, TypedDict, Unpack, get_args, get_origin, get_type_hints

from ..inner.inner_loss import InnerLossLike

__all__ = ["GradientOptions", "NetworkOptions", "UnrolledOptions", "explained", "full_signature"]


class _Option(NamedTuple):
    default: object
    about: str


class NetworkOptions(TypedDict, total=False):
    """Options of every algorithm with a network."""

    batchnorm: Annotated[str, _Option("auto", "where BatchNorm takes its statistics, see `models.Network`.")]
    mapping: Annotated[str, _Option("vmap", "`vmap` or `loop` over tasks, the same result.")]


class GradientOptions(NetworkOptions, total=False):
    """Options of every algorithm that adapts by an inner rule."""

    clip: Annotated[
        float | None, _Option(None, "largest norm of a task's inner gradient; `None` for no limit.")
    ]
    inner_loss: Annotated[
        InnerLossLike | None,
        _Option(
            None,
            "what the inner loop descends in place of `loss`: a name, a function of prediction and target, a module "
            "of them, whose parameters are learned, or an `inner.InnerLoss`.",
        ),
    ]


class UnrolledOptions(GradientOptions, total=False):
    """Options of every algorithm whose meta-gradient goes through the inner steps."""

    metagrad: Annotated[
        str,
        _Option(
            "unrolled",
            "`unrolled` stores the activations of all inner steps for the meta-gradient; `checkpointed` those of one "
            "at a time (activation checkpointing): the same gradient with less memory, in more time.",
        ),
    ]


# arguments whose defaults differ from algorithm to algorithm
_ABOUT = {
    "module": "any `nn.Module`.",
    "loss": "`mse`, `known_mse`, `cross_entropy` or a function, see `models.task_losses`.",
    "inner_lr": "inner step size, or where learned ones start.",
    "inner_steps": "inner steps.",
    "learn_lr": "learn the step size: one for `all`, one a `tensor` or one a `weight`; `None` for a fixed one.",
    "inner": "the inner rule: `sgd`, `momentum` (0.9), `adam`, `adamw` or `rmsprop`.",
    "adapt": "what adapts, see `inner.partition.select_names`.",
    "n_features": "features `F` of the module.",
    "n_outputs": "targets or classes.",
    "kind": "`regression` or `classification`.",
}
_OWN = "\nIts own arguments:\n"


def _shared(preset: Callable[..., object]) -> dict[str, tuple[object, _Option]]:
    """Types and options of the `Unpack[...]` that a preset takes; none where it takes none."""
    kinds = {p.kind: name for name, p in inspect.signature(preset).parameters.items()}
    name = kinds.get(inspect.Parameter.VAR_KEYWORD)
    unpacked = get_type_hints(preset).get(name) if name else None
    if get_origin(unpacked) is not Unpack:
        return {}
    hints = get_type_hints(get_args(unpacked)[0], include_extras=True)
    return {key: get_args(hint) for key, hint in hints.items()}


def full_signature(preset: Callable[..., object]) -> inspect.Signature:
    """The signature with the options that a preset shares, one by one, in place of `**options`.

    Example:
        >>> def preset(module, **options: Unpack[GradientOptions]): ...
        >>> full_signature(preset).parameters["batchnorm"].default
        'auto'
    """
    signature, shared = inspect.signature(preset), _shared(preset)
    keyword, rest = inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.VAR_KEYWORD
    own = [p for p in signature.parameters.values() if not (shared and p.kind is rest)]
    more = [
        inspect.Parameter(name, keyword, default=option.default, annotation=hint)
        for name, (hint, option) in shared.items()
    ]
    return signature.replace(parameters=[*own, *more])


def explained(preset: Callable[..., object]) -> str | None:
    """The docstring of a preset with every argument explained; as it is where the preset shares no options.

    Example:
        >>> def preset(module, **options: Unpack[NetworkOptions]):
        ...     '''A preset.'''
        >>> print(explained(preset).partition("batchnorm")[0])
        A preset.
        <BLANKLINE>
        Arguments:
            module: any `nn.Module`.
    """
    text, shared = inspect.getdoc(preset), _shared(preset)
    if text is None or not shared:
        return text
    head, mark, example = text.partition("\nExample:")
    head, _, own = head.partition(_OWN)
    about = {**_ABOUT, **{name: option.about for name, (_, option) in shared.items()}}
    for entry in textwrap.dedent(own).replace("\n    ", " ").splitlines():
        name, _, words = entry.partition(": ")
        about[name] = words
    lines = [f"    {name}: {about[name]}" for name in full_signature(preset).parameters]
    wrapped = [textwrap.fill(line, 110, subsequent_indent=" " * 8) for line in lines]
    parts = ["Arguments:", *wrapped, "", "Raises:", "    UsageError: an argument has no meaning."]
    return "\n".join([head.rstrip(), "", *parts]) + (f"\n{mark}{example}" if mark else "")
