// Submission and completion queues (NVMe 1.4 §4.1) and the requests that run between them.
import { type BlockStatus, Segments } from '@hyve/core';

/** A completion queue. @internal */
export class CompletionQueue {
  readonly id: number;
  readonly base: number;
  /** Entries. */
  readonly size: number;
  readonly vector: number;
  /** Whether entries raise the vector. */
  readonly interrupts: boolean;
  head = 0;
  tail = 0;
  /** Phase tag of the next entry. */
  phase = 1;
  /** Entries promised to commands that have been fetched: a completion always finds room. */
  reserved = 0;
  /** Submission queues that complete here. */
  users = 0;

  constructor(o: { id: number; base: number; size: number; vector: number; interrupts: boolean }) {
    this.id = o.id;
    this.base = o.base;
    this.size = o.size;
    this.vector = o.vector;
    this.interrupts = o.interrupts;
  }

  /** Entries the guest has not taken. */
  get used(): number {
    return this.tail >= this.head ? this.tail - this.head : this.tail - this.head + this.size;
  }

  /** Whether one more entry can be promised. A queue of n entries holds n - 1. */
  get hasRoom(): boolean {
    return this.used + this.reserved < this.size - 1;
  }
}

/** A submission queue. @internal */
export class SubmissionQueue {
  readonly id: number;
  readonly base: number;
  /** Entries. */
  readonly size: number;
  readonly cq: CompletionQueue;
  head = 0;
  tail = 0;
  /** Commands fetched and not completed. */
  inFlight = 0;
  /** Identifier of the delete command that waits for them, or -1. */
  deleteCid = -1;

  constructor(o: { id: number; base: number; size: number; cq: CompletionQueue }) {
    this.id = o.id;
    this.base = o.base;
    this.size = o.size;
    this.cq = o.cq;
  }
}

/** What a request has the back end do. */
export const OP_READ = 0;
export const OP_WRITE = 1;
export const OP_FLUSH = 2;
export const OP_VERIFY = 3;
export const OP_COMPARE = 4;
export const OP_ZERO = 5;
export const OP_DISCARD = 6;
export const OP_FORMAT = 7;
export const OP_SHUTDOWN = 8;

/** A command that a back end works on. Made once, used again and again. @internal */
export class Request {
  sq: SubmissionQueue | null = null;
  cid = 0;
  op: number = OP_READ;
  /** Next byte on the medium, bytes left, bytes of the step under way. */
  offset = 0;
  left = 0;
  chunk = 0;
  /** First byte on the medium, for comparing and for the error log. */
  start = 0;
  /** Whether a flush follows. */
  durable = false;
  /** Whether zeroed blocks may be given back. */
  unmap = false;
  /** Whether the back end has it. */
  busy = false;
  /** Whether nobody waits for its result any more. */
  cancelled = false;
  readonly segments: Segments = new Segments();
  /** Scratch for comparing, made at first use, and the list to pass it in. */
  scratch: Uint8Array | null = null;
  readonly scratchViews: Uint8Array[] = [];
  /** Ranges to discard: byte offset and length by turns, made at first use. */
  ranges: Float64Array | null = null;
  rangeCount = 0;
  rangeNext = 0;
  /** Continuations of the back end's promise. */
  readonly done: (status: BlockStatus) => void;
  readonly failed: () => void;

  constructor(done: (r: Request, status: BlockStatus) => void) {
    this.done = (status) => done(this, status);
    this.failed = () => done(this, 'io-error');
  }
}
