// One guest on v86: argv[2] is a V86Run as JSON. The guest's COM1 is stdout.
import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { V86 } from 'v86';

/** What to run. */
export interface V86Run {
  readonly kernel: string;
  readonly initrd: string | null;
  readonly cmdline: string;
  readonly memoryMib: number;
  /** SeaBIOS. */
  readonly bios: string;
  /** Its VGA part. */
  readonly vgaBios: string;
}

const run = JSON.parse(process.argv[2] ?? '{}') as V86Run;
const file = (path: string): { buffer: ArrayBuffer } => ({
  buffer: new Uint8Array(readFileSync(path)).slice().buffer as ArrayBuffer,
});
const emulator = new V86({
  wasm_path: fileURLToPath(new URL('v86.wasm', import.meta.resolve('v86'))),
  memory_size: run.memoryMib << 20,
  bios: file(run.bios),
  vga_bios: file(run.vgaBios),
  bzimage: file(run.kernel),
  ...(run.initrd === null ? {} : { initrd: file(run.initrd) }),
  cmdline: run.cmdline,
  disable_speaker: true,
  autostart: true,
});
let line: number[] = [];
emulator.add_listener('serial0-output-byte', (byte: number) => {
  line.push(byte);
  if (byte !== 10) return;
  process.stdout.write(Uint8Array.from(line));
  line = [];
});
