"""What all tasks of a Gaussian process share: a mean function, a kernel and the noise, each a part of its own."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ...errors import check_known
from ...models.network import Params
from .kernels import Kernel

__all__ = ["MEANS", "NOISES", "ProcessPrior"]

# the highest power of a feature
MEANS = {"constant": 0, "line": 1, "squares": 2}
NOISES = ("constant", "log_linear")


@dataclass(frozen=True)
class ProcessPrior:
    """Mean function, kernel and noise of a Gaussian process, with their meta-parameters.

    Arguments:
        kernel: the kernel.
        n_outputs: targets or classes `C`.
        mean: `constant`, `line`, or `squares`: a line in the features and their squares.
        noise: `constant`, or `log_linear`: its logarithm is a line in the features.

    Raises:
        UsageError: a name is unknown.

    Example:
        >>> prior = ProcessPrior(Kernel.named("linear", 1), mean="squares")
        >>> prior.columns(torch.tensor([[[3.0]]])).tolist()
        [[[3.0, 9.0, 1.0]]]
    """

    kernel: Kernel
    n_outputs: int = 1
    mean: str = "line"
    noise: str = "constant"

    def __post_init__(self) -> None:
        """Refuse what has no meaning."""
        check_known("mean", self.mean, tuple(MEANS))
        check_known("noise", self.noise, NOISES)

    @property
    def powers(self) -> int:
        """Powers of the features that the mean has."""
        return MEANS[self.mean]

    def init(self) -> Params:
        """Mean 0, every part of the kernel of variance 1, the same noise everywhere."""
        features = self.kernel.n_features
        params = {"head/mean": torch.zeros(self.powers * features + 1, self.n_outputs), **self.kernel.init()}
        if self.noise == "log_linear":
            params["head/noise_slopes"] = torch.zeros(features)
        return params

    def columns(self, rows: Tensor) -> Tensor:
        """What the mean function adds up, `(T, n, D)`: powers of the features, and a 1 as the last column."""
        powers = [rows**power for power in range(1, self.powers + 1)]
        return torch.cat([*powers, torch.ones_like(rows[..., :1])], -1)

    def mean_of(self, meta: Params, rows: Tensor) -> Tensor:
        """The mean function at rows in double precision, `(T, n, C)`."""
        return self.columns(rows) @ meta["head/mean"].double()

    def relative_noise(self, meta: Params, rows: Tensor) -> Tensor:
        r"""The noise variance `(T, n)` at each row, in units of that of its target.

        It is $e^{2 g(x)}$ with $g(x) = 4 \tanh(\gamma^\top x / 4)$, so that no row is certain.
        """
        if self.noise == "constant":
            return torch.ones_like(rows[..., 0])
        slope = rows @ meta["head/noise_slopes"].double()
        return (8 * torch.tanh(slope / 4)).exp()
