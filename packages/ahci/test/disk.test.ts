import { MemoryDisk, settle } from '@hyve/testkit';
import { describe, expect, it } from 'vitest';
import { DATA, Guest } from './kit.ts';

const OK = 0x50;

function make(o: ConstructorParameters<typeof MemoryDisk>[0] = {}): { g: Guest; disk: MemoryDisk } {
  const disk = new MemoryDisk(o);
  const g = new Guest({ ports: [{ kind: 'hd', backend: disk, serial: 'BHYVE-0123-4567-89AB', nmrr: 1 }] });
  g.start();
  return { g, disk };
}

/** IDENTIFY DEVICE into DATA. */
async function identify(g: Guest): Promise<void> {
  expect(await g.run(0, { command: 0xec, pieces: [[DATA, 512]] })).toBe(OK);
}

describe('IDENTIFY DEVICE (ACS-3 §7.12)', () => {
  it('names the disk, its size and what it can do', async () => {
    const { g } = make();
    await identify(g);
    expect(g.ataText(10, 10)).toBe('BHYVE-0123-4567-89AB');
    expect(g.ataText(23, 4)).toBe('001');
    expect(g.ataText(27, 20)).toBe('BHYVE SATA DISK');
    expect(g.rig.ram.read32(DATA + 120)).toBe(2048);
    expect(g.rig.ram.read32(DATA + 200)).toBe(2048);
    expect(g.word(75)).toBe(31);
    expect(g.word(76) & 0x100).toBe(0x100);
    expect(g.word(83) & 0xc000).toBe(0x4000);
    expect(g.word(83) & 0x400).toBe(0x400);
    expect(g.word(169)).toBe(1);
    expect(g.word(217)).toBe(1);
    expect(g.bytes(DATA, 512).reduce((a, b) => a + b) & 0xff).toBe(0);
    expect(g.word(255) & 0xff).toBe(0xa5);
  });

  it('sends a PIO Setup FIS with the ending status, and PRDBC', async () => {
    const { g } = make();
    await g.run(0, { command: 0x35, write: true, count: 1, pieces: [[DATA, 512]] });
    await identify(g);
    const pio = g.fis(0, 0x20);
    expect([pio[0], pio[1], pio[15]]).toEqual([0x5f, 0x60, OK]);
    expect((pio[16] as number) | ((pio[17] as number) << 8)).toBe(512);
    expect(g.pr(0, 0x10) & 3).toBe(3);
    expect(g.rig.ram.read32(g.area(0) + 4)).toBe(512);
  });

  it('tells of 4 KiB sectors, physical and logical', async () => {
    const a = make({ physical: 4096 });
    await identify(a.g);
    expect(a.g.word(106)).toBe(0x6003);
    const b = make({ sector: 4096 });
    await identify(b.g);
    expect(b.g.word(106)).toBe(0x5000);
    expect(b.g.rig.ram.read32(DATA + 234)).toBe(2048);
    expect(b.g.rig.ram.read32(DATA + 200)).toBe(256);
  });

  it('makes a serial number of its own from the identity, different for different disks', async () => {
    const seen = new Set<string>();
    for (const identity of ['a.img', 'b.img']) {
      const g = new Guest({ ports: [{ kind: 'hd', backend: new MemoryDisk({ identity }) }] });
      g.start();
      await identify(g);
      expect(g.ataText(10, 10)).toMatch(/^BHYVE-[0-9A-F]{4}-[0-9A-F]{4}-[0-9A-F]{4}$/);
      seen.add(g.ataText(10, 10));
    }
    expect(seen.size).toBe(2);
  });
});

