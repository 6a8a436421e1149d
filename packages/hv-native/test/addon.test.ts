// The addon's own face: what it exports, and that nothing JavaScript does to it crashes the process.
import { spawnSync } from 'node:child_process';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { PART_REGS, SIZE_REGS } from '../src/bits.ts';
import * as api from '../src/index.ts';
import type { Native } from '../src/native.ts';
import { NEED, native, noKvm } from './setup.ts';

it('exports these names', () => {
  expect(Object.keys(api).sort()).toEqual(['KvmHypervisor', 'guardSignal', 'probeKvm']);
});

describe.skipIf(native === null || noKvm !== null)(`the addon${NEED}`, () => {
  const n = native as Native;
  const code = (f: () => unknown): unknown => {
    try {
      f();
      return 'none';
    } catch (e) {
      return (e as { code?: unknown }).code;
    }
  };

  it('tells handles apart', () => {
    const system = n.open('/dev/kvm');
    const vm = n.createVm(system);
    const vcpu = n.createVcpu(system, vm, 0);
    for (const wrong of [system, vm, {}, null, 0, undefined])
      expect(code(() => n.run(wrong as never, 1))).toBe('ERR_ARGUMENT');
    expect(code(() => n.createVm(vm as never))).toBe('ERR_ARGUMENT');
    expect(code(() => n.closeVm(vcpu as never))).toBe('ERR_ARGUMENT');
    n.closeVm(vm);
    n.closeSystem(system);
  });

  it('knows closed ones, and closes twice', () => {
    const system = n.open('/dev/kvm');
    const vm = n.createVm(system);
    const vcpu = n.createVcpu(system, vm, 0);
    const page = n.runPage(vcpu);
    expect(n.runPage(vcpu)).toBe(page);
    n.closeVm(vm);
    n.closeVm(vm);
    expect(code(() => n.run(vcpu, 1))).toBe('ERR_CLOSED');
    expect(code(() => n.createVcpu(system, vm, 1))).toBe('ERR_CLOSED');
    expect(page.byteLength).toBeGreaterThan(0); // mapped as long as it can be reached
    n.closeVcpu(vcpu);
    n.closeVcpu(vcpu);
    expect(page.byteLength).toBe(0);
    n.closeSystem(system);
    n.closeSystem(system);
    expect(code(() => n.createVm(system))).toBe('ERR_CLOSED');
  });

  it('checks sizes to the byte', () => {
    const system = n.open('/dev/kvm');
    const vm = n.createVm(system);
    const vcpu = n.createVcpu(system, vm, 0);
    for (const size of [0, SIZE_REGS - 1, SIZE_REGS + 1, 1 << 20])
      expect(code(() => n.get(vcpu, PART_REGS, new Uint8Array(size)))).toBe('ERR_ARGUMENT');
    expect(n.get(vcpu, PART_REGS, new Uint8Array(SIZE_REGS))).toBe(0);
    for (const part of [-1, 13, 0.5, Number.NaN])
      expect(code(() => n.get(vcpu, part, new Uint8Array(SIZE_REGS)))).toBe('ERR_ARGUMENT');
    n.closeVm(vm);
    n.closeSystem(system);
  });

  it('takes guest memory from shared buffers only, in whole pages', () => {
    const system = n.open('/dev/kvm');
    const vm = n.createVm(system);
    const shared = new Uint8Array(new WebAssembly.Memory({ initial: 1, maximum: 1, shared: true }).buffer);
    expect(code(() => n.setMemory(vm, 0, 0, new Uint8Array(65536)))).toBe('ERR_ARGUMENT');
    expect(code(() => n.setMemory(vm, 0, 0, shared.subarray(1)))).toBe('ERR_ARGUMENT');
    expect(code(() => n.setMemory(vm, 0, 0, shared.subarray(0, 100)))).toBe('ERR_ARGUMENT');
    expect(code(() => n.setMemory(vm, 0, -4096, shared))).toBe('ERR_ARGUMENT');
    expect(n.setMemory(vm, 0, 0x100, shared)).toBeLessThan(0);
    expect(n.setMemory(vm, 0, 0, shared)).toBe(0);
    expect(code(() => n.setMemory(vm, 0, 0x100000, shared))).toBe('ERR_ARGUMENT');
    expect(n.setMemory(vm, 1, 0x1000, shared)).toBeLessThan(0); // overlaps
    n.closeVm(vm);
    n.closeSystem(system);
  });

  it.for([1, 2, 3])('survives 8000 random calls (seed %i)', { timeout: 30_000 }, (seed) => {
    const r = spawnSync(process.execPath, ['--expose-gc', join(import.meta.dirname, 'fuzz.ts'), String(seed), '8000'], {
      encoding: 'utf8',
      timeout: 25_000,
      killSignal: 'SIGKILL',
    });
    expect([r.status, r.signal, r.stderr]).toEqual([0, null, '']);
    const { threw, fine, functions } = JSON.parse(r.stdout) as { threw: number; fine: number; functions: number };
    expect(functions).toBe(41);
    expect(threw).toBeGreaterThan(1000);
    expect(fine).toBeGreaterThan(500);
  });
});
