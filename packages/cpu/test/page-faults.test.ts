// #PF and IRET in 64-bit mode have a short way in WebAssembly and the long one in TypeScript: both must do the same, whatever
// gates, descriptors and stacks there are. Intel SDM volume 3A 6.12 and 6.14, volume 2 IRET.
import { Exit, type ExitReason, type VcpuStateV1 } from '@hyve/core';
import { describe, expect, it, vi } from 'vitest';
import { createMachine, le32, numbers } from './machine.ts';

const TABLES = 0x1000;
const GDT = 0x5000;
const IDT = 0x6000;
const TSS = 0x7000;
const CODE = 0x8000;
const HANDLER = 0x9000;
const LAST = 0x9800;
const INNER_STACK = 0xb000;
const IST_STACK = 0xd000;
const STACK = 0xe000;
const MISSING = 0x20000;
const KCS = 0x10;
const KSS = 0x18;
const UCS = 0x33;
const USS = 0x2b;

/** One way to come to a page fault and back. */
interface Case {
  readonly ring: 0 | 3;
  /** Offset of RSP in its page, of RSP0 in its. */
  readonly sp: number;
  readonly sp0: number;
  readonly rflags: number;
  /** CR4 bits beside PAE, OSFXSR. */
  readonly cr4: number;
  /** Type and IST of the #PF gate. */
  readonly gate: number;
  readonly ist: number;
  /** High words of the GDT's kernel code, user data and user code; low word of all. */
  readonly kcode: number;
  readonly udata: number;
  readonly ucode: number;
  readonly low: number;
  readonly ss: number;
  /** What the handler puts into the frame: address, selectors, flags; null: as it was. */
  readonly rip: number | null;
  readonly cs: number | null;
  readonly flags: number | null;
  readonly newSs: number | null;
}

const USUAL: Case = {
  ring: 3,
  sp: 0xff0,
  sp0: 0x800,
  rflags: 0x246,
  cr4: 0,
  gate: 0xe,
  ist: 0,
  kcode: 0xaf9b00,
  udata: 0xcff300,
  ucode: 0xaffb00,
  low: 0xffff,
  ss: USS,
  rip: null,
  cs: null,
  flags: null,
  newSs: null,
};

/** A machine; `long` makes it go the long way by watching memory that nobody touches. */
function bench(threshold: number, long: boolean) {
  const { vm, vcpu } = createMachine({ cpu: { threshold } });
  const first = vcpu.getState();
  if (long) vcpu.setDebug({ step: false, breakpoints: [{ address: 0x1f0000n, on: 'write', size: 1 }] });
  const m = vm.memory;
  const put = (at: number, bytes: readonly number[]): void => m.load(at, Uint8Array.from(bytes));

  function set(c: Case): void {
    m.load(TABLES, new Uint8Array(0x10000));
    for (let level = 0; level < 3; level++) m.write32(TABLES + level * 0x1000, (TABLES + (level + 1) * 0x1000) | 7);
    for (let page = 0; page < 256; page++) {
      const user = c.ring === 3 && (page === CODE >> 12 || page === STACK >> 12) ? 4 : 0;
      if (page !== MISSING >> 12) m.write32(TABLES + 0x3000 + page * 8, (page << 12) | 3 | user);
    }
    for (const [sel, hi] of [
      [KCS, c.kcode],
      [KSS, 0xcf9300],
      [0x20, 0xcffb00],
      [USS & ~3, c.udata],
      [UCS & ~3, c.ucode],
    ] as const) {
      m.write32(GDT + sel, c.low);
      m.write32(GDT + sel + 4, hi);
    }
    for (let v = 0; v < 32; v++) {
      const pf = v === 14;
      m.write32(IDT + v * 16, (KCS << 16) | (pf ? HANDLER : LAST));
      m.write32(IDT + v * 16 + 4, 0x8000 | ((pf ? c.gate : 0xe) << 8) | (pf ? c.ist : 0));
    }
    m.write32(TSS + 4, INNER_STACK + c.sp0);
    m.write32(TSS + 0x24, IST_STACK + 0x800);
    put(CODE, [0x48, 0x8b, 0x04, 0x25, ...le32(MISSING), 0xf4]); // mov rax, [MISSING]; hlt
    // pop rax; add qword [rsp], 8, or another frame; iretq
    const code = [0x58];
    const store = (at: number, v: number | null): void => {
      if (v !== null) code.push(0x48, 0xc7, 0x44, 0x24, at, ...le32(v));
    };
    if (c.rip === null) code.push(0x48, 0x83, 0x04, 0x24, 8);
    else store(0, c.rip);
    store(8, c.cs);
    store(16, c.flags);
    store(32, c.newSs);
    put(HANDLER, [...code, 0x48, 0xcf]);
    put(LAST, [0xf4]);
    const seg = (selector: number, attr: number): VcpuStateV1['segments'][number] => ({
      ...(first.segments[0] as VcpuStateV1['segments'][number]),
      selector,
      base: 0n,
      limit: 0xffffffff,
      attr,
    });
    const none = { ...seg(0, 0x10000), limit: 0 };
    const ring = c.ring << 5;
    vcpu.setState({
      ...first,
      activity: 'running',
      gpr: first.gpr.map((_, n) => (n === 4 ? BigInt(STACK + c.sp) : BigInt(n))),
      rip: BigInt(CODE),
      rflags: BigInt(c.rflags),
      cr0: 0x80050033n,
      cr2: 0n,
      cr3: BigInt(TABLES),
      cr4: BigInt(0x620 | c.cr4),
      efer: 0xd01n,
      gdtr: { base: BigInt(GDT), limit: 0x4f },
      idtr: { base: BigInt(IDT), limit: 0x1ff },
      segments: [
        none,
        seg(c.ring === 3 ? UCS : KCS, 0xa09b | ring),
        c.ss === 0 ? none : seg(c.ss, 0xc093 | ring),
        none,
        none,
        none,
        none,
        { ...seg(0x40, 0x8b), base: BigInt(TSS), limit: 0x67 },
      ],
    });
  }

  function run(c: Case): unknown {
    set(c);
    const start = vcpu.retired();
    let why: ExitReason = Exit.Budget;
    for (let n = 0; n < 4 && why === Exit.Budget; n++) why = vcpu.run(1e6).reason;
    // Some go round for ever.
    if (why === Exit.Budget) return { why };
    const { gpr, rip, rflags, cr2, segments, activity } = vcpu.getState();
    const memory: number[] = [];
    for (let at = TABLES; at < 0x10000; at += 4) memory.push(m.read32(at));
    return { why, gpr, rip, rflags, cr2, segments, activity, memory, retired: vcpu.retired() - start };
  }
  return { vm, vcpu, set, run };
}

