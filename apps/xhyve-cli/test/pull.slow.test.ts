// The real thing, slow: fetches Debian's cloud kernel with apt and assembles the guest.
import { mkdtempSync, readdirSync, readFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { bootLine, type PulledImage, pullImage } from '../src/images/index.ts';

it('pulls debian-cloud from Debian packages', { timeout: 300_000 }, async (context) => {
  const cacheDir = mkdtempSync(join(tmpdir(), 'xhyve-pull-'));
  const phases = new Set<string>();
  let image: PulledImage;
  try {
    image = await pullImage('debian-cloud', { cacheDir, onProgress: (p) => phases.add(p.phase) });
  } catch (e) {
    const why = e instanceof Error ? e.message : String(e);
    if (/not on this system|no package|could not read the package index|failed: /u.test(why)) {
      context.skip(`no Debian packages to be had here: ${why}`);
    }
    throw e;
  }
  expect([...phases]).toEqual(['index', 'download', 'unpack', 'assemble']);
  const kernel = readFileSync(image.paths.kernel!);
  expect(kernel.toString('latin1', 0x202, 0x206)).toBe('HdrS'); // Linux boot protocol, header magic
  const initrd = readFileSync(image.paths.initrd!);
  expect(initrd.toString('latin1', 0, 6)).toBe('070701');
  const names = initrd.toString('latin1');
  for (const m of ['virtio_pci', 'virtio_blk', 'virtio_net', 'virtio-rng', 'libata', 'sd_mod', 'sr_mod', 'button'])
    expect(names.includes(`/${m}.ko\0`), m).toBe(true);
  expect(image.manifest.sources.map((s) => s.name.split(' ')[0])).toEqual([
    expect.stringMatching(/^linux-image-.*-cloud-amd64$/u),
    'busybox-static',
  ]);
  expect(bootLine(image)).toContain('-f kexec,');
  expect((await pullImage('debian-cloud', { cacheDir })).cached).toBe(true);
  expect(readdirSync(cacheDir).sort()).toEqual(['debian-cloud.json', 'sha256']);
});
