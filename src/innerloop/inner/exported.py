"""Modules that leave the package: an adapted task with the names of its original, and a function as one graph."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import fx, nn
from torch.utils import _pytree as pytree

from ..engine.trace import Untraceable, graph_of
from ..errors import UsageError
from ..models.network import Network, Params

__all__ = ["as_graph", "with_values"]


def with_values(network: Network, values: Params) -> nn.Module:
    """The module that a network was made of, with other values, in evaluation mode.

    Arguments:
        network: a module as a function.
        values: parameters and buffers by name; statistics of BatchNorm are buffers. What is not named keeps its value.

    Example:
        >>> with_values(Network(nn.Linear(1, 1)), {"weight": torch.ones(1, 1)}).weight.item()
        1.0
    """
    module = copy.deepcopy(network.original).eval()
    if network.batchnorm == "transductive":
        for layer in module.modules():
            if isinstance(layer, nn.modules.batchnorm._BatchNorm):
                layer.track_running_stats, layer.running_mean, layer.running_var = False, None, None
    values = {**network.constants, **values}
    for name, value in (*module.named_parameters(), *module.named_buffers()):
        if name in values:
            value.data = values[name].detach().clone()
    return module


def as_graph(function: Callable[..., object], *arguments: object) -> fx.GraphModule:
    """A pure function as one graph of torch's operators for these shapes, without any autograd.

    Arguments:
        function: of pytrees of tensors.
        arguments: an example of each argument.

    Returns:
        A module of the tensors of the arguments, one after the other, which `torch.export.export` takes. It returns the
        function's tensor, or the list of its tensors.

    Raises:
        UsageError: the function decides by values, and has no graph.

    Example:
        >>> def slope(x):
        ...     x = x.detach().requires_grad_()
        ...     return torch.autograd.grad((x**2).sum(), x)[0]
        >>> as_graph(slope, torch.ones(2))(torch.tensor([1.0, 3.0]))
        tensor([2., 6.])
    """
    leaves, structure = pytree.tree_flatten(arguments)
    with torch.enable_grad():
        function(*arguments)  # what it finds out and remembers at its first call must be found with numbers
    try:
        graph, (spec, _) = graph_of(function, leaves, structure)
    except Untraceable as error:
        raise UsageError(f"this model's adaptation has no graph of its own: {error}") from error
    for node in graph.graph.nodes:
        if node.target is torch.ops.aten.view.default:
            # memory of other strides than in tracing has no such view
            node.target = torch.ops.aten.reshape.default
        if node.op == "output" and spec.is_leaf():
            node.args = (node.args[0][0],)
    graph.recompile()
    return graph
