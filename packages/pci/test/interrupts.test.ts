import { describe, expect, it } from 'vitest';
import { DummyDevice, LpcBridge, PirqRouter } from '../src/index.ts';
import { bdf, createPci, Fake, findCap, Pins } from './kit.ts';

const F = bdf(0, 3);
const STATUS_INTX = 8;

function withDevice(spec: ConstructorParameters<typeof Fake>[0]): ReturnType<typeof createPci> & { d: Fake } {
  const r = createPci();
  const d = new Fake(spec);
  r.pci.attach(d, { slot: 3 });
  r.pci.assign();
  return { ...r, d };
}

describe('INTx', () => {
  it('reaches IO-APIC input 16 + (5 + slot + pin) mod 8 and the 8259 IRQ in the Interrupt Line', () => {
    const r = withDevice({ intx: true });
    expect(r.cfgRead(F + 0x3d, 1)).toBe(1);
    expect(r.cfgRead(F + 0x3c, 1)).toBe(3);
    r.d.ctx.intx(true);
    r.d.ctx.intx(true);
    expect([r.ioapic.high(), r.pic.high()]).toEqual([[16], [3]]);
    expect([r.ioapic.edges[16], r.pic.edges[3]]).toEqual([1, 1]);
    r.d.ctx.intx(false);
    expect([r.ioapic.high(), r.pic.high()]).toEqual([[], []]);
  });

  it('shows in Status whether or not Interrupt Disable holds it back (§6.2.3)', () => {
    const r = withDevice({ intx: true });
    r.d.ctx.intx(true);
    expect(r.cfgRead(F + 6, 2) & STATUS_INTX).toBe(STATUS_INTX);
    r.cfgWrite(F + 4, 0x400, 2);
    expect(r.ioapic.high()).toEqual([]);
    expect(r.cfgRead(F + 6, 2) & STATUS_INTX).toBe(STATUS_INTX);
    r.cfgWrite(F + 4, 0, 2);
    expect(r.ioapic.high()).toEqual([16]);
    r.cfgWrite(F + 6, 0xffff, 2);
    expect(r.cfgRead(F + 6, 2) & STATUS_INTX).toBe(STATUS_INTX);
    r.d.ctx.intx(false);
    expect(r.cfgRead(F + 6, 2) & STATUS_INTX).toBe(0);
  });

  it('does nothing for a function without a pin', () => {
    const r = withDevice({ intx: false });
    r.d.ctx.intx(true);
    expect(r.ioapic.high()).toEqual([]);
    expect(r.cfgRead(F + 6, 2)).toBe(0);
    expect(r.cfgRead(F + 0x3c, 2)).toBe(0x00ff);
    expect(r.pci.routing()).toEqual([]);
  });

  it('is held back while MSI is on and comes back after', () => {
    const r = withDevice({ intx: true, msi: 1 });
    const c = F + findCap(r, F, 5);
    r.d.ctx.intx(true);
    r.cfgWrite(c + 2, 1, 2);
    expect(r.d.ctx.interruptMode).toBe('msi');
    expect(r.ioapic.high()).toEqual([]);
    r.cfgWrite(c + 2, 0, 2);
    expect(r.ioapic.high()).toEqual([16]);
  });

  it('gives the functions of a slot the least used pins', () => {
    const r = createPci();
    for (let func = 0; func < 6; func++) r.pci.attach(new Fake({ intx: func !== 1 }), { slot: 5, func });
    r.pci.assign();
    expect([0, 1, 2, 3, 4, 5].map((f) => r.cfgRead(bdf(0, 5, f) + 0x3d, 1))).toEqual([1, 0, 2, 3, 4, 1]);
    expect(r.pci.routing().map((x) => [x.slot, x.pin, x.pirq, x.gsi])).toEqual([
      [5, 0, 2, 18],
      [5, 1, 3, 19],
      [5, 2, 4, 20],
      [5, 3, 5, 21],
    ]);
  });

  it('ORs the users of one PIRQ', () => {
    const r = createPci();
    const [a, b] = [new Fake({ intx: true }), new Fake({ intx: true })];
    r.pci.attach(a, { slot: 3 });
    r.pci.attach(b, { slot: 11 });
    r.pci.assign();
    a.ctx.intx(true);
    b.ctx.intx(true);
    a.ctx.intx(false);
    expect(r.ioapic.high()).toEqual([16]);
    expect(r.ioapic.edges[16]).toBe(1);
    b.ctx.intx(false);
    expect(r.ioapic.high()).toEqual([]);
  });

  it('asserted before assignment is seen after it', () => {
    const r = createPci();
    const d = new Fake({ intx: true });
    r.pci.attach(d, { slot: 3 });
    d.ctx.intx(true);
    r.pci.assign();
    expect(r.ioapic.high()).toEqual([16]);
  });
});

