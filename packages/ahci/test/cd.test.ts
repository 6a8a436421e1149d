import { MemoryDisk, settle } from '@hyve/testkit';
import { describe, expect, it } from 'vitest';
import { DATA, Guest } from './kit.ts';

const OK = 0x50;

function make(size: number | null = 2048 * 100): { g: Guest; medium: MemoryDisk | null; trays: boolean[] } {
  const medium = size === null ? null : new MemoryDisk({ size, readOnly: true });
  const trays: boolean[] = [];
  const g = new Guest({ ports: [{ kind: 'cd', backend: medium, serial: 'CD1', onTray: (open) => trays.push(open) }] });
  g.start();
  return { g, medium, trays };
}

/** Runs a packet that must fail, fetches the sense data: key, ASC << 8 | ASCQ. */
async function sense(g: Guest, packet: readonly number[]): Promise<[number, number]> {
  const tf = await g.packet(0, packet, 64);
  expect(tf & 1).toBe(1);
  g.recover();
  expect(await g.packet(0, [0x03, 0, 0, 0, 18], 18)).toBe(OK);
  const s = g.bytes(DATA, 18);
  expect(s[0]).toBe(0x70);
  expect(tf >> 12).toBe(s[2]);
  return [s[2] as number, ((s[12] as number) << 8) | (s[13] as number)];
}

describe('identification', () => {
  it('IDENTIFY DEVICE aborts with the signature, IDENTIFY PACKET DEVICE answers', async () => {
    const { g } = make();
    expect(await g.run(0, { command: 0xec })).toBe(0x0441);
    expect(g.fis(0, 0x40).slice(4, 7)).toEqual([0x01, 0x14, 0xeb]);
    g.recover();
    expect(await g.run(0, { command: 0xa1, pieces: [[DATA, 512]] })).toBe(OK);
    expect([g.word(0), g.ataText(10, 10), g.ataText(27, 20)]).toEqual([0x85c0, 'CD1', 'BHYVE SATA DVD ROM']);
  });
  it('INQUIRY', async () => {
    const { g } = make();
    expect(await g.packet(0, [0x12, 0, 0, 0, 36], 36)).toBe(OK);
    expect(g.bytes(DATA, 5)).toEqual([5, 0x80, 0, 0x21, 31]);
    expect(g.text(DATA + 8, 24)).toBe('BHYVE   BHYVE DVD-ROM   ');
    expect(g.fis(0, 0x40)[12]).toBe(3);
    // Vital product data: the list and the serial number.
    await g.packet(0, [0x12, 1, 0, 0, 36], 36);
    expect(g.bytes(DATA, 6)).toEqual([5, 0, 0, 2, 0, 0x80]);
    await g.packet(0, [0x12, 1, 0x80, 0, 36], 36);
    expect(g.text(DATA + 4, 3)).toBe('CD1');
    expect(await sense(g, [0x12, 1, 0x83, 0, 36])).toEqual([5, 0x2400]);
  });
  it('DEVICE RESET and diagnostics put the signature back', async () => {
    const { g } = make();
    for (const command of [0x08, 0x90]) {
      expect(await g.run(0, { command })).toBe(0x0100);
      expect(g.fis(0, 0x40).slice(4, 7)).toEqual([0x01, 0x14, 0xeb]);
    }
  });
  it('PIO transfers have a PIO Setup FIS', async () => {
    const { g } = make();
    await g.packet(0, [0x12, 0, 0, 0, 36], 36, false);
    expect(g.fis(0, 0x20)[0]).toBe(0x5f);
    expect(g.pr(0, 0x10) & 2).toBe(2);
    expect(g.rig.ram.read32(g.area(0) + 4)).toBe(36);
  });
});

