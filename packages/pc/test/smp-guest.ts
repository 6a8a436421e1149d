// A guest of several processors in long mode, made by hand: all of them come up, run one program, and the last switches
// the machine off. What they found is read from its memory.
import { Worker } from 'node:worker_threads';
import { SoftCpu } from '@hyve/cpu';
import { Code } from '@hyve/testkit/code';
import { createPc, type Pc, type StopReason, type ThreadHost } from '../src/index.ts';
import { host, machine, multiboot } from './kit.ts';

/** Free for programs: words that start as 0. */
export const VARS = 0x10000;
/** Large arrays. */
export const ARRAYS = 0x1000000;
/** A page mapped by an entry of its own, at {@link LONE_PTE}. */
export const LONE = 0x40000000;
/** Its page-table entry. */
export const LONE_PTE = 0xe000;
/** What it maps. */
export const LONE_FRAME = 0x50000;
/** Handler of interrupt 0x40 jumps where this word says. */
export const IPI_VECTOR = 0x40;

const TRAMPOLINE = 0x8000;
const PML4 = 0x9000;
const PDPT = 0xa000;
const PD = 0xb000;
const GDT = 0xc000;
const GDTR = 0xc100;
const IDTR = 0xc110;
const IDT = 0xd000;
const COUNT = 0xf000;
const ARRIVED = 0xf004;
const DONE = 0xf008;
const BARRIER = 0xf00c;
const STACKS = 0x20000;
const CODE = 0x100020;

/** A program's code: ESI is the processor's number, R15 belongs to {@link barrier}. */
export type Program = (c: Code, cpus: number) => void;

/** All processors wait for each other. */
export function barrier(c: Code, cpus: number): void {
  const again = `barrier${c.here}`;
  c.b(0x41, 0x83, 0xc7, cpus); // add r15d, cpus
  c.b(0xf0, 0xff, 0x04, 0x25).n(4, BARRIER); // lock inc dword [BARRIER]
  c.label(again);
  c.b(0xf3, 0x90); // pause
  c.b(0x44, 0x39, 0x3c, 0x25).n(4, BARRIER); // cmp [BARRIER], r15d
  c.b(0x0f, 0x82).rel(4, again); // jb
}

function enterLongMode(c: Code, wide: boolean): void {
  const o = (...bytes: number[]): void => void (wide ? c.b(...bytes) : c.b(0x66, ...bytes));
  c.b(0x0f, 0x20, 0xe0); // mov eax, cr4
  o(0x0d);
  c.n(4, 0x620); // or eax, PAE | OSFXSR | OSXMMEXCPT
  c.b(0x0f, 0x22, 0xe0);
  o(0xb8);
  c.n(4, PML4);
  c.b(0x0f, 0x22, 0xd8); // mov cr3, eax
  o(0xb9);
  c.n(4, 0xc0000080);
  c.b(0x0f, 0x32); // rdmsr
  o(0x0d);
  c.n(4, 0x100);
  c.b(0x0f, 0x30); // wrmsr
  c.b(0x0f, 0x20, 0xc0); // mov eax, cr0
  o(0x0d);
  c.n(4, 0x80010001); // PG | WP | PE
  c.b(0x0f, 0x22, 0xc0);
}

function loadData(c: Code): void {
  c.b(0xb8).n(4, 0x10); // mov eax, 10h
  c.b(0x8e, 0xd8, 0x8e, 0xc0, 0x8e, 0xd0); // mov ds, es, ss
  c.b(0x0f, 0x01, 0x1c, 0x25).n(4, IDTR); // lidt
}

/** Interrupt 0x40, #BP and #PF. */
export interface Handlers {
  /** Ends in IRETQ by itself. */
  readonly ipi?: (c: Code) => void;
  /** #BP. */
  readonly breakpoint?: (c: Code) => void;
  /** #PF: the error code is on the stack. */
  readonly pageFault?: (c: Code) => void;
}

/** Options of {@link runSmp}. */
export interface SmpOptions {
  readonly cpus: number;
  readonly program: Program;
  readonly handlers?: Handlers;
  /** See SoftCpuOptions. */
  readonly threshold?: number;
  readonly threads?: 'on' | 'off';
  readonly limitMs?: number;
  /** Runs beside the machine. */
  readonly during?: (pc: Pc) => Promise<void>;
}

/** What came of it. */
export interface SmpResult {
  readonly reason: StopReason;
  readonly detail: string;
  readonly ms: number;
  readonly counters: Readonly<Record<string, number>>;
  /** A 32-bit word of guest memory. */
  word(address: number): number;
}

/** Node's threads. */
export function testThreads(): ThreadHost {
  return {
    cores: 2,
    x86Order: true,
    start(name) {
      const w = new Worker(new URL('./vcpu-worker-node.ts', import.meta.url), { name });
      const out: ReturnType<ThreadHost['start']> = {
        post: (m) => w.postMessage(m),
        onMessage: null,
        onDeath: null,
        close: async () => void (await w.terminate()),
      };
      w.on('message', (m) => out.onMessage?.(m));
      w.on('error', (e) => out.onDeath?.(String(e)));
      w.on('exit', (code) => out.onDeath?.(`status ${code}`));
      return out;
    },
  };
}

