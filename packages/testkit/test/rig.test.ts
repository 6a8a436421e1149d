import { describe, expect, it } from 'vitest';
import { createRig, ManualClock } from '../src/index.ts';

describe('ManualClock', () => {
  it('fires timers at their own times, in order, re-armed ones too', () => {
    const clock = new ManualClock();
    const seen: [string, number][] = [];
    const b = clock.timer(() => seen.push(['b', clock.now()]));
    const a = clock.timer(() => {
      seen.push(['a', clock.now()]);
      if (clock.now() < 30) a.arm(clock.now() + 10);
    });
    a.arm(10);
    b.arm(25);
    expect(clock.nextDeadline()).toBe(10);
    clock.advance(100);
    expect(seen).toEqual([
      ['a', 10],
      ['a', 20],
      ['b', 25],
      ['a', 30],
    ]);
    expect(clock.now()).toBe(100);
  });

  it('does not go back for a timer armed in the past', () => {
    const clock = new ManualClock();
    clock.advance(50);
    let at = -1;
    clock.timer(() => (at = clock.now())).arm(10);
    clock.advance(5);
    expect([at, clock.now()]).toEqual([50, 55]);
  });
});

describe('createRig', () => {
  it('checks widths and signs on every access', () => {
    const rig = createRig();
    let answer = 0;
    rig.pio.claim(0x10, 4, { read: () => answer, write: () => {} }, { name: 'part' });
    answer = 0x1ff;
    expect(() => rig.cpu.in8(0x10)).toThrow(/in\(0x10\) gave 511/);
    answer = -1;
    expect(() => rig.cpu.in32(0x10)).toThrow(/unsigned 32-bit/);
    expect(() => rig.cpu.out8(0x10, 256)).toThrow(/out value/);
    expect([rig.cpu.in8(0x20), rig.cpu.in16(0x20), rig.cpu.in32(0x20)]).toEqual([0xff, 0xffff, 0xffffffff]);
  });

  it('counts edges, not levels', () => {
    const { irq } = createRig();
    const line = irq(4);
    for (const v of [true, true, false, true]) line.set(v);
    line.restore(false);
    line.restore(true);
    expect([line.edges, line.high, irq(4) === line, irq(5) === line]).toEqual([2, true, true, false]);
  });

  it('records messages and has the RAM asked for', () => {
    const rig = createRig({ ramBytes: 8192 });
    rig.msiSink.send(0xfee00000, 0x41);
    expect(rig.msis).toEqual([{ address: 0xfee00000, data: 0x41 }]);
    expect([rig.ram.read8(8191), rig.ram.read8(8192)]).toEqual([0, 0xff]);
  });
});
