// What 32-bit systems do all the time has a short way in WebAssembly and the long one in TypeScript: page faults, INT n,
// SYSENTER and SYSEXIT, IRET, loads of data segments, MOV to CR3. Both must do the same, whatever gates, descriptors, stacks
// and page tables there are. Intel SDM volume 3A 3.4, 4.4, 5.5, 6.12, volume 2 of each instruction.
import { Exit, type VcpuStateV1 } from '@hyve/core';
import { describe, expect, it, vi } from 'vitest';
import { createMachine, le32, numbers, runOn } from './machine.ts';

const PDPT = 0x1000;
const TABLES = 0x2000;
const GDT = 0x5000;
const LDT = 0x5800;
const IDT = 0x6000;
const TSS = 0x7000;
const CODE = 0x8000;
const HANDLER = 0x9000;
const LAST = 0x9800;
const DATA = 0xa000;
const INNER_STACK = 0xb000;
const STACK = 0xe000;
const PDPT2 = 0xf000;
const MISSING = 0x20000;
const KCS = 0x10;
const KSS = 0x18;
const UCS = 0x23;
const USS = 0x2b;
const PERCPU = 0x30;
const TLS = 0x43;
const LOCAL = 0xf;

const HOW = ['#PF', 'INT', 'SYSENTER'] as const;

/** One way to come into a system and out of it again. */
interface Case {
  readonly ring: 0 | 3;
  readonly how: (typeof HOW)[number];
  /** Leaves by SYSEXIT, else by IRET. */
  readonly sysexit: boolean;
  /** Tables of 8-byte entries, else of 4-byte ones. */
  readonly pae: boolean;
  /** Offset of ESP in its page, of ESP0 in its. */
  readonly sp: number;
  readonly sp0: number;
  readonly eflags: number;
  /** CR4 bits beside PAE, OSFXSR. */
  readonly cr4: number;
  /** Type and DPL of the gate, in bits 8 on of its second word. */
  readonly gate: number;
  readonly ss0: number;
  readonly tr: number;
  /** High words in the GDT: kernel code and data, user code and data, two segments for FS and GS. */
  readonly kcode: number;
  readonly kdata: number;
  readonly ucode: number;
  readonly udata: number;
  readonly percpu: number;
  readonly tls: number;
  readonly gdtLimit: number;
  readonly sysenterCs: number;
  /** What the handler loads: DS and ES, FS, GS, CR3; null: leaves it. */
  readonly ds: number;
  readonly fs: number;
  readonly gs: number;
  readonly cr3: number | null;
  /** First word of the tables there. */
  readonly pdpte: number;
  /** What the handler puts into the frame. */
  readonly eip: number | null;
  readonly cs: number | null;
  readonly flags: number | null;
  readonly newSs: number | null;
}

const USUAL: Case = {
  ring: 3,
  how: '#PF',
  sysexit: false,
  pae: true,
  sp: 0xff0,
  sp0: 0x800,
  eflags: 0x246,
  cr4: 0,
  gate: 0xee,
  ss0: KSS,
  tr: 0x8b,
  kcode: 0xcf9b00,
  kdata: 0xcf9300,
  ucode: 0xcffb00,
  udata: 0xcff300,
  percpu: 0xcf9300,
  tls: 0xdff300,
  gdtLimit: 0x7f,
  sysenterCs: KCS,
  ds: USS,
  fs: PERCPU,
  gs: TLS,
  cr3: null,
  pdpte: TABLES | 1,
  eip: null,
  cs: null,
  flags: null,
  newSs: null,
};

