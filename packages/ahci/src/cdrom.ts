// An ATAPI CD/DVD-ROM drive: the PACKET side of ATA (ACS-3 §7.20) and the MMC-6 and SPC-3 commands that drivers use. bhyve:
// handle_packet_cmd and the atapi_ functions of pci_ahci.c.
import { type BlockBackend, type BlockStatus, HyveError } from '@hyve/core';
import * as bits from './bits.ts';
import {
  ASC_INVALID_FIELD,
  CD_SECTOR,
  ER_ABRT,
  SENSE_ILLEGAL_REQUEST,
  SENSE_MEDIUM_ERROR,
  SENSE_NOT_READY,
  SENSE_UNIT_ATTENTION,
  SIG_ATAPI,
  ST_DRDY,
  ST_ERR,
} from './bits.ts';
import { type Command, OP_FLUSH, OP_READ } from './command.ts';
import { identifyPacket } from './identify.ts';
import type { AhciPort, Drive } from './port.ts';

const ERROR_STATUS = ST_ERR | ST_DRDY;
/** Interrupt reason in the count field: status phase (C/D and I/O set). */
const REASON_STATUS = 3;
/** Sectors of the largest CD (80 minutes); larger media are DVDs. */
const CD_MAX_SECTORS = 80 * 60 * 75;
const PROFILE_CD = 0x08;
const PROFILE_DVD = 0x10;
/** Tray, eject button, lock: loading mechanism bits of mode page 2Ah and feature 0003h. */
const LOADING_TRAY_EJECT_LOCK = 0x29;

/** What a CD drive is made of. */
export interface CdOptions {
  readonly port: AhciPort;
  readonly medium: BlockBackend | null;
  readonly serial: string;
  readonly revision: string;
  readonly model: string;
  /** Product as INQUIRY gives it, ASCII; the first 16 characters count. */
  readonly product: string;
  /** The guest opened or closed the tray. */
  readonly onTray: ((open: boolean) => void) | null;
}

/** A CD drive's part of the saved state. */
export interface CdStateV1 {
  readonly trayOpen: boolean;
  readonly locked: boolean;
  readonly attention: boolean;
  readonly event: number;
  readonly senseKey: number;
  readonly senseCode: number;
}

/** Puts `bytes` bytes of a number, most significant first. */
function putBig(page: Uint8Array, offset: number, bytes: number, value: number): void {
  for (let i = 0; i < bytes; i++) page[offset + i] = Math.floor(value / 2 ** (8 * (bytes - 1 - i))) & 0xff;
}

function putText(page: Uint8Array, offset: number, bytes: number, text: string): void {
  for (let i = 0; i < bytes; i++) page[offset + i] = i < text.length ? text.charCodeAt(i) & 0x7f : 0x20;
}

/** A CD/DVD-ROM drive. @internal */
export class AtapiDrive implements Drive {
  readonly signature: number = SIG_ATAPI;
  private readonly o: CdOptions;
  private readonly port: AhciPort;
  private readonly page: Uint8Array = new Uint8Array(512);
  private medium: BlockBackend | null;
  private trayOpen = false;
  private locked = false;
  /** Whether the guest is still to be told of a new medium. */
  private attention = false;
  private event = bits.EVENT_NONE;
  private senseKey = bits.SENSE_NONE;
  private senseCode = 0;

  constructor(o: CdOptions) {
    this.o = o;
    this.port = o.port;
    this.medium = o.medium;
  }

  isQueued(_code: number): boolean {
    return false;
  }

  reset(): void {
    this.locked = false;
    this.senseKey = bits.SENSE_NONE;
    this.senseCode = 0;
  }

  // ---- Host's side -------------------------------------------------------------------------------------------------

  /** Whether the guest holds the tray shut. */
  get prevented(): boolean {
    return this.locked;
  }

  /** Closes the tray with this medium in it. */
  insert(medium: BlockBackend): void {
    this.medium = medium;
    this.trayOpen = false;
    this.attention = true;
    this.event = bits.EVENT_NEW_MEDIA;
  }

  /** Opens the tray and takes the medium out. */
  eject(): BlockBackend | null {
    const m = this.medium;
    this.medium = null;
    this.trayOpen = true;
    this.locked = false;
    this.attention = false;
    this.event = bits.EVENT_MEDIA_REMOVAL;
    return m;
  }

