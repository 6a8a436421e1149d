// The guests that `xhyve pull` knows: where each comes from and how it is put together.
import { join } from 'node:path';
import { openBlock } from '@hyve/block-backends';
import { createDisk } from '@hyve/block-backends/disk';
import { runError } from '../errors.ts';
import { Apt, type FetchedPackage } from './apt.ts';
import { decompress, readDeb, readTar, type TarFile } from './archive.ts';
import type { ImageManifest, ImageSource, NewFile } from './cache.ts';
import { sha256 } from './cache.ts';
import { debianRoot } from './debian-root.ts';
import { writeExt4 } from './ext4.ts';
import { download } from './http.ts';
import { buildInitrd, type InitrdFile, WANTED_MODULES } from './initrd.ts';
import { builtinNames, closure, type ModuleFile, moduleInfo, nameOfPath } from './modules.ts';
import type { OnProgress } from './progress.ts';

/** What a recipe works with. */
export interface RecipeContext {
  /** A directory of its own, thrown away afterwards. */
  readonly work: string;
  /** Told how it goes. */
  readonly onProgress: OnProgress;
  /** Ends it. */
  readonly signal?: AbortSignal | undefined;
  /** Replaces a project's site, for tests: image name to base address. */
  readonly sites?: Readonly<Record<string, string>> | undefined;
}

/** What a recipe makes. */
export interface RecipeResult {
  /** Manifest without name and files. */
  readonly about: Pick<ImageManifest, 'version' | 'cmdline' | 'memory' | 'sources' | 'notes'>;
  /** Files to keep. */
  readonly files: readonly NewFile[];
}

/** One guest. */
export interface CatalogueEntry {
  /** As after `xhyve pull`. */
  readonly name: string;
  /** One line for people. */
  readonly about: string;
  /** Where it comes from, for people. */
  readonly origin: string;
  /** Raised when the recipe makes something else of the same sources; images made by others are made anew. Default 1. */
  readonly recipe?: number;
  /** Fetches and assembles. */
  readonly make: (c: RecipeContext) => Promise<RecipeResult>;
}

/** Version of what {@link buildInitrd} makes. */
const INITRD_RECIPE = 3;

/** Version of what {@link debianDisk} makes. */
const DISK_RECIPE = 10 * INITRD_RECIPE + 4;

/** What the system on the disk is made of, besides what every Debian has. */
const DISK_PACKAGES: readonly string[] = [
  '?essential',
  ...['apt', 'systemd-sysv', 'libpam-systemd', 'udev', 'dbus', 'kmod', 'login', 'passwd', 'e2fsprogs'],
  ...['iproute2', 'iputils-ping', 'netbase', 'procps', 'less', 'nano', 'pciutils'],
];
const DISK_SIZE = 4 * 2 ** 30;
const DISK_LABEL = 'debian';

