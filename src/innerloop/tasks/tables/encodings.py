"""Bytes of a file of text as UTF-8: by its byte order mark, or by the encoding that was given."""

from __future__ import annotations

import codecs
import re
from pathlib import Path

from ...errors import DataError, UsageError
from ..messages import file_error

__all__ = ["as_utf8"]


def as_utf8(path: Path, data: bytes, encoding: str | None) -> tuple[bytes, tuple[str, ...]]:
    """Text in UTF-8, by its byte order mark, else by its encoding, which is UTF-8 unless one is given."""
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        try:
            return data.decode("utf-16").removeprefix("\ufeff").encode(), (f"{path.name} is UTF-16",)
        except UnicodeError as error:
            raise file_error(
                path, f" is not the UTF-16 that it says ({error}): save it as CSV UTF-8"
            ) from None
    data = data.removeprefix(b"\xef\xbb\xbf")
    if encoding is None and 4 * data[:2000].count(b"\0") > len(data[:2000]):
        likely = "utf-16-le" if data[1::2].count(b"\0") > data[::2].count(b"\0") else "utf-16-be"
        raise file_error(path, f" is not UTF-8: it looks like UTF-16, say so (--encoding {likely})")
    wide = encoding is not None and "16" in encoding
    try:
        if not wide:
            data.decode("utf-8")
            same = encoding is None or data.isascii() or _codec(encoding) == "utf-8"
            return data, () if same else (f"{path.name} is UTF-8, and was read so, not as {encoding}",)
    except UnicodeDecodeError as error:
        if encoding is None:
            raise _not_utf8(path, data, error.start) from None
    assert encoding is not None
    _codec(encoding)
    try:
        return data.decode(encoding).removeprefix("\ufeff").encode(), ()
    except UnicodeError as error:
        line = data.count(b"\n", 0, getattr(error, "start", 0)) + 1
        raise file_error(
            path, f", line {line}: is not {encoding} ({error}): name its encoding (--encoding cp1252)"
        ) from None


def _codec(encoding: str) -> str:
    """The name that Python has for an encoding of text."""
    try:
        name = codecs.lookup(encoding).name
        "".encode(name)
    except LookupError:  # also for codecs that are not for text
        raise UsageError(
            f"encoding={encoding!r} is unknown: give one such as cp1252 (Windows), latin-1 or utf-16"
        ) from None
    return name


def _not_utf8(path: Path, data: bytes, start: int) -> DataError:
    """The error that names the first byte that is not UTF-8, and the likeliest encoding."""
    line = data.count(b"\n", 0, start) + 1
    likely = next(name for name in ("cp1252", "latin-1") if _decodes(data, name))
    low, high = data.rfind(b"\n", 0, start) + 1, data.find(b"\n", start)
    text = data[low : high if high >= 0 else len(data)].decode(likely)
    word = next((part for part in re.split(r'[\s,;"]+', text) if not part.isascii()), text)
    name = {"cp1252": "Windows-1252", "latin-1": "Latin-1"}[likely]
    return file_error(
        path,
        f", line {line}: byte 0x{data[start]:02x} is not UTF-8; in {name} it reads {word[:40]!r}: if that is right, "
        f"say so (--encoding {likely}), or save the file as CSV UTF-8",
    )


def _decodes(data: bytes, encoding: str) -> bool:
    try:
        data.decode(encoding)
    except UnicodeDecodeError:
        return False
    return True
