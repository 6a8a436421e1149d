/* Calls, returns, indirect branches and interpreters. */
#include <setjmp.h>
#include "bench.h"

static NOINLINE u32 fib(u32 n) { return n < 2 ? n : fib(n - 1) + fib(n - 2); }
static u64 fib_run(u32 n) {
  u64 s = 0;
  for (u32 i = 0; i < n; i++) s += fib(20 + (i & 1));
  return s;
}

static NOINLINE int tak(int x, int y, int z) { return y >= x ? z : tak(tak(x - 1, y, z), tak(y - 1, z, x), tak(z - 1, x, y)); }
static u64 tak_run(u32 n) {
  u64 s = 0;
  for (u32 i = 0; i < n; i++) s = s * 3 + (u64)tak(12 + (int)(i & 1), 8, 4);
  return s;
}

static int by_value(const void *a, const void *b) {
  u32 x = *(const u32 *)a, y = *(const u32 *)b;
  return x < y ? -1 : x > y;
}
static int by_low(const void *a, const void *b) { return (int)(*(const u32 *)a & 0xffff) - (int)(*(const u32 *)b & 0xffff); }
static u64 qsort_run(u32 n) {
  u32 *v = (u32 *)arena, s = 77;
  u64 h = 0;
  for (u32 r = 0; r < n; r++) {
    for (u32 i = 0; i < 4000; i++) v[i] = next32(&s);
    qsort(v, 4000, 4, r & 1 ? by_low : by_value);
    h = mix(h, (v[2000] & 0xffff) + v[1] / 65536 * (~r & 1));
  }
  return h;
}

struct shape;
struct methods { u32 (*area)(const struct shape *); void (*grow)(struct shape *, u32); u32 (*kind)(void); };
struct shape { const struct methods *m; u32 a, b; };
static u32 area_box(const struct shape *s) { return s->a * s->b; }
static u32 area_tri(const struct shape *s) { return s->a * s->b / 2; }
static u32 area_disc(const struct shape *s) { return s->a * s->a * 3 + s->b; }
static u32 area_line(const struct shape *s) { return s->a ^ s->b; }
static void grow_a(struct shape *s, u32 k) { s->a = (s->a + k) & 0xfff; }
static void grow_b(struct shape *s, u32 k) { s->b = (s->b ^ k) & 0xfff; }
static u32 k0(void) { return 1; }
static u32 k1(void) { return 7; }
static const struct methods M[4] = {{area_box, grow_a, k0}, {area_tri, grow_b, k1}, {area_disc, grow_a, k1}, {area_line, grow_b, k0}};
static u64 virtual_calls(u32 n) {
  struct shape *v = (struct shape *)arena;
  u32 s = 3;
  for (u32 i = 0; i < 1024; i++) v[i].m = &M[next32(&s) >> 13 & 3], v[i].a = i, v[i].b = i * 3;
  u64 sum = 0;
  for (u32 r = 0; r < n; r++)
    for (u32 i = 0; i < 1024; i++) {
      struct shape *p = &v[i];
      p->m->grow(p, r);
      sum += p->m->area(p) * p->m->kind();
    }
  return sum;
}

/* A register machine with a loop that computes a Collatz-like sequence and hits memory. */
enum { OP_ADD, OP_SUB, OP_MUL, OP_LDI, OP_MOV, OP_LD, OP_ST, OP_JNZ, OP_AND, OP_SHR, OP_JMP, OP_XOR, OP_END };
static const u8 program[][4] = {
    {OP_LDI, 0, 200, 0}, {OP_LDI, 1, 1, 0},  {OP_LDI, 5, 3, 0},  {OP_MOV, 2, 0, 0},  {OP_AND, 3, 2, 1}, {OP_JNZ, 3, 9, 0}, {OP_SHR, 2, 2, 1},
    {OP_JMP, 0, 11, 0},  {OP_JMP, 0, 11, 0}, {OP_MUL, 2, 2, 5},  {OP_ADD, 2, 2, 1},  {OP_ADD, 4, 4, 2}, {OP_ST, 4, 2, 0},  {OP_LD, 6, 0, 0},
    {OP_XOR, 7, 6, 7},   {OP_SUB, 3, 2, 1},  {OP_JNZ, 3, 4, 0},  {OP_SUB, 0, 0, 1},  {OP_JNZ, 0, 3, 0}, {OP_END, 0, 0, 0}};