  /** Somebody pressed the button of a locked drive. */
  requestEject(): void {
    this.event = bits.EVENT_EJECT_REQUEST;
  }

  private get present(): boolean {
    return this.medium !== null && !this.trayOpen;
  }

  private get sectors(): number {
    return this.present ? Math.floor((this.medium as BlockBackend).size / CD_SECTOR) : 0;
  }

  private get profile(): number {
    return this.present ? (this.sectors > CD_MAX_SECTORS ? PROFILE_DVD : PROFILE_CD) : 0;
  }

  // ---- ATA commands ------------------------------------------------------------------------------------------------

  execute(cmd: Command): void {
    const c = cmd.cfis;
    switch (c[2]) {
      case bits.ATA_PACKET:
        cmd.pio = ((c[3] as number) & 1) === 0;
        cmd.op = OP_READ;
        this.port.fetchPacket(cmd);
        this.packet(cmd);
        break;
      case bits.ATA_IDENTIFY_PACKET:
        identifyPacket(this.page, {
          serial: this.o.serial,
          revision: this.o.revision,
          model: this.o.model,
          nmrr: 0,
          speed: (this.port.read(bits.REG_SSTS) >> bits.SSTS_SPD_SHIFT) & 0xf,
        });
        this.port.sendPio(cmd, this.page, 512);
        break;
      case bits.ATA_IDENTIFY:
        // Aborted, with the signature to say what to send instead (ACS-3 §7.12.3).
        this.putSignature(c);
        this.abort(cmd);
        break;
      case bits.ATA_DEVICE_RESET:
        this.reset();
        this.putSignature(c);
        this.port.completeWith(cmd, 0, 1);
        break;
      case bits.ATA_DIAGNOSTIC:
        this.putSignature(c);
        this.port.completeWith(cmd, 0, 1);
        break;
      case bits.ATA_SET_FEATURES:
        if (c[3] === bits.SETF_TRANSFER_MODE) this.port.complete(cmd);
        else this.abort(cmd);
        break;
      case bits.ATA_CHECK_POWER:
        c[12] = 0xff;
        this.port.complete(cmd);
        break;
      case bits.ATA_STANDBY_IMMEDIATE:
      case bits.ATA_IDLE_IMMEDIATE:
      case bits.ATA_STANDBY:
      case bits.ATA_IDLE:
      case bits.ATA_SLEEP:
      case bits.ATA_FLUSH_CACHE:
        this.port.complete(cmd);
        break;
      default:
        this.abort(cmd);
        break;
    }
  }

  private putSignature(c: Uint8Array): void {
    c.fill(0, 4, 14);
    c[4] = 0x01;
    c[5] = 0x14;
    c[6] = 0xeb;
    c[12] = 1;
  }

  private abort(cmd: Command): void {
    this.port.fail(cmd, ERROR_STATUS, ER_ABRT);
  }

  finished(cmd: Command, status: BlockStatus): void {
    if (status === 'ok' || cmd.op === OP_FLUSH) this.good(cmd);
    else if (status === 'out-of-range') this.check(cmd, SENSE_ILLEGAL_REQUEST, bits.ASC_LBA_OUT_OF_RANGE);
    else this.check(cmd, SENSE_MEDIUM_ERROR, bits.ASC_UNRECOVERED_READ);
  }

  // ---- Packet commands ---------------------------------------------------------------------------------------------

  private good(cmd: Command): void {
    cmd.cfis[12] = REASON_STATUS;
    if (cmd.moved === 0) cmd.pio = false;
    this.port.complete(cmd);
  }

  /** CHECK CONDITION: the sense key is in the error register, the rest waits for REQUEST SENSE. */
  private check(cmd: Command, key: number, code: number): void {
    this.senseKey = key;
    this.senseCode = code;
    cmd.cfis[12] = REASON_STATUS;
    this.port.fail(cmd, ERROR_STATUS, key << 4);
  }

  /** Sends what fits the command's allocation length. */
  private reply(cmd: Command, length: number, allocation: number): void {
    const n = Math.min(length, allocation);
    cmd.unit = 2;
    if (n > 0 && !cmd.give(this.port.dma, this.page, n)) {
      this.port.failTransfer(cmd, true);
      return;
    }
    this.good(cmd);
  }

