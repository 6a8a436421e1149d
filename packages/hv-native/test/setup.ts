// What the tests here need: the addon, built now if there is a compiler, and a /dev/kvm that opens.
import { readFileSync } from 'node:fs';
import { vi } from 'vitest';
import { type BuildResult, buildNative } from '../scripts/native-build.ts';
import { KvmHypervisor } from '../src/index.ts';
import { loadNative, type Native } from '../src/native.ts';

// Whatever starts them: these tests run processes and guests, and wait up to 10 s themselves on a busy machine.
vi.setConfig({ testTimeout: 30_000, hookTimeout: 30_000 });

const given = (process.env['HYVE_NATIVE_LIBRARY'] ?? '') !== '';
const built: BuildResult = given ? { ok: true, detail: '' } : buildNative();
// Without a compiler the suites skip; sources that do not compile are a fault.
if (built.broken === true) throw new Error(built.detail);

/** The addon, or null. */
export const native: Native | null = built.ok ? loadNative() : null;

function fault(): string | null {
  if (native === null) return built.detail;
  try {
    new KvmHypervisor().close();
    return null;
  } catch (e) {
    return (e as Error).message;
  }
}

/** Why there is no KVM here, or null. */
export const noKvm: string | null = fault();

/** Whether the processor virtualizes in hardware. KVM without it emulates what user code in long mode is not. */
export const hardware: boolean = /^flags\s*:.*\b(vmx|svm)\b/m.test(
  process.platform === 'linux' ? readFileSync('/proc/cpuinfo', 'utf8') : '',
);

/** For names of tests that skip. */
export const NEED: string = noKvm === null ? '' : ` (needs KVM: ${noKvm.replaceAll(/[()]/g, '')})`;