/** Every guest, in the order `xhyve images` prints them. */
export const CATALOGUE: readonly CatalogueEntry[] = [
  {
    name: 'debian-cloud',
    about: "Debian's cloud kernel with a BusyBox shell",
    origin: 'Debian packages',
    recipe: INITRD_RECIPE,
    make: (c) => debianKernel(c, 'amd64', 'linux-image-cloud-amd64', /^linux-image-\d.*-cloud-amd64$/u),
  },
  {
    name: 'debian-full',
    about: "Debian's full amd64 kernel with a BusyBox shell",
    origin: 'Debian packages',
    recipe: INITRD_RECIPE,
    make: (c) => debianKernel(c, 'amd64', 'linux-image-amd64', /^linux-image-\d.*-amd64$/u),
  },
  {
    name: 'debian-i386',
    about: "Debian's 32-bit PAE kernel with a BusyBox shell",
    origin: 'Debian packages',
    recipe: INITRD_RECIPE,
    make: (c) => debianKernel(c, 'i386', 'linux-image-686-pae', /^linux-image-\d.*-686-pae$/u),
  },
  {
    name: 'debian-disk',
    about: 'Debian with systemd on a disk; root logs in without a password',
    origin: 'Debian packages',
    recipe: DISK_RECIPE,
    make: debianDisk,
  },
  {
    name: 'debian-netboot',
    about: "Debian's installer, text mode, amd64",
    origin: 'Debian packages',
    make: (c) => debianInstaller(c, 'amd64'),
  },
  {
    name: 'debian-netboot-i386',
    about: "Debian's installer, text mode, i386",
    origin: 'Debian packages',
    make: (c) => debianInstaller(c, 'i386'),
  },
  {
    name: 'memtest86',
    about: 'Memtest86+ on the serial console',
    origin: 'Debian packages',
    make: (c) =>
      debianFiles(c, 'memtest86+', [{ role: 'kernel', path: /^boot\/memtest86\+x64\.bin$/u }], {
        cmdline: 'console=ttyS0,115200',
        memory: '256M',
      }),
  },
  {
    name: 'ipxe',
    about: 'iPXE network boot loader',
    origin: 'Debian packages',
    make: (c) =>
      debianFiles(
        c,
        'ipxe',
        [
          { role: 'kernel', path: /^boot\/ipxe\.lkrn$/u },
          { role: 'iso', path: /^usr\/lib\/ipxe\/ipxe\.iso$/u },
        ],
        { cmdline: null, memory: '256M' },
      ),
  },
  {
    name: 'ovmf',
    about: 'UEFI firmware (OVMF)',
    origin: 'Debian packages',
    make: (c) =>
      debianFiles(
        c,
        'ovmf',
        [
          { role: 'code', path: /^usr\/share\/OVMF\/OVMF_CODE(_4M)?\.fd$/u },
          { role: 'vars', path: /^usr\/share\/OVMF\/OVMF_VARS(_4M)?\.fd$/u },
        ],
        { cmdline: null, memory: '512M' },
      ),
  },
  {
    name: 'seabios',
    about: 'BIOS firmware (SeaBIOS)',
    origin: 'Debian packages',
    make: (c) =>
      debianFiles(c, 'seabios', [{ role: 'code', path: /^usr\/share\/seabios\/bios-256k\.bin$/u }], {
        cmdline: null,
        memory: '256M',
      }),
  },
  { name: 'tinycore', about: 'Tiny Core Linux, 64 bit, text mode', origin: 'tinycorelinux.net', make: tinycore },
  { name: 'alpine', about: 'Alpine Linux net boot, virtual flavour', origin: 'alpinelinux.org', make: alpine },
];

/** The entry with this name, or null. */
export function findImage(name: string): CatalogueEntry | null {
  return CATALOGUE.find((e) => e.name === name) ?? null;
}

function source(p: FetchedPackage): ImageSource {
  return { name: `${p.name} ${p.version}`, sha256: p.sha256 };
}

async function unpack(c: RecipeContext, p: FetchedPackage, wanted: (path: string) => boolean): Promise<TarFile[]> {
  return readDeb(p.data, wanted, (done, total) => c.onProgress({ phase: 'unpack', what: p.name, done, total }));
}

