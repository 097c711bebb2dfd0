"""A calibration among the tensors of a model directory, and back, checked."""

from __future__ import annotations

import re

import numpy as np
import torch

from ..evaluation.conformal import LEVELS, Calibration
from ..evaluation.none_of_these import FitCalibration
from ..models.network import Params
from .plain_types import require

__all__ = ["CALIBRATION", "FIT", "calibration_of", "fit_of", "fit_tensors", "to_tensors"]

CALIBRATION = "calibration/"  # before the names of tensors that are no parameters
_THRESHOLDS, _LOSSES = f"{CALIBRATION}thresholds/", f"{CALIBRATION}support_losses/"
FIT = "fit/"  # likewise, of how badly rows of known classes fit
_PAIR = re.compile(f"{FIT}([1-9][0-9]{{0,5}})x([1-9][0-9]{{0,5}})")
_NAME = re.compile(f"(?:{_THRESHOLDS}|{_LOSSES})(?:0|[1-9][0-9]{{0,8}})")


def to_tensors(calibration: Calibration | None) -> Params:
    """The tensors of a calibration, by the number of support rows.

    Example:
        >>> sorted(to_tensors(Calibration({2: np.ones((199, 1))}, {2: np.ones(3)})))
        ['calibration/support_losses/2', 'calibration/thresholds/2']
    """
    if calibration is None:
        return {}
    parts = ((_THRESHOLDS, calibration.thresholds), (_LOSSES, calibration.support_losses))
    return {
        f"{prefix}{size}": torch.from_numpy(np.ascontiguousarray(values, dtype=np.float64))
        for prefix, by_size in parts
        for size, values in by_size.items()
    }


def calibration_of(tensors: Params, outputs: tuple[str, int] | None) -> Calibration | None:
    """The calibration among the tensors of a directory, if there is one.

    Arguments:
        tensors: all of the directory, by name; they may come from anyone.
        outputs: the kind of the targets and their number, where it is known.

    Raises:
        ValueError: they are no calibration of such a model.
    """
    own = {name: value for name, value in tensors.items() if name.startswith(CALIBRATION)}
    if not own:
        return None
    for name, value in own.items():
        require(_NAME.fullmatch(name) is not None, f"{name!r} is no part of a calibration")
        axes = 2 if name.startswith(_THRESHOLDS) else 1
        fits = value.dtype == torch.float64 and value.dim() == axes and value.numel() > 0
        require(fits, f"{name!r} has another type or shape than a calibration")
        require(bool((value.diff(dim=0) >= 0).all()), f"{name!r} does not ascend")
    thresholds, losses = (
        {
            int(name.removeprefix(prefix)): value.numpy()
            for name, value in own.items()
            if name.startswith(prefix)
        }
        for prefix in (_THRESHOLDS, _LOSSES)
    )
    require(
        thresholds.keys() == losses.keys(),
        "thresholds and support losses of the calibration differ in number",
    )
    complete = all(len(values) == len(LEVELS) for values in thresholds.values())
    require(complete, f"a threshold of one of the {len(LEVELS)} levels of the calibration is missing")
    widths = {values.shape[1] for values in thresholds.values()}
    require(len(widths) == 1, "the calibration has several numbers of targets")
    if outputs is not None:
        kind, count = outputs
        require(widths == {count if kind == "regression" else 1}, "the calibration is of other targets")
    require(all(bool((values >= 0).all()) for values in thresholds.values()), "a threshold is below 0")
    return Calibration(thresholds, losses)


def fit_tensors(fit: FitCalibration | None) -> Params:
    """The tensors of what tells rows of no class, by the numbers of classes and rows; the last value is its classes.

    Example:
        >>> fit_tensors(FitCalibration({(5, 1): np.zeros(199)}, {(5, 1): 30}))["fit/5x1"].shape
        torch.Size([200])
    """
    if fit is None:
        return {}
    return {
        f"{FIT}{n_classes}x{n_support}": torch.from_numpy(np.append(values, fit.counts[n_classes, n_support]))
        for (n_classes, n_support), values in fit.thresholds.items()
    }


def fit_of(tensors: Params) -> FitCalibration | None:
    """What tells rows of no class among the tensors of a directory, if there is such.

    Raises:
        ValueError: they are none.
    """
    thresholds, counts = {}, {}
    for name, value in tensors.items():
        if not name.startswith(FIT):
            continue
        found = _PAIR.fullmatch(name)
        fits = value.dtype == torch.float64 and value.shape == (len(LEVELS) + 1,)
        if found is None or not fits:
            raise ValueError(f"{name!r} is no part of what tells rows of no class")
        require(bool((value[:-1].diff() >= 0).all()), f"{name!r} does not ascend")
        require(float(value[-1]) >= 1 and float(value[-1]).is_integer(), f"{name!r} has no number of classes")
        pair = int(found[1]), int(found[2])
        thresholds[pair], counts[pair] = value[:-1].numpy(), int(value[-1])
    return FitCalibration(thresholds, counts) if thresholds else None
