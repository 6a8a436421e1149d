// A Linux guest in the middle of its work with a disk: paused, saved, and gone on with in another machine.
import { mkdtempSync, readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { openBlock } from '@hyve/block-backends';
import { type CharBackend, silentLogger } from '@hyve/core';
import { createPc, type MachineSpec, machineSpec, type Pc, pciSlot } from '@hyve/pc';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { CpioWriter } from '../src/images/cpio.ts';
import { pullImage } from '../src/images/index.ts';

const PIECES = 30;
const WORK = `#!/bin/sh
stty -onlcr
until [ -b /dev/vda ] && [ -b /dev/nvme0n1 ]; do sleep 0.1; done
cd /tmp
work() {
  i=0
  while [ $i -lt ${PIECES} ]; do
    dd if=/dev/urandom of=$1 bs=64k count=2 2>/dev/null
    sum=$(md5sum <$1); echo "W $1 $i \${sum%% *}"
    dd if=$1 of=/dev/$1 bs=128k seek=$i conv=notrunc,fsync 2>/dev/null
    i=$((i + 1))
  done
}
work vda & work nvme0n1
wait
echo 3 >/proc/sys/vm/drop_caches
for d in vda nvme0n1; do
  i=0
  while [ $i -lt ${PIECES} ]; do
    sum=$(dd if=/dev/$d bs=128k skip=$i count=1 2>/dev/null | md5sum); echo "R $d $i \${sum%% *}"
    i=$((i + 1))
  done
done
busybox poweroff -f
`;

let dir = '';
let kernel = '';
let initrd = '';
beforeAll(async () => {
  dir = mkdtempSync(join(tmpdir(), 'hyve-state-'));
  const { paths } = await pullImage('debian-cloud');
  kernel = paths.kernel as string;
  const extra = new CpioWriter();
  extra.file('bin/work', WORK, 0o755);
  extra.file('etc/inittab', '::sysinit:/bin/work\n');
  initrd = join(dir, 'initrd');
  writeFileSync(initrd, Buffer.concat([readFileSync(paths.initrd as string), extra.finish()]));
  for (const n of ['a', 'b']) {
    writeFileSync(join(dir, n), '');
    truncateSync(join(dir, n), 16 << 20);
  }
});
afterAll(() => rmSync(dir, { recursive: true, force: true }));

function spec(): MachineSpec {
  return machineSpec({
    name: 'state',
    memoryBytes: 512 << 20,
    boot: { loader: 'kexec', kernel, initrd, cmdline: 'console=ttyS0 quiet' },
    pci: [
      pciSlot(0, 'hostbridge'),
      pciSlot(3, 'virtio-blk', join(dir, 'a')),
      pciSlot(4, 'nvme', join(dir, 'b')),
      pciSlot(5, 'virtio-rnd'),
      pciSlot(31, 'lpc'),
    ],
    lpc: [{ device: 'com1', backend: 'console' }],
    engine: 'soft',
  });
}

/** A machine whose screen is text; `when` is told of each line. */
async function build(screen: { text: string }, when: (line: string) => void): Promise<Pc> {
  let rest = '';
  const console1: CharBackend = {
    write(bytes) {
      const text = Buffer.from(bytes).toString('latin1');
      screen.text += text;
      const lines = (rest + text).split('\n');
      rest = lines.pop() as string;
      for (const l of lines) when(l);
      return true;
    },
    onData: null,
    onDrain: null,
    setFlow() {},
    close: async () => {},
  };
  return createPc(spec(), {
    openChar: async () => console1,
    openDisk: async ({ conf }) => ({ backend: await openBlock(conf), extras: new Map() }),
    readFile,
    log: silentLogger,
    wallClock: { nowMs: () => Date.now(), offsetMinutes: () => 0 },
  });
}

it('goes on in another machine, and every byte it wrote before and after is right', async () => {
  const screen = { text: '' };
  const upTo = (n: number): [(line: string) => void, Promise<void>] => {
    let resolve = (): void => {};
    const reached = new Promise<void>((r) => {
      resolve = r;
    });
    return [(line) => line.startsWith(`W vda ${n} `) && resolve(), reached];
  };
  const [at8, reached8] = upTo(8);
  const [at12, reached12] = upTo(12);
  const first = await build(screen, (l) => {
    at8(l);
    at12(l);
  });
  const end = first.run();
  await Promise.race([reached8, end]);
  // Once without consequences.
  await first.pause();
  await new Promise((resolve) => setTimeout(resolve, 300));
  const length = screen.text.length;
  await new Promise((resolve) => setTimeout(resolve, 100));
  expect(screen.text.length).toBe(length);
  first.resume();
  await Promise.race([reached12, end]);
  await first.pause();
  const state = structuredClone(await first.save());
  const memory = [...first.memoryPieces()].map((p) => ({ addr: p.addr, bytes: p.bytes.slice() }));
  expect(memory.reduce((n, p) => n + p.bytes.length, 0)).toBeLessThan(400 << 20);
  await first.close();

  const second = await build(screen, () => {});
  await second.pause();
  await second.load(state, memory);
  second.resume();
  expect(await second.run()).toBe('poweroff');
  await second.close();

  const sums = (kind: string): string[] =>
    [...screen.text.matchAll(new RegExp(`^${kind} (\\S+ \\d+ [0-9a-f]{32})\\r?$`, 'gm'))]
      .map((m) => m[1] as string)
      .sort();
  expect(sums('W').length).toBe(2 * PIECES);
  expect(sums('R')).toEqual(sums('W'));
  expect(screen.text).not.toMatch(/rror|BUG|Call Trace|stall/);
});
