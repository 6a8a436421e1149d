// Runs the generated floating-point functions directly, and single instructions on a whole CPU.
import { Exit, type VcpuStateV1 } from '@hyve/core';
import { type Address, Asm } from '@hyve/x86/asm';
import fc from 'fast-check';
import type { SoftVcpu, SoftVm } from '../src/index.ts';
import { emitF80 } from '../src/sem/f80.ts';
import { emitSoftFloat, FL } from '../src/sem/softfloat.ts';
import { emitTranscendental } from '../src/sem/transcendental.ts';
import * as S from '../src/state.ts';
import { type FnRef, Module } from '../src/wasm/builder.ts';
import { F32, F64, F80, type Format } from './ieee-model.ts';
import { createMachine, flat32 } from './machine.ts';

/** Control word of the functions. */
export const ctlOf = (o: { mode: number; masks?: number; daz?: boolean; ftz?: boolean; pc?: number }): number =>
  (o.masks ?? 63) | (o.daz ? 0x40 : 0) | ((o.pc ?? 3) << 8) | (o.mode << 10) | (o.ftz ? 0x8000 : 0);

const BASE = 4096;
const SLOT_A = BASE + S.FPR;
const SLOT_B = BASE + S.FPR + 16;
export const SLOT_R: number = BASE + S.SCRATCH + 16;
export const SLOT_R2: number = BASE + S.SCRATCH + 48;

/** The functions of softfloat.ts, f80.ts and transcendental.ts by name, on a memory of their own. */
export class FloatFns {
  private readonly fns: Record<string, (...a: (number | bigint)[]) => number | bigint>;
  private readonly view: DataView;

  constructor() {
    const memory = new WebAssembly.Memory({ initial: 1, maximum: 1, shared: true });
    const m = new Module({ min: 1, max: 1, shared: true });
    const soft = emitSoftFloat(m);
    const f80 = emitF80(m, soft);
    const all: Record<string, FnRef> = { ...soft.named, ...f80.named, ...emitTranscendental(m, f80) };
    for (const [name, ref] of Object.entries(all)) m.exportFn(name, ref);
    const instance = new WebAssembly.Instance(new WebAssembly.Module(m.finish()), { env: { memory } });
    this.fns = instance.exports as never;
    this.view = new DataView(memory.buffer);
  }

  /** Calls a function on singles or doubles; gives unsigned bits and flags. */
  call(fmt: Format, name: string, ctl: number, ...args: (number | bigint)[]): { bits: bigint; flags: number } {
    this.view.setInt32(BASE + FL, 0, true);
    const conv = args.map((a) =>
      typeof a === 'number' ? a : fmt === F32 ? Number(BigInt.asIntN(32, a)) : BigInt.asIntN(64, a),
    );
    const r = (this.fns[name] as (...a: (number | bigint)[]) => number | bigint)(BASE, ctl, ...conv);
    return {
      bits: typeof r === 'number' ? BigInt(r >>> 0) : BigInt.asUintN(64, r),
      flags: this.view.getInt32(BASE + FL, true),
    };
  }
  /** Calls with raw arguments. */
  raw(name: string, ...args: (number | bigint)[]): number | bigint {
    this.view.setInt32(BASE + FL, 0, true);
    return (this.fns[name] as (...a: (number | bigint)[]) => number | bigint)(...args);
  }
  flags(): number {
    return this.view.getInt32(BASE + FL, true);
  }
  put(at: number, v: bigint): void {
    this.view.setBigUint64(at, v & ((1n << 64n) - 1n), true);
    this.view.setUint16(at + 8, Number(v >> 64n), true);
  }
  get(at: number): bigint {
    return this.view.getBigUint64(at, true) | (BigInt(this.view.getUint16(at + 8, true)) << 64n);
  }
  /** Calls a function (base, ctl, a, b, dn) on 80-bit operands. */
  call80(name: string, ctl: number, a: bigint, b = 0n): { bits: bigint; flags: number } {
    this.put(SLOT_A, a);
    this.put(SLOT_B, b);
    const flags = Number(this.raw(name, BASE, ctl, SLOT_A, SLOT_B, 0));
    return { bits: this.get(SLOT_R), flags };
  }
  /** Sets operand slot A and gives its address. */
  slotA(a: bigint): number {
    this.put(SLOT_A, a);
    return SLOT_A;
  }
  slotB(b: bigint): number {
    this.put(SLOT_B, b);
    return SLOT_B;
  }
  get base(): number {
    return BASE;
  }
}

