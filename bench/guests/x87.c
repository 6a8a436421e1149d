/* The x87 unit: long double arithmetic, the mode of 32-bit code without SSE2, and its transcendental instructions. */
#include "bench.h"

static u64 horner(u32 n) {
  long double x = 0.5L, s = 0;
  for (u32 i = 0; i < n * 1000; i++) {
    long double y = ((((x * 0.2L - 0.3L) * x + 0.7L) * x - 1.1L) * x + 1.0L);
    s = s * 0.999L + y;
    x += 0.0001L;
    if (x > 1) x -= 1;
  }
  return rounded((double)s);
}

static u64 newton(u32 n) {
  long double s = 0;
  for (u32 i = 1; i <= n * 100; i++) {
    long double v = (long double)(i % 1000 + 2), r = v;
    for (int k = 0; k < 12; k++) r = 0.5L * (r + v / r);
    s += r - (long double)(i % 30);
  }
  return rounded((double)(s / 1000));
}

static u64 transcendental(u32 n) {
  long double s = 0;
  for (u32 i = 1; i <= n * 100; i++) {
    long double x = (long double)(i % 500) * 0.01L, a, b, c;
    __asm__("fsincos" : "=t"(a), "=u"(b) : "0"(x));
    __asm__("fpatan" : "=t"(c) : "0"(x + 1), "u"(a) : "st(1)");
    __asm__("fsqrt" : "=t"(x) : "0"(x + 2));
    s += a * b + c + x;
  }
  return rounded((double)(s / 1000));
}

/* Doubles through the x87, as 32-bit compilers do by default: loads, FXCH, stores that round, compares by FCOMI. */
static u64 double_x87(u32 n) {
  double *v = (double *)arena;
  for (int i = 0; i < 1024; i++) v[i] = (i % 37) * 0.25 + 1;
  double s = 0;
  for (u32 r = 0; r < n; r++) {
    s *= 0.5;
    for (int i = 1; i < 1024; i++) {
      double a = v[i], b = v[i - 1];
      if (a > b) s += a * b;
      else s -= a / b;
      v[i] = a * 0.999 + b * 0.001;
    }
  }
  return rounded(s * 1e-3);
}

static u64 int_convert(u32 n) {
  u64 h = 0;
  for (u32 i = 0; i < n * 1000; i++) {
    i32 k = (i32)i, out;
    __asm__ volatile("fildl %1\n\tfmuls %2\n\tfistpl %0" : "=m"(out) : "m"(k), "m"(*(const float[]){0.375f}));
    h += (u32)out;
  }
  return h;
}

const struct workload x87_workloads[] = {{"float", "x87horner", horner, 460},
                                         {"float", "x87newton", newton, 980},
                                         {"float", "x87trans", transcendental, 2100},
                                         {"float", "x87double", double_x87, 700},
                                         {"float", "x87int", int_convert, 1400},
                                         {0}};
