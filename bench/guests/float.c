/* SSE and SSE2: scalar and packed floating point, and SIMD of integers. */
#include <emmintrin.h>
#include <math.h>
#include "bench.h"

static u64 nbody(u32 n) {
  static double p[5][3], v[5][3], m[5];
  for (int i = 0; i < 5; i++) {
    m[i] = i ? 0.01 * i : 39.0;
    for (int k = 0; k < 3; k++) p[i][k] = i * (k + 1.5) * (k & 1 ? -1 : 1), v[i][k] = i ? 0.3 * (k - i) : 0;
  }
  for (u32 r = 0; r < n * 100; r++) {
    for (int i = 0; i < 5; i++)
      for (int j = i + 1; j < 5; j++) {
        double d[3], q = 0.01;
        for (int k = 0; k < 3; k++) d[k] = p[i][k] - p[j][k], q += d[k] * d[k];
        double f = 0.001 / (q * sqrt(q));
        for (int k = 0; k < 3; k++) v[i][k] -= d[k] * m[j] * f, v[j][k] += d[k] * m[i] * f;
      }
    for (int i = 0; i < 5; i++)
      for (int k = 0; k < 3; k++) p[i][k] += 0.001 * v[i][k];
  }
  u64 h = 0;
  for (int i = 0; i < 5; i++) h = mix(h, rounded(p[i][0]));
  return h;
}

#define MANDEL(NAME, T)                                             \
  static u64 NAME(u32 n) {                                          \
    u64 sum = 0;                                                    \
    for (u32 r = 0; r < n; r++)                                     \
      for (int y = 0; y < 40; y++)                                  \
        for (int x = 0; x < 40; x++) {                              \
          T cr = (T)(x - 28) / (T)20, ci = (T)(y - 20) / (T)20 + (T)r * (T)0.0009765625, zr = 0, zi = 0; \
          int k = 0;                                                \
          for (; k < 60 && zr * zr + zi * zi < (T)4; k++) {         \
            T t = zr * zr - zi * zi + cr;                           \
            zi = (T)2 * zr * zi + ci, zr = t;                       \
          }                                                         \
          sum = sum * 3 + (u32)k;                                   \
        }                                                           \
    return sum;                                                     \
  }
MANDEL(mandel_double, double)
MANDEL(mandel_float, float)

#define MM 64
static u64 matmul_double(u32 n) {
  static double a[MM][MM], b[MM][MM], c[MM][MM];
  for (int i = 0; i < MM; i++)
    for (int j = 0; j < MM; j++) a[i][j] = (i - j) * 0.01, b[i][j] = (i + j) * 0.02, c[i][j] = 0;
  for (u32 r = 0; r < n; r++)
    for (int i = 0; i < MM; i++)
      for (int j = 0; j < MM; j++) {
        double s = 0;
        for (int k = 0; k < MM; k++) s += a[i][k] * b[k][j];
        c[i][j] = c[i][j] * 0.5 + s;
      }
  return rounded(c[3][5] + c[60][1]);
}

static u64 fft(u32 n) {
  enum { N = 1024 };
  static double re[N], im[N], wr[N / 2], wi[N / 2];
  for (int i = 0; i < N / 2; i++) wr[i] = cos(-6.283185307179586 * i / N), wi[i] = sin(-6.283185307179586 * i / N);
  for (int i = 0; i < N; i++) re[i] = (i * 37 % 101) * 0.01, im[i] = 0;
  for (u32 r = 0; r < n; r++) {
    for (u32 i = 0, j = 0; i < N; i++) {
      if (i < j) {
        double t = re[i];
        re[i] = re[j], re[j] = t, t = im[i], im[i] = im[j], im[j] = t;
      }
      u32 bit = N >> 1;
      for (; bit && (j & bit); bit >>= 1) j ^= bit;
      j |= bit;
    }
    for (int len = 2; len <= N; len *= 2)
      for (int i = 0; i < N; i += len)
        for (int k = 0; k < len / 2; k++) {
          int a = i + k, b = a + len / 2, t = k * (N / len);
          double xr = re[b] * wr[t] - im[b] * wi[t], xi = re[b] * wi[t] + im[b] * wr[t];
          re[b] = re[a] - xr, im[b] = im[a] - xi, re[a] += xr, im[a] += xi;
        }
    for (int i = 0; i < N; i++) re[i] *= 1.0 / 32, im[i] *= 1.0 / 32;
  }
  return rounded(re[5] + im[77]);
}

static u64 spectral(u32 n) {
  enum { N = 100 };
  double u[N], v[N];
  for (int i = 0; i < N; i++) u[i] = 1;
  for (u32 r = 0; r < n; r++) {
    double big = 0;
    for (int i = 0; i < N; i++) {
      double s = 0;
      for (int j = 0; j < N; j++) s += u[j] / ((i + j) * (i + j + 1) / 2 + i + 1);
      v[i] = s;
      if (s > big) big = s;
    }
    for (int i = 0; i < N; i++) u[i] = v[i] / big;
  }
  return rounded(u[50] + u[99]);
}