// --- operands that find bugs -------------------------------------------------------------------------------------------

const expBits = (f: Format): number => f.expBits;
/** Bits of a format: specials, denormals, exponents close to each other and at the ends, sparse and random fractions. */
export function operands(f: Format): fc.Arbitrary<bigint> {
  const frac = f.explicit ? 63 : f.p - 1;
  const max = (1 << expBits(f)) - 1;
  const exps = fc.oneof(
    { weight: 4, arbitrary: fc.integer({ min: f.bias - 70, max: f.bias + 70 }) },
    { weight: 2, arbitrary: fc.integer({ min: 0, max: 70 }) },
    { weight: 2, arbitrary: fc.integer({ min: max - 70, max: max - 1 }) },
    { weight: 1, arbitrary: fc.integer({ min: 0, max: max }) },
    { weight: 1, arbitrary: fc.constantFrom(0, max, 1, max - 1, f.bias) },
  );
  const fracs = fc.oneof(
    fc.bigInt({ min: 0n, max: (1n << BigInt(frac)) - 1n }),
    fc
      .tuple(fc.integer({ min: 0, max: frac - 1 }), fc.integer({ min: 0, max: frac - 1 }))
      .map(([a, b]) => (1n << BigInt(a)) | (1n << BigInt(b))),
    fc.integer({ min: 0, max: frac }).map((n) => ((1n << BigInt(frac)) - 1n) & ~((1n << BigInt(n)) - 1n)),
    fc.constantFrom(0n, 1n, (1n << BigInt(frac)) - 1n, 1n << BigInt(frac - 1), (1n << BigInt(frac - 1)) - 1n),
  );
  return fc
    .tuple(fc.bigInt({ min: 0n, max: 1n }), exps, fracs, fc.integer({ min: 0, max: 15 }))
    .map(([s, e, m, odd]) => {
      // The leading one is explicit in the 80-bit format; now and then it is wrong.
      const lead = f.explicit ? (odd === 0 ? BigInt(e & 1) : e === 0 ? 0n : 1n) << 63n : 0n;
      return (
        (s << BigInt(frac + (f.explicit ? 1 : 0) + expBits(f))) |
        (BigInt(e) << BigInt(frac + (f.explicit ? 1 : 0))) |
        lead |
        m
      );
    });
}
export const FORMATS: readonly (readonly [string, Format])[] = [
  ['32', F32],
  ['64', F64],
  ['80', F80],
];

// --- whole instructions ------------------------------------------------------------------------------------------------

const CODE = 0x1000;
const IDT = 0x2000;
const STUBS = 0x3000;
/** Where tests put operands. */
export const DATA = 0x8000;

/** State before and after. */
export interface Regs {
  xmm?: Record<number, bigint>;
  /** ST(0), ST(1), … as 80 bits; the others are empty. */
  st?: readonly bigint[];
  mmx?: Record<number, bigint>;
  gpr?: Record<number, number>;
  mxcsr?: number;
  fcw?: number;
  fsw?: number;
  data?: Uint8Array;
  cr0?: bigint;
  cr4?: bigint;
  xcr0?: bigint;
}
export interface After {
  /** Vector of the exception, or -1. */
  readonly vector: number;
  /** Address of the instruction that raised it, or of the HLT. */
  readonly eip: number;
  readonly flags: number;
  readonly mxcsr: number;
  readonly fcw: number;
  /** With TOP. */
  readonly fsw: number;
  /** Abridged: one bit per physical register in use. */
  readonly ftw: number;
  readonly fop: number;
  readonly fip: number;
  readonly fdp: number;
  xmm(n: number): bigint;
  st(n: number): bigint;
  mmx(n: number): bigint;
  gpr(n: number): number;
  data(at: number, n: number): Uint8Array;
}

