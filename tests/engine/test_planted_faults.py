"""A graph in C one of whose kernels is 0.1 % off is refused; one that is right, and rounds otherwise, is not."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import innerloop as il
from innerloop.engine import agreement, fast, gears
from innerloop.engine.c import compile_c
from innerloop.outer.update import Outer, mean_gradient, meta_update, numbers_of
from toolkit.compiler import compiles

pytestmark = compiles


def weight_slope(x: Tensor, w: Tensor) -> Tensor:
    w = w.detach().requires_grad_()
    return torch.autograd.grad(F.conv2d(x, w).square().sum(), w)[0]


# of a kernel: a passage of its C, what stands there instead, a function that uses it, and its arguments
FAULTS = {
    "exp": ("return x != x ? x : y;", "return x != x ? x : 1.001f * y;", torch.exp, [(5, 3)]),
    "tanh": ("copysignf(far, x);", "copysignf(far, x) * 1.001f;", lambda x: (3 * x).tanh(), [(50,)]),
    "log": ("|| x != x ? x : y;", "|| x != x ? x : 1.001f * y;", lambda x: (x * x).log(), [(7,)]),
    "sqrt": ("return sqrtf(x);", "return 1.001f * sqrtf(x);", lambda x: x.abs().sqrt(), [(7,)]),
    "sigmoid": ("1 / (1 + exp_f(-x))", "1.001f / (1 + exp_f(-x))", torch.sigmoid, [(7,)]),
    "product": ("c0_0 += a0 * x0;", "c0_0 += 1.001f * a0 * x0;", torch.mm, [(5, 9), (9, 7)]),
    "long product": ("wide[0][j] +=", "wide[0][j] += 1.001f *", torch.mm, [(5, 900), (900, 7)]),
    "sum": ("acc += ", "acc += 1.001f * ", lambda x: x.square().sum(1), [(5, 40)]),
    "long sum": ("all += acc;", "all += 1.001f * acc;", lambda x: x.abs().sum(), [(5000,)]),
    "sum of rows": ("few[j] += ", "few[j] += 1.001f * ", lambda x: x.exp().sum(0), [(40, 6)]),
    "convolution": ("c0_0 += a0 * x0;", "c0_0 += 1.001f * a0 * x0;", F.conv2d, [(2, 3, 8, 8), (4, 3, 3, 3)]),
    "its gradient": ("c0_0 += a0 * x0;", "c0_0 += 1.001f * a0 * x0;", weight_slope, [(2, 3, 6, 6), (4, 3, 3, 3)]),
}  # fmt: skip


def planted(monkeypatch: pytest.MonkeyPatch, old: str, new: str) -> list[int]:
    """Programs are compiled with a fault; how often it was planted in each."""
    times: list[int] = []

    def compile_wrongly(source: str):
        times.append(source.count(old))
        return compile_c(source.replace(old, new))

    monkeypatch.setattr(gears, "compile_c", compile_wrongly)
    return times


def refused(quick) -> bool:
    return quick.report.gear == "traced" and "the compiled graph gives another result" in quick.report.reason


@pytest.mark.parametrize("fault", FAULTS)
def test_a_kernel_that_is_a_thousandth_off_is_refused(fault, monkeypatch):
    old, new, function, shapes = FAULTS[fault]
    given = [torch.randn(shape, generator=torch.Generator().manual_seed(0)) for shape in shapes]
    sound = fast(function, planned=10_000)
    torch.testing.assert_close(sound(*given), function(*given), rtol=1e-4, atol=1e-5)
    assert sound.report.gear == "compiled", sound.report
    times = planted(monkeypatch, old, new)
    quick = fast(function, planned=10_000)
    assert torch.equal(quick(*given), function(*given))
    assert times[0], "the passage does not stand in the program"
    assert refused(quick), quick.report


@pytest.mark.parametrize("fault", ["sqrt", "tanh", "sum"])
def test_a_whole_update_with_such_a_kernel_is_refused(fault, monkeypatch):
    old, new, *_ = FAULTS[fault]
    learner = il.maml(il.models.mlp(3, [8], 2, activation="tanh"), loss="cross_entropy", inner_steps=2)
    draw = torch.Generator().manual_seed(1)

    def rows() -> il.Batch:
        x = torch.randn(4, 10, 3, generator=draw)
        return il.Batch(x, torch.randint(2, (4, 10), generator=draw))

    torch.manual_seed(0)
    args = (Outer.start(learner.init()), numbers_of(0, 1e-3), il.Episode(rows(), rows()), torch.arange(4), 0)
    sound = fast(meta_update(learner, clip=10.0), planned=10_000)
    sound(*args)
    assert sound.report.gear == "compiled", sound.report
    assert "-O3" in sound.report.compiler
    times = planted(monkeypatch, old, new)
    quick = fast(meta_update(learner, clip=10.0), planned=10_000)
    quick(*args)
    assert times[0], "the passage does not stand in the program"
    assert refused(quick), quick.report


def test_what_is_never_written_is_seen(monkeypatch):
    """Whatever memory held before: the buffers are full of NaN, or of a number that nobody computes."""
    for function in (lambda x: x * 2, lambda x: (x * 2).to(torch.int64), lambda x: x > 0):
        times = planted(monkeypatch, "i0 < 44;", "i0 < 43;")
        quick = fast(function, planned=10_000)
        x = torch.zeros(44)
        assert torch.equal(quick(x), function(x))
        assert times[0]
        assert refused(quick), quick.report


INF, NAN = float("inf"), float("nan")


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ([INF, 1.0], [INF, 1.0], True),
        ([INF, 1.0], [-INF, 1.0], False),
        ([INF, 1.0], [NAN, 1.0], False),
        ([NAN, 1.0], [NAN, 1.0], True),
        ([NAN, 1.0], [1.0, NAN], False),
        ([3e38, 1.0], [INF, 1.0], False),
        ([1e-40, 1.0], [0.0, 1.0], True),
        ([1e-15, 2e-15], [1e-15, 3e-15], False),
        ([0.0, 0.0], [0.0, 1e-9], False),
    ],
)
def test_special_numbers_are_compared_by_index_and_sign(one, other, same):
    assert agreement.agree(torch.tensor(one), torch.tensor(other)) is same


def test_whole_numbers_and_truth_values_are_compared_exactly():
    large = torch.tensor([2**60])
    assert not agreement.agree(large, large + 1)
    assert not agreement.agree(torch.tensor([True]), torch.tensor([2], dtype=torch.uint8).view(torch.bool))
    assert not agreement.agree(torch.ones(2), torch.ones(2).double())
    ones = torch.ones(10_000)
    few = ones.clone()
    few[-20:] = 0
    assert not agreement.agree(ones, few)


def test_a_gradient_that_only_rounding_makes_may_differ_by_all_of_itself():
    """The function's error has one sign and hardly changes with its arguments; double precision tells."""

    def plain(leaves):
        (x,) = leaves
        zero = (x - x.mean()).sum()  # exactly 0, but for rounding
        return [zero + (1e-4 if x.dtype == torch.float32 else 0.0)]

    def graph(leaves):
        return [leaves[0].sum() * 0]

    x = torch.rand(1000, generator=torch.Generator().manual_seed(0))
    results = plain([x]), graph([x])
    assert not agreement.agree(*results)
    assert agreement.agree_nearby(plain, graph, leaves=[x], results=results)


