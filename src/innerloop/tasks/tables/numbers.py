"""Numbers as people write them: with decimal commas, thousands marks or units. They are named, never guessed."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import pandas as pd

from ...errors import DataError, UsageError
from .cells import distinct, is_number, parse, place, quoted, where

DECIMALS = (".", ",")

# so many different values with units are measurements, whatever their units are
_MANY = 20
_UNIT = re.compile(
    r"([$€£¥]?)\s*([+-]?\d[\d.,'\s\u00a0\u202f]*?)\s*([^\W\d_]{1,9}(?:/[^\W\d_]{1,9})?|[%°€$£¥]\w?)?"
)
_COMMA = re.compile(r"[+-]?\d*,\d+(?:[eE][+-]?\d+)?")
_WAYS_OUT = {
    "comma": "say so (--decimal ,), or write numbers with a decimal point",
    "mixed": "write numbers with a decimal point",
    "marks": "write numbers without them",
    "unit": "write the number alone, the unit can stand in the name of the column; if the column holds names, "
    "say so ({names})",
}


def refuse_stray_text(frame: pd.DataFrame, name: str, task: str | None) -> None:
    """Refuse a column of numbers with text in it, or with decimal commas, thousands marks or units.

    Arguments:
        frame: the rows.
        name: the column.
        task: the task column, for messages.

    Raises:
        DataError: it is such a column; the message names the first cell and how many there are.

    Example:
        >>> refuse_stray_text(pd.DataFrame({"area": ["4 ha", "12 ha"]}), "area", None)
        Traceback (most recent call last):
        ...
        innerloop.errors.DataError: row 0: '4 ha' in column 'area' is not a number, as it has a unit (2 such ...
    """
    codes, values = distinct(frame[name])
    kinds = np.array(_kinds([str(value) for value in values], [parse(value) for value in values]))
    if (kinds == "number").all():
        return
    of_row = np.append(kinds, "gap")[codes]
    dressed = np.isin(of_row, ("comma", "marks", "unit"))
    stray = of_row == "text"
    if (dressed | (of_row == "number")).sum() < stray.sum():
        return
    row = int(np.flatnonzero(dressed if dressed.any() else stray)[0])
    kind, text = str(of_row[row]), str(values[codes[row]])
    names = f"--categorical {quoted(name)}; of a target, --kind classification"
    what = {
        "comma": "as it has a decimal comma",
        "marks": "as it has thousands marks",
        "unit": "as it has a unit",
        "text": "and most of the column is",
    }[kind]
    count = int((of_row == kind).sum())
    more = f" ({count} such cells)" if count > 1 else ""
    if kind != "text" and stray.any():
        other = int(np.flatnonzero(stray)[0])
        more += f"; nor is {str(values[codes[other]])!r} in {where(frame, other, None)}"
    points = any("." in str(value) for value, each in zip(values, kinds, strict=True) if each == "number")
    fix = _WAYS_OUT.get(
        "mixed" if kind == "comma" and points else kind,
        "correct it or leave it empty; if the column holds names, say so ({names})",
    )
    raise DataError(
        f"{where(frame, row, task)}: {text!r} in column {name!r} is not a number, {what}{more}: "
        f"{fix.format(names=names)}",
        **place(frame, row, task, name),
    )


def with_decimal(frame: pd.DataFrame, decimal: str, task: str | None) -> pd.DataFrame:
    """The frame with numbers that text columns hold written with a decimal point.

    Arguments:
        frame: rows, as they were read.
        decimal: what numbers are written with, `.` or `,`.
        task: the task column, which stays what it is.

    Raises:
        UsageError: `decimal` is neither.
        DataError: a number has a decimal point all the same.

    Example:
        >>> with_decimal(pd.DataFrame({"dose": ["1,5", "2"]}), ",", None).dose.tolist()
        ['1.5', '2']
    """
    if decimal not in DECIMALS:
        raise UsageError(f"decimal={decimal!r} is unknown: give . or ,")
    if decimal == "." or frame.attrs.get("decimal") == decimal:
        return frame
    changed: dict[str, pd.Series] = {}
    for name in frame.columns:
        if name == task or is_number(frame[name]):
            continue
        codes, values = distinct(frame[name])
        texts = [value.strip() if isinstance(value, str) else value for value in values]
        commas = [isinstance(text, str) and bool(_COMMA.fullmatch(text)) for text in texts]
        pointed = [isinstance(text, str) and "." in text and parse(text) is not None for text in texts]
        if any(pointed) and 2 * (sum(pointed) + sum(commas)) > len(texts):
            row = int(np.flatnonzero(np.isin(codes, np.flatnonzero(pointed)))[0])
            raise DataError(
                f"{where(frame, row, task)}: {values[codes[row]]!r} in column {name!r} has a point, but numbers "
                "have decimal commas here (--decimal ,): write all numbers one way",
                **place(frame, row, task, str(name)),
            )
        if any(commas):
            plain = [text.replace(",", ".") if comma else value
                     for text, value, comma in zip(texts, values, commas, strict=True)]  # fmt: skip
            spelled = np.array([*plain, None], dtype=object)[codes]
            changed[str(name)] = pd.Series(spelled, index=frame.index, dtype=object)
    attributes = {**frame.attrs, "decimal": decimal}
    frame = frame.assign(**changed)
    frame.attrs = attributes
    return frame


def _kinds(texts: Sequence[str], numbers: Sequence[float | None]) -> list[str]:
    """`number`, `comma`, `marks`, `unit` or `text` for each value of a column."""
    found = [
        _dress(text) if number is None else ("number", "")
        for text, number in zip(texts, numbers, strict=True)
    ]
    # 1,234 alone can be either; others of the column decide, and three digits in all of them are marks
    comma = "comma" if any(kind == "comma" for kind, _ in found) else "marks"
    units = {unit for kind, unit in found if kind == "unit"}
    measured = len(units) == 1 or sum(kind == "unit" for kind, _ in found) > _MANY
    unit = "unit" if measured else "text"
    return [{"either": comma, "unit": unit}.get(kind, kind) for kind, _ in found]


def _dress(text: str) -> tuple[str, str]:
    """How a text that is no plain number is one: its kind, and its unit."""
    found = _UNIT.fullmatch(text.strip())
    if found is None:
        return "text", ""
    number, unit = found[2].strip(), (found[1] + (found[3] or "")).casefold()
    marked = parse(_without_marks(number)) is not None
    comma = bool(_COMMA.fullmatch(number))
    if not (marked or comma or parse(number) is not None):
        return "text", ""
    if unit:
        return "unit", unit
    return ("either" if marked and comma else "marks" if marked else "comma"), ""


def _without_marks(text: str) -> str:
    """`1,234,567` or `1 234 567` without the marks; other text unchanged."""
    for mark in (",", " ", "'", "\u00a0", "\u202f"):
        first, *groups = text.lstrip("+-").split(mark)
        if groups and 1 <= len(first) <= 3 and all(len(group.split(".")[0]) == 3 for group in groups):
            return text.replace(mark, "")
    return text
