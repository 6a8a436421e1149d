// Disk and entropy load for bench/devices.ts: a static Linux program that is told what to do by words of the kernel's command
// line:
//
//   hyve.test=NAME,DEVICE,rw,BLOCK,DEPTH,COUNT   r|w s|r: read or write, sequential or random, COUNT blocks of BLOCK bytes,
//                                                DEPTH at a time (Linux AIO, O_DIRECT)
//   hyve.test=NAME,DEVICE,en,BLOCK,1,COUNT       reads COUNT pieces of BLOCK bytes from an entropy device
//   hyve.passes=N                                all of it N times, default once
//
// Each test prints `BEGIN NAME` and `END NAME pass=1… ns=… bytes=… errors=…`, and `DONE` comes at the end. Sector n of a disk begins
// with two words made from n and a generation: 0 as the host wrote it, 1 for what the guest writes. Reads are checked
// against them; the host checks the image afterwards.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/aio_abi.h>
#include <linux/fs.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum { SECTOR = 512, PAGE = 4096, MAX_DEPTH = 64 };

/* Which time through all tests this is, from 1. */
static unsigned pass;

static uint64_t now_ns(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (uint64_t)t.tv_sec * 1000000000u + t.tv_nsec;
}

static uint32_t word(uint32_t sector, uint32_t generation, uint32_t which) {
  uint32_t x = sector * 0x9e3779b1u + generation * 0x85ebca6bu + which * 0xc2b2ae35u;
  x ^= x >> 15;
  x *= 0x2c1b3c6du;
  return x ^ x >> 13;
}

static void mark(uint8_t *buffer, size_t bytes, uint64_t offset) {
  for (size_t at = 0; at < bytes; at += SECTOR) {
    uint32_t *w = (uint32_t *)(buffer + at);
    uint32_t sector = (offset + at) / SECTOR;
    w[0] = word(sector, 1, 0);
    w[1] = word(sector, 1, 1);
  }
}

/* Every sector in the first pass; in later ones the first of every page, so that not the check is what is timed. */
static unsigned check(const uint8_t *buffer, size_t bytes, uint64_t offset) {
  unsigned wrong = 0;
  for (size_t at = 0; at < bytes; at += pass == 1 ? SECTOR : PAGE) {
    const uint32_t *w = (const uint32_t *)(buffer + at);
    uint32_t sector = (offset + at) / SECTOR;
    int old = w[0] == word(sector, 0, 0) && w[1] == word(sector, 0, 1);
    int new = w[0] == word(sector, 1, 0) && w[1] == word(sector, 1, 1);
    wrong += !old && !new;
  }
  return wrong;
}

struct test {
  char name[64], device[64], kind[4];
  unsigned long block, depth, count;
};

static void entropy(const struct test *t) {
  static uint8_t buffer[1 << 16];
  int fd = open(t->device, O_RDONLY);
  unsigned long long got = 0, errors = fd < 0;
  uint64_t start = now_ns();
  printf("BEGIN %s\n", t->name);
  fflush(stdout);
  for (unsigned long i = 0; fd >= 0 && i < t->count; i++) {
    ssize_t n = read(fd, buffer, t->block);
    if (n <= 0) errors++;
    else got += n;
  }
  printf("END %s pass=%u ns=%llu bytes=%llu errors=%llu\n", t->name, pass, (unsigned long long)(now_ns() - start), got, errors);
  if (fd >= 0) close(fd);
}