static u64 convert_round(u32 n) {
  double s = 0.5;
  u64 h = 0;
  float f = 1.25f;
  for (u32 i = 0; i < n * 1000; i++) {
    i32 k = (i32)(s * 1000.0);
    h += (u32)k;
    s = (double)(k % 977) * 0.125 + (double)f;
    f = (float)s * 0.5f + (float)(i32)(i & 255);
  }
  return h;
}

static u64 sort_doubles(u32 n) {
  double *v = (double *)arena;
  u32 s = 17;
  u64 h = 0;
  for (u32 r = 0; r < n; r++) {
    for (int i = 0; i < 5000; i++) v[i] = (double)next32(&s) * 1e-4;
    for (int gap = 2500; gap > 0; gap = gap == 2 ? 1 : (int)(gap / 2.2))
      for (int i = gap; i < 5000; i++) {
        double x = v[i];
        int j = i;
        for (; j >= gap && v[j - gap] > x; j -= gap) v[j] = v[j - gap];
        v[j] = x;
      }
    h = mix(h, rounded(v[2500]));
  }
  return h;
}

static u64 libm_calls(u32 n) {
  double s = 0;
  for (u32 i = 1; i <= n * 100; i++) {
    double x = (i % 1000) * 0.01;
    s += sin(x) + exp(-x) + log(x + 1.0) + pow(x + 0.5, 0.7) + atan2(x, 2.0);
  }
  return rounded(s / 1000);
}

static u64 poly_float(u32 n) {
  float *v = (float *)arena;
  for (int i = 0; i < 4096; i++) v[i] = (float)(i % 97) * 0.01f;
  float s = 0;
  for (u32 r = 0; r < n; r++) {
    s *= 0.5f;
    for (int i = 0; i < 4096; i++) {
      float x = v[i];
      float y = (((x * 0.3f + 0.1f) * x - 0.7f) * x + 1.5f) / (1.0f + x * x);
      if (y > 1.2f) y = 1.2f;
      s += y;
    }
  }
  return rounded(s * 1e-3);
}

static u64 packed_float(u32 n) {
  __m128 *x = (__m128 *)arena, *y = (__m128 *)(arena + 65536);
  for (int i = 0; i < 4096; i++) x[i] = _mm_set_ps((float)i, 1, 2, (float)(i & 7)), y[i] = _mm_set1_ps(0.5f);
  __m128 a = _mm_set1_ps(0.001f), lim = _mm_set1_ps(100.0f);
  for (u32 r = 0; r < n; r++)
    for (int i = 0; i < 4096; i++) {
      __m128 t = _mm_add_ps(_mm_mul_ps(a, x[i]), y[i]);
      y[i] = _mm_min_ps(_mm_max_ps(t, _mm_shuffle_ps(t, y[i], 0x1b)), lim);
    }
  float out[4];
  _mm_storeu_ps(out, _mm_add_ps(y[7], y[4000]));
  return rounded(out[0] + out[1]);
}

static u64 packed_double(u32 n) {
  __m128d *x = (__m128d *)arena;
  for (int i = 0; i < 2048; i++) x[i] = _mm_set_pd(i * 0.5, i + 1.0);
  __m128d s = _mm_setzero_pd(), k = _mm_set1_pd(1.0000001);
  for (u32 r = 0; r < n; r++)
    for (int i = 0; i < 2048; i++) {
      x[i] = _mm_mul_pd(x[i], k);
      s = _mm_add_pd(_mm_mul_pd(s, _mm_set1_pd(0.5)), _mm_unpackhi_pd(x[i], s));
    }
  double out[2];
  _mm_storeu_pd(out, s);
  return rounded(out[0] * 1e-3 + out[1] * 1e-3);
}

static u64 packed_add(u32 n) {
  __m128i *x = (__m128i *)arena, s = _mm_setzero_si128(), t = s;
  for (u32 i = 0; i < 65536 * 4; i++) arena[i] = (u8)(i * 13);
  for (u32 r = 0; r < n; r++)
    for (int i = 0; i < 4096; i++) {
      s = _mm_add_epi32(s, x[i]);
      t = _mm_add_epi64(_mm_xor_si128(t, s), _mm_srli_epi16(x[i], 3));
      t = _mm_sub_epi8(t, _mm_and_si128(s, x[i]));
    }
  u64 out[2];
  _mm_storeu_si128((__m128i *)out, _mm_add_epi64(s, t));
  return out[0] ^ out[1];
}

