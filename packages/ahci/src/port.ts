// One AHCI port: registers, link, command list processing, received FISes and error states (AHCI 1.3.1 §3.3, §5, §6; Serial
// ATA 3.2 §10.5). bhyve: the struct ahci_port half of pci_ahci.c. What a command means is the drive's business.
//
// Requests that a stop or reset takes away from the guest still run in the back end, with views into guest memory. Until
// the last of them is over the port shows what a slow device would: PxCMD.CR after a stop, BSY after a reset. Nothing is
// started before that, so a request of the old life never writes into memory of the new one behind the guest's back.
import { type BlockBackend, type BlockStatus, type DmaMemory, HyveError } from '@hyve/core';
import {
  CMD_CCS_SHIFT,
  CMD_CLO,
  CMD_CR,
  CMD_FR,
  CMD_FRE,
  CMD_PLAIN,
  CMD_POD,
  CMD_ST,
  CMD_SUD,
  CONTROL_SRST,
  ER_ABRT,
  FIS_D2H,
  FIS_H2D,
  FIS_INTERRUPT,
  FIS_PIO_SETUP,
  FIS_SDB,
  FIS_TO_HOST,
  H2D_COMMAND,
  HDR_CLEAR_BUSY,
  HDR_PRDTL_SHIFT,
  HEADER_BYTES,
  IE_WRITABLE,
  IS_DHRS,
  IS_DPS,
  IS_HBFS,
  IS_IFS,
  IS_OFS,
  IS_PSS,
  IS_SDBS,
  IS_TFES,
  IS_W1C,
  REG_CI,
  REG_CLB,
  REG_CLBU,
  REG_CMD,
  REG_FB,
  REG_FBU,
  REG_PXIE,
  REG_PXIS,
  REG_SACT,
  REG_SCTL,
  REG_SIG,
  REG_SNTF,
  REG_SSTS,
  REG_TFD,
  RX_D2H,
  RX_PIO_SETUP,
  RX_SDB,
  SCTL_DET_MASK,
  SCTL_DET_OFFLINE,
  SCTL_DET_RESET,
  SCTL_SPD_MASK,
  SCTL_SPD_SHIFT,
  SCTL_WRITABLE,
  SIG_ATA,
  SPEED_GEN3,
  SSTS_DET_OFFLINE,
  SSTS_DET_PRESENT,
  SSTS_IPM_ACTIVE,
  SSTS_SPD_SHIFT,
  ST_BSY,
  ST_DRDY,
  ST_DRQ,
  ST_DSC,
  ST_ERR,
  ST_GOOD,
  TABLE_ACMD,
  TFD_NO_DEVICE,
} from './bits.ts';
import { Command, OP_FLUSH, OP_READ, OP_TRIM, OP_VERIFY, OP_WRITE } from './command.ts';

/** What a port tells its controller. @internal */
export interface PortHost {
  /** Guest memory, behind bus mastering. */
  readonly dma: DmaMemory;
  /** Whether new requests have to wait. */
  readonly paused: boolean;
  /** PxIS or PxIE changed. */
  portInterrupt(index: number): void;
  /** The port's last request in a back end is over. */
  portIdle(): void;
}

/** A drive on a port: the command set. @internal */
export interface Drive {
  /** PxSIG after a reset. */
  readonly signature: number;
  /** Whether a command code is an FPDMA one here. */
  isQueued(code: number): boolean;
  /** Starts or finishes a command: ends in one of the port's completion calls, now or later. */
  execute(cmd: Command): void;
  /** A command's work on the medium is over; the drive completes or fails it. */
  finished(cmd: Command, status: BlockStatus): void;
  /** COMRESET, software reset or power-on. */
  reset(): void;
  /** Plain data. */
  save(): unknown;
  /** @throws HyveError `STATE_FORMAT` */
  load(state: unknown): void;
}

