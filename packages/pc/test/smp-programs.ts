// What several processors can get wrong together: locked instructions, the order of loads and stores, interrupts, TLBs, code.
import type { Code } from '@hyve/testkit/code';
import {
  ARRAYS,
  barrier,
  type Handlers,
  IPI_VECTOR,
  LONE,
  LONE_FRAME,
  LONE_PTE,
  type Program,
  VARS,
} from './smp-guest.ts';

/** Where {@link locked} counts; each is incremented `rounds` times by each processor. */
export const COUNTERS = {
  inc32: VARS + 0x100,
  xadd64: VARS + 0x140,
  cmpxchg32: VARS + 0x180,
  cmpxchg16b: VARS + 0x1c0,
  byte: VARS + 0x201,
  word: VARS + 0x242,
  splitLine: VARS + 0x2be,
  splitPage: VARS + 0xffe,
  underXchgLock: VARS + 0x340,
  underBtsLock: VARS + 0x380,
  adc: VARS + 0x3c0,
} as const;
const XCHG_LOCK = VARS + 0x300;
const BTS_LOCK = VARS + 0x304;

/** A counted loop: R14 counts down. */
export function loop(c: Code, rounds: number, body: () => void): void {
  const top = `loop${c.here}`;
  c.b(0x41, 0xbe).n(4, rounds); // mov r14d, rounds
  c.label(top);
  body();
  c.b(0x41, 0xff, 0xce); // dec r14d
  c.b(0x0f, 0x85).rel(4, top); // jnz
}

/** Every kind of locked change, by all processors at once. `rare` of the rounds do those that stop everybody. */
export function locked(rounds: number, rareEvery: number): Program {
  return (c, cpus) => {
    barrier(c, cpus);
    loop(c, rounds, () => {
      c.b(0xf0, 0xff, 0x04, 0x25).n(4, COUNTERS.inc32); // lock inc dword
      c.b(0xb8).n(4, 1); // mov eax, 1
      c.b(0xf0, 0x48, 0x0f, 0xc1, 0x04, 0x25).n(4, COUNTERS.xadd64); // lock xadd [..], rax
      const again = `cx${c.here}`;
      c.b(0x8b, 0x04, 0x25).n(4, COUNTERS.cmpxchg32); // mov eax, [..]
      c.label(again);
      c.b(0x8d, 0x48, 0x01); // lea ecx, [rax+1]
      c.b(0xf0, 0x0f, 0xb1, 0x0c, 0x25).n(4, COUNTERS.cmpxchg32); // lock cmpxchg [..], ecx
      c.b(0x0f, 0x85).rel(4, again); // jne
      c.b(0xf0, 0x80, 0x04, 0x25).n(4, COUNTERS.byte).b(1); // lock add byte, 1
      c.b(0x66, 0xf0, 0xff, 0x04, 0x25).n(4, COUNTERS.word); // lock inc word
      c.b(0xf9); // stc
      c.b(0xf0, 0x83, 0x14, 0x25).n(4, COUNTERS.adc).b(0); // lock adc dword, 0
      // xchg spinlock around a plain increment
      const take = `take${c.here}`;
      const taken = `taken${c.here}`;
      c.label(take).b(0xb8).n(4, 1);
      c.b(0x87, 0x04, 0x25).n(4, XCHG_LOCK); // xchg [..], eax
      c.b(0x85, 0xc0).b(0x0f, 0x84).rel(4, taken); // test eax, eax; jz
      c.b(0xf3, 0x90).b(0xe9).rel(4, take); // pause; jmp
      c.label(taken).b(0xff, 0x04, 0x25).n(4, COUNTERS.underXchgLock); // inc dword
      c.b(0xc7, 0x04, 0x25).n(4, XCHG_LOCK).n(4, 0); // mov dword, 0
      const bit = `bit${c.here}`;
      const got = `got${c.here}`;
      c.label(bit).b(0xf0, 0x0f, 0xba, 0x2c, 0x25).n(4, BTS_LOCK).b(5); // lock bts dword, 5
      c.b(0x0f, 0x83).rel(4, got); // jnc
      c.b(0xf3, 0x90).b(0xe9).rel(4, bit);
      c.label(got).b(0xff, 0x04, 0x25).n(4, COUNTERS.underBtsLock);
      c.b(0xf0, 0x0f, 0xba, 0x34, 0x25).n(4, BTS_LOCK).b(5); // lock btr
      const skip = `skip${c.here}`;
      c.b(0x44, 0x89, 0xf0, 0x31, 0xd2); // mov eax, r14d; xor edx, edx
      c.b(0xb9).n(4, rareEvery).b(0xf7, 0xf1, 0x85, 0xd2); // div ecx; test edx, edx
      c.b(0x0f, 0x85).rel(4, skip);
      c.b(0xf0, 0xff, 0x04, 0x25).n(4, COUNTERS.splitLine);
      c.b(0xf0, 0xff, 0x04, 0x25).n(4, COUNTERS.splitPage);
      c.b(0xbf).n(4, COUNTERS.cmpxchg16b); // mov edi, ..
      c.b(0x48, 0x8b, 0x07, 0x48, 0x8b, 0x57, 0x08); // mov rax, [rdi]; mov rdx, [rdi+8]
      const wide = `wide${c.here}`;
      c.label(wide).b(0x48, 0x8d, 0x58, 0x01, 0x48, 0x8d, 0x4a, 0x03); // lea rbx, [rax+1]; lea rcx, [rdx+3]
      c.b(0xf0, 0x48, 0x0f, 0xc7, 0x0f); // lock cmpxchg16b [rdi]
      c.b(0x0f, 0x85).rel(4, wide);
      c.label(skip);
    });
    barrier(c, cpus);
  };
}

