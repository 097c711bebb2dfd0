"""What a graph in C must hold at later calls, with other numbers than those it was checked with."""

import threading
import time

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils import _pytree as pytree

from innerloop.engine import fast
from innerloop.engine.c.program import lower
from innerloop.engine.trace import graph_of
from innerloop.outer.memory import _Alive
from toolkit.compiler import compiles

pytestmark = compiles


def compiled(function, *given):
    """The function in C, called once."""
    quick = fast(function, gear="compiled")
    quick(*given)
    assert str(quick.report.gear) == "compiled"
    assert not quick.report.reason
    return quick


def same(results, wanted):
    torch.testing.assert_close(results, wanted, rtol=1e-4, atol=1e-4, equal_nan=True)


def test_a_table_kept_as_columns_is_turned_once_where_tasks_are_cut():
    """The parts of a step over 8 MB have one row each, too few to be transposed in squares."""

    def step(x: Tensor, w: Tensor) -> Tensor:
        return (x.t() + 0.0).relu() @ w

    given = torch.randn(64, 40_000), torch.randn(64, 64)
    same(compiled(step, *given)(*given), step(*given))


@pytest.mark.parametrize("index", [5, -1, 5000])
def test_an_index_out_of_range_is_an_error_and_touches_nothing(index):
    x, known = torch.randn(3, 5), torch.tensor([0, 1, 2])
    picked = compiled(F.cross_entropy, x, known)
    with pytest.raises(IndexError, match="out of range"):
        picked(x, torch.tensor([0, 1, index]))
    same(picked(x, known), F.cross_entropy(x, known))
    put = compiled(lambda x, i: x.scatter(1, i, 1.0), x, known[:, None])
    with pytest.raises(IndexError, match="out of range"):
        put(x, torch.tensor([[0], [1], [index]]))
    same(put(x, known[:, None]), x.scatter(1, known[:, None], 1.0))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_numbers_without_all_their_digits_are_0_in_a_graph_and_nowhere_else(dtype):
    """They take a processor tens of times as long; training that fits its tasks well is full of them."""
    small = torch.full((5,), torch.finfo(dtype).tiny, dtype=dtype)
    product = compiled(lambda x, y: x * y, torch.ones(5, dtype=dtype), torch.ones(5, dtype=dtype))
    for _ in range(2):
        assert (product(small, small / small) == small).all()
        assert (product(small, small / small / 4) == 0).all()
        assert (small * 0.25 > 0).all()
    whole = small / 4  # functions that make a large number of a small one are given 0
    results = compiled(lambda x: [x.log(), x**0.3], torch.ones_like(small))(whole)
    assert (results[0] == -torch.inf).all()
    assert (results[1] == 0).all()


def test_a_thread_is_set_back_after_an_index_that_is_out_of_range():
    picked = compiled(F.cross_entropy, torch.randn(3, 5), torch.tensor([0, 1, 2]))
    with pytest.raises(IndexError):
        picked(torch.randn(3, 5), torch.tensor([0, 1, 9]))
    assert torch.tensor(1e-39) * 0.5 > 0


def test_scratch_memory_is_kept_between_calls_but_not_while_the_function_it_is_compared_with_runs():
    x = torch.randn(256, 256)
    step = fast(lambda x: ((x @ x).tanh() @ x).tanh() @ x, gear="compiled")
    with _Alive([x]) as alive:
        first = step(x)
        after_first = alive.now
        second = step(x)
    assert torch.equal(first, second)
    assert alive.now > after_first + 2 * x.nbytes  # the second result, and the scratch memory


def slope(w: Tensor, x: Tensor) -> Tensor:
    w = w.detach().requires_grad_()
    return torch.autograd.grad((x @ w).sum(), w)[0]


def slope_of_conv(w: Tensor, x: Tensor) -> Tensor:
    w = w.detach().requires_grad_()
    return torch.autograd.grad(F.conv2d(x, w).mean(), w)[0]


@pytest.mark.parametrize(
    ("function", "shapes"),
    [
        (slope, [(5, 8), (6, 5)]),
        (lambda x: x @ torch.ones(5, 8), [(6, 5)]),
        (slope_of_conv, [(3, 2, 3, 3), (4, 2, 7, 7)]),
        (lambda x, w: F.conv1d(x, w[:1].expand(3, -1, -1)), [(2, 4, 9), (3, 4, 3)]),
    ],
)
def test_operands_that_repeat_are_read_within_their_bounds(function, shapes):
    given = [torch.randn(shape) for shape in shapes]
    same(compiled(function, *given)(*given), function(*given))