/** A port's part of the saved state. */
export interface AhciPortStateV1 {
  /** Registers by name, as the guest reads them. */
  readonly clb: number;
  readonly clbu: number;
  readonly fb: number;
  readonly fbu: number;
  readonly is: number;
  readonly ie: number;
  /** RW bits only. */
  readonly cmd: number;
  readonly ccs: number;
  readonly tfd: number;
  readonly sig: number;
  readonly ssts: number;
  readonly sctl: number;
  readonly sact: number;
  readonly ci: number;
  /** Whether an error has stopped command processing. */
  readonly halted: boolean;
  /** Whether software reset is asserted. */
  readonly srst: boolean;
  /** Whether the signature FIS waits for PxCMD.FRE. */
  readonly signatureFis: boolean;
  /** Failed queued command for log page 10h: tag, status, error, LBA and count bytes; -1 tag for none. */
  readonly ncqError: readonly number[];
  /** The drive's own state, null without a drive. */
  readonly drive: unknown;
}

const REGISTER_FIELDS = [
  'clb',
  'clbu',
  'fb',
  'fbu',
  'is',
  'ie',
  'cmd',
  'ccs',
  'tfd',
  'sig',
  'ssts',
  'sctl',
  'sact',
  'ci',
] as const;
const VERIFY_BYTES = 64 << 10;

/** A port. @internal */
export class AhciPort {
  readonly index: number;
  drive: Drive | null = null;
  /** Requests that back ends work on. */
  inFlight = 0;
  /** Failed queued command: tag or -1, status, error, then LBA (6 bytes), device and count. */
  readonly ncqError: Uint8Array = new Uint8Array(16);
  ncqErrorTag = -1;
  /** For counters. */
  commands = 0;
  queued = 0;
  errors = 0;
  resets = 0;
  bytesRead = 0;
  bytesWritten = 0;

  private readonly host: PortHost;
  private readonly pool: Command[];
  private verifyBuffer: Uint8Array | null = null;
  private readonly verifyViews: Uint8Array[] = [];
  private clb = 0;
  private clbu = 0;
  private fb = 0;
  private fbu = 0;
  private is = 0;
  private ie = 0;
  private cmd = CMD_SUD | CMD_POD;
  private ccs = 0;
  private tfd = TFD_NO_DEVICE;
  private sig = 0xffff_ffff;
  private ssts = 0;
  private sctl = 0;
  private sact = 0;
  private ci = 0;
  private halted = false;
  private srst = false;
  private signatureFis = false;
  /** Cancelled requests still in flight. */
  private orphans = 0;
  /** The command that holds BSY, or null. */
  private current: Command | null = null;
  /** Whether a link start waits for orphans. */
  private linkPending = false;

  constructor(host: PortHost, index: number) {
    this.host = host;
    this.index = index;
    const done = (cmd: Command, status: BlockStatus): void => this.requestDone(cmd, status);
    this.pool = Array.from({ length: 32 }, (_, i) => new Command(i, done));
  }

  /** Guest memory. */
  get dma(): DmaMemory {
    return this.host.dma;
  }

  /** Whether the port asks for its interrupt bit. */
  get pending(): boolean {
    return (this.is & this.ie) !== 0;
  }

  // ---- Registers ---------------------------------------------------------------------------------------------------

  /** Reads a doubleword register. */
  read(offset: number): number {
    switch (offset) {
      case REG_CLB:
        return this.clb;
      case REG_CLBU:
        return this.clbu;
      case REG_FB:
        return this.fb;
      case REG_FBU:
        return this.fbu;
      case REG_PXIS:
        return this.is;
      case REG_PXIE:
        return this.ie;
      case REG_CMD: {
        const running = (this.cmd & CMD_ST) !== 0 || this.orphans > 0;
        const receiving = (this.cmd & CMD_FRE) !== 0;
        return (this.cmd | (this.ccs << CMD_CCS_SHIFT) | (running ? CMD_CR : 0) | (receiving ? CMD_FR : 0)) >>> 0;
      }
      case REG_TFD:
        return this.tfd;
      case REG_SIG:
        return this.sig;
      case REG_SSTS:
        return this.ssts;
      case REG_SCTL:
        return this.sctl;
      case REG_SACT:
        return this.sact;
      case REG_CI:
        return this.ci;
      default:
        // SERR and SNTF too: this link never errs and sends no notifications.
        return 0;
    }
  }

