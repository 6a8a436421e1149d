// Interrupt controllers that the engine runs itself (core's EngineInterrupts), for engines that have them: messages, ends of
// interrupts, timers, commands between processors. Intel SDM vol. 3 chapter 11; 82093AA §3.
import type { Vcpu } from '@hyve/core';
import { Bench, CODE, CODE2, DATA, must, same } from './bench.ts';
import type { ConformanceCase } from './case.ts';
import { AX, Code, CX } from './code.ts';

const APIC = 0xfee00000;
const IOAPIC = 0xfec00000;
const SVR = 0xf0;
const EOI = 0xb0;
const ICR = 0x300;
const ICR_HIGH = 0x310;
const LVT_TIMER = 0x320;
const TIMER_COUNT = 0x380;
const TIMER_DIVIDE = 0x3e0;

const code = (): Code => new Code(CODE, 64);
/** MOV dword [address], value, through RBX: addresses over 2 GiB are no displacements. */
const store = (c: Code, address: number, value: number): Code => c.mov(3, address).b(0xc7, 0x03).n(4, value);
const apic = (c: Code, register: number, value: number): Code => store(c, APIC + register, value);
/** Handler: counts in DATA, ends the interrupt, returns. */
const counting = (at: number, slot: number): Code => {
  const c = new Code(at, 64).b(0x53).inc32(DATA + 4 * slot); // push rbx
  return apic(c, EOI, 0).b(0x5b, 0x48, 0xcf); // pop rbx; iretq
};
/** Enables the local APIC, then `set-up`, then sleeps with interrupts on, counting wake-ups in DATA+4. */
const sleeper = (setUp: (c: Code) => Code = (c) => c): Code =>
  setUp(apic(code(), SVR, 0x1ff))
    .label('sleep')
    .b(0xfb, 0xf4)
    .inc32(DATA + 4)
    .b(0xeb)
    .rel(1, 'sleep');

/** Starts the sleeper with a counting handler for a vector. */
function asleep(b: Bench, vector: number, setUp?: (c: Code) => Code): void {
  b.put(counting(CODE2, 0));
  b.long(sleeper(setUp));
  b.gate(vector, CODE2, { long: true });
}

