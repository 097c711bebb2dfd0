"""What is looked at when rows are given to a model as arrays: their units, and targets that they do not know."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from ..errors import UsageError
from ..models.network import Features
from ..tasks.episodes import Batch
from ..tasks.sources import DerivedSource, RowSource

__all__ = ["is_standardised", "refuse_unknown", "warn_of_raw_rows", "warn_of_raw_tasks"]

# standard deviations from the mean of training that no row of a task stays below, where values are raw
_FAR = 20.0


def is_standardised(source: object) -> bool:
    """Whether the rows of a source were standardised when they were read.

    Example:
        >>> from innerloop.tasks import arrays, sinusoid
        >>> is_standardised(arrays(torch.rand(20, 1), torch.rand(20), torch.arange(20) // 4).train)
        True
        >>> is_standardised(sinusoid().train)
        False
    """
    while isinstance(source, DerivedSource):
        source = source.source
    return isinstance(source, RowSource) and source.standardised


def refuse_unknown(y: object) -> None:
    """Refuse targets with NaN, for a learner that needs all targets of a row.

    Raises:
        UsageError: there are some.

    Example:
        >>> refuse_unknown(torch.tensor([[1.0, 2.0], [3.0, torch.nan]]))
        Traceback (most recent call last):
        innerloop.errors.UsageError: y, row 1: target 2 is NaN, and this model needs all targets of a row: leave the ...
    """
    if not isinstance(y, Tensor) or not y.is_floating_point():
        return
    unknown = y.isnan().flatten(1) if y.dim() > 1 else y.isnan()[:, None]
    if bool(unknown.any()):
        row, target = torch.nonzero(unknown)[0].tolist()
        raise UsageError(
            f"y, row {row}: target {target + 1} is NaN, and this model needs all targets of a row: leave the row out, "
            "or train with loss='known_mse' (of maml and its like) or innerloop.algorithms.per_target"
        )


def warn_of_raw_tasks(source: object, batch: Batch) -> None:
    """The same of the first task of a stack, unless its source has standardised it.

    Arguments:
        source: where the stack comes from.
        batch: rows of stacked tasks.
    """
    if is_standardised(source) or not isinstance(batch.x, Tensor) or not isinstance(batch.y, Tensor):
        return
    real = slice(None) if batch.weight is None else batch.weight[0] > 0
    warn_of_raw_rows(batch.x[0][real], batch.y[0][real], stacklevel=4)


def warn_of_raw_rows(x: Features, y: object, *, stacklevel: int = 3) -> None:
    """Warn if a column lies far from where standardised values do, in every row.

    Arguments:
        x: features `(n, F)` of a model that was trained on standardised ones.
        y: their targets `(n, C)`, or class numbers.
        stacklevel: of the caller that is told.

    Example:
        >>> with warnings.catch_warnings(record=True) as said:
        ...     warnings.simplefilter("always")
        ...     warn_of_raw_rows(torch.tensor([[0.3], [-1.2]]), torch.zeros(2, 1))
        ...     warn_of_raw_rows(torch.tensor([[171.0], [165.0]]), torch.zeros(2, 1))
        >>> str(said[0].message)[:72], len(said)
        ('feature 1 is 171 in the first row and over 20 in all: the model was trai', 1)
    """
    for what, values in (("feature", x), ("target", y)):
        if (
            not isinstance(values, Tensor)
            or values.dim() != 2
            or not values.is_floating_point()
            or not len(values)
        ):
            continue
        far = (values.abs() > _FAR).all(0)
        if not bool(far.any()):
            continue
        column = int(torch.nonzero(far)[0])
        warnings.warn(
            f"{what} {column + 1} is {values[0, column].item():g} in the first row and over {_FAR:g} in all: the model "
            "was trained on standardised values, and these look like values in units of their own: make them with "
            "tasks.schema.encode and encode_target, and turn predictions back with decode "
            "(il.load(dir).predict_frame does all of it)",
            stacklevel=stacklevel,
        )
        return