  /** Writes a doubleword register. */
  write(offset: number, value: number): void {
    switch (offset) {
      case REG_CLB:
        this.clb = (value & ~0x3ff) >>> 0;
        break;
      case REG_CLBU:
        this.clbu = value;
        break;
      case REG_FB:
        this.fb = (value & ~0xff) >>> 0;
        break;
      case REG_FBU:
        this.fbu = value;
        break;
      case REG_PXIS:
        this.is = (this.is & ~(value & IS_W1C)) >>> 0;
        this.host.portInterrupt(this.index);
        break;
      case REG_PXIE:
        this.ie = (value & IE_WRITABLE) >>> 0;
        this.host.portInterrupt(this.index);
        break;
      case REG_CMD:
        this.writeCommand(value);
        break;
      case REG_SCTL:
        this.writeControl(value & SCTL_WRITABLE);
        break;
      case REG_SACT:
        if ((this.cmd & CMD_ST) !== 0) this.sact = (this.sact | value) >>> 0;
        break;
      case REG_CI:
        if ((this.cmd & CMD_ST) !== 0) {
          this.ci = (this.ci | value) >>> 0;
          this.run();
        }
        break;
      case REG_SNTF:
        break;
    }
  }

  private writeCommand(value: number): void {
    const before = this.cmd;
    // ICC (31:28) reads zero: every power transition is over at once.
    this.cmd = (value & (CMD_PLAIN | CMD_ST | CMD_SUD | CMD_FRE)) | CMD_POD;
    const changed = before ^ this.cmd;
    if ((value & CMD_CLO) !== 0 && (before & CMD_ST) === 0) this.tfd &= ~(ST_BSY | ST_DRQ);
    if ((changed & CMD_FRE) !== 0 && (this.cmd & CMD_FRE) !== 0 && this.signatureFis) this.sendSignature();
    if ((changed & CMD_ST) !== 0) {
      if ((this.cmd & CMD_ST) === 0) this.stop();
      else this.run();
    }
  }

  private writeControl(value: number): void {
    const before = this.sctl & SCTL_DET_MASK;
    const now = value & SCTL_DET_MASK;
    this.sctl = value;
    if (now === before || this.drive === null) return;
    if (now === SCTL_DET_RESET) {
      this.stop();
      this.resets++;
      this.linkPending = false;
      this.ssts = 0;
      this.tfd = ST_BSY;
      this.sig = 0xffff_ffff;
    } else if (now === SCTL_DET_OFFLINE) {
      this.stop();
      this.linkPending = false;
      this.ssts = SSTS_DET_OFFLINE;
      this.tfd = TFD_NO_DEVICE;
      this.sig = 0xffff_ffff;
    } else if (now === 0) this.startLink();
  }

  // ---- Link and resets ---------------------------------------------------------------------------------------------

  /** Power-on or controller reset. */
  reset(): void {
    this.stop();
    this.clb = 0;
    this.clbu = 0;
    this.fb = 0;
    this.fbu = 0;
    this.is = 0;
    this.ie = 0;
    this.cmd = CMD_SUD | CMD_POD;
    this.sctl = 0;
    this.ssts = 0;
    this.tfd = TFD_NO_DEVICE;
    this.sig = 0xffff_ffff;
    this.linkPending = false;
    this.signatureFis = false;
    if (this.drive !== null) this.startLink();
  }

