/* Integer loops: checksums, sorting, sieves, matrices, parsing, hash tables, compression, long multiplication. */
#include "bench.h"

static u64 crc32_bytes(u32 n) {
  static u32 t[256];
  for (u32 i = 0; i < 256; i++) {
    u32 c = i;
    for (int k = 0; k < 8; k++) c = (c >> 1) ^ (0xedb88320u & -(c & 1));
    t[i] = c;
  }
  for (u32 i = 0; i < 65536; i++) arena[i] = (u8)(i * 31 + (i >> 8));
  u32 c = ~0u;
  for (u32 r = 0; r < n; r++)
    for (u32 i = 0; i < 65536; i++) c = t[(c ^ arena[i]) & 255] ^ (c >> 8);
  return ~c;
}

#define ROR(x, k) ((x) >> (k) | (x) << (32 - (k)))
static const u32 K256[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5, 0xd807aa98, 0x12835b01, 0x243185be,
    0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174, 0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa,
    0x5cb0a9dc, 0x76f988da, 0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967, 0x27b70a85,
    0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85, 0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3,
    0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070, 0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f,
    0x682e6ff3, 0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};
static NOINLINE void sha_block(u32 h[8], const u32 m[16]) {
  u32 w[64], a = h[0], b = h[1], c = h[2], d = h[3], e = h[4], f = h[5], g = h[6], p = h[7];
  for (int i = 0; i < 16; i++) w[i] = m[i];
  for (int i = 16; i < 64; i++) {
    u32 x = w[i - 15], y = w[i - 2];
    w[i] = w[i - 16] + w[i - 7] + (ROR(x, 7) ^ ROR(x, 18) ^ x >> 3) + (ROR(y, 17) ^ ROR(y, 19) ^ y >> 10);
  }
  for (int i = 0; i < 64; i++) {
    u32 s = p + (ROR(e, 6) ^ ROR(e, 11) ^ ROR(e, 25)) + ((e & f) ^ (~e & g)) + K256[i] + w[i];
    u32 q = (ROR(a, 2) ^ ROR(a, 13) ^ ROR(a, 22)) + ((a & b) ^ (a & c) ^ (b & c));
    p = g, g = f, f = e, e = d + s, d = c, c = b, b = a, a = s + q;
  }
  h[0] += a, h[1] += b, h[2] += c, h[3] += d, h[4] += e, h[5] += f, h[6] += g, h[7] += p;
}
static u64 sha256(u32 n) {
  u32 h[8] = {1, 2, 3, 4, 5, 6, 7, 8}, m[16];
  for (u32 i = 0; i < 16; i++) m[i] = i * 0x01234567u;
  for (u32 r = 0; r < n * 256; r++) {
    m[r & 15] ^= h[r & 7];
    sha_block(h, m);
  }
  return (u64)h[0] << 32 | h[7];
}

static u64 sieve(u32 n) {
  u64 count = 0;
  const u32 top = 500000;
  for (u32 r = 0; r < n; r++) {
    memset(arena, 1, top);
    for (u32 i = 2; i * i < top; i++)
      if (arena[i])
        for (u32 j = i * i; j < top; j += i) arena[j] = 0;
    for (u32 i = 2; i < top; i++) count += arena[i];
  }
  return count;
}

#define MN 96
static u64 matrix_int(u32 n) {
  static i32 a[MN][MN], b[MN][MN], c[MN][MN];
  for (int i = 0; i < MN; i++)
    for (int j = 0; j < MN; j++) a[i][j] = i * 3 + j, b[i][j] = i - j * 7;
  for (u32 r = 0; r < n; r++) {
    for (int i = 0; i < MN; i++)
      for (int j = 0; j < MN; j++) {
        i32 s = 0;
        for (int k = 0; k < MN; k++) s += a[i][k] * b[k][j];
        c[i][j] = s;
      }
    a[r % MN][(r * 5) % MN] = c[r % MN][3] & 1023;
  }
  u64 h = 0;
  for (int i = 0; i < MN; i++) h = mix(h, (u32)c[i][i]);
  return h;
}

static u64 heapsort_u32(u32 n) {
  u32 *v = (u32 *)arena, s = 12345;
  const u32 len = 50000;
  u64 h = 0;
  for (u32 r = 0; r < n; r++) {
    for (u32 i = 0; i < len; i++) v[i] = next32(&s);
    for (u32 start = len / 2, end = len; end > 1;) {
      u32 root, x;
      if (start > 0) start--;
      else {
        end--;
        x = v[end], v[end] = v[0], v[0] = x;
      }
      root = start, x = v[root];
      for (u32 child; (child = 2 * root + 1) < end; root = child) {
        if (child + 1 < end && v[child] < v[child + 1]) child++;
        if (x >= v[child]) break;
        v[root] = v[child];
      }
      v[root] = x;
    }
    h = mix(h, v[len / 3]);
  }
  return h;
}