describe('reads and writes', () => {
  const reads: [string, number, boolean][] = [
    ['READ DMA', 0xc8, false],
    ['READ DMA EXT', 0x25, true],
    ['READ SECTORS', 0x20, false],
    ['READ SECTORS EXT', 0x24, true],
    ['READ MULTIPLE', 0xc4, false],
    ['READ MULTIPLE EXT', 0x29, true],
  ];
  it.each(reads)('%s brings sectors into scattered memory', async (_name, command, ext) => {
    const { g, disk } = make();
    const tf = await g.run(0, {
      command,
      lba: 5,
      count: 3,
      ...(ext ? {} : { device: 0x40 }),
      pieces: [
        [DATA, 512],
        [DATA + 0x2000, 1022],
        [DATA + 0x5000, 2],
      ],
    });
    expect(tf).toBe(OK);
    const want = [...disk.bytes.subarray(5 * 512, 8 * 512)];
    expect([...g.bytes(DATA, 512), ...g.bytes(DATA + 0x2000, 1022), ...g.bytes(DATA + 0x5000, 2)]).toEqual(want);
    expect(g.pr(0, 0x38)).toBe(0);
    expect(g.socket.irq.high).toBe(true);
  });

  const writes: [string, number, boolean, boolean][] = [
    ['WRITE DMA', 0xca, false, false],
    ['WRITE DMA EXT', 0x35, true, false],
    ['WRITE DMA FUA EXT', 0x3d, true, true],
    ['WRITE SECTORS', 0x30, false, false],
    ['WRITE SECTORS EXT', 0x34, true, false],
    ['WRITE MULTIPLE', 0xc5, false, false],
    ['WRITE MULTIPLE EXT', 0x39, true, false],
    ['WRITE MULTIPLE FUA EXT', 0xce, true, true],
  ];
  it.each(writes)('%s takes sectors out of memory', async (_name, command, ext, fua) => {
    const { g, disk } = make();
    for (let i = 0; i < 1024; i++) g.rig.ram.write8(DATA + i, i * 3);
    const tf = await g.run(0, {
      command,
      write: true,
      lba: 7,
      count: 2,
      ...(ext ? {} : { device: 0x40 }),
      pieces: [[DATA, 1024]],
    });
    expect(tf).toBe(OK);
    expect([...disk.bytes.subarray(7 * 512, 9 * 512)]).toEqual(Array.from({ length: 1024 }, (_, i) => (i * 3) & 0xff));
    expect(disk.log).toEqual(fua ? ['write 3584+1024', 'flush'] : ['write 3584+1024']);
  });

  it('reaches past 2^28 sectors with 48-bit addresses only', async () => {
    const { g } = make();
    expect(await g.run(0, { command: 0x25, lba: 2 ** 40, count: 1, pieces: [[DATA, 512]] })).toBe(0x1051);
  });

  it('translates cylinder, head and sector', async () => {
    const { g, disk } = make();
    // Cylinder 1, head 2, sector 3: (16 + 2) · 63 + 2.
    await g.run(0, { command: 0xc8, lba: 3 | (1 << 8), count: 1, device: 0x02, pieces: [[DATA, 512]] });
    expect(disk.log).toEqual([`read ${((16 + 2) * 63 + 2) * 512}+512`]);
  });

  it('joins neighbouring pieces and splits long tables', async () => {
    const disk = new MemoryDisk({ size: 4 << 20 });
    const g = new Guest({ ports: [{ kind: 'hd', backend: disk }] }, 16 << 20);
    g.start();
    // 2048 pieces of 512 bytes with gaps, in a table of its own.
    const table = 0x80_0000;
    g.lay(0, { command: 0x25, lba: 0, count: 2048 });
    g.rig.ram.write32(g.area(0), 5 | (2048 << 16));
    for (let i = 0; i < 20; i += 4) g.rig.ram.write32(table + i, g.rig.ram.read32(g.area(0) + 0x1000 + i));
    g.rig.ram.write32(g.area(0) + 8, table);
    for (let i = 0; i < 2048; i++) {
      g.rig.ram.write32(table + 0x80 + i * 16, 0x10_0000 + i * 1024);
      g.rig.ram.write32(table + 0x80 + i * 16 + 4, 0);
      g.rig.ram.write32(table + 0x80 + i * 16 + 12, 511);
    }
    g.pw(0, 0x38, 1);
    await settle();
    expect(g.pr(0, 0x20)).toBe(OK);
    expect(disk.log).toEqual(['read 0+524288', 'read 524288+524288']);
    for (const i of [0, 1023, 1024, 2047])
      expect(g.bytes(0x10_0000 + i * 1024, 512)).toEqual([...disk.bytes.subarray(i * 512, i * 512 + 512)]);
    expect(g.rig.ram.read32(g.area(0) + 4)).toBe(1 << 20);
  });

  it('READ VERIFY reads without memory', async () => {
    const { g, disk } = make();
    expect(await g.run(0, { command: 0x42, lba: 0, count: 256 })).toBe(OK);
    expect(disk.log).toEqual(['read 0+65536', 'read 65536+65536']);
    disk.status = 'io-error';
    expect(await g.run(0, { command: 0x40, lba: 9, count: 1, device: 0x40 })).toBe(0x4051);
  });

  it('SET MULTIPLE takes powers of two up to what IDENTIFY says, and 0 aborts READ MULTIPLE', async () => {
    const { g } = make();
    expect(await g.run(0, { command: 0xc6, count: 3 })).toBe(0x0451);
    g.recover();
    expect(await g.run(0, { command: 0xc6, count: 0 })).toBe(OK);
    expect(await g.run(0, { command: 0xc4, count: 1, device: 0x40, pieces: [[DATA, 512]] })).toBe(0x0451);
    g.recover();
    expect(await g.run(0, { command: 0xc6, count: 16 })).toBe(OK);
    await identify(g);
    expect(g.word(59)).toBe(0x110);
  });

  it('flushes after each write while the write cache is off, and on FLUSH CACHE', async () => {
    const { g, disk } = make();
    expect(await g.run(0, { command: 0xef, features: 0x82 })).toBe(OK);
    await g.run(0, { command: 0x35, write: true, lba: 0, count: 1, pieces: [[DATA, 512]] });
    expect(disk.log).toEqual(['flush', 'write 0+512', 'flush']);
    await g.run(0, { command: 0xef, features: 0x02 });
    await g.run(0, { command: 0x35, write: true, lba: 0, count: 1, pieces: [[DATA, 512]] });
    expect(await g.run(0, { command: 0xea })).toBe(OK);
    expect(disk.log.slice(3)).toEqual(['write 0+512', 'flush']);
  });
});

