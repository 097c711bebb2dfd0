"""Tracing: a function of tensors, with the gradients it takes inside, as one graph of operators.

`graph_of` runs the function once under make_fx with fake tensors, which have shapes and no values; autograd runs under
it, so that the graph holds the operators of every derivative and no bookkeeping. `simplify` then does common
subexpression elimination (CSE), drops operators that change nothing, and eliminates dead code.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from .c.indexing import INDEXING
from .c.pointwise import POINTWISE
from .functionalize import functionalized, writes
from .modes import while_tracing
from .ops import closed_operators

__all__ = ["Untraceable", "graph_of", "simplify"]

_aten = torch.ops.aten
_RESHAPES = {
    *(_aten.view.default, _aten._unsafe_view.default, _aten.reshape.default, _aten.unsqueeze.default),
    *(_aten.squeeze.default, _aten.squeeze.dim, _aten.squeeze.dims),
}


class Untraceable(Exception):
    """The function cannot be written down as one graph."""


def graph_of(
    function: Callable[..., object],
    leaves: Sequence[object],
    structure: pytree.TreeSpec,
    *,
    decomposed: bool = False,
) -> tuple[fx.GraphModule, tuple[pytree.TreeSpec, list[object]]]:
    """The graph of one call.

    Arguments:
        function: pure; of any pytree of tensors, to any pytree of tensors.
        leaves: its arguments, flat; what is no tensor becomes part of the graph.
        structure: of the pytree of the arguments.
        decomposed: write composite operators as several simple ones, as lowering to C needs them.

    Returns:
        A module from the tensors among the leaves to the flat list of tensors returned; and what `unflattener` takes
        to make the result of them: its structure, and its leaves that are no tensors.

    Raises:
        Untraceable: the function decides by values, or calls what has no graph.

    Example:
        >>> graph, _ = graph_of(lambda x: (x * 2, x * 2), [torch.ones(3)], pytree.tree_structure((0,)))
        >>> [node.op for node in graph.graph.nodes if node.target is torch.ops.aten.mul.Tensor]
        ['call_function']
    """
    # importing this takes longer than the rest of the package
    from torch.fx.experimental.proxy_tensor import make_fx

    result: list[Any] = []
    rules = _decompositions() if decomposed else None

    def written(function: Callable[..., list[Tensor]], tensors: Sequence[Tensor]) -> fx.GraphModule:
        traced = make_fx(
            function, decomposition_table=rules, tracing_mode="fake", _allow_non_fake_inputs=True
        )
        return traced(*tensors)

    def flat(*given: Tensor) -> list[Tensor]:
        results, spec = pytree.tree_flatten(function(*_with_tensors(leaves, structure, given)))
        result[:] = [spec, [None if isinstance(leaf, Tensor) else leaf for leaf in results]]
        return [leaf.detach() for leaf in results if isinstance(leaf, Tensor)]

    # one tensor given twice would become one input: the graph must hold for two
    tensors = [leaf.detach().contiguous() for leaf in leaves if isinstance(leaf, Tensor)]
    try:
        with torch.enable_grad(), while_tracing(compiling=decomposed), closed_operators():
            graph = functionalized(written(flat, tensors), tensors, written)
    except Exception as error:  # whatever a user's function may do under tracing
        raise Untraceable(f"no graph: {_first_line(error)}") from error
    if any(writes(node) or _is_random(node) for node in graph.graph.nodes):
        raise Untraceable("no graph: an operator writes into its argument, or draws random numbers")
    simplify(graph)
    _copy_aliased_results(graph)
    if not decomposed:  # it is going to be run, and not lowered to C
        graph.recompile()
    spec, constants = result
    return graph, (spec, constants)


def _with_tensors(leaves: Sequence[object], structure: pytree.TreeSpec, tensors: Sequence[Tensor]) -> Any:
    """The arguments again, with other tensors, which require gradients where the first ones did."""
    rest = iter(tensors)
    return pytree.tree_unflatten(
        [_like(next(rest), leaf) if isinstance(leaf, Tensor) else leaf for leaf in leaves], structure
    )


def _like(tensor: Tensor, original: Tensor) -> Tensor:
    return tensor.requires_grad_() if original.requires_grad and not tensor.requires_grad else tensor


def simplify(graph: fx.GraphModule) -> None:
    """Common subexpression elimination, identities removed, dead code eliminated; in place.

    Every operator of a graph is pure, so that two with the same target and arguments are one (`_cse_key`).
    """
    unique: dict[Hashable, fx.Node] = {}
    for node in graph.graph.nodes:
        if node.op != "call_function":
            continue
        if node.target is _aten.full_like.default:
            _without_operand(node)
        if _is_identity(node):
            node.replace_all_uses_with(node.args[0])
        elif (origin := _undone_reshape(node)) is not None:
            node.replace_all_uses_with(origin)
        else:
            first = unique.setdefault(_cse_key(node), node)
            if first is not node:
                node.replace_all_uses_with(first)
    graph.graph.eliminate_dead_code()


def _without_operand(node: fx.Node) -> None:
    """A constant in the shape of another tensor does not depend on that tensor."""
    value = node.meta["val"]
    node.target = _aten.full.default
    node.args = (list(value.shape), node.args[1])
    node.kwargs = {"dtype": value.dtype, "device": value.device}


def _copy_aliased_results(graph: fx.GraphModule) -> None:
    """Copy what is returned of arguments and constants, or twice: whoever changes a result changes nothing else."""
    (output,) = (node for node in graph.graph.nodes if node.op == "output")
    results: list[fx.Node] = []
    for node in output.args[0]:
        aliased = node.op != "call_function" or node in results
        results.append(_copy(graph, node, output) if aliased else node)
    output.args = (results,)


def _copy(graph: fx.GraphModule, node: fx.Node, before: fx.Node) -> fx.Node:
    """A clone of a node's value, computed before another node."""
    with graph.graph.inserting_before(before):
        copy = graph.graph.call_function(_aten.clone.default, (node,))
    copy.meta["val"] = node.meta["val"] if "val" in node.meta else getattr(graph, str(node.target))
    return copy


