import { createRig, type Rig } from '@hyve/testkit';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import * as api from '../src/ps2/index.ts';
import { claimI8042, I8042, KEY_NAMES, keysymToKey, Ps2Keyboard, Ps2Mouse } from '../src/ps2/index.ts';
import { SET2_TO_SET1 } from '../src/ps2/translate.ts';

interface Bench {
  rig: Rig;
  kbd: Ps2Keyboard;
  mouse: Ps2Mouse;
  chip: I8042;
  resets: () => number;
  a20: boolean[];
  leds: string[];
}

function bench(o: { mouse?: boolean } = {}): Bench {
  const rig = createRig();
  const leds: string[] = [];
  const kbd = new Ps2Keyboard({
    onLeds: (l) => leds.push(`${l.scrollLock ? 'S' : '-'}${l.numLock ? 'N' : '-'}${l.capsLock ? 'C' : '-'}`),
  });
  const mouse = new Ps2Mouse();
  const a20: boolean[] = [];
  let resets = 0;
  const chip = new I8042({
    kbdIrq: rig.irq(1),
    auxIrq: rig.irq(12),
    clock: rig.clock,
    keyboard: kbd,
    mouse: o.mouse === false ? null : mouse,
    onReset: () => resets++,
    onA20: (on) => a20.push(on),
  });
  claimI8042(rig.pio, chip);
  return { rig, kbd, mouse, chip, resets: () => resets, a20, leds };
}

/** Everything that comes out, as guests poll for it, letting time pass between bytes. */
function drain(rig: Rig): number[] {
  const got: number[] = [];
  for (let i = 0; i < 400; i++) {
    if ((rig.cpu.in8(0x64) & 1) !== 0) got.push(rig.cpu.in8(0x60));
    rig.clock.advance(100_000);
    if ((rig.cpu.in8(0x64) & 1) === 0) break;
  }
  return got;
}

/** Sends to the keyboard and gives the answer. */
function kbd(rig: Rig, ...bytes: number[]): number[] {
  return bytes.flatMap((b) => {
    rig.cpu.out8(0x60, b);
    return drain(rig);
  });
}

/** Sends to the mouse and gives the answer. */
function aux(rig: Rig, ...bytes: number[]): number[] {
  return bytes.flatMap((b) => {
    rig.cpu.out8(0x64, 0xd4);
    rig.cpu.out8(0x60, b);
    return drain(rig);
  });
}

function command(rig: Rig, c: number, ...data: number[]): number[] {
  rig.cpu.out8(0x64, c);
  for (const d of data) rig.cpu.out8(0x60, d);
  return drain(rig);
}

function raw(b: Bench): void {
  command(b.rig, 0x60, 0x07); // translation off
}

function checkReset(rig: Rig): void {
  expect(rig.cpu.in8(0x64)).toBe(0x14);
  expect(rig.cpu.in8(0x60)).toBe(0x00);
  expect([rig.irq(1).high, rig.irq(12).high]).toEqual([false, false]);
  expect(command(rig, 0x20)).toEqual([0x47]);
  expect(command(rig, 0xd0)[0]).toBe(0xc3);
  rig.cpu.out8(0x60, 0xee);
  expect(drain(rig)).toEqual([0xee]);
}

