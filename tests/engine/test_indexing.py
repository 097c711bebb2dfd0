"""Indexing by tensors, positions and running sums in C: the numbers of torch, for every form that torch takes."""

import pytest
import torch
import torch.nn.functional as F
from torch.utils import _pytree as pytree

from innerloop.engine import fast
from innerloop.engine.c import lower
from innerloop.engine.trace import graph_of
from toolkit.compiler import compiles

X = torch.randn(5, 4, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
ROWS, COLUMN = torch.tensor([0, 3, 3, -1]), torch.tensor([[1], [0]])
MIXED = torch.tensor([[0, 1, 1, 2], [3, 0, 2, 2], [1, 1, 1, 1]])

CASES = {
    "one index": lambda x: x[ROWS],
    "a later axis": lambda x: x[:, ROWS],
    "the last axis": lambda x: x[..., torch.tensor([2, 0])],
    "two together": lambda x: x[ROWS, torch.tensor([0, 1, 2, -1])],
    "two apart": lambda x: x[ROWS, :, torch.tensor([0, 1, 2, 2])],
    "two that broadcast": lambda x: x[ROWS, torch.tensor([[1], [0], [2]])],
    "of a transposed": lambda x: x.transpose(0, 2)[torch.tensor([2, 0]), :, COLUMN.flatten()],
    "of an expression": lambda x: (x * 2 + 1)[ROWS] * 3,
    "of an expanded": lambda x: x[:1].expand(6, 4, 3)[torch.tensor([5, 0])],
    "index_select": lambda x: x.index_select(1, torch.tensor([3, 3, 0])),
    "embedding": lambda x: F.embedding(torch.tensor([[0, 4], [2, 2]]), x[:, 0]),
    "index_put": lambda x: x.index_put((ROWS[:3], torch.tensor([0, 1, 2])), torch.ones(3, 3).double()),
    "index_put of a number": lambda x: x.index_put((ROWS,), torch.tensor(7.0).double()),
    "added": lambda x: x.index_put((ROWS,), x[:4] * 2, accumulate=True),
    "added twice to one": lambda x: (
        torch.zeros(2).double().index_put((MIXED % 2,), x[:3, :, 0], accumulate=True)
    ),
    "index_add": lambda x: torch.zeros(6, 4, 3).double().index_add(0, torch.tensor([0, 5, 5, 1, 0]), x),
    "index_add along another axis": lambda x: x.index_add(1, torch.tensor([1, 1]), x[:, :2]),
    "scatter_add": lambda x: torch.zeros(5, 4).double().scatter_add(1, MIXED, x[:3, :, 0]),
    "scatter_add along the first": lambda x: torch.zeros(5, 4).double().scatter_add(0, MIXED, x[:3, :, 1]),
    "flip": lambda x: x.flip(0, 2) - x.flip(1),
    "roll": lambda x: torch.roll(x, (1, -1), (0, 2)),
    "argmax": lambda x: (x.argmax(), x.argmax(0), x.argmax(1), x.argmax(-1, keepdim=True)),
    "argmin": lambda x: (x.argmin(), x.argmin(0), x.argmin(1)),
    "cumsum": lambda x: (x.cumsum(0), x.cumsum(1), x.cumsum(2), (x > 0).cumsum(0)),
    "amin": lambda x: (x.amin(0), x.amin((1, 2)), x.amin()),
    "remainder": lambda x: (x % 0.3, x.remainder(-0.7), torch.fmod(x, 0.3), torch.arange(-5, 5) % 3),
    "power of a number": lambda x: 0.9**x,
    "arange": lambda x: torch.arange(0.5, 4, 0.75, dtype=torch.float64) + torch.arange(5.0).double(),
    "an arange added": lambda x: torch.tensor([4, 2, 9]) + torch.arange(0, 6, 2),
    "zeros and a number": lambda x: torch.zeros_like(x) + 1,
    "reflected": lambda x: F.pad(x, (1, 2), mode="reflect"),
    "circular": lambda x: F.pad(x, (1, 2), mode="circular"),
    "written here": lambda x: _written(x.clone()),
    "elementary": lambda x: (x.cosh(), x.sinh(), x.tan(), x.atan(), x.asinh(), x.erfc(), x.exp2(), x.round()),
    "elementary, of small": lambda x: ((x / 9).asin(), (x / 9).acos(), (x / 9).atanh(), x.abs().log2()),
    "hardtanh": lambda x: (F.hardtanh(x), F.relu6(x), F.hardshrink(x), F.softshrink(x)),
}


def _written(x):
    x[1].mul_(2)
    x[0].fill_(5)
    return x


@compiles
@pytest.mark.parametrize("name", CASES)
def test_c_gives_what_torch_gives(name):
    leaves, structure = pytree.tree_flatten((X,))
    lower(graph_of(CASES[name], leaves, structure, decomposed=True)[0])
    quick = fast(CASES[name], gear="compiled")
    for x in (X, X.flip(0) * 0.9):
        results, expected = (pytree.tree_leaves(f(x)) for f in (quick, CASES[name]))
        assert len(results) == len(expected)
        for one, other in zip(results, expected, strict=True):
            assert one.dtype == other.dtype
            assert torch.allclose(one, other, rtol=1e-13, atol=1e-13)
    assert quick.report.gear == "compiled", quick.report


GRADIENTS = [
    "one index",
    "two apart",
    "embedding",
    "added",
    "index_add",
    "scatter_add",
    "flip",
    "cumsum",
    "reflected",
]


@compiles
@pytest.mark.parametrize("name", GRADIENTS)
def test_first_and_second_derivatives_are_those_of_torch(name):
    def derivatives(x):
        x = x.requires_grad_() if not x.requires_grad else x
        y = pytree.tree_leaves(CASES[name](x))[0].sin().square().sum()
        (first,) = torch.autograd.grad(y, x, create_graph=True)
        (second,) = torch.autograd.grad(first.square().sum(), x)
        return first.detach(), second

    quick = fast(derivatives, gear="compiled")
    results = quick(X.clone())
    for one, other in zip(results, derivatives(X.clone().requires_grad_()), strict=True):
        assert torch.allclose(one, other, rtol=1e-12, atol=1e-12)
    assert quick.report.gear == "compiled", quick.report


@compiles
def test_nan_is_the_largest_and_the_first_of_equals_is_found():
    x = torch.tensor([[1.0, 3.0, 3.0], [0.0, torch.nan, 5.0]])
    quick = fast(lambda x: (x.argmax(1), x.argmin(1), x.amin(1)), gear="compiled")
    for one, other in zip(quick(x), (x.argmax(1), x.argmin(1), x.amin(1)), strict=True):
        assert torch.equal(one.nan_to_num(-9), other.nan_to_num(-9))
    assert quick.report.gear == "compiled"


@compiles
def test_an_index_out_of_range_is_an_error():
    quick = fast(lambda x, i: x[i].sum(), gear="compiled")
    quick(X, torch.tensor([0, 1]))
    with pytest.raises(IndexError):
        quick(X, torch.tensor([0, 5]))
    assert torch.allclose(quick(X, torch.tensor([-1, -5])), X[[-1, -5]].sum())