  private packet(cmd: Command): void {
    const p = cmd.acmd;
    const op = p[0] as number;
    const page = this.page;
    const allocation10 = ((p[7] as number) << 8) | (p[8] as number);
    page.fill(0);
    switch (op) {
      // These work whatever the medium does, and leave a unit attention standing (SPC-3 §5.8.5, MMC-6 §4.1.6.1).
      case bits.SCSI_INQUIRY:
        this.inquiry(cmd);
        return;
      case bits.SCSI_REQUEST_SENSE:
        this.requestSense(cmd);
        return;
      case bits.SCSI_GET_CONFIGURATION:
        this.reply(cmd, this.configuration(p), allocation10);
        return;
      case bits.SCSI_GET_EVENT_STATUS:
        this.eventStatus(cmd, allocation10);
        return;
      case bits.SCSI_REPORT_LUNS:
        page[3] = 8;
        this.reply(cmd, 16, big32(p, 6));
        return;
    }
    if (this.attention) {
      this.attention = false;
      this.check(cmd, SENSE_UNIT_ATTENTION, bits.ASC_MEDIUM_CHANGED);
      return;
    }
    this.senseKey = bits.SENSE_NONE;
    this.senseCode = 0;
    switch (op) {
      case bits.SCSI_START_STOP:
        this.startStop(cmd);
        return;
      case bits.SCSI_PREVENT_ALLOW:
        this.locked = ((p[4] as number) & 1) !== 0;
        this.good(cmd);
        return;
      case bits.SCSI_MODE_SENSE_10:
        this.modeSense(cmd, allocation10);
        return;
      case bits.SCSI_MECHANISM_STATUS:
        page[1] = this.trayOpen ? 0x10 : 0;
        this.reply(cmd, 8, ((p[8] as number) << 8) | (p[9] as number));
        return;
      case bits.SCSI_SET_CD_SPEED:
      case bits.SCSI_SYNCHRONIZE_CACHE:
        this.good(cmd);
        return;
    }
    if (!KNOWN_MEDIUM_COMMANDS.includes(op)) {
      this.check(cmd, SENSE_ILLEGAL_REQUEST, bits.ASC_INVALID_OPCODE);
      return;
    }
    if (!this.present) {
      this.check(cmd, SENSE_NOT_READY, this.trayOpen ? bits.ASC_NO_MEDIUM_TRAY_OPEN : bits.ASC_NO_MEDIUM);
      return;
    }
    const sectors = this.sectors;
    switch (op) {
      case bits.SCSI_READ_CAPACITY:
        putBig(page, 0, 4, Math.max(sectors - 1, 0));
        putBig(page, 4, 4, CD_SECTOR);
        this.reply(cmd, 8, 8);
        break;
      case bits.SCSI_READ_10:
        this.read(cmd, big32(p, 2), allocation10);
        break;
      case bits.SCSI_READ_12:
        this.read(cmd, big32(p, 2), big32(p, 6));
        break;
      case bits.SCSI_READ_CD:
        // Only what a data disc has: 2048 bytes of user data, or nothing.
        if (p[9] === 0x10 && p[10] === 0) this.read(cmd, big32(p, 2), big32(p, 5) & 0xff_ffff);
        else if (p[9] === 0 && p[10] === 0) this.good(cmd);
        else this.check(cmd, SENSE_ILLEGAL_REQUEST, ASC_INVALID_FIELD);
        break;
      case bits.SCSI_READ_TOC:
        this.readToc(cmd, allocation10);
        break;
      case bits.SCSI_READ_SUBCHANNEL:
        this.subChannel(cmd, allocation10);
        break;
      case bits.SCSI_READ_DISC_INFO:
        putBig(page, 0, 2, 32);
        page[2] = 0x0e; // complete, last session complete
        page[3] = 1;
        page[4] = 1;
        page[5] = 1;
        page[6] = 1;
        page[7] = 0x20; // unrestricted use
        page.fill(0xff, 16, 24); // no lead-in or lead-out to continue at
        this.reply(cmd, 34, allocation10);
        break;
      case bits.SCSI_READ_TRACK_INFO:
        putBig(page, 0, 2, 34);
        page[2] = 1;
        page[3] = 1;
        page[5] = 4; // data track
        page[6] = 1; // mode 1
        putBig(page, 24, 4, sectors);
        this.reply(cmd, 36, allocation10);
        break;
      case bits.SCSI_SEEK_10:
        if (big32(p, 2) >= sectors) this.check(cmd, SENSE_ILLEGAL_REQUEST, bits.ASC_LBA_OUT_OF_RANGE);
        else this.good(cmd);
        break;
      default: // TEST UNIT READY
        this.good(cmd);
        break;
    }
  }

