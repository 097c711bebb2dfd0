"""The cache of compiled programs: shared libraries on disk, each with a proof that it is whole.

The proof is the hash of the library, in a file beside it, written after a process of its own has loaded the library: a
truncated one ends the process that loads it. A library without its proof, or with another one, is made again.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

from ...errors import ResourceError
from ...files import explained, write_bytes

__all__ = ["CannotBuild", "cache_folder", "is_proved", "keep", "try_loading"]

# seconds that a process may take to load a library
_LOADING = 60
_LOAD = "import ctypes, sys; ctypes.CDLL(sys.argv[1]).run"


class CannotBuild(Exception):
    """There is no compiler, or it failed, or what it makes is wrong."""


def cache_folder() -> Path:
    """Where compiled programs are: `INNERLOOP_CACHE`, or the user's cache folder. Only the user may write there.

    Raises:
        CannotBuild: the folder cannot be made, or others may write to it.
    """
    given = os.environ.get("INNERLOOP_CACHE")
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(given) if given else Path(base) / "innerloop"
    try:
        with explained(folder):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            status = folder.stat()
    except ResourceError as error:
        raise CannotBuild(f"the cache of compiled programs: {error}") from error
    foreign = hasattr(os, "getuid") and status.st_uid != os.getuid()
    if foreign or status.st_mode & 0o022:
        raise CannotBuild(
            f"others can write to {folder}: forbid it, or name another folder by INNERLOOP_CACHE"
        )
    return folder


def is_proved(library: Path) -> bool:
    """Whether a library of the cache is there, and is what was proved when it was made.

    Arguments:
        library: its path.
    """
    try:
        return _proof(library).read_text(encoding="ascii") == _hash(library.read_bytes())
    except (OSError, ValueError):
        return False


def keep(data: bytes, library: Path) -> None:
    """Write a library that has been loaded, and its proof after it.

    Raises:
        CannotBuild: they cannot be written.
    """
    try:
        write_bytes(library, data)
        write_bytes(_proof(library), _hash(data).encode())
    except ResourceError as error:
        raise CannotBuild(f"the cache of compiled programs: {error}") from error


def try_loading(library: Path, compiler: str) -> None:
    """Load a library in a process of its own, which a damaged one may end.

    Arguments:
        library: its path.
        compiler: that made it, for the message.

    Raises:
        CannotBuild: it cannot be loaded, or has no function `run`.
    """
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-S", "-c", _LOAD, str(library)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_LOADING,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise CannotBuild(f"what {compiler} wrote cannot be tried: {error}") from error
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().splitlines()[-1:]
        raise CannotBuild(f"{compiler} wrote no whole library: {' '.join(said) or f'exit {done.returncode}'}")


def _proof(library: Path) -> Path:
    return library.with_suffix(".sha256")


def _hash(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