describe('PirqRouter (ICH10 §5.8.6)', () => {
  it('maps slots and pins as the firmware tables do: slot 1 INTA# is GSI 22', () => {
    const r = new PirqRouter({ pic: new Pins(), ioapic: new Pins() });
    expect([1, 2, 3, 31].map((s) => r.gsi(r.pirqOf(s, 0)))).toEqual([22, 23, 16, 20]);
    expect([0, 1, 2, 3].map((p) => r.pirqOf(3, p))).toEqual([0, 1, 2, 3]);
  });

  it('gives each PIRQ the least used IRQ that is permitted and free', () => {
    const r = createPci({ reserved: [3, 4, 9, 12] });
    for (let s = 3; s < 12; s++) r.pci.attach(new Fake({ intx: true }), { slot: s });
    r.pci.assign();
    // Seven IRQs for eight PIRQs: slot 10's is the second on IRQ 5. Slot 11 has slot 3's PIRQ.
    expect(r.pci.routing().map((x) => x.irq)).toEqual([5, 6, 7, 10, 11, 14, 15, 5, 5]);
    expect(r.router.levelIrqs).toBe((1 << 5) | (1 << 6) | (1 << 7) | (1 << 10) | (1 << 11) | (1 << 14) | (1 << 15));
    expect(r.pic.high()).toEqual([]);
  });

  it('throws when no IRQ is left', () => {
    const r = createPci({ reserved: [3, 4, 5, 6, 7, 9, 10, 11, 12, 14, 15] });
    r.pci.attach(new Fake({ intx: true }), { slot: 3 });
    expect(() => r.pci.assign()).toThrow(/reserved/);
  });

  it('follows its registers in the LPC bridge at 0x60 and 0x68', () => {
    const r = createPci();
    const d = new Fake({ intx: true });
    const lpc = bdf(0, 31);
    r.pci.attach(new LpcBridge({ router: r.router }), { slot: 31 });
    r.pci.attach(d, { slot: 3 });
    r.pci.assign();
    expect(r.cfgRead(lpc)).toBe(0x7000_8086);
    expect(r.cfgRead(lpc + 8)).toBe(0x0601_0000);
    expect([r.cfgRead(lpc + 0x60), r.cfgRead(lpc + 0x64), r.cfgRead(lpc + 0x68)]).toEqual([
      0x8080_8003, 0, 0x8080_8080,
    ]);
    d.ctx.intx(true);
    r.cfgWrite(lpc + 0x60, 0x0b, 1);
    expect(r.pic.high()).toEqual([11]);
    r.cfgWrite(lpc + 0x60, 0x8b, 1);
    expect([r.pic.high(), r.ioapic.high()]).toEqual([[], [16]]);
    r.cfgWrite(lpc + 0x60, 0x00, 1); // IRQ 0 is not permitted
    expect(r.pic.high()).toEqual([]);
    r.cfgWrite(lpc + 0x60, 0xff7f_7f05);
    expect(r.cfgRead(lpc + 0x60)).toBe(0x8f0f_0f05);
    expect(r.pic.high()).toEqual([5]);
    r.cfgWrite(lpc + 0x68, 0x0a0a, 2);
    expect(r.cfgRead(lpc + 0x68, 2)).toBe(0x0a0a);
    r.pci.reset();
    expect(r.cfgRead(lpc + 0x60)).toBe(0x8080_8003);
  });

  it('ORs PIRQs that the guest routes to one IRQ', () => {
    const r = createPci();
    const [a, b] = [new Fake({ intx: true }), new Fake({ intx: true })];
    r.pci.attach(a, { slot: 3 });
    r.pci.attach(b, { slot: 4 });
    r.pci.assign();
    r.router.writeRegister(0, 10);
    r.router.writeRegister(1, 10);
    a.ctx.intx(true);
    b.ctx.intx(true);
    a.ctx.intx(false);
    expect(r.pic.high()).toEqual([10]);
    r.router.writeRegister(1, 0x80);
    expect(r.pic.high()).toEqual([]);
  });
});

