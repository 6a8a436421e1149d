// Virtio block device (virtio 1.2 §5.2; bhyve: pci_virtio_block.c) over core's BlockBackend: requests run at once and
// complete in any order.
import { type BlockBackend, type BlockStatus, HyveError, type Width } from '@hyve/core';
import { DescriptorChain, type VirtioDevice, type VirtioLink, type VirtQueue } from '@hyve/virtio';
import {
  CFG_ALIGNMENT_OFFSET,
  CFG_BLK_SIZE,
  CFG_BYTES,
  CFG_CAPACITY,
  CFG_CYLINDERS,
  CFG_DISCARD_ALIGNMENT,
  CFG_HEADS,
  CFG_MAX_DISCARD_SECTORS,
  CFG_MAX_DISCARD_SEG,
  CFG_MAX_WRITE_ZEROES_SECTORS,
  CFG_MAX_WRITE_ZEROES_SEG,
  CFG_MIN_IO_SIZE,
  CFG_NUM_QUEUES,
  CFG_OPT_IO_SIZE,
  CFG_PHYSICAL_BLOCK_EXP,
  CFG_SECTORS,
  CFG_SEG_MAX,
  CFG_SIZE_MAX,
  CFG_WRITE_ZEROES_MAY_UNMAP,
  CFG_WRITEBACK,
  F_BLK_SIZE,
  F_CONFIG_WCE,
  F_DISCARD,
  F_FLUSH,
  F_GEOMETRY,
  F_MQ,
  F_RO,
  F_SEG_MAX,
  F_SIZE_MAX,
  F_TOPOLOGY,
  F_WRITE_ZEROES,
  HEADER_BYTES,
  ID_BYTES,
  RANGE_BYTES,
  RANGE_UNMAP,
  S_IOERR,
  S_OK,
  S_UNSUPP,
  SECTOR,
  T_BARRIER,
  T_DISCARD,
  T_FLUSH,
  T_FLUSH_OUT,
  T_GET_ID,
  T_IN,
  T_OUT,
  T_WRITE_ZEROES,
} from './bits.ts';
import { type Range, Request } from './request.ts';

/** Options of {@link VirtioBlock}. */
export interface VirtioBlockOptions {
  /** The disk. The device never closes it before {@link VirtioBlock.close}. */
  readonly backend: BlockBackend;
  /** For messages. Default `virtio-blk`. */
  readonly name?: string;
  /** Identification the guest reads (`/sys/block/vda/serial`), at most 20 ASCII characters. Default none. */
  readonly serial?: string;
  /** Refuse writes even if the backend would take them. Default: as the backend. */
  readonly readOnly?: boolean;
  /** Offer discard. Default: if the backend can. */
  readonly discard?: boolean;
  /** Request queues, 1–64. Default 1. */
  readonly queues?: number;
  /** Descriptors of each queue, a power of two, at least 4. Default 256, with `copy` 128. */
  readonly queueSize?: number;
  /** Most data buffers of a request. Default: two less than the queue has descriptors. */
  readonly segMax?: number;
  /** Most bytes of one data buffer, for drivers that ask. Default 1 MiB, with `copy` 64 KiB. */
  readonly sizeMax?: number;
  /** Most requests with the backend at once, over all queues. Default 128, with `copy` 32. */
  readonly maxInFlight?: number;
  /**
   * Give the backend copies instead of guest memory, for machines whose memory views do not last, such as a WebAssembly
   * memory that grows. Takes up to `maxInFlight` × `segMax` × `sizeMax` bytes. Default false.
   */
  readonly copy?: boolean;
}

/** Saved state of {@link VirtioBlock}. */
export interface VirtioBlockStateV1 {
  /** Version of this format. */
  readonly v: 1;
  /** Write cache on. */
  readonly writeback: boolean;
  /** Bytes, so that a state is not loaded over a disk of another size. */
  readonly size: number;
}

/** Most bytes of one request; more is no driver's, which honour seg_max. */
const REQUEST_MAX = 128 << 20;
/** Most bytes given to the backend in one operation; larger requests go in pieces. */
const OPERATION_MAX = 4 << 20;
const DISCARD_SECTORS = 2 ** 31 / SECTOR;
const DISCARD_SEGMENTS = 32;
const WRITE_ZEROES_SECTORS = 2 ** 26 / SECTOR;
const WRITE_ZEROES_SEGMENTS = 1;