describe('errors', () => {
  it('answers a sector past the end with IDNF, keeps CI and CCS, and goes on after ST was cleared (AHCI §6.2.2)', async () => {
    const { g } = make();
    expect(await g.run(0, { slot: 3, command: 0x25, lba: 2048, count: 1, pieces: [[DATA, 512]] })).toBe(0x1051);
    expect(g.pr(0, 0x10) & 0x4000_0000).not.toBe(0);
    expect(g.pr(0, 0x38)).toBe(8);
    expect((g.pr(0, 0x18) >> 8) & 31).toBe(3);
    // Nothing starts meanwhile.
    await g.run(0, { slot: 4, command: 0xec, pieces: [[DATA, 512]] });
    expect(g.pr(0, 0x38)).toBe(0x18);
    g.recover();
    expect(g.pr(0, 0x38)).toBe(0);
    expect(await g.run(0, { command: 0xec, pieces: [[DATA, 512]] })).toBe(OK);
  });

  it('answers failed reads with UNC and the address, failed writes with a device fault, read-only with ABRT', async () => {
    const { g, disk } = make();
    disk.status = 'io-error';
    expect(await g.run(0, { command: 0x25, lba: 0x123, count: 2, pieces: [[DATA, 1024]] })).toBe(0x4051);
    expect(g.fis(0, 0x40).slice(4, 11)).toEqual([0x23, 1, 0, 0x40, 0, 0, 0]);
    g.recover();
    disk.status = 'no-space';
    expect(await g.run(0, { command: 0x35, write: true, lba: 1, count: 1, pieces: [[DATA, 512]] })).toBe(0x0471);
    g.recover();
    disk.status = 'ok';
    disk.readOnly = true;
    expect(await g.run(0, { command: 0x35, write: true, lba: 1, count: 1, pieces: [[DATA, 512]] })).toBe(0x0451);
  });

  it.each([0x00, 0x08, 0xa0, 0xa1, 0xff, 0x1f])('aborts command %i', async (command) => {
    const { g } = make();
    expect(await g.run(0, { command })).toBe(0x0451);
  });

  it('says overflow when the PRD table is too short, and bus error when it points nowhere', async () => {
    const { g, disk } = make();
    expect(await g.run(0, { command: 0x25, count: 4, pieces: [[DATA, 512]] })).toBe(0x0451);
    expect(g.pr(0, 0x10) & (1 << 24)).not.toBe(0);
    g.recover();
    expect(await g.run(0, { command: 0x25, count: 1, pieces: [[2 ** 40, 512]] })).toBe(0x0451);
    expect(g.pr(0, 0x10) & (1 << 29)).not.toBe(0);
    g.recover();
    expect(disk.log).toEqual(['read 0+512']);
    expect(await g.run(0, { command: 0x25, count: 1, pieces: [[DATA, 512]] })).toBe(OK);
  });

  it('stops with an interface error on what is no H2D FIS', async () => {
    const { g } = make();
    g.lay(0, { command: 0xec });
    g.rig.ram.write8(g.area(0) + 0x1000, 0x34);
    g.pw(0, 0x38, 1);
    expect(g.pr(0, 0x10) & (1 << 27)).not.toBe(0);
    g.recover();
    expect(await g.run(0, { command: 0xec, pieces: [[DATA, 512]] })).toBe(OK);
  });
});

