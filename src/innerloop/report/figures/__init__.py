"""Figures of comparisons, runs and episodes, each in two steps.

A function whose name ends in `_numbers` returns the numbers as a frame, the function without that ending draws
such a frame on matplotlib Axes and returns them. What is drawn is what is in the frame, and nothing else. The frames of
`moved`, `similarity`, `rates`, `masks` and `gains` are made by `innerloop.evaluation.inspection`. It needs
the extra `report`.
"""

from .curves import (
    crossing_numbers,
    curve,
    curve_numbers,
    inner_path,
    learning,
    learning_numbers,
    steps_numbers,
)
from .episodes import classes, classes_numbers, image_numbers, images, scatter, scatter_numbers
from .factorial import effects, effects_numbers, factorial, factorial_numbers
from .inside import masks, moved, rates, similarity
from .scores import dots, dots_numbers, gains, ranking, ranking_numbers
from .tuning import importances, importances_numbers, trials, trials_numbers, tried, tried_numbers

__all__ = [
    "classes",
    "classes_numbers",
    "crossing_numbers",
    "curve",
    "curve_numbers",
    "dots",
    "dots_numbers",
    "effects",
    "effects_numbers",
    "factorial",
    "factorial_numbers",
    "gains",
    "image_numbers",
    "images",
    "importances",
    "importances_numbers",
    "inner_path",
    "learning",
    "learning_numbers",
    "masks",
    "moved",
    "ranking",
    "ranking_numbers",
    "rates",
    "scatter",
    "scatter_numbers",
    "similarity",
    "steps_numbers",
    "trials",
    "trials_numbers",
    "tried",
    "tried_numbers",
]