/** Elements of a litmus sweep, 64 bytes apart. */
const ELEMENTS = 4096;
const X = ARRAYS;
const Y = ARRAYS + 0x100000;
const R = [0, 1, 2, 3].map((n) => ARRAYS + 0x200000 + n * 0x10000) as [number, number, number, number];
/** How often each outcome came: word n is for results R0 | R1 << 1 | R2 << 2 | R3 << 3. */
export const HISTOGRAM: number = VARS + 0x2000;

/** What one processor does with X (RDI) and Y (RBX); EAX and EDX go to two results. */
type Role = (c: Code) => void;
const setX: Role = (c) => void c.b(0xc7, 0x07).n(4, 1);
const setY: Role = (c) => void c.b(0xc7, 0x03).n(4, 1);
const getX =
  (reg: 0 | 2): Role =>
  (c) =>
    void c.b(0x8b, 0x07 | (reg << 3));
const getY =
  (reg: 0 | 2): Role =>
  (c) =>
    void c.b(0x8b, 0x03 | (reg << 3));
const fence: Role = (c) => void c.b(0x0f, 0xae, 0xf0);
const lockedNothing: Role = (c) => void c.b(0xf0, 0x83, 0x0c, 0x24, 0x00); // lock or dword [rsp], 0

/** A litmus test: roles by processor, where EAX and EDX of each go (result numbers, -1 for nowhere). */
export interface Litmus {
  readonly name: string;
  readonly roles: readonly { readonly does: readonly Role[]; readonly eax: number; readonly edx: number }[];
  /** Outcome that must not be. */
  readonly forbidden: number;
}

/** P. Sewell et al., "x86-TSO" (2010). */
export const IRIW: Litmus = {
  name: 'IRIW',
  roles: [
    { does: [setX], eax: -1, edx: -1 },
    { does: [setY], eax: -1, edx: -1 },
    { does: [getX(0), getY(2)], eax: 0, edx: 1 },
    { does: [getY(0), getX(2)], eax: 2, edx: 3 },
  ],
  forbidden: 5,
};