describe('controller', () => {
  it('comes up as firmware leaves it, and goes back there on reset', () => {
    const b = bench();
    checkReset(b.rig);
    command(b.rig, 0x60, 0x30);
    command(b.rig, 0xd1, 0x01);
    b.kbd.key('KeyA', true);
    b.chip.reset();
    checkReset(b.rig);
  });

  it('leaves 0x61–0x63 to others', () => {
    const { rig } = bench();
    expect([0x61, 0x62, 0x63].every((p) => rig.pio.isFree(p, 1))).toBe(true);
  });

  it('answers self-test, interface tests, input port and test inputs', () => {
    const { rig } = bench();
    expect([0xaa, 0xab, 0xa9, 0xc0, 0xe0].map((c) => command(rig, c))).toEqual([
      [0x55],
      [0x00],
      [0x00],
      [0x80],
      [0x00],
    ]);
    expect(command(bench({ mouse: false }).rig, 0xa9)).toEqual([0x01]);
  });

  it('keeps its RAM, and the command byte bits for both interfaces', () => {
    const { rig } = bench();
    command(rig, 0x65, 0xab);
    expect(command(rig, 0x25)).toEqual([0xab]);
    for (const [c, v] of [
      [0xad, 0x57],
      [0xa7, 0x77],
      [0xae, 0x67],
      [0xa8, 0x47],
    ] as const) {
      rig.cpu.out8(0x64, c);
      expect(command(rig, 0x20)).toEqual([v]);
    }
  });

  it('says in status whether the last write was a command, and whose byte waits', () => {
    const b = bench();
    b.rig.cpu.out8(0x64, 0xd3);
    expect(b.rig.cpu.in8(0x64)).toBe(0x1c);
    b.rig.cpu.out8(0x60, 0x5a);
    expect(b.rig.cpu.in8(0x64)).toBe(0x35);
    expect(b.rig.irq(12).high).toBe(true); // Linux tests IRQ 12 this way
    expect(b.rig.cpu.in8(0x60)).toBe(0x5a);
    expect(b.rig.irq(12).high).toBe(false);
    expect(command(b.rig, 0xd2, 0x1e)).toEqual([0x1e]);
    expect(b.rig.irq(1).edges).toBe(1);
  });

  it('does not look like a multiplexer (MUX) to Linux', () => {
    const { rig } = bench();
    expect([0xf0, 0x56, 0xa4].map((v) => command(rig, 0xd3, v))).toEqual([[0xf0], [0x56], [0xa4]]);
  });

  it('resets on FE and on output port bit 0 low, and on nothing else', () => {
    const b = bench();
    for (let c = 0; c < 256; c++) {
      if (c >= 0xf0 && (c & 1) === 0) continue;
      command(b.rig, c, 0x03);
    }
    expect(b.resets()).toBe(0);
    b.rig.cpu.out8(0x64, 0xfe);
    expect(b.resets()).toBe(1);
    command(b.rig, 0xd1, 0xdc);
    expect(b.resets()).toBe(2);
  });

  it('drives A20 through the output port and through DD and DF', () => {
    const b = bench();
    command(b.rig, 0xd1, 0xdd);
    expect((command(b.rig, 0xd0)[0] as number) & 2).toBe(0);
    command(b.rig, 0xd1, 0xdf);
    command(b.rig, 0xdd);
    command(b.rig, 0xdf);
    expect(b.a20).toEqual([false, true, false, true]);
  });

  it('makes one edge per byte, with a gap between device bytes, and repeats the byte to a second read', () => {
    const { rig, kbd } = bench();
    kbd.key('ArrowUp', true);
    expect([rig.irq(1).edges, rig.irq(1).high]).toEqual([1, true]);
    expect(rig.cpu.in8(0x60)).toBe(0xe0);
    expect(rig.irq(1).high).toBe(false);
    expect(rig.cpu.in8(0x60)).toBe(0xe0);
    rig.clock.advance(99_999);
    expect(rig.irq(1).edges).toBe(1);
    rig.clock.advance(1);
    expect(rig.irq(1).edges).toBe(2);
    expect(rig.cpu.in8(0x60)).toBe(0x48);
  });

  it('holds back bytes and interrupts as the command byte says', () => {
    const { rig, kbd } = bench();
    command(rig, 0x60, 0x46); // IRQ 1 off
    kbd.key('KeyA', true);
    expect(rig.irq(1).edges).toBe(0);
    expect(drain(rig)).toEqual([0x1e]);
    command(rig, 0xad);
    kbd.key('KeyB', true);
    expect(drain(rig)).toEqual([]);
    rig.cpu.out8(0x64, 0xae);
    expect(drain(rig)).toEqual([0x30]);
  });

  it('gives its own answers first and the key they displaced afterwards', () => {
    const { rig, kbd } = bench();
    kbd.key('KeyA', true);
    kbd.key('KeyA', false);
    rig.cpu.out8(0x64, 0x20);
    expect(drain(rig)).toEqual([0x47, 0x1e, 0x9e]);
  });
});

