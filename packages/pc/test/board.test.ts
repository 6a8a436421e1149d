// The whole board with guests of a few hundred bytes: they print, and end the machine in every way there is.
import { HyveError } from '@hyve/core';
import { describe, expect, it } from 'vitest';
import * as api from '../src/index.ts';
import { boardSupport, createPc, type MachineSpec, type StopReason } from '../src/index.ts';
import { bzImage, code, code16, disk, elf64, host, machine, multiboot, rom, Screen, slot } from './kit.ts';

async function outcome(
  spec: MachineSpec,
  guest: Uint8Array,
): Promise<{ reason: StopReason; detail: string; text: string }> {
  const screen = new Screen();
  const pc = await createPc(spec, host({ guest }, screen));
  const reason = await pc.run();
  const { detail } = pc;
  await pc.close();
  expect(screen.closed).toBe(true);
  return { reason, detail, text: screen.text };
}

describe('a guest that prints over COM1 and powers off through ACPI', () => {
  const done = [...code.print('hello'), ...code.powerOff(), ...code.stop()];
  const expected = { reason: 'poweroff', detail: '', text: 'hello' };

  it('starts by Multiboot', async () => {
    expect(await outcome(machine(), multiboot(done))).toEqual(expected);
  });
  it('starts as a bzImage', async () => {
    const boot = { loader: 'kexec', kernel: 'guest', initrd: null, cmdline: 'quiet' } as const;
    expect(await outcome(machine({ boot }), bzImage(done))).toEqual(expected);
  });
  it('starts as an uncompressed ELF kernel', async () => {
    const boot = { loader: 'kexec', kernel: 'guest', initrd: null, cmdline: 'quiet' } as const;
    expect(await outcome(machine({ boot }), elf64(done))).toEqual(expected);
  });
  it('gives the text of its blocks as they are decoded, translated or not', async () => {
    for (const translatorThreshold of [0, 1]) {
      const boot = { loader: 'kexec', kernel: 'guest', initrd: null, cmdline: 'quiet' } as const;
      const lines: string[] = [];
      const screen = new Screen();
      const pc = await createPc(machine({ boot, translatorThreshold }), {
        ...host({ guest: elf64(done) }, screen),
        trace: (text) => lines.push(...text.split('\n')),
      });
      expect(pc.positions()).toEqual([0x100000n]);
      expect(await pc.run()).toBe('poweroff');
      await pc.close();
      expect(lines.slice(0, 3)).toEqual([
        'vcpu 0 64-bit 0000000000100000 physical 100000',
        '  0000000000100000  mov dx, 0x3f8',
        '  0000000000100004  mov al, 0x68',
      ]);
      expect(lines.filter((l) => l.includes('out dx, al')).length).toBe('hello'.length);
    }
  });
  it('starts from the reset vector of a boot ROM', async () => {
    const boot = { loader: 'bootrom', code: 'guest', vars: null } as const;
    const guest = rom([...code16.print('hello'), ...code16.powerOff(), 0xf4]);
    expect(await outcome(machine({ boot }), guest)).toEqual(expected);
  });
  it('runs in real time too', async () => {
    const clock = { rtc: 'utc', mode: 'real', startSeconds: null, instructionsPerSecond: 1e9 } as const;
    expect(await outcome(machine({ clock }), multiboot(done))).toEqual(expected);
  });
});

