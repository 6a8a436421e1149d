import type { CharBackend } from '@hyve/core';
import { createRig, type Rig } from '@hyve/testkit';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import * as api from '../src/uart/index.ts';
import { COM_PORTS, claimCom, Uart16550, type UartOptions } from '../src/uart/index.ts';

const RBR = 0x3f8;
const IER = 0x3f9;
const IIR = 0x3fa;
const FCR = 0x3fa;
const LCR = 0x3fb;
const MCR = 0x3fc;
const LSR = 0x3fd;
const MSR = 0x3fe;
const SCR = 0x3ff;

interface Bench {
  rig: Rig;
  uart: Uart16550;
  sent: number[];
  batches: number[];
  flow: boolean[];
  accept: { ok: boolean };
  turnEnds: () => void;
}

function bench(o: Partial<UartOptions> = {}): Bench {
  const rig = createRig();
  const sent: number[] = [];
  const batches: number[] = [];
  const flow: boolean[] = [];
  const accept = { ok: true };
  const tasks: (() => void)[] = [];
  const uart = new Uart16550({
    irq: rig.irq(4),
    clock: rig.clock,
    onTransmit: (bytes) => {
      sent.push(...bytes);
      batches.push(bytes.length);
      return accept.ok;
    },
    onFlow: (p) => flow.push(p),
    defer: (t) => tasks.push(t),
    ...o,
  });
  claimCom(rig.pio, 1, uart);
  return {
    rig,
    uart,
    sent,
    batches,
    flow,
    accept,
    turnEnds: () => {
      for (const t of tasks.splice(0)) t();
    },
  };
}

const text = (s: string): number[] => [...s].map((c) => c.charCodeAt(0));

function checkReset(rig: Rig): void {
  const rows: [number, number][] = [
    [IER, 0x00],
    [IIR, 0x01],
    [LCR, 0x00],
    [MCR, 0x00],
    [LSR, 0x60],
    [MSR, 0xb0],
    [SCR, 0x00],
  ];
  for (const [port, value] of rows) expect([port.toString(16), rig.cpu.in8(port)]).toEqual([port.toString(16), value]);
  expect(rig.irq(4).high).toBe(false);
}

describe('registers', () => {
  it('has the documented values after reset (16550D table III)', () => {
    const b = bench();
    checkReset(b.rig);
    for (const p of [IER, FCR, LCR, MCR, SCR]) b.rig.cpu.out8(p, 0x1f);
    b.rig.cpu.in8(MSR);
    b.uart.reset();
    checkReset(b.rig);
  });

  it('keeps only the bits a 16550A has: IER 0x0F, MCR 0x1F; LCR and SCR whole', () => {
    const { cpu } = bench().rig;
    cpu.out8(IER, 0xff);
    expect(cpu.in8(IER)).toBe(0x0f);
    cpu.out8(MCR, 0xff);
    expect(cpu.in8(MCR)).toBe(0x1f);
    cpu.out8(SCR, 0xa5);
    expect(cpu.in8(SCR)).toBe(0xa5);
    cpu.out8(LSR, 0x00);
    expect(cpu.in8(LSR)).toBe(0x60);
    cpu.out8(LCR, 0x7f);
    expect(cpu.in8(LCR)).toBe(0x7f);
  });

  it('shows the divisor behind DLAB and leaves IER alone (§8.3)', () => {
    const b = bench();
    const { cpu } = b.rig;
    cpu.out8(IER, 5);
    cpu.out8(LCR, 0x83);
    cpu.out8(RBR, 0x0c);
    cpu.out8(IER, 0x01);
    expect([cpu.in8(RBR), cpu.in8(IER)]).toEqual([0x0c, 0x01]);
    cpu.out8(LCR, 0x03);
    expect(cpu.in8(IER)).toBe(5);
    expect(b.uart.baud).toBe(Math.floor(115200 / 0x10c));
    b.turnEnds();
    expect(b.sent).toEqual([]);
  });

  it('says FIFO in IIR only while FIFOs are on, and no 64-byte FIFO', () => {
    const { cpu } = bench().rig;
    expect(cpu.in8(IIR)).toBe(0x01);
    cpu.out8(FCR, 0x21);
    expect(cpu.in8(IIR)).toBe(0xc1);
    cpu.out8(FCR, 0x00);
    expect(cpu.in8(IIR)).toBe(0x01);
  });

  it('splits wide accesses into bytes', () => {
    const b = bench();
    b.rig.cpu.out16(MCR, 0x0003);
    expect(b.rig.cpu.in16(MCR)).toBe(0x6003);
    b.rig.cpu.out32(RBR, 0x03010041);
    expect(b.rig.cpu.in8(LCR)).toBe(3);
    b.turnEnds();
    expect(b.sent).toEqual([0x41]);
  });

  it("answers Linux's probe for a plain 16550A", () => {
    const { cpu } = bench().rig;
    cpu.out8(IER, 0);
    expect(cpu.in8(IER)).toBe(0);
    cpu.out8(IER, 0x0f);
    expect(cpu.in8(IER)).toBe(0x0f);
    cpu.out8(IER, 0x40);
    expect(cpu.in8(IER)).toBe(0); // no XScale bit
    cpu.out8(IER, 0);
    cpu.out8(MCR, 0x1a);
    expect(cpu.in8(MSR) & 0xf0).toBe(0x90);
    cpu.out8(MCR, 0);
    cpu.out8(LCR, 0xbf);
    expect(cpu.in8(IIR)).not.toBe(0); // no 16650 EFR
    cpu.out8(LCR, 0);
    cpu.out8(FCR, 1);
    expect(cpu.in8(IIR) >> 6).toBe(3);
  });
});

