"""Every open, write, fsync, rename and unlink of the package.

A file or folder is written beside its place, flushed to the disk and then renamed, so that a crash leaves the
old one or the new one.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path

from .errors import InnerloopError, ResourceError, UsageError

_FIXES = {
    errno.ENOENT: "there is no such file or folder: check the path",
    errno.ENOSPC: "no space is left: free some, or choose another folder",
    getattr(errno, "EDQUOT", -1): "the quota is used up: free some space, or choose another folder",
    errno.EACCES: "permission is denied: change the permissions, or choose another folder",
    errno.EPERM: "permission is denied: change the permissions, or choose another folder",
    errno.EROFS: "the file system is read-only: choose another folder",
    errno.ENAMETOOLONG: "the name is too long: choose a shorter one",
    errno.ENOTDIR: "a part of the path is a file: choose another path",
    errno.EISDIR: "it is a folder: give the name of a file",
    errno.ENOTEMPTY: "another process wrote there at the same time: choose another folder, or wait for it",
}
_BINARY: int = getattr(os, "O_BINARY", 0)


@contextlib.contextmanager
def explained(path: Path, error: type[InnerloopError] = ResourceError) -> Iterator[None]:
    """Errors of the operating system as one `error` that names the path and the fix."""
    if "\0" in str(path):
        raise UsageError(f"{str(path)!r} holds a NUL byte: give another path")
    try:
        yield
    except OSError as cause:
        fix = _FIXES.get(cause.errno or 0, f"{cause.strerror or cause}: check the path and the disk")
        raise error(f"{path}: {fix}") from cause


def read_bytes(path: Path, *, limit: int = -1, error: type[InnerloopError] = ResourceError) -> bytes:
    """Read a regular file.

    Arguments:
        path: the file; a pipe, device or folder is refused.
        limit: read no more bytes than these.
        error: what is raised.

    Returns:
        Its bytes.

    Raises:
        InnerloopError: it cannot be read; the class is `error`.
    """
    with explained(path, error):
        # without O_NONBLOCK, opening a pipe waits for somebody to write into it
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | _BINARY)
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            os.close(handle)
            raise error(f"{path} is not a regular file: give the name of one")
        with os.fdopen(handle, "rb") as stream:
            return stream.read(limit)


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file so that a crash leaves the old one or the new one; its mode follows the umask.

    A symbolic link stays, and the file it points to is replaced, as by a redirection of the shell.

    Raises:
        ResourceError: it cannot be written, or is a device, a pipe or anything else that is no regular file.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "answer.txt"
        >>> write_bytes(path, b"42")
        >>> path.read_bytes()
        b'42'
    """
    with explained(path):
        refuse_special(path)
        target = Path(os.path.realpath(path))
        temp = _free_sibling(target, "tmp")
        try:
            _create(temp, data)
            os.replace(temp, target)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temp)
            raise
        _sync_folder(target.parent)


def refuse_special(path: Path) -> None:
    """Refuse to write to a device, a pipe or a socket, also behind a link: a file would take its place.

    Raises:
        ResourceError: it is one.

    Example:
        >>> refuse_special(Path(os.devnull))
        Traceback (most recent call last):
        innerloop.errors.ResourceError: /dev/null is a device or pipe, no regular file: choose another name
    """
    with explained(path):
        if os.path.exists(path) and not (os.path.isfile(path) or os.path.isdir(path)):
            raise ResourceError(f"{path} is a device or pipe, no regular file: choose another name")


def append_bytes(path: Path, data: bytes) -> None:
    """Add bytes at the end of a file that is there; they are in the file, but not yet on the disk, afterwards.

    Raises:
        ResourceError: it cannot be written.
    """
    with explained(path):
        handle = os.open(path, os.O_WRONLY | os.O_APPEND | _BINARY)
        try:
            _write_all(handle, data)
        finally:
            os.close(handle)


def make_folder(path: Path) -> None:
    """Make a folder and those above it, where they are missing.

    Raises:
        ResourceError: it cannot be made.
    """
    with explained(path):
        os.makedirs(path, exist_ok=True)


def remove_file(path: Path) -> None:
    """Remove a file, if it is there and can be.

    Example:
        >>> remove_file(Path("no/such/file"))
    """
    with contextlib.suppress(OSError):
        os.unlink(path)


def write_directory(target: Path, files: Mapping[str, bytes]) -> None:
    """Write a folder of files in place of what is there; a crash leaves the old one or the new one.

    A crash between two renamings leaves the old one under a hidden name, see `set_aside`. Whether the old one
    may go is for the caller to decide: what this removes has to be a flat folder.

    Raises:
        ResourceError: it cannot be written.
    """
    with explained(target):
        target = Path(os.path.realpath(target))
        os.makedirs(target.parent, exist_ok=True)
        if os.path.lexists(target):
            _remove(*set_aside(target))
        temp = _free_sibling(target, "tmp")
        try:
            os.mkdir(temp)
            for name, data in files.items():
                _create(temp / name, data)
            _sync_folder(temp)
            _swap(temp, target)
        except BaseException:
            _remove(temp)
            raise
        _sync_folder(target.parent)
        _remove(*set_aside(target))


def _swap(temp: Path, target: Path) -> None:
    """Rename `temp` to `target`; what was there is set aside first, and put back should the renaming fail."""
    if not os.path.lexists(target):
        os.rename(temp, target)
        return
    old = _free_sibling(target, "old")
    os.rename(target, old)
    try:
        os.rename(temp, target)
    except BaseException:
        os.rename(old, target)
        raise


def set_aside(target: Path) -> list[Path]:
    """What a write of `target` renamed out of its way; still there where the write was cut short."""
    if not target.parent.is_dir():
        return []
    return sorted(path for path in target.parent.iterdir() if path.name.startswith(f".{target.name}.old-"))


def _free_sibling(target: Path, word: str) -> Path:
    """An unused name beside `target`; process numbers repeat in containers, so it may need a count."""
    stem, count = f".{target.name}.{word}-{os.getpid()}", 0
    while os.path.lexists(path := target.with_name(f"{stem}-{count}")):
        count += 1
    return path


def _create(path: Path, data: bytes) -> None:
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _BINARY, 0o666)
    try:
        _write_all(handle, data)
        os.fsync(handle)
    finally:
        os.close(handle)


def _write_all(handle: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(handle, rest) :]


def _sync_folder(folder: Path) -> None:
    if os.name == "nt":  # a folder cannot be opened there
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _remove(*folders: Path) -> None:
    """Remove flat folders of ours; what cannot be removed stays behind under its hidden name."""
    for folder in folders:
        with contextlib.suppress(OSError):
            for entry in os.listdir(folder):
                os.unlink(folder / entry)
            os.rmdir(folder)
