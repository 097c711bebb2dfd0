"""Metrics of the query rows of each task of a stack: accuracy, ROC area, calibration, squared error, coverage.

Rows of weight 0 are padding and are left out.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..models.losses import mean_known, mean_rows
from ..tasks.episodes import Batch

__all__ = [
    "CALIBRATION_BINS",
    "COVERAGES",
    "accuracy",
    "auc",
    "calibration_gaps",
    "place_by_place",
    "predictive",
]

Array = NDArray[np.float64]

CALIBRATION_BINS = 10  # of equal width, over confidences from 0 to 1
# shares of the query values that predictive intervals should hold, and half their width in standard deviations
COVERAGES = {"coverage_90": 1.6448536269514722, "coverage_95": 1.959963984540054}


def place_by_place(logits: Tensor, query: Batch) -> tuple[Tensor, Batch]:
    """Masks as rows: logits `(T, n, C, *places)` and class numbers `(T, n, *places)` with a row for each place.

    Example:
        >>> rows = Batch(torch.zeros(1, 2, 1, 4, 4), torch.zeros(1, 2, 4, 4, dtype=torch.int64))
        >>> logits, places = place_by_place(torch.zeros(1, 2, 3, 4, 4), rows)
        >>> logits.shape, places.y.shape
        (torch.Size([1, 32, 3]), torch.Size([1, 32]))
    """
    if query.y.dim() == 2:
        return logits, query
    places = query.y[0, 0].numel()
    weight = None if query.weight is None else query.weight.repeat_interleave(places, 1)
    return logits.movedim(2, -1).flatten(1, -2), query._replace(y=query.y.flatten(1), weight=weight)


def accuracy(logits: Tensor, query: Batch) -> Tensor:
    """Share of rows whose largest logit is that of their class, `(T,)`."""
    right = (logits.argmax(-1) == query.y).to(logits.dtype)
    return mean_rows(right, query.weight)


def auc(logits: Tensor, query: Batch) -> Array:
    """Area under the ROC curve of each task, `(T,)`: the chance that a row of a class scores above another row.

    With more than two classes it is the mean over the classes, each against the rest. A class that has all rows of
    a task or none has no area; a task without any has NaN.

    Arguments:
        logits: `(T, n, C)`.
        query: class numbers and weights.

    Example:
        >>> logits = torch.tensor([[[0.0, 1.0], [1.0, 0.0], [0.5, 0.6]]])
        >>> auc(logits, Batch(logits, torch.tensor([[1, 0, 1]]))).tolist()
        [1.0]
    """
    from scipy.stats import rankdata

    share = logits.double().softmax(-1).cpu().numpy()
    label = query.y.cpu().numpy()
    real = np.ones(label.shape, dtype=bool) if query.weight is None else query.weight.cpu().numpy() > 0
    areas = np.full((len(label), share.shape[-1]), np.nan)
    for number in range(share.shape[-1]):
        own = (label == number) & real
        positive, negative = own.sum(1), (real & ~own).sum(1)
        # padding ranks above every row, and so changes no rank
        rank = rankdata(np.where(real, np.nan_to_num(share[..., number]), np.inf), axis=1)
        pairs = np.where((positive > 0) & (negative > 0), positive * negative, np.nan)
        areas[:, number] = ((rank * own).sum(1) - positive * (positive + 1) / 2) / pairs
    defined = ~np.isnan(areas)
    count = np.where(defined.any(1), defined.sum(1), np.nan)
    return np.asarray(np.where(defined, areas, 0.0).sum(1) / count)


def calibration_gaps(logits: Tensor, query: Batch) -> Array:
    """By confidence, how much the confidence exceeds the accuracy: `(T, bins)`, a share of a task's rows each.

    The expected calibration error is the sum over bins of the size of the mean gap (Naeini, Cooper &
    Hauskrecht, 2015, *Obtaining Well Calibrated Probabilities Using Bayesian Binning*).
    """
    confidence, guess = logits.double().softmax(-1).max(-1)
    gap = confidence - (guess == query.y).double()
    chosen = (confidence.nan_to_num() * CALIBRATION_BINS).long().clamp(max=CALIBRATION_BINS - 1)
    bins = torch.zeros(*gap.shape, CALIBRATION_BINS, dtype=gap.dtype, device=gap.device)
    spread = bins.scatter(-1, chosen.unsqueeze(-1), gap.unsqueeze(-1))
    weight = None if query.weight is None else query.weight.double().unsqueeze(1)
    return mean_rows(spread.mT, weight).cpu().numpy()


def predictive(
    squares: Tensor, variance: Tensor, scale: Tensor, query: Batch, known: Tensor
) -> dict[str, Tensor]:
    """Log likelihood and coverage of the predicted normal distributions, `(T,)` each.

    Arguments:
        squares: squared errors `(T, n, C)` of standardised targets.
        variance: predictive variances, likewise.
        scale: natural units of a standardised one, `(C,)`.
        query: the rows.
        known: which targets the rows know, `(T, n, C)`; a row's density is that of those.
    """
    density = -0.5 * (squares / variance + (2 * math.pi * variance * scale**2).log())
    rows = torch.where(known, density, torch.zeros_like(density)).sum(-1)
    metrics = {"log_likelihood": mean_rows(rows, query.weight)}
    for name, width in COVERAGES.items():
        inside = (squares <= width**2 * variance).to(squares.dtype)
        metrics[name] = mean_known(inside, known, query.weight)
    return metrics
