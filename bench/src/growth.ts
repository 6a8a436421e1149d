// Memory of a machine whose guest never stops writing new code: it has to settle, however long that goes on.
import { type EngineName, type EngineOptions, type Guest, residentMib, startGuest } from './engines.ts';
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
  return new Promise((resolve, reject) => {
    const child = startGuest(engine, guest, o);
    const out: Growth = { functions: [], residentMib: [] };
    let rest = '';
    let timer = setTimeout(() => end(new Error('the guest said nothing for a minute')), 60_000);
    const end = (e: Error | null): void => {
      clearTimeout(timer);
      child.removeAllListeners('exit');
      child.kill('SIGKILL');
      if (e === null) resolve(out);
      else reject(e);
    };
    child.on('exit', (code, signal) => end(new Error(`${engine} ended: ${signal ?? code}`)));
    child.stdout?.on('data', (d: Buffer) => {
      const lines = (rest + d.toString()).split('\n');
      rest = lines.pop() ?? '';
      for (const line of lines) {
        const functions = /^@G (\d+)/.exec(line)?.[1];
        if (functions === undefined) continue;
        clearTimeout(timer);
        timer = setTimeout(() => end(new Error('the guest said nothing for a minute')), 60_000);
        const resident = residentMib(child.pid ?? 0);
        out.functions.push(Number(functions));
        out.residentMib.push(resident);
        seen(Number(functions), resident);
        if (out.functions.length > seconds) {
          end(null);
          return;
        }
      }
    });
  });
}