/**
 * bhyve's default identification: `BHYVE-XXXX-XXXX-XXXX` from the first six bytes of a digest of the disk's conf string
 * (bhyve: SHA-256 in xhyve, MD5 today).
 */
export function blockIdentity(digest: Uint8Array): string {
  const hex = [...digest.subarray(0, 6)].map((b) => b.toString(16).toUpperCase().padStart(2, '0'));
  return `BHYVE-${hex[0]}${hex[1]}-${hex[2]}${hex[3]}-${hex[4]}${hex[5]}`;
}

/**
 * The block device.
 * @example
 * const disk = new VirtioBlock({ backend, serial: 'HYVE-0001' });
 * pci.attach(new VirtioPci({ device: disk }), { slot: 3 });
 *
 * Not modelled: SCSI commands, secure erase, lifetime, zoned disks.
 */
export class VirtioBlock implements VirtioDevice {
  readonly name: string;
  readonly deviceId: number = 2;
  readonly classCode: number = 0x01_00_00;
  readonly queueSizes: readonly number[];
  readonly features: number;
  readonly configSize: number = CFG_BYTES;

  private readonly backend: BlockBackend;
  private readonly readOnly: boolean;
  private readonly canDiscard: boolean;
  private readonly copy: boolean;
  private readonly requestMax: number;
  private readonly id: Uint8Array = new Uint8Array(ID_BYTES);
  private readonly config: Uint8Array = new Uint8Array(CFG_BYTES);
  private readonly configView: DataView = new DataView(this.config.buffer);
  private readonly chain: DescriptorChain = new DescriptorChain();
  private readonly rangeBytes: Uint8Array = new Uint8Array(RANGE_BYTES * DISCARD_SEGMENTS);
  private readonly rangeView: DataView = new DataView(this.rangeBytes.buffer);
  /** Where reads of whole blocks put what nobody asked for. */
  private readonly padding: Uint8Array;
  private link: VirtioLink | null = null;

  private readonly free: Request[] = [];
  private readonly poolSize: number;
  private slots = 0;
  /** Requests with the backend for each queue, cancelled ones included. */
  private readonly inFlight: number[];
  /** Queues that may hold requests we had no slot for. */
  private readonly starved: boolean[];
  private anyStarved = false;
  /** Queues with completions that were not flushed. */
  private readonly unflushed: boolean[];
  private flushScheduled = false;
  private readonly flushQueues: () => void;
  private paused = false;
  private drained: (() => void)[] = [];

  private reads = 0;
  private writes = 0;
  private flushes = 0;
  private discards = 0;
  private writeZeroes = 0;
  private bytesRead = 0;
  private bytesWritten = 0;
  private errors = 0;
  private unsupported = 0;
  private malformed = 0;
  private cancelled = 0;

