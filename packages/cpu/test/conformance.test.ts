// The engine-independent suite of @hyve/testkit on the software CPU: as it comes, interpreted only, and with every block
// translated at its first run; and all of that as one thread of several.
import type { VmOptions } from '@hyve/core';
import { INTERRUPT_CASE_NAMES, vcpuConformance } from '@hyve/testkit/conformance';
import { describe, it } from 'vitest';
import { SoftCpu } from '../src/index.ts';

/** One vCPU of a VM whose other one belongs to another thread: locked instructions, fences and page walks are atomic. */
class Threaded extends SoftCpu {
  override createVm(o: VmOptions): ReturnType<SoftCpu['createVm']> {
    return super.createVm(o.vcpus === 1 ? { ...o, vcpus: 2, threads: true } : o);
  }
}

const knownGaps = Object.fromEntries(
  INTERRUPT_CASE_NAMES.map((name) => [name, 'interrupt controllers of its own: the board brings them']),
);

for (const [how, threshold] of [
  ['default', undefined],
  ['interpreter', 0],
  ['translator', 1],
] as const)
  describe(how, () => {
    vcpuConformance(() => new SoftCpu(threshold === undefined ? {} : { threshold }), { describe, it }, { knownGaps });
  });

for (const [how, threshold] of [
  ['interpreter', 0],
  ['translator', 1],
] as const)
  describe(`one of several threads, ${how}`, () => {
    vcpuConformance(() => new Threaded({ threshold }), { describe, it }, { knownGaps });
  });
