"""Gears change the speed and nothing else."""

import pytest
import torch

import innerloop as il
from innerloop.engine import fast, gears
from innerloop.engine.c import CannotBuild
from innerloop.engine.modes import tracing, while_checking
from innerloop.errors import UsageError
from innerloop.outer.memory import _Alive, needed_bytes, tasks_at_once
from innerloop.outer.update import Outer, meta_gradient, meta_update, numbers_of
from innerloop.tasks.episodes import map_tensors, select
from toolkit.cases import CASES, IDS
from toolkit.compiler import compiler_works, compiles
from toolkit.oracles import generic, uneven

every = pytest.mark.parametrize("case", CASES, ids=IDS)


def start(learner) -> Outer:
    return Outer.start(generic(learner))


def run(update, learner, episode, steps=2):
    state = start(learner)
    key = torch.arange(episode.n_tasks)
    for step in range(steps):
        numbers = numbers_of(step, 1e-2)
        state, metrics = update(state, numbers, episode, key, learner.metagrad.phase(step))
    return [*state.meta.values(), *state.state[1].values(), metrics["losses"]]


def largest(one, other) -> float:
    return max(
        float((a - b).abs().max() / b.abs().max().clamp(min=1e-3)) for a, b in zip(one, other, strict=True)
    )


@every
def test_a_traced_update_is_the_same(case):
    learner, episode = case.make(), uneven(case.episode)
    plain = meta_update(learner, clip=0.5)
    quick = fast(plain, gear="traced")
    assert largest(run(quick, learner, episode), run(plain, learner, episode)) < 1e-12
    assert quick.report.gear == "traced", quick.report.reason


# between them they use every kind of operator; `auto` compiles others as well
NATIVE = (
    *(("maml", "classification"), ("maml_plus_plus", "regression"), ("sparse_maml", "regression")),
    *(("cavia", "classification"), ("protonet", "classification")),
)


@compiles
@pytest.mark.parametrize("wanted", NATIVE, ids="-".join)
def test_a_compiled_update_is_the_same(wanted):
    case = next(case for case in CASES if (case.algorithm, case.kind) == wanted)
    learner, episode = case.make(), uneven(case.episode)
    plain = meta_update(learner, clip=0.5)
    quick = fast(plain, gear="compiled")
    assert largest(run(quick, learner, episode), run(plain, learner, episode)) < 1e-12
    assert quick.report.reason == ""


def test_chunks_change_nothing():
    learner, episode = CASES[0].make(), CASES[0].episode
    expected = run(meta_update(learner, clip=0.5), learner, episode)
    assert largest(run(meta_update(learner, clip=0.5, chunk=2), learner, episode), expected) < 1e-12


def test_single_precision_stays_as_near_to_double_as_the_plain_function():
    learner = CASES[0].make()
    exact = run(meta_update(learner, clip=0.5), learner, CASES[0].episode)
    episode = map_tensors(lambda t: t.float(), CASES[0].episode)

    def error(update):
        state = map_tensors(lambda t: t.float(), start(learner))
        for step in range(2):
            numbers = numbers_of(step, 1e-2)
            state, _ = update(state, numbers, episode, torch.arange(episode.n_tasks), 0)
        return largest([v.double() for v in state.meta.values()], exact[: len(state.meta)])

    plain = meta_update(learner, clip=0.5)
    for gear in ("traced", "compiled") if compiler_works() else ("traced",):
        assert error(fast(plain, gear=gear)) < 3 * error(plain) + 1e-7


# ---- any function --------------------------------------------------------------------------------------------


def second_derivative(w, x):
    w = w.requires_grad_()
    (slope,) = torch.autograd.grad((x @ w).tanh().square().sum(), w, create_graph=True)
    (bend,) = torch.autograd.grad(slope.square().sum(), w)
    return {"bend": bend, "same": w.detach() * 1, "name": "kept"}


@pytest.mark.parametrize("gear", ["traced", pytest.param("compiled", marks=compiles)])
def test_a_function_of_the_user(gear):
    torch.manual_seed(0)
    quick = fast(second_derivative, gear=gear)
    for _ in range(3):
        w, x = torch.randn(3, dtype=torch.float64), torch.randn(5, 3, dtype=torch.float64)
        found, expected = quick(w, x), second_derivative(w.clone(), x)
        assert found["name"] == "kept"
        assert torch.allclose(found["bend"], expected["bend"], rtol=1e-12)
        assert torch.equal(found["same"], w)
    assert quick.report.gear == gear


def test_one_tensor_given_twice_is_two_arguments():
    quick = fast(lambda a, b: a - b, gear="traced")
    one, other = torch.ones(3), torch.full((3,), 2.0)
    assert quick(one, one).tolist() == [0, 0, 0]
    assert quick(other, one).tolist() == [1, 1, 1]