  private read(cmd: Command, lba: number, count: number): void {
    if (lba + count > this.sectors) this.check(cmd, SENSE_ILLEGAL_REQUEST, bits.ASC_LBA_OUT_OF_RANGE);
    else if (count === 0) this.good(cmd);
    else {
      const medium = this.medium as BlockBackend;
      this.port.start(cmd, medium, OP_READ, lba * CD_SECTOR, count * CD_SECTOR, CD_SECTOR);
    }
  }

  private inquiry(cmd: Command): void {
    const p = cmd.acmd;
    const page = this.page;
    const allocation = ((p[3] as number) << 8) | (p[4] as number);
    page[0] = 0x05; // CD/DVD
    if (((p[1] as number) & 1) !== 0) {
      if (p[2] === 0x80) {
        const serial = this.o.serial;
        page[1] = 0x80;
        page[3] = serial.length;
        putText(page, 4, serial.length, serial);
        this.reply(cmd, 4 + serial.length, allocation);
      } else if (p[2] === 0) {
        page[3] = 2;
        page[5] = 0x80;
        this.reply(cmd, 6, allocation);
      } else this.check(cmd, SENSE_ILLEGAL_REQUEST, ASC_INVALID_FIELD);
      return;
    }
    page[1] = 0x80; // removable
    page[3] = 0x21;
    page[4] = 31;
    putText(page, 8, 8, 'BHYVE');
    putText(page, 16, 16, this.o.product);
    putText(page, 32, 4, this.o.revision);
    this.reply(cmd, 36, allocation);
  }

  private requestSense(cmd: Command): void {
    const page = this.page;
    if (this.senseKey === bits.SENSE_NONE && this.attention) {
      this.attention = false;
      this.senseKey = SENSE_UNIT_ATTENTION;
      this.senseCode = bits.ASC_MEDIUM_CHANGED;
    }
    page[0] = 0x70;
    page[2] = this.senseKey;
    page[7] = 10;
    page[12] = this.senseCode >> 8;
    page[13] = this.senseCode & 0xff;
    this.senseKey = bits.SENSE_NONE;
    this.senseCode = 0;
    this.reply(cmd, 18, cmd.acmd[4] as number);
  }

  private startStop(cmd: Command): void {
    const action = (cmd.acmd[4] as number) & 3;
    if (action === 2) {
      if (this.locked) {
        this.check(cmd, SENSE_ILLEGAL_REQUEST, bits.ASC_REMOVAL_PREVENTED);
        return;
      }
      if (!this.trayOpen) {
        this.trayOpen = true;
        this.event = bits.EVENT_MEDIA_REMOVAL;
        this.o.onTray?.(true);
      }
    } else if (action === 3 && this.trayOpen) {
      this.trayOpen = false;
      if (this.medium !== null) {
        this.attention = true;
        this.event = bits.EVENT_NEW_MEDIA;
      }
      this.o.onTray?.(false);
    }
    this.good(cmd);
  }

  private eventStatus(cmd: Command, allocation: number): void {
    const p = cmd.acmd;
    const page = this.page;
    if (((p[1] as number) & 1) === 0) {
      // Without the polled bit the drive would have to wait for an event.
      this.check(cmd, SENSE_ILLEGAL_REQUEST, ASC_INVALID_FIELD);
      return;
    }
    page[3] = 0x10; // media events
    if (((p[4] as number) & 0x10) === 0) {
      page[1] = 2;
      page[2] = 0x80;
      this.reply(cmd, 4, allocation);
      return;
    }
    page[1] = 6;
    page[2] = 4;
    page[4] = this.event;
    page[5] = (this.trayOpen ? 1 : 0) | (this.present ? 2 : 0);
    if (allocation > 4) this.event = bits.EVENT_NONE;
    this.reply(cmd, 8, allocation);
  }

