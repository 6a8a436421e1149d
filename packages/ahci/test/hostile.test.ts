import { MemoryDisk, settle } from '@hyve/testkit';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { Guest } from './kit.ts';

function make(): { g: Guest; disk: MemoryDisk; cd: MemoryDisk } {
  const disk = new MemoryDisk({ size: 64 << 10 });
  const cd = new MemoryDisk({ size: 64 << 10 });
  const g = new Guest({
    ports: [
      { kind: 'hd', backend: disk },
      { kind: 'cd', backend: cd },
    ],
  });
  return { g, disk, cd };
}

/** After anything, a host reset and an IDENTIFY must work. */
async function recovers(g: Guest, disk: MemoryDisk, cd: MemoryDisk): Promise<void> {
  for (const b of [disk, cd]) {
    b.hold = false;
    b.status = 'ok';
    b.release();
  }
  await settle();
  g.w(0x04, 1);
  expect(g.pr(0, 0x20)).toBe(0x150);
  g.start(0);
  expect(await g.run(0, { command: 0xec, pieces: [[0x8_0000, 512]] })).toBe(0x50);
  g.start(1);
  expect(await g.run(1, { command: 0xa1, pieces: [[0x8_0000, 512]] })).toBe(0x50);
}

const u32 = fc.oneof(fc.nat(0xffff_ffff), fc.constantFrom(0, 1, 0xffff_ffff, 0x17, 0x16, 0x301, 0x300));

describe('a hostile guest', () => {
  it('writes anything anywhere: nothing throws, values stay unsigned, a reset brings the device back', async () => {
    const offsets = fc.oneof(
      fc.nat(0x3ff),
      fc.constantFrom(0x04, 0x08, 0x100, 0x110, 0x118, 0x12c, 0x134, 0x138, 0x180, 0x198, 0x1ac, 0x1b8),
    );
    const step = fc.tuple(offsets, fc.constantFrom<1 | 2 | 4>(1, 2, 4, 4), u32, fc.boolean());
    await fc.assert(
      fc.asyncProperty(fc.array(step, { maxLength: 60 }), async (steps) => {
        const { g, disk, cd } = make();
        for (const [offset, width, value, write] of steps) {
          const at = 0xc000_0000 + Math.min(offset, 0x400 - width);
          if (write) g.rig.cpu.write(at, width, width === 4 ? value : value & (width === 2 ? 0xffff : 0xff));
          else g.rig.cpu.read(at, width);
        }
        await settle();
        await recovers(g, disk, cd);
      }),
      { numRuns: 60 },
    );
  });

  it('puts random bytes into command lists and tables', async () => {
    const scenario = fc.record({
      seed: fc.nat(),
      commands: fc.array(
        fc.record({
          port: fc.nat(1),
          slot: fc.nat(31),
          command: fc.oneof(
            fc.nat(255),
            fc.constantFrom(0x25, 0x35, 0x60, 0x61, 0x64, 0x06, 0x2f, 0xb0, 0xa0, 0xea, 0x42, 0xc4),
          ),
          features: fc.nat(0xffff),
          lba: fc.oneof(fc.nat(140), fc.nat(2 ** 31)),
          count: fc.oneof(fc.nat(20), fc.nat(0xffff)),
          packet: fc.uint8Array({ minLength: 16, maxLength: 16 }),
          first: fc.constantFrom(0x00, 0x28, 0xa8, 0xbe, 0x43, 0x5a, 0x46, 0x4a, 0x12, 0x42, 0xff),
          pieces: fc.array(
            fc.tuple(
              fc.oneof(fc.nat(0x20_0000), fc.nat(0xffff_ffff), fc.constant(2 ** 40), fc.constant(0x1f_fffe)),
              fc.oneof(fc.integer({ min: 1, max: 5000 }), fc.nat(0x3f_ffff)),
            ),
            { maxLength: 12 },
          ),
          junk: fc.option(fc.tuple(fc.nat(0x3ff), fc.nat(0xffff_ffff))),
          slow: fc.boolean(),
          fail: fc.constantFrom('ok' as const, 'ok' as const, 'io-error' as const, 'out-of-range' as const),
          after: fc.constantFrom('wait', 'stop', 'comreset', 'release', 'nothing'),
        }),
        { maxLength: 12 },
      ),
    });
    await fc.assert(
      fc.asyncProperty(scenario, async ({ commands }) => {
        const { g, disk, cd } = make();
        g.start(0);
        g.start(1);
        for (const c of commands) {
          for (const b of [disk, cd]) {
            b.hold = c.slow;
            b.status = c.fail;
          }
          g.lay(c.port, { ...c, packet: c.port === 1 ? [c.first, ...c.packet.subarray(1)] : undefined } as never);
          if (c.junk !== null) g.rig.ram.write32(g.area(c.port) + c.junk[0], c.junk[1]);
          g.pw(c.port, 0x34, c.command >= 0x60 && c.command < 0x66 ? 1 << c.slot : 0);
          g.pw(c.port, 0x38, 1 << c.slot);
          if (c.after === 'wait') await settle();
          else if (c.after === 'stop') g.recover(c.port);
          else if (c.after === 'comreset') {
            g.pw(c.port, 0x18, 0x16);
            g.pw(c.port, 0x2c, 1);
            g.pw(c.port, 0x2c, 0);
            g.pw(c.port, 0x18, 0x17);
          } else if (c.after === 'release') {
            disk.release();
            cd.release();
            await settle();
          }
        }
        await settle();
        await recovers(g, disk, cd);
      }),
      { numRuns: 80 },
    );
  });

  it('asks for the longest transfer in the smallest pieces: work comes in bounded requests', async () => {
    const disk = new MemoryDisk({ size: 1 << 20 });
    const g = new Guest({ ports: [{ kind: 'hd', backend: disk }] }, 4 << 20);
    g.start();
    const table = 0x10_0000;
    g.lay(0, { command: 0x25, lba: 0, count: 512 });
    g.rig.ram.write32(g.area(0), (5 | (0xffff << 16)) >>> 0);
    for (let i = 0; i < 20; i += 4) g.rig.ram.write32(table + i, g.rig.ram.read32(g.area(0) + 0x1000 + i));
    g.rig.ram.write32(g.area(0) + 8, table);
    for (let i = 0; i < 0xffff; i++) {
      g.rig.ram.write32(table + 0x80 + i * 16, 0x30_0000 + (i % 1000) * 4);
      g.rig.ram.write32(table + 0x80 + i * 16 + 4, 0);
      g.rig.ram.write32(table + 0x80 + i * 16 + 12, 1);
    }
    g.pw(0, 0x38, 1);
    for (let i = 0; i < 20; i++) await settle();
    // 65,535 pieces of 2 bytes hold 255 sectors and a bit: those come over, then the table is at its end.
    expect(disk.log.length).toBeGreaterThan(50);
    expect(disk.log.every((l) => Number(l.split('+')[1]) <= 2048)).toBe(true);
    expect(g.pr(0, 0x10) & (1 << 24)).not.toBe(0);
    expect(g.pr(0, 0x20)).toBe(0x0451);
  });
});
