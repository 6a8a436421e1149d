/*
 * The /init of the bench's guests: runs workloads, each in a process of its own, and tells the console.
 *
 *   @R                          running; the kernel is behind us
 *   @S GROUP/NAME REP CLOCK     a repetition begins; again when its preparation is done. The guest's clock, nanoseconds
 *   @E GROUP/NAME REP SUM NS    it ended: checksum, nanoseconds of the guest's clock
 *   @F GROUP/NAME STATUS        its process ended in another way
 *   @K NAME                     the kernel's clock source
 *   @D                          all done
 *
 * From the kernel's command line: bench=GROUP,GROUP/NAME,… (default all), reps=N, scale=PERCENT of the usual work.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>
#include "bench.h"

u8 arena[64u << 20] __attribute__((aligned(4096)));

static const struct workload *const groups[] = {int_workloads, call_workloads,   float_workloads,  x87_workloads,
                                                rep_workloads, mem_workloads, kernel_workloads, rewrite_workloads};

static void say(const char *text) {
  size_t len = strlen(text);
  while (len > 0) {
    ssize_t n = write(1, text, len);
    if (n <= 0) return;
    text += n, len -= (size_t)n;
  }
  /* The serial driver sends by interrupts: they must not fall into what is timed. */
  tcdrain(1);
}

static u64 now_ns(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (u64)t.tv_sec * 1000000000u + (u64)t.tv_nsec;
}

static int wanted(const struct workload *w) {
  const char *list = getenv("bench");
  if (list == NULL || *list == 0) return 1;
  char full[64];
  sprintf(full, "%s/%s", w->group, w->name);
  size_t g = strlen(w->group), f = strlen(full);
  for (const char *p = list; *p; p += *p == ',') {
    size_t k = strcspn(p, ",");
    if ((k == g && memcmp(p, w->group, g) == 0) || (k == f && memcmp(p, full, f) == 0)) return 1;
    p += k;
  }
  return 0;
}

static u32 setting(const char *name, u32 otherwise) {
  const char *v = getenv(name);
  return v == NULL ? otherwise : (u32)strtoul(v, NULL, 10);
}

static const struct workload *current;
static u32 repetition;
static u64 from;

void timed(void) {
  char line[128];
  sprintf(line, "@S %s/%s %u %llu\n", current->group, current->name, repetition, (unsigned long long)now_ns());
  say(line);
  from = now_ns();
}

static void repeat(const struct workload *w, u32 reps, u32 n) {
  char line[128];
  current = w;
  for (u32 r = 0; r < reps; r++) {
    repetition = r;
    timed();
    u64 sum = w->run(n);
    u64 ns = now_ns() - from;
    sprintf(line, "@E %s/%s %u %016llx %llu\n", w->group, w->name, r, (unsigned long long)sum, (unsigned long long)ns);
    say(line);
  }
}

int main(int argc, char **argv) {
  if (argc == 3 && strcmp(argv[1], "exit") == 0) return atoi(argv[2]);
  if (getpid() == 1) {
    mkdir("/dev", 0755), mkdir("/tmp", 0755), mkdir("/proc", 0755), mkdir("/sys", 0755);
    mount("devtmpfs", "/dev", "devtmpfs", 0, NULL);
    mount("tmpfs", "/tmp", "tmpfs", 0, NULL);
    mount("sysfs", "/sys", "sysfs", 0, NULL);
    mount("proc", "/proc", "proc", 0, NULL);
    int fd = open("/dev/ttyS0", O_RDWR | O_NOCTTY);
    if (fd >= 0) dup2(fd, 0), dup2(fd, 1), dup2(fd, 2);
  }
  say("\n@R\n");
  char line[128], source[64] = "";
  int cs = open("/sys/devices/system/clocksource/clocksource0/current_clocksource", O_RDONLY);
  if (cs >= 0 && read(cs, source, sizeof source - 1) > 0) {
    source[strcspn(source, "\n")] = 0;
    sprintf(line, "@K %s\n", source);
    say(line);
  }
  u32 reps = setting("reps", 3), scale = setting("scale", 100);
  for (size_t g = 0; g < sizeof groups / sizeof *groups; g++)
    for (const struct workload *w = groups[g]; w->group; w++) {
      if (!wanted(w)) continue;
      u32 n = (u32)((u64)w->n * scale / 100);
      pid_t p = fork();
      if (p == 0) {
        alarm(setting("limit", 120));
        repeat(w, reps, n ? n : 1);
        _exit(0);
      }
      int st;
      waitpid(p, &st, 0);
      if (st != 0) {
        sprintf(line, "@F %s/%s %x\n", w->group, w->name, (unsigned)st);
        say(line);
      }
    }
  say("@D\n");
  if (getpid() != 1) return 0;
  for (;;) pause();
}
