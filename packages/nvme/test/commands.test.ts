import { MemoryDisk, settle } from '@hyve/testkit';
import { describe, expect, it } from 'vitest';
import type { NvmeOptions } from '../src/index.ts';
import { DATA, Guest, REPLY, sgl } from './kit.ts';

async function make(
  o: ConstructorParameters<typeof MemoryDisk>[0] = {},
  options: Partial<NvmeOptions> = {},
): Promise<{ g: Guest; disk: MemoryDisk }> {
  const disk = new MemoryDisk({ size: 4 << 20, ...o });
  const g = new Guest({ backend: disk, ...options });
  g.enable();
  await g.pair();
  return { g, disk };
}

const identify = (cns: number, nsid = 0) => ({ opcode: 6, nsid, prp1: REPLY, dw10: cns });
const u64 = (g: Guest, a: number): number => g.rig.ram.read32(a) + g.rig.ram.read32(a + 4) * 2 ** 32;

describe('IDENTIFY (NVMe 1.4 §5.15)', () => {
  it('controller', async () => {
    const { g } = await make({}, { serial: 'S-1' });
    expect(await g.status(0, identify(1))).toBe(0);
    expect(g.rig.ram.read16(REPLY)).toBe(0xfb5d);
    expect(g.text(REPLY + 4, 20)).toBe('S-1'.padEnd(20));
    expect(g.text(REPLY + 24, 40)).toBe('bhyve-NVMe'.padEnd(40));
    expect(g.bytes(REPLY + 77, 1)).toEqual([9]);
    expect(g.bytes(REPLY + 512, 2)).toEqual([0x66, 0x44]);
    expect(g.rig.ram.read32(REPLY + 516)).toBe(1);
    expect(g.rig.ram.read16(REPLY + 520)).toBe(0x9d);
    expect(g.text(REPLY + 768, 4)).toBe('nqn.');
  });
  it('namespace, with blocks of 512 and 4096 bytes', async () => {
    const a = await make({ physical: 4096 });
    expect(await a.g.status(0, identify(0, 1))).toBe(0);
    expect([u64(a.g, REPLY), a.g.bytes(REPLY + 130, 1)[0], a.g.rig.ram.read16(REPLY + 64)]).toEqual([8192, 9, 7]);
    expect(a.g.bytes(REPLY + 99, 1)).toEqual([0]);
    const b = await make({ readOnly: true }, { blockSize: 4096, eui64: 0x0102_0304_0506_0708n });
    expect(await b.g.status(0, identify(0, 1))).toBe(0);
    expect([u64(b.g, REPLY), b.g.bytes(REPLY + 130, 1)[0]]).toEqual([1024, 12]);
    expect(b.g.bytes(REPLY + 99, 1)).toEqual([1]);
    expect(b.g.bytes(REPLY + 120, 8)).toEqual([1, 2, 3, 4, 5, 6, 7, 8]);
  });
  it('lists and descriptors; refusals', async () => {
    const { g } = await make();
    expect(await g.status(0, identify(2, 0))).toBe(0);
    expect(g.rig.ram.read32(REPLY)).toBe(1);
    expect(await g.status(0, identify(2, 1))).toBe(0);
    expect(g.rig.ram.read32(REPLY)).toBe(0);
    expect(await g.status(0, identify(3, 1))).toBe(0);
    expect(g.bytes(REPLY, 7)).toEqual([1, 8, 0, 0, 0x58, 0x9c, 0xfc]);
    expect(await g.status(0, identify(0, 2))).toBe(0x00b);
    expect(await g.status(0, identify(0x10, 1))).toBe(0x002);
    expect(await g.status(0, identify(2, 0xffff_ffff))).toBe(0x00b);
  });
});

