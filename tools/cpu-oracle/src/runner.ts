// The native half: a static ELF program, assembled here, that runs records from standard input on the processor and writes
// what became of them to standard output. It lives in its signal handler: each fault or breakpoint that ends a test
// program brings it there, and the next program starts by returning from the handler with other registers.
// System V ABI AMD64 for ELF; Linux system call numbers and struct layouts of x86-64.
import { Asm, mem, mem16, mem32, mem64, ref } from '@hyve/x86/asm';
import * as L from './layout.ts';

const BASE = 0x6000_0000;
const HEADERS = 64 + 56;
const SYS = {
  read: 0,
  write: 1,
  mmap: 9,
  sigaction: 13,
  setitimer: 38,
  exit: 60,
  ftruncate: 77,
  sigaltstack: 131,
  memfd: 319,
};
const ILL = 4;
const TRAP = 5;
const BUS = 7;
const FPE = 8;
const ALRM = 14;
const SEGV = 11;
const SIGSYS = 31;
const SA_SIGINFO = 4;
const SA_RESTORER = 0x0400_0000;
const SA_ONSTACK = 0x0800_0000;
const SA_RESTART = 0x1000_0000;
const SA_NODEFER = 0x4000_0000;
/** struct ucontext: general registers in sigcontext order, then the pointer to the XSAVE area. */
const UC_REGS = 40;
const UC_FPSTATE = 224;
const YMM_AT = 576;
const XSTATE_BV = 512;
const ALT_STACK = 0x20000;