@pytest.mark.parametrize(
    "function",
    [
        lambda n: n**2,
        lambda n: n**3,
        lambda n: n.clamp(0, 2**40),
        lambda n: n.clamp(min=-5),
        lambda n: n.clamp(max=5),
        lambda n: n.abs() + n.sign() - n.relu(),
        lambda n: torch.maximum(n, 2 * n) - torch.minimum(n, -n),
    ],
)
def test_whole_numbers_are_exact(function):
    quick = compiled(function, torch.tensor([3, -4]))
    large = torch.tensor([16_777_217, -1_234_567])
    assert quick(large).tolist() == function(large).tolist()
    assert function(large).dtype == quick(large).dtype


@pytest.mark.parametrize("bounds", [{"min": 0}, {"max": 0}])
def test_short_whole_numbers_have_ends_of_their_own(bounds):
    x = torch.tensor([5, -7], dtype=torch.int32)
    assert torch.equal(compiled(lambda x: x.clamp(**bounds), x)(x), x.clamp(**bounds))


def test_truth_values_stay_truth_values():
    quick = compiled(
        lambda a, b: (a + b).float().mean(), torch.tensor([True, False]), torch.tensor([False, True])
    )
    assert quick(torch.tensor([True, True]), torch.tensor([True, False])) == 1


def test_subtraction_the_other_way_round_and_a_variance_without_freedom():
    x = torch.tensor([[1.0, 2.0], [3.0, 5.0]])
    same(compiled(lambda x: torch.rsub(x, 3.0, alpha=2.0), x)(x), 3 - 2 * x)
    with pytest.warns(UserWarning, match="degrees of freedom"):
        assert compiled(lambda x: x.var(0, correction=2), x)(x).tolist() == [torch.inf, torch.inf]


def test_a_wide_product_is_a_loop_and_not_a_long_program():
    def step(x: Tensor, w: Tensor) -> Tensor:
        return (x.t() @ w).tanh()

    given = torch.randn(16, 20_003), torch.randn(16, 1)
    began = time.process_time()
    same(compiled(step, *given)(*given), step(*given))
    for columns in (767, 768, 769, 815, 816, 817, 832):
        pair = torch.randn(5, 3), torch.randn(3, columns)
        same(compiled(torch.mm, *pair)(*pair), torch.mm(*pair))
    assert time.process_time() - began < 60


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("rows", "inner", "columns"), [(1, 300, 601), (3, 130, 1031), (16, 1030, 513), (70, 129, 1200)]
)
def test_products_with_a_matrix_larger_than_the_cache(rows, inner, columns, dtype):
    """In slices of its rows, in order or transposed, with every kind of rest."""

    def every(x: Tensor, w: Tensor, transposed: Tensor) -> list[Tensor]:
        sums = torch.mm(x, w) + torch.mm(x, transposed.t())
        return [torch.mm(x, w), torch.mm(x, transposed.t()), torch.mm(transposed, x.t()), sums.t() * 2]

    given = torch.randn(rows, inner), torch.randn(inner, columns), torch.randn(columns, inner)
    given = tuple(one.to(dtype) / inner**0.5 for one in given)
    quick = compiled(every, *given)
    for results, wanted in zip(quick(*given), every(*given), strict=True):
        torch.testing.assert_close(results, wanted, rtol=0, atol=2e-6 if dtype == torch.float32 else 1e-14)


def test_a_matrix_is_turned_as_often_as_it_is_read_turned():
    def step(x: Tensor, y: Tensor, z: Tensor) -> Tensor:
        slope = (x.mT @ y).mT * 2 + z  # transposed, then in order
        return (slope.mT + 1).mT + (y.mT @ x)

    given = torch.randn(2, 5, 40), torch.randn(2, 5, 40), torch.randn(2, 40, 40)
    program = lower(graph_of(step, list(given), pytree.tree_structure(given), decomposed=True)[0])
    assert "transpose_float(a" not in program.source
    same(compiled(step, *given)(*given), step(*given))


def test_threads_share_a_compiled_function():
    weights = torch.randn(20, 64, 64) / 8

    def step(x: Tensor, weights: Tensor) -> Tensor:
        for weight in weights.unbind():
            x = torch.tanh(x @ weight)
        return x

    given = [torch.randn(64, 64) for _ in range(4)]
    wanted = [step(x, weights) for x in given]
    quick, wrong = compiled(step, given[0], weights), []

    def work(x: Tensor, right: Tensor) -> None:
        wrong.extend(1 for _ in range(40) if not torch.allclose(quick(x, weights), right, atol=1e-4))

    threads = [threading.Thread(target=work, args=pair) for pair in zip(given, wanted, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
