"""Where data sets lie on this machine: the folder that people name, and the cache of what is drawn."""

from __future__ import annotations

import os
from pathlib import Path

from ...errors import DataError

__all__ = ["cache_folder", "data_folder", "not_here"]


def data_folder(data: str | None) -> Path | None:
    """The folder given, else the one that INNERLOOP_DATA names; `None` where neither is."""
    base = data or os.environ.get("INNERLOOP_DATA")
    return Path(base).expanduser() if base else None


def not_here(name: str, data: str | None, way_out: str, *, why: str = "") -> DataError:
    """The error of a data set that is in no folder."""
    base = data or os.environ.get("INNERLOOP_DATA")
    looked = f"not in {base}" if base else "no data folder is named"
    return DataError(
        f"the data set {name!r} is not here ({looked}{why}): {way_out} with --data FOLDER or INNERLOOP_DATA"
    )


def cache_folder() -> Path | None:
    """Where drawn data is kept; `None` for a user without a home."""
    named = os.environ.get("INNERLOOP_CACHE")
    if named:
        return Path(named).absolute()
    try:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError:
        return None
    return base.absolute() / "innerloop"
