"""Gaussian processes over the rows of a task: on the features themselves, and on learned ones."""

from __future__ import annotations

from typing import Unpack

from torch import nn

from ..errors import UsageError, check_known
from ..inner.head import HeadLearner
from ..inner.heads import GaussianProcessClassHead, GaussianProcessHead, Head, PooledBase
from ..inner.heads.base import KINDS
from ..inner.learner import Learner
from ..models.builtin import MOST_SQUARED, Polynomial
from ..models.network import Network
from ..outer.metagrad import unrolled
from .arguments import NetworkOptions
from .registry import registered

__all__ = ["deep_kernel", "gp"]

KERNEL = "linear+squared_exponential+matern32"


@registered
def gp(
    n_features: int, n_outputs: int = 1, *, kind: str = "regression", kernel: str = KERNEL,
    mean: str = "auto", noise: str = "constant",
) -> Learner:  # fmt: skip
    r"""Gaussian process: every task is a smooth curve of its own around a mean that all tasks share.

    $y = m(x) + f_t(x) + \epsilon,\; f_t \sim GP(0, \sigma^2 k)$. The mean is a line in the features and their
    squares; the kernel $k$ is a sum of parts: a level and slopes of the task's own, drawn from a Gaussian as in
    `mixed`, and smooth curves with one length-scale a feature. Mean, kernel and noise maximise the marginal
    likelihood of all tasks; a task is adapted in closed form (`inner.heads.GaussianProcessHead`). For classes the
    logits are such processes, by Laplace's method, and gradients find their mean and kernel on what they predict
    after a support set (`inner.heads.GaussianProcessClassHead`).
    Rasmussen & Williams, 2006, *Gaussian Processes for Machine Learning*; many tasks with one kernel: Minka &
    Picard, 1997, *Learning How to Learn is Learning with Point Sets*.

    When to use it: first, beside `mixed`, where tasks are curves (growth, concentrations, sensors) or differ in
    shape, and have few rows. It says how sure it is. Without a labelled row it predicts what one line for all tasks
    would (`inner.heads.PooledBase`).

    Arguments:
        n_features: features `F`.
        n_outputs: targets or classes.
        kind: `regression` or `classification`.
        kernel: a sum of `linear`, `squared_exponential`, `matern32` and `periodic`, such as `linear+periodic`.
        mean: `constant`, `line`, `squares` (a line in the features and their squares), or `auto`: `squares` in
            regression with up to 12 features, else `line`. `constant` is right for what another model leaves over.
        noise: `constant`, or `log_linear`: its logarithm is a line in the features. Classes have none.

    Returns:
        The learner; its head has `uncertainty` and `log_density`.

    Raises:
        UsageError: an argument has no meaning.

    Example:
        >>> learner = gp(2, kernel="matern32")
        >>> sorted(name.removeprefix("head/") for name in learner.init())
        ['kernel/matern32/log_amplitude', 'kernel/matern32/log_scale', 'log_noise', 'mean', 'pooled_...
    """
    if mean == "auto":
        mean = "squares" if kind == "regression" and n_features <= MOST_SQUARED else "line"
    head = _head(n_features, n_outputs, kind, kernel, mean, noise)
    if isinstance(head, GaussianProcessHead):
        head = PooledBase(head)
    return HeadLearner(Network(Polynomial()), head, unrolled())


@registered
def deep_kernel(
    module: nn.Module, *, n_features: int, n_outputs: int = 1, kind: str = "regression",
    kernel: str = "linear+squared_exponential", noise: str = "constant", **options: Unpack[NetworkOptions],
) -> Learner:  # fmt: skip
    r"""Deep kernel: a Gaussian process on learned features, its mean a line in them.

    $y = m^\top\phi(x) + f_t(\phi(x)) + \epsilon,\; f_t \sim GP(0, \sigma^2 k)$: network, mean, kernel and noise are
    learned together, on the log density of query targets given the support set.
    Wilson, Hu, Salakhutdinov & Xing, 2016, *Deep Kernel Learning*; across tasks: Patacchiola, Turner, Crowley,
    O'Boyle & Storkey, 2020, *Bayesian Meta-Learning for the Few-Shot Setting via Deep Kernels*.

    When to use it: many tasks that differ in shape, and it matters how sure a prediction is; where tasks are few,
    `gp`, which has far less to learn.

    Its own arguments:
        module: any `nn.Module` that turns rows into features `(n, F)`, such as `models.mlp(..., n_out=None)`.
        kernel: a sum of `linear`, `squared_exponential`, `matern32` and `periodic`.
        noise: `constant`, or `log_linear`: its logarithm is a line in the learned features. Classes have none.

    Example:
        >>> from innerloop.models import build
        >>> learner = deep_kernel(build("mlp", n_in=1, hidden=[8], n_out=None), n_features=8, kernel="linear")
        >>> sorted(learner.init())
        ['0.bias', '0.weight', 'head/kernel/linear/root', 'head/log_noise', 'head/mean']
    """
    head = _head(n_features, n_outputs, kind, kernel, "line", noise)
    return HeadLearner(Network(module, **options), head, unrolled())


def _head(n_features: int, n_outputs: int, kind: str, kernel: str, mean: str, noise: str) -> Head:
    check_known("kind", kind, KINDS)
    if kind == "regression":
        return GaussianProcessHead(n_features, n_outputs, kernel, mean, noise)
    if noise != "constant":
        raise UsageError(f"noise={noise!r} has no meaning for classes: leave it out")
    return GaussianProcessClassHead(n_features, n_outputs, kernel, mean)