describe('transmitter', () => {
  it('sends what is written in one batch per turn', () => {
    const b = bench();
    for (const c of text('hello')) b.rig.cpu.out8(RBR, c);
    expect(b.sent).toEqual([]);
    b.turnEnds();
    expect(b.sent).toEqual(text('hello'));
    expect(b.batches).toEqual([5]);
  });

  it('flushes by itself in a microtask', async () => {
    const rig = createRig();
    const sent: number[] = [];
    const uart = new Uart16550({ irq: rig.irq(4), clock: rig.clock, onTransmit: (x) => sent.push(...x) > 0 });
    uart.write(0, 1, 0x41);
    expect(sent).toEqual([]);
    await Promise.resolve();
    expect(sent).toEqual([0x41]);
  });

  it('goes on in batches without end inside one turn', () => {
    const b = bench();
    for (let i = 0; i < 10_000; i++) b.rig.cpu.out8(RBR, i & 0xff);
    expect(b.batches).toEqual([4096, 4096]);
    b.uart.flush();
    expect(b.sent.length).toBe(10_000);
    expect(b.sent.every((v, i) => v === (i & 0xff))).toBe(true);
    b.turnEnds();
    expect(b.sent.length).toBe(10_000);
  });

  it('raises THRE when ETBEI is set, clears it on IIR read, raises it again when ETBEI is set again (§8.6)', () => {
    const { rig } = bench();
    rig.cpu.out8(IER, 2);
    expect(rig.irq(4).high).toBe(true);
    expect(rig.cpu.in8(IIR)).toBe(0x02);
    expect(rig.irq(4).high).toBe(false);
    expect(rig.cpu.in8(IIR)).toBe(0x01);
    rig.cpu.out8(IER, 0);
    rig.cpu.out8(IER, 2);
    expect(rig.cpu.in8(IIR)).toBe(0x02);
  });

  it('makes a new edge for every fill, also without an IIR read between', () => {
    const { rig } = bench();
    rig.cpu.out8(IER, 2);
    expect(rig.irq(4).edges).toBe(1);
    rig.cpu.in8(IIR);
    rig.cpu.out8(RBR, 1);
    expect([rig.irq(4).edges, rig.irq(4).high]).toEqual([2, true]);
    rig.cpu.out8(RBR, 2);
    expect([rig.irq(4).edges, rig.irq(4).high]).toEqual([3, true]);
  });

  it('makes no edge while ETBEI is clear', () => {
    const { rig } = bench();
    for (let i = 0; i < 100; i++) rig.cpu.out8(RBR, i);
    expect(rig.irq(4).edges).toBe(0);
  });

  it('keeps THRE and TEMT clear while the host is busy, loses nothing of one FIFO, and interrupts when it is done', () => {
    const b = bench();
    const { cpu } = b.rig;
    cpu.out8(FCR, 1);
    cpu.out8(IER, 2);
    cpu.in8(IIR);
    b.accept.ok = false;
    cpu.out8(RBR, 0x30);
    b.turnEnds();
    expect(cpu.in8(LSR)).toBe(0);
    expect(cpu.in8(IIR)).toBe(0xc1);
    for (let i = 1; i <= 16; i++) cpu.out8(RBR, 0x30 + i);
    cpu.out8(RBR, 0x7f); // a 17th overruns, as in hardware
    expect(b.sent).toEqual([0x30]);
    const edges = b.rig.irq(4).edges;
    b.uart.drained();
    expect(cpu.in8(LSR)).toBe(0); // taken, but refused again
    expect(b.sent.length).toBe(17);
    b.accept.ok = true;
    b.uart.drained();
    expect(cpu.in8(LSR)).toBe(0x60);
    expect(b.rig.irq(4).edges).toBe(edges + 1);
    expect(cpu.in8(IIR)).toBe(0xc2);
    expect(b.sent).toEqual(Array.from({ length: 17 }, (_, i) => 0x30 + i));
    expect(b.uart.counters()['txLost']).toBe(1);
  });

  it('loses nothing to a polite guest whatever the host accepts (property)', () => {
    fc.assert(
      fc.property(fc.array(fc.nat(3), { minLength: 1, maxLength: 200 }), (script) => {
        const b = bench();
        b.rig.cpu.out8(FCR, 1);
        const wrote: number[] = [];
        for (const step of script) {
          if (step === 0) b.accept.ok = !b.accept.ok;
          else if (step === 1) b.turnEnds();
          else if (step === 2) {
            b.accept.ok = true;
            b.uart.drained();
          } else if ((b.rig.cpu.in8(LSR) & 0x20) !== 0) {
            for (let i = 0; i < 16; i++) {
              wrote.push(wrote.length & 0xff);
              b.rig.cpu.out8(RBR, wrote[wrote.length - 1] as number);
            }
          }
        }
        b.accept.ok = true;
        b.uart.drained();
        b.uart.flush();
        expect(b.sent).toEqual(wrote);
        expect(b.rig.cpu.in8(LSR)).toBe(0x60);
      }),
    );
  });

  it('drops output when nothing is connected, and never looks busy', () => {
    const rig = createRig();
    const uart = new Uart16550({ irq: rig.irq(3), clock: rig.clock });
    claimCom(rig.pio, 2, uart);
    for (let i = 0; i < 5000; i++) rig.cpu.out8(0x2f8, 0x41);
    expect(rig.cpu.in8(0x2fd)).toBe(0x60);
    expect(rig.cpu.in8(0x2fe)).toBe(0);
  });
});

