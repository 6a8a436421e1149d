// The controller on PCI: registers, doorbells, queues, interrupts, enabling and shutting down (NVMe 1.4 §3, §4, §7; bhyve:
// pci_nvme.c). io.ts executes I/O commands, admin.ts answers questions.
//
// Requests that a reset takes away from the guest still run in the back end, with views into guest memory. Until the last of
// them is over CSTS.RDY keeps its old value, as a slow controller's does, and no new life starts.
import {
  type BlockBackend,
  type DmaMemory,
  HyveError,
  type PciContext,
  type PciDevice,
  type PciSpec,
  Segments,
  type Width,
} from '@hyve/core';
import { Admin, type Identity, type NvmeAdminStateV1 } from './admin.ts';
import * as bits from './bits.ts';
import {
  CC_EN,
  CSTS_CFS,
  CSTS_NSSRO,
  CSTS_RDY,
  CSTS_SHST_COMPLETE,
  CSTS_SHST_MASK,
  CSTS_SHST_OCCURRING,
  DNR,
  DOORBELLS,
  EVENT_ERROR,
  EVENT_ERROR_DOORBELL_REGISTER,
  EVENT_ERROR_DOORBELL_VALUE,
  LOG_ERROR,
  PAGE,
  SC_CQ_INVALID,
  SC_FORMAT,
  SC_INVALID_FIELD,
  SC_INVALID_NAMESPACE,
  SC_INVALID_OPCODE,
  SC_PRP_OFFSET,
  SC_QUEUE_DELETION,
  SC_QUEUE_ID,
  SC_QUEUE_SIZE,
  SC_SUCCESS,
  SC_VECTOR,
  SC_WRITE_PROTECTED,
} from './bits.ts';
import { mapPrp } from './data-pointer.ts';
import { hash48, MDTS } from './identify.ts';
import { IoEngine, type IoHost, PENDING } from './io.ts';
import { CompletionQueue, OP_SHUTDOWN, type Request, SubmissionQueue } from './queues.ts';

/** Options of {@link NvmeController}; the names in parentheses are bhyve's. */
export interface NvmeOptions {
  /** For messages and saved state. Default `nvme`. */
  readonly name?: string;
  /** The namespace's data. */
  readonly backend: BlockBackend;
  /** I/O queues of each kind (`maxq`), 1–2047. Default 16. */
  readonly maxQueues?: number;
  /** Most entries of an I/O queue (`qsz`), 2–65536. Default 2048. */
  readonly queueSize?: number;
  /** I/O commands worked on at the same time (`ioslots`), 1–1024. Default 64. */
  readonly ioSlots?: number;
  /** Block size (`sectsz`): 512 or 4096, at least the back end's sector size. Default: the back end's. */
  readonly blockSize?: number;
  /** Serial number (`ser`), at most 20 ASCII characters. Default: made from the back end's identity. */
  readonly serial?: string;
  /** Model, at most 40 characters. Default `bhyve-NVMe`. */
  readonly model?: string;
  /** Firmware revision, at most 8 characters. Default `1.0`. */
  readonly firmware?: string;
  /** IEEE extended unique identifier (`eui64`). Default: made from the back end's identity. */
  readonly eui64?: bigint;
  /** Dataset management (`dsm`). Default `auto`: if the back end can discard. */
  readonly dsm?: 'auto' | 'enable' | 'disable';
}

/** A queue in the saved state. */
export interface NvmeQueueStateV1 {
  readonly id: number;
  readonly base: number;
  readonly size: number;
  readonly head: number;
  readonly tail: number;
  /** Completion queues: phase tag of the next entry, vector, whether it raises it. */
  readonly phase?: number;
  readonly vector?: number;
  readonly interrupts?: boolean;
  /** Submission queues: where they complete. */
  readonly cq?: number;
}

/** Saved state of {@link NvmeController}. */
export interface NvmeStateV1 {
  /** Version of this format. */
  readonly v: 1;
  /** Registers as the guest reads them. */
  readonly cc: number;
  readonly csts: number;
  readonly aqa: number;
  readonly asqLo: number;
  readonly asqHi: number;
  readonly acqLo: number;
  readonly acqHi: number;
  readonly intms: number;
  /** I/O queues of each kind the guest may create. */
  readonly grantedQueues: number;
  /** Completion queues, the admin one first while the controller is ready. */
  readonly completion: readonly NvmeQueueStateV1[];
  /** Submission queues likewise. */
  readonly submission: readonly NvmeQueueStateV1[];
  readonly admin: NvmeAdminStateV1;
}

const VENDOR = 0xfb5d;
const DEVICE = 0x0a0a;
const MAX_QUEUES = 2047;
const MIN_BAR = 0x4000;
/** Half seconds a driver waits for CSTS.RDY. */
const TIMEOUT = 60;
const TWO_32 = 0x1_0000_0000;
const STATE_REGISTERS = ['cc', 'csts', 'aqa', 'asqLo', 'asqHi', 'acqLo', 'acqHi', 'intms'] as const;

