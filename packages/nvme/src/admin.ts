// What the admin queue asks about: identify pages, features, logs and asynchronous events (NVMe 1.4 §5). Queue management is
// the controller's own.
import {
  AEC_NAMESPACE,
  AEC_TEMPERATURE,
  CNS_ACTIVE_LIST,
  CNS_CONTROLLER,
  CNS_DESCRIPTORS,
  CNS_NAMESPACE,
  DNR,
  EVENT_ERROR,
  EVENT_NOTICE,
  EVENT_NOTICE_NAMESPACE,
  EVENT_SMART,
  EVENT_SMART_TEMPERATURE,
  FEATURE_ARBITRATION,
  FEATURE_ATOMICITY,
  FEATURE_COALESCING,
  FEATURE_ERROR_RECOVERY,
  FEATURE_EVENTS,
  FEATURE_POWER,
  FEATURE_QUEUES,
  FEATURE_TEMPERATURE,
  FEATURE_VECTOR,
  FEATURE_WRITE_CACHE,
  LOG_CHANGED_NAMESPACES,
  LOG_EFFECTS,
  LOG_ERROR,
  LOG_FIRMWARE,
  LOG_SMART,
  NSID_ALL,
  SC_INVALID_FIELD,
  SC_INVALID_NAMESPACE,
  SC_LOG_PAGE,
  SC_NOT_SAVEABLE,
  SC_SEQUENCE,
  SC_SUCCESS,
  TEMPERATURE_K,
} from './bits.ts';
import {
  ERROR_ENTRIES,
  type ErrorEntry,
  errorLog,
  identifyController,
  identifyDescriptors,
  identifyNamespace,
  MAX_EVENT_REQUESTS,
  put,
  smartLog,
} from './identify.ts';
import type { IoEngine } from './io.ts';

/** What a controller is called. */
export interface Identity {
  readonly vendor: number;
  readonly serial: string;
  readonly model: string;
  readonly firmware: string;
  readonly eui64: Uint8Array;
}

/** The admin side's part of the saved state. */
export interface NvmeAdminStateV1 {
  /** Feature values by identifier. */
  readonly features: readonly (readonly [id: number, value: number])[];
  /** Upper and lower temperature thresholds, kelvin. */
  readonly thresholds: readonly number[];
  /** Coalescing Disable of each vector, as set by Interrupt Vector Configuration. */
  readonly vectors: readonly number[];
  /** Identifiers of asynchronous event requests that wait. */
  readonly requests: readonly number[];
  /** Events that wait for a request: type, information << 8, log page << 16. */
  readonly events: readonly number[];
  /** Event types, by bit, that are masked until their log page is read. */
  readonly masked: number;
  readonly namespaceChanged: boolean;
  readonly errors: readonly ErrorEntry[];
  readonly errorCount: number;
  readonly unsafeShutdowns: number;
}

/** Default and writable bits of features that only hold a value. */
const PLAIN_FEATURES: readonly (readonly [id: number, value: number, writable: number])[] = [
  [FEATURE_ARBITRATION, 4, 0xffff_ff07],
  [FEATURE_POWER, 0, 0],
  [FEATURE_ERROR_RECOVERY, 0, 0xffff],
  [FEATURE_WRITE_CACHE, 1, 1],
  [FEATURE_COALESCING, 0, 0xffff],
  [FEATURE_ATOMICITY, 0, 1],
  [FEATURE_EVENTS, 0, 0x1ff],
];
const THRESHOLD_OVER = 0xffff;
const THRESHOLD_UNDER = 0;

/** Identify, features, logs, events. @internal */
export class Admin {
  /** One page to build replies in. */
  readonly page: Uint8Array = new Uint8Array(4096);
  /** Second result doubleword of the last command. */
  result = 0;
  readonly requests: number[] = [];
  errorCount = 0;
  unsafeShutdowns = 0;
  private readonly identity: Identity;
  private readonly io: IoEngine;
  private readonly maxQueues: number;
  private readonly features: Map<number, number> = new Map();
  private readonly thresholds: number[] = [THRESHOLD_OVER, THRESHOLD_UNDER];
  private readonly vectors: Uint8Array;
  private readonly events: number[] = [];
  private masked = 0;
  private namespaceChanged = false;
  private errors: ErrorEntry[] = [];

  constructor(o: { identity: Identity; io: IoEngine; maxQueues: number }) {
    this.identity = o.identity;
    this.io = o.io;
    this.maxQueues = o.maxQueues;
    this.vectors = new Uint8Array(o.maxQueues + 1);
    this.reset();
  }