  /** The link comes up and the drive sends its signature, once nothing of its former life is in flight. */
  private startLink(): void {
    const limit = (this.sctl >> SCTL_SPD_SHIFT) & SCTL_SPD_MASK;
    const speed = limit === 0 ? SPEED_GEN3 : Math.min(limit, SPEED_GEN3);
    this.ssts = SSTS_DET_PRESENT | (speed << SSTS_SPD_SHIFT) | SSTS_IPM_ACTIVE;
    this.tfd = ST_BSY;
    this.linkPending = true;
    if (this.orphans === 0) this.signature();
  }

  private signature(): void {
    const drive = this.drive as Drive;
    this.linkPending = false;
    this.srst = false;
    this.ncqErrorTag = -1;
    drive.reset();
    this.sig = drive.signature;
    // A packet device's status stays clear until its first command (ACS-3 table 110).
    this.tfd = 0x0100 | (drive.signature === SIG_ATA ? ST_GOOD : 0);
    this.signatureFis = true;
    if ((this.cmd & CMD_FRE) !== 0) this.sendSignature();
  }

  private sendSignature(): void {
    this.signatureFis = false;
    const a = this.fisBase() + RX_D2H;
    const dma = this.host.dma;
    dma.write32(a, (FIS_D2H | ((this.tfd & 0xff) << 16) | 0x0100_0000) >>> 0);
    dma.write32(a + 4, this.sig >>> 8);
    dma.write32(a + 8, 0);
    dma.write32(a + 12, 1);
    dma.write32(a + 16, 0);
  }

  /** Takes every command away from the drive, as clearing ST does (§5.3.3). */
  private stop(): void {
    for (const c of this.pool) {
      if (c.busy && !c.cancelled) {
        c.cancelled = true;
        this.orphans++;
      }
    }
    if (this.orphans === 0 && this.current !== null) this.tfd = ST_GOOD;
    this.current = null;
    this.ci = 0;
    this.sact = 0;
    this.ccs = 0;
    this.halted = false;
  }

  /** The last orphan is gone. */
  private drained(): void {
    if (this.linkPending) this.signature();
    else if (this.srst || (this.ssts & 0xf) !== SSTS_DET_PRESENT) {
      // In reset or offline: the task file says so until that ends.
    } else if ((this.tfd & ST_BSY) !== 0) this.tfd = ST_GOOD;
    this.run();
  }

  // ---- Command list ------------------------------------------------------------------------------------------------

  /** Starts what may start. Every round consumes a bit of PxCI or ends the loop. */
  run(): void {
    while (
      this.ci !== 0 &&
      (this.cmd & CMD_ST) !== 0 &&
      !this.halted &&
      !this.host.paused &&
      this.orphans === 0 &&
      this.current === null &&
      (this.tfd & (ST_BSY | ST_DRQ)) === 0 &&
      this.drive !== null
    ) {
      let slot = this.ccs;
      while (((this.ci >>> slot) & 1) === 0) slot = (slot + 1) & 31;
      if (!this.issue(slot, this.drive)) return;
    }
  }