/**
 * An NVMe controller with one namespace: a function for core's PCI bus interface.
 *
 * Not modelled: metadata and protection information, fused commands, reservations, several namespaces, namespace
 * management, firmware download, security, sanitize, controller memory buffer, host memory buffer, arbitration other than
 * round robin, interrupt coalescing, power states.
 *
 * @example
 * const nvme = new NvmeController({ backend, serial: 'DISK-1' });
 * pci.attach(nvme, { slot: 4 });
 */
export class NvmeController implements PciDevice, IoHost {
  readonly name: string;
  readonly spec: PciSpec;
  private readonly io: IoEngine;
  private readonly admin: Admin;
  private readonly maxQueues: number;
  private readonly queueSize: number;
  private readonly submission: (SubmissionQueue | null)[];
  private readonly completion: (CompletionQueue | null)[];
  /** Carries FORMAT, and the flush of a shutdown. */
  private readonly formatRequest: Request;
  private readonly shutdownRequest: Request;
  private readonly adminSegments: Segments = new Segments();
  private context: PciContext | null = null;
  private cc = 0;
  private csts = 0;
  private aqa = 0;
  private asqLo = 0;
  private asqHi = 0;
  private acqLo = 0;
  private acqHi = 0;
  private intms = 0;
  private paused = false;
  /** Whether the admin queue waits for FORMAT or for a queue to empty. */
  private adminBusy = false;
  /** Whether SHN was written and the flush has not begun. */
  private shutdownPending = false;
  /** Where round-robin arbitration goes on. */
  private turn = 1;
  private pumping = false;
  private intxLevel = false;
  private adminCommands = 0;
  private errors = 0;
  private invalidDoorbells = 0;
  private interrupts = 0;
  private resets = 0;
  private idleWaiters: (() => void)[] = [];

  /** @throws HyveError `NVME_OPTIONS` for numbers out of range, `NVME_BACKEND` for sizes that do not fit, `NVME_IDENTITY` */
  constructor(o: NvmeOptions) {
    this.name = o.name ?? 'nvme';
    const bad = (code: string, what: string): HyveError => new HyveError(code, `${this.name}: ${what}`);
    const number = (what: string, value: number, least: number, most: number): number => {
      if (!Number.isInteger(value) || value < least || value > most)
        throw bad('NVME_OPTIONS', `${what} ${value}, expected ${least}-${most}`);
      return value;
    };
    const text = (what: string, value: string, limit: number): string => {
      if (value.length > limit || !/^[\x20-\x7e]*$/.test(value))
        throw bad('NVME_IDENTITY', `${what} "${value}", expected at most ${limit} ASCII characters`);
      return value;
    };
    const backend = o.backend;
    const blockSize = o.blockSize ?? backend.sectorSize;
    if (![512, 4096].includes(blockSize) || blockSize % backend.sectorSize !== 0)
      throw bad(
        'NVME_BACKEND',
        `blocks of ${blockSize} bytes on sectors of ${backend.sectorSize}, expected 512 or 4096 and whole sectors`,
      );
    if (backend.size < blockSize) throw bad('NVME_BACKEND', 'the image has not even one block');
    this.maxQueues = number('maxQueues', o.maxQueues ?? 16, 1, MAX_QUEUES);
    this.queueSize = number('queueSize', o.queueSize ?? 2048, 2, 65536);
    const slots = number('ioSlots', o.ioSlots ?? 64, 1, 1024);
    const hash = hash48(backend.identity);
    const eui64 = o.eui64 ?? (0x589cfcn << 40n) | (BigInt(`0x${hash}`) & 0xff_ffff_ffffn);
    if (eui64 < 0n || eui64 >= 1n << 64n) throw bad('NVME_IDENTITY', `eui64 ${eui64}, expected 64 bits`);
    const identity: Identity = {
      vendor: VENDOR,
      serial: text('serial', o.serial ?? `NVME-${hash.slice(0, 4)}-${hash.slice(4, 8)}-${hash.slice(8)}`, 20),
      model: text('model', o.model ?? 'bhyve-NVMe', 40),
      firmware: text('firmware', o.firmware ?? '1.0', 8),
      eui64: Uint8Array.from({ length: 8 }, (_, i) => Number((eui64 >> BigInt(56 - 8 * i)) & 0xffn)),
    };
    const dsm = o.dsm === 'enable' || (o.dsm !== 'disable' && backend.canDiscard);
    this.io = new IoEngine({ host: this, backend, blockSize, dsm, slots });
    this.admin = new Admin({ identity, io: this.io, maxQueues: this.maxQueues });
    this.formatRequest = this.io.make();
    this.shutdownRequest = this.io.make();
    this.submission = Array.from({ length: this.maxQueues + 1 }, () => null);
    this.completion = Array.from({ length: this.maxQueues + 1 }, () => null);
    const vectors = this.maxQueues + 1;
    const size = Math.max(MIN_BAR, 2 ** Math.ceil(Math.log2(DOORBELLS + 8 * vectors)));
    const table = 2 ** Math.ceil(Math.log2(Math.ceil((vectors * 16) / PAGE) * PAGE + PAGE));
    this.spec = {
      vendor: VENDOR,
      device: DEVICE,
      classCode: 0x01_08_02,
      bars: [
        { bar: 0, kind: 'mem64', size, widths: 4 },
        { bar: 4, kind: 'mem32', size: table },
      ],
      msix: { vectors, bar: 4 },
      intx: true,
      express: 'root-complex-integrated',
    };
  }

