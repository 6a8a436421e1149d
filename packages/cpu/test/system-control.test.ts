import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import * as S from '../src/state.ts';
import { CODE, DATA, fault, JUMP, NEXT, Rig } from './system-rig.ts';

const toCr = (n: number): number[] => [0x0f, 0x22, 0xc0 | (n << 3)];
const fromCr = (n: number): number[] => [0x0f, 0x20, 0xc0 | (n << 3)];
const load = (r: Rig, n: number, v: bigint): ReturnType<Rig['run']> => {
  r.setReg(0, v);
  return n === 8 ? r.run(0x44, 0x0f, 0x22, 0xc0) : r.run(...toCr(n));
};

describe('CR0', () => {
  it.each([
    ['PG without PE', 0x80000000n, fault(S.EXC_GP)],
    ['NW without CD', 0x20000011n, fault(S.EXC_GP)],
    ['undefined bits are ignored', 0x1ff8ffc1n, JUMP],
    ['PG', 0x80000011n, JUMP],
  ])('%s', (_n, v, want) => {
    expect(load(new Rig().protected(), 0, v)).toEqual(want);
  });
  it('keeps ET and reads back what is defined', () => {
    const r = new Rig().protected();
    load(r, 0, 0x1fffffc1n);
    r.run(...fromCr(0));
    expect(r.cpu.r32(0)).toBe(0x00050011);
  });
  it('is privileged', () => {
    expect(new Rig().protected(3).run(...toCr(0))).toEqual(fault(S.EXC_GP));
    expect(new Rig().v86(3).run(...fromCr(0))).toEqual(fault(S.EXC_GP));
  });
  it('enters and leaves long mode (SDM vol. 3A §10.8.5)', () => {
    const r = new Rig().protected();
    r.cpu.set(S.EFER, 0x100);
    expect(load(r, 0, 0x80000011n)).toEqual(fault(S.EXC_GP)); // no PAE
    r.cpu.set(S.CR4, 0x20);
    r.cpu.set(S.SEG + S.TR * S.SEG_STRIDE + S.SEG_ATTR, 0x83);
    expect(load(r, 0, 0x80000011n)).toEqual(fault(S.EXC_GP)); // 16-bit TSS
    r.cpu.set(S.SEG + S.TR * S.SEG_STRIDE + S.SEG_ATTR, 0x8b);
    expect(load(r, 0, 0x80000011n)).toEqual(JUMP);
    expect([r.cpu.get(S.EFER), r.cpu.longMode, r.cpu.code64]).toEqual([0x500, true, false]);
    expect(load(r, 4, 0n)).toEqual(fault(S.EXC_GP)); // PAE has to stay
    expect(load(r, 0, 0x11n)).toEqual(JUMP);
    expect(r.cpu.get(S.EFER)).toBe(0x100);
    const l = new Rig().long();
    expect(load(l, 0, 0x11n)).toEqual(fault(S.EXC_GP)); // from 64-bit code
    expect(load(l, 0, 0x180000011n)).toEqual(fault(S.EXC_GP));
    const p = new Rig().long(0, true);
    p.cpu.set(S.CR4, 0x20020);
    expect(load(p, 0, 0x11n)).toEqual(fault(S.EXC_GP)); // PCIDE
  });
  it('refuses long mode while CS.L is set', () => {
    const r = new Rig().protected();
    r.cpu.set(S.EFER, 0x100);
    r.cpu.set(S.CR4, 0x20);
    r.cpu.set(S.SEG + S.CS * S.SEG_STRIDE + S.SEG_ATTR, 0xa09b);
    r.cpu.set(S.MODE, 1);
    expect(load(r, 0, 0x80000011n)).toEqual(fault(S.EXC_GP));
  });
  it('loads PDPTEs for PAE paging and refuses reserved bits', () => {
    const r = new Rig().protected();
    r.cpu.set(S.CR4, 0x20);
    r.cpu.set(S.CR3, 0xc020);
    for (let n = 0; n < 4; n++) r.w64(0xc020 + n * 8, BigInt(0x10001 + n * 0x1000));
    expect(load(r, 0, 0x80000011n)).toEqual(JUMP);
    expect([0, 1, 2, 3].map((n) => r.cpu.get(S.PDPTE + n * 8))).toEqual([0x10001, 0x11001, 0x12001, 0x13001]);
    r.w64(0xc060, 0x10003n);
    expect(load(r, 3, 0xc060n)).toEqual(fault(S.EXC_GP));
    r.w64(0xc060, 0x100_0000_0001n | (1n << 40n));
    expect(load(r, 3, 0xc060n)).toEqual(fault(S.EXC_GP));
    expect([r.cpu.get(S.CR3), r.cpu.get(S.PDPTE)]).toEqual([0xc020, 0x10001]);
    r.w64(0xc060, 0x1feen); // not present: anything goes
    expect(load(r, 3, 0xc060n)).toEqual(JUMP);
  });
  it('flushes everything when PG, PE or WP change, nothing when TS does', () => {
    const r = new Rig().protected();
    r.flushes.length = 0;
    load(r, 0, 0x19n);
    expect(r.flushes).toEqual([]);
    load(r, 0, 0x10019n);
    expect(r.flushes).toEqual([1]);
  });
  it('LMSW sets PE but cannot clear it; CLTS; SMSW', () => {
    const r = new Rig().real();
    r.cpu.setR32(0, 0xf);
    expect(r.run(0x0f, 0x01, 0xf0)).toEqual(JUMP);
    expect(r.cpu.get(S.CR0) & 0xf).toBe(0xf);
    r.cpu.setR32(0, 0);
    expect(r.run(0x0f, 0x01, 0xf0)).toEqual(JUMP);
    expect(r.cpu.get(S.CR0) & 0xf).toBe(1);
    const p = new Rig().protected();
    p.cpu.set(S.CR0, 0x19);
    expect(p.run(0x0f, 0x06)).toEqual(JUMP);
    expect(p.cpu.get(S.CR0)).toBe(0x11);
    expect(p.run(0x0f, 0x01, 0xe0)).toEqual(NEXT);
    expect(p.cpu.r32(0)).toBe(0x11);
    expect(new Rig().protected(3).run(0x0f, 0x06)).toEqual(fault(S.EXC_GP));
  });
});

