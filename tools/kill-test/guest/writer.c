// Writes numbered records and says of each, once fsync has returned, that it is safe:
//
//   writer NAME PATH FIRST [direct]
//
// Record n is 4 KiB at place n % 1021: n, a checksum of the rest, and words that follow from n. The line for it is
// `NAME n`, in one write. PATH is a disk or a file that is large enough.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { RECORD = 4096, WORDS = RECORD / 4, PLACES = 1021 };

int main(int argc, char **argv) {
  if (argc < 4) return 2;
  uint32_t *w = NULL;
  int fd = open(argv[2], O_RDWR | (argc > 4 ? O_DIRECT : 0));
  if (fd < 0 || posix_memalign((void **)&w, RECORD, RECORD) != 0) {
    printf("FAIL %s %s\n", argv[1], strerror(errno));
    return 1;
  }
  for (uint32_t n = strtoul(argv[3], NULL, 10);; n++) {
    uint32_t x = n * 0x9e3779b1u | 1, sum = n;
    for (int i = 2; i < WORDS; i++) {
      x ^= x << 13;
      x ^= x >> 17;
      x ^= x << 5;
      w[i] = x;
      sum = (sum << 1 | sum >> 31) ^ x;
    }
    w[0] = n;
    w[1] = sum;
    char line[64];
    int length;
    if (pwrite(fd, w, RECORD, (off_t)(n % PLACES) * RECORD) != RECORD || fsync(fd) != 0)
      length = snprintf(line, sizeof line, "FAIL %s %s\n", argv[1], strerror(errno));
    else length = snprintf(line, sizeof line, "%s %u\n", argv[1], n);
    if (write(1, line, length) != length || line[0] == 'F') return 1;
  }
}
