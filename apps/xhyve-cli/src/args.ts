// argv to an Invocation. xhyve(1) and bhyve(8) share one getopt-style line: grouped flags, values attached or apart,
// options end at the first word that is none. Every option becomes an entry of the configuration tree, in order.
import { MAX_VCPUS } from '@hyve/pc/spec';
import { applyConfigText, ConfigTree, parseCInteger, splitAssignment } from './config.ts';
import { findPciEmulation, LPC_EMULATIONS } from './devices.ts';
import { usageError } from './errors.ts';
import { parseMemorySize } from './sizes.ts';

/** A machine to run or to describe. */
export interface RunInvocation {
  readonly kind: 'run';
  /** Everything the options said. */
  readonly config: ConfigTree;
  /** The text after the second comma of each `-s`, by `bus.slot.func`. */
  readonly slotConf: ReadonlyMap<string, string>;
  /** Optional parts the options asked for outside the tree, by `BoardSupport` feature key. */
  readonly features: readonly string[];
  /** `--dry-run`: print the machine, run nothing. */
  readonly dryRun: boolean;
  /** `--json`: print what is printed as JSON. */
  readonly json: boolean;
  /** `--stats`: counters on stderr at the end, and every so many seconds unless that is 0; null without it. */
  readonly stats: number | null;
  /** `--trace`: file for the text of guest blocks, or null. */
  readonly trace: string | null;
  /** `--profile`: file for hot guest addresses, or null. */
  readonly profile: string | null;
  /** `--symbols`: a System.map or kallsyms, or null. */
  readonly symbols: string | null;
  /** `--control`: path of a socket for `xhyve ctl`, or null. */
  readonly control: string | null;
  /** Remarks for stderr that stop nothing. */
  readonly notes: readonly string[];
}

/** What a command line asks for. */
export type Invocation =
  | RunInvocation
  | { readonly kind: 'help'; readonly topic: 'xhyve' | 'pull' | 'images' }
  | { readonly kind: 'version'; readonly json: boolean }
  | { readonly kind: 'list'; readonly what: 'pci' | 'lpc'; readonly json: boolean }
  | { readonly kind: 'pull'; readonly name: string; readonly json: boolean; readonly force: boolean }
  | { readonly kind: 'images'; readonly json: boolean };

/** What parsing needs from outside. */
export interface ParseHost {
  /** The text of a `-k` file; throws when it cannot be read. */
  readText(path: string): string;
}

/** Options without a value. */
const FLAGS = 'AabCDeHhIMPSuvWwxY';
/** Options with a value. `-Y` takes none: xhyve's getopt string says otherwise, its manual and code do not. */
const VALUED = 'cFfGgKklmnoprsU';

/**
 * Reads a command line.
 * @param argv the words after the program's name
 * @throws CLI_USAGE naming the option and its value
 */
export function parseArgs(argv: readonly string[], host: ParseHost): Invocation {
  if (argv[0] === 'pull') return parsePull(argv.slice(1));
  if (argv[0] === 'images') return parseImages(argv.slice(1));
  return new LineParser(argv, host).parse();
}

function parsePull(words: readonly string[]): Invocation {
  let name: string | null = null;
  let json = false;
  let force = false;
  for (const w of words) {
    if (w === '--help' || w === '-h') return { kind: 'help', topic: 'pull' };
    if (w === '--json') json = true;
    else if (w === '--force') force = true;
    else if (w.startsWith('-')) throw usageError(`pull: unknown option '${w}'`);
    else if (name !== null) throw usageError(`pull: one image at a time, got '${name}' and '${w}'`);
    else name = w;
  }
  if (name === null) throw usageError(`pull: name an image; 'xhyve images' lists them`);
  return { kind: 'pull', name, json, force };
}

function parseImages(words: readonly string[]): Invocation {
  let json = false;
  for (const w of words) {
    if (w === '--help' || w === '-h') return { kind: 'help', topic: 'images' };
    if (w !== '--json') throw usageError(`images: '${w}' is not understood; it takes --json alone`);
    json = true;
  }
  return { kind: 'images', json };
}

class LineParser {
  private readonly argv: readonly string[];
  private readonly host: ParseHost;
  private readonly config = new ConfigTree();
  private readonly slotConf = new Map<string, string>();
  private readonly features = new Set<string>();
  private readonly notes: string[] = [];
  private dryRun = false;
  private json = false;
  private stats: number | null = null;
  private trace: string | null = null;
  private profile: string | null = null;
  private symbols: string | null = null;
  private control: string | null = null;
  private fwcfgItems = 0;
  /** Set by options that end parsing. */
  private early: Invocation | null = null;