  /** Fetches one command. False: it has to wait. */
  private issue(slot: number, drive: Drive): boolean {
    const dma = this.host.dma;
    const header = this.clbu * 0x1_0000_0000 + this.clb + slot * HEADER_BYTES;
    const dw0 = dma.read32(header);
    const table = dma.read32(header + 12) * 0x1_0000_0000 + ((dma.read32(header + 8) & ~0x7f) >>> 0);
    const first = dma.read32(table);
    if ((first & 0xff) !== FIS_H2D) {
      // Nothing a device would take: it answers R_ERR.
      this.ccs = slot;
      this.halt(IS_IFS);
      return false;
    }
    if (((first >>> 8) & H2D_COMMAND) === 0) {
      this.ccs = slot;
      this.ci = (this.ci & ~(1 << slot)) >>> 0;
      this.deviceControl((dma.read32(table + 12) >>> 24) & 0xff, (dw0 & HDR_CLEAR_BUSY) !== 0);
      return true;
    }
    const queued = drive.isQueued((first >>> 16) & 0xff);
    const tag = (dma.read32(table + 12) >>> 3) & 0x1f;
    // A command that is not queued starts once the queue is empty; a queued one needs its tag.
    if (!queued && this.inFlight > 0) return false;
    const cmd = this.pool[queued ? tag : slot] as Command;
    this.ccs = slot;
    if (queued && cmd.busy) {
      // The tag is in use: the device aborts everything (Serial ATA 3.2 §13.6.3).
      this.ci = (this.ci & ~(1 << slot)) >>> 0;
      this.errors++;
      this.noteQueuedError(tag, ST_ERR | ST_DRDY, ER_ABRT, null);
      this.queuedFailed(ST_ERR | ST_DRDY, ER_ABRT);
      return false;
    }
    cmd.begin(slot, header, table, dw0 >>> HDR_PRDTL_SHIFT);
    for (let i = 0; i < 5; i++) {
      const v = dma.read32(table + i * 4);
      cmd.cfis[i * 4] = v;
      cmd.cfis[i * 4 + 1] = v >>> 8;
      cmd.cfis[i * 4 + 2] = v >>> 16;
      cmd.cfis[i * 4 + 3] = v >>> 24;
    }
    this.commands++;
    if (queued) {
      this.queued++;
      cmd.ncq = true;
      cmd.tag = tag;
      // Accepted: the slot is free, the tag is not.
      this.ci = (this.ci & ~(1 << slot)) >>> 0;
    } else {
      this.current = cmd;
      this.tfd = (this.tfd | ST_BSY) >>> 0;
    }
    drive.execute(cmd);
    return true;
  }

  /** Fetches the ATAPI command of a command's table. */
  fetchPacket(cmd: Command): void {
    for (let i = 0; i < 16; i++) cmd.acmd[i] = this.host.dma.read8(cmd.table + TABLE_ACMD + i);
  }

  /** Device control write: software reset. */
  private deviceControl(control: number, clearBusy: boolean): void {
    const reset = (control & CONTROL_SRST) !== 0;
    if (reset && !this.srst) {
      this.resets++;
      const { ci, ccs } = this;
      this.stop();
      this.ci = ci;
      this.ccs = ccs;
      this.srst = true;
    }
    if (reset) this.tfd = clearBusy ? this.tfd & ~(ST_BSY | ST_DRQ) : this.tfd;
    else if (this.srst) {
      this.linkPending = true;
      this.tfd = ST_BSY;
      if (this.orphans === 0) this.signature();
    }
  }

  /** A condition that only software ends: no command starts until it clears ST (§6.1). */
  private halt(cause: number): void {
    this.halted = true;
    this.raise(cause);
  }

  private raise(bits: number): void {
    this.is = (this.is | bits) >>> 0;
    this.host.portInterrupt(this.index);
  }

  // ---- Completion --------------------------------------------------------------------------------------------------

  /** The command went well. */
  complete(cmd: Command): void {
    if (cmd.ncq) {
      const done = (1 << cmd.tag) >>> 0;
      this.sact = (this.sact & ~done) >>> 0;
      this.tfd = (this.tfd & (ST_BSY | ST_DRQ)) | ST_GOOD;
      this.sendSetDeviceBits(ST_GOOD, 0, done);
      this.raise(IS_SDBS | (cmd.descriptorDone ? IS_DPS : 0));
    } else this.endCommand(cmd, ST_GOOD, 0);
  }

  /** The command failed with these status and error registers. */
  fail(cmd: Command, status: number, error: number): void {
    this.errors++;
    if (cmd.ncq) {
      this.noteQueuedError(cmd.tag, status, error, cmd.cfis);
      this.queuedFailed(status, error);
    } else this.endCommand(cmd, status | ST_ERR, error);
  }

