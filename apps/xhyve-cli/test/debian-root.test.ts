// A Debian tree from packages made here: what dpkg, PAM and systemd will find.
import { createHash } from 'node:crypto';
import { pack } from 'tar-stream';
import { describe, expect, it } from 'vitest';
import { debianRoot } from '../src/images/debian-root.ts';
import type { FsNode } from '../src/images/ext4.ts';

const bytes = (s: string): Uint8Array => new TextEncoder().encode(s);

interface Entry {
  readonly name: string;
  readonly text?: string;
  readonly mode?: number;
  readonly gid?: number;
  readonly link?: string;
  readonly hard?: boolean;
}

async function tarOf(entries: readonly Entry[]): Promise<Uint8Array> {
  const p = pack();
  for (const e of entries) {
    const header = { name: e.name, mode: e.mode ?? 0o644, gid: e.gid ?? 0, mtime: new Date(1_700_000_000_000) };
    if (e.link !== undefined) p.entry({ ...header, type: e.hard === true ? 'link' : 'symlink', linkname: e.link });
    else if (e.name.endsWith('/')) p.entry({ ...header, type: 'directory' });
    else p.entry(header, e.text ?? '');
  }
  p.finalize();
  const parts: Uint8Array[] = [];
  for await (const c of p) parts.push(c as Uint8Array);
  return Buffer.concat(parts);
}

async function deb(control: readonly Entry[], data: readonly Entry[]): Promise<Uint8Array> {
  const parts = [bytes('!<arch>\n')];
  for (const [name, member] of [
    ['debian-binary', bytes('2.0\n')],
    ['control.tar', await tarOf(control)],
    ['data.tar', await tarOf(data)],
  ] as const) {
    const size = String(member.length).padEnd(10);
    parts.push(bytes(`${name.padEnd(16)}${'0'.padEnd(12)}0     0     100644  ${size}\`\n`), member);
    if (member.length % 2 === 1) parts.push(bytes('\n'));
  }
  return Buffer.concat(parts);
}

async function tree(): Promise<Map<string, FsNode>> {
  const base = await deb(
    [
      { name: './control', text: 'Package: base\nVersion: 1\nArchitecture: amd64\n' },
      { name: './conffiles', text: '/etc/conf\nremove-on-upgrade /etc/old\n' },
      { name: './postinst', text: '#!/bin/sh\n', mode: 0o755 },
    ],
    [
      { name: './' },
      { name: './bin/', mode: 0o755 },
      { name: './bin/su', text: 'su', mode: 0o4755 },
      { name: './bin/also', link: './bin/su', hard: true },
      { name: './etc/conf', text: 'conf\n' },
      { name: './usr/bin/mawk', text: 'mawk', mode: 0o755 },
      { name: './usr/share/man/man1/su.1', text: 'man' },
      { name: './usr/share/doc/base/changelog', text: 'log' },
      { name: './usr/share/doc/base/copyright', text: 'who' },
      {
        name: './usr/share/base-passwd/passwd.master',
        text: 'root:*:0:0:root:/root:/bin/bash\nbin:*:2:2:bin:/bin:/x\n',
      },
      { name: './usr/share/base-passwd/group.master', text: 'root:*:0:\nshadow:*:42:\n' },
      { name: './usr/lib/os-release', text: 'VERSION_CODENAME=bookworm\n' },
      { name: './var/mail/', mode: 0o2775, gid: 8 },
    ],
  );
  const library = await deb(
    [{ name: './control', text: 'Package: lib\nVersion: 2\nArchitecture: amd64\nMulti-Arch: same\nDepends: base\n' }],
    [{ name: './lib/x86_64-linux-gnu/libx.so.1', text: 'so' }],
  );
  const nodes = await debianRoot({
    packages: [
      { name: 'base', version: '1', sha256: '', data: base },
      { name: 'lib', version: '2', sha256: '', data: library },
    ],
    modules: new Map([['6.1/kernel/x.ko', bytes('ko')]]),
    hostname: 'box',
    label: 'disk',
    onPackage: () => {},
  });
  return new Map(nodes.map((n) => [n.path, n]));
}

describe('a Debian tree', () => {
  const text = (t: Map<string, FsNode>, path: string): string => new TextDecoder().decode(t.get(path)?.data);

  it('has a merged /usr, and links where packages have directories', async () => {
    const t = await tree();
    expect(t.get('bin')).toMatchObject({ type: 'symlink', link: 'usr/bin' });
    expect(t.get('usr/bin/su')).toMatchObject({ mode: 0o4755, mtime: 1_700_000_000 });
    expect(t.get('usr/bin/also')).toMatchObject({ type: 'hardlink', link: 'usr/bin/su' });
    expect(t.has('usr/lib/x86_64-linux-gnu/libx.so.1')).toBe(true);
    expect(text(t, 'usr/lib/modules/6.1/kernel/x.ko')).toBe('ko');
    expect([...t.keys()].filter((p) => /^(bin|sbin|lib|lib64)\//u.test(p))).toEqual([]);
  });

  it('leaves out manuals, keeps licences', async () => {
    const t = await tree();
    expect(t.has('usr/share/man/man1/su.1')).toBe(false);
    expect(t.has('usr/share/doc/base/changelog')).toBe(false);
    expect(text(t, 'usr/share/doc/base/copyright')).toBe('who');
  });

  it('has a dpkg database that claims no more than has happened', async () => {
    const t = await tree();
    expect(text(t, 'var/lib/dpkg/status')).toBe(
      'Package: base\nStatus: install ok unpacked\nVersion: 1\nArchitecture: amd64\n' +
        `Conffiles:\n /etc/conf ${createHash('md5').update('conf\n').digest('hex')}\n\n` +
        'Package: lib\nStatus: install ok unpacked\nVersion: 2\nArchitecture: amd64\nMulti-Arch: same\nDepends: base\n\n',
    );
    expect(text(t, 'var/lib/dpkg/info/base.list')).toContain('\n/bin/su\n');
    expect(t.get('var/lib/dpkg/info/base.postinst')?.mode).toBe(0o755);
    expect(t.has('var/lib/dpkg/info/lib:amd64.list')).toBe(true);
  });

  it('lets root in without a password and nobody else', async () => {
    const t = await tree();
    expect(text(t, 'etc/passwd')).toMatch(/^root:x:0:0:root:\/root:\/bin\/bash$/mu);
    const shadow = text(t, 'etc/shadow').trimEnd().split('\n');
    expect(shadow.filter((l) => l.split(':')[1] === '').map((l) => l.split(':')[0])).toEqual(['root']);
    expect(text(t, 'etc/group')).toMatch(/^kvm:x:\d+:$/mu);
    expect(t.get('etc/shadow')).toMatchObject({ mode: 0o640, gid: 42 });
    expect(text(t, 'etc/pam.d/common-auth')).toContain('pam_unix.so nullok');
    expect(text(t, 'etc/pam.d/common-session')).not.toContain('pam_systemd');
  });

  it('knows its name and its disk, and leaves the choice of a mirror to the user', async () => {
    const t = await tree();
    expect(text(t, 'etc/hostname')).toBe('box\n');
    expect(text(t, 'etc/fstab')).toBe('LABEL=disk / ext4 defaults 0 1\n');
    expect(text(t, 'etc/apt/sources.list')).toBe('# deb URI-OF-A-DEBIAN-MIRROR bookworm main\n');
    expect(t.get('usr/bin/awk')).toMatchObject({ link: '/etc/alternatives/awk' });
    expect(t.has('usr/bin/pager')).toBe(false);
  });
});
