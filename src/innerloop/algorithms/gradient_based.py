"""Algorithms that adapt by gradient steps: a partition, an inner rule and a meta-gradient each.

Arguments they share:
    module: any `nn.Module`.
    loss: see `losses.task_losses`.
    inner_lr: inner step size, or where learned ones start.
    inner_steps: inner steps.
    learn_lr: learn the step size: one for `all`, one a `tensor` or one a `weight`; `None` keeps it fixed.
    clip: largest norm of a task's inner gradient; `None` for no limit.
    adapt: what adapts, see `selection.select_names`.
    inner: the inner rule: `sgd`, `momentum` (0.9), `adam`, `adamw` or `rmsprop`.
    batchnorm: where BatchNorm takes its statistics, see `functional.Network`.
    mapping: `vmap` or `loop` over tasks, the same result.
    metagrad: `unrolled` keeps all inner steps in memory for the meta-gradient, `checkpointed` one at a time, see
        `metagrad.checkpointed`: the same gradient with less memory, in more time.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from ..errors import UsageError
from ..inner import rules
from ..inner.gradient import GradientLearner, Start
from ..inner.learner import Learner, MetaGradient
from ..inner.lora import with_adapters
from ..inner.partition import select_names
from ..inner.rules import InnerRule, clipped, curvature, detached, masked, sgd
from ..models.losses import Loss
from ..models.network import Network
from ..outer.metagrad import annealed, by_name, displacement, multi_step, unrolled
from .registry import registered

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
    adapt: str | Callable[[str], bool] = "all",
    batchnorm: str = "support",
    mapping: str = "vmap",
    start: Start | None = None,
) -> GradientLearner:
    """Assemble a learner from parts of your own; every preset of this file is a call of it.

    Arguments:
        module: any `nn.Module`.
        loss: see `losses.task_losses`.
        rule: the inner rule.
        inner_steps: inner steps.
        metagrad: how the gradient comes back.
        adapt: what adapts.
        batchnorm: see `functional.Network`.
        mapping: `vmap` or `loop`.
        start: fast weights that start elsewhere than at meta-parameters.

    Returns:
        The learner.

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
    return GradientLearner(network, loss, rule, fast, inner_steps, metagrad, start)


def inner_rule(
    name: str, inner_lr: float, learn_lr: str | None, clip: float | None, *, steps: int | None = None
) -> InnerRule:
    """The inner rule of a preset.

    Arguments:
        name: one of `RULES`.
        inner_lr: step size.
        learn_lr: what is learned of it.
        clip: largest norm of an inner gradient.
        steps: learn rates of their own for this many steps.

    Returns:
        The rule.

    Raises:
        UsageError: a name is unknown or a number has no meaning.

    Example:
        >>> inner_rule("sgd", 0.1, None, 1.0).first_order
        False
    """
    if name not in RULES:
        raise UsageError(f"inner={name!r} is unknown: choose one of {', '.join(RULES)}")
    rule = RULES[name](inner_lr, learn=learn_lr, steps=steps)
    return rule if clip is None else clipped(rule, clip)


@registered
def maml(
    module: nn.Module, *, loss: Loss, inner_lr: float = 0.01, inner_steps: int = 5,
    learn_lr: str | None = None, clip: float | None = None, inner: str = "sgd",
    adapt: str | Callable[[str], bool] = "all", batchnorm: str = "support", mapping: str = "vmap",
    metagrad: str = "unrolled",
) -> Learner:  # fmt: skip
    r"""MAML: an initialisation from which a few gradient steps reach every task.

    $\phi_t = \theta - \alpha \nabla L^{support}_t(\theta)$ (repeated), and $\theta$ descends
    $\frac1T \sum_t L^{query}_t(\phi_t)$ through the steps. The first choice where tasks differ in shape.
    Finn, Abbeel & Levine, 2017, *Model-Agnostic Meta-Learning for Fast Adaptation of Deep Networks*.

    Arguments: see the head of this file; with the defaults it is the algorithm of the paper.

    Returns:
        The learner.

    Raises:
        UsageError: an argument has no meaning.

    Example:
        >>> from innerloop.models import build
        >>> learner = maml(build("mlp", n_in=1), loss="mse", inner_lr=0.1, inner_steps=1)
        >>> len(learner.init())
        6
    """
    rule = inner_rule(inner, inner_lr, learn_lr, clip)
    return gradient_learner(
        module, loss, rule, inner_steps,
        metagrad=by_name(metagrad, unrolled()), adapt=adapt, batchnorm=batchnorm, mapping=mapping,
    )  # fmt: skip


