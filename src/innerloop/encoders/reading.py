"""Many items through an encoder: in batches, each different one once, with what is known from before."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from ..errors import DataError, Guard, InnerloopError, UsageError
from .cache import Features, hash_of
from .encoder import Encoder

__all__ = ["Encoded", "Look", "encode", "encode_texts", "require_features", "watched"]

# called with the name of the encoder, the number of items that are done, and that of all
Look: TypeAlias = Callable[[str, int, int], None]

_look: ContextVar[Look | None] = ContextVar("look", default=None)


class Encoded(NamedTuple):
    """Features `rows` `(n, F)` float32, and the position of each among the items."""

    rows: np.ndarray
    positions: list[int]


@contextmanager
def watched(look: Look) -> Iterator[None]:
    """Call `look` while items are encoded inside this block.

    Example:
        >>> lengths = Encoder("lengths", "texts", lambda texts: [[len(text)] for text in texts])
        >>> with watched(print):
        ...     _ = encode(lengths, ["one", "two"])
        lengths 2 2
    """
    token = _look.set(look)
    try:
        yield
    finally:
        _look.reset(token)


def encode(
    encoder: Encoder,
    items: Sequence[Any],
    *,
    key: Callable[[Any], bytes] = lambda item: hash_of(str(item).encode()),
    load: Callable[[Any], np.ndarray] | None = None,
    guard: Guard = nullcontext,
) -> Encoded:
    """The features of items.

    Arguments:
        encoder: what makes them.
        items: texts, or whatever `load` reads.
        key: by which an item is recognised; equal ones are encoded once. Its text unless given.
        load: from an item to the array that the encoder takes of it; the item itself unless given.
        guard: what goes around each item; one that collects errors leaves those out that cannot be read.

    Returns:
        The features, of all items that could be read.

    Raises:
        DataError: no item can be read, or the encoder gives something else than features.

    Example:
        >>> lengths = Encoder("lengths", "texts", lambda texts: [[len(text)] for text in texts])
        >>> encode(lengths, ["one", "three", "one"]).rows.tolist()
        [[3.0], [5.0], [3.0]]
    """
    keys: dict[int, bytes] = {}
    for number, item in enumerate(items):
        with guard():
            keys[number] = key(item)
    features, look = Features(encoder), _look.get()
    first = {own: number for number, own in reversed(keys.items())}
    todo = sorted(number for own, number in first.items() if features.get(own) is None)
    try:
        for start in range(0, len(todo), encoder.batch):
            part = todo[start : start + encoder.batch]
            numbers, batch = _loaded(items, part, load, guard)
            if numbers:
                _keep(features, [keys[number] for number in numbers], encoder(batch), encoder.name)
            if look is not None:
                look(encoder.name, start + len(part), len(todo))
    finally:
        features.save()
    found = {number: row for number, own in keys.items() if (row := features.get(own)) is not None}
    if not found:
        raise DataError(f"there is nothing for the encoder {encoder.name} to encode: give an item or more")
    return Encoded(np.stack(list(found.values())), list(found))


def encode_texts(texts: Sequence[str], encoder: Encoder) -> np.ndarray:
    """The features `(n, F)` of texts.

    Raises:
        UsageError: the encoder takes pictures.

    Example:
        >>> lengths = Encoder("lengths", "texts", lambda texts: [[len(text)] for text in texts])
        >>> encode_texts(["one", "three"], lengths).tolist()
        [[3.0], [5.0]]
    """
    if encoder.takes == "pictures":
        raise UsageError(
            f"the encoder {encoder.name} takes pictures, and these are texts: choose wordllama or minilm"
        )
    return encode(encoder, [str(text) for text in texts]).rows


def require_features(encoder: Encoder, rows: np.ndarray, features: int) -> None:
    """Refuse rows `(n, F)` that have another number of features than in training.

    Raises:
        UsageError: they have.
    """
    if rows.shape[1] != features:
        raise UsageError(
            f"the encoder {encoder.name} is not the one of training: it gives {rows.shape[1]} features, and gave "
            f"{features}; use that of then, or train again"
        )


def _loaded(
    items: Sequence[Any], part: Sequence[int], load: Callable[[Any], np.ndarray] | None, guard: Guard
) -> tuple[list[int], Any]:
    """A batch for the encoder and the numbers of its items, without those that cannot be read."""
    if load is None:
        return list(part), [items[number] for number in part]

    def tried(number: int) -> np.ndarray | InnerloopError:
        try:
            return load(items[number])
        except InnerloopError as error:
            return error

    numbers, arrays = [], []
    # pictures are decoded outside of Python's lock
    with ThreadPoolExecutor(max_workers=min(4, os.cpu_count() or 1)) as pool:
        for number, found in zip(part, pool.map(tried, part), strict=True):
            with guard():
                if isinstance(found, InnerloopError):
                    raise found
                numbers.append(number)
                arrays.append(found)
    return numbers, np.stack(arrays) if arrays else None


def _keep(features: Features, keys: Sequence[bytes], rows: np.ndarray, name: str) -> None:
    width = features.width
    if width is not None and width != rows.shape[1]:
        raise DataError(
            f"the encoder {name} gives {rows.shape[1]} features for an item and {width} for another: it has to give "
            "equally many for all"
        )
    for own, row in zip(keys, rows, strict=True):
        features.put(own, row)
