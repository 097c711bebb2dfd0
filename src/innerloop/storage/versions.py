"""The versions of everything that results depend on."""

from __future__ import annotations

import platform
from importlib.metadata import version

import torch

__all__ = ["versions"]


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that results depend on; that of torch names its build, as `+cpu`.

    Example:
        >>> sorted(versions())
        ['innerloop', 'numpy', 'python', 'torch']
    """
    # the metadata of a wheel may leave the build out
    build = str(torch.__version__)
    return {
        "python": platform.python_version(),
        "innerloop": version("innerloop"),
        "torch": build,
        "numpy": version("numpy"),
    }
