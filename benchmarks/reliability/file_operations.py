"""Every file operation of a save, a resume, a pruning and a removal of checkpoints fails once, or is the last one.

    python benchmarks/reliability/file_operations.py

`innerloop.files` does all of them. For each N, the N-th one raises `No space left on device` (ENOSPC), then an I/O
error (EIO), and then the process is killed (SIGKILL) in its place. After each of them, every checkpoint in the folder
has to be readable, the newest one has to be one that was there before or the one that was being saved, a pinned one has
to be there, and what is done next has to succeed. What is found goes to `file_operations.txt` beside this file.
"""

from __future__ import annotations

import errno
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1] / "tests"))

import innerloop as il  # noqa: E402
from innerloop import files  # noqa: E402
from innerloop.errors import ResourceError  # noqa: E402
from innerloop.outer.state import TrainingState  # noqa: E402
from innerloop.outer.update import Outer  # noqa: E402
from innerloop.storage import checkpoints as storage  # noqa: E402
from innerloop.storage.manifest import CHECKPOINT, read_sealed  # noqa: E402
from innerloop.storage.training_states import unpacked  # noqa: E402
from toolkit.drawn import SOURCES  # noqa: E402
from toolkit.faults import Faulty  # noqa: E402

PINNED = 2
FAULTS: dict[str, BaseException | None] = {
    "no space": OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
    "I/O error": OSError(errno.EIO, os.strerror(errno.EIO)),
    "kill": None,
}


def state(step: int) -> TrainingState:
    """A state that names its step."""
    log = [{"step": number, "loss": 1.0 / number} for number in range(1, step + 1)]
    return TrainingState(step, Outer({"w": torch.full((50,), float(step))}, {}), log=log)


def opened(folder: Path) -> il.Checkpoints:
    return il.Checkpoints(folder, keep=2, warn=lambda words: None)


def save(folder: Path, step: int) -> None:
    with opened(folder) as checkpoints:
        checkpoints.save(state(step), now=True)


def resume(folder: Path) -> None:
    """The newest state is asked for and saved once more, as a training does that has nothing left to do."""
    learner, settings = il.mixed(1), {"steps": 9}
    with opened(folder) as checkpoints:
        found = checkpoints.newest(learner, SOURCES["regression"], None, settings)
        checkpoints.save(state((found.step if found else 0) + 1), now=True)


def remove(folder: Path) -> None:
    with opened(folder) as checkpoints:
        checkpoints.remove()


def prepared(folder: Path, steps: int) -> None:
    """A folder with so many checkpoints saved, and one pinned."""
    learner, settings = il.mixed(1), {"steps": 9}
    with opened(folder) as checkpoints:
        checkpoints.newest(learner, SOURCES["regression"], None, settings)
        for step in range(1, steps + 1):
            checkpoints.save(state(step))
            if step == PINNED:
                checkpoints.pin(step)


# what is done, with how many checkpoints before, and the newest one that it may leave
WORK: dict[str, tuple[int, int, Callable[[Path], None]]] = {
    "first save": (0, 1, lambda folder: save(folder, 1)),
    "save": (2, 3, lambda folder: save(folder, 3)),
    "save and prune": (5, 6, lambda folder: save(folder, 6)),
    "resume": (5, 6, resume),
    "remove": (5, 0, remove),
}


def at_fault(work: Callable[[Path], None], folder: Path, fault: BaseException | None, at: int) -> int:
    """Do it with the N-th operation at fault; operations that there were, where nothing was killed."""
    child = os.fork()
    if child == 0:
        faulty = Faulty(at, fault)
        files.os = faulty  # type: ignore[attr-defined]
        storage._PAUSE = 0.0
        try:
            work(folder)
        except ResourceError:
            pass
        except BaseException as error:
            print(f"{type(error).__name__}: {error}")
            os._exit(255)
        os._exit(min(faulty.calls, 254))
    _, status = os.waitpid(child, 0)
    return -1 if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)


def wrong(folder: Path, before: int, newest: int) -> str:
    """What must not be, in words; empty where all is well."""
    steps = opened(folder).steps
    for step in steps:
        found, _ = unpacked(read_sealed(opened(folder).path(step), CHECKPOINT))
        if found.step != step or not torch.equal(found.meta["w"], torch.full((50,), float(step))):
            return f"the checkpoint after update {step} is another one"
    if newest and (steps[-1] if steps else 0) not in (before, newest):
        return f"the newest checkpoint is {steps[-1:]}, not {before} or {newest}"
    if newest and before >= PINNED and PINNED not in steps:
        return "the pinned checkpoint is gone"
    after = max([*steps, newest]) + 1
    save(folder, after)
    return "" if opened(folder).steps[-1] == after else "the next save did not succeed"


def main() -> None:
    """Let every operation fail, and write down how many there were."""
    lines, bad = [f"{'':16}" + "".join(f"{fault:>12}" for fault in FAULTS) + f"{'wrong':>12}"], 0
    for name, (before, newest, work) in WORK.items():
        counts, errors = [], 0
        for fault, error in FAULTS.items():
            at = 0
            while True:
                at += 1
                with tempfile.TemporaryDirectory() as place:
                    folder = Path(place) / "run"
                    prepared(folder, before)
                    ended = at_fault(work, folder, error, at)
                    if 0 <= ended < at:
                        break
                    if said := "it was no error of ours" if ended == 255 else wrong(folder, before, newest):
                        errors += 1
                        print(f"{name}, {fault} at operation {at}: {said}")
                    shutil.rmtree(folder, ignore_errors=True)
            counts.append(at - 1)
        bad += errors
        lines.append(f"{name:16}" + "".join(f"{count:12}" for count in counts) + f"{errors:12}")
        print(lines[-1], flush=True)
    text = "\n".join(["operations at fault, one at a time, and what was wrong after them", "", *lines, ""])
    (HERE / "file_operations.txt").write_text(text)
    print(text)
    sys.exit(bool(bad))


if __name__ == "__main__":
    main()
