/* Code that is written and called: what a just-in-time compiler in the guest does. */
#define _GNU_SOURCE
#include <sys/mman.h>
#include "bench.h"

typedef u32 fn(void);
static u8 *pages(u32 count) {
  u8 *p = mmap(NULL, (size_t)count * 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (p == MAP_FAILED) abort();
  return p;
}
/* mov eax, v; add eax, v; ret */
static u8 *emit_small(u8 *p, u32 v) {
  u32 w = v * 3;
  *p++ = 0xb8, memcpy(p, &v, 4), p += 4;
  *p++ = 0x05, memcpy(p, &w, 4), p += 4;
  *p++ = 0xc3;
  return p;
}
/* A loop of `len` arithmetic instructions, run `times` times. */
static u8 *emit_loop(u8 *p, u32 seed, u32 len, u32 times) {
  *p++ = 0xb9, memcpy(p, &times, 4), p += 4; /* mov ecx, times */
  *p++ = 0xb8, memcpy(p, &seed, 4), p += 4;  /* mov eax, seed */
  u8 *top = p;
  for (u32 i = 0; i < len; i++) {
    u32 v = next32(&seed);
    switch (v & 3) {
      case 0: *p++ = 0x05; break; /* add eax, v */
      case 1: *p++ = 0x35; break; /* xor eax, v */
      case 2: *p++ = 0x2d; break; /* sub eax, v */
      default: *p++ = 0xd1, *p++ = 0xc0; continue; /* rol eax, 1 */
    }
    memcpy(p, &v, 4), p += 4;
  }
  *p++ = 0x83, *p++ = 0xe9, *p++ = 1; /* sub ecx, 1 */
  i32 d = (i32)(top - (p + 6));
  *p++ = 0x0f, *p++ = 0x85, memcpy(p, &d, 4), p += 4; /* jnz top */
  *p++ = 0xc3;
  return p;
}

/* The same address every time. */
static u64 same_place(u32 n) {
  u8 *p = pages(1);
  u64 h = 0;
  for (u32 i = 0; i < n; i++) {
    emit_small(p, i);
    CLOBBER();
    h = mix(h, ((fn *)(void *)p)());
  }
  munmap(p, 4096);
  return h;
}
/* The next free place in a page; a full page is started over. */
static u64 same_page(u32 n) {
  u8 *p = pages(1), *at = p;
  u64 h = 0;
  for (u32 i = 0; i < n; i++) {
    if (at > p + 4000) at = p;
    u8 *f = at;
    at = emit_small(at, i);
    CLOBBER();
    h = mix(h, ((fn *)(void *)f)() + ((fn *)(void *)p)());
  }
  munmap(p, 4096);
  return h;
}
/* Fresh pages from the kernel. */
static u64 fresh_pages(u32 n) {
  u64 h = 0;
  for (u32 i = 0; i < n; i++) {
    u8 *p = pages(4), *at = p;
    for (u32 k = 0; k < 64; k++) {
      u8 *f = at;
      at = emit_small(at, i * 64 + k);
      CLOBBER();
      for (u32 r = 0; r < 4; r++) h = mix(h, ((fn *)(void *)f)());
      if (k % 16 == 15) at = p + (k / 16 + 1) * 4096;
    }
    munmap(p, 4 * 4096);
  }
  return h;
}
/* An immediate patched now and then in code that runs often. */
static u64 patched(u32 n) {
  u8 *p = pages(1);
  u64 h = 0;
  emit_small(p, 1);
  for (u32 i = 0; i < n; i++) {
    memcpy(p + 1, &i, 4);
    CLOBBER();
    u32 s = 0;
    for (u32 k = 0; k < 100; k++) s += ((fn *)(void *)p)();
    h = mix(h, s);
  }
  munmap(p, 4096);
  return h;
}
/* Functions of 60 instructions, compiled into a buffer of 64 KiB used in a ring, each running for a while. */
static u64 compiler(u32 n) {
  u8 *p = pages(16), *at = p;
  u64 h = 0;
  for (u32 i = 0; i < n; i++) {
    if (at > p + 16 * 4096 - 512) at = p;
    u8 *f = at;
    at = emit_loop(at, i * 2654435761u + 1, 60, 200);
    CLOBBER();
    h = mix(h, ((fn *)(void *)f)());
  }
  munmap(p, 16 * 4096);
  return h;
}
/* Data in the page of running code. */
static u64 data_beside(u32 n) {
  u8 *p = pages(1);
  u32 *counter = (u32 *)(void *)(p + 2048);
  u8 *q = p;
  u64 h = 0;
  emit_small(q, 77);
  for (u32 i = 0; i < n * 16; i++) {
    h += ((fn *)(void *)p)();
    counter[i & 255] += (u32)h;
  }
  h = mix(h, counter[9]);
  munmap(p, 4096);
  return h;
}
/* Write, make executable, call, make writable again. */
static u64 write_xor_execute(u32 n) {
  u8 *p = pages(1);
  u64 h = 0;
  for (u32 i = 0; i < n; i++) {
    if (mprotect(p, 4096, PROT_READ | PROT_WRITE)) abort();
    emit_loop(p + (i & 7) * 400, i + 1, 20, 50);
    if (mprotect(p, 4096, PROT_READ | PROT_EXEC)) abort();
    h = mix(h, ((fn *)(void *)(p + (i & 7) * 400))());
  }
  munmap(p, 4096);
  return h;
}

const struct workload rewrite_workloads[] = {
    {"rewrite", "sameplace", same_place, 5500}, {"rewrite", "samepage", same_page, 1400},
    {"rewrite", "freshpages", fresh_pages, 170}, {"rewrite", "patched", patched, 17000},
    {"rewrite", "compiler", compiler, 300},     {"rewrite", "databeside", data_beside, 18000},
    {"rewrite", "wxorx", write_xor_execute, 630}, {0}};
