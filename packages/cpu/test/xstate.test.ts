// XSAVE and XRSTOR in WebAssembly do what they do in TypeScript, which has the images that lie in two pages.
import type { VcpuStateV1 } from '@hyve/core';
import { describe, expect, it, vi } from 'vitest';
import * as S from '../src/state.ts';
import { createMachine, flat32, numbers, runOn } from './machine.ts';

const CODE = 0x1000;
/** An image within a page, one in two pages; both aligned to 64 bytes. */
const WITHIN = 0x5000;
const ACROSS = 0x7e40;
const SIZE = 832;

const FORMS: readonly (readonly [string, readonly number[]])[] = [
  ['XSAVE', [0x0f, 0xae, 0x27]],
  ['XSAVEOPT', [0x0f, 0xae, 0x37]],
  ['XSAVEC', [0x0f, 0xc7, 0x27]],
  ['XRSTOR', [0x0f, 0xae, 0x2f]],
];

interface Case {
  /** Words of the state from FPR to past YMMH. */
  readonly state: readonly number[];
  readonly image: Uint8Array;
  readonly mask: number;
}

function randomCase(any: (n: number) => number): Case {
  const words = (S.YMMH + 256 - S.FPR) >> 2;
  const state = Array.from({ length: words }, () => 0);
  const put = (at: number, v: number): void => {
    state[(at - S.FPR) >> 2] = v;
  };
  const fill = (from: number, bytes: number): void => {
    for (let o = 0; o < bytes; o += 4) put(from + o, any(2 ** 32) | 0);
  };
  put(S.FCW, 0x37f);
  put(S.MXCSR, 0x1f80);
  if (any(2) === 0) {
    for (let n = 0; n < 8; n++) {
      fill(S.FPR + 16 * n, 8);
      put(S.FPR + 16 * n + 8, any(65536));
    }
    put(S.FTOP, any(8));
    put(S.FCW, (any(0x2000) & 0x1f3f) | 0x40);
    put(S.FSW, any(65536) & ~0x3800);
    put(S.FTW, any(256));
    put(S.FOP, any(0x800));
    put(S.FCS, any(65536));
    put(S.FDS, any(65536));
    fill(S.FIP, 16);
  }
  if (any(2) === 0) fill(S.XMM, 256);
  if (any(2) === 0) fill(S.YMMH, 256);
  if (any(2) === 0) put(S.MXCSR, 0x1f80 | any(64));
  const image = Uint8Array.from({ length: SIZE }, () => any(256));
  const view = new DataView(image.buffer);
  // Mostly a header that is right, in one of the two formats.
  image.fill(0, 512, 576);
  const compact = any(2) === 0;
  const components = any(8);
  view.setUint32(512, compact ? components & any(8) : any(8), true);
  if (compact) {
    view.setUint32(520, components, true);
    view.setUint32(524, 0x80000000, true);
  }
  view.setUint32(24, any(65536), true);
  if (any(4) === 0) image[512 + any(64)] = any(256);
  if (any(12) === 0) image[27] = 1;
  return { state, image, mask: any(16) };
}

type Machine = ReturnType<typeof machine>;

/** A machine whose CPUID leaf 0DH.1 has these bits of what there is, and its state before the first instruction. */
function machine(cpuid1 = 7): ReturnType<typeof createMachine> & { readonly start: VcpuStateV1 } {
  const m = createMachine({ cpuid: (r) => (r.leaf === 0xd && r.subleaf === 1 ? { ...r, eax: r.eax & cpuid1 } : r) });
  return { ...m, start: flat32(m.vcpu, CODE) };
}

/** Runs an instruction with EDI at an image: what it left, whether it was done, calls of TypeScript. */
function run({ vm, vcpu, start }: Machine, bytes: readonly number[], c: Case, at: number): Outcome {
  const gpr = start.gpr.map((_, n) => BigInt(n === 0 ? c.mask : n === 7 ? at : 0));
  vcpu.setState({ ...start, cr4: 0x40600n, xcr0: 7n, gpr });
  c.state.forEach((v, n) => {
    vcpu.access.set(S.FPR + 4 * n, v);
  });
  vm.memory.load(at, c.image);
  vm.memory.load(CODE, Uint8Array.of(...bytes, 0x43, 0xf4)); // …; inc ebx; hlt
  const sys = vi.spyOn(vcpu, 'sys');
  runOn(vcpu);
  const asked = sys.mock.calls.length;
  sys.mockRestore();
  const image = Array.from({ length: SIZE }, (_, n) => vm.memory.read8(at + n));
  const state = c.state.map((_, n) => vcpu.access.get(S.FPR + 4 * n));
  return { left: { image, state }, done: vcpu.getState().gpr[3] === 1n, asked };
}

interface Outcome {
  readonly left: unknown;
  readonly done: boolean;
  readonly asked: number;
}

describe.each(FORMS)('%s', (name, bytes) => {
  it('does within a page what it does in two', () => {
    const any = numbers(name.length * 7919);
    let m = machine();
    let fast = 0;
    let done = 0;
    for (let n = 0; n < 60; n++) {
      const c = randomCase(any);
      const within = run(m, bytes, c, WITHIN);
      // A fault without an IDT shuts the processor down.
      if (!within.done) m = machine();
      const across = run(m, bytes, c, ACROSS);
      if (!across.done) m = machine();
      expect([within.left, within.done], JSON.stringify({ n, mask: c.mask })).toEqual([across.left, across.done]);
      // HLT is TypeScript's as well.
      if (within.asked < across.asked) fast++;
      if (within.done) done++;
    }
    // What faults is TypeScript's, and most do not.
    expect(fast).toBe(done);
    expect(done).toBeGreaterThan(name === 'XRSTOR' ? 15 : 59);
  }, 30_000);
});

it('XRSTOR takes the compacted format only where CPUID has XSAVEC', () => {
  const image = new Uint8Array(SIZE);
  new DataView(image.buffer).setUint32(524, 0x80000000, true);
  const c: Case = { ...randomCase(numbers(1)), image, mask: 7 };
  const bytes = FORMS[3]?.[1] as readonly number[];
  expect([7, 5].map((cpuid1) => run(machine(cpuid1), bytes, c, WITHIN).done)).toEqual([true, false]);
});
