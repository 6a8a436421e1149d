// The engine-independent suite of @hyve/testkit on the software CPU: as it comes, interpreted only, and with every block
// translated at its first run.
import { vcpuConformance } from '@hyve/testkit/conformance';
import { describe, it } from 'vitest';
import { SoftCpu } from '../src/index.ts';

for (const [how, threshold] of [
  ['default', undefined],
  ['interpreter', 0],
  ['translator', 1],
] as const)
  describe(how, () => {
    vcpuConformance(() => new SoftCpu(threshold === undefined ? {} : { threshold }), { describe, it });
  });
