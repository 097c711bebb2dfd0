"""A trained model of a table as one file: raw columns and support rows in, predictions out, without this package."""

from __future__ import annotations

import io
import json
import warnings
from collections.abc import Callable, Sequence
from importlib.metadata import version
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from ..engine.open_graph import open_graph
from ..engine.trace import Untraceable
from ..errors import UsageError
from ..inner.adaptation import adaptation, require_row_by_row
from ..inner.model import Model
from ..tasks.tables.columns import Column
from ..tasks.tables.schema import Schema
from .interval_columns import Intervals

if TYPE_CHECKING:
    from torch.export import ExportedProgram

__all__ = ["METADATA", "TableFile", "table_file", "torch_bytes"]

Columns = dict[str, Tensor]
METADATA = "innerloop.json"  # the name of what a file says of its columns
# rows of the examples, which no size of a network is likely to have
_SUPPORT, _QUERY = 97, 101


class TableFile(NamedTuple):
    """A model of a table as a program of raw columns.

    Arguments:
        program: of a dict of support columns, targets among them, and a dict of query columns, to a dict of columns.
        support: names of the support columns, in order.
        query: names of the query columns.
        outputs: names of the columns that are predicted.
        metadata: what the columns mean, as plain data.
    """

    program: ExportedProgram
    support: tuple[str, ...]
    query: tuple[str, ...]
    outputs: tuple[str, ...]
    metadata: dict[str, object]


def table_file(model: Model, schema: Schema, *, intervals: Intervals | None, sha256: str) -> TableFile:
    """The whole way from raw columns to predictions of one task as one graph, in double precision.

    Columns are float64 numbers `(n,)`, NaN where a value is missing: numbers, dates as days since 1970-01-01, truth
    values as 0 and 1. A category, or a class, is the number of its level (int64), -1 for any other value.

    Arguments:
        model: the model.
        schema: what the columns mean.
        intervals: of which level; no intervals unless given.
        sha256: names the content of the directory that the model comes from.

    Raises:
        UsageError: the model has no graph, or tasks have classes of their own.
    """
    if schema.n_way:
        raise UsageError(
            "tasks with classes of their own (--labels per_task) are explained by the names of their rows, which no "
            "graph can number: such a model is not exported"
        )
    meta = {name: v.double() if v.is_floating_point() else v for name, v in model.to("cpu").meta.items()}
    model = Model(model.learner, meta)
    require_row_by_row(model, torch.randn(4, schema.n_features, dtype=torch.float64, device="cpu"))
    features = tuple(column.name for column in schema.columns)
    support = (*features, *(column.name for column in schema.target_columns))
    examples = [
        *(_example(column.kind == "category", _SUPPORT) for column in schema.columns),
        *(_example(schema.kind == "classification", _SUPPORT) for _ in schema.target_columns),
        *(_example(column.kind == "category", _QUERY) for column in schema.columns),
    ]
    outputs: list[str] = []
    try:
        graph = open_graph(_raw(model, schema, intervals, outputs), *examples)
    except Untraceable as error:
        raise UsageError(f"this model is not exported: {error}") from error
    program = _program(_Named(graph, support, features, tuple(outputs)), examples)
    return TableFile(
        program,
        support,
        features,
        tuple(outputs),
        _metadata(schema, outputs, intervals=intervals, sha256=sha256),
    )


def torch_bytes(file: TableFile) -> bytes:
    """The file that `torch.export.load` reads."""
    content = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its own future
        torch.export.save(file.program, content, extra_files={METADATA: json.dumps(file.metadata)})
    return content.getvalue()


def _example(whole: bool, rows: int) -> Tensor:
    return torch.zeros(rows, dtype=torch.int64 if whole else torch.float64, device="cpu")


class _Named(nn.Module):
    """A graph of tensors in a row, as a function of columns by name."""

    def __init__(
        self, graph: nn.Module, support: tuple[str, ...], query: tuple[str, ...], outputs: tuple[str, ...]
    ) -> None:
        super().__init__()
        self.adapting, self.support, self.query, self.outputs = graph, support, query, outputs

    def forward(self, support: dict[str, Tensor], query: dict[str, Tensor]) -> dict[str, Tensor]:
        """Adapt to the support rows and predict the query rows."""
        columns = [*(support[name] for name in self.support), *(query[name] for name in self.query)]
        return dict(zip(self.outputs, self.adapting(*columns), strict=True))


def _program(module: _Named, examples: Sequence[Tensor]) -> ExportedProgram:
    from torch.export import Dim

    count = len(module.support)
    support = dict(zip(module.support, examples[:count], strict=True))
    query = dict(zip(module.query, examples[count:], strict=True))
    rows, asked = Dim("support_rows", min=0), Dim("query_rows", min=0)
    shapes = ({name: {0: rows} for name in support}, {name: {0: asked} for name in query})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its own future
        return torch.export.export(module, (support, query), dynamic_shapes=shapes)


