"""C that every program begins with: vector types, elementary functions, and the check of indices.

Elementary functions have a suffix for their type: `exp_f` of float, `exp_d` of double, `abs_i` of whole numbers. Those
of single precision are written without branches and calls, so that a loop over them becomes vector code. The place to
add a function that C's library has for both floating types: one line in `_LIBRARY`.
"""

from __future__ import annotations

import re

from .matmul import transpose_tile

__all__ = ["PRELUDE"]


def _vectors() -> str:
    """Vector types of 2 to 16 lanes, and the same without alignment (`u`) for loads and stores."""
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


# functions of every type: `T` and `_S` become the type and its suffix
_EVERY = """
static inline T sq_S(T x) { return x * x; }
static inline T cube_S(T x) { return x * x * x; }
static inline T relu_S(T x) { return x < 0 ? 0 : x; }
static inline T sign_S(T x) { return (T)((x > 0) - (x < 0)); }
static inline T max_S(T a, T b) { return (a > b || a != a) ? a : b; }
static inline T min_S(T a, T b) { return (a < b || a != a) ? a : b; }
static inline T clamp_S(T x, T low, T high) { x = x < low ? low : x; return x > high ? high : x; }
"""

# whole numbers have no more than these: a program with others of them does not compile, and the graph runs traced
_WHOLE = """
static inline int64_t abs_i(int64_t x) { return x < 0 ? -x : x; }
static inline int64_t floor_i(int64_t x) { return x; }
static inline int64_t ceil_i(int64_t x) { return x; }
static inline int64_t round_i(int64_t x) { return x; }
static inline int64_t trunc_i(int64_t x) { return x; }
static inline int64_t fmod_i(int64_t x, int64_t y) { return y ? x % y : 0; }
static inline int64_t mod_i(int64_t x, int64_t y) {
  int64_t r = y ? x % y : 0;
  return r && (r < 0) != (y < 0) ? r + y : r;
}
"""

# an index along an axis; one out of range is noticed, and nothing outside is touched
_BOUNDS = """
static volatile int out_of_range;
static inline int64_t within(int64_t index, int64_t size) {
  if ((uint64_t)index < (uint64_t)size) return index;
  out_of_range = 1;
  return 0;
}
"""

# functions of both floating types; `X` becomes the suffix of C's library
_LIBRARY = """
static inline T sigmoid_S(T x) { return 1 / (1 + exp_S(-x)); }
static inline T sqrt_S(T x) { return sqrtX(x); }
static inline T abs_S(T x) { return fabsX(x); }
static inline T floor_S(T x) { return floorX(x); }
static inline T log1p_S(T x) { return log1pX(x); }
static inline T expm1_S(T x) { return expm1X(x); }
static inline T sin_S(T x) { return sinX(x); }
static inline T cos_S(T x) { return cosX(x); }
static inline T erf_S(T x) { return erfX(x); }
static inline T erfc_S(T x) { return erfcX(x); }
static inline T tan_S(T x) { return tanX(x); }
static inline T sinh_S(T x) { return sinhX(x); }
static inline T cosh_S(T x) { return coshX(x); }
static inline T asin_S(T x) { return asinX(x); }
static inline T acos_S(T x) { return acosX(x); }
static inline T atan_S(T x) { return atanX(x); }
static inline T asinh_S(T x) { return asinhX(x); }
static inline T acosh_S(T x) { return acoshX(x); }
static inline T atanh_S(T x) { return atanhX(x); }
static inline T exp2_S(T x) { return exp2X(x); }
static inline T log2_S(T x) { return log2X(fabsX(x) < tiny_S() ? 0 * x : x); }
static inline T log10_S(T x) { return log10X(fabsX(x) < tiny_S() ? 0 * x : x); }
static inline T ceil_S(T x) { return ceilX(x); }
static inline T round_S(T x) { return rintX(x); }
static inline T trunc_S(T x) { return truncX(x); }
static inline T fmod_S(T x, T y) { return fmodX(x, y); }
static inline T mod_S(T x, T y) { __typeof__(x) r = fmodX(x, y); return r != 0 && (r < 0) != (y < 0) ? r + y : r; }
static inline T atan2_S(T x, T y) { return atan2X(x, y); }
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

# double precision calls C's library; logarithms and powers take subnormal arguments as 0, as flushed ones are
_DOUBLE = """
static inline double tiny_d(void) { return 0x1p-1022; }
static inline double exp_d(double x) { return exp(x); }
static inline double log_d(double x) { return log(fabs(x) < tiny_d() ? 0 : x); }
static inline double tanh_d(double x) { return tanh(x); }
"""


def _typed(text: str, typed: str, suffix: str, library: str = "") -> str:
    """A template of functions for one type."""
    text = text.replace("_S(", f"_{suffix}(").replace("X(", f"{library}(")
    return re.sub(r"(static inline |\(|, )T(?=[ )])", rf"\g<1>{typed}", text)


_SHUFFLE = """
#ifdef __clang__
#define SHUFFLE(T, a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define SHUFFLE(T, a, b, ...) __builtin_shuffle(a, b, (index_##T){__VA_ARGS__})
#endif"""
_HEADERS = "#include <stdint.h>\n#include <math.h>"
_TYPES = (("float", "f"), ("double", "d"), ("int64_t", "i"))
PRELUDE = "\n".join(
    [
        *(_HEADERS, _vectors() + _SHUFFLE, transpose_tile("float"), transpose_tile("double")),
        *(_SINGLE, _DOUBLE, *(_typed(_EVERY, typed, suffix) for typed, suffix in _TYPES)),
        *(_WHOLE, _BOUNDS, _typed(_LIBRARY, "float", "f", "f"), _typed(_LIBRARY, "double", "d")),
    ]
)
