// Accesses that lie in two pages, alone and in a window: the pages may be neighbours in memory, or far apart, or one of
// them may not be accessible.
import { Exit } from '@hyve/core';
import { describe, expect, it } from 'vitest';
import { createMachine, flat32, le32, runOn } from './machine.ts';

const CODE = 0x1000;
const DIRECTORY = 0x2000;
const TABLE = 0x3000;
/** Linear addresses of the second of two pages, to read from and to write to. */
const FROM = 0x402000;
const TO = 0x412000;
const PRESENT = 3;
const READ_ONLY = 1;
const RAM = 1 << 16;
const DATA = 0x6000;
const FILLING: Uint8Array = Uint8Array.from({ length: RAM - DATA }, (_, n) => n * 7 + (n >> 8));
/** Times that the code runs: what is translated opens its windows anew each time. */
const RUNS = 4;

/** A copy of `size` bytes `at` bytes on from ESI and EDI: the code, and how much it copies. */
interface Copy {
  readonly at: number;
  readonly size: number;
  readonly code: readonly number[];
}
const modRm = (reg: number, base: number, at: number): number[] => [0x40 | (reg << 3) | base, at];
const both = (load: readonly number[], store: readonly number[], reg: number, at: number): number[] => [
  ...load, ...modRm(reg, 6, at), ...store, ...modRm(reg, 7, at),
]; // biome-ignore format: an instruction each
/** VMOVDQU twice, MOVUPS, MOVQ, and MOV of 4, 2 and 1 bytes: side by side. */
const COPIES: readonly Copy[] = [
  { at: 0, size: 32, code: both([0xc5, 0xfe, 0x6f], [0xc5, 0xfe, 0x7f], 0, 0) },
  { at: 32, size: 32, code: both([0xc5, 0xfe, 0x6f], [0xc5, 0xfe, 0x7f], 1, 32) },
  { at: 64, size: 16, code: both([0x0f, 0x10], [0x0f, 0x11], 2, 64) },
  { at: 80, size: 8, code: both([0xf3, 0x0f, 0x7e], [0x66, 0x0f, 0xd6], 3, 80) },
  { at: 88, size: 4, code: both([0x8b], [0x89], 0, 88) },
  { at: 92, size: 2, code: both([0x66, 0x8b], [0x66, 0x89], 0, 92) },
  { at: 94, size: 1, code: both([0x8a], [0x88], 0, 94) },
];
const LENGTH = 95;
/** Where the byte at a linear address is, of two pages side by side. */
function placeOf(la: number, boundary: number, [first, second]: readonly [number, number]): number {
  return (la < boundary ? first : second) + (la & 4095);
}

/** Bytes from ESI and from EDI to the boundary. */
const BEFORE: readonly (readonly [number, number])[] = [
  [1, 40], [17, 47], [31, 94], [40, 1], [63, 65], [72, 73], [85, 82], [89, 90], [50, 20], [20, 56], [93, 91],
]; // biome-ignore format: a list
/** lea esi, [esi]; lea edi, [edi]: no window goes on behind them. */
const END_WINDOWS = [0x8d, 0x76, 0, 0x8d, 0x7f, 0];

/** Where the pages before {@link FROM} and {@link TO} are, and those, with the rights of the last. */
interface Places {
  readonly from: readonly [number, number];
  readonly to: readonly [number, number];
  readonly last: number;
}