describe('features (§5.21)', () => {
  const get = (id: number, select = 0, dw11 = 0) => ({ opcode: 0x0a, dw10: id | (select << 8), dw11 });
  const set = (id: number, dw11: number) => ({ opcode: 9, dw10: id, dw11 });
  it('are got and set, with defaults, saved values and capabilities', async () => {
    const { g } = await make();
    expect((await g.admin(get(6))).result).toBe(1);
    expect(await g.status(0, set(6, 0))).toBe(0);
    expect((await g.admin(get(6))).result).toBe(0);
    expect((await g.admin(get(6, 1))).result).toBe(1);
    expect((await g.admin(get(6, 2))).result).toBe(1);
    expect((await g.admin(get(6, 3))).result).toBe(4);
    for (const id of [1, 2, 5, 8, 0x0a, 0x0b]) expect((await g.admin(get(id))).status).toBe(0);
    expect(await g.status(0, set(8, 0x1234))).toBe(0);
    expect((await g.admin(get(8))).result).toBe(0x1234);
    expect(await g.status(0, { opcode: 9, dw10: 0x8000_0006 })).toBe(0x10d);
    expect(await g.status(0, get(0x7f))).toBe(0x002);
    expect(await g.status(0, set(0x7f, 0))).toBe(0x002);
    expect(await g.status(0, set(2, 1))).toBe(0x002);
    expect((await g.admin(get(4, 0, 0))).result).toBe(0xffff);
    expect(await g.status(0, set(9, 0x0001_0010))).toBe(0);
    expect((await g.admin(get(9, 0, 0x10))).result).toBe(0x0001_0010);
    expect(await g.status(0, get(9, 0, 17))).toBe(0x002);
    // A controller reset brings the defaults back.
    g.disable();
    g.enable();
    expect((await g.admin(get(6))).result).toBe(1);
  });
  it('number of queues: at most what there are, and before any is created', async () => {
    const { g } = await make();
    expect(await g.status(0, set(7, 0x0001_0001))).toBe(0x00c);
    g.disable();
    g.enable();
    expect((await g.admin(set(7, 0x0003_0001))).result).toBe(0x0003_0003);
    expect((await g.admin(get(7))).result).toBe(0x0003_0003);
    expect((await g.admin(set(7, 0x00ff_00ff))).result).toBe(0x000f_000f);
    expect(await g.status(0, set(7, 0xffff_0000))).toBe(0x002);
  });
});

describe('log pages (§5.14)', () => {
  const log = (id: number, bytes: number, o: { from?: number; retain?: boolean; nsid?: number } = {}) => ({
    opcode: 2,
    nsid: o.nsid ?? 0xffff_ffff,
    prp1: REPLY,
    dw10: (id | (o.retain === true ? 0x8000 : 0) | ((bytes / 4 - 1) << 16)) >>> 0,
    dw12: o.from ?? 0,
  });
  it('SMART counts', async () => {
    const { g, disk } = await make();
    for (let i = 0; i < 3; i++) await g.run(1, g.rw(false, 0, 8, DATA));
    disk.status = 'io-error';
    expect(await g.status(1, g.rw(true, 0, 1, DATA))).toBe(0x280);
    expect(await g.status(0, log(2, 512))).toBe(0);
    expect(g.rig.ram.read16(REPLY + 1)).toBe(300);
    expect([32, 48, 64, 80, 160, 176].map((o) => u64(g, REPLY + o))).toEqual([1, 0, 3, 1, 1, 1]);
  });
  it('errors, newest first', async () => {
    const { g } = await make();
    await g.run(1, g.rw(false, 1e6, 1, DATA));
    await g.run(1, { opcode: 0x7f, cid: 0x77 });
    expect(await g.status(0, log(1, 128))).toBe(0);
    expect([u64(g, REPLY), g.rig.ram.read16(REPLY + 8), g.rig.ram.read16(REPLY + 10)]).toEqual([2, 1, 0x77]);
    expect(g.rig.ram.read16(REPLY + 12) & 0xfff).toBe(2);
    expect([u64(g, REPLY + 64), u64(g, REPLY + 80)]).toEqual([1, 1e6]);
  });
  it('firmware, changed namespaces, effects; offsets and refusals', async () => {
    const { g } = await make();
    expect(await g.status(0, log(3, 512))).toBe(0);
    expect(g.text(REPLY + 8, 3)).toBe('1.0');
    expect(await g.status(0, log(4, 4096))).toBe(0);
    expect(await g.status(0, log(5, 4096))).toBe(0);
    expect(g.rig.ram.read32(REPLY + 1024 + 4)).toBe(3);
    expect(await g.status(0, log(5, 4, { from: 1028 }))).toBe(0);
    expect(g.rig.ram.read32(REPLY)).toBe(3);
    g.rig.ram.fill(REPLY, 4096, 0xaa);
    expect(await g.status(0, log(3, 1024))).toBe(0);
    expect(g.bytes(REPLY + 512, 2)).toEqual([0, 0]); // past the log: zeros
    expect(g.bytes(REPLY + 1024, 1)).toEqual([0xaa]);
    expect(await g.status(0, log(0x70, 4))).toBe(0x109);
    expect(await g.status(0, log(2, 4, { from: 512 }))).toBe(0x002);
    expect(await g.status(0, log(2, 4, { from: 2 }))).toBe(0x002);
    expect(await g.status(0, log(2, 4, { nsid: 7 }))).toBe(0x00b);
    expect(await g.status(0, { opcode: 2, prp1: REPLY, dw10: 0xffff_0002, dw11: 0xffff })).toBe(0x002);
  });
});

