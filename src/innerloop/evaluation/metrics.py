"""Metrics of the query rows of each task of a stack; rows of weight 0 are left out."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..models.losses import mean_rows
from ..tasks.episodes import Batch

Array = NDArray[np.float64]

# confidences of 0 to 1 in parts of equal width
CALIBRATION_BINS = 10


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
    kept = np.ones(label.shape, dtype=bool) if query.weight is None else query.weight.cpu().numpy() > 0
    areas = np.full((len(label), share.shape[-1]), np.nan)
    for number in range(share.shape[-1]):
        own = (label == number) & kept
        positive, negative = own.sum(1), (kept & ~own).sum(1)
        # padding ranks above every row, and so changes no rank
        rank = rankdata(np.where(kept, np.nan_to_num(share[..., number]), np.inf), axis=1)
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
    place = (confidence.nan_to_num() * CALIBRATION_BINS).long().clamp(max=CALIBRATION_BINS - 1)
    bins = torch.zeros(*gap.shape, CALIBRATION_BINS, dtype=gap.dtype, device=gap.device)
    spread = bins.scatter(-1, place.unsqueeze(-1), gap.unsqueeze(-1))
    weight = None if query.weight is None else query.weight.double().unsqueeze(1)
    return mean_rows(spread.mT, weight).cpu().numpy()
