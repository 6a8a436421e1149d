// Runs records on the host's processor: starts the runner with a file of records and reads the file it writes.
import { spawnSync } from 'node:child_process';
import { closeSync, existsSync, mkdtempSync, openSync, readFileSync, readSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Vendor } from './exclusions.ts';
import { REC_SIZE } from './layout.ts';
import { runnerImage } from './runner.ts';

/** Why the processor here cannot be asked, or '' when it can. */
export function whyNotNative(): string {
  if (process.platform !== 'linux') return `the runner is a Linux program and this is ${process.platform}`;
  if (process.arch !== 'x64') return `the processor here is ${process.arch}, not x86-64`;
  return '';
}

/** CPUID features of the host, by the names of the opcode table. */
export function hostFeatures(): ReadonlySet<string> {
  const text = readFileSync('/proc/cpuinfo', 'latin1');
  const flags = /^flags\s*:(.*)$/m.exec(text)?.[1] ?? '';
  const renamed: Readonly<Record<string, string>> = { pni: 'sse3', abm: 'lzcnt', sha_ni: 'sha', sep: 'sysenter' };
  return new Set(flags.split(' ').map((f) => renamed[f] ?? f));
}

/** Who made it. */
export function hostVendor(): Vendor {
  return /^vendor_id\s*: (AuthenticAMD|HygonGenuine)$/m.test(readFileSync('/proc/cpuinfo', 'latin1')) ? 'AMD' : 'Intel';
}

/** The host's processor. */
export class Native {
  private readonly folder: string;
  private readonly program: string;

  constructor() {
    const memory = '/dev/shm';
    this.folder = mkdtempSync(join(existsSync(memory) ? memory : tmpdir(), 'cpu-oracle-'));
    this.program = join(this.folder, 'runner');
    writeFileSync(this.program, runnerImage(hostFeatures().has('fsgsbase')), { mode: 0o755 });
  }

  /**
   * Runs `count` records.
   * @returns how many came back; fewer when a program took the runner down
   */
  run(input: Uint8Array, output: Uint8Array, count: number): number {
    const inPath = join(this.folder, 'in');
    const outPath = join(this.folder, 'out');
    writeFileSync(inPath, input.subarray(0, count * REC_SIZE));
    const from = openSync(inPath, 'r');
    const to = openSync(outPath, 'w+');
    try {
      spawnSync(this.program, [], { stdio: [from, to, 'inherit'], env: {} });
      let got = 0;
      while (got < count * REC_SIZE) {
        const n = readSync(to, output, got, count * REC_SIZE - got, got);
        if (n === 0) break;
        got += n;
      }
      return Math.floor(got / REC_SIZE);
    } finally {
      closeSync(from);
      closeSync(to);
    }
  }

  /** Removes its files. */
  close(): void {
    rmSync(this.folder, { recursive: true, force: true });
  }
}