describe('asynchronous events (§5.2)', () => {
  it('four requests, no more', async () => {
    const { g } = await make();
    for (let i = 0; i < 4; i++) g.submit(0, { opcode: 0x0c });
    await settle();
    expect(g.poll(0)).toBe(null);
    expect((await g.admin({ opcode: 0x0c })).status).toBe(0x105);
  });
  it('a resized namespace is announced to those who asked', async () => {
    const { g, disk } = await make();
    const grow = (size: number): void => {
      Object.defineProperty(disk, 'size', { value: size, configurable: true });
      g.dev.resized();
    };
    g.submit(0, { opcode: 0x0c });
    grow(5 << 20);
    expect(g.poll(0)).toBe(null);
    await g.admin({ opcode: 9, dw10: 0x0b, dw11: 0x100 });
    grow(6 << 20);
    expect(g.poll(0)?.result).toBe(0x0004_0002);
    expect(await g.status(0, { opcode: 2, nsid: 0xffff_ffff, prp1: REPLY, dw10: 0x04 | (1023 << 16) })).toBe(0);
    expect(g.rig.ram.read32(REPLY)).toBe(1);
    expect(await g.status(0, identify(0, 1))).toBe(0);
    expect(u64(g, REPLY)).toBe((6 << 20) / 512);
    g.dev.resized(); // no change, no event
  });
  it('a temperature threshold below the temperature', async () => {
    const { g } = await make();
    const cid = g.submit(0, { opcode: 0x0c });
    await g.admin({ opcode: 9, dw10: 0x0b, dw11: 2 });
    g.submit(0, { opcode: 9, dw10: 4, dw11: 290 });
    expect(g.poll(0)?.status).toBe(0);
    expect(g.poll(0)).toMatchObject({ cid, result: 0x0002_0101 });
    expect(await g.status(0, { opcode: 2, nsid: 0xffff_ffff, prp1: REPLY, dw10: 0x02 | (127 << 16) })).toBe(0);
    expect(g.bytes(REPLY, 1)).toEqual([2]);
  });
});

