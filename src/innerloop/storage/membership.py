"""Which tasks a model was trained on, without their names: salted hashes of ids that can be compared, not read."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from ..tasks.leaks import alike

__all__ = ["Hashed", "digest", "hashed"]

_DIGITS = 32


class Hashed(NamedTuple):
    """The ids of the tasks of each split as salted hashes.

    Arguments:
        splits: hashes of each split, sorted.
        salt: what is hashed before each id; it follows from all of them, so that equal runs leave equal files.
        alike: hashes of what names that are written otherwise have in common, of the tasks that training has seen.
    """

    splits: dict[str, list[str]]
    salt: str
    alike: list[str]


def digest(salt: str, name: str) -> str:
    """The salted hash of an id, in hexadecimal.

    Example:
        >>> digest("a", "patient 7") == digest("a", "patient 7") != digest("b", "patient 7")
        True
    """
    return hashlib.sha256(f"{salt}\0{name}".encode()).hexdigest()[:_DIGITS]


def hashed(splits: Mapping[str, Sequence[str]]) -> Hashed:
    """The ids of each split as salted hashes.

    Arguments:
        splits: the ids.

    Returns:
        The hashes, with which `Stored.split_of` tells whether a task was among them.

    Example:
        >>> found = hashed({"train": ["a", "b"], "test": ["c"]})
        >>> (
        ...     digest(found.salt, "b") in found.splits["train"],
        ...     digest(found.salt, "B ") in found.splits["train"],
        ... )
        (True, False)
    """
    every = sorted(name for part in splits.values() for name in part)
    salt = hashlib.sha256("\0".join(every).encode()).hexdigest()[:_DIGITS]
    seen = {alike(name) for part, names in splits.items() if part != "test" for name in names}
    return Hashed(
        {part: sorted(digest(salt, name) for name in names) for part, names in splits.items()},
        salt,
        sorted(digest(salt, name) for name in seen),
    )
