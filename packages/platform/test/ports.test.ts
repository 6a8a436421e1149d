import type { CharBackend } from '@hyve/core';
import { createRig } from '@hyve/testkit';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import * as pmApi from '../src/acpi-pm/index.ts';
import { AcpiPm, claimAcpiPm } from '../src/acpi-pm/index.ts';
import * as debugApi from '../src/debug-ports/index.ts';
import { BvmPort, claimBvmPort, claimDebugCon, DebugCon } from '../src/debug-ports/index.ts';
import * as lpcApi from '../src/lpc/index.ts';
import { claimLpcPorts, claimReserved, LpcPorts } from '../src/lpc/index.ts';

function lpcBench() {
  const rig = createRig();
  const log: string[] = [];
  const lpc = new LpcPorts({
    onReset: (k) => log.push(`reset ${k}`),
    onSmiCommand: (c, s) => log.push(`smi ${c.toString(16)} ${s.toString(16)}`),
    onA20: (on) => log.push(`a20 ${on}`),
    onPost: (p, c) => log.push(`post ${p.toString(16)} ${c.toString(16)}`),
  });
  claimLpcPorts(rig.pio, lpc);
  return { rig, lpc, log };
}

describe('lpc ports', () => {
  const reset: [number, number][] = [
    [0x80, 0xff],
    [0x84, 0xff],
    [0x92, 0x02],
    [0xb2, 0x00],
    [0xb3, 0x00],
    [0xed, 0xff],
    [0xcf9, 0x00],
  ];

  it('has its reset values, also after reset', () => {
    const { rig, lpc } = lpcBench();
    for (let i = 0; i < 2; i++) {
      for (const [port, value] of reset) expect([port, rig.cpu.in8(port)]).toEqual([port, value]);
      for (const [port] of reset) rig.cpu.out8(port, 0xf8);
      lpc.reset();
    }
  });

  it('resets on the rising edge of 0x92 bit 0 and switches A20 by bit 1', () => {
    const { rig, lpc, log } = lpcBench();
    rig.cpu.out8(0x92, rig.cpu.in8(0x92) | 2);
    expect(log).toEqual([]);
    rig.cpu.out8(0x92, 0x00);
    expect([lpc.a20, rig.cpu.in8(0x92)]).toEqual([false, 0]);
    rig.cpu.out8(0x92, 0x03);
    rig.cpu.out8(0x92, 0x03);
    expect(log).toEqual(['a20 false', 'a20 true', 'reset init']);
    lpc.setA20(false);
    expect(rig.cpu.in8(0x92) & 2).toBe(0);
  });

  it('resets on the rising edge of 0xCF9 bit 2, as kind as bits 1 and 3 say', () => {
    const { rig, log } = lpcBench();
    for (const [arm, fire, kind] of [
      [0x00, 0x04, 'init'],
      [0x02, 0x06, 'hard'],
      [0x0a, 0x0e, 'full'],
    ] as const) {
      log.length = 0;
      rig.cpu.out8(0xcf9, arm);
      expect([log, rig.cpu.in8(0xcf9)]).toEqual([[], arm]);
      rig.cpu.out8(0xcf9, fire);
      rig.cpu.out8(0xcf9, fire);
      expect(log).toEqual([`reset ${kind}`]);
    }
  });

  it('passes SMI commands with the status byte, and POST codes', () => {
    const { rig, lpc, log } = lpcBench();
    rig.cpu.out8(0xb3, 0x12);
    rig.cpu.out8(0xb2, 0xa0);
    rig.cpu.out8(0x80, 0x55);
    rig.cpu.out8(0x84, 0x66);
    rig.cpu.out8(0xed, 0x77);
    expect(log).toEqual(['smi a0 12', 'post 80 55', 'post 84 66']);
    expect([rig.cpu.in8(0xb2), rig.cpu.in8(0x80), rig.cpu.in8(0xed), lpc.postCode]).toEqual([0xa0, 0x55, 0xff, 0x55]);
  });

  it('leaves ports out on request, and refuses unknown ones', () => {
    const rig = createRig();
    const lpc = new LpcPorts({ onReset: () => {} });
    claimLpcPorts(rig.pio, lpc, { except: [0xcf9] });
    expect(rig.pio.isFree(0xcf8, 4)).toBe(true);
    expect(() => claimLpcPorts(rig.pio, lpc, { except: [0x1234] })).toThrow(
      expect.objectContaining({ code: 'LPC_PORT' }),
    );
    claimReserved(rig.pio, 0x72, 6, 'rtc-reserved');
    expect([rig.cpu.in8(0x72), rig.cpu.in16(0x72), rig.cpu.in32(0x72)]).toEqual([0xff, 0xffff, 0xffffffff]);
  });

  it('continues from saved state', () => {
    const a = lpcBench();
    a.rig.cpu.out8(0x92, 0x00);
    a.rig.cpu.out8(0xcf9, 0x02);
    a.rig.cpu.out8(0xb3, 0x99);
    const b = lpcBench();
    b.lpc.load(JSON.parse(JSON.stringify(a.lpc.save())));
    expect(b.log).toEqual(['a20 false']); // the gate itself belongs to the machine, which is told
    for (const [p] of reset) expect(b.rig.cpu.in8(p)).toBe(a.rig.cpu.in8(p));
    expect(() => b.lpc.load({})).toThrow(expect.objectContaining({ code: 'STATE_FORMAT' }));
  });

  it('survives any access', () => {
    const { rig, lpc } = lpcBench();
    fc.assert(
      fc.property(
        fc.constantFrom(...reset.map((r) => r[0])),
        fc.constantFrom(1, 2, 4),
        fc.nat(0xffffffff),
        (p, w, v) => {
          rig.cpu.out(p, w as 1, v % 2 ** (8 * w));
          rig.cpu.in(p, w as 1);
        },
      ),
    );
    lpc.reset();
    for (const [port, value] of reset) expect(rig.cpu.in8(port)).toBe(value);
  });
});

