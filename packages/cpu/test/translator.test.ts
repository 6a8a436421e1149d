// Translation on a thread of its own: answers are taken in, come too late, or never.
import { Decoder, OP } from '@hyve/x86';
import { describe, expect, it } from 'vitest';
import { FEATURES } from '../src/features.ts';
import { RegionTranslator, rangesOf } from '../src/jit.ts';
import { allSemantics } from '../src/sem/index.ts';
import * as S from '../src/state.ts';
import {
  type CompiledStore,
  serveTranslator,
  type TranslateReply,
  type TranslationStore,
  type TranslatorThread,
} from '../src/translator.ts';
import { createMachine, flat32, runOn } from './machine.ts';

/** A thread that is none: it answers when told to. */
class SameThread implements TranslatorThread {
  onMessage: ((message: unknown) => void) | null = null;
  onDeath: ((reason: string) => void) | null = null;
  closed = false;
  readonly answers: unknown[] = [];
  private serve: (message: unknown) => void = () => {};

  constructor(store: TranslationStore | null = null) {
    serveTranslator(
      {
        post: (m) => void this.answers.push(m),
        listen: (f) => {
          this.serve = f;
        },
      },
      () => store,
    );
  }
  post(message: unknown): void {
    this.serve(message);
  }
  /** Waits for the next answer to be ready. */
  async ready(): Promise<void> {
    for (let i = 0; i < 500 && this.answers.length === 0; i++) await new Promise((done) => setTimeout(done, 2));
  }
  deliver(): void {
    for (const a of this.answers.splice(0)) this.onMessage?.(a);
  }
  close(): void {
    this.closed = true;
  }
}

/** 32-bit code at 0x1000, 64 KiB of RAM, `thread` translates. */
function translated(code: readonly number[], thread: TranslatorThread, translatorPatienceMs = Infinity) {
  const { vm, vcpu } = createMachine({
    cpu: { threshold: 100, translator: () => thread, translatorAtOnce: true, translatorPatienceMs },
    ram: 1 << 16,
  });
  vm.memory.load(0x1000, Uint8Array.from(code));
  vcpu.setState(flat32(vcpu, 0x1000));
  return { vm, vcpu, regions: () => vm.counters()['regions'] as number };
}

// inc ebx; add eax, 1; jmp back
const LOOP = [0x43, 0x83, 0xc0, 0x01, 0xeb, 0xfa];

// The same with a way out that is not taken: jz to nowhere.
const EXIT = [0x43, 0x83, 0xc0, 0x01, 0x74, 0x10, 0xeb, 0xf8];

/** The four bytes of a number. */
function le32(n: number): number[] {
  return [n, n >> 8, n >> 16, n >> 24].map((b) => b & 255);
}

/** A machine in {@link LOOP} until its translation is ready, not yet taken in. */
async function hotLoop() {
  const thread = new SameThread();
  const m = translated(LOOP, thread);
  runOn(m.vcpu, 200_000);
  await thread.ready();
  return { thread, ...m };
}