function program(fsgsbase: boolean): { code: Uint8Array; bss: number } {
  const a = new Asm({ mode: 64, origin: BASE + HEADERS });
  const bss = BASE + 0x10000;
  const altStack = bss;
  const input = bss + ALT_STACK;
  const output = input + 0x1000;
  const syscall = (n: number): void => {
    a.mov('eax', n).op('SYSCALL');
  };
  const copy = (words: number): void => {
    a.mov('ecx', words).rep().movs(8);
  };
  // Memory.
  a.mov('edi', ref('name')).xor('esi', 'esi');
  syscall(SYS.memfd);
  a.mov('r12', 'rax')
    .mov('rdi', 'r12')
    .mov('esi', L.FILE_PAGES * L.PAGE);
  syscall(SYS.ftruncate);
  for (const m of L.ALIASES) {
    const size = m.page === 0 ? 2 * L.PAGE : 2 * L.PAGE;
    a.mov('rdi', BigInt(m.at))
      .mov('esi', size)
      .mov('edx', 1 | (m.write ? 2 : 0) | (m.exec ? 4 : 0));
    a.mov('r10d', 0x11)
      .mov('r8', 'r12')
      .mov('r9d', m.page * L.PAGE);
    syscall(SYS.mmap);
    a.cmp('rax', -1).j('e', 'bad').cmp('rdi', 'rax').j('ne', 'bad');
    // Map for real now, so that later faults are the test's own.
    for (let i = 0; i < 2; i++) {
      if (m.write) a.op('OR', { size: 1, base: 'rdi', disp: i * L.PAGE }, 0);
      else a.mov('al', { size: 1, base: 'rdi', disp: i * L.PAGE });
    }
  }
  // Signals.
  a.mov('edi', ref('altstack')).xor('esi', 'esi');
  syscall(SYS.sigaltstack);
  for (const s of [ILL, TRAP, BUS, FPE, SEGV, ALRM, SIGSYS]) {
    a.mov('edi', s)
      .mov('esi', ref(s === ALRM ? 'onAlarm' : 'onFault'))
      .xor('edx', 'edx')
      .mov('r10d', 8);
    syscall(SYS.sigaction);
  }
  a.xor('edi', 'edi').mov('esi', ref('timer')).xor('edx', 'edx');
  syscall(SYS.setitimer);
  a.mov('eax', L.USER_DS).mov('ds', 'ax').mov('es', 'ax').op('INT3');
  a.label('bad').mov('edi', 98);
  syscall(SYS.exit);

  // The timer: a program that was running at the last tick too is given up.
  a.label('alarm')
    .mov('rax', mem64(ref('count')))
    .cmp('rax', mem64(ref('lastCount')))
    .j('e', 'handler');
  a.mov(mem64(ref('lastCount')), 'rax').ret();

  // (signal, info, context)
  a.label('handler').push(0x202).op('POPF');
  a.mov('rbx', 'rdx').mov('r12', 'rdi').mov('r13', 'rsi').mov('r14', mem64('rbx', UC_FPSTATE));
  // Segment registers are the program's still, and nobody else puts them back.
  a.mov('r8d', 'ds').mov('r9d', 'es').mov('r10d', 'fs').mov('r11d', 'gs');
  if (fsgsbase) a.op('RDFSBASE', 'r15').op('RDGSBASE', 'rbp');
  a.mov('eax', L.USER_DS).mov('ds', 'ax').mov('es', 'ax').xor('eax', 'eax').mov('fs', 'ax').mov('gs', 'ax');
  if (fsgsbase) a.op('WRFSBASE', 'rax').op('WRGSBASE', 'rax');
  a.cmp(mem64(ref('count')), 0).j('e', 'load');
  a.mov('edi', output).lea('rsi', mem('rbx', UC_REGS));
  copy(23);
  for (const [i, r] of (['r8w', 'r9w', 'r10w', 'r11w'] as const).entries())
    a.mov(mem16(output + L.REC.selectors + 2 * i), r);
  if (fsgsbase) a.mov(mem64(output + L.REC.fsBase), 'r15').mov(mem64(output + L.REC.gsBase), 'rbp');
  a.mov(mem64(output + L.REC.signal), 'r12')
    .op('MOVSXD', 'rax', mem32('r13', 8))
    .mov(mem64(output + L.REC.siCode), 'rax');
  a.mov('edi', output + L.REC.fx).mov('rsi', 'r14');
  copy(64);
  a.lea('rsi', mem('r14', YMM_AT));
  copy(32);
  a.mov('esi', L.DATA_LOW + L.DATA_WINDOW);
  copy(L.DATA_LENGTH / 8);
  a.mov('esi', L.DATA_LOW + L.TAIL_WINDOW);
  copy(L.TAIL_LENGTH / 8);
  a.mov('esi', L.STACK_LOW + L.STACK_WINDOW);
  copy(L.STACK_LENGTH / 8);
  a.mov('edi', 1).mov('esi', output).mov('edx', L.REC_SIZE);
  syscall(SYS.write);
  a.label('load').inc(mem64(ref('count')));
  a.xor('edi', 'edi').mov('esi', input).mov('edx', L.REC_SIZE);
  syscall(SYS.read);
  a.cmp('eax', L.REC_SIZE).j('e', 'more').xor('edi', 'edi');
  syscall(SYS.exit);
  a.label('more').lea('rdi', mem('rbx', UC_REGS)).mov('esi', input);
  copy(19);
  a.mov('rdi', mem64(input + L.REC.codeAt)).mov('esi', input + L.REC.code);
  copy(L.CODE_BYTES / 8);
  // The last 48 bytes of the legacy area are the kernel's.
  a.mov('rdi', 'r14').mov('esi', input + L.REC.fx);
  copy(58);
  a.or(mem64('r14', XSTATE_BV), 7)
    .lea('rdi', mem('r14', YMM_AT))
    .mov('esi', input + L.REC.ymmh);
  copy(32);
  a.xor('eax', 'eax');
  for (const at of L.CLEARED) {
    a.mov('edi', at)
      .mov('ecx', L.CLEARED_LENGTH / 8)
      .rep()
      .stos(8);
  }
  a.mov('edi', L.DATA_LOW + L.DATA_WINDOW);
  copy(L.DATA_LENGTH / 8);
  a.mov('edi', L.DATA_LOW + L.TAIL_WINDOW);
  copy(L.TAIL_LENGTH / 8);
  a.mov('edi', L.STACK_LOW + L.STACK_WINDOW);
  copy(L.STACK_LENGTH / 8);
  a.ret();
  a.label('restorer');
  syscall(15);

  const flags = SA_SIGINFO | SA_RESTORER | SA_ONSTACK | SA_RESTART;
  a.align(8).label('name').text('oracle').db(0).align(8);
  a.label('altstack').dq(altStack, 0, ALT_STACK);
  a.label('onFault').dq(ref('handler'), flags | SA_NODEFER, ref('restorer'), 1n << BigInt(ALRM - 1));
  a.label('onAlarm').dq(ref('alarm'), flags, ref('restorer'), 0);
  a.label('timer').dq(0, 500_000, 0, 500_000);
  a.label('count').dq(0).label('lastCount').dq(-1n);
  return { code: a.assemble(), bss: output + 0x1000 - BASE };
}

/**
 * The runner as an executable file.
 * @param fsgsbase the processor and the system have RDFSBASE
 */
export function runnerImage(fsgsbase: boolean): Uint8Array {
  const { code, bss } = program(fsgsbase);
  const out = new Uint8Array(HEADERS + code.length);
  const v = new DataView(out.buffer);
  out.set([0x7f, 0x45, 0x4c, 0x46, 2, 1, 1]);
  v.setUint16(16, 2, true); // ET_EXEC
  v.setUint16(18, 62, true); // EM_X86_64
  v.setUint32(20, 1, true);
  v.setBigUint64(24, BigInt(BASE + HEADERS), true);
  v.setBigUint64(32, 64n, true);
  v.setUint16(52, 64, true);
  v.setUint16(54, 56, true);
  v.setUint16(56, 1, true);
  v.setUint32(64, 1, true); // PT_LOAD
  v.setUint32(68, 7, true);
  v.setBigUint64(80, BigInt(BASE), true);
  v.setBigUint64(88, BigInt(BASE), true);
  v.setBigUint64(96, BigInt(out.length), true);
  v.setBigUint64(104, BigInt(bss), true);
  v.setBigUint64(112, 4096n, true);
  out.set(code, HEADERS);
  return out;
}