static NOINLINE u64 run_switch(u32 r[8], u32 *mem) {
  for (u32 pc = 0;; pc++) {
    const u8 *i = program[pc];
    switch (i[0]) {
      case OP_ADD: r[i[1]] = r[i[2]] + r[i[3]]; break;
      case OP_SUB: r[i[1]] = r[i[2]] - r[i[3]]; break;
      case OP_MUL: r[i[1]] = r[i[2]] * r[i[3]]; break;
      case OP_LDI: r[i[1]] = i[2]; break;
      case OP_MOV: r[i[1]] = r[i[2]]; break;
      case OP_LD: r[i[1]] = mem[r[i[2]] & 1023]; break;
      case OP_ST: mem[r[i[2]] & 1023] = r[i[1]]; break;
      case OP_JNZ: if (r[i[1]]) pc = i[2] - 1u; break;
      case OP_AND: r[i[1]] = r[i[2]] & r[i[3]]; break;
      case OP_SHR: r[i[1]] = r[i[2]] >> r[i[3]]; break;
      case OP_JMP: pc = i[2] - 1u; break;
      case OP_XOR: r[i[1]] = r[i[2]] ^ r[i[3]]; break;
      default: return (u64)r[4] << 32 | r[7];
    }
  }
}
static NOINLINE u64 run_threaded(u32 r[8], u32 *mem) {
  static const void *const go[] = {&&add, &&sub, &&mul, &&ldi, &&mov, &&ld, &&st, &&jnz, &&and, &&shr, &&jmp, &&xor, &&end};
  const u8 *i = program[0];
#define NEXT goto *go[(i += 4)[0]]
  goto *go[i[0]];
add: r[i[1]] = r[i[2]] + r[i[3]]; NEXT;
sub: r[i[1]] = r[i[2]] - r[i[3]]; NEXT;
mul: r[i[1]] = r[i[2]] * r[i[3]]; NEXT;
ldi: r[i[1]] = i[2]; NEXT;
mov: r[i[1]] = r[i[2]]; NEXT;
ld: r[i[1]] = mem[r[i[2]] & 1023]; NEXT;
st: mem[r[i[2]] & 1023] = r[i[1]]; NEXT;
jnz: if (r[i[1]]) i = program[i[2]] - 4; NEXT;
and: r[i[1]] = r[i[2]] & r[i[3]]; NEXT;
shr: r[i[1]] = r[i[2]] >> r[i[3]]; NEXT;
jmp: i = program[i[2]] - 4; NEXT;
xor: r[i[1]] = r[i[2]] ^ r[i[3]]; NEXT;
end: return (u64)r[4] << 32 | r[7];
}
static u64 interp_run(u32 n, u64 (*f)(u32 *, u32 *)) {
  u64 h = 0;
  memset(arena, 0, 4096);
  for (u32 k = 0; k < n; k++) {
    u32 r[8] = {0};
    h = mix(h, f(r, (u32 *)arena));
  }
  return h;
}
static u64 switch_interp(u32 n) { return interp_run(n, run_switch); }
static u64 threaded_interp(u32 n) { return interp_run(n, run_threaded); }

/* A stack machine whose operations are functions. */
struct vm { i64 *sp; const i32 *ip; i64 stack[64]; };
typedef int op_fn(struct vm *);
static int f_push(struct vm *m) { *m->sp++ = *m->ip++; return 1; }
static int f_add(struct vm *m) { m->sp--; m->sp[-1] += m->sp[0]; return 1; }
static int f_mul(struct vm *m) { m->sp--; m->sp[-1] = (i32)m->sp[-1] * (i64)(i32)m->sp[0]; return 1; }
static int f_dup(struct vm *m) { *m->sp = m->sp[-1]; m->sp++; return 1; }
static int f_swap(struct vm *m) { i64 t = m->sp[-1]; m->sp[-1] = m->sp[-2], m->sp[-2] = t; return 1; }
static int f_loop(struct vm *m) { if (--m->sp[-1] > 0) m->ip += *m->ip; else m->ip++; return 1; }
static int f_halt(struct vm *m) { (void)m; return 0; }
static op_fn *const ops[] = {f_push, f_add, f_mul, f_dup, f_swap, f_loop, f_halt};
static u64 call_interp(u32 n) {
  static const i32 code[] = {0, 1, 0, 100, 4, 0, 3, 2, 3, 1, 0, 7, 1, 4, 5, -11, 6};
  u64 h = 0;
  for (u32 k = 0; k < n; k++) {
    struct vm m;
    m.sp = m.stack, m.ip = code;
    while (ops[*m.ip++](&m)) {}
    h = mix(h, (u64)m.stack[0]);
  }
  return h;
}

static jmp_buf env;
static volatile u32 always = 1;
static NOINLINE void dive(u32 depth, u32 v) {
  if (depth == 0) longjmp(env, (int)(v & 7) + 1);
  if (always) dive(depth - 1, v * 3 + 1);
  CLOBBER();
}
static u64 setjmp_run(u32 n) {
  volatile u64 s = 0;
  for (volatile u32 i = 0; i < n * 100; i++) {
    int r = setjmp(env);
    if (r == 0) dive(i & 7, i);
    s = s * 5 + (u32)r;
  }
  return s;
}

