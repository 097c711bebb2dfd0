"""Long sums in C are as exact as torch's: sums of every layout, products and convolutions, against double precision."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from innerloop.engine import fast
from toolkit.compiler import compiles

pytestmark = compiles


def weight_slope(x: Tensor, w: Tensor) -> Tensor:
    w = w.detach().requires_grad_()
    return torch.autograd.grad(F.conv2d(x, w).square().sum(), w)[0]


def normalised(x: Tensor) -> Tensor:
    """As BatchNorm does, over images."""
    mean, variance = x.mean((0, 2, 3)), x.var((0, 2, 3), unbiased=False)
    return (x - mean[:, None, None]) / (variance + 1e-5).sqrt()[:, None, None]


# every way that a sum is written: the function, and the shapes of what it takes
SUMS = {
    "all": (torch.sum, [(3_000_000,)]),
    "mean": (torch.mean, [(16_000_000,)]),
    "of lines": (lambda x: x.sum(1), [(3, 400_001)]),
    "of columns": (lambda x: x.sum(0), [(20_001, 7)]),
    "of millions of columns": (lambda x: x.reshape(-1, 4).sum(0), [(4_000_000,)]),
    "of wide columns": (lambda x: x.sum(0), [(3_001, 300)]),
    "of very wide columns": (lambda x: x.sum(0), [(1_001, 1_031)]),
    "of pairs of columns": (lambda x: x.sum((0, 2)), [(50_001, 5, 2)]),
    "of short axes": (lambda x: x.sum((0, 2)), [(20_001, 4, 9)]),
    "over tasks": (lambda x: (x * x).sum((0, 1)), [(1_500, 40, 50)]),
    "variance": (lambda x: x.var(), [(1_000_003,)]),
    "BatchNorm": (normalised, [(16, 5, 40, 41)]),
    "scalar product": (lambda a, b: a @ b, [(1_000_000,), (1_000_000,)]),
    "product": (torch.mm, [(9, 5_003), (5_003, 11)]),
    "product of transposed": (lambda a, b: a.t() @ b, [(30_011, 20), (30_011, 20)]),
    "product with a large matrix": (torch.mm, [(6, 2_000), (2_000, 300)]),
    "very long product": (torch.mm, [(4, 200_003), (200_003, 3)]),
    "convolution": (F.conv2d, [(2, 100, 9, 9), (20, 100, 3, 3)]),
    "its gradient": (weight_slope, [(64, 3, 20, 20), (8, 3, 3, 3)]),
}


@pytest.mark.parametrize("what", SUMS)
def test_as_exact_as_torch(what):
    function, shapes = SUMS[what]
    draw = torch.Generator().manual_seed(0)
    # of one sign, and not around 0: what is lost at the end of a long sum does not cancel
    given = [torch.rand(shape, generator=draw) + 1 for shape in shapes]
    quick = fast(function, gear="compiled")
    quick(*given)
    assert (quick.report.gear, quick.report.reason) == ("compiled", "")
    truth = function(*(tensor.double() for tensor in given))

    def error(result: Tensor) -> float:
        return float((result.double() - truth).norm() / truth.norm())

    # half an eps is what rounding the result to single precision makes
    assert error(quick(*given)) <= 2 * max(error(function(*given)), 6e-8)


@pytest.mark.parametrize("rows", [1, 127, 128, 129, 1023, 1024, 1025, 2050])
def test_runs_of_a_sum_end_where_they_should(rows):
    """Whole numbers in double precision are exact, so that a summand too many or too few shows."""
    draw = torch.Generator().manual_seed(rows)
    x = torch.randint(1, 100, (rows, 11), generator=draw).double()

    def every(x: Tensor) -> list[Tensor]:
        return [
            x.sum(0),
            x.sum(1),
            x.sum(),
            x.t() @ x,
            (x.t() @ x).t() + 1,
            (x[:, None] + x[..., None]).sum((0, 2)),
        ]

    quick = fast(every, gear="compiled")
    for result, wanted in zip(quick(x), every(x), strict=True):
        assert torch.equal(result, wanted)
    assert (quick.report.gear, quick.report.reason) == ("compiled", "")


def test_an_infinity_stays_one_in_a_long_sum():
    x = torch.ones(5000)
    quick = fast(lambda x: [x.sum(), x.reshape(-1, 5).sum(0), x[None] @ x[:, None]], gear="compiled")
    quick(x)
    x[7] = torch.inf
    total, columns, product = quick(x)
    assert total == torch.inf
    assert columns.tolist() == [1000, 1000, torch.inf, 1000, 1000]
    assert product.item() == torch.inf