describe('reading', () => {
  it('READ CAPACITY, READ (10), READ (12) and READ CD', async () => {
    const { g, medium } = make();
    expect(await g.packet(0, [0x25], 8)).toBe(OK);
    expect(g.bytes(DATA, 8)).toEqual([0, 0, 0, 99, 0, 0, 8, 0]);
    for (const p of [
      [0x28, 0, 0, 0, 0, 7, 0, 0, 2],
      [0xa8, 0, 0, 0, 0, 7, 0, 0, 0, 2],
      [0xbe, 0, 0, 0, 0, 7, 0, 0, 2, 0x10, 0],
    ]) {
      g.rig.ram.fill(DATA, 8192, 0);
      expect(await g.packet(0, p, 4096)).toBe(OK);
      expect(g.bytes(DATA, 4096)).toEqual([...(medium as MemoryDisk).bytes.subarray(7 * 2048, 9 * 2048)]);
    }
    expect(await sense(g, [0x28, 0, 0, 0, 0, 99, 0, 0, 2])).toEqual([5, 0x2100]);
    expect(await g.packet(0, [0x28, 0, 0, 0, 0, 99, 0, 0, 0], 0)).toBe(OK);
  });
  it('says medium error', async () => {
    const { g, medium } = make();
    (medium as MemoryDisk).status = 'io-error';
    const tf = await g.packet(0, [0x28, 0, 0, 0, 0, 1, 0, 0, 1], 2048);
    expect(tf).toBe(0x3041);
    g.recover();
    await g.packet(0, [0x03, 0, 0, 0, 18], 18);
    expect([g.bytes(DATA + 2, 1), g.bytes(DATA + 12, 2)]).toEqual([[3], [0x11, 0]]);
  });
  it('READ TOC in formats 0, 1 and 2, LBA and MSF', async () => {
    const { g } = make();
    await g.packet(0, [0x43, 0, 0, 0, 0, 0, 0, 0, 20], 20);
    expect(g.bytes(DATA, 20)).toEqual([0, 18, 1, 1, 0, 0x14, 1, 0, 0, 0, 0, 0, 0, 0x14, 0xaa, 0, 0, 0, 0, 100]);
    await g.packet(0, [0x43, 2, 0, 0, 0, 0, 0xaa, 0, 20], 20);
    expect(g.bytes(DATA, 12)).toEqual([0, 10, 1, 1, 0, 0x14, 0xaa, 0, 0, 0, 3, 25]);
    await g.packet(0, [0x43, 0, 1, 0, 0, 0, 0, 0, 20], 20);
    expect(g.bytes(DATA, 12)).toEqual([0, 10, 1, 1, 0, 0x14, 1, 0, 0, 0, 0, 0]);
    await g.packet(0, [0x43, 0, 2, 0, 0, 0, 0, 0, 48], 48);
    expect(g.bytes(DATA, 2)).toEqual([0, 46]);
    expect([7, 18, 29, 40].map((o) => g.bytes(DATA + o, 1)[0])).toEqual([0xa0, 0xa1, 0xa2, 1]);
    // The old place of the format, and one that does not exist.
    await g.packet(0, [0x43, 0, 0, 0, 0, 0, 0, 0, 20, 0x40], 20);
    expect(g.bytes(DATA, 2)).toEqual([0, 10]);
    expect(await sense(g, [0x43, 0, 5, 0, 0, 0, 0, 0, 20])).toEqual([5, 0x2400]);
    expect(await sense(g, [0x43, 0, 0, 0, 0, 0, 2, 0, 20])).toEqual([5, 0x2400]);
  });
});

describe('what the drive says of itself', () => {
  it('MODE SENSE (10): capabilities, all pages, refusals', async () => {
    const { g } = make();
    await g.packet(0, [0x5a, 0, 0x2a, 0, 0, 0, 0, 0, 28], 28);
    expect(g.bytes(DATA, 3)).toEqual([0, 26, 1]);
    expect(g.bytes(DATA + 8, 2)).toEqual([0x2a, 18]);
    await g.packet(0, [0x5a, 0, 0x3f, 0, 0, 0, 0, 0, 64], 64);
    expect(g.bytes(DATA, 2)).toEqual([0, 34]);
    expect(await sense(g, [0x5a, 0, 0x0d, 0, 0, 0, 0, 0, 64])).toEqual([5, 0x2400]);
    expect(await sense(g, [0x5a, 0, 0xea, 0, 0, 0, 0, 0, 64])).toEqual([5, 0x3900]);
  });
  it('GET CONFIGURATION: profiles by size, all, current and single features', async () => {
    const cd = make().g;
    await cd.packet(0, [0x46, 0, 0, 0, 0, 0, 0, 0, 128], 128);
    expect(cd.bytes(DATA + 6, 2)).toEqual([0, 8]);
    const codes = (g: Guest): number[] => {
      const end = 4 + g.rig.ram.read8(DATA + 3);
      const list: number[] = [];
      for (let o = 8; o < end; o += 4 + g.rig.ram.read8(DATA + o + 3)) list.push(g.rig.ram.read8(DATA + o + 1));
      return list;
    };
    expect(codes(cd)).toEqual([0, 1, 2, 3, 0x10, 0x1e, 0x1f]);
    await cd.packet(0, [0x46, 1, 0, 0, 0, 0, 0, 0, 128], 128);
    expect(codes(cd)).toEqual([0, 1, 2, 3, 0x10, 0x1e]);
    await cd.packet(0, [0x46, 2, 0, 3, 0, 0, 0, 0, 128], 128);
    expect(codes(cd)).toEqual([3]);
    const none = make(null).g;
    await none.packet(0, [0x46, 0, 0, 0, 0, 0, 0, 0, 8], 8);
    expect(none.bytes(DATA + 6, 2)).toEqual([0, 0]);
  });
  it('REPORT LUNS, READ SUB-CHANNEL, MECHANISM STATUS, disc and track information', async () => {
    const { g } = make();
    await g.packet(0, [0xa0, 0, 0, 0, 0, 0, 0, 0, 0, 16], 16);
    expect(g.bytes(DATA, 4)).toEqual([0, 0, 0, 8]);
    await g.packet(0, [0x42, 0, 0x40, 1, 0, 0, 0, 0, 16], 16);
    expect(g.bytes(DATA, 8)).toEqual([0, 0x15, 0, 12, 1, 0x14, 1, 1]);
    expect(await sense(g, [0x42, 0, 0x40, 9, 0, 0, 0, 0, 16])).toEqual([5, 0x2400]);
    await g.packet(0, [0xbd, 0, 0, 0, 0, 0, 0, 0, 0, 8], 8);
    expect(g.bytes(DATA, 2)).toEqual([0, 0]);
    await g.packet(0, [0x51, 0, 0, 0, 0, 0, 0, 0, 34], 34);
    expect(g.bytes(DATA, 3)).toEqual([0, 32, 0x0e]);
    await g.packet(0, [0x52, 1, 0, 0, 0, 1, 0, 0, 36], 36);
    expect(g.bytes(DATA + 24, 4)).toEqual([0, 0, 0, 100]);
  });
  it('refuses commands it does not know, and commands on an empty drive', async () => {
    const { g } = make(null);
    expect(await sense(g, [0xff])).toEqual([5, 0x2000]);
    expect(await sense(g, [0x00])).toEqual([2, 0x3a00]);
    expect(await sense(g, [0x25])).toEqual([2, 0x3a00]);
  });
});

