// Global pages: MOV to CR3 may leave their translations, and nothing else. Intel SDM volume 3A 4.10.2.4, 4.10.4.1.
import { Exit } from '@hyve/core';
import { describe, expect, it } from 'vitest';
import { createMachine, le32, numbers, runOn } from './machine.ts';

const CODE = 0x8000;
const OUT = 0x18000;
const SPACES = 0x40000;
const SPACE = 0x6000;
/** Pages of which each address space has frames of its own. */
const FIRST = 0x80;
const PAGES = 8;
const FRAMES = 0x100000;
/** Linear distance of pages that have the same place in the TLB. */
const ALIAS = 8 << 20;
const CR4 = 0x620;
const PGE = 0x80;

/** A machine with three address spaces, and a way to run 64-bit code. Bit p of `global` makes page p global, everywhere. */
function bench(threshold: number, global: number) {
  const { vm, vcpu } = createMachine({ cpu: { threshold }, ram: 2 << 20 });
  const m = vm.memory;
  for (let n = 0; n < 3; n++) {
    const at = SPACES + n * SPACE;
    for (let level = 0; level < 2; level++) m.write32(at + level * 0x1000, (at + (level + 1) * 0x1000) | 3);
    for (let k = 0; k < 3; k++) {
      const table = at + 0x3000 + k * 0x1000;
      m.write32(at + 0x2000 + (k * ALIAS) / 0x40000, table | 3);
      for (let page = 0; page < 512; page++) m.write32(table + page * 8, (page << 12) | 3);
      for (let p = 0; p < PAGES; p++)
        m.write32(table + (linear(p, k) % ALIAS) / 0x200, frameOf(n, p) | 3 | (((global >> p) & 1) << 8));
    }
    for (let p = 0; p < PAGES; p++) m.write32(frameOf(n, p), frameOf(n, p));
  }
  const s = vcpu.getState();
  return (code: readonly number[], results: number): number[] => {
    m.load(CODE, Uint8Array.from([...code, 0xf4]));
    vcpu.setState({
      ...s,
      gpr: s.gpr.map((_, n) => (n === 7 ? BigInt(OUT) : 0n)),
      rip: BigInt(CODE),
      rflags: 2n,
      cr0: 0x80050033n,
      cr3: BigInt(SPACES),
      cr4: BigInt(CR4 | PGE),
      efer: 0xd01n,
      segments: s.segments.map((g, n) =>
        n >= 6 ? g : { ...g, base: 0n, limit: 0xffffffff, selector: 8 + n * 8, attr: n === 1 ? 0xa09b : 0xc093 },
      ),
    });
    expect(runOn(vcpu)).toBe(Exit.Halt);
    return Array.from({ length: results }, (_, n) => m.read32(OUT + n * 4));
  };
}

const toSpace = (n: number): number[] => [0xb8, ...le32(SPACES + n * SPACE), 0x0f, 0x22, 0xd8];
const toCr4 = (v: number): number[] => [0xb8, ...le32(v), 0x0f, 0x22, 0xe0];
const invlpg = (la: number): number[] => [0x0f, 0x01, 0x3c, 0x25, ...le32(la)];
/** mov eax, [la]; stosd */
const read = (la: number): number[] => [0x8b, 0x04, 0x25, ...le32(la), 0xab];
/** Another page is in the same place elsewhere, for global ones and others to displace each other. */
const linear = (page: number, alias = 0): number => (FIRST + ((page + alias) % PAGES)) * 0x1000 + alias * ALIAS;
const frameOf = (space: number, page: number): number => FRAMES + (space * PAGES + page) * 0x1000;

describe('global pages', () => {
  for (const [name, threshold] of [
    ['interpreted', 0],
    ['translated', 1],
  ] as const) {
    it(`outlive MOV to CR3 until INVLPG or CR4.PGE ends them, ${name}`, () => {
      const run = bench(threshold, 0b01);
      const both = [...read(linear(0)), ...read(linear(1))];
      const code = [both, toSpace(1), both, invlpg(linear(0)), both, toSpace(2), both, toCr4(CR4), both];
      // Without PGE they are pages like others.
      const last = [toSpace(1), both];
      expect(run([...code, ...last].flat(), 12)).toEqual([
        ...[frameOf(0, 0), frameOf(0, 1)],
        ...[frameOf(0, 0), frameOf(1, 1)],
        ...[frameOf(1, 0), frameOf(1, 1)],
        ...[frameOf(1, 0), frameOf(2, 1)],
        ...[frameOf(2, 0), frameOf(2, 1)],
        ...[frameOf(1, 0), frameOf(1, 1)],
      ]);
    });

    it(`are told from others wherever in the TLB they come to be, ${name}`, () => {
      const below = numbers(0x1234567);
      let kept = 0;
      for (let round = 0; round < 12; round++) {
        const global = below(256);
        const run = bench(threshold, global);
        const code: number[] = [];
        const allowed: Set<number>[] = [];
        const wanted: number[] = [];
        /** By linear address: frames that a global translation may still lead to. */
        const stale = new Map<number, Set<number>>();
        let space = 0;
        let pge = true;
        for (let n = 0; n < 400; n++) {
          const page = below(PAGES);
          const la = linear(page, below(3));
          switch (below(8)) {
            case 0:
            case 1:
              space = below(3);
              code.push(...toSpace(space));
              break;
            case 2:
              code.push(...invlpg(la));
              stale.delete(la);
              break;
            case 3:
              if (below(8) !== 0) break;
              pge = !pge;
              code.push(...toCr4(pge ? CR4 | PGE : CR4));
              stale.clear();
              break;
            default: {
              const now = frameOf(space, page);
              const old = stale.get(la) ?? new Set();
              code.push(...read(la));
              wanted.push(now);
              allowed.push(new Set([now, ...old]));
              if (pge && (global >> page) & 1) stale.set(la, old.add(now));
            }
          }
        }
        const got = run(code, wanted.length);
        got.forEach((v, n) => {
          expect([...(allowed[n] as Set<number>)], `round ${round}, read ${n}`).toContain(v);
          if (v !== wanted[n]) kept++;
        });
      }
      expect(kept).toBeGreaterThan(100);
    });
  }
});