/** A 32-bit flat machine without paging whose exceptions end in HLT. */
export class Machine {
  private readonly vm: SoftVm;
  private readonly vcpu: SoftVcpu;
  private readonly initial: VcpuStateV1;
  /** @param threshold of the translator; 0 interprets only */
  constructor(threshold?: number) {
    ({ vm: this.vm, vcpu: this.vcpu } = createMachine({ cpu: threshold === undefined ? {} : { threshold } }));
    const mem = this.vm.memory;
    for (let v = 0; v < 32; v++) {
      mem.write32(IDT + 8 * v, (8 << 16) | (STUBS + 16 * v));
      mem.write32(IDT + 8 * v + 4, 0x8e00);
      mem.write8(STUBS + 16 * v, 0xf4);
    }
    // GDT: null, code, data.
    mem.write32(0x4008, 0x0000ffff);
    mem.write32(0x400c, 0x00cf9b00);
    mem.write32(0x4010, 0x0000ffff);
    mem.write32(0x4014, 0x00cf9300);
    this.initial = {
      ...flat32(this.vcpu, CODE),
      gdtr: { base: 0x4000n, limit: 0x17 },
      idtr: { base: BigInt(IDT), limit: 0xff },
    };
  }

  /** Assembles and runs instructions. */
  run(code: (a: Asm) => Asm, before: Regs = {}): After {
    const { vcpu } = this;
    this.vm.memory.load(
      CODE,
      code(new Asm({ mode: 32, origin: CODE }))
        .hlt()
        .assemble(),
    );
    if (before.data !== undefined) this.vm.memory.load(DATA, before.data);
    const gpr = Array.from({ length: 16 }, (_, n) => BigInt((before.gpr?.[n] ?? (n === 4 ? 0x7000 : 0)) >>> 0));
    const xsave = new Uint8Array(this.initial.xsave);
    const x = new DataView(xsave.buffer);
    x.setUint16(0, before.fcw ?? 0x37f, true);
    x.setUint16(2, before.fsw ?? 0, true);
    const top = ((before.fsw ?? 0) >> 11) & 7;
    let tags = 0;
    (before.st ?? []).forEach((v, n) => {
      tags |= 1 << ((top + n) & 7);
      x.setBigUint64(32 + 16 * n, v & ((1n << 64n) - 1n), true);
      x.setUint16(40 + 16 * n, Number(v >> 64n), true);
    });
    for (const [n, v] of Object.entries(before.mmx ?? {})) {
      tags = 0xff;
      x.setBigUint64(32 + 16 * Number(n), v, true);
      x.setUint16(40 + 16 * Number(n), 0xffff, true);
    }
    x.setUint8(4, tags);
    x.setUint32(24, before.mxcsr ?? 0x1f80, true);
    for (const [n, v] of Object.entries(before.xmm ?? {})) {
      x.setBigUint64(160 + 16 * Number(n), v & ((1n << 64n) - 1n), true);
      x.setBigUint64(168 + 16 * Number(n), v >> 64n, true);
    }
    x.setBigUint64(512, 3n, true);
    vcpu.setState({
      ...this.initial,
      gpr,
      rip: BigInt(CODE),
      rflags: 2n,
      cr0: before.cr0 ?? 0x31n,
      cr4: before.cr4 ?? 0x600n,
      xcr0: before.xcr0 ?? 1n,
      xsave,
      activity: 'running',
    });
    const exit = vcpu.run(1e9);
    if (exit.reason !== Exit.Halt) throw new Error(`left for ${exit.reason} ${exit.detail}`);
    const s = vcpu.getState();
    const v = new DataView(s.xsave.buffer, s.xsave.byteOffset);
    const rip = Number(s.rip);
    const vector = rip > STUBS && rip <= STUBS + 512 ? (rip - STUBS) >> 4 : -1;
    const esp = Number(s.gpr[4]);
    const mem = this.vm.memory;
    return {
      vector,
      eip: vector < 0 ? rip : mem.read32(esp),
      flags: Number(s.rflags),
      mxcsr: v.getUint32(24, true),
      fcw: v.getUint16(0, true),
      fsw: v.getUint16(2, true),
      ftw: v.getUint8(4),
      fop: v.getUint16(6, true),
      fip: v.getUint32(8, true),
      fdp: v.getUint32(16, true),
      xmm: (n) => v.getBigUint64(160 + 16 * n, true) | (v.getBigUint64(168 + 16 * n, true) << 64n),
      st: (n) => v.getBigUint64(32 + 16 * n, true) | (BigInt(v.getUint16(40 + 16 * n, true)) << 64n),
      mmx: (n) => v.getBigUint64(32 + 16 * n, true),
      gpr: (n) => Number(s.gpr[n]),
      data: (at, n) => Uint8Array.from({ length: n }, (_, i) => mem.read8(at + i)),
    };
  }
}
export type { Address };