describe('the end of a machine', () => {
  const end = (c: readonly number[], o: Partial<MachineSpec> = {}) =>
    outcome(machine(o), multiboot([...code.print('x'), ...c, ...code.print('y'), ...code.stop()]));

  it.each([
    ['0xCF9: reset by a write of 6 (ICH9 §13.7.5)', [...code.out8(0xcf9, 2), ...code.out8(0xcf9, 6)], 'reset'],
    ['8042: pulse of output bit 0', code.out8(0x64, 0xfe), 'reset'],
    ['8042: output port with bit 0 clear', [...code.out8(0x64, 0xd1), ...code.out8(0x60, 0xde)], 'reset'],
    ['port 0x92: INIT_NOW', code.out8(0x92, 1), 'reset'],
    // push 0; push 0; lidt [esp]; int3
    ['an exception without an IDT', [0x6a, 0, 0x6a, 0, 0x0f, 0x01, 0x1c, 0x24, 0xcc], 'triple-fault'],
    // mov eax, 0xd0000000; jmp eax: fetches all ones, which is no instruction; no IDT either
    [
      'a jump to unmapped memory',
      [0x6a, 0, 0x6a, 0, 0x0f, 0x01, 0x1c, 0x24, 0xb8, 0, 0, 0, 0xd0, 0xff, 0xe0],
      'triple-fault',
    ],
    ['HLT with interrupts off', code.stop(), 'halt'],
  ] as const)('%s', async (_name, bytes, reason) => {
    expect(await end(bytes)).toEqual({ reason, detail: expect.any(String), text: 'x' });
  });

  it('-e: a port nobody claims', async () => {
    const r = await end(code.in32(0x1f0), { strictIo: true });
    expect([r.reason, r.text]).toEqual(['error', 'x']);
    expect(r.detail).toBe('unhandled 4-byte read of port 0x1f0 (-e)');
    expect((await end(code.in32(0x1f0))).reason).toBe('halt');
  });

  it('forceOff() and the power button', async () => {
    const screen = new Screen();
    const pc = await createPc(machine(), host({ guest: multiboot([0xeb, 0xfe]) }, screen));
    expect(pc.powerButton()).toBe(false); // no guest listens
    const running = pc.run();
    pc.forceOff();
    expect(await running).toBe('poweroff');
    await pc.close();

    // Enables the button's event and ACPI mode, waits for the status bit, then goes.
    const guest = multiboot([
      ...code.out8(0xb2, 0xa0),
      ...code.out16(0x402, 1 << 8),
      ...code.print('r'),
      ...[0x66, 0xba, 0x01, 0x04, 0xec, 0xa8, 0x01, 0x74, 0xf7], // in al, 0x401; test al, 1; jz back
      ...code.powerOff(),
    ]);
    const screen2 = new Screen();
    const pc2 = await createPc(machine(), host({ guest }, screen2));
    const running2 = pc2.run();
    while (screen2.text !== 'r') await new Promise((resolve) => setTimeout(resolve, 1));
    expect(pc2.powerButton()).toBe(true);
    expect(await running2).toBe('poweroff');
    await pc2.close();
  });
});

describe('what the guest finds', () => {
  it('the host bridge by mechanism 1, and nothing where nothing is', async () => {
    const read = (bdf: number): number[] => [
      ...code.out32(0xcf8, (0x80000000 | (bdf << 8)) >>> 0),
      ...code.in32(0xcfc),
    ];
    const guest = multiboot([...read(0), ...code.printEax(), ...read(5 << 3), ...code.printEax(), ...code.powerOff()]);
    const screen = new Screen();
    await (await createPc(machine(), host({ guest }, screen))).run();
    expect(screen.bytes.slice(0, 4)).toEqual([0x75, 0x12, 0x75, 0x12]); // NetApp's id 1275:1275, as bhyve's
    expect(screen.bytes.slice(4)).toEqual([255, 255, 255, 255]);
  });

  it('an entropy source by the modern interface when asked', async () => {
    const id = [...code.out32(0xcf8, 0x80001000), ...code.in32(0xcfc), ...code.printEax()];
    const guest = multiboot([...id, ...code.powerOff()]);
    const screen = new Screen();
    const rnd = { ...slot(2, 'virtio-rnd'), options: { transport: 'modern', packed: 'on' } };
    const spec = machine({ pci: [slot(0, 'hostbridge'), rnd, slot(31, 'lpc')] });
    await (await createPc(spec, host({ guest }, screen))).run();
    expect(screen.bytes).toEqual([0xf4, 0x1a, 0x44, 0x10]); // virtio 1.2 §4.1.2: 0x1040 and the device type
  });

  it('the RTC at the time asked for', async () => {
    const cmos = (n: number): number[] => [...code.out8(0x70, n), ...code.in8(0x71), 0x66, 0xba, 0xf8, 3, 0xee];
    const guest = multiboot([...cmos(9), ...cmos(8), ...cmos(7), ...cmos(4), ...code.powerOff()]);
    const screen = new Screen();
    await (await createPc(machine(), host({ guest }, screen))).run();
    expect(screen.bytes).toEqual([0x00, 0x01, 0x01, 0x00]); // 2000-01-01 00h, BCD
  });
});

