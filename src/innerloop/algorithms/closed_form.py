"""Algorithms that adapt by a closed form on features."""

from __future__ import annotations

from typing import Unpack

from torch import nn

from ..errors import check_known
from ..inner.head import HeadLearner
from ..inner.heads import GaussianHead, Head, LaplaceHead, LearnedRidgeHead, PrototypeHead
from ..inner.heads.base import KINDS
from ..inner.learner import Learner
from ..models.builtin import Polynomial
from ..models.network import Network
from ..outer.metagrad import unrolled
from .arguments import NetworkOptions
from .registry import registered

__all__ = ["gaussian", "mixed", "protonet", "ridge"]


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
        covariance: of the prior, `full` or `diagonal`.

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
    n_features: int, n_outputs: int = 1, *, kind: str = "regression", squares: bool = False,
    covariance: str = "auto",
) -> Learner:  # fmt: skip
    r"""Linear mixed model: a regression line of its own for every task, drawn from a learned Gaussian.

    $w_t \sim N(m, \sigma^2 V),\; y = w_t^\top x + \epsilon$: the Gaussian head on the features themselves,
    fitted by maximum likelihood. For classes it is a mixed logistic regression by Laplace's method
    (`inner.heads.LaplaceHead`), its prior learned by gradients on what it predicts after a support set.
    Laird & Ware, 1982, *Random-Effects Models for Longitudinal Data*.

    When to use it: first. It is the statistician's answer to many small tasks, fitted in a second, and hard
    to beat where tasks differ in level and slope only.

    Arguments:
        n_features: features `F`.
        n_outputs: targets or classes.
        kind: `regression` or `classification`.
        squares: add the squares of the features.
        covariance: of the tasks' coefficients: `full`, `diagonal`, or `auto`: by the Bayesian information
            criterion in regression, diagonal in classification. With more than 64 columns and fewer than two
            rows a column, all slopes vary alike and their mean is drawn too (see `GaussianHead.fit`).

    Returns:
        The learner; its head has `uncertainty` and `log_density`.

    Raises:
        UsageError: an argument has no meaning.

    Example:
        >>> sorted(mixed(2).init())
        ['head/log_noise', 'head/mean', 'head/root']
    """
    degree = 2 if squares else 1
    head = _gaussian_head(n_features * degree, n_outputs, kind, covariance)
    return HeadLearner(Network(Polynomial(degree)), head, unrolled())


def _gaussian_head(n_features: int, n_outputs: int, kind: str, covariance: str) -> Head:
    check_known("kind", kind, KINDS)
    if kind == "regression":
        return GaussianHead(n_features, n_outputs, covariance)
    return LaplaceHead(n_features, n_outputs, covariance)