function pmBench(o: { gpe0?: number } = {}) {
  const rig = createRig();
  let off = 0;
  const pm = new AcpiPm({ sci: rig.irq(9), onPowerOff: () => off++ });
  claimAcpiPm(rig.pio, pm, o);
  return { rig, pm, off: () => off };
}

describe('acpi pm', () => {
  const STS = 0x400;
  const EN = 0x402;
  const CNT = 0x404;

  it('is all zeros at reset and after it', () => {
    const b = pmBench();
    for (let i = 0; i < 2; i++) {
      expect([STS, EN, CNT].map((p) => b.rig.cpu.in16(p))).toEqual([0, 0, 0]);
      expect(b.rig.irq(9).high).toBe(false);
      b.rig.cpu.out16(CNT, 0x1c03);
      b.rig.cpu.out16(EN, 0xffff);
      b.pm.pressPowerButton();
      b.pm.reset();
    }
  });

  it('keeps the bits that exist: enables 0x0721, control without GBL_RLS and SLP_EN', () => {
    const { rig } = pmBench();
    rig.cpu.out16(EN, 0xffff);
    expect(rig.cpu.in16(EN)).toBe(0x0721);
    rig.cpu.out16(CNT, 0xdfff);
    expect(rig.cpu.in16(CNT)).toBe(0x1c03);
    rig.cpu.out16(STS, 0xffff);
    expect(rig.cpu.in16(STS)).toBe(0);
  });

  it('takes bytes, words and the double word over status and enable', () => {
    const { rig, pm } = pmBench();
    rig.cpu.out8(EN + 1, 0x01);
    rig.cpu.out8(EN, 0x20);
    expect([rig.cpu.in8(EN), rig.cpu.in8(EN + 1), rig.cpu.in16(EN)]).toEqual([0x20, 0x01, 0x0120]);
    rig.cpu.out8(CNT, 1);
    pm.pressPowerButton();
    expect(rig.cpu.in32(STS)).toBe(0x01200100);
    rig.cpu.out8(STS, 0xff);
    expect(rig.cpu.in16(STS)).toBe(0x0100);
    rig.cpu.out8(STS + 1, 0xff);
    expect(rig.cpu.in16(STS)).toBe(0);
    expect(rig.cpu.in16(STS + 1)).toBe(0x2000);
  });

  it('delivers the power button once the guest is in ACPI mode and listens, as a level until cleared', () => {
    const { rig, pm } = pmBench();
    expect(pm.pressPowerButton()).toBe(false);
    expect(rig.cpu.in16(STS)).toBe(0);
    expect(pm.smiCommand(0x12)).toBe(false);
    expect(pm.smiCommand(0xa0)).toBe(true);
    expect([rig.cpu.in16(CNT), pm.acpiEnabled]).toEqual([1, true]);
    expect(pm.pressPowerButton()).toBe(false); // noted, but nobody listens yet
    expect(rig.irq(9).high).toBe(false);
    rig.cpu.out16(EN, 0x0100);
    expect(rig.irq(9).high).toBe(true);
    rig.cpu.out16(STS, 0x0100);
    expect(rig.irq(9).high).toBe(false);
    expect(pm.pressPowerButton()).toBe(true);
    expect([rig.irq(9).high, rig.irq(9).edges]).toEqual([true, 2]);
    rig.cpu.out16(EN, 0);
    expect(rig.irq(9).high).toBe(false);
    rig.cpu.out16(EN, 0x0100);
    pm.smiCommand(0xa1);
    expect([rig.irq(9).high, rig.cpu.in16(CNT)]).toEqual([false, 0]);
  });

  it('raises RTC, timer and global-lock events', () => {
    const { rig, pm } = pmBench();
    rig.cpu.out16(CNT, 1);
    for (const [raise, bit] of [
      [() => pm.rtcAlarm(), 0x400],
      [() => pm.timerCarry(), 0x001],
      [() => pm.globalLockReleased(), 0x020],
    ] as const) {
      rig.cpu.out16(EN, bit);
      raise();
      expect([rig.cpu.in16(STS), rig.irq(9).high]).toEqual([bit, true]);
      rig.cpu.out16(STS, bit);
      expect(rig.irq(9).high).toBe(false);
    }
  });

  it('powers off on SLP_EN with type 5 only, as a word or as the high byte', () => {
    const b = pmBench();
    for (let t = 0; t < 8; t++) if (t !== 5) b.rig.cpu.out16(CNT, 0x2001 | (t << 10));
    b.rig.cpu.out16(CNT, 0x1401);
    expect(b.off()).toBe(0);
    b.rig.cpu.out16(CNT, 0x3401);
    expect(b.off()).toBe(1);
    expect(b.rig.cpu.in16(CNT)).toBe(0x1401);
    b.rig.cpu.out8(CNT, 0x01);
    expect(b.off()).toBe(1);
    b.rig.cpu.out8(CNT + 1, 0x34);
    expect(b.off()).toBe(2);
  });

  it('has a guest-notify port that does nothing, and leaves 0x408 to the timer', () => {
    const { rig } = pmBench();
    rig.cpu.out8(0x488, 1);
    expect(rig.cpu.in8(0x488)).toBe(0xff);
    expect(rig.pio.isFree(0x406, 0x488 - 0x406)).toBe(true);
  });

  it('has a GPE0 block where asked', () => {
    const { rig, pm } = pmBench({ gpe0: 0x420 });
    rig.cpu.out16(CNT, 1);
    pm.raiseGpe(31);
    pm.raiseGpe(32);
    pm.raiseGpe(-1);
    expect(rig.cpu.in32(0x420)).toBe(0x80000000);
    expect(rig.irq(9).high).toBe(false);
    rig.cpu.out32(0x424, 0x80000001);
    expect([rig.irq(9).high, rig.cpu.in32(0x424)]).toEqual([true, 0x80000001]);
    rig.cpu.out8(0x423, 0x80);
    expect([rig.irq(9).high, rig.cpu.in32(0x420)]).toEqual([false, 0]);
  });

  it('continues from saved state without an edge', () => {
    const a = pmBench();
    a.rig.cpu.out16(CNT, 1);
    a.rig.cpu.out16(EN, 0x100);
    a.pm.pressPowerButton();
    const b = pmBench();
    b.pm.load(JSON.parse(JSON.stringify(a.pm.save())));
    expect([b.rig.irq(9).high, b.rig.irq(9).edges]).toEqual([true, 0]);
    expect([STS, EN, CNT].map((p) => b.rig.cpu.in16(p))).toEqual([0x100, 0x100, 1]);
  });

  it('survives any access', () => {
    fc.assert(
      fc.property(
        fc.array(fc.tuple(fc.boolean(), fc.nat(12), fc.constantFrom(1, 2, 4), fc.nat(0xffffffff)), { maxLength: 200 }),
        (steps) => {
          const b = pmBench({ gpe0: 0x406 });
          for (const [write, offset, width, value] of steps) {
            if (write) b.rig.cpu.out(0x400 + offset, width as 1, value % 2 ** (8 * width));
            else b.rig.cpu.in(0x400 + offset, width as 1);
          }
          b.pm.reset();
          expect([STS, EN, CNT].map((p) => b.rig.cpu.in16(p))).toEqual([0, 0, 0]);
        },
      ),
    );
  });
});

