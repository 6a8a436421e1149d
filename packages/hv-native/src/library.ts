// Small native libraries, beside the engine's: each is loaded where it is there and does without where it is not.
import { createRequire } from 'node:module';
import { fileURLToPath } from 'node:url';

/** Where this package's own build puts a library. */
export function localLibrary(file: string): string {
  return fileURLToPath(new URL(`../npm/${process.platform}-${process.arch}/${file}`, import.meta.url));
}

/** What a library exports, or null: it is not there, or not for this machine. */
export function loadLibrary(file: string): object | null {
  const require = createRequire(import.meta.url);
  for (const from of [`@hyve/hv-native-${process.platform}-${process.arch}/${file}`, localLibrary(file)]) {
    try {
      return require(from) as object;
    } catch {
      // The next place, if there is one.
    }
  }
  return null;
}
