// Machines for tests: specifications, a host of memory alone, and guests made by hand, a few hundred bytes each.
import { type BlockBackend, type BlockStatus, type CharBackend, HyveError, silentLogger } from '@hyve/core';
import { type MachineSpec, machineSpec, type PcHost } from '../src/index.ts';

export { pciSlot as slot } from '../src/index.ts';

/** The machine most tests start from: one vCPU, 16 MiB, COM1, a Multiboot guest named `guest`, virtual time. */
export function machine(o: Partial<MachineSpec> = {}): MachineSpec {
  return machineSpec({
    name: 'test',
    memoryBytes: 2 ** 24,
    boot: { loader: 'multiboot', kernel: 'guest', modules: [], cmdline: '' },
    lpc: [{ device: 'com1', backend: 'console' }],
    clock: { rtc: 'utc', mode: 'virtual', startSeconds: 946684800, instructionsPerSecond: 1e9 },
    engine: 'soft',
    ...o,
  });
}

/** The other end of a serial port: keeps what the guest sends. */
export class Screen implements CharBackend {
  bytes: number[] = [];
  onData: ((bytes: Uint8Array) => void) | null = null;
  onDrain: (() => void) | null = null;
  closed = false;
  /** Says false to every n-th write and drains later; 0 never does. */
  slow = 0;
  private writes = 0;

  get text(): string {
    return String.fromCharCode(...this.bytes);
  }
  write(b: Uint8Array): boolean {
    this.bytes.push(...b);
    if (this.slow === 0 || ++this.writes % this.slow !== 0) return true;
    setTimeout(() => this.onDrain?.(), 2);
    return false;
  }
  setFlow(): void {}
  async close(): Promise<void> {
    this.closed = true;
  }
}

/** A disk in memory whose requests take as long as `delayMs` says. */
export function disk(bytes: number, delayMs: (request: number) => number = () => 0): BlockBackend {
  const data = new Uint8Array(bytes);
  let requests = 0;
  const later = async (work: () => void): Promise<BlockStatus> => {
    const ms = delayMs(requests++);
    if (ms > 0) await new Promise((resolve) => setTimeout(resolve, ms));
    work();
    return 'ok';
  };
  return {
    size: bytes,
    sectorSize: 512,
    physicalSectorSize: 4096,
    readOnly: false,
    canDiscard: true,
    identity: 'memory',
    read: (offset, buffers) =>
      later(() => {
        let at = offset;
        for (const b of buffers) {
          b.set(data.subarray(at, at + b.length));
          at += b.length;
        }
      }),
    write: (offset, buffers) =>
      later(() => {
        let at = offset;
        for (const b of buffers) {
          data.set(b, at);
          at += b.length;
        }
      }),
    flush: () => later(() => {}),
    discard: (offset, length) => later(() => void data.fill(0, offset, offset + length)),
    writeZeroes: (offset, length) => later(() => void data.fill(0, offset, offset + length)),
    close: async () => {},
  };
}

/** A host with these files and one screen for whatever asks. */
export function host(
  files: Record<string, Uint8Array>,
  screen: Screen = new Screen(),
  more: Partial<PcHost> = {},
): PcHost {
  return {
    openChar: async () => screen,
    openDisk: async () => ({ backend: disk(1 << 20), extras: new Map() }),
    readFile: async (path) => {
      const f = files[path];
      if (f === undefined) throw new HyveError('NO_FILE', `${path}: no such file`);
      return f;
    },
    log: silentLogger,
    wallClock: { nowMs: () => 0, offsetMinutes: () => 0 },
    ...more,
  };
}

/** A Multiboot 1 image of flat 32-bit code that runs at 0x100020. */
export function multiboot(code: readonly number[]): Uint8Array {
  const base = 0x100000;
  const end = base + 0x20 + code.length;
  const image = new Uint8Array(0x20 + code.length);
  const v = new DataView(image.buffer);
  const header = [0x1badb002, 0x10000, -(0x1badb002 + 0x10000), base, base, end, end, base + 0x20];
  header.forEach((w, i) => {
    v.setUint32(i * 4, w >>> 0, true);
  });
  image.set(code, 0x20);
  return image;
}