describe('combinations', () => {
  const guest = multiboot([...code.print('ok'), ...code.powerOff(), ...code.stop()]);
  const devices = boardSupport.pci.filter((d) => d !== 'hostbridge' && d !== 'amd_hostbridge' && d !== 'lpc');
  const confOf = (d: string): string => (d === 'ahci' ? 'hd:x,cd:y' : 'x');
  const noMpTable = { ...machine().tables, mptable: false }; // it describes bus 0 only
  const specs: [string, Partial<MachineSpec>][] = [
    ['four processors', { cpus: { count: 4, sockets: 1, cores: 4, threads: 1 } }],
    ['two sockets of two threads', { cpus: { count: 4, sockets: 2, cores: 1, threads: 2 } }],
    ['no tables', { tables: { acpi: false, acpiInMemory: false, mptable: false, smbios: false, smbiosStrings: {} } }],
    ['x2APIC', { x2apic: true }],
    ['AMD host bridge', { pci: [slot(0, 'amd_hostbridge'), slot(31, 'lpc')] }],
    ['all serial ports', { lpc: ([1, 2, 3, 4] as const).map((n) => ({ device: `com${n}`, backend: 'console' })) }],
    [
      'the test device',
      {
        lpc: [
          { device: 'com1', backend: 'console' },
          { device: 'pc-testdev', settings: {} },
        ],
      },
    ],
    ['QEMU fw_cfg', { fwcfg: { kind: 'qemu', items: [{ name: 'opt/x', source: 'string', data: 'y' }] } }],
    ['MSI for virtio', { virtioMsi: true, pci: [slot(0, 'hostbridge'), slot(2, 'virtio-rnd'), slot(31, 'lpc')] }],
    [
      'every device at once',
      { pci: [slot(0, 'hostbridge'), ...devices.map((d, i) => slot(i + 1, d, confOf(d))), slot(31, 'lpc')] },
    ],
    [
      'other buses',
      {
        tables: noMpTable,
        pci: [
          slot(0, 'hostbridge'),
          { ...slot(3, 'dummy'), bus: 6 },
          { ...slot(0, 'virtio-rnd'), bus: 255 },
          slot(31, 'lpc'),
        ],
      },
    ],
    ['64 processors', { cpus: { count: 64, sockets: 1, cores: 64, threads: 1 } }],
    ['memory on both sides of 4 GiB', { memoryBytes: 3 * 2 ** 30 + 2 ** 24 }],
    [
      'settings of SMBIOS',
      {
        uuid: '12345678-9abc-def0-1234-56789abcdef0',
        tables: {
          acpi: true,
          acpiInMemory: true,
          mptable: true,
          smbios: true,
          smbiosStrings: { 'system.serial_number': 'S1' },
        },
      },
    ],
    ...devices.map((d): [string, Partial<MachineSpec>] => [
      d,
      { pci: [slot(0, 'hostbridge'), slot(4, d, confOf(d)), slot(31, 'lpc')] },
    ]),
  ];
  it.each(specs)('builds and runs: %s', async (_name, o) => {
    expect(await outcome(machine(o), guest)).toEqual({ reason: 'poweroff', detail: '', text: 'ok' });
  });
});