describe('keyboard', () => {
  it('answers its commands', () => {
    const { rig } = bench();
    expect(kbd(rig, 0xf2)).toEqual([0xfa, 0xab, 0x41]); // 0x83 goes through the translator
    expect(kbd(rig, 0xee)).toEqual([0xee]);
    expect(kbd(rig, 0xff)).toEqual([0xfa, 0xaa]);
    expect(kbd(rig, 0xf3, 0x20)).toEqual([0xfa, 0xfa]);
    expect(kbd(rig, 0xf4)).toEqual([0xfa]);
    expect(kbd(rig, 0xf5)).toEqual([0xfa]);
    expect(kbd(rig, 0xf6)).toEqual([0xfa]);
    expect(kbd(rig, 0xfa)).toEqual([0xfa]);
    expect(kbd(rig, 0xfc, 0x1c, 0x1b, 0xf4)).toEqual([0xfa, 0xfa, 0xfa, 0xfa]);
    expect(kbd(rig, 0x01)).toEqual([0xfe]);
    expect(kbd(rig, 0xee, 0xfe)).toEqual([0xee, 0xee]);
  });

  it('sets LEDs, and takes a new command instead of the argument', () => {
    const b = bench();
    expect(kbd(b.rig, 0xed, 0x05)).toEqual([0xfa, 0xfa]);
    expect(kbd(b.rig, 0xed, 0xee)).toEqual([0xfa, 0xee]);
    expect(kbd(b.rig, 0xed, 0x02)).toEqual([0xfa, 0xfa]);
    expect(b.leds).toEqual(['S-C', '-N-']);
    expect(b.kbd.ledState.numLock).toBe(true);
  });

  it("translates set 2 to set 1, breaks too (EDK II's path)", () => {
    const { rig, kbd } = bench();
    const rows: [Parameters<Ps2Keyboard['key']>[0], number[], number[]][] = [
      ['KeyA', [0x1e], [0x9e]],
      ['F7', [0x41], [0xc1]],
      ['F12', [0x58], [0xd8]],
      ['Enter', [0x1c], [0x9c]],
      ['NumpadEnter', [0xe0, 0x1c], [0xe0, 0x9c]],
      ['ArrowLeft', [0xe0, 0x4b], [0xe0, 0xcb]],
      ['ControlRight', [0xe0, 0x1d], [0xe0, 0x9d]],
      ['MetaLeft', [0xe0, 0x5b], [0xe0, 0xdb]],
      ['AudioVolumeUp', [0xe0, 0x30], [0xe0, 0xb0]],
      ['PrintScreen', [0xe0, 0x2a, 0xe0, 0x37], [0xe0, 0xb7, 0xe0, 0xaa]],
      ['Pause', [0xe1, 0x1d, 0x45, 0xe1, 0x9d, 0xc5], []],
    ];
    for (const [name, make, brk] of rows) {
      kbd.key(name, true);
      expect([name, drain(rig)]).toEqual([name, make]);
      kbd.key(name, false);
      expect([name, drain(rig)]).toEqual([name, brk]);
    }
  });

  it('knows Ctrl+Pause as Break and Alt+PrintScreen as SysRq', () => {
    const { rig, kbd } = bench();
    kbd.key('ControlLeft', true);
    kbd.key('Pause', true);
    kbd.key('ControlLeft', false);
    expect(drain(rig)).toEqual([0x1d, 0xe0, 0x46, 0xe0, 0xc6, 0x9d]);
    kbd.key('AltLeft', true);
    kbd.key('PrintScreen', true);
    kbd.key('PrintScreen', false);
    kbd.key('AltLeft', false);
    expect(drain(rig)).toEqual([0x38, 0x54, 0xd4, 0xb8]);
  });

  it('speaks sets 1, 2 and 3 itself when translation is off', () => {
    const b = bench();
    raw(b);
    expect(kbd(b.rig, 0xf0, 0x00)).toEqual([0xfa, 0xfa, 0x02]);
    b.kbd.key('ArrowUp', true);
    b.kbd.key('ArrowUp', false);
    expect(drain(b.rig)).toEqual([0xe0, 0x75, 0xe0, 0xf0, 0x75]);
    expect(kbd(b.rig, 0xf0, 0x01)).toEqual([0xfa, 0xfa]);
    b.kbd.key('ArrowUp', true);
    b.kbd.key('ArrowUp', false);
    expect(drain(b.rig)).toEqual([0xe0, 0x48, 0xe0, 0xc8]);
    expect(kbd(b.rig, 0xf0, 0x03)).toEqual([0xfa, 0xfa]);
    b.kbd.key('ArrowUp', true);
    b.kbd.key('ArrowUp', false);
    b.kbd.key('CapsLock', true);
    expect(drain(b.rig)).toEqual([0x63, 0xf0, 0x63, 0x14]);
    expect(kbd(b.rig, 0xf0, 0x04)).toEqual([0xfa, 0xfe]);
  });

  it('is silent while disabled and forgets on enable', () => {
    const { rig, kbd: k } = bench();
    kbd(rig, 0xf5);
    expect(k.key('KeyA', true)).toBe(false);
    expect(drain(rig)).toEqual([]);
    kbd(rig, 0xf4);
    expect(k.key('KeyA', true)).toBe(true);
    expect(drain(rig)).toEqual([0x1e]);
  });

  it('bounds its queue, sends the overrun code once, and never cuts a sequence', () => {
    const b = bench();
    raw(b);
    let taken = 0;
    for (let i = 0; i < 1000; i++) if (b.kbd.key('ArrowUp', i % 2 === 0)) taken++;
    expect(taken).toBeLessThan(60);
    const got = drain(b.rig);
    expect(got.filter((x) => x === 0)).toEqual([0]);
    expect(got[got.length - 1]).toBe(0);
    expect(got.length).toBeLessThanOrEqual(129);
    b.kbd.key('KeyA', true);
    expect(drain(b.rig)).toEqual([0x1c]);
  });

  it('answers between key sequences, never inside one', () => {
    const b = bench();
    raw(b);
    b.kbd.key('ArrowUp', true);
    b.kbd.key('KeyA', true);
    b.rig.cpu.in8(0x60); // E0
    b.rig.cpu.out8(0x60, 0xee);
    b.rig.clock.advance(100_000);
    expect(drain(b.rig)).toEqual([0x75, 0xee, 0x1c]);
  });

  it('gives each key its own codes', () => {
    const seen = new Map<string, string>();
    for (const name of KEY_NAMES) {
      const b = bench();
      raw(b);
      expect(b.kbd.key(name, true)).toBe(true);
      const codes = drain(b.rig).join(' ');
      expect(seen.get(codes)).toBe(undefined);
      seen.set(codes, name);
    }
    expect(seen.size).toBe(KEY_NAMES.length);
  });

  it('translates one to one wherever set 2 has keys', () => {
    const low = [...SET2_TO_SET1].slice(1, 0x80);
    const doubled = low.filter((v, i) => low.indexOf(v) !== i);
    expect(doubled).toEqual([]);
  });
});

