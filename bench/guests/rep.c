/* Repeated string instructions, and the C library's copies and scans. */
#include "bench.h"

static inline void movsb(void *d, const void *s, size_t n) { __asm__ volatile("rep movsb" : "+D"(d), "+S"(s), "+c"(n)::"memory"); }
static inline void stosb(void *d, int v, size_t n) { __asm__ volatile("rep stosb" : "+D"(d), "+c"(n) : "a"(v) : "memory"); }
#ifdef __x86_64__
#define WORD 8
#define MOVSW "rep movsq"
#define STOSW "rep stosq"
#else
#define WORD 4
#define MOVSW "rep movsl"
#define STOSW "rep stosl"
#endif
static inline void movsw(void *d, const void *s, size_t n) { __asm__ volatile(MOVSW : "+D"(d), "+S"(s), "+c"(n)::"memory"); }
static inline void stosw(void *d, size_t v, size_t n) { __asm__ volatile(STOSW : "+D"(d), "+c"(n) : "a"(v) : "memory"); }

#define SRC arena
/* Not a power of two away: what that does to a direct-mapped TLB is for copies of its own below. */
#define DST (arena + (8 << 20) + (37 << 12))
static void fill(void) {
  for (u32 i = 0; i < 2 << 20; i++) SRC[i] = (u8)(i * 7 + (i >> 9));
  memset(DST, 0, 2 << 20);
}
static u64 sum(const u8 *p, u32 len) {
  u64 h = 0;
  for (u32 i = 0; i < len; i += len > 65536 ? 4093 : 61) h = mix(h, p[i]);
  return h;
}

#define COPY(NAME, SIZE, STEP, BODY)                     \
  static u64 NAME(u32 n) {                               \
    fill();                                              \
    timed();                                             \
    for (u32 r = 0; r < n; r++) {                        \
      u32 o = (r * STEP) & 0xfff;                        \
      u8 *d = DST + o;                                   \
      const u8 *s = SRC + ((o * 5) & 0xff8);             \
      (void)s;                                           \
      BODY;                                              \
    }                                                    \
    return sum(DST, SIZE + 4096);                        \
  }
COPY(movsb_64, 64, 64, movsb(d, s, 64))
COPY(movsb_4k, 4096, 64, movsb(d, s, 4096))
COPY(movsb_1m, 1048576, 64, movsb(d, s, 1048576))
COPY(movsw_64, 64, 64, movsw(d, s, 64 / WORD))
COPY(movsw_4k, 4096, 64, movsw(d, s, 4096 / WORD))
COPY(movsw_1m, 1048576, 64, movsw(d, s, 1048576 / WORD))
COPY(stosb_64, 64, 64, stosb(d, (int)r, 64))
COPY(stosb_4k, 4096, 64, stosb(d, (int)r, 4096))
COPY(stosb_1m, 1048576, 64, stosb(d, (int)r, 1048576))
COPY(stosw_4k, 4096, 64, stosw(d, r * 0x01010101u, 4096 / WORD))
COPY(memcpy_64, 64, 64, { size_t k = 64; HIDE(k); memcpy(d, s, k); })
COPY(memcpy_4k, 4096, 64, { size_t k = 4096; HIDE(k); memcpy(d, s, k); })
COPY(memcpy_1m, 1048576, 64, { size_t k = 1048576; HIDE(k); memcpy(d, s, k); })
COPY(memcpy_odd, 300, 61, { size_t k = r * 13 % 300; HIDE(k); memcpy(d + 1, s + 3, k); })
COPY(alias_movsw, 4096, 64, movsw(d - (37 << 12), s, 4096 / WORD))
COPY(alias_memcpy, 4096, 64, { size_t k = 4096; HIDE(k); memcpy(d - (37 << 12), s, k); })
COPY(memset_64, 64, 64, { size_t k = 64; HIDE(k); memset(d, (int)r, k); })
COPY(memset_4k, 4096, 64, { size_t k = 4096; HIDE(k); memset(d, (int)r, k); })
COPY(memset_1m, 1048576, 64, { size_t k = 1048576; HIDE(k); memset(d, (int)r, k); })
COPY(memmove_4k, 4096, 64, { size_t k = 4000; HIDE(k); memmove(d, d + 24 - (r & 1) * 40 + 20, k); d[r & 1023] ^= (u8)r; })

