"""Weights on the simplex against SciPy's optimisers."""

import numpy as np
import pytest
from scipy.optimize import minimize

from innerloop.combining.weights import class_weights, shrunken, simplex_weights, task_draws
from toolkit.oracles import within


def scipys(loss, count):
    """The lowest point of a function on the simplex, by a general optimiser."""
    found = minimize(
        loss, np.full(count, 1 / count), method="SLSQP", bounds=[(0, 1)] * count,
        constraints={"type": "eq", "fun": lambda w: w.sum() - 1}, options={"maxiter": 500, "ftol": 1e-14},
    )  # fmt: skip
    return found.x


def products(errors):
    """Mean products of the errors of each task, `(T, M, M)`."""
    return np.stack([own.T @ own / len(own) for own in errors])


@pytest.mark.parametrize("seed", range(5))
def test_weights_of_values_are_those_of_a_general_optimiser(seed):
    rng = np.random.default_rng(seed)
    shared = rng.normal(size=(6, 9, 1))
    errors = products(shared + rng.normal(size=(6, 9, 5)) * rng.uniform(0.2, 2, 5) + rng.normal(size=5) / 2)
    once = np.ones((1, 6))
    ours = simplex_weights(errors, once)
    theirs = scipys(lambda w: w @ errors.mean(0) @ w, 5)
    within(ours @ errors.mean(0) @ ours - theirs @ errors.mean(0) @ theirs, 1e-7)
    within(np.abs(ours - theirs).max(), 1e-3)
    assert ours.min() >= 0
    within(abs(ours.sum() - 1), 1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_weights_of_probabilities_are_those_of_a_general_optimiser(seed):
    rng = np.random.default_rng(seed)
    chances = [rng.uniform(0.02, 1, (n, 3)) ** [1, 2, 0.7] for n in (4, 9, 20, 7)]

    def loss(weights):
        return -np.mean([np.log(own @ weights).mean() for own in chances])

    ours, theirs = class_weights(chances, np.ones((1, 4))), scipys(loss, 3)
    within(loss(ours) - loss(theirs), 1e-4)


def test_tasks_count_equally_whatever_their_rows():
    good, bad = np.array([0.9, 0.1]), np.array([0.1, 0.9])
    few_and_many = [np.tile(good, (2, 1)), np.tile(bad, (200, 1))]
    within(abs(class_weights(few_and_many, np.ones((1, 2)))[0] - 0.5), 1e-6)


def test_the_draws_keep_the_number_of_tasks_and_repeat():
    drawn = task_draws(7, 40)
    assert np.array_equal(drawn, task_draws(7, 40))
    within(np.abs(drawn.mean(1) - 1).max(), 1e-12)


def test_few_tasks_do_not_decide_for_one_by_chance():
    # two members that are equally good in truth, and a third that is bad
    rng = np.random.default_rng(0)
    errors = products(rng.normal(size=(5, 6, 3)) * [1, 1, 3])
    alone, averaged = simplex_weights(errors, np.ones((1, 5))), simplex_weights(errors)
    assert averaged[:2].min() >= min(alone[:2].min(), 0.3) - 0.05
    assert averaged[2] < 0.2


def test_equal_members_share():
    errors = np.ones((4, 3, 3))
    within(abs(simplex_weights(errors).sum() - 1), 1e-12)


def test_few_tasks_are_drawn_to_weights_by_the_errors_alone():
    weights, errors = np.array([0.0, 1.0, 0.0]), np.array([1.0, 2.0, 4.0])
    alone = np.array([16.0, 4.0, 1.0]) / 21
    for tasks, share in ((5, 0.5), (45, 0.9)):
        found = shrunken(weights, np.tile(errors, (tasks, 1)))
        within(np.abs(found - (share * weights + (1 - share) * alone)).max(), 1e-12)