describe('what cannot be built is refused by name', () => {
  const guest = multiboot(code.stop());
  const refusal = async (o: Partial<MachineSpec>, files: Record<string, Uint8Array> = { guest }): Promise<string> => {
    try {
      await createPc(machine(o), host(files));
    } catch (e) {
      const h = e as HyveError;
      return `${h.code} ${h.message}`;
    }
    return 'built';
  };
  it.each([
    [{ pci: [slot(0, 'hostbridge')] }, /^PC_NO_LPC -l com1 needs an lpc device/u],
    [
      { pci: [slot(0, 'hostbridge'), slot(2, 'xhci'), slot(31, 'lpc')] },
      /^PC_UNSUPPORTED PCI device xhci \(-s 0:2:0\)/u,
    ],
    [
      { pci: [slot(0, 'hostbridge'), { ...slot(2, 'virtio-rnd'), options: { packed: 'maybe' } }, slot(31, 'lpc')] },
      /^PC_OPTION packed=maybe: on or off expected/u,
    ],
    [
      { pci: [slot(0, 'hostbridge'), { ...slot(2, 'virtio-rnd'), options: { rate: '9' } }, slot(31, 'lpc')] },
      /^PC_OPTION virtio-rnd: no option 'rate'/u,
    ],
    [{ lpc: [{ device: 'tpm', settings: {} }] }, /^PC_UNSUPPORTED LPC device tpm/u],
    [{ engine: 'kvm' }, /^ENGINE_UNAVAILABLE .*virtual time/u],
    [{ engine: 'kvm', clock: { ...machine().clock, mode: 'real' } }, /^ENGINE_UNAVAILABLE .*kvm/u],
    [{ boot: { loader: 'userboot', library: 'l', volume: 'v', env: null } }, /^PC_UNSUPPORTED the userboot loader/u],
    [{ boot: { loader: 'bootrom', code: 'guest', vars: 'v' } }, /^PC_UNSUPPORTED .*variable store/u],
    [{ boot: { loader: 'multiboot', kernel: 'gone', modules: [], cmdline: '' } }, /^NO_FILE gone/u],
    [{ boot: { loader: 'kexec', kernel: 'guest', initrd: null, cmdline: null } }, /^LINUX/u],
  ] as [Partial<MachineSpec>, RegExp][])('%o', async (o, message) => {
    expect(await refusal(o)).toMatch(message);
  });
  it('and what had been opened till then is closed: disks, terminals', async () => {
    const closed: string[] = [];
    const screen = new Screen();
    const spec = machine({
      clock: { ...machine().clock, mode: 'real' },
      pci: [
        slot(0, 'hostbridge'),
        slot(3, 'virtio-blk', 'first'),
        slot(4, 'ahci-hd', 'second'),
        slot(5, 'nvme', 'third'),
        slot(31, 'lpc'),
      ],
    });
    const refused = createPc(
      spec,
      host({ guest }, screen, {
        threads: {
          cores: 2,
          x86Order: true,
          start: () => {
            throw new Error('no vCPU needs a thread here');
          },
          translator: () => {
            throw new Error('nothing is hot yet');
          },
        },
        openDisk: async ({ conf }) => {
          if (conf === 'third') throw new HyveError('BLOCK_FILE', 'third: gone');
          const backend = { ...disk(1 << 20), close: async () => void closed.push(conf) };
          return { backend, extras: new Map() };
        },
      }),
    );
    await expect(refused).rejects.toThrow('third: gone');
    expect(closed).toEqual(['second', 'first']);
    const terminals = await createPc(machine({ boot: { ...spec.boot, kernel: 'none' } as MachineSpec['boot'] }), {
      ...host({ none: new Uint8Array(100) }, screen),
    }).catch((e: HyveError) => e.code);
    expect([terminals, screen.closed]).toEqual([expect.stringMatching(/^MULTIBOOT/u), true]);
  });
  it('a kernel that is cut short, and one that is none', async () => {
    const boot = { loader: 'kexec', kernel: 'guest', initrd: null, cmdline: null } as const;
    for (const bytes of [new Uint8Array(0), new Uint8Array(100), bzImage([]).subarray(0, 0x210), new Uint8Array(4096)])
      expect(await refusal({ boot }, { guest: bytes })).toMatch(/^LINUX\w+ guest: /u);
  });
});

describe('API', () => {
  it('exports', () => {
    expect(Object.keys(api).sort()).toEqual([
      'Alarm',
      'MAX_VCPUS',
      'MIN_MEMORY_BYTES',
      'Pc',
      'VIRTUAL_INSTRUCTIONS_PER_SECOND',
      'VIRTUAL_START_SECONDS',
      'boardSupport',
      'createPc',
      'hasTranslatorThread',
      'hostScheduler',
      'machineSpec',
      'pciSlot',
    ]);
  });
});
