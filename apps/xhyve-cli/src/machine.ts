// An Invocation to a MachineSpec: defaults, cross-checks, and the machine printed for people and programs.
import { parseCharSpec } from '@hyve/char-backends';
import { isHyveError } from '@hyve/core';
import type {
  BoardSupport,
  BootSpec,
  ClockSpec,
  CpuTopologySpec,
  EngineName,
  FwCfgItemSpec,
  GdbSpec,
  LpcDeviceSpec,
  MachineSpec,
  MultibootModuleSpec,
  NumaDomainSpec,
  PciSlotSpec,
  SerialPortSpec,
} from '@hyve/pc';
import { MAX_VCPUS, MIN_MEMORY_BYTES, VIRTUAL_INSTRUCTIONS_PER_SECOND, VIRTUAL_START_SECONDS } from '@hyve/pc/spec';
import { parseSlotPlace, type RunInvocation } from './args.ts';
import { type ConfigTree, parseCInteger } from './config.ts';
import { findPciEmulation, requireBoot, requireFeature, requireLpc, requirePci } from './devices.ts';
import { notBuilt, usageError } from './errors.ts';
import { formatBytes, parseMemorySize } from './sizes.ts';

const PAGE = 4096;
const DEFAULT_MEMORY = '256M';
const COM_PORTS = ['com1', 'com2', 'com3', 'com4'] as const;
/** SMBIOS strings of bhyve_config(5). */
const SMBIOS_STRINGS = [
  'bios.vendor',
  'bios.version',
  'bios.release_date',
  'system.family_name',
  'system.manufacturer',
  'system.product_name',
  'system.serial_number',
  'system.sku',
  'system.version',
  'board.manufacturer',
  'board.product_name',
  'board.version',
  'board.serial_number',
  'board.asset_tag',
  'board.location',
  'chassis.manufacturer',
  'chassis.version',
  'chassis.serial_number',
  'chassis.asset_tag',
  'chassis.sku',
];

/**
 * The machine a command line describes, every default filled in.
 * @param support what the board can build
 * @throws CLI_USAGE for contradictions, CLI_NOT_BUILT for what the board lacks
 */
export function resolveMachine(run: RunInvocation, support: BoardSupport): MachineSpec {
  const c = run.config;
  for (const f of run.features) requireFeature(support, f);
  if (c.bool('monitor', false)) requireFeature(support, 'pidfile-monitor');

  const memoryText = c.get('memory.size') ?? DEFAULT_MEMORY;
  const cpus = resolveCpus(c);
  const pci = resolvePci(c, run.slotConf);
  const lpc = resolveLpc(c, pci);
  const boot = resolveBoot(c);
  const mode = choice(c, 'clock', ['real', 'virtual'] as const, 'real');
  const spec: MachineSpec = {
    v: 1,
    name: c.get('name') ?? 'vm',
    memoryBytes: resolveMemory(memoryText),
    memoryWired: c.bool('memory.wired', false),
    cpus,
    numa: resolveNuma(c, cpus.count),
    boot,
    pci,
    lpc,
    fwcfg: { kind: choice(c, 'lpc.fwcfg', ['bhyve', 'qemu'] as const, 'bhyve'), items: resolveFwCfg(c) },
    tables: {
      acpi: c.bool('acpi_tables', true),
      acpiInMemory: c.bool('acpi_tables_in_memory', true),
      mptable: c.bool('x86.mptable', true),
      smbios: c.bool('smbios', true),
      smbiosStrings: smbiosStrings(c),
    },
    uuid: resolveUuid(c),
    clock: resolveClock(c, mode),
    x2apic: c.bool('x86.x2apic', false),
    strictIo: c.bool('x86.strictio', false),
    strictMsr: c.bool('x86.strictmsr', true),
    verboseMsr: c.bool('x86.verbosemsr', false),
    hltExit: c.bool('x86.vmexit_on_hlt', false),
    pauseExit: c.bool('x86.vmexit_on_pause', false),
    bvmcons: c.bool('bvmcons', false),
    bvmDebugPort: c.int('bvmdebug.port', 0, 65535) || null,
    gdb: resolveGdb(c),
    virtioMsi: !c.bool('virtio_msix', true),
    pciEnableBars: c.has('pci.enable_bars') ? c.bool('pci.enable_bars', true) : null,
    keyboardLayout: c.get('keyboard.layout') ?? null,
    engine: choice(c, 'engine', ['auto', 'soft', 'kvm'] as const, 'auto'),
    ...translator(c),
    translationCache: choice(c, 'translation_cache', ['on', 'off'] as const, 'on') === 'on',
    kernelCache: choice(c, 'kernel_cache', ['on', 'off'] as const, 'on') === 'on',
    vcpuThreads: choice(c, 'vcpu_threads', ['auto', 'on', 'off'] as const, 'off'),
    localApics: IRQCHIPS[choice(c, 'kvm.irqchip', Object.keys(IRQCHIPS) as (keyof typeof IRQCHIPS)[], 'auto')],
    paravirtual: choice(c, 'kvm.paravirt', ['none', 'kvm', 'hyperv'] as const, 'none'),
    pidfile: c.get('pidfile') ?? null,
  };
  checkSupport(spec, c, support);
  return spec;
}