describe('keysyms', () => {
  it('maps ASCII, F keys, arrows, keypad, modifiers and multimedia', () => {
    const rows: [number, string][] = [
      [0x61, 'KeyA'],
      [0x5a, 'KeyZ'],
      [0x21, 'Digit1'],
      [0x7e, 'Backquote'],
      [0x22, 'Quote'],
      [0x20, 'Space'],
      [0xffbe, 'F1'],
      [0xffc9, 'F12'],
      [0xffd5, 'F24'],
      [0xff52, 'ArrowUp'],
      [0xffb0, 'Numpad0'],
      [0xffb9, 'Numpad9'],
      [0xffe1, 'ShiftLeft'],
      [0xffea, 'AltRight'],
      [0xffff, 'Delete'],
      [0x1008ff13, 'AudioVolumeUp'],
      [0x01000041, 'KeyA'],
    ];
    for (const [sym, key] of rows) expect([sym, keysymToKey(sym)]).toEqual([sym, key]);
    for (let c = 0x20; c < 0x7f; c++) expect([c, keysymToKey(c)]).not.toEqual([c, null]);
    expect(keysymToKey(0)).toBe(null);
    expect(keysymToKey(-1)).toBe(null);
    const b = bench();
    expect(b.kbd.keysym(0x41, true)).toBe(true);
    expect(b.kbd.keysym(0xdead, true)).toBe(false);
    expect(drain(b.rig)).toEqual([0x1e]);
  });
});

