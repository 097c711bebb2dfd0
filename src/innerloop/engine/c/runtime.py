"""C around the kernels: subnormal numbers flushed to zero (FTZ, DAZ), and threads that share the tasks of a band.

Each thread has an arena of its own, and accumulators of its own, which are added to those of the first thread in the
order of the threads: the result depends on their number and on nothing else. What a thread that cannot be started was
to do, the first one does, so that the result is the same then.
"""

__all__ = ["FLUSH_TO_ZERO", "THREADS"]

# A processor takes tens of times as long for a subnormal number (below 1.2e-38 in float32), and training that fits its
# tasks well is full of them. The mode (FTZ for results, DAZ for operands) belongs to the thread and is restored after
# each call. 0x8040 are the bits FTZ and DAZ of MXCSR; bit 24 of FPCR is FZ, which is both.
FLUSH_TO_ZERO = """
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

# `for_tasks` runs a band for all tasks, cut into one range a thread. To be formatted with the number of tasks, bytes of
# a thread's own arena (`own`) and accumulators (`sums`), and the C that adds the latter (`added`).
THREADS = """
#include <pthread.h>
#include <string.h>
typedef void band(char **, char *, char *, char *, int64_t);
typedef struct {{ band *run; char **p, *shared, *sums, *own; int64_t first, end; pthread_t thread; int started; }} part;
static void *work(void *given) {{
  part *w = given;
  flush();
  for (int64_t t = w->first; t < w->end; ++t) w->run(w->p, w->shared, w->sums, w->own, t);
  return 0;
}}
static void add_sums(char *to, char *from) {{
{added}
}}
static void for_tasks(band *run, int64_t count, char **p, char *shared, char *sums, char *own) {{
  if (count > {tasks}) count = {tasks};
  if (count < 1) count = 1;
  part parts[count];
  for (int64_t i = 0; i < count; ++i) {{
    char *mine = own + i * ({own} + {sums});
    parts[i] = (part){{run, p, shared, i ? mine + {own} : sums, mine, {tasks} * i / count, {tasks} * (i + 1) / count}};
    if (i) memset(parts[i].sums, 0, {sums});
  }}
  for (int64_t i = 1; i < count; ++i) parts[i].started = !pthread_create(&parts[i].thread, 0, work, &parts[i]);
  work(&parts[0]);
  for (int64_t i = 1; i < count; ++i) {{
    if (parts[i].started) pthread_join(parts[i].thread, 0);
    else work(&parts[i]);
  }}
  for (int64_t i = 1; i < count; ++i) add_sums(sums, parts[i].sums);
}}
"""
