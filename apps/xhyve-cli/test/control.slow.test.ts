// A Linux guest whose CD is changed and whose disks grow while it runs, by the commands that a user would type.
import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync, statSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, expect, it } from 'vitest';
import { bootArgs, Guest, image } from './guest.ts';

const SECONDS = 120;
const dir = mkdtempSync(join(tmpdir(), 'xhyve-ctl-'));
afterAll(() => rmSync(dir, { recursive: true, force: true }));
const file = (name: string, first: string, bytes: number): string => {
  const path = join(dir, name);
  writeFileSync(path, first);
  truncateSync(path, bytes);
  return path;
};

it('sees another CD, an empty drive, and larger disks', { timeout: 3 * SECONDS * 1000 }, async (context) => {
  const full = await image('debian-full');
  if (typeof full === 'string') return context.skip(full);
  const socket = join(dir, 'ctl');
  const first = file('first.iso', 'the first disc\n', 1 << 20);
  const second = file('second.iso', 'the second disc\n', 2 << 20);
  const disk = file('disk.img', 'disk\n', 8 << 20);
  const nvme = file('nvme.img', 'nvme\n', 8 << 20);
  const ctl = (...words: string[]): string => {
    const bin = join(import.meta.dirname, '../bin/xhyve.js');
    const r = spawnSync(process.execPath, [bin, 'ctl', socket, ...words], { encoding: 'utf8' });
    return `${r.stdout}${r.stderr}${r.status === 0 ? '' : `status ${r.status}`}`.trim();
  };
  const g = Guest.start(
    bootArgs(full, {
      append: 'quiet',
      more: [
        ...['--control', socket, '-s', `3,virtio-blk,${disk}`, '-s', `4,ahci-cd,${first}`, '-s', `5,nvme,${nvme}`],
      ],
    }),
  );
  try {
    await g.prompt(SECONDS);
    const says = async (line: string, wanted: RegExp): Promise<void> => {
      g.send(`${line}\n`);
      await g.expect(wanted, SECONDS);
      await g.prompt(SECONDS);
    };
    await says('modprobe -a sr_mod nvme 2>/dev/null; head -n1 /dev/sr0', /^the first disc/mu);
    expect(ctl('info')).toMatch(
      /^running\n0:3:0\s+virtio-blk\s+8 MiB\s+rw .*\n0:4:0\.0\s+ahci-cd\s+1 MiB\s+ro .*first/u,
    );
    expect(ctl('change', '4', second)).toBe('');
    await says('head -n1 /dev/sr0; cat /sys/block/sr0/size', /^the second disc\r?\n4096/mu);
    expect(ctl('eject', '4')).toBe('');
    await says('head -c1 /dev/sr0 || echo "it is"" empty"', /^it is empty/mu);
    expect(ctl('change', '4', join(dir, 'none.iso'))).toContain('there is no such file');

    expect(ctl('resize', '3', '16M')).toBe('');
    expect(ctl('resize', '5', '24M')).toBe('');
    expect([statSync(disk).size, statSync(nvme).size]).toEqual([16 << 20, 24 << 20]);
    await says('sleep 1; cat /sys/block/vda/size /sys/block/nvme0n1/size', /^32768\r?\n49152/mu);
    await says('echo new end | dd of=/dev/vda bs=512 seek=32767 conv=sync,fsync 2>/dev/null; echo done', /^done/mu);
    expect(spawnSync('tail', ['-c', '512', disk], { encoding: 'utf8' }).stdout.startsWith('new end\n')).toBe(true);
    expect(ctl('resize', '3', '1M')).toContain('does not shrink');

    expect(ctl('pause')).toBe('');
    expect(ctl('info')).toMatch(/^paused\n/u);
    g.send('echo goes"" on\n');
    await new Promise((resolve) => setTimeout(resolve, 500));
    expect(ctl('resume')).toBe('');
    await g.expect(/^goes on/mu, SECONDS);
    await g.prompt(SECONDS);
    expect(ctl('quit')).toBe('');
    expect(await g.status()).toBe(1);
  } finally {
    await g.end();
  }
});
