// A Debian system as a tree of files: packages unpacked and set up far enough to boot with systemd, log in and be
// finished by dpkg in the guest. What maintainer scripts would do on the way is done here by hand, for they would need
// root and a Linux host; dpkg's database says "unpacked", so that nothing is claimed that has not happened.
import { createHash } from 'node:crypto';
import { runError } from '../errors.ts';
import type { FetchedPackage } from './apt.ts';
import { type DebEntries, readWholeDeb } from './archive.ts';
import type { FsNode } from './ext4.ts';

/** What a system is made from. */
export interface DebianRootParts {
  /** Packages, in the order in which apt would unpack them. */
  readonly packages: readonly FetchedPackage[];
  /** Kernel modules and their indexes: paths below `usr/lib/modules/`. */
  readonly modules: ReadonlyMap<string, Uint8Array>;
  /** Host name. */
  readonly hostname: string;
  /** Label of the file system that `/` lies on. */
  readonly label: string;
  /** Told of each package, with the bytes of those before it. */
  readonly onPackage: (name: string, done: number) => void;
}

/** Left out, as `path-exclude` tells the guest's dpkg too. */
const LEFT_OUT = /^usr\/share\/(man|info|locale|groff|lintian|linda)\/|^usr\/share\/doc\/[^/]+\/(?!copyright$)/u;

/** Directories of a merged /usr. */
const MERGED = /^(bin|sbin|lib|lib32|lib64|libx32)(?=\/|$)/u;

const decoder = new TextDecoder();
const encoder = new TextEncoder();

/** Builds the tree. Equal packages give an equal tree. @throws CLI_RUN when a package is damaged or lacks what it must have */
export async function debianRoot(parts: DebianRootParts): Promise<FsNode[]> {
  const tree = new Tree();
  for (const d of ['bin', 'sbin', 'lib', 'lib64', 'lib32', 'libx32']) {
    tree.directory(`usr/${d}`);
    tree.link(d, `usr/${d}`);
  }
  const status: string[] = [];
  let done = 0;
  for (const p of parts.packages) {
    parts.onPackage(p.name, done);
    done += p.data.length;
    const deb = await readWholeDeb(p.data, (path) => !LEFT_OUT.test(path));
    for (const e of deb.data)
      tree.add({ ...e, path: merged(e.path), link: e.type === 'hardlink' ? merged(e.link) : e.link });
    status.push(register(tree, p.name, deb));
  }
  tree.file('var/lib/dpkg/status', `${status.join('\n')}\n`);
  for (const f of ['available', 'diversions', 'statoverride']) tree.file(`var/lib/dpkg/${f}`, '');
  tree.file('var/lib/dpkg/info/format', '1\n');
  tree.file('var/lib/dpkg/arch', 'amd64\n');
  for (const [path, data] of parts.modules) tree.file(`usr/lib/modules/${path}`, data);
  setUp(tree, parts);
  return tree.nodes();
}

function merged(path: string): string {
  return path.replace(MERGED, 'usr/$1');
}

/** Enters a package into dpkg's database. @returns its stanza */
function register(tree: Tree, name: string, deb: DebEntries): string {
  const file = (n: string): string | null => {
    const e = deb.control.find((x) => x.path === n);
    return e === undefined ? null : decoder.decode(e.data);
  };
  const control = file('control');
  if (control === null) throw runError(`${name} has no control file`);
  const base = /^Multi-Arch: same$/mu.test(control) ? `${name}:amd64` : name;
  const info = `var/lib/dpkg/info/${base}`;
  const paths = ['/.', ...deb.data.map((e) => `/${e.path}`)];
  tree.file(`${info}.list`, `${paths.join('\n')}\n`);
  for (const e of deb.control)
    if (e.type === 'file' && e.path !== 'control') tree.file(`${info}.${e.path}`, e.data, e.mode & 0o777);
  // Entries may be flagged, as in `remove-on-upgrade /etc/x`; those are of no file.
  const conffiles = (file('conffiles') ?? '').split('\n').filter((l) => l.startsWith('/'));
  const lines = conffiles.flatMap((path) => {
    const e = deb.data.find((x) => `/${x.path}` === path);
    return e === undefined ? [] : [` ${path} ${createHash('md5').update(e.data).digest('hex')}`];
  });
  const list = lines.length === 0 ? '' : `Conffiles:\n${lines.join('\n')}\n`;
  const [first, ...rest] = control.trimEnd().split('\n');
  return `${first}\nStatus: install ok unpacked\n${rest.join('\n')}\n${list}`;
}

class Tree {
  private readonly byPath = new Map<string, FsNode>();

  add(n: FsNode): void {
    const before = this.byPath.get(n.path);
    // A package's directory does not replace the link that a merged /usr has in its place.
    if (n.type === 'directory' && before !== undefined && before.type !== 'directory') return;
    this.byPath.set(n.path, n);
  }

  private plain(path: string, type: FsNode['type'], mode: number, more: Partial<FsNode> = {}): void {
    this.add({ path, type, mode, uid: 0, gid: 0, mtime: 0, data: new Uint8Array(0), link: '', ...more });
  }