/** Words of `kvm.irqchip`: our names, and those that say how much of it is in the kernel. */
const IRQCHIPS = {
  auto: 'auto',
  none: 'board',
  board: 'board',
  split: 'engine',
  engine: 'engine',
  all: 'all',
} as const;

function choice<T extends string>(c: ConfigTree, name: string, words: readonly T[], fallback: T): T {
  const text = c.get(name);
  if (text === undefined) return fallback;
  const found = words.find((w) => w === text);
  if (found === undefined) throw usageError(`${name}: '${text}' is none of ${words.join(', ')}`);
  return found;
}

function resolveMemory(text: string): number {
  const bytes = parseMemorySize(text);
  if (bytes === null) throw usageError(`-m ${text}: not a memory size; write 512M, 2G or a number of megabytes`);
  if (bytes < MIN_MEMORY_BYTES)
    throw usageError(
      `-m ${text}: ${formatBytes(bytes)} is too little; a PC needs at least ${formatBytes(MIN_MEMORY_BYTES)}`,
    );
  return Math.floor(bytes / PAGE) * PAGE;
}

function resolveCpus(c: ConfigTree): CpuTopologySpec {
  const part = (name: string): number | null => c.int(name, 1, MAX_VCPUS);
  const cpus = part('cpus');
  const sockets = part('sockets');
  const cores = part('cores');
  const threads = part('threads');
  if (sockets === null && cores === null && threads === null) {
    // One package by default: guests that license or limit sockets see all CPUs. bhyve makes each one a package.
    const count = cpus ?? 1;
    return { count, sockets: 1, cores: count, threads: 1 };
  }
  const s = sockets ?? 1;
  const k = cores ?? 1;
  const t = threads ?? 1;
  const product = s * k * t;
  const count = cpus ?? product;
  if (product !== count)
    throw usageError(`-c: ${s} socket(s) of ${k} core(s) of ${t} thread(s) are ${product} CPUs, not ${count}`);
  if (count > MAX_VCPUS) throw usageError(`-c: ${count} CPUs; at most ${MAX_VCPUS}`);
  return { count, sockets: s, cores: k, threads: t };
}

