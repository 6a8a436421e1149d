import { MemoryDisk, settle } from '@hyve/testkit';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { BAR, DATA, Guest, REPLY } from './kit.ts';

function make(): { g: Guest; disk: MemoryDisk } {
  const disk = new MemoryDisk({ size: 256 << 10 });
  return { g: new Guest({ backend: disk, maxQueues: 3, queueSize: 64, ioSlots: 4 }, 2 << 20), disk };
}

/** After anything, a disable and enable must bring the controller back. */
async function recovers(g: Guest, disk: MemoryDisk): Promise<void> {
  disk.hold = false;
  disk.status = 'ok';
  disk.release();
  await settle();
  g.disable();
  await settle();
  expect(g.r(0x1c) & 1).toBe(0);
  g.enable();
  expect(g.r(0x1c) & 1).toBe(1);
  await g.pair();
  expect(await g.status(0, { opcode: 6, prp1: REPLY, dw10: 1 })).toBe(0);
  expect(await g.status(1, g.rw(false, 0, 8, DATA))).toBe(0);
  expect(g.bytes(DATA, 64)).toEqual([...disk.bytes.subarray(0, 64)]);
}

const u32 = fc.oneof(fc.nat(0xffff_ffff), fc.nat(16), fc.constantFrom(0, 0xffff_ffff, 0x0046_0001, 0x0046_4001));
const address = fc.oneof(
  fc.nat(0x1f_ffff),
  fc.nat(0x1ff).map((n) => n * 4096),
  fc.nat(0x1ff).map((n) => n * 4096),
  fc.constantFrom(2 ** 40, 2 ** 63, 0x1f_fffc, 0x1f_f000),
);

describe('a hostile guest', () => {
  it('writes anything anywhere: nothing throws, values stay unsigned, enabling brings the device back', async () => {
    const offsets = fc.oneof(
      fc.nat(0x3fff),
      fc.constantFrom(0x0c, 0x10, 0x14, 0x1c, 0x20, 0x24, 0x28, 0x30, 0x1000, 0x1004, 0x1008, 0x100c),
    );
    const step = fc.tuple(offsets, fc.constantFrom<1 | 2 | 4>(1, 2, 4, 4), u32, fc.boolean());
    await fc.assert(
      fc.asyncProperty(fc.array(step, { maxLength: 60 }), fc.boolean(), async (steps, enabled) => {
        const { g, disk } = make();
        if (enabled) g.enable();
        for (const [offset, width, value, write] of steps) {
          const at = BAR + Math.min(offset, 0x4000 - width);
          if (write) g.rig.cpu.write(at, width, width === 4 ? value : value & (width === 2 ? 0xffff : 0xff));
          else g.rig.cpu.read(at, width);
        }
        await settle();
        await recovers(g, disk);
      }),
      { numRuns: 60 },
    );
  });

  it('puts random commands into its queues and random bytes behind its pointers', async () => {
    const command = fc.record({
      queue: fc.nat(1),
      opcode: fc.oneof(fc.nat(255), fc.nat(12), fc.constantFrom(0x80, 1, 2, 5, 8, 9, 12)),
      nsid: fc.constantFrom(0, 1, 1, 1, 0xffff_ffff, 7),
      flags: fc.constantFrom(0, 0, 0x40, 0x80, 0xc0, 1),
      prp1: address,
      prp2: address,
      sgl: fc.option(fc.uint8Array({ minLength: 16, maxLength: 16 }), { nil: undefined }),
      dw10: u32,
      dw11: fc.oneof(fc.constant(0), fc.nat(7), u32),
      dw12: fc.oneof(fc.nat(20), fc.nat(0xffff), u32),
      slow: fc.boolean(),
      fail: fc.constantFrom('ok' as const, 'ok' as const, 'io-error' as const, 'unsupported' as const),
      after: fc.constantFrom('wait', 'release', 'disable', 'junk', 'nothing', 'nothing'),
      junk: fc.tuple(fc.nat(0x7_ffff), fc.nat(0xffff_ffff)),
    });
    await fc.assert(
      fc.asyncProperty(fc.array(command, { maxLength: 15 }), async (commands) => {
        const { g, disk } = make();
        g.enable();
        await g.pair(1, 16);
        for (const c of commands) {
          disk.hold = c.slow;
          disk.status = c.fail;
          g.submit(c.queue, { ...c, ...(c.sgl === undefined ? {} : { sgl: [...c.sgl] }) } as never);
          if (c.after === 'wait') await settle();
          else if (c.after === 'release') {
            disk.release();
            await settle();
          } else if (c.after === 'disable') {
            g.disable();
            g.w(0x14, 0x0046_0001);
          } else if (c.after === 'junk') g.rig.ram.write32(c.junk[0] * 4, c.junk[1]);
        }
        await settle();
        await recovers(g, disk);
      }),
      { numRuns: 100 },
    );
  });

  it('fills memory with random PRP lists and SGL segments', async () => {
    const words = fc.array(
      fc.oneof(
        fc.nat(0x1ff).map((n) => n * 4096),
        fc.nat(0xffff_ffff),
        fc.constantFrom(0, 16, 64, 0x3000_0000, 0x2000_0000, 0x0006_0000),
      ),
      { minLength: 64, maxLength: 64 },
    );
    await fc.assert(
      fc.asyncProperty(
        words,
        fc.boolean(),
        fc.nat(511),
        fc.integer({ min: 17, max: 512 }),
        async (list, s, offset, n) => {
          const { g, disk } = make();
          g.enable();
          await g.pair();
          const at = 0x6_0000 + offset * 8;
          list.forEach((v, i) => {
            g.rig.ram.write32(at + i * 4, v);
          });
          const c = g.rw(false, 0, Math.min(n, 512), DATA, at);
          const first = [...new Uint8Array(new Uint32Array([at, 0, 64 * 4, 0x2000_0000]).buffer)];
          g.submit(1, s ? { ...c, flags: 0x40, sgl: first } : c);
          await settle();
          // Whatever came of it, the rings of the driver may be gone; the controller is not.
          await recovers(g, disk);
        },
      ),
      { numRuns: 100 },
    );
  });

  it('keeps to its pool and its queues however full they are', async () => {
    const { g, disk } = make();
    g.enable();
    await g.pair(1, 64);
    disk.hold = true;
    for (let i = 0; i < 63; i++) g.submit(1, g.rw(false, i, 1, DATA), false);
    g.ring(1);
    expect(disk.pending).toBe(4);
    for (let done = 0; done < 63; ) {
      disk.release();
      await settle();
      while (g.poll(1) !== null) done++;
    }
    expect(disk.pending).toBe(0);
  });
});
