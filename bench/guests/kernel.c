/* Paths through the kernel: system calls, processes, page tables, signals, files. */
#define _GNU_SOURCE
#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include "bench.h"

static u64 getpid_run(u32 n) {
  u64 s = 0;
  for (u32 i = 0; i < n * 100; i++) s += (u64)(syscall(SYS_getpid) > 1);
  return s;
}

static u64 pipe_pingpong(u32 n) {
  int a[2], b[2];
  u32 v = 0;
  if (pipe(a) || pipe(b)) return 0;
  pid_t p = fork();
  if (p == 0) {
    close(a[1]), close(b[0]);
    while (read(a[0], &v, 4) == 4) {
      v = v * 3 + 1;
      if (write(b[1], &v, 4) != 4) break;
    }
    _exit(0);
  }
  close(a[0]), close(b[1]);
  for (u32 i = 0; i < n; i++) {
    v ^= i;
    if (write(a[1], &v, 4) != 4 || read(b[0], &v, 4) != 4) return 0;
  }
  close(a[1]), close(b[0]);
  waitpid(p, NULL, 0);
  return v;
}

static u64 socket_pingpong(u32 n) {
  int s[2];
  char buf[256];
  u64 h = 0;
  if (socketpair(AF_UNIX, SOCK_STREAM, 0, s)) return 0;
  for (u32 i = 0; i < n; i++) {
    memset(buf, (int)i, sizeof buf);
    if (write(s[0], buf, sizeof buf) != sizeof buf || read(s[1], buf, sizeof buf) != sizeof buf) return 0;
    h = mix(h, (u8)buf[i & 255]);
  }
  close(s[0]), close(s[1]);
  return h;
}

static u64 fork_wait(u32 n) {
  u64 s = 0;
  for (u32 i = 0; i < n; i++) {
    int st;
    pid_t p = fork();
    if (p == 0) _exit((int)(i & 31));
    waitpid(p, &st, 0);
    s = s * 3 + (u64)WEXITSTATUS(st);
  }
  return s;
}

static u64 fork_exec(u32 n) {
  u64 s = 0;
  for (u32 i = 0; i < n; i++) {
    int st;
    pid_t p = fork();
    if (p == 0) {
      char code[8];
      sprintf(code, "%u", i & 31);
      execl("/init", "init", "exit", code, (char *)NULL);
      _exit(99);
    }
    waitpid(p, &st, 0);
    s = s * 3 + (u64)WEXITSTATUS(st);
  }
  return s;
}

static u64 page_faults(u32 n) {
  u64 s = 0;
  for (u32 i = 0; i < n; i++) {
    u8 *p = mmap(NULL, 64 * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) return 0;
    for (u32 k = 0; k < 64; k++) p[k * 4096] = (u8)(k + i);
    for (u32 k = 0; k < 64; k++) s += p[k * 4096];
    munmap(p, 64 * 4096);
  }
  return s;
}

static u64 copy_on_write(u32 n) {
  u64 s = 0;
  for (u32 k = 0; k < 128; k++) arena[k * 4096] = (u8)k;
  for (u32 i = 0; i < n; i++) {
    int st;
    pid_t p = fork();
    if (p == 0) {
      u32 h = 0;
      for (u32 k = 0; k < 128; k++) h += arena[k * 4096] += (u8)i;
      _exit((int)(h & 127));
    }
    waitpid(p, &st, 0);
    s = s * 3 + (u64)WEXITSTATUS(st);
  }
  return s;
}