  private modeSense(cmd: Command, allocation: number): void {
    const p = cmd.acmd;
    const page = this.page;
    const code = (p[2] as number) & 0x3f;
    if ((p[2] as number) >> 6 === 3) {
      this.check(cmd, SENSE_ILLEGAL_REQUEST, bits.ASC_SAVING_NOT_SUPPORTED);
      return;
    }
    const changeable = (p[2] as number) >> 6 === 1;
    let n = 8;
    if (code === 0x01 || code === 0x3f) {
      page[n] = 0x01;
      page[n + 1] = 6;
      if (!changeable) page[n + 3] = 5; // retries
      n += 8;
    }
    if (code === 0x2a || code === 0x3f) {
      page[n] = 0x2a;
      page[n + 1] = 18;
      if (!changeable) {
        page[n + 2] = 0x3b; // reads CD-R, CD-RW, DVD-ROM, DVD-R
        page[n + 4] = 0x70; // mode 2, multi-session
        page[n + 6] = LOADING_TRAY_EJECT_LOCK | (this.locked ? 2 : 0);
        putBig(page, n + 8, 2, 706);
        putBig(page, n + 10, 2, 2);
        putBig(page, n + 12, 2, 512);
        putBig(page, n + 14, 2, 706);
      }
      n += 20;
    }
    if (n === 8) {
      this.check(cmd, SENSE_ILLEGAL_REQUEST, ASC_INVALID_FIELD);
      return;
    }
    putBig(page, 0, 2, n - 2);
    page[2] = this.present ? 0x01 : this.trayOpen ? 0x71 : 0x70;
    this.reply(cmd, n, allocation);
  }

  /** Fills in the features asked for; returns the length. MMC-6 §5.3, §6.6. */
  private configuration(p: Uint8Array): number {
    const page = this.page;
    const kind = (p[1] as number) & 3;
    const start = ((p[2] as number) << 8) | (p[3] as number);
    const profile = this.profile;
    let n = 8;
    const feature = (code: number, version: number, persistent: boolean, current: boolean, length: number): number => {
      const wanted = kind === 2 ? code === start : code >= start && (kind === 0 || current);
      if (!wanted) return -1;
      putBig(page, n, 2, code);
      page[n + 2] = (version << 2) | (persistent ? 2 : 0) | (current ? 1 : 0);
      page[n + 3] = length;
      n += 4 + length;
      return n - length;
    };
    const list = feature(0x0000, 0, true, true, 8);
    if (list >= 0) {
      putBig(page, list, 2, PROFILE_DVD);
      page[list + 2] = profile === PROFILE_DVD ? 1 : 0;
      putBig(page, list + 4, 2, PROFILE_CD);
      page[list + 6] = profile === PROFILE_CD ? 1 : 0;
    }
    const core = feature(0x0001, 2, true, true, 8);
    if (core >= 0) {
      putBig(page, core, 4, 8); // Serial ATA
      page[core + 4] = 1; // device busy events
    }
    const morphing = feature(0x0002, 1, true, true, 4);
    if (morphing >= 0) page[morphing] = 2; // operational change requests
    const removable = feature(0x0003, 0, true, true, 4);
    if (removable >= 0) page[removable] = LOADING_TRAY_EJECT_LOCK;
    const random = feature(0x0010, 0, false, profile !== 0, 8);
    if (random >= 0) {
      putBig(page, random, 4, CD_SECTOR);
      putBig(page, random + 4, 2, 1);
    }
    feature(0x001e, 2, false, profile === PROFILE_CD, 4);
    feature(0x001f, 0, false, profile === PROFILE_DVD, 4);
    putBig(page, 0, 4, n - 4);
    putBig(page, 6, 2, profile);
    return n;
  }

  /** Puts an address as LBA or as minute, second, frame. */
  private putAddress(offset: number, lba: number, msf: boolean): void {
    const page = this.page;
    if (!msf) {
      putBig(page, offset, 4, lba);
      return;
    }
    const f = lba + 150;
    page[offset] = 0;
    page[offset + 1] = Math.min(Math.floor(f / (75 * 60)), 255);
    page[offset + 2] = Math.floor(f / 75) % 60;
    page[offset + 3] = f % 75;
  }

