/*
 * An /init that counts a 1 kHz timer while other processes keep the processor busy. After `seconds` it says
 * "@T EXPIRATIONS READS MISSED WORST-NS ELAPSED-NS": how often the timer ran out, how often that woke us, how many of
 * its periods went by unseen because we were a whole one late, and the longest time from expiry to us.
 */
#define _GNU_SOURCE
#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include "bench.h"

static u8 block[2 << 20];

static void load(int kind) {
  u32 x = 1;
  for (;;) switch (kind) {
      case 0: /* arithmetic */
        for (u32 i = 0; i < 1000000; i++) x = next32(&x) + i;
        break;
      case 1: /* system calls */
        for (u32 i = 0; i < 1000; i++) syscall(SYS_getppid);
        break;
      case 2: { /* long string instructions */
        void *d = block, *s = block + (1 << 20);
        size_t n = 1 << 20;
        __asm__ volatile("rep movsb" : "+D"(d), "+S"(s), "+c"(n)::"memory");
        break;
      }
      default: /* processes */
        if (fork() == 0) _exit(0);
        wait(NULL);
    }
}

static u64 ns(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (u64)t.tv_sec * 1000000000u + (u64)t.tv_nsec;
}

int main(void) {
  const char *sec = getenv("seconds"), *loads = getenv("loads");
  u64 seconds = sec ? strtoull(sec, NULL, 10) : 10;
  pid_t children[4];
  int n = 0;
  printf("\n@R\n");
  fflush(stdout);
  for (const char *p = loads ? loads : "0123"; *p && n < 4; p++)
    if (*p != '-' && (children[n++] = fork()) == 0) load(*p - '0');
  struct sched_param prio = {.sched_priority = 50};
  if (sched_setscheduler(0, SCHED_FIFO, &prio)) printf("no real-time priority\n");
  int fd = timerfd_create(CLOCK_MONOTONIC, 0);
  u64 from = ns() + 100000000, total = 0, reads = 0, missed = 0, worst = 0, now = 0;
  struct itimerspec its = {.it_interval = {0, 1000000}, .it_value = {(time_t)(from / 1000000000), (long)(from % 1000000000)}};
  timerfd_settime(fd, TFD_TIMER_ABSTIME, &its, NULL);
  printf("@S\n");
  fflush(stdout);
  while (total < seconds * 1000) {
    u64 k;
    if (read(fd, &k, 8) != 8) break;
    now = ns();
    /* The first of these k periods ended at this time. */
    u64 late = now - (from + total * 1000000);
    if (late > worst) worst = late;
    total += k, reads++, missed += k - 1;
  }
  for (int i = 0; i < n; i++) kill(children[i], SIGKILL);
  printf("@T %llu %llu %llu %llu %llu\n", (unsigned long long)total, (unsigned long long)reads, (unsigned long long)missed,
         (unsigned long long)worst, (unsigned long long)(now - from + 1000000));
  fflush(stdout);
  for (;;) pause();
}
