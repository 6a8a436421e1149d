// One guest on Hyve's software CPU: argv[2] is a HyveRun as JSON. The guest's COM1 is stdout. When the console has said
// `until`, counters go to stderr as one line of JSON and the process ends. Node's own flags come from whoever starts it.
import { readFile } from 'node:fs/promises';
import { SoftCpu } from '@hyve/cpu';
import { createPc, type MachineSpec, machineSpec } from '@hyve/pc';

/** What {@link main} is to run. */
export interface HyveRun {
  readonly kernel: string;
  readonly initrd: string | null;
  readonly cmdline: string;
  readonly memoryMib: number;
  /** Of the translator; null for its default. */
  readonly threshold: number | null;
  /** The text that ends the run. */
  readonly until: string;
  /** Milliseconds the guest goes on after that. */
  readonly linger: number;
}

function spec(run: HyveRun): MachineSpec {
  return machineSpec({
    name: 'bench',
    memoryBytes: run.memoryMib * 2 ** 20,
    boot: { loader: 'kexec', kernel: run.kernel, initrd: run.initrd, cmdline: run.cmdline },
    lpc: [{ device: 'com1', backend: 'stdio' }],
    engine: 'soft',
  });
}

async function main(run: HyveRun): Promise<void> {
  const decoder = new TextDecoder();
  let seen = '';
  let ending = false;
  const pc = await createPc(spec(run), {
    openChar: async () => ({
      write(bytes) {
        process.stdout.write(bytes);
        seen = (seen + decoder.decode(bytes)).slice(-1024);
        if (!ending && seen.includes(run.until)) {
          ending = true;
          const end = (): void => {
            process.stderr.write(`${JSON.stringify({ counters: pc.vm.counters() })}\n`);
            process.exit(0);
          };
          if (run.linger === 0) end();
          else setTimeout(end, run.linger);
        }
        return true;
      },
      onData: null,
      onDrain: null,
      setFlow() {},
      close: async () => {},
    }),
    readFile: (path) => readFile(path),
    log: { on: false, debug() {}, info() {}, warn() {} },
    wallClock: { nowMs: () => Date.now(), offsetMinutes: () => 0 },
    engines: { soft: () => new SoftCpu(run.threshold === null ? {} : { threshold: run.threshold }) },
  });
  const why = await pc.run();
  process.stderr.write(`${JSON.stringify({ stopped: why })}\n`);
}

await main(JSON.parse(process.argv[2] ?? '{}') as HyveRun);
