import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { createRig, DESC_INDIRECT, DESC_NEXT, DESC_WRITE, RingDriver, type RingDriverOptions } from '../src/index.ts';

const BASE = 0x10000;
const HEAP = { addr: 0x20000, len: 0x40000 };

function setup(o: Partial<RingDriverOptions> = {}) {
  const { ram } = createRig();
  return { ram, ring: new RingDriver({ ram, base: BASE, size: 8, heap: HEAP, ...o }) };
}

/** A device as small as can be: returns chains in order, in the way of VIRTIO 1.2 §2.7.8 and §2.7.14. */
class EchoDevice {
  private readonly ram: ReturnType<typeof setup>['ram'];
  private readonly ring: RingDriver;
  private seen: number;
  private done: number;
  constructor({ ram, ring }: ReturnType<typeof setup>, start = 0) {
    this.ram = ram;
    this.ring = ring;
    this.seen = start;
    this.done = start;
  }
  /** The descriptors of the next chain, or null. */
  next(): { head: number; parts: { addr: number; len: number; flags: number }[] } | null {
    if (this.seen === this.ram.read16(this.ring.avail + 2)) return null;
    const head = this.ram.read16(this.ring.avail + 4 + 2 * (this.seen % this.ring.size));
    this.seen = (this.seen + 1) & 0xffff;
    const parts: { addr: number; len: number; flags: number }[] = [];
    const walk = (table: number, start: number): void => {
      for (let i = start; ; ) {
        const at = table + 16 * i;
        const d = {
          addr: this.ram.read32(at) + this.ram.read32(at + 4) * 2 ** 32,
          len: this.ram.read32(at + 8),
          flags: this.ram.read16(at + 12),
        };
        if (d.flags & DESC_INDIRECT) walk(d.addr, 0);
        else parts.push(d);
        if ((d.flags & DESC_NEXT) === 0) return;
        i = this.ram.read16(at + 14);
      }
    };
    walk(this.ring.desc, head);
    return { head, parts };
  }
  finish(head: number, written: number): void {
    const at = this.ring.used + 4 + 8 * (this.done % this.ring.size);
    this.ram.write32(at, head);
    this.ram.write32(at + 4, written);
    this.done = (this.done + 1) & 0xffff;
    this.ram.write16(this.ring.used + 2, this.done);
  }
}

describe('layout (VIRTIO 1.2 §2.7)', () => {
  it('puts the three parts where legacy devices expect them', () => {
    const { ring } = setup({ size: 256 });
    expect([ring.desc, ring.avail, ring.used]).toEqual([BASE, BASE + 4096, BASE + 8192]);
    expect(ring.end).toBe(BASE + 8192 + 6 + 2048);
  });

  it('packs them with a smaller alignment', () => {
    const { ring } = setup({ size: 8, align: 4 });
    expect([ring.avail, ring.used]).toEqual([BASE + 128, BASE + 152]);
  });

  it.each([0, 3, 65536])('refuses %d entries', (size) => {
    expect(() => setup({ size })).toThrow(/power of two/);
  });
});

describe('chains', () => {
  it('links readable parts before writable ones', () => {
    const s = setup();
    const chain = s.ring.push([Uint8Array.of(1, 2, 3), Uint8Array.of(4)], [512, 1]);
    expect(s.ring.publish()).toBe(true);
    const got = new EchoDevice(s).next();
    expect(got?.head).toBe(chain.head);
    expect(got?.parts.map((p) => [p.len, p.flags & DESC_WRITE])).toEqual([
      [3, 0],
      [1, 0],
      [512, DESC_WRITE],
      [1, DESC_WRITE],
    ]);
    expect([...s.ring.bytes({ addr: got?.parts[0]?.addr as number, len: 3 })]).toEqual([1, 2, 3]);
  });

  it('is seen only after publish', () => {
    const s = setup();
    const device = new EchoDevice(s);
    s.ring.push([Uint8Array.of(1)], []);
    expect(device.next()).toBeNull();
    s.ring.publish();
    expect(device.next()).not.toBeNull();
  });

  it('uses one descriptor when indirect', () => {
    const s = setup();
    const { slots } = s.ring.push([Uint8Array.of(1)], [4, 4, 4], { indirect: true });
    s.ring.publish();
    expect(slots).toHaveLength(1);
    expect(s.ring.freeDescriptors).toBe(7);
    expect(s.ram.read16(s.ring.desc + 16 * (slots[0] as number) + 12)).toBe(DESC_INDIRECT);
    expect(new EchoDevice(s).next()?.parts).toHaveLength(4);
  });

  it('takes addresses above 4 GiB and lengths of zero as they are', () => {
    const s = setup();
    const addr = 0x12_3456_7890;
    s.ring.push([{ addr, len: 0 }], []);
    s.ring.publish();
    expect(new EchoDevice(s).next()?.parts).toEqual([{ addr, len: 0, flags: 0 }]);
  });

  it('refuses more than there is room for', () => {
    const { ring } = setup({ size: 2 });
    expect(() => ring.push([], [1, 1, 1])).toThrow(/3 descriptors wanted, 2 free/);
    expect(() => ring.push([], [])).toThrow(/needs a buffer/);
    expect(() => ring.alloc(HEAP.len + 1)).toThrow(/used up/);
  });
});

