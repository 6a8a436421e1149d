// A generated interpreter that was kept runs as one that was just made.
import { describe, expect, it } from 'vitest';
import type { CodeCache, CompiledStore } from '../src/index.ts';
import { createMachine, realMode, runOn } from './machine.ts';

/** Runs AX = 6 * 7 and HLT in real mode at 0x1000; gives AX. */
function run(code: CodeCache | undefined, ram = 1 << 16): bigint {
  const { vm, vcpu } = createMachine({ ram, ...(code === undefined ? {} : { cpu: { code } }) });
  // mov al, 6; mov cl, 7; mul cl; hlt
  vm.memory.load(0x1000, Uint8Array.of(0xb0, 6, 0xb1, 7, 0xf6, 0xe1, 0xf4));
  vcpu.setState(realMode(vcpu, 0x1000));
  runOn(vcpu);
  const ax = (vcpu.getState().gpr[0] as bigint) & 0xffffn;
  vm.close();
  return ax;
}

class Kept implements CodeCache {
  readonly kept: Map<string, Uint8Array> = new Map();
  hits = 0;
  get(key: string): Uint8Array | null {
    const found = this.kept.get(key) ?? null;
    if (found !== null) this.hits++;
    return found;
  }
  put(key: string, bytes: Uint8Array): void {
    this.kept.set(key, bytes.slice());
  }
}

describe('a cache of generated code', () => {
  it('is filled by the first machine and used by the next', () => {
    const cache = new Kept();
    expect(run(cache)).toBe(42n);
    expect([cache.kept.size, cache.hits]).toEqual([1, 0]);
    expect(run(cache)).toBe(42n);
    expect([cache.kept.size, cache.hits]).toEqual([1, 1]);
  });

  it('tells machines of different memory apart', () => {
    const cache = new Kept();
    run(cache);
    expect(run(cache, 1 << 17)).toBe(42n);
    expect([cache.kept.size, cache.hits]).toEqual([2, 0]);
  });

  it('is given the modules for their machine code, and asked for it', () => {
    const modules = new Map<string, WebAssembly.Module>();
    const log: string[] = [];
    class Compiled extends Kept {
      compiled(key: string): CompiledStore {
        expect(key).toBe([...this.kept.keys()][0] ?? key);
        return {
          take: (wasm) => {
            const known = modules.get(wasm.join()) ?? null;
            log.push(known === null ? 'asked in vain' : 'taken');
            return known;
          },
          add: (wasm, module) => {
            log.push('added');
            modules.set(wasm.join(), module);
          },
          clear: () => {},
        };
      }
    }
    const cache = new Compiled();
    expect(run(cache)).toBe(42n);
    expect(log.splice(0)).toEqual(['asked in vain', 'added']);
    expect(run(cache)).toBe(42n);
    expect(log).toEqual(['taken', 'added']);
  });

  it.each([
    ['nothing', (): Uint8Array => new Uint8Array(0)],
    ['half of it', (b: Uint8Array): Uint8Array => b.slice(0, b.length >> 1)],
    ['zeros behind the head', (b: Uint8Array): Uint8Array => b.slice().fill(0, 8)],
    ['a length beyond the end', (b: Uint8Array): Uint8Array => Uint8Array.from([...b.slice(0, 4), 255, 255, 255, 255])],
  ])('is not believed when it holds %s', (_what, spoil) => {
    const cache = new Kept();
    run(cache);
    for (const [key, bytes] of cache.kept) cache.kept.set(key, spoil(bytes));
    expect(run(cache)).toBe(42n);
    // What was made instead has replaced it.
    expect(run(cache)).toBe(42n);
    expect(cache.hits).toBe(2);
    expect([...cache.kept.values()][0]?.length).toBeGreaterThan(50_000);
  });
});
