"""Heads that read a support set with a small network: what a task is like is learned, not solved for."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import silu, softplus

from ...errors import UsageError, check_known
from ...models.network import Params
from ...tasks.episodes import Batch
from .base import ClassHead, ValueHead, check_sizes, counted_rows, one_hot, row_weights, target_columns

__all__ = ["READINGS", "SetClassHead", "SetReader", "SetValueHead"]

READINGS = ("mean", "attention", "transformer")
_LEAST_DEVIATION = 0.01


@dataclass(frozen=True)
class SetReader:
    r"""A network from a support set and a query row to numbers, the same for every order of the support rows.

    Each support row becomes $h_i = \mathrm{net}([\phi_i, y_i])$. What a query row is told of the set is, by `reading`:

    - `mean`: $r = \frac1n \sum_i h_i$;
    - `attention`: $r(x) = \sum_i a_i(x)\, h_i,\; a(x) = \mathrm{softmax}_i(q(x)^\top k(\phi_i) / \sqrt d)$;
    - `transformer`: the same, after support rows have attended to each other.

    A learned row takes part in every softmax, so that an empty set can be read; the output is
    $\mathrm{net}([\phi(x), r(x), \log(1 + n)])$.

    Arguments:
        n_features: features `F`.
        n_targets: columns of a support target.
        n_values: numbers that come out.
        reading: see above.
        units: hidden units `H`, and the size of what is kept of a row.
        seed: of the initial weights.

    Raises:
        UsageError: an argument has no meaning.

    Example:
        >>> reader = SetReader(2, 1, 1, "attention", 8)
        >>> meta, x, y = reader.init(), torch.randn(3, 5, 2), torch.randn(3, 5, 1)
        >>> own = reader.read(meta, x, y, torch.ones(3, 5))
        >>> turned = reader.read(meta, x.flip(1), y.flip(1), torch.ones(3, 5))
        >>> query = torch.randn(3, 4, 2)
        >>> torch.allclose(reader.say(meta, own, query), reader.say(meta, turned, query), atol=1e-6)
        True
    """

    n_features: int
    n_targets: int
    n_values: int
    reading: str = "attention"
    units: int = 64
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what has no meaning."""
        check_known("reading", self.reading, READINGS)
        if not 1 <= self.units <= 4096:
            raise UsageError(f"units={self.units}: give a whole number from 1 to 4096")

    def init(self) -> Params:
        """Weights drawn by Glorot & Bengio, 2010, biases 0; the output begins small."""
        generator = torch.Generator().manual_seed(self.seed)
        meta: Params = {}

        def layer(name: str, inputs: int, outputs: int, scale: float = 1.0, *, bias: bool = True) -> None:
            deviation = scale * math.sqrt(2 / (inputs + outputs))
            meta[f"head/{name}/weight"] = deviation * torch.randn(inputs, outputs, generator=generator)
            if bias:
                meta[f"head/{name}/bias"] = torch.zeros(outputs)

        units, features = self.units, self.n_features
        layer("row1", features + self.n_targets, units)
        layer("row2", units, units)
        if self.reading == "transformer":
            for name in ("among_query", "among_key", "among_value", "after"):
                # one bias for all keys changes no share of the attention
                layer(name, units, units, bias=name != "among_key")
        if self.reading != "mean":
            layer("query", features, units)
            layer("key", units if self.reading == "transformer" else features, units)
            meta["head/nobody_key"] = torch.zeros(units)
            meta["head/nobody_value"] = torch.zeros(units)
        layer("out1", features + units + 1, units)
        layer("out2", units, units)
        layer("out3", units, self.n_values, 0.1)
        return meta

    def nothing(self, meta: Params, count: int) -> Params:
        """What `count` tasks own that have seen no row."""
        like, units = meta["head/row1/weight"], self.units
        if self.reading == "mean":
            shapes = {"mean": (1, units), "rows": (1, 1)}
        else:
            shapes = {"keys": (0, units), "values": (0, units), "counted": (0, 1), "rows": (1, 1)}
        return {f"head/{name}": like.new_zeros(count, *shape) for name, shape in shapes.items()}

    def read(self, meta: Params, features: Tensor, target: Tensor, weight: Tensor) -> Params:
        """What tasks own after support features `(T, n, F)`, targets `(T, n, C)` and weights `(T, n)`."""
        counted = weight.unsqueeze(-1)
        rows = counted_rows(torch.cat([features, target], -1), weight)
        values = _layer(meta, "row2", silu(_layer(meta, "row1", rows)))
        many = counted.sum(1, keepdim=True)
        if self.reading == "mean":
            total = counted_rows(values, weight).sum(1, keepdim=True)
            return {"head/rows": many, "head/mean": total / many.clamp(min=1)}
        seen = counted_rows(features, weight)
        if self.reading == "transformer":
            asked, offered, told = (
                _layer(meta, f"among_{name}", values) for name in ("query", "key", "value")
            )
            values = values + _attended(asked, offered, told, counted)
            seen = values = values + silu(_layer(meta, "after", values))
        keys = _layer(meta, "key", seen)
        kept = (counted_rows(keys, weight), counted_rows(values, weight), counted, many)
        return dict(zip(("head/keys", "head/values", "head/counted", "head/rows"), kept, strict=True))

    def say(self, meta: Params, own: Params, features: Tensor) -> Tensor:
        """The numbers for query rows `(T, n, F)`: `(T, n, n_values)`."""
        shape = (*features.shape[:2], self.units)
        if self.reading == "mean":
            told = own["head/mean"].expand(shape)
        else:
            first = (len(features), 1, self.units)
            keys, values = (
                torch.cat([meta[f"head/nobody_{name}"].expand(first), own[f"head/{name}s"]], 1)
                for name in ("key", "value")
            )
            counted = torch.cat([torch.ones_like(own["head/rows"]), own["head/counted"]], 1)
            told = _attended(_layer(meta, "query", features), keys, values, counted)
        many = own["head/rows"].log1p().expand(*shape[:2], 1)
        hidden = silu(_layer(meta, "out1", torch.cat([features, told, many], -1)))
        return _layer(meta, "out3", silu(_layer(meta, "out2", hidden)))


