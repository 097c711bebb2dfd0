"""Named algorithms: each assembles a partition, an inner rule or head, and a meta-gradient."""

from .closed import mixed as mixed
from .gradient import fomaml as fomaml
from .gradient import maml as maml
from .registry import ALGORITHMS as ALGORITHMS
from .registry import build as build