  constructor(argv: readonly string[], host: ParseHost) {
    this.argv = argv;
    this.host = host;
  }

  parse(): Invocation {
    let i = 0;
    for (; i < this.argv.length; i++) {
      const word = this.argv[i] as string;
      if (word === '--') {
        i++;
        break;
      }
      if (word.startsWith('--')) i += this.long(word, this.argv[i + 1]);
      else if (word.startsWith('-') && word.length > 1) i += this.short(word, this.argv[i + 1]);
      else break;
      if (this.early !== null) return this.early;
    }
    const rest = this.argv.slice(i);
    if (rest.length > 1) {
      const extra = rest[1] as string;
      throw usageError(
        extra.startsWith('-') && extra.length > 1
          ? `option '${extra}' comes after the machine's name '${rest[0]}'; options go first`
          : `one machine name at most, got '${rest[0]}' and '${extra}'`,
      );
    }
    if (rest.length === 1) {
      const name = rest[0] as string;
      if (name === '') throw usageError(`the machine's name is empty`);
      this.config.set('name', literal(name), 'machine name');
    }
    return {
      kind: 'run',
      config: this.config,
      slotConf: this.slotConf,
      features: [...this.features],
      dryRun: this.dryRun,
      json: this.json,
      stats: this.stats,
      trace: this.trace,
      profile: this.profile,
      symbols: this.symbols,
      control: this.control,
      notes: this.notes,
    };
  }

  private wantsJson(): boolean {
    return this.argv.includes('--json');
  }

  /** @returns how many further words it used */
  private long(word: string, next: string | undefined): number {
    const at = word.indexOf('=');
    const name = at < 0 ? word : word.slice(0, at);
    const attached = at < 0 ? null : word.slice(at + 1);
    const plain = (): void => {
      if (attached !== null) throw usageError(`${name} takes no value, got '${attached}'`);
    };
    switch (name) {
      case '--help':
        plain();
        this.early = { kind: 'help', topic: 'xhyve' };
        return 0;
      case '--version':
        plain();
        this.early = { kind: 'version', json: this.wantsJson() };
        return 0;
      case '--json':
        plain();
        this.json = true;
        return 0;
      case '--dry-run':
        plain();
        this.dryRun = true;
        return 0;
      case '--stats':
        this.stats = attached === null ? 0 : Number(attached);
        if (!(this.stats >= 0 && this.stats <= 86_400) || attached === '')
          throw usageError(`--stats=${attached}: a number of seconds expected`);
        return 0;
      case '--control':
      case '--trace':
      case '--profile':
      case '--symbols': {
        const file = attached ?? next;
        if (file === undefined || file === '') throw usageError(`${name} needs a file name`);
        if (name === '--control') this.control = file;
        else if (name === '--trace') this.trace = file;
        else if (name === '--profile') this.profile = file;
        else this.symbols = file;
        return attached === null ? 1 : 0;
      }
      case '--engine': {
        const value = attached ?? next;
        if (value === undefined) throw usageError('--engine needs a value: auto, soft or kvm');
        if (value !== 'auto' && value !== 'soft' && value !== 'kvm')
          throw usageError(`--engine ${value}: no such engine; there are auto, soft and kvm`);
        this.config.set('engine', value, '--engine');
        return attached === null ? 1 : 0;
      }
      default:
        throw usageError(`unknown option '${name}'; 'xhyve --help' lists them`);
    }
  }

  /** @returns how many further words it used */
  private short(word: string, next: string | undefined): number {
    for (let i = 1; i < word.length; i++) {
      const c = word[i] as string;
      if (FLAGS.includes(c)) {
        this.flag(c);
        if (this.early !== null) return 0;
        continue;
      }
      if (!VALUED.includes(c)) throw usageError(`unknown option '-${c}'; 'xhyve -h' lists them`);
      const attached = word.slice(i + 1);
      if (attached !== '') {
        this.valued(c, attached);
        return 0;
      }
      if (next === undefined) throw usageError(`-${c} needs a value`);
      this.valued(c, next);
      return 1;
    }
    return 0;
  }

  private set(name: string, value: string, where: string): void {
    this.config.set(name, value, where);
  }

