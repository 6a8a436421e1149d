// The software half: a small virtual machine with the same pages at the same addresses as the native runner. A kernel of
// a few instructions catches every exception and hands it to us with OUT, then returns to the next program with IRETQ.
// The one file that looks inside @hyve/cpu: registers are set where they lie, setState would dominate the time.
import { type Clock, Exit, type Timer, type VcpuBus, type VcpuStateV1 } from '@hyve/core';
import { SoftCpu, type SoftVcpu, type SoftVm } from '@hyve/cpu';
import { Asm, ref } from '@hyve/x86/asm';
import { FEATURES } from '../../../packages/cpu/src/features.ts';
import * as S from '../../../packages/cpu/src/state.ts';
import * as L from './layout.ts';

// Guest-physical pages.
const PML4 = 0x1000;
const GDT = 0x2000;
const IDT = 0x3000;
const TSS = 0x4000;
const KERNEL_CODE = 0x5000;
const KERNEL_STACK = 0x8000;
const FILE = 0x10000;
const TABLES = 0x20000;
const MEMORY = 0x80000;
/** Physical memory as the kernel sees it. */
const KERNEL = 0xffff_8000_0000_0000n;
/** Vectors that push an error code. */
const WITH_CODE: ReadonlySet<number> = new Set([8, 10, 11, 12, 13, 14, 17, 21]);
const FRAME = KERNEL_STACK + 0x1000 - 56;
const PORT = 0xe0;

/** A clock that moves by itself, so that a guest that never ends is found out. */
class CountingClock implements Clock {
  private time = 0;
  now(): number {
    this.time += 10_000;
    return this.time;
  }
  timer(): Timer {
    return { arm: () => {}, cancel: () => {}, armed: false, deadline: Infinity } as unknown as Timer;
  }
}

/** The software CPU as a runner of records. */
export class Soft {
  readonly vm: SoftVm;
  private readonly vcpu: SoftVcpu;
  private readonly initial: VcpuStateV1;
  private input: Uint8Array = new Uint8Array(0);
  private output: Uint8Array = new Uint8Array(0);
  private view: DataView = new DataView(new ArrayBuffer(0));
  private out32: Int32Array = new Int32Array(0);
  private in32: Int32Array = new Int32Array(0);
  private count = 0;
  private at = 0;
  private readonly u8: Uint8Array;
  private readonly i32: Int32Array;
  private readonly state: number;
  private readonly frame: number;
  private readonly file: number;
  /** What the software CPU said when it threw. */
  lastError = '';

  /**
   * @param threshold executions after which blocks are translated; 0: the interpreter runs everything
   * @param warmUps how often to run a program before the run that counts; default as often as it takes to be translated
   */
  constructor(threshold = 0, warmUps: () => number = () => threshold) {
    this.translate = threshold !== 0;
    this.warmUps = warmUps;
    const bus: VcpuBus = {
      ioRead: () => 0,
      ioWrite: (port) => {
        if (port === PORT) this.arrived();
      },
      mmioRead: () => 0,
      mmioWrite: () => {},
      rdmsr: () => false,
      wrmsr: () => false,
      readCr8: () => 0,
      writeCr8: () => {},
    };
    const cpu = new SoftCpu({ threshold });
    this.vm = cpu.createVm({
      memory: [{ base: 0, size: MEMORY, kind: 'ram', name: 'memory' }],
      vcpus: 1,
      bus: () => bus,
      cpuid: () => cpu.supportedCpuid(),
      clock: new CountingClock(),
      tscHz: 1e9,
    });
    this.vcpu = this.vm.vcpus[0] as SoftVcpu;
    const buffer = this.vm.wasmMemory.buffer;
    this.u8 = new Uint8Array(buffer);
    this.i32 = new Int32Array(buffer);
    this.state = this.vcpu.base;
    this.frame = this.vm.hostOf(FRAME);
    this.file = this.vm.hostOf(FILE);
    this.initial = this.build();
    this.vcpu.setState(this.initial);
  }