  /** The guest's PRD table ended before the transfer, or pointed nowhere. */
  failTransfer(cmd: Command, unmapped: boolean): void {
    this.raise(unmapped ? IS_HBFS : IS_OFS);
    this.fail(cmd, ST_ERR | ST_DRDY | ST_DSC, ER_ABRT);
  }

  /** Sends a page (`n` bytes) as PIO data and completes. */
  sendPio(cmd: Command, page: Uint8Array, n: number): void {
    cmd.unit = 2;
    cmd.pio = true;
    if (cmd.give(this.host.dma, page, n)) this.complete(cmd);
    else this.failTransfer(cmd, true);
  }

  /** Sends a page as DMA data and completes. */
  sendDma(cmd: Command, page: Uint8Array, n: number): void {
    cmd.unit = 2;
    if (cmd.give(this.host.dma, page, n)) this.complete(cmd);
    else this.failTransfer(cmd, true);
  }

  /** Ends a command that says something in status and error though nothing went wrong, such as a device reset's 01h. */
  completeWith(cmd: Command, status: number, error: number): void {
    this.endCommand(cmd, status, error);
  }

  private noteQueuedError(tag: number, status: number, error: number, cfis: Uint8Array | null): void {
    this.ncqErrorTag = tag;
    const e = this.ncqError;
    e.fill(0);
    e[0] = status;
    e[1] = error;
    if (cfis === null) return;
    for (let i = 0; i < 7; i++) e[2 + i] = cfis[4 + i] as number; // LBA, device, LBA
    e[9] = cfis[12] as number;
    e[10] = cfis[13] as number;
  }

  /** A queued command failed: the drive drops the others too and waits for the error log to be read. */
  private queuedFailed(status: number, error: number): void {
    for (const c of this.pool) {
      if (c.busy && !c.cancelled) {
        c.cancelled = true;
        this.orphans++;
      }
    }
    this.tfd = (error << 8) | status | ST_ERR;
    this.sendSetDeviceBits(status | ST_ERR, error, 0);
    this.halt(IS_SDBS | IS_TFES);
  }

  private endCommand(cmd: Command, status: number, error: number): void {
    this.current = null;
    const dma = this.host.dma;
    const failed = (status & ST_ERR) !== 0;
    dma.write32(cmd.header + 4, cmd.moved);
    let cause = IS_DHRS | (cmd.descriptorDone ? IS_DPS : 0);
    if (cmd.pio && !failed) {
      this.sendPioSetup(cmd, status);
      cause |= IS_PSS;
    }
    this.tfd = (error << 8) | status;
    if ((this.cmd & CMD_FRE) !== 0) {
      const a = this.fisBase() + RX_D2H;
      const f = cmd.cfis;
      dma.write32(a, (FIS_D2H | (FIS_INTERRUPT << 8) | (status << 16) | (error << 24)) >>> 0);
      dma.write32(a + 4, word(f, 4));
      dma.write32(a + 8, word(f, 8) & 0xff_ffff);
      dma.write32(a + 12, word(f, 12) & 0xffff);
      dma.write32(a + 16, 0);
    }
    if (failed) {
      // CI keeps the command's bit: with PxCMD.CCS it tells software which command failed (§6.2.2.1).
      this.halt(cause | IS_TFES);
      return;
    }
    this.ci = (this.ci & ~(1 << cmd.slot)) >>> 0;
    this.raise(cause);
  }

  private sendPioSetup(cmd: Command, endStatus: number): void {
    if ((this.cmd & CMD_FRE) === 0) return;
    const dma = this.host.dma;
    const a = this.fisBase() + RX_PIO_SETUP;
    const f = cmd.cfis;
    const direction = cmd.op === OP_WRITE ? 0 : FIS_TO_HOST;
    dma.write32(a, FIS_PIO_SETUP | ((FIS_INTERRUPT | direction) << 8) | ((ST_GOOD | ST_DRQ) << 16));
    dma.write32(a + 4, word(f, 4));
    dma.write32(a + 8, word(f, 8) & 0xff_ffff);
    dma.write32(a + 12, ((word(f, 12) & 0xffff) | (endStatus << 24)) >>> 0);
    dma.write32(a + 16, cmd.moved & 0xffff);
  }

