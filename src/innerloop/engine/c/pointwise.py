"""C of pointwise operators and of reductions: the table `POINTWISE`, from an operator of torch to a C expression.

The place to add a pointwise operator: one line in `POINTWISE`, and, where C has no such function for every type, one
in `prelude`. The rule must hold for all types in `C_TYPES` that the operator takes. The operators of its derivative
need rules as well: what they are, prints the graph of a gradient (docs/engine-internals.md).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

__all__ = ["C_TYPES", "POINTWISE", "REDUCTIONS", "Operator", "Pointwise", "PointwiseRule", "cast", "number"]

_aten = torch.ops.aten
# an operator of torch (an `OpOverload`): the key of every table of rules
Operator = Callable[..., object]
# types of tensors that a program can hold; all others are `Unsupported`
C_TYPES = {
    torch.float32: "float",
    torch.float64: "double",
    torch.int64: "int64_t",
    torch.int32: "int32_t",
    torch.bool: "uint8_t",
}


@dataclass(frozen=True)
class Pointwise:
    """C of one pointwise operator.

    Arguments:
        code: with `{0}`, `{1}`, ... for the operands and `{s}` for the suffix (`f`, `d`, `i`) of the functions of
            `prelude` for its type.
        casts: for each operand the type it is converted to: that of the (r)esult, that which the (o)perands promote
            to (comparisons), or none, as it (i)s (conditions).
        common: the type that the operands promote to; filled in where `casts` asks for it.

    Example:
        >>> Pointwise("exp_{s}({0})").text(["x"], [torch.float32], torch.float64)
        '(exp_d(((double)x)))'
    """

    code: str
    casts: str = "rrrr"
    common: torch.dtype | None = None

    def text(self, args: Sequence[str], dtypes: Sequence[torch.dtype], result: torch.dtype) -> str:
        """The C expression of some operands, in parentheses.

        Arguments:
            args: C of the operands.
            dtypes: their types.
            result: the type of the result.
        """
        wanted = {"r": result, "o": self.common, "i": None}
        shown = [
            cast(arg, dtype, wanted[kind]) for arg, dtype, kind in zip(args, dtypes, self.casts, strict=False)
        ]
        suffix = suffix_of(self.common if "o" in self.casts else result)
        return f"({self.code.format(*shown, s=suffix)})"


def suffix_of(dtype: torch.dtype | None) -> str:
    """The suffix of the functions of a type: `f`, `d`, and `i` for all whole numbers."""
    return {torch.float64: "d", torch.float32: "f"}.get(dtype or torch.float32, "i")


def cast(text: str, dtype: torch.dtype, wanted: torch.dtype | None) -> str:
    """A C expression of one type, converted to another where they differ."""
    if wanted is None or dtype == wanted:
        return text
    if wanted == torch.bool:
        return f"({text} != 0)"
    return f"(({C_TYPES[wanted]}){text})"


def number(value: float, dtype: torch.dtype) -> str:
    """A C literal; floating numbers are hexadecimal, hence exact."""
    if dtype.is_floating_point:
        value = float(value)
        suffix = "f" if dtype == torch.float32 else ""
        if math.isnan(value):
            return "NAN"
        if math.isinf(value):
            return "INFINITY" if value > 0 else "(-INFINITY)"
        text = (
            value.hex()
            if dtype == torch.float64
            else float(torch.tensor(value, dtype=dtype, device="cpu")).hex()
        )
        return f"({text}{suffix})"
    if dtype == torch.bool:
        return str(int(bool(value)))
    return f"((int64_t){int(value)}LL)" if int(value) != -(2**63) else "INT64_MIN"


# ---- pointwise operators -------------------------------------------------------------------------------------

# from the arguments of an operator, values of tensors among them, to its C and the operands of that
Args = Sequence[Any]
Kwargs = Mapping[str, object]
Lowered = tuple[Pointwise, list[object]]
PointwiseRule = Callable[[Args, Kwargs], Lowered]


def _plain(code: str, casts: str = "rrrr") -> PointwiseRule:
    """A rule for an operator all of whose arguments are operands."""
    return lambda args, kwargs: (Pointwise(code, casts), list(args))


def _scaled(code: str, scaled: str = "{1}") -> PointwiseRule:
    """Addition and subtraction, where one operand may have a factor (`alpha`); a sum of truth values is their or."""

    def rule(args: Args, kwargs: Kwargs) -> Lowered:
        factor = kwargs.get("alpha", args[2] if len(args) > 2 else 1)
        if all(isinstance(arg, bool) or getattr(arg, "dtype", None) == torch.bool for arg in args[:2]):
            return Pointwise("{0} | {1}"), list(args[:2])
        if factor == 1:
            return Pointwise(code), list(args[:2])
        return Pointwise(code.replace(scaled, f"{{2}} * {scaled}")), [args[0], args[1], factor]

    return rule


def _power(args: Args, kwargs: Kwargs) -> Lowered:
    """A constant exponent by products and roots, as torch does; any other by `pow`."""
    base, exponent = args
    known = {0: "1", 1: "{0}", 2: "sq_{s}({0})", 3: "cube_{s}({0})", 0.5: "sqrt_{s}({0})", -1: "1 / {0}"}
    known |= {-0.5: "1 / sqrt_{s}({0})", -2: "1 / sq_{s}({0})", -1.5: "1 / cube_{s}(sqrt_{s}({0}))"}
    if isinstance(exponent, (int, float)) and exponent in known:
        return Pointwise(known[exponent]), [base]
    return Pointwise("pow_{s}({0}, {1})"), [base, exponent]


def _bitwise_not(args: Args, kwargs: Kwargs) -> Lowered:
    return Pointwise("!{0}" if args[0].dtype == torch.bool else "~{0}"), list(args)


def _clamp(args: Args, kwargs: Kwargs) -> Lowered:
    """A bound that is not given is the end of the type."""
    low = kwargs.get("min", args[1] if len(args) > 1 else None)
    high = kwargs.get("max", args[2] if len(args) > 2 else None)
    least, most = -math.inf, math.inf
    if not args[0].dtype.is_floating_point and not any(isinstance(bound, float) for bound in (low, high)):
        ends = torch.iinfo(torch.int64 if args[0].dtype == torch.bool else args[0].dtype)
        least, most = ends.min, ends.max
    low = least if low is None else low
    high = most if high is None else high
    return Pointwise("clamp_{s}({0}, {1}, {2})"), [args[0], low, high]


def _first(code: str) -> PointwiseRule:
    """Operators whose further arguments only name types and layouts."""
    return lambda args, kwargs: (Pointwise(code), [args[0]])


def _unary(*names: str) -> dict[Operator, PointwiseRule]:
    """Operators of one tensor that are a function of `prelude` with the same name."""
    return {getattr(_aten, name).default: _plain(f"{name}_{{s}}({{0}})") for name in names}


def _binary(name: str, code: str, casts: str = "rrrr") -> dict[Operator, PointwiseRule]:
    """The same operator on a tensor and on a number."""
    packet = getattr(_aten, name)
    forms = ("Tensor", "Scalar", "default", "Tensor_Scalar")
    return {getattr(packet, form): _plain(code, casts) for form in forms if form in packet.overloads()}


def _signs(signs: Mapping[str, str], casts: str = "rrrr") -> dict[Operator, PointwiseRule]:
    """Binary operators that C has a sign for."""
    return {
        key: rule
        for name, sign in signs.items()
        for key, rule in _binary(name, f"{{0}} {sign} {{1}}", casts).items()
    }


POINTWISE: dict[Operator, PointwiseRule] = {
    **_unary("exp", "log", "log1p", "expm1", "tanh", "sigmoid", "sqrt", "sin", "cos", "erf", "abs", "floor"),
    **_unary(
        "sign", "relu", "tan", "sinh", "cosh", "asin", "acos", "atan", "asinh", "acosh", "atanh", "erfc"
    ),
    **_unary("ceil", "round", "trunc", "exp2", "log2", "log10"),
    _aten.rsqrt.default: _plain("1 / sqrt_{s}({0})"),
    _aten.reciprocal.default: _plain("1 / {0}"),
    _aten.neg.default: _plain("-{0}"),
    _aten.isnan.default: _plain("{0} != {0}", "i"),
    _aten.isinf.default: _plain("isinf({0}) != 0", "i"),
    _aten.add.Tensor: _scaled("{0} + {1}"),
    _aten.add.Scalar: _scaled("{0} + {1}"),
    _aten.sub.Tensor: _scaled("{0} - {1}"),
    _aten.sub.Scalar: _scaled("{0} - {1}"),
    _aten.rsub.Scalar: _scaled("{1} - {0}", "{0}"),
    **_signs({"mul": "*"}),
    _aten.div.Tensor: _plain("{0} / {1}"),
    _aten.div.Scalar: _plain("{0} / {1}"),
    torch.ops.prims.div.default: _plain("{0} / {1}"),
    **_binary("maximum", "max_{s}({0}, {1})"),
    **_binary("minimum", "min_{s}({0}, {1})"),
    _aten.pow.Tensor_Scalar: _power,
    _aten.pow.Tensor_Tensor: _plain("pow_{s}({0}, {1})"),
    _aten.pow.Scalar: _plain("pow_{s}({0}, {1})"),
    **_binary("remainder", "mod_{s}({0}, {1})"),
    **_binary("fmod", "fmod_{s}({0}, {1})"),
    **_binary("atan2", "atan2_{s}({0}, {1})"),
    _aten.clamp.default: _clamp,
    _aten.clamp_min.default: _plain("max_{s}({0}, {1})"),
    _aten.clamp_max.default: _plain("min_{s}({0}, {1})"),
    **_signs({"eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">="}, "oo"),
    _aten.where.self: _plain("{0} ? {1} : {2}", "irr"),
    _aten.logical_not.default: _plain("!{0}", "i"),
    _aten.logical_and.default: _plain("({0} != 0) & ({1} != 0)", "ii"),
    _aten.logical_or.default: _plain("({0} != 0) | ({1} != 0)", "ii"),
    _aten.bitwise_not.default: _bitwise_not,
    **_signs({"bitwise_and": "&", "bitwise_or": "|", "bitwise_xor": "^", "__and__": "&", "__xor__": "^"}),
    **_signs(
        {"bitwise_right_shift": ">>", "bitwise_left_shift": "<<", "__rshift__": ">>", "__lshift__": "<<"}
    ),
    _aten.clone.default: _first("{0}"),
    _aten._to_copy.default: _first("{0}"),
    _aten.copy.default: lambda args, kwargs: (Pointwise("{0}"), [args[1]]),
    _aten.tanh_backward.default: _plain("{0} * (1 - sq_{s}({1}))"),
    _aten.sigmoid_backward.default: _plain("{0} * (1 - {1}) * {1}"),
    **dict.fromkeys(
        (_aten.hardshrink_backward.default, _aten.softshrink_backward.default),
        _plain("{1} >= -{2} && {1} <= {2} ? 0 : {0}"),
    ),
    _aten.threshold_backward.default: _plain("{1} <= {2} ? 0 : {0}"),
    _aten.addcmul.default: lambda args, kwargs: (
        Pointwise("{0} + {3} * {1} * {2}"),
        [*args[:3], kwargs.get("value", 1)],
    ),
}


@dataclass(frozen=True)
class Reduction:
    """How elements are reduced to one.

    Arguments:
        start: of the accumulator `acc`, for each type.
        step: what one element does to it.
        simd: a pragma for the loop over elements, which may allow several accumulators at once.
    """

    start: Mapping[torch.dtype, str]
    step: str
    simd: str


REDUCTIONS = {
    "sum": Reduction(dict.fromkeys(C_TYPES, "0"), "acc += {value};", "#pragma omp simd reduction(+:acc)"),
    # NaN wins, as in torch; no reassociation, which would lose it
    "max": Reduction(
        {
            **dict.fromkeys((torch.float32, torch.float64), "-INFINITY"),
            torch.int64: "INT64_MIN",
            torch.int32: "INT32_MIN",
            torch.bool: "0",
        },
        "__typeof__(acc) v = {value}; acc = (v > acc || v != v) ? v : acc;",
        "",
    ),
    "min": Reduction(
        {
            **dict.fromkeys((torch.float32, torch.float64), "INFINITY"),
            torch.int64: "INT64_MAX",
            torch.int32: "INT32_MAX",
            torch.bool: "1",
        },
        "__typeof__(acc) v = {value}; acc = (v < acc || v != v) ? v : acc;",
        "",
    ),
}
