"""Signs of leakage, by which a score would be too good: copies of rows and tasks, features that tell the target.

What many tasks or values have in common is said once, with their number and the first of them.
"""

from __future__ import annotations

import itertools
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np
import pandas as pd

from .messages import quoted
from .tables.cells import factorize, is_number, parse, where
from .tables.columns import moments

__all__ = [
    "alike",
    "copied_tasks",
    "repeated_rows",
    "row_numbers",
    "stand_ins",
    "telling_columns",
    "twin_names",
    "twin_values",
]

# a value that stands in more tasks than this is no sign of a copy
_COMMON = 20
# rows of two tasks agree if their numbers do to this many digits
_DIGITS = 4
# pairs of tasks that chance may be expected to make as alike as two that are called copies
_BY_CHANCE = 0.05
# examples of a kind that are named
_FIRST = 3
# rows from which whole numbers that are all different are taken for the numbers of the rows
_NUMBERED = 20


def repeated_rows(frame: pd.DataFrame, task: str, ids: np.ndarray) -> list[tuple[str, str]]:
    """Tasks with rows that are equal in every column, and what to say about it."""
    codes = _codes(frame.drop(columns=task))
    owner = pd.factorize(ids)[0]
    twins = pd.DataFrame({"row": codes, "task": owner}).duplicated()
    if not twins.any():
        return []
    second = int(np.flatnonzero(twins)[0])
    first = int(np.flatnonzero((codes == codes[second]) & (owner == owner[second]))[0])
    word, count = "row" if frame.index.name is None else "line", int(twins.sum())
    text = (
        f"{where(frame, second, task)}, equals {word} {frame.index[first]} in every column ({count} such rows), so "
        "one copy may be support and the other query: remove the copies, unless each is a measurement of its own"
    )
    return [(str(ids[second]), text)]


def copied_tasks(frame: pd.DataFrame, task: str, ids: np.ndarray) -> list[tuple[str, str]]:
    """Pairs of tasks of which one holds half of the rows of the other or more, up to rounding."""
    owner, names = pd.factorize(ids)
    rows = _codes(_rounded(frame.drop(columns=task)))
    pairs = np.unique(np.stack([rows, owner], 1), axis=0)
    sizes = np.bincount(pairs[:, 1], minlength=len(names))
    starts = np.flatnonzero(np.append(True, np.diff(pairs[:, 0]) > 0))
    counts = np.diff(np.append(starts, len(pairs)))
    shared: Counter[tuple[int, int]] = Counter()
    held = np.repeat(counts, counts)  # in how many tasks the row of each pair stands
    for start, count in zip(starts[counts > 1], counts[counts > 1], strict=True):
        if count <= _COMMON:
            shared.update(itertools.combinations(pairs[start : start + count, 1].tolist(), 2))
    likely = np.bincount(pairs[:, 1], np.where(held <= _COMMON, held - 1, 0), minlength=len(names))
    copies = [
        (one, other, count, int(min(sizes[one], sizes[other])))
        for (one, other), count in shared.items()
        if count >= 2
        and 2 * count >= min(sizes[one], sizes[other])
        and not _by_chance(count, likely[one], sizes[one], len(names))
    ]
    if not copies:
        return []
    told = [
        f"tasks {str(names[one])!r} and {str(names[other])!r} share {count} of {least} rows"
        for one, other, count, least in copies[:_FIRST]
    ]
    more = f" ({len(copies)} such pairs, more than chance makes)" if len(copies) > _FIRST else ""
    text = f"{', '.join(told)}{more}: if one is a copy of the other, remove it, as both splits could hold it"
    return [(str(names[copies[0][1]]), text)]


def _by_chance(shared: int, likely: float, size: int, tasks: int) -> bool:
    """Whether some pair of so many tasks may be expected to share as many rows, were each row drawn on its own.

    Arguments:
        shared: rows that the two tasks have in common.
        likely: over the rows of one task, in how many other tasks each stands, summed.
        size: rows of this task.
        tasks: how many there are.
    """
    from scipy.stats import binom

    # the other task of the pair does not count; a row that nobody else has could still have been drawn
    others = max(likely - shared, 0.0) / size + 1 / tasks
    share = min(others / max(tasks - 2, 1), 1.0)
    return bool(binom.sf(shared - 1, size, share) * tasks * (tasks - 1) / 2 > _BY_CHANCE)


def row_numbers(frame: pd.DataFrame, features: Sequence[str]) -> list[tuple[str, str]]:
    """Features that count the rows of the table."""
    warnings = []
    for name in features:
        column = frame[name]
        if len(column) < _NUMBERED or not is_number(column) or column.isna().any():
            continue
        steps = np.diff(column.to_numpy(np.float64))
        if len({*steps.tolist()}) == 1 and abs(steps[0]) == 1:
            text = (
                f"column {name!r} counts the rows of the table ({column.iloc[0]:g} to {column.iloc[-1]:g}), which says "
                f"where a row stands and nothing about it: leave it out (--ignore {quoted(name)})"
            )
            warnings.append((name, text))
    return warnings


