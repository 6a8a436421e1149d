// The verifying workload (guest/lab-verify.sh) on every device and every kind of back end. One machine per back end holds
// one disk of each device, so that they share interrupts, memory and the host's threads.
import type { PulledImage } from '../../../apps/xhyve-cli/src/images/index.ts';
import { type DiskKind, type LabDisk, makeDisk, missing } from './disks.ts';
import { powerOff, startLab, trouble } from './machine.ts';

/** A device with its disk: what stands before and after the disk's own words, and the guest's name for it. */
export interface LabDevice {
  /** For people. */
  readonly name: string;
  /** Word after the slot. */
  readonly device: string;
  /** Options after the disk. */
  readonly options: string;
  /** Which kind of guest name it gets. */
  readonly node: 'vd' | 'sd' | 'nvme';
}

/** Every device that takes a disk, virtio by every transport. */
export const LAB_DEVICES: readonly LabDevice[] = [
  { name: 'virtio legacy', device: 'virtio-blk', options: ',transport=legacy', node: 'vd' },
  { name: 'virtio transitional', device: 'virtio-blk', options: '', node: 'vd' },
  { name: 'virtio modern, 2 queues', device: 'virtio-blk', options: ',transport=modern,queues=2', node: 'vd' },
  { name: 'virtio packed', device: 'virtio-blk', options: ',transport=modern,packed=on', node: 'vd' },
  { name: 'ahci', device: 'ahci-hd', options: '', node: 'sd' },
  { name: 'nvme', device: 'nvme', options: '', node: 'nvme' },
];

/** One cell of the table. */
export interface Verdict {
  /** {@link LabDevice.name}. */
  readonly device: string;
  /** The back end. */
  readonly kind: DiskKind;
  /** Empty if all is well, else what is wrong. */
  readonly problem: string;
  /** Seconds it took. */
  readonly seconds: number;
}

/** Options of {@link verify}. */
export interface VerifyOptions {
  /** Directory for the disks; must be empty. */
  readonly dir: string;
  /** Back end. */
  readonly kind: DiskKind;
  /** Devices; default all. */
  readonly devices?: readonly LabDevice[];
  /** Data per job, MiB; default 8. */
  readonly mib?: number;
  /** Told each verdict. */
  readonly onVerdict?: (v: Verdict) => void;
}

/** Runs one machine and gives a verdict for each of its disks. */
export async function verify(image: PulledImage, o: VerifyOptions): Promise<Verdict[]> {
  const why = missing(o.kind);
  if (why !== null) throw new Error(why);
  const devices = o.devices ?? LAB_DEVICES;
  const mib = o.mib ?? 8;
  const disks: LabDisk[] = [];
  try {
    for (const [n] of devices.entries()) disks.push(await makeDisk(o.kind, o.dir, `disk${n}`, 128 * 2 ** 20));
    const slots = devices.map((d, n) => `${n + 3},${d.device},${disks[n]?.conf}${d.options}`);
    const g = await startLab(image, { slots });
    const done: { problem: string; sum: string; seconds: number }[] = [];
    let fuss: string;
    try {
      const seen = { vd: 0, sd: 0, nvme: 0 };
      for (const d of devices) {
        const node =
          d.node === 'nvme' ? `nvme${seen.nvme++}n1` : `${d.node}${String.fromCharCode(97 + seen[d.node]++)}`;
        const from = performance.now();
        const out = await g.run(`lab-verify /dev/${node} ${mib}`, 900);
        const sum = /: sum ([0-9a-f]{64})/u.exec(out)?.[1] ?? '';
        const problem = out.endsWith(`/dev/${node}: verified`) ? '' : out;
        done.push({ problem, sum, seconds: (performance.now() - from) / 1000 });
      }
      fuss = await trouble(g);
      await powerOff(g);
    } finally {
      await g.end();
    }
    const verdicts: Verdict[] = [];
    for (const [n, d] of devices.entries()) {
      const r = done[n] as { problem: string; sum: string; seconds: number };
      const problem = r.problem || fuss || (await (disks[n] as LabDisk).inspect(r.sum));
      const v = { device: d.name, kind: o.kind, problem, seconds: r.seconds };
      o.onVerdict?.(v);
      verdicts.push(v);
    }
    return verdicts;
  } finally {
    for (const d of disks) await d.close();
  }
}
