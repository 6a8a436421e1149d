/* What every group of workloads shares. A workload does n units of the same work and gives a checksum of its results. */
#ifndef BENCH_H
#define BENCH_H
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef uint8_t u8;
typedef uint16_t u16;
typedef uint32_t u32;
typedef uint64_t u64;
typedef int32_t i32;
typedef int64_t i64;

struct workload {
  const char *group;
  const char *name;
  u64 (*run)(u32 n);
  u32 n; /* units for about 0.15 s on the slower of the 64-bit engines */
};

extern const struct workload int_workloads[], call_workloads[], float_workloads[], x87_workloads[], rep_workloads[],
    mem_workloads[], kernel_workloads[], rewrite_workloads[];

/* 64 MiB of zeroed memory, the same for every workload of one process; must be left in any state. */
extern u8 arena[64u << 20];

/* Starts the clock of this repetition again: what came before was preparation. */
void timed(void);

#define NOINLINE __attribute__((noinline, noclone))
/* Keeps a value from being known to the compiler. */
#define HIDE(x) __asm__ volatile("" : "+r"(x))
#define CLOBBER() __asm__ volatile("" ::: "memory")

static inline u32 next32(u32 *s) {
  u32 x = *s;
  x ^= x << 13;
  x ^= x >> 17;
  x ^= x << 5;
  return *s = x;
}
static inline u64 mix(u64 h, u64 v) {
  h ^= v;
  h *= 0x9e3779b97f4a7c15ull;
  return h ^ (h >> 29);
}
/* For checksums of floating point that must not depend on the last bits. */
static inline u64 rounded(double d) { return (u64)(i64)(d * 1e6 + (d < 0 ? -0.5 : 0.5)); }
#endif