static u64 strlen_run(u32 n) {
  memset(SRC, 'a', 1 << 20);
  timed();
  u64 h = 0;
  for (u32 r = 0; r < n; r++) {
    u32 len = (r & 7) == 0 ? 4000 : 20 + (r * 7) % 200;
    char *p = (char *)SRC + (r & 15);
    p[len] = 0;
    CLOBBER();
    h += strlen(p);
    p[len] = 'a';
  }
  return h;
}
static u64 memchr_run(u32 n) {
  memset(SRC, 'a', 1 << 20);
  timed();
  u64 h = 0;
  for (u32 r = 0; r < n; r++) {
    u32 at = 3000 + (r & 511);
    SRC[at] = 'z';
    CLOBBER();
    h += (u64)((u8 *)memchr(SRC + (r & 7), 'z', 65536) - SRC);
    SRC[at] = 'a';
  }
  return h;
}
static u64 memcmp_run(u32 n) {
  fill();
  memcpy(DST, SRC, 65536);
  timed();
  u64 h = 0;
  for (u32 r = 0; r < n; r++) {
    u32 at = 100 + (r * 97) % 4000;
    DST[at] ^= 1;
    CLOBBER();
    h = h * 3 + (memcmp(SRC, DST, 4096) > 0);
    DST[at] ^= 1;
  }
  return h;
}
static u64 strings(u32 n) {
  char a[256], b[256];
  u64 h = 0;
  for (u32 r = 0; r < n; r++) {
    strcpy(a, "the quick brown fox jumps over the lazy dog");
    a[r % 40] = 'Q';
    strcat(a, " and on");
    strcpy(b, a);
    h = h * 3 + (u64)(strchr(a, 'Q') - a) + (u64)(strcmp(a, b) == 0) + (u64)(strstr(b, "lazy") != NULL);
  }
  return h;
}
static u64 scasb_run(u32 n) {
  memset(SRC, 1, 65536);
  timed();
  u64 h = 0;
  for (u32 r = 0; r < n; r++) {
    size_t c = 4096 + (r & 255);
    const u8 *p = SRC;
    SRC[4000 + (r & 63)] = 0;
    __asm__ volatile("repne scasb" : "+D"(p), "+c"(c) : "a"(0) : "memory", "cc");
    SRC[4000 + (r & 63)] = 1;
    h += c;
  }
  return h;
}
static u64 cmpsb_run(u32 n) {
  fill();
  memcpy(DST, SRC, 65536);
  timed();
  u64 h = 0;
  for (u32 r = 0; r < n; r++) {
    size_t c = 2048;
    const u8 *p = SRC, *q = DST;
    DST[1000 + (r & 255)] ^= 1;
    __asm__ volatile("repe cmpsb" : "+D"(p), "+S"(q), "+c"(c)::"memory", "cc");
    DST[1000 + (r & 255)] ^= 1;
    h += c;
  }
  return h;
}

const struct workload rep_workloads[] = {
    {"rep", "movsb64", movsb_64, 3000000},    {"rep", "movsb4k", movsb_4k, 60000},
    {"rep", "movsb1m", movsb_1m, 240},        {"rep", "movsw64", movsw_64, 6000000},
    {"rep", "movsw4k", movsw_4k, 220000},     {"rep", "movsw1m", movsw_1m, 800},
    {"rep", "stosb64", stosb_64, 2600000},    {"rep", "stosb4k", stosb_4k, 41000},
    {"rep", "stosb1m", stosb_1m, 160},        {"rep", "stosw4k", stosw_4k, 330000},
    {"rep", "scasb", scasb_run, 33000},      {"rep", "cmpsb", cmpsb_run, 80000},
    {"rep", "memcpy64", memcpy_64, 3000000}, {"rep", "memcpy4k", memcpy_4k, 73000},
    {"rep", "memcpy1m", memcpy_1m, 280},     {"rep", "memcpyodd", memcpy_odd, 1400000},
    {"rep", "aliasmovs", alias_movsw, 22000}, {"rep", "aliascpy", alias_memcpy, 73000},
    {"rep", "memset64", memset_64, 6800000}, {"rep", "memset4k", memset_4k, 540000},
    {"rep", "memset1m", memset_1m, 2100},     {"rep", "memmove4k", memmove_4k, 120000},
    {"rep", "strlen", strlen_run, 470000},   {"rep", "memchr", memchr_run, 86000},
    {"rep", "memcmp", memcmp_run, 57000},    {"rep", "strings", strings, 410000},
    {0}};