  // ---- PCI ---------------------------------------------------------------------------------------------------------

  attach(ctx: PciContext): void {
    this.context = ctx;
  }

  /** Guest memory. @internal */
  get dma(): DmaMemory {
    if (this.context === null) throw new HyveError('NVME_DETACHED', `${this.name}: used before it is on a bus`);
    return this.context.dma;
  }

  /** Whether every write is followed by a flush. @internal */
  get writeThrough(): boolean {
    return this.admin.writeThrough;
  }

  barRead(bar: number, offset: number, width: Width): number {
    if (bar !== 0) return 0;
    const v = this.readRegister(offset & ~3);
    if (width === 4) return v;
    return (v >>> ((offset & 3) * 8)) & (width === 2 ? 0xffff : 0xff);
  }

  private readRegister(offset: number): number {
    switch (offset) {
      case bits.REG_CAP_LO:
        return ((this.queueSize - 1) | bits.CAP_CQR | (TIMEOUT << bits.CAP_TO_SHIFT)) >>> 0;
      case bits.REG_CAP_HI:
        return bits.CAP_HI_NSSRS | bits.CAP_HI_CSS_NVM;
      case bits.REG_VS:
        return bits.VS_VALUE;
      case bits.REG_INTMS:
      case bits.REG_INTMC:
        return this.intms;
      case bits.REG_CC:
        return this.cc;
      case bits.REG_CSTS:
        return this.csts;
      case bits.REG_AQA:
        return this.aqa;
      case bits.REG_ASQ_LO:
        return this.asqLo;
      case bits.REG_ASQ_HI:
        return this.asqHi;
      case bits.REG_ACQ_LO:
        return this.acqLo;
      case bits.REG_ACQ_HI:
        return this.acqHi;
      default:
        return 0;
    }
  }

  barWrite(bar: number, offset: number, width: Width, value: number): void {
    // Registers and doorbells are written in whole doublewords (§3.1).
    if (bar !== 0 || width !== 4 || (offset & 3) !== 0) return;
    if (offset >= DOORBELLS) {
      this.doorbell((offset - DOORBELLS) >> 2, value);
      return;
    }
    switch (offset) {
      case bits.REG_INTMS:
        this.intms = (this.intms | value) >>> 0;
        this.updateIntx();
        break;
      case bits.REG_INTMC:
        this.intms = (this.intms & ~value) >>> 0;
        this.updateIntx();
        break;
      case bits.REG_CC:
        this.writeConfiguration((value & bits.CC_WRITABLE) >>> 0);
        break;
      case bits.REG_CSTS:
        this.csts &= ~(value & CSTS_NSSRO);
        break;
      case bits.REG_NSSR:
        if (value === bits.NSSR_MAGIC) {
          this.reset();
          this.csts |= CSTS_NSSRO;
        }
        break;
      case bits.REG_AQA:
        this.aqa = (value & bits.AQA_WRITABLE) >>> 0;
        break;
      case bits.REG_ASQ_LO:
        this.asqLo = (value & ~(PAGE - 1)) >>> 0;
        break;
      case bits.REG_ASQ_HI:
        this.asqHi = value;
        break;
      case bits.REG_ACQ_LO:
        this.acqLo = (value & ~(PAGE - 1)) >>> 0;
        break;
      case bits.REG_ACQ_HI:
        this.acqHi = value;
        break;
    }
  }

  // ---- Enabling, disabling, shutting down --------------------------------------------------------------------------

  private writeConfiguration(value: number): void {
    const before = this.cc;
    this.cc = value;
    const changed = before ^ value;
    if ((changed & CC_EN) !== 0) {
      if ((value & CC_EN) !== 0) {
        // With orphans left, and RDY still up, this waits for them.
        if (this.io.orphans === 0) this.enable();
      } else this.disable();
    }
    const shn = (value >>> bits.CC_SHN_SHIFT) & bits.CC_SHN_MASK;
    const was = (before >>> bits.CC_SHN_SHIFT) & bits.CC_SHN_MASK;
    if (shn !== 0 && was === 0) {
      this.csts = (this.csts & ~CSTS_SHST_MASK) | CSTS_SHST_OCCURRING;
      this.shutdownPending = true;
      this.tryShutdown();
    }
  }