describe('page faults and IRET in 64-bit mode', () => {
  for (const [name, threshold] of [
    ['interpreted', 0],
    ['translated', 1],
  ] as const) {
    it(`do not leave WebAssembly in the usual case, ${name}`, () => {
      const { vcpu, run } = bench(threshold, false);
      const deliver = vi.spyOn(vcpu.system, 'deliver');
      const exec = vi.spyOn(vcpu.system, 'exec');
      for (const ring of [3, 0] as const) {
        const c = { ...USUAL, ring, ss: ring === 3 ? USS : KSS };
        run(c);
        deliver.mockClear();
        exec.mockClear();
        run(c);
        // HLT, and #GP for it at CPL 3.
        expect(deliver.mock.calls.map((x) => x[0])).toEqual(ring === 3 ? [13] : []);
        expect(exec.mock.calls.map((x) => x[0].opSize)).toEqual(ring === 3 ? [4, 4] : [4]);
      }
    });

    it(`do the same the short way and the long way, ${name}`, () => {
      const short = bench(threshold, false);
      const long = bench(threshold, true);
      const below = numbers(0x2545f491);
      const one = <T>(...list: readonly T[]): T => list[below(list.length)] as T;
      /** Mostly the usual value: what is unusual in ten ways never comes far. */
      const odd = <T>(usual: T, ...list: readonly T[]): T => (below(6) === 0 ? one(...list) : usual);
      for (let n = 0; n < 300; n++) {
        const ring = one(0, 3);
        const c: Case = {
          ring,
          sp: one(0xff0, 0xff8, 0x800, 0x7f9, 0x20, 0x30, 0x38),
          sp0: one(0x800, 0x808, 0x20, 0x30, 0xfff, 0),
          rflags: 0x202 ^ (below(2) << 9) ^ below(256) ^ odd(0, 0x400, 0x4000, 0x40000, 0x10000, 0x200000, 0x3000),
          cr4: one(0, 0x100000, 0x200000, 0x300000),
          gate: odd(0xe, 0xf, 0xc, 5),
          ist: odd(0, 1),
          kcode: odd(0xaf9b00, 0xaf9a00, 0xaf9f00, 0xaf1b00, 0xcf9b00, 0xafdb00, 0xbf9b00),
          udata: odd(0xcff300, 0xcff200, 0x8ff300, 0xcff100, 0xcff700, 0x4ff300, 0xcfd300),
          ucode: odd(0xaffb00, 0xaffa00, 0xaff900, 0xcffb00, 0xafff00, 0x2ffb00),
          low: odd(0xffff, 0x1fff),
          ss: ring === 3 ? USS : one(KSS, 0),
          rip: odd(null, CODE + 8, LAST, -1, 0x7fffffff),
          cs: odd(null, UCS, KCS, 0x23, 0, 0x34, 0x53, 0x31),
          flags: odd(null, 0x202, 0x3ad7, 0x40202, 0x4202, 0x102, 0x20202, 0x10202, 0x200002, 0x180202),
          newSs: odd(null, USS, KSS, 0, 3, 0x33, 0x28, 0x2f),
        };
        expect(short.run(c), JSON.stringify(c)).toEqual(long.run(c));
      }
    });
  }

  it('end a slice though no instruction ever retires', () => {
    const { vm, vcpu, set } = bench(0, false);
    set({ ...USUAL, ring: 0, ss: KSS });
    // The upper half of the address space is one page of stack over and over, and the handler is missing.
    const alias = 0x12000;
    for (let level = 0; level < 4; level++)
      for (let n = 0; n < 512; n++) {
        const next = level < 3 ? alias + (level + 1) * 0x1000 : STACK;
        if (level > 0 || n >= 256) vm.memory.write32((level > 0 ? alias + level * 0x1000 : TABLES) + n * 8, next | 3);
      }
    vm.memory.write32(IDT + 14 * 16, (KCS << 16) | (MISSING & 0xffff));
    vm.memory.write32(IDT + 14 * 16 + 4, (MISSING & 0xffff0000) | 0x8e00);
    const s = vcpu.getState();
    vcpu.setState({ ...s, gpr: s.gpr.map((v, n) => (n === 4 ? -16n : v)) });
    const deliver = vi.spyOn(vcpu.system, 'deliver');
    for (let n = 0; n < 3; n++) expect(vcpu.run(1e6).reason).toBe(Exit.Budget);
    // The long way only where a frame lies in two pages.
    const faults = -Number(BigInt.asIntN(64, vcpu.getState().gpr[4] as bigint)) / 48;
    expect(faults).toBeGreaterThan(500);
    expect(deliver.mock.calls.length).toBeLessThan(faults / 20);
  });
});
