"""Boosted decision trees as tensors: prediction in torch, growth by scikit-learn's histogram boosting."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from threadpoolctl import threadpool_limits
from torch import Tensor

from ...engine.modes import any_rows, tracing
from ...errors import check_known
from ...models.network import Params
from .bins import bin_edges, codes

__all__ = ["Trees"]

_PREFIX = "trees/"
# what a node that is no split compares with, so that every row goes left
_NEVER = 3e38
# query rows times trees whose nodes are looked up at once
_AT_ONCE = 2**22
# parts of the groups that are left out in turn, only one of them where there are many rows
_PARTS, _FEW_ROWS = 5, 3000
# values of a table from which several threads are faster than one
_MANY = 500_000


# the last results of `fit_and_leave_out`, by a hash of what was asked for
_grown: dict[bytes, tuple[Params, np.ndarray]] = {}
_KEPT = 2


@contextmanager
def _threads(values: int) -> Iterator[None]:
    """One thread where a table is small: several would only wait for each other, on a busy machine for long."""
    with threadpool_limits(1, "openmp") if values < _MANY else nullcontext():
        yield


@dataclass(frozen=True)
class Trees:
    r"""A sum of regression trees, $f(x) = b + \sum_m h_m(x)$, whose nodes stand in tensors of fixed shapes.

    Every tree is complete: node `i` has the children `2 i + 1` and `2 i + 2`, a row goes left where its feature is
    at most the threshold, and a node that does not divide sends every row left. Fitted by scikit-learn's
    `HistGradientBoostingRegressor` or `...Classifier` on numbers of bins instead of values, so that a threshold is
    the edge of a bin (see `bins`): Friedman, 2001, *Greedy Function Approximation: A Gradient Boosting Machine*;
    Ke et al., 2017, *LightGBM: A Highly Efficient Gradient Boosting Decision Tree*.

    Arguments:
        n_features: features `F`.
        n_outputs: values, or classes.
        kind: `regression` or `classification`, whose outputs are logits.
        rounds: trees of each output at most; held-out groups decide how many.
        depth: divisions from the root of a tree to a leaf, at most.
        rate: the share of each tree that is added.

    Example:
        >>> x = np.linspace(-1, 1, 200)[:, None]
        >>> trees = Trees(1, rounds=30, depth=3)
        >>> fitted = trees.fit(x, np.sin(3 * x), groups=np.arange(200) % 5)
        >>> error = trees.predict(fitted, torch.from_numpy(x).float()) - torch.from_numpy(np.sin(3 * x))
        >>> bool(error.square().mean() < 0.05)
        True
    """

    n_features: int
    n_outputs: int = 1
    kind: str = "regression"
    rounds: int = 200
    depth: int = 5
    rate: float = 0.06

    def __post_init__(self) -> None:
        """Refuse what has no meaning."""
        check_known("kind", self.kind, ("regression", "classification"))

    def init(self) -> Params:
        """Trees that say 0; numbers of features are floats, since a model has one floating type."""
        inner = (self.rounds, self.n_outputs, 2**self.depth - 1)
        return {
            f"{_PREFIX}feature": torch.zeros(inner),
            f"{_PREFIX}threshold": torch.full(inner, _NEVER),
            f"{_PREFIX}value": torch.zeros(self.rounds, self.n_outputs, 2**self.depth),
            f"{_PREFIX}baseline": torch.zeros(self.n_outputs),
            f"{_PREFIX}noise": torch.ones(self.n_outputs),
        }

    def predict(self, params: Params, x: Tensor) -> Tensor:
        """The sum of the trees for rows `(n, F)`: values or logits, `(n, n_outputs)`."""
        value = params[f"{_PREFIX}value"]
        # trees that were never grown cost time and say nothing
        used = self.rounds if value.requires_grad else max(1, self.rounds_used(params))
        feature, threshold, value = (
            params[f"{_PREFIX}{name}"][:used].flatten(0, 1) for name in ("feature", "threshold", "value")
        )
        feature = feature.long().clamp(0, self.n_features - 1)
        # a graph serves any number of rows, and splits none
        most = max(1, _AT_ONCE // len(value))
        split = (x,) if any_rows() else torch.split(x, most)
        parts = [self._sums(feature, threshold, value, part) for part in split]
        return params[f"{_PREFIX}baseline"] + torch.cat([part.to(value.dtype) for part in parts])

    def _sums(self, feature: Tensor, threshold: Tensor, value: Tensor, x: Tensor) -> Tensor:
        """The sum over trees, in double precision, of the leaf that each row comes to; `(n, n_outputs)`."""
        trees = torch.arange(len(value), device=x.device)
        inner, leaves = trees * feature.shape[1], trees * value.shape[1]
        node = torch.zeros(x.shape[0], len(value), dtype=torch.int64, device=x.device)
        for _ in range(self.depth):
            right = x.gather(1, feature.take(inner + node)) > threshold.take(inner + node)
            node = 2 * node + 1 + right
        said = value.take(leaves + node - (2**self.depth - 1))
        shape = (x.shape[0], len(value) // self.n_outputs, self.n_outputs)
        return said.double().reshape(shape).sum(1)

    def fit(
        self,
        x: np.ndarray,
        y: np.ndarray,
        *,
        groups: np.ndarray,
        weight: np.ndarray | None = None,
        rounds: int | None = None,
    ) -> Params:
        """Grow the trees.

        Arguments:
            x: features `(n, F)`.
            y: values `(n, n_outputs)`, or class numbers `(n,)`.
            groups: the group of each row, `(n,)`; groups that are left out decide how many trees there are.
            weight: of each row, `(n,)`.
            rounds: the number of trees, where that is known; then nothing is learned of the noise.

        Returns:
            The parameters, in float32; `trees/noise` is the mean squared error on the groups that decided.
        """
        return self._fitted(x, y, groups, weight, rounds=rounds)[0]

    def fit_and_leave_out(
        self, x: np.ndarray, y: np.ndarray, *, groups: np.ndarray, weight: np.ndarray | None = None
    ) -> tuple[Params, np.ndarray]:
        """Grow the trees; and predict each row by as many trees that were grown without its group, `(n, n_outputs)`.

        Arguments and parameters are those of `fit`; values only. The last results are kept, since several models of
        a table stand on the same trees.
        """
        digest = hashlib.sha256(repr(self).encode())
        for values in (x, y, np.unique(groups, return_inverse=True)[1], weight):
            digest.update(b"" if values is None else np.ascontiguousarray(values).tobytes())
        key = digest.digest()
        if key not in _grown:
            found = self._fitted(x, y, groups, weight, leaves_out=True)
            while len(_grown) >= _KEPT:
                _grown.pop(next(iter(_grown)))
            _grown[key] = found
        return _grown[key]

    def _fitted(
        self,
        x: np.ndarray,
        y: np.ndarray,
        groups: np.ndarray,
        weight: np.ndarray | None,
        *,
        rounds: int | None = None,
        leaves_out: bool = False,
    ) -> tuple[Params, np.ndarray]:
        """The parameters, and where it is asked for the predictions of rows without their group."""
        x = np.asarray(x, np.float32)
        edges = [bin_edges(column) for column in x.T]
        binned = codes(x, edges)
        weight = np.ones(len(x)) if weight is None else weight
        params, without = self.init(), np.zeros((len(x), self.n_outputs))
        columns = y.T if self.kind == "regression" else [y]
        with _threads(binned.size):
            for position, target in enumerate(columns):
                count, noise = rounds, 1.0
                if count is None:
                    parts = _Parts(self, binned, target, groups, weight, every=leaves_out)
                    count, noise = parts.rounds, parts.noise
                    if leaves_out:
                        without[:, position] = parts.predictions()
                grown = self.grow(binned, target, weight, count)
                self._copy(params, grown, edges, position, np.unique(target))
                if self.kind == "regression":
                    params[f"{_PREFIX}noise"][position] = noise
        return params, without

    def rounds_used(self, params: Params) -> int:
        """The number of rounds up to the last that says something; all of them in a graph, which reads no value."""
        if tracing():
            return len(params[f"{_PREFIX}value"])
        says = (params[f"{_PREFIX}value"] != 0).flatten(1).any(1).nonzero()
        return int(says[-1]) + 1 if len(says) else 0

    def _estimator(self, rounds: int) -> Any:
        from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

        known = self.kind == "regression"
        made = HistGradientBoostingRegressor if known else HistGradientBoostingClassifier
        return made(
            max_iter=rounds,
            learning_rate=self.rate,
            max_depth=self.depth,
            max_leaf_nodes=None,
            min_samples_leaf=10,
            l2_regularization=1.0,
            early_stopping=False,
            random_state=0,
        )

    def grow(self, binned: np.ndarray, y: np.ndarray, weight: np.ndarray, rounds: int) -> object:
        """A fitted estimator of scikit-learn on numbers of bins; `None` for a single class."""
        if self.kind == "classification" and len(np.unique(y)) < 2:
            return None
        return self._estimator(rounds).fit(binned, y, sample_weight=weight)

    def _copy(
        self, params: Params, grown: Any, edges: list[np.ndarray], output: int, classes: np.ndarray
    ) -> None:
        """Write the trees of scikit-learn into complete ones."""
        baseline = params[f"{_PREFIX}baseline"]
        outputs = [output]
        if self.kind == "classification":
            # what no row of training has is never likely
            baseline.fill_(-20.0)
            seen = classes.astype(int)
            baseline[torch.from_numpy(seen)] = 0.0
            if grown is None:
                return
            outputs = seen.tolist() if len(seen) > 2 else [int(seen[1])]
        for place, start in zip(outputs, np.ravel(grown._baseline_prediction), strict=True):
            baseline[place] = float(start)
        for number, trees in enumerate(grown._predictors):
            for place, tree in zip(outputs, trees, strict=True):
                self._copy_tree(params, (number, place), tree.nodes, edges)

    def _copy_tree(
        self, params: Params, place: tuple[int, int], nodes: np.ndarray, edges: list[np.ndarray]
    ) -> None:
        feature, threshold, value = (
            params[f"{_PREFIX}{name}"][place].numpy() for name in ("feature", "threshold", "value")
        )
        todo = [(0, 0, self.depth)]
        while todo:
            here, node, left = todo.pop()
            if nodes["is_leaf"][here]:
                # rows go left from here, to the first leaf below
                value[(node + 1) * 2**left - 2**self.depth] = nodes["value"][here]
                continue
            column = int(nodes["feature_idx"][here])
            feature[node] = column
            threshold[node] = edges[column][int(np.floor(nodes["num_threshold"][here]))]
            todo.append((int(nodes["left"][here]), 2 * node + 1, left - 1))
            todo.append((int(nodes["right"][here]), 2 * node + 2, left - 1))


class _Parts:
    """Trees that were grown without a part of the groups, and the number of rounds that is best for that part.

    Arguments:
        trees: how they are grown.
        binned: numbers of bins `(n, F)`.
        y: one target `(n,)`.
        groups: the group of each row.
        weight: of each row.
        every: whether every part is left out, of many rows too.
    """

    def __init__(
        self, trees: Trees, binned: np.ndarray, y: np.ndarray, groups: np.ndarray, weight: np.ndarray, *, every: bool
    ) -> None:  # fmt: skip
        self.trees, self.binned, self.y, self.weight = trees, binned, y, weight
        self.part = np.unique(groups, return_inverse=True)[1] % _PARTS
        self.grown: dict[int, Any] = {}
        for number in range(_PARTS if every or len(y) <= _FEW_ROWS else 1):
            away = self.part == number
            unknown = trees.kind == "classification" and len(np.unique(y[~away])) < len(np.unique(y))
            if away.any() and not away.all() and not unknown:
                grown = trees.grow(binned[~away], y[~away], weight[~away], trees.rounds)
                if grown is not None:
                    self.grown[number] = grown
        losses = [self._losses(number) for number in self.grown]
        # too few groups to tell: a cautious number, and the spread of the targets
        self.rounds, self.noise = max(1, trees.rounds // 4), float(max(np.var(y), 1e-10))
        if losses:
            mean = np.mean(losses, 0)
            self.rounds, self.noise = int(mean.argmin()) + 1, max(float(mean.min()), 1e-10)

    def predictions(self) -> np.ndarray:
        """Of each row by trees that do not know its group, `(n,)`; the mean target where there are none."""
        found = np.full(len(self.y), np.average(self.y, weights=self.weight))
        for number, grown in self.grown.items():
            away = self.part == number
            stages = grown.staged_predict(self.binned[away])
            found[away] = next(itertools.islice(stages, self.rounds - 1, None))
        return found

    def _losses(self, number: int) -> list[float]:
        """The mean loss on a part that was left out after each round."""
        away, grown = self.part == number, self.grown[number]
        binned, y = self.binned[away], self.y[away]
        if self.trees.kind == "regression":
            errors = ((stage - y) ** 2 for stage in grown.staged_predict(binned))
        else:
            place = np.arange(len(y)), np.searchsorted(grown.classes_, y)
            chances = (stage[place] for stage in grown.staged_predict_proba(binned))
            errors = (-np.log(np.maximum(chance, 1e-12)) for chance in chances)
        return [float(np.average(error, weights=self.weight[away])) for error in errors]