def decides(x):
    return x if x.sum() > 0 else -x


def draws(x):
    return x + torch.rand(3)


def writes(x):
    x += 1
    return x


@pytest.mark.parametrize("function", [decides, draws, writes])
def test_what_has_no_graph_runs_as_it_is_and_says_why(function):
    quick = fast(function, gear="traced")
    quick(torch.ones(3))
    assert quick.report.gear == "eager"
    assert "no graph" in quick.report.reason
    assert fast(decides, gear="traced")(-torch.ones(3)).tolist() == [1, 1, 1]


def test_shapes_without_end_are_not_traced_without_end(monkeypatch):
    monkeypatch.setattr("innerloop.engine.gears._MOST_GRAPHS", 2)
    quick = fast(lambda x: x + 1, gear="traced")
    for rows in range(1, 6):
        assert quick(torch.zeros(rows)).sum() == rows
    assert quick.report.graphs == 2
    assert "different shapes" in quick.report.reason


def test_a_graph_that_disagrees_is_not_used(monkeypatch):
    monkeypatch.setattr(
        "innerloop.engine.gears.interpreted", lambda graph: lambda tensors: [graph(*tensors)[0] * 1.1]
    )
    quick = fast(lambda x: x * 2, gear="traced")
    assert quick(torch.ones(3)).tolist() == [2, 2, 2]
    assert quick(torch.ones(3)).tolist() == [2, 2, 2]
    assert "another result" in quick.report.reason


def test_a_number_on_the_other_side_of_a_kink_is_no_other_function():
    """Rounding decides a ReLU at one place; a little way off, function and graph are seen to be the same."""

    def step(x):
        return x + 0.1 * (x - 0.5 + (1e-9 if tracing() else 0.0) > 0)

    place = torch.full((2,), 0.5 - 5e-10, dtype=torch.float64)
    quick = fast(step, gear="traced")
    assert quick(place).tolist() == pytest.approx([0.6, 0.6])
    assert quick.report.gear == "traced", quick.report

    def defined_nowhere_else(x):
        if not tracing() and (x.round(decimals=5) != 0.5).any():
            raise ValueError("x must be 0.5")
        return step(x)

    careful = fast(defined_nowhere_else, gear="traced")
    assert careful(place).tolist() == place.tolist()
    assert "another result" in careful.report.reason


def test_a_graph_that_is_far_off_here_is_not_excused_by_another_place():
    def step(x):
        return x + (5.0 if tracing() else 0.0) * ((x - 0.5).abs() < 1e-4)

    quick = fast(step, gear="traced")
    assert quick(torch.full((2,), 0.5)).tolist() == [0.5, 0.5]
    assert "another result" in quick.report.reason


def test_a_graph_of_a_long_inner_loop_is_checked_in_the_memory_of_one_step():
    """The first call would otherwise keep what the graph was made to avoid."""
    learner = il.maml(il.models.mlp(2, [256], 1), loss="mse", inner_lr=0.1, inner_steps=12)
    rows = il.Batch(torch.randn(2, 64, 2), torch.randn(2, 64, 1))
    meta, key, number = learner.init(), torch.arange(2), torch.tensor(1.0)

    def peak() -> int:
        with _Alive([*meta.values(), rows.x, rows.y]) as alive:
            meta_gradient(learner)(meta, il.Episode(rows, rows), key, number, 0)
        return alive.most

    usual = peak()
    with while_checking():
        assert peak() < usual / 2


def test_without_a_compiler_there_is_the_graph(monkeypatch):
    def none(source):
        raise CannotBuild("no C compiler was found")

    monkeypatch.setattr("innerloop.engine.gears.compile_c", none)
    quick = fast(lambda x: x * 2 + 1, gear="auto", planned=10_000)
    assert quick(torch.ones(3)).tolist() == [3, 3, 3]
    assert quick.report.gear == "traced"
    assert quick.report.reason == "not compiled: no C compiler was found"
    assert fast(lambda x: x + 1, planned=3)(torch.ones(1)).item() == 2


def test_every_gear_is_timed_and_named():
    from innerloop import benchmark

    rows = benchmark(second_derivative, torch.randn(3), torch.randn(5, 3), seconds=0.01)
    assert [row.gear for row in rows] == ["eager", "traced", "compiled"]
    assert all(row.milliseconds > 0 for row in rows)


def test_a_step_is_counted_for_the_tasks_that_fit():
    learner = CASES[0].make()
    episode = map_tensors(lambda t: t.float(), CASES[0].episode)
    one = needed_bytes(learner, learner.init(), select(episode, slice(0, 1)))
    whole = needed_bytes(learner, learner.init(), episode)
    assert one < whole <= one * episode.n_tasks
    assert tasks_at_once(learner, learner.init(), episode, 2**40) is None


