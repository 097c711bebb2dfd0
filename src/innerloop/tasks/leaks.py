"""Signs of leakage, by which a score would be too good: copies of rows and tasks, features that tell the target."""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np
import pandas as pd

from .messages import listed, quoted
from .tables.cells import factorize, is_number, parse, where
from .tables.columns import moments

__all__ = ["copied_tasks", "repeated_rows", "stand_ins", "telling_columns", "twin_values"]

# a value that stands in more tasks than this is no sign of a copy
_COMMON = 20
# rows of two tasks agree if their numbers do to this many digits
_DIGITS = 4


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
    for start, count in zip(starts[counts > 1], counts[counts > 1], strict=True):
        if count <= _COMMON:
            shared.update(itertools.combinations(pairs[start : start + count, 1].tolist(), 2))
    warnings = []
    for (one, other), count in shared.items():
        least = int(min(sizes[one], sizes[other]))
        if count >= 2 and 2 * count >= least:
            text = (
                f"tasks {str(names[one])!r} and {str(names[other])!r} share {count} of {least} rows: if one "
                "is a copy of the other, remove it, as both splits could hold it"
            )
            warnings.append((str(names[other]), text))
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
    """Values that differ only by space, by case or as numbers: `A1` and `a1 `, `1` and `1.0`.

    The message says `what` they are, and `one` thing that they should be if they are the same.
    """
    if is_number(frame[name]):
        return []
    _, values = factorize(frame[name])
    spellings: dict[str, set[str]] = defaultdict(set)
    for value in values:
        plain = " ".join(str(value).split()).casefold()
        number = parse(plain)
        spellings[plain if number is None else repr(number)].add(str(value))
    return [
        (
            sorted(names)[0],
            f"{what} {listed(sorted(names))} differ only by space, case or zeros: write them the same way if they "
            f"are {one}",
        )
        for names in spellings.values()
        if len(names) > 1
    ]


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