static u64 insertion_runs(u32 n) {
  u32 *v = (u32 *)arena, *t = v + 65536, s = 99;
  u64 h = 0;
  for (u32 r = 0; r < n; r++) {
    for (u32 i = 0; i < 32768; i++) v[i] = next32(&s);
    for (u32 b = 0; b < 32768; b += 16)
      for (u32 i = b + 1; i < b + 16; i++) {
        u32 x = v[i], j = i;
        for (; j > b && v[j - 1] > x; j--) v[j] = v[j - 1];
        v[j] = x;
      }
    for (u32 w = 16; w < 32768; w *= 2) {
      for (u32 b = 0; b < 32768; b += 2 * w) {
        u32 i = b, j = b + w, k = b;
        while (i < b + w && j < b + 2 * w) t[k++] = v[i] <= v[j] ? v[i++] : v[j++];
        while (i < b + w) t[k++] = v[i++];
        while (j < b + 2 * w) t[k++] = v[j++];
      }
      u32 *x = v;
      v = t, t = x;
    }
    h = mix(h, v[1000] ^ v[30000]);
  }
  return h;
}

static u64 xorshift64(u32 n) {
  u64 x = 88172645463325252ull, a = 0;
  for (u32 i = 0; i < n * 65536; i++) {
    x ^= x << 13, x ^= x >> 7, x ^= x << 17;
    a += x * 0x2545f4914f6cdd1dull >> 11;
  }
  return a;
}

static u64 parse_text(u32 n) {
  char *text = (char *)arena;
  u32 at = 0, s = 7;
  static const char *const words[] = {"alpha", "beta", "name", "x", "value", "total"};
  while (at < 60000)
    at += (u32)sprintf(text + at, "%s = %u, \"q%u\"; # note\n", words[next32(&s) % 6], s % 100000, s % 77);
  text[at] = 0;
  u64 h = 0;
  for (u32 r = 0; r < n; r++) {
    u32 ids = 0, nums = 0, strs = 0;
    u64 sum = r;
    for (const char *p = text; *p;) {
      char c = *p;
      if (c == ' ' || c == '\n' || c == ',' || c == ';' || c == '=') p++;
      else if (c >= '0' && c <= '9') {
        u32 v = 0;
        while (*p >= '0' && *p <= '9') v = v * 10 + (u32)(*p++ - '0');
        sum += v, nums++;
      } else if (c == '"') {
        for (p++; *p != '"'; p++) sum += (u8)*p;
        p++, strs++;
      } else if (c == '#')
        while (*p != '\n') p++;
      else {
        u32 k = 5381;
        while ((*p >= 'a' && *p <= 'z') || *p == '_') k = k * 33 + (u8)*p++;
        sum ^= k, ids++;
      }
    }
    h = mix(h, sum + ids * 3 + nums * 5 + strs);
  }
  return h;
}

static u64 hash_table(u32 n) {
  struct slot { u32 key, value; } *t = (struct slot *)arena;
  const u32 mask = 32767;
  u64 h = 0;
  u32 s = 4242;
  for (u32 r = 0; r < n; r++) {
    memset(t, 0, sizeof *t * (mask + 1));
    for (u32 i = 0; i < 20000; i++) {
      u32 k = next32(&s) % 16384 + 1, at = k * 2654435761u >> 17;
      while (t[at & mask].key != 0 && t[at & mask].key != k) at++;
      t[at & mask].key = k, t[at & mask].value += i;
    }
    for (u32 k = 1; k < 16384; k++) {
      u32 at = k * 2654435761u >> 17;
      while (t[at & mask].key != 0 && t[at & mask].key != k) at++;
      h += t[at & mask].value;
    }
  }
  return h;
}

static u64 lz_pack(u32 n) {
  u8 *in = arena, *out = arena + (1 << 20), *back = arena + (2 << 20);
  u32 *head = (u32 *)(arena + (3 << 20)), s = 31337;
  const u32 len = 100000;
  for (u32 i = 0; i < len;) {
    u32 v = next32(&s);
    if (i > 1000 && (v & 3)) {
      u32 from = v % (i - 100), k = 4 + (v >> 20) % 30;
      while (k-- && i < len) in[i++] = in[from++];
    } else in[i++] = (u8)(v >> 8);
  }
  u64 h = 0;
  for (u32 r = 0; r < n; r++) {
    memset(head, 0, 4096 * 4);
    u32 o = 0, i = 0;
    in[r % len] ^= 1;
    while (i + 4 < len) {
      u32 w;
      memcpy(&w, in + i, 4);
      u32 slot = w * 2654435761u >> 20, cand = head[slot], k = 0;
      head[slot] = i + 1;
      if (cand-- > 0 && i - cand < 65536)
        while (k < 66 && i + k < len && in[cand + k] == in[i + k]) k++;
      if (k >= 4) {
        out[o++] = (u8)(0x80 | (k - 4)), out[o++] = (u8)(i - cand), out[o++] = (u8)((i - cand) >> 8);
        i += k;
      } else out[o++] = 0, out[o++] = in[i++];
    }
    u32 b = 0;
    for (u32 j = 0; j < o;) {
      u8 c = out[j++];
      if (c & 0x80) {
        u32 k = (c & 127u) + 4, d = out[j] | (u32)out[j + 1] << 8;
        j += 2;
        for (; k--; b++) back[b] = back[b - d];
      } else back[b++] = out[j++];
    }
    h = mix(h, o + back[b - 1] + (memcmp(in, back, b) == 0));
  }
  return h;
}

