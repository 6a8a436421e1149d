// Address translation and memory slow paths, in WebAssembly. Intel SDM volume 3A chapter 4 (paging), 6.15 (#PF).
//
// TLB entry, 32 bytes: +0 tag for reads, +8 for writes, +16 for execution (64 bit each: linear page address or -1),
// +24 addend (host address = low 32 bits of linear address + addend), +28: 1 for a global page (SDM 4.10.2.4), which MOV to
// CR3 keeps, else 0. A bank belongs to one address space and one kind
// of privilege, so permission is part of the tag. A tag is missing where a fast access would be wrong: no permission,
// clean pages (for writes), pages that hold code, read-only memory, MMIO.
import { isCanonical, tlbSlot } from './addresses.ts';
import type { Layout } from './layout.ts';
import * as S from './state.ts';
import {
  atomic,
  c32,
  c64,
  c64hl,
  call,
  cmpxchg,
  F64,
  type Fn,
  type FnRef,
  f64,
  I32,
  I64,
  i32,
  i64,
  type Local,
  ld,
  type Module,
  type Node,
  select,
  V128,
} from './wasm/builder.ts';

/** Functions of the module that memory accesses use. */
export interface MemFns {
  /** (base, la, acc, bank) → TLB entry address; 0: FAULT set; 1: not memory, PHYS set. */
  readonly fill: FnRef;
  /** (base, la, size) → value; data read at current privilege that missed the TLB. */
  readonly readMiss: FnRef;
  /** (base, la, value, size) */
  readonly writeMiss: FnRef;
  /** (base, la, size) → host address to modify in place, maybe the scratch: then commit. */
  readonly rmwMiss: FnRef;
  /** (base, la, size) → host address for a locked change in place, maybe the scratch: then commit. */
  readonly lockMiss: FnRef;
  /** (base, la, old low, old high, new low, new high) → 1 if the 16 bytes were the old ones and are now the new. RMW_DATA: what they were. */
  readonly lock16: FnRef;
  /** (base) writes the scratch back. */
  readonly rmwCommit: FnRef;
  /** (base, la) → host address of code, or 0 with FAULT set or PHYS (not memory). */
  readonly fetchMiss: FnRef;
  /** (base, vector, code): raises an exception. */
  readonly raise: FnRef;
  /** (base, la, size, write): checks access without transfer; FAULT on failure. */
  readonly probe: FnRef;
  /** (base, la, size, write) -> host address if the whole range lies in one page of plain memory, else 0 (no fault raised). */
  readonly tryPtr: FnRef;
  /**
   * (base, la, size, write, bank, acc) -> the same with the access's kind given: `bank` the TLB to look in (one of state.ts's
   * `TLB_*` words' values), `acc` the `ACC_*` bits of a walk. For what the processor does of itself, whatever CPL is.
   */
  readonly pointer: FnRef;
  /** (guest-physical address as i64) → host address, or 0 where there is no memory. */
  readonly physical: FnRef;
  /** (base, all): drops all translations of all address spaces (1), or all but those of global pages of the one in use (0). */
  readonly flushTlb: FnRef;
  /** (base, la): drops translations of one page in every address space. */
  readonly dropPage: FnRef;
}

/** Imports that memory code needs. */
export interface MemImports {
  /** (vcpu base, address as f64, width) → value */
  readonly mmioRead: FnRef;
  /** (vcpu base, address as f64, width, value) */
  readonly mmioWrite: FnRef;
  /** (host address, length): decoded code in the range is stale. */
  readonly invalidate: FnRef;
  /** (vcpu base): all other vCPUs stand still when it returns. */
  readonly stop: FnRef;
  /** (vcpu base): they may go on. */
  readonly go: FnRef;
}

const WP = 1 << 16;
const PTE_G_SHIFT = 8;
const CR4_PGE_SHIFT = 7;
/** i32.atomic.rmw.or */
const A_OR32 = 0x33;