describe('CR2, CR3, CR4, CR8', () => {
  it('CR2 holds 64 bits', () => {
    const r = new Rig().long();
    load(r, 2, 0x123456789abcdef0n);
    r.setReg(0, 0n);
    r.run(...fromCr(2));
    expect(r.reg(0)).toBe(0x123456789abcdef0n);
  });
  it('CR3: bits above MAXPHYADDR, and bit 63 with and without PCIDE', () => {
    const r = new Rig().long();
    r.flushes.length = 0;
    expect(load(r, 3, 0x10000000000n)).toEqual(fault(S.EXC_GP));
    expect(load(r, 3, 0x8000000000001000n)).toEqual(fault(S.EXC_GP));
    expect(load(r, 3, 0xff00001000n)).toEqual(JUMP);
    expect(r.flushes).toEqual([0]);
    r.cpu.set(S.CR4, 0x20020);
    expect(load(r, 3, 0x8000000000001005n)).toEqual(JUMP);
    expect(r.flushes).toEqual([0]);
    expect([r.cpu.get(S.CR3), r.cpu.getHi(S.CR3)]).toEqual([0x1005, 0]);
  });
  it.each([
    ['reserved', 1n << 15n, fault(S.EXC_GP)],
    ['VME is not offered', 1n, fault(S.EXC_GP)],
    ['CET', 1n << 23n, fault(S.EXC_GP)],
    ['upper half', 1n << 32n, fault(S.EXC_GP)],
    ['OSXSAVE', 0x40020n, JUMP],
    ['PCIDE', 0x20020n, JUMP],
    ['SMEP SMAP FSGSBASE UMIP', 0x310820n, JUMP],
  ])('CR4 in long mode: %s', (_n, v, want) => {
    expect(load(new Rig().long(), 4, v)).toEqual(want);
  });
  it('CR4 bits without their CPUID feature are reserved', () => {
    const r = new Rig();
    r.without.add('7.ebx.7').add('1.ecx.17');
    r.long();
    expect(load(r, 4, 0x100020n)).toEqual(fault(S.EXC_GP));
    expect(load(r, 4, 0x20020n)).toEqual(fault(S.EXC_GP));
  });
  it('PCIDE needs long mode and PCID 0', () => {
    expect(load(new Rig().protected(), 4, 0x20000n)).toEqual(fault(S.EXC_GP));
    const r = new Rig().long();
    r.cpu.set(S.CR3, 5);
    expect(load(r, 4, 0x20020n)).toEqual(fault(S.EXC_GP));
  });
  it('toggling PGE flushes everything', () => {
    const r = new Rig().long();
    r.flushes.length = 0;
    load(r, 4, 0xa0n);
    load(r, 4, 0x20n);
    load(r, 4, 0x220n);
    expect(r.flushes).toEqual([1, 1]);
  });
  it('CR8 goes to the bus', () => {
    const r = new Rig().long();
    expect(load(r, 8, 9n)).toEqual(JUMP);
    expect(r.cr8).toBe(9);
    expect(load(r, 8, 16n)).toEqual(fault(S.EXC_GP));
    expect(r.run(0x44, 0x0f, 0x20, 0xc0)).toEqual(NEXT);
    expect(r.reg(0)).toBe(9n);
  });
});

