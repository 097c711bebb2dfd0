"""Algorithms that adapt by gradient steps: what adapts, an inner rule and a meta-gradient each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Unpack

from torch import nn

from ..errors import check_known
from ..inner import rules
from ..inner.gradient import GradientLearner, Start
from ..inner.inner_loss import InnerLossLike
from ..inner.inner_loss import inner_loss as inner_loss_of
from ..inner.learner import Learner, MetaGradient
from ..inner.lora import with_adapters
from ..inner.partition import select_names
from ..inner.rules import InnerRule, clipped, curvature, detached, masked, sgd
from ..models.losses import Loss
from ..models.network import Network
from ..outer.metagrad import annealed, by_name, displacement, multi_step, unrolled
from .arguments import GradientOptions, UnrolledOptions
from .registry import registered

__all__ = [
    "RULES",
    "anil",
    "assembled",
    "boil",
    "fomaml",
    "gradient_learner",
    "inner_rule",
    "maml",
    "maml_plus_plus",
    "meta_curvature",
    "meta_sgd",
    "reptile",
    "sparse_maml",
]

Adapt = str | Callable[[str], bool]
RULES: dict[str, Callable[..., InnerRule]] = {
    "sgd": sgd,
    "momentum": lambda lr, **options: sgd(lr, momentum=0.9, **options),
    "adam": rules.adam,
    "adamw": rules.adamw,
    "rmsprop": rules.rmsprop,
}


def gradient_learner(
    module: nn.Module,
    loss: Loss,
    rule: InnerRule,
    inner_steps: int,
    *,
    metagrad: MetaGradient,
    adapt: Adapt = "all",
    batchnorm: str = "auto",
    mapping: str = "vmap",
    start: Start | None = None,
    inner_loss: InnerLossLike | None = None,
) -> GradientLearner:
    """Assemble a learner from parts of your own; every preset of this file is a call of it.

    Arguments:
        module: any `nn.Module`.
        loss: see `models.task_losses`.
        rule: the inner rule.
        inner_steps: inner steps.
        metagrad: how the gradient comes back.
        adapt: what adapts.
        batchnorm: see `models.Network`.
        mapping: `vmap` or `loop`.
        start: fast weights that start elsewhere than at meta-parameters.
        inner_loss: what the inner loop descends in place of the loss, see `inner.inner_loss`.

    Raises:
        UsageError: parts that run and train nothing, or wrongly, are put together.

    Example:
        >>> from innerloop.models import build
        >>> rule = rules.detached(rules.adam(0.01))
        >>> gradient_learner(build("mlp", n_in=1), "mse", rule, 3, metagrad=unrolled()).inner_steps
        3
    """
    if isinstance(adapt, str) and adapt.startswith("lora("):
        module, adapt = with_adapters(module, adapt)
    network = Network(module, batchnorm=batchnorm, mapping=mapping)
    fast = select_names(network, adapt)
    inside = None if inner_loss is None else inner_loss_of(inner_loss)
    return GradientLearner(network, loss, rule, fast, inner_steps, metagrad, start, inner_loss=inside)


def inner_rule(
    name: str,
    inner_lr: float,
    learn_lr: str | None = None,
    clip: float | None = None,
    *,
    steps: int | None = None,
) -> InnerRule:
    """The inner rule of a preset.

    Arguments:
        name: one of `RULES`.
        inner_lr: step size.
        learn_lr: what is learned of it.
        clip: largest norm of an inner gradient.
        steps: learn rates of their own for this many steps.

    Raises:
        UsageError: a name is unknown or a number has no meaning.

    Example:
        >>> inner_rule("sgd", 0.1, None, 1.0).first_order
        False
    """
    check_known("inner", name, RULES)
    rule = RULES[name](inner_lr, learn=learn_lr, steps=steps)
    return rule if clip is None else clipped(rule, clip)


def assembled(
    module: nn.Module,
    loss: Loss,
    rule: InnerRule,
    inner_steps: int,
    *,
    metagrad: MetaGradient,
    options: GradientOptions,
    adapt: Adapt = "all",
    start: Start | None = None,
) -> GradientLearner:
    """A preset's learner: `gradient_learner` with the options that presets share."""
    rule = rule if options["clip"] is None else clipped(rule, options["clip"])
    metagrad = by_name(str(options.get("metagrad", "unrolled")), metagrad)
    return gradient_learner(
        module, loss, rule, inner_steps, metagrad=metagrad, adapt=adapt, start=start,
        batchnorm=options["batchnorm"], mapping=options["mapping"], inner_loss=options["inner_loss"],
    )  # fmt: skip