  private enable(): void {
    const cc = this.cc;
    const submission = (this.aqa & 0xfff) + 1;
    const completion = ((this.aqa >>> 16) & 0xfff) + 1;
    const supported =
      ((cc >>> bits.CC_CSS_SHIFT) & bits.CC_CSS_MASK) === 0 &&
      ((cc >>> bits.CC_MPS_SHIFT) & bits.CC_MPS_MASK) === 0 &&
      ((cc >>> bits.CC_AMS_SHIFT) & bits.CC_AMS_MASK) === 0;
    if (!supported || submission < 2 || completion < 2) {
      this.csts = (this.csts | CSTS_CFS) & ~CSTS_RDY;
      return;
    }
    const cq = new CompletionQueue({
      id: 0,
      base: this.acqHi * TWO_32 + this.acqLo,
      size: completion,
      vector: 0,
      interrupts: true,
    });
    cq.users = 1;
    this.completion[0] = cq;
    this.submission[0] = new SubmissionQueue({ id: 0, base: this.asqHi * TWO_32 + this.asqLo, size: submission, cq });
    this.csts = CSTS_RDY | (this.csts & CSTS_NSSRO);
  }

  /** A controller level reset by CC.EN (§7.3.2). */
  private disable(): void {
    this.resets++;
    this.dropQueues();
    if (this.io.orphans === 0) this.csts &= CSTS_NSSRO;
  }

  private dropQueues(): void {
    this.io.cancelAll();
    this.submission.fill(null);
    this.completion.fill(null);
    this.admin.reset();
    this.adminBusy = false;
    this.shutdownPending = false;
    this.intms = 0;
    this.turn = 1;
    this.updateIntx();
  }

  /** The last orphan is gone. */
  private drained(): void {
    const ready = (this.csts & CSTS_RDY) !== 0;
    if (this.submission[0] === null) {
      if (ready) this.csts &= CSTS_NSSRO;
      if ((this.cc & CC_EN) !== 0 && (this.csts & CSTS_CFS) === 0) this.enable();
    }
    this.pump();
  }

  /** Once nothing is in flight, a shutdown flushes (§7.6.2). */
  private tryShutdown(): void {
    if (!this.shutdownPending || this.paused || this.io.inFlight > 0) return;
    this.shutdownPending = false;
    this.io.flushForShutdown(this.shutdownRequest);
  }

  // ---- Doorbells and arbitration -----------------------------------------------------------------------------------

  private doorbell(index: number, value: number): void {
    if ((this.csts & CSTS_RDY) === 0 || (this.cc & CC_EN) === 0) return;
    const id = index >> 1;
    if ((index & 1) === 0) {
      const sq = id < this.submission.length ? this.submission[id] : null;
      if (sq === null || sq === undefined) this.badDoorbell(EVENT_ERROR_DOORBELL_REGISTER);
      else if (value >= sq.size) this.badDoorbell(EVENT_ERROR_DOORBELL_VALUE);
      else {
        sq.tail = value;
        this.pump();
      }
      return;
    }
    const cq = id < this.completion.length ? this.completion[id] : null;
    if (cq === null || cq === undefined) {
      this.badDoorbell(EVENT_ERROR_DOORBELL_REGISTER);
      return;
    }
    const taken = value >= cq.head ? value - cq.head : value - cq.head + cq.size;
    if (value >= cq.size || taken > cq.used) {
      this.badDoorbell(EVENT_ERROR_DOORBELL_VALUE);
      return;
    }
    cq.head = value;
    if (this.intxLevel) this.updateIntx();
    if (id === 0) this.sendEvents();
    this.pump();
  }

  private badDoorbell(info: number): void {
    this.invalidDoorbells++;
    this.admin.raise(EVENT_ERROR, info, LOG_ERROR);
    this.sendEvents();
  }

  /** Fetches commands: the admin queue first, then the others in turn, until none may go on. */
  private pump(): void {
    if (this.pumping || this.paused || (this.csts & CSTS_RDY) === 0 || this.io.orphans > 0) return;
    this.pumping = true;
    const queues = this.submission;
    for (let more = true; more; ) {
      more = false;
      for (;;) {
        const sq = queues[0];
        if (sq === null || sq === undefined || this.adminBusy || sq.head === sq.tail || !sq.cq.hasRoom) break;
        this.fetchAdmin(sq);
      }
      const last = this.maxQueues;
      let id = this.turn;
      for (let i = 0; i < last; i++, id = id === last ? 1 : id + 1) {
        const sq = queues[id] as SubmissionQueue | null;
        if (sq === null || sq.head === sq.tail || sq.deleteCid >= 0 || !sq.cq.hasRoom) continue;
        const r = this.io.take();
        if (r === null) break;
        this.turn = id === last ? 1 : id + 1;
        this.fetchIo(sq, r);
        more = true;
      }
    }
    this.pumping = false;
  }

  private fetchIo(sq: SubmissionQueue, r: Request): void {
    const sqe = sq.base + sq.head * bits.SQE_BYTES;
    sq.head = sq.head + 1 === sq.size ? 0 : sq.head + 1;
    sq.cq.reserved++;
    sq.inFlight++;
    const dw0 = this.dma.read32(sqe);
    r.sq = sq;
    r.cid = dw0 >>> 16;
    const status = this.io.execute(r, sqe, dw0);
    if (status !== PENDING) this.finish(r, status);
  }