describe('MSI (PCI 3.0 §6.8.1)', () => {
  it('is a 64-bit capability of 14 bytes, off at reset', () => {
    const r = withDevice({ msi: 4 });
    const c = F + findCap(r, F, 5);
    expect(r.cfgRead(c + 2, 2)).toBe(0x0084);
    expect(r.d.ctx.msi(0)).toBe(false);
    r.cfgWrite(c + 4, 0xffff_ffff);
    expect(r.cfgRead(c + 4)).toBe(0xffff_fffc);
    r.cfgWrite(c + 2, 0xffff, 2);
    expect(r.cfgRead(c + 2, 2)).toBe(0x00f5);
  });

  it('sends address and data, with the message number in the low bits it was granted', () => {
    const r = withDevice({ msi: 4 });
    const c = F + findCap(r, F, 5);
    r.cfgWrite(c + 4, 0xfee0_1000);
    r.cfgWrite(c + 8, 0);
    r.cfgWrite(c + 12, 0x4043, 2);
    r.cfgWrite(c + 2, 0x01 | (2 << 4), 2);
    for (let n = 0; n < 5; n++) expect(r.d.ctx.msi(n)).toBe(true);
    r.cfgWrite(c + 2, 0x01 | (1 << 4), 2);
    r.d.ctx.msi(3);
    r.cfgWrite(c + 2, 0x01 | (7 << 4), 2); // more than it can: as many as it has
    r.d.ctx.msi(3);
    expect(r.msis.map((m) => m.data)).toEqual([0x4040, 0x4041, 0x4042, 0x4043, 0x4040, 0x4043, 0x4043]);
    expect(r.msis.every((m) => m.address === 0xfee0_1000)).toBe(true);
  });

  it('keeps masked messages pending and sends them on unmask', () => {
    const r = withDevice({ msi: 4, msiMaskable: true });
    const c = F + findCap(r, F, 5);
    expect(r.cfgRead(c + 2, 2)).toBe(0x0184);
    r.cfgWrite(c + 4, 0xfee0_0000);
    r.cfgWrite(c + 12, 0x30, 2);
    r.cfgWrite(c + 2, 1 | (2 << 4), 2);
    r.cfgWrite(c + 16, 0xffff_ffff);
    expect(r.cfgRead(c + 16)).toBe(0xf);
    expect(r.d.ctx.msi(2)).toBe(true);
    r.d.ctx.msi(0);
    expect(r.cfgRead(c + 20)).toBe(5);
    r.cfgWrite(c + 20, 0);
    expect(r.cfgRead(c + 20)).toBe(5);
    expect(r.msis).toEqual([]);
    r.cfgWrite(c + 16, 0xb);
    expect(r.msis.map((m) => m.data)).toEqual([0x32]);
    r.cfgWrite(c + 16, 0, 1);
    expect(r.msis.map((m) => m.data)).toEqual([0x32, 0x30]);
    expect(r.cfgRead(c + 20)).toBe(0);
  });

  it('goes nowhere without bus mastering, and DMA neither', () => {
    const r = withDevice({ msi: 1 });
    const c = F + findCap(r, F, 5);
    r.cfgWrite(c + 2, 1, 2);
    r.ram.write32(0x1000, 0x12345678);
    const dma = r.d.ctx.dma;
    expect([dma.read8(0x1000), dma.read16(0x1000), dma.read32(0x1000)]).toEqual([0x78, 0x5678, 0x12345678]);
    r.cfgWrite(F + 4, 0, 2);
    expect(r.d.ctx.msi(0)).toBe(true);
    expect(r.msis).toEqual([]);
    expect(r.pci.counters()['msiDropped']).toBe(1);
    expect([dma.read8(0x1000), dma.read16(0x1000), dma.read32(0x1000)]).toEqual([0xff, 0xffff, 0xffff_ffff]);
    expect([dma.readView(0x1000, 4), dma.writeView(0x1000, 4)]).toEqual([null, null]);
    dma.write8(0x1000, 0);
    dma.write16(0x1000, 0);
    dma.write32(0x1000, 0);
    expect(r.ram.read32(0x1000)).toBe(0x12345678);
    r.cfgWrite(F + 4, 4, 2);
    dma.write16(0x1002, 0xabcd);
    expect(dma.readView(0x1000, 4)).toEqual(Uint8Array.of(0x78, 0x56, 0xcd, 0xab));
    r.d.ctx.msi(0);
    expect(r.msis.length).toBe(1);
  });
});