describe('debug registers', () => {
  it('DR6 and DR7 have fixed bits; DR4 and DR5 are their aliases', () => {
    const r = new Rig().protected();
    r.cpu.setR32(0, 0xffffffff);
    r.run(0x0f, 0x23, 0xf0);
    expect(r.cpu.get(S.DR + 48)).toBe(0xffffefff);
    r.cpu.setR32(0, 0xffffdfff);
    r.run(0x0f, 0x23, 0xf8);
    expect(r.cpu.get(S.DR + 56)).toBe(0xffff07ff);
    expect(r.run(0x0f, 0x21, 0xe8)).toEqual(NEXT);
    expect(r.cpu.r32(0)).toBe(0xffff07ff);
    r.cpu.set(S.CR4, 8);
    expect(r.run(0x0f, 0x21, 0xe8)).toEqual(fault(S.EXC_UD));
  });
  it('DR7.GD raises #DB with DR6.BD', () => {
    const r = new Rig().protected();
    r.cpu.set(S.DR + 56, 0x2400);
    expect(r.run(0x0f, 0x21, 0xc0)).toEqual(fault(S.EXC_DB, 0x2000));
  });
  it('the upper half must be zero for DR6 and DR7 but not for addresses', () => {
    const r = new Rig().long();
    r.setReg(0, 0xffff800000001000n);
    expect(r.run(0x0f, 0x23, 0xc0)).toEqual(JUMP);
    expect(r.cpu.getAddr(S.DR)).toBe(-0x8000_0000_0000 + 0x1000);
    expect(r.run(0x0f, 0x23, 0xf8)).toEqual(fault(S.EXC_GP));
  });
  it('is privileged', () => {
    expect(new Rig().protected(3).run(0x0f, 0x21, 0xc0)).toEqual(fault(S.EXC_GP));
  });
});

