// The machine as plain data: what the command line, a configuration file or an embedder hands to the board. Everything
// here is resolved (defaults filled in, topology checked) and survives JSON. Mirrors the configuration tree of
// bhyve_config(5) after parsing, plus what xhyve's command line adds (boot loaders, bvmcons).

/** Processors as the guest sees them; `count` = `sockets` × `cores` × `threads`, 1 to {@link MAX_VCPUS}. */
export interface CpuTopologySpec {
  /** Virtual CPUs in all. */
  readonly count: number;
  /** Packages. */
  readonly sockets: number;
  /** Cores in each package. */
  readonly cores: number;
  /** Threads in each core. */
  readonly threads: number;
}

/** Linux by its boot protocol, xhyve's `-f kexec,KERNEL[,INITRD[,CMDLINE]]`. */
export interface KexecBootSpec {
  readonly loader: 'kexec';
  /** Host path of a bzImage. */
  readonly kernel: string;
  /** Host path of an initial RAM disk, or null. */
  readonly initrd: string | null;
  /** Kernel command line, or null for the loader's own default. */
  readonly cmdline: string | null;
  /** Who unpacks a bzImage: the host, before the guest begins, where it can, or always the guest. Default `host`. */
  readonly decompress?: 'host' | 'guest';
}

/** One Multiboot module: a file and the text handed over with it. */
export interface MultibootModuleSpec {
  /** Host path. */
  readonly path: string;
  /** The module's own command line; empty when none was given. */
  readonly cmdline: string;
}

/** Multiboot 1, HyperKit's `-f multiboot,KERNEL[,MODULE[;CMDLINE][:MODULE…]][,CMDLINE]`. */
export interface MultibootBootSpec {
  readonly loader: 'multiboot';
  /** Host path of an ELF or a.out-kludge image with a Multiboot 1 header. */
  readonly kernel: string;
  /** Modules in load order. */
  readonly modules: readonly MultibootModuleSpec[];
  /** Kernel command line, or null. */
  readonly cmdline: string | null;
}

/** A boot ROM that ends at 4 GiB and starts at the reset vector: `-l bootrom,CODE[,VARS]` or `-f bootrom,CODE`. */
export interface BootromBootSpec {
  readonly loader: 'bootrom';
  /** Host path of the ROM image. */
  readonly code: string;
  /** Host path of the variable store mapped below the ROM and written back, or null. */
  readonly vars: string | null;
}

/** FreeBSD's user-space loader, `-f fbsd,USERBOOT,BOOTVOLUME[,ENV]` (also spelled `userboot`). */
export interface UserbootBootSpec {
  readonly loader: 'userboot';
  /** Host path of the loader library. */
  readonly library: string;
  /** Host path of the boot volume. */
  readonly volume: string;
  /** Loader environment, or null. */
  readonly env: string | null;
}

/** How the guest starts. */
export type BootSpec = KexecBootSpec | MultibootBootSpec | BootromBootSpec | UserbootBootSpec;

/** One PCI function, from `-s` or `pci.B.S.F.*`. */
export interface PciSlotSpec {
  /** 0 to 255. */
  readonly bus: number;
  /** Device number on the bus, 0 to 31. */
  readonly slot: number;
  /** 0 to 7. */
  readonly func: number;
  /** Emulation name such as `virtio-blk`. */
  readonly device: string;
  /**
   * Settings by name as in bhyve_config(5): the leading bare word of `-s` under the device's own key (`path`,
   * `backend`, …), later bare words as `true`. Nested nodes keep their dots (`port.0.path`).
   */
  readonly options: Readonly<Record<string, string>>;
  /** What followed the second comma of `-s`, untouched; null when the slot came from the configuration tree. */
  readonly conf: string | null;
}

/** A serial port on the LPC bridge. */
export interface SerialPortSpec {
  /** `com1` to `com4`. */
  readonly device: 'com1' | 'com2' | 'com3' | 'com4';
  /** Back end as written: `stdio`, `null`, `autopty[=FILE]`, a path, `tcp=ADDR:PORT`; parts joined by commas. */
  readonly backend: string;
}

/** An LPC device other than a serial port; `settings` by name, such as `{ type: 'swtpm', path: '/run/tpm' }`. */
export interface LpcExtraSpec {
  /** `tpm` or `pc-testdev`. */
  readonly device: 'tpm' | 'pc-testdev';
  /** Settings by name; empty when the device takes none. */
  readonly settings: Readonly<Record<string, string>>;
}

/** What sits on the LPC bridge. */
export type LpcDeviceSpec = SerialPortSpec | LpcExtraSpec;

