// Memory of a machine whose guest never stops writing new code: it has to settle, however long that goes on.
import { type EngineName, type EngineOptions, followGuest, type Guest, residentMib } from './engines.ts';
import { guestInitrd } from './guests.ts';

/** What was seen, once a second from the first functions on. */
export interface Growth {
  /** Functions that the guest had written and run. */
  readonly functions: number[];
  /** Resident MiB. */
  readonly residentMib: number[];
}

/** Runs the guest for some seconds. @throws if it says nothing for a minute, or ends. */
export function growth(
  engine: EngineName,
  kernel: string,
  seconds: number,
  o: EngineOptions,
  seen: (functions: number, resident: number) => void = () => {},
): Promise<Growth> {
  const guest: Guest = {
    bits: 64,
    kernel,
    initrd: guestInitrd('grow', 64),
    cmdline: 'console=ttyS0 quiet panic=-1 cryptomgr.notests=1',
    memoryMib: 256,
  };
  const out: Growth = { functions: [], residentMib: [] };
  let rest = '';
  return followGuest(engine, guest, o, {
    limitMs: 60_000,
    read(text, child, again) {
      const lines = (rest + text).split('\n');
      rest = lines.pop() ?? '';
      for (const line of lines) {
        const functions = /^@G (\d+)/.exec(line)?.[1];
        if (functions === undefined) continue;
        again();
        const resident = residentMib(child.pid ?? 0);
        out.functions.push(Number(functions));
        out.residentMib.push(resident);
        seen(Number(functions), resident);
        if (out.functions.length > seconds) return out;
      }
      return null;
    },
  });
}
