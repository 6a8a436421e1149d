// The engine-independent suite of @hyve/testkit on KVM. What a KVM without hardware cannot execute is skipped by name.
import { vcpuConformance } from '@hyve/testkit/conformance';
import { afterEach, describe, it } from 'vitest';
import { CAP_TSC_CONTROL } from '../src/bits.ts';
import { KvmHypervisor } from '../src/index.ts';
import { hardware, NEED, native, noKvm } from './setup.ts';

const EMULATOR = "VT-x or SVM: without them KVM's emulator lacks";

/** Cases that no KVM passes. */
const ALWAYS: Readonly<Record<string, string>> = {
  'PAUSE: an exit where it was asked for, nothing otherwise': 'exits on PAUSE, which KVM has not',
};

/** Cases that need a processor with VT-x or SVM. */
const EMULATED: Readonly<Record<string, string>> = {
  'triple fault: Shutdown, again on every run, until reset': `${EMULATOR} the limit of the real-mode IDT`,
  'protected mode: #DE, #BP, #OF, #UD and #NM with the right address and no error code': `${EMULATOR} INT3`,
  'protected mode: #GP, #NP and #SS carry the selector; a null SS is #GP(0); limits are checked': `${EMULATOR} INT n`,
  'protected mode: IRET to ring 3, INT back through the TSS; ring 3 may not HLT, CLI or touch ports': `${EMULATOR} IRETD`,
  'protected mode: an interrupt comes in ring 3 and IRET goes back to it': `${EMULATOR} IRETD`,
  'protected mode: trap flag, hardware breakpoints on code and data, and DR6': `${EMULATOR} breakpoints on data`,
  '32-bit paging: error codes and CR2 of #PF, 4 MiB pages, accessed and dirty bits, WP': `${EMULATOR} 32-bit paging`,
  'x87 and SSE state is in getState, and comes back by setState': `${EMULATOR} FWAIT and most of x87`,
  'long mode: an access over a page boundary faults on the page that is missing, and changes nothing': `${EMULATOR} stores that take back their first half`,
  'long mode: #GP and #SS for non-canonical addresses, #UD, #DE, #AC off, and 64-bit frames': `${EMULATOR} INT3`,
  'debugger: stops after a store to a watched address': `${EMULATOR} breakpoints on data`,
  'long mode: SYSCALL, SYSRET and SWAPGS; these MSRs stay in the engine': `${EMULATOR} SYSCALL's mask of flags`,
};

/** Cases that need a processor that scales the time stamp counter. */
const UNSCALED: Readonly<Record<string, string>> = {
  'TSC: goes forward, at the frequency asked for': 'a processor that scales the time stamp counter',
};

function scales(): boolean {
  if (native === null) return false;
  const system = native.open('/dev/kvm');
  const yes = native.checkExtension(system, CAP_TSC_CONTROL) > 0;
  native.closeSystem(system);
  return yes;
}

if (noKvm !== null) {
  describe('vCPU conformance', () => {
    it.skip(`on KVM${NEED}`, () => {});
  });
} else {
  const engines: KvmHypervisor[] = [];
  const gaps = { ...ALWAYS, ...(hardware ? {} : EMULATED), ...(scales() ? {} : UNSCALED) };
  afterEach(() => {
    for (const e of engines.splice(0)) e.close();
  });
  const make = (): KvmHypervisor => {
    const engine = new KvmHypervisor();
    engines.push(engine);
    return engine;
  };
  vcpuConformance(
    make,
    {
      describe,
      it: (name, body) =>
        /\(known gap: /.test(name) ? it.skip(name.replace('known gap: ', 'needs '), () => {}) : it(name, body, 30_000),
    },
    { knownGaps: gaps },
  );
}