  private flag(c: string): void {
    const where = `-${c}`;
    switch (c) {
      case 'A':
        this.set('acpi_tables', 'true', where);
        return;
      case 'a':
        this.set('x86.x2apic', 'false', where);
        return;
      case 'b':
        this.set('bvmcons', 'true', where);
        return;
      case 'C':
        this.set('memory.guest_in_core', 'true', where);
        return;
      case 'D':
        this.set('destroy_on_poweroff', 'true', where);
        return;
      case 'e':
        this.set('x86.strictio', 'true', where);
        return;
      case 'H':
        this.set('x86.vmexit_on_hlt', 'true', where);
        return;
      case 'h':
        this.early = { kind: 'help', topic: 'xhyve' };
        return;
      case 'M':
        this.features.add('vmnet-mac');
        return;
      case 'P':
        this.set('x86.vmexit_on_pause', 'true', where);
        return;
      case 'S':
        this.set('memory.wired', 'true', where);
        return;
      case 'u':
        this.set('rtc.use_localtime', 'false', where);
        return;
      case 'v':
        this.early = { kind: 'version', json: this.wantsJson() };
        return;
      case 'W':
        this.set('virtio_msix', 'false', where);
        return;
      case 'w':
        this.set('x86.strictmsr', 'false', where);
        return;
      case 'x':
        this.set('x86.x2apic', 'true', where);
        return;
      case 'Y':
        this.set('x86.mptable', 'false', where);
        return;
      default:
        return; // -I asked old bhyve for an IO-APIC; there always is one.
    }
  }

  private valued(c: string, value: string): void {
    switch (c) {
      case 'c':
        this.cpus(value);
        return;
      case 'F':
        if (value === '') throw usageError('-F: the pid file has no name');
        this.set('pidfile', literal(value), '-F');
        return;
      case 'f':
        this.firmware(value);
        return;
      case 'G':
        this.gdb(value);
        return;
      case 'g':
        this.set('bvmdebug.port', String(port(value, '-g')), '-g');
        return;
      case 'K':
        if (value === '') throw usageError('-K: the keyboard layout has no name');
        this.set('keyboard.layout', literal(value), '-K');
        return;
      case 'k':
        this.configFile(value);
        return;
      case 'l':
        this.lpc(value);
        return;
      case 'm':
        if (parseMemorySize(value) === null)
          throw usageError(`-m ${value}: not a memory size; write 512M, 2G or a number of megabytes`);
        this.set('memory.size', value, '-m');
        return;
      case 'n':
        this.numa(value);
        return;
      case 'o': {
        const pair = splitAssignment(value);
        if (pair === null) throw usageError(`-o ${value}: not name=value`);
        this.set(pair.name, pair.value, `-o ${value}`);
        return;
      }
      case 'p':
        this.pin(value);
        return;
      case 'r':
        this.features.add('restore');
        return;
      case 's':
        this.slot(value);
        return;
      default: // U
        if (!/^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/iu.test(value))
          throw usageError(`-U ${value}: not a UUID`);
        this.set('uuid', value.toLowerCase(), '-U');
        return;
    }
  }

  private cpus(value: string): void {
    for (const part of value.split(',')) {
      const at = part.indexOf('=');
      const key = at < 0 ? 'cpus' : part.slice(0, at);
      const text = at < 0 ? part : part.slice(at + 1);
      if (key !== 'cpus' && key !== 'sockets' && key !== 'cores' && key !== 'threads')
        throw usageError(`-c ${value}: '${key}' is none of cpus, sockets, cores, threads`);
      if (text === '' && at < 0) {
        if (value === '') for (const k of ['cpus', 'sockets', 'cores', 'threads']) this.set(k, '1', '-c');
        continue;
      }
      const n = parseCInteger(text);
      if (n === null) throw usageError(`-c ${value}: '${text}' is not a number`);
      if (n < 1 || n > MAX_VCPUS) throw usageError(`-c ${value}: ${key} must be 1 to ${MAX_VCPUS}`);
      this.set(key, String(n), `-c ${value}`);
    }
  }

