// What one request costs in rings and transport, without a VM and with an empty device. The driver's side runs too and is
// measured alone first. Prints nanoseconds per request and heap growth per request.
import { Bus, RegionMemory, unconnectedLine } from '@hyve/core';
import { DescriptorChain, type VirtioDevice, VirtioMmio } from '../src/index.ts';
import { MmioGuest, PackedRing, type RingDriver, SplitRing, startDriver } from '../src/testing/index.ts';

const BASE = 0xd000_0000;
const BATCH = 64;

function run(packed: boolean, indirect: boolean, eventIdx: boolean): void {
  const ram = RegionMemory.allocate([{ base: 0, size: 4 << 20, kind: 'ram', name: 'ram' }]);
  const chain = new DescriptorChain();
  const device: VirtioDevice = {
    name: 'null',
    deviceId: 2,
    classCode: 0,
    queueSizes: [256],
    features: 0,
    configSize: 0,
    attach: () => {},
    configRead: () => 0,
    configWrite: () => {},
    reset: () => {},
    queueNotify: (q) => {
      while (q.pop(chain)) q.push(chain, 1);
      q.flush();
    },
  };
  const bus = new Bus({ name: 'mmio', size: 2 ** 32 });
  bus.claim(BASE, 0x200, new VirtioMmio({ device, dma: ram, irq: unconnectedLine, packed: true }), { name: 'virtio' });
  const guest = new MmioGuest(bus, BASE);
  const o = { mem: ram, base: 0x1_0000, size: 256, indirect, eventIdx };
  const ring: RingDriver = packed ? new PackedRing(o) : new SplitRing(o);
  startDriver(guest, [2 ** 28 + (eventIdx ? 2 ** 29 : 0), packed ? 5 : 1], [ring]);
  const readable = [{ addr: 0x20_0000, len: 16 }];
  const writable = [
    { addr: 0x20_1000, len: 4096 },
    { addr: 0x20_3000, len: 1 },
  ];
  let driver = 0;
  let device_ = 0;
  const lap = (): void => {
    const t0 = performance.now();
    for (let i = 0; i < BATCH; i++) ring.add(readable, writable);
    ring.kick();
    const t1 = performance.now();
    guest.notify(0);
    const t2 = performance.now();
    while (ring.poll() !== null);
    driver += t1 - t0 + performance.now() - t2;
    device_ += t2 - t1;
  };
  for (let i = 0; i < 3000; i++) lap();
  driver = 0;
  device_ = 0;
  const laps = 5000;
  for (let i = 0; i < laps; i++) lap();
  const per = (ms: number): string => ((ms * 1e6) / (laps * BATCH)).toFixed(0).padStart(5);
  const name = `${packed ? 'packed' : 'split'}${indirect ? ' indirect' : ''}${eventIdx ? ' event-idx' : ''}`;
  console.log(`${name.padEnd(26)} device ${per(device_)} ns/request   test driver ${per(driver)} ns/request`);
}

for (const packed of [false, true])
  for (const indirect of [false, true]) for (const eventIdx of [false, true]) run(packed, indirect, eventIdx);
