// The default host scheduler.
import type { WakeSignal } from '@hyve/vmm';
import { describe, expect, it } from 'vitest';
import { hostScheduler } from '../src/index.ts';

describe('hostScheduler', () => {
  it('sleeps until it is woken, and not at all when that was before', async () => {
    const s = hostScheduler();
    const signal: WakeSignal = { woken: false, onWake: null };
    const sleep = s.sleep(60e9, signal);
    signal.onWake?.();
    await sleep;
    await s.sleep(60e9, { woken: true, onWake: null });
  });

  it('leaves the wake-up of a long sleep alone when the short one before it was woken early', async () => {
    const s = hostScheduler();
    const signal: WakeSignal = { woken: false, onWake: null };
    const short = s.sleep(1000, signal);
    signal.onWake?.();
    await short;
    const long = s.sleep(60e9, signal);
    for (let i = 0; i < 3; i++) await new Promise((r) => setImmediate(r));
    expect(signal.onWake).not.toBeNull();
    signal.onWake?.();
    await long;
  });
});
