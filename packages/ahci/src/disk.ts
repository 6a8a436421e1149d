// The ATA command set of a disk (ACS-3; SMART from ATA8-ACS). bhyve: ahci_handle_cmd and what it calls in pci_ahci.c.
import { type BlockBackend, type BlockStatus, HyveError } from '@hyve/core';
import * as bits from './bits.ts';
import { DEV_FUA, DEV_LBA, ER_ABRT, ER_IDNF, ER_UNC, SIG_ATA, ST_DF, ST_DRDY, ST_DSC, ST_ERR } from './bits.ts';
import { type Command, OP_FLUSH, OP_READ, OP_TRIM, OP_VERIFY, OP_WRITE } from './command.ts';
import {
  type DiskHistory,
  identifyDisk,
  MAX_MULTIPLE,
  MAX_TRIM_BLOCKS,
  putChecksum,
  selfTestLog,
  smartData,
  smartThresholds,
  statisticsPage,
} from './identify.ts';
import type { AhciPort, Drive } from './port.ts';

const ERROR_STATUS = ST_ERR | ST_DRDY | ST_DSC;
const MAX_SELF_TESTS = 21;
/** Pages of the largest log reply. */
const MAX_LOG_PAGES = 4;
/** Bytes of a TRIM range entry: LBA 47:0, count 63:48. */
const TRIM_ENTRY = 8;

/** What a disk is made of. */
export interface DiskOptions {
  readonly port: AhciPort;
  readonly backend: BlockBackend;
  readonly serial: string;
  readonly revision: string;
  readonly model: string;
  readonly nmrr: number;
}

/** A disk's part of the saved state. */
export interface DiskStateV1 {
  readonly writeCache: boolean;
  readonly readAhead: boolean;
  readonly smart: boolean;
  readonly multiple: number;
  readonly udmaMode: number;
  /** Subcommands of finished self-tests, oldest first. */
  readonly selfTests: readonly number[];
  /** Power cycles, read and write commands, sectors read and written, read errors. */
  readonly history: readonly number[];
}

/** A SATA disk. @internal */
export class AtaDisk implements Drive {
  readonly signature: number = SIG_ATA;
  flushes = 0;
  trims = 0;
  private readonly o: DiskOptions;
  private readonly port: AhciPort;
  private readonly backend: BlockBackend;
  private readonly sectors: number;
  private readonly page: Uint8Array = new Uint8Array(MAX_LOG_PAGES * 512);
  private readonly entry: Uint8Array = new Uint8Array(TRIM_ENTRY);
  /** TRIM entries left, by command. */
  private readonly trimLeft: Uint16Array = new Uint16Array(32);
  private writeCache = true;
  private readAhead = true;
  private smart = true;
  private multiple = MAX_MULTIPLE;
  private udmaMode = 6;
  private selfTests: number[] = [];
  private powerCycles = 1;
  private readCommands = 0;
  private writeCommands = 0;
  private sectorsRead = 0;
  private sectorsWritten = 0;
  private readErrors = 0;

  constructor(o: DiskOptions) {
    this.o = o;
    this.port = o.port;
    this.backend = o.backend;
    this.sectors = Math.floor(o.backend.size / o.backend.sectorSize);
  }

  isQueued(code: number): boolean {
    return code === bits.ATA_READ_FPDMA || code === bits.ATA_WRITE_FPDMA || code === bits.ATA_SEND_FPDMA;
  }

  reset(): void {
    // Write cache and read-ahead keep what the guest chose, as with SET FEATURES 66h.
    this.multiple = MAX_MULTIPLE;
  }

  private abort(cmd: Command): void {
    this.port.fail(cmd, ERROR_STATUS, ER_ABRT);
  }

  // ---- Addresses ---------------------------------------------------------------------------------------------------

  private lba28(c: Uint8Array): number {
    const device = c[7] as number;
    const low = (c[4] as number) | ((c[5] as number) << 8) | ((c[6] as number) << 16);
    if ((device & DEV_LBA) !== 0) return low + (device & 0xf) * 0x100_0000;
    // Cylinder, head, sector in the default translation.
    const sector = c[4] as number;
    if (sector === 0) return Number.MAX_SAFE_INTEGER;
    return ((low >> 8) * 16 + (device & 0xf)) * 63 + sector - 1;
  }

