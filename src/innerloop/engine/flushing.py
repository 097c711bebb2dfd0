"""C that takes numbers too small to have all their digits (below 1e-38 in float32) for 0, and undoes it afterwards.

A processor takes tens of times as long for each of them, and training that fits its tasks well is full of them. The
mode belongs to the thread.
"""

FLUSHING = """
#if defined(__SSE2__)
#include <xmmintrin.h>
static uint64_t flush(void) { uint64_t before = _mm_getcsr(); _mm_setcsr(before | 0x8040); return before; }
static void restore(uint64_t before) { _mm_setcsr(before); }
#elif defined(__aarch64__)
static void restore(uint64_t before) { __asm__ volatile("msr fpcr, %0" : : "r"(before) : "memory"); }
static uint64_t flush(void) {
  uint64_t before;
  __asm__ volatile("mrs %0, fpcr" : "=r"(before));
  restore(before | 1 << 24);
  return before;
}
#else
static uint64_t flush(void) { return 0; }
static void restore(uint64_t before) { }
#endif
"""
