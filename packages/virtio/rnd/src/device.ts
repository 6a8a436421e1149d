// Virtio entropy device (virtio 1.2 §5.4; bhyve: pci_virtio_rnd.c): one queue of writable buffers that are filled with
// random bytes.
import { type Clock, type EntropySource, HyveError, Segments, type Timer, type Width } from '@hyve/core';
import { DescriptorChain, type VirtioDevice, type VirtioLink, type VirtQueue } from '@hyve/virtio';

/** Most random bytes per second, as a token bucket. */
export interface VirtioRndRate {
  /** Bytes per second, more than 0. */
  readonly bytesPerSecond: number;
  /** Bytes that may go out at once after a quiet time. Default: one second's worth. */
  readonly burst?: number;
  /** Where time comes from. */
  readonly clock: Clock;
}

/** Options of {@link VirtioRnd}. */
export interface VirtioRndOptions {
  /** Where random bytes come from. */
  readonly source: EntropySource;
  /** For messages. Default `virtio-rnd`. */
  readonly name?: string;
  /** Descriptors, a power of two. Default 64, as bhyve. */
  readonly queueSize?: number;
  /** Most bytes one request gets, at least 1; the driver asks again for more. Default 65536. */
  readonly maxBytes?: number;
  /** Default: no limit. */
  readonly rate?: VirtioRndRate;
}

/** Saved state of {@link VirtioRnd}. */
export interface VirtioRndStateV1 {
  /** Version of this format. */
  readonly v: 1;
  /** Bytes that may go out at once. */
  readonly tokens: number;
}

const NS_PER_SECOND = 1e9;
/** A request is held back until so many bytes may go out (or all it may ever get), so that nobody is fed byte by byte. */
const LEAST = 64;
const SCRATCH = 4096;

/**
 * The entropy device.
 * @example
 * const rnd = new VirtioRnd({ source: { fill: (b) => crypto.getRandomValues(b) } });
 * pci.attach(new VirtioPci({ device: rnd }), { slot: 4 });
 */
export class VirtioRnd implements VirtioDevice {
  readonly name: string;
  readonly deviceId: number = 4;
  readonly classCode: number = 0x10_00_00;
  readonly queueSizes: readonly number[];
  readonly features: number = 0;
  readonly configSize: number = 0;

  private readonly source: EntropySource;
  private readonly maxBytes: number;
  private readonly clock: Clock | null;
  private readonly timer: Timer | null;
  private readonly perNs: number;
  private readonly burst: number;
  private readonly least: number;
  private readonly chain: DescriptorChain = new DescriptorChain();
  private readonly scratch: Uint8Array = new Uint8Array(SCRATCH);
  private readonly views: Segments = new Segments();
  private link: VirtioLink | null = null;
  private readonly more: () => void;
  private deferred = false;
  private tokens: number;
  private refilledAt: number;
  private paused = false;

  private requests = 0;
  private bytes = 0;
  private throttled = 0;
  private malformed = 0;
  private sourceErrors = 0;

  /** @throws HyveError `VIRTIO_RND` for limits that let nothing through */
  constructor(o: VirtioRndOptions) {
    this.name = o.name ?? 'virtio-rnd';
    this.source = o.source;
    this.queueSizes = [o.queueSize ?? 64];
    this.maxBytes = o.maxBytes ?? 65536;
    if (!(Number.isInteger(this.maxBytes) && this.maxBytes >= 1))
      throw new HyveError('VIRTIO_RND', `${this.name}: ${this.maxBytes} bytes per request, expected at least 1`);
    const rate = o.rate;
    const burst = rate === undefined ? 0 : (rate.burst ?? rate.bytesPerSecond);
    if (rate !== undefined && !(rate.bytesPerSecond > 0 && burst >= 1))
      throw new HyveError('VIRTIO_RND', `${this.name}: ${rate.bytesPerSecond} bytes/s in bursts of ${burst}`);
    this.clock = rate?.clock ?? null;
    this.more = () => {
      this.deferred = false;
      if (!this.paused && this.link !== null) this.queueNotify(this.link.queue(0));
    };
    this.timer = rate?.clock.timer(this.more) ?? null;
    this.perNs = (rate?.bytesPerSecond ?? 0) / NS_PER_SECOND;
    this.burst = burst;
    this.least = Math.min(LEAST, burst);
    this.tokens = burst;
    this.refilledAt = this.clock?.now() ?? 0;
  }

