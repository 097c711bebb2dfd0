"""Terms of a mixed model by the names of columns: squares, interactions, and which of them differ among tasks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import UsageError
from ..tasks.messages import listed
from ..tasks.splits import Tasks

__all__ = ["positions_of_terms"]


def positions_of_terms(tasks: Tasks, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings `squares`, `interactions` and `random` of `mixed`, with positions for names of columns.

    Arguments:
        tasks: whose columns are named.
        settings: `squares` is true for all numbers and dates (the square of a truth value is itself);
            `interactions` are pairs such as `age:dose`; `random` are terms such as `age`, `age^2` and `age:dose`. What
            is given as positions stays.

    Returns:
        The settings as `mixed` takes them.

    Raises:
        UsageError: a name is no column or no term.

    Example:
        >>> import innerloop as il, pandas as pd
        >>> frame = pd.DataFrame({"id": [0, 0, 1, 1, 2, 2, 3, 3, 4, 4], "age": range(10), "y": range(10)})
        >>> tasks = il.tasks.table(frame, task="id", target="y", n_support=1)
        >>> positions_of_terms(tasks, {"squares": True, "random": ["age^2", "age"]})
        {'squares': [0], 'random': [0, 1]}
    """
    settings, schema = dict(settings), tasks.schema
    if schema is None:
        for name in ("interactions", "random"):
            if odd := [word for word in settings.get(name) or () if isinstance(word, str)]:
                raise UsageError(
                    f"{name}={odd[0]!r}: the columns of these tasks have no names; give positions"
                )
        return settings
    spans, start = {}, 0
    for column in schema.columns:
        spans[column.name] = range(start, start + column.width)
        start += column.width
    if settings.get("squares") is True:
        settings["squares"] = [spans[c.name][0] for c in schema.columns if c.kind in ("number", "date")]
    if pairs := settings.get("interactions"):
        settings["interactions"] = [
            positions
            for pair in pairs
            for positions in ([pair] if not isinstance(pair, str) else _crossed(pair, spans))
        ]
    if settings.get("random") is not None:
        settings["random"] = _random(settings, spans, tasks.n_features)
    return settings


def _crossed(pair: str, spans: Mapping[str, range]) -> list[tuple[int, int]]:
    """Every product of the features of two columns; their names may hold a colon themselves."""
    cuts = [number for number, sign in enumerate(pair) if sign == ":"]
    for cut in cuts:
        left, right = pair[:cut], pair[cut + 1 :]
        if left in spans and right in spans:
            if left == right:
                raise UsageError(f"interactions: {pair!r} is a square: --squares adds those of all numbers")
            return [(a, b) for a in spans[left] for b in spans[right]]
    raise UsageError(
        f"interactions: {pair!r} is no pair of columns such as age:dose; the features are {listed(list(spans))}"
    )


def _random(settings: Mapping[str, Any], spans: Mapping[str, range], n_features: int) -> list[int]:
    """Positions of the terms with a random effect, in the order of the design."""
    squares, pairs = (
        settings.get("squares") or [],
        [tuple(pair) for pair in settings.get("interactions") or ()],
    )
    squared = list(range(n_features)) if squares is True else list(squares)
    chosen: list[int] = []
    for word in settings["random"]:
        if not isinstance(word, str):
            chosen.append(word)
        elif word in spans:
            chosen += spans[word]
        elif (base := word.removesuffix("^2")) in spans and base != word:
            found = [n_features + squared.index(n) for n in spans[base] if n in squared]
            if not found:
                raise UsageError(f"random={word!r}: there is no square of {base!r}: add them with --squares")
            chosen += found
        else:
            products = [pairs.index(pair) for pair in _crossed_or_refused(word, spans) if pair in pairs]
            if not products:
                raise UsageError(
                    f"random={word!r}: it is no interaction of the model: add --interactions {word}"
                )
            chosen += [n_features + len(squared) + number for number in products]
    return sorted(set(chosen))


def _crossed_or_refused(word: str, spans: Mapping[str, range]) -> Sequence[tuple[int, int]]:
    if ":" not in word:
        raise UsageError(
            f"random={word!r} is no term of the model: name features ({listed(list(spans))}), squares such as age^2 or "
            "interactions such as age:dose"
        )
    return _crossed(word, spans)