@registered
def fomaml(
    module: nn.Module, *, loss: Loss, inner_lr: float = 0.01, inner_steps: int = 5,
    learn_lr: str | None = None, clip: float | None = None, inner: str = "sgd",
    adapt: str | Callable[[str], bool] = "all", batchnorm: str = "support", mapping: str = "vmap",
) -> Learner:  # fmt: skip
    r"""First-order MAML: MAML that takes the inner gradients for constants.

    The meta-gradient is the query gradient at the adapted point, $\nabla L^{query}_t(\phi_t)$: cheaper in time and
    memory, and close to MAML where curvature matters little.
    Finn, Abbeel & Levine, 2017, section 5.2; Nichol, Achiam & Schulman, 2018, *On First-Order Meta-Learning*.

    Arguments: see the head of this file.

    Returns:
        The learner.

    Raises:
        UsageError: an argument has no meaning.

    Example:
        >>> from innerloop.models import build
        >>> fomaml(build("mlp", n_in=1), loss="mse").rule.first_order
        True
    """
    rule = detached(inner_rule(inner, inner_lr, learn_lr, clip))
    return gradient_learner(
        module, loss, rule, inner_steps,
        metagrad=unrolled(), adapt=adapt, batchnorm=batchnorm, mapping=mapping,
    )  # fmt: skip


@registered
def reptile(
    module: nn.Module, *, loss: Loss, inner_lr: float = 0.01, inner_steps: int = 5,
    clip: float | None = None, inner: str = "sgd", rows: str = "all", batchnorm: str = "support",
    mapping: str = "vmap",
) -> Learner:  # fmt: skip
    r"""Reptile: move the initialisation towards where adaptation ends.

    $\theta \leftarrow \theta + \epsilon\,(\phi_t - \theta)$.

    No second derivative and no query loss; the cheapest of the family, with more inner steps.
    Nichol, Achiam & Schulman, 2018, *On First-Order Meta-Learning Algorithms*.

    Arguments: see the head of this file; `rows` see `metagrad.displacement`.

    Returns:
        The learner.

    Raises:
        UsageError: an argument has no meaning.

    Example:
        >>> from innerloop.models import build
        >>> reptile(build("mlp", n_in=1), loss="mse").metagrad.name
        'displacement'
    """
    # no derivative is taken through the steps: constants cost nothing
    rule = detached(inner_rule(inner, inner_lr, None, clip))
    return gradient_learner(
        module, loss, rule, inner_steps,
        metagrad=displacement(rows=rows), batchnorm=batchnorm, mapping=mapping,
    )  # fmt: skip


@registered
def anil(
    module: nn.Module, *, loss: Loss, inner_lr: float = 0.01, inner_steps: int = 5,
    learn_lr: str | None = None, clip: float | None = None, inner: str = "sgd", batchnorm: str = "support",
    mapping: str = "vmap", metagrad: str = "unrolled",
) -> Learner:  # fmt: skip
    """ANIL: MAML whose inner loop moves the last layer only; the body is meta-trained and shared.

    Much faster than MAML and often as good: features are reused rather than relearned.
    Raghu, Raghu, Bengio & Vinyals, 2020, *Rapid Learning or Feature Reuse?*.

    Arguments: see the head of this file.

    Returns:
        The learner.

    Raises:
        UsageError: an argument has no meaning.

    Example:
        >>> from innerloop.models import build
        >>> anil(build("mlp", n_in=1), loss="mse").fast
        ('4.weight', '4.bias')
    """
    rule = inner_rule(inner, inner_lr, learn_lr, clip)
    return gradient_learner(
        module, loss, rule, inner_steps,
        metagrad=by_name(metagrad, unrolled()), adapt="head", batchnorm=batchnorm, mapping=mapping,
    )  # fmt: skip


@registered
def boil(
    module: nn.Module, *, loss: Loss, inner_lr: float = 0.01, inner_steps: int = 5,
    learn_lr: str | None = None, clip: float | None = None, inner: str = "sgd", batchnorm: str = "support",
    mapping: str = "vmap", metagrad: str = "unrolled",
) -> Learner:  # fmt: skip
    """BOIL: MAML whose inner loop moves everything but the last layer.

    The counterpart of ANIL, for tasks whose inputs differ more than their labels.
    Oh, Yoo, Kim & Yun, 2021, *BOIL: Towards Representation Change for Few-shot Learning*.

    Arguments: see the head of this file.

    Returns:
        The learner.

    Raises:
        UsageError: an argument has no meaning, or the model has a single layer.

    Example:
        >>> from innerloop.models import build
        >>> boil(build("mlp", n_in=1, hidden=[4]), loss="mse").fast
        ('0.weight', '0.bias')
    """
    rule = inner_rule(inner, inner_lr, learn_lr, clip)
    return gradient_learner(
        module, loss, rule, inner_steps,
        metagrad=by_name(metagrad, unrolled()), adapt="body", batchnorm=batchnorm, mapping=mapping,
    )  # fmt: skip


