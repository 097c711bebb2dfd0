"""Checkpoints: a folder that a training saves its states in, so that it can go on after whatever ended it."""

from __future__ import annotations

import json
import os
import platform
import re
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from .. import files
from ..errors import InnerloopError, ModelFileError, ResourceError, UsageError
from ..inner.learner import Learner
from ..outer.state import UNPLANNED, TrainingState
from ..tasks.sources import Source
from .fingerprints import MACHINE, about, changes
from .manifest import CHECKPOINT, read_sealed, seal
from .plain_json import JsonObject, parse_json, to_json, without_nan
from .training_states import log_lines, packed, unpacked

__all__ = ["Checkpoints"]

_SECONDS = 60.0  # between two checkpoints, where updates do not tell
_STEP = re.compile(r"step-(\d{9,})")
_PART = re.compile(r"[^a-z0-9.]+")
_LOCK, _PIN, _REQUEST = "lock", ".pin", "request"
# a state that may be the last one is tried to be saved so often, with a pause in between
_TRIES, _PAUSE = 3, 0.5


class Checkpoints:
    """A folder of checkpoints of one training; `meta_train(checkpoints=)` saves into it and goes on from it.

    A checkpoint is a folder `step-000000120` that appears whole or not at all, with a manifest that tells damage. A
    training that goes on from one ends as if it had never stopped, to the bit, on the same machine with as many
    threads. While a training runs, no other one can use the folder.

    Arguments:
        folder: where; it is made if it is missing.
        every: updates between checkpoints; one a minute unless given. The last state is saved too, and the present one
            on Ctrl-C and SIGTERM.
        keep: how many are kept; each holds the best meta-parameters so far. Those pinned (`pin`) stay beside them.
        allow_changes: go on although the learner, the tasks, the settings or the version of this package are others.
        warn: called with a sentence where something is amiss that does not end the training.

    Raises:
        UsageError: a number has no meaning.

    Example:
        >>> import tempfile, innerloop as il
        >>> folder = Path(tempfile.mkdtemp()) / "run"
        >>> learner = il.maml(il.models.mlp(1, [8], 1), loss="mse", inner_steps=1)
        >>> source = il.tasks.sinusoid(n_support=5).train
        >>> for _ in range(2):  # the second one finds that everything is done
        ...     run = il.meta_train(
        ...         learner, source, steps=30, device="cpu", checkpoints=il.Checkpoints(folder, every=10)
        ...     )
        >>> il.Checkpoints(folder).steps
        [20, 30]
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        every: int | None = None,
        keep: int = 2,
        allow_changes: bool = False,
        warn: Callable[[str], None] = warnings.warn,
    ) -> None:
        for name, value in (("every", 1 if every is None else every), ("keep", keep)):
            if value < 1:
                raise UsageError(f"{name}={value}: give 1 or more")
        self.folder, self.every, self.kept = Path(folder), every, keep
        self.allow_changes, self.warn = allow_changes, warn
        self._lock = files.Lock(self.folder / _LOCK)
        self._entered = 0
        self._about: JsonObject = {}
        self._log: list[bytes] = []
        self._saved = time.monotonic()

    def __enter__(self) -> Checkpoints:
        """Take the folder; nobody else may save into it until `__exit__`.

        Raises:
            ResourceError: another training has it, or it cannot be written.
        """
        if self._entered == 0:
            files.make_folder(self.folder)
            if not self._lock.take(_myself()):
                raise ResourceError(
                    f"another training saves its checkpoints in {self.folder}{_holder(self.folder / _LOCK)}: wait "
                    "for it, or choose another folder"
                )
            try:
                files.remove_leftovers(self.folder)
            except BaseException:
                self._lock.release()
                raise
        self._entered += 1
        return self

    def __exit__(self, *error: object) -> None:
        """Let go of the folder, and remove it where nothing was saved."""
        self._entered -= 1
        if self._entered == 0:
            self._lock.release()
            files.remove_empty(self.folder)

    @property
    def steps(self) -> list[int]:
        """Updates after which there are checkpoints, ascending."""
        if not self.folder.is_dir():
            return []
        found = [_STEP.fullmatch(path.name) for path in self.folder.iterdir()]
        return sorted(int(match[1]) for match in found if match)

    def path(self, step: int) -> Path:
        """The folder of a checkpoint."""
        return self.folder / f"step-{step:09d}"

    def part(self, name: str) -> Checkpoints:
        """A folder in this one, for one of several trainings that belong together."""
        inside = self.folder / _PART.sub("-", name.lower()).strip("-.")
        return Checkpoints(
            inside, every=self.every, keep=self.kept, allow_changes=self.allow_changes, warn=self.warn
        )

    def newest(
        self, learner: Learner, source: Source, valid: Source | None, settings: Mapping[str, object]
    ) -> TrainingState | None:
        """The state of the newest checkpoint that is whole; `None` where there is none.

        Arguments:
            learner: the algorithm.
            source: meta-train tasks.
            valid: meta-validation tasks.
            settings: of the training, by name; plain data.

        Raises:
            UsageError: it is of another training, and `allow_changes` is not given.
            ModelFileError: there are checkpoints, and none is whole.
        """
        self._about = json.loads(to_json(without_nan(about(learner, source, valid, settings))))
        self._saved = time.monotonic()
        found = self._whole()
        if found is None:
            self._log = []
            return None
        state, before = found
        self._log = log_lines(state.log)
        if self._changed(before, state.step):
            # what was planned for another machine
            return state._replace(at_once=UNPLANNED)
        return state

    def _whole(self) -> tuple[TrainingState, JsonObject] | None:
        """The newest checkpoint that can be read, and what its training is."""
        steps = self.steps
        for step in reversed(steps):
            try:
                return unpacked(read_sealed(self.path(step), CHECKPOINT))
            except (ModelFileError, ResourceError) as error:
                self.warn(f"the checkpoint after update {step} is left aside: {error}")
        if steps:
            raise ModelFileError(
                f"{self.folder}: none of {len(steps)} checkpoints can be read: remove the folder to begin again"
            )
        return None

    def _changed(self, before: JsonObject, step: int) -> bool:
        """Whether the machine is another one; refuse another training, unless it is allowed."""
        found = changes(self._about, before)
        machine = [words for name, words in found.items() if name.startswith(f"{MACHINE}.")]
        other = [words for name, words in found.items() if not name.startswith(f"{MACHINE}.")]
        if other and not self.allow_changes:
            raise UsageError(
                f"{self.path(step)} is of another training: {'; '.join(other)}. Give what was given then, allow the "
                "changes (--allow-changes; allow_changes=True), or choose another folder"
            )
        if other or machine:
            self.warn(
                f"the training goes on from update {step} with changes, so that its result is not that of an "
                f"uninterrupted one to the bit: {'; '.join([*other, *machine])}"
            )
        return bool(other or machine)

    def due(self, step: int) -> bool:
        """Whether the state after so many updates is to be saved."""
        if self.every is not None:
            return step % self.every == 0
        return time.monotonic() - self._saved >= _SECONDS

    def save(self, state: TrainingState, *, now: bool = False) -> bool:
        """Write a checkpoint, and remove the oldest ones; whether that went well.

        Arguments:
            state: the state.
            now: it may be the last one, so it is tried several times.
        """
        for left in reversed(range(_TRIES if now else 1)):
            try:
                self._write(state)
            except (InnerloopError, OSError, ValueError, TypeError) as error:
                if left:
                    time.sleep(_PAUSE)
                    continue
                self._saved = time.monotonic()
                self.warn(
                    f"the checkpoint after update {state.step} could not be written, and the last one is "
                    f"{self._last()}: {error}"
                )
                return False
            self._saved = time.monotonic()
            self._prune()
            return True
        return False

    def _write(self, state: TrainingState) -> None:
        known = [entry for entry in state.log[len(self._log) :] if entry["step"] <= state.step]
        self._log += log_lines(known)
        contents = packed(state, self._about, self._log)
        files.write_directory(self.path(state.step), seal(contents, CHECKPOINT))

    def _last(self) -> str:
        steps = self.steps
        return f"that after update {steps[-1]}" if steps else "not there yet"

    def _prune(self) -> None:
        """Remove all but the newest ones and those that are pinned."""
        for step in self.steps[: -self.kept]:
            if not self._pinned(step).exists():
                files.remove_directory(self.path(step))

    def pin(self, step: int) -> None:
        """Let a checkpoint stay, however many come after it; a file `step-000000120.pin` beside it says so.

        Raises:
            UsageError: there is none after so many updates.
        """
        if step not in self.steps:
            raise UsageError(f"{self.folder} has no checkpoint after update {step}: there are {self.steps}")
        files.write_bytes(self._pinned(step), b"")

    def _pinned(self, step: int) -> Path:
        return self.path(step).with_suffix(_PIN)

    def ask(self, request: JsonObject) -> None:
        """Write down what was asked for, so that the training can go on from the folder alone."""
        files.write_directory(self.folder / _REQUEST, seal({"request.json": to_json(request)}, CHECKPOINT))

    def asked(self) -> JsonObject | None:
        """What was asked for; `None` where nothing is written down.

        Raises:
            ModelFileError: it is damaged.
        """
        if not (self.folder / _REQUEST).is_dir():
            return None
        sealed = read_sealed(self.folder / _REQUEST, CHECKPOINT)
        where = str(sealed.folder / "request.json")
        found = parse_json(sealed.contents.get("request.json", b""), where)
        if not isinstance(found, dict):
            raise ModelFileError(f"{where}: no request; remove the folder to begin again")
        return found

    def remove(self) -> None:
        """Remove all checkpoints, after the training has come to its end; other files stay, with the folder."""
        for step in self.steps:
            files.remove_file(self._pinned(step))
            files.remove_directory(self.path(step))
        files.remove_directory(self.folder / _REQUEST)
        for part in self._parts():
            part.remove()
            files.remove_empty(part.folder, _LOCK)

    def _parts(self) -> Iterator[Checkpoints]:
        for path in sorted(self.folder.iterdir() if self.folder.is_dir() else ()):
            if path.is_dir() and not path.name.startswith("."):
                yield Checkpoints(path)


def _myself() -> bytes:
    return json.dumps({"pid": os.getpid(), "host": platform.node(), "since": time.ctime()}).encode()


def _holder(path: Path) -> str:
    """Who holds a lock, in words; nothing where it does not say."""
    try:
        owner = json.loads(files.read_bytes(path, limit=1000))
        return (
            f" (process {int(owner['pid'])} on {str(owner['host'])[:80]!r}, since {str(owner['since'])[:40]})"
        )
    except (InnerloopError, ValueError, KeyError, TypeError):
        return ""
