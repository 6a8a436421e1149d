// --engine: what `auto` decides and says, and a guest on the engine that was asked for.
import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { isHyveError } from '@hyve/core';
import { KvmHypervisor, probeKvm } from '@hyve/hv-native';
import type { MachineSpec } from '@hyve/pc';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { chooseEngine } from '../src/run.ts';
import { EVERYTHING, SOFT_ONLY } from './helpers.ts';

const spec = (engine: string, mode: 'real' | 'virtual' = 'real'): MachineSpec =>
  ({ engine, clock: { mode } }) as unknown as MachineSpec;

describe('chooseEngine', () => {
  it('leaves the software CPU alone, and boards that have no KVM', async () => {
    expect(await chooseEngine(spec('soft'), EVERYTHING)).toMatchObject({ engines: {}, note: '' });
    expect(await chooseEngine(spec('auto'), SOFT_ONLY)).toMatchObject({ engines: {}, note: '' });
  });

  it('gives virtual time to the software CPU without a word', async () => {
    const choice = await chooseEngine(spec('auto', 'virtual'), EVERYTHING);
    expect([choice.spec.engine, choice.note]).toEqual(['auto', '']);
  });

  it('takes KVM where it is usable, and says in one line why not elsewhere', async () => {
    const { usable, reason } = probeKvm();
    const choice = await chooseEngine(spec('auto'), EVERYTHING);
    expect(choice.spec.engine).toBe(usable ? 'kvm' : 'auto');
    expect(choice.note.includes('\n')).toBe(false);
    if (usable) expect(choice.note).toBe('');
    else expect(choice.note).toContain(reason);
  });

  it('takes KVM without asking when told to', async () => {
    const choice = await chooseEngine(spec('kvm'), EVERYTHING);
    expect([choice.spec.engine, choice.note, Object.keys(choice.engines)]).toEqual(['kvm', '', ['kvm']]);
  });
});

describe('a guest', () => {
  let folder = '';
  beforeAll(() => {
    folder = mkdtempSync(join(tmpdir(), 'hyve-engine-'));
    writeFileSync(join(folder, 'hello'), multiboot('hello\n'));
  });
  afterAll(() => rmSync(folder, { recursive: true, force: true }));

  const run = (engine: string): { status: number | null; out: string; err: string } => {
    const words = `--engine ${engine} -m 64M -s 0,hostbridge -s 31,lpc -l com1,stdio -f multiboot,${folder}/hello`;
    const bin = join(import.meta.dirname, '../bin/xhyve.js');
    const r = spawnSync(process.execPath, [bin, ...words.split(' ')], {
      encoding: 'utf8',
      timeout: 20_000,
      killSignal: 'SIGKILL',
      input: '',
    });
    return { status: r.status, out: r.stdout, err: r.stderr };
  };

  it('runs on the software CPU', () => {
    expect(run('soft')).toEqual({ status: 2, out: 'hello\n', err: '' });
  });

  it('ends with status 4, the address and the bytes where KVM cannot run an instruction', (ctx) => {
    const fault = kvmFault();
    if (fault !== null) return ctx.skip(fault);
    writeFileSync(join(folder, 'hello'), multiboot('', [0x9b])); // fwait
    const r = run('kvm');
    writeFileSync(join(folder, 'hello'), multiboot('hello\n'));
    if (probeKvm().usable) expect(r).toEqual({ status: 2, out: '', err: '' });
    else {
      expect([r.status, r.out]).toEqual([4, '']);
      expect(r.err).toMatch(
        /KVM cannot emulate the instruction at RIP 0x100020 \(32-bit code, linear 0x100020\): 9b fa f4/,
      );
    }
  });

  it('runs on KVM, or the command says why it cannot', (ctx) => {
    const r = run('kvm');
    const fault = kvmFault();
    if (fault === null) {
      expect(r).toEqual({ status: 2, out: 'hello\n', err: '' });
      return;
    }
    expect(r).toEqual({ status: 4, out: '', err: `xhyve: ${fault}\n` });
    ctx.skip(fault);
  });
});

function kvmFault(): string | null {
  try {
    new KvmHypervisor().close();
    return null;
  } catch (e) {
    if (isHyveError(e, 'ENGINE_UNAVAILABLE')) return e.message;
    throw e;
  }
}

/** A Multiboot kernel that sends text to COM1 and halts. */
function multiboot(text: string, more: readonly number[] = []): Uint8Array {
  const at = 0x100000;
  const code: number[] = [];
  for (const c of text) code.push(0xb0, c.charCodeAt(0), 0x66, 0xba, 0xf8, 0x03, 0xee); // mov al; mov dx, 0x3f8; out
  code.push(...more, 0xfa, 0xf4, 0xeb, 0xfd); // cli; hlt; again
  const bytes = new Uint8Array(32 + code.length);
  const header = new DataView(bytes.buffer);
  [0x1badb002, 0x10000, -(0x1badb002 + 0x10000), at, at, 0, 0, at + 32].forEach((v, i) => {
    header.setUint32(4 * i, v, true);
  });
  bytes.set(code, 32);
  return bytes;
}