def _raw(
    model: Model, schema: Schema, intervals: Intervals | None, outputs: list[str]
) -> Callable[..., list[Tensor]]:
    """The function of raw columns: those of the support, its targets, those of the query; `outputs` gets names."""
    adapted, n_features = adaptation(model), len(schema.columns)
    n_targets = len(schema.target_columns)

    def raw(*columns: Tensor) -> list[Tensor]:
        x = _encoded(schema.columns, columns[:n_features])
        targets = columns[n_features : n_features + n_targets]
        query = _encoded(schema.columns, columns[n_features + n_targets :])
        values, variance = adapted(x, _targets(schema, targets), query)
        if schema.kind == "classification":
            known = (targets[0] >= 0).all()
            values = torch.where(known, values, torch.full_like(values, torch.nan))
        decoded = _decoded(schema, values)
        if intervals is not None:
            decoded |= _with_intervals(schema, intervals, values, variance, x.new_ones(x.shape[0]).sum())
        outputs[:] = decoded
        return list(decoded.values())

    return raw


def _encoded(columns: Sequence[Column], values: Sequence[Tensor]) -> Tensor:
    """What `Schema.encode` makes of a table, `(n, F)`, in double precision."""
    parts = []
    for column, value in zip(columns, values, strict=True):
        if column.kind == "category":
            levels = torch.arange(len(column.levels), device="cpu")
            parts.append((value.unsqueeze(-1) == levels).double())
            continue
        gaps = value.isnan()
        filled = torch.where(gaps, torch.tensor(column.mean, dtype=torch.float64, device="cpu"), value)
        if column.kind != "flag":
            filled = filled / column.scale - column.mean / column.scale
        parts.append(filled.float().double().unsqueeze(-1))
        if column.missing:
            parts.append(gaps.double().unsqueeze(-1))
    return torch.cat(parts, -1)


def _targets(schema: Schema, values: Sequence[Tensor]) -> Tensor:
    """What `Schema.encode_target` makes of them; a class that is unknown counts as the first for now."""
    if schema.kind == "classification":
        return values[0].clamp(min=0)
    scaled = [
        ((value - column.mean) / column.scale).float().double()
        for column, value in zip(schema.target_columns, values, strict=True)
    ]
    return torch.stack(scaled, -1)


def _decoded(schema: Schema, values: Tensor) -> Columns:
    """What `Schema.decode` makes of predictions; a class is its number, -1 where there is none."""
    if schema.kind == "regression":
        names = [f"prediction{suffix}" for suffix in _suffixes(schema)]
        return dict(zip(names, _natural(schema, values), strict=True))
    shares = values.softmax(-1)
    sure = values.isnan().any(-1)
    number = torch.where(sure, torch.full_like(sure, -1, dtype=torch.int64), shares.argmax(-1))
    chances = {f"probability_{name}": shares[:, place] for place, name in enumerate(schema.classes)}
    return {"prediction": number, **chances}


def _natural(schema: Schema, values: Tensor) -> list[Tensor]:
    return [
        values[:, place] * column.scale + column.mean for place, column in enumerate(schema.target_columns)
    ]


def _suffixes(schema: Schema) -> list[str]:
    return [f"_{column.name}" for column in schema.target_columns] if schema.more_targets else [""]


def _with_intervals(
    schema: Schema, intervals: Intervals, values: Tensor, variance: Tensor | None, count: Tensor
) -> Columns:
    """Ends of the intervals, or for each class whether it is in the prediction set (1 or 0)."""
    calibration, level = intervals
    known = [
        (size, found)
        for size in calibration.sizes
        if (found := calibration.threshold(size, level)) is not None
    ]
    blank = torch.full((1, values.shape[-1] if schema.kind == "regression" else 1), torch.nan, device="cpu")
    table = torch.cat([blank.double(), *(torch.from_numpy(found)[None].double() for _, found in known)])
    sizes = torch.tensor([size for size, _ in known], dtype=torch.float64, device="cpu")
    limit = table.index_select(0, (sizes <= count).sum().reshape(1))
    if schema.kind == "classification":
        chance = values.softmax(-1)
        inside = (1 - chance <= limit) | (chance == chance.amax(-1, keepdim=True))
        member = torch.where(limit.isnan(), torch.full_like(chance, torch.nan), inside.double())
        return {f"in_set_{name}": member[:, place] for place, name in enumerate(schema.classes)}
    margin = limit if variance is None else limit * variance.sqrt()
    ends = (("lower", values - margin), ("upper", values + margin))
    return {
        f"{end}{suffix}": own
        for end, bound in ends
        for suffix, own in zip(_suffixes(schema), _natural(schema, bound), strict=True)
    }


def _metadata(
    schema: Schema, outputs: Sequence[str], *, intervals: Intervals | None, sha256: str
) -> dict[str, object]:
    """What a file says of its columns."""
    columns = [
        {"name": column.name, "kind": column.kind}
        | ({"levels": list(column.levels)} if column.kind == "category" else {})
        for column in schema.columns
    ]
    return {
        "format": "innerloop export 1",
        "innerloop": version("innerloop"),
        "model": sha256,
        "kind": schema.kind,
        "columns": columns,
        "targets": [column.name for column in schema.target_columns],
        "classes": list(schema.classes),
        "outputs": list(outputs),
        "interval": None if intervals is None else intervals.level,
        "dates": "days since 1970-01-01",
    }
