"""Functionalisation: a graph whose operators write into their arguments becomes one whose operators do not.

The formulas of autograd for second derivatives, and modules with `inplace=True`, change tensors where they are:
`x.add_(y)`. Each such operator becomes its functional form, `x = x + y`, and what comes later reads the new value. That
is the same as long as nothing that comes later reads the same memory under another name; where something does (a view
of the tensor, or the tensor it is a view of), torch's own, slower pass is taken.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, fx
from torch._ops import OpOverload

__all__ = ["functionalized", "writes"]

_aten = torch.ops.aten


def writes(node: fx.Node) -> bool:
    """Whether an operator changes one of its arguments."""
    schema = getattr(node.target, "_schema", None)
    return node.op == "call_function" and schema is not None and schema.is_mutable


def functionalized(
    graph: fx.GraphModule,
    tensors: Sequence[Tensor],
    trace: Callable[[Callable[..., list[Tensor]], Sequence[Tensor]], fx.GraphModule],
) -> fx.GraphModule:
    """The graph without writes; the one given is changed.

    Arguments:
        graph: of operators of ATen, as `make_fx` writes it.
        tensors: inputs of the graph.
        trace: writes a function of such tensors down as a graph.

    Returns:
        A graph of the same function. Writes into inputs and constants are left in it.

    Example:
        >>> from torch.fx.experimental.proxy_tensor import make_fx
        >>> x = torch.ones(2)
        >>> graph = make_fx(lambda x: [(x * 2).relu_()], tracing_mode="fake")(x)
        >>> graph = functionalized(graph, [x], lambda f, given: make_fx(f)(*given))
        >>> [str(node.target) for node in graph.graph.nodes if node.op == "call_function"]
        ['aten.mul.Tensor', 'aten.relu.default']
    """
    if not any(writes(node) for node in graph.graph.nodes):
        return graph
    if all(_replaced(node) for node in list(graph.graph.nodes) if writes(node)):
        graph.graph.eliminate_dead_code()
        return graph
    with torch.no_grad():
        return trace(torch.func.functionalize(graph, remove="mutations"), tensors)


def _replaced(node: fx.Node) -> bool:
    """Put the functional form in the place of a write, where nothing else reads the memory afterwards."""
    written = node.args[0]
    if not isinstance(written, fx.Node) or not (_names_axes(node) or _only_reader(node, written)):
        return False
    before, after = written.meta["val"], node.meta["val"]
    with node.graph.inserting_before(node):
        value = _functional(node, before)
        if value is None:
            return False
        if value.meta["val"].dtype != after.dtype:
            value = _call(node.graph, _aten._to_copy.default, (value,), {"dtype": after.dtype})
        if value.meta["val"].shape != after.shape:
            value = _call(node.graph, _aten.expand.default, (value, list(after.shape)))
    for use in [use for use in written.users if node < use]:
        use.replace_input_with(written, value)
    node.replace_all_uses_with(value)
    node.graph.erase_node(node)
    return True


def _functional(node: fx.Node, before: Tensor) -> fx.Node | None:
    """The value that a write leaves, as a new node; `None` where no operator gives it."""
    name, _, overload = str(node.target).removeprefix("aten.").partition(".")
    if name == "copy_":
        # a copy, for what it is copied from may be written to later
        return _call(node.graph, _aten.clone.default, (node.args[1],))
    if name in ("fill_", "zero_"):
        number = node.args[1] if len(node.args) > 1 else 0
        options = {"dtype": before.dtype, "device": before.device}
        return _call(node.graph, _aten.full.default, (list(before.shape), number), options)
    packet = getattr(_aten, name.removesuffix("_"), None)
    if not name.endswith("_") or packet is None or overload not in packet.overloads():
        return None
    functional = getattr(packet, overload)
    return None if functional._schema.is_mutable else _call(node.graph, functional, node.args, node.kwargs)


def _call(graph: fx.Graph, target: OpOverload, args: Any, kwargs: Any = None) -> fx.Node:
    """A new node with the shape and type of its result."""
    node = graph.call_function(target, args, kwargs)
    args, kwargs = fx.map_arg((node.args, node.kwargs), lambda each: each.meta["val"])
    with torch.no_grad():
        node.meta["val"] = target(*args, **kwargs)
    return node


def _only_reader(node: fx.Node, written: fx.Node) -> bool:
    """Whether no other name of the memory that is written is read after the write."""
    seen, ahead = {written}, [written]
    while ahead:
        alias = ahead.pop()
        if alias.op != "call_function":
            return False  # an input or a constant: the caller would see the write
        if alias is not written and any(node < use for use in alias.users):
            return False
        sources = [arg for arg in alias.all_input_nodes if _is_view(alias)]
        views = [use for use in alias.users if use < node and _is_view(use)]
        fresh = [other for other in (*sources, *views) if other not in seen]
        seen.update(fresh)
        ahead += fresh
    return True


def _is_view(node: fx.Node) -> bool:
    """Whether a result may lie in the memory of an argument."""
    if node.target is operator.getitem:
        return True
    schema = getattr(node.target, "_schema", None)
    return schema is not None and any(argument.alias_info is not None for argument in schema.arguments)


def _names_axes(node: fx.Node) -> bool:
    """Whether an operator changes how a tensor lies in its memory, not what is there: `transpose_`, `unsqueeze_`."""
    return torch.Tag.inplace_view in getattr(node.target, "tags", ())
