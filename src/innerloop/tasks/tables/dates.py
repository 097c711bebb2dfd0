"""Dates in text: which format a column is written in, and dates as days; ambiguous ones are refused."""

from __future__ import annotations

import datetime
import re
from collections.abc import Sequence

import pandas as pd

__all__ = ["ISO", "ambiguous", "days", "formats_of", "in_words", "option"]

ISO = "ISO"
_EPOCH = datetime.date(1970, 1, 1).toordinal()
_ISO = re.compile(r"\d{4}-\d\d-\d\d([T ]\d\d:\d\d(:\d\d(\.\d{1,6})?)?(Z|[+-]\d\d:\d\d)?)?")
_MONTHS = {
    name: number
    for number, names in enumerate(
        ("jan january", "feb february", "mar march", "apr april", "may", "jun june", "jul july", "aug august",
         "sep sept september", "oct october", "nov november", "dec december"), 1)
    for name in names.split()
}  # fmt: skip
_MONTH = "|".join(sorted(_MONTHS, key=len, reverse=True))
_NAMED = re.compile(rf"(?<![a-z])({_MONTH})(?![a-z])\.?", re.IGNORECASE)
_ANY_MONTH = rf"(?:{_MONTH})\.?"
# how a day is written, and the formats that can read it; a time can follow
_DAYS = {
    r"\d{1,2}\.\d{1,2}\.\d{4}": ("%d.%m.%Y",),
    r"\d{1,2}\.\d{1,2}\.\d{2}": ("%d.%m.%y",),
    r"\d{1,2}/\d{1,2}/\d{4}": ("%d/%m/%Y", "%m/%d/%Y"),
    r"\d{1,2}-\d{1,2}-\d{4}": ("%d-%m-%Y", "%m-%d-%Y"),
    r"\d{1,2}/\d{1,2}/\d{2}": ("%d/%m/%y", "%m/%d/%y", "%y/%m/%d"),
    r"\d{1,2}-\d{1,2}-\d{2}": ("%d-%m-%y", "%m-%d-%y", "%y-%m-%d"),
    r"\d{4}/\d{1,2}/\d{1,2}": ("%Y/%m/%d",),
    r"\d{4}\.\d{1,2}\.\d{1,2}": ("%Y.%m.%d",),
    r"\d{4}-\d{1,2}-\d{1,2}": (ISO,),
    rf"\d{{1,2}}-{_ANY_MONTH}-\d{{4}}": ("%d-%b-%Y",),
    rf"\d{{1,2}}-{_ANY_MONTH}-\d{{2}}": ("%d-%b-%y",),
    rf"\d{{1,2}} {_ANY_MONTH} \d{{4}}": ("%d %b %Y",),
    rf"{_ANY_MONTH} \d{{1,2}} \d{{4}}": ("%b %d %Y",),
    rf"{_ANY_MONTH} \d{{1,2}}, \d{{4}}": ("%b %d, %Y",),
}
_TIMES = {
    r"\d{1,2}:\d\d": "%H:%M",
    r"\d{1,2}:\d\d:\d\d": "%H:%M:%S",
    r"\d{1,2}:\d\d ?[ap]m": "%I:%M %p",
    r"\d{1,2}:\d\d:\d\d ?[ap]m": "%I:%M:%S %p",
}
_ALONE = {
    r"\d{4}-\d{1,2}": ("%Y-%m",),
    r"\d{4}/\d{1,2}": ("%Y/%m",),
    r"\d{1,2}/\d{4}": ("%m/%Y",),
    rf"{_ANY_MONTH} \d{{4}}": ("%b %Y",),
    **{pattern: (form,) for pattern, form in _TIMES.items()},
}
_SHAPES = {
    _ISO: (ISO,),
    **{re.compile(pattern, re.IGNORECASE): forms for pattern, forms in {**_DAYS, **_ALONE}.items()},
    **{
        re.compile(f"{day} {time}", re.IGNORECASE): tuple(f"{form} {clock}" for form in forms)
        for day, forms in _DAYS.items()
        if forms != (ISO,)
        for time, clock in _TIMES.items()
    },
}
_LONGEST = len("September 30, 2024 12:59:59 pm") + 3
_PARTS = {
    "%d": "day", "%m": "month", "%b": "month", "%Y": "year", "%y": "year", "%H": "hour", "%I": "hour",
    "%M": "minute", "%S": "second", "%p": "am/pm",
}  # fmt: skip


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
    groups: dict[tuple[str, ...], list[str]] = {}
    for text in texts:
        if forms := _formats_that_may(text):
            groups.setdefault(forms, []).append(text)
    if 2 * (sum(map(len, groups.values())) + dates) <= len(values):
        return ()
    formats: list[str] = []
    for forms in sorted(groups, key=lambda forms: -len(groups[forms])):
        fits = [sum(_read(text, form) is not None for text in groups[forms]) for form in forms]
        best = max(fits)
        formats += [form for form, count in zip(forms, fits, strict=True) if count == best > 0]
    if 2 * (sum(days(text, formats) is not None for text in texts) + dates) <= len(values):
        return ()
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
    """A format in words.

    Example:
        >>> in_words("%d.%m.%Y %H:%M"), in_words("ISO")
        ('day.month.year hour:minute', 'year-month-day')
    """
    words = "year-month-day" if form == ISO else form
    for part, word in _PARTS.items():
        words = words.replace(part, word)
    return words


def option(form: str) -> str:
    """A format as the option `date_format` takes it."""
    return "%Y-%m-%d" if form == ISO else form


def _formats_that_may(text: str) -> tuple[str, ...]:
    """The formats of the first shape that a text has."""
    if len(text) > _LONGEST or not any(mark in text for mark in "-/.: "):
        return ()
    return next((forms for shape, forms in _SHAPES.items() if shape.fullmatch(text)), ())


def _read(text: str, form: str) -> datetime.date | None:
    try:
        if form == ISO:
            if _ISO.fullmatch(text):
                return datetime.datetime.fromisoformat(text)
            return datetime.datetime.strptime(text, "%Y-%m-%d") if text[:4].isdigit() else None
        # English names of months, whatever the language of the system is
        if "%b" in form:
            plain = _NAMED.sub(lambda name: str(_MONTHS[name[1].lower()]), text, count=1)
            if plain != text:
                return datetime.datetime.strptime(plain, form.replace("%b", "%m"))
        return datetime.datetime.strptime(text, form)
    except ValueError:
        return None