def test_training_ends_the_same_in_every_gear():
    tasks = il.tasks.sinusoid(n_support=5)
    found = {}
    for gear in ("eager", "traced", "loop"):
        torch.manual_seed(0)
        learner = il.maml(il.models.mlp(1, [8], 1).double(), loss="mse", inner_steps=2)
        run = il.meta_train(learner, tasks.train, steps=5, gear=gear, device="cpu", meta_batch_size=4)
        assert run.gear.gear == ("eager" if gear == "loop" else gear)
        found[gear] = torch.cat([value.flatten() for value in run.model.meta.values()])
    assert torch.allclose(found["eager"], found["traced"], rtol=1e-12, atol=1e-12)
    assert torch.allclose(found["eager"], found["loop"], rtol=1e-12, atol=1e-12)


# ---- operators in C ------------------------------------------------------------------------------------------

VALUES = torch.tensor([-700.0, -90.0, -3.5, -1.0, -0.3, -1e-6, 0.0, 1e-30, 0.2, 0.9, 1.0, 7.3, 88.0, 700.0])
SPECIAL = torch.tensor([float("nan"), float("inf"), -float("inf")])
UNARY = [
    "exp",
    "log",
    "tanh",
    "sigmoid",
    "sqrt",
    "log1p",
    "expm1",
    "sin",
    "erf",
    "abs",
    "floor",
    "sign",
    "relu",
]


@compiles
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_pointwise_operators_as_in_torch(dtype):
    x = torch.cat([VALUES, SPECIAL]).to(dtype)
    y = x.flip(0)

    def every(x, y):
        unary = [getattr(torch, name)(x) for name in UNARY]
        powers = [x**p for p in (2, 3, -1, 0.5, 1.7)]
        compared = [torch.maximum(x, y), torch.where(x > 0.5, x, -x), x.clamp(-1, 2), torch.isnan(x)]
        return [*unary, *powers, *compared, x.to(torch.float64), (x == 1) | (x > y), x.rsqrt()]

    quick = fast(every, gear="compiled")
    for name, a, b in zip([*UNARY, *range(12)], quick(x, y), every(x, y), strict=True):
        assert a.dtype == b.dtype, name
        tolerance = 3e-7 if dtype == torch.float32 else 1e-15
        assert torch.allclose(a.double(), b.double(), rtol=tolerance, atol=1e-37, equal_nan=True), name
    assert quick.report.reason == ""


@compiles
def test_products_of_every_small_size():
    """Vectors, blocks of rows and their overlapping ends: all ways to divide a matrix."""
    torch.manual_seed(0)
    sizes = [1, 3, 8, 9, 33]
    pairs = [(torch.randn(2, n, k), torch.randn(2, k, m)) for n in sizes for k in (3,) for m in sizes]

    def every(pairs):
        plain = [a @ b for a, b in pairs]
        turned = [b.mT @ a.mT for a, b in pairs]
        return plain, turned, [(a @ b).mT.contiguous() for a, b in pairs], [a.mT + 1 for a, _ in pairs]

    quick = fast(every, gear="compiled")
    for found, expected in zip(quick(pairs), every(pairs), strict=True):
        assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(found, expected, strict=True))
    assert quick.report.reason == ""


@compiles
def test_sums_views_and_writes_into_parts():
    torch.manual_seed(0)
    x, index = torch.randn(4, 3, 9, dtype=torch.float64), torch.tensor([[[2]], [[0]], [[1]], [[2]]])

    def every(x, index):
        parts = [x.sum(d) for d in (0, 1, 2, (0, 1), (0, 2), (1, 2))] + [x.mean(), x.amax(2), x.amax((0, 2))]
        views = [
            x[:, 1:].flatten(1),
            x.permute(2, 0, 1).reshape(9, 12),
            x[..., ::2].sum(-1),
            x[1].expand(2, 3, 9) * 2,
        ]
        taken = x.gather(1, index.expand(4, 1, 9))
        written = torch.zeros_like(x).scatter(1, index.expand(4, 1, 9), 2.0)
        joined = torch.cat([x, x[:, :1] * 2, torch.ones_like(x)], 1)
        padded = torch.nn.functional.pad(x, (1, 2, 0, 1), value=3.0)
        odd = torch.arange(9) * 3 + index.sum()
        soft = x.log_softmax(-1)
        return [*parts, *views, taken, written, joined, padded, odd, soft, x.std(0), x.float().double()]

    quick = fast(every, gear="compiled")
    for a, b in zip(quick(x, index), every(x, index), strict=True):
        assert a.dtype == b.dtype
        assert torch.allclose(a, b, rtol=1e-13, atol=1e-13)
    assert quick.report.reason == ""


