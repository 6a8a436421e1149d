// A guest that works for hours and checks what it computed: Debian's stress-ng with --verify.
import type { PulledImage } from '../../../apps/xhyve-cli/src/images/index.ts';
import { powerOff, startLab } from './machine.ts';

// biome-ignore format: a table
/** Stressors of stress-ng(1) that compare their results, by what they try of the processor and the machine. */
export const STRESSORS: Readonly<Record<string, readonly string[]>> = {
  integer: ['cpu', 'hash', 'qsort', 'heapsort', 'radixsort', 'bsearch', 'tree', 'str', 'wcs', 'zlib', 'crypt'],
  float: ['matrix', 'matrix-3d', 'fp', 'vecfp'],
  vector: ['vecmath', 'vecwide', 'vecshuf', 'ipsec-mb', 'memcpy', 'rdrand'],
  control: ['branch', 'far-branch', 'goto', 'funccall', 'funcret', 'longjmp', 'nop', 'icache', 'opcode', 'regs', 'tsc'],
  memory: ['vm', 'mmap', 'mremap', 'mprotect', 'madvise', 'munmap', 'mlock', 'brk', 'stack', 'stackmmap', 'shm', 'memfd', 'userfaultfd', 'remap', 'tlb-shootdown', 'misaligned', 'memrate', 'zero'],
  ordering: ['atomic', 'mcontend', 'lockbus', 'membarrier', 'futex', 'mutex', 'sem', 'peterson', 'dekker'],
  processes: ['fork', 'vfork', 'clone', 'exec', 'pthread', 'context', 'switch', 'wait', 'zombie', 'daemon', 'affinity'],
  signals: ['signal', 'sigsegv', 'sigfpe', 'sigtrap', 'sigabrt', 'sigsuspend', 'sigq', 'sigpipe', 'kill', 'bad-altstack'],
  time: ['clock', 'timer', 'timerfd', 'itimer', 'nanosleep', 'hrtimers', 'poll', 'x86syscall'],
  kernel: ['pipe', 'sock', 'udp', 'msg', 'mq', 'eventfd', 'sendfile', 'splice', 'hdd', 'dir', 'link', 'rename', 'seek', 'procfs', 'sysfs', 'get', 'getrandom', 'seccomp'],
};

/** Options of {@link soak}. */
export interface SoakOptions {
  /** How long, in seconds. */
  readonly seconds: number;
  /** Processors of the guest. */
  readonly cpus: number;
  /** Seconds for one stressor at a time. */
  readonly each: number;
  /** More for the kernel's command line. */
  readonly append: string;
  /** More options of the program. */
  readonly flags: readonly string[];
  /** Told each line of the guest's report. */
  readonly say: (line: string) => void;
}

/** Kernel messages that mean a fault of the machine or the kernel. */
const FAULTS =
  /Oops|BUG:|WARNING:|general protection|double fault|Kernel panic|soft lockup|rcu: INFO: .*stall|Machine check|Bad page|nobody cared/u;

/** Lets a guest work and verify. @returns what went wrong, a line each */
export async function soak(image: PulledImage, o: SoakOptions): Promise<string[]> {
  const g = await startLab(image, {
    slots: ['3,virtio-rnd'],
    cpus: o.cpus,
    memory: '1G',
    append: o.append,
    flags: o.flags,
  });
  const wrong: string[] = [];
  try {
    const names = Object.values(STRESSORS).flat();
    g.send(`lab-soak ${o.seconds} ${o.each} ${names.join(' ')}\n`);
    for (const until = performance.now() + (o.seconds + 1800) * 1000; ; ) {
      const left = (until - performance.now()) / 1000;
      const line = (await g.expect(/[^\n]*\r?\n/u, left))[0].trimEnd();
      if (line.startsWith('lab-soak') || line.includes('# lab-soak')) continue;
      if (line !== '') o.say(line);
      if (/: WRONG/u.test(line) || FAULTS.test(line)) wrong.push(line);
      if (line.startsWith('soak over')) break;
    }
    for (const line of (await g.run('dmesg | tail -400')).split('\n')) if (FAULTS.test(line)) wrong.push(line);
    await powerOff(g);
  } finally {
    await g.end();
  }
  return wrong;
}