@registered
def maml(
    module: nn.Module, *, loss: Loss, inner_lr: float = 0.01, inner_steps: int = 5, learn_lr: str | None = None,
    inner: str = "sgd", adapt: Adapt = "all", **options: Unpack[UnrolledOptions],
) -> Learner:  # fmt: skip
    r"""MAML: an initialisation from which a few gradient steps reach every task.

    $\phi_t = \theta - \alpha \nabla L^{support}_t(\theta)$ (repeated), and $\theta$ descends
    $\frac1T \sum_t L^{query}_t(\phi_t)$ through the steps. The first choice where tasks differ in shape; the defaults
    are the algorithm of the paper.
    Finn, Abbeel & Levine, 2017, *Model-Agnostic Meta-Learning for Fast Adaptation of Deep Networks*.

    Example:
        >>> from innerloop.models import build
        >>> learner = maml(build("mlp", n_in=1), loss="mse", inner_lr=0.1, inner_steps=1)
        >>> len(learner.init())
        6
    """
    rule = inner_rule(inner, inner_lr, learn_lr)
    return assembled(module, loss, rule, inner_steps, metagrad=unrolled(), adapt=adapt, options=options)


@registered
def fomaml(
    module: nn.Module, *, loss: Loss, inner_lr: float = 0.01, inner_steps: int = 5, learn_lr: str | None = None,
    inner: str = "sgd", adapt: Adapt = "all", **options: Unpack[GradientOptions],
) -> Learner:  # fmt: skip
    r"""First-order MAML: MAML that takes the inner gradients for constants.

    The meta-gradient is the query gradient at the adapted point, $\nabla L^{query}_t(\phi_t)$: cheaper in time and
    memory, and close to MAML where curvature matters little.
    Finn, Abbeel & Levine, 2017, section 5.2; Nichol, Achiam & Schulman, 2018, *On First-Order Meta-Learning*.

    Example:
        >>> from innerloop.models import build
        >>> fomaml(build("mlp", n_in=1), loss="mse").rule.first_order
        True
    """
    rule = detached(inner_rule(inner, inner_lr, learn_lr))
    return assembled(module, loss, rule, inner_steps, metagrad=unrolled(), adapt=adapt, options=options)


@registered
def reptile(
    module: nn.Module, *, loss: Loss, inner_lr: float = 0.01, inner_steps: int = 5, inner: str = "sgd",
    rows: str = "all", **options: Unpack[GradientOptions],
) -> Learner:  # fmt: skip
    r"""Reptile: move the initialisation towards where adaptation ends.

    $\theta \leftarrow \theta + \epsilon\,(\phi_t - \theta)$.

    No second derivative and no query loss; the cheapest of the family, with more inner steps.
    Nichol, Achiam & Schulman, 2018, *On First-Order Meta-Learning Algorithms*.

    Its own arguments:
        rows: rows of the episode that are adapted on: `all` or `support`, see `outer.displacement`.

    Example:
        >>> from innerloop.models import build
        >>> reptile(build("mlp", n_in=1), loss="mse").metagrad.name
        'displacement'
    """
    # no derivative is taken through the steps: constants cost nothing
    rule = detached(inner_rule(inner, inner_lr))
    return assembled(module, loss, rule, inner_steps, metagrad=displacement(rows=rows), options=options)


@registered
def anil(
    module: nn.Module, *, loss: Loss, inner_lr: float = 0.01, inner_steps: int = 5, learn_lr: str | None = None,
    inner: str = "sgd", **options: Unpack[UnrolledOptions],
) -> Learner:  # fmt: skip
    """ANIL: MAML whose inner loop moves the last layer only; the body is meta-trained and shared.

    Much faster than MAML and often as good: features are reused rather than relearned.
    Raghu, Raghu, Bengio & Vinyals, 2020, *Rapid Learning or Feature Reuse?*.

    Example:
        >>> from innerloop.models import build
        >>> anil(build("mlp", n_in=1), loss="mse").fast
        ('4.weight', '4.bias')
    """
    rule = inner_rule(inner, inner_lr, learn_lr)
    return assembled(module, loss, rule, inner_steps, metagrad=unrolled(), adapt="head", options=options)