describe('debug ports', () => {
  function bvm(kind: 'console' | 'debug' = 'console') {
    const rig = createRig();
    const sent: number[] = [];
    const flow: boolean[] = [];
    const accept = { ok: true };
    const port = new BvmPort({
      kind,
      onTransmit: (b) => {
        sent.push(...b);
        return accept.ok;
      },
      onFlow: (p) => flow.push(p),
      defer: () => {},
    });
    claimBvmPort(rig.pio, port);
    return { rig, port, sent, flow, accept };
  }

  it('shows the signatures that FreeBSD looks for', () => {
    const c = bvm('console');
    expect([c.rig.cpu.in16(0x220), c.rig.cpu.in8(0x220), c.rig.cpu.in32(0x220)]).toEqual([0x6276, 0xff, 0xffffffff]);
    const d = bvm('debug');
    expect([d.rig.cpu.in16(0x224), d.rig.cpu.in8(0x224), d.rig.cpu.in32(0x224)]).toEqual([0x4256, 0xff, 0xffffffff]);
  });

  it('moves a byte per 4-byte access, and ignores others', () => {
    const { rig, port, sent } = bvm();
    rig.cpu.out32(0x220, 0xffffff41);
    rig.cpu.out8(0x220, 0x42);
    rig.cpu.out16(0x220, 0x43);
    port.flush();
    expect(sent).toEqual([0x41]);
    port.receiveAll(Uint8Array.of(1, 2));
    expect([rig.cpu.in32(0x220), rig.cpu.in32(0x220), rig.cpu.in32(0x220)]).toEqual([1, 2, 0xffffffff]);
  });

  it('bounds both directions', () => {
    const b = bvm();
    b.accept.ok = false;
    for (let i = 0; i < 20_000; i++) b.rig.cpu.out32(0x220, i & 0xff);
    expect(b.sent.length).toBe(4096);
    expect(b.port.counters()['txLost']).toBe(20_000 - 8192);
    b.accept.ok = true;
    b.port.drained();
    expect(b.sent.length).toBe(8192);
    b.port.receiveAll(new Uint8Array(1000));
    expect(b.flow).toEqual([true]);
    for (let i = 0; i < 1000; i++) expect(b.rig.cpu.in32(0x220)).toBe(0);
    expect(b.flow).toEqual([true, false]);
    for (let i = 0; i < 20; i++) b.port.receiveAll(new Uint8Array(1 << 17));
    expect(b.port.counters()['rxLost']).toBeGreaterThan(0);
  });

  it('connects to a back end', () => {
    const { rig, port } = bvm();
    const seen: string[] = [];
    const backend: CharBackend = {
      write: (b) => seen.push(new TextDecoder().decode(b)) > 0,
      onData: null,
      onDrain: null,
      setFlow: () => {},
      close: () => Promise.resolve(),
    };
    port.connect(backend);
    rig.cpu.out32(0x220, 0x58);
    port.flush();
    backend.onData?.(Uint8Array.of(7));
    expect([seen, rig.cpu.in32(0x220)]).toEqual([['X'], 7]);
    port.connect(null);
    rig.cpu.out32(0x220, 0x59);
    port.flush();
    expect(seen).toEqual(['X']);
  });

  it('keeps unread input in saved state', () => {
    const a = bvm();
    a.port.receiveAll(Uint8Array.of(5, 6));
    a.rig.cpu.out32(0x220, 9);
    const b = bvm();
    b.port.load(JSON.parse(JSON.stringify(a.port.save())));
    b.port.flush();
    expect([b.rig.cpu.in32(0x220), b.rig.cpu.in32(0x220), b.sent]).toEqual([5, 6, [9]]);
  });

  it('debugcon: answers 0xE9 and takes every byte', () => {
    const rig = createRig();
    const sent: number[] = [];
    const con = new DebugCon({ onTransmit: (b) => sent.push(...b) > 0, defer: () => {} });
    claimDebugCon(rig.pio, con);
    expect(rig.cpu.in8(0xe9)).toBe(0xe9);
    for (const c of [0x68, 0x69]) rig.cpu.out8(0xe9, c);
    con.reset();
    expect(sent).toEqual([0x68, 0x69]);
    claimDebugCon(rig.pio, new DebugCon({ onTransmit: () => true }), 0x402);
    expect(rig.pio.claimedBy(0x402)).toBe('debugcon');
  });
});

describe('api', () => {
  it('exports what it says', () => {
    expect(Object.keys(lpcApi).sort()).toEqual(['LpcPorts', 'claimLpcPorts', 'claimReserved']);
    expect(Object.keys(pmApi).sort()).toEqual(['AcpiPm', 'claimAcpiPm']);
    expect(Object.keys(debugApi).sort()).toEqual(['BvmPort', 'DebugCon', 'claimBvmPort', 'claimDebugCon']);
  });
});
