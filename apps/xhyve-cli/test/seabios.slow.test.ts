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

  // Its I/O BARs are what this is about: a transitional virtio device has one, the serial port card nothing else.
  it('places I/O BARs and boots from a transitional virtio disk', { timeout: 160_000 }, async (ctx) => {
    if (!existsSync(join(FOLDER, 'bios.bin'))) return ctx.skip('no bios.bin: install the package seabios');
    const disk = join(folder, 'boot.img');
    const image = new Uint8Array(1 << 20);
    // mov si, 0x7c20; mov dx, 0x3f8; back: cs lodsb; test al, al; jz end; out dx, al; jmp back; end: cli; hlt
    image.set([0xbe, 0x20, 0x7c, 0xba, 0xf8, 0x03, 0x2e, 0xac, 0x84, 0xc0, 0x74, 0x03, 0xee, 0xeb, 0xf7, 0xfa, 0xf4]);
    image.set(new TextEncoder().encode('sector zero ran\r\n'), 0x20);
    image.set([0x55, 0xaa], 510);
    writeFileSync(disk, image);
    const text = await boot(
      'bios.bin',
      `--engine soft -s 3,uart -s 4,virtio-blk,${disk}`,
      /sector zero ran|No bootable/,
    );
    expect(text).toContain('sector zero ran');
  });
});