describe('invalidation', () => {
  it('INVLPG flushes one page, ignoring addresses that are not canonical', () => {
    const r = new Rig().long();
    expect(r.run(0x0f, 0x01, 0x3c, 0x25, 0, 0x60, 0, 0)).toEqual(JUMP);
    r.setReg(0, 1n << 60n);
    expect(r.run(0x0f, 0x01, 0x38)).toEqual(JUMP);
    expect(r.pages).toEqual([DATA]);
    expect(new Rig().long(3).run(0x0f, 0x01, 0x38)).toEqual(fault(S.EXC_GP));
  });
  it.each([
    ['type 4', 4n, 0n, 0n, 0, fault(S.EXC_GP)],
    ['reserved bits', 2n, 0x1000n, 0n, 0, fault(S.EXC_GP)],
    ['PCID without PCIDE', 1n, 5n, 0n, 0x20, fault(S.EXC_GP)],
    ['PCID with PCIDE', 1n, 5n, 0n, 0x20020, JUMP],
    ['address not canonical', 0n, 0n, 1n << 47n, 0x20, fault(S.EXC_GP)],
    ['address', 0n, 0n, 0x5000n, 0x20, JUMP],
    ['all', 2n, 0n, 0n, 0x20, JUMP],
  ])('INVPCID: %s', (_n, type, first, second, cr4, want) => {
    const r = new Rig().long();
    if (cr4) r.cpu.set(S.CR4, cr4);
    r.setReg(0, type);
    r.w64(DATA, first);
    r.w64(DATA + 8, second);
    expect(r.run(0x66, 0x0f, 0x38, 0x82, 0x04, 0x25, 0, 0x60, 0, 0)).toEqual(want);
  });
  it('INVPCID and RDTSCP are #UD where CPUID does not have them', () => {
    const r = new Rig().long();
    r.without.add('7.ebx.10');
    r.without.add('80000001.edx.27');
    expect(r.run(0x66, 0x0f, 0x38, 0x82, 0x04, 0x25, 0, 0x60, 0, 0)).toEqual(fault(S.EXC_UD));
    expect(r.run(0x0f, 0x01, 0xf9)).toEqual(fault(S.EXC_UD));
  });
  it('WBINVD and INVD are privileged; CLFLUSH only needs to be able to read', () => {
    expect(new Rig().long().run(0x0f, 0x09)).toEqual(NEXT);
    expect(new Rig().long(3).run(0x0f, 0x08)).toEqual(fault(S.EXC_GP));
    const r = new Rig().long(3);
    expect(r.run(0x0f, 0xae, 0x3c, 0x25, 0, 0x60, 0, 0)).toEqual(NEXT);
    r.absent.add(6);
    expect(r.run(0x0f, 0xae, 0x3c, 0x25, 0, 0x60, 0, 0)).toEqual(fault(S.EXC_PF, 4));
  });
});

