"""What operators are in C: pointwise expressions, reductions, and functions they call."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from .matrices import turn

_aten = torch.ops.aten
C_TYPES = {
    torch.float32: "float",
    torch.float64: "double",
    torch.int64: "int64_t",
    torch.int32: "int32_t",
    torch.bool: "uint8_t",
}


@dataclass(frozen=True)
class Pointwise:
    """C of one operator.

    Arguments:
        code: with `{0}`, `{1}`, ... for the operands and `{s}` for the suffix of functions of its type.
        casts: for each operand the type it is computed in: of the (r)esult, of the (o)perands, or as it (i)s.
        common: the type of the operands together.
    """

    code: str
    casts: str = "rrrr"
    common: torch.dtype | None = None

    def text(self, args: Sequence[str], dtypes: Sequence[torch.dtype], result: torch.dtype) -> str:
        """The expression, in parentheses."""
        wanted = {"r": result, "o": self.common, "i": None}
        shown = [
            cast(arg, dtype, wanted[kind]) for arg, dtype, kind in zip(args, dtypes, self.casts, strict=False)
        ]
        suffix = suffix_of(self.common if "o" in self.casts else result)
        return f"({self.code.format(*shown, s=suffix)})"


def suffix_of(dtype: torch.dtype | None) -> str:
    """The suffix of functions of a type."""
    return {torch.float64: "d", torch.float32: "f"}.get(dtype or torch.float32, "i")


def cast(text: str, dtype: torch.dtype, wanted: torch.dtype | None) -> str:
    """An expression of one type as another."""
    if wanted is None or dtype == wanted:
        return text
    if wanted == torch.bool:
        return f"({text} != 0)"
    return f"(({C_TYPES[wanted]}){text})"


def number(value: float, dtype: torch.dtype) -> str:
    """A literal."""
    if dtype.is_floating_point:
        value = float(value)
        suffix = "f" if dtype == torch.float32 else ""
        if math.isnan(value):
            return "NAN"
        if math.isinf(value):
            return "INFINITY" if value > 0 else "(-INFINITY)"
        text = value.hex() if dtype == torch.float64 else float(torch.tensor(value, dtype=dtype)).hex()
        return f"({text}{suffix})"
    if dtype == torch.bool:
        return str(int(bool(value)))
    return f"((int64_t){int(value)}LL)" if int(value) != -(2**63) else "INT64_MIN"


# ---- pointwise operators -------------------------------------------------------------------------------------

Rule = Callable[[Sequence[Any], Mapping[str, Any]], tuple[Pointwise, list[Any]]]


def _plain(code: str, casts: str = "rrrr") -> Rule:
    return lambda args, kwargs: (Pointwise(code, casts), list(args))


def _scaled(code: str, scaled: str = "{1}") -> Rule:
    """Addition and subtraction, where one operand may have a factor; a sum of truth values is one."""

    def rule(args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[Pointwise, list[Any]]:
        factor = kwargs.get("alpha", args[2] if len(args) > 2 else 1)
        if all(isinstance(arg, bool) or getattr(arg, "dtype", None) == torch.bool for arg in args[:2]):
            return Pointwise("{0} | {1}"), list(args[:2])
        if factor == 1:
            return Pointwise(code), list(args[:2])
        return Pointwise(code.replace(scaled, f"{{2}} * {scaled}")), [args[0], args[1], factor]

    return rule


def _power(args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[Pointwise, list[Any]]:
    base, exponent = args
    known = {0: "1", 1: "{0}", 2: "sq_{s}({0})", 3: "cube_{s}({0})", 0.5: "sqrt_{s}({0})", -1: "1 / {0}"}
    known |= {-0.5: "1 / sqrt_{s}({0})", -2: "1 / sq_{s}({0})", -1.5: "1 / cube_{s}(sqrt_{s}({0}))"}
    if isinstance(exponent, (int, float)) and exponent in known:
        return Pointwise(known[exponent]), [base]
    return Pointwise("pow_{s}({0}, {1})"), [base, exponent]


def _bitwise_not(args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[Pointwise, list[Any]]:
    return Pointwise("!{0}" if args[0].dtype == torch.bool else "~{0}"), list(args)


def _clamp(args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[Pointwise, list[Any]]:
    low = kwargs.get("min", args[1] if len(args) > 1 else None)
    high = kwargs.get("max", args[2] if len(args) > 2 else None)
    least, most = -math.inf, math.inf
    if not args[0].dtype.is_floating_point and not any(isinstance(bound, float) for bound in (low, high)):
        ends = torch.iinfo(args[0].dtype)
        least, most = ends.min, ends.max
    low = least if low is None else low
    high = most if high is None else high
    return Pointwise("clamp_{s}({0}, {1}, {2})"), [args[0], low, high]


def _first(code: str) -> Rule:
    """Operators whose further arguments only name types and layouts."""
    return lambda args, kwargs: (Pointwise(code), [args[0]])


def _unary(*names: str) -> dict[Any, Rule]:
    return {getattr(_aten, name).default: _plain(f"{name}_{{s}}({{0}})") for name in names}


def _binary(name: str, code: str, casts: str = "rrrr") -> dict[Any, Rule]:
    """The same operator on a tensor and on a number."""
    packet = getattr(_aten, name)
    forms = ("Tensor", "Scalar", "default", "Tensor_Scalar")
    return {getattr(packet, form): _plain(code, casts) for form in forms if form in packet.overloads()}


POINTWISE: dict[Any, Rule] = {
    **_unary("exp", "log", "log1p", "expm1", "tanh", "sigmoid", "sqrt", "sin", "cos", "erf", "abs", "floor"),
    **_unary("sign", "relu"),
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
    **_binary("mul", "{0} * {1}"),
    _aten.div.Tensor: _plain("{0} / {1}"),
    _aten.div.Scalar: _plain("{0} / {1}"),
    **_binary("maximum", "max_{s}({0}, {1})"),
    **_binary("minimum", "min_{s}({0}, {1})"),
    _aten.pow.Tensor_Scalar: _power,
    _aten.pow.Tensor_Tensor: _plain("pow_{s}({0}, {1})"),
    _aten.clamp.default: _clamp,
    _aten.clamp_min.default: _plain("max_{s}({0}, {1})"),
    _aten.clamp_max.default: _plain("min_{s}({0}, {1})"),
    **_binary("eq", "{0} == {1}", "oo"),
    **_binary("ne", "{0} != {1}", "oo"),
    **_binary("lt", "{0} < {1}", "oo"),
    **_binary("le", "{0} <= {1}", "oo"),
    **_binary("gt", "{0} > {1}", "oo"),
    **_binary("ge", "{0} >= {1}", "oo"),
    _aten.where.self: _plain("{0} ? {1} : {2}", "irr"),
    _aten.logical_not.default: _plain("!{0}", "i"),
    _aten.logical_and.default: _plain("({0} != 0) & ({1} != 0)", "ii"),
    _aten.logical_or.default: _plain("({0} != 0) | ({1} != 0)", "ii"),
    _aten.bitwise_not.default: _bitwise_not,
    **_binary("bitwise_and", "{0} & {1}"),
    **_binary("bitwise_or", "{0} | {1}"),
    **_binary("bitwise_xor", "{0} ^ {1}"),
    **_binary("bitwise_right_shift", "{0} >> {1}"),
    **_binary("bitwise_left_shift", "{0} << {1}"),
    **_binary("__and__", "{0} & {1}"),
    **_binary("__xor__", "{0} ^ {1}"),
    **_binary("__rshift__", "{0} >> {1}"),
    **_binary("__lshift__", "{0} << {1}"),
    _aten.clone.default: _first("{0}"),
    _aten._to_copy.default: _first("{0}"),
    _aten.tanh_backward.default: _plain("{0} * (1 - sq_{s}({1}))"),
    _aten.sigmoid_backward.default: _plain("{0} * (1 - {1}) * {1}"),
    _aten.threshold_backward.default: _plain("{1} <= {2} ? 0 : {0}"),
    _aten.addcmul.default: lambda args, kwargs: (
        Pointwise("{0} + {3} * {1} * {2}"),
        [*args[:3], kwargs.get("value", 1)],
    ),
}


# ---- reductions ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Reduction:
    """Where an accumulator starts and what one element does to it."""

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
}


# ---- functions -----------------------------------------------------------------------------------------------


def _vectors() -> str:
    lines = []
    for typed, size in (("float", 4), ("double", 8)):
        for lanes in (16, 8, 4, 2):
            width = lanes * size
            if width <= 64:
                shape = f"vector_size({width})"
                lines += [
                    f"typedef {typed} {typed}{lanes} __attribute__(({shape}));",
                    f"typedef {typed} {typed}{lanes}u __attribute__(({shape}, aligned({size}), may_alias));",
                ]
    return "\n".join(lines)


_EVERY = """
static inline T sq_S(T x) { return x * x; }
static inline T cube_S(T x) { return x * x * x; }
static inline T relu_S(T x) { return x < 0 ? 0 : x; }
static inline T sign_S(T x) { return (T)((x > 0) - (x < 0)); }
static inline T max_S(T a, T b) { return (a > b || a != a) ? a : b; }
static inline T min_S(T a, T b) { return (a < b || a != a) ? a : b; }
static inline T clamp_S(T x, T low, T high) { x = x < low ? low : x; return x > high ? high : x; }
"""

# whole numbers have no more than these: a graph with others of them does not compile, and runs traced
_WHOLE = """
static inline int64_t abs_i(int64_t x) { return x < 0 ? -x : x; }
static inline int64_t floor_i(int64_t x) { return x; }
"""

# a place along an axis; one that there is not is noticed, and nothing outside is touched
_PLACES = """
static volatile int out_of_range;
static inline int64_t within(int64_t place, int64_t size) {
  if ((uint64_t)place < (uint64_t)size) return place;
  out_of_range = 1;
  return 0;
}
"""

_BOTH = """
static inline T sigmoid_S(T x) { return 1 / (1 + exp_S(-x)); }
static inline T sqrt_S(T x) { return sqrtX(x); }
static inline T abs_S(T x) { return fabsX(x); }
static inline T floor_S(T x) { return floorX(x); }
static inline T log1p_S(T x) { return log1pX(x); }
static inline T expm1_S(T x) { return expm1X(x); }
static inline T sin_S(T x) { return sinX(x); }
static inline T cos_S(T x) { return cosX(x); }
static inline T erf_S(T x) { return erfX(x); }
static inline T pow_S(T x, T y) { return powX(fabsX(x) < tiny_S() ? 0 * x : x, y); }
"""

# exp, log and tanh of single precision without branches, so that a loop over them becomes vector code; minimax
# polynomials after range reduction (Moshier, 1989, Methods and Programs for Mathematical Functions), about 1 ulp
_SINGLE = """
static inline float tiny_f(void) { return 0x1p-126f; }
static inline float bits_f(int32_t i) { float f; __builtin_memcpy(&f, &i, 4); return f; }
static inline int32_t bits_i(float f) { int32_t i; __builtin_memcpy(&i, &f, 4); return i; }
static inline float exp_f(float x) {
  float c = x > 89.0f ? 89.0f : x;
  c = c < -104.0f ? -104.0f : c;
  float n = floorf(c * 1.44269504088896341f + 0.5f);
  float r = c - n * 0.693359375f - n * -2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  int32_t whole = (int32_t)n, half = whole >> 1;
  float y = p * bits_f((half + 127) << 23) * bits_f((whole - half + 127) << 23);
  return x != x ? x : y;
}
static inline float tanh_f(float x) {
  float a = fabsf(x), z = x * x;
  float far = 1.0f - 2.0f / (exp_f(2.0f * a) + 1.0f);
  float p = -5.70498872745e-3f;
  p = p * z + 2.06390887954e-2f;
  p = p * z - 5.37397155531e-2f;
  p = p * z + 1.33314422036e-1f;
  p = p * z - 3.33332819422e-1f;
  p = p * z * x + x;
  return a < 0.625f ? p : copysignf(far, x);
}
static inline float log_f(float x) {
  int32_t i = bits_i(x);
  int32_t e = (i >> 23) - 126;
  float m = bits_f((i & 0x007fffff) | 0x3f000000);
  int32_t low = m < 0.707106781186547524f;
  float f = (float)(e - low);
  m = (low ? m + m : m) - 1.0f;
  float z = m * m, p = 7.0376836292e-2f;
  p = p * m - 1.1514610310e-1f;
  p = p * m + 1.1676998740e-1f;
  p = p * m - 1.2420140846e-1f;
  p = p * m + 1.4249322787e-1f;
  p = p * m - 1.6668057665e-1f;
  p = p * m + 2.0000714765e-1f;
  p = p * m - 2.4999993993e-1f;
  p = p * m + 3.3333331174e-1f;
  float y = m * z * p - 2.12194440e-4f * f - 0.5f * z;
  y = m + y + 0.693359375f * f;
  y = x < 1.17549435e-38f ? (x == 0.0f ? -INFINITY : logf(x)) : y;
  return x == INFINITY || x != x ? x : y;
}
"""

_DOUBLE = """
static inline double tiny_d(void) { return 0x1p-1022; }
static inline double exp_d(double x) { return exp(x); }
static inline double log_d(double x) { return log(fabs(x) < tiny_d() ? 0 : x); }
static inline double tanh_d(double x) { return tanh(x); }
"""


def _typed(text: str, typed: str, suffix: str, library: str = "") -> str:
    text = text.replace("_S(", f"_{suffix}(").replace("X(", f"{library}(")
    return (
        text.replace("static inline T ", f"static inline {typed} ")
        .replace("(T ", f"({typed} ")
        .replace(", T ", f", {typed} ")
        .replace("(T)", f"({typed})")
    )


PRELUDE = "\n".join(
    [
        "#include <stdint.h>",
        "#include <math.h>",
        _vectors(),
        "#ifdef __clang__",
        "#define SHUFFLE(T, a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)",
        "#else",
        "#define SHUFFLE(T, a, b, ...) __builtin_shuffle(a, b, (places_##T){__VA_ARGS__})",
        "#endif",
        turn("float"),
        turn("double"),
        _SINGLE,
        _DOUBLE,
        *(
            _typed(_EVERY, typed, suffix)
            for typed, suffix in (("float", "f"), ("double", "d"), ("int64_t", "i"))
        ),
        _WHOLE,
        _PLACES,
        _typed(_BOTH, "float", "f", "f"),
        _typed(_BOTH, "double", "d"),
    ]
)
