// QEMU's firmware configuration device, the two-port interface (QEMU docs/specs/fw_cfg.rst). Mirrors bhyve's
// qemu_fwcfg.c; the same ports carry bhyve's own fwctl on other machines.
import { allOnes, type Claim, type Device, HyveError, type IoBus, type IoHandler, type Width } from '@hyve/core';
import { checkState } from '../state.ts';
import {
  ENTRY_BYTES,
  ENTRY_KEY,
  ENTRY_NAME,
  FILES_MAX,
  FW_CFG_BASE,
  ID_TRADITIONAL,
  KEY_BOOT_MENU,
  KEY_FILE_DIR,
  KEY_FILE_FIRST,
  KEY_ID,
  KEY_IRQ0_OVERRIDE,
  KEY_MAX_CPUS,
  KEY_NB_CPUS,
  KEY_NOGRAPHIC,
  KEY_RAM_SIZE,
  KEY_SIGNATURE,
  KEY_UUID,
  KEY_WRITE_CHANNEL,
  NAME_MAX,
} from './bits.ts';

/** A file for the guest's firmware. */
export interface FwCfgFile {
  /** Name, such as `etc/e820` or `opt/org.example/key`: 1 to 55 printable ASCII characters. */
  readonly name: string;
  /** Content; read as it is at the time of reading. */
  readonly data: Uint8Array;
}

/** Options of {@link FwCfg}. */
export interface FwCfgOptions {
  /** For messages and saved state. Default `fw_cfg`. */
  readonly name?: string;
  /** CPUs present, 1 to 65535. */
  readonly cpus: number;
  /** One past the highest APIC ID. Default `cpus`. */
  readonly maxCpus?: number;
  /** RAM, bytes. */
  readonly ramBytes: number;
  /** UUID in SMBIOS byte order, 16 bytes. Default zeros. */
  readonly uuid?: Uint8Array;
  /** Files, in any order; the directory has them sorted by name. Default none. */
  readonly files?: readonly FwCfgFile[];
}

/** Saved state of {@link FwCfg}. Items are the machine's configuration and not part of it. */
export interface FwCfgStateV1 {
  readonly v: 1;
  readonly key: number;
  readonly offset: number;
}

const NOTHING = new Uint8Array(0);

/** A little-endian number of `bytes` bytes. */
function le(value: number, bytes: number): Uint8Array {
  const out = new Uint8Array(bytes);
  let v = value;
  for (let i = 0; i < bytes; i++) {
    out[i] = v % 256;
    v = Math.floor(v / 256);
  }
  return out;
}

/**
 * Read-only configuration items by number. The guest writes a key to the 16-bit selector (offset 0), then reads the item
 * byte by byte from the data port (offset 1); past the end, and for keys that do not exist, it reads zeros.
 *
 * Not modelled: the DMA interface (revision bit 1 is clear), writing, items that call back into the host.
 * @example
 * const fwCfg = new FwCfg({ cpus: 4, ramBytes: 2 ** 30, files: [{ name: 'opt/greeting', data: bytes }] });
 * claimFwCfg(pio, fwCfg);
 */
export class FwCfg implements IoHandler, Device {
  readonly name: string;
  private readonly items: ReadonlyMap<number, Uint8Array>;
  private key = 0;
  private current: Uint8Array = NOTHING;
  private offset = 0;
  private selects = 0;
  private missing = 0;
  private bytesRead = 0;