  /** A controller level reset: features and events; logs stay. */
  reset(): void {
    for (const [id, value] of PLAIN_FEATURES) this.features.set(id, value);
    this.thresholds[0] = THRESHOLD_OVER;
    this.thresholds[1] = THRESHOLD_UNDER;
    this.vectors.fill(0);
    this.requests.length = 0;
    this.events.length = 0;
    this.masked = 0;
    this.namespaceChanged = false;
    this.grantedQueues = this.maxQueues;
  }

  /** I/O queues of each kind the guest may create. */
  grantedQueues = 0;

  /** Whether the guest has the volatile write cache off. */
  get writeThrough(): boolean {
    return this.features.get(FEATURE_WRITE_CACHE) === 0;
  }

  // ---- Identify ----------------------------------------------------------------------------------------------------

  /** Fills the page for IDENTIFY; a status. */
  identify(nsid: number, cns: number): number {
    const { identity, io, page } = this;
    switch (cns) {
      case CNS_NAMESPACE:
        if (nsid !== 1) return SC_INVALID_NAMESPACE | DNR;
        identifyNamespace(page, {
          blocks: io.blocks,
          shift: io.shift,
          physicalBlocks: Math.max(1, io.backend.physicalSectorSize / 2 ** io.shift),
          readOnly: io.backend.readOnly,
          dsm: io.dsm,
          eui64: identity.eui64,
        });
        return SC_SUCCESS;
      case CNS_CONTROLLER:
        identifyController(page, { ...identity, capacity: io.blocks * 2 ** io.shift, dsm: io.dsm });
        return SC_SUCCESS;
      case CNS_ACTIVE_LIST:
        if (nsid >= 0xffff_fffe) return SC_INVALID_NAMESPACE | DNR;
        page.fill(0);
        if (nsid === 0) page[0] = 1;
        return SC_SUCCESS;
      case CNS_DESCRIPTORS:
        if (nsid !== 1) return SC_INVALID_NAMESPACE | DNR;
        identifyDescriptors(page, identity.eui64);
        return SC_SUCCESS;
      default:
        return SC_INVALID_FIELD | DNR;
    }
  }

  // ---- Features ----------------------------------------------------------------------------------------------------

  /** GET FEATURES: a status; the value is in {@link Admin.result}. */
  getFeature(dw10: number, dw11: number): number {
    const id = dw10 & 0xff;
    const select = (dw10 >>> 8) & 7;
    const plain = PLAIN_FEATURES.find(([f]) => f === id);
    if (select === 3) {
      // Capabilities: changeable, not saveable; error recovery belongs to a namespace.
      if (plain === undefined && ![FEATURE_TEMPERATURE, FEATURE_QUEUES, FEATURE_VECTOR].includes(id))
        return SC_INVALID_FIELD | DNR;
      this.result = 4 | (id === FEATURE_ERROR_RECOVERY ? 2 : 0);
      return SC_SUCCESS;
    }
    if (select > 3) return SC_INVALID_FIELD | DNR;
    const current = select === 0;
    switch (id) {
      case FEATURE_TEMPERATURE: {
        const under = (dw11 >>> 20) & 3;
        const sensor = (dw11 >>> 16) & 0xf;
        if (under > 1 || sensor !== 0) return SC_INVALID_FIELD | DNR;
        const initial = under === 0 ? THRESHOLD_OVER : THRESHOLD_UNDER;
        this.result = current ? (this.thresholds[under] as number) : initial;
        return SC_SUCCESS;
      }
      case FEATURE_QUEUES: {
        const n = (current ? this.grantedQueues : this.maxQueues) - 1;
        this.result = ((n << 16) | n) >>> 0;
        return SC_SUCCESS;
      }
      case FEATURE_VECTOR: {
        const v = dw11 & 0xffff;
        if (v >= this.vectors.length) return SC_INVALID_FIELD | DNR;
        this.result = v | (current ? (this.vectors[v] as number) << 16 : 0);
        return SC_SUCCESS;
      }
      default:
        if (plain === undefined) return SC_INVALID_FIELD | DNR;
        this.result = current ? (this.features.get(id) as number) : plain[1];
        return SC_SUCCESS;
    }
  }

