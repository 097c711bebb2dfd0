"""The number of torch's threads: one for small work, where several only wait for each other.

On a busy machine they wait up to tens of times as long as the work takes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor

__all__ = ["threads_for"]

# weights of a layer up to which one thread is faster; images have more work a weight, and more than two axes
_SMALL = 40_000


@contextmanager
def threads_for(params: Mapping[str, Tensor]) -> Iterator[None]:
    """One thread where all parameters are small and on the CPU; the caller's number comes back afterwards.

    Arguments:
        params: the parameters that are worked with.

    Example:
        >>> before = torch.get_num_threads()
        >>> with threads_for({"weight": torch.zeros(2, 2)}):
        ...     torch.get_num_threads()
        1
        >>> torch.get_num_threads() == before
        True
    """
    small = all(v.device.type == "cpu" and v.dim() <= 2 and v.numel() < _SMALL for v in params.values())
    before = torch.get_num_threads()
    if small:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