describe('mouse', () => {
  const enable = (rig: Rig): void => {
    aux(rig, 0xf4);
  };

  it('answers its commands', () => {
    const { rig } = bench();
    expect(aux(rig, 0xff)).toEqual([0xfa, 0xaa, 0x00]);
    expect(aux(rig, 0xf2)).toEqual([0xfa, 0x00]);
    expect(aux(rig, 0xe9)).toEqual([0xfa, 0x00, 0x02, 100]);
    expect(aux(rig, 0xe8, 3, 0xf3, 40, 0xe7, 0xf4, 0xe9)).toEqual([
      0xfa, 0xfa, 0xfa, 0xfa, 0xfa, 0xfa, 0xfa, 0x30, 3, 40,
    ]);
    expect(aux(rig, 0xf6, 0xe9)).toEqual([0xfa, 0xfa, 0x00, 2, 100]);
    expect(aux(rig, 0x01)).toEqual([0xfe]);
  });

  it('raises IRQ 12 and streams three-byte packets once enabled', () => {
    const { rig, mouse } = bench();
    mouse.move(5, 5, 0, 0);
    expect(drain(rig)).toEqual([]);
    enable(rig);
    const edges = rig.irq(12).edges;
    mouse.move(5, 3, 0, 1);
    expect(rig.irq(12).edges).toBe(edges + 1);
    expect(rig.irq(1).edges).toBe(0);
    expect(drain(rig)).toEqual([0x29, 5, 0xfd]);
    mouse.move(0, 0, 0, 0);
    expect(drain(rig)).toEqual([0x08, 0, 0]);
    mouse.move(0, 0, 0, 0);
    expect(drain(rig)).toEqual([]);
    mouse.move(300, 0, 0, 0);
    expect(drain(rig)).toEqual([0x08, 255, 0, 0x08, 45, 0]);
  });

  it('becomes an IntelliMouse by the knock, with a wheel', () => {
    const { rig, mouse } = bench();
    aux(rig, 0xf3, 200, 0xf3, 100, 0xf3, 80);
    expect(aux(rig, 0xf2)).toEqual([0xfa, 3]);
    enable(rig);
    mouse.move(0, 0, 2, 0);
    expect(drain(rig)).toEqual([0x08, 0, 0, 2]);
    mouse.move(0, 0, -1, 0x18);
    expect(drain(rig)).toEqual([0x08, 0, 0, 0xff]);
  });

  it('becomes an IntelliMouse Explorer with five buttons', () => {
    const { rig, mouse } = bench();
    aux(rig, 0xf3, 200, 0xf3, 100, 0xf3, 80, 0xf3, 200, 0xf3, 200, 0xf3, 80);
    expect(aux(rig, 0xf2)).toEqual([0xfa, 4]);
    enable(rig);
    mouse.move(1, 0, -1, 0x18);
    expect(drain(rig)).toEqual([0x08, 1, 0, 0x3f]);
    mouse.move(0, 0, 20, 0);
    expect(drain(rig)).toEqual([0x08, 0, 0, 7, 0x08, 0, 0, 7, 0x08, 0, 0, 6]);
    expect(aux(rig, 0xff, 0xf2)).toEqual([0xfa, 0xaa, 0x00, 0xfa, 0x00]);
  });

  it('reports on request in remote mode, echoes in wrap mode', () => {
    const { rig, mouse } = bench();
    aux(rig, 0xf0);
    mouse.move(7, -2, 0, 2);
    expect(drain(rig)).toEqual([]);
    expect(aux(rig, 0xeb)).toEqual([0xfa, 0x0a, 7, 2]);
    expect(aux(rig, 0xea)).toEqual([0xfa]);
    expect(aux(rig, 0xee, 0x12, 0xf4, 0xec, 0xf2)).toEqual([0xfa, 0x12, 0xf4, 0xfa, 0xfa, 0x00]);
  });

  it('scales 2:1 in stream mode', () => {
    const { rig, mouse } = bench();
    aux(rig, 0xe7, 0xf4);
    for (const [d, want] of [
      [1, 1],
      [2, 1],
      [3, 3],
      [4, 6],
      [5, 9],
      [6, 12],
    ] as const) {
      mouse.move(d, 0, 0, 0);
      expect(drain(rig)[1]).toBe(want);
      mouse.move(-d, 0, 0, 0);
      expect(drain(rig)[1]).toBe(256 - want);
    }
  });

  it('adds up movement that the guest does not fetch, within bounds', () => {
    const { rig, mouse } = bench();
    enable(rig);
    for (let i = 0; i < 10_000; i++) mouse.move(1, 1, 0, i & 1);
    const got = drain(rig);
    let x = 0;
    for (let i = 0; i < got.length; i += 3) x += got[i + 1] as number;
    expect(x).toBeGreaterThan(4000);
    expect(got.length).toBeLessThan(150);
    expect((got[got.length - 3] as number) & 1).toBe(1); // the last state of the button arrives
  });
});

