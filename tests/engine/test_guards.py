"""What a function closes over: a graph is not used once that has changed, whatever the gear."""

import dataclasses
import functools

import pytest
import torch
from torch import nn

from innerloop.engine import fast
from innerloop.engine.guards import Closure
from toolkit.compiler import compiles

GEARS = ["traced", pytest.param("compiled", marks=compiles)]
scale = 2.0


class Config:
    rate = 2.0

    def __init__(self):
        self.seen = 0

    def scaled(self, x):
        return x * self.rate


@dataclasses.dataclass(slots=True)
class Slots:
    rate: float = 2.0


def helper(x):
    return x * scale


def number_of_a_cell():
    by = 2.0

    def change():
        nonlocal by
        by = 3.0

    return lambda x: x * by, change


def entry_of_a_dictionary():
    given = {"by": 2.0}
    return lambda x: x * given["by"], lambda: given.update(by=3.0)


def item_of_a_list():
    given = [1.0, [2.0]]
    return lambda x: x * given[1][0], lambda: given[1].__setitem__(0, 3.0)


def global_of_a_helper():
    return helper, lambda: globals().update(scale=3.0)


def attribute_of_a_class():
    config = Config()
    return lambda x: x * config.rate, lambda: setattr(config, "rate", 3.0)


def attribute_of_a_method():
    config = Config()
    return config.scaled, lambda: setattr(config, "rate", 3.0)


def attribute_in_a_slot():
    config = Slots()
    return lambda x: x * config.rate, lambda: setattr(config, "rate", 3.0)


def keyword_of_a_partial():
    options = {"by": torch.tensor(2.0)}
    part = functools.partial(lambda x, options: x * options["by"], options=options)
    return part, lambda: options.update(by=torch.tensor(3.0))


def replaced_tensor():
    given = {"by": torch.full((3,), 2.0)}
    return lambda x: x * given["by"], lambda: given.update(by=torch.full((3,), 3.0))


def tensor_changed_in_place():
    given = torch.full((3,), 2.0)
    return lambda x: x * given, lambda: given.add_(1.0)


def strided_tensor_changed_in_place():
    given = torch.full((3, 2), 2.0)[:, 0]
    return lambda x: x * given, lambda: given.add_(1.0)


def number_read_of_a_tensor():
    given = torch.tensor(2.0)
    return lambda x: x * given.item(), lambda: given.fill_(3.0)


def tensor_with_other_memory():
    given = nn.Parameter(torch.full((3,), 2.0))
    return lambda x: (x * given).detach(), lambda: setattr(given, "data", torch.full((3,), 3.0))


def module_in_another_mode():
    module = nn.Dropout(0.0)
    return lambda x: module(x) * (2.0 if module.training else 3.0), module.eval


def parameter_of_a_module():
    module = nn.Linear(3, 3, bias=False)
    nn.init.eye_(module.weight).data.mul_(2.0)
    state = {"weight": 3 * torch.eye(3)}
    return lambda x: module(x[None])[0].detach(), lambda: module.load_state_dict(state, assign=True)


def channels_last():
    module = nn.Conv2d(1, 2, 1, bias=False).to(memory_format=torch.channels_last)
    module.weight.data.fill_(1.0)

    def change():
        module.weight.data.mul_(1.5)

    return lambda x: module(x[None, :, None, None].movedim(1, 0)).sum((1, 2, 3)).detach(), change


CHANGES = [
    *(number_of_a_cell, entry_of_a_dictionary, item_of_a_list, global_of_a_helper, attribute_of_a_class),
    *(attribute_of_a_method, attribute_in_a_slot, keyword_of_a_partial, replaced_tensor),
    *(tensor_changed_in_place, strided_tensor_changed_in_place, number_read_of_a_tensor),
    tensor_with_other_memory,
    *(module_in_another_mode, parameter_of_a_module, channels_last),
]


@pytest.mark.parametrize("gear", GEARS)
@pytest.mark.parametrize("make", CHANGES, ids=lambda make: make.__name__)
def test_a_change_is_seen(make, gear, monkeypatch):
    monkeypatch.setitem(globals(), "scale", 2.0)
    function, change = make()
    quick = fast(function, gear=gear)
    for _ in range(2):
        assert quick(torch.ones(3)).tolist() == [2, 2, 2]
    assert quick.report.gear == gear, quick.report
    change()
    for _ in range(2):
        assert quick(torch.ones(3)).tolist() == [3, 3, 3]
    assert quick.report.gear == gear, quick.report


@pytest.mark.parametrize("gear", GEARS)
def test_an_attribute_of_an_argument_is_seen(gear):
    quick, config = fast(lambda x, config: x * config.rate, gear=gear), Config()
    assert quick(torch.ones(()), config) == 2
    config.rate = 7.0
    assert quick(torch.ones(()), config) == 7


def test_a_state_that_was_there_before_has_its_graph_still():
    given = {"by": 2.0}
    quick = fast(lambda x: x * given["by"], gear="traced")
    for by in (2.0, 3.0, 1.0 + 1.0, 3.0, 2.0):
        given["by"] = by
        assert quick(torch.ones(())) == by
    assert quick.report.graphs == 2


def test_what_the_code_does_not_name_may_change():
    config = Config()
    quick = fast(lambda x: x * config.rate, gear="traced")
    for call in range(30):
        config.seen = call
        assert quick(torch.ones(())) == 2
    assert quick.report.graphs == 1


def test_what_changes_at_every_call_runs_as_it_is():
    given = {"by": 0.0}
    quick = fast(lambda x: x * given["by"], gear="traced")
    for call in range(20):
        given["by"] = float(call)
        assert quick(torch.ones(())) == call
    assert "what it closes over" in quick.report.reason
    assert quick.report.graphs == 16


@pytest.mark.parametrize("layer", [nn.RNN, nn.LSTM])
def test_recurrent_layers_that_list_the_weights_of_the_last_call_have_one_graph(layer):
    module = layer(2, 3).double()

    def function(weights, x):
        return torch.func.functional_call(module, weights, (x,))[0]

    quick = fast(function, gear="traced")
    for factor in (1.0, 2.0, 3.0):
        weights = {name: factor * value.detach() for name, value in module.named_parameters()}
        x = torch.ones(4, 1, 2, dtype=torch.float64)
        torch.testing.assert_close(quick(weights, x), function(weights, x))
    assert quick.report.graphs == 1


def test_many_calls_in_a_row_see_a_change_too():
    given = {"by": 1.0}
    quick = fast(lambda total, x: (total + x * given["by"], x), gear="traced")
    rows = (torch.ones(5),)
    assert quick.scan(torch.zeros(()), rows)[0] == 5
    given["by"] = 2.0
    assert quick.scan(torch.zeros(()), rows)[0] == 10


def test_a_call_looks_at_few_objects():
    """Each takes some 25 ns: 30 a module, and one for each number, name and container beside."""
    module = nn.Sequential(*[nn.Linear(4, 4) for _ in range(4)])
    rate = 0.1
    closure = Closure(lambda x: module(x) * rate)
    assert len(closure._seen) < 5 * 30 + 20


def test_arguments_that_the_function_marks_for_gradients_make_one_graph():
    def step(weight, x):
        weight = weight.requires_grad_()
        return (weight - torch.autograd.grad((weight * x).square().sum(), weight)[0]).detach()

    quick, weight = fast(step, gear="traced"), torch.ones(2)
    for _ in range(3):
        weight = quick(weight, torch.ones(2))
    assert quick.report.graphs == 1
