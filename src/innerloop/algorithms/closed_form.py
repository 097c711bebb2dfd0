"""Algorithms that adapt by a closed form on features."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Unpack

from torch import nn

from ..errors import UsageError, check_known
from ..inner.head import HeadLearner
from ..inner.heads import (
    ClassMeansHead,
    GaussianHead,
    Head,
    LaplaceHead,
    LearnedRidgeHead,
    PrototypeHead,
    TwoCovarianceHead,
)
from ..inner.heads.base import KINDS
from ..inner.learner import Learner
from ..models.builtin import Polynomial
from ..models.network import Network
from ..outer.metagrad import unrolled
from .arguments import NetworkOptions
from .registry import registered

__all__ = ["class_means", "gaussian", "mixed", "protonet", "ridge", "two_covariance"]


# squares that a model may have
_MANY = 1 << 16


@registered
def protonet(
    module: nn.Module, *, n_features: int, n_outputs: int, **options: Unpack[NetworkOptions],
) -> Learner:  # fmt: skip
    r"""Prototypical network: each class is the mean of its support features, the nearest one wins.

    $c_k = \frac{1}{|S_k|}\sum_{i \in S_k} \phi_i,\quad p(y = k \mid x) \propto
    \exp(-\lVert \phi(x) - c_k \rVert^2)$, with the squared Euclidean distance.
    Snell, Swersky & Zemel, 2017, *Prototypical Networks for Few-shot Learning*.

    When to use it: classes never seen before, few rows of each (characters, faces, species). Nothing is
    solved or stepped, so it is the fastest to train and to adapt, and hard to beat at one shot. Not for
    classes whose meaning is the same in every task: `gaussian` knows what they are like on average.

    Its own arguments:
        module: any `nn.Module` that turns rows into features `(n, F)`, such as `models.mlp(..., n_out=None)`.
        n_outputs: the most classes a task has; a task may have fewer, see `inner.heads.PrototypeHead`.

    Example:
        >>> from innerloop.models import build
        >>> learner = protonet(build("mlp", n_in=2, hidden=[8], n_out=None), n_features=8, n_outputs=5)
        >>> sorted(learner.init())
        ['0.bias', '0.weight']
    """
    head = PrototypeHead(n_features, n_outputs)
    return HeadLearner(Network(module, **options), head, unrolled())


@registered
def ridge(
    module: nn.Module, *, n_features: int, n_outputs: int = 1, kind: str = "regression",
    **options: Unpack[NetworkOptions],
) -> Learner:  # fmt: skip
    r"""R2-D2: ridge regression of each task on learned features, its strength learned with them.

    $W_t = (\Phi^\top\Phi + \Lambda)^{-1}\Phi^\top Y$ on the support set; values are $\Phi W_t$, logits
    $s\,\Phi W_t + b$. The gradient of the query loss goes through the solution.
    Bertinetto, Henriques, Torr & Vedaldi, 2019, *Meta-learning with Differentiable Closed-form Solvers*.

    When to use it: tasks that are curves of one family (regression), where gradient steps need many
    iterations to reach what one solve gives; also classes never seen before with several rows each.

    Its own arguments:
        module: any `nn.Module` that turns rows into features `(n, F)`, such as `models.mlp(..., n_out=None)`.

    Example:
        >>> from innerloop.models import build
        >>> learner = ridge(build("mlp", n_in=1, hidden=[8], n_out=None), n_features=8)
        >>> sorted(learner.init())
        ['0.bias', '0.weight', 'head/log_lambda']
    """
    head = LearnedRidgeHead(n_features, n_outputs, kind)
    return HeadLearner(Network(module, **options), head, unrolled())


@registered
def gaussian(
    module: nn.Module, *, n_features: int, n_outputs: int = 1, kind: str = "regression",
    covariance: str = "full", **options: Unpack[NetworkOptions],
) -> Learner:  # fmt: skip
    r"""ALPaCA: Bayesian regression of each task on learned features, from a learned prior, with its variance.

    $w_t \sim N(m, \sigma^2 V),\; y = w_t^\top\phi(x) + \epsilon$; prior mean, covariance and noise are
    learned with the features on the log density of query targets; the head has `uncertainty` and `log_density`.
    For classes the same prior stands before a softmax; the posterior is Laplace's, the predictive probability
    MacKay's probit approximation with a mean field over classes, see `inner.heads.LaplaceHead`.
    Harrison, Sharma & Pavone, 2018, *Meta-Learning Priors for Efficient Online Bayesian Regression*.

    When to use it: few rows a task, and it matters how sure a prediction is; tasks that resemble each other,
    so that a prior mean helps; support sets of very different sizes, none at all among them.

    Its own arguments:
        module: any `nn.Module` that turns rows into features `(n, F)`, such as `models.mlp(..., n_out=None)`.
        covariance: of the prior, `full`, `diagonal` or `shared` (one variance for all slopes, one for the constant).

    Example:
        >>> from innerloop.models import build
        >>> learner = gaussian(build("mlp", n_in=1, hidden=[8], n_out=None), n_features=8)
        >>> sorted(learner.init())
        ['0.bias', '0.weight', 'head/log_noise', 'head/mean', 'head/root']
    """
    head = _gaussian_head(n_features, n_outputs, kind, covariance)
    return HeadLearner(Network(module, **options), head, unrolled())


@registered
def mixed(
    n_features: int, n_outputs: int = 1, *, kind: str = "regression", squares: bool | Sequence[int] = False,
    interactions: Sequence[Sequence[int]] | None = None, random: Sequence[int] | None = None,
    covariance: str = "auto", likelihood: str = "ml",
) -> Learner:  # fmt: skip
    r"""Linear mixed model: a regression line of its own for every task, drawn from a learned Gaussian.

    $y = x^\top m + z^\top b_t + \epsilon,\; b_t \sim N(0, \sigma^2 V),\; \epsilon \sim N(0, \sigma^2)$: the
    Gaussian head on the features themselves, fitted by (restricted) maximum likelihood. What a task adapts to is the
    best linear unbiased prediction (BLUP) of its $b_t$. For classes it is a mixed logistic regression by Laplace's
    method (`inner.heads.LaplaceHead`), its prior learned by gradients on what it predicts after a support set.
    Laird & Ware, 1982, *Random-Effects Models for Longitudinal Data*.

    When to use it: first. It is the statistician's answer to many small tasks, fitted in a second, and hard
    to beat where tasks differ in level and slope only.

    Arguments:
        n_features: features `F`.
        n_outputs: targets or classes.
        kind: `regression` or `classification`.
        squares: add the squares of the features: of all, or of these.
        interactions: pairs of features whose products are added.
        random: which coefficients differ among tasks beside the constant (random effects): positions among the
            features, the squares and the interactions, in this order; all unless given. The others are the same in
            every task (fixed effects alone).
        covariance: of the tasks' coefficients: `full`, `diagonal`, `shared` (one variance for all slopes, one for the
            constant), or `auto`: full or diagonal by the Bayesian information criterion in regression, diagonal in
            classification. With more than 64 columns `auto` also finds out which of them differ among tasks, or takes
            all slopes to vary alike; with fewer than two rows a column the mean is drawn too (see `GaussianHead.fit`).
        likelihood: `ml`, or `reml` (restricted; regression).

    Returns:
        The learner; its head has `uncertainty` and `log_density`.

    Raises:
        UsageError: an argument has no meaning.

    Example:
        >>> sorted(mixed(2).init())
        ['head/log_noise', 'head/mean', 'head/root']
        >>> line = mixed(2, squares=[0], random=[0])  # the square is the same in every task
        >>> line.init()["head/mean"].shape, line.init()["head/root"].shape
        (torch.Size([4, 1]), torch.Size([2, 2]))
    """
    products = _products(n_features, squares, interactions)
    if kind == "classification" and likelihood != "ml":
        raise UsageError(f"likelihood={likelihood!r} is for numbers, and the target is a class: leave it out")
    count = n_features + len(products)
    head = _gaussian_head(count, n_outputs, kind, covariance, random, likelihood)
    return HeadLearner(Network(Polynomial(products)), head, unrolled())


@registered
def class_means(
    n_features: int, n_outputs: int = 2, *, kind: str = "classification", n_support: int = 1
) -> Learner:  # fmt: skip
    r"""Class means by cosine: a class is the mean of its support rows, and the smallest angle wins; nothing is trained.

    $p(y = k \mid x) \propto \exp(\cos(x, c_k) / \tau)$, with the temperature fitted to the meta-train classes.
    Nearest class means on a frozen encoder: Wang, Chao, Weinberger & van der Maaten, 2019, *SimpleShot: Revisiting
    Nearest-Neighbor Classification for Few-Shot Learning*.

    When to use it: classes never seen before, rows that are features of a good encoder. It is what others have to
    beat. Not for columns of different units: `two_covariance` learns how each direction counts.

    Arguments:
        n_features: features `F`.
        n_outputs: classes an episode.
        kind: classification.
        n_support: support rows a class for which the temperature is fitted.

    Returns:
        The learner; its head has `uncertainty` and `log_density`.

    Raises:
        UsageError: an argument has no meaning.

    Example:
        >>> sorted(class_means(2, 5).init())
        ['head/log_temperature']
    """
    if kind != "classification":
        raise UsageError("class_means predicts classes, and these tasks are regression: choose mixed")
    if type(n_support) is not int or n_support < 1:
        raise UsageError(f"class_means: n_support={n_support!r}: give a whole number of 1 or more")
    return HeadLearner(Network(Polynomial()), ClassMeansHead(n_features, n_outputs, n_support), unrolled())


@registered
def two_covariance(n_features: int, n_outputs: int = 2, *, kind: str = "classification") -> Learner:
    r"""Two-covariance model (PLDA): how classes differ and how rows of one class differ, learned from other classes.

    $m_k \sim N(\mu, B),\; x \sim N(m_k, W)$: the linear mixed model for classes. Both covariances come from the
    meta-train classes in closed form, with shrinkage; a new class is the posterior of its mean given its rows, and
    probabilities are those of Bayes' rule over one temperature, see `inner.heads.TwoCovarianceHead`.
    Ioffe, 2006, *Probabilistic Linear Discriminant Analysis*.

    When to use it: classes never seen before, given by vectors: features of an encoder, or columns of a table; one row
    of each class or more. It is fitted in a second, its probabilities are honest, any number of classes can be added
    and removed later, and what belongs to none of them is found. Not for curved boundaries between classes: `protonet`
    learns the features too.

    Arguments:
        n_features: features `F`.
        n_outputs: classes an episode.
        kind: classification.

    Returns:
        The learner; its head has `uncertainty` and `log_density`.

    Raises:
        UsageError: an argument has no meaning.

    Example:
        >>> sorted(two_covariance(2, 5).init())
        ['head/center', 'head/log_between', 'head/log_temperature', 'head/projection']
    """
    if kind != "classification":
        raise UsageError("two_covariance predicts classes, and these tasks are regression: choose mixed")
    return HeadLearner(Network(Polynomial()), TwoCovarianceHead(n_features, n_outputs), unrolled())


def _products(
    n_features: int, squares: bool | Sequence[int], interactions: Sequence[Sequence[int]] | None
) -> list[tuple[int, int]]:
    """The pairs of features whose products are added."""
    squared = range(n_features) if squares is True else squares or ()
    if len(squared) > _MANY:
        raise UsageError(f"mixed: {len(squared)} squares are too many: name those to add, {_MANY} at most")
    pairs = [(number, number) for number in squared]
    for pair in interactions or ():
        if len(pair) != 2 or pair[0] == pair[1]:
            raise UsageError(f"interactions: {list(pair)} are not two features: give pairs such as (0, 1)")
        pairs.append((pair[0], pair[1]))
    for number in (number for pair in pairs for number in pair):
        if type(number) is not int or not 0 <= number < n_features:
            raise UsageError(f"mixed: {number!r} is no feature: there are 0 ... {n_features - 1}")
    if len({frozenset(pair) for pair in pairs}) < len(pairs):
        raise UsageError("mixed: a square or an interaction is named twice: name it once")
    return pairs


def _gaussian_head(
    n_features: int, n_outputs: int, kind: str, covariance: str,
    random: Sequence[int] | None = None, likelihood: str = "ml",
) -> Head:  # fmt: skip
    check_known("kind", kind, KINDS)
    if kind == "regression":
        return GaussianHead(n_features, n_outputs, covariance, random=random, likelihood=likelihood)
    return LaplaceHead(n_features, n_outputs, covariance, random=random)
