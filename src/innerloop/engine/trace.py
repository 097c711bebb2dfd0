"""A function of tensors as a graph of operators, the gradients it takes included."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from .c.pointwise import POINTWISE
from .modes import while_tracing
from .ops.substitute import closed_operators

_aten = torch.ops.aten
_RESHAPES = {
    *(_aten.view.default, _aten._unsafe_view.default, _aten.reshape.default, _aten.unsqueeze.default),
    *(_aten.squeeze.default, _aten.squeeze.dim, _aten.squeeze.dims),
}


class Untraceable(Exception):
    """The function cannot be written down as one graph."""


def graph_of(
    function: Callable[..., Any], leaves: Sequence[Any], structure: Any, *, decomposed: bool = False
) -> tuple[fx.GraphModule, Any]:
    """The graph of one call.

    Arguments:
        function: pure; of any nest of tensors, to any nest of tensors.
        leaves: its arguments, flat; what is no tensor becomes part of the graph.
        structure: how they nest.
        decomposed: write composite operators as several simple ones.

    Returns:
        A module from the tensors among the leaves to the flat list of tensors returned, and how those nest.

    Raises:
        Untraceable: the function decides by values, or calls what has no graph.
    """
    # importing this takes longer than the rest of the package
    from torch.fx.experimental.proxy_tensor import make_fx

    inside: list[Any] = []

    def flat(*given: Tensor) -> list[Tensor]:
        found, nest = pytree.tree_flatten(function(*filled(leaves, structure, given)))
        inside[:] = [nest, [None if isinstance(leaf, Tensor) else leaf for leaf in found]]
        return [leaf.detach() for leaf in found if isinstance(leaf, Tensor)]

    # one tensor given twice would become one input: the graph must hold for two
    tensors = [leaf.detach().contiguous() for leaf in leaves if isinstance(leaf, Tensor)]
    try:
        with torch.enable_grad(), while_tracing(compiling=decomposed), closed_operators():
            graph = make_fx(
                flat,
                decomposition_table=_simple_operators() if decomposed else None,
                tracing_mode="fake",
                _allow_non_fake_inputs=True,
            )(*tensors)
    except Exception as error:  # whatever a user's function may do under tracing
        raise Untraceable(f"no graph: {_first_line(error)}") from error
    if any(_writes(node) or _random(node) for node in graph.graph.nodes):
        raise Untraceable("no graph: an operator writes into its argument, or draws random numbers")
    simplify(graph)
    _own_memory(graph)
    if not decomposed:  # it is going to be run, and not written in C
        graph.recompile()
    nest, others = inside
    return graph, (nest, others)


def filled(leaves: Sequence[Any], structure: Any, tensors: Sequence[Tensor]) -> Any:
    """The arguments again, with other tensors."""
    left = iter(tensors)
    return pytree.tree_unflatten(
        [_as(next(left), leaf) if isinstance(leaf, Tensor) else leaf for leaf in leaves], structure
    )


def _as(tensor: Tensor, like: Tensor) -> Tensor:
    return tensor.requires_grad_() if like.requires_grad and not tensor.requires_grad else tensor


def simplify(graph: fx.GraphModule) -> None:
    """Drop what has no effect on the result: unused, repeated and trivial operators."""
    seen: dict[Any, fx.Node] = {}
    for node in graph.graph.nodes:
        if node.op != "call_function":
            continue
        if _changes_nothing(node):
            node.replace_all_uses_with(node.args[0])
        elif (origin := _shape_given_back(node)) is not None:
            node.replace_all_uses_with(origin)
        else:
            found = seen.setdefault(_key(node), node)
            if found is not node:
                node.replace_all_uses_with(found)
    graph.graph.eliminate_dead_code()


def _own_memory(graph: fx.GraphModule) -> None:
    """Copy what is returned of arguments and constants, or twice: whoever changes a result changes nothing else."""
    (output,) = (node for node in graph.graph.nodes if node.op == "output")
    found: list[fx.Node] = []
    for node in output.args[0]:
        given = node.op != "call_function" or node in found
        found.append(_copy(graph, node, output) if given else node)
    output.args = (found,)


def _copy(graph: fx.GraphModule, node: fx.Node, before: fx.Node) -> fx.Node:
    with graph.graph.inserting_before(before):
        copy = graph.graph.call_function(_aten.clone.default, (node,))
    copy.meta["val"] = node.meta["val"] if "val" in node.meta else getattr(graph, str(node.target))
    return copy


def _random(node: fx.Node) -> bool:
    """Whether two calls of the operator give two results."""
    return torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ())


def _key(node: fx.Node) -> Any:
    def plain(value: Any) -> Any:
        if isinstance(value, (list, tuple)):
            return tuple(plain(one) for one in value)
        # 1, 1.0 and True are equal and give different types; -0.0 equals 0.0
        return (type(value).__name__, repr(value)) if isinstance(value, (bool, int, float)) else value

    return (node.target, plain(node.args), tuple((name, plain(v)) for name, v in node.kwargs.items()))


def _changes_nothing(node: fx.Node) -> bool:
    if node.target in (_aten.detach.default, _aten.alias.default, _aten.lift_fresh_copy.default):
        return True
    source = node.args[0] if node.args else None
    if not isinstance(source, fx.Node) or "val" not in source.meta or "val" not in node.meta:
        return False
    before, after = source.meta["val"], node.meta["val"]
    if not (isinstance(before, Tensor) and isinstance(after, Tensor)):
        return False
    if node.target in (_aten.mul.Tensor, _aten.mul.Scalar, _aten.div.Tensor, _aten.div.Scalar):
        same = before.shape == after.shape and before.dtype == after.dtype
        return same and isinstance(node.args[1], (int, float)) and node.args[1] == 1
    if node.target is _aten.permute.default:
        return list(node.args[1]) == list(range(before.dim()))  # type: ignore[arg-type]
    if node.target is _aten.pow.Tensor_Scalar:
        return bool(node.args[1] == 1) and before.dtype == after.dtype
    return node.target in (*_RESHAPES, _aten.expand.default) and before.shape == after.shape


def _shape_given_back(node: fx.Node) -> fx.Node | None:
    """The node whose values these are in the same shape, after views that only name axes otherwise."""
    origin: Any = node
    while origin.target in _RESHAPES:
        origin = origin.args[0]
        if origin.meta["val"].shape == node.meta["val"].shape:
            return origin  # type: ignore[no-any-return]
    return None


def _writes(node: fx.Node) -> bool:
    schema = getattr(node.target, "_schema", None)
    return node.op == "call_function" and schema is not None and schema.is_mutable


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def _simple_operators() -> Any:
    from torch._decomp import core_aten_decompositions, get_decompositions

    more = (
        *(_aten._log_softmax, _aten._softmax, _aten._log_softmax_backward_data, _aten._softmax_backward_data),
        *(_aten.native_layer_norm, _aten.native_layer_norm_backward, _aten.native_group_norm),
        *(_aten.var_mean, _aten.var, _aten.std, _aten.gelu, _aten.gelu_backward, _aten.elu, _aten.leaky_relu),
        *(_aten.softplus, _aten.silu, _aten.linalg_vector_norm, _aten.nll_loss_forward, _aten.stack),
    )
    table = {**core_aten_decompositions(), **get_decompositions(more)}
    # what C has itself is not taken apart, some of it at a loss of precision
    return {op: rule for op, rule in table.items() if op not in POINTWISE}
