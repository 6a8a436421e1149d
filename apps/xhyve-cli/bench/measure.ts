// Figures of a running guest, taken from outside: `node apps/xhyve-cli/bench/measure.ts [drift|idle|serial|echo|memory …]`.
// Wants a quiet machine. Results go to docs/measurements.md by hand, with the machine they are from.
import { closeSync, openSync, readFileSync, readSync } from 'node:fs';
import { bootArgs, Guest, image } from '../test/guest.ts';

const found = await image('debian-cloud');
if (typeof found === 'string') throw new Error(found);
const cloud = found;
const wait = (seconds: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, seconds * 1000));

async function boot(append = 'quiet', cpus = 1): Promise<Guest> {
  const g = Guest.start(bootArgs(cloud, { append, cpus }));
  await g.prompt(120);
  return g;
}

/** Guest seconds against host seconds over a minute; the guest's have two decimals. */
async function drift(g: Guest): Promise<void> {
  const look = async (): Promise<{ guest: number; host: number }> => {
    // The quickest of a few answers has the least in it that is not the clock.
    let best = { guest: 0, host: 0, took: Number.POSITIVE_INFINITY };
    for (let i = 0; i < 15; i++) {
      const from = performance.now();
      const up = Number(await g.run("cut -d' ' -f1 /proc/uptime"));
      const took = performance.now() - from;
      if (took < best.took) best = { guest: up, host: (from + took / 2) / 1000, took };
    }
    return best;
  };
  const a = await look();
  await wait(60);
  const b = await look();
  const ratio = (b.guest - a.guest) / (b.host - a.host) - 1;
  console.log(`drift ${(ratio * 100).toFixed(4)} % over ${(b.host - a.host).toFixed(1)} s`);
}

/** Clock ticks (1/100 s) of processor time that a process has used. */
function ticks(pid: number): number {
  const f = readFileSync(`/proc/${pid}/stat`, 'utf8').split(') ')[1]!.split(' ');
  return Number(f[11]) + Number(f[12]);
}

async function idle(g: Guest, name: string): Promise<void> {
  await wait(5);
  const from = performance.now();
  const before = ticks(g.pid);
  await wait(20);
  const used = (ticks(g.pid) - before) / 100;
  console.log(`idle ${name} ${((used * 100_000) / (performance.now() - from)).toFixed(2)} % of a core`);
}

/** How fast a file of 8 MB reaches the other end of COM1. */
async function serial(g: Guest): Promise<void> {
  await g.run('dd if=/dev/urandom bs=1M count=6 2>/dev/null | base64 >/tmp/big; stty -opost; ls -l /tmp/big', 120);
  for (let i = 0; i < 3; i++) {
    const before = g.text.length;
    const from = performance.now();
    await g.run('cat /tmp/big', 300);
    const seconds = (performance.now() - from) / 1000;
    console.log(`serial ${((g.text.length - before) / 1e6 / seconds).toFixed(2)} MB/s`);
  }
}

/** Milliseconds from key to echo. */
async function echo(g: Guest): Promise<void> {
  const ms: number[] = [];
  for (let i = 0; i < 100; i++) {
    const at = performance.now();
    g.send('x');
    await g.expect(/x/u);
    ms.push(performance.now() - at);
    await wait(0.03);
  }
  ms.sort((a, b) => a - b);
  console.log(`echo median ${ms[50]?.toFixed(2)} ms, 95 % ${ms[95]?.toFixed(2)} ms, worst ${ms[99]?.toFixed(2)} ms`);
}

const MIB = 2 ** 20;
/** As the image's manifest has it: what -m says. */
const GUEST_BYTES = 512 * MIB;

/** Bytes of a range of a process's memory that are in RAM or swap, from its page map (8 bytes a page, bits 63 and 62). */
function present(pid: number, from: number, to: number): number {
  const fd = openSync(`/proc/${pid}/pagemap`, 'r');
  const bytes = Buffer.alloc(((to - from) / 4096) * 8);
  readSync(fd, bytes, 0, bytes.length, (from / 4096) * 8);
  closeSync(fd);
  let pages = 0;
  for (let i = 7; i < bytes.length; i += 8) if (((bytes[i] as number) & 0xc0) !== 0) pages++;
  return pages * 4096;
}

/** What the process has, what the guest has touched of its memory, and the difference, which is what Hyve itself takes. */
async function memory(g: Guest): Promise<void> {
  const rss = 1024 * Number(/VmRSS:\s+(\d+) kB/u.exec(readFileSync(`/proc/${g.pid}/status`, 'utf8'))?.[1]);
  // Guest memory is the last piece of the software CPU's linear memory, the smallest mapping that can hold it.
  const linear = readFileSync(`/proc/${g.pid}/maps`, 'utf8')
    .split('\n')
    .map((l) => /^([0-9a-f]+)-([0-9a-f]+) rw/u.exec(l))
    .filter((m) => m !== null)
    .map((m) => ({ from: Number.parseInt(m[1] as string, 16), to: Number.parseInt(m[2] as string, 16) }))
    .filter((m) => m.to - m.from > GUEST_BYTES)
    .sort((a, b) => a.to - a.from - (b.to - b.from))[0];
  if (linear === undefined) throw new Error('no mapping that could hold the guest');
  const touched = present(g.pid, linear.to - GUEST_BYTES, linear.to);
  const records = present(g.pid, linear.from, linear.to - GUEST_BYTES);
  const mib = (bytes: number): string => (bytes / MIB).toFixed(0);
  console.log(
    `resident ${mib(rss)} MiB; the guest touched ${mib(touched)}; difference ${mib(rss - touched)}, ${mib(records)} of it records and TLBs`,
  );
}

const wanted = process.argv.slice(2);
const want = (name: string): boolean => wanted.length === 0 || wanted.includes(name);
const started = performance.now();
const g = await boot();
try {
  console.log(`prompt after ${((performance.now() - started) / 1000).toFixed(1)} s`);
  if (want('memory')) await memory(g);
  if (want('echo')) await echo(g);
  g.send('\x15');
  if (want('idle')) await idle(g, '-c 1');
  if (want('drift')) await drift(g);
  if (want('serial')) await serial(g);
} finally {
  await g.end();
}
if (want('idle')) {
  const four = await boot('quiet', 4);
  try {
    await idle(four, '-c 4');
  } finally {
    await four.end();
  }
}