def _layer(meta: Params, name: str, values: Tensor) -> Tensor:
    found, bias = values @ meta[f"head/{name}/weight"], meta.get(f"head/{name}/bias")
    return found if bias is None else found + bias


def _attended(asked: Tensor, keys: Tensor, values: Tensor, counted: Tensor) -> Tensor:
    """Softmax attention `(T, q, H)` to rows `(T, n, H)`; those with 0 in `counted` `(T, n, 1)` are left out."""
    score = asked @ keys.mT / math.sqrt(keys.shape[-1])
    share = score.masked_fill(counted.mT <= 0, torch.finfo(score.dtype).min / 4).softmax(-1)
    return share @ values


@dataclass(frozen=True)
class SetValueHead(ValueHead):
    r"""Values with a Gaussian around each, both said by a `SetReader`: $y \sim N(\mu(x, D_t), \sigma^2(x, D_t))$.

    Arguments:
        n_features: features `F`.
        n_outputs: targets `C`.
        reading: see `SetReader`.
        units: see `SetReader`.
        seed: see `SetReader`.

    Example:
        >>> head = SetValueHead(2)
        >>> meta = head.init()
        >>> head.predict(meta, head.base(meta, 3), torch.zeros(3, 4, 2)).shape
        torch.Size([3, 4, 1])
    """

    n_features: int
    n_outputs: int = 1
    reading: str = "attention"
    units: int = 64
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what has no meaning."""
        check_sizes("the set network", n_features=self.n_features, n_outputs=self.n_outputs)
        self.reader  # noqa: B018  unknown names are refused here

    @property
    def reader(self) -> SetReader:
        """The network."""
        values = 2 * self.n_outputs
        return SetReader(self.n_features, self.n_outputs, values, self.reading, self.units, self.seed)

    def init(self) -> Params:
        """Those of the network."""
        return self.reader.init()

    def base(self, meta: Params, count: int) -> Params:
        """An empty set."""
        return self.reader.nothing(meta, count)

    def solve(self, meta: Params, features: Tensor, support: Batch) -> Params:
        """What the network keeps of the support set."""
        target = target_columns(support, self.n_outputs)
        return self.reader.read(meta, features, target, row_weights(support, features))

    def predict(self, meta: Params, adapted: Params, features: Tensor) -> Tensor:
        """Means `(T, n, C)`."""
        return self.reader.say(meta, adapted, features)[..., : self.n_outputs]

    def variance(self, meta: Params, adapted: Params, features: Tensor) -> Tensor:
        """Variances `(T, n, C)`, noise included."""
        raw = self.reader.say(meta, adapted, features)[..., self.n_outputs :]
        return (_LEAST_DEVIATION + softplus(raw)).square()


@dataclass(frozen=True)
class SetClassHead(ClassHead):
    """Logits of classes, said by a `SetReader` that sees support targets as indicators.

    Arguments:
        n_features: features `F`.
        n_outputs: classes `C`.
        reading: see `SetReader`.
        units: see `SetReader`.
        seed: see `SetReader`.

    Example:
        >>> head = SetClassHead(2, 3, reading="mean")
        >>> meta = head.init()
        >>> head.predict(meta, head.base(meta, 3), torch.zeros(3, 4, 2)).shape
        torch.Size([3, 4, 3])
    """

    n_features: int
    n_outputs: int
    reading: str = "attention"
    units: int = 64
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what has no meaning."""
        check_sizes("the set network", n_features=self.n_features, n_outputs=self.n_outputs, least=2)
        self.reader  # noqa: B018  unknown names are refused here

    @property
    def reader(self) -> SetReader:
        """The network."""
        count = self.n_outputs
        return SetReader(self.n_features, count, count, self.reading, self.units, self.seed)

    def init(self) -> Params:
        """Those of the network."""
        return self.reader.init()

    def base(self, meta: Params, count: int) -> Params:
        """An empty set."""
        return self.reader.nothing(meta, count)

    def solve(self, meta: Params, features: Tensor, support: Batch) -> Params:
        """What the network keeps of the support set."""
        target = one_hot(support, self.n_outputs, features)
        return self.reader.read(meta, features, target, row_weights(support, features))

    def predict(self, meta: Params, adapted: Params, features: Tensor) -> Tensor:
        """Logits `(T, n, C)`."""
        return self.reader.say(meta, adapted, features)
