// Handler keys of the instructions that Linux boots execute most; they are compiled into the interpreter's main loop.

/** See `handlerKey` in interp.ts for the fields. */
export const INLINE_KEYS: readonly string[] = [];
