import { isHyveError } from '../src/index.ts';

/** The code of the HyveError that `f` throws, or `none`. */
export function code(f: () => unknown): string {
  try {
    f();
  } catch (e) {
    if (isHyveError(e)) return e.code;
    throw e;
  }
  return 'none';
}
