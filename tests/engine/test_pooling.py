"""Max-pooling as a choice and a closed pair: torch's values, and right in any order."""

import pytest
import torch
from torch.func import vmap
from torch.nn import functional

from innerloop.engine import fast
from innerloop.engine.ops.pooling import pool_argmax, pool_gather, pool_scatter
from innerloop.engine.ops.substitute import closed_operators
from toolkit.compiler import compiles

# size, kernel, stride, dilation
SHAPES = [
    ((6, 6), (2, 2), (2, 2), (1, 1)),
    ((7, 5), (2, 2), (2, 2), (1, 1)),
    ((7, 6), (3, 2), (1, 2), (1, 1)),
    ((7, 8), (2, 3), (3, 2), (2, 1)),
    ((9,), (2,), (3,), (2,)),
]
shapes = pytest.mark.parametrize("shape", SHAPES, ids=str)


def pool(x, kernel, stride, dilation):
    function = functional.max_pool1d if len(kernel) == 1 else functional.max_pool2d
    return function(x, kernel, stride, 0, dilation)


@shapes
def test_the_values_and_derivatives_of_torch(shape):
    size, *how = shape
    torch.manual_seed(0)
    x = torch.randn(3, 2, 4, *size, dtype=torch.float64, requires_grad=True)

    def outer(function):
        y = function(x)
        (slope,) = torch.autograd.grad(y.pow(3).sum(), x, create_graph=True)
        return (y, slope, *torch.autograd.grad(slope.square().sum(), x))

    with closed_operators():
        results = outer(vmap(lambda x: pool(x, *how)))
    for a, b in zip(results, outer(lambda x: torch.stack([pool(one, *how) for one in x])), strict=True):
        torch.testing.assert_close(a, b)


@shapes
def test_each_of_the_pair_is_the_others_derivative(shape):
    size, *how = shape
    x = torch.randn(1, 2, *size, dtype=torch.float64, requires_grad=True)
    tap = pool_argmax(x.detach(), *how)
    g = torch.randn(tap.shape, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: pool_gather(x, tap, *how), x)
    assert torch.autograd.gradcheck(lambda g: pool_scatter(g, tap, *how, size), g)
    inner = (pool_scatter(g, tap, *how, size) * x).sum() - (g * pool_gather(x, tap, *how)).sum()
    assert abs(inner.item()) < 1e-12


@compiles
def test_in_machine_code():
    torch.manual_seed(1)
    images = [
        torch.randn(3, 2, channels, *size, dtype=torch.float64).round(decimals=1)  # with ties
        for size, *_ in SHAPES
        for channels in (1, 20)
    ]
    settings = [shape for shape in SHAPES for _ in range(2)]

    def every(images):
        results = []
        for x, (size, *how) in zip(images, settings, strict=True):
            tap = pool_argmax(x, *how)
            y = pool_gather(x, tap, *how)
            results += [
                tap,
                y,
                pool_scatter(y + 1, tap, *how, size),
                pool_gather(x * 2, tap, *how),
                pool_scatter(y, tap, *how, size) * x,
            ]
        return results

    quick = fast(every, gear="compiled")
    for results, expected in zip(quick(images), every(images), strict=True):
        torch.testing.assert_close(results, expected)
    assert quick.report.reason == ""


def test_what_has_padding_stays_torchs():
    x = torch.randn(2, 3, 5, 5)
    with closed_operators():
        results = functional.max_pool2d(x, 3, 2, padding=1), functional.max_pool2d(x, 2, ceil_mode=True)
    torch.testing.assert_close(results[0], functional.max_pool2d(x, 3, 2, padding=1))
    torch.testing.assert_close(results[1], functional.max_pool2d(x, 2, ceil_mode=True))
