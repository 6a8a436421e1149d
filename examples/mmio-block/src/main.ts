// A virtio disk over MMIO without any VM: forty lines of "guest" bring the device up and read a sector through its ring.
import { type BlockBackend, Bus, RegionMemory } from '@hyve/core';
import { VirtioMmio } from '@hyve/virtio';
import { VirtioBlock } from '@hyve/virtio-block';

/** Reads sector `n` of `disk` as a guest would. */
export async function readSector(disk: BlockBackend, n: number): Promise<Uint8Array> {
  // The machine: 64 KiB of memory, a bus, an interrupt line that wakes the guest, and the device.
  const ram = RegionMemory.allocate([{ base: 0, size: 0x10000, kind: 'ram', name: 'ram' }]);
  const bus = new Bus({ name: 'mmio', size: 2 ** 32 });
  let wake = (): void => {};
  const irq = { set: (on: boolean): void => (on ? wake() : undefined), restore: (): void => {} };
  const device = new VirtioMmio({ device: new VirtioBlock({ backend: disk, serial: 'EXAMPLE' }), dma: ram, irq });
  bus.claim(0xd0000000, 0x200, device, { name: 'virtio0' });

  // The guest: §3.1.1 of the specification, with VERSION_1 and nothing else, and a queue of four descriptors.
  const reg = (offset: number, value: number): void => bus.write(0xd0000000 + offset, 4, value);
  if (bus.read(0xd0000000, 4) !== 0x74726976 || bus.read(0xd0000008, 4) !== 2) throw new Error('no disk here');
  reg(0x070, 3); // ACKNOWLEDGE, DRIVER
  reg(0x024, 1);
  reg(0x020, 1); // VERSION_1
  reg(0x070, 0xb); // FEATURES_OK
  const [desc, avail, used, header, data, status] = [0x1000, 0x2000, 0x3000, 0x4000, 0x5000, 0x6000];
  reg(0x038, 4);
  reg(0x080, desc);
  reg(0x090, avail);
  reg(0x0a0, used);
  reg(0x044, 1);
  reg(0x070, 0xf); // DRIVER_OK

  const describe = (i: number, addr: number, length: number, flags: number): void => {
    ram.write32(desc + i * 16, addr);
    ram.write32(desc + i * 16 + 8, length);
    ram.write32(desc + i * 16 + 12, flags | ((i + 1) << 16));
  };
  ram.write32(header, 0); // a read
  ram.write32(header + 8, n);
  describe(0, header, 16, 1); // for the device to read; there is a next one
  describe(1, data, 512, 3); // for the device to write; there is a next one
  describe(2, status, 1, 2); // for the device to write
  ram.write16(avail + 4, 0); // the chain starts at descriptor 0
  ram.write16(avail + 2, 1);
  const interrupt = new Promise<void>((resolve) => {
    wake = resolve;
  });
  reg(0x050, 0); // notify
  await interrupt;
  reg(0x064, bus.read(0xd0000060, 4)); // acknowledge
  if (ram.read16(used + 2) !== 1 || ram.read8(status) !== 0) throw new Error(`status ${ram.read8(status)}`);
  return (ram.readView(data, 512) as Uint8Array).slice();
}
