"""Where `innerloop train` keeps the state of a training while it runs, and how it goes on with `--resume`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UsageError
from .common import Notes, fingerprint
from .options import Options, option_name
from .request import Request

if TYPE_CHECKING:
    from ..storage import Checkpoints

__all__ = ["Output", "begun", "checkpoints_at", "require_none", "resumed", "tellings", "without_suffix"]

_SUFFIX = ".checkpoints"
# options of which the result does not depend but for rounding; a checkpoint tells of changes
_FREE = ("gear", "memory", "device")


def checkpoints_at(directory: Path, *, every: int | None, allow_changes: bool, notes: Notes) -> Checkpoints:
    """The checkpoints of the training that is going to write a model directory: a folder beside it."""
    from ..storage import Checkpoints

    named = directory if directory.name else directory.resolve()
    folder = named.with_name(f"{named.name}{_SUFFIX}")
    return Checkpoints(
        folder, every=every, allow_changes=allow_changes, warn=lambda words: notes(f"note: {words}")
    )


@dataclass(frozen=True, kw_only=True)
class Output(Options):
    """What `train` writes; stored beside the checkpoints.

    Arguments:
        report_rows: show rows of the data in the page.
        keep_ids: store the ids of tasks as they are.
        license: of the model, for its card.
        replace: replace a model that is in the directory.
        goes_on: something was begun before; a model in the directory is that of this training, when it was interrupted.
    """

    report_rows: bool = False
    keep_ids: bool = False
    license: str | None = None
    replace: bool = False
    goes_on: bool = False


def resumed(
    directory: Path, checkpoints: Checkpoints, asked: Request, output: Output, notes: Notes
) -> tuple[Request, Output] | None:
    """What `--resume DIR` goes on with: what was asked for when the training began, or what is asked for now.

    Returns:
        The request and what is written; `None` where the training came to its end.

    Raises:
        UsageError: there is nothing to go on with or to begin; or something else is asked for than was before, and
            that is not allowed.
        ModelFileError: what was asked for is damaged.
    """
    from ..storage.manifest import MANIFEST

    stored = checkpoints.asked()
    if stored is None and (directory / MANIFEST).is_file():
        notes(f"note: {directory} holds the model of a training that came to its end: nothing is left to do")
        return None
    if stored is None:
        if not asked.tasks:
            what = "no training to go on with" if directory.exists() else "no such folder"
            raise UsageError(f"--resume {directory}: there is {what}: give the tasks too, to begin one")
        notes(f"note: {directory}: there is no training to go on with, so it begins")
        return asked, output
    before, data, old = Request.stored(stored["settings"]), stored["data"], Output.of(stored["output"])
    request = _merged(before, asked)
    if not asked.tasks:
        _require_below(directory, Path(request.tasks))
    request.require_sense()
    notes(f"note: the training into {directory} goes on; its data are read from {request.tasks}")
    _require_same(checkpoints, request, before, data, notes)
    together = {key: value or output.settings()[key] for key, value in old.settings().items()}
    return request, replace(Output.of(together), goes_on=True)


def _require_below(directory: Path, tasks: Path) -> None:
    """Refuse to open data that only the checkpoints name, unless they lie below the working folder."""
    if tasks.exists() and not tasks.resolve().is_relative_to(Path.cwd()):
        raise UsageError(
            f"the training into {directory} has its data in {tasks}; such data are read unasked only below the working "
            f"folder: name them (innerloop train {tasks} --resume {directory})"
        )


def require_none(directory: Path, checkpoints: Checkpoints, *, discard: bool) -> None:
    """Refuse to begin a training where another one was interrupted; with `discard`, that one is given up.

    Raises:
        UsageError: one was interrupted there.
    """
    if discard:
        checkpoints.remove()
    elif checkpoints.asked() is not None:
        raise UsageError(
            f"a training into {directory} was interrupted: go on with it (innerloop train --resume {directory}), "
            "give it up and begin anew (--replace), or choose another folder"
        )


def _merged(before: Request, asked: Request) -> Request:
    """The stored request with what is asked for now."""
    default = Request.stored({"tasks": ""}).settings()
    given = {key: value for key, value in asked.settings().items() if value != default[key]}
    return Request.stored({**before.settings(), **given})


def _require_same(
    checkpoints: Checkpoints, now: Request, before: Request, data: Mapping[str, Any], notes: Notes
) -> None:
    """Refuse other options and other data than those that the training began with, unless they are allowed."""
    old, new = before.settings(), now.settings()
    found = [
        f"{option_name(key) if key != 'tasks' else 'TASKS'} is {new[key]}, and was {old[key]}"
        for key in new
        if new[key] != old[key] and key not in _FREE
    ]
    if fingerprint(now.tasks)["sha256"] != data["sha256"]:
        found.append(f"the content of {now.tasks} is another one")
    if found and not checkpoints.allow_changes:
        raise UsageError(
            f"{checkpoints.folder} is of another training: {'; '.join(found)}. Give what was given then, or allow it "
            "(--allow-changes)"
        )
    for words in found:
        notes(f"note: {words}")


@contextmanager
def tellings(directory: Path, checkpoints: Checkpoints, notes: Notes) -> Iterator[None]:
    """Say how to go on with a training that does not come to its end."""
    try:
        yield
    except BaseException:
        if checkpoints.asked() is not None:
            notes(f"note: it goes on with: innerloop train --resume {directory}")
        raise


def begun(asked: Request, output: Output) -> dict[str, Any]:
    """What is written down of a training when it begins."""
    settings = {
        key: str(value) if isinstance(value, Path) else value for key, value in asked.settings().items()
    }
    return {"settings": settings, "data": fingerprint(asked.tasks), "output": output.settings()}


def without_suffix(directory: Path) -> Path:
    """The model directory that checkpoints belong to, whichever of both is named."""
    return (
        directory.with_name(directory.name.removesuffix(_SUFFIX)) if directory.name != _SUFFIX else directory
    )
