// Settings of V8 that change while the program runs. They are the process's, whichever thread changes them.
import { setFlagsFromString } from 'node:v8';

/**
 * When V8 compiles WebAssembly: each function at its first call, or all when a module is made. Machine code that is kept
 * ({@link CompiledFile}) is good for the setting that it was made under.
 */
export class CompileSettings {
  private eager = false;

  /** From here on modules are compiled when they are made (true) or as they are called. */
  set(eager: boolean): void {
    this.eager = eager;
    apply(eager);
  }

  /** Runs `f` while functions are compiled as they are called, as at the program's start. */
  readonly lazily = <T>(f: () => T): T => {
    apply(false);
    try {
      return f();
    } finally {
      apply(this.eager);
    }
  };

  /** Notes a setting that another thread makes. */
  note(eager: boolean): void {
    this.eager = eager;
  }
}

function apply(eager: boolean): void {
  setFlagsFromString(eager ? '--no-wasm-lazy-compilation' : '--wasm-lazy-compilation');
}
