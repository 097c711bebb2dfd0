"""Three disjoint sets of tasks with what is known about them, and how names are divided among them."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ..errors import DataError, UsageError
from ..notebook import as_html
from .messages import absent_columns, listed, meant
from .sources import ClassSource, Source
from .support import Targets
from .tables.cells import task_ids, where
from .tables.deciding import Reading
from .tables.reading import as_frame
from .tables.schema import Schema

if TYPE_CHECKING:
    from .inputs import InputSchema

__all__ = [
    "SHARES",
    "SPLITS",
    "ByHash",
    "Fold",
    "NoTest",
    "Split",
    "Tasks",
    "divide",
    "folds",
    "parts",
    "read_split",
]

SPLITS = ("train", "valid", "test")
SHARES = (0.7, 0.15, 0.15)

_SYNONYMS = {"val": "valid", "validation": "valid"}


class Fold(NamedTuple):
    """One of `of` divisions that test every task once: part `number` is tested, the next one validates.

    Example:
        >>> str(Fold.parse("2/5"))
        '2/5'
    """

    number: int
    of: int

    @staticmethod
    def parse(text: str) -> Fold:
        """`2/5` is the second of five.

        Raises:
            UsageError: it is not written like this, or there is no such fold.
        """
        number, _, of = text.partition("/")
        if not (number.isdecimal() and of.isdecimal()):
            raise UsageError(f"fold {text!r}: give the number of a fold and how many there are, such as 2/5")
        fold = Fold(int(number), int(of))
        if fold.of < 3 or not 1 <= fold.number <= fold.of:
            raise UsageError(f"fold {text!r}: there are 3 folds or more, numbered from 1")
        return fold

    def __str__(self) -> str:
        """As it is written."""
        return f"{self.number}/{self.of}"


class NoTest(NamedTuple):
    """No meta-test tasks, for whoever tests on tasks of their own.

    Arguments:
        valid: share of the tasks that validate; of fewer than three tasks, none does.

    Example:
        >>> [len(part) for part in divide(["a", "b", "c", "d"], NoTest(0.25), 0)]
        [3, 1, 0]
    """

    valid: float = SHARES[1]

    def of(self, count: int, seed: int) -> list[np.ndarray]:
        """Positions `0 .. count - 1` in the three splits.

        Raises:
            UsageError: the share is not from 0 to below 1.
        """
        if not 0 <= self.valid < 1:
            raise UsageError(f"a share of {self.valid} of the tasks cannot validate: give 0 to below 1")
        n_valid = min(max(1, round(count * self.valid)), count - 1) if self.valid and count > 2 else 0
        order = np.random.default_rng(seed).permutation(count)
        return [np.sort(order[n_valid:]), np.sort(order[:n_valid]), order[:0]]


class ByHash(NamedTuple):
    """Each task by a hash of its name: it stays where it is whatever other tasks there are.

    So next month's table, with new tasks, keeps last month's split. The parts have about their shares, by chance.

    Arguments:
        shares: of meta-train, meta-validation and meta-test.

    Example:
        >>> [len(part) for part in divide([f"t{i}" for i in range(1000)], ByHash(), 0)]
        [707, 155, 138]
        >>> few, more = (divide([f"t{i}" for i in range(n)], "hash", 0) for n in (100, 200))
        >>> few[2].tolist() == [i for i in more[2].tolist() if i < 100]
        True
    """

    shares: tuple[float, float, float] = SHARES

    def of(self, names: Sequence[str], seed: int, *, what: str) -> list[np.ndarray]:
        """Positions of the names in the three splits.

        Raises:
            DataError: a split is empty.
        """
        ends = np.cumsum(_checked(self.shares))[:2]
        places = np.array([_place(name, seed) for name in names], dtype=np.float64)
        owners = np.searchsorted(ends, places, side="right")
        found = [np.flatnonzero(owners == number) for number in range(len(SPLITS))]
        empty = [part for part, index in zip(SPLITS, found, strict=True) if not len(index)]
        if empty:
            raise DataError(
                f"none of the {len(names)} {what} falls into split {empty[0]!r} by its hash: few of them may miss one; "
                f"give another seed, or shares such as {SHARES}"
            )
        return found


# shares; the names in each split; a CSV file with the columns task and split; a fold, also as text: 2/5; by a hash of
# the name, also as text: hash; no test
Split = Sequence[float] | Mapping[str, Sequence[object]] | Fold | ByHash | NoTest | str | Path


@dataclass(frozen=True, eq=False)
class Tasks:
    """Three disjoint sets of tasks, and what is known about them.

    Arguments:
        train: meta-train tasks.
        valid: meta-validation tasks.
        test: meta-test tasks.
        targets: what the targets are.
        feature_shape: shape of one row of `x`, `(F,)` for tables; empty where `x` is no plain tensor.
        schema: what the columns mean (tables only).
        splits: names of the tasks, or classes, in each split; empty where tasks have no names.
        notes: what was dropped or decided, one sentence each, for people.
        name: what to call it.
        inputs: what a row is, where it is a picture or a row of an array.

    Example:
        >>> from innerloop.tasks import sinusoid
        >>> sinusoid(n_support=5)
        Tasks(sinusoid: tasks without end, 1 feature, regression, n_support=5)
    """

    train: Source
    valid: Source
    test: Source
    targets: Targets
    feature_shape: tuple[int, ...]
    schema: Schema | None = None
    splits: dict[str, tuple[str, ...]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    name: str = "tasks"
    inputs: InputSchema | None = None

    @property
    def n_features(self) -> int:
        """Features `F` of a row that is a vector.

        Raises:
            UsageError: rows are no vectors.
        """
        if len(self.feature_shape) != 1:
            raise UsageError(
                f"a row of {self.name} has shape {self.feature_shape}, not (n_features,): use feature_shape"
            )
        return self.feature_shape[0]

    @property
    def n_outputs(self) -> int:
        """Outputs a model needs."""
        return self.targets.n_outputs

    @property
    def own_classes(self) -> bool:
        """Each task has classes of its own, numbered anew in each."""
        return self.schema is not None and self.schema.n_way > 0

    @property
    def encoded(self) -> bool:
        """Whether every feature comes from a frozen encoder."""
        if self.inputs is not None and self.inputs.encoder:
            return True
        columns = () if self.schema is None else self.schema.columns
        return bool(columns) and all(column.kind == "text" for column in columns)

    def renamed(self, name: str) -> Tasks:
        """The same tasks under another name."""
        return replace(self, name=name)

    def _repr_html_(self) -> str:
        """What notebooks show: what the tasks are, how many each split has, and what was decided."""
        support = self.train.support
        facts: dict[str, object] = {
            "kind": self.targets.kind,
            "features": "x".join(map(str, self.feature_shape)),
            "columns": None if self.schema is None else [column.name for column in self.schema.columns],
            "target": None if self.schema is None else self.schema.target,
            "n_shot" if support.per_class else "n_support": support,
        }
        if self.splits:
            what = "classes" if isinstance(self.train, ClassSource) else "tasks"
            facts[what] = {name: len(self.splits[name]) for name in SPLITS}
        noted = [["notes"], *([note] for note in self.notes)] if self.notes else ()
        return as_html(f"Tasks: {self.name}", facts, noted)

    def __repr__(self) -> str:
        """One line."""
        if self.splits:
            what = "classes" if isinstance(self.train, ClassSource) else "tasks"
            counts = " + ".join(f"{len(self.splits[name])} {name}" for name in SPLITS)
            tasks = f"{sum(map(len, self.splits.values()))} {what} = {counts}"
        elif self.train.n_tasks is not None:
            tasks = f"{self.train.n_tasks} batches to train on"
        else:
            tasks = "tasks without end"
        features = f"x {'x'.join(map(str, self.feature_shape))}"
        if len(self.feature_shape) == 1:
            features = f"{self.n_features} feature{'s' * (self.n_features != 1)}"
        support = self.train.support
        size = f"{'n_shot' if support.per_class else 'n_support'}={support}"
        return f"Tasks({self.name}: {tasks}, {features}, {self.targets.kind}, {size})"


def parts(count: int, split: Sequence[float], seed: int, *, least: int = 1) -> list[np.ndarray]:
    """Positions `0 .. count - 1` in three random parts of the given shares, none of them empty.

    The second and third part have `least` positions or more where `count` allows three parts of this size.

    Raises:
        UsageError: the shares are not three positive numbers that sum to 1.

    Example:
        >>> [len(part) for part in parts(100, (0.7, 0.15, 0.15), 0)]
        [70, 15, 15]
    """
    shares = _checked(split)
    if count < 3 * least:
        least = 1
    n_valid, n_test = (max(least, round(count * share)) for share in shares[1:])
    while n_valid + n_test >= count:
        n_valid, n_test = (n_valid - 1, n_test) if n_valid > n_test else (n_valid, n_test - 1)
    order = np.random.default_rng(seed).permutation(count)
    train = count - n_valid - n_test
    return [np.sort(part) for part in np.split(order, [train, train + n_valid])]


def _checked(split: Sequence[float]) -> np.ndarray:
    """Three shares."""
    shares = np.array(split, dtype=np.float64)
    if shares.shape != (3,) or not (shares > 0).all() or not math.isclose(shares.sum(), 1.0, abs_tol=1e-6):
        raise UsageError(f"split={tuple(split)}: give three positive shares that sum to 1, such as {SHARES}")
    return shares


def _place(name: str, seed: int) -> float:
    """From 0 to below 1, by the name and the seed alone."""
    digest = hashlib.sha256(f"{seed}\0{name}".encode()).digest()
    return (int.from_bytes(digest[:8]) >> 11) / 2**53


def divide(
    names: Sequence[str],
    split: Split,
    seed: int,
    *,
    what: str = "tasks",
    dropped: Sequence[str] = (),
    least: int = 1,
    all_named: bool = True,
) -> list[np.ndarray]:
    """Positions of the names in each of the three splits, three arrays.

    Arguments:
        names: what is divided, all different.
        split: shares, names, a file, a fold or a hash, see `Split`.
        seed: of the draw.
        what: what the names stand for, for messages.
        dropped: names that a fixed split may hold although they are not divided.
        least: see `parts`.
        all_named: a fixed split has to hold every name, and one name at least in each part.

    Raises:
        DataError: there are fewer than three names, or a fixed split does not fit them.
        UsageError: the split has no meaning.

    Example:
        >>> divide(["a", "b", "c"], {"train": ["c"], "valid": ["b"], "test": ["a"]}, 0)
        [array([2]), array([1]), array([0])]
        >>> [len(part) for part in divide([f"t{i}" for i in range(10)], Fold(1, 5), 0)]
        [6, 2, 2]
    """
    if isinstance(split, str | Path):
        split = _named(split)
    if isinstance(split, Mapping):
        owner = _owners(names, split, what, dropped)
        absent = [name for name in names if name not in owner]
        if absent and all_named:
            raise DataError(f"{len(absent)} of the {what} are in no split: {listed(absent)}; add them to one")
        owners = np.array([owner.get(name, "") for name in names])
        positions = [np.flatnonzero(owners == part) for part in SPLITS]
        empty = [part for part, index in zip(SPLITS, positions, strict=True) if not len(index)]
        if empty and all_named:
            raise DataError(f"split {empty[0]!r} holds none of the {what}: name one at least")
        return positions
    if isinstance(split, Fold):
        if split.of > len(names):
            raise DataError(f"{split.of} folds of {len(names)} {what}: ask for {len(names)} folds or fewer")
        pieces = np.array_split(np.random.default_rng(seed).permutation(len(names)), split.of)
        test, valid = pieces[split.number - 1], pieces[split.number % split.of]
        rest = np.setdiff1d(np.arange(len(names)), np.concatenate([test, valid]))
        return [rest, np.sort(valid), np.sort(test)]
    if isinstance(split, ByHash):
        return split.of(names, seed, what=what)
    if isinstance(split, NoTest):
        return split.of(len(names), seed)
    if len(names) < 3:
        raise DataError(f"there are {len(names)} {what}: the three splits need one each at least")
    return parts(len(names), split, seed, least=least)


def _named(split: str | Path) -> Fold | ByHash | dict[str, list[str]]:
    """A fold, a hash, or what the file says."""
    if Path(split).exists():
        return read_split(split)
    if str(split) == "hash":
        return ByHash()
    if re.fullmatch(r"\d+/\d+", str(split)):
        return Fold.parse(str(split))
    if Path(split).suffix == "":
        raise UsageError(
            f"split={str(split)!r} is unknown: give three shares such as 0.7,0.15,0.15, hash, a fold such as 2/5, or a "
            "CSV file with the columns task and split"
        )
    return read_split(split)


def _owners(
    names: Sequence[str], split: Mapping[str, Sequence[object]], what: str, dropped: Sequence[str]
) -> dict[str, str]:
    """The split of each name that a fixed split holds."""
    if set(split) != set(SPLITS):
        raise UsageError(f"split has the keys {listed(sorted(map(str, split)))}: give train, valid and test")
    known = {*names, *dropped}
    owner: dict[str, str] = {}
    for part in SPLITS:
        for name in map(str, split[part]):
            if name not in known:
                raise DataError(
                    f"split {part!r} names {name!r}, which is none of the {what}{meant(name, names)}: correct it"
                )
            if owner.setdefault(name, part) != part:
                raise DataError(
                    f"{name!r} is in the splits {owner[name]} and {part}: {what} must be disjoint"
                )
    return owner


def read_split(path: str | Path) -> dict[str, list[str]]:
    """A fixed split from a CSV file with a column of names and a column `split`: train, valid or test.

    Raises:
        DataError: a column is missing, or a value is no split.
    """
    frame = as_frame(path, reading=Reading(all_ids=True))
    if "split" not in frame:
        raise DataError(f"{path}: {absent_columns(['split'], frame)}; write the columns task and split")
    others = [name for name in frame.columns if name != "split"]
    column = "task" if "task" in others else others[0] if len(others) == 1 else None
    if column is None:
        raise DataError(f"{path}: {absent_columns(['task'], frame)}; write the columns task and split")
    split: dict[str, list[str]] = {name: [] for name in SPLITS}
    named = zip(task_ids(frame, column), frame["split"], strict=True)
    for row, (name, part) in enumerate(named):
        key = str(part).strip().lower()
        key = _SYNONYMS.get(key, key)
        if key not in split:
            raise DataError(
                f"{path}, {where(frame, row, column)}: split {part!r}: write train, valid or test"
            )
        split[key].append(str(name))
    return split


def folds(count: int, load: Callable[..., Tasks], *arguments: object, **options: object) -> Iterator[Tasks]:
    """The tasks divided in `count` ways, so that every task is a meta-test task once.

    The meta-train tasks of a fold decide the scales of that fold: nothing leaks between folds. Scores of the
    folds are put together by `evaluation.over_folds`.

    Arguments:
        count: number of folds, 3 or more.
        load: what makes tasks and takes `split`, such as `tasks.table`.
        arguments: for `load`.
        options: for `load`; the same `seed` for all.

    Yields:
        The tasks of each fold.

    Raises:
        UsageError: `count` is less than 3.

    Example:
        >>> import pandas as pd
        >>> from innerloop.tasks.tables.table import table
        >>> frame = pd.DataFrame({"site": list("aabbccddee"), "dose": range(10), "risk": range(10)})
        >>> for tasks in folds(5, table, frame, task="site", target="risk", n_support=1):
        ...     print(*tasks.splits["test"], end=" ")
        c e d a b
    """
    if count < 3:
        raise UsageError(f"{count} folds: give 3 or more")
    for number in range(1, count + 1):
        yield load(*arguments, split=Fold(number, count), **options)
