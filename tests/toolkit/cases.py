"""One list of every algorithm, small enough for exact checks; the contract suite runs over it."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import nn

from innerloop import algorithms as a
from innerloop.inner import Learner
from innerloop.tasks.episodes import Episode
from toolkit.oracles import class_episode, regression_episode


class Case(NamedTuple):
    """An algorithm on a kind of task.

    `gradient` says what its meta-gradient is: the exact derivative of the mean query loss, or a formula of its
    own that test_formulas.py holds it against.
    """

    algorithm: str
    kind: str
    make: Callable[..., Learner]
    gradient: str = "exact"

    @property
    def episode(self) -> Episode:
        """Stacked tasks of its kind."""
        return regression_episode() if self.kind == "regression" else class_episode()


def net(n_in: int = 2, n_out: int = 1, hidden: int = 6) -> nn.Module:
    """A net with one smooth hidden layer, always the same."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(n_in, hidden), nn.Tanh(), nn.Linear(hidden, n_out))


def body(n_in: int) -> nn.Module:
    """The same without its head: 5 features."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(n_in, 5), nn.Tanh())


def _both(name: str, gradient: str = "exact", extra: int = 0, **options: object) -> list[Case]:
    """An algorithm on a net with a loss, for both kinds of task."""
    preset = getattr(a, name)

    def regression(**more: object) -> Learner:
        return preset(net(2 + extra, 1), loss="mse", **{"inner_lr": 0.1, **options, **more})

    def classification(**more: object) -> Learner:
        return preset(net(4 + extra, 3), loss="cross_entropy", **{"inner_lr": 0.1, **options, **more})

    return [
        Case(name, "regression", regression, gradient),
        Case(name, "classification", classification, gradient),
    ]


def _sets(name: str) -> list[Case]:
    """A network that reads the support set, for both kinds of task."""
    preset = getattr(a, name)

    def regression(**more: object) -> Learner:
        return preset(body(2), n_features=5, n_outputs=1, units=6, **more)

    def classification(**more: object) -> Learner:
        return preset(body(4), n_features=5, n_outputs=3, kind="classification", units=6, **more)

    return [Case(name, "regression", regression), Case(name, "classification", classification)]


def _plain(kind: str) -> Case:
    inputs, outputs, loss = (2, 1, "mse") if kind == "regression" else (4, 3, "cross_entropy")
    return Case("plain", kind, lambda **more: a.plain(net(inputs, outputs), loss=loss, **more))


CASES = [
    _plain("regression"),
    _plain("classification"),
    *_both("maml", inner_steps=3),
    *_both("maml", inner_steps=2, inner="adam"),
    *_both("maml", inner_steps=2, inner="rmsprop"),
    *_both("maml", inner_steps=3, inner="momentum", learn_lr="tensor", clip=1.0),
    *_both("maml", inner_steps=3, inner="momentum", learn_lr="tensor", metagrad="checkpointed"),
    *_both("fomaml", "formula", inner_steps=3),
    *_both("reptile", "formula", inner_steps=3),
    *_both("anil", inner_steps=3),
    *_both("boil", inner_steps=3),
    *_both("meta_sgd", inner_steps=2),
    *_both("maml_plus_plus", "formula", inner_steps=3),
    *_both("meta_curvature", inner_steps=2),
    *_both("sparse_maml", "formula", inner_steps=2),
    *_both("t_net", inner_steps=2),
    *_both("cavia", extra=2, n_context=2, inner_lr=0.5),
    *_both("imaml", "formula", inner_steps=8, iterations=6),
    *_both("bmaml", "formula", inner_steps=2, particles=3),
    *_both("bmaml", "formula", inner_steps=2, particles=3, leader_steps=0),
    Case(
        "protomaml",
        "classification",
        lambda **more: a.protomaml(body(4), n_features=5, n_way=3, inner_lr=0.1, inner_steps=2, **more),
    ),
    Case("protonet", "classification", lambda **more: a.protonet(body(4), n_features=5, n_outputs=3, **more)),
    Case("class_means", "classification", lambda **more: a.class_means(4, 3)),
    Case("two_covariance", "classification", lambda **more: a.two_covariance(4, 3)),
    Case(
        "ridge",
        "classification",
        lambda **more: a.ridge(body(4), n_features=5, n_outputs=3, kind="classification", **more),
    ),
    Case("ridge", "regression", lambda **more: a.ridge(body(2), n_features=5, n_outputs=1, **more)),
    Case(
        "gaussian",
        "classification",
        lambda **more: a.gaussian(body(4), n_features=5, n_outputs=3, kind="classification", **more),
    ),
    Case("gaussian", "regression", lambda **more: a.gaussian(body(2), n_features=5, n_outputs=1, **more)),
    Case("boosted_gp", "regression", lambda **more: a.boosted_gp(2, rounds=3, depth=2)),
    Case("mixed", "regression", lambda **more: a.mixed(2, covariance="full")),
    Case("boosting", "regression", lambda **more: a.boosting(2, rounds=3, depth=2)),
    Case(
        "boosting",
        "classification",
        lambda **more: a.boosting(4, 3, kind="classification", rounds=3, depth=2),
    ),
    Case(
        "boosted_mixed", "regression", lambda **more: a.boosted_mixed(2, rounds=3, depth=2, covariance="full")
    ),
    Case("mixed", "classification", lambda **more: a.mixed(4, 3, kind="classification")),
    Case("gp", "regression", lambda **more: a.gp(2, noise="log_linear")),
    Case("gp", "regression", lambda **more: a.gp(2, kernel="linear+periodic", mean="line")),
    Case("gp", "classification", lambda **more: a.gp(4, 3, kind="classification")),
    Case(
        "deep_kernel", "regression", lambda **more: a.deep_kernel(body(2), n_features=5, n_outputs=1, **more)
    ),
    Case(
        "deep_kernel",
        "classification",
        lambda **more: a.deep_kernel(body(4), n_features=5, n_outputs=3, kind="classification", **more),
    ),
    *_sets("cnp"),
    *_sets("attentive_cnp"),
    *_sets("set_net"),
]
IDS = [f"{number}-{case.algorithm}-{case.kind}" for number, case in enumerate(CASES)]
# these take a module without its head
_ON_FEATURES = (
    "protomaml", "protonet", "ridge", "gaussian", "deep_kernel", "cnp", "attentive_cnp", "set_net",
)  # fmt: skip


def learner_module(case: Case) -> nn.Module:
    """The module that was handed to the algorithm of a case."""
    inputs, outputs = (2, 1) if case.kind == "regression" else (4, 3)
    if case.algorithm in _ON_FEATURES:
        return body(inputs)
    return net(inputs + 2 * (case.algorithm == "cavia"), outputs)