describe('native command queuing', () => {
  it('has 32 commands in flight that finish in any order', async () => {
    const { g, disk } = make();
    disk.hold = true;
    for (let tag = 0; tag < 32; tag++) g.queue(0, { tag, lba: tag * 2, count: 1, pieces: [[DATA + tag * 512, 512]] });
    expect(disk.pending).toBe(32);
    expect(g.pr(0, 0x34)).toBe(0xffff_ffff);
    expect(g.pr(0, 0x38)).toBe(0); // accepted
    expect(g.pr(0, 0x20)).toBe(0x150);
    disk.release(30);
    disk.release(4);
    await settle();
    expect(g.pr(0, 0x34)).toBe((0xffff_ffff & ~((1 << 30) | (1 << 4))) >>> 0);
    const sdb = g.fis(0, 0x58);
    expect(sdb.slice(0, 8)).toEqual([0xa1, 0x40, 0x50, 0, 0x10, 0, 0, 0]);
    expect(g.pr(0, 0x10) & 8).toBe(8);
    disk.release();
    await settle();
    expect(g.pr(0, 0x34)).toBe(0);
    for (let tag = 0; tag < 32; tag++)
      expect(g.bytes(DATA + tag * 512, 512)).toEqual([...disk.bytes.subarray(tag * 1024, tag * 1024 + 512)]);
    expect(g.dev.counters()).toMatchObject({ queued: 32, bytesRead: 32 * 512, errors: 0 });
  });

  it('writes, with FUA followed by a flush', async () => {
    const { g, disk } = make();
    g.rig.ram.write32(DATA, 0xdead_beef);
    g.queue(0, { tag: 1, write: true, lba: 10, count: 2, pieces: [[DATA, 1024]], fua: true });
    await settle();
    expect(disk.log).toEqual(['write 5120+1024', 'flush']);
    expect([...disk.bytes.subarray(5120, 5124)]).toEqual([0xef, 0xbe, 0xad, 0xde]);
    expect(g.pr(0, 0x34)).toBe(0);
  });

  it('takes a count of zero as 65536', async () => {
    const { g } = make();
    g.queue(0, { tag: 0, lba: 0, count: 0, pieces: [[DATA, 512]] });
    await settle();
    expect(g.pr(0, 0x20)).toBe(0x1041 | 0x10);
  });

  it('drops the queue on an error, and log page 10h names the culprit', async () => {
    const { g, disk } = make();
    disk.hold = true;
    g.queue(0, { tag: 5, lba: 1, count: 1, pieces: [[DATA, 512]] });
    disk.status = 'io-error';
    g.queue(0, { tag: 9, lba: 0x321, count: 1, pieces: [[DATA + 512, 512]] });
    disk.status = 'ok';
    disk.release(1);
    await settle();
    expect(g.pr(0, 0x10) & 0x4000_0008).toBe(0x4000_0008);
    expect(g.pr(0, 0x20)).toBe(0x4051);
    expect(g.pr(0, 0x34)).toBe((1 << 5) | (1 << 9));
    // ST cleared: running until the other request is over.
    g.pw(0, 0x18, 0x16);
    expect(g.pr(0, 0x18) & 0x8000).toBe(0x8000);
    disk.release();
    await settle();
    expect(g.pr(0, 0x18) & 0x8000).toBe(0);
    disk.hold = false;
    g.recover();
    expect(await g.run(0, { command: 0x2f, lba: 0x10, count: 1, pieces: [[DATA, 512]] })).toBe(OK);
    expect(g.bytes(DATA, 11)).toEqual([9, 0, 0x51, 0x40, 0x21, 3, 0, 0x40, 0, 0, 0]);
    expect(g.bytes(DATA, 512).reduce((a, b) => a + b) & 0xff).toBe(0);
    // Read once, the error is over.
    await g.run(0, { command: 0x47, lba: 0x10, count: 1, pieces: [[DATA, 512]] });
    expect(g.bytes(DATA, 1)).toEqual([0x80]);
  });

  it('refuses a tag that is in use', async () => {
    const { g, disk } = make();
    disk.hold = true;
    g.queue(0, { tag: 2, lba: 1, count: 1, pieces: [[DATA, 512]] });
    g.queue(0, { tag: 2, lba: 1, count: 1, pieces: [[DATA, 512]] });
    expect(g.pr(0, 0x20)).toBe(0x0441);
    disk.release();
    await settle();
    g.recover();
    disk.hold = false;
    expect(await g.run(0, { command: 0xec, pieces: [[DATA, 512]] })).toBe(OK);
  });

  it('holds other commands back until the queue is empty', async () => {
    const { g, disk } = make();
    disk.hold = true;
    g.queue(0, { tag: 0, lba: 1, count: 1, pieces: [[DATA, 512]] });
    g.issue(0, { slot: 1, command: 0xea });
    expect(disk.log).toEqual(['read 512+512']);
    expect(g.pr(0, 0x38)).toBe(2);
    disk.release();
    await settle();
    expect(disk.log).toEqual(['read 512+512', 'flush']);
    // And a queued command waits for BSY to clear.
    g.queue(0, { tag: 3, lba: 1, count: 1, pieces: [[DATA, 512]] });
    expect(disk.log.length).toBe(2);
    expect(g.pr(0, 0x20) & 0x80).toBe(0x80);
    disk.release();
    await settle();
    disk.release();
    await settle();
    expect(g.pr(0, 0x38)).toBe(0);
    expect(g.pr(0, 0x34)).toBe(0);
  });
});

