import type { BoardSupport } from '@hyve/pc';
import { type Invocation, parseArgs, type RunInvocation } from '../src/args.ts';
import { LPC_EMULATIONS, PCI_EMULATIONS } from '../src/devices.ts';

/** A board that can build everything the command line knows. */
export const EVERYTHING: BoardSupport = {
  pci: PCI_EMULATIONS.map((e) => e.name),
  lpc: LPC_EMULATIONS.map((e) => e.name),
  boot: ['kexec', 'multiboot', 'bootrom', 'userboot'],
  engines: ['soft', 'kvm'],
  features: ['gdb', 'bvm-debug-port', 'numa', 'restore', 'fwcfg-items', 'pinning', 'keyboard-layout'],
};

/** The same without KVM, whose presence depends on the machine. */
export const SOFT_ONLY: BoardSupport = { ...EVERYTHING, engines: ['soft'] };

/** Splits as a shell would: blanks, double and single quotes. */
export function words(line: string): string[] {
  const out: string[] = [];
  for (const m of line.matchAll(/(?:[^\s"']|"[^"]*"|'[^']*')+/gu)) out.push(m[0].replace(/["']/gu, ''));
  return out;
}

/** Parses a shell line without the program's name. */
export function parse(line: string, files: Record<string, string> = {}): Invocation {
  return parseArgs(words(line), {
    readText: (path) => {
      const text = files[path];
      if (text === undefined) throw Object.assign(new Error('nope'), { code: 'ENOENT' });
      return text;
    },
  });
}

/** Parses a line that must be a machine. */
export function parseRun(line: string, files: Record<string, string> = {}): RunInvocation {
  const i = parse(line, files);
  if (i.kind !== 'run') throw new Error(`${line}: is ${i.kind}`);
  return i;
}
