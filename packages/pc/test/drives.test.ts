// Drives by name: media that come and go, disks that grow, and everything that is refused by name.
import { type BlockBackend, HyveError } from '@hyve/core';
import { describe, expect, it } from 'vitest';
import { createPc, type DiskRequest, type Pc } from '../src/index.ts';
import { code, disk, host, machine, multiboot, Screen, slot } from './kit.ts';

/** A machine with one of each, whose host counts what is open. */
async function build(o: { virtual?: boolean; fail?: (conf: string) => boolean } = {}) {
  const open = new Map<BlockBackend, DiskRequest>();
  const asked: string[] = [];
  const guest = multiboot([...code.print('x'), ...code.stop()]);
  const clock = {
    rtc: 'utc',
    mode: o.virtual === true ? 'virtual' : 'real',
    startSeconds: o.virtual === true ? 0 : null,
    instructionsPerSecond: 1e9,
  } as const;
  const pc = await createPc(
    machine({
      clock,
      pci: [
        slot(0, 'hostbridge'),
        slot(3, 'virtio-blk', 'v.img'),
        slot(4, 'ahci', 'hd:h.img,cd:c.iso'),
        slot(5, 'ahci-cd', ''),
        slot(6, 'nvme', 'n.img'),
        slot(31, 'lpc'),
      ],
    }),
    host({ guest }, new Screen(), {
      openDisk: async (request) => {
        asked.push(request.conf);
        if (o.fail?.(request.conf)) throw new HyveError('BLOCK_FILE', `cannot open ${request.conf}`);
        const inner = disk(1 << 20);
        let size = inner.size;
        const backend: BlockBackend = {
          ...inner,
          get size() {
            return size;
          },
          identity: request.conf,
          close: async () => {
            if (!open.delete(backend)) throw new Error(`${request.conf} closed twice`);
          },
        };
        open.set(backend, request);
        const grow = async (bytes: number): Promise<void> => {
          size = bytes;
        };
        return { backend, extras: new Map(), ...(request.conf.startsWith('v') ? { grow } : {}) };
      },
    }),
  );
  return { pc, open: () => [...open.values()].map((r) => r.conf), asked };
}

const refusal = async (p: Promise<unknown>): Promise<string> =>
  p.then(
    () => 'nothing',
    (e: unknown) => `${(e as HyveError).code} ${(e as HyveError).message}`,
  );
const images = (pc: Pc): (string | null)[] => pc.drives.list().map((d) => d.image);

describe('drives', () => {
  it('are listed as -s has them', async () => {
    const { pc } = await build();
    expect(pc.drives.list()).toEqual([
      { name: '0:3:0', device: 'virtio-blk', image: 'v.img', bytes: 1 << 20, readOnly: false },
      { name: '0:4:0.0', device: 'ahci-hd', image: 'h.img', bytes: 1 << 20, readOnly: false },
      { name: '0:4:0.1', device: 'ahci-cd', image: 'c.iso', bytes: 1 << 20, readOnly: true },
      { name: '0:5:0.0', device: 'ahci-cd', image: null, bytes: 0, readOnly: true },
      { name: '0:6:0', device: 'nvme', image: 'n.img', bytes: 1 << 20, readOnly: false },
    ]);
    await pc.close();
  });

  it('media come and go, and everything is closed once', async () => {
    const m = await build();
    await m.pc.drives.change('5', 'one.iso');
    expect(m.asked.at(-1)).toBe('one.iso,ro');
    await m.pc.drives.change('0:5:0.0', 'two.iso');
    expect(images(m.pc)).toEqual(['v.img', 'h.img', 'c.iso', 'two.iso', 'n.img']);
    expect(m.open()).toEqual(['v.img', 'h.img', 'c.iso,ro', 'n.img', 'two.iso,ro']);
    await m.pc.drives.eject('4:0.1');
    await m.pc.drives.eject('4:0.1'); // nothing is in it
    expect(images(m.pc)).toEqual(['v.img', 'h.img', null, 'two.iso', 'n.img']);
    await m.pc.pause();
    await m.pc.save(); // flushes what is there now
    m.pc.resume();
    await m.pc.close();
    expect(m.open()).toEqual([]);
  });

  it('a medium that cannot be opened changes nothing', async () => {
    const m = await build({ fail: (conf) => conf.startsWith('bad') });
    expect(await refusal(m.pc.drives.change('4.1', 'bad.iso'))).toBe('BLOCK_FILE cannot open bad.iso,ro');
    expect(images(m.pc)[2]).toBe('c.iso');
    await m.pc.drives.change('4.1', 'good.iso');
    await m.pc.close();
    expect(m.open()).toEqual([]);
  });

  it('grow where the device can say so and the image can', async () => {
    const m = await build();
    await m.pc.drives.resize('3', 2 << 20);
    expect(m.pc.drives.list()[0]?.bytes).toBe(2 << 20);
    expect(await refusal(m.pc.drives.resize('3', 1 << 20))).toContain('does not shrink');
    expect(await refusal(m.pc.drives.resize('6', 2 << 20))).toContain('n.img has a fixed size');
    expect(await refusal(m.pc.drives.resize('4.0', 2 << 20))).toContain('0:4:0.0 is ahci-hd, which cannot tell');
    await m.pc.close();
  });

  it('are told apart by name', async () => {
    const { pc } = await build();
    for (const [name, why] of [
      ['4', 'more than one; add .PORT'],
      ['7', 'no such drive; the machine has 0:3:0, 0:4:0.0, 0:4:0.1, 0:5:0.0, 0:6:0'],
      ['1:5:0', 'no such drive'],
      ['5.1', 'no such drive'],
      ['', 'no such drive'],
      ['vda', 'no such drive'],
      ['3', '0:3:0 is virtio-blk: only a CD drive'],
      ['4.0', '0:4:0.0 is ahci-hd: only a CD drive'],
    ] as const)
      expect(await refusal(pc.drives.eject(name))).toContain(why);
    await pc.close();
  });

  it('stay as they are in virtual time', async () => {
    const { pc } = await build({ virtual: true });
    for (const p of [pc.drives.eject('5'), pc.drives.change('5', 'a.iso'), pc.drives.resize('3', 2 << 20)])
      expect(await refusal(p)).toContain('PC_DRIVE drives cannot be changed: in virtual time');
    await pc.close();
  });
});
