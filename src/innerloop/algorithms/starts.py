"""Algorithms whose fast weights start elsewhere than at meta-parameters: CAVIA and ProtoMAML."""

from __future__ import annotations

from typing import Unpack

from torch import nn

from ..errors import UsageError
from ..inner.gradient import Start
from ..inner.learner import Learner
from ..models.builtin import BodyHead, Contextual
from ..models.losses import Loss
from ..models.network import Network, Params, reference
from ..outer.metagrad import unrolled
from ..tasks.episodes import Batch
from .arguments import UnrolledOptions
from .gradient_based import assembled, inner_rule
from .registry import registered

__all__ = ["cavia", "protomaml"]


@registered
def cavia(
    module: nn.Module, *, loss: Loss, n_context: int = 5, inner_lr: float = 1.0, inner_steps: int = 2,
    **options: Unpack[UnrolledOptions],
) -> Learner:  # fmt: skip
    """CAVIA: tasks adapt a short context vector that is fed to the model beside its input; all else is shared.

    The context starts at zero. Few numbers a task, and no way to overfit with them.
    Zintgraf, Shiarlis, Kurin, Hofmann & Whiteson, 2019, *Fast Context Adaptation via Meta-Learning*.

    Its own arguments:
        n_context: length of the context; the module takes this many features (or image channels) more than the
            data have.

    Example:
        >>> from innerloop.models import build
        >>> cavia(build("mlp", n_in=1 + 5), loss="mse").fast
        ('context',)
    """
    if n_context < 1:
        raise UsageError(f"n_context={n_context}: give 1 or more")

    def zeros(meta: Params, support: Batch) -> Params:
        like = reference(meta)
        return {"context": like.new_zeros(support.y.shape[0], n_context)}

    return assembled(
        Contextual(module, n_context), loss, inner_rule("sgd", inner_lr), inner_steps,
        metagrad=unrolled(), adapt="context", start=Start(("context",), zeros), options=options,
    )  # fmt: skip


@registered
def protomaml(
    module: nn.Module, *, n_features: int, n_way: int, loss: Loss = "cross_entropy", inner_lr: float = 0.01,
    inner_steps: int = 5, learn_lr: str | None = None, **options: Unpack[UnrolledOptions],
) -> Learner:  # fmt: skip
    r"""ProtoMAML: MAML whose last layer starts as the prototypes of the support set.

    $w_k = 2 c_k,\; b_k = -\lVert c_k \rVert^2$ make the layer a prototypical network before the first step.
    Triantafillou et al., 2020, *Meta-Dataset: A Dataset of Datasets for Learning to Learn from Few Examples*.

    Its own arguments:
        module: any `nn.Module` that turns rows into features `(n, F)`.
        n_way: classes.

    Example:
        >>> protomaml(nn.Linear(4, 8), n_features=8, n_way=3).start.names
        ('head.weight', 'head.bias')
    """
    whole = BodyHead(module, n_features, n_way)
    body = Network(module, batchnorm=options["batchnorm"], mapping=options["mapping"])

    def prototypes(meta: Params, support: Batch) -> Params:
        inside = {name.replace("body.", "", 1): value for name, value in meta.items() if "body." in name}
        inside |= body.at_step(inside, 0)
        features, _ = body(inside, {}, support.x, weight=support.weight)
        member = nn.functional.one_hot(support.y.long(), n_way).to(features.dtype)
        if support.weight is not None:
            member = member * support.weight.unsqueeze(-1)
        centre = member.mT @ features / member.sum(1).clamp(min=1).unsqueeze(-1)
        return {"head.weight": 2 * centre, "head.bias": -centre.square().sum(-1)}

    return assembled(
        whole, loss, inner_rule("sgd", inner_lr, learn_lr), inner_steps,
        metagrad=unrolled(), start=Start(("head.weight", "head.bias"), prototypes), options=options,
    )  # fmt: skip
