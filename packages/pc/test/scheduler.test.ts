// The default host scheduler.
import type { WakeSignal } from '@hyve/vmm';
import { afterEach, describe, expect, it, vi } from 'vitest';
import { serveAlarm } from '../src/alarm.ts';
import { Alarm, hostScheduler } from '../src/index.ts';
import type { VcpuWorker } from '../src/threads.ts';

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

/** A thread that is none: it is told what to do, and says when it was told to end. */
class FakeThread implements VcpuWorker {
  onMessage: ((message: unknown) => void) | null = null;
  onDeath: ((reason: string) => void) | null = null;
  words: Int32Array = new Int32Array(2);
  closed = false;
  post(message: unknown): void {
    this.words = message as Int32Array;
  }
  /** The time that is set, µs. */
  get us(): number {
    return this.words[1] as number;
  }
  /** It has come so far that it serves. */
  begin(): void {
    this.onMessage?.('begun');
  }
  /** Rings for an order: the last unless said. */
  ring(order = this.words[0] as number): void {
    this.onMessage?.(order);
  }
  close(): Promise<void> {
    this.closed = true;
    return Promise.resolve();
  }
}

describe('Alarm', () => {
  it('calls what was set last, once, and nothing when it was cleared', () => {
    const thread = new FakeThread();
    const alarm = new Alarm(thread);
    const [first, second] = [vi.fn(), vi.fn()];
    alarm.set(500_000, first);
    const order = thread.words[0] as number;
    alarm.set(250_400, second);
    expect(thread.us).toBe(250);
    thread.ring(order);
    thread.ring();
    thread.ring();
    expect([first.mock.calls.length, second.mock.calls.length]).toEqual([0, 1]);
    alarm.set(1, first);
    alarm.clear();
    thread.ring();
    expect(first).not.toHaveBeenCalled();
  });

  it('tells its thread to end', async () => {
    const thread = new FakeThread();
    const alarm = new Alarm(thread);
    expect(alarm.ready).toBe(false);
    thread.begin();
    expect(alarm.ready).toBe(true);
    await alarm.close();
    expect([thread.us, thread.closed, alarm.ready]).toEqual([-1, true, false]);
  });
});

describe('serveAlarm', () => {
  it('rings when the time has come, not for an order that came too late, and returns at the end', () => {
    const words = new Int32Array(new SharedArrayBuffer(8));
    const said: unknown[] = [];
    const rung: number[] = [];
    let serve: (message: unknown) => void = () => {};
    serveAlarm({
      // What it says comes between its looks at the words: here the next order is given.
      post: (m) => {
        said.push(m);
        if (typeof m !== 'number') return;
        rung.push(m);
        words[1] = rung.length < 3 ? 100 * rung.length : -1;
        words[0] = (words[0] as number) + 1;
      },
      listen: (f) => {
        serve = f;
      },
    });
    words[1] = 1;
    words[0] = 1;
    serve(words);
    expect(said).toEqual(['begun', 1, 2, 3]);
  });
});

describe('hostScheduler with an alarm', () => {
  afterEach(() => {
    vi.restoreAllMocks();
    vi.useRealTimers();
  });

  /** A scheduler that has gone round the event loop so often that it has its alarm. No time goes by from then on. */
  async function ringing() {
    vi.spyOn(performance, 'now').mockReturnValue(0);
    const thread = new FakeThread();
    const start = vi.fn(() => new Alarm(thread));
    const s = hostScheduler(start);
    const signal: WakeSignal = { woken: false, onWake: null };
    for (let n = 0; n < 400_000 && start.mock.calls.length === 0; n++) await s.sleep(1000, signal);
    expect(start).toHaveBeenCalledTimes(1);
    // Until the thread has begun, the event loop goes round.
    const order = thread.words[0];
    await s.sleep(900_000, signal);
    expect(thread.words[0]).toBe(order);
    thread.begin();
    vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] });
    return { s, signal, thread };
  }

  it('sleeps until it rings, and leaves longer and shorter sleeps as they were', async () => {
    const { s, signal, thread } = await ringing();
    let over = false;
    const sleep = s.sleep(900_000, signal).then(() => {
      over = true;
    });
    expect(thread.us).toBe(800);
    // The event loop has gone round, and it sleeps on.
    await new Promise((r) => setImmediate(r));
    expect(over).toBe(false);
    thread.ring();
    await sleep;
    const order = thread.words[0];
    await s.sleep(20_000, signal);
    const long = s.sleep(60e9, signal);
    signal.onWake?.();
    await long;
    expect(thread.words[0]).toBe(order);
  });

  it('is woken early, and by a timer when the alarm fails', async () => {
    const { s, signal, thread } = await ringing();
    const early = s.sleep(900_000, signal);
    signal.onWake?.();
    await early;
    const late = s.sleep(900_000, signal);
    vi.advanceTimersByTime(1);
    expect(signal.onWake).not.toBeNull();
    vi.advanceTimersByTime(2);
    await late;
    thread.onDeath?.('gone');
    const order = thread.words[0];
    await s.sleep(900_000, signal);
    expect(thread.words[0]).toBe(order);
  });
});
