// The runner itself, and the entries that take little time, if there are built programs:
// HYVE_KVM_UNIT_TESTS and HYVE_KVM_UNIT_TESTS_I386 name the directories with their .flat files.
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { ENTRIES } from '../src/list.ts';
import { hideFeatures, type RunEnd } from '../src/machine.ts';
import { type Builds, compare, fileOf, line, resultOf, runEntry } from '../src/suite.ts';

const dir = mkdtempSync(join(tmpdir(), 'hyve-kut-'));
afterAll(() => rmSync(dir, { recursive: true }));
const here: Builds = { x86_64: dir, i386: null };

/** A Multiboot program (address fields, no ELF) that prints `text` on COM1 and writes `exit` to the exit port. */
function program(text: string, exit: number): Uint8Array {
  const bytes = new TextEncoder().encode(text);
  const image = new Uint8Array(0x60 + bytes.length);
  const v = new DataView(image.buffer);
  const end = 0x100000 + image.length;
  const header = [0x1badb002, 0x10000, -(0x1badb002 + 0x10000), 0x100000, 0x100000, end, end, 0x100020];
  header.forEach((w, i) => {
    v.setUint32(i * 4, w >>> 0, true);
  });
  image.set(
    [
      ...[0xbe, 0x60, 0x00, 0x10, 0x00, 0xb9, bytes.length, 0x00, 0x00, 0x00], // mov esi, text; mov ecx, length
      ...[0x66, 0xba, 0xf8, 0x03, 0xf3, 0x6e], // mov dx, 0x3f8; rep outsb
      ...[0xb0, exit, 0xe6, 0xf4, 0xf4, 0xeb, 0xfd], // mov al, exit; out 0xf4, al; hlt; jmp $-1
    ],
    0x20,
  );
  image.set(bytes, 0x60);
  return image;
}

const end = (o: Partial<RunEnd>): RunEnd => ({
  exit: 0,
  reason: 'poweroff',
  detail: '',
  output: '',
  seconds: 0,
  instructions: 0,
  ...o,
});

describe('the runner', () => {
  it('reads exit values and what stopped the machine', () => {
    const values = [0, 1, 38, 63, 5].map((exit) => resultOf(end({ exit })));
    expect(values).toEqual(['pass', 'fail', 'skip', 'abort', 'died']);
    expect(resultOf(end({ exit: -1, reason: 'timeout' }))).toBe('timeout');
    expect(resultOf(end({ exit: -1, reason: 'triple-fault' }))).toBe('died');
  });

  it('tells what is not as expected', () => {
    const e = { name: 'x', file: 'x.flat', passes: 2, fails: ['known'], expect: 'fail' } as const;
    const output = 'PASS: a\n\tPASS: b\nFAIL: known (detail)\n';
    expect(compare(e, end({ exit: 1, output }))).toEqual([]);
    expect(compare(e, end({ exit: 0, output: 'PASS: a\nFAIL: new\n' }))).toEqual([
      'pass, expected fail',
      '1 subtests passed, expected 2',
      'FAIL: new',
      'now passes: known',
    ]);
  });

  it('hides features in a CPUID table', () => {
    const rows = [
      { leaf: 1, eax: 0, ebx: 0, ecx: 0xffffffff, edx: 0 },
      { leaf: 7, subleaf: 0, eax: 0, ebx: 0xffffffff, ecx: 0xffffffff, edx: 0 },
      { leaf: 7, subleaf: 1, eax: 0, ebx: 0xffffffff, ecx: 0, edx: 0 },
    ];
    const out = hideFeatures(rows, ['x2apic', 'invpcid', 'umip']);
    expect(out.map((r) => [r.ebx, r.ecx])).toEqual([
      [0, 0xffdfffff],
      [0xfffffbff, 0xfffffffb],
      [0xffffffff, 0],
    ]);
  });

  it('runs a program, takes its console and its exit value', async () => {
    writeFileSync(join(dir, 'good.flat'), program('PASS: one\nPASS: two\nSKIP: three\n', 0));
    const o = await runEntry({ name: 'good', file: 'good.flat', passes: 2 }, here);
    expect([o.result, o.passed, o.failed, o.skipped, o.surprises]).toEqual(['pass', 2, 0, 1, []]);
    expect(line(o)).toMatch(/^good +ok +pass +2\/0\/1/);
  });

  it('notices a failure, a hang, and programs that are not there', async () => {
    writeFileSync(join(dir, 'bad.flat'), program('FAIL: one\n', 1));
    const bad = await runEntry({ name: 'bad', file: 'bad.flat' }, here);
    expect(bad.surprises).toEqual(['fail, expected pass (test device)', 'FAIL: one']);
    const hang = program('', 0);
    hang.set([0xeb, 0xfe], 0x20);
    writeFileSync(join(dir, 'hang.flat'), hang);
    const hung = await runEntry({ name: 'hang', file: 'hang.flat', limit: 0.2 }, here);
    expect(hung.surprises[0]).toMatch(/^timeout, expected pass/);
    const none = await runEntry({ name: 'none', file: 'none.flat' }, here);
    expect([none.result, none.surprises]).toEqual([null, ['no none.flat of the x86_64 build']]);
    expect(fileOf({ name: 'good', file: 'good.flat', bits: 32 }, here)).toBeNull();
  });
});

describe('the list', () => {
  it('names each entry once and says why whatever does not pass does not', () => {
    expect(new Set(ENTRIES.map((e) => e.name)).size).toBe(ENTRIES.length);
    for (const e of ENTRIES)
      if ((e.expect ?? 'pass') !== 'pass' || e.omit === true)
        expect([e.name, e.reason ?? '']).not.toEqual([e.name, '']);
  });
});

const builds: Builds = {
  x86_64: process.env['HYVE_KVM_UNIT_TESTS'] ?? null,
  i386: process.env['HYVE_KVM_UNIT_TESTS_I386'] ?? null,
};

describe('kvm-unit-tests', () => {
  for (const entry of ENTRIES) {
    const variable = entry.bits === 32 ? 'HYVE_KVM_UNIT_TESTS_I386' : 'HYVE_KVM_UNIT_TESTS';
    const why =
      entry.omit === true
        ? entry.reason
        : entry.slow === true
          ? 'slow'
          : fileOf(entry, builds) === null
            ? `no ${entry.file}: set ${variable}`
            : null;
    if (why !== null) it.skip(`${entry.name} (${why})`);
    else
      it(entry.name, { timeout: 180_000 }, async () => {
        const o = await runEntry(entry, builds);
        expect(o.surprises, o.tail).toEqual([]);
      });
  }
});
