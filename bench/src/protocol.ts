// What a bench guest says on its console (see guests/main.c), with the host's time of each line.

/** One timed repetition of a workload. */
export interface Sample {
  /** `GROUP/NAME`. */
  readonly name: string;
  /** Which repetition, from 0, of the same process. */
  readonly repetition: number;
  /** Of the results, 16 hexadecimal digits. */
  readonly checksum: string;
  /** By the guest's monotonic clock. */
  readonly guestNs: number;
}

/** Reads the console of one run. */
export class GuestLog {
  /** In the order they ended. */
  readonly samples: Sample[] = [];
  /** Workloads whose process died, with the wait status. */
  readonly failures: { readonly name: string; readonly status: string }[] = [];
  /** Host time of `@R`, milliseconds; null before. */
  readyMs: number | null = null;
  /** The kernel's clock source. */
  clockSource = '';
  /** Whether `@D` was seen. */
  done = false;
  /** The workload that runs, empty between them. */
  running = '';
  /** The last lines, for messages. */
  readonly tail: string[] = [];
  private firstMs = 0;
  private firstNs = 0;
  private lastMs = 0;
  private lastNs = 0;
  private rest = '';

  /** What the guest's clock and the host's say of the time between the first and the last `@S`, milliseconds. */
  elapsed(): { readonly guestMs: number; readonly hostMs: number } {
    return { guestMs: (this.lastNs - this.firstNs) / 1e6, hostMs: this.lastMs - this.firstMs };
  }

  /** Console output that arrived at `nowMs`, in pieces of any size. */
  feed(text: string, nowMs: number): void {
    const lines = (this.rest + text).split('\n');
    this.rest = lines.pop() ?? '';
    for (const line of lines) this.line(line.replace(/\r$/, ''), nowMs);
  }

  private line(line: string, nowMs: number): void {
    this.tail.push(line);
    if (this.tail.length > 20) this.tail.shift();
    const [word, name = '', a = '', b = '', c = ''] = line.split(' ');
    switch (word) {
      case '@R':
        this.readyMs = nowMs;
        break;
      case '@K':
        this.clockSource = name;
        break;
      case '@S':
        this.running = name;
        if (this.firstMs === 0) {
          this.firstMs = nowMs;
          this.firstNs = Number(b);
        }
        this.lastMs = nowMs;
        this.lastNs = Number(b);
        break;
      case '@E':
        this.samples.push({
          name,
          repetition: Number(a),
          checksum: b,
          guestNs: Number(c),
        });
        this.running = '';
        break;
      case '@F':
        this.failures.push({ name, status: a });
        this.running = '';
        break;
      case '@D':
        this.done = true;
        break;
    }
  }
}