function resolveNuma(c: ConfigTree, cpuCount: number): NumaDomainSpec[] {
  const out: NumaDomainSpec[] = [];
  const seen = new Set<number>();
  for (const key of c.children('domains')) {
    const id = parseCInteger(key);
    if (id === null || id < 0 || id > 7) throw usageError(`domains.${key}: a domain id is 0 to 7`);
    const size = c.get(`domains.${key}.size`);
    const memoryBytes = size === undefined ? null : parseMemorySize(size);
    if (size !== undefined && memoryBytes === null) throw usageError(`domains.${key}.size: '${size}' is not a size`);
    const cpus: number[] = [];
    for (const part of (c.get(`domains.${key}.cpus`) ?? '').split(',')) {
      const m = /^(\d{1,4})(?:-(\d{1,4}))?$/u.exec(part.trim());
      if (m === null) throw usageError(`domains.${key}.cpus: '${part}' is no CPU and no range`);
      const last = Number(m[2] ?? m[1]);
      if (last >= cpuCount) throw usageError(`domains.${key}.cpus: there is no CPU ${last}`);
      for (let n = Number(m[1]); n <= last; n++) {
        if (seen.has(n)) throw usageError(`domains.${key}.cpus: CPU ${n} is in two domains`);
        seen.add(n);
        cpus.push(n);
      }
    }
    out.push({ id, memoryBytes, cpus });
  }
  return out;
}

function resolvePci(c: ConfigTree, slotConf: ReadonlyMap<string, string>): PciSlotSpec[] {
  const out: PciSlotSpec[] = [];
  for (const bus of c.children('pci')) {
    if (!/^\d+$/u.test(bus)) continue; // pci.enable_bars and the like
    for (const slot of c.children(`pci.${bus}`)) {
      for (const func of c.children(`pci.${bus}.${slot}`)) {
        const node = `pci.${bus}.${slot}.${func}`;
        const place = parseSlotPlace(`${bus}:${slot}:${func}`, node);
        if (place.join('.') !== `${bus}.${slot}.${func}`)
          throw usageError(`${node}: write bus, slot and function without leading zeros`);
        const device = c.get(`${node}.device`);
        if (device === undefined) throw usageError(`${node}: there is no ${node}.device to say what sits there`);
        if (findPciEmulation(device) === null)
          throw usageError(`${node}.device: unknown device '${device}'; 'xhyve -s help' lists them`);
        const options = c.below(node);
        delete options['device'];
        out.push({
          bus: place[0],
          slot: place[1],
          func: place[2],
          device,
          options,
          conf: slotConf.get(place.join('.')) ?? null,
        });
      }
    }
  }
  out.sort((a, b) => a.bus - b.bus || a.slot - b.slot || a.func - b.func);
  const bridges = out.filter((s) => s.device === 'lpc');
  for (const s of bridges) if (s.bus !== 0) throw usageError(`-s ${at(s)},lpc: the LPC bridge must be on bus 0`);
  if (bridges.length > 1) {
    const [a, b] = bridges as [PciSlotSpec, PciSlotSpec];
    throw usageError(`-s ${at(b)},lpc: there is an LPC bridge at ${at(a)} already`);
  }
  const screens = out.filter((s) => s.device === 'fbuf');
  if (screens.length > 1) throw usageError(`-s ${at(screens[1] as PciSlotSpec)},fbuf: one frame buffer at most`);
  return out;
}

function at(s: PciSlotSpec): string {
  return `${s.bus}:${s.slot}:${s.func}`;
}

function resolveLpc(c: ConfigTree, pci: readonly PciSlotSpec[]): LpcDeviceSpec[] {
  const out: LpcDeviceSpec[] = [];
  let stdio: string | null = null;
  for (const device of COM_PORTS) {
    if (!c.hasNode(`lpc.${device}`)) continue;
    const tcp = c.get(`lpc.${device}.tcp`);
    const port: SerialPortSpec = {
      device,
      backend: tcp === undefined ? (c.get(`lpc.${device}.path`) ?? '') : `tcp=${tcp}`,
    };
    if (port.backend.split(',').includes('stdio')) {
      if (stdio !== null) throw usageError(`-l ${device},stdio: ${stdio} has the terminal already`);
      stdio = device;
    }
    checkBackend(`-l ${device}`, port.backend);
    out.push(port);
  }
  if (c.hasNode('tpm')) out.push({ device: 'tpm', settings: c.below('tpm') });
  if (c.bool('lpc.pc-testdev', false)) out.push({ device: 'pc-testdev', settings: {} });
  const first = out[0];
  if (first !== undefined && !pci.some((s) => s.device === 'lpc'))
    throw usageError(`-l ${first.device}: it needs the LPC bridge; add -s 31,lpc`);
  for (const s of pci) {
    if (s.device !== 'uart') continue;
    checkBackend(`-s ${at(s)},uart`, s.options['path'] ?? '');
    if (s.options['path'] === 'stdio') {
      if (stdio !== null) throw usageError(`-s ${at(s)},uart,stdio: ${stdio} has the terminal already`);
      stdio = at(s);
    }
  }
  return out;
}

