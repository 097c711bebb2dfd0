"""`innerloop adapt`: adapt a model to the tasks of a table, or to classes by their names, and keep the result."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from ..errors import DataError, UsageError
from .classes import adapt_to_classes, forget
from .common import Notes, emit, stored_run
from .encoding import encoding_told, use_encoder
from .options import FLAG, OUTPUT, Device, Encoder, Footer, Json, Quiet, Replace, SkipBad, Steps, about
from .predict import read_rows, unlike_tasks
from .refusals import refuse_senseless, require_place, require_steps
from .text import say

if TYPE_CHECKING:
    import pandas as pd

    from ..storage import Stored

__all__ = ["adapt"]


def adapt(
    directory: Annotated[
        Path, Parameter(help="What innerloop train left; with --add and --forget what adapt did.")
    ],
    support: Annotated[
        Path | None,
        Parameter(
            help="A table of labelled rows: task, features and target. Of a model of pictures a folder with a folder "
            "for each class, of arrays an npz file with x and label."
        ),
    ] = None,
    /,
    *,
    out: Annotated[
        Path | None,
        Parameter(
            group=OUTPUT,
            help="Directory for what was adapted; with --add and --forget the same unless given.",
        ),
    ] = None,
    add: Annotated[
        bool, FLAG, about("Add classes, or rows of classes, to those that the directory has.")
    ] = False,
    forget_classes: Annotated[
        list[str] | None,
        Parameter(
            name="--forget",
            negative="",
            help="A class to forget, as if it had never been there.",
        ),
    ] = None,
    inner_steps: Steps = None,
    skip_bad: SkipBad = False,
    skip_footer: Footer = None,
    encoder: Encoder = None,
    replace: Replace = False,
    device: Device = "auto",
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Adapt a model to the tasks of a table, or to classes by their names, and keep the result.

    Every task of the table is adapted to once, by its labelled rows; predict then needs no labelled rows.
    A model that was trained on classes (a folder of pictures, x and label of an npz file, a table with --n-way) is
    adapted to classes: a folder for each, one picture or more, any number of classes where a closed form adapts.

    Examples:
      innerloop adapt runs/schools known_pupils.csv --out adapted/schools
      innerloop predict adapted/schools new_pupils.csv
      innerloop adapt runs/goods shelf/ --out shelves/12
      innerloop adapt shelves/12 more/ --add
      innerloop adapt shelves/12 --forget "blue cup"
    """
    from ..storage.manifest import refuse_occupied

    notes = Notes(quiet=quiet)
    require_steps(inner_steps)
    changes = add or forget_classes is not None
    _require_sense(support, out, add=add, forgets=forget_classes is not None)
    place = out or directory
    if out is not None:
        refuse_occupied(out, replace=replace)
    require_place(place)
    use_encoder(encoder)
    stored = stored_run(directory, device)
    if changes and stored.enrolled is None:
        raise UsageError(f"{directory} is not adapted to classes: --add and --forget change what adapt left")
    if forget_classes is not None:
        forget(stored, forget_classes, place, notes, replace=replace or out is None, json=json)
    elif support is not None and stored.has_classes:
        refuse_senseless({"inner_steps": inner_steps, "skip_footer": skip_footer}, "classes")
        adapt_to_classes(
            stored,
            support,
            place,
            notes,
            add=add,
            skip_bad=skip_bad,
            replace=replace or out is None,
            json=json,
        )
    elif support is not None:
        refuse_senseless({"skip_bad": skip_bad or None}, "a table")
        frame = read_rows(stored, support, notes, skip_footer=skip_footer)
        _adapt_to_tasks(
            stored, frame, support, place, notes, inner_steps=inner_steps, replace=replace, json=json
        )


def _require_sense(support: Path | None, out: Path | None, *, add: bool, forgets: bool) -> None:
    """Refuse options that contradict each other."""
    if forgets and (add or support is not None):
        raise UsageError("--forget takes classes away and no rows: leave the rows and --add out")
    if not forgets and support is None:
        raise UsageError(
            "give what to adapt to: a table, a folder with a folder for each class, or an npz file"
        )
    if out is None and not (add or forgets):
        raise UsageError("give --out, the directory for what is adapted")


def _adapt_to_tasks(
    stored: Stored,
    frame: pd.DataFrame,
    support: Path,
    out: Path,
    notes: Notes,
    *,
    inner_steps: int | None,
    replace: bool,
    json: bool,
) -> None:
    """Adapt to each task of a table, which was read from `support`."""
    if not stored.labelled(frame).any():
        target = stored.table_schema().target
        raise DataError(f"{support} has no row with a value in the target {target!r}")
    with encoding_told(notes):
        adapted = stored.adapt_frame(frame, inner_steps=inner_steps)
    settings = {"support": str(support), **adapted.config["settings"]}
    adapted.save(out, settings=settings, replace=replace)
    counts = adapted.n_support
    percentile = adapted.config["settings"].get("support_loss_percentile") or {}
    unlike = unlike_tasks(percentile, notes)
    if json:
        emit("adapt", None, notes, settings, out=str(out), tasks=counts, unlike=unlike)
        return
    tasks, n_rows = len(counts), sum(counts.values())
    say(f"adapted to {tasks} task{'s' * (tasks != 1)}, {n_rows} support row{'s' * (n_rows != 1)}: {out}")
