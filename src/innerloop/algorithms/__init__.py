"""Named algorithms: each assembles a partition, an inner rule or head, and a meta-gradient."""

from .bayesian import bmaml as bmaml
from .closed import gaussian as gaussian
from .closed import mixed as mixed
from .closed import protonet as protonet
from .closed import ridge as ridge
from .gradient import anil as anil
from .gradient import boil as boil
from .gradient import fomaml as fomaml
from .gradient import gradient_learner as gradient_learner
from .gradient import maml as maml
from .gradient import maml_plus_plus as maml_plus_plus
from .gradient import meta_curvature as meta_curvature
from .gradient import meta_sgd as meta_sgd
from .gradient import reptile as reptile
from .gradient import sparse_maml as sparse_maml
from .implicit import imaml as imaml
from .plain import plain as plain
from .registry import ALGORITHMS as ALGORITHMS
from .registry import build as build
from .starts import cavia as cavia
from .starts import protomaml as protomaml