  /** @throws HyveError `VIRTIO_BLOCK` for options out of range */
  constructor(o: VirtioBlockOptions) {
    const b = o.backend;
    this.name = o.name ?? 'virtio-blk';
    this.backend = b;
    this.readOnly = b.readOnly || o.readOnly === true;
    this.canDiscard = (o.discard ?? b.canDiscard) && !this.readOnly;
    const queues = o.queues ?? 1;
    // bhyve has 128: a MiB of scattered pages is three requests then (126 buffers, 126 more, the rest), and mostly one with 256.
    // More than 256 is too much for some firmware.
    const queueSize = o.queueSize ?? (o.copy === true ? 128 : 256);
    const segMax = o.segMax ?? queueSize - 2;
    this.copy = o.copy === true;
    const sizeMax = o.sizeMax ?? (this.copy ? 1 << 16 : 1 << 20);
    this.poolSize = o.maxInFlight ?? (this.copy ? 32 : 128);
    // Drivers keep to seg_max and size_max; nothing larger may make us take memory.
    this.requestMax = this.copy ? Math.min(REQUEST_MAX, segMax * sizeMax) : REQUEST_MAX;
    const check = (what: string, v: number, low: number, high: number): void => {
      if (!(Number.isInteger(v) && v >= low && v <= high))
        throw new HyveError('VIRTIO_BLOCK', `${this.name}: ${what} ${v}, expected ${low}-${high}`);
    };
    check('queues', queues, 1, 64);
    check('queueSize', queueSize, 4, 32768);
    check('segMax', segMax, 1, 1022);
    check('sizeMax', sizeMax, 4096, 2 ** 31);
    check('maxInFlight', this.poolSize, 1, 65536);
    const serial = o.serial ?? '';
    if (serial.length > ID_BYTES || !/^[\x20-\x7e]*$/.test(serial))
      throw new HyveError('VIRTIO_BLOCK', `${this.name}: serial "${serial}", expected up to 20 ASCII characters`);
    for (let i = 0; i < serial.length; i++) this.id[i] = serial.charCodeAt(i);
    this.queueSizes = Array.from({ length: queues }, () => queueSize);
    this.inFlight = this.queueSizes.map(() => 0);
    this.starved = this.queueSizes.map(() => false);
    this.unflushed = this.queueSizes.map(() => false);
    this.flushQueues = () => this.flushNow();
    this.padding = new Uint8Array(b.sectorSize);
    const bit = (on: boolean, n: number): number => (on ? 1 << n : 0);
    this.features =
      bit(true, F_SIZE_MAX) |
      bit(true, F_SEG_MAX) |
      bit(true, F_GEOMETRY) |
      bit(this.readOnly, F_RO) |
      bit(true, F_BLK_SIZE) |
      bit(true, F_FLUSH) |
      bit(true, F_TOPOLOGY) |
      bit(true, F_CONFIG_WCE) |
      bit(queues > 1, F_MQ) |
      bit(this.canDiscard, F_DISCARD) |
      bit(!this.readOnly, F_WRITE_ZEROES);

    const c = this.configView;
    this.putCapacity();
    c.setUint32(CFG_SIZE_MAX, sizeMax, true);
    c.setUint32(CFG_SEG_MAX, segMax, true);
    c.setUint32(CFG_BLK_SIZE, b.sectorSize, true);
    const perPhysical = Math.max(1, b.physicalSectorSize / b.sectorSize);
    c.setUint8(CFG_PHYSICAL_BLOCK_EXP, Math.round(Math.log2(perPhysical)));
    c.setUint8(CFG_ALIGNMENT_OFFSET, 0);
    c.setUint16(CFG_MIN_IO_SIZE, perPhysical, true);
    c.setUint32(CFG_OPT_IO_SIZE, 0, true);
    c.setUint8(CFG_WRITEBACK, 1);
    c.setUint16(CFG_NUM_QUEUES, queues, true);
    c.setUint32(CFG_MAX_DISCARD_SECTORS, DISCARD_SECTORS, true);
    c.setUint32(CFG_MAX_DISCARD_SEG, DISCARD_SEGMENTS, true);
    c.setUint32(CFG_DISCARD_ALIGNMENT, b.physicalSectorSize / SECTOR, true);
    c.setUint32(CFG_MAX_WRITE_ZEROES_SECTORS, WRITE_ZEROES_SECTORS, true);
    c.setUint32(CFG_MAX_WRITE_ZEROES_SEG, WRITE_ZEROES_SEGMENTS, true);
    c.setUint8(CFG_WRITE_ZEROES_MAY_UNMAP, this.canDiscard ? 1 : 0);
  }

  private putCapacity(): void {
    const c = this.configView;
    const sectors = Math.floor(this.backend.size / SECTOR);
    c.setUint32(CFG_CAPACITY, sectors % 2 ** 32, true);
    c.setUint32(CFG_CAPACITY + 4, Math.floor(sectors / 2 ** 32), true);
    // The usual translation: 63 sectors, 16 to 255 heads, as many cylinders as fit 16 bits.
    const heads = sectors > 63 * 16 * 1024 ? 255 : 16;
    c.setUint16(CFG_CYLINDERS, Math.min(0xffff, Math.floor(sectors / (heads * 63))), true);
    c.setUint8(CFG_HEADS, heads);
    c.setUint8(CFG_SECTORS, 63);
  }