describe('TRIM (ACS-3 §7.5)', () => {
  function ranges(g: Guest, list: readonly (readonly [number, number])[]): void {
    for (let i = 0; i < 512; i += 4) g.rig.ram.write32(DATA + i, 0);
    list.forEach(([lba, count], i) => {
      g.rig.ram.write32(DATA + i * 8, lba);
      g.rig.ram.write16(DATA + i * 8 + 4, 0);
      g.rig.ram.write16(DATA + i * 8 + 6, count);
    });
  }

  it('discards each range, skipping empty ones', async () => {
    const { g, disk } = make();
    ranges(g, [
      [10, 4],
      [0, 0],
      [100, 1],
    ]);
    const q = { command: 0x06, features: 1, count: 1, write: true, pieces: [[DATA, 512]] } as const;
    expect(await g.run(0, q)).toBe(OK);
    expect(disk.log).toEqual(['discard 5120+2048', 'discard 51200+512']);
    expect(disk.bytes.subarray(5120, 7168).every((b) => b === 0)).toBe(true);
  });

  it('works queued (SEND FPDMA QUEUED)', async () => {
    const { g, disk } = make();
    ranges(g, [[8, 8]]);
    g.lay(0, { slot: 6, command: 0x64, features: 1, count: 6 << 3, auxiliary: 1, write: true, pieces: [[DATA, 512]] });
    g.pw(0, 0x34, 1 << 6);
    g.pw(0, 0x38, 1 << 6);
    await settle();
    expect(disk.log).toEqual(['discard 4096+4096']);
    expect(g.pr(0, 0x34)).toBe(0);
    expect(await g.run(0, { command: 0x2f, lba: 0x13, count: 1, pieces: [[DATA, 512]] })).toBe(OK);
    expect([g.bytes(DATA, 1), g.bytes(DATA + 4, 1)]).toEqual([[1], [1]]);
  });

  it('refuses ranges past the end, too many blocks, and disks that cannot', async () => {
    const { g, disk } = make();
    ranges(g, [[2047, 2]]);
    const q = { command: 0x06, features: 1, count: 1, write: true, pieces: [[DATA, 512]] } as const;
    expect(await g.run(0, q)).toBe(0x1051);
    g.recover();
    expect(await g.run(0, { ...q, count: 9 })).toBe(0x0451);
    g.recover();
    disk.canDiscard = false;
    expect(await g.run(0, q)).toBe(0x0451);
    g.recover();
    await identify(g);
    expect(g.word(169)).toBe(0);
    expect(disk.log).toEqual([]);
  });
});

