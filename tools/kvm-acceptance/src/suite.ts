// The conformance suite of @hyve/testkit on both engines, side by side.
import { type Hypervisor, isHyveError } from '@hyve/core';
import { SoftCpu } from '@hyve/cpu';
import { KvmHypervisor } from '@hyve/hv-native';
import { CONFORMANCE_CASES } from '@hyve/testkit/conformance';

/** One case's row. */
export interface Row {
  /** The case. */
  readonly name: string;
  /** `passes`, or what went wrong. */
  readonly soft: string;
  /** Likewise on KVM. */
  readonly kvm: string;
}

function outcome(run: (engine: Hypervisor) => void, make: () => Hypervisor): string {
  let engine: Hypervisor | null = null;
  try {
    engine = make();
    run(engine);
    return 'passes';
  } catch (e) {
    if (isHyveError(e, 'ENGINE_UNAVAILABLE') && engine === null) return `not run: ${e.message}`;
    return (e instanceof Error ? e.message : String(e)).split('\n')[0] as string;
  } finally {
    if (engine instanceof KvmHypervisor) engine.close();
  }
}

/** Runs every case on both. `told` hears of each row as it is done. */
export function conformance(told: (row: Row) => void): Row[] {
  const rows: Row[] = [];
  for (const c of CONFORMANCE_CASES) {
    const run = (engine: Hypervisor): void => c.run(engine);
    const row = { name: c.name, soft: outcome(run, () => new SoftCpu()), kvm: outcome(run, () => new KvmHypervisor()) };
    rows.push(row);
    told(row);
  }
  return rows;
}