describe('translation on another thread', () => {
  it('is not waited for for ever by a block that goes on running', async () => {
    const thread = new SameThread();
    const { vm, vcpu, regions } = translated(LOOP, thread, 0);
    for (let i = 0; i < 1000 && regions() === 0; i++) vcpu.run(1e6);
    expect(regions()).toBe(1);
    // What the thread makes of it in the end is of no use any more.
    await thread.ready();
    thread.deliver();
    runOn(vcpu, 2000);
    expect(regions()).toBe(1);
    const [eax, , , ebx] = vcpu.getState().gpr as [bigint, bigint, bigint, bigint];
    expect([0n, 1n]).toContain(ebx - eax);
    // Both have link cells of their own.
    vm.memory.write8(0x1002, 0xe8);
    runOn(vcpu, 2000);
    expect(vm.counters()['regionsDropped']).toBe(1);
  });

  it('goes over a long straight run of code once', async () => {
    const thread = new SameThread();
    // 1200 times add eax, 1 (25 blocks of the interpreter); jmp back
    const code = Array.from({ length: 1200 }, () => [0x83, 0xc0, 0x01]).flat();
    const { vcpu } = translated([...code, 0xe9, ...le32(-code.length - 5)], thread);
    let regions = 0;
    let bytes = 0;
    for (let n = 0; n < 4; n++) {
      runOn(vcpu, 200_000);
      await thread.ready();
      for (const r of (thread.answers as TranslateReply[]).flatMap((a) => a.regions)) {
        regions++;
        bytes += r.ranges.reduce((sum, [from, to]) => sum + to - from, 0);
      }
      thread.deliver();
    }
    expect(regions).toBeGreaterThan(3);
    expect(bytes).toBeGreaterThanOrEqual(code.length);
    // The jump back may take the beginning in a second time.
    expect(regions).toBeLessThan(14);
    expect(bytes).toBeLessThan(1.5 * code.length);
  }, 30_000);

  it('takes in what was translated, and the guest goes on in it', async () => {
    const { thread, vm, vcpu, regions } = await hotLoop();
    expect(regions()).toBe(0);
    thread.deliver();
    expect(regions()).toBe(1);
    const before = vcpu.retired();
    runOn(vcpu, 2000);
    const [eax, , , ebx] = vcpu.getState().gpr as [bigint, bigint, bigint, bigint];
    expect(vcpu.retired()).toBeGreaterThan(before);
    expect([0n, 1n]).toContain(ebx - eax);
    vm.close();
    expect(thread.closed).toBe(true);
  });

  it('does not take in code that has changed since', async () => {
    const { thread, vm, vcpu, regions } = await hotLoop();
    expect(thread.answers.length).toBe(1);
    const eax = vcpu.getState().gpr[0] as bigint;
    // add eax, 1 becomes sub eax, 1.
    vm.memory.write8(0x1002, 0xe8);
    thread.deliver();
    expect(regions()).toBe(0);
    runOn(vcpu, 2000);
    expect(BigInt.asIntN(32, (vcpu.getState().gpr[0] as bigint) - eax)).toBeLessThan(0n);
  });

  it('drops what was taken in when its code changes', async () => {
    const { thread, vm, vcpu, regions } = await hotLoop();
    thread.deliver();
    expect(regions()).toBe(1);
    runOn(vcpu, 2000);
    const eax = vcpu.getState().gpr[0] as bigint;
    vm.memory.write8(0x1002, 0xe8);
    runOn(vcpu, 2000);
    expect(BigInt.asIntN(32, (vcpu.getState().gpr[0] as bigint) - eax)).toBeLessThan(0n);
  });

  it('translates by itself when the thread dies', async () => {
    const { thread, vcpu, regions } = await hotLoop();
    thread.answers.length = 0;
    thread.onDeath?.('gone');
    for (let i = 0; i < 200 && regions() === 0; i++) vcpu.run(1e6);
    expect(regions()).toBe(1);
  });

  it('keeps nothing of a thread that died: its link cells are handed out anew', async () => {
    const { thread, vm, vcpu, regions } = await hotLoop();
    thread.deliver();
    expect(regions()).toBe(1);
    const flushes = vm.counters()['blockFlushes'] as number;
    thread.onDeath?.('gone');
    expect(vm.counters()['blockFlushes']).toBe(flushes + 1);
    for (let i = 0; i < 200 && regions() === 1; i++) vcpu.run(1e6);
    expect(regions()).toBe(2);
  });

  it('hands back the bytes that it decoded, not those that others wrote meanwhile', () => {
    const u8 = new Uint8Array(8192);
    u8.set([0x43, 0x74, 0x20], 0x1000); // inc ebx; jz 0x1023
    u8.set([0x83, 0xc0, 0x01, 0xeb, 0xd8], 0x1023); // add eax, 1; jmp 0x1000
    const translator = new RegionTranslator(
      {
        u8,
        only: -1,
        semantics: allSemantics(),
        decoder: new Decoder(new Set(FEATURES)),
        special: () => false,
        unavailable: () => 0,
        cell: () => 0,
        place: () => {},
        codePage: () => 0,
        jumpTargets: () => [],
        jumpCache: 0,
        // Asked for where the jump goes when the first block has been decoded.
        runs: (host) => {
          u8[0x1000] = 0x4b; // dec ebx
          return host === 0x1023 ? 1000 : 0;
        },
      },
      1,
    );
    const found = translator.discover(0, 0x1000, 1, 1);
    if (found === null) throw new Error('nothing found');
    expect(found.blocks.map((b) => b.insns.map((n) => n.op))).toEqual([
      [OP.INC, OP.JCC],
      [OP.ADD, OP.JMP],
    ]);
    expect([...found.code]).toEqual([0x43, 0x74, 0x20, 0x83, 0xc0, 0x01, 0xeb, 0xd8]);
    expect(rangesOf(found)).toEqual([
      [0x1000, 0x1003],
      [0x1023, 0x1028],
    ]);
  });

  describe('kept from an earlier run', () => {
    class Kept implements TranslationStore {
      readonly records: Uint8Array[] = [];
      load(): readonly Uint8Array[] {
        return this.records.slice();
      }
      append(record: Uint8Array): void {
        this.records.push(record);
      }
    }

    async function firstRun(code: readonly number[] = LOOP): Promise<Kept> {
      const store = new Kept();
      const thread = new SameThread(store);
      const { vcpu } = translated(code, thread);
      runOn(vcpu, 200_000);
      await thread.ready();
      expect(store.records.length).toBe(1);
      return store;
    }

    it('is there from the first pass over the code', async () => {
      const thread = new SameThread(await firstRun());
      const { vm, vcpu } = translated(LOOP, thread);
      thread.deliver();
      runOn(vcpu, 2000);
      expect(vm.counters()).toMatchObject({ regionsReused: 1, blocksDecoded: 1 });
      const [eax, , , ebx] = vcpu.getState().gpr as [bigint, bigint, bigint, bigint];
      expect(eax).toBeGreaterThan(300n);
      expect([0n, 1n]).toContain(ebx - eax);
    });

    it('has the machine code that is kept beside it', async () => {
      const log: string[] = [];
      const modules = new Map<string, WebAssembly.Module>();
      const compiled: CompiledStore = {
        take(wasm) {
          const known = modules.get(wasm.join()) ?? null;
          log.push(known === null ? 'asked in vain' : 'taken');
          return known;
        },
        add(wasm, module) {
          log.push('added');
          modules.set(wasm.join(), module);
        },
        clear: () => void log.push('cleared'),
      };
      const store = Object.assign(new Kept(), { compiled });
      const first = new SameThread(store);
      const one = translated(LOOP, first);
      runOn(one.vcpu, 200_000);
      await first.ready();
      expect(log).toEqual(['added']);
      const thread = new SameThread(store);
      const { vm, vcpu } = translated(LOOP, thread);
      expect(log).toEqual(['added', 'taken', 'added']);
      thread.deliver();
      runOn(vcpu, 2000);
      expect(vm.counters()).toMatchObject({ regionsReused: 1, blocksDecoded: 1 });
      modules.clear();
      translated(LOOP, new SameThread(store));
      expect(log.slice(3)).toEqual(['asked in vain', 'added']);
      // All code is forgotten: what was translated before is not in use.
      vm.blocks.flush();
      runOn(vcpu, 200_000);
      await thread.ready();
      expect(log[5]).toBe('cleared');
    });

    it('comes into use when it arrives after the code has begun to run', async () => {
      const thread = new SameThread(await firstRun());
      const { vm, vcpu } = translated(LOOP, thread);
      runOn(vcpu, 1);
      expect(vm.counters()).toMatchObject({ regionsReused: 0, blocksDecoded: 1 });
      thread.deliver();
      expect(vm.counters()['regionsReused']).toBe(1);
      runOn(vcpu, 2000);
      const [eax, , , ebx] = vcpu.getState().gpr as [bigint, bigint, bigint, bigint];
      expect(eax).toBeGreaterThan(300n);
      expect([0n, 1n]).toContain(ebx - eax);
    });

    it('is left alone when the code is another, and what is made instead is kept too', async () => {
      const store = await firstRun();
      const thread = new SameThread(store);
      // sub eax, 1 instead of add.
      const { vm, vcpu } = translated([0x43, 0x83, 0xe8, 0x01, 0xeb, 0xfa], thread);
      thread.deliver();
      runOn(vcpu, 200_000);
      expect(vm.counters()['regionsReused']).toBe(0);
      const [eax, , , ebx] = vcpu.getState().gpr as [bigint, bigint, bigint, bigint];
      expect([0n, 1n]).toContain(BigInt.asUintN(32, eax + ebx));
      await thread.ready();
      expect(store.records.length).toBe(2);
      thread.deliver();
      expect(vm.counters()['regions']).toBe(1);
    });

    it('comes into use when the code becomes what it was', async () => {
      const thread = new SameThread(await firstRun());
      const { vm, vcpu } = translated([0x43, 0x83, 0xe8, 0x01, 0xeb, 0xfa], thread);
      thread.deliver();
      runOn(vcpu, 2000);
      vm.memory.write8(0x1002, 0xc0);
      runOn(vcpu, 2000);
      expect(vm.counters()['regionsReused']).toBe(1);
    });

    it('comes with its own bytes alone, whatever they are stored in', async () => {
      const store = await firstRun();
      const record = store.records[0] as Uint8Array;
      store.records[0] = Buffer.concat([Buffer.from(record), Buffer.alloc(1 << 20)]).subarray(0, record.length);
      const thread = new SameThread(store);
      translated(LOOP, thread);
      const { modules } = thread.answers[0] as { modules: { regions: { code: Uint8Array }[] }[] };
      const code = modules[0]?.regions[0]?.code as Uint8Array;
      expect(code.buffer.byteLength).toBe(code.length);
    });

    /** A loop over two pages, by paging: copies of it at each of `copies`' pairs of physical pages, from 0x400000 on. */
    function paged(copies: readonly (readonly [number, number])[], thread: TranslatorThread) {
      const { vm, vcpu } = createMachine({
        cpu: { threshold: 100, translator: () => thread, translatorAtOnce: true },
      });
      vm.memory.write32(0x10004, 0x11007);
      copies.flat().forEach((page, n) => {
        vm.memory.write32(0x11000 + 4 * n, page | 7);
        // inc ebx; nop; nop; nop; jmp +0x1b, into the second page, which has: add eax, 1; jmp -0x24
        const code = n % 2 === 0 ? [0x43, 0x90, 0x90, 0x90, 0xe9, 0x17, 0, 0, 0] : [0x83, 0xc0, 0x01, 0xeb, 0xdb];
        vm.memory.load(page + (n % 2 === 0 ? 0xff0 : 0x010), Uint8Array.from(code));
      });
      const start = (copy: number): void => {
        const state = flat32(vcpu, 0x400ff0 + 0x2000 * copy);
        vcpu.setState({ ...state, cr0: 0x80000011n, cr3: 0x10000n, gpr: state.gpr.map(() => 0n) });
      };
      start(0);
      const sums = (): readonly bigint[] => {
        const [eax, , , ebx] = vcpu.getState().gpr as [bigint, bigint, bigint, bigint];
        return [eax, ebx - eax];
      };
      return { vm, vcpu, start, sums };
    }

    it('comes into use where the pages of its code lie elsewhere', async () => {
      const store = new Kept();
      const first = new SameThread(store);
      runOn(paged([[0x20000, 0x25000]], first).vcpu, 200_000);
      await first.ready();
      expect(store.records.length).toBe(1);
      const thread = new SameThread(store);
      const { vm, vcpu, sums } = paged([[0x33000, 0x31000]], thread);
      thread.deliver();
      runOn(vcpu, 4000);
      expect(vm.counters()).toMatchObject({ regionsReused: 1, blocksDecoded: 2 });
      expect(sums()[0]).toBeGreaterThan(300n);
      expect([0n, 1n]).toContain(sums()[1]);
      expect(thread.answers).toEqual([]);
      // Its second page is another from here on, and subtracts.
      vm.memory.load(0x40010, Uint8Array.from([0x83, 0xe8, 0x01, 0xeb, 0xdb]));
      vm.memory.write32(0x11004, 0x40007);
      const state = vcpu.getState();
      vcpu.setState({ ...state, rip: 0x400ff0n, gpr: state.gpr.map(() => 0n) });
      runOn(vcpu, 4000);
      const [eax, more] = sums() as [bigint, bigint];
      expect(BigInt.asIntN(32, eax)).toBeLessThan(-300n);
      expect([0n, 1n]).toContain(BigInt.asUintN(32, more + 2n * eax));
    });

    it('is left alone where one of its pages holds something else', async () => {
      const store = new Kept();
      const first = new SameThread(store);
      runOn(paged([[0x20000, 0x25000]], first).vcpu, 200_000);
      await first.ready();
      const thread = new SameThread(store);
      const { vm, vcpu, sums } = paged([[0x33000, 0x31000]], thread);
      vm.memory.write8(0x31012, 0x02); // add eax, 2
      thread.deliver();
      runOn(vcpu, 4000);
      expect(vm.counters()['regionsReused']).toBe(0);
      const [eax, more] = sums() as [bigint, bigint];
      expect([0n, 1n]).toContain(more + eax / 2n);
    });

    it('is in use in one place at a time', async () => {
      const store = new Kept();
      const first = new SameThread(store);
      runOn(paged([[0x20000, 0x25000]], first).vcpu, 200_000);
      await first.ready();
      const thread = new SameThread(store);
      const copies = [
        [0x33000, 0x31000],
        [0x26000, 0x29000],
      ] as const;
      const { vm, vcpu, start, sums } = paged(copies, thread);
      thread.deliver();
      for (const copy of [0, 1, 0, 1]) {
        start(copy);
        runOn(vcpu, 4000);
        expect(sums()[0]).toBeGreaterThan(300n);
        expect([0n, 1n]).toContain(sums()[1]);
      }
      expect(vm.counters()['regionsReused']).toBe(1);
      // The second copy has been asked for.
      await thread.ready();
      expect(thread.answers.length).toBe(1);
    });

    it('goes when its code changes', async () => {
      const thread = new SameThread(await firstRun());
      const { vm, vcpu } = translated(LOOP, thread);
      thread.deliver();
      runOn(vcpu, 2000);
      const eax = vcpu.getState().gpr[0] as bigint;
      vm.memory.write8(0x1002, 0xe8);
      runOn(vcpu, 2000);
      expect(BigInt.asIntN(32, (vcpu.getState().gpr[0] as bigint) - eax)).toBeLessThan(0n);
      expect(vm.counters()['regionsDropped']).toBe(1);
    });

    it('passes over records that are broken, no module, or hold link cells of another', async () => {
      const { records } = await firstRun(EXIT);
      const whole = records[0] as Uint8Array;
      const store = new Kept();
      store.records.push(new Uint8Array(0), whole.slice(0, 40), whole.slice(0, whole.length - 1), whole, whole);
      // The WebAssembly comes behind the header.
      const damaged = whole.slice();
      const at = 4 + new DataView(whole.buffer).getUint32(0, true);
      damaged.fill(0xff, at, at + 4);
      store.records.unshift(damaged);
      const thread = new SameThread(store);
      const { vm, vcpu } = translated(EXIT, thread);
      thread.deliver();
      runOn(vcpu, 2000);
      // The damaged record's cells are taken by then.
      expect(vm.counters()['regionsReused']).toBe(0);
      store.records.shift();
      const again = new SameThread(store);
      const second = translated(EXIT, again);
      expect((again.answers as { modules: unknown[] }[]).map((m) => m.modules.length)).toEqual([1]);
      again.deliver();
      runOn(second.vcpu, 2000);
      expect(second.vm.counters()['regionsReused']).toBe(1);
    });
  });
});