  directory(path: string, mode = 0o755, gid = 0): void {
    this.plain(path, 'directory', mode, { gid });
  }

  file(path: string, data: Uint8Array | string, mode = 0o644, gid = 0): void {
    this.plain(path, 'file', mode, { data: typeof data === 'string' ? encoder.encode(data) : data, gid });
  }

  link(path: string, to: string): void {
    this.plain(path, 'symlink', 0o777, { link: to });
  }

  has(path: string): boolean {
    return this.byPath.has(path);
  }

  text(path: string): string {
    const n = this.byPath.get(path);
    if (n === undefined || n.type !== 'file') throw runError(`no package has /${path}`);
    return decoder.decode(n.data);
  }

  /** Every node, directories before what is in them. */
  nodes(): FsNode[] {
    return [...this.byPath.values()];
  }
}

/** Groups that own files of ours, as base-passwd numbers them. */
const SHADOW = 42;
const UTMP = 43;
const MAIL = 8;
const STAFF = 50;

/** What postinst scripts of the base system leave behind. */
function setUp(tree: Tree, parts: DebianRootParts): void {
  users(tree);
  pam(tree);
  // base-files
  for (const d of [
    'dev',
    'proc',
    'sys',
    'run',
    'home',
    'mnt',
    'opt',
    'srv',
    'media',
    'boot',
    'etc/opt',
    'var/opt',
    'usr/local',
  ])
    tree.directory(d);
  for (const d of ['bin', 'etc', 'games', 'include', 'lib', 'sbin', 'share', 'src']) tree.directory(`usr/local/${d}`);
  for (const d of ['usr/local/lib', 'usr/local/share', 'var/local']) tree.directory(d, 0o2775, STAFF);
  tree.directory('root', 0o700);
  for (const d of ['tmp', 'var/tmp']) tree.directory(d, 0o1777);
  tree.directory('var/mail', 0o2775, MAIL);
  tree.directory('var/log');
  for (const d of [
    'var/cache/apt/archives/partial',
    'var/lib/apt/lists/partial',
    'var/log/apt',
    'var/lib/dpkg/updates',
  ])
    tree.directory(d);
  for (const d of ['var/lib/dpkg/alternatives', 'var/lib/dpkg/parts', 'var/lib/dpkg/triggers']) tree.directory(d);
  tree.link('var/run', '/run');
  tree.link('var/lock', '/run/lock');
  for (const [to, from] of [
    ['etc/profile', 'profile'],
    ['etc/nsswitch.conf', 'nsswitch.conf'],
    ['root/.bashrc', 'dot.bashrc'],
    ['root/.profile', 'dot.profile'],
  ] as const)
    if (tree.has(`usr/share/base-files/${from}`)) tree.file(to, tree.text(`usr/share/base-files/${from}`));
  for (const f of ['wtmp', 'lastlog']) tree.file(`var/log/${f}`, '', 0o664, UTMP);
  tree.file('var/log/btmp', '', 0o660, UTMP);
  // Alternatives of the base system, as update-alternatives links them.
  for (const [name, path] of [
    ['awk', '/usr/bin/mawk'],
    ['nawk', '/usr/bin/mawk'],
    ['pager', '/usr/bin/less'],
    ['pager', '/bin/more'],
    ['editor', '/bin/nano'],
    ['which', '/usr/bin/which.debianutils'],
  ] as const) {
    if (!tree.has(merged(path.slice(1))) || tree.has(`usr/bin/${name}`)) continue;
    tree.link(`etc/alternatives/${name}`, path);
    tree.link(`usr/bin/${name}`, `/etc/alternatives/${name}`);
  }
  // The machine itself.
  tree.file('etc/hostname', `${parts.hostname}\n`);
  tree.file(
    'etc/hosts',
    `127.0.0.1\tlocalhost\n127.0.1.1\t${parts.hostname}\n::1\tlocalhost ip6-localhost ip6-loopback\n`,
  );
  tree.file('etc/fstab', `LABEL=${parts.label} / ext4 defaults 0 1\n`);
  tree.file('etc/machine-id', '', 0o444); // systemd makes one and keeps it
  tree.file('etc/default/locale', 'LANG=C.UTF-8\n');
  tree.file('etc/environment', '');
  tree.file('etc/timezone', 'Etc/UTC\n');
  // Which mirror to take packages from is the user's choice.
  const release = /^VERSION_CODENAME=(.*)$/mu.exec(tree.text('usr/lib/os-release'))?.[1] ?? 'stable';
  tree.file('etc/apt/sources.list', `# deb URI-OF-A-DEBIAN-MIRROR ${release} main\n`);
  tree.file(
    'etc/dpkg/dpkg.cfg.d/excludes',
    ['man', 'info', 'locale', 'groff', 'lintian', 'linda']
      .map((d) => `path-exclude=/usr/share/${d}/*\n`)
      .concat('path-exclude=/usr/share/doc/*\npath-include=/usr/share/doc/*/copyright\n')
      .join(''),
  );
  units(tree);
}

