"""Encoders of the verbs: those that somebody asked for by name, and how far they are."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from .common import Notes

__all__ = ["encoding_told", "known_encoder", "use_encoder"]

# seconds between two lines
_PAUSE = 10


def use_encoder(name: str | None) -> None:
    """Make an encoder known that somebody asked for on the command line."""
    from ..encoders import use

    if name is not None:
        use(name)


def known_encoder(name: str | None) -> None:
    """Refuse an encoder that a model directory names and nobody has asked for.

    Raises:
        UsageError: it is no part of this package, and `--encoder` does not name it.
    """
    from ..encoders import encoder

    if name is not None:
        encoder(name)


@contextmanager
def encoding_told(notes: Notes) -> Iterator[None]:
    """Say every ten seconds how many pictures, texts or files are encoded, and how long the others will take."""
    from ..encoders import watched

    began = last = time.perf_counter()

    def look(name: str, done: int, total: int) -> None:
        nonlocal last
        now = time.perf_counter()
        if now - last > _PAUSE:
            last = now
            left = (now - began) * (total - done) / done
            notes(f"{name}: {done} of {total} encoded, about {left:.0f} s left")

    with watched(look):
        yield