  /** SET FEATURES: a status; `queuesExist` says whether I/O queues have been created. */
  setFeature(dw10: number, dw11: number, queuesExist: boolean): number {
    const id = dw10 & 0xff;
    if (dw10 >>> 31 !== 0) return SC_NOT_SAVEABLE | DNR;
    switch (id) {
      case FEATURE_POWER:
        return (dw11 & 0x1f) === 0 ? SC_SUCCESS : SC_INVALID_FIELD | DNR;
      case FEATURE_TEMPERATURE: {
        const under = (dw11 >>> 20) & 3;
        const sensor = (dw11 >>> 16) & 0xf;
        if (under > 1 || (sensor !== 0 && sensor !== 0xf)) return SC_INVALID_FIELD | DNR;
        this.thresholds[under] = dw11 & 0xffff;
        if (this.temperatureWarning && this.hasEvent(AEC_TEMPERATURE))
          this.raise(EVENT_SMART, EVENT_SMART_TEMPERATURE, LOG_SMART);
        return SC_SUCCESS;
      }
      case FEATURE_QUEUES: {
        const submission = dw11 & 0xffff;
        const completion = dw11 >>> 16;
        if (queuesExist) return SC_SEQUENCE | DNR;
        if (submission === 0xffff || completion === 0xffff) return SC_INVALID_FIELD | DNR;
        this.grantedQueues = Math.min(this.maxQueues, Math.max(submission, completion) + 1);
        // One number for both kinds: a controller may grant more than was asked (§5.21.1.7).
        const n = this.grantedQueues - 1;
        this.result = ((n << 16) | n) >>> 0;
        return SC_SUCCESS;
      }
      case FEATURE_VECTOR: {
        const v = dw11 & 0xffff;
        if (v >= this.vectors.length) return SC_INVALID_FIELD | DNR;
        this.vectors[v] = (dw11 >>> 16) & 1;
        return SC_SUCCESS;
      }
      default: {
        const plain = PLAIN_FEATURES.find(([f]) => f === id);
        if (plain === undefined) return SC_INVALID_FIELD | DNR;
        this.features.set(id, (dw11 & plain[2]) >>> 0);
        return SC_SUCCESS;
      }
    }
  }

  private hasEvent(bit: number): boolean {
    return ((this.features.get(FEATURE_EVENTS) as number) & bit) !== 0;
  }

  private get temperatureWarning(): boolean {
    return TEMPERATURE_K >= (this.thresholds[0] as number) || TEMPERATURE_K <= (this.thresholds[1] as number);
  }

  // ---- Logs --------------------------------------------------------------------------------------------------------

  /** Fills the page with a log; its length in bytes, or a negative status. Reading unmasks the log's events unless retained. */
  readLog(id: number, retain: boolean): number {
    const { io, page } = this;
    switch (id) {
      case LOG_ERROR:
        errorLog(page, this.errors);
        if (!retain) this.unmask(EVENT_ERROR);
        return ERROR_ENTRIES * 64;
      case LOG_SMART:
        smartLog(page, {
          temperatureWarning: this.temperatureWarning,
          bytesRead: io.bytesRead,
          bytesWritten: io.bytesWritten,
          readCommands: io.readCommands,
          writeCommands: io.writeCommands,
          powerCycles: 1,
          unsafeShutdowns: this.unsafeShutdowns,
          mediaErrors: io.mediaErrors,
          errorEntries: this.errorCount,
        });
        if (!retain) this.unmask(EVENT_SMART);
        return 512;
      case LOG_FIRMWARE:
        page.fill(0, 0, 512);
        page[0] = 1; // slot 1 is active
        for (let i = 0; i < 8; i++) page[8 + i] = this.identity.firmware.charCodeAt(i) || 0x20;
        return 512;
      case LOG_CHANGED_NAMESPACES:
        page.fill(0);
        if (this.namespaceChanged) page[0] = 1;
        if (!retain) {
          this.namespaceChanged = false;
          this.unmask(EVENT_NOTICE);
        }
        return 4096;
      case LOG_EFFECTS: {
        page.fill(0);
        // Bit 0: supported; bit 1: changes user data; bits 18:16 of FORMAT: nothing else may run.
        for (const op of [0x00, 0x01, 0x02, 0x04, 0x05, 0x06, 0x08, 0x09, 0x0a, 0x0c]) page[op * 4] = 1;
        put(page, 0x80 * 4, 4, 0x0002_0003);
        for (const op of [0x00, 0x02, 0x05, 0x0c]) page[1024 + op * 4] = 1;
        for (const op of [0x01, 0x08, ...(io.dsm ? [0x09] : [])]) page[1024 + op * 4] = 3;
        return 4096;
      }
      default:
        return -SC_LOG_PAGE;
    }
  }

