"""A function of tensors as one graph for any number of rows, which programs without this package run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from .modes import while_tracing
from .trace import Untraceable

__all__ = ["open_graph", "padded_rows"]

_aten = torch.ops.aten
_WITH_NUMBER = {
    getattr(getattr(_aten, name), kind): getattr(_aten, name).Tensor
    for name in ("add", "sub", "mul", "div")
    for kind in ("Tensor", "Scalar")
}
# rows of zeros after the real ones: torch treats sizes of 0 and 1 as special, and no size is below this one
_PADDING = 2


def padded_rows(x: Tensor) -> Tensor:
    """Two rows of zeros behind the rows `(n, ...)`, so that a graph holds for no row and for one.

    Example:
        >>> padded_rows(torch.ones(1, 1)).flatten().tolist()
        [1.0, 0.0, 0.0]
    """
    return torch.cat([x, x.new_zeros(_PADDING, *x.shape[1:])])


def open_graph(function: Callable[..., Sequence[Tensor]], *examples: Tensor) -> fx.GraphModule:
    """The graph of a function whose arguments may have any number of rows, derivatives inside it included.

    Arguments:
        function: pure; of tensors `(n, ...)` to a list of tensors. It sees rows of zeros at the end of what it pads
            with `padded_rows`.
        examples: an argument each, with sizes that no other dimension has by accident; 5 rows or more.

    Returns:
        A module of the same arguments, of operators of torch alone and without autograd.

    Raises:
        Untraceable: the function decides by values, or by numbers of rows.

    Example:
        >>> def slope(x):
        ...     x = x.detach().requires_grad_()
        ...     return [torch.autograd.grad((x**2).sum(), x)[0]]
        >>> graph = open_graph(slope, torch.ones(7))
        >>> [graph(torch.ones(rows))[0].shape[0] for rows in (2, 30)]
        [2, 30]
    """
    from torch.fx.experimental.proxy_tensor import make_fx

    def detached(*given: Tensor) -> list[Tensor]:
        return [result.detach() for result in function(*given)]

    try:
        with torch.enable_grad(), while_tracing(any_rows=True):
            traced = make_fx(
                detached,
                decomposition_table=_rules(),
                tracing_mode="symbolic",
                _allow_non_fake_inputs=True,
            )
            graph = traced(*(example.detach().contiguous() for example in examples))
    except Exception as error:  # whatever a user's module may do under tracing
        line = next((part.strip() for part in str(error).splitlines() if part.strip()), type(error).__name__)
        raise Untraceable(f"no graph: {line}") from error
    _own_constants(graph)
    _exact_numbers(graph)
    for node in graph.graph.nodes:
        if node.target is _aten.view.default:  # memory of other strides than in tracing has no such view
            node.target = _aten.reshape.default
        if node.target in (_aten._assert_async.msg, _aten._linalg_check_errors.default):
            # a file has nobody to raise an error to: NaN says it
            graph.graph.erase_node(node)
    graph.graph.eliminate_dead_code()
    graph.recompile()
    return graph


def _own_constants(graph: fx.GraphModule) -> None:
    """Constants as buffers, which stay with the graph inside another module."""
    for name in {str(node.target) for node in graph.graph.nodes if node.op == "get_attr"}:
        value = getattr(graph, name)
        if isinstance(value, Tensor) and name not in dict(graph.named_buffers()):
            delattr(graph, name)
            graph.register_buffer(name, value.detach().clone())


def _exact_numbers(graph: fx.GraphModule) -> None:
    """Numbers that single precision does not hold as constants in double: formats of files keep numbers in single."""
    for node in graph.graph.nodes:
        number, value = (node.args[1] if len(node.args) > 1 else None), node.meta.get("val")
        if node.target not in _WITH_NUMBER or not isinstance(number, float) or not isinstance(value, Tensor):
            continue
        if (
            value.dtype != torch.float64
            or float(torch.tensor(number, dtype=torch.float32, device="cpu")) == number
        ):
            continue
        name = f"_number_{len(list(graph.buffers()))}"
        graph.register_buffer(name, torch.tensor(number, dtype=torch.float64, device=value.device))
        with graph.graph.inserting_before(node):
            constant = graph.graph.get_attr(name)
        node.args = (node.args[0], constant, *node.args[2:])
        node.target = _WITH_NUMBER[node.target]


def _rules() -> dict[Any, Callable[..., Any]]:
    """Operators that formats of files lack, in others."""
    return {
        _aten.cholesky_solve.default: _cholesky_solve,
        _aten.median.dim: _median,
        _aten.searchsorted.Tensor: _searchsorted,
        _aten.take.default: _take,
        _aten._cdist_forward.default: _distances,
        _aten.logsumexp.default: _logsumexp,
    }


def _cholesky_solve(b: Tensor, factor: Tensor, upper: bool = False) -> Tensor:
    lower = factor.mT if upper else factor
    half = torch.linalg.solve_triangular(lower, b, upper=False)
    found: Tensor = torch.linalg.solve_triangular(lower.mT, half, upper=True)
    return found


def _median(x: Tensor, dim: int, keepdim: bool = False) -> tuple[Tensor, Tensor]:
    values, places = x.sort(dim)
    middle = (x.shape[dim] - 1) // 2
    found = [part.narrow(dim, middle, 1) for part in (values, places)]
    value, place = found if keepdim else [part.squeeze(dim) for part in found]
    return value, place


def _searchsorted(known: Tensor, values: Tensor, **options: object) -> Tensor:
    if known.dim() != 1 or options.get("right") or options.get("side") == "right":
        raise NotImplementedError("searchsorted in several sequences, or from the right")
    return (known < values.unsqueeze(-1)).sum(-1)


def _take(x: Tensor, index: Tensor) -> Tensor:
    return x.flatten().index_select(0, index.flatten()).reshape(index.shape)


def _distances(x: Tensor, y: Tensor, p: float, mode: int | None = None) -> Tensor:
    if p != 2:
        raise NotImplementedError(f"distances of order {p}")
    return (x.unsqueeze(-2) - y.unsqueeze(-3)).square().sum(-1).sqrt()


def _logsumexp(x: Tensor, dim: Sequence[int], keepdim: bool = False) -> Tensor:
    axes = list(dim)
    largest = x.amax(axes, keepdim=True).detach()
    total: Tensor = (x - largest).exp().sum(axes, keepdim=True).log() + largest
    return total if keepdim else total.squeeze(axes)
