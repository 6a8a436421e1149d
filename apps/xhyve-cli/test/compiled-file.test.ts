// Files of machine code: what was saved comes back for the same module, and nothing that happens to a file does harm.
import { chmodSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { CompiledCode } from '@hyve/hv-native/compiled';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { CompiledFile, MOST_COMPILED } from '../src/compiled-file.ts';

type Module = ReturnType<CompiledFile['take']>;

let dir = '';
let path = '';
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'xhyve-compiled-'));
  path = join(dir, 'made', 'guest.code');
});
afterEach(() => rmSync(dir, { recursive: true, force: true }));

/** Stands for V8: modules are objects, their code is what the test says it is. */
class Engine implements CompiledCode {
  readonly host: string;
  readonly code: Map<unknown, Uint8Array | null> = new Map();
  readonly given: number[][] = [];
  /** Settings while it was asked. */
  readonly settings: string[] = [];
  refuses = false;
  setting = 'other';

  constructor(host = 'host') {
    this.host = host;
  }
  readonly withSettings = <T>(f: () => T): T => {
    this.setting = 'lazy';
    try {
      return f();
    } finally {
      this.setting = 'other';
    }
  };
  module(code: Uint8Array | null): NonNullable<Module> {
    const m = {} as NonNullable<Module>;
    this.code.set(m, code);
    return m;
  }
  serialize(m: NonNullable<Module>): Uint8Array | null {
    this.settings.push(this.setting);
    return this.code.get(m) ?? null;
  }
  deserialize(wasm: Uint8Array, code: Uint8Array): Module {
    this.settings.push(this.setting);
    this.given.push([...wasm, -1, ...code]);
    return this.refuses ? null : this.module(code);
  }
}

const bytes = (...v: number[]): Uint8Array => Uint8Array.from(v);
const A = bytes(1, 1);
const B = bytes(2);

function open(engine = new Engine(), most = MOST_COMPILED): { engine: Engine; file: CompiledFile } {
  return { engine, file: new CompiledFile(path, engine, engine.withSettings, most) };
}
/** A file with code of A and of B. */
function filled(): void {
  const { engine, file } = open();
  file.add(A, engine.module(bytes(10, 11, 12)));
  file.add(B, engine.module(bytes(20)));
  file.save();
}

describe('a file of machine code', () => {
  it('has nothing at first, then what was saved, for modules of the same bytes', () => {
    expect(open().file.take(A)).toBe(null);
    filled();
    expect(statSync(path).mode & 0o777).toBe(0o600);
    expect(statSync(join(dir, 'made')).mode & 0o777).toBe(0o700);
    const { engine, file } = open();
    expect(file.take(bytes(3))).toBe(null);
    expect(file.take(B)).not.toBe(null);
    expect(file.take(A)).not.toBe(null);
    expect(engine.given).toEqual([
      [2, -1, 20],
      [1, 1, -1, 10, 11, 12],
    ]);
    expect([file.taken, file.refused]).toEqual([2, 0]);
    expect(engine.settings).toEqual(['lazy', 'lazy']);
    expect(readdirSync(join(dir, 'made'))).toEqual(['guest.code']);
  });

  it('leaves out modules without code, and such as find no room', () => {
    const { engine, file } = open(new Engine(), 100);
    file.add(A, engine.module(null));
    file.add(B, engine.module(new Uint8Array(90)));
    file.add(bytes(3), engine.module(new Uint8Array(20)));
    file.save();
    const next = open().file;
    expect([next.take(A), next.take(B)]).toEqual([null, null]);
    expect(next.take(bytes(3))).not.toBe(null);
    expect(statSync(path).size).toBeLessThanOrEqual(100);
  });

  it('is written again only when there is more', () => {
    filled();
    const before = statSync(path).ino;
    const { engine, file } = open();
    const code = bytes(10, 11, 12);
    file.take(A);
    file.add(A, engine.module(code));
    file.add(B, engine.module(bytes(21)));
    file.save();
    expect(statSync(path).ino).toBe(before);
    file.add(bytes(3), engine.module(new Uint8Array(100)));
    file.save();
    expect(statSync(path).ino).not.toBe(before);
  });

  it('is of no use to another host, and replaced by it', () => {
    filled();
    const { engine, file } = open(new Engine('another'));
    expect(file.take(A)).toBe(null);
    file.add(A, engine.module(bytes(30)));
    file.save();
    expect(open(new Engine('another')).file.take(A)).not.toBe(null);
    expect(open().file.take(A)).toBe(null);
  });

  it.each([
    ['is cut short', (b: Buffer) => b.subarray(0, b.length - 1), B],
    ['has a changed byte', (b: Buffer) => b.fill(99, b.length - 1), B],
    ['has a length beyond its end', (b: Buffer) => b.fill(255, 32, 36), A],
    ['is empty', (b: Buffer) => b.subarray(0, 0), A],
    ['is another kind of file', (b: Buffer) => b.fill(0, 0, 8), A],
  ])('gives nothing that is not whole: it %s', (_what, spoil, wasm) => {
    filled();
    writeFileSync(path, spoil(readFileSync(path)));
    const { engine, file } = open();
    expect(file.take(wasm)).toBe(null);
    expect(engine.given).toEqual([]);
  });

  it('is not believed when others may write to it', () => {
    filled();
    chmodSync(path, 0o620);
    const { engine, file } = open();
    expect(file.take(A)).toBe(null);
    expect(engine.given).toEqual([]);
  });

  it('is not asked again once V8 has refused something', () => {
    filled();
    const { engine, file } = open();
    engine.refuses = true;
    expect([file.take(A), file.take(B)]).toEqual([null, null]);
    expect(engine.given.length).toBe(1);
    expect(file.refused).toBe(1);
  });

  it('is saved once more when its modules are not in use any longer', () => {
    const { engine, file } = open();
    file.add(A, engine.module(bytes(1)));
    file.clear();
    file.save();
    expect(open().file.take(A)).not.toBe(null);
  });

  it('is saved by itself while modules are in use', async () => {
    const { engine, file } = open();
    file.add(A, engine.module(bytes(1)));
    for (const until = performance.now() + 20_000; open().file.take(A) === null; ) {
      if (performance.now() > until) throw new Error('not within 20 s');
      await new Promise((r) => setTimeout(r, 50));
    }
  }, 30_000);

  it('does no harm where it cannot be', () => {
    mkdirSync(join(dir, 'made'));
    mkdirSync(path);
    const { engine, file } = open();
    expect(file.take(A)).toBe(null);
    file.add(A, engine.module(bytes(1)));
    file.save();
    expect(readdirSync(join(dir, 'made'))).toEqual(['guest.code']);
  });
});
