// The initial RAM file system of our Debian guests: busybox, the drivers of the devices Hyve builds, and an init script
// that ends in a shell with job control on the console.
import { CpioWriter } from './cpio.ts';
import { type ModuleFile, modulesAlias, modulesDep } from './modules.ts';

/** Drivers worth having, by module name; those a kernel lacks are left out. */
export const WANTED_MODULES: readonly string[] = [
  'virtio_pci',
  'virtio_mmio',
  'virtio_blk',
  'virtio_net',
  'virtio_rng',
  'virtio_console',
  'virtio_scsi',
  'virtio_balloon',
  'virtio_input',
  'vmw_vsock_virtio_transport',
  '9pnet_virtio',
  '9p',
  'virtiofs',
  'ahci',
  'libata',
  'sd_mod',
  'sr_mod',
  'nvme',
  'e1000',
  'xhci_pci',
  'usbhid',
  'usb_storage',
  'ext4',
  'crc32c_generic',
  'isofs',
  'vfat',
  'nls_ascii',
  'nls_cp437',
  'nls_iso8859_1',
  'button',
  'evdev',
];

const INIT = `#!/bin/sh
# First process of the guest: mounts, drivers, then a shell on the console for as long as the machine runs.
export PATH=/sbin:/bin:/usr/sbin:/usr/bin HOME=/root
mount -t proc -o nosuid,nodev,noexec proc /proc
mount -t sysfs -o nosuid,nodev,noexec sysfs /sys
mount -t devtmpfs -o nosuid,mode=0755 dev /dev 2>/dev/null || { mount -t tmpfs -o nosuid,mode=0755 dev /dev; mdev -s; }
mkdir -p /dev/pts /dev/shm
mount -t devpts -o nosuid,noexec,gid=5,mode=0620 devpts /dev/pts
mount -t tmpfs -o nosuid,nodev shm /dev/shm
mount -t tmpfs -o nosuid,nodev,mode=0755 run /run
mount -t tmpfs -o nosuid,nodev,mode=1777 tmp /tmp
hostname hyve

# Drivers for the devices that are there. A bus may appear with a driver, so each goes after the one it hangs on.
drivers() {
  for bus in "$@"; do cat /sys/bus/$bus/devices/*/modalias 2>/dev/null; done | sort -u | xargs -r modprobe -qab 2>/dev/null
}
drivers pci acpi platform
drivers virtio usb
if [ -e /sys/class/scsi_host/host0 ]; then modprobe -qab sd_mod sr_mod 2>/dev/null; fi
if [ -d /sys/bus/acpi/devices/LNXPWRBN:00 ]; then modprobe -qab button evdev 2>/dev/null; acpid -l /dev/null >/dev/null 2>&1; fi

# root=DEVICE or root=LABEL=NAME on the command line: a system on a disk takes over.
label() { dd if=$1 bs=8 skip=143 count=2 2>/dev/null | tr -d '\\000'; }
place() {
  case $1 in
  LABEL=*) for d in /sys/class/block/*; do
    d=/dev/\${d##*/}
    if [ "$(dd if=$d bs=2 skip=540 count=1 2>/dev/null | od -An -tx2)" = ' ef53' ] && [ "$(label $d)" = "\${1#LABEL=}" ]; then echo $d; return; fi
  done ;;
  *) [ -b $1 ] && echo $1 ;;
  esac
}
root= flags= mode=ro init=/sbin/init type=
for word in $(cat /proc/cmdline); do
  case $word in
  root=/dev/ram* | root=/dev/nfs) ;;
  root=*) root=\${word#root=} ;;
  rootflags=*) flags=,\${word#rootflags=} ;;
  rootfstype=*) type="-t \${word#rootfstype=}" ;;
  rw | ro) mode=$word ;;
  init=*) init=\${word#init=} ;;
  esac
done
if [ -n "$root" ]; then
  modprobe -qab ext4 autofs4 2>/dev/null
  n=0
  until found=$(place "$root"); [ -n "$found" ]; do
    [ $((n += 1)) -gt 100 ] && break
    usleep 100000
  done
  if [ -z "$found" ]; then echo "There is no $root. Disks: $(ls /sys/class/block | tr '\\n' ' ')"
  elif mount $type -o $mode$flags $found /mnt; then
    if [ -e /mnt$init ] || [ -L /mnt$init ]; then
      umount /dev/pts /dev/shm /tmp
      for d in dev proc sys run; do mount --move /$d /mnt/$d; done
      exec switch_root /mnt $init
    fi
    echo "$found has no $init"
    umount /mnt
  fi
fi

ip link set lo up
for nic in /sys/class/net/*; do
  nic=\${nic##*/}
  [ $nic = lo ] && continue
  ip link set $nic up
  (udhcpc -i $nic -b -S -s /etc/udhcpc.sh >/dev/null 2>&1 &)
done

tty=$(cat /sys/class/tty/console/active 2>/dev/null); tty=\${tty##* }
[ -n "$LINES" ] && [ -n "$COLUMNS" ] && stty -F /dev/\${tty:-console} rows $LINES cols $COLUMNS 2>/dev/null
cat /etc/motd
exec /bin/busybox init
`;

/** busybox init keeps a login shell on the console; each child of it leads a session, so cttyhack finds it a terminal. */
const INITTAB = `::respawn:/bin/cttyhack /bin/sh -l
::ctrlaltdel:/bin/busybox reboot -f
`;

