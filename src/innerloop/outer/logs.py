"""Where the entries of a training log go while it runs: a file of JSON lines, TensorBoard, or anything of one's own.

A logger is called with each entry, and closed at the end, so any of them can be passed to `meta_train` among
its `callbacks`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Protocol

from .. import files
from ..errors import UsageError

__all__ = ["Entry", "JsonLines", "Logger", "TensorBoard", "logging"]

Entry = dict[str, float]  # of a log: `step`, `loss`, `meta_lr`, and `valid_loss` where it was measured


class Logger(Protocol):
    """What receives the entries of a log: `step`, `loss`, `meta_lr`, and `valid_loss` where it was measured.

    Example:
        >>> import innerloop as il
        >>> from innerloop.outer.logs import JsonLines
        >>> import tempfile
        >>> tasks, path = il.tasks.sinusoid(n_support=5), Path(tempfile.mkdtemp()) / "log.jsonl"
        >>> learner = il.maml(il.models.mlp(1, [8], 1), loss="mse", inner_steps=1)
        >>> with logging(JsonLines(path)) as callbacks:
        ...     run = il.meta_train(learner, tasks.train, steps=2, callbacks=callbacks)
        >>> [json.loads(line)["step"] for line in path.read_text().splitlines()]
        [1, 2]
    """

    def __call__(self, entry: Mapping[str, object]) -> None:
        """Take an entry."""

    def close(self) -> None:
        """Write what is left; nothing comes after it."""


class JsonLines:
    """A file with one JSON object a line, complete after each entry; what is not finite is null.

    Arguments:
        path: the file; the first entry creates it. Of one that is there, the lines up to the update before that entry
            stay: all where a training goes on, none where one begins.

    Raises:
        ResourceError: it cannot be written, when an entry comes.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.begun = path, False

    def __call__(self, entry: Mapping[str, object]) -> None:
        """Append a line."""
        plain = {
            key: None if isinstance(value, float) and not math.isfinite(value) else value
            for key, value in entry.items()
        }
        line = (json.dumps(plain, allow_nan=False) + "\n").encode()
        if self.begun:
            files.append_bytes(self.path, line)
            return
        files.make_folder(self.path.parent)
        files.write_bytes(self.path, b"".join(self._before(entry)) + line)
        self.begun = True

    def _before(self, entry: Mapping[str, object]) -> list[bytes]:
        """The lines that are there, up to the update before an entry."""
        lines = self.path.read_bytes().splitlines(keepends=True) if self.path.is_file() else []
        mark = f'"step": {int(str(entry["step"])) - 1},'.encode()
        last = max((number for number, line in enumerate(lines) if mark in line), default=-1)
        return lines[: last + 1]

    def close(self) -> None:
        """Every line is in the file already."""


class TensorBoard:
    """Event files for TensorBoard, one scalar a number of the entry; it needs the extra `tensorboard`.

    Arguments:
        folder: where; `tensorboard --logdir FOLDER` shows it.

    Raises:
        UsageError: TensorBoard is not installed.
    """

    def __init__(self, folder: Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise UsageError(
                "writing for TensorBoard needs it installed: pip install 'innerloop[tensorboard]'"
            ) from None
        self._make: Callable[[], object] = lambda: SummaryWriter(str(folder))
        self._writer: Any = None

    def __call__(self, entry: Mapping[str, object]) -> None:
        """Add the numbers of an entry at its step."""
        self._writer = self._writer or self._make()
        for name, value in entry.items():
            if name != "step" and isinstance(value, int | float):
                self._writer.add_scalar(name, value, entry["step"])

    def close(self) -> None:
        """Write what is left."""
        if self._writer is not None:
            self._writer.close()


@contextmanager
def logging(
    *loggers: Logger, warn: Callable[[str], None] | None = None
) -> Iterator[Sequence[Callable[[Entry], None]]]:
    """Callbacks for `meta_train` out of loggers, which are closed at the end, whatever happens.

    A logger that raises does not stop the training: it is left out from then on.

    Arguments:
        loggers: where entries go.
        warn: called once for a logger that failed, with a sentence; nothing is said unless given.
    """
    with ExitStack() as stack:
        guarded = [_Guarded(logger, warn or (lambda text: None)) for logger in loggers]
        for one in guarded:
            stack.callback(one.close)
        yield guarded


class _Guarded:
    """A logger that is left out once it has failed."""

    def __init__(self, logger: Logger, warn: Callable[[str], None]) -> None:
        self.logger, self.warn, self.failed = logger, warn, False

    def __call__(self, entry: Entry) -> None:
        self._try(lambda: self.logger(entry))

    def close(self) -> None:
        self._try(self.logger.close)

    def _try(self, act: Callable[[], None]) -> None:
        if self.failed:
            return
        try:
            act()
        except Exception as error:
            self.failed = True
            name = type(self.logger).__name__
            self.warn(f"note: the log is not written any more, training goes on: {name}: {error}")