describe('media', () => {
  const READY = [0x00];
  const EVENTS = [0x4a, 1, 0, 0, 0x10, 0, 0, 0, 8];
  const events = async (g: Guest): Promise<number[]> => {
    await g.packet(0, EVENTS, 8);
    return g.bytes(DATA, 6);
  };

  it('the guest opens and closes the tray', async () => {
    const { g, trays } = make();
    expect(await g.packet(0, [0x1b, 0, 0, 0, 2], 0)).toBe(OK);
    expect(await sense(g, READY)).toEqual([2, 0x3a02]);
    expect(await events(g)).toEqual([0, 6, 4, 0x10, 3, 1]);
    expect(await g.packet(0, [0x1b, 0, 0, 0, 3], 0)).toBe(OK);
    expect(await sense(g, READY)).toEqual([6, 0x2800]);
    expect(await g.packet(0, READY, 0)).toBe(OK);
    expect(await events(g)).toEqual([0, 6, 4, 0x10, 2, 2]);
    expect(await events(g)).toEqual([0, 6, 4, 0x10, 0, 2]);
    expect(trays).toEqual([true, false]);
    expect(await sense(g, [0x4a, 0, 0, 0, 0x10, 0, 0, 0, 8])).toEqual([5, 0x2400]);
    await g.packet(0, [0x4a, 1, 0, 0, 0x02, 0, 0, 0, 8], 8);
    expect(g.bytes(DATA, 4)).toEqual([0, 2, 0x80, 0x10]);
  });

  it('the host changes the medium; the guest gets one unit attention', async () => {
    const { g, medium } = make();
    expect(await g.dev.eject(0)).toBe(medium);
    expect(await sense(g, READY)).toEqual([2, 0x3a02]);
    expect(await g.dev.eject(0)).toBe(null);
    g.dev.insert(0, new MemoryDisk({ size: 2048 * 10 }));
    expect(await sense(g, READY)).toEqual([6, 0x2800]);
    await g.packet(0, [0x25], 8);
    expect(g.bytes(DATA, 4)).toEqual([0, 0, 0, 9]);
    expect(() => g.dev.insert(1, new MemoryDisk())).toThrow(/no CD drive/);
  });

  it('a locked drive asks the guest, unless forced', async () => {
    const { g } = make();
    await g.packet(0, [0x1e, 0, 0, 0, 1], 0);
    expect(await sense(g, [0x1b, 0, 0, 0, 2])).toEqual([5, 0x5302]);
    await expect(g.dev.eject(0)).rejects.toThrow(/locked/);
    expect((await events(g))[4]).toBe(1);
    await g.packet(0, [0x1e, 0, 0, 0, 0], 0);
    expect(await g.packet(0, [0x1b, 0, 0, 0, 2], 0)).toBe(OK);
    await g.packet(0, [0x1e, 0, 0, 0, 1], 0);
    await g.dev.eject(0, { force: true });
  });

  it('eject waits for reads in flight', async () => {
    const { g, medium } = make();
    const m = medium as MemoryDisk;
    m.hold = true;
    g.issue(0, { command: 0xa0, features: 1, packet: [0x28, 0, 0, 0, 0, 0, 0, 0, 1], pieces: [[DATA, 2048]] });
    let out = false;
    const p = g.dev.eject(0).then(() => {
      out = true;
    });
    await settle();
    expect(out).toBe(false);
    m.release();
    await p;
    expect(g.pr(0, 0x20)).toBe(OK);
  });

  it('keeps tray, lock, attention and sense over save and load', async () => {
    const { g } = make();
    await g.packet(0, [0x1e, 0, 0, 0, 1], 0);
    await g.packet(0, [0xff], 0);
    const b = make();
    b.g.dev.load(JSON.parse(JSON.stringify(g.dev.save())));
    b.g.recover();
    expect(b.g.dev.save().ports[0]?.drive).toEqual(g.dev.save().ports[0]?.drive);
    await b.g.packet(0, [0x03, 0, 0, 0, 18], 18);
    expect(b.g.bytes(DATA + 12, 1)).toEqual([0x20]);
    await expect(b.g.dev.eject(0)).rejects.toThrow(/locked/);
  });
});
