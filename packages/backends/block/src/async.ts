// Small tools for requests in flight.

/** @internal Runs jobs one at a time, in the order they came. */
export class Mutex {
  private tail: Promise<unknown> = Promise.resolve();
  /** Runs `job` once all earlier ones have ended. */
  run<T>(job: () => Promise<T>): Promise<T> {
    const result = this.tail.then(job);
    this.tail = result.then(ignore, ignore);
    return result;
  }
}

/** @internal Does nothing. */
export function ignore(): void {}

/** @internal Waits for every promise to end, then throws what the first failing one threw. */
export async function settle(promises: readonly Promise<unknown>[]): Promise<void> {
  if (promises.length === 0) return;
  if (promises.length === 1) {
    await promises[0];
    return;
  }
  const results = await Promise.allSettled(promises);
  for (const r of results) if (r.status === 'rejected') throw r.reason;
}

/**
 * @internal Merges calls: one that comes while a run is under way waits for a run that starts after it, together with all
 * others that came meanwhile. So whatever completed before the call is seen by the run that answers it.
 */
export class Gate {
  private readonly job: () => Promise<void>;
  private running: Promise<void> | null = null;
  private next: Promise<void> | null = null;
  constructor(job: () => Promise<void>) {
    this.job = job;
  }
  /** A run that starts now or later. */
  run(): Promise<void> {
    if (this.next !== null) return this.next;
    if (this.running === null) return this.start();
    const next = this.running.then(ignore, ignore).then(() => {
      this.next = null;
      return this.start();
    });
    this.next = next;
    return next;
  }
  private start(): Promise<void> {
    const p = this.job();
    this.running = p;
    const done = (): void => {
      if (this.running === p) this.running = null;
    };
    p.then(done, done);
    return p;
  }
}

/** @internal Lets other work go on. */
export function breathe(): Promise<void> {
  return new Promise((resolve) => {
    setImmediate(resolve);
  });
}

/** @internal Jobs that run beside their starter; none is left behind, and the first failure is kept. */
export class Jobs {
  private readonly promises: Promise<void>[] = [];
  private failed = false;
  private error: unknown = null;
  /** Takes a job that is under way. */
  add(job: Promise<unknown>): void {
    this.promises.push(
      job.then(ignore, (e: unknown) => {
        if (!this.failed) this.error = e;
        this.failed = true;
      }),
    );
  }
  /** Waits for all, then throws the first failure. */
  async end(): Promise<void> {
    await Promise.all(this.promises);
    if (this.failed) throw this.error;
  }
}