function machine(threshold: number) {
  const { vm, vcpu } = createMachine({ cpu: { threshold }, ram: RAM });
  const m = vm.memory;
  const start = flat32(vcpu, CODE);
  const entry = (la: number): number => TABLE + (((la >> 12) & 1023) << 2);
  // The first 4 MiB are what they are.
  m.write32(DIRECTORY, 0x83);
  m.write32(DIRECTORY + 4, TABLE | PRESENT);
  /** Lays the pages, fills memory anew and loads the code. */
  const set = (places: Places, code: readonly number[]): void => {
    m.write32(entry(FROM - 1), places.from[0] | PRESENT);
    m.write32(entry(FROM), places.from[1] | PRESENT);
    m.write32(entry(TO - 1), places.to[0] | PRESENT);
    m.write32(entry(TO), places.to[1] | places.last);
    m.load(DATA, FILLING);
    m.load(CODE, Uint8Array.from(code));
  };
  const run = (gpr: Readonly<Record<number, number>>) => {
    vcpu.setState({
      ...start,
      cr0: 0x80010011n,
      cr3: BigInt(DIRECTORY),
      cr4: 0x40610n,
      xcr0: 7n,
      idtr: { base: 0n, limit: 0 },
      gpr: start.gpr.map((_, n) => BigInt(gpr[n] ?? 0)),
    });
    return runOn(vcpu);
  };
  return { m, vcpu, set, run };
}

const FAR = { from: [0x7000, 0xa000], to: [0xc000, 0x8000] } as const;
const NEAR = { from: [0x7000, 0x8000], to: [0xc000, 0xd000] } as const;