/** A file offered through QEMU's fw_cfg, bhyve's `-f NAME,string=TEXT` or `-f NAME,file=PATH`. */
export interface FwCfgItemSpec {
  /** Name the guest looks up, such as `opt/org.example/key`. */
  readonly name: string;
  /** `string`: `data` is the content; `file`: `data` is a host path. */
  readonly source: 'string' | 'file';
  /** Text or host path. */
  readonly data: string;
}

/** How the guest's firmware asks the host: bhyve's fwctl or QEMU's fw_cfg. */
export interface FirmwareConfigSpec {
  /** Which of the two interfaces ports 0x510 and 0x511 carry. */
  readonly kind: 'bhyve' | 'qemu';
  /** Extra files, in the order given. */
  readonly items: readonly FwCfgItemSpec[];
}

/** Tables that firmware would leave in memory. */
export interface TablesSpec {
  /** Build ACPI tables. */
  readonly acpi: boolean;
  /** Also place them in guest memory, not only behind fw_cfg. */
  readonly acpiInMemory: boolean;
  /** Build an MP table (-Y clears it). */
  readonly mptable: boolean;
  /** Build SMBIOS tables. */
  readonly smbios: boolean;
  /** SMBIOS strings by bhyve_config(5) name, `bios.vendor`, `system.serial_number`, `board.…`, `chassis.…`. */
  readonly smbiosStrings: Readonly<Record<string, string>>;
}

/** Where guest time comes from. */
export interface ClockSpec {
  /** What the RTC shows: UTC (-u) or the host's local time. */
  readonly rtc: 'utc' | 'local';
  /** `real`: the host's clocks. `virtual`: retired instructions alone, so that equal input gives equal runs. */
  readonly mode: 'real' | 'virtual';
  /** What the RTC starts from, seconds since 1970; null for the host's time at start (never null when virtual). */
  readonly startSeconds: number | null;
  /** Virtual mode: retired instructions that make one guest second. */
  readonly instructionsPerSecond: number;
}

/** GDB server, `-G [w][ADDR:]PORT`. */
export interface GdbSpec {
  /** Address to listen on. */
  readonly address: string;
  /** TCP port, 1 to 65535. */
  readonly port: number;
  /** Hold the first instruction back until a debugger has come. */
  readonly wait: boolean;
}

/** One guest NUMA domain, `-n id=,size=,cpus=`. */
export interface NumaDomainSpec {
  /** 0 to 7. */
  readonly id: number;
  /** Bytes, or null for an equal share. */
  readonly memoryBytes: number | null;
  /** vCPU numbers in the domain. */
  readonly cpus: readonly number[];
}

/** A machine, completely resolved. Plain data: `JSON.parse(JSON.stringify(spec))` is the same machine. */
export interface MachineSpec {
  /** Version of this shape. */
  readonly v: 1;
  /** The machine's name; shows up in messages and seeds the generated UUID. */
  readonly name: string;
  /** Guest RAM, bytes, a multiple of 4096. */
  readonly memoryBytes: number;
  /** Keep guest RAM from being swapped (-S). */
  readonly memoryWired: boolean;
  /** Processors. */
  readonly cpus: CpuTopologySpec;
  /** NUMA domains; empty for none. */
  readonly numa: readonly NumaDomainSpec[];
  /** How the guest starts. */
  readonly boot: BootSpec;
  /** PCI functions, sorted by bus, slot, function; no two share a place. */
  readonly pci: readonly PciSlotSpec[];
  /** LPC devices; empty unless some slot holds `lpc`. */
  readonly lpc: readonly LpcDeviceSpec[];
  /** fwctl or fw_cfg. */
  readonly fwcfg: FirmwareConfigSpec;
  /** Firmware tables. */
  readonly tables: TablesSpec;
  /** SMBIOS system UUID in lower case, or null to derive one from the name. */
  readonly uuid: string | null;
  /** Time. */
  readonly clock: ClockSpec;
  /** Runs after which the software CPU translates a block; 0: never. Default the engine's own. */
  readonly translatorThreshold?: number;
  /** Whether the host may keep translations for the guest's next start; default true. */
  readonly translationCache?: boolean;
  /** Whether the host may keep the kernel that it unpacked; default true. */
  readonly kernelCache?: boolean;
  /** Local APICs start in x2APIC mode (-x). */
  readonly x2apic: boolean;
  /** A port nobody claims ends the machine (-e) instead of reading all ones. */
  readonly strictIo: boolean;
  /** An MSR nobody emulates raises #GP; when false (-w) it reads 0 and ignores writes. */
  readonly strictMsr: boolean;
  /** Log every MSR access that reaches the policy. */
  readonly verboseMsr: boolean;
  /** HLT leaves the engine (-H). */
  readonly hltExit: boolean;
  /** PAUSE leaves the engine (-P). */
  readonly pauseExit: boolean;
  /** Debug console at port 0x220 (-b). */
  readonly bvmcons: boolean;
  /** TCP port that relays bhyve's debug port 0x224 (-g), or null. */
  readonly bvmDebugPort: number | null;
  /** GDB server, or null. */
  readonly gdb: GdbSpec | null;
  /** virtio devices offer MSI instead of MSI-X (-W). */
  readonly virtioMsi: boolean;
  /** Map PCI BARs before the guest's first instruction; null: yes unless a boot ROM runs. */
  readonly pciEnableBars: boolean | null;
  /** VNC keyboard layout (-K), or null. */
  readonly keyboardLayout: string | null;
  /** Which engine runs the vCPUs; `auto` takes the best there is. */
  readonly engine: EngineName;
  /**
   * Whether vCPUs from 1 on get threads of their own: `off` (the default), `on`, or `auto`, where the host has more
   * processors than the guest and time is real.
   */
  readonly vcpuThreads?: 'auto' | 'on' | 'off';
  /**
   * Who has the local APICs: the board (`board`), or the engine (`engine`), whose vCPUs then run on threads of its own.
   * `all`: the engine has the I/O APIC, the 8259 pair and the PIT besides. `auto`, the default: `engine` where it can and
   * there are several vCPUs.
   */
  readonly localApics?: 'auto' | 'board' | 'engine' | 'all';
  /** What guests are shown beside the processor: nothing of an engine's (the default), KVM's interface or Hyper-V's. */
  readonly paravirtual?: 'none' | 'kvm' | 'hyperv';
  /** Host path of the pid file the front end keeps while the machine runs (-F), or null. */
  readonly pidfile: string | null;
}