static u64 mprotect_run(u32 n) {
  u8 *p = mmap(NULL, 16 * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  u64 s = 0;
  memset(p, 1, 16 * 4096);
  for (u32 i = 0; i < n * 4; i++) {
    if (mprotect(p, 8 * 4096, PROT_READ)) return 0;
    s += p[(i & 7) * 4096];
    if (mprotect(p, 8 * 4096, PROT_READ | PROT_WRITE)) return 0;
    p[(i & 15) * 4096]++;
  }
  munmap(p, 16 * 4096);
  return s;
}

static u64 clock_vdso(u32 n) {
  struct timespec t;
  u64 s = 0;
  for (u32 i = 0; i < n * 10; i++) {
    clock_gettime(CLOCK_MONOTONIC, &t);
    s += (u64)(t.tv_nsec >= 0);
  }
  return s;
}
static u64 clock_syscall(u32 n) {
  struct timespec t;
  u64 s = 0;
  for (u32 i = 0; i < n * 10; i++) {
    syscall(SYS_clock_gettime, CLOCK_MONOTONIC, &t);
    s += (u64)(t.tv_nsec >= 0);
  }
  return s;
}

static volatile u32 caught;
static void on_signal(int sig) { caught += (u32)sig; }
static u64 signals(u32 n) {
  struct sigaction a;
  memset(&a, 0, sizeof a);
  a.sa_handler = on_signal;
  sigaction(SIGUSR1, &a, NULL);
  caught = 0;
  for (u32 i = 0; i < n * 10; i++) kill(getpid(), SIGUSR1);
  return caught;
}

static u8 *guarded;
static void on_fault(int sig, siginfo_t *info, void *ctx) {
  (void)sig, (void)ctx;
  mprotect((void *)((uintptr_t)info->si_addr & ~(uintptr_t)4095), 4096, PROT_READ | PROT_WRITE);
  caught++;
}
static u64 fault_handler(u32 n) {
  struct sigaction a, old;
  memset(&a, 0, sizeof a);
  a.sa_sigaction = on_fault, a.sa_flags = SA_SIGINFO;
  sigaction(SIGSEGV, &a, &old);
  guarded = mmap(NULL, 16 * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  caught = 0;
  for (u32 i = 0; i < n; i++) {
    mprotect(guarded, 16 * 4096, PROT_NONE);
    for (u32 k = 0; k < 16; k++) guarded[k * 4096]++;
  }
  u64 s = caught + guarded[5 * 4096];
  munmap(guarded, 16 * 4096);
  sigaction(SIGSEGV, &old, NULL);
  return s;
}

static u64 yields(u32 n) {
  pid_t p = fork();
  if (p == 0)
    for (;;) sched_yield();
  for (u32 i = 0; i < n * 10; i++) sched_yield();
  kill(p, SIGKILL);
  waitpid(p, NULL, 0);
  return n;
}

static u64 files(u32 n) {
  char buf[512];
  u64 s = 0;
  mkdir("/tmp/d", 0755);
  for (u32 i = 0; i < n; i++) {
    char name[32];
    struct stat st;
    sprintf(name, "/tmp/d/f%u", i & 63);
    int fd = open(name, O_RDWR | O_CREAT | O_TRUNC, 0644);
    memset(buf, (int)i, sizeof buf);
    if (fd < 0 || write(fd, buf, 500) != 500) return 0;
    close(fd);
    if (stat(name, &st)) return 0;
    fd = open(name, O_RDONLY);
    s += (u64)read(fd, buf, sizeof buf) + (u64)st.st_size + (u8)buf[100];
    close(fd);
    if ((i & 63) == 63) {
      DIR *d = opendir("/tmp/d");
      while (readdir(d)) s++;
      closedir(d);
    }
    if (i & 1) unlink(name);
  }
  for (u32 i = 0; i < 64; i++) {
    char name[32];
    sprintf(name, "/tmp/d/f%u", i);
    unlink(name);
  }
  return s;
}

static u64 big_files(u32 n) {
  u64 s = 0;
  for (u32 i = 0; i < n; i++) {
    int fd = open("/tmp/big", O_RDWR | O_CREAT | O_TRUNC, 0644);
    for (u32 k = 0; k < 16; k++) {
      memset(arena, (int)(k + i), 65536);
      if (write(fd, arena, 65536) != 65536) return 0;
    }
    lseek(fd, 0, SEEK_SET);
    while (read(fd, arena, 65536) == 65536) s = s * 3 + arena[777];
    u8 *m = mmap(NULL, 1 << 20, PROT_READ, MAP_SHARED, fd, 0);
    for (u32 k = 0; k < 1 << 20; k += 4096) s += m[k];
    munmap(m, 1 << 20);
    close(fd);
  }
  unlink("/tmp/big");
  return s;
}

static u64 polls(u32 n) {
  struct pollfd f[20];
  int p[20][2];
  u64 s = 0;
  for (int i = 0; i < 20; i++) {
    if (pipe(p[i])) return 0;
    f[i].fd = p[i][0], f[i].events = POLLIN;
  }
  for (u32 i = 0; i < n; i++) {
    char c = (char)i;
    if (write(p[i % 20][1], &c, 1) != 1) return 0;
    s += (u64)poll(f, 20, 0);
    if (read(p[i % 20][0], &c, 1) != 1) return 0;
  }
  for (int i = 0; i < 20; i++) close(p[i][0]), close(p[i][1]);
  return s;
}

const struct workload kernel_workloads[] = {
    {"kernel", "getpid", getpid_run, 2000},    {"kernel", "pipe", pipe_pingpong, 1400},
    {"kernel", "socket", socket_pingpong, 15000}, {"kernel", "fork", fork_wait, 200},
    {"kernel", "exec", fork_exec, 40},         {"kernel", "mmap", page_faults, 200},
    {"kernel", "cow", copy_on_write, 80},      {"kernel", "mprotect", mprotect_run, 1200},
    {"kernel", "clockvdso", clock_vdso, 170000}, {"kernel", "clocksys", clock_syscall, 21000},
    {"kernel", "signal", signals, 1600},       {"kernel", "segv", fault_handler, 300},
    {"kernel", "yield", yields, 540},         {"kernel", "files", files, 1100},
    {"kernel", "bigfile", big_files, 20},      {"kernel", "poll", polls, 20000},
    {0}};