describe('other admin commands', () => {
  it('ABORT is too late, FORMAT zeroes, firmware and unknown commands are refused', async () => {
    const { g, disk } = await make();
    expect(await g.admin({ opcode: 8, dw10: 1 })).toMatchObject({ status: 0, result: 1 });
    for (const opcode of [0x10, 0x11, 0x0d, 0x18, 0x7f, 0x81])
      expect(await g.admin({ opcode })).toMatchObject({ status: 0x001, dnr: true });
    expect(await g.status(0, { opcode: 0x80, nsid: 1, dw10: 0x200 })).toBe(0);
    expect(disk.bytes.every((b) => b === 0)).toBe(true);
    expect(disk.log).toEqual([`zero 0+${4 << 20} unmap`, 'flush']);
    expect(await g.status(0, { opcode: 0x80, nsid: 1, dw10: 1 })).toBe(0x10a);
    expect(await g.status(0, { opcode: 0x80, nsid: 1, dw10: 0x20 })).toBe(0x002);
    expect(await g.status(0, { opcode: 0x80, nsid: 1, dw10: 0x400 })).toBe(0x002);
    expect(await g.status(0, { opcode: 0x80, nsid: 5 })).toBe(0x00b);
    expect(await g.status(0, { ...identify(1), flags: 0x40 })).toBe(0x002);
    expect(await g.status(0, { ...identify(1), flags: 0x01 })).toBe(0x002);
  });
});