def telling_columns(frame: pd.DataFrame, target: str, features: Sequence[str]) -> list[tuple[str, str]]:
    """Features that are the target in other words: equal to it, a straight line of it, or a code for it."""
    codes, _ = factorize(frame[target])
    warnings = []
    for name in features:
        other, _ = factorize(frame[name])
        both = (codes >= 0) & (other >= 0)
        if both.sum() < 4 or len(set(codes[both])) < 2:
            continue
        pairs = len(np.unique(np.stack([codes[both], other[both]]), axis=1).T)
        used = len(set(other[both]))
        # a column with a value of its own in each row says nothing by that
        if pairs == used and 2 * used <= both.sum():
            words = "determines" if used > len(set(codes[both])) else "stands for"
        elif _is_line(frame[name], frame[target], both):
            words = "is a straight line of"
        else:
            continue
        text = (
            f"column {name!r} {words} the target {target!r} in every row: leave it out (--ignore {quoted(name)}) if it "
            "is not known before the target is"
        )
        warnings.append((name, text))
    return warnings


def twin_values(frame: pd.DataFrame, name: str, what: str, one: str) -> list[tuple[str, str]]:
    """Values that differ only by space, by case, by Unicode form or as numbers: `A1` and `a1 `, `1` and `1.0`.

    The message says `what` they are, and `one` thing that they should be if they are the same.
    """
    if is_number(frame[name]):
        return []
    _, values = factorize(frame[name])
    return twin_names([str(value) for value in values], what, one)


def twin_names(names: Sequence[str], what: str, one: str) -> list[tuple[str, str]]:
    """The same of names."""
    spellings: dict[str, set[str]] = defaultdict(set)
    for name in names:
        spellings[alike(name)].add(name)
    twins = [sorted(group) for group in spellings.values() if len(group) > 1]
    if not twins:
        return []
    told = "; ".join(", ".join(_spelled(name, group) for name in group[:8]) for group in twins[:_FIRST])
    more = f" ({len(twins)} such groups)" if len(twins) > _FIRST else ""
    text = (
        f"{what} {told}{more} differ only by space, case or zeros, or by how a letter is put together: write them the "
        f"same way if they are {one}"
    )
    return [(twins[0][0], text)]


def alike(name: str) -> str:
    """What names have in common that differ only by space, case, Unicode form or as numbers.

    Example:
        >>> alike(" A1") == alike("a1"), alike("1.0") == alike("1"), alike("e\u0301") == alike("\u00e9")
        (True, True, True)
    """
    plain = " ".join(unicodedata.normalize("NFC", name).split()).casefold()
    number = parse(plain)
    return plain if number is None else repr(number)


def _spelled(name: str, group: Sequence[str]) -> str:
    """The name, with its characters in ASCII where another of the group looks the same."""
    same = [
        other for other in group if unicodedata.normalize("NFC", other) == unicodedata.normalize("NFC", name)
    ]
    return ascii(name) if len(same) > 1 else repr(name)


def stand_ins(frame: pd.DataFrame, name: str) -> list[tuple[str, str]]:
    """Numbers such as -999 that may stand for a gap: the least or largest value, often, and far from the others."""
    if not is_number(frame[name]):
        return []
    values = frame[name].to_numpy(np.float64, na_value=np.nan)
    values = values[np.isfinite(values)]
    warnings = []
    for value in {float(values.min(initial=0)), float(values.max(initial=0))}:
        same = values == value
        others = values[~same]
        is_code = abs(value) in (99, 999, 9999, 99999, 999999) or value in (-1, -9)
        if is_code and same.sum() > 1 and len(others) > 3:
            span = float(others.max() - others.min())
            if min(abs(value - others.min()), abs(value - others.max())) > 3 * span:
                text = (
                    f"{value:g} stands in {int(same.sum())} rows of column {name!r}, whose other values are "
                    f"{others.min():g} to {others.max():g}: leave these cells empty if it means that nothing is known"
                )
                warnings.append((name, text))
    return warnings


def _codes(frame: pd.DataFrame) -> np.ndarray:
    """A number for each row, equal for equal rows."""
    columns = [factorize(frame[name])[0] for name in frame.columns]
    return np.unique(np.stack(columns, 1), axis=0, return_inverse=True)[1].ravel()


def _rounded(frame: pd.DataFrame) -> pd.DataFrame:
    """Numbers to a few digits; the rest unchanged."""
    rounded = {}
    for name in frame.columns:
        column = frame[name]
        if is_number(column):
            values = column.to_numpy(np.float64, na_value=np.nan)
            size = np.abs(np.where(np.isfinite(values) & (values != 0), values, 1.0))
            unit = 10.0 ** np.clip(np.floor(np.log10(size)) - _DIGITS + 1, -300, 300)
            with np.errstate(over="ignore", invalid="ignore"):
                column = pd.Series(np.round(values / unit) * unit, index=frame.index)
        rounded[name] = column
    return pd.DataFrame(rounded)


def _is_line(one: pd.Series, other: pd.Series, rows: np.ndarray) -> bool:
    if not (is_number(one) and is_number(other)):
        return False
    x, y = (column.to_numpy(np.float64, na_value=np.nan)[rows] for column in (one, other))
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        return False
    (_, x_scale), (_, y_scale) = moments(x), moments(y)
    if x_scale == 0 or y_scale == 0:
        return False
    x, y = x / x_scale, y / y_scale
    return bool(abs(np.mean((x - x.mean()) * (y - y.mean()))) > 1 - 1e-9)