  private firmware(value: string): void {
    const [head, ...fields] = value.split(',') as [string, ...string[]];
    const tail = (from: number): string | null => {
      const text = fields.slice(from).join(',');
      return text === '' ? null : text;
    };
    const field = (i: number): string | null => {
      const text = fields[i];
      return text === undefined || text === '' ? null : text;
    };
    const need = (i: number, what: string, form: string): string => {
      const text = field(i);
      if (text === null) throw usageError(`-f ${value}: no ${what}; write -f ${form}`);
      return text;
    };
    const put = (name: string, text: string | null): void => {
      if (text !== null) this.set(name, literal(text), `-f ${head}`);
    };
    const begin = (loader: string): void => {
      for (const k of ['kernel', 'initrd', 'cmdline', 'modules', 'library', 'volume', 'env'])
        this.config.delete(`boot.${k}`);
      this.set('boot.loader', loader, `-f ${head}`);
    };
    switch (head) {
      case 'kexec': {
        const kernel = need(0, 'kernel', 'kexec,KERNEL[,INITRD[,CMDLINE]]');
        begin('kexec');
        put('boot.kernel', kernel);
        put('boot.initrd', field(1));
        put('boot.cmdline', tail(2));
        return;
      }
      case 'multiboot': {
        const kernel = need(0, 'kernel', 'multiboot,KERNEL[,MODULES[,CMDLINE]]');
        begin('multiboot');
        put('boot.kernel', kernel);
        put('boot.modules', field(1));
        put('boot.cmdline', tail(2));
        return;
      }
      case 'fbsd':
      case 'userboot': {
        const library = need(0, 'userboot library', `${head},USERBOOT,VOLUME[,ENV]`);
        const volume = need(1, 'boot volume', `${head},USERBOOT,VOLUME[,ENV]`);
        begin('userboot');
        put('boot.library', library);
        put('boot.volume', volume);
        put('boot.env', tail(2));
        return;
      }
      case 'bootrom': {
        const code = need(0, 'ROM', 'bootrom,ROM[,VARS]');
        this.set('bootrom', literal(code), '-f bootrom');
        const vars = tail(1)?.replace(/,+$/u, '');
        if (vars !== undefined && vars !== '') this.set('bootvars', literal(vars), '-f bootrom');
        return;
      }
      default:
        this.fwcfgItem(value);
        return;
    }
  }

  /** bhyve's `-f [name=]NAME,string=TEXT` and `-f [name=]NAME,file=PATH`. */
  private fwcfgItem(value: string): void {
    const m = /^(?:name=)?([^,]*),(string|file)=(.*)$/su.exec(value);
    if (m === null) {
      const head = value.split(',', 1)[0] as string;
      throw usageError(
        `-f ${value}: '${head}' is no boot loader (kexec, multiboot, bootrom, fbsd) and no NAME,string=… or NAME,file=…`,
      );
    }
    const [, name, source, data] = m as unknown as [string, string, string, string];
    if (name === '') throw usageError(`-f ${value}: the fw_cfg item has no name`);
    if (name.length > 55) throw usageError(`-f ${value}: a fw_cfg name has at most 55 characters`);
    if (source === 'file' && data === '') throw usageError(`-f ${value}: the fw_cfg item names no file`);
    const node = `fwcfg_items.${this.fwcfgItems++}`;
    this.set(`${node}.name`, literal(name), '-f');
    this.set(`${node}.${source}`, literal(data), '-f');
  }

