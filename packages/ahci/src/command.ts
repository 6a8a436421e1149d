// One command in execution: what its header and FIS said, how far its PRD table has been walked (AHCI 1.3.1 §4.2.3), and
// the transfer a back end works on. There are 32 for each port, made once.
import { type BlockBackend, type BlockStatus, type DmaMemory, Segments } from '@hyve/core';
import { PRD_BYTES, PRD_COUNT_MASK, TABLE_PRDT } from './bits.ts';

/** What a command has a back end do. */
export const OP_READ = 0;
export const OP_WRITE = 1;
export const OP_VERIFY = 2;
export const OP_FLUSH = 3;
export const OP_TRIM = 4;

/** PRD entries walked for one back-end request; longer tables take several requests, one after the other. */
const MAX_PIECES = 1024;
/** Bytes of one back-end request. */
const MAX_CHUNK = 4 << 20;

/** A command slot's contents. @internal */
export class Command {
  /** Place in the port's pool. */
  readonly index: number;
  /** Slot in the command list it came from. */
  slot = 0;
  /** Address of the command header, for PRDBC. */
  header = 0;
  /** Address of the command table. */
  table = 0;
  /** The H2D FIS; results go into the same bytes and from there into the D2H FIS. */
  readonly cfis: Uint8Array = new Uint8Array(20);
  /** The ATAPI command. */
  readonly acmd: Uint8Array = new Uint8Array(16);
  /** Whether it is an FPDMA command, and its tag. */
  ncq = false;
  tag = 0;
  /** Whether a PIO Setup FIS goes before the final one. */
  pio = false;
  /** One of the `OP_` constants. */
  op: number = OP_READ;
  /** Next byte on the medium, bytes left, bytes of the request under way. */
  offset = 0;
  left = 0;
  chunk = 0;
  /** Who does it, from start to end, though the medium may be changed meanwhile. */
  backend: BlockBackend | null = null;
  /** Transfer granularity, bytes. */
  unit = 512;
  /** Whether a write is followed by a flush. */
  durable = false;
  /** Bytes moved between guest memory and the device: PRDBC. */
  moved = 0;
  /** Whether a back end works on it. */
  busy = false;
  /** Whether nobody waits for its result any more. */
  cancelled = false;
  /** Whether a PRD with its interrupt bit has been finished. */
  descriptorDone = false;
  readonly segments: Segments = new Segments();
  /** Continuations of the back end's promise, made once. */
  readonly done: (status: BlockStatus) => void;
  readonly failed: () => void;

  private prdtl = 0;
  private prd = 0;
  private prdOffset = 0;

  constructor(index: number, done: (cmd: Command, status: BlockStatus) => void) {
    this.index = index;
    this.done = (status) => done(this, status);
    this.failed = () => done(this, 'io-error');
  }

  /** Takes a new command. */
  begin(slot: number, header: number, table: number, prdtl: number): void {
    this.slot = slot;
    this.header = header;
    this.table = table;
    this.prdtl = prdtl;
    this.prd = 0;
    this.prdOffset = 0;
    this.moved = 0;
    this.ncq = false;
    this.pio = false;
    this.op = OP_READ;
    this.durable = false;
    this.cancelled = false;
    this.descriptorDone = false;
  }

  /**
   * Gathers the next bytes of the PRD table into {@link Command.segments}, whole units unless the table ends first.
   * Returns how many, or -1 when an entry points to what is not memory.
   */
  gather(dma: DmaMemory, want: number, toGuest: boolean): number {
    const s = this.segments;
    const limit = Math.min(want, MAX_CHUNK);
    s.begin(toGuest);
    let pieces = 0;
    while (s.bytes < limit && this.prd < this.prdtl) {
      const entry = this.table + TABLE_PRDT + this.prd * PRD_BYTES;
      const control = dma.read32(entry + 12);
      const size = ((control & PRD_COUNT_MASK) | 1) + 1;
      let n = Math.min(size - this.prdOffset, limit - s.bytes);
      if (pieces >= MAX_PIECES) {
        const rest = s.bytes % this.unit;
        if (rest === 0) break;
        n = Math.min(n, this.unit - rest);
      }
      const base = dma.read32(entry + 4) * 0x1_0000_0000 + ((dma.read32(entry) & ~1) >>> 0);
      if (!s.add(dma, base + this.prdOffset, n)) return -1;
      pieces++;
      this.prdOffset += n;
      if (this.prdOffset === size) {
        this.prd++;
        this.prdOffset = 0;
        if (control >= 0x8000_0000) this.descriptorDone = true;
      }
    }
    return s.end(dma) ? s.bytes : -1;
  }

  /** Reads the next `n` bytes the guest sends into `into`. False when the PRD table ends first or is not memory. */
  take(dma: DmaMemory, into: Uint8Array, n: number): boolean {
    if (this.gather(dma, n, false) !== n) return false;
    this.segments.copyOut(into);
    this.segments.clear();
    this.moved += n;
    return true;
  }

  /** Writes `n` bytes of `from` for the guest, as much as the PRD table has room for. False when it is not memory. */
  give(dma: DmaMemory, from: Uint8Array, n: number): boolean {
    const room = this.gather(dma, n, true);
    if (room < 0) return false;
    this.segments.fill(from, room);
    this.segments.clear();
    this.moved += room;
    return true;
  }
}