@registered
def meta_sgd(
    module: nn.Module, *, loss: Loss, inner_lr: float = 0.01, inner_steps: int = 1,
    clip: float | None = None, adapt: str | Callable[[str], bool] = "all", batchnorm: str = "support",
    mapping: str = "vmap", metagrad: str = "unrolled",
) -> Learner:  # fmt: skip
    r"""Meta-SGD: MAML with a learned step size for every weight, $\phi = \theta - \alpha \circ \nabla L(\theta)$.

    Li, Zhou, Chen & Li, 2017, *Meta-SGD: Learning to Learn Quickly for Few-Shot Learning*.

    Arguments: see the head of this file; one inner step, as in the paper.

    Returns:
        The learner.

    Raises:
        UsageError: an argument has no meaning.

    Example:
        >>> from innerloop.models import build
        >>> meta_sgd(build("mlp", n_in=1, hidden=[4]), loss="mse").init()["inner/lr/0.weight"].shape
        torch.Size([4, 1])
    """
    rule = inner_rule("sgd", inner_lr, "weight", clip)
    return gradient_learner(
        module, loss, rule, inner_steps,
        metagrad=by_name(metagrad, unrolled()), adapt=adapt, batchnorm=batchnorm, mapping=mapping,
    )  # fmt: skip


@registered
def maml_plus_plus(
    module: nn.Module, *, loss: Loss, inner_lr: float = 0.1, inner_steps: int = 5,
    multi_step_until: int = 300, first_order_until: int = 100, clip: float | None = None,
    batchnorm: str = "support", mapping: str = "vmap",
    metagrad: str = "unrolled",
) -> Learner:  # fmt: skip
    """MAML++: rates a layer and step, a loss after every step, first order at first.

    Its parts can be used alone: `inner.sgd(learn="tensor", steps=S)`, `metagrad.multi_step`,
    `metagrad.annealed`; the cosine meta-rate is the default of `meta_train`. `batchnorm="per_step"` adds the
    statistics and scales a step of the paper, which need long training.
    Antoniou, Edwards & Storkey, 2019, *How to Train Your MAML*.

    Arguments: see the head of this file, and:
        multi_step_until: meta-updates until only the loss after the last step counts.
        first_order_until: meta-updates of first order at the start.

    Returns:
        The learner.

    Raises:
        UsageError: an argument has no meaning.

    Example:
        >>> from innerloop.models import build
        >>> maml_plus_plus(build("mlp", n_in=1), loss="mse").init()["inner/lr/0.bias"].shape
        torch.Size([5])
    """
    rule = inner_rule("sgd", inner_lr, "tensor", clip, steps=max(inner_steps, 1))
    back = annealed(multi_step(multi_step_until), first_order_until)
    return gradient_learner(
        module, loss, rule, inner_steps,
        metagrad=by_name(metagrad, back), batchnorm=batchnorm, mapping=mapping,
    )  # fmt: skip


@registered
def meta_curvature(
    module: nn.Module, *, loss: Loss, inner_lr: float = 0.01, inner_steps: int = 1,
    clip: float | None = None, batchnorm: str = "support", mapping: str = "vmap",
    metagrad: str = "unrolled",
) -> Learner:  # fmt: skip
    """Meta-Curvature: MAML whose inner gradient passes learned matrices, one an axis of each tensor.

    Park & Oliva, 2019, *Meta-Curvature*.

    Arguments: see the head of this file.

    Returns:
        The learner.

    Raises:
        UsageError: an argument has no meaning.

    Example:
        >>> from innerloop.models import build
        >>> len(meta_curvature(build("mlp", n_in=1, hidden=[4]), loss="mse").init())
        10
    """
    rule = curvature(inner_lr)
    rule = rule if clip is None else clipped(rule, clip)
    return gradient_learner(
        module, loss, rule, inner_steps,
        metagrad=by_name(metagrad, unrolled()), batchnorm=batchnorm, mapping=mapping,
    )  # fmt: skip


@registered
def sparse_maml(
    module: nn.Module, *, loss: Loss, inner_lr: float = 0.01, inner_steps: int = 5,
    learn_lr: str | None = None, clip: float | None = None, batchnorm: str = "support",
    mapping: str = "vmap", metagrad: str = "unrolled",
) -> Learner:  # fmt: skip
    """sparse-MAML: MAML that learns which weights may move in the inner loop.

    von Oswald, Zhao, Kobayashi et al., 2021, *Learning where to learn: Gradient sparsity in meta and continual
    learning*.

    Arguments: see the head of this file.

    Returns:
        The learner.

    Raises:
        UsageError: an argument has no meaning.

    Example:
        >>> from innerloop.models import build
        >>> "inner/mask/0.bias" in sparse_maml(build("mlp", n_in=1), loss="mse").init()
        True
    """
    rule = masked(inner_rule("sgd", inner_lr, learn_lr, None))
    rule = rule if clip is None else clipped(rule, clip)
    return gradient_learner(
        module, loss, rule, inner_steps,
        metagrad=by_name(metagrad, unrolled()), batchnorm=batchnorm, mapping=mapping,
    )  # fmt: skip
