"""The C compiler: C source as a function in this process, compiled once and then loaded from a cache on disk.

The cache key is a hash of source, flags, compiler and processor; what it names is a shared library (`library_cache`). A
compiler is trusted only with flags with which it passes the self-test (`selftest`), once a process.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import logging
import os
import platform
import shlex
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

from .library_cache import CannotBuild, cache_folder, is_proved, keep, try_loading
from .selftest import passes
from .selftest import source as selftest_source

__all__ = ["Function", "command", "compile_c", "vector_bytes"]

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
# seconds after which it is said that the compiler is waited for; after which the self-test, some dozen short loops, and
# after which any program is given up
_SAID, _LONGEST_TEST, _LONGEST = 10, 60, 300
_LOG = logging.getLogger(__name__)


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


def command() -> str:
    """The compiler and the flags in use, safer ones after the self-test included.

    Raises:
        CannotBuild: see `compile_c`.
    """
    compiler = _compiler()
    return " ".join([compiler, *_flags(compiler)])


def _flags(compiler: str) -> tuple[str, ...]:
    """The first flags with which the compiler passes the self-test on this machine: see `_SAFER`."""
    answer = _tested(compiler)
    if isinstance(answer, str):
        raise CannotBuild(answer)
    return answer


@functools.cache
def _tested(compiler: str) -> tuple[str, ...] | str:
    """As `_flags`, or why there are none: a compiler that never answers is not asked again."""
    for safer in _SAFER:
        try:
            run = _load(compiler, selftest_source(), (*_FLAGS, *safer), limit=_LONGEST_TEST)
        except CannotBuild as error:
            return str(error)
        if passes(run):
            return (*_FLAGS, *safer)
    return f"{compiler} compiles loops wrongly on this machine, with vectors and without"


def _load(compiler: str, source: str, flags: tuple[str, ...], *, limit: float = _LONGEST) -> Function:
    """As `compile_c`, with these flags, and so many seconds for the compiler."""
    key = "\0".join([source, *flags, compiler, _identity(compiler), _machine()])
    path = cache_folder() / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.so"
    if not is_proved(path):
        _compile(compiler, source, flags, path=path, limit=limit)
    try:
        run = ctypes.CDLL(str(path)).run
    except (OSError, AttributeError) as error:
        raise CannotBuild(f"a compiled program cannot be loaded: {error}") from error
    run.argtypes = [ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64]
    run.restype = ctypes.c_int
    return run


def _compile(compiler: str, source: str, flags: tuple[str, ...], *, path: Path, limit: float) -> None:
    """Compile to a temporary file, load that in another process, and write the cache from it."""
    with tempfile.TemporaryDirectory(prefix="innerloop-") as folder:
        out = Path(folder) / "step.so"
        try:
            process = subprocess.Popen(
                [*shlex.split(compiler), *flags, "-", "-o", str(out), "-lm"],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                start_new_session=True,
            )
            messages = _communicate(process, compiler, source, limit=limit)
        except OSError as error:
            raise CannotBuild(f"{compiler}: {error}") from error
        if process.returncode:
            first = messages.decode(errors="replace").strip().splitlines()[:1]
            raise CannotBuild(f"{compiler} failed: {' '.join(first)}")
        if not out.is_file():
            raise CannotBuild(f"{compiler} wrote no library, and reported no error")
        try_loading(out, compiler)
        keep(out.read_bytes(), path)


def _communicate(process: subprocess.Popen[bytes], compiler: str, source: str, *, limit: float) -> bytes:
    """What a compiler prints; if it is interrupted or takes too long, its whole process group is killed."""
    said = min(_SAID, limit)
    with process:
        try:
            try:
                return process.communicate(source.encode(), timeout=said)[1]
            except subprocess.TimeoutExpired:
                _LOG.warning("waiting for the C compiler %r, for at most %.0f s more", compiler, limit - said)
            return process.communicate(timeout=limit - said)[1]
        except BaseException as error:
            if hasattr(os, "killpg"):
                os.killpg(process.pid, signal.SIGKILL)
            process.kill()
            if isinstance(error, subprocess.TimeoutExpired):
                raise CannotBuild(f"{compiler} did not answer within {limit:.0f} s") from error
            raise


def _compiler() -> str:
    """What `CC` names, else the first there is of cc, gcc and clang."""
    if named := os.environ.get("CC", "").strip():
        if _program(named) is None:
            raise CannotBuild(f"CC names {named!r}, which is no program: correct it, or unset it")
        return named
    for name in ("cc", "gcc", "clang"):
        if _program(name):
            return name
    raise CannotBuild("no C compiler was found")


def _program(compiler: str) -> str | None:
    """The path of the program that a command begins with; `None` if there is none."""
    try:
        return shutil.which(shlex.split(compiler)[0])
    except ValueError:  # a quotation mark without its partner
        return None


@functools.cache
def _identity(compiler: str) -> str:
    """File, size and time of a compiler, part of the cache key: a new version of it is tested again."""
    path = os.path.realpath(_program(compiler) or compiler)
    try:
        status = Path(path).stat()
    except OSError:
        return path
    return f"{path} {status.st_size} {status.st_mtime_ns}"


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
