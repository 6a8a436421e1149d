// The guest of this example, from Debian packages: a 32-bit kernel with its own virtio modules, busybox, and SeaBIOS.
// Fetched once, by apt-get with lists and configuration of its own, into node_modules/.cache; nothing is installed.
import { execFileSync } from 'node:child_process';
import { existsSync, mkdirSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

/** What {@link V86} boots. */
export interface GuestFiles {
  /** SeaBIOS. */
  readonly bios: Uint8Array;
  /** Its VGA part. */
  readonly vgaBios: Uint8Array;
  /** bzImage. */
  readonly kernel: Uint8Array;
  /** A static busybox for i386. */
  readonly busybox: Uint8Array;
  /** Kernel modules, in the order they are loaded. */
  readonly modules: readonly { readonly name: string; readonly bytes: Uint8Array }[];
}

const MODULES = [
  'virtio/virtio',
  'virtio/virtio_ring',
  'virtio/virtio_pci_legacy_dev',
  'virtio/virtio_pci_modern_dev',
  'virtio/virtio_pci',
  'char/hw_random/virtio-rng',
  'block/virtio_blk',
];

const cache = fileURLToPath(new URL('../node_modules/.cache/guest', import.meta.url));

function fetchPackages(into: string): void {
  rmSync(into, { recursive: true, force: true });
  const state = join(into, 'apt');
  mkdirSync(join(state, 'lists/partial'), { recursive: true });
  mkdirSync(join(state, 'archives/partial'), { recursive: true });
  writeFileSync(join(state, 'status'), '');
  const conf = [
    'APT::Architecture "i386";',
    'APT::Architectures { "i386"; };',
    'APT::Sandbox::User "root";',
    `Dir::State "${state}";`,
    `Dir::State::Lists "${state}/lists";`,
    `Dir::State::status "${state}/status";`,
    `Dir::Cache "${state}";`,
  ].join('\n');
  writeFileSync(join(into, 'apt.conf'), conf);
  const run = (program: string, args: string[]): string =>
    execFileSync(program, args, {
      cwd: into,
      env: { ...process.env, APT_CONFIG: join(into, 'apt.conf'), LC_ALL: 'C' },
      encoding: 'utf8',
      stdio: ['ignore', 'pipe', 'ignore'],
      timeout: 240_000,
    });
  try {
    run('apt-get', ['update']);
  } catch {
    // One list of several may be out of date at its mirror; what is missing shows below.
  }
  const kernel = /Depends: (linux-image-\S+)/.exec(run('apt-cache', ['depends', 'linux-image-686']))?.[1];
  if (kernel === undefined) throw new Error('no 32-bit kernel in these Debian sources');
  run('apt-get', ['download', kernel, 'busybox-static', 'seabios']);
  for (const deb of readdirSync(into).filter((f) => f.endsWith('.deb'))) {
    run('dpkg-deb', ['-x', deb, 'root']);
    rmSync(join(into, deb));
  }
  rmSync(state, { recursive: true });
}

/** The guest's files, fetched if they are not there yet; null where there is no apt or no such package. */
export function guestFiles(): GuestFiles | null {
  try {
    if (!existsSync(cache)) {
      const fresh = `${cache}.${process.pid}`;
      fetchPackages(fresh);
      renameSync(fresh, cache);
    }
    const root = join(cache, 'root');
    const get = (path: string): Uint8Array => new Uint8Array(readFileSync(join(root, path)));
    const version = readdirSync(join(root, 'lib/modules'))[0] as string;
    return {
      bios: get('usr/share/seabios/bios.bin'),
      vgaBios: get('usr/share/seabios/vgabios-stdvga.bin'),
      kernel: get(`boot/vmlinuz-${version}`),
      busybox: get('bin/busybox'),
      modules: MODULES.map((m) => ({
        name: m.slice(m.lastIndexOf('/') + 1),
        bytes: get(`lib/modules/${version}/kernel/drivers/${m}.ko`),
      })),
    };
  } catch (e) {
    console.log(`no guest for v86: ${(e as Error).message.split('\n')[0]}`);
    return null;
  }
}