static u64 shuffles(u32 n) {
  __m128i *x = (__m128i *)arena;
  for (u32 i = 0; i < 16384; i++) arena[i] = (u8)(i * 7 + 1);
  for (u32 r = 0; r < n; r++)
    for (int i = 0; i < 1024; i += 4) {
      __m128i a = x[i], b = x[i + 1], c = x[i + 2], d = x[i + 3];
      __m128i p = _mm_unpacklo_epi32(a, b), q = _mm_unpacklo_epi32(c, d), u = _mm_unpackhi_epi32(a, b), v = _mm_unpackhi_epi32(c, d);
      x[i] = _mm_unpacklo_epi64(p, q), x[i + 1] = _mm_shuffle_epi32(_mm_unpackhi_epi64(p, q), 0x4b);
      x[i + 2] = _mm_packus_epi16(_mm_unpacklo_epi8(u, v), _mm_shufflelo_epi16(v, 0x1b));
      x[i + 3] = _mm_or_si128(_mm_slli_si128(u, 3), _mm_srli_si128(v, 13));
    }
  u64 h = 0, out[2];
  for (int i = 0; i < 1024; i++) _mm_storeu_si128((__m128i *)out, x[i]), h = mix(h, out[0] + out[1]);
  return h;
}

static u64 dot_products(u32 n) {
  __m128i *x = (__m128i *)arena, s = _mm_setzero_si128(), sad = s;
  for (u32 i = 0; i < 65536; i++) arena[i] = (u8)(i * 91 + (i >> 7));
  for (u32 r = 0; r < n; r++)
    for (int i = 0; i + 8 < 4096; i += 2) {
      s = _mm_add_epi32(s, _mm_madd_epi16(x[i], x[i + 1]));
      sad = _mm_add_epi64(sad, _mm_sad_epu8(_mm_avg_epu8(x[i], x[i + 5]), x[i + 7]));
      s = _mm_add_epi32(s, _mm_mulhi_epi16(x[i], _mm_max_epi16(x[i + 1], s)));
    }
  u64 out[4];
  _mm_storeu_si128((__m128i *)out, s);
  _mm_storeu_si128((__m128i *)(out + 2), sad);
  return out[0] ^ out[1] ^ out[2] * 3 ^ out[3] * 5;
}

static NOINLINE u32 find_zero(const u8 *p) {
  __m128i z = _mm_setzero_si128();
  for (u32 i = 0;; i += 16) {
    u32 m = (u32)_mm_movemask_epi8(_mm_cmpeq_epi8(_mm_load_si128((const __m128i *)(p + i)), z));
    if (m) return i + (u32)__builtin_ctz(m);
  }
}
static u64 scan_zero(u32 n) {
  u32 s = 3;
  u64 sum = 0;
  memset(arena, 'x', 1 << 17);
  for (u32 i = 0; i < 64; i++) arena[i * 2048 + 100 + next32(&s) % 1900] = 0;
  for (u32 r = 0; r < n; r++)
    for (u32 i = 0; i < 64; i++) sum += find_zero(arena + i * 2048);
  return sum;
}

static NOINLINE u32 count_byte(const u8 *p, u32 len, u8 c) {
  __m128i k = _mm_set1_epi8((char)c), acc = _mm_setzero_si128();
  u32 total = 0;
  for (u32 i = 0; i < len;) {
    u32 stop = len - i > 255 * 16 ? i + 255 * 16 : len;
    __m128i some = _mm_setzero_si128();
    for (; i < stop; i += 16) some = _mm_sub_epi8(some, _mm_cmpeq_epi8(_mm_loadu_si128((const __m128i *)(p + i)), k));
    acc = _mm_add_epi64(acc, _mm_sad_epu8(some, _mm_setzero_si128()));
  }
  total = (u32)_mm_cvtsi128_si32(acc) + (u32)_mm_cvtsi128_si32(_mm_srli_si128(acc, 8));
  return total;
}
static u64 count_run(u32 n) {
  u32 s = 9;
  for (u32 i = 0; i < 65536; i++) arena[i] = (u8)(next32(&s) & 15);
  u64 sum = 0;
  for (u32 r = 0; r < n; r++) sum += count_byte(arena + (r & 15), 65000, (u8)(r & 15));
  return sum;
}

const struct workload float_workloads[] = {
    {"float", "nbody", nbody, 600},           {"float", "mandel64", mandel_double, 39},
    {"float", "mandel32", mandel_float, 51}, {"float", "matmul64", matmul_double, 55},
    {"float", "fft", fft, 410},               {"float", "spectral", spectral, 1100},
    {"float", "convert", convert_round, 2800}, {"float", "sortdbl", sort_doubles, 110},
    {"float", "libm", libm_calls, 780},       {"float", "polyf32", poly_float, 940},
    {"float", "addps", packed_float, 520},    {"float", "addpd", packed_double, 1700},
    {"float", "paddd", packed_add, 1200},     {"float", "shuffle", shuffles, 9500},
    {"float", "pmadd", dot_products, 1500},   {"float", "strlen16", scan_zero, 1700},
    {"float", "count16", count_run, 1700},    {0}};
