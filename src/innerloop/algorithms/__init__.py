"""Named algorithms: each assembles a partition, an inner rule or head, and a meta-gradient."""

from .bayesian import bmaml as bmaml
from .closed_form import gaussian as gaussian
from .closed_form import mixed as mixed
from .closed_form import protonet as protonet
from .closed_form import ridge as ridge
from .gradient_based import anil as anil
from .gradient_based import boil as boil
from .gradient_based import fomaml as fomaml
from .gradient_based import gradient_learner as gradient_learner
from .gradient_based import maml as maml
from .gradient_based import maml_plus_plus as maml_plus_plus
from .gradient_based import meta_curvature as meta_curvature
from .gradient_based import meta_sgd as meta_sgd
from .gradient_based import reptile as reptile
from .gradient_based import sparse_maml as sparse_maml
from .imaml import imaml as imaml
from .ordinary import plain as plain
from .registry import ALGORITHMS as ALGORITHMS
from .registry import build as build
from .starts import cavia as cavia
from .starts import protomaml as protomaml