def test_the_function_does_not_run_again_where_the_graph_says_what_rounding_is():
    """What a graph changes by when its arguments are rounded otherwise is asked first, since it is fast."""
    calls = []
    x = torch.rand(10, generator=torch.Generator().manual_seed(0))

    def plain(leaves):
        calls.append(1)
        return [torch.ones(1)]

    def graph(leaves):
        return [torch.ones(1) + (1e-4 if torch.equal(leaves[0], x) else -1e-4)]

    results = plain([x]), graph([x])
    assert not agreement.agree(*results)
    calls.clear()
    assert agreement.agree_nearby(plain, graph, leaves=[x], results=results)
    assert not calls


def test_metrics_of_parts_of_a_meta_batch_are_those_of_the_whole():
    def gradient(meta, episode, key, number, phase):
        losses = episode.query.y.flatten(1).mean(1)
        return {"w": losses.mean().reshape(1)}, {"losses": losses, "mean": losses.mean()}

    rows = il.Batch(torch.zeros(5, 2, 1), torch.arange(10.0).reshape(5, 2, 1))
    given = ({"w": torch.zeros(1)}, il.Episode(rows, rows), torch.arange(5), torch.tensor(0.0), 0)
    whole, parts = (mean_gradient(gradient, *given, chunk) for chunk in (None, 2))
    torch.testing.assert_close(parts, whole)
