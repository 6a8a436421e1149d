// A file system that a guest has filled, checked by the host's e2fsck.
import { spawnSync } from 'node:child_process';
import { join } from 'node:path';
import type { PulledImage } from '../../../apps/xhyve-cli/src/images/index.ts';
import { convertDisk } from '../../../packages/backends/block/src/disk/index.ts';
import { makeDisk } from './disks.ts';
import { must, powerOff, startLab, trouble } from './machine.ts';

/** Options of {@link growTree}. */
export interface TreeOptions {
  /** Directory for the disks; must be empty. */
  readonly dir: string;
  /** Image format. */
  readonly kind: 'raw' | 'qcow2';
  /** Device that carries it. */
  readonly device: 'virtio-blk' | 'ahci-hd' | 'nvme';
  /** How many files. */
  readonly files: number;
  /** Told what the guest found. */
  readonly say: (line: string) => void;
}

/** Fills a file system in a guest and looks at it from the host. @returns what is wrong, or nothing */
export async function growTree(image: PulledImage, o: TreeOptions): Promise<string> {
  const disk = await makeDisk(o.kind, o.dir, 'tree', 2 ** 30);
  const node = { 'virtio-blk': 'vda', 'ahci-hd': 'sda', nvme: 'nvme0n1' }[o.device];
  const g = await startLab(image, { slots: [`3,${o.device},${disk.conf}`] });
  try {
    const from = performance.now();
    o.say(await must(g, `lab-tree /dev/${node} ${o.files}`, 1500));
    o.say(`in ${((performance.now() - from) / 1000).toFixed(0)} s`);
    const fuss = await trouble(g);
    if (fuss !== '') return fuss;
    await powerOff(g);
  } finally {
    await g.end();
  }
  let raw = disk.conf;
  if (o.kind === 'qcow2') {
    raw = join(o.dir, 'converted.img');
    await convertDisk(disk.conf, raw);
  }
  const r = spawnSync('e2fsck', ['-fn', raw], { encoding: 'utf8' });
  if (r.error !== undefined) return `e2fsck: ${r.error.message}`;
  o.say(r.stdout.trim().split('\n').at(-1) ?? '');
  return r.status === 0 ? '' : `e2fsck: status ${r.status}\n${r.stdout}`;
}