  /** The backend's size changed: the guest is told. */
  resized(): void {
    this.putCapacity();
    this.link?.configChanged();
  }

  attach(link: VirtioLink): void {
    this.link = link;
  }

  configRead(offset: number, width: Width): number {
    let v = 0;
    for (let i = 0; i < width; i++) if (offset + i < CFG_BYTES) v |= (this.config[offset + i] as number) << (8 * i);
    return v >>> 0;
  }

  configWrite(offset: number, width: Width, value: number): void {
    if (offset > CFG_WRITEBACK || offset + width <= CFG_WRITEBACK || this.link?.has(F_CONFIG_WCE) !== true) return;
    this.config[CFG_WRITEBACK] = (value >>> (8 * (CFG_WRITEBACK - offset))) & 1;
  }

  /** Whether a completed write must be on stable storage (§5.2.6.2). */
  private writeThrough(): boolean {
    const link = this.link as VirtioLink;
    return link.has(F_CONFIG_WCE) ? this.config[CFG_WRITEBACK] === 0 : !link.has(F_FLUSH);
  }

  // ---- Requests in -------------------------------------------------------------------------------------------------

  queueNotify(queue: VirtQueue): void {
    let left = queue.size;
    let more = true;
    while (more && left > 0) {
      const request = this.free.pop() ?? this.newRequest();
      if (request === null) break;
      more = queue.pop(this.chain);
      if (more) {
        left--;
        this.begin(queue, request);
      } else this.free.push(request);
    }
    // Answers that needed no backend.
    this.unflushed[queue.index] = false;
    queue.flush();
    if (!more) return;
    // No free slot: a completion goes on here. A driver on another thread can also refill the ring without end: after one
    // lap, whoever waits comes first.
    this.starved[queue.index] = true;
    this.anyStarved = true;
    if (left === 0) this.scheduleFlush();
  }

  private newRequest(): Request | null {
    if (this.slots === this.poolSize) return null;
    this.slots++;
    return new Request((r, status) => this.finish(r, status));
  }

  private begin(queue: VirtQueue, r: Request): void {
    const chain = this.chain;
    const link = this.link as VirtioLink;
    r.queue = queue;
    r.generation = queue.generation;
    r.token = chain.token;
    if (chain.readableBytes < HEADER_BYTES || chain.writableBytes === 0) {
      // Without a header or a status byte there is no way to answer.
      this.malformed++;
      this.free.push(r);
      link.fail('block request without header or status byte');
      return;
    }
    const dma = link.dma;
    const typeRaw = chain.readable32(dma, 0);
    const lo = chain.readable32(dma, 8);
    const hi = chain.readable32(dma, 12);
    r.statusAddr = chain.writableAddress(chain.writableBytes - 1);
    r.written = 1;
    r.through = false;
    // Sectors of a disk fit 2^44; what is above is out of range whatever it is.
    r.offset = hi > 0xfff ? Number.POSITIVE_INFINITY : (hi * 2 ** 32 + lo) * SECTOR;
    r.type = typeRaw >= T_BARRIER ? typeRaw - T_BARRIER : typeRaw;
    switch (r.type) {
      case T_IN:
        this.beginRead(r);
        break;
      case T_OUT:
        this.beginWrite(r);
        break;
      case T_FLUSH:
      case T_FLUSH_OUT:
        this.flushes++;
        this.launch(r);
        break;
      case T_GET_ID:
        this.answerId(r);
        break;
      case T_DISCARD:
      case T_WRITE_ZEROES:
        this.beginRanges(r);
        break;
      default:
        this.unsupported++;
        this.answer(r, S_UNSUPP);
    }
  }

  /** Whether `n` bytes at `offset` are on the disk and of a length a request may have. */
  private inRange(offset: number, n: number): boolean {
    return (
      n > 0 && n <= this.requestMax && n % SECTOR === 0 && offset + n <= Math.floor(this.backend.size / SECTOR) * SECTOR
    );
  }