  /** Completes an I/O command. */
  private finish(r: Request, status: number): void {
    const sq = r.sq as SubmissionQueue;
    if (status !== SC_SUCCESS) {
      this.errors++;
      const lba = Math.min(Math.floor(r.start / 2 ** this.io.shift), Number.MAX_SAFE_INTEGER);
      this.admin.noteError(sq.id, r.cid, status, lba);
    }
    this.post(sq, r.cid, status, 0);
    sq.inFlight--;
    this.io.release(r);
    if (sq.deleteCid >= 0 && sq.inFlight === 0) this.queueDeleted(sq);
  }

  /** @internal */
  requestDone(r: Request, status: number): void {
    if (r === this.formatRequest) {
      this.adminBusy = false;
      this.completeAdmin(r.cid, status, 0);
    } else if (r.op === OP_SHUTDOWN) this.csts = (this.csts & ~CSTS_SHST_MASK) | CSTS_SHST_COMPLETE;
    else this.finish(r, status);
    this.afterRequest();
  }

  /** @internal */
  orphanDone(r: Request): void {
    if (r !== this.formatRequest && r !== this.shutdownRequest) this.io.release(r);
    if (this.io.orphans === 0) this.drained();
    this.afterRequest();
  }

  private afterRequest(): void {
    this.pump();
    if (this.io.inFlight > 0) return;
    this.tryShutdown();
    if (this.idleWaiters.length === 0) return;
    const waiters = this.idleWaiters;
    this.idleWaiters = [];
    for (const w of waiters) w();
  }

  // ---- Completions and interrupts ----------------------------------------------------------------------------------

  /** Writes a completion entry into the room its command holds. */
  private post(sq: SubmissionQueue, cid: number, status: number, result: number): void {
    sq.cq.reserved--;
    this.write(sq, cid, status, result);
  }

  private write(sq: SubmissionQueue, cid: number, status: number, result: number): void {
    const cq = sq.cq;
    const dma = this.dma;
    const a = cq.base + cq.tail * bits.CQE_BYTES;
    dma.write32(a, result);
    dma.write32(a + 4, 0);
    dma.write32(a + 8, ((sq.id << 16) | sq.head) >>> 0);
    // The phase tag last: it makes the entry the guest's.
    dma.write32(a + 12, ((status << 17) | (cq.phase << 16) | cid) >>> 0);
    cq.tail++;
    if (cq.tail === cq.size) {
      cq.tail = 0;
      cq.phase ^= 1;
    }
    if (cq.interrupts) this.interrupt(cq.vector);
  }

  private interrupt(vector: number): void {
    const ctx = this.context as PciContext;
    this.interrupts++;
    if (!ctx.msix(vector)) this.updateIntx();
    else if (this.intxLevel) this.updateIntx();
  }

  /** INTx: any queue with entries the guest has not taken and whose vector is not masked (§7.5.1.1). */
  private updateIntx(): void {
    const ctx = this.context;
    if (ctx === null) return;
    let on = false;
    if (ctx.interruptMode !== 'msix')
      for (const cq of this.completion) {
        if (cq?.interrupts && cq.head !== cq.tail && ((this.intms >>> (cq.vector & 31)) & 1) === 0) {
          on = true;
          break;
        }
      }
    this.intxLevel = on;
    ctx.intx(on);
  }

  private sendEvents(): void {
    const sq = this.submission[0];
    if (sq === null || sq === undefined || this.paused) return;
    while (this.admin.requests.length > 0 && sq.cq.hasRoom) {
      const event = this.admin.nextEvent();
      if (event < 0) return;
      this.write(sq, this.admin.requests.shift() as number, SC_SUCCESS, event);
    }
  }

  // ---- Admin commands ----------------------------------------------------------------------------------------------

  private fetchAdmin(sq: SubmissionQueue): void {
    const sqe = sq.base + sq.head * bits.SQE_BYTES;
    sq.head = sq.head + 1 === sq.size ? 0 : sq.head + 1;
    sq.cq.reserved++;
    this.adminCommands++;
    const dw0 = this.dma.read32(sqe);
    this.admin.result = 0;
    const status = this.executeAdmin(sqe, dw0);
    if (status !== PENDING) this.completeAdmin(dw0 >>> 16, status, this.admin.result);
    this.sendEvents();
  }

  private completeAdmin(cid: number, status: number, result: number): void {
    const sq = this.submission[0];
    if (sq === null || sq === undefined) return;
    if (status !== SC_SUCCESS) {
      this.errors++;
      this.admin.noteError(0, cid, status, 0);
    }
    this.post(sq, cid, status, result);
  }

