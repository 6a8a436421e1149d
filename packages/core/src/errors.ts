// Errors for mistakes of the host program: wrong wiring, wrong options, unusable files. Guest mistakes never throw.

const MARK = Symbol.for('@hyve/error');

/**
 * A host-side mistake with a stable code. Recognise it with {@link isHyveError}, never with `instanceof`
 * (two copies of this package may live in one program).
 */
export class HyveError extends Error {
  /** Stable upper-case identifier such as `BUS_OVERLAP`; documented where it is thrown. */
  readonly code: string;
  /**
   * @param code stable identifier
   * @param message what, where in hex, what was expected
   * @param cause the error behind it
   */
  constructor(code: string, message: string, cause?: unknown) {
    super(message, cause === undefined ? undefined : { cause });
    this.name = 'HyveError';
    this.code = code;
    Object.defineProperty(this, MARK, { value: true });
  }
}

/** Whether `e` is a {@link HyveError} (of any copy of this package), optionally with the given code. */
export function isHyveError(e: unknown, code?: string): e is HyveError {
  if (typeof e !== 'object' || e === null || !(MARK in e)) return false;
  return code === undefined || (e as unknown as { code: unknown }).code === code;
}