static u64 bignum(u32 n) {
  enum { L = 64 };
  u32 a[L], b[L], c[2 * L];
  for (u32 i = 0; i < L; i++) a[i] = i * 0x9e3779b9u + 1, b[i] = ~i * 0x85ebca6bu;
  for (u32 r = 0; r < n * 16; r++) {
    memset(c, 0, sizeof c);
    for (int i = 0; i < L; i++) {
      u64 carry = 0;
      for (int j = 0; j < L; j++) {
        u64 t = (u64)a[i] * b[j] + c[i + j] + carry;
        c[i + j] = (u32)t, carry = t >> 32;
      }
      c[i + L] = (u32)carry;
    }
    memcpy(a, c + L / 2, sizeof a);
    a[0] |= 1;
  }
  return (u64)a[3] << 32 | a[60];
}

static u32 queens_from(u32 all, u32 cols, u32 d1, u32 d2) {
  if (cols == all) return 1;
  u32 found = 0;
  for (u32 free = all & ~(cols | d1 | d2); free;) {
    u32 bit = free & -free;
    free ^= bit;
    found += queens_from(all, cols | bit, (d1 | bit) << 1, (d2 | bit) >> 1);
  }
  return found;
}
static u64 queens(u32 n) {
  u64 s = 0;
  for (u32 i = 0; i < n; i++) s += queens_from(255 << (i & 1) | 1, 0, 0, 0);
  return s;
}

static u64 edit_distance(u32 n) {
  char a[300], b[300];
  u32 row[301], s = 5;
  u64 h = 0;
  for (u32 r = 0; r < n; r++) {
    for (int i = 0; i < 300; i++) a[i] = (char)('a' + next32(&s) % 4), b[i] = (char)('a' + next32(&s) % 4);
    for (u32 j = 0; j <= 300; j++) row[j] = j;
    for (u32 i = 0; i < 300; i++) {
      u32 diag = row[0];
      row[0] = i + 1;
      for (u32 j = 0; j < 300; j++) {
        u32 best = diag + (a[i] != b[j]);
        if (row[j] + 1 < best) best = row[j] + 1;
        diag = row[j + 1];
        if (diag + 1 < best) best = diag + 1;
        row[j + 1] = best;
      }
    }
    h = mix(h, row[300]);
  }
  return h;
}

static u64 divisions(u32 n) {
  u64 h = 0;
  for (u32 i = 1; i <= n * 4000; i++) {
    u32 a = i * 2654435761u | 1, b = i | 1;
    while (b) {
      u32 t = a % b;
      a = b, b = t;
    }
    h += a;
    u64 v = (u64)i * 1000003u;
    u32 by = (i & 1023) + 3;
    HIDE(by);
    h ^= v / by;
  }
  return h;
}

static u64 base64(u32 n) {
  static const char A[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  u8 *in = arena, *out = arena + 65536, rev[256] = {0};
  for (u32 i = 0; i < 64; i++) rev[(u8)A[i]] = (u8)i;
  for (u32 i = 0; i < 30000; i++) in[i] = (u8)(i * 7 + (i >> 5));
  u64 h = 0;
  for (u32 r = 0; r < n; r++) {
    u32 o = 0;
    in[r % 30000]++;
    for (u32 i = 0; i < 30000; i += 3) {
      u32 v = (u32)in[i] << 16 | (u32)in[i + 1] << 8 | in[i + 2];
      out[o++] = (u8)A[v >> 18], out[o++] = (u8)A[v >> 12 & 63], out[o++] = (u8)A[v >> 6 & 63], out[o++] = (u8)A[v & 63];
    }
    u32 s = 0;
    for (u32 i = 0; i < o; i += 4) {
      u32 v = (u32)rev[out[i]] << 18 | (u32)rev[out[i + 1]] << 12 | (u32)rev[out[i + 2]] << 6 | rev[out[i + 3]];
      s = s * 17 + v;
    }
    h = mix(h, s);
  }
  return h;
}

const struct workload int_workloads[] = {
    {"int", "crc32", crc32_bytes, 300},     {"int", "sha256", sha256, 170},
    {"int", "sieve", sieve, 20},            {"int", "matrix", matrix_int, 14},
    {"int", "heapsort", heapsort_u32, 10},   {"int", "mergesort", insertion_runs, 13},
    {"int", "xorshift64", xorshift64, 780}, {"int", "parse", parse_text, 370},
    {"int", "hashtable", hash_table, 150},   {"int", "lz", lz_pack, 60},
    {"int", "bignum", bignum, 290},          {"int", "queens", queens, 410},
    {"int", "editdist", edit_distance, 200}, {"int", "divide", divisions, 210},
    {"int", "base64", base64, 300},          {0}};