/** Emits the memory functions into the module. */
export function emitMemory(m: Module, L: Layout, imp: MemImports): MemFns {
  const ramPtr = m.fn([I64], I32);
  const raise = m.fn([I32, I32, I32], 0, 'raise');
  const pageFault = m.fn([I32, I64, I32, I32], I32);
  const fill = m.fn([I32, I64, I32, I32], I32);
  const flushSpace = m.fn([I32, I32, I32], 0);
  const flushTlb = m.fn([I32, I32], 0, 'flushTlb');
  const dropPage = m.fn([I32, I64], 0);
  const logEntry = m.fn([I32, I32, I32], 0);
  const displace = m.fn([I32, I32, I32, I64, I32], 0);
  const readAt = m.fn([I32, I64, I32, I32, I32], I64);
  const writeAt = m.fn([I32, I64, I64, I32, I32, I32], 0);
  const readMiss = m.fn([I32, I64, I32], I64);
  const writeMiss = m.fn([I32, I64, I64, I32], 0);
  const rmwMiss = m.fn([I32, I64, I32], I32);
  const rmwCommit = m.fn([I32], 0);
  const lockAt = m.fn([I32, I64, I32, I32, I32], I32);
  const lockMiss = m.fn([I32, I64, I32], I32);
  const lock16 = m.fn([I32, I64, I64, I64, I64, I64], I32);
  const stored = m.fn([I32, I32, I32], 0);
  const shared = L.threads > 1;
  const fetchMiss = m.fn([I32, I64], I32, 'fetch');
  const probe = m.fn([I32, I64, I32, I32], 0);
  const tryPtr = m.fn([I32, I64, I32, I32], I32);
  const pointer = m.fn([I32, I64, I32, I32, I32, I32], I32);
  const dataAcc = m.fn([I32], I32);
  const prologue = m.fn([I32, I64, I32, I32], I64);
  const storeHost = m.fn([I32, I32, I64, I32], 0);
  const p = (f: Fn, n: number): Node => (f.params[n] as Local).get;

  // Guest-physical to host address, 0 where there is no memory.
  {
    const f = ramPtr;
    const gpa = p(f, 0);
    for (const r of L.regions) {
      f.if(i64.lt_u(i64.sub(gpa, c64(r.base)), c64(r.size)), () =>
        f.ret(i32.add(i32.wrap(i64.sub(gpa, c64(r.base))), c32(r.offset))),
      );
    }
    f.emit(c32(0));
  }
  {
    const f = raise;
    f.st32(p(f, 0), i32.add(p(f, 1), c32(1)), S.FAULT);
    f.st32(p(f, 0), p(f, 2), S.FAULT_CODE);
  }
  // (base, la, acc, present/reserved bits) → 0
  {
    const f = pageFault;
    const base = p(f, 0);
    const acc = p(f, 2);
    const code = f.local(I32);
    f.set(
      code,
      i32.or(p(f, 3), i32.or(i32.shl(i32.and(acc, c32(S.ACC_WRITE)), c32(1)), i32.and(acc, c32(S.ACC_USER)))),
    );
    // The instruction-fetch bit exists with NX or SMEP only.
    f.if(
      i32.and(
        i32.ne(i32.and(acc, c32(S.ACC_EXEC)), c32(0)),
        i32.or(
          i32.and(i32.shr_u(ld.i32(base, S.EFER), c32(11)), i32.shr_u(ld.i32(base, S.CR4), c32(5))),
          i32.shr_u(ld.i32(base, S.CR4), c32(20)),
        ),
      ),
      () => f.set(code, i32.or(code.get, c32(16))),
    );
    f.st64(base, p(f, 1), S.FAULT_ADDR);
    f.st32(base, c32(S.EXC_PF + 1), S.FAULT);
    f.st32(base, code.get, S.FAULT_CODE);
    f.emit(c32(0));
  }

  /** Slot among the victims of the bank for a linear address. */
  const victimOf = (bank: Node, la: Node): Node =>
    i32.add(
      bank,
      i32.add(
        i32.shl(
          i32.and(i32.wrap(i64.xor(i64.shr_u(la, c64(12)), i64.shr_u(la, c64(21)))), c32(S.TLB_VICTIMS - 1)),
          c32(5),
        ),
        c32(S.TLB_DIRECT),
      ),
    );
  /** Bit number in the filter of large pages for the page of 2^`shift` bytes (i64) that has `la`. */
  const largeHash = (la: Node, shift: Node): Node =>
    i32.shr_u(
      i32.mul(i32.add(i32.wrap(i64.shr_u(la, shift)), i32.shl(i32.wrap(shift), c32(24))), c32(0x9e3779b1 | 0)),
      c32(32 - S.LARGE_PAGES_LOG2),
    );
  const largeByte = (base: Node, bit: Node): Node => i32.add(i32.add(base, c32(S.LARGE_PAGES)), i32.shr_u(bit, c32(3)));
  const largeMask = (bit: Node): Node => i32.shl(c32(1), i32.and(bit, c32(7)));
  {
    // (base, entry, global): an entry of the running address space has been written.
    const f = logEntry;
    const log = f.tmp(i32.add(ld.i32(p(f, 0), S.TLB_LOG), i32.mul(p(f, 2), c32(S.TLB_GLOBAL_LOG))));
    const n = f.tmp(ld.i32(log));
    f.if(i32.lt_u(n, c32(S.TLB_LOG_SIZE)), () => f.st32(i32.add(log, i32.shl(n, c32(2))), p(f, 1), 4));
    f.st32(log, i32.add(n, c32(1)));
  }
  {
    // (base, bank, entry, tag, global): the entry is about to be used for page `tag`; what it holds goes to the victims.
    const f = displace;
    const old = f.local(I64);
    const to = f.local(I32);
    const from = p(f, 2);
    const kind = f.local(I32);
    f.set(old, ld.i64(from));
    f.if(i64.eq(old.get, c64(-1)), () => f.set(old, ld.i64(from, 8)));
    f.if(i64.eq(old.get, c64(-1)), () => f.set(old, ld.i64(from, 16)));
    f.if(i64.eq(old.get, c64(-1)), () => {
      f.do(call(logEntry.ref, p(f, 0), from, p(f, 4)));
      f.ret();
    });
    // What holds something is in the log of its kind already.
    f.set(kind, ld.i32(from, 28));
    f.if(i32.ne(kind.get, p(f, 4)), () => f.do(call(logEntry.ref, p(f, 0), from, p(f, 4))));
    f.if(i64.eq(old.get, p(f, 3)), () => f.ret());
    f.set(to, victimOf(p(f, 1), old.get));
    f.if(
      i32.or(
        i64.eq(i64.and(ld.i64(to.get), i64.and(ld.i64(to.get, 8), ld.i64(to.get, 16))), c64(-1)),
        i32.ne(ld.i32(to.get, 28), kind.get),
      ),
      () => f.do(call(logEntry.ref, p(f, 0), to.get, kind.get)),
    );
    f.stV(to.get, ld.v128(from));
    f.stV(to.get, ld.v128(from, 16), 16);
  }

  // The walk. acc: ACC_WRITE, ACC_EXEC, ACC_USER, ACC_IMPLICIT (SMAP enforced).
  {
    const f = fill;
    const base = p(f, 0);
    const la = p(f, 1);
    const acc = p(f, 2);
    const bank = p(f, 3);
    const gpa = f.local(I64);
    const e = f.local(I64);
    const tbl = f.local(I64);
    const us = f.local(I32);
    const rw = f.local(I32);
    const nx = f.local(I32);
    const dirty = f.local(I32);
    const large = f.local(I32);
    const leafPtr = f.local(I32);
    const host = f.local(I32);
    const entry = f.local(I32);
    const ok = f.local(I32);
    const tag = f.local(I64);
    const ptrs = [0, 1, 2, 3, 4].map(() => f.local(I32));
    // Low halves of the entries, which have the bits that change.
    const lows = shared ? [0, 1, 2, 3, 4].map(() => f.local(I32)) : [];
    const leafLow = f.local(I32);
    /** Sets bits of an entry unless it has changed since it was read: then the walk begins anew. */
    const setBits = (ptr: Node, low: Node, bits: number): void => {
      f.if(i32.ne(i32.and(low, c32(bits)), c32(bits)), () => {
        if (!shared) f.st8(ptr, i32.or(ld.i32_8u(ptr), c32(bits)));
        else
          f.if(i32.ne(cmpxchg(4, ptr, low, i32.or(low, c32(bits))), low), () =>
            f.returnCall(fill.ref, base, la, acc, bank),
          );
      });
    };
    const pf = (bits: Node): void => f.ret(call(pageFault.ref, base, la, acc, bits));
    f.set(entry, tlbSlot(la, bank));
    f.set(tag, i64.and(la, c64(-4096)));
    f.set(host, victimOf(bank, la));
    f.if(i64.eq(ld.i64(i32.add(host.get, i32.shl(i32.and(acc, c32(3)), c32(3)))), tag.get), () => {
      const a = f.temp(V128);
      const b = f.temp(V128);
      f.set(a, ld.v128(host.get));
      f.set(b, ld.v128(host.get, 16));
      f.do(call(displace.ref, base, bank, entry.get, tag.get, ld.i32(host.get, 28)));
      f.stV(entry.get, a.get);
      f.stV(entry.get, b.get, 16);
      f.ret(entry.get);
    });
    f.st32(base, i32.add(ld.i32(base, S.N_TLB_FILL), c32(1)), S.N_TLB_FILL);
    f.set(us, c32(1));
    f.set(rw, c32(1));
    f.set(dirty, c32(1));
    f.block((walked) => {
      f.if(i32.ge_s(ld.i32(base, S.CR0), c32(0)), () => {
        f.set(gpa, i64.and(la, c64(0xffffffff)));
        f.br(walked);
      });
      f.if(i32.eqz(i32.and(ld.i32(base, S.CR4), c32(0x20))), () => {
        // 32-bit paging: 4-byte entries.
        const e4 = f.local(I32);
        const pde = ptrs[1] as Local;
        const pte = ptrs[0] as Local;
        const read = (ptr: Local, table: Node, shift: number): void => {
          f.set(
            ptr,
            call(
              ramPtr.ref,
              i64.extend_u(i32.add(table, i32.shl(i32.and(i32.shr_u(i32.wrap(la), c32(shift)), c32(1023)), c32(2)))),
            ),
          );
          f.set(e4, c32(0));
          f.if(ptr.get, () => f.set(e4, ld.i32(ptr.get)));
          f.if(i32.eqz(i32.and(e4.get, c32(1))), () => pf(c32(0)));
          f.set(us, i32.and(us.get, i32.shr_u(e4.get, c32(2))));
          f.set(rw, i32.and(rw.get, i32.shr_u(e4.get, c32(1))));
        };
        read(pde, i32.and(ld.i32(base, S.CR3), c32(0xfffff000)), 22);
        f.if(
          i32.and(i32.ne(i32.and(e4.get, c32(0x80)), c32(0)), i32.ne(i32.and(ld.i32(base, S.CR4), c32(0x10)), c32(0))),
          () => {
            // 4 MiB page; bits 13–20 are address bits 32–39 (PSE-36), bit 21 is reserved.
            f.if(i32.and(e4.get, c32(1 << 21)), () => pf(c32(9)));
            f.set(large, c32(22));
            f.set(leafPtr, pde.get);
            f.set(
              gpa,
              i64.or(
                i64.extend_u(i32.or(i32.and(e4.get, c32(0xffc00000)), i32.and(i32.wrap(la), c32(0x3fffff)))),
                i64.shl(i64.extend_u(i32.and(i32.shr_u(e4.get, c32(13)), c32(0xff))), c64(32)),
              ),
            );
          },
          () => {
            f.set(ok, e4.get);
            read(pte, i32.and(e4.get, c32(0xfffff000)), 12);
            f.set(leafPtr, pte.get);
            f.set(gpa, i64.extend_u(i32.or(i32.and(e4.get, c32(0xfffff000)), i32.and(i32.wrap(la), c32(0xfff)))));
            setBits(pde.get, ok.get, 0x20);
          },
        );
        f.set(dirty, i32.and(i32.shr_u(e4.get, c32(6)), c32(1)));
        f.set(leafLow, e4.get);
        f.br(walked);
      });
      // PAE and 4-level paging: 8-byte entries.
      const rsvdHi = (0xfffff & ~((1 << (S.PHYS_BITS - 32)) - 1)) | 0;
      const nxe = f.local(I32);
      f.set(nxe, i32.and(i32.shr_u(ld.i32(base, S.EFER), c32(11)), c32(1)));
      const level = (n: number, shift: number, extraReserved: Node | null): void => {
        const ptr = ptrs[n] as Local;
        f.set(ptr, call(ramPtr.ref, i64.add(tbl.get, i64.shl(i64.and(i64.shr_u(la, c64(shift)), c64(511)), c64(3)))));
        f.set(e, c64(-1));
        f.if(ptr.get, () => f.set(e, ld.i64(ptr.get)));
        if (shared) f.set(lows[n] as Local, i32.wrap(e.get));
        f.if(i32.eqz(i32.and(i32.wrap(e.get), c32(1))), () => pf(c32(0)));
        let bad: Node = i64.ne(i64.and(e.get, c64hl(rsvdHi, 0)), c64(0));
        bad = i32.or(bad, i32.and(i64.lt_s(e.get, c64(0)), i32.eqz(nxe.get)));
        if (extraReserved !== null) bad = i32.or(bad, extraReserved);
        f.if(bad, () => pf(c32(9)));
        f.set(us, i32.and(us.get, i32.shr_u(i32.wrap(e.get), c32(2))));
        f.set(rw, i32.and(rw.get, i32.shr_u(i32.wrap(e.get), c32(1))));
        f.set(nx, i32.or(nx.get, i32.wrap(i64.shr_u(e.get, c64(63)))));
        f.set(tbl, i64.and(e.get, c64hl(0xfffff & ~rsvdHi, 0xfffff000)));
      };
      const setA = (n: number): void => {
        const ptr = (ptrs[n] as Local).get;
        f.if(ptr, () => setBits(ptr, shared ? (lows[n] as Local).get : ld.i32_8u(ptr), 0x20));
      };
      const leaf = (n: number, mask: number, upper: number[]): void => {
        f.set(leafPtr, (ptrs[n] as Local).get);
        f.set(leafLow, i32.wrap(e.get));
        f.set(gpa, i64.or(i64.and(tbl.get, c64(-1 - mask)), i64.and(la, c64(mask))));
        f.set(dirty, i32.and(i32.shr_u(i32.wrap(e.get), c32(6)), c32(1)));
        for (const u of upper) setA(u);
      };
      f.if(
        i32.and(ld.i32(base, S.EFER), c32(0x400)),
        () => {
          f.set(tbl, i64.and(ld.i64(base, S.CR3), c64hl(0xfffff & ~rsvdHi, 0xfffff000)));
          level(4, 39, i32.ne(i32.and(i32.wrap(e.get), c32(0x80)), c32(0)));
          level(3, 30, null);
          f.if(i32.and(i32.wrap(e.get), c32(0x80)), () => {
            f.if(i32.and(i32.wrap(e.get), c32(0x3fffe000)), () => pf(c32(9)));
            f.set(large, c32(30));
            leaf(3, 0x3fffffff, [4]);
            f.br(walked);
          });
        },
        () => {
          f.set(e, ld.i64(i32.add(base, i32.shl(i32.and(i32.wrap(i64.shr_u(la, c64(30))), c32(3)), c32(3))), S.PDPTE));
          f.if(i32.eqz(i32.and(i32.wrap(e.get), c32(1))), () => pf(c32(0)));
          f.set(tbl, i64.and(e.get, c64hl(0xfffff & ~rsvdHi, 0xfffff000)));
        },
      );
      level(2, 21, null);
      f.if(i32.and(i32.wrap(e.get), c32(0x80)), () => {
        f.if(i32.and(i32.wrap(e.get), c32(0x1fe000)), () => pf(c32(9)));
        f.set(large, c32(21));
        leaf(2, 0x1fffff, [4, 3]);
        f.br(walked);
      });
      level(1, 12, null);
      leaf(1, 0xfff, [4, 3, 2]);
    });
    // Permissions for reading (bit 0), writing (1) and executing (2) at this privilege.
    f.set(us, i32.and(us.get, c32(1)));
    f.set(rw, i32.and(rw.get, c32(1)));
    f.if(
      i32.and(acc, c32(S.ACC_USER)),
      () => {
        f.set(
          ok,
          i32.mul(us.get, i32.or(i32.or(c32(1), i32.shl(rw.get, c32(1))), i32.shl(i32.xor(nx.get, c32(1)), c32(2)))),
        );
      },
      () => {
        f.set(
          ok,
          i32.or(
            i32.or(c32(1), i32.shl(i32.or(rw.get, i32.eqz(i32.and(ld.i32(base, S.CR0), c32(WP)))), c32(1))),
            i32.shl(i32.xor(nx.get, c32(1)), c32(2)),
          ),
        );
        f.if(i32.and(us.get, i32.lt_s(ld.i32(base, S.CR0), c32(0))), () => {
          f.if(
            i32.and(
              i32.ne(i32.and(acc, c32(S.ACC_IMPLICIT)), c32(0)),
              i32.and(i32.shr_u(ld.i32(base, S.CR4), c32(21)), c32(1)),
            ),
            () => f.set(ok, i32.and(ok.get, c32(4))),
          );
          f.if(i32.and(ld.i32(base, S.CR4), c32(1 << 20)), () => f.set(ok, i32.and(ok.get, c32(3))));
        });
      },
    );
    // acc 0 read, 1 write, 2 execute select bit 0, 1, 2.
    f.if(i32.eqz(i32.and(i32.shr_u(ok.get, i32.and(acc, c32(3))), c32(1))), () => pf(c32(1)));
    // Accessed and dirty.
    f.if(leafPtr.get, () => {
      f.if(
        i32.and(acc, c32(S.ACC_WRITE)),
        () => {
          setBits(leafPtr.get, leafLow.get, 0x60);
          f.set(dirty, c32(1));
        },
        () => setBits(leafPtr.get, leafLow.get, 0x20),
      );
    });
    f.if(large.get, () => {
      const h = f.tmp(largeHash(la, i64.extend_u(large.get)));
      const at = f.tmp(largeByte(base, h));
      f.st8(at, i32.or(ld.i32_8u(at), largeMask(h)));
    });
    f.st64(base, gpa.get, S.PHYS);
    f.set(host, call(ramPtr.ref, i64.and(gpa.get, c64(-4096))));
    f.if(i32.eqz(host.get), () => f.ret(c32(1)));
    const isGlobal = f.tmp(
      i32.and(
        i32.and(i32.shr_u(leafLow.get, c32(PTE_G_SHIFT)), i32.shr_u(ld.i32(base, S.CR4), c32(CR4_PGE_SHIFT))),
        c32(1),
      ),
    );
    f.do(call(displace.ref, base, bank, entry.get, tag.get, isGlobal));
    f.st32(entry.get, i32.sub(host.get, i32.wrap(tag.get)), 24);
    f.st32(entry.get, isGlobal, 28);
    const tagIf = (cond: Node, off: number): void => {
      f.emit(entry.get);
      f.emit(select(cond, tag.get, c64(-1)));
      f.code.u8(0x37);
      f.code.u32(0);
      f.code.u32(off);
    };
    if (shared) {
      // Whoever wants to watch the page must know that this vCPU may be writing to it, before the flags are looked at.
      f.if(i32.or(i32.and(acc, c32(S.ACC_WRITE)), i32.and(i32.shr_u(ok.get, c32(1)), dirty.get)), () => {
        const w = f.tmp(i32.shl(i32.shr_u(i32.sub(host.get, c32(L.ram)), c32(12)), c32(2)));
        const bit = f.tmp(ld.i32(base, S.THREAD_BIT));
        f.if(i32.eqz(i32.and(ld.i32(w, L.writers), bit)), () => f.do(atomic(A_OR32, 4, I32, w, L.writers, bit)));
      });
    }
    f.if(ld.i32(base, S.NOFILL), () => f.set(ok, i32.and(ok.get, c32(4))));
    tagIf(i32.and(ok.get, c32(1)), 0);
    tagIf(
      i32.and(
        i32.and(i32.shr_u(ok.get, c32(1)), dirty.get),
        i32.eqz(ld.i32_8u(i32.shr_u(i32.sub(host.get, c32(L.ram)), c32(12)), L.pageFlags)),
      ),
      8,
    );
    tagIf(i32.and(i32.shr_u(ok.get, c32(2)), c32(1)), 16);
    f.emit(entry.get);
  }

  // Access bits of ordinary data accesses: user at CPL 3; SMAP enforced unless AC is set.
  {
    const f = dataAcc;
    f.emit(
      i32.or(
        select(i32.eq(ld.i32(p(f, 0), S.CPL), c32(3)), c32(S.ACC_USER), c32(0)),
        select(i32.and(ld.i32(p(f, 0), S.EFL), c32(S.FLAG_AC)), c32(0), c32(S.ACC_IMPLICIT)),
      ),
    );
  }
  // (base, la, size, write) → la truncated outside long mode; canonical, alignment and breakpoint checks. FAULT may be set.
  {
    const f = prologue;
    const base = p(f, 0);
    const la = p(f, 1);
    const size = p(f, 2);
    f.st32(base, i32.add(ld.i32(base, S.N_SLOW), c32(1)), S.N_SLOW);
    f.if(i32.eqz(i32.and(ld.i32(base, S.EFER), c32(0x400))), () => {
      f.set(f.params[1] as Local, i64.and(la, c64(0xffffffff)));
    });
    f.if(i32.and(ld.i32(base, S.EFER), c32(0x400)), () => {
      const end = i64.add(la, i64.extend_u(i32.sub(size, c32(1))));
      const bad = (v: Node): Node => i32.eqz(isCanonical(v));
      f.if(i32.or(bad(la), bad(end)), () => {
        f.st32(base, c32(1), S.NONCANON);
        f.st64(base, la, S.FAULT_ADDR);
        f.do(call(raise.ref, base, c32(S.EXC_GP), c32(0)));
        f.ret(la);
      });
    });
    f.if(ld.i32(base, S.NOFILL), () => {
      f.if(i32.and(ld.i32(base, S.ALIGN_CHECK), i32.ne(i32.and(i32.wrap(la), i32.sub(size, c32(1))), c32(0))), () => {
        f.if(i32.le_u(size, c32(8)), () => {
          f.do(call(raise.ref, base, c32(S.EXC_AC), c32(0)));
          f.ret(la);
        });
      });
      for (let n = 0; n < 4; n++) {
        // DR7: enable bits 2n and 2n+1; R/W at 16+4n (1 write, 3 read or write); LEN at 18+4n (0: 1, 1: 2, 3: 4, 2: 8).
        const dr7 = ld.i32(base, S.DR + 56);
        const kind = i32.and(i32.shr_u(dr7, c32(16 + 4 * n)), c32(3));
        const lenBits = i32.and(i32.shr_u(dr7, c32(18 + 4 * n)), c32(3));
        const len = f.temp(I64);
        f.if(
          i32.and(
            i32.ne(i32.and(dr7, c32(3 << (2 * n))), c32(0)),
            i32.or(i32.eq(kind, c32(3)), i32.and(i32.eq(kind, c32(1)), p(f, 3))),
          ),
          () => {
            f.set(len, i64.extend_u(select(i32.eq(lenBits, c32(2)), c32(8), i32.add(lenBits, c32(1)))));
            const start = i64.and(ld.i64(base, S.DR + 8 * n), i64.sub(c64(0), len.get));
            f.if(i32.and(i64.lt_u(la, i64.add(start, len.get)), i64.gt_u(i64.add(la, i64.extend_u(size)), start)), () =>
              f.st32(base, i32.or(ld.i32(base, S.DATA_BREAK), c32(1 << n)), S.DATA_BREAK),
            );
          },
        );
      }
    });
    f.emit(la);
  }

  const crosses = (la: Node, size: Node): Node =>
    i32.gt_u(i32.add(i32.and(i32.wrap(la), c32(0xfff)), size), c32(0x1000));
  const hostOf = (entry: Node, la: Node): Node => i32.add(i32.wrap(la), ld.i32(entry, 24));

  // (base, la, size, acc, bank) → value
  {
    const f = readAt;
    const base = p(f, 0);
    const la = p(f, 1);
    const size = p(f, 2);
    const acc = p(f, 3);
    const bank = p(f, 4);
    const e = f.local(I32);
    const h = f.local(I32);
    const v = f.local(I64);
    const n = f.local(I32);
    f.if(crosses(la, size), () => {
      f.set(n, size);
      f.loop((again) => {
        f.set(n, i32.sub(n.get, c32(1)));
        f.set(
          v,
          i64.or(i64.shl(v.get, c64(8)), call(readAt.ref, base, i64.add(la, i64.extend_u(n.get)), c32(1), acc, bank)),
        );
        f.if(n.get, () => f.br(again));
      });
      // A fault in the first page outranks one in the second: the first byte was read last.
      f.ret(v.get);
    });
    f.set(e, call(fill.ref, base, la, acc, bank));
    f.if(i32.eqz(e.get), () => f.ret(c64(0)));
    f.if(i32.eq(e.get, c32(1)), () => {
      const gpa = new F64Of(ld.i64(base, S.PHYS));
      f.if(i32.eq(size, c32(8)), () => {
        f.set(v, i64.extend_u(call(imp.mmioRead, base, gpa.node, c32(4))));
        f.ret(i64.or(v.get, i64.shl(i64.extend_u(call(imp.mmioRead, base, gpa.plus(4), c32(4))), c64(32))));
      });
      f.ret(i64.extend_u(call(imp.mmioRead, base, gpa.node, size)));
    });
    f.set(h, hostOf(e.get, la));
    f.if(i32.eq(size, c32(8)), () => f.ret(ld.i64(h.get)));
    f.if(i32.eq(size, c32(4)), () => f.ret(ld.i64_32u(h.get)));
    f.if(i32.eq(size, c32(2)), () => f.ret(ld.i64_16u(h.get)));
    f.emit(ld.i64_8u(h.get));
  }
  // (base, host, value, size): stores into memory whose page has flags.
  {
    const f = storeHost;
    const base = p(f, 0);
    const h = p(f, 1);
    const v = p(f, 2);
    const size = p(f, 3);
    const page = f.local(I32);
    const fl = f.local(I32);
    f.set(page, i32.shr_u(i32.sub(h, c32(L.ram)), c32(12)));
    f.set(fl, ld.i32_8u(page.get, L.pageFlags));
    f.if(i32.and(fl.get, c32(S.PF_ROM)), () => {
      const gpa = new F64Of(ld.i64(base, S.PHYS));
      f.if(
        i32.eq(size, c32(8)),
        () => {
          f.do(call(imp.mmioWrite, base, gpa.node, c32(4), i32.wrap(v)));
          f.do(call(imp.mmioWrite, base, gpa.plus(4), c32(4), i32.wrap(i64.shr_u(v, c64(32)))));
        },
        () => f.do(call(imp.mmioWrite, base, gpa.node, size, i32.wrap(v))),
      );
      f.ret();
    });
    f.if(i32.eq(size, c32(8)), () => f.st64(h, v));
    f.if(i32.eq(size, c32(4)), () => f.st32of64(h, v));
    f.if(i32.eq(size, c32(2)), () => f.st16(h, v));
    f.if(i32.eq(size, c32(1)), () => f.st8(h, v));
    f.if(fl.get, () => f.do(call(stored.ref, base, h, size)));
  }
  // (base, host, size): bytes of a page with flags have changed.
  {
    const f = stored;
    const base = p(f, 0);
    const h = p(f, 1);
    const size = p(f, 2);
    const page = f.local(I32);
    const mask = f.local(I64);
    const wanted = f.local(I32);
    f.set(page, i32.shr_u(i32.sub(h, c32(L.ram)), c32(12)));
    // One bit per 64-byte piece of the page.
    f.set(
      mask,
      i64.or(
        i64.shl(c64(1), i64.extend_u(i32.and(i32.shr_u(h, c32(6)), c32(63)))),
        i64.shl(c64(1), i64.extend_u(i32.and(i32.shr_u(i32.add(h, i32.sub(size, c32(1))), c32(6)), c32(63)))),
      ),
    );
    f.set(
      wanted,
      i32.or(
        i32.and(ld.i32_8u(page.get, L.pageFlags), c32(S.PF_WATCH)),
        i64.ne(i64.and(mask.get, ld.i64(i32.add(i32.shl(page.get, c32(4)), c32(L.pageInfo)), 8)), c64(0)),
      ),
    );
    if (shared) {
      // Others' code: they mark its place before they read it, we write before we look.
      f.fence();
      f.set(
        wanted,
        i32.or(
          wanted.get,
          i32.and(ld.i32(i32.shl(page.get, c32(2)), L.owners), i32.xor(ld.i32(base, S.THREAD_BIT), c32(-1))),
        ),
      );
    }
    f.if(wanted.get, () => f.do(call(imp.invalidate, h, size)));
  }
  // (base, la, value, size, acc, bank)
  {
    const f = writeAt;
    const base = p(f, 0);
    const la = p(f, 1);
    const v = p(f, 2);
    const size = p(f, 3);
    const acc = i32.or(p(f, 4), c32(S.ACC_WRITE));
    const bank = p(f, 5);
    const e = f.local(I32);
    const n = f.local(I32);
    f.if(crosses(la, size), () => {
      f.if(i32.eqz(call(fill.ref, base, la, acc, bank)), () => f.ret());
      f.if(i32.eqz(call(fill.ref, base, i64.and(i64.add(la, i64.extend_u(size)), c64(-4096)), acc, bank)), () =>
        f.ret(),
      );
      f.loop((again) => {
        f.do(
          call(
            writeAt.ref,
            base,
            i64.add(la, i64.extend_u(n.get)),
            i64.and(i64.shr_u(v, i64.extend_u(i32.shl(n.get, c32(3)))), c64(0xff)),
            c32(1),
            acc,
            bank,
          ),
        );
        f.set(n, i32.add(n.get, c32(1)));
        f.brIf(again, i32.lt_u(n.get, size));
      });
      f.ret();
    });
    f.set(e, call(fill.ref, base, la, acc, bank));
    f.if(i32.eqz(e.get), () => f.ret());
    f.if(i32.eq(e.get, c32(1)), () => {
      const gpa = new F64Of(ld.i64(base, S.PHYS));
      f.if(
        i32.eq(size, c32(8)),
        () => {
          // The handler may change PHYS: keep the address.
          const at = f.temp(F64);
          f.set(at, gpa.node);
          f.do(call(imp.mmioWrite, base, at.get, c32(4), i32.wrap(v)));
          f.do(call(imp.mmioWrite, base, F64Of.add(at.get, 4), c32(4), i32.wrap(i64.shr_u(v, c64(32)))));
        },
        () => f.do(call(imp.mmioWrite, base, gpa.node, size, i32.wrap(v))),
      );
      f.ret();
    });
    f.do(call(storeHost.ref, base, hostOf(e.get, la), v, size));
  }
  const guarded = (f: Fn, la: Node, size: Node, write: number, giveUp: () => void): void => {
    const base = p(f, 0);
    f.set(f.params[1] as Local, call(prologue.ref, base, la, size, c32(write)));
    f.if(ld.i32(base, S.FAULT), giveUp);
  };
  /** Accesses that lie in two pages, if both are at hand: `body` gets the parts' host addresses and the first one's length. */
  const inTwoPages = (f: Fn, size: Node, acc: number, body: (first: Node, second: Node, n1: Node) => void): void => {
    const base = p(f, 0);
    const la = p(f, 1);
    const n1 = f.local(I32);
    const first = f.local(I32);
    const second = f.local(I32);
    f.set(n1, i32.sub(c32(4096), i32.and(i32.wrap(la), c32(4095))));
    f.if(i32.lt_u(n1.get, size), () => {
      f.set(first, call(tryPtr.ref, base, la, n1.get, c32(acc)));
      f.if(first.get, () => {
        f.set(second, call(tryPtr.ref, base, i64.add(la, i64.extend_u(n1.get)), i32.sub(size, n1.get), c32(acc)));
        f.if(second.get, () => body(first.get, second.get, n1.get));
      });
    });
  };
  {
    const f = readMiss;
    inTwoPages(f, p(f, 2), 0, (first, second, n1) => {
      // The first page's last 8 bytes and the second one's first 8, each shifted to its place.
      const bits = (bytes: Node): Node => i64.extend_u(i32.shl(bytes, c32(3)));
      const low = i64.shr_u(ld.i64(i32.sub(i32.add(first, n1), c32(8))), bits(i32.sub(c32(8), n1)));
      const all = i64.or(low, i64.shl(ld.i64(second), bits(n1)));
      f.ret(i64.and(all, i64.shr_u(c64(-1), bits(i32.sub(c32(8), p(f, 2))))));
    });
    guarded(f, p(f, 1), p(f, 2), 0, () => f.ret(c64(0)));
    f.emit(call(readAt.ref, p(f, 0), p(f, 1), p(f, 2), call(dataAcc.ref, p(f, 0)), ld.i32(p(f, 0), S.TLB_DATA)));
  }
  {
    const f = writeMiss;
    inTwoPages(f, p(f, 3), 1, (first, second, n1) => {
      const i = f.local(I32);
      f.loop((again) => {
        f.st8(
          select(i32.lt_u(i.get, n1), i32.add(first, i.get), i32.add(second, i32.sub(i.get, n1))),
          i32.wrap(i64.shr_u(p(f, 2), i64.extend_u(i32.shl(i.get, c32(3))))),
        );
        f.set(i, i32.add(i.get, c32(1)));
        f.brIf(again, i32.lt_u(i.get, p(f, 3)));
      });
      f.ret();
    });
    guarded(f, p(f, 1), p(f, 3), 1, () => f.ret());
    f.do(
      call(writeAt.ref, p(f, 0), p(f, 1), p(f, 2), p(f, 3), call(dataAcc.ref, p(f, 0)), ld.i32(p(f, 0), S.TLB_DATA)),
    );
  }
  {
    const f = rmwMiss;
    const base = p(f, 0);
    const la = p(f, 1);
    const size = p(f, 2);
    const e = f.local(I32);
    const acc = f.local(I32);
    const v = f.local(I64);
    guarded(f, la, size, 1, () => f.ret(c32(0)));
    f.set(acc, i32.or(call(dataAcc.ref, base), c32(S.ACC_WRITE)));
    f.set(e, call(fill.ref, base, la, acc.get, ld.i32(base, S.TLB_DATA)));
    f.if(i32.eqz(e.get), () => f.ret(c32(0)));
    f.if(
      crosses(la, size),
      () => {
        f.set(
          e,
          call(fill.ref, base, i64.and(i64.add(la, i64.extend_u(size)), c64(-4096)), acc.get, ld.i32(base, S.TLB_DATA)),
        );
        f.if(i32.eqz(e.get), () => f.ret(c32(0)));
      },
      () => {
        f.if(i32.ne(e.get, c32(1)), () => {
          const h = f.temp(I32);
          f.set(h, hostOf(e.get, la));
          f.if(i32.eqz(ld.i32_8u(i32.shr_u(i32.sub(h.get, c32(L.ram)), c32(12)), L.pageFlags)), () => f.ret(h.get));
        });
      },
    );
    f.set(v, call(readAt.ref, base, la, size, call(dataAcc.ref, base), ld.i32(base, S.TLB_DATA)));
    f.if(ld.i32(base, S.FAULT), () => f.ret(c32(0)));
    f.st64(base, v.get, S.RMW_DATA);
    f.st64(base, la, S.RMW_ADDR);
    f.st32(base, size, S.RMW_SIZE);
    f.emit(i32.add(base, c32(S.RMW_DATA)));
  }
  {
    const f = rmwCommit;
    const base = p(f, 0);
    const host = f.local(I32);
    const size = f.local(I32);
    f.set(size, ld.i32(base, S.RMW_SIZE));
    f.st32(base, c32(0), S.RMW_SIZE);
    if (shared) {
      f.set(host, ld.i32(base, S.RMW_HOST));
      f.if(host.get, () => {
        f.st32(base, c32(0), S.RMW_HOST);
        f.do(call(stored.ref, base, host.get, size.get));
        f.ret();
      });
    }
    f.do(
      call(
        writeAt.ref,
        base,
        ld.i64(base, S.RMW_ADDR),
        ld.i64(base, S.RMW_DATA),
        size.get,
        call(dataAcc.ref, base),
        ld.i32(base, S.TLB_DATA),
      ),
    );
    if (shared) {
      f.if(ld.i32(base, S.RMW_STOPPED), () => {
        f.st32(base, c32(0), S.RMW_STOPPED);
        f.do(call(imp.go, base));
      });
    }
  }
  {
    // (base, la, size, acc, bank) → host address: of the operand itself, with RMW_HOST and RMW_SIZE set if its page has
    // flags, or of the scratch.
    const f = lockAt;
    const base = p(f, 0);
    const la = p(f, 1);
    const size = p(f, 2);
    const acc = p(f, 3);
    const bank = p(f, 4);
    const e = f.local(I32);
    const e2 = f.local(I32);
    const h = f.local(I32);
    const fl = f.local(I32);
    const v = f.local(I64);
    const last = i64.and(i64.add(la, i64.extend_u(i32.sub(size, c32(1)))), c64(-4096));
    const both = (fault: () => void): void => {
      f.set(e, call(fill.ref, base, la, acc, bank));
      f.if(i32.eqz(e.get), fault);
      f.set(h, hostOf(e.get, la));
      f.set(e2, e.get);
      f.if(crosses(la, size), () => {
        f.set(e2, call(fill.ref, base, last, acc, bank));
        f.if(i32.eqz(e2.get), fault);
      });
    };
    both(() => f.ret(c32(0)));
    f.if(i32.ne(e.get, c32(1)), () => {
      f.set(fl, ld.i32_8u(i32.shr_u(i32.sub(h.get, c32(L.ram)), c32(12)), L.pageFlags));
      f.if(
        i32.and(i32.eqz(i32.and(i32.wrap(la), i32.sub(size, c32(1)))), i32.eqz(i32.and(fl.get, c32(S.PF_ROM)))),
        () => {
          f.if(fl.get, () => {
            f.st32(base, h.get, S.RMW_HOST);
            f.st32(base, size, S.RMW_SIZE);
          });
          f.ret(h.get);
        },
      );
    });
    // A split lock: nobody else may see the middle of it. Devices are on one thread, nobody needs to stand still for them.
    f.if(i32.and(i32.ne(e.get, c32(1)), i32.ne(e2.get, c32(1))), () => {
      f.do(call(imp.stop, base));
      f.st32(base, c32(1), S.RMW_STOPPED);
      both(() => {
        f.st32(base, c32(0), S.RMW_STOPPED);
        f.do(call(imp.go, base));
        f.ret(c32(0));
      });
    });
    f.set(v, call(readAt.ref, base, la, size, acc, bank));
    f.st64(base, v.get, S.RMW_DATA);
    f.st64(base, la, S.RMW_ADDR);
    f.st32(base, size, S.RMW_SIZE);
    f.emit(i32.add(base, c32(S.RMW_DATA)));
  }
  {
    const f = lockMiss;
    const base = p(f, 0);
    guarded(f, p(f, 1), p(f, 2), 1, () => f.ret(c32(0)));
    f.emit(
      call(
        lockAt.ref,
        base,
        p(f, 1),
        p(f, 2),
        i32.or(call(dataAcc.ref, base), c32(S.ACC_WRITE)),
        ld.i32(base, S.TLB_DATA),
      ),
    );
  }
  {
    const f = lock16;
    const base = p(f, 0);
    const la = p(f, 1);
    const e = f.local(I32);
    const acc = f.local(I32);
    const equal = f.local(I32);
    const memory = f.local(I32);
    const lo = f.local(I64);
    const hi = f.local(I64);
    const hiAt = i64.add(la, c64(8));
    const bank = ld.i32(base, S.TLB_DATA);
    f.set(acc, i32.or(call(dataAcc.ref, base), c32(S.ACC_WRITE)));
    f.do(call(imp.stop, base));
    f.set(e, call(fill.ref, base, la, acc.get, bank));
    f.set(memory, i32.gt_u(e.get, c32(1)));
    f.if(i32.eqz(memory.get), () => f.do(call(imp.go, base)));
    f.if(i32.eqz(e.get), () => f.ret(c32(0)));
    f.set(lo, call(readAt.ref, base, la, c32(8), acc.get, bank));
    f.set(hi, call(readAt.ref, base, hiAt, c32(8), acc.get, bank));
    f.set(equal, i32.and(i64.eq(lo.get, p(f, 2)), i64.eq(hi.get, p(f, 3))));
    f.do(call(writeAt.ref, base, la, select(equal.get, p(f, 4), lo.get), c32(8), acc.get, bank));
    f.do(call(writeAt.ref, base, hiAt, select(equal.get, p(f, 5), hi.get), c32(8), acc.get, bank));
    f.if(memory.get, () => f.do(call(imp.go, base)));
    f.st64(base, lo.get, S.RMW_DATA);
    f.st64(base, hi.get, S.RMW_DATA + 8);
    f.emit(equal.get);
  }
  {
    // (base, la, and, or): one byte, with the supervisor's rights.
    const f = m.fn([I32, F64, I32, I32], 0, 'sysMask');
    const base = p(f, 0);
    const la = f.local(I64);
    const h = f.local(I32);
    const old = f.local(I32);
    const next = i32.or(i32.and(old.get, p(f, 2)), p(f, 3));
    f.set(la, i64.trunc_sat_f64_s(p(f, 1)));
    f.set(la, call(prologue.ref, base, la.get, c32(1), c32(1)));
    f.if(ld.i32(base, S.FAULT), () => f.ret());
    const acc = c32(S.ACC_IMPLICIT | S.ACC_WRITE);
    const bank = ld.i32(base, S.TLB_SYS);
    if (!shared) {
      f.set(old, i32.wrap(call(readAt.ref, base, la.get, c32(1), acc, bank)));
      f.if(ld.i32(base, S.FAULT), () => f.ret());
      f.do(call(writeAt.ref, base, la.get, i64.extend_u(next), c32(1), acc, bank));
    } else {
      f.set(h, call(lockAt.ref, base, la.get, c32(1), acc, bank));
      f.if(ld.i32(base, S.FAULT), () => f.ret());
      f.loop((again) => {
        f.set(old, ld.i32_8u(h.get));
        f.brIf(again, i32.ne(cmpxchg(1, h.get, old.get, next), old.get));
      });
      f.if(ld.i32(base, S.RMW_SIZE), () => {
        f.if(
          ld.i32(base, S.RMW_HOST),
          () => f.do(call(rmwCommit.ref, base)),
          () => {
            f.st32(base, c32(0), S.RMW_SIZE);
            f.do(call(writeAt.ref, base, la.get, ld.i64(base, S.RMW_DATA), c32(1), acc, bank));
          },
        );
      });
    }
  }
  {
    const f = fetchMiss;
    const base = p(f, 0);
    const la = p(f, 1);
    const e = f.local(I32);
    f.if(i32.and(ld.i32(base, S.EFER), c32(0x400)), () => {
      f.if(i32.eqz(isCanonical(la)), () => {
        f.do(call(raise.ref, base, c32(S.EXC_GP), c32(0)));
        f.ret(c32(0));
      });
    });
    f.set(
      e,
      call(
        fill.ref,
        base,
        la,
        i32.or(select(i32.eq(ld.i32(base, S.CPL), c32(3)), c32(S.ACC_USER), c32(0)), c32(S.ACC_EXEC)),
        ld.i32(base, S.TLB_CODE),
      ),
    );
    f.if(i32.le_u(e.get, c32(1)), () => f.ret(c32(0)));
    f.emit(hostOf(e.get, la));
  }
  {
    // (base, la, size, write)
    const f = probe;
    const base = p(f, 0);
    const la = p(f, 1);
    const acc = f.local(I32);
    guarded(f, la, p(f, 2), 0, () => f.ret());
    f.set(acc, i32.or(call(dataAcc.ref, base), p(f, 3)));
    f.if(i32.eqz(call(fill.ref, base, la, acc.get, ld.i32(base, S.TLB_DATA))), () => f.ret());
    f.if(crosses(la, p(f, 2)), () => {
      f.do(
        call(
          fill.ref,
          base,
          i64.and(i64.add(la, i64.extend_u(i32.sub(p(f, 2), c32(1)))), c64(-4096)),
          acc.get,
          ld.i32(base, S.TLB_DATA),
        ),
      );
    });
  }
  // Host address if all of [la, la + size), within one page, can be accessed at once; else 0. FAULT and its companions stay
  // as they are: whoever makes the access meets the fault, and who asks may be about to deliver another.
  const emitPointer = (f: Fn, bank: Node, acc: () => Node): void => {
    const base = p(f, 0);
    const la = p(f, 1);
    const e = f.local(I32);
    const tag = f.local(I64);
    const fault = f.local(I32);
    const code = f.local(I32);
    const addr = f.local(I64);
    f.if(ld.i32(base, S.NOFILL), () => f.ret(c32(0)));
    f.set(tag, i64.and(i64.add(la, i64.extend_u(i32.sub(p(f, 2), c32(1)))), c64(-4096)));
    f.set(e, tlbSlot(la, bank));
    const hit = (): void =>
      f.if(i64.eq(ld.i64(i32.add(e.get, i32.shl(p(f, 3), c32(3)))), tag.get), () => f.ret(hostOf(e.get, la)));
    hit();
    f.if(
      i32.and(ld.i32(base, S.EFER), c32(0x400)),
      () => f.if(i32.eqz(isCanonical(la)), () => f.ret(c32(0))),
      () => f.if(i64.ne(i64.and(la, c64(0xffffffff)), la), () => f.ret(c32(0))),
    );
    f.set(fault, ld.i32(base, S.FAULT));
    f.set(code, ld.i32(base, S.FAULT_CODE));
    f.set(addr, ld.i64(base, S.FAULT_ADDR));
    f.set(e, call(fill.ref, base, la, acc(), bank));
    f.st32(base, fault.get, S.FAULT);
    f.st32(base, code.get, S.FAULT_CODE);
    f.st64(base, addr.get, S.FAULT_ADDR);
    // No entry: it faults, or is no memory.
    f.if(i32.le_u(e.get, c32(1)), () => f.ret(c32(0)));
    hit();
    f.emit(c32(0));
  };
  emitPointer(tryPtr, ld.i32(p(tryPtr, 0), S.TLB_DATA), () => i32.or(p(tryPtr, 3), call(dataAcc.ref, p(tryPtr, 0))));
  emitPointer(pointer, p(pointer, 4), () => p(pointer, 5));

  // Entry points for TypeScript; addresses are signed doubles.
  const bankOf = (base: Node, access: Node): Node =>
    select(i32.and(access, c32(S.ACC_IMPLICIT)), ld.i32(base, S.TLB_SYS), ld.i32(base, S.TLB_DATA));
  const accOf = (base: Node, access: Node): Node =>
    select(
      i32.and(access, c32(S.ACC_IMPLICIT)),
      i32.and(access, c32(S.ACC_WRITE | S.ACC_IMPLICIT)),
      i32.or(access, call(dataAcc.ref, base)),
    );
  const sysGuard = (f: Fn, la: Local, size: Node, giveUp: () => void): void => {
    f.set(la, i64.trunc_sat_f64_s(p(f, 1)));
    f.set(la, call(prologue.ref, p(f, 0), la.get, size, c32(0)));
    f.if(ld.i32(p(f, 0), S.FAULT), giveUp);
  };
  {
    const f = m.fn([I32, F64, I32, I32], I32, 'sysRead');
    const la = f.local(I64);
    sysGuard(f, la, p(f, 2), () => f.ret(c32(0)));
    f.emit(i32.wrap(call(readAt.ref, p(f, 0), la.get, p(f, 2), accOf(p(f, 0), p(f, 3)), bankOf(p(f, 0), p(f, 3)))));
  }
  {
    const f = m.fn([I32, F64, I32, I32, I32], 0, 'sysWrite');
    const la = f.local(I64);
    sysGuard(f, la, p(f, 2), () => f.ret());
    f.do(
      call(
        writeAt.ref,
        p(f, 0),
        la.get,
        i64.extend_u(p(f, 3)),
        p(f, 2),
        accOf(p(f, 0), p(f, 4)),
        bankOf(p(f, 0), p(f, 4)),
      ),
    );
  }
  {
    const f = m.fn([I32, F64, I32, I32], 0, 'sysProbe');
    const la = f.local(I64);
    sysGuard(f, la, p(f, 2), () => f.ret());
    f.if(i32.eqz(call(fill.ref, p(f, 0), la.get, accOf(p(f, 0), p(f, 3)), bankOf(p(f, 0), p(f, 3)))), () => f.ret());
    f.if(crosses(la.get, p(f, 2)), () => {
      f.do(
        call(
          fill.ref,
          p(f, 0),
          i64.and(i64.add(la.get, i64.extend_u(i32.sub(p(f, 2), c32(1)))), c64(-4096)),
          accOf(p(f, 0), p(f, 3)),
          bankOf(p(f, 0), p(f, 3)),
        ),
      );
    });
  }
  {
    // (log, banks, all): drops what an address space holds, or all of it but global pages.
    const f = flushSpace;
    const log = p(f, 0);
    const i = f.local(I32);
    const e = f.local(I32);
    const n = f.tmp(ld.i32(log));
    const globals = f.tmp(ld.i32(log, S.TLB_GLOBAL_LOG));
    f.if(i32.or(i32.gt_u(n, c32(S.TLB_LOG_SIZE)), i32.gt_u(globals, c32(S.TLB_LOG_SIZE))), () => {
      f.fill(p(f, 1), c32(0xff), c32(S.TLB_SPACE));
      f.st32(log, c32(0));
      f.st32(log, c32(0), S.TLB_GLOBAL_LOG);
      f.ret();
    });
    // After few fills undo just those.
    const undo = (count: Node, at: number, unless: (() => Node) | null): void => {
      f.set(i, c32(0));
      f.block((out) => {
        f.loop((again) => {
          f.brIf(out, i32.ge_u(i.get, count));
          f.set(e, ld.i32(i32.add(log, i32.shl(i.get, c32(2))), at + 4));
          f.set(i, i32.add(i.get, c32(1)));
          if (unless !== null) f.brIf(again, unless());
          f.st64(e.get, c64(-1), 0);
          f.st64(e.get, c64(-1), 8);
          f.st64(e.get, c64(-1), 16);
          f.br(again);
        });
      });
      f.st32(log, c32(0), at);
    };
    f.if(
      p(f, 2),
      () => {
        undo(n, 0, null);
        undo(globals, S.TLB_GLOBAL_LOG, null);
      },
      // What has become a global page's since is in the other log.
      () => undo(n, 0, () => ld.i32(e.get, 28)),
    );
  }
  {
    // all: 1 every address space; 0 the one in use, whose banks begin at TLB_SYS, but for global pages.
    const f = flushTlb;
    const base = p(f, 0);
    f.if(
      p(f, 1),
      () => {
        for (let n = 0; n < S.TLB_SPACES; n++)
          f.do(
            call(
              flushSpace.ref,
              i32.add(base, c32(S.STATE_SIZE + S.TLB_BANKS + n * S.TLB_LOG_BYTES)),
              i32.add(base, c32(S.STATE_SIZE + n * S.TLB_SPACE)),
              c32(1),
            ),
          );
        f.fill(i32.add(base, c32(S.LARGE_PAGES)), c32(0), c32(1 << (S.LARGE_PAGES_LOG2 - 3)));
      },
      () => f.do(call(flushSpace.ref, ld.i32(base, S.TLB_LOG), ld.i32(base, S.TLB_SYS), c32(0))),
    );
  }
  {
    const f = m.fn([I32, F64], 0, 'flushPage');
    f.do(call(dropPage.ref, p(f, 0), i64.trunc_sat_f64_s(p(f, 1))));
  }
  {
    const f = dropPage;
    const base = p(f, 0);
    const la = p(f, 1);
    const e = f.local(I32);
    const v = f.local(I32);
    const end = f.local(I32);
    const log = f.local(I32);
    // A page above 4 KiB: its pieces may be anywhere.
    const inLarge = (shift: number): Node => {
      const h = f.tmp(largeHash(la, c64(shift)));
      return i32.and(ld.i32_8u(largeByte(base, h)), largeMask(h));
    };
    f.if(i32.or(i32.or(inLarge(21), inLarge(22)), inLarge(30)), () => {
      f.do(call(flushTlb.ref, base, c32(1)));
      f.ret();
    });
    f.set(e, tlbSlot(la, i32.add(base, c32(S.STATE_SIZE))));
    f.set(v, victimOf(i32.add(base, c32(S.STATE_SIZE)), la));
    f.set(log, i32.add(base, c32(S.STATE_SIZE + S.TLB_BANKS)));
    f.loop((spaces) => {
      f.if(
        i32.or(ld.i32(log.get), ld.i32(log.get, S.TLB_GLOBAL_LOG)),
        () => {
          f.set(end, i32.add(e.get, c32(S.TLB_SPACE)));
          f.loop((again) => {
            for (const at of [e, v]) {
              f.st64(at.get, c64(-1), 0);
              f.st64(at.get, c64(-1), 8);
              f.st64(at.get, c64(-1), 16);
              f.set(at, i32.add(at.get, c32(S.TLB_BANK)));
            }
            f.brIf(again, i32.lt_u(e.get, end.get));
          });
        },
        () => {
          // Nothing in this space.
          f.set(e, i32.add(e.get, c32(S.TLB_SPACE)));
          f.set(v, i32.add(v.get, c32(S.TLB_SPACE)));
        },
      );
      f.set(log, i32.add(log.get, c32(S.TLB_LOG_BYTES)));
      f.brIf(spaces, i32.lt_u(log.get, i32.add(base, c32(S.LARGE_PAGES))));
    });
  }
  {
    // (base, host page address): no fast writes to this page any more.
    const f = m.fn([I32, I32], 0, 'protectPage');
    const base = p(f, 0);
    const e = f.local(I32);
    const end = f.local(I32);
    const log = f.local(I32);
    const n = f.local(I32);
    const space = f.local(I32);
    const drop = (): void =>
      f.if(i32.eq(i32.add(i32.wrap(ld.i64(e.get, 8)), ld.i32(e.get, 24)), p(f, 1)), () => f.st64(e.get, c64(-1), 8));
    f.set(log, i32.add(base, c32(S.STATE_SIZE + S.TLB_BANKS)));
    f.set(space, i32.add(base, c32(S.STATE_SIZE)));
    f.loop((spaces) => {
      const few = (at: number): Node => i32.le_u(ld.i32(log.get, at), c32(S.TLB_LOG_SIZE));
      f.if(
        i32.and(few(0), few(S.TLB_GLOBAL_LOG)),
        () => {
          // Whatever the space holds is in its logs.
          for (const at of [0, S.TLB_GLOBAL_LOG]) {
            f.set(n, ld.i32(log.get, at));
            f.block((out) => {
              f.loop((again) => {
                f.brIf(out, i32.eqz(n.get));
                f.set(e, ld.i32(i32.add(log.get, i32.shl(n.get, c32(2))), at));
                drop();
                f.set(n, i32.sub(n.get, c32(1)));
                f.br(again);
              });
            });
          }
        },
        () => {
          f.set(e, space.get);
          f.set(end, i32.add(space.get, c32(S.TLB_SPACE)));
          f.loop((again) => {
            drop();
            f.set(e, i32.add(e.get, c32(S.TLB_STRIDE)));
            f.brIf(again, i32.lt_u(e.get, end.get));
          });
        },
      );
      f.set(log, i32.add(log.get, c32(S.TLB_LOG_BYTES)));
      f.set(space, i32.add(space.get, c32(S.TLB_SPACE)));
      f.brIf(spaces, i32.lt_u(space.get, i32.add(base, c32(S.STATE_SIZE + S.TLB_BANKS))));
    });
  }
  return {
    fill: fill.ref,
    readMiss: readMiss.ref,
    writeMiss: writeMiss.ref,
    rmwMiss: rmwMiss.ref,
    rmwCommit: rmwCommit.ref,
    lockMiss: lockMiss.ref,
    lock16: lock16.ref,
    fetchMiss: fetchMiss.ref,
    raise: raise.ref,
    probe: probe.ref,
    tryPtr: tryPtr.ref,
    pointer: pointer.ref,
    physical: ramPtr.ref,
    flushTlb: flushTlb.ref,
    dropPage: dropPage.ref,
  };
}

/** A physical address as the double that imports take. */
class F64Of {
  readonly node: Node;
  constructor(v: Node) {
    this.node = f64OfI64(v);
  }
  plus(n: number): Node {
    return F64Of.add(this.node, n);
  }
  static add(v: Node, n: number): Node {
    return addF64(v, n);
  }
}

function f64OfI64(v: Node): Node {
  return f64.convert_i64_u(v);
}
function addF64(v: Node, n: number): Node {
  return f64.add(v, f64.convert_i32_s(c32(n)));
}