@pytest.mark.parametrize("gear", ["traced", "compiled"])
def test_a_graph_of_torch_takes_a_tensor_however_it_lies_in_memory(monkeypatch, gear):
    # inductor is what is left where C has no rule for an operator; here it is the graph itself
    monkeypatch.setattr(gears, "_in_c", lambda graph, result: "no rule")
    monkeypatch.setattr(torch, "compile", lambda graph, dynamic: graph)
    quick = fast(lambda x: x.reshape(-1) * 2, gear=gear)
    quick(torch.rand(3, 4))
    x = torch.rand(4, 3).T
    assert torch.equal(quick(x), x.reshape(-1) * 2)
    assert quick.report.gear == gear


@pytest.mark.parametrize("gear", ["traced", "compiled"])
def test_a_result_shares_memory_with_nothing(gear):
    quick = fast(lambda x: (x * 1, torch.zeros(3), torch.zeros(3), torch.tensor([0.0, 0.0])), gear=gear)
    x = torch.ones(3)
    quick(x)
    for part in quick(x):
        part.add_(5)
    assert x.tolist() == [1, 1, 1]
    assert [part.tolist() for part in quick(x)] == [[1, 1, 1], [0, 0, 0], [0, 0, 0], [0, 0]]


def test_what_is_differentiated_outside_keeps_its_gradient():
    quick = fast(lambda w, x: (w * x).sum(), gear="traced")
    w = torch.ones(3, requires_grad=True)
    for _ in range(2):
        (grad,) = torch.autograd.grad(quick(w, torch.arange(3.0)), w)
        assert grad.tolist() == [0, 1, 2]
    assert "differentiated" in quick.report.reason


def test_arguments_without_a_constant_value_are_no_obstacle():
    quick = fast(lambda x, names: x * len(names), gear="traced")
    assert quick(torch.ones(2), {"a", "b"}).tolist() == [2, 2]
    assert quick(torch.ones(2), {"a"}).tolist() == [1, 1]
    assert "constant value" in quick.report.reason


def walk(weight, x, rate):
    """One step of a state of two, and what it saw."""
    old, count = weight["w"], weight["n"]
    return {"w": old - rate * 2 * x * (old * x - 1), "n": count + 1}, (old * x, x.sum())


@compiles
@pytest.mark.parametrize("gear", ["eager", "traced", "compiled"])
@pytest.mark.parametrize("calls", [1, 2, 5, 8])
@pytest.mark.parametrize("rate", [0.1, torch.tensor([0.1, 0.2, 0.3])], ids=["number", "tensor"])
def test_calls_in_a_row_are_those_one_after_the_other(gear, calls, rate):
    torch.manual_seed(0)
    start = {"w": torch.randn(3), "n": torch.zeros((), dtype=torch.int64)}
    rows = torch.randn(calls, 3)
    quick, state, seen = fast(walk, gear=gear), start, []
    for x in rows:
        state, out = quick(state, x, rate)
        seen.append(out)
    for once in (fast(walk, gear=gear), quick):  # the second knows every call
        last, every = once.scan(start, (rows,), rate)
        assert torch.equal(last["w"], state["w"])
        assert int(last["n"]) == calls
        for ours, theirs in zip(every, zip(*seen, strict=True), strict=True):
            assert torch.equal(ours, torch.stack(theirs))
    assert once.report.gear == gear
    assert torch.equal(start["n"], torch.tensor(0))


@pytest.mark.parametrize(
    "function",
    [
        lambda x: torch.sparse.mm(x.to_sparse(), x).sum(0),
        lambda x: torch.compile(lambda one: (one * one).sin(), backend="eager")(x).sum(),
    ],
    ids=["sparse", "torch.compile"],
)
def test_a_check_leaves_alone_what_the_function_is_made_of(function):
    quick = fast(function, gear="traced")
    for rows in (3, 4, 5):
        x = torch.randn(rows, rows)
        torch.testing.assert_close(quick(x), function(x))


def test_a_carry_that_changes_its_shape_goes_call_by_call():
    def grow(seen, x):
        return torch.cat([seen, x]), seen.sum()

    last, sums = fast(grow, gear="compiled").scan(torch.zeros(0), (torch.ones(4, 1),))
    assert last.tolist() == [1, 1, 1, 1]
    assert sums.tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("rows", [(), (torch.ones(2), torch.ones(3)), (torch.ones(()),), (torch.ones(0),)])
def test_calls_in_a_row_need_one_number_of_calls(rows):
    with pytest.raises(UsageError, match="one leading axis of calls"):
        fast(walk).scan(torch.zeros(1), rows)
