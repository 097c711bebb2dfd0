"""Numbers as people write them: with decimal commas, thousands marks or units. They are named, never guessed."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import pandas as pd

from ...errors import UsageError
from ..messages import quoted
from .cells import cell_error, factorize, is_number, parse, where

__all__ = ["refuse_stray_text", "with_decimal"]

# so many different values with units are measurements, whatever their units are
_MANY = 20
_UNIT = re.compile(
    r"([$€£¥]?)\s*([+-]?\d[\d.,'\s\u00a0\u202f]*?)\s*([^\W\d_]{1,9}(?:/[^\W\d_]{1,9})?|[%°€$£¥]\w?)?"
)
_COMMA = re.compile(r"[+-]?\d*,\d+(?:[eE][+-]?\d+)?")
# how a text is no plain number, and the way out
_REFUSED = {
    "comma": ("as it has a decimal comma", "say so (--decimal ,), or write numbers with a decimal point"),
    "marks": ("as it has thousands marks", "write numbers without them"),
    "unit": (
        "as it has a unit",
        "write the number alone, the unit can stand in the name of the column; if the column holds names, say so "
        "({names})",
    ),
    "text": (
        "and most of the column is",
        "correct it or leave it empty; if the column holds names, say so ({names})",
    ),
}
_MIXED = (_REFUSED["comma"][0], "write numbers with a decimal point")


def refuse_stray_text(frame: pd.DataFrame, name: str, task: str | None) -> None:
    """Refuse a column of numbers with text in it, or with decimal commas, thousands marks or units.

    Raises:
        DataError: it is such a column; the message names the first cell and how many there are.

    Example:
        >>> refuse_stray_text(pd.DataFrame({"area": ["4 ha", "12 ha"]}), "area", None)
        Traceback (most recent call last):
        ...
        innerloop.errors.DataError: row 0: '4 ha' in column 'area' is not a number, as it has a unit (2 such ...
    """
    codes, values = factorize(frame[name])
    kinds = np.array(_kinds([str(value) for value in values], [parse(value) for value in values]))
    if (kinds == "number").all():
        return
    of_row = np.append(kinds, "gap")[codes]
    formatted = np.isin(of_row, ("comma", "marks", "unit"))
    stray = of_row == "text"
    if (formatted | (of_row == "number")).sum() < stray.sum():
        return
    row = int(np.argmax(formatted if formatted.any() else stray))
    kind = str(of_row[row])
    count = int((of_row == kind).sum())
    more = f" ({count} such cells)" if count > 1 else ""
    if kind != "text" and stray.any():
        other = int(np.argmax(stray))
        more += f"; nor is {str(values[codes[other]])!r} in {where(frame, other, None)}"
    points = any("." in str(value) for value, each in zip(values, kinds, strict=True) if each == "number")
    what, fix = _MIXED if kind == "comma" and points else _REFUSED[kind]
    fix = fix.format(names=f"--categorical {quoted(name)}; of a target, --kind classification")
    message = f"{str(values[codes[row]])!r} in column {name!r} is not a number, {what}{more}: {fix}"
    raise cell_error(frame, row, message, column=name, task=task)


def with_decimal(frame: pd.DataFrame, decimal: str, task: str | None) -> pd.DataFrame:
    """The frame with numbers that text columns hold written with a decimal point; the task column stays what it is.

    Raises:
        UsageError: `decimal` is neither `.` nor `,`.
        DataError: a number has a decimal point all the same.

    Example:
        >>> with_decimal(pd.DataFrame({"dose": ["1,5", "2"]}), ",", None).dose.tolist()
        ['1.5', '2']
    """
    if decimal not in (".", ","):
        raise UsageError(f"decimal={decimal!r} is unknown: give . or ,")
    if decimal == "." or frame.attrs.get("decimal") == decimal:
        return frame
    changed: dict[str, pd.Series] = {}
    for name in frame.columns:
        if name == task or is_number(frame[name]):
            continue
        codes, values = factorize(frame[name])
        texts = [value.strip() if isinstance(value, str) else "" for value in values]
        commas = [bool(_COMMA.fullmatch(text)) for text in texts]
        pointed = ["." in text and parse(text) is not None for text in texts]
        if any(pointed) and 2 * (sum(pointed) + sum(commas)) > len(texts):
            row = int(np.argmax(np.append(pointed, False)[codes]))
            raise cell_error(
                frame, row,
                f"{values[codes[row]]!r} in column {name!r} has a point, but numbers have decimal commas here "
                "(--decimal ,): write all numbers one way",
                column=str(name), task=task,
            )  # fmt: skip
        if any(commas):
            plain = [text.replace(",", ".") if comma else value
                     for text, value, comma in zip(texts, values, commas, strict=True)]  # fmt: skip
            written = np.array([*plain, None], dtype=object)[codes]
            changed[str(name)] = pd.Series(written, index=frame.index, dtype=object)
    attributes = {**frame.attrs, "decimal": decimal}
    frame = frame.assign(**changed)
    frame.attrs = attributes
    return frame


def _kinds(texts: Sequence[str], numbers: Sequence[float | None]) -> list[str]:
    """`number`, `comma`, `marks`, `unit` or `text` for each value of a column."""
    pairs = [
        _number_format(text) if number is None else ("number", "")
        for text, number in zip(texts, numbers, strict=True)
    ]
    # 1,234 alone can be either; others of the column decide, and three digits in all of them are marks
    comma = "comma" if any(kind == "comma" for kind, _ in pairs) else "marks"
    units = {unit for kind, unit in pairs if kind == "unit"}
    measured = len(units) == 1 or sum(kind == "unit" for kind, _ in pairs) > _MANY
    unit = "unit" if measured else "text"
    return [{"either": comma, "unit": unit}.get(kind, kind) for kind, _ in pairs]


def _number_format(text: str) -> tuple[str, str]:
    """How a text that is no plain number is one: `comma`, `marks`, `either` or `unit` (else `text`); its unit."""
    match = _UNIT.fullmatch(text.strip())
    if match is None:
        return "text", ""
    number, unit = match[2].strip(), (match[1] + (match[3] or "")).casefold()
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