function users(tree: Tree): void {
  const group = tree.text('usr/share/base-passwd/group.master').replaceAll(/^([^:]+):\*:/gmu, '$1:x:');
  const passwd = tree.text('usr/share/base-passwd/passwd.master').replaceAll(/^([^:]+):\*:/gmu, '$1:x:');
  // Groups that udev's rules name.
  const devices = ['input', 'sgx', 'kvm', 'render'].map((name, n) => `${name}:x:${102 + n}:\n`).join('');
  const more = { passwd: '_apt:x:42:65534::/nonexistent:/usr/sbin/nologin\n', group: devices };
  if (!tree.has('usr/lib/sysusers.d/dbus.conf')) {
    more.passwd += 'messagebus:x:100:101::/nonexistent:/usr/sbin/nologin\n';
    more.group += 'messagebus:x:101:\n';
  }
  tree.file('etc/passwd', passwd.replace(/^root:(.*):[^:\n]*$/mu, 'root:$1:/bin/bash') + more.passwd);
  tree.file('etc/group', group + more.group);
  const names = (text: string): string[] => [...text.matchAll(/^([^:\n]+):/gmu)].map((m) => m[1] as string);
  const locked = (name: string): string =>
    name === 'root' ? 'root::19000:0:99999:7:::' : `${name}:*:19000:0:99999:7:::`;
  tree.file(
    'etc/shadow',
    `${names(passwd + more.passwd)
      .map(locked)
      .join('\n')}\n`,
    0o640,
    SHADOW,
  );
  tree.file(
    'etc/gshadow',
    `${names(group + more.group)
      .map((n) => `${n}:*::`)
      .join('\n')}\n`,
    0o640,
    SHADOW,
  );
}

/** What pam-auth-update writes for pam_unix and pam_systemd. */
function pam(tree: Tree): void {
  const session = [
    'session [default=1] pam_permit.so',
    'session requisite pam_deny.so',
    'session required pam_permit.so',
    'session required pam_unix.so',
  ];
  const systemd = tree.has('usr/lib/x86_64-linux-gnu/security/pam_systemd.so')
    ? ['session optional pam_systemd.so']
    : [];
  const stacks: Readonly<Record<string, readonly string[]>> = {
    auth: [
      'auth [success=1 default=ignore] pam_unix.so nullok',
      'auth requisite pam_deny.so',
      'auth required pam_permit.so',
    ],
    account: [
      'account [success=1 new_authtok_reqd=done default=ignore] pam_unix.so',
      'account requisite pam_deny.so',
      'account required pam_permit.so',
    ],
    password: [
      'password [success=1 default=ignore] pam_unix.so obscure yescrypt',
      'password requisite pam_deny.so',
      'password required pam_permit.so',
    ],
    session: [...session, ...systemd],
    'session-noninteractive': session,
  };
  for (const [name, lines] of Object.entries(stacks)) tree.file(`etc/pam.d/common-${name}`, `${lines.join('\n')}\n`);
}

/** Units that deb-systemd-helper would enable, and one that does the rest of depmod's work when it first can. */
function units(tree: Tree): void {
  const wants = (target: string, unit: string, file = unit): void => {
    if (tree.has(`usr/lib/systemd/system/${file}`))
      tree.link(`etc/systemd/system/${target}.wants/${unit}`, `/lib/systemd/system/${file}`);
  };
  wants('getty.target', 'getty@tty1.service', 'getty@.service');
  wants('multi-user.target', 'remote-fs.target');
  wants('multi-user.target', 'systemd-networkd.service');
  wants('sockets.target', 'systemd-networkd.socket');
  wants('sysinit.target', 'systemd-pstore.service');
  wants('timers.target', 'fstrim.timer');
  if (tree.has('usr/lib/systemd/system/systemd-networkd.service'))
    tree.link(
      'etc/systemd/system/dbus-org.freedesktop.network1.service',
      '/lib/systemd/system/systemd-networkd.service',
    );
  // A software CPU on a busy host takes longer than systemd is used to.
  const patience = ['DefaultTimeoutStartSec', 'DefaultTimeoutStopSec', 'DefaultDeviceTimeoutSec'];
  const settings = patience.map((name) => `${name}=10min\n`).join('');
  for (const manager of ['system', 'user'])
    tree.file(`etc/systemd/${manager}.conf.d/patience.conf`, `[Manager]\n${settings}`);
  tree.file('etc/systemd/network/80-dhcp.network', '[Match]\nType=ether\n\n[Network]\nDHCP=yes\n');
  tree.file(
    'etc/systemd/system/module-index.service',
    `[Unit]
Description=Index of the kernel's modules
DefaultDependencies=no
ConditionPathExists=!/usr/lib/modules/%v/modules.dep.bin
After=systemd-remount-fs.service
Before=sysinit.target systemd-modules-load.service systemd-udevd.service

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/sbin/depmod -a

[Install]
WantedBy=sysinit.target
`,
  );
  tree.link('etc/systemd/system/sysinit.target.wants/module-index.service', '/etc/systemd/system/module-index.service');
}