/** Runs a litmus test `sweeps` times over all elements. */
export function litmus(t: Litmus, sweeps: number): Program {
  return (c, cpus) => {
    c.b(0x41, 0xbd).n(4, sweeps); // mov r13d, sweeps
    c.label('sweep');
    barrier(c, cpus);
    t.roles.forEach((role, n) => {
      const next = `not${n}`;
      c.b(0x83, 0xfe, n).b(0x0f, 0x85).rel(4, next); // cmp esi, n; jne
      c.b(0xbf).n(4, X).b(0xbb).n(4, Y).b(0x31, 0xc9); // mov edi, X; mov ebx, Y; xor ecx, ecx
      c.label(`element${n}`);
      for (const f of role.does) f(c);
      if (role.eax >= 0) c.b(0x89, 0x04, 0x8d).n(4, R[role.eax] as number); // mov [R+rcx*4], eax
      if (role.edx >= 0) c.b(0x89, 0x14, 0x8d).n(4, R[role.edx] as number);
      c.b(0x83, 0xc7, 0x40, 0x83, 0xc3, 0x40, 0xff, 0xc1); // add edi, 64; add ebx, 64; inc ecx
      c.b(0x81, 0xf9).n(4, ELEMENTS).b(0x0f, 0x82).rel(4, `element${n}`);
      c.label(next);
    });
    barrier(c, cpus);
    // Processor 0 counts and clears.
    c.b(0x85, 0xf6).b(0x0f, 0x85).rel(4, 'counted');
    c.b(0x31, 0xc9).label('count').b(0x31, 0xc0); // xor ecx, ecx; xor eax, eax
    for (const r of [...R].reverse()) c.b(0x01, 0xc0, 0x0b, 0x04, 0x8d).n(4, r); // add eax, eax; or eax, [R+rcx*4]
    c.b(0xff, 0x04, 0x85).n(4, HISTOGRAM); // inc dword [HISTOGRAM+rax*4]
    c.b(0xff, 0xc1, 0x81, 0xf9).n(4, ELEMENTS).b(0x0f, 0x82).rel(4, 'count');
    c.b(0x31, 0xc0, 0xbf).n(4, ARRAYS).b(0xb9).n(4, 0x240000).b(0xf3, 0xaa); // xor eax, eax; rep stosb
    c.label('counted');
    c.b(0x41, 0xff, 0xcd).b(0x0f, 0x85).rel(4, 'sweep'); // dec r13d; jnz
    barrier(c, cpus);
  };
}

/** Where processors say which round of {@link duel} they have come to, 64 bytes apart. */
const HERE = VARS + 0xb00;

const newX: Role = (c) => void c.b(0x44, 0x89, 0x2f); // mov [rdi], r13d
const newY: Role = (c) => void c.b(0x44, 0x89, 0x2b); // mov [rbx], r13d
const swapX: Role = (c) => void c.b(0x44, 0x89, 0xe8, 0x87, 0x07); // mov eax, r13d; xchg [rdi], eax
const swapY: Role = (c) => void c.b(0x44, 0x89, 0xe8, 0x87, 0x03);

/** What x86 does allow. Where it never shows, the tests that forbid it prove nothing. */
export const BUFFERED: Litmus = {
  name: 'SB',
  roles: [
    { does: [newX, getY(0)], eax: 0, edx: -1 },
    { does: [newY, getX(0)], eax: 1, edx: -1 },
  ],
  forbidden: 0,
};

/** Litmus tests of two processors for {@link duel}: a result is 1 if the round's own value was read. */
export const DUELS: readonly Litmus[] = [
  {
    name: 'SB with MFENCE',
    roles: [
      { does: [newX, fence, getY(0)], eax: 0, edx: -1 },
      { does: [newY, fence, getX(0)], eax: 1, edx: -1 },
    ],
    forbidden: 0,
  },
  {
    name: 'SB with locked instructions',
    roles: [
      { does: [newX, lockedNothing, getY(0)], eax: 0, edx: -1 },
      { does: [newY, lockedNothing, getX(0)], eax: 1, edx: -1 },
    ],
    forbidden: 0,
  },
  {
    name: 'SB with XCHG',
    roles: [
      { does: [swapX, getY(0)], eax: 0, edx: -1 },
      { does: [swapY, getX(0)], eax: 1, edx: -1 },
    ],
    forbidden: 0,
  },
  {
    name: 'MP',
    roles: [
      { does: [newX, newY], eax: -1, edx: -1 },
      { does: [getY(0), getX(2)], eax: 0, edx: 1 },
    ],
    forbidden: 1,
  },
  {
    name: 'LB',
    roles: [
      { does: [getX(0), newY], eax: 0, edx: -1 },
      { does: [getY(0), newX], eax: 1, edx: -1 },
    ],
    forbidden: 3,
  },
  {
    name: 'CoRR',
    roles: [
      { does: [newX], eax: -1, edx: -1 },
      { does: [getX(0), getX(2)], eax: 0, edx: 1 },
    ],
    forbidden: 1,
  },
];

/**
 * Runs a litmus test of two processors `rounds` times. Before each round they wait for each other, without PAUSE, and then
 * for a few instructions more, another number each time, so that they meet within the time that a store waits in a
 * processor's buffer. The round's number, at most 0x3ffff, is the value that is stored.
 */