  private sendSetDeviceBits(status: number, error: number, done: number): void {
    if ((this.cmd & CMD_FRE) === 0) return;
    const dma = this.host.dma;
    const a = this.fisBase() + RX_SDB;
    // Status bits 7 and 3 are not part of this FIS (Serial ATA 3.2 §10.5.7).
    dma.write32(a, (FIS_SDB | (FIS_INTERRUPT << 8) | ((status & 0x77) << 16) | (error << 24)) >>> 0);
    dma.write32(a + 4, done);
  }

  private fisBase(): number {
    return this.fbu * 0x1_0000_0000 + this.fb;
  }

  // ---- Work on the medium ------------------------------------------------------------------------------------------

  /** Has the back end do `cmd.op` over `length` bytes at `offset`, as many requests as it takes; then `drive.finished`. */
  start(cmd: Command, backend: BlockBackend, op: number, offset: number, length: number, unit: number): void {
    cmd.op = op;
    cmd.offset = offset;
    cmd.left = length;
    cmd.unit = unit;
    cmd.backend = backend;
    this.step(cmd, backend);
  }

  private step(cmd: Command, backend: BlockBackend): void {
    const dma = this.host.dma;
    let request: Promise<BlockStatus>;
    switch (cmd.op) {
      case OP_READ:
      case OP_WRITE: {
        const toGuest = cmd.op === OP_READ;
        const n = cmd.gather(dma, cmd.left, toGuest);
        const whole = n - (n % cmd.unit);
        if (n < 0 || whole === 0 || whole !== n) {
          cmd.segments.clear();
          this.failTransfer(cmd, n < 0);
          return;
        }
        cmd.chunk = n;
        const views = cmd.segments.views;
        // Commands in one piece only: a guest can make one of thousands, and each would be a call within the last.
        const now =
          n < cmd.left
            ? null
            : ((toGuest ? backend.readNow?.(cmd.offset, views) : backend.writeNow?.(cmd.offset, views)) ?? null);
        if (now !== null) {
          this.moved(cmd, now);
          this.advance(cmd, now);
          return;
        }
        request = toGuest ? backend.read(cmd.offset, views) : backend.write(cmd.offset, views);
        break;
      }
      case OP_VERIFY: {
        const n = Math.min(cmd.left, VERIFY_BYTES);
        this.verifyBuffer ??= new Uint8Array(VERIFY_BYTES);
        this.verifyViews.length = 0;
        this.verifyViews.push(this.verifyBuffer.subarray(0, n));
        cmd.chunk = n;
        request = backend.read(cmd.offset, this.verifyViews);
        break;
      }
      case OP_TRIM:
        request = backend.discard(cmd.offset, cmd.left);
        cmd.chunk = cmd.left;
        break;
      default:
        request = backend.flush();
        cmd.chunk = cmd.left;
        break;
    }
    cmd.busy = true;
    this.inFlight++;
    request.then(cmd.done, cmd.failed);
  }

  private requestDone(cmd: Command, status: BlockStatus): void {
    cmd.busy = false;
    this.inFlight--;
    this.moved(cmd, status);
    if (cmd.cancelled) {
      this.orphans--;
      if (this.orphans === 0) this.drained();
    } else {
      this.advance(cmd, status);
      this.run();
    }
    if (this.inFlight === 0) this.host.portIdle();
  }

  /** The back end is done with the command's memory. */
  private moved(cmd: Command, status: BlockStatus): void {
    if (cmd.op === OP_READ && status === 'ok') cmd.segments.dirty(this.host.dma);
    cmd.segments.clear();
  }

