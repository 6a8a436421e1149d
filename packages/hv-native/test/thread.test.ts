// Processor time of a thread: it goes by as the thread runs, not while it sleeps, and is exact to the moment.
import { describe, expect, it } from 'vitest';
import { buildThread } from '../scripts/native-build.ts';
import { threadClock } from '../src/thread.ts';

const built = buildThread();
// Without a compiler the suite skips; sources that do not compile are a fault.
if (built.broken === true) throw new Error(built.detail);
const need = built.ok ? '' : ` (needs a C++ compiler: ${built.detail})`;

describe.skipIf(!built.ok)(`the clock of a thread${need}`, () => {
  const used = threadClock() as () => number;

  it('goes on with each of a few instructions', () => {
    let last = used();
    for (let n = 0; n < 2000; n++) {
      const now = used();
      // Less than a tick of any scheduler apart, and never the same.
      expect(now).toBeGreaterThan(last);
      last = now;
    }
  });

  it('stands still while the thread sleeps', () => {
    const before = used();
    Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 100);
    expect(used() - before).toBeLessThan(20e6);
  });

  it('is never ahead of the clock on the wall', () => {
    const wall = performance.now();
    const before = used();
    while (performance.now() - wall < 20);
    const spent = used() - before;
    expect(spent).toBeLessThanOrEqual((performance.now() - wall) * 1e6);
    expect(spent).toBeGreaterThan(0);
  });
});
