// What probeKvm finds and says.
import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { KvmHypervisor, probeKvm } from '../src/index.ts';
import { NEED, native, noKvm } from './setup.ts';

describe('probeKvm', () => {
  it('knows where there can be none', () => {
    expect(probeKvm({ platform: 'darwin' })).toEqual({
      usable: false,
      reason: 'KVM is part of Linux, and this is darwin',
    });
    expect(probeKvm({ platform: 'linux', arch: 'arm64' }).reason).toBe('KVM on arm64 cannot run x86 guests');
  });

  it('names a device that is missing', () => {
    const p = probeKvm({ platform: 'linux', arch: 'x64', device: '/dev/nowhere' });
    expect(p.usable).toBe(false);
    expect(p.reason).toMatch(/^there is no \/dev\/nowhere: load the module/);
  });

  it.skipIf(native === null)(`notices a file that is no KVM${NEED}`, () => {
    const folder = mkdtempSync(join(tmpdir(), 'hyve-kvm-'));
    const file = join(folder, 'kvm');
    writeFileSync(file, '');
    const p = probeKvm({ device: file });
    expect([p.usable, p.reason.includes(file)]).toEqual([false, true]);
    expect(() => new KvmHypervisor({ device: file })).toThrow(expect.objectContaining({ code: 'ENGINE_UNAVAILABLE' }));
    rmSync(folder, { recursive: true });
  });

  it.skipIf(noKvm !== null)(`wants VT-x or SVM for whole operating systems${NEED}`, () => {
    expect(probeKvm({ cpuinfo: 'flags\t\t: fpu vmx sse\n' })).toEqual({ usable: true, reason: '/dev/kvm with VT-x' });
    expect(probeKvm({ cpuinfo: 'flags\t\t: fpu svm sse\n' })).toEqual({ usable: true, reason: '/dev/kvm with SVM' });
    expect(probeKvm({ cpuinfo: 'flags\t\t: fpu sse\n' })).toMatchObject({
      usable: false,
      reason: expect.stringContaining('neither VT-x nor SVM'),
    });
  });

  it('names permissions and what to do about them', (ctx) => {
    if (noKvm !== null) return ctx.skip(noKvm);
    if (process.getuid?.() !== 0) return ctx.skip('only root can become somebody without permission');
    const source = new URL('../src/index.ts', import.meta.url).href;
    const script = `process.setgroups([]); process.setgid(65534); process.setuid(65534);
      const { probeKvm } = await import(${JSON.stringify(source)}); console.log(probeKvm().reason);`;
    const r = spawnSync(process.execPath, ['--input-type=module', '-e', script], { encoding: 'utf8' });
    if (r.status !== 0) return ctx.skip('the sources are not readable for others');
    if (!r.stdout.includes('permission')) return ctx.skip('/dev/kvm is open to everybody');
    expect(r.stdout).toMatch(/^no permission to open \/dev\/kvm \(mode \d+, user \d+, group \d+\): join its group/);
  });
});