  private gdb(value: string): void {
    const wait = value.startsWith('w');
    const text = wait ? value.slice(1) : value;
    const m = /^(?:(\[[^\]]+\]|[^:[\]]*):)?([^:]*)$/u.exec(text);
    if (m === null) throw usageError(`-G ${value}: not [w][ADDRESS:]PORT`);
    const address = (m[1] ?? '').replace(/^\[|\]$/gu, '');
    this.set('gdb.port', String(port(m[2] as string, '-G', value)), '-G');
    if (address !== '') this.set('gdb.address', literal(address), '-G');
    this.set('gdb.wait', String(wait), '-G');
  }

  private configFile(path: string): void {
    let text: string;
    try {
      text = this.host.readText(path);
    } catch (e) {
      throw usageError(`-k ${path}: ${reason(e)}`);
    }
    applyConfigText(this.config, text, path);
  }

  private lpc(value: string): void {
    const at = value.indexOf(',');
    const name = (at < 0 ? value : value.slice(0, at)).toLowerCase();
    const conf = at < 0 ? '' : value.slice(at + 1);
    const where = `-l ${value}`;
    if (value === 'help') {
      this.early = { kind: 'list', what: 'lpc', json: this.wantsJson() };
      return;
    }
    switch (name) {
      case 'com1':
      case 'com2':
      case 'com3':
      case 'com4': {
        this.config.delete(`lpc.${name}.path`);
        this.config.delete(`lpc.${name}.tcp`);
        const tcp = /^tcp=([^,]*)$/u.exec(conf);
        if (tcp === null) this.set(`lpc.${name}.path`, conf, where);
        else this.set(`lpc.${name}.tcp`, tcp[1] as string, where);
        return;
      }
      case 'bootrom': {
        const [rom, vars] = conf.split(',') as [string, string | undefined];
        if (rom === '') throw usageError(`${where}: no ROM file; write -l bootrom,ROM[,VARS]`);
        this.set('bootrom', rom, where);
        if (vars !== undefined && vars !== '') this.set('bootvars', vars, where);
        return;
      }
      case 'fwcfg':
        if (conf !== 'bhyve' && conf !== 'qemu') throw usageError(`${where}: the interface is 'bhyve' or 'qemu'`);
        this.set('lpc.fwcfg', conf, where);
        return;
      case 'tpm': {
        const [type, path, ...more] = conf.split(',') as [string, string | undefined, ...string[]];
        if ((type !== 'passthru' && type !== 'swtpm') || path === undefined || path === '')
          throw usageError(`${where}: write -l tpm,passthru,DEVICE or -l tpm,swtpm,SOCKET`);
        this.set('tpm.type', type, where);
        this.set('tpm.path', path, where);
        for (const part of more) {
          const pair = splitAssignment(part);
          if (pair === null) throw usageError(`${where}: '${part}' is not name=value`);
          this.set(`tpm.${pair.name}`, pair.value, where);
        }
        return;
      }
      case 'pc-testdev':
        this.set('lpc.pc-testdev', 'true', where);
        return;
      default:
        throw usageError(
          `${where}: unknown LPC device '${name}'; there are ${LPC_EMULATIONS.map((e) => e.name).join(', ')}`,
        );
    }
  }

  private numa(value: string): void {
    const names = ['id', 'size', 'cpus', 'domain_policy'];
    const got: Record<string, string> = {};
    let last = '';
    let position = 0;
    for (const part of value.split(',')) {
      const pair = splitAssignment(part);
      if (pair !== null && names.includes(pair.name)) {
        got[pair.name] = pair.value;
        last = pair.name;
        position = names.indexOf(pair.name) + 1;
      } else if (pair === null && last === 'cpus' && /^\d+(-\d+)?$/u.test(part)) {
        got['cpus'] += `,${part}`;
      } else if (pair === null && position < names.length) {
        last = names[position++] as string;
        got[last] = part;
      } else throw usageError(`-n ${value}: '${part}' is not understood`);
    }
    const id = parseCInteger(got['id'] ?? '');
    if (id === null || id < 0 || id > 7) throw usageError(`-n ${value}: needs a domain id from 0 to 7`);
    for (const k of ['size', 'cpus', 'domain_policy']) {
      const text = got[k];
      if (text !== undefined && text !== '') this.set(`domains.${id}.${k}`, text, `-n ${value}`);
    }
    if (got['cpus'] === undefined) throw usageError(`-n ${value}: names no cpus`);
  }

  private pin(value: string): void {
    const m = /^(\d{1,5})(?:-(\d{1,5}))?:(\d{1,5})(?:-(\d{1,5}))?$/u.exec(value);
    if (m === null) throw usageError(`-p ${value}: not VCPU:HOSTCPU or VCPU-VCPU:HOSTCPU-HOSTCPU`);
    const v0 = Number(m[1]);
    const v1 = m[2] === undefined ? v0 : Number(m[2]);
    const h0 = Number(m[3]);
    const h1 = m[4] === undefined ? h0 : Number(m[4]);
    if (v1 < v0 || v1 - v0 !== h1 - h0)
      throw usageError(`-p ${value}: the two ranges differ in length or run backwards`);
    if (v1 >= MAX_VCPUS) throw usageError(`-p ${value}: vCPU ${v1} is beyond the last possible one, ${MAX_VCPUS - 1}`);
    for (let v = v0; v <= v1; v++) {
      const key = `vcpu.${v}.cpuset`;
      const before = this.config.get(key);
      const cpu = String(h0 + v - v0);
      this.set(key, before === undefined ? cpu : `${before},${cpu}`, '-p');
    }
  }

  private slot(value: string): void {
    if (value === 'help') {
      this.early = { kind: 'list', what: 'pci', json: this.wantsJson() };
      return;
    }
    const first = value.indexOf(',');
    if (first < 0) throw usageError(`-s ${value}: no device; write -s SLOT,DEVICE[,SETTINGS]`);
    const place = parseSlotPlace(value.slice(0, first), `-s ${value}`);
    const second = value.indexOf(',', first + 1);
    const name = second < 0 ? value.slice(first + 1) : value.slice(first + 1, second);
    const conf = second < 0 ? '' : value.slice(second + 1);
    const known = findPciEmulation(name);
    if (known === null) throw usageError(`-s ${value}: unknown device '${name}'; 'xhyve -s help' lists them`);
    const key = place.join('.');
    if (this.config.has(`pci.${key}.device`))
      throw usageError(
        `-s ${value}: slot ${place.join(':')} is already taken by '${this.config.get(`pci.${key}.device`)}'`,
      );
    this.set(`pci.${key}.device`, name, `-s ${value}`);
    if (second >= 0) this.slotConf.set(key, conf);
    for (const [option, text] of slotOptions(name, known.words, conf)) {
      this.set(`pci.${key}.${option}`, text, `-s ${value}`);
    }
  }
}

