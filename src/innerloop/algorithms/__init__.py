"""Named algorithms: each assembles what adapts, an inner rule or head, and a meta-gradient."""

from ..inner.per_target import per_target
from .arguments import GradientOptions, NetworkOptions, UnrolledOptions
from .bayesian import bmaml
from .boosting import boosted_gp, boosted_mixed, boosting
from .closed_form import class_means, gaussian, mixed, protonet, ridge, two_covariance
from .combination import combination
from .gaussian_process import deep_kernel, gp
from .gradient_based import (
    anil,
    boil,
    fomaml,
    gradient_learner,
    maml,
    maml_plus_plus,
    meta_curvature,
    meta_sgd,
    reptile,
    sparse_maml,
)
from .imaml import imaml
from .ordinary import plain
from .registry import ALGORITHMS, build, registered
from .set_networks import attentive_cnp, cnp, set_net
from .starts import cavia, protomaml
from .warped import t_net

__all__ = [
    "ALGORITHMS",
    "GradientOptions",
    "NetworkOptions",
    "UnrolledOptions",
    "anil",
    "attentive_cnp",
    "bmaml",
    "boil",
    "boosted_gp",
    "boosted_mixed",
    "boosting",
    "build",
    "cavia",
    "class_means",
    "cnp",
    "combination",
    "deep_kernel",
    "fomaml",
    "gaussian",
    "gp",
    "gradient_learner",
    "imaml",
    "maml",
    "maml_plus_plus",
    "meta_curvature",
    "meta_sgd",
    "mixed",
    "per_target",
    "plain",
    "protomaml",
    "protonet",
    "registered",
    "reptile",
    "ridge",
    "set_net",
    "sparse_maml",
    "t_net",
    "two_covariance",
]
