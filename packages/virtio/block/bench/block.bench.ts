// What one 4 KiB read costs in the block device, rings and MMIO transport, over a backend that answers at once.
import { Bus, RegionMemory, unconnectedLine } from '@hyve/core';
import { NullDisk } from '@hyve/testkit';
import { VirtioMmio } from '@hyve/virtio';
import { MmioGuest, SplitRing, startDriver } from '@hyve/virtio/testing';
import { VirtioBlock } from '../src/index.ts';

const BASE = 0xd000_0000;
const backend = new NullDisk();
const ram = RegionMemory.allocate([{ base: 0, size: 4 << 20, kind: 'ram', name: 'ram' }]);
const bus = new Bus({ name: 'mmio', size: 2 ** 32 });
const mmio = new VirtioMmio({ device: new VirtioBlock({ backend }), dma: ram, irq: unconnectedLine });
bus.claim(BASE, 0x200, mmio, { name: 'virtio' });
const guest = new MmioGuest(bus, BASE);
const ring = new SplitRing({ mem: ram, base: 0x1_0000, size: 128, indirect: true, eventIdx: true });
startDriver(guest, [2 ** 28 + 2 ** 29 + 0xffff, 1], [ring]);

async function lap(depth: number): Promise<number> {
  for (let i = 0; i < depth; i++)
    ring.add(
      [{ addr: 0x20_0000, len: 16 }],
      [
        { addr: 0x21_0000, len: 4096 },
        { addr: 0x22_0000, len: 1 },
      ],
    );
  ring.kick();
  const t = performance.now();
  guest.notify(0);
  // As many turns as completions and their flush take.
  for (let i = 0; i < 4; i++) await null;
  const spent = performance.now() - t;
  let n = 0;
  while (ring.poll() !== null) n++;
  if (n !== depth) throw new Error(`${n} of ${depth} done`);
  return spent;
}

for (const atOnce of [false, true]) {
  backend.atOnce = atOnce;
  for (const depth of [1, 8, 32]) {
    for (let i = 0; i < 20_000 / depth; i++) await lap(depth);
    const laps = 200_000 / depth;
    let spent = 0;
    for (let i = 0; i < laps; i++) spent += await lap(depth);
    console.log(
      `${backend.atOnce ? 'at once, ' : 'by promise, '}depth ${String(depth).padStart(2)}: ${((spent * 1e6) / 200_000).toFixed(0)} ns/request`,
    );
  }
}
