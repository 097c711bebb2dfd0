"""Cholesky factors and triangular systems in C against torch's, and the heads that are made of them."""

import itertools

import pytest
import torch

import innerloop as il
from innerloop.algorithms.assemble import learner_for
from innerloop.engine import fast
from innerloop.outer.update import Outer, geared_update, numbers_of
from innerloop.tasks.support import stream
from toolkit.compiler import compiles

pytestmark = compiles

WAYS = list(itertools.product((False, True), (False, True), (False, True)))


def solved(matrix, column, row):
    """The factor, its failures, and every kind of system that it can be the matrix of."""
    factor, failed = torch.linalg.cholesky_ex(matrix)
    results = [factor, failed, torch.cholesky_solve(column, factor)]
    for upper, left, unit in WAYS:
        triangle, given = factor.mT if upper else factor, column if left else row
        results.append(
            torch.linalg.solve_triangular(triangle, given, upper=upper, left=left, unitriangular=unit)
        )
    return results


def systems(shape, columns, dtype, seed=0):
    generator = torch.Generator().manual_seed(seed)
    root = torch.randn(shape, generator=generator, dtype=dtype)
    matrix = root @ root.mT + shape[-1] * torch.eye(shape[-1], dtype=dtype)
    column = torch.randn(*shape[:-1], columns, generator=generator, dtype=dtype)
    return matrix, column, torch.randn(*shape[:-2], columns, shape[-1], generator=generator, dtype=dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("shape", "columns"), [((5, 7, 7), 1), ((3, 3), 2), ((2, 3, 9, 9), 9), ((4, 1, 1), 3), ((40, 40, 40), 4)]
)
def test_systems_in_c_are_those_of_torch(shape, columns, dtype):
    given = systems(shape, columns, dtype)
    quick = fast(solved, gear="compiled")
    quick(*given)
    assert not quick.report.reason
    given = systems(shape, columns, dtype, seed=1)
    # unit diagonals make systems of random factors ill-conditioned, so the bound is that of the digits of a type
    close = {"rtol": 2e-3, "atol": 1e-4} if dtype == torch.float32 else {"rtol": 1e-10, "atol": 1e-10}
    for results, wanted in zip(quick(*given), solved(*given), strict=True):
        torch.testing.assert_close(results, wanted, **close)


def test_one_turned_matrix_may_be_the_right_hand_side_of_all():
    matrix, _, _ = systems((4, 9, 9), 1, torch.float64)
    common = torch.randn(9, 9, dtype=torch.float64)

    def step(matrix, common):
        return torch.linalg.solve_triangular(matrix.tril(), common.mT.expand(4, 9, 9), upper=False)

    quick = fast(step, gear="compiled")
    torch.testing.assert_close(quick(matrix, common), step(matrix, common))
    assert not quick.report.reason


@pytest.mark.parametrize("index", [0, 3, 6])
@pytest.mark.parametrize("pivot", [-1.0, 0.0, torch.nan])
def test_a_matrix_that_is_not_positive_is_found_where_it_fails(index, pivot):
    matrix, column, row = systems((3, 7, 7), 1, torch.float64)
    quick = fast(solved, gear="compiled")
    quick(matrix, column, row)
    matrix[1, index], matrix[1, :, index] = 0.0, 0.0
    matrix[1, index, index] = pivot
    results, wanted = quick(matrix, column, row), solved(matrix, column, row)
    assert results[1].tolist() == wanted[1].tolist() == [0, index + 1, 0]
    torch.testing.assert_close(results[2][[0, 2]], wanted[2][[0, 2]])


@pytest.mark.parametrize("algorithm", ["ridge", "gaussian"])
@pytest.mark.parametrize("rows", [3, 20])
def test_heads_with_a_closed_form_are_compiled(algorithm, rows):
    """In the dual form with few rows, in the primal one with many."""
    tasks = il.tasks.sinusoid(n_support=rows, n_query=5)
    learner = learner_for(tasks, algorithm=algorithm, hidden=[8], activation="sine")
    state, key = Outer.start(learner.init()), torch.zeros(4, dtype=torch.int64)
    quick, plain = (
        geared_update(learner, clip=None, chunk=None, gear=gear, planned=1000)
        for gear in ("compiled", "eager")
    )
    for step in range(3):
        episode = tasks.train.sample(4, stream(0, step))
        numbers = numbers_of(step, 1e-2)
        results, (wanted, _) = (
            quick(state, numbers, episode, key, 0)[0],
            plain(state, numbers, episode, key, 0),
        )
        for name, value in wanted.state[0].items():
            torch.testing.assert_close(results.state[0][name], value, rtol=2e-3, atol=1e-5)
        state = wanted
    assert quick.report.gear == "compiled"
    assert not quick.report.reason


@compiles
@pytest.mark.parametrize("shape", [(4, 4), (6, 3, 3), (1, 1)])
@pytest.mark.parametrize("columns", [None, 1, 3])
def test_general_systems_and_their_derivatives_are_those_of_torch(shape, columns):
    g = torch.Generator().manual_seed(0)
    a = torch.randn(*shape, generator=g, dtype=torch.float64)
    size = shape[:-1] if columns is None else (*shape[:-1], columns)
    b = torch.randn(*size, generator=g, dtype=torch.float64)

    def derivatives(a, b):
        a, b = a.detach().requires_grad_(), b.detach().requires_grad_()
        x = torch.linalg.solve(a, b)
        first = torch.autograd.grad(x.sin().sum(), (a, b), create_graph=True)
        second = torch.autograd.grad(sum(part.square().sum() for part in first), (a, b))
        return (x.detach(), *(part.detach() for part in first), *second)

    quick = fast(derivatives, gear="compiled")
    for one, other in zip(quick(a, b), derivatives(a, b), strict=True):
        assert torch.allclose(one, other, rtol=1e-7, atol=1e-7 * float(other.abs().max()))
    assert quick.report.gear == "compiled", quick.report