/** Keeps `%` in words that xhyve takes as they are. */
function literal(text: string): string {
  return text.replaceAll('%', '%%');
}

function reason(e: unknown): string {
  const code = typeof e === 'object' && e !== null && 'code' in e ? e.code : null;
  if (code === 'ENOENT') return 'no such file';
  if (code === 'EACCES') return 'permission denied';
  if (code === 'EISDIR') return 'is a directory';
  return e instanceof Error ? e.message : String(e);
}

function port(text: string, option: string, whole: string = text): number {
  const n = parseCInteger(text);
  if (n === null || n < 1 || n > 65535) throw usageError(`${option} ${whole}: '${text}' is no TCP port (1 to 65535)`);
  return n;
}

/**
 * The three forms of a slot: `bus:slot:func`, `slot:func`, `slot`.
 * @throws CLI_USAGE naming the field that is out of range
 */
export function parseSlotPlace(text: string, where: string): [bus: number, slot: number, func: number] {
  if (!/^\d{1,9}(:\d{1,9}){0,2}$/u.test(text))
    throw usageError(`${where}: '${text}' is not BUS:SLOT:FUNCTION, SLOT:FUNCTION or SLOT`);
  const n = text.split(':').map(Number);
  const [bus, slot, func] = (n.length === 3 ? n : n.length === 2 ? [0, ...n] : [0, ...n, 0]) as [
    number,
    number,
    number,
  ];
  if (bus > 255) throw usageError(`${where}: bus ${bus} is outside 0 to 255`);
  if (slot > 31) throw usageError(`${where}: slot ${slot} is outside 0 to 31`);
  if (func > 7) throw usageError(`${where}: function ${func} is outside 0 to 7`);
  return [bus, slot, func];
}

/**
 * The settings a `-s` configuration stands for, in bhyve_config(5) names.
 * @param words names of the leading bare words
 */
function slotOptions(device: string, words: readonly string[], conf: string): [string, string][] {
  const out: [string, string][] = [];
  if (conf === '') return out;
  let bare = 0;
  let node = '';
  let ports = 0;
  for (const [position, part] of conf.split(',').entries()) {
    if (part === '') continue;
    const pair = splitAssignment(part);
    if (device === 'ahci') {
      const m = /^(hd|cd):(.*)$/su.exec(part);
      if (m !== null) {
        node = `port.${ports++}.`;
        out.push([`${node}type`, m[1] as string], [`${node}path`, m[2] as string]);
        continue;
      }
    } else if (device === 'xhci' && pair === null) {
      out.push([`slot.${++ports}.device`, part]);
      continue;
    } else if (
      device === 'virtio-9p' &&
      pair !== null &&
      position === 0 &&
      !['path', 'port', 'tag'].includes(pair.name)
    ) {
      out.push(['sharename', pair.name], ['path', pair.value]);
      continue;
    } else if (device === 'passthru' && position === 0) {
      const m = /^(?:pci)?(\d{1,3})[/:](\d{1,2})[/:](\d)$/u.exec(part);
      if (m !== null) {
        out.push(['bus', m[1] as string], ['slot', m[2] as string], ['func', m[3] as string]);
        continue;
      }
    }
    const path = pair?.name.includes('/') === true && bare < words.length; // a file name with '=' in it
    if (pair !== null && !path) out.push([`${node}${pair.name}`, pair.value]);
    else if (bare < words.length) out.push([words[bare++] as string, part]);
    else out.push([`${node}${part}`, 'true']);
  }
  return out;
}
