// The lab's guests: Debian's full kernel and an initrd with programs of Debian's, each with the libraries it needs and
// nothing else of its package.
import { createHash } from 'node:crypto';
import { globSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { Apt } from '../../../apps/xhyve-cli/src/images/apt.ts';
import { readDeb, type TarFile } from '../../../apps/xhyve-cli/src/images/archive.ts';
import type { NewFile } from '../../../apps/xhyve-cli/src/images/cache.ts';
import { type CatalogueEntry, debianInitrd } from '../../../apps/xhyve-cli/src/images/catalogue.ts';
import type { OnProgress, PulledImage } from '../../../apps/xhyve-cli/src/images/index.ts';
import type { InitrdFile } from '../../../apps/xhyve-cli/src/images/initrd.ts';
import { pullEntry } from '../../../apps/xhyve-cli/src/images/pull.ts';
import { elfNeeds } from './elf.ts';

/** Programs by package; a path is where the program lies in the guest, without BusyBox's version of it in the way. */
type Programs = Readonly<Record<string, readonly string[]>>;

const DISK_TOOLS: Programs = {
  e2fsprogs: ['sbin/mke2fs', 'sbin/e2fsck', 'sbin/tune2fs', 'sbin/debugfs'],
  pciutils: ['usr/bin/lspci', 'usr/bin/setpci'],
  smartmontools: ['usr/sbin/smartctl'],
  hdparm: ['sbin/hdparm'],
  'nvme-cli': ['usr/sbin/nvme'],
  fio: ['usr/bin/fio'],
  'util-linux': ['sbin/blkdiscard', 'sbin/fstrim', 'bin/lsblk', 'sbin/blockdev'],
  eject: ['usr/bin/eject'],
  'sg3-utils': ['usr/bin/sg_inq', 'usr/bin/sg_modes', 'usr/bin/sg_unmap', 'usr/bin/sg_write_same'],
};

const SOAK_TOOLS: Programs = { 'stress-ng': ['usr/bin/stress-ng'] };

/** Packages that only a Python, Perl or graphics part of the closure would need. */
const UNUSED = /^(python|perl-base|tar|dpkg|libllvm|libgl1-mesa-dri|mesa-)/u;

/** Data that programs look for. */
const DATA = /^usr\/share\/(misc\/pci\.ids(\.gz)?|smartmontools\/drivedb\.h)$|^var\/lib\/smartmontools\//u;

/** Drivers besides those of every guest. */
const MODULES = ['sg', 'cdrom', 'loop'];

const SCRIPTS = join(import.meta.dirname, '../guest');

/** Changes with everything this recipe is made of. */
function recipe(): number {
  const hash = createHash('sha256').update(readFileSync(import.meta.filename));
  for (const f of globSync('*.sh', { cwd: SCRIPTS }).sort()) hash.update(f).update(readFileSync(join(SCRIPTS, f)));
  return hash.digest().readUInt32LE(0);
}

const entry = (name: string, about: string, programs: Programs): CatalogueEntry => ({
  name,
  about,
  origin: 'Debian packages',
  make: async (c) => {
    const apt = await Apt.open({ dir: c.work, architecture: 'amd64', onProgress: c.onProgress, signal: c.signal });
    const linux = await apt.dependency('linux-image-amd64', /^linux-image-\d.*-amd64$/u);
    const names = (await apt.closure(Object.keys(programs))).filter((n) => !UNUSED.test(n));
    const packages = await apt.fetchAll([linux, 'busybox-static', ...names]);
    const kernelFiles: TarFile[] = [];
    const libraries = new Map<string, TarFile>();
    const files = new Map<string, TarFile>();
    for (const p of packages) {
      c.onProgress({ phase: 'unpack', what: p.name, done: 0, total: null });
      if (p.name === linux)
        kernelFiles.push(...(await readDeb(p.data, (path) => /^boot\/vmlinuz-|^(usr\/)?lib\/modules\//u.test(path))));
      else
        for (const f of await readDeb(p.data, (path) => /(^|\/)(s?bin|lib|lib64)\//u.test(path) || DATA.test(path))) {
          files.set(f.path, f);
          if (/\.so(\.|$)/u.test(f.path)) libraries.set(f.path.slice(f.path.lastIndexOf('/') + 1), f);
        }
    }
    const kernel = kernelFiles.find((f) => f.path.startsWith('boot/vmlinuz-'));
    const busybox = files.get('bin/busybox');
    if (kernel === undefined || busybox === undefined) throw new Error('kernel or busybox is missing');
    const extra = collect(programs, files, libraries);
    const release = kernel.path.slice('boot/vmlinuz-'.length);
    const { initrd } = await debianInitrd(release, kernelFiles, busybox.data, { modules: MODULES, extra });
    const made: NewFile[] = [
      { role: 'kernel', name: `vmlinuz-${release}`, data: kernel.data },
      { role: 'initrd', name: `lab-${release}.cpio`, data: initrd },
    ];
    const sources = packages.map((p) => ({ name: `${p.name} ${p.version}`, sha256: p.sha256 }));
    return {
      about: { version: release, cmdline: 'console=ttyS0', memory: '512M', sources, notes: [] },
      files: made,
    };
  },
});

/** The wanted programs, the libraries they reach, their data, and the lab's scripts. */
function collect(
  programs: Programs,
  files: ReadonlyMap<string, TarFile>,
  libraries: ReadonlyMap<string, TarFile>,
): InitrdFile[] {
  const out = new Map<string, InitrdFile>();
  const queue: TarFile[] = [];
  const take = (f: TarFile): void => {
    if (out.has(f.path)) return;
    out.set(f.path, { path: f.path, mode: f.mode, data: f.data, link: f.link });
    if (f.link === null) return void queue.push(f);
    const target = f.link.startsWith('/') ? f.link.slice(1) : join(f.path, '..', f.link);
    const found = files.get(target);
    if (found === undefined) throw new Error(`${f.path} points to ${f.link}, which is in no package`);
    take(found);
  };
  for (const path of Object.values(programs).flat()) {
    const f = files.get(path);
    if (f === undefined) throw new Error(`no package has ${path}`);
    take(f);
  }
  for (let f = queue.pop(); f !== undefined; f = queue.pop()) {
    const needs = elfNeeds(f.data);
    if (needs === null) continue;
    for (const name of needs.libraries) {
      const library = libraries.get(name);
      if (library === undefined) throw new Error(`${f.path} needs ${name}, which is in no package`);
      take(library);
    }
    if (needs.interpreter !== null) take(must(files.get(needs.interpreter.slice(1)), needs.interpreter));
  }
  for (const [path, f] of files) if (DATA.test(path)) take(f);
  const link = (path: string, to: string): void => void out.set(path, { path, mode: 0o777, data: '', link: to });
  if (out.has('sbin/mke2fs')) link('sbin/mkfs.ext4', 'mke2fs');
  for (const name of globSync('*.sh', { cwd: SCRIPTS })) {
    const path = `usr/bin/${name.slice(0, -'.sh'.length)}`;
    out.set(path, { path, mode: 0o755, data: readFileSync(join(SCRIPTS, name)), link: null });
  }
  return [...out.values()];
}

function must<T>(value: T | undefined, what: string): T {
  if (value === undefined) throw new Error(`no package has ${what}`);
  return value;
}

/** The lab's guest with disk tools, from the cache or made anew. @throws CLI_RUN when packages cannot be had */
export function labImage(onProgress: OnProgress = () => {}): Promise<PulledImage> {
  const about = "Debian's full amd64 kernel with Debian's disk tools";
  return pullEntry({ ...entry('guest-lab', about, DISK_TOOLS), recipe: recipe() }, { onProgress });
}

/** The lab's guest with stress-ng. @throws as {@link labImage} */
export function soakImage(onProgress: OnProgress = () => {}): Promise<PulledImage> {
  const about = "Debian's full amd64 kernel with stress-ng";
  return pullEntry({ ...entry('guest-soak', about, SOAK_TOOLS), recipe: recipe() }, { onProgress });
}