export function duel(t: Litmus, rounds: number): Program {
  return (c, cpus) => {
    const results = [X + 0x100000, X + 0x200000];
    barrier(c, cpus);
    c.b(0xbf)
      .n(4, X)
      .b(0xbb)
      .n(4, X + 0x1000); // mov edi, X; mov ebx, Y
    c.b(0x41, 0x89, 0xf0, 0x41, 0xc1, 0xe0, 0x06); // mov r8d, esi; shl r8d, 6
    c.b(0x45, 0x89, 0xc1, 0x41, 0x83, 0xf1, 0x40); // mov r9d, r8d; xor r9d, 64
    c.b(0x45, 0x31, 0xed); // xor r13d, r13d
    c.b(0x41, 0x89, 0xf2, 0x41, 0xff, 0xc2); // mov r10d, esi; inc r10d
    c.label('round');
    c.b(0x41, 0xff, 0xc5); // inc r13d
    c.b(0x45, 0x69, 0xd2).n(4, 0x19660d).b(0x41, 0x81, 0xc2).n(4, 0x3c6ef35f); // imul r10d, ..; add r10d, ..
    c.b(0x44, 0x89, 0xd1, 0xc1, 0xe9, 0x1a, 0xff, 0xc1); // mov ecx, r10d; shr ecx, 26; inc ecx
    c.b(0x45, 0x89, 0xa8).n(4, HERE); // mov [r8+HERE], r13d
    c.label('meet').b(0x45, 0x39, 0xa9).n(4, HERE).b(0x0f, 0x82).rel(4, 'meet'); // cmp [r9+HERE], r13d; jb
    c.label('linger').b(0xff, 0xc9).b(0x0f, 0x85).rel(4, 'linger'); // dec ecx; jnz
    t.roles.forEach((role, n) => {
      const next = `not${n}`;
      c.b(0x83, 0xfe, n).b(0x0f, 0x85).rel(4, next); // cmp esi, n; jne
      for (const f of role.does) f(c);
      if (role.eax >= 0) c.b(0x42, 0x89, 0x04, 0xad).n(4, results[role.eax] as number); // mov [R+r13*4], eax
      if (role.edx >= 0) c.b(0x42, 0x89, 0x14, 0xad).n(4, results[role.edx] as number);
      c.label(next);
    });
    c.b(0x41, 0x81, 0xfd).n(4, rounds).b(0x0f, 0x82).rel(4, 'round'); // cmp r13d, rounds; jb
    barrier(c, cpus);
    c.b(0x85, 0xf6).b(0x0f, 0x85).rel(4, 'counted');
    c.b(0x31, 0xc9).label('count').b(0xff, 0xc1, 0x31, 0xc0); // xor ecx, ecx; inc ecx; xor eax, eax
    for (const r of [...results].reverse())
      c.b(0x31, 0xd2, 0x39, 0x0c, 0x8d).n(4, r).b(0x0f, 0x94, 0xc2, 0x01, 0xc0, 0x09, 0xd0); // edx = [R+rcx*4] == ecx; eax = eax*2|edx
    c.b(0xff, 0x04, 0x85).n(4, HISTOGRAM); // inc dword [HISTOGRAM+rax*4]
    c.b(0x81, 0xf9).n(4, rounds).b(0x0f, 0x82).rel(4, 'count');
    c.label('counted');
    barrier(c, cpus);
  };
}

/** Elements per sweep. */
export const SWEEP: number = ELEMENTS;

/** Times of {@link pingPong}, in TSC ticks: total of all rounds. */
export const PING_TICKS: number = VARS + 0x600;
const PINGS = VARS + 0x640;

