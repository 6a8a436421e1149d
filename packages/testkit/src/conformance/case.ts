// The shape of a conformance case.
import type { Hypervisor } from '@hyve/core';

/** One thing an engine must do. */
export interface ConformanceCase {
  /** `group: behaviour`. */
  readonly name: string;
  /** Throws if the engine does something else. */
  run(hypervisor: Hypervisor): void;
}