  private executeAdmin(sqe: number, dw0: number): number {
    const dma = this.dma;
    const nsid = dma.read32(sqe + bits.SQE_NSID);
    const dw10 = dma.read32(sqe + bits.SQE_CDW10);
    const dw11 = dma.read32(sqe + bits.SQE_CDW11);
    // No fused commands, and PRPs only (§4.4: SGLs are not for admin commands over PCIe).
    if ((dw0 & 0xc300) !== 0) return SC_INVALID_FIELD | DNR;
    switch (dw0 & 0xff) {
      case bits.ADMIN_IDENTIFY: {
        const status = this.admin.identify(nsid, dw10 & 0xff);
        return status === SC_SUCCESS ? this.sendPage(sqe, 0, PAGE, PAGE) : status;
      }
      case bits.ADMIN_GET_FEATURES:
        return this.admin.getFeature(dw10, dw11);
      case bits.ADMIN_SET_FEATURES: {
        let queues = false;
        for (let i = 1; i <= this.maxQueues; i++) queues ||= this.completion[i] !== null;
        return this.admin.setFeature(dw10, dw11, queues);
      }
      case bits.ADMIN_CREATE_CQ:
        return this.createCompletion(sqe, dw10, dw11);
      case bits.ADMIN_CREATE_SQ:
        return this.createSubmission(sqe, dw10, dw11);
      case bits.ADMIN_DELETE_CQ:
        return this.deleteCompletion(dw10 & 0xffff);
      case bits.ADMIN_DELETE_SQ:
        return this.deleteSubmission(dw10 & 0xffff, dw0 >>> 16);
      case bits.ADMIN_GET_LOG_PAGE:
        return this.getLogPage(sqe, nsid, dw10, dw11);
      case bits.ADMIN_ABORT:
        this.admin.result = 1; // not aborted: it is too late for every command that was fetched
        return SC_SUCCESS;
      case bits.ADMIN_ASYNC_EVENT: {
        const sq = this.submission[0] as SubmissionQueue;
        if (!this.admin.addRequest(dw0 >>> 16)) return bits.SC_AER_LIMIT | DNR;
        sq.cq.reserved--; // these wait without holding room
        return PENDING;
      }
      case bits.ADMIN_FORMAT:
        return this.format(nsid, dw10, dw0 >>> 16);
      default:
        return SC_INVALID_OPCODE | DNR;
    }
  }

  /** Copies `length` bytes to the command's PRPs: the admin page from `from` to `end`, then zeros. */
  private sendPage(sqe: number, from: number, end: number, length: number): number {
    const s = this.adminSegments;
    const status = mapPrp(s, this.dma, sqe + bits.SQE_DPTR, length, true);
    if (status === SC_SUCCESS) {
      const page = this.admin.page;
      let at = from;
      for (const v of s.views) {
        const n = Math.max(0, Math.min(v.length, end - at));
        v.set(page.subarray(at, at + n));
        v.fill(0, n);
        at += v.length;
      }
    }
    s.clear();
    return status;
  }

  private getLogPage(sqe: number, nsid: number, dw10: number, dw11: number): number {
    const dma = this.dma;
    const length = ((dw11 & 0xffff) * 0x1_0000 + (dw10 >>> 16) + 1) * 4;
    const from = dma.read32(sqe + bits.SQE_CDW12 + 4) * TWO_32 + dma.read32(sqe + bits.SQE_CDW12);
    if (length > 2 ** MDTS * PAGE || from % 4 !== 0) return SC_INVALID_FIELD | DNR;
    if (nsid !== 0 && !Admin.names(nsid)) return SC_INVALID_NAMESPACE | DNR;
    const size = this.admin.readLog(dw10 & 0xff, (dw10 & 0x8000) !== 0);
    if (size < 0) return -size | DNR;
    if (from >= size) return SC_INVALID_FIELD | DNR;
    return this.sendPage(sqe, from, size, length);
  }

  private format(nsid: number, dw10: number, cid: number): number {
    if (!Admin.names(nsid)) return SC_INVALID_NAMESPACE | DNR;
    // One format, no metadata, no protection; erasing user data or nothing in particular.
    if ((dw10 & 0x1f) !== 0) return SC_FORMAT | DNR;
    if (((dw10 >>> 5) & 0xf) !== 0 || ((dw10 >>> 9) & 7) > 1) return SC_INVALID_FIELD | DNR;
    if (this.io.backend.readOnly) return SC_WRITE_PROTECTED | DNR;
    this.formatRequest.cid = cid;
    this.adminBusy = true;
    return this.io.format(this.formatRequest);
  }

  // ---- Queues ------------------------------------------------------------------------------------------------------

  /** What is wrong with the id, size and flags of a queue to create; 0 if nothing. */
  private checkQueue(id: number, taken: boolean, size: number, contiguous: boolean): number {
    if (id === 0 || id > this.admin.grantedQueues || taken) return SC_QUEUE_ID;
    if (size < 2 || size > this.queueSize) return SC_QUEUE_SIZE;
    const sizes = this.cc >>> bits.CC_IOSQES_SHIFT;
    if ((sizes & 0xf) !== bits.SQES || ((sizes >>> 4) & 0xf) !== bits.CQES) return SC_QUEUE_SIZE;
    return contiguous ? 0 : SC_INVALID_FIELD;
  }

