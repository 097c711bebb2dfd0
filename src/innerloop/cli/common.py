"""What verbs do alike: open a model directory, tell progress on stderr, print `--json` on stdout."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sized
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import DataError, message_of
from .text import say

if TYPE_CHECKING:
    from ..storage import Stored

__all__ = ["Notes", "emit", "fingerprint", "require_rows", "stored_run"]

SCHEMA_VERSION = 1


def stored_run(directory: Path, device: str) -> Stored:
    """A model directory, its model on a device; `auto` is the CPU until the work is known."""
    from ..storage import load

    return load(directory, device="cpu" if device == "auto" else device)


def fingerprint(data: str | Path) -> dict[str, str | None]:
    """The name of a data set, and the sha256 of its file, or of names and content of the files in its folder.

    Example:
        >>> fingerprint("sinusoid")
        {'name': 'sinusoid', 'sha256': None}
    """
    from ..files import explained, read_bytes
    from ..storage.manifest import sha256

    path, found = Path(data), None
    with explained(path, DataError):
        if path.is_file():
            found = sha256(read_bytes(path, error=DataError))
        elif path.is_dir():
            inside = [each for each in sorted(path.rglob("*")) if each.is_file() and each.name[0] != "."]
            lines = [
                f"{sha256(read_bytes(each, error=DataError))} {each.relative_to(path)}" for each in inside
            ]
            found = sha256("\n".join(lines).encode("utf-8", "surrogateescape"))
    return {"name": str(data), "sha256": found}


class Notes:
    """Notes for people, on stderr unless quiet."""

    def __init__(self, *, quiet: bool) -> None:
        self.quiet = quiet
        self.began = time.perf_counter()

    def __call__(self, text: str) -> None:
        """Print a line."""
        if not self.quiet:
            say(message_of(text), file=sys.stderr)

    @property
    def seconds(self) -> float:
        """Since the verb began."""
        return round(time.perf_counter() - self.began, 3)

    @contextmanager
    def progress(self, what: str, total: int) -> Iterator[Callable[[dict[str, Any]], None]]:
        """A callback for `meta_train` that shows step, loss and time left."""
        if self.quiet:
            yield lambda entry: None
            return
        from ..outer.progress import progress

        with progress(what, total, say=self) as show:
            yield show


def emit(
    command: str, seed: int | None, notes: Notes, settings: Mapping[str, object], **content: object
) -> None:
    """The one JSON object of a verb."""
    head = {
        "schema_version": SCHEMA_VERSION,
        "command": command,
        "seed": seed,
        "seconds": notes.seconds,
        "settings": {key: value for key, value in settings.items() if value is not None},
    }
    print(json.dumps(_finite(head | content), default=str, allow_nan=False))


def _finite(value: object) -> object:
    """JSON has no NaN: what is undefined becomes null."""
    if isinstance(value, dict):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def require_rows(frame: Sized, what: str) -> None:
    """Refuse an empty table."""
    if len(frame) == 0:
        raise DataError(f"{what} has no row")