describe('MSRs and the like', () => {
  const write = (r: Rig, index: number, v: bigint): ReturnType<Rig['run']> => {
    r.cpu.setR32(1, index);
    r.cpu.setR32(0, Number(v & 0xffffffffn));
    r.cpu.setR32(2, Number(BigInt.asUintN(64, v) >> 32n));
    return r.run(0x0f, 0x30);
  };
  const read = (r: Rig, index: number): bigint | string => {
    r.cpu.setR32(1, index);
    const got = r.run(0x0f, 0x32);
    return got.status < 0 ? `#${got.vector}` : (r.reg(2) << 32n) | r.reg(0);
  };
  it.each([
    ['EFER: reserved', 0xc0000080, 0x2n, null],
    ['EFER: SVME', 0xc0000080, 0x1000n, null],
    ['EFER: LME may not change under paging', 0xc0000080, 0x401n, null],
    ['EFER: LMA is read-only', 0xc0000080, 0x901n, 0xd01n],
    ['STAR', 0xc0000081, 0x0123456789abcdefn, 0x0123456789abcdefn],
    ['LSTAR canonical', 0xc0000082, 0xffff800000000000n, 0xffff800000000000n],
    ['LSTAR not', 0xc0000082, 0x0000800000000000n, null],
    ['CSTAR not', 0xc0000083, 0xffff000000000000n, null],
    ['FS_BASE', 0xc0000100, 0x7fffffffffffn, 0x7fffffffffffn],
    ['GS_BASE not canonical', 0xc0000101, 1n << 63n, null],
    ['KERNEL_GS_BASE', 0xc0000102, 0x1234n, 0x1234n],
    ['TSC_AUX upper half', 0xc0000103, 1n << 32n, null],
    ['SYSENTER_EIP not canonical', 0x176, 1n << 48n, null],
    ['PAT types', 0x277, 0x0706050401000706n, 0x0706050401000706n],
    ['PAT type 2', 0x277, 0x0000000000020000n, null],
    ['PAT type 3', 0x277, 0x0300000000000000n, null],
    ['PAT type 8', 0x277, 8n, null],
    ['unknown', 0x12345, 0n, null],
  ])('WRMSR %s', (_n, index, v, want) => {
    const r = new Rig().long();
    const before = r.digest();
    const got = write(r, index, v);
    if (want === null) {
      expect(got).toEqual(fault(S.EXC_GP));
      r.setReg(0, 0n);
      r.setReg(1, 0n);
      r.setReg(2, BigInt(r.signature));
      expect(r.digest().split(' ').slice(6)).toEqual(before.split(' ').slice(6));
    } else {
      expect(got).toEqual(JUMP);
      expect(read(r, index)).toBe(want);
    }
  });
  it('NXE flushes the TLB', () => {
    const r = new Rig().long();
    r.flushes.length = 0;
    write(r, 0xc0000080, 0x501n);
    expect(r.flushes).toEqual([1]);
  });
  it('others go to the bus, which may refuse', () => {
    const r = new Rig().long();
    r.msrs.set(0x1b, [0xfee00900, 0]);
    expect(read(r, 0x1b)).toBe(0xfee00900n);
    expect(write(r, 0x1b, 0x1_fee00800n)).toEqual(JUMP);
    expect(r.msrs.get(0x1b)).toEqual([0xfee00800, 1]);
    expect(read(r, 0x1c)).toBe('#13');
    expect(new Rig().long(3).run(0x0f, 0x32)).toEqual(fault(S.EXC_GP));
  });
  it('TSC and TSC_ADJUST move together (SDM vol. 3B §18.17.3)', () => {
    const r = new Rig().long();
    r.tsc = 1000n;
    expect(read(r, 0x10)).toBe(1000n);
    write(r, 0x10, 0x1_0000_0000n);
    expect([read(r, 0x10), read(r, 0x3b)]).toEqual([0x1_0000_0000n, 0x1_0000_0000n - 1000n]);
    write(r, 0x3b, BigInt.asUintN(64, -400n));
    expect(read(r, 0x10)).toBe(600n);
    r.tsc += 50n;
    r.run(0x0f, 0x31);
    expect((r.reg(2) << 32n) | r.reg(0)).toBe(650n);
  });
  it('RDTSCP adds TSC_AUX; CR4.TSD keeps both from programs; RDPMC is #GP; RDPID', () => {
    const r = new Rig().long(3);
    r.cpu.set(S.TSC_AUX, 0x77);
    expect(r.run(0x0f, 0x01, 0xf9)).toEqual(NEXT);
    expect(r.reg(1)).toBe(0x77n);
    expect(r.run(0xf3, 0x0f, 0xc7, 0xf8)).toEqual(NEXT);
    expect(r.reg(0)).toBe(0x77n);
    r.cpu.set(S.CR4, 0x24);
    expect(r.run(0x0f, 0x31)).toEqual(fault(S.EXC_GP));
    expect(r.run(0x0f, 0x33)).toEqual(fault(S.EXC_GP));
  });
  it('CPUID, RDRAND', () => {
    const r = new Rig().long(3);
    r.setReg(0, 0xffffffff00000001n);
    expect(r.run(0x0f, 0xa2)).toEqual(NEXT);
    expect(r.reg(0)).toBe(BigInt(r.signature));
    r.cpu.setFlags(0x8d6);
    expect(r.run(0x48, 0x0f, 0xc7, 0xf0)).toEqual(NEXT);
    expect([r.reg(0), r.cpu.flags()]).toEqual([0xdeadbeefdeadbeefn, 3]);
    expect(r.run(0x66, 0x0f, 0xc7, 0xf9)).toEqual(NEXT);
  });
  it('SWAPGS and the FSGSBASE instructions', () => {
    const r = new Rig().long();
    r.cpu.set64(S.KERNEL_GS_BASE, 0x1000, 0xffff8000);
    expect(r.run(0x0f, 0x01, 0xf8)).toEqual(JUMP);
    expect([r.cpu.segBase(S.GS), r.cpu.getAddr(S.KERNEL_GS_BASE)]).toEqual([-0x8000_0000_0000 + 0x1000, 0]);
    expect(new Rig().long(3).run(0x0f, 0x01, 0xf8)).toEqual(fault(S.EXC_GP));
    expect(r.run(0xf3, 0x48, 0x0f, 0xae, 0xc8)).toEqual(fault(S.EXC_UD));
    r.cpu.set(S.CR4, 0x10020);
    expect(r.run(0xf3, 0x48, 0x0f, 0xae, 0xc8)).toEqual(NEXT);
    expect(r.reg(0)).toBe(0xffff800000001000n);
    expect(r.run(0xf3, 0x0f, 0xae, 0xd0)).toEqual(JUMP);
    expect(r.cpu.segBase(S.FS)).toBe(0x1000);
    r.setReg(0, 1n << 47n);
    expect(r.run(0xf3, 0x48, 0x0f, 0xae, 0xd8)).toEqual(fault(S.EXC_GP));
  });
});