@registered
def boil(
    module: nn.Module, *, loss: Loss, inner_lr: float = 0.01, inner_steps: int = 5, learn_lr: str | None = None,
    inner: str = "sgd", **options: Unpack[UnrolledOptions],
) -> Learner:  # fmt: skip
    """BOIL: MAML whose inner loop moves everything but the last layer, of a model with several.

    The counterpart of ANIL, for tasks whose inputs differ more than their labels.
    Oh, Yoo, Kim & Yun, 2021, *BOIL: Towards Representation Change for Few-shot Learning*.

    Example:
        >>> from innerloop.models import build
        >>> boil(build("mlp", n_in=1, hidden=[4]), loss="mse").fast
        ('0.weight', '0.bias')
    """
    rule = inner_rule(inner, inner_lr, learn_lr)
    return assembled(module, loss, rule, inner_steps, metagrad=unrolled(), adapt="body", options=options)


@registered
def meta_sgd(
    module: nn.Module, *, loss: Loss, inner_lr: float = 0.01, inner_steps: int = 1, adapt: Adapt = "all",
    **options: Unpack[UnrolledOptions],
) -> Learner:  # fmt: skip
    r"""Meta-SGD: MAML with a learned step size for every weight, $\phi = \theta - \alpha \circ \nabla L(\theta)$.

    One inner step, as in the paper.
    Li, Zhou, Chen & Li, 2017, *Meta-SGD: Learning to Learn Quickly for Few-Shot Learning*.

    Example:
        >>> from innerloop.models import build
        >>> meta_sgd(build("mlp", n_in=1, hidden=[4]), loss="mse").init()["inner/lr/0.weight"].shape
        torch.Size([4, 1])
    """
    rule = inner_rule("sgd", inner_lr, "weight")
    return assembled(module, loss, rule, inner_steps, metagrad=unrolled(), adapt=adapt, options=options)


@registered
def maml_plus_plus(
    module: nn.Module, *, loss: Loss, inner_lr: float = 0.1, inner_steps: int = 5, multi_step_until: int = 300,
    first_order_until: int = 100, **options: Unpack[UnrolledOptions],
) -> Learner:  # fmt: skip
    """MAML++: rates a layer and step, a loss after every step, first order at first.

    Its parts can be used alone: `inner.sgd(learn="tensor", steps=S)`, `outer.multi_step`, `outer.annealed`; the
    cosine schedule of the meta-rate is the default of `meta_train`. `batchnorm="per_step"` adds the statistics and
    scales a step of the paper, which need long training.
    Antoniou, Edwards & Storkey, 2019, *How to Train Your MAML*.

    Its own arguments:
        multi_step_until: meta-updates until only the loss after the last step counts.
        first_order_until: meta-updates of first order at the start.

    Example:
        >>> from innerloop.models import build
        >>> maml_plus_plus(build("mlp", n_in=1), loss="mse").init()["inner/lr/0.bias"].shape
        torch.Size([5])
    """
    rule = inner_rule("sgd", inner_lr, "tensor", steps=max(inner_steps, 1))
    metagrad = annealed(multi_step(multi_step_until), first_order_until)
    return assembled(module, loss, rule, inner_steps, metagrad=metagrad, options=options)


@registered
def meta_curvature(
    module: nn.Module, *, loss: Loss, inner_lr: float = 0.01, inner_steps: int = 1,
    **options: Unpack[UnrolledOptions],
) -> Learner:  # fmt: skip
    r"""Meta-Curvature: MAML whose inner gradient passes learned matrices, one an axis of each tensor.

    $\phi = \theta - \alpha\, M_o\, \nabla L(\theta)\, M_i$, see `inner.curvature`.
    Park & Oliva, 2019, *Meta-Curvature*.

    Example:
        >>> from innerloop.models import build
        >>> len(meta_curvature(build("mlp", n_in=1, hidden=[4]), loss="mse").init())
        10
    """
    return assembled(module, loss, curvature(inner_lr), inner_steps, metagrad=unrolled(), options=options)


@registered
def sparse_maml(
    module: nn.Module, *, loss: Loss, inner_lr: float = 0.01, inner_steps: int = 5, learn_lr: str | None = None,
    **options: Unpack[UnrolledOptions],
) -> Learner:  # fmt: skip
    r"""sparse-MAML: MAML that learns which weights may move in the inner loop.

    $\phi = \theta - \alpha\, 1[s \ge 0] \circ \nabla L(\theta)$ with learned scores $s$, see `inner.masked`.
    von Oswald, Zhao, Kobayashi et al., 2021, *Learning where to learn: Gradient sparsity in meta and continual
    learning*.

    Example:
        >>> from innerloop.models import build
        >>> "inner/mask/0.bias" in sparse_maml(build("mlp", n_in=1), loss="mse").init()
        True
    """
    rule = masked(inner_rule("sgd", inner_lr, learn_lr))
    return assembled(module, loss, rule, inner_steps, metagrad=unrolled(), options=options)
