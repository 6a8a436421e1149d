// SeaBIOS, a PC BIOS that was made for another machine: to the end of its boot attempts, on every engine there is. It reads
// where to print from fw_cfg, then uses ports, MMIO, PIC, PIT, RTC, PCI, fw_cfg and its own tables below 1 MiB.
import { spawn } from 'node:child_process';
import { existsSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { KvmHypervisor } from '@hyve/hv-native';
import { afterAll, describe, expect, it } from 'vitest';

const FOLDER = '/usr/share/seabios';
const folder = mkdtempSync(join(tmpdir(), 'hyve-seabios-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

/** Console text until `wanted` or the time is up; the process is gone afterwards. */
function boot(rom: string, words: string, wanted: RegExp): Promise<string> {
  const port = join(folder, 'sercon');
  writeFileSync(port, Uint8Array.of(0xf8, 0x03, 0, 0, 0, 0, 0, 0)); // COM1, as SeaBIOS expects it
  const line = `${words} -m 64M -o lpc.fwcfg=qemu -f etc/sercon-port,file=${port} -s 0,hostbridge -s 31,lpc -l com1,stdio -l bootrom,${FOLDER}/${rom}`;
  const bin = join(import.meta.dirname, '../bin/xhyve.js');
  const child = spawn(process.execPath, [bin, ...line.split(' ')], { stdio: ['ignore', 'pipe', 'pipe'] });
  return new Promise((resolve) => {
    let text = '';
    const timer = setTimeout(() => child.kill('SIGKILL'), 150_000);
    const take = (b: Buffer): void => {
      text += b.toString('latin1');
      if (wanted.test(text)) child.kill('SIGKILL');
    };
    child.stdout.on('data', take);
    child.stderr.on('data', take);
    child.on('close', () => {
      clearTimeout(timer);
      resolve(text);
    });
  });
}

function kvmFault(): string | null {
  try {
    new KvmHypervisor().close();
    return null;
  } catch (e) {
    return (e as Error).message;
  }
}

describe('SeaBIOS', () => {
  const runs: readonly (readonly [name: string, rom: string, words: string])[] = [
    ['on the software CPU', 'bios.bin', '--engine soft'],
    ['of 256 KiB on the software CPU', 'bios-256k.bin', '--engine soft'],
    ['on KVM, with the local APICs of the board', 'bios.bin', '--engine kvm -o kvm.irqchip=none'],
    ['on KVM, with the local APICs of the kernel and a thread', 'bios.bin', '--engine kvm -o kvm.irqchip=split'],
    ['on KVM, with all interrupt controllers of the kernel', 'bios.bin', '--engine kvm -o kvm.irqchip=all'],
  ];
  for (const [name, rom, words] of runs)
    it(`finds nothing to boot: ${name}`, { timeout: 160_000 }, async (ctx) => {
      if (!existsSync(join(FOLDER, rom))) return ctx.skip(`no ${rom}: install the package seabios`);
      const fault = words.includes('kvm') ? kvmFault() : null;
      if (fault !== null) return ctx.skip(fault);
      const text = await boot(rom, words, /No bootable device\./);
      expect(text).toContain('SeaBIOS (version');
      expect(text).toContain('Booting from Hard Disk...');
      expect(text).toContain('No bootable device.');
    });
});
