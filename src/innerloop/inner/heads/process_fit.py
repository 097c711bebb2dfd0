"""The search for the kernel, mean and noise of a Gaussian process with the highest marginal likelihood."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ...models.network import Params
from ...tasks.episodes import Batch, to
from ...tasks.support import stream
from .base import counted_rows, row_weights, target_columns
from .process_evidence import ProcessEvidence, TaskRows
from .process_prior import ProcessPrior

__all__ = ["Search", "fitted"]

# values of a covariance of several tasks that are held at once
_VALUES_AT_ONCE = 2**22


@dataclass(frozen=True)
class Search:
    """How much of the data the search for the kernel looks at, and for how long.

    Arguments:
        rows: rows of a task at most, drawn once; of many tasks of so many rows some are drawn too.
        work: multiplications of one value of the likelihood, about, which decide how many tasks.
        steps: steps of each search.
        last_work: the same for the one last value with all tasks, which decides how many of their rows.
    """

    rows: int = 48
    work: float = 2e7
    steps: int = 80
    last_work: float = 1e10

    def tasks(self, rows: int, columns: int) -> int:
        """Tasks with so many rows, and columns of the mean, that are looked at, at most."""
        return max(50, int(self.work / max(rows * (rows**2 + rows * columns + columns**2), 1)))

    def last(self, tasks: int) -> int:
        """Rows of a task, at most, that mean and noise are found from."""
        return max(self.rows, min(500, int((self.last_work / max(tasks, 1)) ** (1 / 3))))

    def left_out(self, tasks: int, rows: int, columns: int) -> tuple[str, ...]:
        """A sentence on what is not looked at; none where all of it is.

        Example:
            >>> Search().left_out(100, 20, 3)
            ()
        """
        seen, last = min(self.rows, rows), min(self.last(tasks), rows)
        most = min(self.tasks(seen, columns), tasks)
        if (seen, most) == (rows, tasks):
            return ()
        return (
            f"the kernel was found from {most} of {tasks} tasks with at most {seen} rows each, mean and noise from "
            f"all tasks with at most {last} rows each, drawn once",
        )


def fitted(prior: ProcessPrior, features: Tensor, rows: Batch, search: Search) -> Params:
    """The meta-parameters with the highest marginal likelihood, in float64 on the CPU.

    The kernel first has one length-scale and one variance of the slopes for all features. Then each feature gets its
    own, then level and slopes a full covariance, each where the Bayesian information criterion finds that it earns
    its numbers. The search looks at a part of large data (`Search`); mean and noise are those of all tasks.

    Arguments:
        prior: whose meta-parameters.
        features: `(T, n, F)`.
        rows: their targets and weights.
        search: how much is looked at.
    """
    features, rows, layout = features.cpu(), to(rows, "cpu"), _Layout(prior)
    seen = _rows(prior, features, rows, search.rows)
    order = torch.randperm(len(seen.x), generator=stream(0))
    flat = _kernel(prior, layout, seen.of(order[: search.tasks(*seen.columns.shape[1:])]), search.steps)
    every = _rows(prior, features, rows, search.last(len(seen.x)))
    meta, log_taus = layout.unpack(torch.from_numpy(flat))
    with torch.no_grad():
        parts = [ProcessEvidence.of(prior, meta, part) for part in _pieces(every)]
        total = ProcessEvidence(*(torch.stack(sums).sum(0) for sums in zip(*map(_sums, parts), strict=True)))
        mean, noise, _ = total.mean(log_taus, prior.n_outputs)
    return {**meta, "head/mean": mean, "head/log_noise": noise.log() / 2}


def _sums(part: ProcessEvidence) -> tuple[Tensor, Tensor, Tensor]:
    return part.logdet, part.moments, part.count


def _rows(prior: ProcessPrior, features: Tensor, rows: Batch, most: int) -> TaskRows:
    """Rows that count, at most so many a task, drawn once."""
    weight = row_weights(rows, features).double()
    counted = weight > 0
    if weight.shape[1] > most:
        order = torch.rand(weight.shape, generator=stream(0)).masked_fill(~counted, 2.0).argsort(1)[:, :most]
        index = order.sort(1).values
    else:
        index = torch.arange(weight.shape[1], device="cpu").expand(weight.shape)
    weight = weight.gather(1, index)

    def taken(values: Tensor) -> Tensor:
        chosen = values.gather(1, index.unsqueeze(-1).expand(*index.shape, values.shape[-1]))
        return counted_rows(chosen.double(), weight)

    x, y = taken(features), taken(target_columns(rows, prior.n_outputs))
    return TaskRows(x, counted_rows(prior.columns(x), weight), y, weight)


def _pieces(rows: TaskRows) -> Iterator[TaskRows]:
    """Some tasks at a time, so that their covariances fit into memory."""
    size = max(1, _VALUES_AT_ONCE // max(rows.x.shape[1], 1) ** 2)
    for start in range(0, len(rows.x), size):
        yield rows.of(slice(start, start + size))


def _kernel(prior: ProcessPrior, layout: _Layout, rows: TaskRows, steps: int) -> np.ndarray:
    """The values of the kernel with the highest likelihood, richer ones where they earn their numbers."""
    tasks = len(rows.x)
    tied, own, full = layout.ties()
    few = rows.of(slice(0, max(50, tasks // 3)))  # enough to choose where to begin
    starts = [_maximise(prior, layout, few, tied, start, steps // 4) for start in layout.starts()]
    best = _maximise(prior, layout, rows, tied, min(starts, key=lambda found: found[0])[1], steps)
    numbers = len(tied)
    for ties in (own, full):
        extra = len(ties) - numbers
        if not 0 < extra < tasks:
            continue
        found = _maximise(prior, layout, rows, ties, best[1], steps)
        if found[0] + 0.5 * math.log(tasks) * extra < best[0]:
            best, numbers = found, len(ties)
    return best[1]


def _maximise(
    prior: ProcessPrior,
    layout: _Layout,
    rows: TaskRows,
    ties: Sequence[Sequence[int]],
    start: np.ndarray,
    steps: int,
) -> tuple[float, np.ndarray]:
    """The lowest negative log likelihood from a start, and where; entries that are tied move together."""
    from scipy.optimize import minimize

    spread = np.zeros((len(start), len(ties)))
    for column, entries in enumerate(ties):
        spread[list(entries), column] = 1
    rest = np.where(spread.any(1), 0, start)

    def objective(free: np.ndarray) -> tuple[float, np.ndarray]:
        leaf = torch.from_numpy(rest + spread @ free).requires_grad_()
        with torch.enable_grad():
            meta, log_taus = layout.unpack(leaf)
            value = ProcessEvidence.of(prior, meta, rows).mean(log_taus, prior.n_outputs)[2]
            (grad,) = torch.autograd.grad(value, leaf)
        return value.item(), spread.T @ grad.numpy()

    first = np.array([start[list(entries)].mean() for entries in ties])
    bounds = [layout.bounds[entries[0]] for entries in ties]
    options = {"maxiter": steps, "maxcor": 20, "ftol": 1e-8}
    best = minimize(objective, first, jac=True, method="L-BFGS-B", bounds=bounds, options=options)
    return float(best.fun), rest + spread @ best.x


class _Layout:
    """The meta-parameters that the search moves, as one vector; at its end log tau of each power of the mean."""

    def __init__(self, prior: ProcessPrior) -> None:
        init = prior.init()
        self.init = {name: init[name].double() for name in init if name != "head/mean"}
        self.features = prior.kernel.n_features
        self.bounds = [bound for name, value in self.init.items() for bound in self._bounds(name, value)]
        self.powers = prior.powers
        self.bounds += [(-9.0, 7.0)] * self.powers

    def unpack(self, flat: Tensor) -> tuple[Params, Tensor]:
        """The meta-parameters of a vector, and the values of log tau."""
        *parts, log_taus = torch.split(flat, [*(value.numel() for value in self.init.values()), self.powers])
        shaped = zip(self.init.items(), parts, strict=True)
        return {name: part.reshape(value.shape) for (name, value), part in shaped}, log_taus

    def starts(self) -> list[np.ndarray]:
        """Vectors to search from: short and long length-scales, tasks that differ as much as the noise."""
        return [
            torch.cat(
                [
                    *(_start(name, v, scale) for name, v in self.init.items()),
                    torch.zeros(self.powers, device="cpu"),
                ]
            ).numpy()
            for scale in (0.3, 1.0)
        ]

    def ties(self) -> tuple[list[list[int]], list[list[int]], list[list[int]]]:
        """Entries that move together: of all features, of each feature, and with correlations of level and slopes."""
        tied, own, correlations, start = [], [], [], 0
        for name, value in self.init.items():
            kind, index = name.rpartition("/")[2], np.arange(start, start + value.numel())
            start += value.numel()
            singles = [[int(entry)] for entry in index]
            if kind == "root":
                square = index.reshape(value.shape)
                slopes = square.diagonal()[:-1].tolist()
                tied += [slopes, [int(square[-1, -1])]]
                own += [[int(entry)] for entry in square.diagonal()]
                correlations += [[int(entry)] for entry in square[np.tril_indices(len(square), -1)]]
            elif kind in ("log_scale", "log_period"):
                tied.append(index.tolist())
                own += singles
            else:
                tied += singles
                own += singles
        taus = [[entry] for entry in range(start, start + self.powers)]
        return [*tied, *taus], [*own, *taus], [*own, *correlations, *taus]

    def _bounds(self, name: str, value: Tensor) -> list[tuple[float, float]]:
        """Bounds that keep every trial of a line search positive definite; e^-9 is no variation at all."""
        kind = name.rpartition("/")[2]
        if kind == "root":
            size = len(value)
            return [(-9.0, 7.0) if i == j else (-400.0, 400.0) for i in range(size) for j in range(size)]
        middle = 0.5 * math.log(self.features) if kind == "log_scale" else 0.0
        low, high = (-9.0, 7.0) if kind == "log_amplitude" else (middle - 3.0, middle + 3.0)
        return [(low, high)] * value.numel()


def _start(name: str, value: Tensor, scale: float) -> Tensor:
    """A meta-parameter where a search begins, flat: length-scales times `scale`, slopes that differ a little."""
    kind = name.rpartition("/")[2]
    moved = {"log_scale": value + math.log(scale), "root": value - 1.0 * (value != 0)}
    return moved.get(kind, value).flatten()