const PROFILE = `export PATH=/sbin:/bin:/usr/sbin:/usr/bin HOME=/root TERM=vt100
PS1='\\w # '
# There are no services to stop: end the machine at once.
poweroff() { sync; busybox poweroff -f; }
reboot() { sync; busybox reboot -f; }
halt() { sync; busybox halt -f; }
cd
`;

const MOTD = `
This is Debian's kernel with a small BusyBox system in memory; nothing is kept.
poweroff ends the machine, reboot ends it with exit status 0.

`;

const UDHCPC = `#!/bin/sh
case $1 in
deconfig) ip addr flush dev $interface ;;
bound | renew)
  ip addr flush dev $interface
  ip addr add $ip/\${mask:-24} dev $interface
  for r in $router; do ip route add default via $r dev $interface; break; done
  : >/etc/resolv.conf
  for d in $dns; do echo "nameserver $d" >>/etc/resolv.conf; done
  ;;
esac
`;

/** Applets every Debian busybox-static has; linked so that a shell finds them without asking busybox first. */
const APPLETS =
  '[ [[ acpid ar arch arping ash awk base64 basename bc blkdiscard blockdev bunzip2 bzcat bzip2 cal cat chgrp chmod chown chroot clear cmp cp cpio cttyhack cut date dc dd depmod devmem df diff dirname dmesg dos2unix du echo egrep env expand expr factor fallocate false fdisk fgrep find fold free fsfreeze fstrim getopt getty grep groups gunzip gzip head hexdump hostid hostname httpd hwclock id ifconfig insmod ionice ip ipcalc kill killall last less link ln logger ls lsmod lsscsi lzcat lzma md5sum mdev microcom mkdir mkdosfs mke2fs mkfifo mknod mkswap mktemp modinfo modprobe more mount mt mv nc netstat nl nologin nproc nslookup nuke od partprobe paste patch pidof ping ping6 pivot_root printf ps pwd rdate readlink realpath renice reset resume rev rm rmdir rmmod route run-init run-parts sed seq setsid sh sha1sum sha256sum sha512sum shred shuf sleep sort stat strings stty swapoff swapon switch_root sync sysctl tac tail tar taskset tee telnet test tftp time timeout top touch tr traceroute true truncate ts tty udhcpc uevent umount uname uncompress uniq unix2dos unlink unlzma unxz unzip uptime usleep vi w watch wc wget which who whoami xargs xxd xz xzcat yes zcat'.split(
    ' ',
  );

/** What an initrd is made from. */
export interface InitrdParts {
  /** Static busybox. */
  readonly busybox: Uint8Array;
  /** Kernel version as `uname -r` says it. */
  readonly release: string;
  /** Modules, dependencies first. */
  readonly modules: readonly ModuleFile[];
  /** The kernel's own index files to copy along (`modules.builtin`, `modules.order`), by name. */
  readonly indexes: ReadonlyMap<string, Uint8Array>;
  /** More to put in: programs with their libraries, scripts. */
  readonly extra?: readonly InitrdFile[];
}

/** A file or symbolic link of an initrd. */
export interface InitrdFile {
  /** Path without a leading slash. */
  readonly path: string;
  /** Permission bits of a file. */
  readonly mode: number;
  /** Content of a file. */
  readonly data: Uint8Array | string;
  /** Where a symbolic link points; null for a file. */
  readonly link: string | null;
}

/** The archive, not compressed: a guest copies it faster than it inflates it. */
export function buildInitrd(parts: InitrdParts): Uint8Array {
  const c = new CpioWriter();
  for (const d of ['bin', 'sbin', 'dev', 'etc', 'mnt', 'proc', 'run', 'sys', 'usr/bin', 'usr/sbin', 'var']) c.dir(d);
  c.dir('root', 0o700);
  c.dir('tmp', 0o1777);
  c.charDevice('dev/console', 5, 1);
  c.charDevice('dev/null', 1, 3, 0o666);
  c.file('init', INIT, 0o755);
  c.file('bin/busybox', parts.busybox, 0o755);
  for (const a of APPLETS) c.symlink(`bin/${a}`, 'busybox');
  // Paths that the kernel itself calls.
  for (const a of ['modprobe', 'poweroff', 'reboot', 'halt']) c.symlink(`sbin/${a}`, '../bin/busybox');
  c.file('etc/inittab', INITTAB);
  c.file('etc/profile', PROFILE);
  c.file('etc/motd', MOTD);
  c.file('etc/passwd', 'root::0:0:root:/root:/bin/sh\n');
  c.file('etc/group', 'root:x:0:\ntty:x:5:\n');
  c.file('etc/hosts', '127.0.0.1 localhost hyve\n::1 localhost\n');
  c.file('etc/udhcpc.sh', UDHCPC, 0o755);
  c.file('etc/acpi/PWRF/00000080', '#!/bin/sh\nsync\nexec busybox poweroff -f\n', 0o755);
  const base = `lib/modules/${parts.release}`;
  for (const m of parts.modules) c.file(`${base}/${m.path}`, m.data);
  c.file(`${base}/modules.dep`, modulesDep(parts.modules));
  c.file(`${base}/modules.alias`, modulesAlias(parts.modules));
  c.file(`${base}/modules.symbols`, '');
  for (const [name, data] of parts.indexes) c.file(`${base}/${name}`, data);
  for (const f of parts.extra ?? []) {
    if (f.link === null) c.file(f.path, f.data, f.mode);
    else c.symlink(f.path, f.link);
  }
  return c.finish();
}