  private lba48(c: Uint8Array): number {
    const low = (c[4] as number) | ((c[5] as number) << 8) | ((c[6] as number) << 16);
    const high = (c[8] as number) | ((c[9] as number) << 8) | ((c[10] as number) << 16);
    return low + high * 0x100_0000;
  }

  private count16(c: Uint8Array): number {
    return (c[12] as number) | ((c[13] as number) << 8);
  }

  /** Starts a transfer of whole sectors; `count` zero is the field's largest value plus one. */
  private media(cmd: Command, op: number, extended: boolean, pio: boolean, fua: boolean): void {
    const c = cmd.cfis;
    const lba = extended ? this.lba48(c) : this.lba28(c);
    const count = extended ? this.count16(c) || 0x1_0000 : (c[12] as number) || 0x100;
    this.transfer(cmd, op, lba, count, pio, fua);
  }

  private transfer(cmd: Command, op: number, lba: number, count: number, pio: boolean, fua: boolean): void {
    if (lba + count > this.sectors) {
      this.port.fail(cmd, ERROR_STATUS, ER_IDNF);
      return;
    }
    const size = this.backend.sectorSize;
    if (op === OP_WRITE) {
      if (this.backend.readOnly) {
        this.abort(cmd);
        return;
      }
      this.writeCommands++;
      this.sectorsWritten += count;
      cmd.durable = fua || !this.writeCache;
    } else {
      this.readCommands++;
      if (op === OP_READ) this.sectorsRead += count;
    }
    cmd.pio = pio;
    this.port.start(cmd, this.backend, op, lba * size, count * size, size);
  }

  // ---- Commands ----------------------------------------------------------------------------------------------------