describe('saved state', () => {
  it('continues in fresh devices with the same answers, without an edge', () => {
    fc.assert(
      fc.property(steps(80), steps(60), (before, after) => {
        const a = bench();
        play(a, before);
        const b = bench();
        b.chip.load(JSON.parse(JSON.stringify(a.chip.save())));
        expect([b.rig.irq(1).edges, b.rig.irq(12).edges]).toEqual([0, 0]);
        a.rig.clock.advance(100_000); // the gap starts afresh
        b.rig.clock.advance(100_000);
        a.kbd.key('AltLeft', false);
        a.kbd.key('AltRight', false);
        a.kbd.key('ControlLeft', false);
        a.kbd.key('ControlRight', false);
        for (const k of ['AltLeft', 'AltRight', 'ControlLeft', 'ControlRight'] as const) b.kbd.key(k, false);
        expect(play(b, after)).toEqual(play(a, after));
      }),
      { numRuns: 60 },
    );
  });

  it('refuses other versions by code', () => {
    const { chip } = bench();
    expect(() => chip.load({ v: 9 })).toThrow(expect.objectContaining({ code: 'STATE_VERSION' }));
  });
});

type Step = readonly [number, number];
const steps = (n: number): fc.Arbitrary<Step[]> =>
  fc.array(fc.tuple(fc.nat(7), fc.nat(255)), { maxLength: n }) as fc.Arbitrary<Step[]>;

function play(b: Bench, script: readonly Step[]): number[] {
  const seen: number[] = [];
  for (const [what, v] of script) {
    if (what === 0) b.rig.cpu.out8(0x64, v);
    else if (what === 1) b.rig.cpu.out8(0x60, v);
    else if (what === 2) seen.push(b.rig.cpu.in8(0x64));
    else if (what === 3) seen.push(b.rig.cpu.in8(0x60));
    else if (what === 4) b.rig.clock.advance(v * 1000);
    else if (what === 5) b.kbd.key(KEY_NAMES[v % KEY_NAMES.length] ?? 'KeyA', (v & 128) !== 0);
    else if (what === 6) b.mouse.move(v - 128, 3 - (v % 7), (v % 5) - 2, v & 31);
    else aux(b.rig, 0xf4);
    seen.push((b.rig.irq(1).high ? 1 : 0) + (b.rig.irq(12).high ? 2 : 0));
  }
  return seen;
}

describe('hostile guest', () => {
  it('survives any sequence, and resets to the reset state', () => {
    fc.assert(
      fc.property(steps(300), (script) => {
        const b = bench();
        play(b, script);
        b.chip.reset();
        checkReset(b.rig);
      }),
      { numRuns: 100 },
    );
  });
});

describe('api', () => {
  it('exports what it says', () => {
    expect(Object.keys(api).sort()).toEqual([
      'I8042',
      'KEY_NAMES',
      'Ps2Keyboard',
      'Ps2Mouse',
      'claimI8042',
      'isKeyName',
      'keysymToKey',
    ]);
  });
});
