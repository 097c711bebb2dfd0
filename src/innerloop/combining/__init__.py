"""What to do with a table when no algorithm is named: train what applies, and combine what is good at it."""

from .choosing import Candidate, Choice, choose
from .weights import simplex_weights

__all__ = ["Candidate", "Choice", "choose", "simplex_weights"]