/** Processors 0 and 1 send each other interrupts in turn, the receiver waiting in HLT or spinning. */
export function pingPong(rounds: number, halt: boolean): { program: Program; handlers: Handlers } {
  return {
    handlers: {
      ipi: (c) => {
        c.b(0x50); // push rax
        c.b(0xff, 0x04, 0xb5).n(4, PINGS); // inc dword [PINGS+rsi*4]
        c.b(0xb8).n(4, 0xfee000b0).b(0xc7, 0x00).n(4, 0); // EOI
        c.b(0x58, 0x48, 0xcf); // pop rax; iretq
      },
    },
    program: (c, cpus) => {
      const send = (to: number): void => {
        c.b(0xb8)
          .n(4, 0xfee00310)
          .b(0xc7, 0x00)
          .n(4, to << 24); // ICR high
        c.b(0xb8)
          .n(4, 0xfee00300)
          .b(0xc7, 0x00)
          .n(4, 0x4000 | IPI_VECTOR);
      };
      const wait = (label: string): void => {
        // until [PINGS+rsi*4] >= r12d
        c.label(label);
        if (halt) {
          const go = `${label}go`;
          c.b(0xfa); // cli
          c.b(0x44, 0x39, 0x24, 0xb5).n(4, PINGS).b(0x0f, 0x83).rel(4, go); // cmp [..], r12d; jae
          c.b(0xfb, 0xf4).b(0xe9).rel(4, label); // sti; hlt
          c.label(go).b(0xfb);
        } else {
          c.b(0xf3, 0x90);
          c.b(0x44, 0x39, 0x24, 0xb5).n(4, PINGS).b(0x0f, 0x82).rel(4, label);
        }
      };
      c.b(0xfb, 0x45, 0x31, 0xe4); // sti; xor r12d, r12d
      barrier(c, cpus);
      c.b(0x83, 0xfe, 2).b(0x0f, 0x83).rel(4, 'pinged'); // others only look on
      c.b(0x0f, 0x31, 0x48, 0xc1, 0xe2, 0x20, 0x48, 0x09, 0xc2, 0x49, 0x89, 0xd5); // r13 = tsc
      loop(c, rounds, () => {
        c.b(0x41, 0xff, 0xc4); // inc r12d
        const one = `one${c.here}`;
        const both = `both${c.here}`;
        c.b(0x85, 0xf6).b(0x0f, 0x85).rel(4, one);
        send(1);
        wait(`zero${c.here}`);
        c.b(0xe9).rel(4, both);
        c.label(one);
        wait(`got${c.here}`);
        send(0);
        c.label(both);
      });
      c.b(0x0f, 0x31, 0x48, 0xc1, 0xe2, 0x20, 0x48, 0x09, 0xc2, 0x4c, 0x29, 0xea); // rdx = tsc - r13
      c.b(0x85, 0xf6).b(0x0f, 0x85).rel(4, 'pinged');
      c.b(0x48, 0x89, 0x14, 0x25).n(4, PING_TICKS); // mov [..], rdx
      c.label('pinged');
      barrier(c, cpus);
    },
  };
}

/** Results of {@link shootDown}. */
export const SHOOT = { faults: VARS + 0x700, stale: VARS + 0x704, reads: VARS + 0x708 } as const;
const UNMAPPED = VARS + 0x740;
const ACKS = VARS + 0x780;
const OVER = VARS + 0x7c0;

/** Interrupts all others and waits until each of them has counted itself with {@link acknowledge}. */
function callOthers(c: Code, cpus: number): void {
  c.b(0xc7, 0x04, 0x25).n(4, ACKS).n(4, 0);
  c.b(0xb8)
    .n(4, 0xfee00300)
    .b(0xc7, 0x00)
    .n(4, 0xc4000 | IPI_VECTOR);
  const wait = `called${c.here}`;
  c.label(wait)
    .b(0xf3, 0x90)
    .b(0x83, 0x3c, 0x25)
    .n(4, ACKS)
    .b(cpus - 1)
    .b(0x0f, 0x82)
    .rel(4, wait);
}

/** In the handler of that interrupt: lock inc dword [ACKS], then EOI. Uses EAX. */
function acknowledge(c: Code): void {
  c.b(0xf0, 0xff, 0x04, 0x25).n(4, ACKS);
  c.b(0xb8).n(4, 0xfee000b0).b(0xc7, 0x00).n(4, 0);
}

/**
 * Processor 0 unmaps a page, interrupts the others, which drop it from their TLBs, and says that it is gone: nobody may
 * still read it then. The others read it all the time.
 */