  /** Base address in PRP1, or -1 for one that is not page aligned. */
  private queueBase(sqe: number): number {
    const lo = this.dma.read32(sqe + bits.SQE_DPTR);
    return lo % PAGE === 0 ? this.dma.read32(sqe + bits.SQE_DPTR + 4) * TWO_32 + lo : -1;
  }

  private createCompletion(sqe: number, dw10: number, dw11: number): number {
    const id = dw10 & 0xffff;
    const size = (dw10 >>> 16) + 1;
    const vector = dw11 >>> 16;
    const taken = id <= this.maxQueues && this.completion[id] !== null;
    const wrong = this.checkQueue(id, taken, size, (dw11 & 1) !== 0);
    if (wrong !== 0) return wrong | DNR;
    if (vector > this.maxQueues) return SC_VECTOR | DNR;
    const base = this.queueBase(sqe);
    if (base < 0) return SC_PRP_OFFSET | DNR;
    this.completion[id] = new CompletionQueue({ id, base, size, vector, interrupts: (dw11 & 2) !== 0 });
    return SC_SUCCESS;
  }

  private createSubmission(sqe: number, dw10: number, dw11: number): number {
    const id = dw10 & 0xffff;
    const size = (dw10 >>> 16) + 1;
    const cqid = dw11 >>> 16;
    const taken = id <= this.maxQueues && this.submission[id] !== null;
    const wrong = this.checkQueue(id, taken, size, (dw11 & 1) !== 0);
    if (wrong !== 0) return wrong | DNR;
    const cq = cqid >= 1 && cqid <= this.maxQueues ? this.completion[cqid] : null;
    if (cq === null || cq === undefined) return SC_CQ_INVALID | DNR;
    const base = this.queueBase(sqe);
    if (base < 0) return SC_PRP_OFFSET | DNR;
    cq.users++;
    this.submission[id] = new SubmissionQueue({ id, base, size, cq });
    return SC_SUCCESS;
  }

  private deleteCompletion(id: number): number {
    const cq = id >= 1 && id <= this.maxQueues ? this.completion[id] : null;
    if (cq === null || cq === undefined) return SC_QUEUE_ID | DNR;
    if (cq.users > 0) return SC_QUEUE_DELETION | DNR;
    this.completion[id] = null;
    if (this.intxLevel) this.updateIntx();
    return SC_SUCCESS;
  }

  private deleteSubmission(id: number, cid: number): number {
    const sq = id >= 1 && id <= this.maxQueues ? this.submission[id] : null;
    if (sq === null || sq === undefined) return SC_QUEUE_ID | DNR;
    if (sq.inFlight === 0) {
      this.removeSubmission(sq);
      return SC_SUCCESS;
    }
    // Commands in flight complete first (§5.6).
    sq.deleteCid = cid;
    this.adminBusy = true;
    return PENDING;
  }

  private removeSubmission(sq: SubmissionQueue): void {
    this.submission[sq.id] = null;
    sq.cq.users--;
  }

  private queueDeleted(sq: SubmissionQueue): void {
    this.removeSubmission(sq);
    this.adminBusy = false;
    this.completeAdmin(sq.deleteCid, SC_SUCCESS, 0);
  }

  // ---- Life --------------------------------------------------------------------------------------------------------

  /**
   * Power-on state at once. Requests still in the back end lose their effect on registers, not on memory: await `pause`
   * first when guest memory is about to be reused.
   */
  reset(): void {
    this.resets++;
    if ((this.csts & CSTS_RDY) !== 0 && (this.csts & CSTS_SHST_MASK) !== CSTS_SHST_COMPLETE)
      this.admin.unsafeShutdowns++;
    this.dropQueues();
    this.cc = 0;
    this.csts = 0;
    this.aqa = 0;
    this.asqLo = 0;
    this.asqHi = 0;
    this.acqLo = 0;
    this.acqHi = 0;
  }

  /** Starts no command from now on; resolves once those already started are over. */
  async pause(): Promise<void> {
    this.paused = true;
    while (this.io.inFlight > 0) await new Promise<void>((resolve) => this.idleWaiters.push(resolve));
  }

  /** Goes on with the commands that wait. */
  resume(): void {
    this.paused = false;
    this.sendEvents();
    this.pump();
    this.tryShutdown();
  }

  /** The back end has another size now; the guest is told if it asked to be. */
  resized(): void {
    if (!this.io.measure()) return;
    this.admin.raiseNamespaceChanged();
    this.sendEvents();
  }

  /** Plain data. @throws HyveError `STATE_BUSY` unless paused and idle */
  save(): NvmeStateV1 {
    this.needIdle('saved');
    const { cc, csts, aqa, asqLo, asqHi, acqLo, acqHi, intms } = this;
    return {
      v: 1,
      cc,
      csts,
      aqa,
      asqLo,
      asqHi,
      acqLo,
      acqHi,
      intms,
      grantedQueues: this.admin.grantedQueues,
      completion: this.completion
        .filter((q) => q !== null)
        .map((q) => ({
          id: q.id,
          base: q.base,
          size: q.size,
          head: q.head,
          tail: q.tail,
          phase: q.phase,
          vector: q.vector,
          interrupts: q.interrupts,
        })),
      submission: this.submission
        .filter((q) => q !== null)
        .map((q) => ({ id: q.id, base: q.base, size: q.size, head: q.head, tail: q.tail, cq: q.cq.id })),
      admin: this.admin.save(),
    };
  }

