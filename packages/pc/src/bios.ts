// What a PC's firmware leaves behind for programs that go back to real mode: interrupt vectors with handlers that end the
// interrupt, 8259s at their traditional vectors, and the 18.2 Hz tick. For loaders that start a guest without firmware.
// IBM PC/AT Technical Reference (1984), BIOS listing: entry points of interrupt 08h and of the dummy return.
import type { GuestMemory, IoBus } from '@hyve/core';

const SEGMENT = 0xf000;
const SEGMENT_BASE = 0xf0000;
/** Where the AT BIOS has its dummy IRET, its timer interrupt, and room between them. */
const DUMMY = 0xff53;
const TIMER = 0xfea5;
const MASTER = 0xfef3;
const SLAVE = 0xff00;
/** BIOS data area: ticks since midnight, 32 bit. */
const TICKS = 0x46c;
const TICKS_PER_DAY = 0x1800b0;

/** Linear address and code of each stub. */
const STUBS: readonly (readonly [offset: number, code: readonly number[]])[] = [
  [DUMMY, [0xcf]],
  // push ax; mov al, 20h; out 20h, al; pop ax; iret
  [MASTER, [0x50, 0xb0, 0x20, 0xe6, 0x20, 0x58, 0xcf]],
  // push ax; mov al, 20h; out 0A0h, al; out 20h, al; pop ax; iret
  [SLAVE, [0x50, 0xb0, 0x20, 0xe6, 0xa0, 0xe6, 0x20, 0x58, 0xcf]],
  [
    TIMER,
    [
      0x66, 0x50, 0x1e, 0x31, 0xc0, 0x8e, 0xd8, // push eax; push ds; xor ax, ax; mov ds, ax
      0x66, 0xa1, TICKS & 0xff, TICKS >> 8, 0x66, 0x40, // mov eax, [TICKS]; inc eax
      0x66, 0x3d, TICKS_PER_DAY & 0xff, (TICKS_PER_DAY >> 8) & 0xff, TICKS_PER_DAY >> 16, 0, // cmp eax, TICKS_PER_DAY
      0x72, 0x03, 0x66, 0x31, 0xc0, // jb +3; xor eax, eax
      0x66, 0xa3, TICKS & 0xff, TICKS >> 8, // mov [TICKS], eax
      0xcd, 0x1c, // int 1Ch
      0xb0, 0x20, 0xe6, 0x20, 0x1f, 0x66, 0x58, 0xcf, // mov al, 20h; out 20h, al; pop ds; pop eax; iret
    ], // biome-ignore format: code
  ],
];

/** Vectors of IRQ 0 and IRQ 8. */
const MASTER_VECTOR = 0x08;
const SLAVE_VECTOR = 0x70;

/** Writes the vector table and its handlers. Called before the guest's own image is loaded. */
export function placeBiosVectors(memory: GuestMemory): void {
  for (const [offset, code] of STUBS) memory.load(SEGMENT_BASE + offset, Uint8Array.from(code));
  const table = new Uint8Array(0x400);
  const view = new DataView(table.buffer);
  for (let v = 0; v < 256; v++) {
    let offset = DUMMY;
    if (v === MASTER_VECTOR) offset = TIMER;
    else if (v > MASTER_VECTOR && v < MASTER_VECTOR + 8) offset = MASTER;
    else if (v >= SLAVE_VECTOR && v < SLAVE_VECTOR + 8) offset = SLAVE;
    view.setUint16(v * 4, offset, true);
    view.setUint16(v * 4 + 2, SEGMENT, true);
  }
  memory.load(0, table);
}

/** Programs the 8259 pair and counter 0 of the 8254 through their ports; only the tick and the cascade are unmasked. */
export function startBiosInterrupts(pio: IoBus): void {
  const script: readonly (readonly [port: number, value: number])[] = [
    [0x20, 0x11],
    [0x21, MASTER_VECTOR],
    [0x21, 1 << 2],
    [0x21, 0x01],
    [0x21, 0xff & ~((1 << 0) | (1 << 2))],
    [0xa0, 0x11],
    [0xa1, SLAVE_VECTOR],
    [0xa1, 2],
    [0xa1, 0x01],
    [0xa1, 0xff],
    [0x43, 0x34],
    [0x40, 0x00],
    [0x40, 0x00],
  ];
  for (const [port, value] of script) pio.write(port, 1, value);
}