/** @throws CLI_USAGE when the back end string of a serial port makes no sense */
function checkBackend(where: string, backend: string): void {
  if (backend === '') return;
  try {
    parseCharSpec(backend);
  } catch (e) {
    if (isHyveError(e, 'CHAR_SPEC')) throw usageError(`${where}: ${e.message}`);
    throw e;
  }
}

function resolveBoot(c: ConfigTree): BootSpec {
  const loader = c.get('boot.loader');
  const code = c.get('bootrom') ?? c.get('lpc.bootrom');
  if (code !== undefined && loader !== undefined)
    throw usageError(`both -f ${loader} and a boot ROM are given; a machine starts one way`);
  if (code !== undefined) {
    if (code === '') throw usageError('bootrom: the ROM has no file name');
    return { loader: 'bootrom', code, vars: c.get('bootvars') ?? c.get('lpc.bootvars') ?? null };
  }
  const need = (name: string): string => {
    const text = c.get(`boot.${name}`);
    if (text === undefined || text === '') throw usageError(`boot.${name}: missing for boot.loader=${loader}`);
    return text;
  };
  const optional = (name: string): string | null => c.get(`boot.${name}`) || null;
  switch (loader) {
    case undefined:
      throw usageError('nothing to boot; give -f kexec,KERNEL[,INITRD[,CMDLINE]] or -l bootrom,ROM');
    case 'kexec':
      return {
        loader,
        kernel: need('kernel'),
        initrd: optional('initrd'),
        cmdline: optional('cmdline'),
        ...decompress(c),
      };
    case 'multiboot':
      return { loader, kernel: need('kernel'), modules: modules(optional('modules')), cmdline: optional('cmdline') };
    case 'userboot':
      return { loader, library: need('library'), volume: need('volume'), env: optional('env') };
    default:
      throw usageError(`boot.loader: '${loader}' is none of kexec, multiboot, userboot`);
  }
}

/** `translator`: `on`, `off`, or runs after which a block is translated. */
function translator(c: ConfigTree): { translatorThreshold?: number } {
  const text = c.get('translator');
  if (text === undefined || text === 'on') return {};
  if (text === 'off') return { translatorThreshold: 0 };
  const n = parseCInteger(text);
  if (n === null || n < 1 || n > 1_000_000_000)
    throw usageError(`translator: '${text}' is not on, off or a number of runs`);
  return { translatorThreshold: n };
}

/** `boot.decompress`, which is there only if given: the host is the default. */
function decompress(c: ConfigTree): { decompress?: 'host' | 'guest' } {
  const who = c.get('boot.decompress');
  if (who === undefined) return {};
  if (who !== 'host' && who !== 'guest') throw usageError(`boot.decompress: '${who}' is neither host nor guest`);
  return { decompress: who };
}

function modules(text: string | null): MultibootModuleSpec[] {
  if (text === null) return [];
  return text
    .split(':')
    .filter((m) => m !== '')
    .map((m) => {
      const cut = m.indexOf(';');
      return cut < 0 ? { path: m, cmdline: '' } : { path: m.slice(0, cut), cmdline: m.slice(cut + 1) };
    });
}

