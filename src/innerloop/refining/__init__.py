"""Refine a trained model: gradients of held-out rows choose what to change."""

from .candidates import Candidates as Candidates
from .candidates import Objective as Objective
from .candidates import draw_candidates as draw_candidates
from .candidates import fisher as fisher
from .candidates import held_out_gradients as held_out_gradients
from .candidates import row_gradients as row_gradients
from .refinement import Refined as Refined
from .refinement import learned_mask as learned_mask
from .refinement import refine as refine
from .refinement import state_dict as state_dict
from .selection import SCORES as SCORES
from .selection import Evidence as Evidence
from .selection import Selection as Selection
from .selection import largest as largest
from .settings import Settings as Settings
