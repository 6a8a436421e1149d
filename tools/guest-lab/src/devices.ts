// What Linux and Debian's tools see of every device, by every kind of interrupt.
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { PulledImage } from '../../../apps/xhyve-cli/src/images/index.ts';
import type { Guest } from '../../../apps/xhyve-cli/src/testing/guest.ts';
import { makeDisk } from './disks.ts';
import { must, powerOff, startLab, trouble } from './machine.ts';

/** How devices interrupt. */
export const INTERRUPTS = ['msix', 'msi', 'nomsi'] as const;

/** One of {@link INTERRUPTS}: as devices come, virtio with MSI alone (`-W`), or none by the kernel's wish (`pci=nomsi`). */
export type Interrupts = (typeof INTERRUPTS)[number];

const TRANSPORTS = ['legacy', 'transitional', 'modern', 'packed'] as const;

/** Options that make a virtio device one of {@link TRANSPORTS}. */
function transport(t: (typeof TRANSPORTS)[number]): string {
  return t === 'packed' ? 'transport=modern,packed=on' : `transport=${t}`;
}

/**
 * Boots with every device, reads a bit of each, and checks what the guest's tools say.
 * @param dir an empty directory
 * @param say told of everything that was checked
 * @returns what is wrong, a line each
 */
export async function checkDevices(
  image: PulledImage,
  dir: string,
  interrupts: Interrupts,
  say: (line: string) => void,
): Promise<string[]> {
  const wrong: string[] = [];
  const check = (what: string, good: boolean, detail = ''): void => {
    if (good) say(`${interrupts}: ${what}`);
    else wrong.push(`${interrupts}: not ${what}${detail === '' ? '' : `:\n${detail}`}`);
  };
  const size = 64 * 2 ** 20;
  const disk = async (n: number): Promise<string> => (await makeDisk('raw', dir, `d${n}`, size)).conf;
  writeFileSync(join(dir, 'cd.iso'), new Uint8Array(1 << 20).fill(0x43));
  const slots = [
    `1,ahci,hd:${await disk(1)},cd:${join(dir, 'cd.iso')},ser=LABCD`,
    `2,ahci-hd,${await disk(2)},ser=LABHD,rev=9.9,model=LAB DISK,nmrr=7200`,
    `3,nvme,${await disk(3)},ser=LABNVME`,
    `4,uart`,
    `5,dummy`,
    `6,amd_hostbridge`,
  ];
  // Disks that must not be written, in slots of their own kind.
  slots.push(`14,virtio-blk,${await disk(7)},ro`, `15,ahci-hd,${await disk(8)},ro`, `16,nvme,${await disk(9)},ro`);
  for (const [n, t] of TRANSPORTS.entries()) {
    slots.push(`${10 + n},virtio-blk,${await disk(10 + n)},ser=LAB${n},${transport(t)}`);
    slots.push(`${20 + n},virtio-rnd,${transport(t)}`);
  }
  const g = await startLab(image, {
    slots,
    flags: interrupts === 'msi' ? ['-W'] : [],
    append: interrupts === 'nomsi' ? 'pci=nomsi' : '',
  });
  try {
    const lspci = await must(g, 'lspci -vv 2>/dev/null');
    const functions = lspci.split(/\n\n/u).map((f) => f.trim());
    check('every function listed', functions.length === slots.length + 2, lspci);
    for (const f of functions) {
      const name = f.split('\n', 1)[0] ?? '';
      const bad =
        /Unknown header|!!!|<unassigned>|\[disabled\]|\[virtual\]|MAbort\+ |<access denied>|Region \d: .*<ignored>/u;
      check(`clean: ${name}`, !bad.test(f), f);
      if (/Virtio|SATA|Non-Volatile/u.test(name)) {
        // Linux's virtio driver knows MSI-X and interrupt lines only; with -W it takes lines.
        const withoutX = interrupts === 'msi' && /Virtio/u.test(name);
        const kind = /SATA/u.test(name) || withoutX ? 'MSI:' : 'MSI-X:';
        const enabled = interrupts === 'nomsi' || withoutX ? '-' : '+';
        const pattern = new RegExp(`${kind} Enable[${enabled}]`, 'u');
        check(`interrupting as asked, ${kind.slice(0, -1)}${enabled}: ${name}`, pattern.test(f), f);
      }
    }
    const table = await must(g, 'cat /proc/interrupts');
    for (const driver of ['virtio', 'ahci', 'nvme']) {
      const rows = table.split('\n').filter((r) => r.includes(driver));
      const lines = interrupts === 'nomsi' || (interrupts === 'msi' && driver === 'virtio');
      const way = lines ? 'IO-APIC' : 'PCI-MSI';
      check(`${driver} on ${way}`, rows.length > 0 && rows.every((r) => r.includes(way)), rows.join('\n'));
      const counts = rows.map((r) => (r.split(':')[1] ?? '').trim().split(/\s+/u).slice(0, 2).map(Number));
      check(
        `${driver} interrupts`,
        counts.some(([a = 0, b = 0]) => a + b > 0),
        rows.join('\n'),
      );
    }
    await checkDisks(g, check);
    await checkEntropy(g, check);
    const fuss = await trouble(g);
    check('a kernel without complaints', fuss === '', fuss);
    await checkReadOnly(g, check);
    await powerOff(g);
  } finally {
    await g.end();
  }
  return wrong;
}

