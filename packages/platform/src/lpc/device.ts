// The ISA-side odds and ends of an LPC bridge: port 0x92, reset control, POST and delay ports, the SMI command port and
// the A20 gate. Mirrors parts of bhyve's pci_lpc.c, pm.c and post.c. (Intel ICH10, 319973-003, §13.7 and §13.9.)
import { type Claim, type Device, HyveError, type IoBus, type IoHandler, type Width } from '@hyve/core';
import { checkState } from '../state.ts';
import {
  APM_CNT,
  APM_STS,
  DELAY,
  PORT92,
  PORT92_A20,
  PORT92_INIT,
  POST,
  POST2,
  RST_CNT,
  RST_CNT_CPU,
  RST_CNT_FULL,
  RST_CNT_SYS,
  RST_CNT_WRITABLE,
} from './bits.ts';

/**
 * How the guest asked for a reset: `init` pulls INIT# only (port 0x92, 0xCF9 with SYS_RST clear), `hard` resets the
 * platform, `full` also cycles power. bhyve treats all alike.
 */
export type ResetKind = 'init' | 'hard' | 'full';

/** Options of {@link LpcPorts}. */
export interface LpcPortsOptions {
  /** For messages and saved state. Default `lpc`. */
  readonly name?: string;
  /** The guest asked for a reset. */
  readonly onReset: (kind: ResetKind) => void;
  /** The guest wrote the SMI command port; `status` is what 0xB3 holds. ACPI uses 0xA0 (enable) and 0xA1 (disable). */
  readonly onSmiCommand?: (command: number, status: number) => void;
  /** The A20 gate changed. A gate that is off masks address bit 20 on PCs of old. */
  readonly onA20?: (enabled: boolean) => void;
  /** The guest wrote a POST code to `port`, 0x80 or 0x84. Hot: Linux writes 0x80 to wait. */
  readonly onPost?: (port: number, code: number) => void;
}

/** Saved state of {@link LpcPorts}. */
export interface LpcPortsStateV1 {
  readonly v: 1;
  readonly port92: number;
  readonly resetControl: number;
  readonly post: number;
  readonly post2: number;
  readonly apmControl: number;
  readonly apmStatus: number;
}

/**
 * Registers by absolute port number, one byte each; {@link claimLpcPorts} puts them on the bus. Undecoded ports read 0xFF.
 *
 * Not modelled: SMI delivery to a handler in the guest, the lock bit of port 0x92, alternate access mode.
 * @example
 * const lpc = new LpcPorts({ onReset: (kind) => vm.reset(kind), onSmiCommand: (c) => pm.smiCommand(c) });
 * claimLpcPorts(pio, lpc);
 */
export class LpcPorts implements Device {
  readonly name: string;
  private readonly onReset: (kind: ResetKind) => void;
  private readonly onSmiCommand: ((command: number, status: number) => void) | null;
  private readonly onA20: ((enabled: boolean) => void) | null;
  private readonly onPost: ((port: number, code: number) => void) | null;
  private port92: number = PORT92_A20;
  private resetControl = 0;
  private post = 0xff;
  private post2 = 0xff;
  private apmControl = 0;
  private apmStatus = 0;
  private resets = 0;

  constructor(o: LpcPortsOptions) {
    this.name = o.name ?? 'lpc';
    this.onReset = o.onReset;
    this.onSmiCommand = o.onSmiCommand ?? null;
    this.onA20 = o.onA20 ?? null;
    this.onPost = o.onPost ?? null;
  }

  /** Whether address line 20 passes. On at reset, as firmware leaves it. */
  get a20(): boolean {
    return (this.port92 & PORT92_A20) !== 0;
  }

  /** Drives the gate from elsewhere (the 8042's output port). */
  setA20(enabled: boolean): void {
    if (enabled === this.a20) return;
    this.port92 = enabled ? this.port92 | PORT92_A20 : this.port92 & ~PORT92_A20;
    if (this.onA20 !== null) this.onA20(enabled);
  }

  /** Last POST code on port 0x80, or 0xFF. */
  get postCode(): number {
    return this.post;
  }

  /** Reads one byte of `port`. */
  readPort(port: number): number {
    switch (port) {
      case PORT92:
        return this.port92;
      case RST_CNT:
        return this.resetControl;
      case POST:
        return this.post;
      case POST2:
        return this.post2;
      case APM_CNT:
        return this.apmControl;
      case APM_STS:
        return this.apmStatus;
      default:
        return 0xff;
    }
  }