export function shootDown(rounds: number): { program: Program; handlers: Handlers } {
  return {
    handlers: {
      ipi: (c) => {
        c.b(0x50);
        c.b(0xb8).n(4, LONE).b(0x0f, 0x01, 0x38); // mov eax, LONE; invlpg [rax]
        acknowledge(c);
        c.b(0x58, 0x48, 0xcf);
      },
      pageFault: (c) => {
        // Behind the load, which is two bytes, with EDX = 1.
        c.b(0xba).n(4, 1).b(0x48, 0x83, 0xc4, 0x08); // mov edx, 1; add rsp, 8
        c.b(0x48, 0x83, 0x04, 0x24, 0x02, 0x48, 0xcf); // add qword [rsp], 2; iretq
      },
    },
    program: (c, cpus) => {
      c.b(0xfb).b(0xc7, 0x04, 0x25).n(4, LONE_FRAME).n(4, 7);
      barrier(c, cpus);
      c.b(0x85, 0xf6).b(0x0f, 0x85).rel(4, 'reader');
      loop(c, rounds, () => {
        c.b(0xc7, 0x04, 0x25).n(4, LONE_PTE).n(4, 0); // unmap
        callOthers(c, cpus);
        c.b(0xc7, 0x04, 0x25).n(4, UNMAPPED).n(4, 1);
        // A while without the page, then back.
        c.b(0xb9).n(4, 300);
        const idle = `idle${c.here}`;
        c.label(idle).b(0xff, 0xc9).b(0x0f, 0x85).rel(4, idle);
        c.b(0xc7, 0x04, 0x25).n(4, UNMAPPED).n(4, 0);
        c.b(0xc7, 0x04, 0x25)
          .n(4, LONE_PTE)
          .n(4, LONE_FRAME | 3);
      });
      c.b(0xc7, 0x04, 0x25).n(4, OVER).n(4, 1);
      c.b(0xe9).rel(4, 'shot');
      c.label('reader');
      c.b(0xbb).n(4, LONE); // mov ebx, LONE
      c.label('read');
      c.b(0x8b, 0x0c, 0x25).n(4, UNMAPPED); // mov ecx, [UNMAPPED]
      c.b(0x31, 0xd2, 0x8b, 0x03); // xor edx, edx; mov eax, [rbx]
      c.b(0x8b, 0x3c, 0x25).n(4, UNMAPPED); // mov edi, [UNMAPPED]
      c.b(0xf0, 0xff, 0x04, 0x25).n(4, SHOOT.reads);
      c.b(0xf0, 0x01, 0x14, 0x25).n(4, SHOOT.faults); // lock add [faults], edx
      // Gone before and after, and yet read: stale.
      c.b(0x21, 0xf9, 0x83, 0xf2, 0x01, 0x21, 0xd1); // and ecx, edi; xor edx, 1; and ecx, edx
      c.b(0xf0, 0x01, 0x0c, 0x25).n(4, SHOOT.stale);
      c.b(0x83, 0x3c, 0x25).n(4, OVER).b(0).b(0x0f, 0x84).rel(4, 'read');
      c.label('shot');
      barrier(c, cpus);
    },
  };
}

/** Results of {@link rewrite}. */
export const REWRITE = { stale: VARS + 0x800, calls: VARS + 0x804 } as const;
const SEQUENCE = VARS + 0x840;
const FUNCTION = 0x300000;
/** A function whose first instruction ends in the next page. */
export const ACROSS = 0x300fff;

/**
 * Cross-modifying code, SDM volume 3A 8.1.3: processor `writer` changes an instruction, then a flag; the others see the flag,
 * serialize, and must run the new one. The writer never runs the function, so that only the others have it decoded.
 * It lies at `at`, its immediate operand aligned.
 */
export function rewrite(rounds: number, writer: number, at: number = FUNCTION): Program {
  return (c, cpus) => {
    // mov eax, imm32; ret
    c.b(0xc6, 0x04, 0x25).n(4, at).b(0xb8);
    c.b(0xc7, 0x04, 0x25)
      .n(4, at + 1)
      .n(4, 0);
    c.b(0xc6, 0x04, 0x25)
      .n(4, at + 5)
      .b(0xc3);
    barrier(c, cpus);
    c.b(0x83, 0xfe, writer).b(0x0f, 0x85).rel(4, 'caller'); // cmp esi, writer; jne
    c.b(0x31, 0xdb); // xor ebx, ebx
    loop(c, rounds, () => {
      c.b(0xff, 0xc3); // inc ebx
      c.b(0x89, 0x1c, 0x25).n(4, at + 1); // mov [imm], ebx
      c.b(0x89, 0x1c, 0x25).n(4, SEQUENCE); // mov [SEQUENCE], ebx
      c.b(0xb9).n(4, 60);
      const idle = `idle${c.here}`;
      c.label(idle).b(0xff, 0xc9).b(0x0f, 0x85).rel(4, idle);
    });
    c.b(0xc7, 0x04, 0x25).n(4, OVER).n(4, 1);
    c.b(0xe9).rel(4, 'rewritten');
    c.label('caller');
    c.b(0x44, 0x8b, 0x24, 0x25).n(4, SEQUENCE); // mov r12d, [SEQUENCE]
    c.b(0x31, 0xc0, 0x0f, 0xa2); // xor eax, eax; cpuid
    c.b(0xbf).n(4, at).b(0xff, 0xd7); // call rdi
    c.b(0xf0, 0xff, 0x04, 0x25).n(4, REWRITE.calls);
    c.b(0x44, 0x39, 0xe0).b(0x0f, 0x83).rel(4, 'fresh'); // cmp eax, r12d; jae
    c.b(0xf0, 0xff, 0x04, 0x25).n(4, REWRITE.stale);
    c.label('fresh');
    c.b(0x83, 0x3c, 0x25).n(4, OVER).b(0).b(0x0f, 0x84).rel(4, 'caller');
    c.label('rewritten');
    barrier(c, cpus);
  };
}