describe('receiver', () => {
  it('raises IRQ 4 when a byte arrives and ERBFI is set (§8.7)', () => {
    const { rig, uart } = bench();
    rig.cpu.out8(IER, 1);
    uart.receive(0x41);
    expect(rig.irq(4).high).toBe(true);
    expect(rig.cpu.in8(IIR)).toBe(0x04);
    expect(rig.cpu.in8(LSR)).toBe(0x61);
    expect(rig.cpu.in8(RBR)).toBe(0x41);
    expect(rig.irq(4).high).toBe(false);
    expect(rig.cpu.in8(LSR)).toBe(0x60);
  });

  it.each([
    [0x01, 1],
    [0x41, 4],
    [0x81, 8],
    [0xc1, 14],
  ])('with FCR 0x%s interrupts at %i bytes and stops below (§8.5)', (fcr, level) => {
    const { rig, uart } = bench();
    rig.cpu.out8(FCR, fcr);
    rig.cpu.out8(IER, 1);
    for (let i = 1; i < level; i++) uart.receive(i);
    expect(rig.irq(4).high).toBe(false);
    uart.receive(0xff);
    expect(rig.cpu.in8(IIR)).toBe(0xc4);
    rig.cpu.in8(RBR);
    expect(rig.irq(4).high).toBe(false);
  });

  it('times out four character times after the last byte or read (§8.11)', () => {
    const { rig, uart } = bench();
    rig.cpu.out8(LCR, 0x83);
    rig.cpu.out8(RBR, 12); // 9600 baud, 8N1: a character takes 10/9600 s
    rig.cpu.out8(LCR, 0x03);
    rig.cpu.out8(FCR, 0xc1);
    rig.cpu.out8(IER, 1);
    const fourChars = (4 * 10 * 1e9) / 9600;
    uart.receive(1);
    rig.clock.advance(fourChars * 0.9);
    uart.receive(2);
    rig.clock.advance(fourChars * 0.9);
    expect(rig.irq(4).high).toBe(false);
    rig.clock.advance(fourChars * 0.11);
    expect(rig.irq(4).high).toBe(true);
    expect(rig.cpu.in8(IIR)).toBe(0xcc);
    expect(rig.cpu.in8(RBR)).toBe(1);
    expect(rig.cpu.in8(IIR)).toBe(0xc1);
    rig.clock.advance(fourChars * 1.01);
    expect(rig.cpu.in8(IIR)).toBe(0xcc);
    expect(rig.cpu.in8(RBR)).toBe(2);
    rig.clock.advance(fourChars * 10);
    expect(rig.irq(4).high).toBe(false);
  });

  it('keeps order and loses nothing of a burst, pausing the host while it is behind', () => {
    const b = bench();
    b.rig.cpu.out8(FCR, 1);
    const data = Uint8Array.from({ length: 1000 }, (_, i) => (i * 7) & 0xff);
    expect(b.uart.receiveAll(data)).toBe(1000);
    expect(b.flow).toEqual([true]);
    const got: number[] = [];
    while ((b.rig.cpu.in8(LSR) & 1) !== 0) got.push(b.rig.cpu.in8(RBR));
    expect(got).toEqual([...data]);
    expect(b.flow).toEqual([true, false]);
    expect(b.rig.cpu.in8(LSR)).toBe(0x60);
  });

  it('does not pause the host for what the FIFO and a little more hold', () => {
    const b = bench();
    b.uart.receiveAll(new Uint8Array(100));
    expect(b.flow).toEqual([]);
  });

  it('bounds what a host that ignores the pause can pile up, and reports the loss as overrun', () => {
    const b = bench();
    const chunk = new Uint8Array(1 << 18);
    let taken = 0;
    for (let i = 0; i < 8; i++) taken += b.uart.receiveAll(chunk);
    expect(taken).toBeLessThanOrEqual((1 << 20) + 16);
    expect(b.uart.receive(1)).toBe(false);
    b.rig.cpu.out8(IER, 4);
    expect(b.rig.cpu.in8(IIR)).toBe(0x06);
    expect(b.rig.cpu.in8(LSR)).toBe(0x63);
    expect(b.rig.cpu.in8(LSR)).toBe(0x61);
    expect(b.rig.irq(4).high).toBe(false);
  });

  it('forgets the FIFO on FCR bit 1, and when FIFOs are switched', () => {
    const { rig, uart } = bench();
    rig.cpu.out8(FCR, 1);
    uart.receiveAll(Uint8Array.of(1, 2, 3));
    rig.cpu.out8(FCR, 3);
    expect(rig.cpu.in8(LSR)).toBe(0x60);
    uart.receive(4);
    rig.cpu.out8(FCR, 0);
    expect(rig.cpu.in8(LSR)).toBe(0x60);
    uart.receive(5);
    expect(rig.cpu.in8(RBR)).toBe(5);
  });

  it('orders causes: line status, data, THRE, modem (§8.6 table IV)', () => {
    const { rig, uart } = bench();
    rig.cpu.out8(IER, 0x0f);
    uart.setModemInputs({ cts: false });
    rig.cpu.out8(MCR, 0x10);
    rig.cpu.out8(RBR, 1);
    rig.cpu.out8(RBR, 2); // without FIFO the second byte overruns
    expect(rig.cpu.in8(IIR)).toBe(0x06);
    rig.cpu.in8(LSR);
    expect(rig.cpu.in8(IIR)).toBe(0x04);
    expect(rig.cpu.in8(RBR)).toBe(2);
    expect(rig.cpu.in8(IIR)).toBe(0x02);
    expect(rig.cpu.in8(IIR)).toBe(0x00);
    rig.cpu.in8(MSR);
    expect(rig.cpu.in8(IIR)).toBe(0x01);
    expect(rig.irq(4).high).toBe(false);
  });
});