  /**
   * Restores registers, queues and logs; the interrupt line and the MSI-X table are the bus's to restore. Commands that wait
   * start on `resume`, or at the next doorbell.
   * @throws HyveError `STATE_BUSY`, `STATE_VERSION`, `STATE_FORMAT`
   */
  load(state: unknown): void {
    this.needIdle('loaded');
    const s = state as NvmeStateV1 | null;
    if (typeof s !== 'object' || s === null || s.v !== 1)
      throw new HyveError('STATE_VERSION', `${this.name}: expected state version 1`);
    const bad = (what: string): HyveError => new HyveError('STATE_FORMAT', `${this.name}: ${what}`);
    const within = (v: unknown, least: number, most: number): boolean =>
      typeof v === 'number' && Number.isInteger(v) && v >= least && v <= most;
    for (const f of STATE_REGISTERS)
      if (!within(s[f], 0, 0xffff_ffff)) throw bad(`${f} is ${String(s[f])}, expected 32 bits`);
    if (!within(s.grantedQueues, 1, this.maxQueues)) throw bad(`${s.grantedQueues} queues granted`);
    const wrong = this.admin.check(s.admin);
    if (wrong !== null) throw bad(wrong);
    const completion: (CompletionQueue | null)[] = this.completion.map(() => null);
    const submission: (SubmissionQueue | null)[] = this.submission.map(() => null);
    const check = (q: NvmeQueueStateV1, kind: string): void => {
      const size = within(q?.size, 2, 65536) ? q.size : 0;
      if (
        size === 0 ||
        !within(q.id, 0, this.maxQueues) ||
        !within(q.base, 0, Number.MAX_VALUE) ||
        !within(q.head, 0, size - 1) ||
        !within(q.tail, 0, size - 1)
      )
        throw bad(`a ${kind} queue does not fit`);
    };
    if (!Array.isArray(s.completion) || !Array.isArray(s.submission)) throw bad('expected lists of queues');
    for (const q of s.completion as readonly NvmeQueueStateV1[]) {
      check(q, 'completion');
      if (!within(q.vector, 0, this.maxQueues) || !within(q.phase, 0, 1)) throw bad('a vector or phase does not fit');
      const cq = new CompletionQueue({
        id: q.id,
        base: q.base,
        size: q.size,
        vector: q.vector as number,
        interrupts: q.interrupts === true,
      });
      cq.head = q.head;
      cq.tail = q.tail;
      cq.phase = q.phase as number;
      completion[q.id] = cq;
    }
    for (const q of s.submission as readonly NvmeQueueStateV1[]) {
      check(q, 'submission');
      const cq = within(q.cq, 0, this.maxQueues) ? completion[q.cq as number] : null;
      if (cq === null || cq === undefined) throw bad(`submission queue ${q.id} completes nowhere`);
      const sq = new SubmissionQueue({ id: q.id, base: q.base, size: q.size, cq });
      sq.head = q.head;
      sq.tail = q.tail;
      cq.users++;
      submission[q.id] = sq;
    }
    if (((s.csts & CSTS_RDY) !== 0) !== (submission[0] !== null && submission[0] !== undefined))
      throw bad('ready and admin queue do not agree');
    for (const f of STATE_REGISTERS) this[f] = s[f];
    this.submission.splice(0, this.submission.length, ...submission);
    this.completion.splice(0, this.completion.length, ...completion);
    this.admin.load(s.admin);
    this.admin.grantedQueues = s.grantedQueues;
    this.adminBusy = false;
    this.turn = 1;
    this.shutdownPending = (s.csts & CSTS_SHST_MASK) === CSTS_SHST_OCCURRING;
    this.intxLevel = this.intxWanted();
  }

  private intxWanted(): boolean {
    return this.completion.some((cq) => cq?.interrupts === true && cq.head !== cq.tail);
  }

  private needIdle(what: string): void {
    if (this.io.inFlight > 0)
      throw new HyveError('STATE_BUSY', `${this.name}: ${what} with requests in flight, pause it first`);
  }

  /** Counters. */
  counters(): Readonly<Record<string, number>> {
    const io = this.io;
    return {
      adminCommands: this.adminCommands,
      readCommands: io.readCommands,
      writeCommands: io.writeCommands,
      bytesRead: io.bytesRead,
      bytesWritten: io.bytesWritten,
      flushes: io.flushes,
      discards: io.discards,
      mediaErrors: io.mediaErrors,
      errors: this.errors,
      invalidDoorbells: this.invalidDoorbells,
      interrupts: this.interrupts,
      resets: this.resets,
    };
  }

  /** Closes nothing: the back end belongs to whoever opened it. Resolves once it is not in use. */
  async close(): Promise<void> {
    await this.pause();
  }
}
