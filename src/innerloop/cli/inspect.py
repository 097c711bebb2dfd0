"""`innerloop inspect`: what a model directory holds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from ..errors import InnerloopError, ModelFileError, UsageError
from .common import Notes, emit
from .encoding import use_encoder
from .held_out import held_out
from .mixed_tables import mixed_tables
from .options import FLAG, Encoder, Json, about
from .text import cell, columns, counted, say

if TYPE_CHECKING:
    import pandas as pd

    from ..evaluation.inspection import Learned
    from ..storage import Stored
    from ..tasks.sources import Source

__all__ = ["inspect"]


def inspect(
    directory: Annotated[Path, Parameter(help="What innerloop train or innerloop adapt left.")],
    tasks: Annotated[
        str | None, Parameter(help="A table with the columns of training; the training data unless given.")
    ] = None,
    /,
    *,
    privacy: Annotated[
        bool, FLAG, about("List what the directory holds of the data it was made from, and nothing else.")
    ] = False,
    verify: Annotated[
        bool, FLAG, about("Compare every file with the manifest, and say what else is wrong; nothing else.")
    ] = False,
    encoder: Encoder = None,
    json: Json = False,
) -> None:
    """Show what a model directory holds and what the model has learned; nothing in it is run.

    How far each layer moves in adaptation, whether representations change, and which tasks gain is measured
    on tasks that training has not met. Learned step sizes and masks need no task. Of a linear mixed model: fixed
    effects with standard errors, variances and correlations of the random effects, in the units of the table.

    Examples:
      innerloop inspect runs/schools
      innerloop inspect runs/schools other_schools.csv
      innerloop inspect runs/schools --privacy
      innerloop inspect runs/schools --verify
      innerloop inspect runs/schools --json
    """
    from ..evaluation.inspection import plain_rows
    from ..storage import describe, load

    notes = Notes(quiet=json)
    if verify:
        _show_verified(directory, notes, json=json)
        return
    use_encoder(encoder)
    stored = load(directory)
    if privacy:
        _show_privacy(stored, notes, json=json)
        return
    content = describe(stored)
    source = _source(stored, tasks, notes)
    inside, gained = _learned(stored, source)
    if json:
        trained_with, asked = content.pop("settings"), {"directory": str(directory), "tasks": tasks}
        rows = {**inside.rows(), "gains": plain_rows(gained)}
        emit(
            "inspect",
            trained_with.get("seed"),
            notes,
            asked,
            **content,
            trained_with=trained_with,
            learned=rows,
        )
        return
    # who carries what weight is a table below
    content["settings"] = {key: value for key, value in content["settings"].items() if key != "candidates"}
    say(columns([row for key, value in content.items() if key != "mixed" for row in _rows(key, value)]))
    mixed = [] if stored.config["mixed"] is None else mixed_tables(stored.mixed_summary(), content["task"])
    for title, lines in (*mixed, *_tables(inside, gained)):
        say(f"\n{title}\n{columns(lines)}")


def _show_verified(directory: Path, notes: Notes, *, json: bool) -> None:
    """Whether the directory is whole: every file with what is wrong with it; then whether it can be loaded.

    Raises:
        ModelFileError: a file is not what the manifest says, or what the files say makes no model.
    """
    from ..storage import load
    from ..storage.manifest import read_sealed, verified
    from ..storage.plain_json import DAMAGED

    found = verified(directory)
    wrong = [each for each in found if each.fault]
    sha256 = None if wrong else read_sealed(directory).sha256
    if not wrong:
        with suppress(UsageError):  # a module of one's own is not at hand
            load(directory)
    if json:
        asked = {"directory": str(directory), "verify": True}
        emit("inspect", None, notes, asked, files=[each._asdict() for each in found], sha256=sha256)
    else:
        rows = [
            [each.name, "" if each.size is None else f"{each.size:,} bytes", each.fault or "whole"]
            for each in found
        ]
        say(columns([["file", "", ""], *rows]))
    if wrong:
        raise ModelFileError(
            f"{directory}: {len(wrong)} of {len(found)} files are not what the manifest says; {DAMAGED}"
        )
    if not json:
        say(f"\nevery file has the size and sha256 of the manifest; the sha256 of the whole is {sha256}")


def _show_privacy(stored: Stored, notes: Notes, *, json: bool) -> None:
    """What the directory holds of its data."""
    from ..storage.privacy import holdings

    held = holdings(stored)
    if json:
        asked = {"directory": str(stored.path), "privacy": True}
        emit("inspect", None, notes, asked, holdings=[each._asdict() for each in held])
        return
    head = ["what", "as it is", "file", ""]
    say(
        columns(
            [head, *([each.what, "yes" if each.verbatim else "no", each.where, each.about] for each in held)]
        )
    )


def _source(stored: Stored, tasks: str | None, notes: Notes) -> Source | None:
    """Held-out tasks, or none where the data is not at hand."""
    if stored.kind == "adapted" and tasks is None:
        return None
    try:
        return held_out(stored, tasks, notes)
    except InnerloopError as error:
        if tasks is not None:
            raise
        notes(f"note: what tasks show is left out: {error}")
        return None


def _learned(stored: Stored, source: Source | None) -> tuple[Learned, pd.DataFrame]:
    """What was learned, and what each task gains; empty without tasks."""
    import pandas as pd

    from ..evaluation.inspection import gains, learned
    from ..evaluation.scores import evaluate

    inside = learned(stored.model, source)
    if source is None:
        return inside, pd.DataFrame(columns=["task", "before", "after", "gain"])
    return inside, gains(evaluate(stored.model, source))


def _tables(inside: Learned, gained: pd.DataFrame) -> Iterator[tuple[str, list[list[str]]]]:
    """Titles and rows of what was learned; what there is nothing of is left out."""
    if len(inside.weights):
        head = ["member", *(counted(str(rows)) for rows in inside.weights.columns[1:])]
        body = [[name, *(f"{100 * w:.0f} %" for w in weights)] for name, *weights in _cells(inside.weights)]
        yield "What each member counts, by labelled rows of a task", [head, *body]
    rows = inside.rows()
    alike = {row["layer"]: _estimate(row, "cka") for row in rows["similarity"]}
    moved = [
        [
            layer := row["layer"],
            row["kind"],
            str(row["weights"]),
            _estimate(row, "relative"),
            alike.get(layer, ""),
        ]
        for row in rows["moved"]
    ]
    if moved:
        head = ["layer", "", "weights", "moved, relative to its start", "similarity before and after (CKA)"]
        yield "What adaptation changes, means over tasks and 95 % intervals", [head, *moved]
    if rows["rates"]:
        head = ["parameter", "inner step", "mean", "lowest", "highest", "share below 0"]
        yield "Learned step sizes", [head, *(_line(row) for row in _cells(inside.rates))]
    if len(inside.masks):
        masks = [[name, str(size), f"{100 * share:.1f} %"] for name, size, share in _cells(inside.masks)]
        yield "Which weights may move", [["parameter", "weights", "of them adapting"], *masks]
    if len(gained):
        yield _gain_title(gained), [["task", "before", "after", "gain"], *_extremes(gained)]


def _cells(frame: pd.DataFrame) -> Iterator[tuple[Any, ...]]:
    return frame.itertuples(index=False, name=None)


def _line(values: Sequence[Any]) -> list[str]:
    return [f"{value:.4g}" if isinstance(value, float) else str(value) for value in values]


def _estimate(row: dict[str, Any], name: str) -> str:
    mean, low, high = row[name], row["low"], row["high"]
    if mean is None:
        return "starts at 0" if name == "relative" else ""
    return f"{mean:.4f}" if low is None else f"{mean:.4f} [{low:.4f}, {high:.4f}]"


def _gain_title(gained: pd.DataFrame) -> str:
    better, worse = (gained["gain"] > 0).sum(), (gained["gain"] < 0).sum()
    middle = gained["gain"].median()
    return f"Adapting helps on {better} of {len(gained)} tasks and hurts on {worse}; median gain {middle:.4g}"


def _extremes(gained: pd.DataFrame, most: int = 3) -> list[list[str]]:
    """The tasks that gain most and least."""
    lines = [_line(row) for row in _cells(gained)]
    return lines if len(lines) <= 2 * most else [*lines[:most], ["...", "", "", ""], *lines[-most:]]


def _rows(key: str, value: Any) -> list[list[str]]:
    """One row for each thing there is to say; the name stands in the first of them."""
    name = key.replace("_", " ")
    if value is None or value in ({}, []):
        return []
    if key == "scores":
        lines = [_score(row) for row in value if row.get("headline")]
    elif key == "tasks":
        lines = [f"{len(value)}: {_listed([entry['id'] for entry in value], 6)}"]
    elif isinstance(value, dict):
        lines = [line for inner, entry in value.items() for line in _item(inner, entry)]
    elif isinstance(value, list):
        lines = [_listed(value, 12)]
    else:
        lines = [str(value)]
    return [[name if number == 0 else "", line] for number, line in enumerate(lines)]


def _item(name: str, value: Any) -> list[str]:
    if value is None:
        return []
    if isinstance(value, dict):
        if name == "support_loss_percentile":  # of each task
            return [
                f"support loss percentile: {_listed([f'{task}: {share:.0f}' for task, share in value.items()], 4)}"
            ]
        return [line for inner, entry in value.items() for line in _item(inner, entry)]
    text = _listed(value, 12) if isinstance(value, list) else str(value)
    return [f"{name.replace('_', ' ')}: {text}"]


def _score(row: dict[str, Any]) -> str:
    value = (row["mean"], *row["ci95"])
    text = "undefined" if None in value else cell(value, row["metric"])
    return f"{row['metric']} {text} after {row['inner_steps']} inner steps on {row['n_tasks']} tasks"


def _listed(values: list[Any], most: int) -> str:
    """The first values, and how many there are."""
    more = f", ... ({len(values)})" if len(values) > most else ""
    return ", ".join(map(str, values[:most])) + more