describe('SMART (ATA8-ACS §7.53)', () => {
  const smart = (features: number, low = 0) => ({ command: 0xb0, features, lba: low | 0xc24f00, device: 0x40 });

  it('reports data, thresholds and a good status', async () => {
    const { g } = make();
    expect(await g.run(0, { ...smart(0xd0), count: 1, pieces: [[DATA, 512]] })).toBe(OK);
    expect(g.bytes(DATA, 3)).toEqual([0x10, 0, 1]);
    expect(g.bytes(DATA, 512).reduce((a, b) => a + b) & 0xff).toBe(0);
    expect(await g.run(0, { ...smart(0xd1), count: 1, pieces: [[DATA, 512]] })).toBe(OK);
    expect(await g.run(0, smart(0xda))).toBe(OK);
    expect(g.fis(0, 0x40).slice(5, 7)).toEqual([0x4f, 0xc2]);
  });

  it('is enabled and disabled, and wants its key', async () => {
    const { g } = make();
    expect(await g.run(0, { command: 0xb0, features: 0xda, lba: 0 })).toBe(0x0451);
    g.recover();
    expect(await g.run(0, smart(0xd9))).toBe(OK);
    await identify(g);
    expect(g.word(85) & 1).toBe(0);
    expect(await g.run(0, smart(0xda))).toBe(0x0451);
    g.recover();
    expect(await g.run(0, smart(0xd8))).toBe(OK);
    expect(await g.run(0, smart(0xda))).toBe(OK);
  });

  it('logs self-tests, at most 21', async () => {
    const { g } = make();
    for (let i = 0; i < 25; i++) await g.run(0, smart(0xd4, 1 + (i & 1)));
    expect(await g.run(0, { ...smart(0xd5, 0x06), count: 1, pieces: [[DATA, 512]] })).toBe(OK);
    expect(g.bytes(DATA + 508, 1)).toEqual([21]);
    expect(await g.run(0, { ...smart(0xd5, 0x00), count: 1, pieces: [[DATA, 512]] })).toBe(OK);
    expect(await g.run(0, { ...smart(0xd5, 0x01), count: 1, pieces: [[DATA, 512]] })).toBe(OK);
    expect(await g.run(0, { ...smart(0xd5, 0x77), count: 1, pieces: [[DATA, 512]] })).toBe(0x0451);
  });
});

