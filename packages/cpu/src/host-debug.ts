// What the host's debugger wants of a vCPU (core's DebugRequest), in the form in which the run loop looks at it.
import { type DebugRequest, HyveError } from '@hyve/core';
import type { CpuAccess } from './access.ts';
import * as S from './state.ts';

/** DR7's length field by size, SDM vol. 3B §18.2.4. */
const LENGTH = { 1: 0, 2: 1, 4: 3, 8: 2 } as const;

/** One vCPU's. */
export class HostDebug {
  /** Whether there is a request: instructions are taken one at a time. */
  on = false;
  /** After each instruction. */
  step = false;
  /** Whether data is watched, which the guest's TLB must not hide. */
  watches = false;
  /** Linear addresses of breakpoints on instructions, by number; NaN: none. Addresses of the upper half as getAddr gives them. */
  private readonly code: Float64Array = new Float64Array(4).fill(Number.NaN);
  /** DR0–DR3 and DR7 to swap in while an instruction runs: low and high words. */
  private readonly registers: Uint32Array = new Uint32Array(10);

  /** @throws HyveError `VCPU_DEBUG` */
  set(request: DebugRequest | null): void {
    const breakpoints = request?.breakpoints ?? [];
    if (breakpoints.length > 4) throw new HyveError('VCPU_DEBUG', `${breakpoints.length} breakpoints: at most 4`);
    for (const b of breakpoints)
      if (LENGTH[b.size] === undefined || b.address % BigInt(b.size) !== 0n || (b.on === 'execute' && b.size !== 1))
        throw new HyveError('VCPU_DEBUG', `no breakpoint on ${b.on} of ${b.size} bytes at 0x${b.address.toString(16)}`);
    this.on = request !== null;
    this.step = request?.step ?? false;
    this.code.fill(Number.NaN);
    this.registers.fill(0);
    let dr7 = 0x400;
    breakpoints.forEach((b, i) => {
      const address = BigInt.asUintN(64, b.address);
      if (b.on === 'execute') {
        this.code[i] = Number(address >> 32n) * 0x1_0000_0000 + Number(address & 0xffffffffn);
        return;
      }
      this.registers[2 * i] = Number(address & 0xffffffffn);
      this.registers[2 * i + 1] = Number(address >> 32n);
      dr7 |= (2 << (2 * i)) | (((b.on === 'write' ? 1 : 3) | (LENGTH[b.size] << 2)) << (16 + 4 * i));
    });
    this.registers[8] = dr7 >>> 0;
    this.watches = (dr7 & 0xff) !== 0;
  }

  /** Which breakpoints on instructions are at this linear address, a bit each. */
  codeHits(linear: number): number {
    let hit = 0;
    for (let i = 0; i < 4; i++) if (this.code[i] === linear) hit |= 1 << i;
    return hit;
  }

  /** Exchanges the watchpoints with the guest's debug registers. */
  swap(a: CpuAccess): void {
    const r = this.registers;
    for (let i = 0; i < 5; i++) {
      const at = S.DR + 8 * (i < 4 ? i : 7);
      const lo = a.get(at);
      const hi = a.getHi(at);
      a.set64(at, r[2 * i] as number, r[2 * i + 1] as number);
      r[2 * i] = lo;
      r[2 * i + 1] = hi;
    }
  }
}
