// Who may import whom. The one list of layers; everything else in this tool is mechanism.

/** What a package's own code may import at run time, by package name. `*` at the end matches the rest of a name. */
export interface Layer {
  /** Package name, or a prefix ending in `*`. The first match counts. */
  readonly name: string;
  /** Names and prefixes it may import. */
  readonly may: readonly string[];
  /** Whether it may use what only Node has. */
  readonly node?: boolean;
}

const BUSES = ['@hyve/core'];
const PCI = [...BUSES, '@hyve/pci'];
const VIRTIO = [...PCI, '@hyve/virtio'];

/** From the bottom up. */
export const LAYERS: readonly Layer[] = [
  { name: '@hyve/core', may: [] },
  { name: '@hyve/testkit', may: BUSES },
  { name: '@hyve/x86', may: BUSES },
  { name: '@hyve/cpu', may: [...BUSES, '@hyve/x86'] },
  { name: '@hyve/hv-native', may: [...BUSES, '@hyve/x86', '@hyve/hv-native-*'], node: true },
  { name: '@hyve/hv-native-*', may: [], node: true },
  { name: '@hyve/vmm', may: [...BUSES, '@hyve/x86'] },
  { name: '@hyve/platform', may: BUSES },
  { name: '@hyve/loaders', may: BUSES },
  { name: '@hyve/firmware-tables', may: BUSES },
  { name: '@hyve/char-backends', may: BUSES, node: true },
  { name: '@hyve/block-backends', may: BUSES, node: true },
  { name: '@hyve/net-backends', may: BUSES, node: true },
  { name: '@hyve/pci', may: BUSES },
  { name: '@hyve/virtio', may: PCI },
  { name: '@hyve/virtio-*', may: VIRTIO },
  { name: '@hyve/ahci', may: PCI },
  { name: '@hyve/nvme', may: PCI },
  { name: '@hyve/e1000', may: PCI },
  { name: '@hyve/xhci', may: PCI },
  { name: '@hyve/fbuf-vnc', may: PCI },
  // The board knows every part but the host's: back ends and native engines are handed to it.
  {
    name: '@hyve/pc',
    may: [
      ...VIRTIO,
      '@hyve/virtio-*',
      '@hyve/ahci',
      '@hyve/nvme',
      '@hyve/e1000',
      '@hyve/xhci',
      '@hyve/fbuf-vnc',
      '@hyve/vmm',
      '@hyve/cpu',
      '@hyve/x86',
      '@hyve/platform',
      '@hyve/loaders',
      '@hyve/firmware-tables',
    ],
  },
  { name: 'xhyve', may: ['@hyve/*'], node: true },
];

/** Never part of what is shipped. */
export const TEST_ONLY: readonly string[] = ['@hyve/testkit'];

/** Whether `name` is the pattern or begins with it. */
export function matches(pattern: string, name: string): boolean {
  return pattern.endsWith('*') ? name.startsWith(pattern.slice(0, -1)) : name === pattern;
}

/** The layer of a package, or null for a name that has no place yet. */
export function layerOf(name: string): Layer | null {
  return LAYERS.find((l) => matches(l.name, name)) ?? null;
}
