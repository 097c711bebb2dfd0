"""What `adapt` and `predict` do for classes by their names: pictures, arrays and tables of classes."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import UsageError, visible
from .common import Notes, emit
from .encoding import encoding_told
from .text import harmless, say

if TYPE_CHECKING:
    import pandas as pd

    from ..storage import Stored
    from ..tasks.class_rows import ClassRows

__all__ = ["adapt_to_classes", "false_alarms", "forget", "predict_rows", "read_classes"]

# false alarms of `none of these`, unless asked for otherwise
_RATE = 0.05


def read_classes(stored: Stored, path: Path, notes: Notes, *, skip_bad: bool) -> ClassRows:
    """Rows for a model of classes, with notes on what was understood.

    Raises:
        DataError: a file cannot be used.
    """
    from ..tasks.class_rows import class_rows

    with encoding_told(notes):
        rows = class_rows(path, stored.class_schema(), skip_bad=skip_bad)
    for note in rows.notes:
        notes(f"note: {note}")
    return rows


def adapt_to_classes(
    stored: Stored,
    support: Path,
    out: Path,
    notes: Notes,
    *,
    add: bool,
    skip_bad: bool,
    replace: bool,
    json: bool,
) -> None:
    """Enrol the classes of a folder, array or table; with `add` beside those that are there."""
    rows = read_classes(stored, support, notes, skip_bad=skip_bad)
    loose = int((~rows.labelled).sum())
    if loose and rows.labelled.any():
        notes(f"note: {loose} rows have no class (pictures in no folder) and are left out")
    adapted = stored.adapt_rows(rows, add=add)
    known = set(stored.enrolled.classes) if add and stored.enrolled else set()
    given = {str(label) for label in rows.labels[rows.labelled]}
    adapted.save(out, settings={"support": str(support)}, replace=replace)
    _tell(
        adapted, out, notes, {"support": str(support), "add": add or None}, json=json,
        added=sorted(given - known), extended=sorted(given & known), n_skipped=rows.skipped,
    )  # fmt: skip


def forget(
    stored: Stored, names: Sequence[str], out: Path, notes: Notes, *, replace: bool, json: bool
) -> None:
    """Forget classes, as if they had never been enrolled."""
    adapted = stored.forgetting_classes(names)
    adapted.save(out, replace=replace)
    _tell(adapted, out, notes, {"forget": list(names)}, json=json, forgotten=sorted({*names}))


def _tell(
    adapted: Stored, out: Path, notes: Notes, settings: dict[str, object], *, json: bool, **changes: object
) -> None:
    enrolled = adapted.enrolled
    if enrolled is None:
        raise UsageError(f"{out} has no classes")
    counts = dict(zip(enrolled.classes, enrolled.counts, strict=True))
    if json:
        emit("adapt", None, notes, settings, out=str(out), classes=counts, **changes)
        return
    parts = [
        f"{len(names)} {what}: {', '.join(names[:5])}{', ...' * (len(names) > 5)}"
        for what in ("extended", "forgotten")
        if isinstance(names := changes.get(what), list) and names
    ]
    for part in parts:
        say(part)
    say(f"adapted to {len(counts)} classes, {sum(counts.values())} support rows: {out}")


def false_alarms(stored: Stored, asked: float | None, notes: Notes) -> float | None:
    """The share of false alarms of `none of these`: as asked for, 0.05 where that can be had, or `None` for never."""
    if asked is not None:
        return asked or None
    if stored.fit is None:
        return None
    if stored.fit.least_rate > _RATE:
        notes(
            f"note: none is called none of these: {_RATE:.0%} of false alarms need 19 classes to calibrate on, and "
            f"there were {stored.fit.n_classes}; --none-of-these {stored.fit.least_rate + 0.0005:.3f} can be had"
        )
        return None
    return _RATE


def predict_rows(
    stored: Stored,
    path: Path,
    notes: Notes,
    *,
    out: Path | None,
    none_of_these: float | None,
    skip_bad: bool,
    json: bool,
) -> None:
    """Predict the class of pictures or rows of an array."""
    from ..evaluation.none_of_these import NONE_OF_THESE

    rows = read_classes(stored, path, notes, skip_bad=skip_bad)
    table, enrolled = stored.predict_rows(rows, none_of_these=none_of_these)
    alien = int((table["prediction"] == NONE_OF_THESE).sum())
    if not len(table):
        notes(
            "note: every row has its class, so there is nothing to predict: put pictures beside the folders"
        )
    if out is not None:
        from ..files import write_bytes

        write_bytes(out, _csv(table).encode())
    if json:
        content = {"out": str(out)} if out else {"predictions": table.to_dict("records")}
        counts = dict(zip(enrolled.classes, enrolled.counts, strict=True))
        settings = {"directory": str(stored.path), "rows": str(path), "none_of_these": none_of_these}
        emit(
            "predict", None, notes, settings, n_predicted=len(table), n_none_of_these=alien, n_skipped=rows.skipped,
            classes=counts, **content,
        )  # fmt: skip
    elif out is None:
        text = _csv(table)
        print(visible(text) if sys.stdout.isatty() else text, end="")
    else:
        said = "" if none_of_these is None else f", {alien} none of these"
        say(f"predicted {len(table)} rows of {len(enrolled.classes)} classes{said}: {out}")


def _csv(table: pd.DataFrame) -> str:
    """The table as text; names that a spreadsheet program would run as a formula are marked as text."""
    named = table.rename(columns=harmless)
    for name in ("file", "prediction"):
        if name in named:
            named[name] = named[name].map(harmless)
    text: str = named.to_csv(index=False, lineterminator="\n")
    return text