describe('returned chains', () => {
  it('come back with their parts and what was written', () => {
    const s = setup();
    const device = new EchoDevice(s);
    s.ring.push([], [16]);
    s.ring.publish();
    const got = device.next();
    s.ram.load(got?.parts[0]?.addr as number, Uint8Array.of(9, 8, 7));
    expect(s.ring.pop()).toBeNull();
    device.finish(got?.head as number, 3);
    const done = s.ring.pop();
    expect(done?.written).toBe(3);
    expect([...s.ring.bytes(done!.writable[0]!, done!.written)]).toEqual([9, 8, 7]);
    expect(s.ring.freeDescriptors).toBe(8);
    expect(s.ring.pop()).toBeNull();
  });

  it('are checked: unknown heads, and more bytes than room', () => {
    const s = setup();
    const device = new EchoDevice(s);
    device.finish(5, 0);
    expect(() => s.ring.pop()).toThrow(/chain 5, which is not in flight/);
    const t = setup();
    const d = new EchoDevice(t);
    const { head } = t.ring.push([Uint8Array.of(1)], [4]);
    t.ring.publish();
    d.finish(head, 5);
    expect(() => t.ring.pop()).toThrow(/wrote 5 bytes into 4/);
  });

  it('of any order, over the wrap at 65,535', () => {
    fc.assert(
      fc.property(
        fc.array(fc.record({ indirect: fc.boolean(), parts: fc.integer({ min: 1, max: 4 }) }), {
          minLength: 1,
          maxLength: 60,
        }),
        fc.integer({ min: 65500, max: 65535 }),
        (pushes, startIndex) => {
          const s = setup({ startIndex });
          const device = new EchoDevice(s, startIndex);
          for (const { indirect, parts } of pushes) {
            const chain = s.ring.push(
              [],
              Array.from({ length: parts }, () => 8),
              { indirect },
            );
            s.ring.publish();
            const got = device.next();
            expect(got?.head).toBe(chain.head);
            expect(got?.parts).toHaveLength(parts);
            device.finish(chain.head, 8);
            expect(s.ring.pop()?.head).toBe(chain.head);
          }
          expect(s.ring.freeDescriptors).toBe(8);
        },
      ),
      { numRuns: 50 },
    );
  });
});

describe('notifications', () => {
  it('follow the used ring flag (§2.7.10)', () => {
    const { ram, ring } = setup();
    ram.write16(ring.used, 1);
    ring.push([], [1]);
    expect(ring.publish()).toBe(false);
  });

  it('follow avail_event with event indices (§2.7.10)', () => {
    const { ram, ring } = setup({ eventIdx: true });
    const event = ring.used + 4 + 8 * ring.size;
    ram.write16(event, 1);
    ring.push([], [1]);
    expect(ring.publish()).toBe(false); // index goes 0 → 1: event 1 is not passed yet
    ring.push([], [1]);
    expect(ring.publish()).toBe(true); // 1 → 2
    ring.push([], [1]);
    expect(ring.publish()).toBe(false);
  });

  it('can be asked not to come back', () => {
    const { ram, ring } = setup();
    ring.suppressInterrupts(true);
    expect(ram.read16(ring.avail)).toBe(1);
    ring.setUsedEvent(7);
    expect(ram.read16(ring.avail + 4 + 2 * ring.size)).toBe(7);
  });
});