function resolveFwCfg(c: ConfigTree): FwCfgItemSpec[] {
  return c.children('fwcfg_items').map((n) => {
    const node = `fwcfg_items.${n}`;
    const name = c.get(`${node}.name`);
    const text = c.get(`${node}.string`);
    const file = c.get(`${node}.file`);
    if (name === undefined || (text === undefined) === (file === undefined))
      throw usageError(`${node}: needs a name and either string or file`);
    return text === undefined
      ? { name, source: 'file' as const, data: file as string }
      : { name, source: 'string' as const, data: text };
  });
}

function smbiosStrings(c: ConfigTree): Record<string, string> {
  const out: Record<string, string> = {};
  for (const name of SMBIOS_STRINGS) {
    const text = c.get(name);
    if (text !== undefined) out[name] = text;
  }
  return out;
}

function resolveUuid(c: ConfigTree): string | null {
  const text = c.get('uuid');
  if (text === undefined) return null;
  if (!/^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/iu.test(text)) throw usageError(`uuid: '${text}' is not a UUID`);
  return text.toLowerCase();
}

function resolveClock(c: ConfigTree, mode: 'real' | 'virtual'): ClockSpec {
  const start = c.int('rtc.start', 0, 253_402_300_799);
  return {
    // The host's time zone would make virtual time differ between hosts, so there UTC is the default.
    rtc: c.bool('rtc.use_localtime', mode === 'real') ? 'local' : 'utc',
    mode,
    startSeconds: start ?? (mode === 'virtual' ? VIRTUAL_START_SECONDS : null),
    instructionsPerSecond: c.int('clock_ips', 1_000, 1e12) ?? VIRTUAL_INSTRUCTIONS_PER_SECOND,
  };
}

function resolveGdb(c: ConfigTree): GdbSpec | null {
  const port = c.int('gdb.port', 0, 65535);
  if (port === null || port === 0) return null;
  return { address: c.get('gdb.address') ?? 'localhost', port, wait: c.bool('gdb.wait', false) };
}

function checkSupport(spec: MachineSpec, c: ConfigTree, support: BoardSupport): void {
  requireBoot(support, spec.boot.loader);
  for (const s of spec.pci) requirePci(support, s.device, `-s ${at(s)}`);
  for (const d of spec.lpc) requireLpc(support, d.device);
  if (spec.fwcfg.items.length > 0) requireFeature(support, 'fwcfg-items');
  if (spec.gdb !== null) requireFeature(support, 'gdb');
  if (spec.bvmDebugPort !== null) requireFeature(support, 'bvm-debug-port');
  if (spec.numa.length > 0) requireFeature(support, 'numa');
  if (spec.keyboardLayout !== null) requireFeature(support, 'keyboard-layout');
  if (c.hasNode('vcpu')) requireFeature(support, 'pinning');
  if (spec.engine !== 'auto' && !support.engines.includes(spec.engine)) throw notBuilt(`--engine ${spec.engine}`);
}

/** The engine a spec ends up with: `auto` takes the last one the board lists. */
export function effectiveEngine(engine: EngineName, support: BoardSupport): EngineName {
  return engine === 'auto' ? (support.engines.at(-1) ?? 'auto') : engine;
}

