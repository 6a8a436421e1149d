// Checks on saved state that every device of this package shares.
import { HyveError } from '@hyve/core';

/** @internal Throws unless `state` is an object whose `v` is `version`. */
export function checkState(name: string, state: unknown, version: number): void {
  if (typeof state !== 'object' || state === null || !('v' in state))
    throw new HyveError('STATE_FORMAT', `${name}: saved state is not an object with a version`);
  if (state.v !== version)
    throw new HyveError('STATE_VERSION', `${name}: saved state has version ${String(state.v)}, expected ${version}`);
}
