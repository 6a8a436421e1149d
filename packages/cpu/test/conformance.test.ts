// The engine-independent suite of @hyve/testkit, on the software CPU.
import { vcpuConformance } from '@hyve/testkit/conformance';
import { describe, it } from 'vitest';
import { SoftCpu } from '../src/index.ts';

vcpuConformance(
  () => new SoftCpu(),
  { describe, it },
  {
    knownGaps: {
      'real mode: code may write through CS': 'segment types are checked in real mode too',
    },
  },
);