describe('other commands', () => {
  it.each([0xe0, 0xe1, 0xe2, 0xe3, 0xe6, 0xf5, 0x10, 0x70, 0x91])('command %i succeeds', async (command) => {
    const { g } = make();
    expect(await g.run(0, { command })).toBe(OK);
  });
  it('CHECK POWER MODE says active', async () => {
    const { g } = make();
    expect(await g.run(0, { command: 0xe5 })).toBe(OK);
    expect(g.fis(0, 0x40)[12]).toBe(0xff);
  });
  it('EXECUTE DEVICE DIAGNOSTIC answers 01h with the signature', async () => {
    const { g } = make();
    expect(await g.run(0, { command: 0x90 })).toBe(0x0150);
    expect(g.fis(0, 0x40).slice(4, 7)).toEqual([1, 0, 0]);
  });
  it('SET FEATURES takes transfer modes and refuses what it does not know', async () => {
    const { g } = make();
    expect(await g.run(0, { command: 0xef, features: 0x03, count: 0x45 })).toBe(OK);
    await identify(g);
    expect(g.word(88)).toBe(0x207f);
    expect(await g.run(0, { command: 0xef, features: 0x03, count: 0x47 })).toBe(0x0451);
    g.recover();
    expect(await g.run(0, { command: 0xef, features: 0x5d })).toBe(0x0451);
  });
  it('lists its logs and serves statistics and IDENTIFY data', async () => {
    const { g } = make();
    await g.run(0, { command: 0x25, count: 8, pieces: [[DATA, 4096]] });
    await g.run(0, { command: 0x2f, lba: 0, count: 1, pieces: [[DATA, 512]] });
    expect([g.word(0), g.word(0x04), g.word(0x10), g.word(0x30), g.word(0x05)]).toEqual([1, 2, 1, 2, 0]);
    await g.run(0, { command: 0x2f, lba: 0x0104, count: 1, pieces: [[DATA, 512]] });
    expect(g.rig.ram.read32(DATA + 40)).toBe(8);
    await g.run(0, { command: 0x2f, lba: 0x0130, count: 1, pieces: [[DATA, 512]] });
    expect(g.ataText(27, 20)).toBe('BHYVE SATA DISK');
    expect(await g.run(0, { command: 0x2f, lba: 0x0230, count: 1, pieces: [[DATA, 512]] })).toBe(0x0451);
  });
});

describe('a back end that answers at once', () => {
  it('completes within the write of PxCI; commands in many pieces go the slow way', async () => {
    const { g, disk } = make();
    disk.atOnce = true;
    g.issue(0, { command: 0x25, lba: 4, count: 2, pieces: [[DATA, 1024]] });
    expect([g.pr(0, 0x38), g.pr(0, 0x20) & 0xff, disk.inFlight]).toEqual([0, 0x50, 0]);
    expect(g.bytes(DATA, 1024)).toEqual([...disk.bytes.subarray(2048, 3072)]);
    g.queue(0, { tag: 3, write: true, lba: 7, count: 1, pieces: [[DATA, 512]] });
    expect([g.pr(0, 0x34), [...disk.bytes.subarray(7 * 512, 8 * 512)]]).toEqual([0, g.bytes(DATA, 512)]);
    disk.status = 'io-error';
    g.issue(0, { command: 0x25, lba: 0, count: 1, pieces: [[DATA, 512]] });
    expect(g.pr(0, 0x20) & 1).toBe(1);
    expect(disk.log.slice(-3)).toEqual(['readNow 2048+1024', 'writeNow 3584+512', 'readNow 0+512']);
  });
});
