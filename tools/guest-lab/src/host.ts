// What a guest sees when its host lets it down: no space left, a server that dies, an image that is missing or taken.
import { execFileSync, spawnSync } from 'node:child_process';
import { mkdirSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { PulledImage } from '../../../apps/xhyve-cli/src/images/index.ts';
import { Guest } from '../../../apps/xhyve-cli/src/testing/guest.ts';
import { createDisk } from '../../../packages/backends/block/src/disk/index.ts';
import { missing, nbdServer, Server } from './disks.ts';
import { labArgs, must, powerOff, startLab } from './machine.ts';

/** What a check of a host's condition says: a problem, nothing, or why it could not be made. */
export interface HostVerdict {
  /** The condition. */
  readonly name: string;
  /** Empty if all is well. */
  readonly problem: string;
  /** Why it was not tried, or null. */
  readonly skipped: string | null;
}

const SIZE = 128 * 2 ** 20;

/**
 * Conditions, one after the other.
 * @param dir an empty directory
 * @param only part of the names of those to try; empty for all
 */
export async function hostConditions(
  image: PulledImage,
  dir: string,
  only: string,
  onVerdict: (v: HostVerdict) => void,
): Promise<HostVerdict[]> {
  const out: HostVerdict[] = [];
  const run = async (name: string, what: () => Promise<string | { skipped: string }>): Promise<void> => {
    if (!name.includes(only)) return;
    const place = join(dir, String(out.length));
    mkdirSync(place);
    const r = await what().catch((e: unknown) => (e instanceof Error ? e.message : String(e)));
    const v = typeof r === 'string' ? { name, problem: r, skipped: null } : { name, problem: '', skipped: r.skipped };
    onVerdict(v);
    out.push(v);
  };
  const here = (): string => join(dir, String(out.length));
  for (const device of ['virtio-blk', 'ahci-hd', 'nvme'] as const)
    for (const kind of ['raw', 'qcow2'] as const)
      await run(`full disk: ${device} on ${kind}`, () => fullDisk(image, here(), device, kind));
  await run('an NBD server killed and started again under load', () => lostServer(image, here()));
  await run('two machines on one image', () => twoMachines(image, here()));
  await run('a backing file that is missing', () => missingBacking(image, here()));
  return out;
}

const NODES = { 'virtio-blk': 'vda', 'ahci-hd': 'sda', nvme: 'nvme0n1' } as const;

/** An image in a file system of 24 MiB, then of 160. */
async function fullDisk(
  image: PulledImage,
  dir: string,
  device: keyof typeof NODES,
  kind: 'raw' | 'qcow2',
): Promise<string | { skipped: string }> {
  if (spawnSync('mount', ['-t', 'tmpfs', '-o', 'size=24m', 'tmpfs', dir]).status !== 0)
    return { skipped: 'only root may mount a small tmpfs' };
  try {
    const path = join(dir, kind === 'raw' ? 'd.img' : 'd.qcow2');
    if (kind === 'raw') {
      writeFileSync(path, '');
      truncateSync(path, SIZE);
    } else await createDisk(path, { format: 'qcow2', size: SIZE });
    const dev = `/dev/${NODES[device]}`;
    const g = await startLab(image, { slots: [`3,${device},${path}`] });
    try {
      await must(g, 'dd if=/dev/urandom of=/tmp/flushed bs=1M count=8 2>/dev/null');
      await must(g, `dd if=/tmp/flushed of=${dev} bs=1M conv=fsync 2>/dev/null`);
      const write = `fio --name=w --filename=${dev} --offset=32M --size=64M --rw=write --bs=64k --direct=1 --ioengine=libaio --iodepth=8 --end_fsync=1`;
      const full = await g.run(`${write} --output-format=terse >/tmp/w 2>&1; echo "[$?]"`, 240);
      if (full.endsWith('[0]')) return 'writing more than there is room for has succeeded';
      if (!/error/iu.test(await g.run('dmesg | grep -E "I/O error|error, dev"')))
        return 'the kernel has seen no I/O error';
      await must(g, 'echo 3 >/proc/sys/vm/drop_caches');
      const kept = `[ "$(head -c 8388608 ${dev} | sha256sum)" = "$(sha256sum </tmp/flushed)" ]`;
      await must(g, kept);
      execFileSync('mount', ['-o', 'remount,size=160m', dir]);
      await must(
        g,
        `${write} --verify=crc32c --verify_fatal=1 --thread --output-format=terse >/tmp/w 2>&1 || { cat /tmp/w; false; }`,
        240,
      );
      await must(g, kept);
      await powerOff(g);
    } finally {
      await g.end();
    }
    if (kind === 'qcow2' && spawnSync('qemu-img', ['--version']).status === 0) {
      const r = spawnSync('qemu-img', ['check', '-f', 'qcow2', path], { encoding: 'utf8' });
      if (r.status !== 0) return `qemu-img check: ${r.stdout}${r.stderr}`;
    }
    return '';
  } finally {
    spawnSync('umount', [dir]);
  }
}

/** A server killed three times while fio writes and verifies. */
async function lostServer(image: PulledImage, dir: string): Promise<string | { skipped: string }> {
  const why = missing('nbd-qemu');
  if (why !== null) return { skipped: why };
  const file = join(dir, 'd.img');
  const socket = join(dir, 's');
  writeFileSync(file, '');
  truncateSync(file, SIZE);
  const serve = (): Promise<Server> => Server.start(socket, ...nbdServer('nbd-qemu', socket, file));
  let server = await serve();
  try {
    const g = await startLab(image, { slots: [`3,virtio-blk,nbd+unix:///?socket=${socket}`] });
    try {
      g.send(
        'fio --name=w --filename=/dev/vda --size=64M --rw=randwrite --bs=16k --direct=1 --ioengine=libaio --iodepth=16 --fsync=32 --verify=crc32c --verify_fatal=1 --thread --output-format=terse >/tmp/w 2>&1; echo "fio=[$?]"\n',
      );
      for (let n = 0; n < 3; n++) {
        await new Promise((r) => setTimeout(r, 1500));
        await server.stop('SIGKILL');
        rmSync(socket, { force: true });
        await new Promise((r) => setTimeout(r, 500));
        server = await serve();
      }
      const end = await g.expect(/fio=\[(\d+)\]/u, 300);
      if (end[1] !== '0') return `fio ended with ${end[1]}`;
      await g.prompt();
      const fuss = await g.run('lab-trouble');
      if (fuss !== '') return fuss;
      await powerOff(g);
    } finally {
      await g.end();
    }
    return '';
  } finally {
    await server.stop();
  }
}

/** The second machine is refused by a line that names the image. */
async function twoMachines(image: PulledImage, dir: string): Promise<string> {
  const path = join(dir, 'd.qcow2');
  await createDisk(path, { format: 'qcow2', size: SIZE });
  const g = await startLab(image, { slots: [`3,virtio-blk,${path}`] });
  try {
    const second = await refused(image, `3,ahci-hd,${path}`);
    if (!second.includes(path) || !/lock|in use|another/iu.test(second)) return `the second machine: ${second}`;
    await must(g, 'lab-verify-short /dev/vda');
    await powerOff(g);
    return '';
  } finally {
    await g.end();
  }
}

async function missingBacking(image: PulledImage, dir: string): Promise<string> {
  const base = join(dir, 'base.qcow2');
  const path = join(dir, 'd.qcow2');
  await createDisk(base, { format: 'qcow2', size: SIZE });
  await createDisk(path, { format: 'qcow2', size: null, backing: 'base.qcow2' });
  rmSync(base);
  const said = await refused(image, `3,virtio-blk,${path}`);
  return said.includes('base.qcow2') ? '' : `with the backing file missing: ${said}`;
}

/** Starts a machine that must not start. @returns its one line of complaint */
async function refused(image: PulledImage, slot: string): Promise<string> {
  const g = Guest.start(labArgs(image, { slots: [slot] }));
  try {
    const status = await g.status(60);
    const lines = g.errors.trim().split('\n');
    if (status === 0 || status === 1 || lines.length !== 1) return `status ${status}, ${g.errors}`;
    return lines[0] as string;
  } finally {
    await g.end();
  }
}