struct tree { struct tree *l, *r; u32 v; };
static NOINLINE struct tree *grow(u32 depth, u32 v) {
  struct tree *t = malloc(sizeof *t);
  t->v = v;
  t->l = depth ? grow(depth - 1, v * 2) : NULL;
  t->r = depth ? grow(depth - 1, v * 2 + 1) : NULL;
  return t;
}
static NOINLINE u32 fell(struct tree *t) {
  if (t == NULL) return 0;
  u32 s = t->v + fell(t->l) * 3 + fell(t->r);
  free(t);
  return s;
}
static u64 trees(u32 n) {
  u64 h = 0;
  for (u32 i = 0; i < n; i++) h = mix(h, fell(grow(10, i)));
  return h;
}

static NOINLINE int match_here(const char *re, const char *s);
static NOINLINE int match_star(char c, const char *re, const char *s) {
  do
    if (match_here(re, s)) return 1;
  while (*s && (*s++ == c || c == '.'));
  return 0;
}
static NOINLINE int match_here(const char *re, const char *s) {
  if (!re[0]) return 1;
  if (re[1] == '*') return match_star(re[0], re + 2, s);
  if (re[0] == '$' && !re[1]) return !*s;
  if (*s && (re[0] == '.' || re[0] == *s)) return match_here(re + 1, s + 1);
  return 0;
}
static u64 regex(u32 n) {
  static const char *const res[] = {"a*b*c*d", "x.*y.*z$", "ab.*ba", ".*e.*f", "no*ne$"};
  char text[64];
  u32 s = 11;
  u64 h = 0;
  for (u32 r = 0; r < n * 20; r++) {
    for (int i = 0; i < 63; i++) text[i] = (char)('a' + next32(&s) % 6);
    text[63] = 0;
    for (u32 k = 0; k < 5; k++) {
      const char *p = text;
      u32 found = 0;
      for (; *p && !(found = (u32)match_here(res[k], p)); p++) {}
      h = h * 3 + (u64)(p - text) + found;
    }
  }
  return h;
}

/* A state machine by table of functions, each giving the next. */
typedef u32 state_fn(u32 *acc, u8 c);
static u32 s0(u32 *a, u8 c) { *a += c; return c & 3; }
static u32 s1(u32 *a, u8 c) { *a ^= c; return c & 1 ? 2 : 0; }
static u32 s2(u32 *a, u8 c) { *a = *a * 3 + c; return c > 128 ? 3 : 1; }
static u32 s3(u32 *a, u8 c) { *a -= c; return (c >> 2) & 3; }
static state_fn *const states[] = {s0, s1, s2, s3};
static u64 state_table(u32 n) {
  u32 s = 1, acc = 0;
  for (u32 i = 0; i < 16384; i++) arena[i] = (u8)(next32(&s) >> 9);
  u32 st = 0;
  for (u32 r = 0; r < n; r++)
    for (u32 i = 0; i < 16384; i++) st = states[st](&acc, arena[i]);
  return acc;
}

/* Many functions that call each other, spread over pages, so that nothing fits one piece of translated code. */
#define WIDE(i, j) static NOINLINE __attribute__((aligned(512))) u32 w##i(u32 d, u32 v);
#define LIST(X) X(0, 7) X(1, 3) X(2, 12) X(3, 9) X(4, 14) X(5, 1) X(6, 11) X(7, 13) X(8, 2) X(9, 15) X(10, 5) X(11, 8) X(12, 6) X(13, 4) X(14, 10) X(15, 0)
LIST(WIDE)
#undef WIDE
#define WIDE(i, j) \
  static u32 w##i(u32 d, u32 v) { return d == 0 ? v + i : v & 4 ? w##j(d - 1, v * 5 + i) : w##j(d - 1, v ^ 0x5a5) + (v >> 3); }
LIST(WIDE)
static u64 wide_calls(u32 n) {
  u64 h = 0;
  for (u32 i = 0; i < n * 64; i++) h = mix(h, w0(24, i) + w5(9, i));
  return h;
}

const struct workload call_workloads[] = {
    {"call", "fib", fib_run, 400},          {"call", "tak", tak_run, 3300},
    {"call", "qsort", qsort_run, 30},       {"call", "virtual", virtual_calls, 1000},
    {"call", "switch", switch_interp, 60}, {"call", "threaded", threaded_interp, 60},
    {"call", "callvm", call_interp, 4000},  {"call", "setjmp", setjmp_run, 12000},
    {"call", "trees", trees, 150},          {"call", "regex", regex, 560},
    {"call", "states", state_table, 120},   {"call", "wide", wide_calls, 5000},
    {0}};