  private beginRead(r: Request): void {
    const chain = this.chain;
    const dma = (this.link as VirtioLink).dma;
    const n = chain.writableBytes - 1;
    this.reads++;
    if (n === 0) {
      this.answer(r, S_OK);
      return;
    }
    if (!this.inRange(r.offset, n)) {
      this.refuse(r);
      return;
    }
    // Sectors of 512 bytes from a disk with larger ones: read whole blocks, the rest into a place nobody looks at.
    const unit = this.backend.sectorSize;
    const before = r.offset % unit;
    const after = (unit - ((before + n) % unit)) % unit;
    if (r.offset + n + after > this.backend.size) {
      this.refuse(r);
      return;
    }
    r.list.begin(true);
    if (before > 0) r.list.addHost(dma, this.padding.subarray(0, before));
    if (!chain.writeViews(dma, 0, n, r.list)) {
      this.refuse(r);
      return;
    }
    if (after > 0) r.list.addHost(dma, this.padding.subarray(0, after));
    if (this.copy) r.detach(false);
    r.offset -= before;
    r.written = n + 1;
    this.bytesRead += n;
    this.launch(r);
  }

  private beginWrite(r: Request): void {
    const chain = this.chain;
    const dma = (this.link as VirtioLink).dma;
    const n = chain.readableBytes - HEADER_BYTES;
    this.writes++;
    if (this.readOnly) {
      this.refuse(r);
      return;
    }
    if (n === 0) {
      this.answer(r, S_OK);
      return;
    }
    // Parts of a block cannot be written without reading the rest first; blk_size told the driver.
    const unit = this.backend.sectorSize;
    if (!this.inRange(r.offset, n) || r.offset % unit !== 0 || n % unit !== 0) {
      this.refuse(r);
      return;
    }
    r.list.begin(false);
    if (!chain.readViews(dma, HEADER_BYTES, n, r.list)) {
      this.refuse(r);
      return;
    }
    if (this.copy) r.detach(true);
    this.bytesWritten += n;
    r.through = this.writeThrough();
    this.launch(r);
  }

  /** A request in pieces of at most {@link OPERATION_MAX}, one after the other. */
  private async pieces(r: Request): Promise<BlockStatus> {
    const write = r.type === T_OUT;
    const views = r.list.views;
    let offset = r.offset;
    let index = 0;
    let skip = 0;
    while (index < views.length) {
      const piece: Uint8Array[] = [];
      let size = 0;
      while (index < views.length && size < OPERATION_MAX) {
        const view = views[index] as Uint8Array;
        const take = Math.min(view.length - skip, OPERATION_MAX - size);
        piece.push(view.subarray(skip, skip + take));
        size += take;
        skip += take;
        if (skip === view.length) {
          index++;
          skip = 0;
        }
      }
      const at = offset;
      const status = await (write ? this.backend.write(at, piece) : this.backend.read(at, piece));
      if (status !== 'ok') return status;
      offset += size;
    }
    return r.through ? this.backend.flush() : 'ok';
  }

  private beginRanges(r: Request): void {
    const discard = r.type === T_DISCARD;
    if (discard) this.discards++;
    else this.writeZeroes++;
    const n = this.chain.readableBytes - HEADER_BYTES;
    if (this.readOnly) {
      this.refuse(r);
      return;
    }
    if (discard && !this.canDiscard) {
      this.unsupported++;
      this.answer(r, S_UNSUPP);
      return;
    }
    const most = discard ? DISCARD_SEGMENTS : WRITE_ZEROES_SEGMENTS;
    if (n === 0 || n % RANGE_BYTES !== 0 || n > most * RANGE_BYTES) {
      this.refuse(r);
      return;
    }
    if (this.chain.copyOut((this.link as VirtioLink).dma, HEADER_BYTES, this.rangeBytes.subarray(0, n)) !== n) {
      this.refuse(r);
      return;
    }
    const count = n / RANGE_BYTES;
    const unit = this.backend.sectorSize;
    const v = this.rangeView;
    for (let i = 0; i < count; i++) {
      const at = i * RANGE_BYTES;
      const hi = v.getUint32(at + 4, true);
      const sectors = v.getUint32(at + 8, true);
      const flags = v.getUint32(at + 12, true);
      if ((flags & ~RANGE_UNMAP) !== 0 || (discard && flags !== 0)) {
        this.unsupported++;
        this.answer(r, S_UNSUPP);
        return;
      }
      const offset = hi > 0xfff ? Number.POSITIVE_INFINITY : (hi * 2 ** 32 + v.getUint32(at, true)) * SECTOR;
      const length = sectors * SECTOR;
      if (
        sectors > (discard ? DISCARD_SECTORS : WRITE_ZEROES_SECTORS) ||
        offset + length > Math.floor(this.backend.size / SECTOR) * SECTOR ||
        offset % unit !== 0 ||
        length % unit !== 0
      ) {
        this.refuse(r);
        return;
      }
      let range = r.ranges[i];
      if (range === undefined) {
        range = { offset: 0, length: 0, unmap: false };
        r.ranges.push(range);
      }
      range.offset = offset;
      range.length = length;
      range.unmap = (flags & RANGE_UNMAP) !== 0 && this.canDiscard;
    }
    r.rangeCount = count;
    r.list.clear();
    r.through = this.writeThrough();
    this.launch(r);
  }

