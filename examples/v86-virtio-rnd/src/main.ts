// Linux on v86 with Hyve's virtio devices: boots the guest, attaches the devices to v86's PCI bus, gives its console.
import { fileURLToPath } from 'node:url';
import type { PciDevice } from '@hyve/core';
import { V86 } from 'v86';
import type { GuestFiles } from './guest-files.ts';
import { initrd } from './initrd.ts';
import { attachToV86, type V86Cpu, type V86Place } from './v86-pci.ts';

/** One device and where it goes. */
export interface Placed extends V86Place {
  /** Any PCI device that core's interfaces describe. */
  readonly device: PciDevice;
}

function buffer(bytes: Uint8Array): { buffer: ArrayBuffer } {
  return { buffer: bytes.slice().buffer as ArrayBuffer };
}

/** Boots the guest, runs `script` in it, and resolves with the lines of its serial console. */
export function runGuest(
  files: GuestFiles,
  devices: readonly Placed[],
  script: string,
  timeoutMs = 300_000,
): Promise<string[]> {
  const emulator = new V86({
    wasm_path: fileURLToPath(new URL('v86.wasm', import.meta.resolve('v86'))),
    memory_size: 128 << 20,
    bios: buffer(files.bios),
    vga_bios: buffer(files.vgaBios),
    bzimage: buffer(files.kernel),
    initrd: buffer(initrd(files, script)),
    cmdline: 'console=ttyS0 tsc=reliable mitigations=off panic=-1 quiet',
    disable_speaker: true,
    autostart: false,
  });
  return new Promise((resolve, reject) => {
    const lines: string[] = [];
    let line = '';
    const end = (error: Error | null): void => {
      clearTimeout(timer);
      void emulator.destroy();
      if (error === null) resolve(lines);
      else reject(error);
    };
    const timer = setTimeout(
      () => end(new Error(`guest not done in time:\n${lines.slice(-20).join('\n')}`)),
      timeoutMs,
    );
    emulator.add_listener('serial0-output-byte', (byte: number) => {
      if (byte === 13) return;
      if (byte !== 10) {
        line += String.fromCharCode(byte);
        return;
      }
      lines.push(line);
      if (line === 'GUEST-DONE') end(null);
      line = '';
    });
    emulator.add_listener('emulator-loaded', () => {
      const cpu = (emulator as unknown as { v86: { cpu: V86Cpu } }).v86.cpu;
      for (const d of devices) attachToV86(cpu, d.device, d);
      void emulator.run();
    });
  });
}
