"""Dates in text: which format a column is written in, and dates as days; ambiguous ones are refused."""

from __future__ import annotations

import datetime
import re
from collections.abc import Sequence

import pandas as pd

__all__ = ["ISO", "ambiguous", "days", "formats_of", "in_words", "option"]

ISO = "ISO"
_EPOCH = datetime.date(1970, 1, 1).toordinal()
_SHAPES = {
    ISO: re.compile(r"\d{4}-\d\d-\d\d([T ]\d\d:\d\d(:\d\d(\.\d{1,6})?)?(Z|[+-]\d\d:\d\d)?)?"),
    "dots": re.compile(r"\d{1,2}\.\d{1,2}\.\d{4}"),
    "slashes": re.compile(r"\d{1,2}/\d{1,2}/\d{4}"),
}
_FORMATS = {ISO: (ISO,), "dots": ("%d.%m.%Y",), "slashes": ("%d/%m/%Y", "%m/%d/%Y")}
_WORDS = {
    ISO: "year-month-day",
    "%d.%m.%Y": "day.month.year",
    "%d/%m/%Y": "day/month/year",
    "%m/%d/%Y": "month/day/year",
}


def days(value: object, formats: Sequence[str] = (ISO,)) -> float | None:
    """Days since 1970-01-01 of a date, or of text in one of the formats; `None` for what is neither.

    Example:
        >>> days("1970-01-03"), days("02.01.1970", ["%d.%m.%Y"]), days("soon")
        (2.0, 1.0, None)
    """
    if isinstance(value, str):
        text = value.strip()
        date = next((date for form in formats if (date := _read(text, form)) is not None), None)
    else:
        date = None if value is pd.NaT or not isinstance(value, datetime.date) else value
    if date is None:
        return None
    whole = float(date.toordinal() - _EPOCH)
    if not isinstance(date, datetime.datetime):
        return whole
    clock = datetime.timedelta(hours=date.hour, minutes=date.minute, seconds=date.second)
    clock += datetime.timedelta(microseconds=date.microsecond) - (date.utcoffset() or datetime.timedelta())
    return whole + clock / datetime.timedelta(days=1)


def formats_of(values: Sequence[object]) -> tuple[str, ...]:
    """The formats in which most of the values can be dates, most common shape first; empty if most cannot.

    Example:
        >>> formats_of(["2024-05-01", "31/12/2024", "2023-01-01"])
        ('ISO', '%d/%m/%Y')
        >>> formats_of(["03/04/2024"])
        ('%d/%m/%Y', '%m/%d/%Y')
    """
    texts = [value.strip() for value in values if isinstance(value, str)]
    dates = sum(days(value) is not None for value in values if not isinstance(value, str))
    groups = {shape: [text for text in texts if form.fullmatch(text)] for shape, form in _SHAPES.items()}
    if 2 * (sum(map(len, groups.values())) + dates) <= len(values):
        return ()
    formats: list[str] = []
    for shape in sorted(groups, key=lambda shape: -len(groups[shape])):
        fits = [sum(_read(text, form) is not None for text in groups[shape]) for form in _FORMATS[shape]]
        best = max(fits)
        formats += [form for form, count in zip(_FORMATS[shape], fits, strict=True) if count == best > 0]
    return tuple(formats) or (ISO,)


def ambiguous(value: object, formats: Sequence[str]) -> list[str]:
    """The formats by which a text is different days.

    Example:
        >>> ambiguous("03/04/2024", ["%d/%m/%Y", "%m/%d/%Y"]), ambiguous("31/12/2024", ["%d/%m/%Y"])
        (['%d/%m/%Y', '%m/%d/%Y'], [])
    """
    read = {form: day for form in formats if (day := days(value, [form])) is not None}
    return list(read) if len(set(read.values())) > 1 else []


def in_words(form: str) -> str:
    """A format in words."""
    return _WORDS.get(form, form)


def option(form: str) -> str:
    """A format as the option `date_format` takes it."""
    return "%Y-%m-%d" if form == ISO else form


def _read(text: str, form: str) -> datetime.date | None:
    try:
        if form == ISO:
            return datetime.datetime.fromisoformat(text) if _SHAPES[ISO].fullmatch(text) else None
        return datetime.datetime.strptime(text, form)
    except ValueError:
        return None