  private async rangeByRange(r: Request): Promise<BlockStatus> {
    const discard = r.type === T_DISCARD;
    for (let i = 0; i < r.rangeCount; i++) {
      const { offset, length, unmap } = r.ranges[i] as Range;
      if (length === 0) continue;
      const status = await (discard
        ? this.backend.discard(offset, length)
        : this.backend.writeZeroes(offset, length, unmap));
      if (status !== 'ok') return status;
    }
    return r.through ? this.backend.flush() : 'ok';
  }

  private answerId(r: Request): void {
    const chain = this.chain;
    const n = Math.min(chain.writableBytes - 1, ID_BYTES);
    if (chain.copyIn((this.link as VirtioLink).dma, 0, this.id.subarray(0, n)) !== n) {
      this.refuse(r);
      return;
    }
    r.written = n + 1;
    this.answer(r, S_OK);
  }

  // ---- To the backend and back -------------------------------------------------------------------------------------

  private launch(r: Request): void {
    const now = this.workNow(r);
    if (now !== null) {
      this.settle(r, now);
      return;
    }
    const n = (r.queue as VirtQueue).index;
    this.inFlight[n] = (this.inFlight[n] as number) + 1;
    try {
      this.work(r).then(r.done, r.failed);
    } catch {
      // A backend that throws is broken, but that is no reason to stop the guest.
      Promise.resolve().then(r.failed);
    }
  }

  /** What the backend can do while the driver's notification is being handled; null for all else. */
  private workNow(r: Request): BlockStatus | null {
    const b = this.backend;
    if (r.type === T_IN) return b.readNow?.(r.offset, r.list.views) ?? null;
    return r.type === T_OUT && !r.through ? (b.writeNow?.(r.offset, r.list.views) ?? null) : null;
  }

  private work(r: Request): Promise<BlockStatus> {
    const b = this.backend;
    switch (r.type) {
      case T_IN:
        return r.list.bytes <= OPERATION_MAX ? b.read(r.offset, r.list.views) : this.pieces(r);
      case T_OUT:
        return r.list.bytes <= OPERATION_MAX && !r.through ? b.write(r.offset, r.list.views) : this.pieces(r);
      case T_DISCARD:
      case T_WRITE_ZEROES:
        return this.rangeByRange(r);
      default:
        return b.flush();
    }
  }

  private finish(r: Request, status: unknown): void {
    const queue = r.queue as VirtQueue;
    this.inFlight[queue.index] = (this.inFlight[queue.index] as number) - 1;
    if (this.settle(r, status)) {
      this.unflushed[queue.index] = true;
      this.scheduleFlush();
    } else if (this.anyStarved) this.scheduleFlush();
    if (this.drained.length > 0 && !this.busy()) {
      this.flushNow();
      const waiting = this.drained;
      this.drained = [];
      for (const w of waiting) w();
    }
  }

