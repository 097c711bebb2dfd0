"""The C compiler: C source as a function in this process, compiled once and then loaded from a cache on disk.

The cache key is a hash of source, flags, compiler and processor; what it names is a shared library. A compiler is
trusted only with flags with which it passes the self-test (`selftest`), once a process.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

from ...files import explained, write_bytes
from .selftest import passes
from .selftest import source as selftest_source

__all__ = ["CannotBuild", "Function", "compile_c", "vector_bytes"]

# `run` of a program: of the address of a table of pointers, its width, and the number of calls
Function = Callable[[int, int, int], int]
# shapes are constants, so O3 unrolls and vectorises; no option here changes what NaN and infinity do
_FLAGS = (
    *("-O3", "-march=native", "-fno-math-errno", "-fno-trapping-math", "-fwrapv", "-fopenmp-simd"),
    *("-std=gnu11", "-w", "-shared", "-fPIC", "-pthread", "-x", "c"),
)
# tried in turn on a compiler that fails the self-test: gcc 12.2 loses the last numbers of a loop when it vectorises
# what it has unrolled
_SAFER = ((), ("-fno-tree-slp-vectorize",), ("-O1", "-fno-tree-vectorize"))


class CannotBuild(Exception):
    """There is no compiler, or it failed, or what it makes is wrong."""


def compile_c(source: str) -> Function:
    """The function `run` of some C source, compiled unless it is in the cache.

    Arguments:
        source: C that defines `int run(char **p, int64_t width, int64_t calls)`.

    Returns:
        The function; it lets other Python threads run meanwhile.

    Raises:
        CannotBuild: there is no C compiler, or it failed, or it fails the self-test.
    """
    compiler = _compiler()
    return _load(compiler, source, _flags(compiler))


@functools.cache
def _flags(compiler: str) -> tuple[str, ...]:
    """The first flags with which the compiler passes the self-test on this machine: see `_SAFER`."""
    for safer in _SAFER:
        if passes(_load(compiler, selftest_source(), (*_FLAGS, *safer))):
            return (*_FLAGS, *safer)
    raise CannotBuild(f"{compiler} compiles loops wrongly on this machine, with vectors and without")


def _load(compiler: str, source: str, flags: tuple[str, ...]) -> Function:
    """As `compile_c`, with these flags."""
    name = hashlib.sha256("\0".join([source, *flags, compiler, _machine()]).encode()).hexdigest()[:32]
    path = _cache_folder() / f"{name}.so"
    if not path.is_file():
        _compile(compiler, source, flags, path)
    run = ctypes.CDLL(str(path)).run
    run.argtypes = [ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64]
    run.restype = ctypes.c_int
    return run


def _cache_folder() -> Path:
    """Where compiled programs are: `INNERLOOP_CACHE`, or the user's cache folder. Only the user may write there."""
    given = os.environ.get("INNERLOOP_CACHE")
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(given) if given else Path(base) / "innerloop"
    with explained(folder):
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        status = folder.stat()
    foreign = hasattr(os, "getuid") and status.st_uid != os.getuid()
    if foreign or status.st_mode & 0o022:
        raise CannotBuild(f"others can write to {folder}")
    return folder


def _compile(compiler: str, source: str, flags: tuple[str, ...], path: Path) -> None:
    """Compile to a temporary file, and write the cache from that in one step."""
    with tempfile.TemporaryDirectory(prefix="innerloop-") as folder:
        out = Path(folder) / "step.so"
        try:
            process = subprocess.Popen(
                [*compiler.split(), *flags, "-", "-o", str(out), "-lm"],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                start_new_session=True,
            )
            _, messages = _communicate(process, source)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise CannotBuild(f"{compiler}: {error}") from error
        if process.returncode:
            first = messages.decode(errors="replace").strip().splitlines()[:1]
            raise CannotBuild(f"{compiler} failed: {' '.join(first)}")
        write_bytes(path, out.read_bytes())


def _communicate(process: subprocess.Popen[bytes], source: str) -> tuple[bytes, bytes]:
    """What a compiler prints; if it is interrupted or takes too long, its whole process group is killed."""
    try:
        return process.communicate(source.encode(), timeout=300)
    except BaseException:
        if hasattr(os, "killpg"):
            os.killpg(process.pid, signal.SIGKILL)
        process.kill()
        process.wait()
        raise


@functools.cache
def _compiler() -> str:
    """The first compiler there is of `CC`, cc, gcc and clang."""
    for name in filter(None, (os.environ.get("CC"), "cc", "gcc", "clang")):
        if shutil.which(name.split()[0]):
            return name
    raise CannotBuild("no C compiler was found")


@functools.cache
def vector_bytes() -> int:
    """Bytes of the vectors that the machine computes with: 64 with AVX-512, else 32."""
    return 64 if "avx512f" in _machine() else 32


@functools.cache
def _machine() -> str:
    """What `-march=native` depends on, part of the cache key: machines may share a cache."""
    try:
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
        flags = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    except OSError:
        flags = ""
    return f"{platform.machine()} {platform.processor()} {flags}"
