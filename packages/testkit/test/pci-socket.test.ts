import type { PciContext, PciDevice, Width } from '@hyve/core';
import { expect, it } from 'vitest';
import { createRig, PciSocket } from '../src/index.ts';

/** A device whose register 0 raises its line, and register 4 sends a message. */
class Bell implements PciDevice {
  readonly name = 'bell';
  readonly spec: PciDevice['spec'] = { vendor: 1, device: 2, classCode: 0, intx: true, bars: [] };
  readonly seen: [bar: number, offset: number, width: Width, value: number][] = [];
  private ctx: PciContext | null = null;
  attach(ctx: PciContext): void {
    this.ctx = ctx;
  }
  barRead(bar: number, offset: number): number {
    return bar * 16 + offset;
  }
  barWrite(bar: number, offset: number, width: Width, value: number): void {
    this.seen.push([bar, offset, width, value]);
    if (offset === 0) this.ctx?.intx(value !== 0);
    else if (this.ctx?.interruptMode === 'msix') this.ctx.msix(value);
    else this.ctx?.msi(value);
  }
  reset(): void {}
}

it('brings accesses to the BAR, its line and the messages of the mode that is on', () => {
  const rig = createRig();
  const device = new Bell();
  const socket = new PciSocket({ rig, device, bar: 2, base: 0xd000_0000, size: 8, irq: 7 });
  expect(rig.cpu.read32(0xd000_0004)).toBe(36);
  rig.cpu.write32(0xd000_0000, 1);
  expect([rig.irq(7).high, socket.irq.edges]).toEqual([true, 1]);
  rig.cpu.write32(0xd000_0004, 3);
  expect(socket.messages).toEqual([]);
  socket.mode = 'msi';
  rig.cpu.write32(0xd000_0004, 4);
  socket.mode = 'msix';
  rig.cpu.write32(0xd000_0004, 5);
  expect(socket.messages).toEqual([4, 5]);
  expect(device.seen[1]).toEqual([2, 4, 4, 3]);
});