/** The machine for people, one property a line, without a final newline. */
export function describeMachine(spec: MachineSpec): string {
  const rows: [string, string][] = [];
  const { cpus, clock, tables, boot } = spec;
  rows.push(['engine', spec.engine]);
  rows.push([
    'memory',
    `${formatBytes(spec.memoryBytes)} (${spec.memoryBytes} bytes)${spec.memoryWired ? ', wired' : ''}`,
  ]);
  rows.push([
    'cpus',
    `${cpus.count} (${count(cpus.sockets, 'socket')} × ${count(cpus.cores, 'core')} × ${count(cpus.threads, 'thread')})`,
  ]);
  for (const d of spec.numa) rows.push(['numa', `domain ${d.id}: CPUs ${d.cpus.join(', ')}`]);
  rows.push(...bootRows(boot));
  for (const s of spec.pci) {
    const options = Object.entries(s.options).map(([k, v]) => ` ${k}=${v}`);
    rows.push(['pci', `${at(s)} ${s.device}${options.join('')}`]);
  }
  for (const d of spec.lpc) {
    if ('backend' in d) rows.push(['lpc', `${d.device} ${d.backend === '' ? '(not connected)' : d.backend}`]);
    else rows.push(['lpc', [d.device, ...Object.entries(d.settings).map(([k, v]) => `${k}=${v}`)].join(' ')]);
  }
  for (const i of spec.fwcfg.items) rows.push(['fw_cfg', `${i.name} ${i.source}=${i.data}`]);
  const built = [tables.acpi ? 'ACPI' : '', tables.mptable ? 'MP table' : '', tables.smbios ? 'SMBIOS' : ''];
  rows.push(['tables', built.filter((t) => t !== '').join(', ') || 'none']);
  for (const [k, v] of Object.entries(tables.smbiosStrings)) rows.push(['smbios', `${k}=${v}`]);
  rows.push(['uuid', spec.uuid ?? '(from the name)']);
  rows.push([
    'clock',
    clock.mode === 'real'
      ? `real, RTC in ${clock.rtc === 'utc' ? 'UTC' : 'local time'}`
      : `virtual, ${clock.instructionsPerSecond} instructions a second, RTC ${new Date((clock.startSeconds ?? 0) * 1000).toISOString()}`,
  ]);
  const policy = [
    spec.translatorThreshold === 0 ? 'no translator' : '',
    spec.translationCache === false ? 'translations not kept' : '',
    spec.kernelCache === false ? 'unpacked kernel not kept' : '',
    spec.x2apic ? 'x2APIC' : '',
    spec.strictIo ? 'strict I/O' : '',
    spec.strictMsr ? '' : 'unknown MSRs ignored',
    spec.hltExit ? 'HLT exits' : '',
    spec.pauseExit ? 'PAUSE exits' : '',
    spec.bvmcons ? 'bvmcons' : '',
    spec.virtioMsi ? 'virtio on MSI' : '',
  ].filter((t) => t !== '');
  if (policy.length > 0) rows.push(['options', policy.join(', ')]);
  if (spec.gdb !== null) rows.push(['gdb', `${spec.gdb.address}:${spec.gdb.port}${spec.gdb.wait ? ', waits' : ''}`]);
  if (spec.bvmDebugPort !== null) rows.push(['debug', `port ${spec.bvmDebugPort}`]);
  if (spec.pidfile !== null) rows.push(['pidfile', spec.pidfile]);
  return [`machine ${spec.name}`, ...rows.map(([k, v]) => `  ${k.padEnd(9)} ${v}`)].join('\n');
}

function count(n: number, what: string): string {
  return `${n} ${what}${n === 1 ? '' : 's'}`;
}

function bootRows(boot: BootSpec): [string, string][] {
  switch (boot.loader) {
    case 'kexec':
      return [
        ['boot', `kexec ${boot.kernel}`],
        ['initrd', boot.initrd ?? '(none)'],
        ['cmdline', boot.cmdline ?? '(default)'],
        ...(boot.decompress === 'guest' ? [['unpacked', 'by the guest'] as [string, string]] : []),
      ];
    case 'multiboot':
      return [
        ['boot', `multiboot ${boot.kernel}`],
        ...boot.modules.map((m): [string, string] => ['module', `${m.path} ${m.cmdline}`.trimEnd()]),
        ['cmdline', boot.cmdline ?? '(none)'],
      ];
    case 'bootrom':
      return [
        ['boot', `bootrom ${boot.code}`],
        ['vars', boot.vars ?? '(none)'],
      ];
    case 'userboot':
      return [
        ['boot', `userboot ${boot.library}`],
        ['volume', boot.volume],
        ['env', boot.env ?? '(none)'],
      ];
  }
}

/** The machine for programs: the spec itself, indented, one JSON document. */
export function machineJson(spec: MachineSpec): string {
  return JSON.stringify(spec, null, 2);
}
