"""Convolution as a closed triple: torch's values, and right in any order."""

import pytest
import torch
from torch.func import vmap

from innerloop.engine import fast
from innerloop.engine.ops.convolution import conv, conv_input, conv_weight, output_size
from innerloop.engine.ops.substitute import closed_operators
from toolkit.compiler import compiles

# size, kernel, stride, padding, dilation
SHAPES = [
    ((7,), (3,), (1,), (0,), (1,)),
    ((8,), (3,), (2,), (1,), (2,)),
    ((6, 5), (3, 3), (2, 2), (1, 1), (1, 1)),
    ((5, 6), (2, 3), (1, 2), (0, 2), (1, 1)),
    ((7, 7), (3, 2), (3, 2), (1, 0), (2, 3)),
    ((5, 4), (1, 1), (2, 2), (0, 0), (1, 1)),
    ((3, 4, 3), (2, 2, 2), (1, 2, 1), (1, 0, 1), (1, 1, 1)),
]
shapes = pytest.mark.parametrize("shape", SHAPES, ids=str)


def given(shape, tasks=(3,), rows=2, channels=2, out=3):
    size, kernel, *how = shape
    torch.manual_seed(0)
    x = torch.randn(*tasks, rows, channels, *size, dtype=torch.float64, requires_grad=True)
    w = torch.randn(*tasks, out, channels, *kernel, dtype=torch.float64, requires_grad=True)
    places = output_size(size, kernel, *how)
    g = torch.randn(*tasks, rows, out, *places, dtype=torch.float64, requires_grad=True)
    return x, w, g, how


def ordinary(x, w, how):
    function = (torch.conv1d, torch.conv2d, torch.conv3d)[len(how[0]) - 1]
    return function(x, w, None, *how)


@shapes
def test_each_of_the_three_is_torchs_for_every_task(shape):
    x, w, g, how = given(shape)
    y = conv(x, w, *how)
    gx = conv_input(g, w, *how, x.shape[3:])
    gw = conv_weight(g, x, *how, w.shape[3:])
    for task in range(3):
        one, weight = x[task].detach().requires_grad_(), w[task].detach().requires_grad_()
        expected = ordinary(one, weight, how)
        by_x, by_w = torch.autograd.grad(expected, (one, weight), g[task])
        torch.testing.assert_close(y[task], expected)
        torch.testing.assert_close(gx[task], by_x)
        torch.testing.assert_close(gw[task], by_w)


@shapes
@pytest.mark.parametrize("tasks", [(), (2,)], ids=["plain", "stacked"])
def test_derivatives_of_every_order(shape, tasks):
    x, w, g, how = given(shape, tasks, rows=1, channels=1, out=2)
    places = len(how[0])
    calls = [
        (lambda a, b: conv(a, b, *how), (x, w)),
        (lambda a, b: conv_input(a, b, *how, x.shape[-places:]), (g, w)),
        (lambda a, b: conv_weight(a, b, *how, w.shape[-places:]), (g, x)),
    ]
    for function, inputs in calls:
        assert torch.autograd.gradcheck(function, inputs, fast_mode=True)
        assert torch.autograd.gradgradcheck(function, inputs, fast_mode=True)


@pytest.mark.parametrize("shared", [None, "x", "w"])
def test_mapped_over_tasks(shared):
    x, w, _, how = given(SHAPES[2])
    x, w = (x[0] if shared == "x" else x), (w[0] if shared == "w" else w)
    dims = (None if shared == "x" else 0, None if shared == "w" else 0)

    def outer(function):
        y = vmap(function, dims)(x, w)
        slopes = torch.autograd.grad(y.square().sum(), (x, w), create_graph=True)
        return (y, *slopes, *torch.autograd.grad(sum(s.square().sum() for s in slopes), (x, w)))

    with closed_operators():
        results = outer(lambda a, b: torch.nn.functional.conv2d(a, b, None, *how))
    for a, b in zip(results, outer(lambda a, b: ordinary(a, b, how)), strict=True):
        torch.testing.assert_close(a, b)


def test_two_mapped_axes():
    x, w, _, how = given(SHAPES[2], tasks=(2, 3))
    results = vmap(vmap(lambda a, b: conv(a, b, *how)))(x, w)
    expected = torch.stack([conv(a, b, *how) for a, b in zip(x, w, strict=True)])
    torch.testing.assert_close(results, expected)


def test_weights_that_all_tasks_share_are_one_convolution():
    x, w, g, how = given(SHAPES[2])
    one = w[:1].expand(3, *w.shape[1:])
    torch.testing.assert_close(conv(x, one, *how), conv(x, one.contiguous(), *how))
    size = x.shape[3:]
    torch.testing.assert_close(conv_input(g, one, *how, size), conv_input(g, one.contiguous(), *how, size))


@pytest.mark.parametrize(
    "layer",
    [
        torch.nn.Conv2d(2, 3, 3, padding="same"),
        torch.nn.Conv2d(2, 4, 3, groups=2),
        torch.nn.Conv2d(2, 3, 3, 2, 1, padding_mode="circular"),
        torch.nn.Conv2d(2, 3, (3, 2), dilation=(2, 1), bias=False),
    ],
    ids=["padding in words", "groups", "circular", "plain"],
)
def test_every_layer_keeps_its_values(layer):
    x = torch.randn(2, 2, 6, 6)
    with closed_operators():
        results = layer(x), layer(x[0])
    torch.testing.assert_close(results, (layer(x), layer(x[0])))


@compiles
@pytest.mark.parametrize("channels", [(1, 3), (5, 16), (21, 40)], ids=str)
def test_in_machine_code(channels):
    """All widths of the blocks of registers, and what is left over of them."""
    inward, out = channels
    cases = [given(shape, channels=inward, out=out) for shape in SHAPES]
    tensors = [[tensor.detach() for tensor in case[:3]] for case in cases]

    def every(tensors):
        results = []
        for (x, w, g), (*_, how) in zip(tensors, cases, strict=True):
            results += [conv(x[0], w[0], *how), conv_input(g[0], w[0], *how, x.shape[3:])]
            results += [conv(x, w, *how), conv_input(g, w, *how, x.shape[3:])]
            results += [
                conv_weight(g, x, *how, w.shape[3:]),
                conv(x * 2, w[:1].expand(3, *w.shape[1:]), *how),
            ]
        return results

    quick = fast(every, gear="compiled")
    for results, expected in zip(quick(tensors), every(tensors), strict=True):
        torch.testing.assert_close(results, expected, rtol=1e-12, atol=1e-12)
    assert quick.report.reason == ""
