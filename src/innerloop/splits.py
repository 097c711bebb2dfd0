"""Three disjoint sets of tasks with what is known about them, and how names are divided among them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from .errors import UsageError
from .schema import Schema
from .sources import ClassSource, Source, Targets

SPLITS = ("train", "valid", "test")
SHARES = (0.7, 0.15, 0.15)


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

    def renamed(self, name: str) -> Tasks:
        """The same tasks under another name."""
        return replace(self, name=name)

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
        shape = self.feature_shape
        features = (
            f"{shape[0]} feature{'s' * (shape[0] != 1)}"
            if len(shape) == 1
            else f"x {'x'.join(map(str, shape))}"
        )
        support = self.train.support
        size = f"{'n_shot' if support.per_class else 'n_support'}={support}"
        return f"Tasks({self.name}: {tasks}, {features}, {self.targets.kind}, {size})"


def parts(count: int, split: Sequence[float], seed: int, *, least: int = 1) -> list[np.ndarray]:
    """Positions `0 .. count - 1` in three random parts of the given shares, none of them empty.

    Arguments:
        count: 3 or more.
        split: three shares.
        seed: of the draw.
        least: smallest size of the second and third part, where `count` allows three parts of this size.

    Raises:
        UsageError: the shares are not three positive numbers that sum to 1.

    Example:
        >>> [len(part) for part in parts(100, (0.7, 0.15, 0.15), 0)]
        [70, 15, 15]
    """
    shares = np.array(split, dtype=np.float64)
    if shares.shape != (3,) or not (shares > 0).all() or not math.isclose(shares.sum(), 1.0, abs_tol=1e-6):
        raise UsageError(f"split={tuple(split)}: give three positive shares that sum to 1, such as {SHARES}")
    if count < 3 * least:
        least = 1
    n_valid, n_test = (max(least, round(count * share)) for share in shares[1:])
    while n_valid + n_test >= count:
        n_valid, n_test = (n_valid - 1, n_test) if n_valid > n_test else (n_valid, n_test - 1)
    order = np.random.default_rng(seed).permutation(count)
    train = count - n_valid - n_test
    return [np.sort(part) for part in np.split(order, [train, train + n_valid])]