  execute(cmd: Command): void {
    const c = cmd.cfis;
    switch (c[2]) {
      case bits.ATA_READ_FPDMA:
      case bits.ATA_WRITE_FPDMA: {
        const op = c[2] === bits.ATA_READ_FPDMA ? OP_READ : OP_WRITE;
        const count = (c[3] as number) | ((c[11] as number) << 8) || 0x1_0000;
        this.transfer(cmd, op, this.lba48(c), count, false, ((c[7] as number) & DEV_FUA) !== 0);
        break;
      }
      case bits.ATA_READ_DMA:
      case bits.ATA_READ_DMA_NORETRY:
        this.media(cmd, OP_READ, false, false, false);
        break;
      case bits.ATA_READ_DMA_EXT:
        this.media(cmd, OP_READ, true, false, false);
        break;
      case bits.ATA_WRITE_DMA:
      case bits.ATA_WRITE_DMA_NORETRY:
        this.media(cmd, OP_WRITE, false, false, false);
        break;
      case bits.ATA_WRITE_DMA_EXT:
        this.media(cmd, OP_WRITE, true, false, false);
        break;
      case bits.ATA_WRITE_DMA_FUA_EXT:
        this.media(cmd, OP_WRITE, true, false, true);
        break;
      case bits.ATA_READ_SECTORS:
      case bits.ATA_READ_SECTORS_NORETRY:
        this.media(cmd, OP_READ, false, true, false);
        break;
      case bits.ATA_READ_SECTORS_EXT:
        this.media(cmd, OP_READ, true, true, false);
        break;
      case bits.ATA_WRITE_SECTORS:
      case bits.ATA_WRITE_SECTORS_NORETRY:
        this.media(cmd, OP_WRITE, false, true, false);
        break;
      case bits.ATA_WRITE_SECTORS_EXT:
        this.media(cmd, OP_WRITE, true, true, false);
        break;
      case bits.ATA_READ_MULTIPLE:
      case bits.ATA_READ_MULTIPLE_EXT:
      case bits.ATA_WRITE_MULTIPLE:
      case bits.ATA_WRITE_MULTIPLE_EXT:
      case bits.ATA_WRITE_MULTIPLE_FUA_EXT:
        this.multipleSectors(cmd, c[2]);
        break;
      case bits.ATA_READ_VERIFY:
      case bits.ATA_READ_VERIFY_NORETRY:
        this.media(cmd, OP_VERIFY, false, false, false);
        break;
      case bits.ATA_READ_VERIFY_EXT:
        this.media(cmd, OP_VERIFY, true, false, false);
        break;
      case bits.ATA_FLUSH_CACHE:
      case bits.ATA_FLUSH_CACHE_EXT:
        this.flush(cmd);
        break;
      case bits.ATA_DATA_SET_MANAGEMENT:
        if (((c[3] as number) & 1) !== 0) this.trim(cmd, this.count16(c));
        else this.abort(cmd);
        break;
      case bits.ATA_SEND_FPDMA:
        // Subcommand 0 is DATA SET MANAGEMENT; TRIM is bit 0 of the auxiliary field.
        if (((c[13] as number) & 0x1f) === 0 && ((c[16] as number) & 1) !== 0)
          this.trim(cmd, (c[3] as number) | ((c[11] as number) << 8));
        else this.abort(cmd);
        break;
      case bits.ATA_IDENTIFY:
        this.fillIdentify(this.page);
        this.port.sendPio(cmd, this.page, 512);
        break;
      case bits.ATA_READ_LOG_EXT:
      case bits.ATA_READ_LOG_DMA_EXT:
        this.readLog(cmd);
        break;
      case bits.ATA_SMART:
        this.smartCommand(cmd);
        break;
      case bits.ATA_SET_FEATURES:
        this.setFeatures(cmd);
        break;
      case bits.ATA_SET_MULTIPLE: {
        const n = c[12] as number;
        if (n > MAX_MULTIPLE || (n & (n - 1)) !== 0) this.abort(cmd);
        else {
          this.multiple = n;
          this.port.complete(cmd);
        }
        break;
      }
      case bits.ATA_CHECK_POWER:
      case bits.ATA_CHECK_POWER_OLD:
        c[12] = 0xff; // active or idle
        this.port.complete(cmd);
        break;
      case bits.ATA_STANDBY:
      case bits.ATA_STANDBY_OLD:
      case bits.ATA_STANDBY_IMMEDIATE:
      case bits.ATA_STANDBY_IMMEDIATE_OLD:
      case bits.ATA_SLEEP:
      case bits.ATA_SLEEP_OLD:
        // Going to standby writes the cache back first.
        this.flush(cmd);
        break;
      case bits.ATA_IDLE:
      case bits.ATA_IDLE_OLD:
      case bits.ATA_IDLE_IMMEDIATE:
      case bits.ATA_IDLE_IMMEDIATE_OLD:
      case bits.ATA_SECURITY_FREEZE_LOCK:
      case bits.ATA_INIT_PARAMETERS:
      case bits.ATA_RECALIBRATE:
      case bits.ATA_SEEK:
        this.port.complete(cmd);
        break;
      case bits.ATA_DIAGNOSTIC:
        // The signature, with "no error" where the error register is (ACS-3 §7.9).
        c.fill(0, 4, 14);
        c[4] = 1;
        c[12] = 1;
        this.port.completeWith(cmd, ST_DRDY | ST_DSC, 1);
        break;
      default:
        // NOP and DEVICE RESET among them: a disk aborts both (ACS-3 §7.21, §7.6).
        this.abort(cmd);
        break;
    }
  }

  finished(cmd: Command, status: BlockStatus): void {
    if (status === 'ok') {
      if (cmd.op === OP_TRIM) this.nextTrim(cmd);
      else this.port.complete(cmd);
      return;
    }
    const reading = cmd.op === OP_READ || cmd.op === OP_VERIFY;
    if (reading) this.readErrors++;
    if (status === 'out-of-range') this.port.fail(cmd, ERROR_STATUS, ER_IDNF);
    else if (status === 'read-only' || status === 'unsupported') this.abort(cmd);
    else if (reading) {
      this.putFailedLba(cmd);
      this.port.fail(cmd, ERROR_STATUS, ER_UNC);
    } else this.port.fail(cmd, ERROR_STATUS | ST_DF, ER_ABRT);
  }

