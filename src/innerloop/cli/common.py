"""What the verbs share: reading tasks by settings, scores as text, progress on stderr, `--json` on stdout."""

from __future__ import annotations

import json as json_module
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import DataError

if TYPE_CHECKING:
    from ..storage import Stored

SCHEMA_VERSION = 1


def stored_run(directory: Path, device: str) -> Stored:
    """A model directory, its model on a device."""
    from ..outer.training import resolve_device
    from ..storage import load

    return load(directory, device=resolve_device(device))


class Notes:
    """Notes for people, on stderr unless quiet."""

    def __init__(self, *, quiet: bool) -> None:
        self.quiet = quiet
        self.began = time.perf_counter()

    def __call__(self, text: str) -> None:
        """Print a line."""
        if not self.quiet:
            print(text, file=sys.stderr, flush=True)

    @property
    def seconds(self) -> float:
        """Since the verb began."""
        return round(time.perf_counter() - self.began, 3)

    @contextmanager
    def progress(self, what: str, total: int) -> Iterator[Any]:
        """A callback for `meta_train` that shows step, loss and time left."""
        if self.quiet:
            yield lambda entry: None
            return
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        console = Console(stderr=True)
        if not console.is_terminal:
            yield _PlainProgress(what, total)
            return
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=console, transient=True) as bar:
            row = bar.add_task(what, total=total)
            shown = {"text": ""}

            def callback(entry: dict[str, Any]) -> None:
                if "valid_loss" in entry:
                    shown["text"] = f"  validation {entry['valid_loss']:.4f}"
                text = f"{what}  loss {entry['loss']:.4f}{shown['text']}"
                bar.update(row, completed=entry["step"], description=text)

            yield callback


class _PlainProgress:
    """A line every ten seconds where there is no terminal."""

    def __init__(self, what: str, total: int) -> None:
        self.what, self.total, self.last = what, total, time.perf_counter()

    def __call__(self, entry: dict[str, Any]) -> None:
        now = time.perf_counter()
        if now - self.last > 10 or entry["step"] == self.total:
            self.last = now
            valid = f"  validation {entry['valid_loss']:.4f}" if "valid_loss" in entry else ""
            line = f"{self.what}  step {entry['step']}/{self.total}  loss {entry['loss']:.4f}{valid}"
            print(line, file=sys.stderr, flush=True)


def emit(command: str, seed: int | None, notes: Notes, settings: dict[str, Any], **content: Any) -> None:
    """The one JSON object of a verb."""
    head = {
        "schema_version": SCHEMA_VERSION,
        "command": command,
        "seed": seed,
        "seconds": notes.seconds,
        "settings": {key: value for key, value in settings.items() if value is not None},
    }
    print(json_module.dumps(_finite(head | content), default=str, allow_nan=False))


def _finite(value: Any) -> Any:
    """JSON has no NaN: what is undefined becomes null."""
    if isinstance(value, dict):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(entry) for entry in value]
    return None if isinstance(value, float) and not -float("inf") < value < float("inf") else value


def require_rows(frame: Any, what: str) -> None:
    """Refuse an empty table."""
    if len(frame) == 0:
        raise DataError(f"{what} has no row")
