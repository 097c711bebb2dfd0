"""Every open, write, fsync, rename and unlink of the package.

A file or folder is written beside its place, flushed to the disk and then renamed, so that a crash leaves the
old one or the new one.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import stat
import sys
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
        missing = not os.path.lexists(path)
        os.makedirs(path, exist_ok=True)
        if missing:
            _sync_folder(Path(os.path.realpath(path)).parent)


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


def remove_directory(path: Path) -> None:
    """Remove a flat folder: it is renamed first, so that a part of it never stands under its name.

    What cannot be removed stays behind under a hidden name, see `remove_leftovers`.
    """
    with contextlib.suppress(OSError):
        old = _free_sibling(path, "gone")
        os.rename(path, old)
        _remove(old)


def remove_empty(path: Path, *names: str) -> None:
    """Remove a folder that holds nothing but files of these names; any other stays as it is."""
    with contextlib.suppress(OSError):
        if set(os.listdir(path)) <= set(names):
            for name in names:
                remove_file(path / name)
            os.rmdir(path)


def remove_leftovers(folder: Path) -> None:
    """Remove what writes and removals inside a folder left behind that were cut short; nothing else may write there.

    A folder that was set aside for one that never came is put back.
    """
    with explained(folder):
        for path in sorted(folder.iterdir()):
            name, word = _leftover(path.name)
            if word == "old" and not os.path.lexists(folder / name):
                os.rename(path, folder / name)
            elif word and path.is_dir():
                _remove(path)
            elif word:
                remove_file(path)


def _leftover(name: str) -> tuple[str, str]:
    """The name and the word that `_free_sibling` made a hidden name of; empty for other names."""
    found = re.fullmatch(r"\.(.+)\.(tmp|old|gone)-\d+-\d+", name)
    return (found[1], found[2]) if found else ("", "")


class Lock:
    """A file that one process at a time can hold; the system lets go of it when the process ends, however it does.

    Arguments:
        path: the file; what its holder wrote into it stays there.

    Example:
        >>> import tempfile
        >>> lock = Lock(Path(tempfile.mkdtemp()) / "lock")
        >>> lock.take(b"mine"), Lock(lock.path).take(b"theirs"), lock.path.read_bytes()
        (True, False, b'mine')
        >>> lock.release()
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._handle: int | None = None

    def take(self, owner: bytes) -> bool:
        """Hold the file and write `owner` into it; false where somebody else holds it.

        Raises:
            ResourceError: it cannot be written.
        """
        with explained(self.path):
            while True:
                handle = os.open(self.path, os.O_RDWR | os.O_CREAT | _BINARY, 0o666)
                try:
                    if not _take(handle):
                        return False
                    # its last holder may have removed it meanwhile
                    if self._is(handle):
                        os.ftruncate(handle, 0)
                        _write_all(handle, owner)
                        self._handle = handle
                        return True
                finally:
                    if self._handle is None:
                        os.close(handle)

    def release(self) -> None:
        """Remove the file and let go of it."""
        if self._handle is None:
            return
        try:
            if os.name != "nt" and self._is(self._handle):  # an open file cannot be removed there
                remove_file(self.path)
        finally:
            with contextlib.suppress(OSError):
                os.close(self._handle)
            self._handle = None

    def _is(self, handle: int) -> bool:
        """Whether an open file is the one that stands under the path."""
        return os.path.lexists(self.path) and os.path.samestat(os.fstat(handle), os.lstat(self.path))


def _take(handle: int) -> bool:
    """Lock an open file; a file system that knows no locks lets everybody have it."""
    try:
        if sys.platform == "win32":
            import msvcrt

            # beyond what is written, so that others can read it
            os.lseek(handle, 1 << 30, os.SEEK_SET)
            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
            os.lseek(handle, 0, os.SEEK_SET)
        else:
            import fcntl

            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno in (errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK)
    return True


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
