"""Reading a model directory. Nothing in it can run code."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from ..inner.inner_loss import InnerLossLike
from ..models.losses import Loss
from .reading import read
from .stored import Stored

__all__ = ["load"]


def load(
    directory: str | Path,
    *,
    module: nn.Module | None = None,
    loss: Loss | None = None,
    inner_loss: InnerLossLike | None = None,
    device: torch.device | str = "cpu",
) -> Stored:
    """Read a model directory of any kind; nothing in it can run code.

    Arguments:
        directory: what `innerloop train --out` or `save` wrote.
        module: the module, where the model was trained with one of your own.
        loss: the loss function, where the model was trained with one of your own.
        inner_loss: the inner loss, likewise.
        device: where the model goes.

    Returns:
        The model, and everything stored with it.

    Raises:
        ModelFileError: it is no model directory, or a damaged one, or made by a newer version.
        UsageError: `module` or `loss` is needed, or does not fit, or there is no such device.
        ResourceError: it cannot be read.

    Example:
        >>> load("no/such/place")
        Traceback (most recent call last):
        innerloop.errors.ModelFileError: no/such/place: there is no such folder: give a folder that ...
    """
    return read(Stored, directory, module=module, loss=loss, inner_loss=inner_loss, device=device)
