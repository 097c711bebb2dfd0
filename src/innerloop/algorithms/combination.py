"""Several learners as one, by their recipes."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from ..errors import UsageError, check_known
from ..inner.combination import Combination
from ..inner.heads.base import KINDS
from ..inner.learner import Learner, Recipe
from ..outer.metagrad import unrolled

__all__ = ["COMBINATION", "combination"]

# in recipes, in place of the name of a registered algorithm
COMBINATION = "combination"


def combination(
    members: Sequence[Learner], *, sizes: Sequence[float], kind: str = "regression", n_outputs: int = 1
) -> Combination:
    """A learner that averages the predictions of others, with weights by the number of support rows.

    `combining.combine` finds the members and the weights; see `inner.combination.Combination`.

    Arguments:
        members: the learners.
        sizes: numbers of support rows for which there are weights, ascending.
        kind: `regression` or `classification`.
        n_outputs: targets or classes.

    Raises:
        UsageError: there is no member, or sizes do not ascend.

    Example:
        >>> from innerloop.algorithms import boosting, mixed
        >>> learner = combination([mixed(2), boosting(2, rounds=5)], sizes=[0, 5])
        >>> learner.init()["weights"].tolist()
        [[0.5, 0.5], [0.5, 0.5]]
    """
    check_known("kind", kind, KINDS)
    sizes = [float(size) for size in sizes]
    if not members:
        raise UsageError("members=[]: give a learner or more")
    if not sizes or sizes[0] < 0 or any(one >= other for one, other in itertools.pairwise(sizes)):
        raise UsageError(f"sizes={sizes}: give ascending numbers of support rows, such as 0, 2 and 5")
    recipes = [member.recipe for member in members]
    recipe: Recipe | None = None
    if all(recipes):
        settings = {"sizes": sizes, "kind": kind, "n_outputs": n_outputs}
        recipe = {"algorithm": COMBINATION, "settings": settings, "members": recipes}
    return Combination(tuple(members), tuple(sizes), kind, n_outputs, unrolled(), recipe)
