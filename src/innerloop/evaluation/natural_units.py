"""The terms of a mixed model in the units of the table: what standardised features and their products stand for."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..tasks.tables.schema import Schema

__all__ = ["INTERCEPT", "NaturalTerms", "complete_categories", "natural_terms"]

INTERCEPT = "(Intercept)"

# a product of at most two features, by their positions; `()` is the constant
Monomial = tuple[int, ...]
Sum = dict[Monomial, float]


class NaturalTerms(NamedTuple):
    """Terms in the units of the table, and the standardised ones as sums of them.

    Arguments:
        names: `D'` of them, the constant first.
        weights: `(D, D')`: standardised terms, the constant last, are `weights @ natural terms`.
    """

    names: list[str]
    weights: Tensor


def natural_terms(
    schema: Schema | None,
    products: Sequence[tuple[int, int]],
    *,
    n_features: int,
    complete: Collection[str] = (),
) -> NaturalTerms:
    """The terms of a design of features, products of two and the constant, in the units of the table.

    Arguments:
        schema: what the features are; without one they are as they are.
        products: positions of the two features of each product.
        n_features: features `F`.
        complete: categories of which every row has a level: the first level is what the others are compared with.

    Returns:
        The terms.

    Example:
        >>> import pandas as pd
        >>> frame = pd.DataFrame({"age": [1.0, 3.0], "y": [0.5, 2.0]})  # mean 2, standard deviation 1
        >>> terms = natural_terms(
        ...     Schema.fit(frame, task=None, target="y", kind="regression"), [(0, 0)], n_features=1
        ... )
        >>> terms.names, terms.weights.tolist()
        (['(Intercept)', 'age', 'age^2'], [[-2.0, 1.0, 0.0], [4.0, -4.0, 1.0], [1.0, 0.0, 0.0]])
    """
    names = [f"x{number}" for number in range(n_features)] if schema is None else list(schema.feature_names)
    levels: dict[int, str] = {}  # of one-hot features, their column; truth values are levels of their own
    features: list[Sum] = (
        [{(number,): 1.0} for number in range(n_features)]
        if schema is None
        else _features(schema, levels, complete)
    )
    sums: list[Sum] = [
        *features,
        *(_product(features[a], features[b], levels) for a, b in products),
        {(): 1.0},
    ]
    found = dict.fromkeys(monomial for each in sums for monomial in each)
    order = sorted(found, key=lambda monomial: (len(monomial), monomial))
    weights = torch.tensor(
        [[each.get(monomial, 0.0) for monomial in order] for each in sums],
        dtype=torch.float64,
        device="cpu",
    )
    return NaturalTerms([_name(monomial, names) for monomial in order], weights)


def _features(schema: Schema, levels: dict[int, str], complete: Collection[str]) -> list[Sum]:
    """Each standardised feature as a sum of what the table holds."""
    out: list[Sum] = []
    for column in schema.columns:
        start = len(out)
        if column.kind == "category":
            every = range(start, start + column.width)
            levels |= dict.fromkeys(every, column.name)
            out += [{(number,): 1.0} for number in every]
            if column.name in complete:
                out[start] = {(): 1.0} | {(number,): -1.0 for number in every[1:]}
            continue
        if column.kind == "text":
            out += [{(number,): 1.0} for number in range(start, start + column.width)]
            continue
        if column.kind == "flag":
            levels[start] = column.name
            out.append({(start,): 1.0})
        else:
            out.append({(start,): 1 / column.scale, (): -column.mean / column.scale})
        if column.missing:
            levels[start + 1] = f"{column.name} is missing"
            out.append({(start + 1,): 1.0})
    return out


def _product(one: Sum, other: Sum, levels: Mapping[int, str]) -> Sum:
    """The product of two sums; levels of one column exclude each other, and a level times itself is itself."""
    total: dict[Monomial, float] = {}
    for (left, a), (right, b) in itertools.product(one.items(), other.items()):
        monomial = tuple(sorted(left + right))
        if len(monomial) == 2 and levels.get(monomial[0], 0) == levels.get(monomial[1], 1):
            if monomial[0] != monomial[1]:
                continue
            monomial = monomial[:1]
        total[monomial] = total.get(monomial, 0.0) + a * b
    return total


def _name(monomial: Monomial, names: Sequence[str]) -> str:
    if not monomial:
        return INTERCEPT
    if len(monomial) == 2 and monomial[0] == monomial[1]:
        return f"{names[monomial[0]]}^2"
    return ":".join(names[number] for number in monomial)


def complete_categories(schema: Schema, rows: Tensor) -> list[str]:
    """Categories of which every row `(n, F)` has a level."""
    start, found = 0, []
    for column in schema.columns:
        if column.kind == "category" and bool((rows[:, start : start + column.width].sum(1) == 1).all()):
            found.append(column.name)
        start += column.width
    return found