/** A machine; `long` makes it go the long way by watching memory that nobody touches. */
function bench(threshold: number, long: boolean) {
  const { vm, vcpu } = createMachine({ cpu: { threshold } });
  const first = vcpu.getState();
  if (long) vcpu.setDebug({ step: false, breakpoints: [{ address: 0xf0000n, on: 'write', size: 1 }] });
  const m = vm.memory;
  const put = (at: number, bytes: readonly number[]): void => m.load(at, Uint8Array.from(bytes));
  const load = (reg: number, v: number): number[] => [0xb8 + reg, ...le32(v)];

  const zeros = new Uint8Array(1 << 20);

  function set(c: Case): void {
    m.load(0, zeros);
    const user = (page: number): number =>
      c.ring === 3 && (page === CODE >> 12 || page === STACK >> 12 || page === DATA >> 12) ? 4 : 0;
    if (c.pae) {
      m.write32(PDPT, TABLES | 1);
      m.write32(PDPT2, c.pdpte);
      m.write32(TABLES, (TABLES + 0x1000) | 7);
      for (let page = 0; page < 256; page++)
        if (page !== MISSING >> 12) m.write32(TABLES + 0x1000 + page * 8, (page << 12) | 3 | user(page));
    } else {
      for (const at of [PDPT, PDPT2]) m.write32(at, TABLES | 7);
      for (let page = 0; page < 256; page++)
        if (page !== MISSING >> 12) m.write32(TABLES + page * 4, (page << 12) | 3 | user(page));
    }
    for (const [at, lo, hi] of [
      [GDT + KCS, 0xffff, c.kcode],
      [GDT + KSS, 0xffff, c.kdata],
      [GDT + (UCS & ~3), 0xffff, c.ucode],
      [GDT + (USS & ~3), 0xffff, c.udata],
      [GDT + PERCPU, ((DATA + 0x10) << 16) | 0xffff, c.percpu],
      [GDT + (TLS & ~3), ((DATA + 0x20) << 16) | 0x1fff, c.tls],
      [LDT + 8, (DATA << 16) | 0x1ff, 0x40f300],
    ] as const) {
      m.write32(at, lo);
      m.write32(at + 4, hi);
    }
    for (let v = 0; v < 256; v++) {
      const mine = v === 14 || v === 0x80;
      m.write32(IDT + v * 8, (KCS << 16) | (mine ? HANDLER : LAST));
      m.write32(IDT + v * 8 + 4, (mine ? c.gate : 0x8e) << 8);
    }
    m.write32(TSS + 4, INNER_STACK + c.sp0);
    m.write32(TSS + 8, c.ss0);
    for (let n = 0; n < 16; n++) m.write32(DATA + n * 4, 0x1110000 * n + 5);
    // The event; mov eax, fs:[4]; mov ebx, gs:[8]; hlt
    const event = c.how === '#PF' ? [0xa1, ...le32(MISSING)] : c.how === 'INT' ? [0xcd, 0x80] : [0x0f, 0x34];
    const after = [0x64, 0xa1, ...le32(4), 0x65, 0x8b, 0x1d, ...le32(8), 0xf4];
    put(CODE, [...event, ...after]);
    // push ds; push es; push fs; push gs; mov ds, eax; mov es, eax; mov fs, [esp + 8]; mov fs, eax
    const code = [0x1e, 0x06, 0x0f, 0xa0, 0x0f, 0xa8, ...load(0, c.ds), 0x8e, 0xd8, 0x8e, 0xc0, 0x8e, 0x64, 0x24, 4];
    code.push(...load(0, c.fs), 0x8e, 0xe0, 0x64, 0x8b, 0x0d, ...le32(4), ...load(0, c.gs), 0x8e, 0xe8);
    if (c.cr3 !== null) code.push(...load(0, c.cr3), 0x0f, 0x22, 0xd8);
    // pop gs; pop fs; pop es; pop ds
    code.push(0x0f, 0xa9, 0x0f, 0xa1, 0x07, 0x1f);
    const store = (at: number, v: number | null): void => {
      if (v !== null) code.push(0xc7, 0x44, 0x24, at, ...le32(v));
    };
    if (c.how === '#PF') code.push(0x58);
    const next = CODE + event.length;
    if (c.sysexit) code.push(...load(2, c.eip ?? next), ...load(1, STACK + c.sp), 0x0f, 0x35);
    else {
      // SYSENTER leaves no frame: here is one.
      if (c.how === 'SYSENTER') for (const v of [USS, STACK + c.sp, 0x246, UCS, next]) code.push(0x68, ...le32(v));
      if (c.how === '#PF' && c.eip === null) store(0, next);
      else store(0, c.eip);
      store(4, c.cs);
      store(8, c.flags);
      store(16, c.newSs);
      code.push(0xcf);
    }
    put(HANDLER, code);
    put(LAST, [0xf4]);
    type Segment = VcpuStateV1['segments'][number];
    const seg = (selector: number, attr: number, base = 0, limit = 0xffffffff): Segment => ({
      ...(first.segments[0] as Segment),
      selector,
      base: BigInt(base),
      limit,
      attr,
    });
    const ring = c.ring << 5;
    const data = seg(c.ring === 3 ? USS : KSS, 0xc093 | ring);
    vcpu.setState({
      ...first,
      activity: 'running',
      gpr: first.gpr.map((_, n) => (n === 4 ? BigInt(STACK + c.sp) : BigInt(n))),
      rip: BigInt(CODE),
      rflags: BigInt(c.eflags),
      cr0: 0x80050033n,
      cr2: 0n,
      cr3: BigInt(PDPT),
      cr4: BigInt(0x600 | c.cr4 | (c.pae ? 0x20 : 0x10)),
      efer: 0n,
      gdtr: { base: BigInt(GDT), limit: c.gdtLimit },
      idtr: { base: BigInt(IDT), limit: 0x7ff },
      msrs: [
        [0x174, BigInt(c.sysenterCs)],
        [0x175, BigInt(INNER_STACK + c.sp0)],
        [0x176, BigInt(HANDLER)],
      ],
      segments: [
        data,
        seg(c.ring === 3 ? UCS : KCS, 0xc09b | ring),
        data,
        data,
        seg(LOCAL, 0x40f3, DATA, 0x1ff),
        seg(TLS, 0xd0f3, DATA + 0x20, 0x1ffffff),
        seg(0x58, 0x82, LDT, 0xf),
        seg(0x50, c.tr, TSS, 0x67),
      ],
    });
  }

  function run(c: Case): unknown {
    set(c);
    const start = vcpu.retired();
    const why = runOn(vcpu, 501);
    const retired = vcpu.retired() - start;
    // Some go round and round, until a slice or their stack ends.
    if (retired > 500) return { why: Exit.Budget };
    const { gpr, rip, rflags, cr2, cr3, segments, activity } = vcpu.getState();
    const memory: Record<string, number> = {};
    for (let at = PDPT; at < 0x10000; at += 4) {
      const v = m.read32(at);
      if (v !== 0) memory[at.toString(16)] = v;
    }
    return { why, gpr, rip, rflags, cr2, cr3, segments, activity, memory, retired };
  }
  return { vm, vcpu, set, run };
}

