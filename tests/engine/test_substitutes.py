"""What is put in place of torch's convolutions, pooling and interpolation: the same numbers, and the same gradients."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils import _pytree as pytree

from innerloop.engine import fast
from innerloop.engine.c import lower
from innerloop.engine.ops import closed_operators
from innerloop.engine.trace import graph_of
from toolkit.compiler import compiles

G = torch.Generator().manual_seed(0)
X1, X2, X3 = (
    torch.randn(2, 4, *size, generator=G, dtype=torch.float64) for size in ((9,), (8, 7), (5, 4, 6))
)


def weights(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


W0 = weights(6, 2, 3, 3)
W1 = weights(6)
W2 = weights(8, 1, 3, 3)
W3 = weights(4, 2, 3)
W4 = weights(3, 4, 2, 4)
W5 = weights(3, 4, 3)
W6 = weights(3, 4, 3, 3)
W7 = weights(4, 3, 3, 3)
W8 = weights(3)
W9 = weights(4, 3, 2, 2)
W10 = weights(4, 3, 3)
W11 = weights(4, 2, 2, 2, 2)

CASES = {
    "groups": (X2, lambda x: F.conv2d(x, W0, W1, groups=2)),
    "depthwise": (X2, lambda x: F.conv2d(x, W2, groups=4, stride=2, padding=1)),
    "groups along one axis": (X1, lambda x: F.conv1d(x, W3, groups=2, dilation=2)),
    "same": (X2, lambda x: F.conv2d(x, W4, padding="same")),
    "same, dilated": (X1, lambda x: F.conv1d(x, W5, padding="same", dilation=2)),
    "valid": (X2, lambda x: F.conv2d(x, W6, padding="valid")),
    "transposed": (X2, lambda x: F.conv_transpose2d(x, W7, W8, 2, 1, 1)),
    "transposed, groups": (X2, lambda x: F.conv_transpose2d(x, W9, None, 2, groups=2)),
    "transposed, dilated": (X1, lambda x: F.conv_transpose1d(x, W10, dilation=2)),
    "transposed, three axes": (X3, lambda x: F.conv_transpose3d(x, W11, stride=2)),
    "average": (X2, lambda x: F.avg_pool2d(x, 2)),
    "average, overlapping": (X2, lambda x: F.avg_pool2d(x, 3, 2)),
    "average, padded": (X2, lambda x: F.avg_pool2d(x, 3, 2, 1)),
    "average, padding not counted": (X2, lambda x: F.avg_pool2d(x, 3, 2, 1, count_include_pad=False)),
    "average, ceil": (X2, lambda x: F.avg_pool2d(x, 3, 2, 1, ceil_mode=True)),
    "average, ceil, not counted": (X2, lambda x: F.avg_pool2d(x, 3, 2, 1, True, False)),
    "average along one axis": (X1, lambda x: F.avg_pool1d(x, 2)),
    "average, three axes": (X3, lambda x: F.avg_pool3d(x, (2, 1, 3), 2)),
    "adaptive": (X2, lambda x: F.adaptive_avg_pool2d(x, (4, 7))),
    "adaptive, uneven": (X2, lambda x: F.adaptive_avg_pool2d(x, (3, None))),
    "adaptive, one": (X2, lambda x: F.adaptive_avg_pool2d(x, 1)),
    "max, padded": (X2, lambda x: F.max_pool2d(x, 3, 2, 1)),
    "max, ceil": (X2, lambda x: F.max_pool2d(x, 3, 2, ceil_mode=True)),
    "max, padded and ceil": (X1, lambda x: F.max_pool1d(x, 4, 3, 2, ceil_mode=True)),
    "nearest": (X2, lambda x: F.interpolate(x, scale_factor=2)),
    "nearest to a size": (X2, lambda x: F.interpolate(x, size=(5, 10))),
    "nearest by a fraction": (X1, lambda x: F.interpolate(x, scale_factor=1.7)),
    "bilinear": (X2, lambda x: F.interpolate(x, scale_factor=2, mode="bilinear")),
    "bilinear by a fraction": (X2, lambda x: F.interpolate(x, scale_factor=(1.3, 0.6), mode="bilinear")),
    "bilinear, corners": (X2, lambda x: F.interpolate(x, size=(5, 9), mode="bilinear", align_corners=True)),
    "linear": (X1, lambda x: F.interpolate(x, size=4, mode="linear")),
    "trilinear": (X3, lambda x: F.interpolate(x, scale_factor=2, mode="trilinear")),
    "bicubic": (X2, lambda x: F.interpolate(x, size=(11, 9), mode="bicubic")),
    "area": (X2, lambda x: F.interpolate(x, size=(3, 3), mode="area")),
    "local response": (X2, nn.LocalResponseNorm(3)),
}


@pytest.mark.filterwarnings("ignore:Using padding")  # torch, of even kernels
@pytest.mark.parametrize("name", CASES)
def test_the_numbers_are_those_of_torch(name):
    x, function = CASES[name]
    with closed_operators():
        result = function(x)
    assert torch.allclose(result, function(x), rtol=1e-12, atol=1e-12)


@compiles
@pytest.mark.filterwarnings("ignore:Using padding")
@pytest.mark.parametrize("name", CASES)
def test_first_and_second_derivatives_in_c_are_those_of_torch(name):
    x, function = CASES[name]

    def derivatives(x, tilt):
        x = x if x.requires_grad else x.requires_grad_()
        (first,) = torch.autograd.grad((function(x).sin() * tilt).sum(), x, create_graph=True)
        (second,) = torch.autograd.grad(first.square().sum(), x)
        return first.detach(), second

    tilt = torch.rand(function(x).shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    leaves, structure = pytree.tree_flatten((x.clone(), tilt))
    lower(graph_of(derivatives, leaves, structure, decomposed=True)[0])
    quick = fast(derivatives, gear="compiled")
    for one, other in zip(quick(x.clone(), tilt), derivatives(x.clone(), tilt), strict=True):
        assert torch.allclose(one, other, rtol=1e-10, atol=1e-10)
    assert quick.report.gear == "compiled", quick.report
