/* Loads, stores and TLB misses over small and large sets. */
#include "bench.h"

static u64 chase(u32 n, u32 bytes, u32 line) {
  u32 count = bytes / line, s = 1234567;
  /* One cycle through all lines (Sattolo): index of the next line in each. */
#define LINE(i) (*(u32 *)(arena + (size_t)(i) * line))
  for (u32 i = 0; i < count; i++) LINE(i) = i;
  for (u32 i = count - 1; i > 0; i--) {
    u32 j = next32(&s) % i, t = LINE(i);
    LINE(i) = LINE(j), LINE(j) = t;
  }
  for (u32 i = 0; i < count; i++) LINE(i) *= line;
  u32 at = 0;
  u64 h = 0;
  timed();
  for (u32 r = 0; r < n; r++) {
    for (u32 i = 0; i < 1024; i++) at = *(u32 *)(arena + at);
    h = mix(h, at);
  }
  return h;
}
static u64 chase_16k(u32 n) { return chase(n, 16 << 10, 64); }
static u64 chase_1m(u32 n) { return chase(n, 1 << 20, 64); }
static u64 chase_64m(u32 n) { return chase(n, 64 << 20, 1024); }

static u64 random_stores(u32 n, u32 mask) {
  u32 *v = (u32 *)arena, s = 99;
  memset(arena, 0, ((size_t)mask + 1) * 4);
  timed();
  for (u32 i = 0; i < n * 1024; i++) v[next32(&s) & mask] += i;
  u64 h = 0;
  for (u32 i = 0; i <= mask; i += 17) h += v[i];
  return h;
}
static u64 stores_1m(u32 n) { return random_stores(n, (1 << 18) - 1); }
static u64 stores_32m(u32 n) { return random_stores(n, (8 << 20) - 1); }

static u64 random_loads(u32 n) {
  u64 h = 0;
  u32 s = 5;
  for (u32 i = 0; i < 1 << 18; i++) arena[i] = (u8)(i ^ i >> 8);
  memset(arena + (1 << 18), 5, 1 << 18);
  timed();
  for (u32 i = 0; i < n * 1024; i++) {
    u32 k = next32(&s);
    h += arena[k & 0x3ffff] + (u64)arena[k >> 13 & 0x7ffff];
  }
  return h;
}

static u64 strides(u32 n, u32 pages) {
  u64 h = 0;
  for (u32 p = 0; p < pages; p++) arena[(size_t)p * 4096 + (p & 63) * 64] = (u8)p;
  timed();
  for (u32 r = 0; r < n; r++)
    for (u32 p = 0; p < pages; p++) {
      u8 *at = arena + (size_t)p * 4096 + (p & 63) * 64;
      h += *at;
      *at = (u8)(h + r);
    }
  return h;
}
static u64 stride_256(u32 n) { return strides(n, 256); }
static u64 stride_2048(u32 n) { return strides(n, 2048); }
static u64 stride_16384(u32 n) { return strides(n, 16384); }

static u64 sequential(u32 n) {
  u32 *v = (u32 *)arena;
  for (u32 i = 0; i < 4 << 20; i++) v[i] = i * 3;
  timed();
  u64 h = 0;
  for (u32 r = 0; r < n; r++) {
    u32 s = r;
    for (u32 i = 0; i < 4 << 20; i += 4) {
      s += v[i] ^ v[i + 1];
      v[i + 2] = s;
      HIDE(s);
    }
    h = mix(h, s);
  }
  return h;
}

struct node { struct node *next; u32 key, pad; };
static u64 lists(u32 n) {
  struct node *v = (struct node *)arena, *head = NULL;
  u32 s = 8;
  for (u32 i = 0; i < 20000; i++) {
    struct node *x = &v[(i * 7919u) % 20000];
    x->key = next32(&s), x->next = head, head = x;
  }
  timed();
  u64 h = 0;
  for (u32 r = 0; r < n; r++) {
    u32 m = 0;
    for (struct node *p = head; p; p = p->next) {
      if (p->key > m) m = p->key;
      p->key ^= r;
    }
    h = mix(h, m);
    /* Reverse. */
    struct node *p = head, *q = NULL;
    while (p) {
      struct node *t = p->next;
      p->next = q, q = p, p = t;
    }
    head = q;
  }
  return h;
}

static u64 widths(u32 n) {
  u64 h = 0;
  memset(arena, 3, 8192);
  for (u32 r = 0; r < n; r++)
    for (u32 i = 0; i < 8160; i += 9) {
      u8 *p = arena + i;
      u16 a;
      u32 b;
      u64 c;
      memcpy(&a, p, 2), memcpy(&b, p + 3, 4), memcpy(&c, p + 5, 8);
      h += a + b + c;
      b += (u32)h;
      memcpy(p + 1, &b, 4);
      p[7] = (u8)h;
    }
  return h;
}

/* Loads and stores that straddle page ends. */
static u64 crossing(u32 n) {
  u64 h = 0;
  memset(arena, 1, 66 * 4096);
  for (u32 r = 0; r < n; r++)
    for (u32 p = 1; p < 65; p++) {
      u64 v;
      u8 *at = arena + p * 4096 - 1 - (r & 3);
      memcpy(&v, at, 8);
      v = v * 3 + r;
      memcpy(at, &v, 8);
      h += v;
    }
  return h;
}

const struct workload mem_workloads[] = {
    {"mem", "chase16k", chase_16k, 17000},     {"mem", "chase1m", chase_1m, 8200},
    {"mem", "chase64m", chase_64m, 600},       {"mem", "stores1m", stores_1m, 33000},
    {"mem", "stores32m", stores_32m, 430},    {"mem", "loads256k", random_loads, 28000},
    {"mem", "stride256", stride_256, 150000},   {"mem", "stride2048", stride_2048, 17000},
    {"mem", "stride16384", stride_16384, 50}, {"mem", "sequential", sequential, 41},
    {"mem", "lists", lists, 220},              {"mem", "widths", widths, 19000},
    {"mem", "crossing", crossing, 37000},       {0}};
