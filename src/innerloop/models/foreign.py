"""Modules of the user's own: what is refused of them, watched in them, and how their errors are worded."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from ..errors import UsageError
from ..tasks.episodes import tensors

__all__ = ["Watched", "in_words", "is_foreign", "refuse_wrapped"]


def refuse_wrapped(module: nn.Module) -> None:
    """Refuse what is no module, or spreads itself over devices."""
    if not isinstance(module, nn.Module):
        raise UsageError(f"a model is a torch.nn.Module, not {type(module).__name__}: give an object of one")
    for name, layer in module.named_modules():
        where = f" at {name!r}" if name else ""
        if isinstance(layer, nn.DataParallel | nn.parallel.DistributedDataParallel):
            raise UsageError(
                f"{type(layer).__name__}{where} spreads a module over devices, which a stack of tasks does not need: "
                "give its .module"
            )


def is_foreign(layer: nn.Module) -> bool:
    """Whether a layer may draw random numbers or behave otherwise in training: torch's own that do are known."""
    known = type(layer).__module__.startswith(("torch.nn.modules.", f"{__package__}."))
    return not known or isinstance(layer, (nn.RReLU, nn.modules.instancenorm._InstanceNorm))


class Watched(nn.Module):
    """A module whose forward pass must not change its buffers: nothing would carry the change to the next call."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The module's output.

        Raises:
            UsageError: a buffer was changed.
        """
        before = {name: (value, value._version) for name, value in self.module.named_buffers()}
        y = self.module(*args, **kwargs)
        for name, value in self.module.named_buffers():
            if name in before and (value is not before[name][0] or value._version != before[name][1]):
                raise UsageError(
                    f"the model changes its buffer {name!r} in the forward pass, and a function cannot: of what is "
                    "learned by watching only BatchNorm is supported (batchnorm='per_step'); put the layer into "
                    "evaluation mode, layer.eval(), before the model is given, or make the buffer a parameter"
                )
        return y


@contextmanager
def in_words(x: Any) -> Iterator[None]:
    """An error of the module about sizes says what a row is."""
    try:
        yield
    except RuntimeError as error:
        text = str(error)
        if "scalar types: Long" in text:
            raise UsageError(
                "the model looks up whole numbers (an embedding), and tables and arrays become floating features: "
                "give token numbers by a Dataset or DataLoader with batch_size=, or by a function that returns an "
                "Episode, which keep them whole"
            ) from error
        words = ("shape", "size", "channels", "dimension")
        if isinstance(error, torch.OutOfMemoryError) or not any(word in text.lower() for word in words):
            raise
        rows = ", ".join(str(tuple(t.shape[2:])) for t in tensors(x))
        raise UsageError(
            f"the model does not take these features, of which a row has shape {rows} "
            f"({text.splitlines()[0]}): make its first layer fit (tasks.feature_shape)"
        ) from error