  private readToc(cmd: Command, allocation: number): void {
    const p = cmd.acmd;
    const page = this.page;
    const msf = ((p[1] as number) & 2) !== 0;
    // Old drivers have the format in the control byte (SFF-8020i).
    const format = (p[2] as number) & 0xf || (p[9] as number) >> 6;
    const first = p[6] as number;
    page[2] = 1;
    page[3] = 1;
    let n = 4;
    if (format === 0) {
      if (first > 1 && first !== 0xaa) {
        this.check(cmd, SENSE_ILLEGAL_REQUEST, ASC_INVALID_FIELD);
        return;
      }
      if (first <= 1) {
        page[n + 1] = 0x14; // data track
        page[n + 2] = 1;
        this.putAddress(n + 4, 0, msf);
        n += 8;
      }
      page[n + 1] = 0x14;
      page[n + 2] = 0xaa;
      this.putAddress(n + 4, this.sectors, msf);
      n += 8;
    } else if (format === 1) {
      page[n + 1] = 0x14;
      page[n + 2] = 1;
      this.putAddress(n + 4, 0, msf);
      n += 8;
    } else if (format === 2) {
      for (const point of [0xa0, 0xa1, 0xa2, 1]) {
        page[n] = 1;
        page[n + 1] = 0x14;
        page[n + 3] = point;
        if (point === 0xa0 || point === 0xa1) page[n + 8] = 1;
        else {
          // PMIN, PSEC, PFRAME
          const at = n + 7;
          this.putAddress(at, point === 0xa2 ? this.sectors : 0, true);
        }
        n += 11;
      }
    } else {
      this.check(cmd, SENSE_ILLEGAL_REQUEST, ASC_INVALID_FIELD);
      return;
    }
    putBig(page, 0, 2, n - 2);
    this.reply(cmd, n, allocation);
  }

  private subChannel(cmd: Command, allocation: number): void {
    const p = cmd.acmd;
    const page = this.page;
    page[1] = 0x15; // no audio status
    let n = 4;
    if (((p[2] as number) & 0x40) !== 0) {
      const format = p[3] as number;
      page[4] = format;
      if (format === 1) {
        page[5] = 0x14;
        page[6] = 1;
        page[7] = 1;
        this.putAddress(8, 0, ((p[1] as number) & 2) !== 0);
        n = 16;
      } else if (format === 2 || format === 3) n = 24;
      else {
        this.check(cmd, SENSE_ILLEGAL_REQUEST, ASC_INVALID_FIELD);
        return;
      }
      putBig(page, 2, 2, n - 4);
    }
    this.reply(cmd, n, allocation);
  }

  // ---- State -------------------------------------------------------------------------------------------------------

  save(): CdStateV1 {
    const { trayOpen, locked, attention, event, senseKey, senseCode } = this;
    return { trayOpen, locked, attention, event, senseKey, senseCode };
  }

  load(state: unknown): void {
    const s = state as CdStateV1;
    const number = (v: unknown, limit: number): boolean =>
      typeof v === 'number' && Number.isInteger(v) && v >= 0 && v <= limit;
    if (
      typeof s !== 'object' ||
      s === null ||
      !number(s.event, 3) ||
      !number(s.senseKey, 15) ||
      !number(s.senseCode, 0xffff)
    )
      throw new HyveError('STATE_FORMAT', `ahci port ${this.port.index}: not the state of a CD drive`);
    this.trayOpen = s.trayOpen === true;
    this.locked = s.locked === true;
    this.attention = s.attention === true;
    this.event = s.event;
    this.senseKey = s.senseKey;
    this.senseCode = s.senseCode;
  }
}

/** Commands that need a medium, TEST UNIT READY among them. */
const KNOWN_MEDIUM_COMMANDS: readonly number[] = [
  bits.SCSI_TEST_UNIT_READY,
  bits.SCSI_READ_CAPACITY,
  bits.SCSI_READ_10,
  bits.SCSI_READ_12,
  bits.SCSI_READ_CD,
  bits.SCSI_READ_TOC,
  bits.SCSI_READ_SUBCHANNEL,
  bits.SCSI_READ_DISC_INFO,
  bits.SCSI_READ_TRACK_INFO,
  bits.SCSI_SEEK_10,
];

function big32(p: Uint8Array, at: number): number {
  return (
    (((p[at] as number) << 24) |
      ((p[at + 1] as number) << 16) |
      ((p[at + 2] as number) << 8) |
      (p[at + 3] as number)) >>>
    0
  );
}
