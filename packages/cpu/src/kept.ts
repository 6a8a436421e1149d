// Translations kept from one run to the next. A kept region is good for exactly the bytes and the mode that it was made for,
// and for the layout and the translator that made it: its store is chosen by those two, the rest is checked when it is taken
// in. Where its pages lie it has from cells, so that they may lie elsewhere in another run. See docs/decisions/0010.

/** Keeps what the host's WebAssembly engine makes of modules from one run to the next, where the host can do that. */
export interface CompiledStore {
  /** The module of `wasm`, with the machine code that an earlier run left; null if there is none of use. Must not throw. */
  take(wasm: Uint8Array): WebAssembly.Module | null;
  /** Says that `module`, made of `wasm`, is in use: its code is to be kept, when and as often as the store likes. Must not throw. */
  add(wasm: Uint8Array, module: WebAssembly.Module): void;
  /** The modules so far are not in use any more. Must not throw. */
  clear(): void;
}

/** Where translations are kept, for one build of the translator and one layout of memory. */
export interface TranslationStore {
  /** What was appended in earlier runs, whole records in their order; each is good until the next is asked for. */
  load(): Iterable<Uint8Array>;
  /** Keeps one more record. Must not throw: what cannot be kept is made again. */
  append(record: Uint8Array): void;
  /** Machine code of the modules in them; without it they are compiled anew in each run. */
  readonly compiled?: CompiledStore;
}

/** @internal A region within a module: function `r<n>`, n its place in the list. */
export interface KeptRegion {
  /** Host address of its entry, mode key. */
  readonly host: number;
  readonly mode: number;
  /** Host addresses [from, to), each within one page. */
  readonly ranges: readonly (readonly [number, number])[];
  /** The bytes in them. */
  readonly code: Uint8Array;
  /** Its pages: distance from that of entry, host address, the cell that holds it or 0. */
  readonly pages: readonly (readonly [number, number, number])[];
}

/** @internal A module and the link cells that it uses: addresses [from, to). */
export interface KeptModule {
  readonly cells: readonly [number, number];
  readonly wasm: Uint8Array;
  readonly regions: readonly KeptRegion[];
}

interface Header {
  readonly cells: readonly [number, number];
  readonly wasm: number;
  readonly regions: readonly (Omit<KeptRegion, 'code'> & { readonly code: number })[];
}

/** @internal A module as one record: length of a JSON header (u32, little-endian), the header, the WebAssembly, the regions' bytes. */
export function packKept(k: KeptModule): Uint8Array {
  const header: Header = {
    cells: k.cells,
    wasm: k.wasm.length,
    regions: k.regions.map((r) => ({
      host: r.host,
      mode: r.mode,
      ranges: r.ranges,
      pages: r.pages,
      code: r.code.length,
    })),
  };
  const head = new TextEncoder().encode(JSON.stringify(header));
  const out = new Uint8Array(4 + head.length + k.wasm.length + k.regions.reduce((n, r) => n + r.code.length, 0));
  new DataView(out.buffer).setUint32(0, head.length, true);
  out.set(head, 4);
  let at = 4 + head.length;
  for (const part of [k.wasm, ...k.regions.map((r) => r.code)]) {
    out.set(part, at);
    at += part.length;
  }
  return out;
}

/** @internal The module of a record, null if it is none. */
export function unpackKept(record: Uint8Array): KeptModule | null {
  try {
    const headLength = new DataView(record.buffer, record.byteOffset, record.byteLength).getUint32(0, true);
    const header = JSON.parse(new TextDecoder().decode(record.subarray(4, 4 + headLength))) as Header;
    let at = 4 + headLength;
    const take = (n: number): Uint8Array => {
      if (!(n >= 0) || at + n > record.length) throw new RangeError('record too short');
      at += n;
      return record.subarray(at - n, at);
    };
    const wasm = take(header.wasm);
    const [from, to] = header.cells;
    if (!(from <= to)) return null;
    return { cells: [from, to], wasm, regions: header.regions.map((r) => ({ ...r, code: take(r.code) })) };
  } catch {
    return null;
  }
}