  /** Puts a failed command into the error log. */
  noteError(sqid: number, cid: number, status: number, lba: number): void {
    this.errorCount++;
    if (this.errors.length === ERROR_ENTRIES) this.errors.pop();
    this.errors.unshift({ count: this.errorCount, sqid, cid, status: (status << 1) & 0xffff, lba, nsid: 1 });
  }

  // ---- Asynchronous events -----------------------------------------------------------------------------------------

  /** Takes an event request. False: too many. */
  addRequest(cid: number): boolean {
    if (this.requests.length === MAX_EVENT_REQUESTS) return false;
    this.requests.push(cid);
    return true;
  }

  /** Notes an event, unless one of its type waits for its log page to be read. */
  raise(type: number, info: number, log: number): void {
    if (((this.masked >>> type) & 1) !== 0) return;
    this.masked |= 1 << type;
    this.events.push(type | (info << 8) | (log << 16));
  }

  /** The namespace has a new size. */
  raiseNamespaceChanged(): void {
    this.namespaceChanged = true;
    if (this.hasEvent(AEC_NAMESPACE)) this.raise(EVENT_NOTICE, EVENT_NOTICE_NAMESPACE, LOG_CHANGED_NAMESPACES);
  }

  /** The next event for a waiting request: its completion doubleword, or -1. Takes both. */
  nextEvent(): number {
    if (this.requests.length === 0) return -1;
    return this.events.shift() ?? -1;
  }

  private unmask(type: number): void {
    this.masked &= ~(1 << type);
  }

  /** Namespaces an admin command may name when it means this one. */
  static names(nsid: number): boolean {
    return nsid === 1 || nsid === NSID_ALL;
  }

  // ---- State -------------------------------------------------------------------------------------------------------

  save(): NvmeAdminStateV1 {
    return {
      features: [...this.features],
      thresholds: [...this.thresholds],
      vectors: [...this.vectors],
      requests: [...this.requests],
      events: [...this.events],
      masked: this.masked,
      namespaceChanged: this.namespaceChanged,
      errors: this.errors.map((e) => ({ ...e })),
      errorCount: this.errorCount,
      unsafeShutdowns: this.unsafeShutdowns,
    };
  }

  /** What is wrong with a state, or null. */
  check(s: NvmeAdminStateV1): string | null {
    const numbers = (a: unknown, length: number, limit: number): boolean =>
      Array.isArray(a) && a.length <= length && a.every((v) => Number.isInteger(v) && v >= 0 && v <= limit);
    if (typeof s !== 'object' || s === null) return 'admin is missing';
    if (!Array.isArray(s.features) || !s.features.every((f) => numbers(f, 2, 0xffff_ffff) && f.length === 2))
      return 'features are not pairs';
    if (!numbers(s.thresholds, 2, 0xffff) || s.thresholds.length !== 2) return 'thresholds are not two';
    if (!numbers(s.vectors, this.vectors.length, 1)) return 'vectors do not fit';
    if (!numbers(s.requests, MAX_EVENT_REQUESTS, 0xffff)) return 'too many event requests';
    if (!numbers(s.events, 8, 0xff_ffff)) return 'too many events';
    if (!Number.isInteger(s.masked) || s.masked < 0 || s.masked > 0xff) return 'masked is not a set of types';
    if (!Array.isArray(s.errors) || s.errors.length > ERROR_ENTRIES) return 'too many errors';
    for (const e of s.errors)
      if (!numbers([e.count, e.sqid, e.cid, e.status, e.lba, e.nsid], 6, Number.MAX_SAFE_INTEGER))
        return 'an error entry has fields that are no numbers';
    if (!numbers([s.errorCount, s.unsafeShutdowns], 2, Number.MAX_SAFE_INTEGER)) return 'counts are no numbers';
    return null;
  }

  /** Restores a checked state; {@link Admin.grantedQueues} is the caller's. */
  load(s: NvmeAdminStateV1): void {
    this.reset();
    for (const [id, value] of s.features) if (this.features.has(id)) this.features.set(id, value);
    this.thresholds[0] = s.thresholds[0] as number;
    this.thresholds[1] = s.thresholds[1] as number;
    this.vectors.set(s.vectors);
    this.requests.push(...s.requests);
    this.events.push(...s.events);
    this.masked = s.masked;
    this.namespaceChanged = s.namespaceChanged === true;
    this.errors = s.errors.map((e) => ({ ...e }));
    this.errorCount = s.errorCount;
    this.unsafeShutdowns = s.unsafeShutdowns;
  }
}