  /** The FIS says where the first sector in error may be: the start of the request that failed. */
  private putFailedLba(cmd: Command): void {
    const lba = Math.floor(cmd.offset / this.backend.sectorSize);
    const c = cmd.cfis;
    const code = c[2] as number;
    const extended =
      cmd.ncq ||
      code === bits.ATA_READ_DMA_EXT ||
      code === bits.ATA_READ_SECTORS_EXT ||
      code === bits.ATA_READ_MULTIPLE_EXT ||
      code === bits.ATA_READ_VERIFY_EXT;
    if (!extended && ((c[7] as number) & DEV_LBA) === 0) return;
    c[4] = lba & 0xff;
    c[5] = Math.floor(lba / 0x100) & 0xff;
    c[6] = Math.floor(lba / 0x1_0000) & 0xff;
    const high = Math.floor(lba / 0x100_0000);
    if (!extended) {
      c[7] = ((c[7] as number) & 0xf0) | (high & 0xf);
      return;
    }
    c[8] = high & 0xff;
    c[9] = (high >>> 8) & 0xff;
    c[10] = (high >>> 16) & 0xff;
  }

  private multipleSectors(cmd: Command, code: number): void {
    if (this.multiple === 0) {
      this.abort(cmd);
      return;
    }
    const read = code === bits.ATA_READ_MULTIPLE || code === bits.ATA_READ_MULTIPLE_EXT;
    const extended = code !== bits.ATA_READ_MULTIPLE && code !== bits.ATA_WRITE_MULTIPLE;
    this.media(cmd, read ? OP_READ : OP_WRITE, extended, true, code === bits.ATA_WRITE_MULTIPLE_FUA_EXT);
  }

  private flush(cmd: Command): void {
    this.flushes++;
    this.port.start(cmd, this.backend, OP_FLUSH, 0, 0, 1);
  }

  // ---- TRIM --------------------------------------------------------------------------------------------------------

  private trim(cmd: Command, blocks: number): void {
    if (!this.backend.canDiscard || this.backend.readOnly || blocks === 0 || blocks > MAX_TRIM_BLOCKS) {
      this.abort(cmd);
      return;
    }
    this.trims++;
    this.trimLeft[cmd.index] = (blocks * 512) / TRIM_ENTRY;
    this.nextTrim(cmd);
  }

  /** Takes entries until one has something to do. */
  private nextTrim(cmd: Command): void {
    cmd.unit = 2;
    const e = this.entry;
    while (this.trimLeft[cmd.index] !== 0) {
      this.trimLeft[cmd.index]--;
      if (!cmd.take(this.port.dma, e, TRIM_ENTRY)) {
        this.port.failTransfer(cmd, false);
        return;
      }
      const count = (e[6] as number) | ((e[7] as number) << 8);
      if (count === 0) continue;
      const low = (e[0] as number) | ((e[1] as number) << 8) | ((e[2] as number) << 16);
      const high = (e[3] as number) | ((e[4] as number) << 8) | ((e[5] as number) << 16);
      const lba = low + high * 0x100_0000;
      if (lba + count > this.sectors) {
        this.port.fail(cmd, ERROR_STATUS, ER_IDNF);
        return;
      }
      const size = this.backend.sectorSize;
      this.port.start(cmd, this.backend, OP_TRIM, lba * size, count * size, 2);
      return;
    }
    this.port.complete(cmd);
  }

  // ---- What the disk says of itself --------------------------------------------------------------------------------

  private fillIdentify(page: Uint8Array): void {
    const b = this.backend;
    identifyDisk(page.subarray(0, 512), {
      serial: this.o.serial,
      revision: this.o.revision,
      model: this.o.model,
      nmrr: this.o.nmrr,
      speed: (this.port.read(bits.REG_SSTS) >> bits.SSTS_SPD_SHIFT) & 0xf,
      sectors: this.sectors,
      sectorSize: b.sectorSize,
      physicalSectorSize: b.physicalSectorSize,
      trim: b.canDiscard && !b.readOnly,
      multiple: this.multiple,
      writeCache: this.writeCache,
      readAhead: this.readAhead,
      smart: this.smart,
      udmaMode: this.udmaMode,
    });
  }

  private history(): DiskHistory {
    return {
      powerCycles: this.powerCycles,
      readCommands: this.readCommands,
      writeCommands: this.writeCommands,
      sectorsRead: this.sectorsRead,
      sectorsWritten: this.sectorsWritten,
      readErrors: this.readErrors,
    };
  }

