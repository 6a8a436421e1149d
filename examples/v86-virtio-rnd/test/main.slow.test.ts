import { createHash } from 'node:crypto';
import type { BlockBackend, BlockStatus } from '@hyve/core';
import { VirtioPci } from '@hyve/virtio';
import { VirtioBlock } from '@hyve/virtio-block';
import { VirtioRnd } from '@hyve/virtio-rnd';
import { describe, expect, it } from 'vitest';
import { guestFiles } from '../src/guest-files.ts';
import { runGuest } from '../src/main.ts';

const MIB = 1 << 20;

/** A disk in memory. */
class MemoryDisk implements BlockBackend {
  readonly bytes: Uint8Array;
  readonly sectorSize: number = 512;
  readonly physicalSectorSize: number = 4096;
  readonly readOnly: boolean = false;
  readonly canDiscard: boolean = true;
  readonly identity: string = 'memory';
  flushes = 0;
  discarded = 0;
  constructor(size: number) {
    this.bytes = new Uint8Array(size).map((_v, i) => (i >> 9) * 31 + i);
  }
  get size(): number {
    return this.bytes.length;
  }
  /** Answers as a real disk does: later. */
  private later(work: () => void): Promise<BlockStatus> {
    return new Promise((resolve) =>
      setImmediate(() => {
        work();
        resolve('ok');
      }),
    );
  }
  read(offset: number, buffers: readonly Uint8Array[]): Promise<BlockStatus> {
    return this.later(() => {
      let at = offset;
      for (const b of buffers) {
        b.set(this.bytes.subarray(at, at + b.length));
        at += b.length;
      }
    });
  }
  write(offset: number, buffers: readonly Uint8Array[]): Promise<BlockStatus> {
    return this.later(() => {
      let at = offset;
      for (const b of buffers) {
        this.bytes.set(b, at);
        at += b.length;
      }
    });
  }
  flush(): Promise<BlockStatus> {
    return this.later(() => this.flushes++);
  }
  discard(offset: number, length: number): Promise<BlockStatus> {
    return this.later(() => {
      this.discarded += length;
      this.bytes.fill(0, offset, offset + length);
    });
  }
  writeZeroes(offset: number, length: number): Promise<BlockStatus> {
    return this.later(() => this.bytes.fill(0, offset, offset + length));
  }
  async close(): Promise<void> {}
}

const md5 = (bytes: Uint8Array): string => createHash('md5').update(bytes).digest('hex');

const files = guestFiles();

describe.skipIf(files === null)(
  'Hyve devices in v86, used by Linux with its own drivers (needs apt-get and Debian packages for i386)',
  () => {
    it('entropy on the legacy interface, disks on legacy, transitional and modern ones', {
      timeout: 180_000,
    }, async () => {
      if (files === null) return;
      let next = 0;
      const rnd = new VirtioRnd({ source: { fill: (b) => b.set(b.map(() => 65 + (next++ % 16))) } });
      const disks = [new MemoryDisk(8 * MIB), new MemoryDisk(8 * MIB), new MemoryDisk(8 * MIB)];
      const blocks = disks.map(
        (backend, i) => new VirtioBlock({ backend, serial: `HYVE-${i}`, queues: i + 1, copy: true }),
      );
      const pci = [
        new VirtioPci({ device: rnd, transport: 'legacy', interrupts: 'intx' }),
        new VirtioPci({ device: blocks[0]!, transport: 'legacy', interrupts: 'intx' }),
        new VirtioPci({ device: blocks[1]!, transport: 'transitional', interrupts: 'intx' }),
        new VirtioPci({ device: blocks[2]!, transport: 'modern', interrupts: 'intx', packed: true }),
      ];
      const original = md5(disks[0]!.bytes);
      const data = new TextEncoder().encode(Array.from({ length: 300_000 }, (_, i) => `${i + 1}\n`).join(''));
      const written = data.subarray(0, 1536 << 10);
      const script = `
      echo rng $(cat /sys/class/misc/hw_random/rng_current)
      dd if=/dev/hwrng bs=64 count=4 2>/dev/null > /tmp/random
      echo random $(wc -c < /tmp/random) others $(tr -d 'A-P' < /tmp/random | wc -c) kinds $(fold -w 1 < /tmp/random | sort -u | wc -l)
      seq 1 300000 | head -c ${written.length} > /tmp/data
      for d in vda vdb vdc; do
        echo $d serial $(cat /sys/block/$d/serial) size $(cat /sys/block/$d/size) cache $(cat /sys/block/$d/queue/write_cache)
        echo $d features $(cat /sys/block/$d/device/features)
        echo $d before $(md5sum < /dev/$d)
        dd if=/tmp/data of=/dev/$d bs=64k seek=16 conv=fsync 2>/dev/null
        echo 3 > /proc/sys/vm/drop_caches
        echo $d after $(dd if=/dev/$d bs=64k skip=16 count=24 2>/dev/null | md5sum)
        blkdiscard -o 4194304 -l 1048576 /dev/$d && echo $d discarded
      done
    `;
      const devices = pci.map((device, i) => ({
        device,
        slot: 20 + i,
        port: 0xb000 + i * 0x100,
        address: 0xfea0_0000 + i * 0x2_0000,
      }));
      const lines = await runGuest(files, devices, script);
      expect(lines).toContain('rng virtio_rng.0');
      expect(lines).toContain('random 256 others 0 kinds 16');
      expect(rnd.counters()['bytes']).toBeGreaterThanOrEqual(256);
      disks.forEach((disk, i) => {
        const d = ['vda', 'vdb', 'vdc'][i];
        expect(lines).toContain(`${d} serial HYVE-${i} size 16384 cache write back`);
        expect(lines).toContain(`${d} before ${original} -`);
        expect(lines).toContain(`${d} after ${md5(written)} -`);
        expect(lines).toContain(`${d} discarded`);
        // Linux wrote to the very disk, asked for its cache to be flushed, and gave a MiB back.
        expect(md5(disk.bytes.subarray(MIB, MIB + written.length))).toBe(md5(written));
        expect(disk.flushes).toBeGreaterThan(0);
        expect(disk.discarded).toBe(MIB);
        expect(disk.bytes.subarray(4 * MIB, 5 * MIB).every((v) => v === 0)).toBe(true);
        expect(pci[i + 1]!.counters()).toMatchObject({ failures: 0, errors: 0, unsupported: 0, malformed: 0 });
        // VERSION_1 (bit 32) but for the legacy disk, packed rings (bit 34) on the last, indirect and event index on all.
        const features = lines.find((l) => l.startsWith(`${d} features`))?.split(' ')[2] ?? '';
        expect([32, 34, 28, 29].map((n) => features[n])).toEqual([i > 0 ? '1' : '0', i > 1 ? '1' : '0', '1', '1']);
      });
    });
  },
);