describe('reads and writes (§6.9, §6.15)', () => {
  it('one page, two pages, a list, a list of two pages', async () => {
    const { g, disk } = await make();
    expect(await g.status(1, g.rw(false, 3, 8, DATA))).toBe(0);
    expect(g.bytes(DATA, 4096)).toEqual([...disk.bytes.subarray(3 * 512, 3 * 512 + 4096)]);
    // With an offset into the first page.
    expect(await g.status(1, g.rw(false, 16, 8, DATA + 0x800, DATA + 0x4000))).toBe(0);
    expect([...g.bytes(DATA + 0x800, 2048), ...g.bytes(DATA + 0x4000, 2048)]).toEqual([
      ...disk.bytes.subarray(8192, 12288),
    ]);
    // 2 MiB: 511 pages after the first, in a list that starts with 256 entries of room.
    const list = 0x6_0800;
    let at = list;
    for (let i = 1; i < 512; i++) {
      if (at % 4096 === 4088 && i < 511) {
        g.put64(at, 0x6_2000);
        at = 0x6_2000;
      }
      g.put64(at, 0x40_0000 + i * 4096);
      at += 8;
    }
    expect(await g.status(1, g.rw(false, 0, 4096, 0x40_0000, list))).toBe(0);
    expect(disk.log.at(-1)).toBe(`read 0+${2 << 20}`);
    for (const i of [0, 1, 255, 256, 257, 510, 511])
      expect(g.bytes(0x40_0000 + i * 4096, 16)).toEqual([...disk.bytes.subarray(i * 4096, i * 4096 + 16)]);
  });
  it('writes, with FUA or without the cache followed by a flush', async () => {
    const { g, disk } = await make();
    g.rig.ram.write32(DATA, 0x1234_5678);
    expect(await g.status(1, g.rw(true, 100, 1, DATA))).toBe(0);
    expect([...disk.bytes.subarray(51200, 51204)]).toEqual([0x78, 0x56, 0x34, 0x12]);
    const fua = g.rw(true, 100, 1, DATA);
    expect(await g.status(1, { ...fua, dw12: 0x4000_0000 })).toBe(0);
    await g.admin({ opcode: 9, dw10: 6, dw11: 0 });
    expect(await g.status(1, fua)).toBe(0);
    expect(disk.log.map((l) => l.split(' ')[0])).toEqual(['write', 'write', 'flush', 'write', 'flush']);
  });
  it('finish in any order', async () => {
    const { g, disk } = await make();
    disk.hold = true;
    for (let i = 0; i < 8; i++) g.submit(1, g.rw(false, i, 1, DATA + i * 512), false);
    g.ring(1);
    expect(disk.pending).toBe(8);
    disk.release(5);
    disk.release(0);
    await settle();
    expect([g.poll(1)?.cid, g.poll(1)?.cid, g.poll(1)]).toEqual([5, 0, null]);
    disk.release();
    await settle();
    for (const cid of [1, 2, 3, 4, 6, 7]) expect(g.poll(1)?.cid).toBe(cid);
  });
  it('check ranges, sizes, namespaces, flags and pointers', async () => {
    const { g, disk } = await make();
    const read = g.rw(false, 0, 1, DATA);
    expect(await g.run(1, g.rw(false, 8192, 1, DATA))).toMatchObject({ status: 0x080, dnr: true });
    expect(await g.status(1, g.rw(false, 8191, 2, DATA))).toBe(0x080);
    expect(await g.status(1, { ...read, dw11: 0xffff_ffff })).toBe(0x080);
    expect(await g.status(1, g.rw(false, 0, 4097, DATA))).toBe(0x002);
    expect(await g.status(1, { ...read, nsid: 0 })).toBe(0x00b);
    expect(await g.status(1, { ...read, nsid: 0xffff_ffff })).toBe(0x00b);
    expect(await g.status(1, { ...read, flags: 1 })).toBe(0x002);
    expect(await g.status(1, { ...read, flags: 0xc0 })).toBe(0x002);
    expect(await g.status(1, { ...read, prp1: DATA + 2 })).toBe(0x013);
    expect(await g.status(1, g.rw(false, 0, 16, DATA, DATA + 4))).toBe(0x013);
    expect(await g.status(1, g.rw(false, 0, 32, DATA, DATA + 4))).toBe(0x013);
    expect(await g.status(1, g.rw(false, 0, 32, DATA, 2 ** 40))).toBe(0x013); // all ones
    expect(await g.status(1, g.rw(false, 0, 1, 2 ** 40))).toBe(0x004);
    expect(await g.status(1, g.rw(false, 0, 16, DATA, 2 ** 40))).toBe(0x004);
    expect(await g.status(1, { opcode: 0x7f })).toBe(0x001);
    expect(disk.log).toEqual([]);
  });
  it('host errors become media errors; read-only is write protection', async () => {
    const { g, disk } = await make();
    disk.status = 'io-error';
    expect(await g.run(1, g.rw(false, 0, 1, DATA))).toMatchObject({ status: 0x281, dnr: false });
    disk.status = 'no-space';
    expect(await g.status(1, g.rw(true, 0, 1, DATA))).toBe(0x280);
    disk.status = 'cancelled';
    expect(await g.status(1, g.rw(true, 0, 1, DATA))).toBe(0x006);
    disk.status = 'ok';
    disk.readOnly = true;
    expect(await g.status(1, g.rw(true, 0, 1, DATA))).toBe(0x020);
    expect(await g.status(1, { ...g.rw(true, 0, 1, DATA), opcode: 8 })).toBe(0x020);
    expect(await g.status(1, { opcode: 9, prp1: DATA, dw11: 4 })).toBe(0x020);
    expect(await g.status(0, { opcode: 0x80, nsid: 1 })).toBe(0x020);
    expect(await g.status(1, g.rw(false, 0, 1, DATA))).toBe(0);
  });
});