  /** 512-byte pages of a general purpose log, 0 for a log that does not exist. */
  private logPages(log: number): number {
    switch (log) {
      case bits.LOG_DIRECTORY:
      case bits.LOG_EXT_ERROR:
      case bits.LOG_EXT_SELF_TEST:
      case bits.LOG_NCQ_ERROR:
        return 1;
      case bits.LOG_NCQ_SEND_RECEIVE:
        return this.backend.canDiscard && !this.backend.readOnly ? 1 : 0;
      case bits.LOG_STATISTICS:
      case bits.LOG_IDENTIFY:
        return 2;
      default:
        return 0;
    }
  }

  private fillLog(page: Uint8Array, log: number, n: number): void {
    page.fill(0);
    switch (log) {
      case bits.LOG_DIRECTORY:
        page[0] = 1;
        for (let i = 1; i < 256; i++) page[i * 2] = this.logPages(i);
        break;
      case bits.LOG_EXT_ERROR:
      case bits.LOG_EXT_SELF_TEST:
        page[0] = 1;
        putChecksum(page);
        break;
      case bits.LOG_STATISTICS:
        statisticsPage(page, n, this.history());
        break;
      case bits.LOG_NCQ_ERROR: {
        const p = this.port;
        const e = p.ncqError;
        page[0] = p.ncqErrorTag < 0 ? 0x80 : p.ncqErrorTag; // NQ: the last error was no queued command's
        page[2] = e[0] as number;
        page[3] = e[1] as number;
        for (let i = 0; i < 4; i++) page[4 + i] = e[2 + i] as number; // LBA 23:0, device
        for (let i = 0; i < 3; i++) page[8 + i] = e[6 + i] as number; // LBA 47:24
        page[12] = e[9] as number;
        page[13] = e[10] as number;
        putChecksum(page);
        break;
      }
      case bits.LOG_NCQ_SEND_RECEIVE:
        page[0] = 1; // SEND FPDMA QUEUED has DATA SET MANAGEMENT
        page[4] = 1; // with TRIM
        break;
      case bits.LOG_IDENTIFY:
        if (n === 1) this.fillIdentify(page);
        else {
          page[0] = 1;
          page[8] = 2;
          page[10] = 1;
        }
        break;
    }
  }

  private readLog(cmd: Command): void {
    const c = cmd.cfis;
    const log = c[4] as number;
    const first = (c[5] as number) | ((c[9] as number) << 8);
    const count = this.count16(c);
    if (count === 0 || count > MAX_LOG_PAGES || first + count > this.logPages(log)) {
      this.abort(cmd);
      return;
    }
    for (let i = 0; i < count; i++) this.fillLog(this.page.subarray(i * 512, i * 512 + 512), log, first + i);
    if (log === bits.LOG_NCQ_ERROR) this.port.ncqErrorTag = -1;
    if (c[2] === bits.ATA_READ_LOG_EXT) this.port.sendPio(cmd, this.page, count * 512);
    else this.port.sendDma(cmd, this.page, count * 512);
  }

  private smartCommand(cmd: Command): void {
    const c = cmd.cfis;
    const sub = c[3] as number;
    if (c[5] !== 0x4f || c[6] !== 0xc2 || (!this.smart && sub !== bits.SMART_ENABLE)) {
      this.abort(cmd);
      return;
    }
    const page = this.page.subarray(0, 512);
    switch (sub) {
      case bits.SMART_READ_DATA:
        smartData(page, this.history());
        this.port.sendPio(cmd, page, 512);
        break;
      case bits.SMART_READ_THRESHOLDS:
        smartThresholds(page, this.history());
        this.port.sendPio(cmd, page, 512);
        break;
      case bits.SMART_READ_LOG:
        this.smartLog(cmd, page);
        break;
      case bits.SMART_ENABLE:
        this.smart = true;
        this.port.complete(cmd);
        break;
      case bits.SMART_DISABLE:
        this.smart = false;
        this.port.complete(cmd);
        break;
      case bits.SMART_OFFLINE: {
        // Nothing to test: every self-test is over at once, without error.
        const test = c[4] as number;
        if ((test & 0x7f) === 1 || (test & 0x7f) === 2) {
          if (this.selfTests.length === MAX_SELF_TESTS) this.selfTests.shift();
          this.selfTests.push(test);
        }
        this.port.complete(cmd);
        break;
      }
      case bits.SMART_STATUS:
      case bits.SMART_AUTOSAVE:
      case bits.SMART_SAVE_VALUES:
      case bits.SMART_AUTO_OFFLINE:
        // LBA mid and high still hold 4Fh and C2h: no threshold exceeded.
        this.port.complete(cmd);
        break;
      default:
        this.abort(cmd);
        break;
    }
  }

