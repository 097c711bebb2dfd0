"""Algorithms whose adaptation is a network that reads the support set."""

from __future__ import annotations

from typing import Unpack

from torch import nn

from ..errors import check_known
from ..inner.head import HeadLearner
from ..inner.heads import Head, SetClassHead, SetValueHead
from ..inner.heads.base import KINDS
from ..inner.learner import Learner
from ..models.network import Network
from ..outer.metagrad import unrolled
from .arguments import NetworkOptions
from .registry import registered

__all__ = ["attentive_cnp", "cnp", "set_net"]


@registered
def cnp(
    module: nn.Module, *, n_features: int, n_outputs: int = 1, kind: str = "regression", units: int = 64,
    seed: int = 0, **options: Unpack[NetworkOptions],
) -> Learner:  # fmt: skip
    r"""Conditional neural process: a network reads each support row, their mean says what the task is like.

    $p(y \mid x, D_t) = N(\mu(\phi(x), r), \sigma^2(\phi(x), r)),\; r = \frac1n \sum_i h(\phi(x_i), y_i)$; for
    classes the network says logits. Nothing is solved or stepped: adapting is one pass over the support rows.
    Garnelo et al., 2018, *Conditional Neural Processes*; sets as sums: Zaheer et al., 2017, *Deep Sets*.

    When to use it: thousands of tasks or more, from which the way to adapt can be learned without a model of how tasks
    differ; many support rows, since it is linear in them. It tends to smooth: `attentive_cnp` and `set_net` come
    closer to the support rows.

    Its own arguments:
        module: any `nn.Module` that turns rows into features `(n, F)`, such as `models.mlp(..., n_out=None)`.
        units: hidden units of the networks, and the size of what is kept of a task.
        seed: of their first weights.

    Example:
        >>> from innerloop.models import build
        >>> learner = cnp(build("mlp", n_in=1, hidden=[8], n_out=None), n_features=8, units=16)
        >>> learner.own_like(learner.init())["head/mean"].shape
        torch.Size([1, 1, 16])
    """
    head = _head(n_features, n_outputs, kind, "mean", units, seed)
    return HeadLearner(Network(module, **options), head, unrolled())


@registered
def attentive_cnp(
    module: nn.Module, *, n_features: int, n_outputs: int = 1, kind: str = "regression", units: int = 64,
    seed: int = 0, **options: Unpack[NetworkOptions],
) -> Learner:  # fmt: skip
    r"""Attentive conditional neural process: each query row attends to the support rows that are like it.

    As `cnp`, with $r(x) = \sum_i a_i(x)\, h(\phi(x_i), y_i),\; a(x) = \mathrm{softmax}_i(q(\phi(x))^\top
    k(\phi(x_i)) / \sqrt d)$ in place of the mean. A learned row stands for an empty set.
    Kim et al., 2019, *Attentive Neural Processes*, its deterministic path.

    When to use it: as `cnp`, where tasks are curves that support rows lie on.

    Its own arguments:
        module: any `nn.Module` that turns rows into features `(n, F)`, such as `models.mlp(..., n_out=None)`.
        units: hidden units of the networks, and the size of what is kept of a support row.
        seed: of their first weights.

    Example:
        >>> from innerloop.models import build
        >>> learner = attentive_cnp(build("mlp", n_in=1, hidden=[8], n_out=None), n_features=8, units=16)
        >>> sorted(name for name in learner.init() if "nobody" in name)
        ['head/nobody_key', 'head/nobody_value']
    """
    head = _head(n_features, n_outputs, kind, "attention", units, seed)
    return HeadLearner(Network(module, **options), head, unrolled())


@registered
def set_net(
    module: nn.Module, *, n_features: int, n_outputs: int = 1, kind: str = "regression", units: int = 64,
    seed: int = 0, **options: Unpack[NetworkOptions],
) -> Learner:  # fmt: skip
    r"""Set network: a small transformer over the support rows, which the query row then attends to.

    Support rows attend to each other, $h \leftarrow h + \mathrm{attention}(h),\; h \leftarrow h + \mathrm{net}(h)$,
    so that what is kept of a row depends on the others; a query row reads them as in `attentive_cnp`.
    Lee et al., 2019, *Set Transformer*; as a learner: Müller, Hollmann, Pineda Arango, Grabocka & Hutter, 2022,
    *Transformers Can Do Bayesian Inference*.

    When to use it: as `cnp`, where rows together say more than each by itself: levels, slopes, periods. Its work grows
    with the square of the support rows.

    Its own arguments:
        module: any `nn.Module` that turns rows into features `(n, F)`, such as `models.mlp(..., n_out=None)`.
        units: hidden units of the networks, and the size of what is kept of a support row.
        seed: of their first weights.

    Example:
        >>> from innerloop.models import build
        >>> learner = set_net(build("mlp", n_in=1, hidden=[8], n_out=None), n_features=8, units=16)
        >>> sum("among" in name for name in learner.init())
        5
    """
    head = _head(n_features, n_outputs, kind, "transformer", units, seed)
    return HeadLearner(Network(module, **options), head, unrolled())


def _head(n_features: int, n_outputs: int, kind: str, reading: str, units: int, seed: int) -> Head:
    check_known("kind", kind, KINDS)
    if kind == "regression":
        return SetValueHead(n_features, n_outputs, reading, units, seed)
    return SetClassHead(n_features, n_outputs, reading, units, seed)