describe('SGLs (§4.4)', () => {
  const with_ = (g: Guest, blocks: number, first: number[]) => ({
    ...g.rw(false, 2, blocks, 0),
    flags: 0x40,
    sgl: first,
  });
  const put = (g: Guest, addr: number, ...list: number[][]): void => {
    list.flat().forEach((b, i) => {
      g.rig.ram.write8(addr + i, b);
    });
  };
  it('a data block, a segment, a chain of segments', async () => {
    const { g, disk } = await make();
    const want = [...disk.bytes.subarray(1024, 2048)];
    expect(await g.status(1, with_(g, 2, sgl(0, DATA + 3, 1024)))).toBe(0);
    expect(g.bytes(DATA + 3, 1024)).toEqual(want);
    put(g, 0x6_0000, sgl(0, DATA, 100), sgl(0, DATA + 0x1000, 0), sgl(0, DATA + 0x2000, 924));
    expect(await g.status(1, with_(g, 2, sgl(3, 0x6_0000, 48)))).toBe(0);
    expect([...g.bytes(DATA, 100), ...g.bytes(DATA + 0x2000, 924)]).toEqual(want);
    put(g, 0x6_0000, sgl(0, DATA, 512), sgl(3, 0x6_1000, 16));
    put(g, 0x6_1000, sgl(0, DATA + 0x1000, 9999)); // longer than the transfer
    expect(await g.status(1, with_(g, 2, sgl(2, 0x6_0000, 32)))).toBe(0);
    expect([...g.bytes(DATA, 512), ...g.bytes(DATA + 0x1000, 512)]).toEqual(want);
  });
  it('are checked', async () => {
    const { g, disk } = await make();
    expect(await g.status(1, with_(g, 2, sgl(0, DATA, 1000)))).toBe(0x00f);
    expect(await g.status(1, with_(g, 2, sgl(1, DATA, 1024)))).toBe(0x011); // bit bucket
    expect(await g.status(1, with_(g, 2, sgl(4, DATA, 1024)))).toBe(0x011);
    expect(await g.status(1, with_(g, 2, sgl(3, 0x6_0000, 17)))).toBe(0x00d);
    expect(await g.status(1, with_(g, 2, sgl(3, 0x6_0000, 0)))).toBe(0x00d);
    put(g, 0x6_0000, sgl(3, 0x6_0000, 16)); // points to itself after the last segment
    expect(await g.status(1, with_(g, 2, sgl(3, 0x6_0000, 16)))).toBe(0x00d);
    put(g, 0x6_0000, sgl(2, 0x6_0000, 16)); // and without an end
    expect(await g.status(1, with_(g, 2, sgl(2, 0x6_0000, 16)))).toBe(0x00e);
    put(g, 0x6_0000, sgl(2, 0x6_0000, 32), sgl(0, DATA, 1024)); // a segment that is not last in its segment
    expect(await g.status(1, with_(g, 2, sgl(2, 0x6_0000, 32)))).toBe(0x00d);
    expect(await g.status(1, with_(g, 2, sgl(0, 2 ** 40, 1024)))).toBe(0x004);
    const offset = sgl(0, DATA, 1024);
    offset[15] = 1;
    expect(await g.status(1, with_(g, 2, offset))).toBe(0x011);
    expect(disk.log).toEqual([]);
  });
});