  private build(): VcpuStateV1 {
    const m = this.vm.memory;
    const write64 = (at: number, v: bigint): void => {
      m.write32(at, Number(v & 0xffffffffn));
      m.write32(at + 4, Number((v >> 32n) & 0xffffffffn));
    };
    const read64 = (at: number): bigint => BigInt(m.read32(at)) | (BigInt(m.read32(at + 4)) << 32n);
    // Page tables.
    let nextTable = TABLES;
    const map = (virt: bigint, phys: number, bits: bigint): void => {
      let table = PML4;
      for (const shift of [39n, 30n, 21n]) {
        const at = table + Number((virt >> shift) & 511n) * 8;
        if ((read64(at) & 1n) === 0n) {
          write64(at, BigInt(nextTable) | 0x27n);
          nextTable += L.PAGE;
        }
        table = Number(read64(at) & 0xffffff000n);
      }
      write64(table + Number((virt >> 12n) & 511n) * 8, BigInt(phys) | bits | 0x61n);
    };
    for (let p = 0; p < MEMORY; p += L.PAGE) map(KERNEL + BigInt(p), p, 2n);
    for (const a of L.ALIASES) {
      for (let i = 0; i < 2; i++) {
        const bits = 4n | (a.write ? 2n : 0n) | (a.exec ? 0n : 1n << 63n);
        map(BigInt(a.at) + BigInt(i * L.PAGE), FILE + (a.page + i) * L.PAGE, bits);
      }
    }
    // Descriptors where Linux has them; see asm/segment.h.
    const descriptor = (sel: number, v: bigint): void => write64(GDT + (sel & ~7), v);
    descriptor(0x08, 0x00cf9b000000ffffn);
    descriptor(0x10, 0x00af9b000000ffffn);
    descriptor(0x18, 0x00cf93000000ffffn);
    descriptor(L.CS32, 0x00cffb000000ffffn);
    descriptor(L.USER_DS, 0x00cff3000000ffffn);
    descriptor(L.CS64, 0x00affb000000ffffn);
    // Expand-down and read-only; its limit is the processor's number.
    descriptor(0x78, 0x0040f50000000000n);
    const tss = KERNEL + BigInt(TSS);
    const low = tss & 0xffffffn;
    descriptor(0x40, 0x67n | (low << 16n) | (0x8bn << 40n) | (((tss >> 24n) & 0xffn) << 56n));
    descriptor(0x48, tss >> 32n);
    write64(TSS + 4, KERNEL + BigInt(KERNEL_STACK + L.PAGE));
    m.write16(TSS + 102, 104);
    // The kernel.
    const origin = KERNEL_CODE;
    const asm = new Asm({ mode: 64, origin });
    asm.label('common').out(PORT, 'al').add('rsp', 16).iret(8);
    for (let v = 0; v < 256; v++) {
      asm.label(`v${v}`);
      if (!WITH_CODE.has(v)) asm.push(0);
      asm.push(v).jmp(ref('common'));
    }
    const code = asm.assemble();
    m.load(origin, code);
    for (let v = 0; v < 256; v++) {
      const to = KERNEL + BigInt(asm.addressOf(`v${v}`));
      const dpl = v === 3 || v === 4 ? 3n : 0n;
      const gate = (to & 0xffffn) | (0x10n << 16n) | (0x8en << 40n) | (dpl << 45n) | (((to >> 16n) & 0xffffn) << 48n);
      write64(IDT + v * 16, gate);
      write64(IDT + v * 16 + 8, to >> 32n);
    }
    const s = this.vcpu.getState();
    s.cr0 = 0x80050033n;
    s.cr3 = BigInt(PML4);
    s.cr4 = (1n << 5n) | (1n << 9n) | (1n << 10n) | (1n << 16n) | (1n << 18n);
    s.xcr0 = FEATURES.includes('avx') ? 7n : 3n;
    s.efer = 0xd01n;
    s.rip = KERNEL + BigInt(asm.addressOf('common'));
    s.rflags = 2n;
    s.gpr[4] = KERNEL + BigInt(FRAME);
    const flat = (selector: number, attr: number): VcpuStateV1['segments'][number] => ({
      selector,
      base: 0n,
      limit: 0xffffffff,
      attr,
    });
    const none = { selector: 0, base: 0n, limit: 0, attr: 0x10000 };
    s.segments = [
      flat(L.USER_DS, 0xc0f3),
      flat(0x10, 0xa09b),
      flat(0x18, 0xc093),
      flat(L.USER_DS, 0xc0f3),
      none,
      { ...none },
      { ...none },
      { selector: 0x40, base: KERNEL + BigInt(TSS), limit: 0x67, attr: 0x8b },
    ];
    s.gdtr = { base: KERNEL + BigInt(GDT), limit: 0x7f };
    s.idtr = { base: KERNEL + BigInt(IDT), limit: 0xfff };
    s.activity = 'running';
    return s;
  }