/** Builds the machine and runs it to its end. */
export async function runSmp(o: SmpOptions): Promise<SmpResult> {
  const c = new Code(CODE, 32);
  c.b(0x0f, 0x01, 0x15).n(4, GDTR); // lgdt
  enterLongMode(c, true);
  c.b(0xea).n(4, 'long').n(2, 8); // jmp 8:long
  c.label('long');
  c.bits = 64;
  loadData(c);
  c.b(0x31, 0xf6); // xor esi, esi
  c.b(0xb0, 0xff, 0xe6, 0x21, 0xe6, 0xa1); // mov al, 0ffh; out 21h, al; out 0a1h, al: no interrupts from the 8259s
  c.b(0xbf).n(4, 0xfee00300); // mov edi, ICR
  c.b(0xc7, 0x07).n(4, 0x000c4500); // INIT, all but self
  c.b(0xc7, 0x07).n(4, 0x000c4600 | (TRAMPOLINE >> 12)); // SIPI
  c.b(0xe9).rel(4, 'common');
  c.label('ap');
  loadData(c);
  c.b(0xbe).n(4, 1); // mov esi, 1
  c.b(0xf0, 0x0f, 0xc1, 0x34, 0x25).n(4, COUNT); // lock xadd [COUNT], esi
  c.b(0xff, 0xc6); // inc esi
  c.label('common');
  c.b(0xb8).n(4, 0xfee000f0); // mov eax, SVR
  c.b(0xc7, 0x00).n(4, 0x1ff);
  c.b(0x8d, 0x46, 0x01); // lea eax, [rsi+1]
  c.b(0xc1, 0xe0, 0x0c); // shl eax, 12
  c.b(0x05).n(4, STACKS); // add eax, STACKS
  c.b(0x89, 0xc4); // mov esp, eax
  c.b(0x45, 0x31, 0xff); // xor r15d, r15d
  c.b(0xf0, 0xff, 0x04, 0x25).n(4, ARRIVED);
  c.label('gather').b(0xf3, 0x90);
  c.b(0x83, 0x3c, 0x25).n(4, ARRIVED).b(o.cpus); // cmp dword [ARRIVED], cpus
  c.b(0x0f, 0x85).rel(4, 'gather');
  o.program(c, o.cpus);
  c.b(0xf0, 0xff, 0x04, 0x25).n(4, DONE);
  c.b(0x85, 0xf6); // test esi, esi
  c.b(0x0f, 0x84).rel(4, 'last');
  c.label('idle').b(0xfa, 0xf4).b(0xe9).rel(4, 'idle');
  c.label('last').b(0xf3, 0x90);
  c.b(0x83, 0x3c, 0x25).n(4, DONE).b(o.cpus);
  c.b(0x0f, 0x85).rel(4, 'last');
  c.b(0x66, 0xba).n(2, 0x404).b(0x66, 0xb8).n(2, 0x3400).b(0x66, 0xef); // power off
  c.b(0xe9).rel(4, 'idle');
  c.label('ipi');
  if (o.handlers?.ipi !== undefined) o.handlers.ipi(c);
  else c.b(0x48, 0xcf);
  c.label('bp');
  if (o.handlers?.breakpoint !== undefined) o.handlers.breakpoint(c);
  else c.b(0x0f, 0x0b);
  c.label('pf');
  if (o.handlers?.pageFault !== undefined) o.handlers.pageFault(c);
  else c.b(0x0f, 0x0b);

  const t = new Code(TRAMPOLINE, 16);
  t.b(0xfa, 0x31, 0xc0, 0x8e, 0xd8); // cli; xor ax, ax; mov ds, ax
  t.b(0x66, 0x0f, 0x01, 0x16).n(2, GDTR); // o32 lgdt
  enterLongMode(t, false);
  t.b(0x66, 0xea).n(4, c.at('ap')).n(2, 8);

  const spec = machine({
    memoryBytes: 64 << 20,
    cpus: { count: o.cpus, sockets: 1, cores: o.cpus, threads: 1 },
    clock: { rtc: 'utc', mode: 'real', startSeconds: 0, instructionsPerSecond: 1e9 },
    vcpuThreads: o.threads ?? 'on',
    tables: { ...machine().tables, mptable: false },
  });
  const soft = (): SoftCpu => new SoftCpu(o.threshold === undefined ? {} : { threshold: o.threshold });
  const pc: Pc = await createPc(
    spec,
    host({ guest: multiboot([...c.bytes()]) }, undefined, { threads: testThreads(), engines: { soft } }),
  );
  const m = pc.vm.memory;
  const w64 = (at: number, lo: number, hi = 0): void => {
    m.write32(at, lo);
    m.write32(at + 4, hi);
  };
  m.load(TRAMPOLINE, t.bytes());
  w64(PML4, PDPT | 3);
  for (const g of [0, 2, 3]) w64(PDPT + g * 8, (g * 0x40000000) | 0x83);
  w64(PDPT + 8, PD | 3);
  w64(PD, LONE_PTE | 3);
  w64(LONE_PTE, LONE_FRAME | 3);
  w64(GDT, 0);
  w64(GDT + 8, 0x0000ffff, 0x00af9b00);
  w64(GDT + 16, 0x0000ffff, 0x00cf9300);
  m.write16(GDTR, 0x17);
  m.write32(GDTR + 2, GDT);
  m.write16(IDTR, 0xfff);
  m.write32(IDTR + 2, IDT);
  for (const [vector, label] of [
    [IPI_VECTOR, 'ipi'],
    [3, 'bp'],
    [14, 'pf'],
  ] as const) {
    const at = c.at(label);
    w64(IDT + vector * 16, (at & 0xffff) | (8 << 16), ((at & 0xffff0000) | 0x8e00) >>> 0);
  }
  const start = performance.now();
  let late = false;
  const timer = setTimeout(() => {
    late = true;
    pc.forceOff();
  }, o.limitMs ?? 60_000);
  try {
    const running = pc.run();
    await o.during?.(pc);
    const reason = await running;
    return {
      reason,
      detail: late ? `not done in time; ${pc.detail}` : pc.detail,
      ms: performance.now() - start,
      counters: pc.stats(),
      word: (at) => m.read32(at),
    };
  } finally {
    clearTimeout(timer);
    await pc.close();
  }
}