async function debianKernel(
  c: RecipeContext,
  architecture: 'amd64' | 'i386',
  meta: string,
  pattern: RegExp,
): Promise<RecipeResult> {
  const apt = await Apt.open({ dir: c.work, architecture, onProgress: c.onProgress, signal: c.signal });
  const busyboxPackage = await apt.fetch('busybox-static');
  const linux = await apt.fetch(await apt.dependency(meta, pattern));
  const busybox = (await unpack(c, busyboxPackage, (p) => /^(usr\/)?bin\/busybox$/u.test(p)))[0];
  if (busybox === undefined) throw runError('busybox-static has no bin/busybox');
  const files = await unpack(c, linux, (p) => /^boot\/vmlinuz-|^(usr\/)?lib\/modules\//u.test(p));
  const kernel = files.find((f) => f.path.startsWith('boot/vmlinuz-'));
  if (kernel === undefined) throw runError(`${linux.name} has no kernel in boot/`);
  const release = kernel.path.slice('boot/vmlinuz-'.length);
  c.onProgress({ phase: 'assemble', what: 'initrd', done: 0, total: null });
  const { initrd, absent } = await debianInitrd(release, files, busybox.data);
  return {
    about: {
      version: release,
      cmdline: 'console=ttyS0',
      memory: '512M',
      sources: [source(linux), source(busyboxPackage)],
      notes: absent.length === 0 ? [] : [`this kernel has no ${absent.join(', ')}`],
    },
    files: [
      { role: 'kernel', name: `vmlinuz-${release}`, data: kernel.data },
      { role: 'initrd', name: `initrd-${release}.cpio`, data: initrd },
    ],
  };
}

/**
 * The initrd of a kernel package.
 * @param files everything below `lib/modules/RELEASE/` of the package
 * @param more drivers besides those every guest gets, and files
 * @returns the initrd, wanted drivers that the kernel lacks, and the others with their indexes by path below `lib/modules/`
 */
export async function debianInitrd(
  release: string,
  files: readonly TarFile[],
  busybox: Uint8Array,
  more: { readonly modules?: readonly string[]; readonly extra?: readonly InitrdFile[] } = {},
): Promise<{ initrd: Uint8Array; absent: readonly string[]; modules: Map<string, Uint8Array> }> {
  const prefix = new RegExp(`^(?:usr/)?lib/modules/${release.replaceAll(/[.+]/gu, '\\$&')}/`, 'u');
  const packed = new Map<string, { path: string; data: Uint8Array }>();
  const indexes = new Map<string, Uint8Array>();
  for (const f of files) {
    if (!prefix.test(f.path) || f.link !== null) continue;
    const path = f.path.replace(prefix, '');
    if (/\.ko(\.(xz|zst|gz))?$/u.test(path))
      packed.set(nameOfPath(path), { path: path.replace(/\.(xz|zst|gz)$/u, ''), data: f.data });
    else if (path === 'modules.builtin' || path === 'modules.builtin.modinfo' || path === 'modules.order')
      indexes.set(path, f.data);
  }
  // Thousands of modules may be compressed; only what the closure can reach is worth unpacking. Names reach names, and
  // soft dependencies by alias (crypto algorithms) reach modules named after the algorithm.
  const all = new Map<string, ModuleFile>();
  const builtin = builtinNames(new TextDecoder().decode(indexes.get('modules.builtin') ?? new Uint8Array(0)));
  const wanted = [...WANTED_MODULES, ...(more.modules ?? [])];
  const queue = wanted.map((n) => n.replaceAll('-', '_'));
  for (let i = 0; i < queue.length; i++) {
    const name = queue[i] as string;
    const file = packed.get(name);
    if (all.has(name) || file === undefined) continue;
    const data = await decompress(file.data);
    const info = moduleInfo(file.path, data);
    all.set(name, { path: file.path, data, info });
    queue.push(...info.depends, ...[...info.softPre, ...info.softPost].map((s) => s.replaceAll('-', '_')));
  }
  const { modules, absent } = closure(wanted, all, builtin);
  const initrd = buildInitrd({
    busybox,
    release,
    modules,
    indexes,
    extra: more.extra ?? [],
  });
  const below = new Map([...indexes].map(([name, data]) => [`${release}/${name}`, data]));
  for (const m of modules) below.set(`${release}/${m.path}`, m.data);
  return { initrd, absent, modules: below };
}

/** A kernel, our initrd that hands over to the disk, and the disk: a qcow2 image that is an ext4 file system as a whole. */
async function debianDisk(c: RecipeContext): Promise<RecipeResult> {
  const apt = await Apt.open({ dir: c.work, architecture: 'amd64', onProgress: c.onProgress, signal: c.signal });
  const linuxName = await apt.dependency('linux-image-amd64', /^linux-image-\d.*-amd64$/u);
  const names = await apt.closure(DISK_PACKAGES);
  const [linux, busyboxPackage, ...packages] = (await apt.fetchAll([linuxName, 'busybox-static', ...names])) as [
    FetchedPackage,
    FetchedPackage,
    ...FetchedPackage[],
  ];
  const busybox = (await unpack(c, busyboxPackage, (p) => /^(usr\/)?bin\/busybox$/u.test(p)))[0];
  const files = await unpack(c, linux, (p) => /^boot\/vmlinuz-|^(usr\/)?lib\/modules\//u.test(p));
  const kernel = files.find((f) => f.path.startsWith('boot/vmlinuz-'));
  if (kernel === undefined || busybox === undefined) throw runError(`no kernel in ${linux.name}, or no busybox`);
  const release = kernel.path.slice('boot/vmlinuz-'.length);
  const { initrd, modules } = await debianInitrd(release, files, busybox.data, { modules: ['autofs4'] });
  const total = packages.reduce((sum, p) => sum + p.data.length, 0);
  const root = await debianRoot({
    packages,
    modules,
    hostname: 'debian',
    label: DISK_LABEL,
    onPackage: (what, done) => c.onProgress({ phase: 'unpack', what, done, total }),
  });
  if (c.signal?.aborted === true) throw runError('interrupted');
  c.onProgress({ phase: 'assemble', what: 'disk', done: 0, total: null });
  const disk = join(c.work, 'disk.qcow2');
  await createDisk(disk, { format: 'qcow2', size: DISK_SIZE });
  const image = await openBlock(`${disk},format=qcow2`);
  try {
    // Equal packages, equal disk: the file system's name comes from theirs.
    const uuid = Buffer.from(sha256(Buffer.from(packages.map((p) => p.sha256).join())), 'hex').subarray(0, 16);
    uuid[6] = ((uuid[6] as number) & 0x0f) | 0x50;
    uuid[8] = ((uuid[8] as number) & 0x3f) | 0x80;
    await writeExt4(root, {
      size: DISK_SIZE,
      label: DISK_LABEL,
      uuid,
      write: async (offset, data) => {
        const status = await image.write(offset, [data]);
        if (status !== 'ok') throw runError(`writing ${disk}: ${status}`);
      },
    });
    if ((await image.flush()) !== 'ok') throw runError(`writing ${disk} failed`);
  } finally {
    await image.close();
  }
  return {
    about: {
      version: `${packages.find((p) => p.name === 'base-files')?.version ?? '?'}, Linux ${release}`,
      cmdline: `console=ttyS0 root=LABEL=${DISK_LABEL} rw`,
      memory: '512M',
      sources: [linux, busyboxPackage, ...packages].map(source),
      notes: ['its packages are unpacked, not configured: `dpkg --configure -a` in the guest does that'],
    },
    files: [
      { role: 'kernel', name: `vmlinuz-${release}`, data: kernel.data },
      { role: 'initrd', name: `initrd-${release}.cpio`, data: initrd },
      { role: 'disk', name: 'debian.qcow2', data: disk },
    ],
  };
}

async function debianInstaller(c: RecipeContext, arch: 'amd64' | 'i386'): Promise<RecipeResult> {
  // The installer's packages are for all architectures; amd64 indexes hold both.
  const apt = await Apt.open({ dir: c.work, architecture: 'amd64', onProgress: c.onProgress, signal: c.signal });
  const name = (await apt.names(new RegExp(`^debian-installer-\\d+-netboot-${arch}$`, 'u'))).at(-1);
  if (name === undefined)
    throw runError(`no package 'debian-installer-*-netboot-${arch}' in this system's apt sources`);
  const p = await apt.fetch(name);
  const files = await unpack(c, p, (path) =>
    new RegExp(`/text/debian-installer/${arch}/(linux|initrd\\.gz)$`, 'u').test(path),
  );
  const pick = (end: string): Uint8Array => {
    const f = files.find((x) => x.path.endsWith(`/${end}`) && x.link === null);
    if (f === undefined) throw runError(`${name} has no text/debian-installer/${arch}/${end}`);
    return f.data;
  };
  return {
    about: { version: p.version, cmdline: 'console=ttyS0', memory: '1G', sources: [source(p)], notes: [] },
    files: [
      { role: 'kernel', name: 'linux', data: pick('linux') },
      { role: 'initrd', name: 'initrd.gz', data: pick('initrd.gz') },
    ],
  };
}

async function debianFiles(
  c: RecipeContext,
  name: string,
  wanted: readonly { role: NewFile['role']; path: RegExp }[],
  o: { cmdline: string | null; memory: string },
): Promise<RecipeResult> {
  const apt = await Apt.open({ dir: c.work, architecture: 'amd64', onProgress: c.onProgress, signal: c.signal });
  const p = await apt.fetch(name);
  const found = await unpack(c, p, (path) => wanted.some((w) => w.path.test(path)));
  const files = wanted.map((w): NewFile => {
    const hits = found.filter((x) => w.path.test(x.path) && x.link === null && x.data.length > 0);
    const f = hits.sort((a, b) => a.path.length - b.path.length)[0];
    if (f === undefined) throw runError(`${p.name} ${p.version} has no file like ${w.path.source}`);
    return { role: w.role, name: f.path.slice(f.path.lastIndexOf('/') + 1), data: f.data };
  });
  return { about: { version: p.version, ...o, sources: [source(p)], notes: [] }, files };
}

async function tinycore(c: RecipeContext): Promise<RecipeResult> {
  const base = c.sites?.['tinycore'] ?? 'https://tinycorelinux.net/16.x/x86_64/release/distribution_files';
  const get = async (name: string): Promise<Uint8Array> => {
    const o = { onProgress: c.onProgress, signal: c.signal };
    const sum = new TextDecoder().decode(await download(`${base}/${name}.md5.txt`, { ...o, what: `${name}.md5.txt` }));
    const hex = /\b[0-9a-f]{32}\b/u.exec(sum)?.[0];
    if (hex === undefined) throw runError(`${base}/${name}.md5.txt holds no MD5 digest`);
    return download(`${base}/${name}`, { ...o, what: name, digest: { algorithm: 'md5', hex } });
  };
  const kernel = await get('vmlinuz64');
  const initrd = await get('corepure64.gz');
  return {
    about: {
      version: '16.x',
      cmdline: 'console=ttyS0 loglevel=4',
      memory: '512M',
      sources: [
        { name: `${base}/vmlinuz64`, sha256: sha256(kernel) },
        { name: `${base}/corepure64.gz`, sha256: sha256(initrd) },
      ],
      notes: [],
    },
    files: [
      { role: 'kernel', name: 'vmlinuz64', data: kernel },
      { role: 'initrd', name: 'corepure64.gz', data: initrd },
    ],
  };
}

/** The net boot entry of Alpine's release list: a file name and its SHA-256. */
export function parseAlpineReleases(yaml: string): { file: string; version: string; sha256: string } | null {
  for (const block of yaml.split(/^-\s*$/mu)) {
    const field = (name: string): string | undefined =>
      new RegExp(`^\\s+${name}:\\s*"?([^"\\s]+)"?\\s*$`, 'mu').exec(block)?.[1];
    const file = field('file');
    const digest = field('sha256');
    if (field('flavor') !== 'alpine-netboot' || file === undefined || digest === undefined) continue;
    if (!/^[\w.-]+$/u.test(file) || !/^[0-9a-f]{64}$/u.test(digest)) return null;
    return { file, version: field('version') ?? '?', sha256: digest };
  }
  return null;
}

async function alpine(c: RecipeContext): Promise<RecipeResult> {
  const base = c.sites?.['alpine'] ?? 'https://dl-cdn.alpinelinux.org/alpine/latest-stable/releases/x86_64';
  const o = { onProgress: c.onProgress, signal: c.signal };
  const list = await download(`${base}/latest-releases.yaml`, { ...o, what: 'the release list' });
  const release = parseAlpineReleases(new TextDecoder().decode(list));
  if (release === null) throw runError(`${base}/latest-releases.yaml names no net boot archive`);
  const archive = await download(`${base}/${release.file}`, {
    ...o,
    what: release.file,
    digest: { algorithm: 'sha256', hex: release.sha256 },
  });
  const files = await readTar(
    archive,
    (p) => /^boot\/(vmlinuz-virt|initramfs-virt)$/u.test(p),
    (done) => c.onProgress({ phase: 'unpack', what: release.file, done, total: archive.length }),
  );
  const pick = (name: string): Uint8Array => {
    const f = files.find((x) => x.path === `boot/${name}`);
    if (f === undefined) throw runError(`${release.file} has no boot/${name}`);
    return f.data;
  };
  return {
    about: {
      version: release.version,
      cmdline: 'console=ttyS0 ip=dhcp',
      memory: '512M',
      sources: [{ name: `${base}/${release.file}`, sha256: release.sha256 }],
      notes: ['its initrd fetches the rest over the network'],
    },
    files: [
      { role: 'kernel', name: 'vmlinuz-virt', data: pick('vmlinuz-virt') },
      { role: 'initrd', name: 'initramfs-virt', data: pick('initramfs-virt') },
    ],
  };
}