  /**
   * Runs `count` records. The pages outside the windows start as zeros, as they do in a new runner.
   * Buffers must be 4-byte aligned.
   */
  run(input: Uint8Array, output: Uint8Array, count: number): void {
    if (count === 0) return;
    this.input = input;
    this.output = output;
    this.view = new DataView(input.buffer, input.byteOffset);
    this.in32 = new Int32Array(input.buffer, input.byteOffset);
    this.out32 = new Int32Array(output.buffer, output.byteOffset);
    this.count = count;
    this.at = -1;
    this.vm.memory.fill(FILE, L.FILE_PAGES * L.PAGE, 0);
    this.vcpu.setState(this.initial);
    for (;;) {
      const before = this.at;
      let trap = L.TRAP_HANG;
      try {
        const exit = this.vcpu.run(1e6);
        // A short queue of hot blocks is translated after some calls only.
        if (this.translate) for (let i = 0; i < 64; i++) this.vm.jit?.pump();
        if (this.at >= this.count) return;
        if (exit.reason === Exit.Kicked || (exit.reason === Exit.Budget && this.at !== before)) continue;
        this.lastError = `exit ${exit.reason} ${exit.detail}`;
        if (exit.reason !== Exit.Budget) trap = L.TRAP_CRASH;
      } catch (e) {
        this.lastError = e instanceof Error ? (e.stack ?? e.message) : String(e);
        trap = L.TRAP_CRASH;
      }
      // The program in hand did not end: note that and go on with the next one from a clean state.
      if (this.at < 0) throw new Error(`the test kernel does not run: ${this.lastError}`);
      this.output.fill(0, this.at * L.REC_SIZE, (this.at + 1) * L.REC_SIZE);
      this.out32[(this.at * L.REC_SIZE + L.REC.trap) >> 2] = trap;
      this.vcpu.setState(this.initial);
      this.skipSave = true;
    }
  }

  private skipSave = false;

  /** Runs to go before the one that counts. */
  private warming = 0;
  private readonly translate: boolean;
  private readonly warmUps: () => number;

  private arrived(): void {
    if (this.warming > 0 && !this.skipSave) {
      // Once more; a block that became hot is translated first.
      this.warming--;
      this.load(false);
      this.vcpu.kick();
      return;
    }
    if (this.at >= 0 && !this.skipSave) this.save();
    this.skipSave = false;
    this.at++;
    if (this.at >= this.count) {
      this.vcpu.kick();
      return;
    }
    this.warming = this.warmUps();
    this.load(true);
  }

  private save(): void {
    const at = this.at * L.REC_SIZE;
    const o = at >> 2;
    const out = this.out32;
    const { i32, u8 } = this;
    const st = this.state >> 2;
    const fr = this.frame >> 2;
    for (let r = 0; r < 16; r++) {
      const d = o + ((L.GPR_AT[r] as number) >> 2);
      const from = r === 4 ? fr + 10 : st + ((S.GPR + r * 8) >> 2);
      out[d] = i32[from] as number;
      out[d + 1] = i32[from + 1] as number;
    }
    // Frame: vector, error code, RIP, CS, RFLAGS, RSP, SS.
    const vector = i32[fr] as number;
    const pair = (field: number, from: number): void => {
      out[o + (field >> 2)] = i32[from] as number;
      out[o + (field >> 2) + 1] = i32[from + 1] as number;
    };
    pair(L.REC.trap, fr);
    pair(L.REC.err, fr + 2);
    pair(L.REC.rip, fr + 4);
    pair(L.REC.flags, fr + 8);
    out[o + (L.REC.cs >> 2)] = (i32[fr + 6] as number) & 0xffff;
    out[o + (L.REC.cs >> 2) + 1] = (i32[fr + 12] as number) << 16;
    const sel = (n: number): number => i32[st + ((S.SEG + n * S.SEG_STRIDE + S.SEG_SEL) >> 2)] as number;
    out[o + (L.REC.selectors >> 2)] = sel(S.DS) | (sel(S.ES) << 16);
    out[o + (L.REC.selectors >> 2) + 1] = sel(S.FS) | (sel(S.GS) << 16);
    pair(L.REC.fsBase, st + ((S.SEG + S.FS * S.SEG_STRIDE + S.SEG_BASE) >> 2));
    pair(L.REC.gsBase, st + ((S.SEG + S.GS * S.SEG_STRIDE + S.SEG_BASE) >> 2));
    pair(L.REC.cr2, st + (S.CR2 >> 2));
    if (vector !== 14) {
      out[o + (L.REC.cr2 >> 2)] = 0;
      out[o + (L.REC.cr2 >> 2) + 1] = 0;
    }
    const word = (off: number): number => i32[st + (off >> 2)] as number;
    const fx = o + (L.REC.fx >> 2);
    const top = word(S.FTOP) & 7;
    out[fx] = (word(S.FCW) & 0xffff) | ((word(S.FSW) | (top << 11)) << 16);
    out[fx + 1] = (word(S.FTW) & 0xff) | (word(S.FOP) << 16);
    pair(L.REC.fx + 8, st + (S.FIP >> 2));
    pair(L.REC.fx + 16, st + (S.FDP >> 2));
    out[fx + 6] = word(S.MXCSR);
    out[fx + 7] = 0;
    for (let i = 0; i < 8; i++) {
      const from = st + ((S.FPR + ((top + i) & 7) * 16) >> 2);
      for (let w = 0; w < 4; w++) out[fx + 8 + i * 4 + w] = i32[from + w] as number;
    }
    for (let w = 0; w < 64; w++) out[fx + 40 + w] = word(S.XMM + w * 4);
    for (let w = 0; w < 64; w++) out[o + (L.REC.ymmh >> 2) + w] = word(S.YMMH + w * 4);
    this.output.set(u8.subarray(this.file + L.DATA_WINDOW, this.file + L.DATA_WINDOW + L.DATA_LENGTH), at + L.REC.data);
    this.output.set(u8.subarray(this.file + L.TAIL_WINDOW, this.file + L.TAIL_WINDOW + L.TAIL_LENGTH), at + L.REC.tail);
    const stack = this.file + 4 * L.PAGE + L.STACK_WINDOW;
    this.output.set(u8.subarray(stack, stack + L.STACK_LENGTH), at + L.REC.stack);
  }