/** Results of {@link poke}. */
export const POKE = { stale: VARS + 0xa00, calls: VARS + 0xa04, traps: VARS + 0xa08 } as const;

/**
 * Cross-modifying code as Linux's text_poke does it: processor `writer` maps the function's page a second time, writes a
 * breakpoint over the first byte, lets all others serialize in an interrupt, writes the other bytes, lets them serialize,
 * writes the first byte, lets them serialize, and says which instruction is there now. From then on nobody may run an older
 * one, with no serializing instruction of its own.
 */
export function poke(rounds: number, writer: number): { program: Program; handlers: Handlers } {
  return {
    handlers: {
      ipi: (c) => {
        c.b(0x50, 0x53, 0x51, 0x52); // push rax, rbx, rcx, rdx
        c.b(0x31, 0xc0, 0x0f, 0xa2); // xor eax, eax; cpuid
        acknowledge(c);
        c.b(0x5a, 0x59, 0x5b, 0x58, 0x48, 0xcf); // pop; iretq
      },
      breakpoint: (c) => {
        c.b(0xf0, 0xff, 0x04, 0x25).n(4, POKE.traps);
        c.b(0xb8).n(4, -1); // newer than anything
        c.b(0x48, 0xc7, 0x04, 0x24).n(4, FUNCTION + 5); // mov qword [rsp], its RET
        c.b(0x48, 0xcf);
      },
    },
    program: (c, cpus) => {
      const pte = (value: number): void => {
        c.b(0xc7, 0x04, 0x25).n(4, LONE_PTE).n(4, value);
        c.b(0x0f, 0x01, 0x3c, 0x25).n(4, LONE); // invlpg
      };
      /** Writes through the second mapping, then interrupts the others and waits for them. */
      const change = (write: () => void): void => {
        pte(FUNCTION | 3);
        write();
        pte(0);
        callOthers(c, cpus);
      };
      const firstByte = (v: number): void => change(() => void c.b(0xc6, 0x04, 0x25).n(4, LONE).b(v));
      // mov eax, 0; ret
      c.b(0xc7, 0x04, 0x25).n(4, FUNCTION).n(4, 0xb8);
      c.b(0xc7, 0x04, 0x25)
        .n(4, FUNCTION + 4)
        .n(4, 0xc300);
      c.b(0xfb); // sti
      barrier(c, cpus);
      c.b(0x83, 0xfe, writer).b(0x0f, 0x85).rel(4, 'caller'); // cmp esi, writer; jne
      c.b(0x31, 0xdb); // xor ebx, ebx
      loop(c, rounds, () => {
        c.b(0xff, 0xc3); // inc ebx
        firstByte(0xcc);
        change(() => void c.b(0x89, 0x1c, 0x25).n(4, LONE + 1)); // mov [imm], ebx
        firstByte(0xb8);
        c.b(0x89, 0x1c, 0x25).n(4, SEQUENCE); // mov [SEQUENCE], ebx
        c.b(0x89, 0xd9, 0x83, 0xe1, 0x7f, 0xc1, 0xe1, 0x05); // mov ecx, ebx; and ecx, 127; shl ecx, 5
        const idle = `idle${c.here}`;
        c.label(idle).b(0xff, 0xc9).b(0x0f, 0x8f).rel(4, idle); // dec ecx; jg
      });
      c.b(0xc7, 0x04, 0x25).n(4, OVER).n(4, 1);
      c.b(0xe9).rel(4, 'poked');
      c.label('caller');
      c.b(0x44, 0x8b, 0x24, 0x25).n(4, SEQUENCE); // mov r12d, [SEQUENCE]
      c.b(0xbf).n(4, FUNCTION).b(0xff, 0xd7); // call rdi
      c.b(0xf0, 0xff, 0x04, 0x25).n(4, POKE.calls);
      c.b(0x44, 0x39, 0xe0).b(0x0f, 0x83).rel(4, 'fresh'); // cmp eax, r12d; jae
      c.b(0xf0, 0xff, 0x04, 0x25).n(4, POKE.stale);
      c.label('fresh');
      c.b(0x83, 0x3c, 0x25).n(4, OVER).b(0).b(0x0f, 0x84).rel(4, 'caller');
      c.label('poked').b(0xfa);
      barrier(c, cpus);
    },
  };
}

