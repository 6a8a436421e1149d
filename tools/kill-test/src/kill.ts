// One machine after the other: the real program with a guest that writes, killed at a random moment, and its disks checked.
import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import {
  closeSync,
  copyFileSync,
  openSync,
  readFileSync,
  readSync,
  rmSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { CpioWriter } from '../../../apps/xhyve-cli/src/images/cpio.ts';
import { pullImage } from '../../../apps/xhyve-cli/src/images/index.ts';
import { createDisk } from '../../../packages/backends/block/src/disk/index.ts';
import { AREA, missingRecords, PLACES } from './records.ts';

const XHYVE = join(import.meta.dirname, '../../../apps/xhyve-cli/bin/xhyve.js');
const DISK_BYTES = 16 << 20;
const BOOT_MS = 150_000;

/** Ways a disk is kept. */
export const FORMATS = ['raw', 'qcow2', 'qcow2-lazy', 'ext4-raw', 'ext4-qcow2'] as const;
/** One of {@link FORMATS}. */
export type Format = (typeof FORMATS)[number];
/** Devices, each with the name the guest gives its disk. */
export const DEVICES = [
  ['virtio-blk', '/dev/vda'],
  ['ahci-hd', '/dev/sda'],
  ['nvme', '/dev/nvme0n1'],
] as const;

/** A disk of the machine that is killed. */
interface Disk {
  readonly device: (typeof DEVICES)[number];
  readonly format: Format;
  readonly file: string;
  /** First number of this life, and the last one called safe in it (one less than `first`: none). */
  first: number;
  safe: number;
}

/** What one kill showed. */
export interface KillResult {
  /** `virtio-blk/qcow2` and so on. */
  readonly disk: string;
  /** Records called safe in this life. */
  readonly safe: number;
  /** What is wrong; empty when all is well. */
  readonly wrong: readonly string[];
}

const isQcow2 = (f: Format): boolean => f.includes('qcow2');
const hasFiles = (f: Format): boolean => f.startsWith('ext4');

function tool(command: string, ...args: readonly string[]): { status: number; text: string; out: string } {
  const r = spawnSync(command, args, { encoding: 'utf8', maxBuffer: 64 << 20 });
  return { status: r.status ?? -1, text: `${r.stdout}${r.stderr}`, out: r.stdout ?? '' };
}

/** What the tool needs of the host and does not find, or null. */
export function lacking(): string | null {
  for (const [command, arg] of [
    ['gcc', '--version'],
    ['qemu-img', '--version'],
    ['mke2fs', '-V'],
    ['e2fsck', '-V'],
    ['debugfs', '-V'],
  ] as const)
    if (tool(command, arg).status !== 0) return command;
  return null;
}

/** The guest and its three disks; each life goes on with the disks of the last. */
export class Victim {
  private readonly dir: string;
  private readonly kernel: string;
  private readonly initrd: string;
  private readonly disks: readonly Disk[];

  private constructor(dir: string, kernel: string, initrd: string, disks: readonly Disk[]) {
    this.dir = dir;
    this.kernel = kernel;
    this.initrd = initrd;
    this.disks = disks;
  }

  /** @param dir a folder of its own @param formats for virtio-blk, AHCI and NVMe */
  static async create(dir: string, formats: readonly [Format, Format, Format]): Promise<Victim> {
    const writer = join(dir, 'writer');
    const cc = tool('gcc', '-static', '-O2', '-o', writer, join(import.meta.dirname, '../guest/writer.c'));
    if (cc.status !== 0) throw new Error(`gcc: ${cc.text}`);
    const { paths } = await pullImage('debian-full');
    const extra = new CpioWriter();
    extra.file('bin/writer', readFileSync(writer), 0o755);
    extra.file(
      'bin/writers',
      `#!/bin/sh
stty -onlcr 2>/dev/null
modprobe -a ext4 crc32c_generic 2>/dev/null
for w in $(cat /proc/cmdline); do
  case $w in hyve.write=*) ;; *) continue ;; esac
  IFS=, read -r name device kind first <<END
\${w#hyve.write=}
END
  n=0; until [ -b $device ] || [ $n -gt 100 ]; do sleep 0.1; n=$((n + 1)); done
  if [ $kind = files ]; then
    mkdir -p /mnt/$name; mount -t ext4 $device /mnt/$name || echo "FAIL $name mount"
    writer $name /mnt/$name/records $first &
  else
    writer $name $device $first direct &
  fi
done
wait
`,
      0o755,
    );
    extra.file('etc/inittab', '::sysinit:/bin/writers\n');
    const initrd = join(dir, 'initrd');
    writeFileSync(initrd, Buffer.concat([readFileSync(paths.initrd as string), extra.finish()]));
    const disks: Disk[] = [];
    for (const [i, device] of DEVICES.entries()) {
      const format = formats[i] as Format;
      const file = join(dir, `${device[0]}.img`);
      const raw = join(dir, 'new.raw');
      writeFileSync(raw, '');
      truncateSync(raw, DISK_BYTES);
      if (hasFiles(format)) {
        // The file is there and written before anything counts: what is tested is data, not its first allocation.
        writeFileSync(join(dir, 'zeros'), new Uint8Array(AREA));
        const made = tool('mke2fs', '-q', '-t', 'ext4', '-F', raw);
        const put = tool('debugfs', '-w', '-R', `write ${join(dir, 'zeros')} records`, raw);
        if (made.status !== 0 || put.status !== 0) throw new Error(`mke2fs: ${made.text}${put.text}`);
      }
      if (!isQcow2(format)) copyFileSync(raw, file);
      else if (hasFiles(format)) tool('qemu-img', 'convert', '-O', 'qcow2', raw, file);
      else
        await createDisk(file, {
          format: 'qcow2',
          size: DISK_BYTES,
          ...(format === 'qcow2-lazy' ? { lazyRefcounts: true, clusterSize: 4096 } : {}),
        });
      disks.push({ device, format, file, first: 1, safe: 0 });
    }
    return new Victim(dir, paths.kernel as string, initrd, disks);
  }

  /** Boots, lets every writer begin, waits `ms`, kills, and checks. */
  async life(ms: number): Promise<KillResult[]> {
    const words: string[] = ['-m', '256M', '-s', '0,hostbridge', '-s', '31,lpc', '-l', 'com1,stdio', '-A'];
    let cmdline = 'console=ttyS0 quiet';
    this.disks.forEach((d, i) => {
      words.push('-s', `${i + 3},${d.device[0]},${d.file},format=${isQcow2(d.format) ? 'qcow2' : 'raw'}`);
      // Higher than anything that may be on the disk, and at another place.
      d.first = d.safe + 2 * PLACES + 1;
      d.safe = d.first - 1;
      cmdline += ` hyve.write=${d.device[0]},${d.device[1]},${hasFiles(d.format) ? 'files' : 'disk'},${d.first}`;
    });
    words.push('-f', `kexec,${this.kernel},${this.initrd},${cmdline}`);
    const child = spawn(process.execPath, [XHYVE, ...words], { stdio: ['ignore', 'pipe', 'pipe'] });
    await this.listen(child, ms);
    return this.disks.map((d) => this.check(d));
  }

  private listen(child: ChildProcess, ms: number): Promise<void> {
    return new Promise((resolve, reject) => {
      let rest = '';
      let errors = '';
      let failure = '';
      let killing = false;
      const limit = setTimeout(() => {
        failure = `not every writer began in ${BOOT_MS / 1000} s`;
        child.kill('SIGKILL');
      }, BOOT_MS);
      child.stderr?.on('data', (b: Buffer) => {
        errors = (errors + b.toString()).slice(-4000);
      });
      child.stdout?.on('data', (b: Buffer) => {
        // Only whole lines count: the last one may have been cut off by the kill.
        const lines = (rest + b.toString('latin1')).split('\n');
        rest = lines.pop() as string;
        for (const line of lines) {
          const m = /^(\S+) (\d+)\r?$/.exec(line);
          const d = m === null ? undefined : this.disks.find((x) => x.device[0] === m[1]);
          if (/FAIL/.test(line)) {
            failure = line;
            child.kill('SIGKILL');
          }
          if (m === null || d === undefined) continue;
          if (Number(m[2]) !== d.safe + 1) failure = `${line} came after ${d.safe}`;
          d.safe = Number(m[2]);
        }
        if (!killing && this.disks.every((d) => d.safe >= d.first)) {
          killing = true;
          setTimeout(() => child.kill('SIGKILL'), ms);
        }
      });
      child.on('close', (_code, signal) => {
        clearTimeout(limit);
        if (failure !== '' || signal !== 'SIGKILL')
          reject(new Error(`${failure || 'the machine ended'}: ${rest}${errors}`));
        else resolve();
      });
    });
  }

  private check(d: Disk): KillResult {
    const wrong: string[] = [];
    let raw = d.file;
    if (isQcow2(d.format)) {
      // Without lazy refcounts a crash may only leak; with them the counts are behind until they are repaired.
      if (d.format !== 'qcow2-lazy') {
        const r = tool('qemu-img', 'check', '--output=json', d.file);
        const report = JSON.parse(r.out) as Record<string, number>;
        if ((report['corruptions'] ?? 0) > 0 || (report['check-errors'] ?? 0) > 0)
          wrong.push(`qemu-img check: ${r.text}`);
      }
      const repaired = tool('qemu-img', 'check', '-r', d.format === 'qcow2-lazy' ? 'all' : 'leaks', d.file);
      const clean = tool('qemu-img', 'check', d.file);
      if (clean.status !== 0) wrong.push(`qemu-img check after repair: ${repaired.text}${clean.text}`);
      raw = join(this.dir, 'check.raw');
      // Read by QEMU, so that no mistake of ours can hide itself.
      const r = tool('qemu-img', 'convert', '-O', 'raw', d.file, raw);
      if (r.status !== 0) wrong.push(`qemu-img convert: ${r.text}`);
    }
    let area = new Uint8Array(AREA);
    if (hasFiles(d.format)) {
      const copy = join(this.dir, 'fsck.raw');
      copyFileSync(raw, copy);
      tool('e2fsck', '-E', 'journal_only', '-fy', copy);
      const r = tool('e2fsck', '-fn', copy);
      if (r.status !== 0) wrong.push(`e2fsck: ${r.text}`);
      const out = join(this.dir, 'records');
      rmSync(out, { force: true });
      tool('debugfs', '-R', `dump records ${out}`, copy);
      area = new Uint8Array(readFileSync(out));
    } else {
      const fd = openSync(raw, 'r');
      readSync(fd, area, 0, AREA, 0);
      closeSync(fd);
    }
    wrong.push(...missingRecords(area, d.first, d.safe));
    return { disk: `${d.device[0]}/${d.format}`, safe: d.safe - d.first + 1, wrong };
  }
}