  /** Writes one byte to `port`. */
  writePort(port: number, value: number): void {
    switch (port) {
      case POST:
        this.post = value;
        if (this.onPost !== null) this.onPost(port, value);
        break;
      case POST2:
        this.post2 = value;
        if (this.onPost !== null) this.onPost(port, value);
        break;
      case PORT92: {
        const rising = (value & ~this.port92 & PORT92_INIT) !== 0;
        const a20 = ((value ^ this.port92) & PORT92_A20) !== 0;
        this.port92 = value;
        if (a20 && this.onA20 !== null) this.onA20(this.a20);
        if (rising) this.requestReset('init');
        break;
      }
      case RST_CNT: {
        const rising = (value & ~this.resetControl & RST_CNT_CPU) !== 0;
        this.resetControl = value & RST_CNT_WRITABLE;
        if (rising) {
          const kind = (value & RST_CNT_SYS) === 0 ? 'init' : (value & RST_CNT_FULL) === 0 ? 'hard' : 'full';
          this.requestReset(kind);
        }
        break;
      }
      case APM_CNT:
        this.apmControl = value;
        if (this.onSmiCommand !== null) this.onSmiCommand(value, this.apmStatus);
        break;
      case APM_STS:
        this.apmStatus = value;
        break;
    }
  }

  private requestReset(kind: ResetKind): void {
    this.resets++;
    this.onReset(kind);
  }

  reset(): void {
    this.resetControl = 0;
    this.post = 0xff;
    this.post2 = 0xff;
    this.apmControl = 0;
    this.apmStatus = 0;
    this.setA20(true);
    this.port92 = PORT92_A20;
  }

  save(): LpcPortsStateV1 {
    return {
      v: 1,
      port92: this.port92,
      resetControl: this.resetControl,
      post: this.post,
      post2: this.post2,
      apmControl: this.apmControl,
      apmStatus: this.apmStatus,
    };
  }

  load(state: unknown): void {
    checkState(this.name, state, 1);
    const s = state as LpcPortsStateV1;
    this.setA20((s.port92 & PORT92_A20) !== 0);
    this.port92 = s.port92 & 0xff;
    this.resetControl = s.resetControl & RST_CNT_WRITABLE;
    this.post = s.post & 0xff;
    this.post2 = s.post2 & 0xff;
    this.apmControl = s.apmControl & 0xff;
    this.apmStatus = s.apmStatus & 0xff;
  }

  counters(): Readonly<Record<string, number>> {
    return { resets: this.resets };
  }
}

/** Handler of one run of ports of an {@link LpcPorts}. */
class PortWindow implements IoHandler {
  private readonly lpc: LpcPorts;
  private readonly first: number;
  constructor(lpc: LpcPorts, first: number) {
    this.lpc = lpc;
    this.first = first;
  }
  read(offset: number, _width: Width): number {
    return this.lpc.readPort(this.first + offset);
  }
  write(offset: number, _width: Width, value: number): void {
    this.lpc.writePort(this.first + offset, value);
  }
}

/** Ports of the bridge: first port, length and name of each run. */
const RUNS: readonly { readonly first: number; readonly length: number; readonly name: string }[] = [
  { first: POST, length: 1, name: 'post' },
  { first: POST2, length: 1, name: 'post2' },
  { first: PORT92, length: 1, name: 'port92' },
  { first: APM_CNT, length: 2, name: 'smi-command' },
  { first: DELAY, length: 1, name: 'delay' },
  { first: RST_CNT, length: 1, name: 'reset-control' },
];

/**
 * Puts the bridge's ports on the bus. `except` leaves some out by their first port: pass `[0xcf9]` when the PCI
 * configuration mechanism claims all of 0xCF8–0xCFB and forwards byte accesses to {@link LpcPorts.readPort}.
 * @throws HyveError `LPC_PORT` when `except` names no port of the bridge, `BUS_OVERLAP` when a port is taken
 */
export function claimLpcPorts(pio: IoBus, lpc: LpcPorts, o: { except?: readonly number[] } = {}): readonly Claim[] {
  const except = o.except ?? [];
  for (const port of except) {
    if (!RUNS.some((r) => r.first === port))
      throw new HyveError('LPC_PORT', `0x${port.toString(16)} starts no LPC port run`);
  }
  return RUNS.filter((r) => !except.includes(r.first)).map((r) =>
    pio.claim(r.first, r.length, new PortWindow(lpc, r.first), { name: r.name, widths: 1 }),
  );
}

/**
 * Claims a range that a platform reserves but that answers like an empty bus: reads all ones, writes vanish.
 * @throws HyveError `BUS_OVERLAP` when a port is taken
 */
export function claimReserved(pio: IoBus, first: number, length: number, name: string): Claim {
  const nothing: IoHandler = {
    read: (_offset, width) => (width === 4 ? 0xffffffff : width === 2 ? 0xffff : 0xff),
    write: () => {},
  };
  return pio.claim(first, length, nothing, { name });
}
