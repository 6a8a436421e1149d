// Linux kernel modules: what their .modinfo section says, which others they need, and the index files modprobe reads.
// Kernel packages leave modules.dep to the installing system, so the closure comes from the modules themselves.

/** What a module says about itself. */
export interface ModuleInfo {
  /** Name with underscores. */
  readonly name: string;
  /** Modules whose symbols it uses. */
  readonly depends: readonly string[];
  /** Modules or aliases to load first when there are any (`softdep: pre:`). */
  readonly softPre: readonly string[];
  /** Modules or aliases to load afterwards (`softdep: post:`). */
  readonly softPost: readonly string[];
  /** Device and feature patterns it answers to. */
  readonly aliases: readonly string[];
}

/** `snd-hda` and `snd_hda` are one module. */
export function moduleName(text: string): string {
  return text.replaceAll('-', '_');
}

/** The name of a module file: its last path component without `.ko` and compression, with underscores. */
export function nameOfPath(path: string): string {
  const base = path.slice(path.lastIndexOf('/') + 1);
  return moduleName(base.replace(/\.ko(\.(xz|zst|gz))?$/u, ''));
}

/**
 * The `.modinfo` section of a module, found by name in an ELF64 or ELF32 little-endian relocatable file.
 * @returns its bytes, or null when the file has none or is damaged
 */
export function modinfoSection(elf: Uint8Array): Uint8Array | null {
  if (elf.length < 64 || elf[0] !== 0x7f || elf[1] !== 0x45 || elf[2] !== 0x4c || elf[3] !== 0x46) return null;
  const view = new DataView(elf.buffer, elf.byteOffset, elf.byteLength);
  const is64 = elf[4] === 2;
  const word = (at: number): number => (at + 4 <= elf.length ? view.getUint32(at, true) : 0);
  const address = (at: number): number => (is64 ? word(at) + word(at + 4) * 2 ** 32 : word(at));
  const half = (at: number): number => (at + 2 <= elf.length ? view.getUint16(at, true) : 0);
  const table = address(is64 ? 0x28 : 0x20);
  const entrySize = half(is64 ? 0x3a : 0x2e);
  const count = half(is64 ? 0x3c : 0x30);
  const names = half(is64 ? 0x3e : 0x32);
  if (entrySize < (is64 ? 64 : 40) || table + count * entrySize > elf.length || names >= count) return null;
  const section = (i: number): { name: number; offset: number; size: number } => {
    const at = table + i * entrySize;
    return { name: word(at), offset: address(at + (is64 ? 0x18 : 0x10)), size: address(at + (is64 ? 0x20 : 0x14)) };
  };
  const strings = section(names);
  for (let i = 0; i < count; i++) {
    const s = section(i);
    if (textAt(elf, strings.offset + s.name) !== '.modinfo') continue;
    return s.offset + s.size <= elf.length ? elf.subarray(s.offset, s.offset + s.size) : null;
  }
  return null;
}

function textAt(bytes: Uint8Array, at: number): string {
  let end = at;
  while (end < bytes.length && bytes[end] !== 0 && end - at < 64) end++;
  return String.fromCharCode(...bytes.subarray(at, end));
}

/** Reads a module file (uncompressed). @param path for the name when the module does not say it */
export function moduleInfo(path: string, elf: Uint8Array): ModuleInfo {
  const section = modinfoSection(elf);
  const lines = section === null ? [] : new TextDecoder('latin1').decode(section).split('\0');
  const values = (key: string): string[] =>
    lines.filter((l) => l.startsWith(`${key}=`)).map((l) => l.slice(key.length + 1));
  const softPre: string[] = [];
  const softPost: string[] = [];
  for (const soft of values('softdep')) {
    let into = softPre;
    for (const w of soft.split(/\s+/u)) {
      if (w === 'pre:') into = softPre;
      else if (w === 'post:') into = softPost;
      else if (w !== '') into.push(w);
    }
  }
  return {
    name: moduleName(values('name')[0] ?? nameOfPath(path)),
    depends: values('depends').flatMap((d) =>
      d
        .split(',')
        .filter((n) => n !== '')
        .map(moduleName),
    ),
    softPre,
    softPost,
    aliases: values('alias'),
  };
}

/** A module file with what it says. */
export interface ModuleFile {
  /** Path below `lib/modules/VERSION/`, without compression suffix. */
  readonly path: string;
  /** Uncompressed content. */
  readonly data: Uint8Array;
  /** Its own words. */
  readonly info: ModuleInfo;
}

/** What {@link closure} found. */
export interface Closure {
  /** The wanted modules and all they need, each after those it needs. */
  readonly modules: readonly ModuleFile[];
  /** Wanted names that neither exist as modules nor are built in. */
  readonly absent: readonly string[];
}

/**
 * The wanted modules with everything they depend on, dependencies first.
 * @param all every module by name
 * @param builtin names inside the kernel
 */
export function closure(
  wanted: readonly string[],
  all: ReadonlyMap<string, ModuleFile>,
  builtin: ReadonlySet<string>,
): Closure {
  const modules: ModuleFile[] = [];
  const absent: string[] = [];
  const seen = new Set<string>();
  const visit = (name: string): boolean => {
    if (seen.has(name) || builtin.has(name)) return true;
    const found = all.get(name);
    if (found === undefined) return false;
    seen.add(name);
    for (const soft of found.info.softPre) visitAlias(soft);
    for (const d of found.info.depends) visit(d);
    modules.push(found);
    for (const soft of found.info.softPost) visitAlias(soft);
    return true;
  };
  const visitAlias = (text: string): void => {
    if (visit(moduleName(text))) return;
    for (const m of all.values()) if (m.info.aliases.includes(text)) visit(m.info.name);
  };
  for (const w of wanted) if (!visit(moduleName(w))) absent.push(w);
  return { modules, absent };
}

/**
 * `modules.dep`: each module with all it needs. modprobe loads the list from its end, so what others need comes last.
 * @param modules dependencies first, as {@link closure} gives them
 */
export function modulesDep(modules: readonly ModuleFile[]): string {
  const byName = new Map(modules.map((m, order) => [m.info.name, { m, order }]));
  const lines = modules.map((m) => {
    const needs = new Map<string, number>();
    const collect = (f: ModuleFile): void => {
      for (const d of f.info.depends) {
        const dep = byName.get(d);
        if (dep === undefined || needs.has(dep.m.path)) continue;
        needs.set(dep.m.path, dep.order);
        collect(dep.m);
      }
    };
    collect(m);
    const paths = [...needs].sort((a, b) => b[1] - a[1]).map(([path]) => ` ${path}`);
    return `${m.path}:${paths.join('')}\n`;
  });
  return lines.join('');
}

/** `modules.alias`: patterns to names. Patterns on processor features are left out: they match by the kilobyte. */
export function modulesAlias(modules: readonly ModuleFile[]): string {
  return modules
    .flatMap((m) => m.info.aliases.filter((a) => !a.startsWith('cpu:')).map((a) => `alias ${a} ${m.info.name}\n`))
    .join('');
}

/** Names in a `modules.builtin` file. */
export function builtinNames(text: string): Set<string> {
  return new Set(
    text
      .split('\n')
      .filter((l) => l !== '')
      .map(nameOfPath),
  );
}