  /** @throws HyveError `FWCFG_OPTIONS` for counts out of range, `FWCFG_FILE` for bad or repeated file names */
  constructor(o: FwCfgOptions) {
    this.name = o.name ?? 'fw_cfg';
    const maxCpus = o.maxCpus ?? o.cpus;
    for (const n of [o.cpus, maxCpus])
      if (!Number.isInteger(n) || n < 1 || n > 0xffff)
        throw new HyveError('FWCFG_OPTIONS', `${this.name}: ${n} CPUs, expected 1 to 65535`);
    if (!Number.isSafeInteger(o.ramBytes) || o.ramBytes < 0)
      throw new HyveError('FWCFG_OPTIONS', `${this.name}: ${o.ramBytes} bytes of RAM`);
    if (o.uuid !== undefined && o.uuid.length !== 16)
      throw new HyveError('FWCFG_OPTIONS', `${this.name}: UUID of ${o.uuid.length} bytes, expected 16`);
    const items = new Map<number, Uint8Array>([
      [KEY_SIGNATURE, Uint8Array.of(0x51, 0x45, 0x4d, 0x55)],
      [KEY_ID, le(ID_TRADITIONAL, 4)],
      [KEY_UUID, o.uuid ?? new Uint8Array(16)],
      [KEY_RAM_SIZE, le(o.ramBytes, 8)],
      [KEY_NOGRAPHIC, le(1, 2)],
      [KEY_NB_CPUS, le(o.cpus, 2)],
      [KEY_BOOT_MENU, le(0, 2)],
      [KEY_MAX_CPUS, le(maxCpus, 2)],
      [KEY_IRQ0_OVERRIDE, le(1, 4)],
    ]);
    this.addFiles(items, o.files ?? []);
    this.items = items;
    this.reset();
  }

  private addFiles(items: Map<number, Uint8Array>, files: readonly FwCfgFile[]): void {
    if (files.length > FILES_MAX)
      throw new HyveError('FWCFG_FILE', `${this.name}: ${files.length} files, there is room for ${FILES_MAX}`);
    const sorted = [...files].sort((a, b) => (a.name < b.name ? -1 : a.name > b.name ? 1 : 0));
    const dir = new Uint8Array(4 + sorted.length * ENTRY_BYTES);
    const view = new DataView(dir.buffer);
    view.setUint32(0, sorted.length);
    sorted.forEach((f, i) => {
      if (!/^[\x21-\x7e]+$/.test(f.name) || f.name.length > NAME_MAX)
        throw new HyveError(
          'FWCFG_FILE',
          `${this.name}: file name '${f.name}', expected 1 to ${NAME_MAX} ASCII characters`,
        );
      if (i > 0 && f.name === sorted[i - 1]?.name)
        throw new HyveError('FWCFG_FILE', `${this.name}: two files named ${f.name}`);
      const at = 4 + i * ENTRY_BYTES;
      view.setUint32(at, f.data.length);
      view.setUint16(at + ENTRY_KEY, KEY_FILE_FIRST + i);
      for (let c = 0; c < f.name.length; c++) dir[at + ENTRY_NAME + c] = f.name.charCodeAt(c);
      items.set(KEY_FILE_FIRST + i, f.data);
    });
    items.set(KEY_FILE_DIR, dir);
  }

  private select(key: number): void {
    this.key = key;
    this.offset = 0;
    this.selects++;
    const item = this.items.get(key & ~KEY_WRITE_CHANNEL);
    if (item === undefined) this.missing++;
    this.current = item ?? NOTHING;
  }

  read(offset: number, width: Width): number {
    if (offset !== 1 || width !== 1) return allOnes(width);
    if (this.offset >= this.current.length) return 0;
    this.bytesRead++;
    return this.current[this.offset++] as number;
  }

  write(offset: number, width: Width, value: number): void {
    // A byte to the selector selects nothing; the data port takes no writes.
    if (offset === 0 && width === 2) this.select(value);
  }

  /** Selects the signature. */
  reset(): void {
    this.select(KEY_SIGNATURE);
  }

  save(): FwCfgStateV1 {
    return { v: 1, key: this.key, offset: this.offset };
  }

  load(state: unknown): void {
    checkState(this.name, state, 1);
    const s = state as FwCfgStateV1;
    this.select(s.key & 0xffff);
    this.offset = Math.min(Math.max(0, s.offset), this.current.length);
  }

  counters(): Readonly<Record<string, number>> {
    return { selects: this.selects, missing: this.missing, bytesRead: this.bytesRead };
  }
}

/**
 * Puts a {@link FwCfg} at ports 0x510 and 0x511.
 * @throws HyveError `BUS_OVERLAP` when they are taken
 */
export function claimFwCfg(pio: IoBus, fwCfg: FwCfg): Claim {
  return pio.claim(FW_CFG_BASE, 2, fwCfg, { name: fwCfg.name, widths: 3 });
}
