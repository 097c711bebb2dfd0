"""Numbers as people write them: with decimal commas, thousands marks or units. They are named, never guessed."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import pandas as pd

from ...errors import UsageError
from ..messages import quoted
from .cells import cell_error, factorize, is_number, parse, where

__all__ = [
    "holds_numbers",
    "kinds_of",
    "refuse_stray_text",
    "require_decimal",
    "with_decimal",
    "with_points",
]

# so many different values with units are measurements, whatever their units are
_MANY = 20
# so few texts among numbers can be marks for a value that is not known
_FEW_MARKS = 3
# so many different numbers at least make a column of numbers where most rows have none
_LEAST = 5
_UNIT = re.compile(
    r"([$€£¥]?)\s*([+-]?\d[\d.,'\s\u00a0\u202f]*?)\s*([^\W\d_]{1,9}(?:/[^\W\d_]{1,9})?|[%°€$£¥]\w?)?"
)
_COMMA = re.compile(r"[+-]?\d*,\d+(?:[eE][+-]?\d+)?")
# with points as thousands marks: what can be nothing else, and what can be
_MARKED = re.compile(r"[+-]?\d{1,3}(?:\.\d{3})+,\d+|[+-]?\d{1,3}(?:\.\d{3}){2,}")
_GROUPED = re.compile(r"[+-]?\d{1,3}(?:\.\d{3})+(?:,\d+)?")
_LIMIT = re.compile(r"(?:[<>≤≥~≈]=?|±)\s*[+-]?\d[\d.,]*\s*%?")
_PAIR = re.compile(r"\d+(?:[.,]\d+)?\s*[/:x\u00d7\u2013-]\s*\d+(?:[.,]\d+)?")
_FORMATTED = ("comma", "marks", "unit", "limit", "pair")
# how a text is no plain number, and the way out
_REFUSED = {
    "comma": ("as it has a decimal comma", "say so (--decimal ,), or write numbers with a decimal point"),
    "marks": ("as it has thousands marks", "write numbers without them"),
    "unit": (
        "as it has a unit",
        "write the number alone, the unit can stand in the name of the column; if the column holds names, say so "
        "({names})",
    ),
    "limit": (
        "as it says more or less than a number",
        "write a number, such as the limit itself, or leave it empty; if the column holds names, say so ({names})",
    ),
    "pair": (
        "as it is two numbers",
        "write them in two columns; if the column holds names, say so ({names})",
    ),
    "text": (
        "and the column holds numbers",
        "correct it or leave it empty; if the column holds names, say so ({names})",
    ),
}
_MARK = "if it stands for a gap, say so (--missing {mark}); else "
_MIXED = (_REFUSED["comma"][0], "write numbers with a decimal point")


def refuse_stray_text(frame: pd.DataFrame, name: str, task: str | None) -> None:
    """Refuse a column of numbers with text in it, or with decimal commas, thousands marks, units or limits.

    Raises:
        DataError: it is such a column; the message names the first cell and how many there are.

    Example:
        >>> refuse_stray_text(pd.DataFrame({"area": ["4 ha", "12 ha"]}), "area", None)
        Traceback (most recent call last):
        ...
        innerloop.errors.DataError: row 0: '4 ha' in column 'area' is not a number, as it has a unit (2 such ...
    """
    codes, values = factorize(frame[name])
    kinds = np.array(kinds_of([str(value) for value in values], [parse(value) for value in values]))
    rows = np.bincount(codes[codes >= 0], minlength=len(values))
    if (kinds == "number").all() or not holds_numbers(kinds, rows):
        return
    of_row = np.append(kinds, "gap")[codes]
    formatted = np.isin(of_row, _FORMATTED)
    stray = of_row == "text"
    row = int(np.argmax(formatted if formatted.any() else stray))
    kind = str(of_row[row])
    count = int((of_row == kind).sum())
    more = f" ({count} such cells)" if count > 1 else ""
    if kind != "text" and stray.any():
        other = int(np.argmax(stray))
        more += f"; nor is {str(values[codes[other]])!r} in {where(frame, other, None)}"
    points = any("." in str(value) for value, each in zip(values, kinds, strict=True) if each == "number")
    what, fix = _MIXED if kind == "comma" and points else _REFUSED[kind]
    if kind == "text" and (kinds == "text").sum() <= _FEW_MARKS:
        fix = _MARK + fix
    fix = fix.format(
        names=f"--categorical {quoted(name)}; of a target, --kind classification",
        mark=quoted(str(values[codes[row]])),
    )
    message = f"{str(values[codes[row]])!r} in column {name!r} is not a number, {what}{more}: {fix}"
    raise cell_error(frame, row, message, column=name, task=task)


def holds_numbers(kinds: np.ndarray, rows: np.ndarray) -> bool:
    """Whether values of these kinds, each in so many rows, are numbers with something else among them.

    So they are if most rows have a number, and also if most have a mark, but nearly every number is another one:
    names come again.

    Example:
        >>> holds_numbers(np.array(["text", "number", "number"]), np.array([60, 20, 20]))
        False
        >>> holds_numbers(np.array(["text", *["number"] * 40]), np.array([60, *[1] * 40]))
        True
    """
    numeric = kinds != "text"
    in_rows = int(rows[numeric].sum())
    if in_rows >= rows[~numeric].sum():
        return in_rows > 0
    count = int(numeric.sum())
    return count >= max(_LEAST, 3 * int((~numeric).sum())) and (count > _MANY or 2 * count >= in_rows)


def with_decimal(
    frame: pd.DataFrame, decimal: str, task: str | None, *, names: Sequence[str] = ()
) -> pd.DataFrame:
    """The frame with numbers that text columns hold written with a decimal point; ids and `names` stay what they are.

    Raises:
        UsageError: `decimal` is neither `.` nor `,`.
        DataError: a number has a decimal point all the same.

    Example:
        >>> with_decimal(pd.DataFrame({"dose": ["1,5", "2"]}), ",", None).dose.tolist()
        ['1.5', '2']
    """
    require_decimal(decimal)
    if decimal == "." or frame.attrs.get("decimal") == decimal:
        return frame
    changed: dict[str, pd.Series] = {}
    for name in frame.columns:
        if name == task or name in names or is_number(frame[name]):
            continue
        codes, values = factorize(frame[name])
        texts = [value.strip() if isinstance(value, str) else "" for value in values]
        plain, bad = with_points(texts)
        if bad is not None:
            raise cell_error(
                frame, np.argmax(codes == bad),
                f"{values[bad]!r} in column {name!r} has a point, but numbers have decimal commas here "
                "(--decimal ,): write all numbers one way",
                column=str(name), task=task,
            )  # fmt: skip
        if plain != texts:
            words = [new if new != text else value
                     for new, text, value in zip(plain, texts, values, strict=True)]  # fmt: skip
            written = np.array([*words, None], dtype=object)[codes]
            changed[str(name)] = pd.Series(written, index=frame.index, dtype=object)
    attributes = {**frame.attrs, "decimal": decimal}
    frame = frame.assign(**changed)
    frame.attrs = attributes
    return frame


def require_decimal(decimal: str) -> None:
    """Refuse what is no decimal mark."""
    if decimal not in (".", ","):
        raise UsageError(f"decimal={decimal!r} is unknown: give . or ,")


def with_points(texts: Sequence[str]) -> tuple[list[str], int | None]:
    """Numbers with decimal commas written with a point, `1.188,03` without its marks; the first that has a point.

    Points between groups of three digits are marks where the column has a number that cannot be read otherwise.

    Example:
        >>> with_points(["1,5", "1.188,03", "2.000"])
        (['1.5', '1188.03', '2000'], None)
        >>> with_points(["1,5", "2.5"])
        (['1.5', '2.5'], 1)
    """
    certain = any(_MARKED.fullmatch(text) for text in texts)
    out, commas, pointed = [], 0, list[int]()
    for number, text in enumerate(texts):
        if _COMMA.fullmatch(text):
            out.append(text.replace(",", "."))
            commas += 1
        elif certain and _GROUPED.fullmatch(text):
            out.append(text.replace(".", "").replace(",", "."))
            commas += 1
        else:
            out.append(text)
            if "." in text and parse(text) is not None:
                pointed.append(number)
    bad = pointed and 2 * (len(pointed) + commas) > len(texts)
    return out, pointed[0] if bad else None


def kinds_of(texts: Sequence[str], numbers: Sequence[float | None]) -> list[str]:
    """`number`, `comma`, `marks`, `unit`, `limit`, `pair` or `text` for each value of a column.

    `numbers` are those that the texts are, `None` for what is no plain number.

    Example:
        >>> kinds_of(["1", "1,5", "<2", "tall"], [1.0, None, None, None])
        ['number', 'comma', 'limit', 'text']
        >>> kinds_of(["< 50", ">= 50"], [None, None])
        ['text', 'text']
    """
    pairs = [
        _number_format(text) if number is None else ("number", "")
        for text, number in zip(texts, numbers, strict=True)
    ]
    # 1,234 alone can be either; others of the column decide, and three digits in all of them are marks
    comma = "comma" if any(kind == "comma" for kind, _ in pairs) else "marks"
    units = {unit for kind, unit in pairs if kind == "unit"}
    measured = len(units) == 1 or sum(kind == "unit" for kind, _ in pairs) > _MANY
    unit = "unit" if measured else "text"
    pair = "pair" if sum(kind == "pair" for kind, _ in pairs) > _MANY else "text"
    # a few limits without any number, as in `< 50` and `>= 50`, are names of two groups
    named = sum(kind == "limit" for kind, _ in pairs) <= _MANY and all(
        k in ("limit", "text") for k, _ in pairs
    )
    limit = "text" if named else "limit"
    kinds = {"either": comma, "unit": unit, "pair": pair, "limit": limit}
    return [kinds.get(kind, kind) for kind, _ in pairs]


def _number_format(text: str) -> tuple[str, str]:
    """How a text that is no plain number is one: `comma`, `marks`, `either`, `limit`, `pair` or `unit`; its unit."""
    if _LIMIT.fullmatch(text.strip()):
        return "limit", ""
    if _PAIR.fullmatch(text.strip()):
        return "pair", ""
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