describe('hostile guests', () => {
  it('random descriptors, gates, registers and opcodes never throw out of the unit', () => {
    const ops: number[][] = [
      [0xea, 0, 0, 0, 0, 0x80, 0],
      [0x9a, 0, 0, 0, 0, 0x60, 0],
      [0xcf],
      [0xcb],
      [0xcd, 0x21],
      [0x8e, 0xd8],
      [0x8e, 0xd0],
      [0x0f, 0x00, 0xd8],
      [0x0f, 0x00, 0xd0],
      [0x0f, 0x02, 0xc3],
      [0x0f, 0x03, 0xc3],
      [0x0f, 0x22, 0xc0],
      [0x0f, 0x22, 0xd8],
      [0x0f, 0x22, 0xe0],
      [0x0f, 0x30],
      [0x0f, 0x05],
      [0x0f, 0x34],
      [0xc8, 0xff, 0xff, 0x1f],
      [0xf3, 0x6d],
    ];
    fc.assert(
      fc.property(
        fc.uint8Array({ minLength: 0x800, maxLength: 0x800 }),
        fc.array(fc.tuple(fc.nat(ops.length - 1), fc.nat(0xffffffff), fc.nat(0xffff)), { maxLength: 12 }),
        fc.nat(3),
        (noise, steps, kind) => {
          const r =
            kind === 0
              ? new Rig().protected(0)
              : kind === 1
                ? new Rig().protected(3)
                : kind === 2
                  ? new Rig().v86(3)
                  : new Rig().long(0, true);
          r.mem.set(noise.subarray(0, 0x80), 0x1060);
          r.mem.set(noise.subarray(0x80, 0x100), 0x3200);
          r.mem.set(noise.subarray(0x100), 0x8700);
          for (const [op, eax, ecx] of steps) {
            r.cpu.setR32(0, eax);
            r.cpu.setR32(3, eax);
            r.cpu.setR32(1, ecx);
            let got: ReturnType<Rig['run']>;
            try {
              got = r.run(...ops[op]);
            } catch (e) {
              if (String(e).includes('decode')) continue;
              throw e;
            }
            if (got.status < 0 && r.unit.deliver(got.vector, 0, false, got.code) !== 0) break;
            expect(r.cpu.cpl).toBeLessThan(4);
          }
        },
      ),
      { numRuns: 150 },
    );
    expect(CODE).toBe(0x4000);
  });
});