describe('modem lines and loopback', () => {
  it('reports changes as deltas once, RI on its falling edge only (§8.9)', () => {
    const { rig, uart } = bench();
    rig.cpu.out8(IER, 8);
    uart.setModemInputs({ ri: true });
    expect(rig.irq(4).high).toBe(false);
    uart.setModemInputs({ ri: false, dsr: false });
    expect(rig.irq(4).high).toBe(true);
    expect(rig.cpu.in8(IIR)).toBe(0x00);
    expect(rig.cpu.in8(MSR)).toBe(0x96);
    expect(rig.cpu.in8(MSR)).toBe(0x90);
    expect(rig.irq(4).high).toBe(false);
  });

  it('maps outputs to inputs in loopback (§8.8)', () => {
    const { rig } = bench();
    const rows: [number, number][] = [
      [0x10, 0x00],
      [0x11, 0x20],
      [0x12, 0x10],
      [0x14, 0x40],
      [0x18, 0x80],
      [0x1f, 0xf0],
    ];
    for (const [mcr, msr] of rows) {
      rig.cpu.out8(MCR, mcr);
      expect(rig.cpu.in8(MSR) & 0xf0).toBe(msr);
    }
  });

  it('returns bytes in loopback, keeps them from the host, and overruns after 16', () => {
    const b = bench();
    const { cpu } = b.rig;
    cpu.out8(FCR, 1);
    cpu.out8(MCR, 0x10);
    b.uart.receive(0xee); // the line is cut off meanwhile
    for (let i = 0; i < 16; i++) cpu.out8(RBR, i);
    expect(cpu.in8(LSR)).toBe(0x61);
    cpu.out8(RBR, 99);
    expect(cpu.in8(LSR)).toBe(0x63);
    for (let i = 0; i < 16; i++) expect(cpu.in8(RBR)).toBe(i);
    expect(cpu.in8(LSR)).toBe(0x60);
    b.turnEnds();
    expect(b.sent).toEqual([]);
    cpu.out8(MCR, 0);
    expect(cpu.in8(RBR)).toBe(0xee);
  });

  it('tells the host of DTR and RTS', () => {
    const seen: [boolean, boolean][] = [];
    const { rig } = bench({ onModemControl: (l) => seen.push([l.dtr, l.rts]) });
    rig.cpu.out8(MCR, 0x0b);
    rig.cpu.out8(MCR, 0x08);
    rig.cpu.out8(MCR, 0x0c);
    expect(seen).toEqual([
      [true, true],
      [false, false],
    ]);
  });
});