describe('time that goes by in entering a region', () => {
  /** A machine in {@link LOOP}, translated, about to enter its region. */
  function entered() {
    const { vm, vcpu } = createMachine({ cpu: { threshold: 100 }, ram: 1 << 16 });
    vm.memory.load(0x1000, Uint8Array.from(LOOP));
    vcpu.setState(flat32(vcpu, 0x1000));
    const renewed = (): number => vm.counters()['regionsRenewed'] as number;
    for (let i = 0; i < 200 && vm.counters()['regions'] === 0; i++) vcpu.run(1e6);
    expect(vm.counters()['regions']).toBe(1);
    const sample = (times: number, speed: number): void => {
      for (let i = 0; i < times; i++) {
        vcpu.access.set(S.RIP, 0x1000);
        vm.jit?.sample(vcpu.base, speed);
      }
    };
    const settle = (): void => {
      for (let i = 0; i < 100; i++) vcpu.run(1e5);
    };
    return { vm, vcpu, renewed, sample, settle };
  }

  it('makes it anew, once', () => {
    const m = entered();
    m.sample(63, 0.1);
    m.settle();
    expect(m.renewed()).toBe(0);
    m.sample(1, 0.1);
    m.settle();
    expect(m.renewed()).toBe(1);
    // Faster: it stays, whatever comes.
    m.sample(256 + 32, 0.2);
    m.settle();
    m.sample(1000, 0.01);
    m.settle();
    expect(m.renewed()).toBe(1);
  });

  it('is on trial: what another run finds is the region as it was', async () => {
    const kept: Uint8Array[] = [];
    const store: TranslationStore = { load: () => kept, append: (r) => void kept.push(r.slice()) };
    const thread = new SameThread(store);
    const m = translated(LOOP, thread);
    runOn(m.vcpu, 200_000);
    await thread.ready();
    thread.deliver();
    expect(m.regions()).toBe(1);
    runOn(m.vcpu, 2000);
    for (let i = 0; i < 64; i++) {
      m.vcpu.access.set(S.RIP, 0x1000);
      m.vm.jit?.sample(m.vcpu.base, 0.1);
    }
    runOn(m.vcpu, 2000);
    await thread.ready();
    thread.deliver();
    expect(m.vm.counters()['regionsRenewed']).toBe(1);
    expect(kept.length).toBe(1);
  });

  it('brings back what was there if that was as fast, for good, and it still goes when its code changes', () => {
    const m = entered();
    m.sample(64, 0.1);
    m.settle();
    m.sample(256 + 32, 0.1);
    expect(m.renewed()).toBe(2);
    m.sample(1000, 0.01);
    m.settle();
    expect(m.renewed()).toBe(2);
    const eax = m.vcpu.getState().gpr[0] as bigint;
    m.vm.memory.write8(0x1002, 0xe8);
    runOn(m.vcpu, 2000);
    expect(BigInt.asIntN(32, (m.vcpu.getState().gpr[0] as bigint) - eax)).toBeLessThan(0n);
  });
});
