// Text of decoded blocks, for traces.
import { type Decoder, format, Insn } from '@hyve/x86';
import type { Layout } from './layout.ts';
import * as R from './record.ts';
import * as S from './state.ts';

/** Bytes that one instruction can have. */
const LONGEST = 15;

/** A block as {@link SoftCpuOptions.trace} gets it; the instruction that a second page completes is left out. */
export function blockText(u8: Uint8Array, L: Layout, decoder: Decoder, base: number, head: number): string {
  const v = new DataView(u8.buffer);
  const host = v.getInt32(head + R.B_HOST, true) >>> 0;
  const mode = v.getInt32(head + R.B_MODE, true);
  const bytes = v.getUint16(head + R.B_BYTES, true);
  const bits = (mode & 3) === 2 ? 64 : (mode & 3) === 1 ? 32 : 16;
  let at = v.getBigUint64(base + S.RIP, true);
  if (bits !== 64) at = (at + v.getBigUint64(base + S.SEG + S.CS * S.SEG_STRIDE + S.SEG_BASE, true)) & 0xffffffffn;
  const hex = (n: bigint): string => n.toString(16).padStart(bits === 64 ? 16 : 8, '0');
  const region = L.regions.find((r) => host >= r.offset && host < r.offset + r.size);
  const phys = region === undefined ? host : host - region.offset + region.base;
  const vcpu = (base - L.vcpu0) / L.vcpuStride;
  const lines = [`vcpu ${vcpu} ${bits}-bit ${hex(at)} physical ${phys.toString(16)}`];
  const insn = new Insn();
  const pageEnd = host - (host % 4096) + 4096;
  const end = Math.min(host + bytes, pageEnd);
  for (let pc = host; pc < end; pc += insn.length) {
    if (decoder.decode(insn, u8, pc, Math.min(pc + LONGEST, pageEnd), bits) !== 0) break;
    const from = at + BigInt(pc - host);
    lines.push(`  ${hex(from)}  ${format(insn, from)}`);
  }
  return lines.join('\n');
}