static void disk(const struct test *t) {
  int writes = t->kind[0] == 'w', random = t->kind[1] == 'r';
  int fd = open(t->device, (writes ? O_RDWR : O_RDONLY) | O_DIRECT);
  uint64_t size = 0;
  aio_context_t ctx = 0;
  uint8_t *memory = NULL;
  if (fd < 0 || ioctl(fd, BLKGETSIZE64, &size) < 0 || syscall(SYS_io_setup, MAX_DEPTH, &ctx) < 0 ||
      t->depth > MAX_DEPTH || posix_memalign((void **)&memory, 4096, t->block * t->depth) != 0) {
    printf("END %s pass=%u ns=1 bytes=0 errors=1 (%s: %s)\n", t->name, pass, t->device, strerror(errno));
    return;
  }
  memset(memory, 0x5a, t->block * t->depth);
  struct iocb cb[MAX_DEPTH], *ready[MAX_DEPTH];
  struct io_event events[MAX_DEPTH];
  uint64_t blocks = size / t->block, next = 0;
  uint32_t seed = 1;
  unsigned long long bytes = 0, errors = 0;
  unsigned long started = 0, ended = 0, flying = 0, waiting = 0;
  uint64_t start = now_ns();
  printf("BEGIN %s\n", t->name);
  fflush(stdout);
  memset(cb, 0, sizeof cb);
  for (unsigned i = 0; i < t->depth; i++) ready[waiting++] = &cb[i];
  while (ended < t->count) {
    unsigned some = 0;
    struct iocb *go[MAX_DEPTH];
    while (waiting > 0 && started < t->count) {
      struct iocb *c = ready[--waiting];
      uint64_t block;
      if (random) {
        seed ^= seed << 13;
        seed ^= seed >> 17;
        seed ^= seed << 5;
        block = seed % blocks;
      } else block = next++ % blocks;
      c->aio_fildes = fd;
      c->aio_lio_opcode = writes ? IOCB_CMD_PWRITE : IOCB_CMD_PREAD;
      c->aio_buf = (uintptr_t)(memory + (c - cb) * t->block);
      c->aio_nbytes = t->block;
      c->aio_offset = block * t->block;
      if (writes) mark((uint8_t *)(uintptr_t)c->aio_buf, t->block, c->aio_offset);
      go[some++] = c;
      started++;
    }
    if (some > 0 && syscall(SYS_io_submit, ctx, some, go) != (long)some) {
      errors++;
      break;
    }
    flying += some;
    long n = syscall(SYS_io_getevents, ctx, 1, flying, events, NULL);
    if (n <= 0) {
      errors++;
      break;
    }
    for (long i = 0; i < n; i++) {
      struct iocb *c = (struct iocb *)(uintptr_t)events[i].obj;
      if (events[i].res != (long long)t->block) errors++;
      else {
        bytes += t->block;
        if (!writes) errors += check((uint8_t *)(uintptr_t)c->aio_buf, t->block, c->aio_offset);
      }
      ready[waiting++] = c;
      flying--;
      ended++;
    }
  }
  if (writes && fsync(fd) < 0) errors++;
  printf("END %s pass=%u ns=%llu bytes=%llu errors=%llu\n", t->name, pass, (unsigned long long)(now_ns() - start), bytes, errors);
  syscall(SYS_io_destroy, ctx);
  free(memory);
  close(fd);
}

int main(void) {
  static char line[8192], words[8192];
  unsigned passes = 1;
  FILE *f = fopen("/proc/cmdline", "r");
  if (f == NULL || fgets(line, sizeof line, f) == NULL) return 1;
  fclose(f);
  const char *n = strstr(line, "hyve.passes=");
  if (n != NULL) sscanf(n, "hyve.passes=%u", &passes);
  for (pass = 1; pass <= passes; pass++) {
    strcpy(words, line);
    for (char *w = strtok(words, " \n"); w != NULL; w = strtok(NULL, " \n")) {
      struct test t;
      if (sscanf(w, "hyve.test=%63[^,],%63[^,],%3[^,],%lu,%lu,%lu", t.name, t.device, t.kind, &t.block, &t.depth,
                 &t.count) != 6)
        continue;
      for (int i = 0; i < 300 && access(t.device, F_OK) != 0; i++) usleep(10000);
      if (t.kind[0] == 'e') entropy(&t);
      else disk(&t);
      fflush(stdout);
    }
  }
  printf("DONE\n");
  fflush(stdout);
  return 0;
}
