"""Which tasks a model was trained on, without their names: salted hashes of ids that can be compared, not read."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from ..tasks.leaks import alike

__all__ = ["Hashed", "Members", "digest", "hashed"]

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


class Members:
    """The tasks of a run, as a directory holds them: by id where there is no salt, else by salted hash.

    Arguments:
        splits: ids or hashes of each split.
        salt: of the hashes.
        similar: hashes of what names have in common, of the tasks that training has seen.

    Example:
        >>> members = Members(*hashed({"train": ["A1"], "test": ["b"]}))
        >>> members.split_of("A1"), members.split_of("a1"), members.resembles_trained("a1")
        ('train', None, True)
    """

    def __init__(
        self, splits: Mapping[str, Sequence[str]], salt: str | None, similar: Sequence[str] | None
    ) -> None:
        self.salt = salt
        self.split = {name: part for part, names in splits.items() for name in names}
        self.similar = (
            {alike(name) for name, part in self.split.items() if part != "test"}
            if similar is None
            else {*similar}
        )

    def split_of(self, task: str) -> str | None:
        """The split that a task was in."""
        return self.split.get(self._told(task))

    def resembles_trained(self, task: str) -> bool:
        """Whether a task is called like one that training has seen."""
        return self._told(alike(task)) in self.similar

    def _told(self, name: str) -> str:
        return name if self.salt is None else digest(self.salt, name)