describe('back end', () => {
  it('connects both ways, with flow control', () => {
    const rig = createRig();
    const uart = new Uart16550({ irq: rig.irq(4), clock: rig.clock });
    const log: string[] = [];
    const backend: CharBackend = {
      write: (bytes) => log.push(String.fromCharCode(...bytes)) < 0,
      onData: null,
      onDrain: null,
      setFlow: (p) => log.push(`flow ${p}`),
      close: () => Promise.resolve(),
    };
    uart.connect(backend);
    uart.write(0, 1, 0x58);
    uart.flush();
    expect(log).toEqual(['X']);
    expect(uart.read(5, 1)).toBe(0);
    backend.onDrain?.();
    expect(uart.read(5, 1)).toBe(0x60);
    expect(uart.read(6, 1) & 0xf0).toBe(0xb0);
    backend.onData?.(new Uint8Array(500));
    expect(log).toEqual(['X', 'flow true']);
    uart.connect(null);
    expect(uart.read(6, 1)).toBe(0x0b);
  });
});

describe('saved state', () => {
  it('continues in a fresh device with the same answers, without an edge', () => {
    fc.assert(
      fc.property(access(), access(), (before, after) => {
        const a = bench();
        play(a, before);
        const b = bench();
        b.uart.load(JSON.parse(JSON.stringify(a.uart.save())));
        expect(b.rig.irq(4).edges).toBe(0);
        expect(b.rig.irq(4).high).toBe(a.rig.irq(4).high);
        b.accept.ok = a.accept.ok;
        expect(play(b, after)).toEqual(play(a, after));
      }),
      { numRuns: 60 },
    );
  });

  it('raises the THRE edge on resume when the transmitter was held at save', () => {
    const a = bench();
    a.rig.cpu.out8(IER, 2);
    a.rig.cpu.in8(IIR);
    a.accept.ok = false;
    a.rig.cpu.out8(RBR, 1);
    a.turnEnds();
    a.rig.cpu.out8(RBR, 2);
    const b = bench();
    b.uart.load(a.uart.save());
    expect(b.rig.irq(4).high).toBe(false);
    b.uart.resume();
    expect(b.sent).toEqual([2]);
    expect(b.rig.irq(4).edges).toBe(1);
  });

  it('refuses other versions by code', () => {
    const { uart } = bench();
    expect(() => uart.load({ v: 2 })).toThrow(expect.objectContaining({ code: 'STATE_VERSION' }));
    expect(() => uart.load(null)).toThrow(expect.objectContaining({ code: 'STATE_FORMAT' }));
  });
});