describe('MSI-X (PCI 3.0 §6.8.2)', () => {
  const on = (
    vectors = 4,
    spec: ConstructorParameters<typeof Fake>[0] = {},
  ): ReturnType<typeof withDevice> & { cap: number; table: number } => {
    const r = withDevice({ msix: { vectors, bar: 2 }, intx: true, ...spec });
    const cap = F + findCap(r, F, 0x11);
    r.cfgWrite(cap + 2, 0x8000, 2);
    const info = r.pci.functions()[0]?.bars.find((b) => b.bar === 2);
    return { ...r, cap, table: info?.base ?? 0 };
  };
  const vector = (r: ReturnType<typeof on>, n: number, data: number, masked = 0): void => {
    r.cpu.write32(r.table + n * 16, 0xfee0_0000 + n * 0x1000);
    r.cpu.write32(r.table + n * 16 + 4, 0);
    r.cpu.write32(r.table + n * 16 + 8, data);
    r.cpu.write32(r.table + n * 16 + 12, masked);
  };

  it('makes a BAR for table and pending bits when the device has none', () => {
    const r = on(1024);
    expect(r.cfgRead(r.cap + 2, 2)).toBe(0x83ff);
    expect(r.cfgRead(r.cap + 4)).toBe(2);
    expect(r.cfgRead(r.cap + 8)).toBe(0x4002);
    expect(r.pci.functions()[0]?.bars[0]).toMatchObject({ kind: 'mem32', size: 0x8000 });
    expect([r.cpu.read32(r.table), r.cpu.read32(r.table + 12), r.cpu.read32(r.table + 1023 * 16 + 12)]).toEqual([
      0, 1, 1,
    ]);
    expect(r.cpu.read32(r.table + 0x4000)).toBe(0);
    expect(r.d.log).toEqual([]);
  });

  it('sends what the table says', () => {
    const r = on();
    vector(r, 1, 0x4041);
    expect(r.d.ctx.interruptMode).toBe('msix');
    expect(r.d.ctx.msix(1)).toBe(true);
    expect(r.msis).toEqual([{ address: 0xfee0_1000, data: 0x4041 }]);
    expect(r.d.ctx.msix(77)).toBe(true);
    r.cfgWrite(r.cap + 2, 0, 2);
    expect(r.d.ctx.msix(1)).toBe(false);
    expect(r.msis.length).toBe(1);
  });

  it('keeps a masked vector pending, once, and sends it on unmask', () => {
    const r = on();
    vector(r, 2, 0x52, 1);
    r.d.ctx.msix(2);
    r.d.ctx.msix(2);
    expect(r.cpu.read32(r.table + 0x1000)).toBe(4);
    expect(r.cpu.read(r.table + 0x1000, 1)).toBe(4);
    r.cpu.write32(r.table + 0x1000, 0);
    expect(r.cpu.read32(r.table + 0x1000)).toBe(4);
    r.cpu.write32(r.table + 2 * 16 + 12, 0);
    expect(r.msis).toEqual([{ address: 0xfee0_2000, data: 0x52 }]);
    expect(r.cpu.read32(r.table + 0x1000)).toBe(0);
  });

  it('keeps every vector pending under the function mask', () => {
    const r = on(80);
    vector(r, 0, 0x40);
    vector(r, 70, 0x86);
    vector(r, 71, 0x87, 1);
    r.cfgWrite(r.cap + 2, 0xc000, 2);
    for (const n of [70, 0, 71]) r.d.ctx.msix(n);
    expect([r.cpu.read32(r.table + 0x1000), r.cpu.read32(r.table + 0x1008)]).toEqual([1, 0xc0]);
    r.cpu.write32(r.table + 12, 0); // unmasking a vector is not enough
    expect(r.msis).toEqual([]);
    r.cfgWrite(r.cap + 2, 0x8000, 2);
    expect(r.msis.map((m) => m.data)).toEqual([0x40, 0x86]);
    expect(r.cpu.read32(r.table + 0x1008)).toBe(0x80);
  });

  it('takes bytes and words, keeps reserved bits zero', () => {
    const r = on();
    r.cpu.write32(r.table, 0xffff_ffff);
    r.cpu.write32(r.table + 12, 0xffff_fffe);
    expect([r.cpu.read32(r.table), r.cpu.read32(r.table + 12)]).toEqual([0xffff_fffc, 0]);
    r.cpu.write(r.table + 9, 1, 0xab);
    r.cpu.write(r.table + 10, 2, 0xcdef);
    expect(r.cpu.read32(r.table + 8)).toBe(0xcdef_ab00);
    expect(r.cpu.read(r.table + 9, 2)).toBe(0xefab);
    r.cpu.write32(r.table + 6, 0x1122_3344);
    expect(r.cpu.read32(r.table + 6)).toBe(0x1122_3344);
    expect(r.cpu.read32(r.table + 4)).toBe(0x3344_0000);
  });

  it("lies among the device's own registers where the spec puts it", () => {
    const r = on(8, { bars: [{ bar: 2, kind: 'mem64', size: 0x10000, widths: 4 }], msixOffset: 0x2000 });
    expect([r.cfgRead(r.cap + 4), r.cfgRead(r.cap + 8)]).toEqual([0x2002, 0x3002]);
    r.cpu.read32(r.table + 0x1ffc);
    r.cpu.write32(r.table + 0x2008, 0x99);
    expect(r.cpu.read32(r.table + 0x2008)).toBe(0x99);
    expect(r.cpu.read32(r.table + 0x3000)).toBe(0);
    r.cpu.write32(r.table + 0x4000, 1);
    r.cpu.read(r.table + 0xffff, 1);
    expect(r.d.log).toEqual(['r2+1ffc/4', 'w2+4000/4=1', 'r2+fffc/4']);
    // It moves with its BAR, in one piece.
    r.cfgWrite(F + 0x18, 0xd000_0000);
    expect(r.cpu.read32(0xd000_2008)).toBe(0x99);
    expect(r.cpu.read32(r.table + 0x2008)).toBe(0xffff_ffff);
  });

  it('holds INTx back', () => {
    const r = on();
    r.d.ctx.intx(true);
    expect(r.ioapic.high()).toEqual([]);
    r.cfgWrite(r.cap + 2, 0, 2);
    expect(r.ioapic.high()).toEqual([16]);
  });
});

describe('DummyDevice', () => {
  it('holds what is written and sends messages', () => {
    const r = createPci();
    r.pci.attach(new DummyDevice(), { slot: 3 });
    r.pci.assign();
    const [io, m1, m2] = (r.pci.functions()[0]?.bars ?? []).map((b) => b.base) as [number, number, number];
    r.cpu.write32(m1 + 8, 0x12345678);
    r.cpu.write(m2 + 0xffe, 2, 0xbeef);
    expect([r.cpu.read(m1 + 9, 2), r.cpu.read32(m2 + 0xffc)]).toEqual([0x3456, 0xbeef_0000]);
    const c = F + findCap(r, F, 5);
    r.cfgWrite(c + 4, 0xfee0_0000);
    r.cfgWrite(c + 12, 0x60, 2);
    r.cpu.out32(io, 0xabcdef);
    expect(r.msis).toEqual([]);
    r.cfgWrite(c + 2, 0x21, 2);
    r.cpu.out32(io, 0xabcdef);
    r.cpu.out32(io + 4, 6);
    expect(r.msis.map((m) => m.data)).toEqual([0x60, 0x61, 0x62, 0x63, 0x62]);
    expect(r.cpu.in32(io)).toBe(0xabcdef);
  });
});
