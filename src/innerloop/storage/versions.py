"""Versions of Python and of the packages that results depend on."""

from __future__ import annotations

import platform
from importlib.metadata import version

__all__ = ["versions"]


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that results depend on.

    Example:
        >>> sorted(versions())
        ['innerloop', 'numpy', 'python', 'torch']
    """
    packages = {name: version(name) for name in ("innerloop", "torch", "numpy")}
    return {"python": platform.python_version(), **packages}