/** Interrupts 13 that {@link coprocessorError} took. */
export const FERRS: number = VARS + 0xc00;

/** Processor 1 divides by zero with CR0.NE clear: the next x87 instruction waits for interrupt 13, which comes back to it. */
export function coprocessorError(): { program: Program; handlers: Handlers } {
  return {
    handlers: {
      ipi: (c) => {
        c.b(0x50).b(0xff, 0x04, 0x25).n(4, FERRS); // push rax; inc dword [FERRS]
        c.b(0x31, 0xc0, 0xe6, 0xf0, 0xdb, 0xe2); // xor eax, eax; out 0f0h, al; fnclex
        c.b(0xb8).n(4, 0xfee000b0).b(0xc7, 0x00).n(4, 0); // EOI
        c.b(0x58, 0x48, 0xcf);
      },
    },
    program: (c, cpus) => {
      barrier(c, cpus);
      c.b(0x83, 0xfe, 1).b(0x0f, 0x85).rel(4, 'calm'); // cmp esi, 1; jne
      // The I/O APIC's pin 13 goes to processor 1.
      c.b(0xb8).n(4, 0xfec00000); // mov eax, ..
      c.b(0xc7, 0x00).n(4, 0x2b).b(0xc7, 0x40, 0x10).n(4, 0x01000000);
      c.b(0xc7, 0x00).n(4, 0x2a).b(0xc7, 0x40, 0x10).n(4, IPI_VECTOR);
      c.b(0xfb); // sti
      c.b(0xdb, 0xe3, 0x68).n(4, 0x37b).b(0xd9, 0x2c, 0x24); // fninit; push 37bh; fldcw [rsp]
      c.b(0xd9, 0xe8, 0xd9, 0xee, 0xde, 0xf9, 0x9b, 0x58, 0xfa); // fld1; fldz; fdivp; fwait; pop rax; cli
      c.label('calm');
      barrier(c, cpus);
    },
  };
}

/** Time that {@link busy} took, TSC ticks. */
export const BUSY_TICKS: number = VARS + 0x900;

/** `work` times a hash step by each of the first `busyCpus` processors; the others wait in HLT. */
export function busy(work: number, busyCpus: number): Program {
  return (c, cpus) => {
    barrier(c, cpus);
    c.b(0x0f, 0x31, 0x48, 0xc1, 0xe2, 0x20, 0x48, 0x09, 0xc2, 0x49, 0x89, 0xd5); // r13 = tsc
    c.b(0x83, 0xfe, busyCpus).b(0x0f, 0x83).rel(4, 'idle'); // cmp esi, busyCpus; jae
    c.b(0xb8).n(4, 0x12345);
    c.b(0xbf).n(4, ARRAYS).b(0x89, 0xf1, 0xc1, 0xe1, 0x14, 0x01, 0xcf); // mov edi, ARRAYS; ecx = esi << 20; add edi, ecx
    loop(c, work, () => {
      c.b(0x69, 0xc0).n(4, 0x19660d).b(0x05).n(4, 0x3c6ef35f); // imul eax, eax, ..; add eax, ..
      c.b(0x89, 0xc1, 0xc1, 0xe9, 0x0e); // mov ecx, eax; shr ecx, 14
      c.b(0x01, 0x04, 0x8f); // add [rdi+rcx*4], eax
      c.b(0x33, 0x04, 0x8f); // xor eax, [rdi+rcx*4]
    });
    c.b(0xf0, 0xff, 0x04, 0x25).n(4, OVER); // lock inc dword [OVER]
    c.b(0x85, 0xf6).b(0x0f, 0x85).rel(4, 'idle');
    c.label('others').b(0xf3, 0x90).b(0x83, 0x3c, 0x25).n(4, OVER).b(busyCpus).b(0x0f, 0x82).rel(4, 'others');
    c.b(0x0f, 0x31, 0x48, 0xc1, 0xe2, 0x20, 0x48, 0x09, 0xc2, 0x4c, 0x29, 0xea); // rdx = tsc - r13
    c.b(0x48, 0x89, 0x14, 0x25).n(4, BUSY_TICKS);
    c.b(0x66, 0xba).n(2, 0x404).b(0x66, 0xb8).n(2, 0x3400).b(0x66, 0xef); // power off
  };
}
