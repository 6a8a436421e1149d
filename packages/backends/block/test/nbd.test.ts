// NBD: real servers (qemu-nbd, nbdkit) over UNIX sockets, TCP and TLS, lost and found again; and servers that lie.
import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { existsSync, readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { createServer, type Server, type Socket } from 'node:net';
import { type BlockStatus, isHyveError } from '@hyve/core';
import { afterEach, describe, expect, it } from 'vitest';
import { convertDisk, diskInfo, mapDisk } from '../src/disk/index.ts';
import { type DiskImage, openBlock } from '../src/index.ts';
import { NbdDisk } from '../src/nbd.ts';
import { parseNbdAddress } from '../src/nbd-protocol.ts';
import { bytes, have, keepingLogger, run, scratch } from './helpers.ts';
import { random } from './memory-file.ts';

const at = scratch();
const children: ChildProcess[] = [];
const servers: Server[] = [];
const disks: DiskImage[] = [];

afterEach(async () => {
  for (const d of disks.splice(0)) await d.close();
  for (const c of children.splice(0)) c.kill('SIGKILL');
  for (const s of servers.splice(0)) s.close();
});

async function until(what: () => boolean, seconds = 10): Promise<void> {
  for (const end = Date.now() + seconds * 1000; !what(); ) {
    if (Date.now() > end) throw new Error('it does not happen');
    await new Promise((r) => setTimeout(r, 10));
  }
}

async function serve(socket: string, program: string, ...args: readonly string[]): Promise<ChildProcess> {
  rmSync(socket, { force: true });
  const child = spawn(program, args, { stdio: ['ignore', 'ignore', 'pipe'] });
  let text = '';
  child.stderr.on('data', (b: Buffer) => {
    text += b.toString();
  });
  children.push(child);
  await until(() => {
    if (child.exitCode !== null) throw new Error(`${program}: ${text}`);
    return existsSync(socket);
  });
  return child;
}

function nbdkit(socket: string, ...args: readonly string[]): Promise<ChildProcess> {
  return serve(socket, 'nbdkit', '-f', '-U', socket, ...args);
}

async function end(child: ChildProcess): Promise<void> {
  const gone = new Promise((r) => child.once('exit', r));
  child.kill('SIGKILL');
  await gone;
}

async function open(spec: string): Promise<DiskImage> {
  // A server may listen a moment after its socket is there.
  for (let i = 0; ; i++) {
    try {
      const d = await openBlock(spec, { logger: keepingLogger() });
      disks.push(d);
      return d;
    } catch (e) {
      if (i === 50 || !/ECONNREFUSED|ENOENT/.test(String(e))) throw e;
      await new Promise((r) => setTimeout(r, 20));
    }
  }
}

it('a socket that nobody serves is said to be one', async () => {
  await expect(open(`nbd+unix:///?socket=${at('nobody')}`)).rejects.toThrow(
    /nobody.*: no server listens there \(ENOENT\)/u,
  );
});

describe.skipIf(!have('qemu-nbd'))('qemu-nbd (needs qemu-utils)', () => {
  it('serves reads, writes, zeros, trims and flushes, many at a time', async () => {
    const image = at('a.img');
    const size = 8 << 20;
    writeFileSync(image, new Uint8Array(size));
    const socket = at('a.sock');
    await serve(
      socket,
      'qemu-nbd',
      '-t',
      '-k',
      socket,
      '-f',
      'raw',
      '-x',
      'my disk',
      '--discard=unmap',
      '-e',
      '8',
      image,
    );
    const disk = await open(`nbd+unix:///my%20disk?socket=${socket}`);
    expect([disk.format, disk.size, disk.sectorSize, disk.readOnly, disk.canDiscard]).toEqual([
      'nbd',
      size,
      512,
      false,
      true,
    ]);
    const want = new Uint8Array(size);
    const rnd = random(3);
    const zone = size / 64;
    for (let round = 0; round < 6; round++) {
      const jobs: Promise<BlockStatus>[] = [];
      for (let z = 0; z < 64; z++) {
        const from = z * zone + Math.floor(rnd() * 100) * 512;
        const n = 512 * (1 + Math.floor(rnd() * 100));
        const k = rnd();
        if (k < 0.6) {
          const v = 1 + Math.floor(rnd() * 255);
          want.fill(v, from, from + n);
          jobs.push(disk.write(from, [bytes(100, v), bytes(n - 100, v)]));
        } else if (k < 0.8) {
          want.fill(0, from, from + n);
          jobs.push(disk.writeZeroes(from, n, rnd() < 0.5));
        } else if (k < 0.9) jobs.push(disk.flush());
        else jobs.push(disk.read(from, [new Uint8Array(n)]));
      }
      expect(new Set(await Promise.all(jobs))).toEqual(new Set(['ok']));
    }
    expect(await disk.discard(0, 1 << 20)).toBe('ok');
    const all = new Uint8Array(new SharedArrayBuffer(size));
    expect(await disk.read(0, [all.subarray(0, 999), all.subarray(999)])).toBe('ok');
    expect(Buffer.compare(all.subarray(1 << 20), want.subarray(1 << 20))).toBe(0);
    expect(await disk.flush()).toBe('ok');
    expect(Buffer.compare(readFileSync(image), all)).toBe(0);
    expect(await disk.read(size, [new Uint8Array(512)])).toBe('out-of-range');
    expect((await diskInfo(`nbd+unix:///my%20disk?socket=${socket}`)).virtualSize).toBe(size);
    await expect(open(`nbd+unix:///other?socket=${socket}`)).rejects.toThrow(/no such export/);
  });

  it('killed and started again, it gets every request that it has not answered', async () => {
    const image = at('b.img');
    writeFileSync(image, new Uint8Array(4 << 20));
    const socket = at('b.sock');
    const args = ['-t', '-k', socket, '-f', 'raw', '-e', '4', image] as const;
    let server = await serve(socket, 'qemu-nbd', ...args);
    const disk = await open(`nbd+unix:///?socket=${socket}`);
    let done = 0;
    const jobs: Promise<void>[] = [];
    for (let i = 0; i < 1024; i++)
      jobs.push(
        disk.write(i * 4096, [bytes(4096, (i % 255) + 1)]).then((s) => {
          expect(s).toBe('ok');
          done++;
        }),
      );
    for (const part of [0.2, 0.6]) {
      await until(() => done > 1024 * part || done === 1024);
      await end(server);
      await new Promise((r) => setTimeout(r, 120));
      server = await serve(socket, 'qemu-nbd', ...args);
    }
    await Promise.all(jobs);
    expect(await disk.flush()).toBe('ok');
    const now = readFileSync(image);
    for (let i = 0; i < 1024; i++) expect(now[i * 4096 + 4095]).toBe((i % 255) + 1);
  }, 20_000);

  it('gone for longer than is waited for, requests fail; back again, they work', async () => {
    const image = at('c.img');
    writeFileSync(image, new Uint8Array(1 << 20));
    const socket = at('c.sock');
    const args = ['-t', '-k', socket, '-f', 'raw', image] as const;
    const server = await serve(socket, 'qemu-nbd', ...args);
    const disk = await open(`nbd+unix:///?socket=${socket},reconnect=0.3`);
    await end(server);
    const begin = Date.now();
    expect(await disk.write(0, [bytes(512, 1)])).toBe('io-error');
    expect(Date.now() - begin).toBeLessThan(5000);
    expect(await disk.read(0, [new Uint8Array(512)])).toBe('io-error');
    await serve(socket, 'qemu-nbd', ...args);
    await until(() => disk.counters()['reconnects'] === 1);
    expect(await disk.write(0, [bytes(512, 2)])).toBe('ok');
  }, 20_000);

  it('is a target and a source of conversions, and a backing file', async () => {
    const raw = at('d.img');
    const data = new Uint8Array(3 << 20);
    data.fill(7, 100_000, 2_000_000);
    writeFileSync(raw, data);
    writeFileSync(at('d-target.img'), bytes(3 << 20, 0xff));
    const socket = at('d.sock');
    await serve(socket, 'qemu-nbd', '-t', '-k', socket, '-f', 'raw', '-e', '3', at('d-target.img'));
    const address = `nbd+unix:///?socket=${socket}`;
    await convertDisk(raw, address);
    expect(Buffer.compare(readFileSync(at('d-target.img')), data)).toBe(0);
    await convertDisk(address, at('d.qcow2'), { format: 'qcow2' });
    run('qemu-img', 'compare', '-q', at('d.qcow2'), raw);
    run('qemu-img', 'create', '-q', '-f', 'qcow2', '-b', address, '-F', 'raw', at('e.qcow2'));
    const disk = await open(at('e.qcow2'));
    const b = new Uint8Array(3 << 20);
    expect(await disk.read(0, [b])).toBe('ok');
    expect(Buffer.compare(b, data)).toBe(0);
    expect(await disk.write(512, [bytes(512, 1)])).toBe('ok');
  });

  it('tells where the holes are, as qemu-img sees them; a conversion passes them over', async () => {
    const size = 64 << 20;
    run('qemu-img', 'create', '-q', '-f', 'qcow2', at('h.qcow2'), String(size));
    const ops = ['write -P 5 1M 300k', 'write -P 6 20M 64k', 'write -z 30M 1M', 'write -P 7 63M 1M'];
    run('qemu-io', ...ops.flatMap((o) => ['-c', o]), at('h.qcow2'));
    const socket = at('h.sock');
    await serve(socket, 'qemu-nbd', '-t', '-k', socket, '-f', 'qcow2', '-e', '4', at('h.qcow2'));
    const address = `nbd+unix:///?socket=${socket}`;
    await open(address);
    expect(await mapOf(address)).toEqual(theirMap(address));
    expect((await mapOf(address)).filter((e) => !e.zero).reduce((n, e) => n + e.length, 0)).toBeLessThan(2 << 20);
    await convertDisk(address, at('h2.qcow2'), { format: 'qcow2' });
    run('qemu-img', 'compare', '-q', at('h2.qcow2'), address);
    // Reads over holes and data in one request.
    const disk = await open(address);
    const b = new Uint8Array(2 << 20).fill(9);
    expect(await disk.read(0, [b])).toBe('ok');
    const expected = new Uint8Array(2 << 20).fill(5, 1 << 20, (1 << 20) + (300 << 10));
    expect(Buffer.compare(b, expected)).toBe(0);
  });
});

/** What {@link mapDisk} says, in the words of `qemu-img map`. */
async function mapOf(path: string): Promise<{ start: number; length: number; zero: boolean; data: boolean }[]> {
  const out: { start: number; length: number; zero: boolean; data: boolean }[] = [];
  for await (const e of mapDisk(path)) out.push({ start: e.offset, length: e.length, zero: e.zero, data: e.data });
  return out;
}

function theirMap(path: string): { start: number; length: number; zero: boolean; data: boolean }[] {
  const map = JSON.parse(run('qemu-img', 'map', '--output=json', path)) as Awaited<ReturnType<typeof mapOf>>;
  return map.map(({ start, length, zero, data }) => ({ start, length, zero, data }));
}

describe.skipIf(!have('nbdkit'))('nbdkit (needs nbdkit)', () => {
  it('read-only, without flush, with errors, delays and small requests', async () => {
    const socket = at('k1.sock');
    await nbdkit(socket, '-r', 'pattern', '1M');
    const ro = await open(`nbd+unix:///?socket=${socket}`);
    expect(ro.readOnly).toBe(true);
    expect(await ro.write(0, [new Uint8Array(512)])).toBe('read-only');
    const b = new Uint8Array(4096);
    expect(await ro.read(8192, [b])).toBe('ok');
    expect(new DataView(b.buffer).getUint32(4)).toBe(8192);

    const flaky = at('k2.sock');
    await nbdkit(flaky, '--filter=error', 'memory', '4M', 'error=ENOSPC', 'error-pwrite-rate=100%');
    const full = await open(`nbd+unix:///?socket=${flaky}`);
    expect(await full.write(0, [bytes(512, 1)])).toBe('no-space');
    expect(await full.read(0, [new Uint8Array(512)])).toBe('ok');

    const small = at('k3.sock');
    await nbdkit(
      small,
      '--filter=blocksize-policy',
      '--filter=delay',
      'memory',
      '16M',
      'blocksize-minimum=4096',
      'blocksize-preferred=4096',
      'blocksize-maximum=64k',
      'blocksize-error-policy=error',
      'rdelay=2ms',
    );
    const picky = await open(`nbd+unix:///?socket=${small}`);
    expect(picky.sectorSize).toBe(4096);
    expect(await picky.write(0, [bytes(1 << 20, 3)])).toBe('ok');
    const back = new Uint8Array(1 << 20);
    expect(await picky.read(0, [back])).toBe('ok');
    expect(back.every((x) => x === 3)).toBe(true);
  });

  it.each([
    ['with structured replies', [], true],
    ['without them', ['--no-sr'], false],
  ])('serves a sparse disk %s', async (_what, options, maps) => {
    const socket = at('sparse.sock');
    await nbdkit(socket, ...options, 'data', 'data=@0x100000 (0x41)*8192 @0x900000 0x42', 'size=16M');
    const address = `nbd+unix:///?socket=${socket}`;
    const disk = await open(address);
    const b = new Uint8Array(16 << 20).fill(9);
    expect(await disk.read(0, [b])).toBe('ok');
    const expected = new Uint8Array(16 << 20).fill(0x41, 1 << 20, (1 << 20) + 8192);
    expected[9 << 20] = 0x42;
    expect(Buffer.compare(b, expected)).toBe(0);
    const map = await mapOf(address);
    expect(map).toEqual(theirMap(address));
    expect(map.some((e) => e.zero)).toBe(maps);
    expect(await disk.write(4096, [bytes(512, 1)])).toBe('ok');
    expect(await disk.read(4096, [b.subarray(0, 512)])).toBe('ok');
    expect(b[511]).toBe(1);
  });

  it('errors of single chunks and of maps leave the rest alone', async () => {
    const socket = at('k4.sock');
    await nbdkit(
      socket,
      '--filter=error',
      'memory',
      '4M',
      'error=EIO',
      'error-extents-rate=100%',
      'error-pread-rate=50%',
    );
    const disk = await open(`nbd+unix:///?socket=${socket}`);
    expect(await disk.extentAt(0)).toMatchObject({ length: 4 << 20, zero: false, data: true });
    const got = await Promise.all(Array.from({ length: 64 }, () => disk.read(0, [new Uint8Array(4096)])));
    expect(new Set(got)).toEqual(new Set(['ok', 'io-error']));
    expect(disk.counters()['reconnects']).toBe(0);
  });

  it.skipIf(!have('openssl'))('speaks TLS, and a stranger’s certificate is refused (needs openssl)', async () => {
    const dir = at('');
    const ssl = (...a: readonly string[]): void => {
      const r = spawnSync('openssl', a, { cwd: dir, encoding: 'utf8' });
      if (r.status !== 0) throw new Error(r.stderr);
    };
    const key = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes', '-days', '2'];
    ssl('req', '-x509', ...key, '-keyout', 'ca-key.pem', '-out', 'ca-cert.pem', '-subj', '/CN=test ca');
    ssl('req', '-x509', ...key, '-keyout', 'other-key.pem', '-out', 'other-cert.pem', '-subj', '/CN=other ca');
    ssl('req', ...key, '-keyout', 'server-key.pem', '-out', 'server.csr', '-subj', '/CN=localhost');
    writeFileSync(at('ext'), 'subjectAltName=DNS:localhost\n');
    ssl(
      'x509',
      '-req',
      '-in',
      'server.csr',
      '-CA',
      'ca-cert.pem',
      '-CAkey',
      'ca-key.pem',
      '-CAcreateserial',
      '-out',
      'server-cert.pem',
      '-days',
      '2',
      '-extfile',
      'ext',
    );
    const socket = at('tls.sock');
    writeFileSync(at('tls.img'), '');
    truncateSync(at('tls.img'), 8 << 20);
    const start = (): Promise<ChildProcess> =>
      nbdkit(socket, '--tls=require', `--tls-certificates=${dir}`, 'file', at('tls.img'));
    let server = await start();
    const address = `nbds+unix:///?socket=${socket}`;
    const disk = await open(`${address},tls-ca=${at('ca-cert.pem')},tls-hostname=localhost`);
    const data = new Uint8Array(new SharedArrayBuffer(1 << 20)).fill(5);
    expect(await disk.write(4096, [data])).toBe('ok');
    const back = new Uint8Array(1 << 20);
    expect(await disk.read(4096, [back])).toBe('ok');
    expect(back.every((x) => x === 5)).toBe(true);
    expect(await disk.flush()).toBe('ok');
    // The rest of the 8 MiB was never written: the map of holes comes through TLS too.
    const map = await mapOf(`${address},tls-ca=${at('ca-cert.pem')},tls-hostname=localhost`);
    expect(map.find((e) => !e.zero)?.length).toBe(1 << 20);
    expect(map.at(-1)).toMatchObject({ zero: true, data: false });
    await expect(open(`${address},tls-ca=${at('other-cert.pem')},tls-hostname=localhost`)).rejects.toSatisfy((e) =>
      isHyveError(e, 'BLOCK_NBD'),
    );
    await expect(open(`${address},tls-ca=${at('ca-cert.pem')},tls-hostname=elsewhere`)).rejects.toSatisfy((e) =>
      isHyveError(e, 'BLOCK_NBD'),
    );
    await expect(open(`nbd+unix:///?socket=${socket}`)).rejects.toThrow(/TLS/);
    // Killed with requests under way and started again: they are sent again, over TLS.
    const jobs = Array.from({ length: 64 }, (_, i) => disk.write(i * 65536, [bytes(65536, i + 1)]));
    await end(server);
    const after = Array.from({ length: 16 }, (_, i) => disk.read((64 + i) * 65536, [new Uint8Array(65536)]));
    server = await start();
    expect(new Set(await Promise.all([...jobs, ...after]))).toEqual(new Set(['ok']));
    expect(disk.counters()['reconnects']).toBe(1);
    expect(await disk.flush()).toBe('ok');
    const image = readFileSync(at('tls.img'));
    for (let i = 0; i < 64; i++) expect(image[i * 65536 + 777]).toBe(i + 1);
  });
});

// ---- Servers that lie

type Behave = (
  request: { type: number; flags: number; handle: Buffer; offset: number; length: number },
  socket: Socket,
  n: number,
) => void;

function hello(flags = 3): Buffer {
  const b = Buffer.alloc(18);
  b.write('NBDMAGICIHAVEOPT', 0, 'latin1');
  b.writeUInt16BE(flags, 16);
  return b;
}

function optionReply(option: number, type: number, data: Buffer): Buffer {
  const h = Buffer.alloc(20);
  h.writeUInt32BE(0x0003e889, 0);
  h.writeUInt32BE(0x045565a9, 4);
  h.writeUInt32BE(option, 8);
  h.writeUInt32BE(type, 12);
  h.writeUInt32BE(data.length, 16);
  return Buffer.concat([h, data]);
}

function exportInfo(size: bigint, flags = 0x6d): Buffer {
  const b = Buffer.alloc(12);
  b.writeBigUInt64BE(size, 2);
  b.writeUInt16BE(flags, 10);
  return b;
}

function blockInfo(least: number, most: number): Buffer {
  const b = Buffer.alloc(14);
  b.writeUInt16BE(3, 0);
  b.writeUInt32BE(least, 2);
  b.writeUInt32BE(most, 10);
  return b;
}

function simple(handle: Buffer, error = 0, data: Buffer = Buffer.alloc(0)): Buffer {
  const h = Buffer.alloc(16);
  h.writeUInt32BE(0x67446698, 0);
  h.writeUInt32BE(error, 4);
  handle.copy(h, 8);
  return Buffer.concat([h, data]);
}

/** What a server of our own agrees to. */
interface Offers {
  readonly structured?: boolean;
  readonly extended?: boolean;
  /** The number of `base:allocation`. */
  readonly allocation?: number;
  readonly size?: bigint;
  /** Transmission flags. */
  readonly flags?: number;
  /** Goes on when the client has ended. */
  readonly halfOpen?: boolean;
}

/** A server of our own: `greet` answers the handshake, `behave` each request. */
async function liar(behave: Behave, greet?: (socket: Socket) => void, offers: Offers = {}): Promise<string> {
  let n = 0;
  const server = createServer({ allowHalfOpen: offers.halfOpen === true }, (socket) => {
    socket.on('error', () => {});
    let got = Buffer.alloc(0);
    let greeted = false;
    if (greet !== undefined) {
      greet(socket);
      return;
    }
    /** Replies to one option; the one that asks for the export ends the greeting. */
    const option = (code: number): Buffer => {
      const none = Buffer.alloc(0);
      const agreed = (code === 8 && offers.structured === true) || (code === 11 && offers.extended === true);
      if (agreed) return optionReply(code, 1, none);
      if (code === 10 && offers.allocation !== undefined) {
        const id = Buffer.alloc(4);
        id.writeUInt32BE(offers.allocation);
        const named = Buffer.concat([id, Buffer.from('base:allocation')]);
        return Buffer.concat([optionReply(10, 4, named), optionReply(10, 1, none)]);
      }
      if (code !== 7) return optionReply(code, 0x80000001, none);
      greeted = true;
      return Buffer.concat([
        optionReply(7, 3, exportInfo(offers.size ?? 1n << 20n, offers.flags)),
        optionReply(7, 1, none),
      ]);
    };
    let flags = 4;
    socket.write(hello());
    socket.on('data', (b) => {
      got = Buffer.concat([got, b]);
      // Client flags, then options.
      while (!greeted) {
        if (got.length < flags + 16) return;
        const length = got.readUInt32BE(flags + 12);
        if (got.length < flags + 16 + length) return;
        const code = got.readUInt32BE(flags + 8);
        got = got.subarray(flags + 16 + length);
        flags = 0;
        socket.write(option(code));
      }
      const wide = offers.extended === true;
      const header = wide ? 32 : 28;
      while (got.length >= header) {
        expect(got.readUInt32BE(0)).toBe(wide ? 0x21e41c71 : 0x25609513);
        const type = got.readUInt16BE(6);
        const length = wide ? Number(got.readBigUInt64BE(24)) : got.readUInt32BE(24);
        const payload = type === 1 ? length : 0;
        if (wide) expect(got.readUInt16BE(4) & 32).toBe(type === 1 ? 32 : 0);
        if (got.length < header + payload) return;
        const flags = got.readUInt16BE(4);
        const r = {
          type,
          flags,
          handle: Buffer.from(got.subarray(8, 16)),
          offset: Number(got.readBigUInt64BE(16)),
          length,
        };
        got = got.subarray(header + payload);
        behave(r, socket, n++);
      }
    });
  });
  servers.push(server);
  await new Promise<void>((r) => server.listen(0, '127.0.0.1', r));
  return `nbd://127.0.0.1:${(server.address() as { port: number }).port}/`;
}

async function openLiar(address: string, reconnectSeconds: number, answerSeconds = 30, sync = false): Promise<NbdDisk> {
  const disk = await NbdDisk.open({
    address: parseNbdAddress(address),
    tls: { ca: null, cert: null, key: null, hostname: null },
    readOnly: false,
    noDelete: false,
    sync,
    sectorSize: null,
    physicalSectorSize: null,
    reconnectSeconds,
    answerSeconds,
    logger: keepingLogger(),
  });
  disks.push(disk);
  return disk;
}

/** "No" to extended headers and structured replies. */
const NO_NEWS = Buffer.concat([
  optionReply(11, 0x80000001, Buffer.alloc(0)),
  optionReply(8, 0x80000001, Buffer.alloc(0)),
]);

describe('a server that lies', () => {
  const honest: Behave = (r, s) =>
    s.write(simple(r.handle, 0, r.type === 0 ? Buffer.alloc(r.length, 7) : Buffer.alloc(0)));

  it('is believed while it is honest', async () => {
    const disk = await openLiar(await liar(honest), 1);
    const b = new Uint8Array(4096);
    expect(await disk.read(0, [b.subarray(0, 1), b.subarray(1)])).toBe('ok');
    expect(b.every((x) => x === 7)).toBe(true);
    expect([await disk.write(0, [b]), await disk.flush(), await disk.discard(0, 512)]).toEqual(['ok', 'ok', 'ok']);
  });

  for (const [what, behave] of [
    [
      'a wrong magic number',
      (r, s) => s.write(Buffer.concat([Buffer.from('deadbeef', 'hex'), simple(r.handle).subarray(4)])),
    ],
    ['a handle of no request', (_r, s) => s.write(simple(Buffer.from('0000000012345678', 'hex')))],
    [
      'a handle with its upper half changed',
      (r, s) => s.write(simple(Buffer.concat([Buffer.from('00000001', 'hex'), r.handle.subarray(4)]))),
    ],
    ['short data and a closed connection', (r, s) => s.end(simple(r.handle, 0, Buffer.alloc(100)))],
    ['half a header', (r, s) => s.end(simple(r.handle).subarray(0, 7))],
    [
      'a structured reply nobody asked for',
      (r, s) => s.write(Buffer.concat([Buffer.from('668e33ef', 'hex'), simple(r.handle).subarray(4)])),
    ],
    ['a reply given twice', (r, s) => s.write(Buffer.concat([simple(r.handle, 5), simple(r.handle, 5)]))],
    ['a closed connection', (_r, s) => s.destroy()],
    ['a word of shutting down', (r, s) => s.write(simple(r.handle, 108))],
  ] as [string, Behave][]) {
    it(`with ${what} ends in an error status`, async () => {
      const disk = await openLiar(await liar(behave), 0.15);
      const got = await Promise.all([
        disk.read(0, [new Uint8Array(4096)]),
        disk.write(4096, [new Uint8Array(512)]),
        disk.flush(),
      ]);
      for (const s of got) expect(s).toBe('io-error');
      expect(disk.counters()['failures']).toBe(3);
    });
  }

  it('with silence is given up after a while', async () => {
    const disk = await openLiar(await liar(() => {}), 0.1, 0.1);
    expect(await disk.read(0, [new Uint8Array(512)])).toBe('io-error');
  });

  it('and talks on after it was left is cut off', async () => {
    let socket: Socket | null = null;
    let talk: NodeJS.Timeout | undefined;
    const behave: Behave = (r, s, n) => {
      honest(r, s, n);
      socket = s;
      talk ??= setInterval(() => s.writable && s.write(Buffer.alloc(100)), 20);
    };
    // Half open: it does not end when we do.
    const disk = await openLiar(await liar(behave, undefined, { halfOpen: true }), 1);
    await disk.flush();
    await disk.close();
    await until(() => socket?.closed === true, 5);
    clearInterval(talk);
  });

  it.each([
    ['FUA', 0x6d, [1, 1]],
    ['flushes', 0x65, [0, 3, 0, 3]],
  ])('gets %s with writes that are to be stable, zeros among them', async (_what, flags, expected) => {
    const seen: number[] = [];
    const behave: Behave = (r, s, n) => {
      seen.push(r.type === 3 ? 3 : r.flags & 1);
      honest(r, s, n);
    };
    const disk = await openLiar(await liar(behave, undefined, { flags }), 1, 30, true);
    expect([await disk.write(0, [bytes(512, 1)]), await disk.writeZeroes(512, 512, false)]).toEqual(['ok', 'ok']);
    expect(seen).toEqual(expected);
  });

  it('with more data than was asked for does not write beyond the buffers', async () => {
    const disk = await openLiar(
      await liar((r, s) => s.write(simple(r.handle, 0, Buffer.alloc(r.length + 100, 9)))),
      0.1,
    );
    const b = new Uint8Array(2048);
    await disk.read(0, [b.subarray(512, 1024)]);
    expect([b[511], b[512], b[1023], b[1024]]).toEqual([0, 9, 9, 0]);
    await disk.close();
  });

  it('that dies of one request does not take the others along', async () => {
    const disk = await openLiar(
      await liar((r, s, n) => {
        if (r.offset === 512) s.destroy();
        else honest(r, s, n);
      }),
      20,
    );
    const [poison, fine] = await Promise.all([
      disk.read(512, [new Uint8Array(512)]),
      disk.read(4096, [new Uint8Array(512)]),
    ]);
    expect([poison, fine]).toEqual(['io-error', 'ok']);
  }, 15_000);

  it('in its greeting is refused when the disk is opened', async () => {
    const greet = (...parts: readonly Buffer[]): Promise<string> =>
      liar(honest, (s) => {
        s.write(Buffer.concat([...parts]));
        s.on('data', () => {});
      });
    const why = async (address: string): Promise<string> => {
      const e = await openLiar(address, 1).catch((x: unknown) => x);
      expect(isHyveError(e, 'BLOCK_NBD')).toBe(true);
      return (e as Error).message;
    };
    expect(await why(await greet(Buffer.from('HTTP/1.1 400 Bad Request\r\n')))).toMatch(/no NBD server/);
    expect(await why(await greet(hello(0)))).toMatch(/newstyle/);
    expect(await why(await greet(hello(), Buffer.alloc(20)))).toMatch(/magic/);
    expect(await why(await greet(hello(), optionReply(6, 1, Buffer.alloc(0))))).toMatch(/option 6/);
    expect(await why(await greet(hello(), NO_NEWS, optionReply(7, 1, Buffer.alloc(0))))).toMatch(/how large/);
    expect(await why(await greet(hello(), NO_NEWS, optionReply(7, 3, exportInfo(1n << 60n))))).toMatch(/2\^53/);
    expect(await why(await greet(hello(), NO_NEWS, optionReply(7, 0x80000006, Buffer.alloc(0))))).toMatch(
      /no such export/,
    );
    const huge = optionReply(7, 3, Buffer.alloc(0));
    huge.writeUInt32BE(0x7fffffff, 16);
    expect(await why(await greet(hello(), NO_NEWS, huge))).toMatch(/2147483647 bytes/);
    const chatter = Buffer.concat(Array.from({ length: 300 }, () => optionReply(7, 3, Buffer.alloc(12))));
    expect(await why(await greet(hello(), NO_NEWS, chatter))).toMatch(/point/);
    for (const size of [0n, 511n])
      expect(
        await why(
          await greet(hello(), NO_NEWS, optionReply(7, 3, exportInfo(size)), optionReply(7, 1, Buffer.alloc(0))),
        ),
      ).toMatch(/empty/);
    const blocks = blockInfo(1 << 17, 0);
    expect(
      await why(
        await greet(
          hello(),
          NO_NEWS,
          optionReply(7, 3, exportInfo(1n << 20n)),
          optionReply(7, 3, blocks),
          optionReply(7, 1, Buffer.alloc(0)),
        ),
      ),
    ).toMatch(/block sizes/);
    expect(await why(await greet(hello(), optionReply(11, 3, Buffer.alloc(0))))).toMatch(/type 3 to option 11/);
    const endless = Buffer.concat(Array.from({ length: 300 }, () => optionReply(10, 4, Buffer.alloc(19))));
    expect(await why(await greet(hello(), optionReply(11, 1, Buffer.alloc(0)), endless))).toMatch(/point/);
    expect(
      await why(await greet(hello(), optionReply(11, 1, Buffer.alloc(0)), optionReply(10, 4, Buffer.alloc(2)))),
    ).toMatch(/type 4 to option 10/);
    expect(await why(await liar(honest, (s) => s.destroy()))).toMatch(/closed/);
    expect(await why('nbd://127.0.0.1:1/')).toMatch(/ECONNREFUSED/);
  });

  it.each([
    ['another size', [exportInfo(1n << 19n)]],
    ['no right to write', [exportInfo(1n << 20n, 0x6f)]],
    ['no trims', [exportInfo(1n << 20n, 0x4d)]],
    ['larger blocks', [exportInfo(1n << 20n), blockInfo(4096, 1 << 25)]],
    ['less at a time', [exportInfo(1n << 20n), blockInfo(512, 4096)]],
  ])('that comes back with %s is not trusted', async (_what, after) => {
    let info = [exportInfo(1n << 20n)];
    let sockets: Socket[] = [];
    const address = await liar(honest, (s) => {
      sockets.push(s);
      s.write(hello());
      s.write(NO_NEWS);
      let asked = false;
      s.on('data', () => {
        const told = info.map((b) => optionReply(7, 3, b));
        if (!asked) s.write(Buffer.concat([...told, optionReply(7, 1, Buffer.alloc(0))]));
        asked = true;
      });
    });
    const disk = await openLiar(address, 0.3);
    info = after;
    for (const s of sockets) s.destroy();
    sockets = [];
    expect(await disk.read(0, [new Uint8Array(512)])).toBe('io-error');
  });
});

// ---- Structured replies

/** A chunk: with extended headers when `wide`. */
function chunk(handle: Buffer, type: number, payload: Buffer, o: { done?: boolean; wide?: boolean } = {}): Buffer {
  const h = Buffer.alloc(o.wide === true ? 32 : 20);
  h.writeUInt32BE(o.wide === true ? 0x6e8a278c : 0x668e33ef, 0);
  h.writeUInt16BE(o.done === true ? 1 : 0, 4);
  h.writeUInt16BE(type, 6);
  handle.copy(h, 8);
  h.writeUInt32BE(payload.length, o.wide === true ? 28 : 16);
  return Buffer.concat([h, payload]);
}

function u64(...values: readonly number[]): Buffer {
  const b = Buffer.alloc(8 * values.length);
  values.forEach((v, i) => {
    b.writeBigUInt64BE(BigInt(v), 8 * i);
  });
  return b;
}

function u32(...values: readonly number[]): Buffer {
  const b = Buffer.alloc(4 * values.length);
  values.forEach((v, i) => {
    b.writeUInt32BE(v, 4 * i);
  });
  return b;
}

const data = (offset: number, ...content: readonly number[]): Buffer =>
  Buffer.concat([u64(offset), Buffer.from(content)]);
const fill = (offset: number, n: number, v: number): Buffer => Buffer.concat([u64(offset), Buffer.alloc(n, v)]);

describe.each([
  ['structured replies', false],
  ['extended headers', true],
])('%s', (_name, wide) => {
  const offers: Offers = wide ? { extended: true, allocation: 77 } : { structured: true, allocation: 77 };
  const one = (handle: Buffer, type: number, payload: Buffer): Buffer => chunk(handle, type, payload, { wide });
  const last = (handle: Buffer, type: number, payload: Buffer): Buffer =>
    chunk(handle, type, payload, { wide, done: true });
  const done = (handle: Buffer): Buffer => last(handle, 0, Buffer.alloc(0));
  /** Answers reads by chunks of every kind, in pieces of odd sizes. */
  const chunks: Behave = (r, s) => {
    if (r.type !== 0) {
      s.write(done(r.handle));
      return;
    }
    const half = r.length / 2;
    const reply = Buffer.concat([
      one(r.handle, 1, fill(r.offset + half, half - 100, 2)),
      one(r.handle, 2, Buffer.concat([u64(r.offset), u32(half)])),
      one(r.handle, 1, fill(r.offset + r.length - 100, 100, 3)),
      done(r.handle),
    ]);
    for (let at = 0; at < reply.length; at += 333) s.write(reply.subarray(at, at + 333));
  };

  it('data and holes in any order fill the buffers, several requests at once', async () => {
    const disk = await openLiar(await liar(chunks, undefined, offers), 1);
    const jobs = Array.from({ length: 8 }, async (_, i) => {
      const b = new Uint8Array(4096).fill(9);
      expect(await disk.read(i * 4096, [b.subarray(0, 1), b.subarray(1, 3000), b.subarray(3000)])).toBe('ok');
      return b;
    });
    const expected = Buffer.concat([Buffer.alloc(2048), Buffer.alloc(1948, 2), Buffer.alloc(100, 3)]);
    for (const b of await Promise.all(jobs)) expect(expected.equals(b)).toBe(true);
    expect([await disk.write(0, [bytes(512, 1)]), await disk.flush(), await disk.discard(0, 512)]).toEqual([
      'ok',
      'ok',
      'ok',
    ]);
    expect(disk.counters()['reconnects']).toBe(0);
  });

  it.each([
    ['EIO as the last chunk', [5], 'io-error'],
    ['ENOSPC', [28], 'no-space'],
    ['error 0, which is none', [0], 'io-error'],
    ['two errors: the first counts', [1, 28], 'read-only'],
  ])('%s ends a request in a status, and the connection goes on', async (_what, errors, status) => {
    const behave: Behave = (r, s, n) => {
      if (n > 0) chunks(r, s, n);
      else
        s.write(
          Buffer.concat([
            ...errors.map((e) => one(r.handle, 0x8001, Buffer.concat([u32(e), Buffer.from('\0\x05hello')]))),
            one(r.handle, 0x8002, Buffer.concat([u32(5), Buffer.from('\0\0'), u64(r.offset)])),
            one(r.handle, 0xbeef, u32(22)),
            done(r.handle),
          ]),
        );
    };
    const disk = await openLiar(await liar(behave, undefined, offers), 1);
    expect(await disk.read(0, [new Uint8Array(512)])).toBe(status);
    expect(await disk.read(0, [new Uint8Array(4096)])).toBe('ok');
    expect(disk.counters()['reconnects']).toBe(0);
  });

  for (const [what, behave] of [
    ['a simple reply to a read', (r, s) => s.write(simple(r.handle, 0, Buffer.alloc(r.length)))],
    ['an end before all data', (r, s) => s.write(Buffer.concat([one(r.handle, 1, data(r.offset, 1)), done(r.handle)]))],
    ['data in front of the request', (r, s) => s.write(last(r.handle, 1, fill(r.offset - 1, r.length, 1)))],
    ['data behind it', (r, s) => s.write(last(r.handle, 1, fill(r.offset + 1, r.length, 1)))],
    ['data twice', (r, s) => s.write(Buffer.concat([0, 1].map(() => one(r.handle, 1, fill(r.offset, r.length, 1)))))],
    [
      'half of the data twice',
      (r, s) =>
        s.write(
          Buffer.concat(
            [0, 1].map((n) => chunk(r.handle, 1, fill(r.offset, r.length / 2, 1), { wide, done: n === 1 })),
          ),
        ),
    ],
    [
      'data in more pieces than anybody needs',
      (r, s) => {
        for (let at = 0; at < 2000; at += 2) s.write(one(r.handle, 1, data(r.offset + at, 1)));
        for (let at = 1; at < 2000; at += 2) s.write(one(r.handle, 1, data(r.offset + at, 1)));
        s.write(last(r.handle, 1, fill(r.offset + 2000, r.length - 2000, 1)));
      },
    ],
    ['a hole of 4 GiB', (r, s) => s.write(one(r.handle, 2, Buffer.concat([u64(r.offset), u32(0xffffffff)])))],
    ['a hole of nothing', (r, s) => s.write(one(r.handle, 2, Buffer.concat([u64(r.offset), u32(0)])))],
    ['a hole without its size', (r, s) => s.write(one(r.handle, 2, u64(r.offset)))],
    ['an offset beyond 2^53', (r, s) => s.write(one(r.handle, 1, Buffer.alloc(r.length + 8, 0xff)))],
    ['a chunk without data', (r, s) => s.write(one(r.handle, 1, u64(r.offset)))],
    ['a chunk of an unknown type', (r, s) => s.write(one(r.handle, 99, u64(r.offset)))],
    ['a block status nobody asked for', (r, s) => s.write(last(r.handle, 5, u32(77, 512, 0)))],
    ['an empty chunk that is not the last', (r, s) => s.write(one(r.handle, 0, Buffer.alloc(0)))],
    ['an empty chunk that is not empty', (r, s) => s.write(last(r.handle, 0, u32(1)))],
    ['an error without its number', (r, s) => s.write(last(r.handle, 0x8001, Buffer.alloc(2)))],
    ['an error of 4 GiB', (r, s) => s.write(huge(one(r.handle, 0x8001, Buffer.alloc(8)), wide))],
    ['the other header', (r, s) => s.write(chunk(r.handle, 0, Buffer.alloc(0), { wide: !wide, done: true }))],
    ['a word of shutting down', (r, s) => s.write(last(r.handle, 0x8001, Buffer.concat([u32(108), Buffer.alloc(2)])))],
  ] as [string, Behave][]) {
    it(`${what} ends in an error status and writes nothing outside`, async () => {
      const disk = await openLiar(await liar(behave, undefined, offers), 0.15);
      const around = new Uint8Array(3 * 4096).fill(9);
      expect(await disk.read(8192, [around.subarray(4096, 8192)])).toBe('io-error');
      expect(around.subarray(0, 4096).every((x) => x === 9) && around.subarray(8192).every((x) => x === 9)).toBe(true);
    });
  }

  it('data from the end to the beginning fills the buffers', async () => {
    const behave: Behave = (r, s) => {
      const order = [7, 5, 6, 3, 4, 1, 0, 2];
      const n = r.length / order.length;
      for (const i of order) s.write(one(r.handle, 1, fill(r.offset + i * n, n, i + 1)));
      s.write(done(r.handle));
    };
    const disk = await openLiar(await liar(behave, undefined, offers), 1);
    const b = new Uint8Array(4096);
    expect(await disk.read(4096, [b])).toBe('ok');
    for (let i = 0; i < b.length; i++) if (b[i] !== (i >> 9) + 1) throw new Error(`byte ${i} is ${b[i]}`);
  });

  it('errors without end are no answer', async () => {
    const talk: NodeJS.Timeout[] = [];
    const behave: Behave = (r, s) =>
      void talk.push(setInterval(() => s.writable && s.write(one(r.handle, 0x8001, u32(5, 0))), 20));
    const disk = await openLiar(await liar(behave, undefined, offers), 0.1, 0.2);
    expect(await disk.read(0, [new Uint8Array(512)])).toBe('io-error');
    for (const t of talk) clearInterval(t);
  });

  it('a map that was asked for before a write ended is not believed after it', async () => {
    let asked = 0;
    let endWrite: (() => void) | null = null;
    const behave: Behave = (r, s) => {
      if (r.type === 7) {
        asked++;
        s.write(last(r.handle, wide ? 6 : 5, wide ? Buffer.concat([u32(77, 1), u64(4096, 3)]) : u32(77, 4096, 3)));
      } else if (r.type === 1) endWrite = () => void s.write(done(r.handle));
      else s.write(done(r.handle));
    };
    const disk = await openLiar(await liar(behave, undefined, { ...offers, size: 4096n }), 1);
    const written = disk.write(0, [bytes(512, 1)]);
    await until(() => endWrite !== null);
    await disk.extentAt(0);
    await disk.extentAt(0);
    expect(asked).toBe(1);
    (endWrite as unknown as () => void)();
    expect(await written).toBe('ok');
    await disk.extentAt(0);
    expect(asked).toBe(2);
  });

  it('what is stored is asked for once, for many extents, and again after a write', async () => {
    let asked = 0;
    const runs = [4096, 0, 8192, 3, 4096, 2, 1 << 20, 0];
    const behave: Behave = (r, s) => {
      if (r.type !== 7) {
        s.write(done(r.handle));
        return;
      }
      asked++;
      const body = wide ? Buffer.concat([u32(77, runs.length / 2), u64(...runs)]) : u32(77, ...runs);
      s.write(last(r.handle, wide ? 6 : 5, body));
    };
    const disk = await openLiar(await liar(behave, undefined, offers), 1);
    const seen: string[] = [];
    for (let at = 0; at < disk.size; ) {
      const e = await disk.extentAt(at);
      if (e === null) throw new Error('no extent');
      seen.push(`${at}+${e.length}${e.data ? ' data' : ''}${e.zero ? ' zero' : ''}`);
      at += e.length;
    }
    expect(seen).toEqual(['0+4096 data', '4096+8192 zero', '12288+4096 data zero', '16384+1032192 data']);
    expect((await disk.extentAt(5000))?.length).toBe(7288);
    expect(asked).toBe(1);
    expect(await disk.write(0, [bytes(512, 1)])).toBe('ok');
    await disk.extentAt(0);
    expect(asked).toBe(2);
  });

  it.each([
    ['another context', [5, 512, 3]],
    ['no extents', []],
    ['an extent of no bytes', [0, 3]],
  ])('a block status with %s means that all may be data', async (_what, runs) => {
    const behave: Behave = (r, s) => {
      const id = runs.length === 3 ? (runs[0] as number) : 77;
      const list = runs.length === 3 ? runs.slice(1) : runs;
      s.write(last(r.handle, wide ? 6 : 5, wide ? Buffer.concat([u32(id, 1), u64(...list)]) : u32(id, ...list)));
    };
    const disk = await openLiar(await liar(behave, undefined, offers), 1);
    expect(await disk.extentAt(512)).toMatchObject({ length: disk.size - 512, data: true, zero: false });
  });

  it('a map of more extents than are kept is asked for in parts', async () => {
    let asked = 0;
    const behave: Behave = (r, s) => {
      asked++;
      const runs = Array.from({ length: 5000 }, (_, i) => [512, ((r.offset / 512 + i) % 2) * 3]).flat();
      s.write(last(r.handle, wide ? 6 : 5, wide ? Buffer.concat([u32(77, 5000), u64(...runs)]) : u32(77, ...runs)));
    };
    const disk = await openLiar(await liar(behave, undefined, { ...offers, size: 5000n * 512n }), 1);
    let n = 0;
    for (let at = 0; at < disk.size; n++) {
      const e = await disk.extentAt(at);
      expect([e?.length, e?.zero]).toEqual([512, n % 2 === 1]);
      at += e?.length ?? 512;
    }
    expect([n, asked > 1 && asked < 10]).toEqual([5000, true]);
  });
});

/** A chunk whose header promises 4 GiB. */
function huge(c: Buffer, wide: boolean): Buffer {
  c.writeUInt32BE(0xffffffff, wide ? 28 : 16);
  return c;
}
