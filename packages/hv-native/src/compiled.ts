// Machine code of WebAssembly modules that outlives the process: V8 makes it while a program runs and forgets it at its end.
import { existsSync, statSync } from 'node:fs';
import { loadLibrary } from './library.ts';

/** Reads and makes modules' machine code, for the V8 of this process. */
export interface CompiledCode {
  /**
   * Text that is the same for processes that may use each other's code: the build of Node, the platform. Settings of V8 and
   * features of the processor are not in it; V8 refuses code that does not fit them.
   */
  readonly host: string;
  /** What V8's optimising compiler has made of the module so far; null if that is nothing yet. @throws TypeError for others */
  serialize(module: WebAssembly.Module): Uint8Array | null;
  /**
   * A module of `wasm` whose functions have the machine code that {@link CompiledCode.serialize} gave for a module of the
   * same bytes; functions without it are compiled when they are called. V8 trusts `code`: it must be what serialize gave, byte
   * for byte, and come from nobody who may not run programs as this user. Null where V8 refuses it.
   */
  deserialize(wasm: Uint8Array, code: Uint8Array): WebAssembly.Module | null;
}

/**
 * Versions of V8, without their last two numbers, that the library has been tried with: it relies on the layout of a few of
 * V8's classes. With others there is no {@link CompiledCode}.
 */
export const TRIED_V8: readonly string[] = ['14.6'];

/** The library, or null: it is not built for this machine, or has not been tried with this V8. */
export function compiledCode(): CompiledCode | null {
  const { v8 } = process.versions;
  if (!TRIED_V8.some((known) => v8.startsWith(`${known}.`))) return null;
  const library = loadLibrary(FILE) as Library | null;
  if (library?.serialize === undefined || library.deserialize === undefined) return null;
  const { serialize, deserialize } = library;
  return {
    host: hostName(),
    serialize: (module) => serialize(module),
    deserialize: (wasm, code) => deserialize(wasm, code),
  };
}

type Library = Partial<Pick<CompiledCode, 'serialize' | 'deserialize'>>;

const FILE = 'hyve-compiled.node';

/** Two builds of the same version may differ: the program's file is part of it. */
function hostName(): string {
  const { execPath, version, versions, arch, platform } = process;
  const file = existsSync(execPath) ? statSync(execPath) : null;
  return JSON.stringify([version, versions.v8, platform, arch, file?.size ?? 0]);
}
