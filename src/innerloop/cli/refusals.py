"""What options of every verb must not be, refused before any work."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from ..errors import ResourceError, UsageError
from ..files import refuse_special
from .options import option_name

__all__ = ["refuse_senseless", "require_least", "require_place", "require_steps"]


def require_least(settings: Mapping[str, object], least: Mapping[str, int]) -> None:
    """Refuse numbers that are lower than their least value."""
    for key, lowest in least.items():
        value = settings[key]
        if isinstance(value, int | float) and value < lowest:
            raise UsageError(f"{option_name(key)} {value}: give {lowest} or more")


def refuse_senseless(settings: Mapping[str, object], what: str) -> None:
    """Refuse an option that was given and has no meaning for what is at hand."""
    for key, value in settings.items():
        if value is not None:
            raise UsageError(f"{option_name(key)} has no meaning for {what}: leave it out")


def require_steps(inner_steps: int | None) -> None:
    """Refuse a number of inner steps that is negative, or so high that adaptation would not end."""
    require_least({"inner_steps": inner_steps}, {"inner_steps": 0})
    if inner_steps is not None:
        from ..inner.learner import require_steps as of_learners

        of_learners(inner_steps)


def require_place(place: Path) -> None:
    """Refuse a file or folder that nothing can be written to, before hours of work and not after them."""
    refuse_special(place)
    folder = place.absolute().parent
    while not os.path.lexists(folder):
        folder = folder.parent
    if not folder.is_dir():
        raise UsageError(f"{place}: {folder} is a file, not a folder: choose another place")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise ResourceError(f"{place}: you may not write to {folder}: choose another place")
