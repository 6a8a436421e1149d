// Every name the command line knows: one table each for PCI emulations and LPC devices. Whether this release can build
// one is the board's to say (BoardSupport); `-s help`, `-l help` and all refusals put the two together.
import type { BoardSupport } from '@hyve/pc';
import { notBuilt } from './errors.ts';

/** A PCI emulation `-s` may name. */
export interface PciEmulation {
  /** As written after `-s SLOT,`. */
  readonly name: string;
  /** One line for people. */
  readonly about: string;
  /** Settings the leading bare words of its configuration stand for, in order. */
  readonly words: readonly string[];
}

const emulation = (name: string, about: string, words: readonly string[] = []): PciEmulation => ({
  name,
  about,
  words,
});

/** PCI emulations of xhyve, HyperKit and bhyve, in the order `-s help` prints them. */
export const PCI_EMULATIONS: readonly PciEmulation[] = [
  emulation('hostbridge', 'host bridge'),
  emulation('amd_hostbridge', 'host bridge with AMD identifiers'),
  emulation('lpc', 'LPC bridge: COM ports, boot ROM'),
  emulation('uart', '16550 serial port on PCI', ['path']),
  emulation('dummy', 'test device'),
  emulation('virtio-blk', 'virtio disk', ['path']),
  emulation('virtio-net', 'virtio network card', ['backend']),
  emulation('virtio-tap', 'virtio network card on a tap interface', ['backend']),
  emulation('virtio-vpnkit', 'virtio network card on a VPNKit socket', ['path']),
  emulation('virtio-rnd', 'virtio entropy source'),
  emulation('virtio-console', 'virtio console ports'),
  emulation('virtio-scsi', 'virtio SCSI host', ['target']),
  emulation('virtio-9p', 'virtio file share (9P)'),
  emulation('virtio-sock', 'virtio sockets'),
  emulation('virtio-input', 'virtio input device', ['path']),
  emulation('ahci', 'AHCI controller with several ports'),
  emulation('ahci-hd', 'AHCI controller with one disk', ['path']),
  emulation('ahci-cd', 'AHCI controller with one CD drive', ['path']),
  emulation('nvme', 'NVMe controller', ['path']),
  emulation('e1000', 'Intel 82545 network card', ['backend']),
  emulation('xhci', 'USB 3 controller'),
  emulation('fbuf', 'frame buffer shown over VNC'),
  emulation('hda', 'HD audio controller'),
  emulation('passthru', 'a device of the host', ['pptdev']),
];

/** A device `-l` may name. */
export interface LpcEmulation {
  /** As written after `-l`; case is ignored. */
  readonly name: string;
  /** One line for people. */
  readonly about: string;
}

/** LPC devices, in the order `-l help` prints them. */
export const LPC_EMULATIONS: readonly LpcEmulation[] = [
  { name: 'bootrom', about: 'boot ROM below 4 GiB, with an optional variable store' },
  { name: 'com1', about: 'serial port 0x3F8, IRQ 4' },
  { name: 'com2', about: 'serial port 0x2F8, IRQ 3' },
  { name: 'com3', about: 'serial port 0x3E8, IRQ 4' },
  { name: 'com4', about: 'serial port 0x2E8, IRQ 3' },
  { name: 'fwcfg', about: 'firmware interface: bhyve or qemu' },
  { name: 'tpm', about: 'TPM 2.0' },
  { name: 'pc-testdev', about: "kvm-unit-tests' test device" },
];

/** How each optional part is named to the user. */
const FEATURE_NAMES: Readonly<Record<string, string>> = {
  gdb: 'the GDB server (-G)',
  'bvm-debug-port': 'the debug port relay (-g)',
  numa: 'guest NUMA (-n)',
  restore: 'restoring a snapshot (-r)',
  'fwcfg-items': 'extra fw_cfg files (-f NAME,…)',
  pinning: 'pinning vCPUs to host CPUs (-p)',
  'keyboard-layout': 'a keyboard layout (-K)',
  'vmnet-mac': 'printing the vmnet MAC address (-M)',
  'pidfile-monitor': 'monitor mode',
};

const BOOT_NAMES: Readonly<Record<string, string>> = {
  kexec: 'booting Linux (-f kexec)',
  multiboot: 'booting Multiboot kernels (-f multiboot)',
  bootrom: 'booting a ROM (-l bootrom)',
  userboot: "booting with FreeBSD's userboot (-f fbsd)",
};

/** @throws CLI_NOT_BUILT unless the board has the optional part `key` */
export function requireFeature(support: BoardSupport, key: string): void {
  if (!support.features.includes(key)) throw notBuilt(FEATURE_NAMES[key] ?? key);
}

/** @throws CLI_NOT_BUILT unless the board builds this known PCI emulation */
export function requirePci(support: BoardSupport, name: string, where: string): void {
  if (!support.pci.includes(name)) throw notBuilt(`${where}: the device '${name}'`);
}

/** @throws CLI_NOT_BUILT unless the board builds this known LPC device */
export function requireLpc(support: BoardSupport, name: string): void {
  if (!support.lpc.includes(name)) throw notBuilt(`-l ${name}: the LPC device '${name}'`);
}

/** @throws CLI_NOT_BUILT unless the board has the loader */
export function requireBoot(support: BoardSupport, loader: BoardSupport['boot'][number]): void {
  if (!support.boot.includes(loader)) throw notBuilt(BOOT_NAMES[loader] ?? loader);
}

/** The table row of a PCI emulation, or null for a name nobody has. */
export function findPciEmulation(name: string): PciEmulation | null {
  return PCI_EMULATIONS.find((e) => e.name === name) ?? null;
}