/** Engines a machine may ask for. */
export type EngineName = 'auto' | 'soft' | 'kvm';

/** Names a board can build, so that a front end can refuse the rest by name. `createPc`'s module exports one. */
export interface BoardSupport {
  /** PCI emulations (`hostbridge`, `lpc`, …). */
  readonly pci: readonly string[];
  /** LPC devices (`com1`, …). */
  readonly lpc: readonly string[];
  /** Boot loaders. */
  readonly boot: readonly BootSpec['loader'][];
  /** Engines besides `auto`. */
  readonly engines: readonly EngineName[];
  /** Optional parts: `gdb`, `bvm-debug-port`, `numa`, `restore`, `fwcfg-items`, `pinning`, `keyboard-layout`. */
  readonly features: readonly string[];
}

/** Most vCPUs a machine may have. */
export const MAX_VCPUS = 64;
/** Least guest RAM, bytes: the first megabyte holds the BIOS area. */
export const MIN_MEMORY_BYTES: number = 2 ** 20;
/** RTC start of a machine on virtual time when none was given: 2000-01-01 00:00:00 UTC, seconds since 1970. */
export const VIRTUAL_START_SECONDS = 946_684_800;
/** Default of {@link ClockSpec.instructionsPerSecond}. */
export const VIRTUAL_INSTRUCTIONS_PER_SECOND = 1_000_000_000;

/** One slot of PCI bus 0, function 0, with its options as the text that follows the device's name. */
export function pciSlot(slot: number, device: string, conf: string | null = null): PciSlotSpec {
  return { bus: 0, slot, func: 0, device, options: {}, conf };
}

/**
 * A whole description from what matters: bhyve's defaults for all that `o` leaves out, which is one vCPU, 256 MiB, a host
 * bridge and the LPC bridge, no serial port, all tables in memory, real time, and the best engine there is.
 */
export function machineSpec(o: Partial<MachineSpec> & Pick<MachineSpec, 'boot'>): MachineSpec {
  return {
    v: 1,
    name: 'guest',
    memoryBytes: 256 * 2 ** 20,
    memoryWired: false,
    cpus: { count: 1, sockets: 1, cores: 1, threads: 1 },
    numa: [],
    pci: [pciSlot(0, 'hostbridge'), pciSlot(31, 'lpc')],
    lpc: [],
    fwcfg: { kind: 'bhyve', items: [] },
    tables: { acpi: true, acpiInMemory: true, mptable: true, smbios: true, smbiosStrings: {} },
    uuid: null,
    clock: {
      rtc: 'utc',
      mode: 'real',
      startSeconds: null,
      instructionsPerSecond: VIRTUAL_INSTRUCTIONS_PER_SECOND,
    },
    x2apic: false,
    strictIo: false,
    strictMsr: true,
    verboseMsr: false,
    hltExit: true,
    pauseExit: false,
    bvmcons: false,
    bvmDebugPort: null,
    gdb: null,
    virtioMsi: false,
    pciEnableBars: null,
    keyboardLayout: null,
    engine: 'auto',
    pidfile: null,
    ...o,
  };
}
