// Machine code of modules: it comes back from bytes, optimised, in this process and in another.
import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { buildCompiled } from '../scripts/native-build.ts';
import { type CompiledCode, compiledCode } from '../src/compiled.ts';

const built = buildCompiled();
// Without a compiler the suite skips; sources that do not compile are a fault.
if (built.broken === true) throw new Error(built.detail);
const need = built.ok ? '' : ` (needs a C++ compiler: ${built.detail})`;

/** A module with f(n) = n + (n − 1) + … + 1, by a loop. */
const SUM = Uint8Array.from([
  ...[0, 0x61, 0x73, 0x6d, 1, 0, 0, 0],
  // (i32) → i32; one function, "f".
  ...[1, 6, 1, 0x60, 1, 0x7f, 1, 0x7f, 3, 2, 1, 0, 7, 5, 1, 1, 0x66, 0, 0],
  ...[10, 27, 1, 25, 1, 1, 0x7f, 3, 0x40, 0x20, 1, 0x20, 0, 0x6a, 0x21, 1],
  ...[0x20, 0, 0x41, 1, 0x6b, 0x22, 0, 0x0d, 0, 0x0b, 0x20, 1, 0x0b],
]);

const functionOf = (module: WebAssembly.Module): ((n: number) => number) =>
  new WebAssembly.Instance(module).exports['f'] as (n: number) => number;

/** A module whose function V8 has optimised, and its code. */
async function optimised(code: CompiledCode): Promise<Uint8Array> {
  const module = new WebAssembly.Module(SUM);
  const f = functionOf(module);
  for (const until = performance.now() + 20_000; performance.now() < until; ) {
    f(1e7);
    await new Promise((r) => setTimeout(r, 5));
    const bytes = code.serialize(module);
    if (bytes !== null) return bytes;
  }
  throw new Error('V8 has not optimised a hot function within 20 s');
}

describe.skipIf(!built.ok)(`machine code of modules${need}`, () => {
  it('is there for the V8 that this repository runs on', () => {
    expect(compiledCode()).not.toBe(null);
  });

  it('is nothing before the optimising compiler has run, and comes back after it', async () => {
    const code = compiledCode() as CompiledCode;
    expect(code.serialize(new WebAssembly.Module(SUM))).toBe(null);
    const bytes = await optimised(code);
    expect(bytes.length).toBeGreaterThan(100);
    const again = code.deserialize(SUM, bytes) as WebAssembly.Module;
    expect(again).toBeInstanceOf(WebAssembly.Module);
    expect(functionOf(again)(1000)).toBe(500_500);
    expect(WebAssembly.Module.exports(again)).toEqual([{ name: 'f', kind: 'function' }]);
    // Nothing has run: its code is what came in.
    expect(code.serialize(again)?.length).toBe(bytes.length);
  });

  it('is taken by another process with the same settings of V8, and refused by one with others', async () => {
    const dir = mkdtempSync(join(tmpdir(), 'hyve-compiled-'));
    try {
      const program = join(dir, 'taker.mjs');
      const source = new URL('../src/compiled.ts', import.meta.url).href;
      const maker = `
        import { compiledCode } from ${JSON.stringify(source)};
        import { readFileSync, writeFileSync } from 'node:fs';
        const code = compiledCode();
        const sum = Uint8Array.from(${JSON.stringify([...SUM])});
        if (process.argv[3] === 'make') {
          const module = new WebAssembly.Module(sum);
          const { f } = new WebAssembly.Instance(module).exports;
          for (let i = 0; i < 4000 && code.serialize(module) === null; i++) {
            f(1e7);
            await new Promise((r) => setTimeout(r, 5));
          }
          writeFileSync(process.argv[2], code.serialize(module));
        } else {
          const module = code.deserialize(sum, readFileSync(process.argv[2]));
          console.log(module === null ? 'refused' : new WebAssembly.Instance(module).exports.f(4));
        }`;
      writeFileSync(program, maker);
      const run = (...args: string[]): string => {
        const { stdout, stderr, status } = spawnSync(process.execPath, args, { encoding: 'utf8' });
        expect(stderr).toBe('');
        expect(status).toBe(0);
        return stdout.trim();
      };
      const file = join(dir, 'code');
      run(program, file, 'make');
      expect(run(program, file)).toBe('10');
      expect(run('--no-wasm-lazy-compilation', program, file)).toBe('refused');
    } finally {
      rmSync(dir, { recursive: true });
    }
  });

  it('wants a module, and bytes', () => {
    const code = compiledCode() as CompiledCode;
    for (const wrong of [{}, null, 1, Object.create(WebAssembly.Module.prototype)])
      expect(() => code.serialize(wrong as WebAssembly.Module)).toThrow(TypeError);
    expect(() => code.deserialize(SUM, 'code' as unknown as Uint8Array)).toThrow(TypeError);
    expect(() => code.deserialize(new Uint16Array(4) as unknown as Uint8Array, SUM)).toThrow(TypeError);
    // Bytes that no V8 wrote are refused by their head.
    expect(code.deserialize(SUM, new Uint8Array(64))).toBe(null);
    expect(code.deserialize(SUM, new Uint8Array(0))).toBe(null);
  });
});