export const INTERRUPT_CASES: readonly ConformanceCase[] = [
  {
    name: 'engine interrupts: a message wakes HLT; one for another processor, or no message at all, does not',
    run(hv) {
      const b = new Bench(hv, { interrupts: 'local' });
      asleep(b, 0x41);
      b.halt();
      must(b.vcpu.halted, 'halted');
      b.interrupts.send(APIC, 0x4041);
      b.until(() => b.data(0) === 1, 'the handler of the message');
      b.halt();
      same([b.data(0), b.data(1)], [1, 1], 'handler, wake-ups');
      b.interrupts.send(APIC + (7 << 12), 0x4041);
      b.interrupts.send(0xd0000000, 0x4041);
      b.halt();
      same(b.data(0), 1, 'handler after messages for others');
      same(b.log, [], 'bus: neither the APIC page nor HLT is the board’s');
    },
  },
  {
    name: 'engine interrupts: the end of a level-triggered I/O APIC message is reported, of an edge not',
    run(hv) {
      const b = new Bench(hv, { interrupts: 'local' });
      const ended: number[] = [];
      b.interrupts.addEoiListener({ eoi: (v) => void ended.push(v) });
      // Busy instead of asleep: KVM by emulation reports an end only when it enters the guest the next time.
      b.put(counting(CODE2, 0));
      b.long(
        apic(code(), SVR, 0x1ff)
          .b(0xfb)
          .label('busy')
          .inc32(DATA + 4)
          .b(0xeb)
          .rel(1, 'busy'),
      );
      b.gate(0x51, CODE2, { long: true });
      b.gate(0x52, CODE2, { long: true });
      b.until(() => b.data(1) > 0, 'running');
      b.interrupts.route(5, 0x8051, 0);
      b.interrupts.route(6, 0x0052, 0);
      must(b.interrupts.deliver(0, false, false, 0, 0x51, true), 'taken');
      b.until(() => ended.length > 0, 'the end of the level-triggered one');
      must(b.interrupts.deliver(0, false, false, 0, 0x52, false), 'taken');
      b.until(() => b.data(0) === 2, 'the handler of the edge');
      b.vcpu.run(5_000_000);
      same(ended, [0x51], 'ends reported');
      must(!b.interrupts.deliver(9, false, false, 0, 0x51, true), 'nobody has id 9');
    },
  },
  {
    name: 'engine interrupts: the timer of the local APIC counts down once, again and again, and to a TSC deadline',
    run(hv) {
      const timer = (lvt: number, count: number) => (c: Code) =>
        apic(apic(apic(c, TIMER_DIVIDE, 0xb), LVT_TIMER, lvt), TIMER_COUNT, count);
      const once = new Bench(hv, { interrupts: 'local' });
      asleep(once, 0x42, timer(0x42, 2_000_000));
      once.until(() => once.data(0) === 1, 'one shot');
      once.halt();
      once.halt();
      same(once.data(0), 1, 'one shot counts once');
      const periodic = new Bench(hv, { interrupts: 'local' });
      asleep(periodic, 0x42, timer(0x20042, 2_000_000));
      periodic.until(() => periodic.data(0) >= 5, 'five periods');
      const deadline = new Bench(hv, { interrupts: 'local' });
      asleep(deadline, 0x43, (c) =>
        apic(c, LVT_TIMER, 0x40043)
          .b(0x0f, 0x31, 0x05) // rdtsc; add eax,
          .n(4, 3_000_000)
          .b(0x83, 0xd2, 0x00) // adc edx, 0
          .mov32(CX, 0x6e0)
          .b(0x0f, 0x30),
      );
      deadline.until(() => deadline.data(0) === 1, 'TSC deadline');
      same(deadline.log, [], 'bus: the MSR is the engine’s');
    },
  },
  {
    name: 'engine interrupts: x2APIC by MSRs: id, self-IPI, EOI',
    run(hv) {
      const b = new Bench(hv, { interrupts: 'local' });
      const wrmsr = (c: Code, index: number, lo: number): Code =>
        c.mov32(CX, index).mov32(AX, lo).b(0x31, 0xd2, 0x0f, 0x30); // xor edx, edx; wrmsr
      const handler = new Code(CODE2, 64).b(0x50, 0x51, 0x52).inc32(DATA); // push rax, rcx, rdx
      b.put(wrmsr(handler, 0x80b, 0).b(0x5a, 0x59, 0x58, 0x48, 0xcf));
      const c = wrmsr(code(), 0x1b, APIC | 0xd00);
      wrmsr(c, 0x80f, 0x1ff).b(0xfb);
      wrmsr(c, 0x83f, 0x44).b(0x90);
      c.mov32(CX, 0x802)
        .b(0x0f, 0x32)
        .store32(DATA + 8, AX)
        .label('l')
        .b(0xf4, 0xeb)
        .rel(1, 'l');
      b.long(c);
      b.gate(0x44, CODE2, { long: true });
      b.halt();
      same([b.data(0), b.data(2)], [1, 0], 'handler, id');
      same(b.log, [], 'bus');
    },
  },
  {
    name: 'engine interrupts: INIT and SIPI from the guest start another processor, which sends an interrupt back',
    run(hv) {
      const b = new Bench(hv, { interrupts: 'local', vcpus: 2 });
      const ap = b.vm.vcpus[1] as Vcpu;
      asleep(b, 0x45, (c) => {
        apic(apic(c, ICR_HIGH, 1 << 24), ICR, 0x4500); // INIT
        return apic(apic(c, ICR_HIGH, 1 << 24), ICR, 0x4600 | 0xc); // start at 0xC000
      });
      // The other processor, from real mode into flat protected mode: its own APIC on, then an interrupt to id 0.
      const gdt = 0xc100;
      const a = new Code(0xc000, 16).b(0x66, 0x2e, 0x0f, 0x01, 0x16).n(2, gdt + 0x20 - 0xc000); // o32 lgdt cs:[…]
      a.b(0x0f, 0x20, 0xc0, 0x0c, 0x01, 0x0f, 0x22, 0xc0); // mov eax, cr0; or al, 1; mov cr0, eax
      a.b(0x66, 0xea).n(4, 'flat').n(2, 8);
      a.bits = 32;
      a.label('flat').b(0x66, 0xb8).n(2, 0x10).b(0x8e, 0xd8); // mov ax, 0x10; mov ds, ax
      a.inc32(DATA + 8);
      for (const [register, value] of [
        [SVR, 0x1ff],
        [ICR_HIGH, 0],
        [ICR, 0x4045],
      ] as const)
        a.b(0xc7, 0x05)
          .n(4, APIC + register)
          .n(4, value); // mov dword [APIC + register], value
      b.put(a.stop());
      b.ram.load(
        gdt,
        Uint8Array.of(
          ...[0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0, 0, 0, 0x9b, 0xcf, 0, 0xff, 0xff, 0, 0, 0, 0x93, 0xcf, 0],
          ...[0, 0, 0, 0, 0, 0, 0, 0, 0x17, 0, gdt & 0xff, gdt >> 8, 0, 0],
        ),
      );
      must(ap.waitingForSipi, 'waits at first');
      b.until(() => b.data(2) === 1, 'the other processor runs');
      b.until(() => b.data(0) === 1, 'its interrupt');
      must(!ap.waitingForSipi, 'waits no more');
    },
  },
  {
    name: 'engine interrupts: with all controllers in the engine, a pin of its I/O APIC reaches the guest',
    run(hv) {
      const b = new Bench(hv, { interrupts: 'all' });
      const entry = (c: Code, index: number, value: number): Code =>
        store(store(c, IOAPIC, index), IOAPIC + 0x10, value);
      // mov al, 0xff; out 0x21, al; out 0xa1, al: the 8259 pair has the pin too.
      const alone = (c: Code): Code => c.b(0xb0, 0xff, 0xe6, 0x21, 0xe6, 0xa1);
      asleep(b, 0x46, (c) => entry(entry(alone(c), 0x10 + 2 * 10 + 1, 0), 0x10 + 2 * 10, 0x46));
      b.halt();
      b.interrupts.setPin('ioapic', 10, true);
      b.until(() => b.data(0) === 1, 'the handler');
      b.interrupts.setPin('ioapic', 10, false);
      b.interrupts.setPin('ioapic', 10, true);
      b.until(() => b.data(0) === 2, 'the handler, after another edge');
      same(b.log, [], 'bus');
    },
  },
];

/** Names of `INTERRUPT_CASES`: what an engine without controllers of its own has as known gaps. */
export const INTERRUPT_CASE_NAMES: readonly string[] = INTERRUPT_CASES.map((c) => c.name);