type Check = (what: string, good: boolean, detail?: string) => void;

/** The guest's name for the disk of a slot; drivers probe in no certain order. */
async function nodeAt(g: Guest, slot: number): Promise<string> {
  const place = slot.toString(16).padStart(2, '0');
  return must(g, `ls -l /sys/block | grep '0000:00:${place}[.]0/.*/[vsn][dv]' | sed 's#.*/##'`);
}

/** Disks that the host opened for reading only. */
async function checkReadOnly(g: Guest, check: Check): Promise<void> {
  for (const slot of [14, 15, 16]) {
    const node = await nodeAt(g, slot);
    const out = await g.run(
      `cat /sys/block/${node}/ro; dd if=/dev/zero of=/dev/${node} bs=4096 count=1 conv=fsync; echo "[$?]"`,
    );
    // ATA has no way to say so.
    const said = node.startsWith('sd') ? '0' : '1';
    check(`${node} cannot be written, ro=${said}`, out.startsWith(`${said}\n`) && out.endsWith('[1]'), out);
  }
}

async function checkDisks(g: Guest, check: Check): Promise<void> {
  const [sda, sdb, nvme0n1] = [await nodeAt(g, 1), await nodeAt(g, 2), await nodeAt(g, 3)];
  const nvme0 = nvme0n1.replace(/n1$/u, '');
  for (const node of ['vda', 'vdb', 'vdc', 'vdd', sda, sdb, nvme0n1]) {
    const out = await g.run(`lab-verify-short /dev/${node}`, 120);
    check(`${node} keeps data`, out === `/dev/${node}: kept`, out);
  }
  for (const [n, node] of ['vda', 'vdb', 'vdc', 'vdd'].entries())
    check(`serial of ${node}`, (await must(g, `cat /sys/block/${node}/serial`)) === `LAB${n}`);
  const smart = await must(g, `smartctl -a /dev/${sdb}`);
  check(
    "what smartctl says of a drive: given names, bhyve's form",
    /Device Model: +LAB DISK\n/u.test(smart) &&
      /Serial Number: +LABHD\n/u.test(smart) &&
      /Firmware Version: +9\.9\n/u.test(smart) &&
      /Rotation Rate: +7200 rpm/u.test(smart) &&
      /SATA Version is: +SATA 3\.0, 6\.0 Gb\/s \(current: 6\.0 Gb\/s\)/u.test(smart) &&
      /self-assessment test result: PASSED/u.test(smart),
    smart,
  );
  const ata = await must(g, `hdparm -I /dev/${sda}`);
  check(
    "what hdparm says of a drive: bhyve's names and features",
    /Model Number: +BHYVE SATA DISK/u.test(ata) &&
      /Serial Number: +BHYVE-[0-9A-F]{4}-[0-9A-F]{4}-[0-9A-F]{4}/u.test(ata) &&
      /Native Command Queueing/u.test(ata) &&
      /Data Set Management TRIM/u.test(ata) &&
      /\*udma6/u.test(ata) &&
      /Checksum: correct/u.test(ata),
    ata,
  );
  const nvme = await must(g, 'nvme list');
  check('what nvme list says', /\/dev\/nvme\dn1 .*LABNVME +bhyve-NVMe +1 +67\.11 +MB/u.test(nvme), nvme);
  const id = await must(g, `nvme id-ctrl /dev/${nvme0}`);
  check(
    'what nvme id-ctrl says',
    /vid +: 0xfb5d\n/u.test(id) && /ver +: 0x10400/u.test(id) && /nn +: 1\n/u.test(id),
    id,
  );
  const health = await must(g, `smartctl -H /dev/${nvme0}`);
  check('a healthy NVMe drive', /test result: PASSED/u.test(health), health);
  const cd = await must(g, 'sg_inq /dev/sr0');
  check('what INQUIRY says of the CD drive', /BHYVE/u.test(cd) && /DVD-ROM/u.test(cd), cd);
  const disc = 'head -c 1048576 /dev/sr0 2>/dev/null | tr -dc C | wc -c';
  check('a disc that can be read', (await must(g, disc)) === '1048576');
  await must(g, 'echo 0 >/proc/sys/dev/cdrom/autoclose');
  await must(g, '/usr/bin/eject /dev/sr0');
  check('an open tray without a disc', (await must(g, disc)) === '0');
  await must(g, '/usr/bin/eject -t /dev/sr0');
  check('the disc again when the tray is closed', (await must(g, disc)) === '1048576');
}

async function checkEntropy(g: Guest, check: Check): Promise<void> {
  const names = (await must(g, 'cat /sys/class/misc/hw_random/rng_available')).split(' ');
  check('four entropy sources', names.filter((n) => n.startsWith('virtio_rng')).length === 4, names.join(' '));
  for (const n of names.filter((x) => x.startsWith('virtio_rng'))) {
    await must(g, `echo ${n} >/sys/class/misc/hw_random/rng_current`);
    const distinct = Number(
      await must(g, 'dd if=/dev/hwrng bs=512 count=8 2>/dev/null | od -An -v -tx2 -w2 | sort -u | wc -l'),
    );
    check(`random bytes from ${n}`, distinct > 1900, `${distinct} distinct of 2048`);
  }
}
