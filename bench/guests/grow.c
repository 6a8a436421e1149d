/*
 * An /init that writes functions no one has seen before and runs each long enough to be translated, for ever: a ring of
 * `ring` KiB (default 4096) is filled over and over. Says "@G FUNCTIONS CHECKSUM" about every second.
 */
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>
#include "bench.h"

typedef u32 fn(void);

/* A loop of `len` instructions run `times` times, then a chain of compares and branches. */
static u8 *emit(u8 *p, u32 seed, u32 len, u32 times) {
  *p++ = 0xb9, memcpy(p, &times, 4), p += 4;
  *p++ = 0xb8, memcpy(p, &seed, 4), p += 4;
  u8 *top = p;
  for (u32 i = 0; i < len; i++) {
    u32 v = next32(&seed);
    switch (v >> 8 & 3) {
      case 0: *p++ = 0x05, memcpy(p, &v, 4), p += 4; break;
      case 1: *p++ = 0x35, memcpy(p, &v, 4), p += 4; break;
      case 2: *p++ = 0xd1, *p++ = 0xc0; break;
      default: *p++ = 0xa8, *p++ = (u8)v, *p++ = 0x74, *p++ = 5, *p++ = 0x2d, memcpy(p, &v, 4), p += 4; /* test, jz over sub */
    }
  }
  *p++ = 0x83, *p++ = 0xe9, *p++ = 1;
  i32 d = (i32)(top - (p + 6));
  *p++ = 0x0f, *p++ = 0x85, memcpy(p, &d, 4), p += 4;
  *p++ = 0xc3;
  return p;
}

int main(void) {
  const char *set = getenv("ring"), *runs = getenv("runs");
  size_t size = (set ? strtoul(set, NULL, 10) : 4096) << 10;
  u32 times = runs ? (u32)strtoul(runs, NULL, 10) : 3000;
  u8 *ring = mmap(NULL, size, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), *at = ring;
  u64 count = 0, sum = 0;
  struct timespec t;
  printf("\n@R\n");
  for (time_t last = 0;; count++) {
    if (at > ring + size - 1024) at = ring;
    u8 *f = at;
    at = emit(at, (u32)count * 2654435761u + 1, 40 + (u32)count % 50, times);
    CLOBBER();
    sum = mix(sum, ((fn *)(void *)f)());
    if (count & 63) continue;
    clock_gettime(CLOCK_MONOTONIC, &t);
    if (t.tv_sec == last) continue;
    last = t.tv_sec;
    printf("@G %llu %016llx\n", (unsigned long long)count, (unsigned long long)sum);
    fflush(stdout);
  }
}
