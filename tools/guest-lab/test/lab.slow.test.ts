// A part of the acceptance runs that is quick enough for every change: each device and each kind of back end once, and
// Debian with systemd from a qcow2 disk.
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, it, type TestContext } from 'vitest';
import { type PulledImage, pullImage } from '../../../apps/xhyve-cli/src/images/index.ts';
import { debianSession } from '../src/debian.ts';
import { missing } from '../src/disks.ts';
import { labImage } from '../src/image.ts';
import { LAB_DEVICES, verify } from '../src/verify.ts';

const TIMEOUT = { timeout: 600_000 };
const places: string[] = [];
const place = (): string => {
  const dir = mkdtempSync(join(tmpdir(), 'hyve-lab-'));
  places.push(dir);
  return dir;
};
afterAll(() => {
  for (const p of places) rmSync(p, { recursive: true, force: true });
});

async function need(context: TestContext, get: () => Promise<PulledImage>): Promise<PulledImage> {
  try {
    return await get();
  } catch (e) {
    return context.skip(`the guest is not to be had here: ${e instanceof Error ? e.message : String(e)}`);
  }
}

const only = (...names: string[]): typeof LAB_DEVICES => LAB_DEVICES.filter((d) => names.includes(d.name));

describe('the verifying workload', () => {
  it.for([
    ['qcow2-backing', only('virtio packed', 'nvme')],
    ['nbd-qemu', only('virtio modern, 2 queues', 'ahci')],
  ] as const)('finds every byte again on %s', TIMEOUT, async ([kind, devices], context) => {
    const why = missing(kind);
    if (why !== null) return context.skip(why);
    const image = await need(context, () => labImage());
    const verdicts = await verify(image, { dir: place(), kind, devices, mib: 2 });
    expect(verdicts.map((v) => [v.device, v.problem])).toEqual(devices.map((d) => [d.name, '']));
  });
});

describe('Debian with systemd on a qcow2 disk', () => {
  it(
    'boots to a login prompt with nothing failed, powers off, leaves a clean file system',
    TIMEOUT,
    async (context) => {
      const image = await need(context, () => pullImage('debian-disk'));
      const said: string[] = [];
      await debianSession(image, {
        dir: place(),
        device: 'virtio-blk',
        restart: false,
        say: (line) => void said.push(line),
      });
      expect(said).toContain('is-system-running: running');
    },
  );
});