type Step = readonly [number, number, number];
const access = (): fc.Arbitrary<Step[]> =>
  fc.array(fc.tuple(fc.nat(9), fc.nat(7), fc.nat(255)), { maxLength: 80 }) as fc.Arbitrary<Step[]>;

/** Plays guest accesses, host input and time; gives what the guest read and the line. */
function play(b: Bench, steps: readonly Step[]): number[] {
  const seen: number[] = [];
  for (const [what, offset, value] of steps) {
    if (what < 4) b.rig.cpu.out8(0x3f8 + offset, value);
    else if (what < 8) seen.push(b.rig.cpu.in8(0x3f8 + offset));
    else if (what === 8) b.uart.receive(value);
    else b.uart.flush();
    seen.push(b.rig.irq(4).high ? 1 : 0);
  }
  return seen;
}

describe('hostile guest', () => {
  it('survives any access at any width, then resets to the reset table', () => {
    fc.assert(
      fc.property(
        fc.array(fc.tuple(fc.boolean(), fc.nat(7), fc.constantFrom(1, 2, 4), fc.nat(0xffffffff), fc.nat(20)), {
          maxLength: 300,
        }),
        (steps) => {
          const b = bench();
          for (const [write, offset, width, value, host] of steps) {
            if (write) b.rig.cpu.out(0x3f8 + offset, width as 1, value % 2 ** (8 * width));
            else b.rig.cpu.in(0x3f8 + offset, width as 1);
            if (host === 0) b.accept.ok = !b.accept.ok;
            if (host === 1) b.uart.drained();
            if (host === 2) b.turnEnds();
            if (host === 3) b.uart.receiveAll(new Uint8Array(value & 0xff));
            if (host === 4) b.rig.clock.advance(1e6);
          }
          b.accept.ok = true;
          b.uart.drained();
          while (b.uart.save().backlog.length + b.uart.save().fifo.length > 0) {
            b.rig.cpu.out8(MCR, 0);
            b.rig.cpu.out8(LCR, 0);
            b.rig.cpu.in8(RBR);
          }
          b.uart.reset();
          checkReset(b.rig);
        },
      ),
      { numRuns: 100 },
    );
  });
});

describe('claims', () => {
  it('puts COM1–COM4 at their ports', () => {
    const rig = createRig();
    for (let n = 1; n <= 4; n++) {
      const uart = new Uart16550({ name: `com${n}`, irq: rig.irq(COM_PORTS[n - 1]?.irq ?? 0), clock: rig.clock });
      claimCom(rig.pio, n, uart);
    }
    expect([0x3f8, 0x2f8, 0x3e8, 0x2e8].map((p) => rig.pio.claimedBy(p))).toEqual(['com1', 'com2', 'com3', 'com4']);
    expect(rig.pio.claimedBy(0x3ff)).toBe('com1');
    expect(rig.pio.claimedBy(0x400)).toBe(null);
    expect(COM_PORTS.map((c) => c.irq)).toEqual([4, 3, 4, 3]);
    const uart = new Uart16550({ irq: rig.irq(4), clock: rig.clock });
    expect(() => claimCom(rig.pio, 5, uart)).toThrow(expect.objectContaining({ code: 'COM_NUMBER' }));
    expect(() => claimCom(rig.pio, 1, uart)).toThrow(expect.objectContaining({ code: 'BUS_OVERLAP' }));
  });

  it('exports what it says', () => {
    expect(Object.keys(api).sort()).toEqual(['COM_PORTS', 'Uart16550', 'claimCom']);
  });
});