def _is_random(node: fx.Node) -> bool:
    """Whether two calls of the operator give two results."""
    return torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ())


def _cse_key(node: fx.Node) -> Hashable:
    """Equal for operators with the same result: target, arguments and the types of numbers among them."""

    def plain(value: object) -> Hashable:
        if isinstance(value, (list, tuple)):
            return tuple(plain(one) for one in value)
        # 1, 1.0 and True are equal and give different types; -0.0 equals 0.0
        return (type(value).__name__, repr(value)) if isinstance(value, (bool, int, float)) else value

    return (node.target, plain(node.args), tuple((name, plain(v)) for name, v in node.kwargs.items()))


def _is_identity(node: fx.Node) -> bool:
    """Whether the result of an operator is its first argument: a view of the same shape, a product with 1."""
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


def _undone_reshape(node: fx.Node) -> fx.Node | None:
    """The node before a chain of reshapes that ends in the shape it began with, if this node ends one."""
    origin: Any = node
    while origin.target in _RESHAPES:
        origin = origin.args[0]
        if origin.meta["val"].shape == node.meta["val"].shape:
            return origin  # type: ignore[no-any-return]
    return None


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def _decompositions() -> dict[Any, Callable[..., Any]]:
    """How composite operators are written in simple ones: torch's core table, and some of its further rules."""
    from torch._decomp import core_aten_decompositions, get_decompositions

    more = (
        *(_aten._log_softmax, _aten._softmax, _aten._log_softmax_backward_data, _aten._softmax_backward_data),
        *(_aten.native_layer_norm, _aten.native_layer_norm_backward, _aten.native_group_norm),
        *(_aten.var_mean, _aten.var, _aten.std, _aten.gelu, _aten.gelu_backward, _aten.elu, _aten.leaky_relu),
        *(_aten.softplus, _aten.silu, _aten.linalg_vector_norm, _aten.nll_loss_forward, _aten.stack),
        *(_aten.hardtanh, _aten.hardtanh_backward),
        *(_aten.native_batch_norm, _aten.upsample_nearest1d, _aten.upsample_nearest2d),
    )
    table = {**core_aten_decompositions(), **get_decompositions(more)}
    # what C has a rule for is not taken apart, some of it at a loss of precision
    table[torch.ops.prims.broadcast_in_dim.default] = _broadcast_in_dim
    return {op: rule for op, rule in table.items() if op not in POINTWISE and op not in INDEXING}


def _broadcast_in_dim(x: Tensor, shape: Sequence[int], dims: Sequence[int]) -> Tensor:
    """Axes named by their position in a larger shape, as a view."""
    sizes = [1] * len(shape)
    for dim, size in zip(dims, x.shape, strict=True):
        sizes[dim] = size
    return x.reshape(sizes).expand(shape)
