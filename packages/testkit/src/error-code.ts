// What a function throws, as tests ask for it.
import { isHyveError } from '@hyve/core';

/** The code of the HyveError that `f` throws; `no error` if it throws nothing. @throws anything else that `f` throws */
export function codeOf(f: () => unknown): string {
  try {
    f();
  } catch (e) {
    if (isHyveError(e)) return e.code;
    throw e;
  }
  return 'no error';
}