describe.each([
  ['interpreted', 0],
  ['translated at once', 1],
  ['translated when warm', 3],
])('two pages, %s', (_name, threshold) => {
  for (const [where, pages] of [
    ['neighbours', NEAR],
    ['far apart', FAR],
  ] as const)
    for (const [how, between] of [
      ['in a window', []],
      ['alone', END_WINDOWS],
    ] as const)
      it(`${where}: each access ${how} copies its bytes, or none of them where it may not write`, () => {
        const copies = COPIES.flatMap((c) => [...c.code, ...between]);
        // …; dec ecx; jnz; hlt
        const code = [...copies, 0x49, 0x0f, 0x85, ...le32(-(copies.length + 7)), 0xf4];
        const { m, vcpu, set, run } = machine(threshold);
        for (const last of [PRESENT, READ_ONLY, 0])
          for (const [k, j] of BEFORE) {
            set({ ...pages, last }, code);
            const esi = FROM - k;
            const edi = TO - j;
            const what = `${k} bytes before the boundary to ${j}, rights ${last}`;
            const want = Array.from({ length: LENGTH }, (_, n) => m.read8(placeOf(edi + n, TO, pages.to)));
            let cr2: number | null = null;
            for (const c of COPIES) {
              if (last !== PRESENT && edi + c.at + c.size > TO) {
                cr2 = Math.max(TO, edi + c.at);
                break;
              }
              for (let n = c.at; n < c.at + c.size; n++) want[n] = m.read8(placeOf(esi + n, FROM, pages.from));
            }
            expect(run({ 1: RUNS, 6: esi, 7: edi }), what).toBe(cr2 === null ? Exit.Halt : Exit.Shutdown);
            if (cr2 !== null) expect(Number(vcpu.getState().cr2), what).toBe(cr2);
            const got = Array.from({ length: LENGTH }, (_, n) => m.read8(placeOf(edi + n, TO, pages.to)));
            expect(got, what).toEqual(want);
          }
      });

  for (const [where, pages] of [
    ['neighbours', NEAR],
    ['far apart', FAR],
  ] as const)
    it(`${where}: a repeated move or fill does what its elements do, and stops where it may not write`, () => {
      /** The last bytes of the pages to write to, from the first that any case writes. */
      const written = Array.from({ length: 8192 }, (_, n) => placeOf(TO - 4096 + n, TO, pages.to));
      const cases = [PRESENT, READ_ONLY, 0].flatMap((last) =>
        // Between pages, and within them: just above, just below, and an element and a half above.
        [FROM - 4000, TO - 3001, TO - 2999, TO - 3006, TO - 2900].flatMap((esi) =>
          ([0xa4, 0xa5, 0xaa, 0xab] as const).map((op) => ({ last, esi, op, edi: TO - 3000 })),
        ),
      );
      const { m, vcpu, set, run } = machine(threshold);
      for (const c of cases) {
        const size = c.op & 1 ? 4 : 1;
        const count = 5000 / size;
        // cmp byte [TO], 0, so that the TLB has the page to read; mov esi, …; mov edi, …; mov ecx, …; rep …; dec ebp; jnz; hlt
        const look = c.last === 0 ? [] : [0x80, 0x3d, ...le32(TO), 0];
        const body = [...look, 0xbe, ...le32(c.esi), 0xbf, ...le32(c.edi), 0xb9, ...le32(count), 0xf3, c.op, 0x4d];
        const code = [...body, 0x75, 256 - body.length - 2, 0xf4];
        set({ ...pages, last: c.last }, code);
        const memory = Uint8Array.from(m.readView(0, RAM) as Uint8Array);
        const boundary = c.esi < TO - 4096 ? FROM : TO;
        const passes = c.last === PRESENT ? RUNS : 1;
        let done = 0;
        for (let pass = 0; pass < passes; pass++)
          for (done = 0; done < count; done++) {
            const to = c.edi + done * size;
            // What is read there may not be read either.
            const from = c.esi + done * size;
            const reads = c.op < 0xa8 && c.last === 0 && boundary === TO && from + size > TO;
            if (reads || (c.last !== PRESENT && to + size > TO)) break;
            const v = Array.from({ length: size }, (_, n) =>
              c.op < 0xa8
                ? (memory[placeOf(from + n, boundary, boundary === TO ? pages.to : pages.from)] as number)
                : (0x04030201 >> (8 * n)) & 255,
            );
            for (const [n, byte] of v.entries()) memory[placeOf(to + n, TO, pages.to)] = byte;
          }
        const what = JSON.stringify(c);
        expect(run({ 0: 0x04030201, 5: RUNS }), what).toBe(c.last === PRESENT ? Exit.Halt : Exit.Shutdown);
        const { gpr } = vcpu.getState();
        expect([gpr[1], gpr[7]].map(Number), what).toEqual([count - done, c.edi + done * size]);
        const after = m.readView(0, RAM) as Uint8Array;
        const wrong = written.findIndex((a) => after[a] !== memory[a]);
        expect(wrong, what).toBe(-1);
      }
    });

  it('give no more bits than were asked for', () => {
    // movzx eax, word [esi]; movzx edx, word [esi]; dec ecx; jnz; hlt
    const body = [0x0f, 0xb7, 0x06, 0x0f, 0xb7, 0x16, 0x49];
    const { m, vcpu, set, run } = machine(threshold);
    set({ ...FAR, last: PRESENT }, [...body, 0x75, 256 - body.length - 2, 0xf4]);
    expect(run({ 1: RUNS, 6: FROM - 1 })).toBe(Exit.Halt);
    const want = BigInt(m.read8(FAR.from[0] + 4095) | (m.read8(FAR.from[1]) << 8));
    const { gpr } = vcpu.getState();
    expect([gpr[0], gpr[2]]).toEqual([want, want]);
  });

  it('are looked up again when the second is mapped elsewhere', () => {
    // xor dword [its entry], 0x8000 ^ 0xa000; invlpg [FROM]; add edx, [esi]; add edx, [esi+8]; dec ecx; jnz; hlt
    const entry = TABLE + ((FROM >> 12) & 1023) * 4;
    const body = [
      ...[0x81, 0x35, ...le32(entry), ...le32(0x8000 ^ 0xa000), 0x0f, 0x01, 0x3d, ...le32(FROM)],
      ...[0x03, 0x16, 0x03, 0x56, 8, 0x49],
    ];
    const { m, vcpu, set, run } = machine(threshold);
    set({ ...NEAR, last: PRESENT }, [...body, 0x75, 256 - body.length - 2, 0xf4]);
    for (const before of [2, 6, 10]) {
      const word = (second: number, at: number): number =>
        [0, 1, 2, 3].reduce((v, n) => {
          const d = at + n - before;
          return v + m.read8(d < 0 ? 0x8000 + d : second + d) * 2 ** (8 * n);
        }, 0);
      const once = [0x8000, 0xa000].reduce((v, second) => v + word(second, 0) + word(second, 8), 0);
      expect(run({ 1: 6, 6: FROM - before })).toBe(Exit.Halt);
      expect(Number(vcpu.getState().gpr[2])).toBe((3 * once) % 2 ** 32);
    }
  });
});
