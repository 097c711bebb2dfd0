"""Kernels of a Gaussian process over the rows of a task: sums of parts by name, each with learned scales."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ...errors import UsageError
from ...models.network import Params
from .base import prior_root, with_constant

__all__ = ["PARTS", "Kernel"]


@dataclass(frozen=True)
class Kernel:
    r"""A covariance of the values at two rows of a task, the sum of named parts: $k(x, x') = \sum_i k_i(x, x')$.

    Every part has learned scales, one a feature, and a learned amplitude $a$:

    - `linear`: $\phi^\top V \phi'$ with $\phi = (x, 1)$: a level and slopes of the task's own, drawn from a Gaussian,
      as in the linear mixed model;
    - `squared_exponential`: $a^2 \exp(-\tfrac12 r^2)$, $r^2 = \sum_f (x_f - x'_f)^2 / \ell_f^2$: very smooth curves;
    - `matern32`: $a^2 (1 + \sqrt3\, r) \exp(-\sqrt3\, r)$: curves that are differentiable once;
    - `periodic`: $a^2 \exp\bigl(-2 \sum_f \sin^2(\pi (x_f - x'_f) / p_f) / \ell_f^2\bigr)$: what repeats, with
      period $p_f$.

    Rasmussen & Williams, 2006, *Gaussian Processes for Machine Learning*, chapter 4.

    Arguments:
        parts: names in `PARTS`, each at most once.
        n_features: features `F`.

    Raises:
        UsageError: a part is unknown, stands twice, or there is none.

    Example:
        >>> kernel = Kernel.named("linear+matern32", 1)
        >>> rows = torch.tensor([[[0.0], [1.0]]])
        >>> kernel(kernel.init(), rows, rows).shape
        torch.Size([1, 2, 2])
    """

    parts: tuple[str, ...]
    n_features: int

    def __post_init__(self) -> None:
        """Refuse what has no meaning."""
        odd = [part for part in self.parts if part not in PARTS or self.parts.count(part) > 1]
        if odd or not self.parts:
            raise UsageError(
                f"kernel={'+'.join(self.parts)!r}: give a sum of {', '.join(PARTS)}, each once, such as "
                "'linear+matern32'"
            )

    @classmethod
    def named(cls, name: str, n_features: int) -> Kernel:
        """The kernel of a name such as `linear+matern32`."""
        return cls(tuple(part.strip() for part in name.split("+")), n_features)

    def init(self) -> Params:
        """The meta-parameters of every part."""
        return {
            f"{_PREFIX}{part}/{name}": value
            for part in self.parts
            for name, value in PARTS[part].init(self.n_features).items()
        }

    def __call__(self, meta: Params, one: Tensor, other: Tensor) -> Tensor:
        """The covariances `(T, n, m)`, in double precision, of rows `(T, n, F)` and `(T, m, F)`."""
        one, other = one.double(), other.double()
        return torch.stack([part.matrix(own, one, other) for part, own in self._with(meta)]).sum(0)

    def diagonal(self, meta: Params, rows: Tensor) -> Tensor:
        """The variance `(T, n)` at each row."""
        return torch.stack([part.diagonal(own, rows.double()) for part, own in self._with(meta)]).sum(0)

    def _with(self, meta: Params) -> list[tuple[_Part, Params]]:
        """Each part with its own values, in double precision."""
        return [(PARTS[part], _owned(meta, part)) for part in self.parts]


class _Part(ABC):
    """A summand of a kernel."""

    @abstractmethod
    def init(self, n_features: int) -> Params:
        """Its meta-parameters for features of mean 0 and variance 1."""

    @abstractmethod
    def matrix(self, own: Params, one: Tensor, other: Tensor) -> Tensor:
        """Covariances `(T, n, m)`."""

    @abstractmethod
    def diagonal(self, own: Params, rows: Tensor) -> Tensor:
        """Variances `(T, n)`."""


class _Linear(_Part):
    """A level and slopes of the task's own."""

    def init(self, n_features: int) -> Params:
        # values of variance 1 for features of variance 1
        return {"root": torch.diag(torch.full((n_features + 1,), -0.5 * math.log(n_features + 1)))}

    def matrix(self, own: Params, one: Tensor, other: Tensor) -> Tensor:
        root = prior_root(own["root"], "full")
        return (with_constant(one) @ root) @ (with_constant(other) @ root).mT

    def diagonal(self, own: Params, rows: Tensor) -> Tensor:
        return (with_constant(rows) @ prior_root(own["root"], "full")).square().sum(-1)


@dataclass(frozen=True)
class _Stationary(_Part):
    """A function of the distance of two rows after scaling."""

    shape: Callable[[Tensor], Tensor]
    periodic: bool = False

    def init(self, n_features: int) -> Params:
        # rows of F standardised features are about sqrt(2 F) apart
        params = {
            "log_amplitude": torch.zeros(()),
            "log_scale": torch.full((n_features,), 0.5 * math.log(n_features)),
        }
        if self.periodic:
            params["log_period"] = torch.zeros(n_features)
        return params

    def matrix(self, own: Params, one: Tensor, other: Tensor) -> Tensor:
        a, b = self._scaled(own, one), self._scaled(own, other)
        squares = a.square().sum(-1).unsqueeze(-1) + b.square().sum(-1).unsqueeze(-2) - 2 * (a @ b.mT)
        # the clamp is above rounding, so that the root of a distance of 0 has a finite derivative
        return (2 * own["log_amplitude"]).exp() * self.shape(squares.clamp(min=1e-12))

    def diagonal(self, own: Params, rows: Tensor) -> Tensor:
        return (2 * own["log_amplitude"]).exp() * torch.ones_like(rows[..., 0])

    def _scaled(self, own: Params, rows: Tensor) -> Tensor:
        """Rows in units of the length-scales; a periodic feature goes round a circle."""
        scale = own["log_scale"].exp()
        if not self.periodic:
            return rows / scale
        angle = 2 * math.pi * rows / own["log_period"].exp()
        # half the squared distance of two points on the circle is 2 sin^2(pi (x - x') / p)
        return torch.cat([angle.cos() / scale, angle.sin() / scale], -1)


def _squared_exponential(squares: Tensor) -> Tensor:
    return (-0.5 * squares).exp()


def _matern32(squares: Tensor) -> Tensor:
    root = (3 * squares).sqrt()
    return (1 + root) * (-root).exp()


_PREFIX = "head/kernel/"

PARTS: dict[str, _Part] = {
    "linear": _Linear(),
    "squared_exponential": _Stationary(_squared_exponential),
    "matern32": _Stationary(_matern32),
    "periodic": _Stationary(_squared_exponential, periodic=True),
}


def _owned(meta: Params, part: str) -> Params:
    """The meta-parameters of one part by their names in it, in double precision."""
    prefix = f"{_PREFIX}{part}/"
    return {name.removeprefix(prefix): meta[name].double() for name in meta if name.startswith(prefix)}