  private advance(cmd: Command, status: BlockStatus): void {
    const backend = cmd.backend as BlockBackend;
    const drive = this.drive as Drive;
    if (status !== 'ok') {
      drive.finished(cmd, status);
      return;
    }
    const n = cmd.chunk;
    cmd.offset += n;
    cmd.left -= n;
    if (cmd.op === OP_READ) {
      this.bytesRead += n;
      cmd.moved += n;
    } else if (cmd.op === OP_WRITE) {
      this.bytesWritten += n;
      cmd.moved += n;
    }
    if (cmd.left > 0) this.step(cmd, backend);
    else if (cmd.op === OP_WRITE && cmd.durable) {
      cmd.durable = false;
      cmd.op = OP_FLUSH;
      this.step(cmd, backend);
    } else drive.finished(cmd, 'ok');
  }

  // ---- State -------------------------------------------------------------------------------------------------------

  save(): AhciPortStateV1 {
    return {
      clb: this.clb,
      clbu: this.clbu,
      fb: this.fb,
      fbu: this.fbu,
      is: this.is,
      ie: this.ie,
      cmd: this.cmd,
      ccs: this.ccs,
      tfd: this.tfd,
      sig: this.sig,
      ssts: this.ssts,
      sctl: this.sctl,
      sact: this.sact,
      ci: this.ci,
      halted: this.halted,
      srst: this.srst,
      signatureFis: this.signatureFis,
      ncqError: [this.ncqErrorTag, ...this.ncqError],
      drive: this.drive === null ? null : this.drive.save(),
    };
  }

  /** Restores a checked port state. Commands that had not started start when the controller resumes. */
  load(s: AhciPortStateV1): void {
    this.stop();
    this.clb = (s.clb & ~0x3ff) >>> 0;
    this.clbu = s.clbu;
    this.fb = (s.fb & ~0xff) >>> 0;
    this.fbu = s.fbu;
    this.is = s.is;
    this.ie = (s.ie & IE_WRITABLE) >>> 0;
    this.cmd = (s.cmd & (CMD_PLAIN | CMD_ST | CMD_SUD | CMD_FRE)) | CMD_POD;
    this.ccs = s.ccs & 31;
    this.tfd = s.tfd;
    this.sig = s.sig;
    this.ssts = s.ssts;
    this.sctl = s.sctl & SCTL_WRITABLE;
    this.sact = s.sact;
    this.ci = s.ci;
    this.halted = s.halted;
    this.srst = s.srst;
    this.signatureFis = s.signatureFis;
    this.linkPending = false;
    this.ncqErrorTag = s.ncqError[0] as number;
    this.ncqError.set(s.ncqError.slice(1));
    this.drive?.load(s.drive);
  }
}

function word(f: Uint8Array, at: number): number {
  return (
    ((f[at] as number) |
      ((f[at + 1] as number) << 8) |
      ((f[at + 2] as number) << 16) |
      ((f[at + 3] as number) << 24)) >>>
    0
  );
}

/** Checks the shape of a port's state. @throws HyveError `STATE_FORMAT` */
export function checkPortState(state: unknown, index: number): AhciPortStateV1 {
  const bad = (what: string): HyveError => new HyveError('STATE_FORMAT', `ahci port ${index}: ${what}`);
  if (typeof state !== 'object' || state === null) throw bad('expected an object');
  const s = state as AhciPortStateV1;
  for (const f of REGISTER_FIELDS) {
    const v: unknown = s[f];
    if (typeof v !== 'number' || !Number.isInteger(v) || v < 0 || v > 0xffff_ffff)
      throw bad(`${f} is ${String(v)}, expected 32 bits`);
  }
  for (const f of ['halted', 'srst', 'signatureFis'] as const)
    if (typeof s[f] !== 'boolean') throw bad(`${f} is not true or false`);
  const e: unknown = s.ncqError;
  if (!Array.isArray(e) || e.length !== 17 || !e.every((v) => Number.isInteger(v) && v >= -1 && v < 256))
    throw bad('ncqError is not a tag and 16 bytes');
  return s;
}