  private load(code: boolean): void {
    const at = this.at * L.REC_SIZE;
    const o = at >> 2;
    const inp = this.in32;
    const { i32, u8 } = this;
    const st = this.state >> 2;
    const fr = this.frame >> 2;
    for (let r = 0; r < 16; r++) {
      if (r === 4) continue;
      const d = o + ((L.GPR_AT[r] as number) >> 2);
      i32[st + ((S.GPR + r * 8) >> 2)] = inp[d] as number;
      i32[st + ((S.GPR + r * 8) >> 2) + 1] = inp[d + 1] as number;
    }
    const pair = (field: number, to: number): void => {
      i32[to] = inp[o + (field >> 2)] as number;
      i32[to + 1] = inp[o + (field >> 2) + 1] as number;
    };
    pair(L.REC.rip, fr + 4);
    pair(L.REC.flags, fr + 8);
    pair(L.REC.rsp, fr + 10);
    i32[fr + 6] = (inp[o + (L.REC.cs >> 2)] as number) & 0xffff;
    i32[fr + 7] = 0;
    i32[fr + 12] = (inp[o + (L.REC.cs >> 2) + 1] as number) >>> 16;
    i32[fr + 13] = 0;
    const { access } = this.vcpu;
    for (const n of [S.ES, S.DS]) access.setSeg(n, L.USER_DS, 0, 0, 0xffffffff, 0xc0f3);
    for (const n of [S.FS, S.GS]) access.setSeg(n, 0, 0, 0, 0, S.ATTR_UNUSABLE);
    const fx = o + (L.REC.fx >> 2);
    const set = (off: number, v: number): void => {
      i32[st + (off >> 2)] = v;
    };
    const fsw = (inp[fx] as number) >>> 16;
    const top = (fsw >> 11) & 7;
    set(S.FCW, (inp[fx] as number) & 0xffff);
    set(S.FSW, fsw & ~0x3800);
    set(S.FTOP, top);
    set(S.FTW, (inp[fx + 1] as number) & 0xff);
    set(S.FOP, ((inp[fx + 1] as number) >>> 16) & 0x7ff);
    pair(L.REC.fx + 8, st + (S.FIP >> 2));
    pair(L.REC.fx + 16, st + (S.FDP >> 2));
    set(S.MXCSR, inp[fx + 6] as number);
    for (let i = 0; i < 8; i++) {
      const to = st + ((S.FPR + ((top + i) & 7) * 16) >> 2);
      for (let w = 0; w < 4; w++) i32[to + w] = inp[fx + 8 + i * 4 + w] as number;
    }
    for (let w = 0; w < 64; w++) set(S.XMM + w * 4, inp[fx + 40 + w] as number);
    set(S.UPPERS_ZERO, 0);
    for (let w = 0; w < 64; w++) set(S.YMMH + w * 4, inp[o + (L.REC.ymmh >> 2) + w] as number);
    if (code) {
      const to = FILE + 2 * L.PAGE + (this.view.getUint32(at + L.REC.codeAt, true) & 0x1fff);
      this.vm.memory.load(to, this.input.subarray(at + L.REC.code, at + L.REC.code + L.CODE_BYTES));
    }
    for (const a of L.CLEARED) {
      const page = this.file + (a >= L.STACK_LOW ? a - L.STACK_LOW + 4 * L.PAGE : a - L.DATA_LOW);
      u8.fill(0, page, page + L.CLEARED_LENGTH);
    }
    u8.set(this.input.subarray(at + L.REC.data, at + L.REC.data + L.DATA_LENGTH), this.file + L.DATA_WINDOW);
    u8.set(this.input.subarray(at + L.REC.tail, at + L.REC.tail + L.TAIL_LENGTH), this.file + L.TAIL_WINDOW);
    u8.set(
      this.input.subarray(at + L.REC.stack, at + L.REC.stack + L.STACK_LENGTH),
      this.file + 4 * L.PAGE + L.STACK_WINDOW,
    );
  }
}