  /** The backend is done: data and status to the driver. False when it has forgotten the request. */
  private settle(r: Request, status: unknown): boolean {
    const link = this.link as VirtioLink;
    const forgotten = r.generation !== (r.queue as VirtQueue).generation;
    if (r.type === T_IN && !this.copy) r.list.dirty(link.dma);
    else if (r.type === T_IN && status === 'ok' && !forgotten) r.deliver(link.dma);
    r.list.clear();
    if (forgotten) {
      // Reset since: its memory may be anything by now.
      this.cancelled++;
      this.free.push(r);
      return false;
    }
    if (status === 'ok') this.answer(r, S_OK);
    else if (status === 'unsupported') {
      this.unsupported++;
      r.written = 1;
      this.answer(r, S_UNSUPP);
    } else this.refuse(r);
    return true;
  }

  private refuse(r: Request): void {
    this.errors++;
    r.list.clear();
    r.written = 1;
    this.answer(r, S_IOERR);
  }

  /** Puts the status byte and gives the chain back; the queue's flush is the caller's. */
  private answer(r: Request, status: number): void {
    const queue = r.queue as VirtQueue;
    (this.link as VirtioLink).dma.write8(r.statusAddr, status);
    queue.pushToken(r.token, r.written);
    this.free.push(r);
  }

  /** One flush for all completions that are ready in this turn. */
  private scheduleFlush(): void {
    if (this.flushScheduled) return;
    this.flushScheduled = true;
    Promise.resolve().then(this.flushQueues);
  }

  private flushNow(): void {
    this.flushScheduled = false;
    const link = this.link as VirtioLink;
    for (let i = 0; i < this.unflushed.length; i++) {
      if (!this.unflushed[i]) continue;
      this.unflushed[i] = false;
      link.queue(i).flush();
    }
    if (!this.anyStarved || this.paused) return;
    // Slots are free again.
    this.anyStarved = false;
    for (let i = 0; i < this.starved.length; i++) {
      if (!this.starved[i]) continue;
      this.starved[i] = false;
      this.queueNotify(link.queue(i));
    }
  }

  // ---- Life --------------------------------------------------------------------------------------------------------

  busy(queue?: VirtQueue): boolean {
    if (queue !== undefined) return (this.inFlight[queue.index] as number) > 0;
    for (const n of this.inFlight) if (n > 0) return true;
    return false;
  }

  reset(): void {
    // Requests with the backend cannot be called back; their completions find another generation.
    this.config[CFG_WRITEBACK] = 1;
    this.starved.fill(false);
    this.anyStarved = false;
    this.unflushed.fill(false);
  }

  queueReset(queue: VirtQueue): void {
    this.starved[queue.index] = false;
    this.unflushed[queue.index] = false;
  }

  pause(): Promise<void> {
    this.paused = true;
    if (!this.busy()) {
      this.flushNow();
      return Promise.resolve();
    }
    return new Promise((resolve) => this.drained.push(resolve));
  }

  resume(): void {
    this.paused = false;
  }

  save(): VirtioBlockStateV1 {
    return { v: 1, writeback: this.config[CFG_WRITEBACK] === 1, size: this.backend.size };
  }

  load(state: unknown): void {
    const s = state as VirtioBlockStateV1 | null;
    if (typeof s !== 'object' || s === null || s.v !== 1)
      throw new HyveError('STATE_VERSION', `${this.name}: expected state version 1`);
    if (typeof s.writeback !== 'boolean' || s.size !== this.backend.size)
      throw new HyveError('STATE_FORMAT', `${this.name}: state of a disk of ${s.size} bytes, not ${this.backend.size}`);
    this.config[CFG_WRITEBACK] = s.writeback ? 1 : 0;
  }

  counters(): Readonly<Record<string, number>> {
    return {
      reads: this.reads,
      writes: this.writes,
      flushes: this.flushes,
      discards: this.discards,
      writeZeroes: this.writeZeroes,
      bytesRead: this.bytesRead,
      bytesWritten: this.bytesWritten,
      errors: this.errors,
      unsupported: this.unsupported,
      malformed: this.malformed,
      cancelled: this.cancelled,
    };
  }

  /** Waits for what is in flight, then closes the backend. */
  async close(): Promise<void> {
    await this.pause();
    await this.backend.close();
  }
}