/** A bzImage of 32-bit code. */
export function bzImage(code: readonly number[]): Uint8Array {
  const setup = 1024;
  const b = new Uint8Array(setup + 512);
  const v = new DataView(b.buffer);
  b[0x1f1] = 1;
  v.setUint32(0x1f4, 32, true);
  v.setUint16(0x1fe, 0xaa55, true);
  b.set([0xeb, 0x6a, 0x48, 0x64, 0x72, 0x53, 0x0f, 0x02], 0x200);
  b[0x211] = 1;
  v.setUint32(0x22c, 0x7fffffff, true);
  v.setUint32(0x230, 0x1000, true);
  b[0x234] = 1;
  v.setUint32(0x238, 2047, true);
  v.setUint32(0x258, 0x100000, true);
  v.setUint32(0x260, 0x1000, true);
  b.set(code, setup);
  return b;
}

/** An uncompressed 64-bit ELF kernel whose code, the same in 32- and 64-bit mode, runs at 1 MiB. */
export function elf64(code: readonly number[]): Uint8Array {
  const start = 0x100000;
  const b = new Uint8Array(0x78 + code.length);
  const v = new DataView(b.buffer);
  b.set([0x7f, 0x45, 0x4c, 0x46, 2, 1, 1], 0);
  v.setUint16(16, 2, true); // ET_EXEC
  v.setUint16(18, 62, true); // EM_X86_64
  v.setUint32(20, 1, true);
  v.setUint32(24, start, true);
  v.setUint32(32, 64, true); // program headers
  v.setUint16(52, 64, true);
  v.setUint16(54, 56, true);
  v.setUint16(56, 1, true);
  v.setUint32(64, 1, true); // PT_LOAD
  v.setUint32(68, 5, true);
  v.setUint32(72, 0x78, true);
  v.setUint32(80, start, true);
  v.setUint32(88, start, true);
  v.setUint32(96, code.length, true);
  v.setUint32(104, code.length, true);
  v.setUint32(112, 0x1000, true);
  b.set(code, 0x78);
  return b;
}

/** A ROM of 64 KiB whose 16-bit code runs at F000:0000. */
export function rom(code: readonly number[]): Uint8Array {
  const b = new Uint8Array(65536).fill(0xf4);
  b.set(code, 0);
  b.set([0xe9, 0x0d, 0x00], 0xfff0); // jmp 0 (relative to 0xfff3)
  return b;
}

// --- Code: the same bytes in 16- and 32-bit mode ----------------------------------------------------------------------

const w16 = (v: number): number[] => [v & 0xff, (v >> 8) & 0xff];
const w32 = (v: number): number[] => [v & 0xff, (v >>> 8) & 0xff, (v >>> 16) & 0xff, v >>> 24];

/** Instructions for flat 32-bit code. */
export const code = {
  /** mov dx, port; mov al, v; out dx, al */
  out8: (port: number, v: number): number[] => [0x66, 0xba, ...w16(port), 0xb0, v, 0xee],
  /** mov dx, port; mov ax, v; out dx, ax */
  out16: (port: number, v: number): number[] => [0x66, 0xba, ...w16(port), 0x66, 0xb8, ...w16(v), 0x66, 0xef],
  /** mov dx, port; mov eax, v; out dx, eax */
  out32: (port: number, v: number): number[] => [0x66, 0xba, ...w16(port), 0xb8, ...w32(v), 0xef],
  /** mov dx, port; in al, dx */
  in8: (port: number): number[] => [0x66, 0xba, ...w16(port), 0xec],
  /** mov dx, port; in eax, dx */
  in32: (port: number): number[] => [0x66, 0xba, ...w16(port), 0xed],
  /** Writes text to COM1. */
  print: (text: string): number[] => [...text].flatMap((c) => code.out8(0x3f8, c.charCodeAt(0))),
  /** Sends EAX to COM1, four bytes, low first: mov ecx, 4; mov dx, 3f8h; out dx, al; ror eax, 8; loop */
  printEax: (): number[] => [0xb9, 4, 0, 0, 0, 0x66, 0xba, 0xf8, 3, 0xee, 0xc1, 0xc8, 8, 0xe2, 0xfa],
  /** PM1a control: SLP_EN with the SLP_TYP of S5. */
  powerOff: (): number[] => code.out16(0x404, (1 << 13) | (5 << 10)),
  /** cli; hlt; jmp back */
  stop: (): number[] => [0xfa, 0xf4, 0xeb, 0xfc],
};

/** 16-bit: the same with 66 prefixes the other way round. */
export const code16 = {
  out8: (port: number, v: number): number[] => [0xba, ...w16(port), 0xb0, v, 0xee],
  print: (text: string): number[] => [...text].flatMap((c) => code16.out8(0x3f8, c.charCodeAt(0))),
  powerOff: (): number[] => [0xba, ...w16(0x404), 0xb8, ...w16((1 << 13) | (5 << 10)), 0xef],
};