describe('kernels of 32 bits', () => {
  for (const [name, threshold] of [
    ['interpreted', 0],
    ['translated', 1],
  ] as const) {
    it(`are not left for TypeScript in the usual case, ${name}`, () => {
      const { vcpu, run } = bench(threshold, false);
      const deliver = vi.spyOn(vcpu.system, 'deliver');
      const exec = vi.spyOn(vcpu.system, 'exec');
      for (const how of HOW)
        for (const ring of [3, 0] as const)
          for (const pae of [true, false])
            for (const sysexit of [false, true]) {
              if (ring === 0 && (sysexit || how === 'SYSENTER')) continue;
              const c = { ...USUAL, how, ring, pae, sysexit, cr3: PDPT2, ...(ring === 0 ? { cs: KCS } : {}) };
              run(c);
              deliver.mockClear();
              exec.mockClear();
              const end = run(c);
              expect(end).toMatchObject({ why: Exit.Halt, cr3: BigInt(PDPT2) });
              // HLT, and #GP for it at CPL 3.
              const what = `${how} ${ring} ${pae} ${sysexit}`;
              expect(
                deliver.mock.calls.map((x) => x[0]),
                what,
              ).toEqual(ring === 3 ? [13] : []);
              expect(exec.mock.calls.length, what).toBe(ring === 3 ? 2 : 1);
            }
    });

    it(`do the same the short way and the long way, ${name}`, () => {
      const short = bench(threshold, false);
      const long = bench(threshold, true);
      const below = numbers(0x2545f491);
      const one = <T>(...list: readonly T[]): T => list[below(list.length)] as T;
      /** Mostly the usual value: what is unusual in ten ways never comes far. */
      const odd = <T>(usual: T, ...list: readonly T[]): T => (below(12) === 0 ? one(...list) : usual);
      const ends = new Set<string>();
      for (let n = 0; n < 300; n++) {
        const ring = one(0, 3);
        const c: Case = {
          ring,
          how: one(...HOW),
          sysexit: one(false, true),
          pae: one(false, true),
          sp: one(0xff0, 0xffc, 0x800, 0x7f9, 0x20, 0x0c, 0x10),
          sp0: one(0x800, 0x808, 0x20, 0x14, 0x18, 0xfff),
          eflags:
            0x202 ^ (below(2) << 9) ^ (below(256) & 0xd5) ^ odd(0, 0x400, 0x4000, 0x40000, 0x10000, 0x200000, 0x3000),
          cr4: one(0, 0, 0x100000, 0x200000, 0x300000),
          gate: odd(0xee, 0xef, 0x8e, 0x6e, 0xe6, 0xe5, 0xfe),
          ss0: odd(KSS, 0, 0x1b, USS, KCS, 0x7b),
          tr: odd(0x8b, 0x89, 0x83),
          kcode: odd(0xcf9b00, 0xcf9a00, 0xcf9f00, 0xcf9900, 0xcf1b00, 0x8f9b00, 0xcfbb00, 0xc09b00),
          kdata: odd(0xcf9300, 0xcf9200, 0x8f9300, 0xcf9700, 0xcf9100, 0xcf1300, 0xc09300),
          ucode: odd(0xcffb00, 0xcffa00, 0xcff900, 0xcfff00, 0x8ffb00, 0xcfdb00),
          udata: odd(0xcff300, 0xcff200, 0x8ff300, 0xcff100, 0xcff700, 0x4ff300, 0xcfd300, 0xc0f300),
          percpu: odd(0xcf9300, 0xcf9200, 0x409700, 0xcf9b00, 0xcf1300, 0xcff300, 0xcf8300),
          tls: odd(0xdff300, 0xdff200, 0x4ff700, 0xdf9300, 0xdffb00, 0xdff100),
          gdtLimit: odd(0x7f, 0x3f, 0x2e),
          sysenterCs: odd(KCS, 0, 0x13, 3),
          ds: odd(USS, KSS, 0, 3, PERCPU, KCS, UCS, 0x7b, LOCAL),
          fs: odd(PERCPU, 0, 2, TLS, LOCAL, KSS, 0x33, 0x10b, 0x17),
          gs: odd(TLS, 0, 1, LOCAL, PERCPU, 0x40),
          cr3: odd<number | null>(null, PDPT, PDPT2, PDPT2 | 0x18, 0xfffff000),
          pdpte: odd(TABLES | 1, TABLES | 3, TABLES | 0x21, TABLES, 0x101, TABLES | 0xe01),
          eip: odd<number | null>(null, CODE + 5, LAST, 0xffffffff),
          cs: ring === 0 && one(true, false) ? KCS : odd<number | null>(null, UCS, KCS, 0x20, 0, 0x24, 0x4b, 0x21),
          flags: odd<number | null>(null, 0x202, 0x3ad7, 0x40202, 0x4202, 0x102, 0x20202, 0x10202, 0x200002, 0x180202),
          newSs: odd<number | null>(null, USS, KSS, 0, 3, 0x23, 0x28),
        };
        const end = short.run(c);
        ends.add(`${(end as { rip?: bigint }).rip}`);
        expect(end, JSON.stringify(c)).toEqual(long.run(c));
      }
      expect(ends.size).toBeGreaterThan(3);
    });
  }
});