  attach(link: VirtioLink): void {
    this.link = link;
  }

  configRead(_offset: number, _width: Width): number {
    return 0;
  }

  configWrite(_offset: number, _width: Width, _value: number): void {}

  queueNotify(queue: VirtQueue): void {
    const link = this.link as VirtioLink;
    let laps = queue.size;
    while (laps > 0 && (this.clock === null || this.allowed()) && queue.pop(this.chain)) {
      laps--;
      this.requests++;
      queue.push(this.chain, this.serve(link));
    }
    queue.flush();
    // A driver on another thread can refill the ring without end: after one lap, whoever waits comes first.
    if (laps === 0 && !this.deferred) {
      this.deferred = true;
      Promise.resolve().then(this.more);
    }
  }

  /** Fills what may be filled; returns how many bytes. */
  private serve(link: VirtioLink): number {
    let want = Math.min(this.chain.writableBytes, this.maxBytes);
    if (this.clock !== null) want = Math.min(want, Math.floor(this.tokens));
    if (want === 0) {
      this.malformed++;
      return 0;
    }
    const list = this.views;
    list.begin(true);
    if (!this.chain.writeViews(link.dma, 0, want, list)) this.malformed++;
    let got = 0;
    try {
      for (let i = 0; i < list.views.length; i++) {
        const view = list.views[i] as Uint8Array;
        for (let at = 0; at < view.length; at += SCRATCH) {
          // Not into guest memory at once: getRandomValues refuses memory that is shared between threads.
          const part = Math.min(SCRATCH, view.length - at);
          const bytes = part === SCRATCH ? this.scratch : this.scratch.subarray(0, part);
          this.source.fill(bytes);
          view.set(bytes, at);
          got += part;
        }
      }
    } catch {
      this.sourceErrors++;
    }
    list.clear();
    if (this.clock !== null) this.tokens -= got;
    this.bytes += got;
    return got;
  }

  /** Whether a request may be served now; if not, the timer is set for when it may. */
  private allowed(): boolean {
    const now = (this.clock as Clock).now();
    this.tokens = Math.min(this.burst, this.tokens + (now - this.refilledAt) * this.perNs);
    this.refilledAt = now;
    if (this.tokens >= this.least) return true;
    const timer = this.timer as Timer;
    if (!timer.armed) {
      this.throttled++;
      timer.arm(now + Math.ceil((this.least - this.tokens) / this.perNs));
    }
    return false;
  }

  reset(): void {
    // The bucket stays as full as it is: a driver must not get more by resetting.
    this.timer?.disarm();
  }

  pause(): void {
    this.paused = true;
    this.timer?.disarm();
  }

  resume(): void {
    this.paused = false;
  }

  save(): VirtioRndStateV1 {
    return { v: 1, tokens: this.tokens };
  }

  load(state: unknown): void {
    const s = state as VirtioRndStateV1 | null;
    if (typeof s !== 'object' || s === null || s.v !== 1)
      throw new HyveError('STATE_VERSION', `${this.name}: expected state version 1`);
    if (!(typeof s.tokens === 'number' && s.tokens >= 0))
      throw new HyveError('STATE_FORMAT', `${this.name}: ${s.tokens} tokens`);
    this.tokens = Math.min(s.tokens, this.burst);
    this.refilledAt = this.clock?.now() ?? 0;
  }

  counters(): Readonly<Record<string, number>> {
    return {
      requests: this.requests,
      bytes: this.bytes,
      throttled: this.throttled,
      malformed: this.malformed,
      sourceErrors: this.sourceErrors,
    };
  }
}