describe('other I/O commands', () => {
  it('FLUSH, for the namespace and for all', async () => {
    const { g, disk } = await make();
    expect(await g.status(1, { opcode: 0 })).toBe(0);
    expect(await g.status(1, { opcode: 0, nsid: 0xffff_ffff })).toBe(0);
    expect(disk.log).toEqual(['flush', 'flush']);
  });
  it('WRITE ZEROES', async () => {
    const { g, disk } = await make();
    expect(await g.status(1, { ...g.rw(true, 4, 65536 / 512, 0), opcode: 8 })).toBe(0);
    expect(disk.log).toEqual(['zero 2048+65536']);
    expect(disk.bytes.subarray(2048, 2048 + 65536).every((b) => b === 0)).toBe(true);
    disk.status = 'unsupported';
    expect(await g.status(1, { ...g.rw(true, 4, 1, 0), opcode: 8 })).toBe(0x001);
  });
  it('VERIFY reads in pieces', async () => {
    const { g, disk } = await make();
    expect(await g.status(1, { ...g.rw(false, 0, 256, 0), opcode: 0x0c })).toBe(0);
    expect(disk.log).toEqual(['read 0+65536', 'read 65536+65536']);
    disk.status = 'io-error';
    expect(await g.status(1, { ...g.rw(false, 0, 1, 0), opcode: 0x0c })).toBe(0x281);
  });
  it('COMPARE', async () => {
    const { g, disk } = await make();
    const list = 0x6_0000;
    for (let i = 0; i < 16; i++) g.put64(list + i * 8, DATA + (i + 1) * 8192);
    expect(await g.status(1, g.rw(false, 8, 104, DATA, list))).toBe(0);
    const compare = { ...g.rw(false, 8, 104, DATA, list), opcode: 5 };
    expect(await g.status(1, compare)).toBe(0);
    disk.bytes[8 * 512 + 50_000] = (disk.bytes[8 * 512 + 50_000] as number) ^ 1;
    expect(await g.run(1, compare)).toMatchObject({ status: 0x285, dnr: true });
  });
  it('DATASET MANAGEMENT deallocates', async () => {
    const { g, disk } = await make();
    const range = (i: number, slba: number, blocks: number): void => {
      g.rig.ram.write32(DATA + i * 16, 0);
      g.rig.ram.write32(DATA + i * 16 + 4, blocks);
      g.put64(DATA + i * 16 + 8, slba);
    };
    range(0, 10, 2);
    range(1, 0, 0);
    range(2, 8191, 1);
    const dsm = { opcode: 9, prp1: DATA, dw10: 2, dw11: 4 };
    expect(await g.status(1, dsm)).toBe(0);
    expect(disk.log).toEqual(['discard 5120+1024', `discard ${8191 * 512}+512`]);
    expect(await g.status(1, { ...dsm, dw11: 0 })).toBe(0); // only a hint about use
    range(2, 8191, 2);
    expect(await g.status(1, dsm)).toBe(0x080);
    expect(disk.log.length).toBe(2);
  });
  it('dataset management can be switched off, or on for a back end that cannot', async () => {
    const off = await make({}, { dsm: 'disable' });
    expect(await off.g.status(1, { opcode: 9, prp1: DATA, dw11: 4 })).toBe(0x001);
    expect(await off.g.status(0, identify(1))).toBe(0);
    expect(off.g.rig.ram.read16(REPLY + 520) & 4).toBe(0);
    const on = await make({}, { dsm: 'enable' });
    on.disk.status = 'unsupported';
    on.g.rig.ram.write32(DATA + 4, 1);
    expect(await on.g.status(1, { opcode: 9, prp1: DATA, dw11: 4 })).toBe(0);
  });
});

describe('a back end that answers at once', () => {
  it('completes within the doorbell write, and flushes where it must', async () => {
    const { g, disk } = await make();
    disk.atOnce = true;
    const before = disk.log.length;
    g.submit(1, g.rw(false, 3, 2, DATA));
    expect([g.poll(1)?.status, disk.inFlight]).toEqual([0, 0]);
    expect(g.bytes(DATA, 1024)).toEqual([...disk.bytes.subarray(3 * 512, 5 * 512)]);
    g.submit(1, g.rw(true, 9, 1, DATA));
    expect(g.poll(1)?.status).toBe(0);
    expect([...disk.bytes.subarray(9 * 512, 10 * 512)]).toEqual(g.bytes(DATA, 512));
    g.submit(1, { ...g.rw(true, 10, 1, DATA), dw12: 0x4000_0000 });
    expect(g.poll(1)).toBe(null); // force unit access: the flush takes its time
    await settle();
    expect(g.poll(1)?.status).toBe(0);
    disk.status = 'io-error';
    g.submit(1, g.rw(false, 0, 1, DATA));
    expect(g.poll(1)?.status).toBe(0x281);
    expect(disk.log.slice(before)).toEqual([
      'readNow 1536+1024',
      'writeNow 4608+512',
      'writeNow 5120+512',
      'flush',
      'readNow 0+512',
    ]);
  });
});
