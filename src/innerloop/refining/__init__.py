"""Refine a trained model: gradients of held-out rows choose which parameters change."""

from .candidates import Candidates, Objective, draw_candidates, fisher, held_out_gradients, row_gradients
from .refinement import Refined, learned_mask, refine, state_dict
from .rounds import RoundEntry
from .selection import SCORES, Evidence, Selection, largest
from .settings import Settings

__all__ = [
    "SCORES",
    "Candidates",
    "Evidence",
    "Objective",
    "Refined",
    "RoundEntry",
    "Selection",
    "Settings",
    "draw_candidates",
    "fisher",
    "held_out_gradients",
    "largest",
    "learned_mask",
    "refine",
    "row_gradients",
    "state_dict",
]