  private smartLog(cmd: Command, page: Uint8Array): void {
    const c = cmd.cfis;
    if (c[12] !== 1) {
      this.abort(cmd);
      return;
    }
    page.fill(0);
    switch (c[4]) {
      case bits.LOG_DIRECTORY:
        page[0] = 1;
        page[bits.LOG_SUMMARY_ERROR * 2] = 1;
        page[bits.LOG_SELF_TEST * 2] = 1;
        break;
      case bits.LOG_SUMMARY_ERROR:
        page[0] = 1;
        putChecksum(page);
        break;
      case bits.LOG_SELF_TEST:
        selfTestLog(page, this.selfTests);
        break;
      default:
        this.abort(cmd);
        return;
    }
    this.port.sendPio(cmd, page, 512);
  }

  private setFeatures(cmd: Command): void {
    const c = cmd.cfis;
    switch (c[3]) {
      case bits.SETF_ENABLE_WRITE_CACHE:
        this.writeCache = true;
        break;
      case bits.SETF_DISABLE_WRITE_CACHE:
        this.writeCache = false;
        this.flush(cmd);
        return;
      case bits.SETF_ENABLE_READ_AHEAD:
        this.readAhead = true;
        break;
      case bits.SETF_DISABLE_READ_AHEAD:
        this.readAhead = false;
        break;
      case bits.SETF_ENABLE_REVERT:
      case bits.SETF_DISABLE_REVERT:
        break;
      case bits.SETF_TRANSFER_MODE: {
        const mode = c[12] as number;
        const kind = mode >> 3;
        // PIO default and flow control modes, multiword DMA 0-2, Ultra DMA 0-6.
        if (kind === 8 && (mode & 7) <= 6) this.udmaMode = mode & 7;
        else if (!(mode <= 1 || (kind === 1 && (mode & 7) <= 4) || (kind === 4 && (mode & 7) <= 2))) {
          this.abort(cmd);
          return;
        }
        break;
      }
      default:
        this.abort(cmd);
        return;
    }
    this.port.complete(cmd);
  }

  // ---- State -------------------------------------------------------------------------------------------------------

  save(): DiskStateV1 {
    return {
      writeCache: this.writeCache,
      readAhead: this.readAhead,
      smart: this.smart,
      multiple: this.multiple,
      udmaMode: this.udmaMode,
      selfTests: [...this.selfTests],
      history: [
        this.powerCycles,
        this.readCommands,
        this.writeCommands,
        this.sectorsRead,
        this.sectorsWritten,
        this.readErrors,
      ],
    };
  }

  load(state: unknown): void {
    const s = state as DiskStateV1;
    const number = (v: unknown, limit: number): boolean =>
      typeof v === 'number' && Number.isInteger(v) && v >= 0 && v <= limit;
    if (
      typeof s !== 'object' ||
      s === null ||
      !number(s.multiple, MAX_MULTIPLE) ||
      !number(s.udmaMode, 6) ||
      !Array.isArray(s.selfTests) ||
      s.selfTests.length > MAX_SELF_TESTS ||
      !s.selfTests.every((t) => number(t, 255)) ||
      !Array.isArray(s.history) ||
      s.history.length !== 6 ||
      !s.history.every((h) => number(h, Number.MAX_SAFE_INTEGER))
    )
      throw new HyveError('STATE_FORMAT', `ahci port ${this.port.index}: not the state of a disk`);
    this.writeCache = s.writeCache === true;
    this.readAhead = s.readAhead === true;
    this.smart = s.smart === true;
    this.multiple = s.multiple;
    this.udmaMode = s.udmaMode;
    this.selfTests = [...s.selfTests];
    const h = s.history as readonly number[];
    this.powerCycles = h[0] as number;
    this.readCommands = h[1] as number;
    this.writeCommands = h[2] as number;
    this.sectorsRead = h[3] as number;
    this.sectorsWritten = h[4] as number;
    this.readErrors = h[5] as number;
  }
}
